"""What a patrol is asked to do, and with what drone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from parallel_city_ros.errors import ConfigError


def require(condition: bool, owner: object, name: str, expected: str) -> None:
    """Raise a ConfigError that names the field, what it should be and what it is."""
    if not condition:
        raise ConfigError(
            f"{type(owner).__name__}.{name} must be {expected}, got {getattr(owner, name)}")


def _require_positive(owner, besides: str = "") -> None:
    for f in fields(owner):
        value = getattr(owner, f.name)
        if f.type == "float" and f.name != besides:
            require(isinstance(value, int | float) and math.isfinite(value) and value > 0,
                    owner, f.name, "a finite number above 0")


@dataclass(frozen=True, kw_only=True)
class Drone:
    """Limits of the drone and its camera; defaults are those of a small quadrotor."""

    max_speed: float = 12.0           # m/s, constraint (14)
    max_turn_deg: float = 60.0        # change of course at a track point, (12)
    max_climb_deg: float = 30.0       # angle of a leg above the horizon, (13)
    endurance_s: float = 1200.0       # longest flight, (15)
    camera_aperture_deg: float = 60.0  # full cone of the nadir camera
    camera_range: float = 120.0       # m, slant
    carbon_per_km: float = 1.0        # n_co of (8), the paper's unit per km

    def __post_init__(self):
        _require_positive(self)
        for name, limit in (("max_turn_deg", 180), ("max_climb_deg", 90),
                            ("camera_aperture_deg", 180)):
            require(getattr(self, name) < limit, self, name, f"below {limit}")


@dataclass(frozen=True, kw_only=True)
class PatrolTask:
    """From start to goal over free track points, PLANNER.md's symbols in words.

    start, goal : (3,) ENU metres in the map frame
    """

    start: tuple[float, float, float]
    goal: tuple[float, float, float]
    drone: Drone = field(default_factory=Drone)
    track_points: int = 40            # B, free points between start and goal
    time_step_s: float = 4.0          # T_b
    min_altitude: float = 30.0        # m above ground
    max_altitude: float = 100.0       # m above ground
    noise_altitude: float = 110.0     # m above ground from which the drone is not heard
    clearance_horizontal: float = 4.0  # m
    clearance_vertical: float = 5.0   # m
    tube_radius: float = 2.0          # m the drone may leave its legs by, at corners
    coverage_floor: float = 0.0       # least share of the reachable worth seen, 0..1;
    #                                   0: as much as the straight flight sees

    def __post_init__(self):
        for name in ("start", "goal"):
            value = getattr(self, name)
            require(len(value) == 3 and all(map(math.isfinite, value)), self, name,
                    "three finite numbers, metres east, north and up")
        require(0 <= self.coverage_floor <= 1, self, "coverage_floor", "in [0, 1]")
        require(self.coverage_floor > 0 or self.start[:2] != self.goal[:2], self, "coverage_floor",
                "above 0 where start and goal are the same, or not to patrol at all is best")
        _require_positive(self, besides="coverage_floor")
        require(self.track_points >= 1, self, "track_points", "at least 1")
        require(self.min_altitude < self.max_altitude, self, "min_altitude",
                f"below max_altitude ({self.max_altitude})")
