"""Faults on command: one line of text each, such as "wind east=8 north=0 gust=3"."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from parallel_city_ros.errors import ConfigError

# name → its numbers and their defaults; NaN: must be given
FAULTS: dict[str, dict[str, float]] = {
    "gps_loss": {}, "gps_back": {},
    "gps_jump": {"east": math.nan, "north": math.nan, "up": 0.0},
    "battery": {"percent": math.nan},
    "motor_loss": {},
    "link_loss": {"s": math.inf}, "link_delay": {"s": math.nan},
    "packet_loss": {"share": math.nan}, "reorder": {"share": math.nan},
    "wind": {"east": math.nan, "north": math.nan, "gust": 0.0},
    "refuse_arm": {"on": 1.0}, "refuse_mode": {"on": 1.0}, "lock_params": {"on": 1.0},
    "freeze": {"on": 1.0},
    "reboot": {},
}


def parse(line: str) -> tuple[str, dict[str, float]]:
    """(name, numbers) of a fault.

    Raises
    ------
    ConfigError
        Names what is wrong, and the faults that there are.
    """
    name, *words = line.split() or [""]
    if name not in FAULTS:
        raise ConfigError(f"no fault {name!r}; there are {', '.join(FAULTS)}")
    values = dict(FAULTS[name])
    for word in words:
        key, _, text = word.partition("=")
        try:
            values[key] = float(text) if key in values else float("unknown")
        except ValueError:
            raise ConfigError(f"{line!r}: {word!r} is not one of "
                              f"{', '.join(f'{k}=NUMBER' for k in FAULTS[name])}") from None
    missing = [key for key, value in values.items() if math.isnan(value)]
    if missing:
        raise ConfigError(f"{line!r}: {', '.join(missing)} must be given, as NAME=NUMBER")
    return name, values


def apply(line: str, autopilot, server) -> None:
    """Let it happen, to a SimulatedPx4 and its MavlinkServer."""
    name, v = parse(line)
    radio = server.radio.faults
    acts: dict[str, Callable] = {
        "gps_loss": lambda: setattr(autopilot, "gps", False),
        "gps_back": lambda: setattr(autopilot, "gps", True),
        "gps_jump": lambda: autopilot.jump((v["east"], v["north"], v["up"])),
        "battery": lambda: setattr(autopilot.vehicle, "energy_wh",
                                   autopilot.vehicle.model.battery_wh * v["percent"] / 100),
        "motor_loss": lambda: setattr(autopilot.vehicle, "broken", True),
        "link_loss": lambda: setattr(radio, "silent_until", time.monotonic() + v["s"]),
        "link_delay": lambda: setattr(radio, "delay_s", v["s"]),
        "packet_loss": lambda: setattr(radio, "loss", v["share"]),
        "reorder": lambda: setattr(radio, "reorder", v["share"]),
        "wind": lambda: autopilot.vehicle.blow((v["east"], v["north"]), v["gust"]),
        "refuse_arm": lambda: autopilot.pretend(refuse_arm=bool(v["on"])),
        "refuse_mode": lambda: autopilot.pretend(refuse_mode=bool(v["on"])),
        "lock_params": lambda: autopilot.pretend(lock_params=bool(v["on"])),
        "freeze": lambda: setattr(server, "frozen", bool(v["on"])),
        "reboot": server.reboot,
    }
    acts[name]()
