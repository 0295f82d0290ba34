"""What a patrol is asked to do, and with what drone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from parallel_city_ros.settings import check, require, setting


@dataclass(frozen=True, kw_only=True)
class Drone:
    """Limits of the drone and its camera; defaults are those of a small quadrotor."""

    max_speed: float = setting(12.0, "m/s, of a leg (14)", above=0)
    max_turn_deg: float = setting(60.0, "degrees, change of course at a track point (12)",
                                  above=0, high=179)
    max_climb_deg: float = setting(30.0, "degrees, leg above the horizon (13)", above=0, high=89)
    endurance_s: float = setting(1200.0, "s, longest flight (15)", above=0)
    camera_aperture_deg: float = setting(60.0, "degrees, full cone of the nadir camera",
                                         above=0, high=150)
    camera_range: float = setting(120.0, "m, slant range of the camera", above=0, high=500)
    carbon_per_km: float = setting(1.0, "carbon per km flown, n_co of (8) in the paper's unit",
                                   above=0)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True)
class PatrolTask:
    """From start to goal over free track points, PLANNER.md's symbols in words.

    start, goal : (3,) ENU metres in the map frame
    """

    start: tuple[float, float, float]
    goal: tuple[float, float, float]
    drone: Drone = field(default_factory=Drone)
    track_points: int = setting(40, "free points between start and goal (B)", low=1, high=1000)
    time_step_s: float = setting(4.0, "s, from one track point to the next (T_b)", above=0)
    min_altitude: float = setting(30.0, "m above ground, lower end of the band", above=0)
    max_altitude: float = setting(120.0, "m above ground, upper end of the band", above=0)
    noise_altitude: float = setting(130.0, "m above ground from which the drone is not heard",
                                    above=0)
    clearance_horizontal: float = setting(4.0, "m kept from buildings sideways", above=0, high=50)
    clearance_vertical: float = setting(5.0, "m kept above buildings", above=0)
    tube_radius: float = setting(2.0, "m by which the drone may leave its legs", above=0,
                                 high=20)
    coverage_floor: float = setting(
        0.0, "least share of the reachable worth to see; 0: what the straight flight sees",
        low=0, high=1)

    def __post_init__(self):
        for name in ("start", "goal"):
            value = getattr(self, name)
            require(len(value) == 3 and all(map(math.isfinite, value)), self, name,
                    "three finite numbers, metres east, north and up")
        check(self)
        require(self.min_altitude < self.max_altitude, self, "min_altitude",
                f"below max_altitude ({self.max_altitude})")
        require(self.coverage_floor > 0 or self.start[:2] != self.goal[:2], self, "coverage_floor",
                "above 0 where start and goal are the same, or not to patrol at all is best")
