"""Several drones from one mission file, and the distance between them.

A mission is YAML::

    separation_m: 20            # least distance between two drones in the air
    city: city.osm.pbf          # of all plans; left out: each plan's own
    drones:
      drone_1:
        plan: north.json
        connection: sim         # sim, px4, or a MAVSDK address of a real drone or SITL
      drone_2:
        plan: south.json
        connection: udpin://127.0.0.1:14541
        start_after_s: 20       # wall, or of vehicle time if all drones are simulated
        flight: {system_id: 2, cruise_speed: 6.0}   # settings of FlightConfig

Files are relative to the mission file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.settings import build, dotted

RESUME_SHARE = 1.3      # of the separation, from where on a drone that waited goes on
GRAVE_SHARE = 0.5       # of the separation, below which it does not wait but returns
SIMULATED = ("sim", "px4")


@dataclass(frozen=True, kw_only=True)
class FleetDrone:
    name: str
    plan_file: Path
    connection: str = "sim"
    start_after_s: float = 0.0
    flight: dict = field(default_factory=dict)  # settings of FlightConfig by dotted name


@dataclass(frozen=True, kw_only=True)
class FleetMission:
    drones: tuple[FleetDrone, ...]
    separation_m: float = 20.0
    city_file: str = ""

    @classmethod
    def load(cls, file: str | Path) -> FleetMission:
        """Read and check a mission file.

        Raises
        ------
        ConfigError
            Names the file, the drone and what is wrong.
        """
        import yaml
        file = Path(file)
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{file}: cannot be read as YAML ({error})") from error
        _require(isinstance(values, dict) and isinstance(values.get("drones"), dict)
                 and values["drones"], file, "needs drones: a name for each, with its plan")
        _known(file, "mission", values, ("drones", "separation_m", "city"))
        separation = values.get("separation_m", cls.separation_m)
        _require(_number(separation) and separation > 0, file,
                 f"separation_m must be metres above 0, is {separation!r}")
        drones = tuple(_drone(file, str(name), v) for name, v in values["drones"].items())
        taken: dict[str, str] = {}
        for drone in drones:
            if drone.connection in SIMULATED:
                continue
            other = taken.setdefault(drone.connection, drone.name)
            _require(other == drone.name, file, f"{other} and {drone.name} have the same "
                     f"connection {drone.connection}; two executors must not fly one drone")
        city = values.get("city", "")
        return cls(drones=drones, separation_m=float(separation),
                   city_file=str(file.parent / city) if city else "")


def _drone(file, name, values) -> FleetDrone:
    _require(isinstance(values, dict) and isinstance(values.get("plan"), str), file,
             f"{name} needs plan: a file made by parallel-city plan")
    _known(file, name, values, ("plan", "connection", "start_after_s", "flight"))
    wait, connection = values.get("start_after_s", 0.0), values.get("connection", "sim")
    _require(_number(wait) and wait >= 0, file, f"{name}: start_after_s must be seconds, not "
             f"below 0, is {wait!r}")
    _require(connection in SIMULATED or (isinstance(connection, str) and "://" in connection),
             file, f"{name}: connection must be sim, px4 or a MAVSDK address, is {connection!r}")
    flight = dotted(values.get("flight") or {})
    try:
        build(FlightConfig, flight)
    except ConfigError as error:
        raise ConfigError(f"{file}: {name}: {error}") from error
    return FleetDrone(name=name, plan_file=file.parent / values["plan"], connection=connection,
                      start_after_s=float(wait), flight=flight)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _known(file, owner, values, names) -> None:
    unknown = set(map(str, values)) - set(names)
    _require(not unknown, file, f"{owner} has no {', '.join(sorted(unknown))}; it has "
             f"{', '.join(names)}")


def _require(condition, file, words) -> None:
    if not condition:
        raise ConfigError(f"{file}: {words}")


def crossings(plans: dict[str, PatrolPlan], separation_m: float) -> list[str]:
    """Which routes come closer to each other than the separation, in words; [] if none do.

    Take-off and landing columns count. Routes that cross are watched in flight; whether they
    are apart in time nobody knows before.
    """
    found, names = [], list(plans)
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            gap, where = _nearest(plans[a].path, plans[b].path)
            if gap < separation_m:
                found.append(f"the routes of {a} and {b} come within {gap:.0f} m of each other at "
                             f"({where[0]:.0f}, {where[1]:.0f}) m, {separation_m:g} m are to be "
                             "kept; the later one waits there")
    return found


def _nearest(a: np.ndarray, b: np.ndarray):
    """Least distance of two routes, each with its columns to the ground, and where on the first.

    Legs are compared in steps of a metre or so: enough for a warning.
    """
    a, b = (_dense(np.vstack([(*p[0, :2], 0.0), p, (*p[-1, :2], 0.0)])) for p in (a, b))
    tree = shapely.STRtree(shapely.points(b[:, :2]))
    best, where = math.inf, a[0]
    # Level distance is never more than distance: only candidates nearer than the best count.
    for point in a[::3]:
        radius = min(best, 1e4)
        near = tree.query(shapely.box(*(point[:2] - radius), *(point[:2] + radius)))
        if len(near):
            gaps = np.linalg.norm(b[near] - point, axis=1)
            if gaps.min() < best:
                best, where = float(gaps.min()), point
    return best, where


def _dense(path: np.ndarray) -> np.ndarray:
    pieces = [a + (b - a) * np.linspace(0, 1, max(2, int(np.linalg.norm(b - a)) + 1))[:, None]
              for a, b in zip(path[:-1], path[1:], strict=True)]
    return np.vstack(pieces)


class Separation:
    """Who has to wait for whom. No clock: `look` is given where the drones are.

    The drone that comes first in the file has priority: the other pauses, goes on when they
    are apart again, and returns if they are nearer than half the separation.
    """

    def __init__(self, names, separation_m: float):
        self._names, self._least = tuple(names), separation_m
        self._waiting: dict[str, set[str]] = {name: set() for name in names}
        self._returned: set[str] = set()

    def look(self, places: dict[str, tuple[np.ndarray, str]]) -> list[tuple[str, str, str]]:
        """(drone, "pause", "resume" or "return", why) to be sent now.

        places : position (3,) ENU metres and flight state by drone; only drones in the air
        """
        commands = []
        for i, first in enumerate(self._names):
            for second in self._names[i + 1:]:
                commands += self._pair(first, second, places)
        return commands

    def _pair(self, first, second, places):
        waits = self._waiting[second]
        if first not in places or second not in places:
            gap = math.inf
        else:
            gap = float(np.linalg.norm(places[first][0] - places[second][0]))
        state = places[second][1] if second in places else ""
        if gap < self._least * GRAVE_SHARE and second not in self._returned \
                and state in ("taking_off", "on_patrol", "paused"):
            self._returned.add(second)
            yield second, "return", f"{gap:.0f} m from {first}"
        elif gap < self._least and first not in waits and state in ("taking_off", "on_patrol"):
            waits.add(first)
            yield second, "pause", f"{gap:.0f} m from {first}, {self._least:g} m are to be kept"
        elif gap > self._least * RESUME_SHARE and first in waits:
            waits.discard(first)
            if not waits and state == "paused":
                yield second, "resume", f"{first} is {gap:.0f} m away"
