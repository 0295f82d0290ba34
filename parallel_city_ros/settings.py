"""Settings are the fields of frozen dataclasses; ROS parameters, YAML keys and flags follow.

A field made with `setting` carries its description and range. `check` enforces them, and
`flatten` lists them by dotted name, so that nodes and the command line declare the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from parallel_city_ros.errors import ConfigError


def setting(default, description: str, *, low=None, high=None, above=None, choices=()):
    """A dataclass field with its meaning (unit first) and range.

    low, high : inclusive bounds; above : exclusive lower bound; choices : allowed values
    """
    return field(default=default, metadata={
        "description": description, "low": low, "high": high, "above": above,
        "choices": tuple(choices)})


def require(condition: bool, owner: object, name: str, expected: str) -> None:
    """Raise a ConfigError that names the field, what it should be and what it is."""
    if not condition:
        raise ConfigError(
            f"{type(owner).__name__}.{name} must be {expected}, got {getattr(owner, name)!r}")


def expectation(kind: type, metadata: Mapping) -> str:
    """What a value must be, in words: 'a number above 0 and at most 90'."""
    words = {bool: "true or false", int: "a whole number", float: "a finite number",
             str: "a text"}[kind]
    if metadata["choices"]:
        return "one of " + ", ".join(map(str, metadata["choices"]))
    bounds = [f"{word} {metadata[key]:g}" for key, word in
              (("above", "above"), ("low", "at least"), ("high", "at most"))
              if metadata[key] is not None]
    return " ".join(filter(None, (words, " and ".join(bounds))))


def _fits(value, kind: type, metadata: Mapping) -> bool:
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and math.isfinite(value)
    elif kind is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, kind)
    if not fits or (metadata["choices"] and value not in metadata["choices"]):
        return False
    return not ((metadata["low"] is not None and value < metadata["low"])
                or (metadata["high"] is not None and value > metadata["high"])
                or (metadata["above"] is not None and not value > metadata["above"]))


def check(owner) -> None:
    """Check every setting of a dataclass instance; call it in __post_init__.

    Raises
    ------
    ConfigError
        Names the field, its range and the value.
    """
    kinds = get_type_hints(type(owner))
    for f in fields(owner):
        if "description" in f.metadata:
            kind = kinds[f.name]
            require(_fits(getattr(owner, f.name), kind, f.metadata), owner, f.name,
                    expectation(kind, f.metadata))


@dataclass(frozen=True)
class Setting:
    """One setting by its dotted name, such as drone.max_speed."""

    name: str
    kind: type
    default: Any
    metadata: Mapping

    @property
    def description(self) -> str:
        return self.metadata["description"]

    @property
    def flag(self) -> str:
        """--drone-max-speed"""
        return "--" + self.name.replace(".", "-").replace("_", "-")


def flatten(config: type, prefix: str = "") -> Iterator[Setting]:
    """Settings of a dataclass and of the dataclasses in it; other fields are left out."""
    kinds = get_type_hints(config)
    for f in fields(config):
        if is_dataclass(kinds[f.name]):
            yield from flatten(kinds[f.name], f"{prefix}{f.name}.")
        elif "description" in f.metadata:
            yield Setting(prefix + f.name, kinds[f.name], f.default, f.metadata)


def build(config: type, values: Mapping[str, Any], **others):
    """A dataclass from values by dotted name; what is not given keeps its default.

    others : fields that are no settings, such as start and goal

    Raises
    ------
    ConfigError
        For a name that does not exist or a value out of range.
    """
    known = {s.name: s for s in flatten(config)}
    if unknown := set(values) - set(known):
        raise ConfigError(f"{config.__name__} has no {', '.join(sorted(unknown))}; "
                          f"it has {', '.join(known)}")
    return _build(config, values, "", others)


def _build(config, values, prefix, others):
    kinds = get_type_hints(config)
    arguments = dict(others)
    for f in fields(config):
        name = prefix + f.name
        if is_dataclass(kinds[f.name]):
            arguments[f.name] = _build(kinds[f.name], values, name + ".", {})
        elif name in values and "description" in f.metadata:
            arguments[f.name] = values[name]
    missing = [f.name for f in fields(config) if f.name not in arguments
               and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{config.__name__} needs {', '.join(missing)}")
    return config(**arguments)


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'drone': {'max_speed': 9}} → {'drone.max_speed': 9}"""
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
