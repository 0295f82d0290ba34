"""ROS parameters are the settings of dataclasses: same names, defaults, descriptions, ranges."""

from __future__ import annotations

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from parallel_city_ros.settings import Setting, build, flatten

_LARGEST = {int: 2**53, float: 1.7e308}     # where a setting has only one bound


def descriptor(setting: Setting) -> ParameterDescriptor:
    """What `ros2 param describe` shows. Exclusive bounds are left to the dataclass."""
    meta, about = setting.metadata, ParameterDescriptor(description=setting.description)
    about.read_only = True      # read once, when the node is configured
    if meta["choices"]:
        about.additional_constraints = "one of " + ", ".join(map(str, meta["choices"]))
    low = meta["low"] if meta["low"] is not None else meta["above"]
    if setting.kind in _LARGEST and not (low is None and meta["high"] is None):
        most = _LARGEST[setting.kind]
        low = -most if low is None else low
        high = most if meta["high"] is None else meta["high"]
        if setting.kind is int:
            about.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            about.floating_point_range = [
                FloatingPointRange(from_value=float(low), to_value=float(high))]
    return about


def declare(node, config: type, prefix: str = "") -> None:
    """Declare every setting of a dataclass as a read-only parameter of the node."""
    for setting in flatten(config):
        node.declare_parameter(prefix + setting.name, setting.default, descriptor(setting))


def read(node, config: type, prefix: str = "", **others):
    """The dataclass with the values of the parameters.

    Raises
    ------
    ConfigError
        Names the setting that is out of range.
    """
    values = {s.name: node.get_parameter(prefix + s.name).value for s in flatten(config)}
    return build(config, values, **others)
