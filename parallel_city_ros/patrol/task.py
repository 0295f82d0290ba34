"""What a patrol is asked to do, and with what drone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.settings import check, require, setting


@dataclass(frozen=True, kw_only=True)
class Drone:
    """Limits of the drone and its camera; defaults are those of a small quadrotor."""

    max_speed: float = setting(12.0, "m/s, of a leg (14)", above=0)
    acceleration: float = setting(3.0, "m/s², along the path and across it in corners", above=0)
    max_turn_deg: float = setting(60.0, "degrees, change of course at a track point (12)",
                                  above=0, high=179)
    max_climb_deg: float = setting(30.0, "degrees, leg above the horizon (13)", above=0, high=89)
    endurance_s: float = setting(1200.0, "s, longest flight (15)", above=0)
    camera_aperture_deg: float = setting(60.0, "degrees, full cone of the nadir camera",
                                         above=0, high=150)
    camera_range: float = setting(120.0, "m, slant range of the camera", above=0, high=500)
    carbon_per_km: float = setting(1.0, "carbon per km flown, n_co of (8) in the paper's unit",
                                   above=0)
    mass: float = setting(1.5, "kg, with battery, without payload", low=0.05, high=100)
    rotor_area: float = setting(0.18, "m², swept by all rotors: four of 9.4 inches", low=0.001,
                                high=50)
    drag_area: float = setting(0.03, "m², drag coefficient times frontal area", low=0, high=10)
    figure_of_merit: float = setting(0.63, "share of the shaft power that lifts, in hover",
                                     low=0.05, high=1)
    tip_speed: float = setting(80.0, "m/s, of the blades' tips in hover", low=10, high=340)
    efficiency: float = setting(0.75, "of battery, controllers and motors together", low=0.05,
                                high=1)
    battery_wh: float = setting(70.0, "Wh, of the full battery", above=0)
    sound_level: float = setting(80.0, "dB(A), 1 m from the drone", low=0, high=150)
    facade_tilt_deg: float = setting(30.0, "degrees below the horizon, of the camera for facades",
                                     low=0, high=90)
    facade_yaw_deg: float = setting(90.0, "degrees left of the course, of the camera for facades; "
                                    "0: ahead, -90: right", low=-180, high=180)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True)
class PatrolTask:
    """From start to goal over free track points, PLANNER.md's symbols in words.

    start, goal : (3,) ENU metres in the map frame
    must_visit : places, (3,) ENU metres each, that some leg passes within visit_radius
    area : corners (east, north) of the polygon in which the ground is worth seeing; () for all
    """

    start: tuple[float, float, float]
    goal: tuple[float, float, float]
    drone: Drone = field(default_factory=Drone)
    must_visit: tuple[tuple[float, float, float], ...] = ()
    area: tuple[tuple[float, float], ...] = ()
    model: str = setting("corrected", "reading of the paper's equations: corrected, or paper for "
                         "the letter of them", choices=("corrected", "paper"))
    occlusion: bool = setting(True, "whether buildings hide what is behind them")
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
    visit_radius: float = setting(10.0, "m, from a place to visit at which it is visited",
                                  above=0, high=200)
    battery_percent: float = setting(
        100.0, "%, of the battery that this patrol may use: shortens the endurance", above=0,
        high=100)
    coverage: str = setting("ground", "what is worth seeing, f1: the ground, the walls of "
                            "buildings, or both", choices=("ground", "facades", "both"))
    carbon_model: str = setting("distance", "what f2 is: carbon by length, or g CO2 by the energy "
                                "that the drone takes", choices=("distance", "energy"))
    payload: float = setting(0.0, "kg, carried all the way", low=0, high=100)
    grid_intensity: float = setting(250.0, "g CO2 per kWh charged", above=0, high=2000)
    wind_east: float = setting(0.0, "m/s, of the air over ground", low=-50, high=50)
    wind_north: float = setting(0.0, "m/s, of the air over ground", low=-50, high=50)
    noise_model: str = setting("altitude", "what f3 is: metres below noise_altitude, or sound on "
                               "the ground above noise_threshold", choices=("altitude", "level"))
    noise_threshold: float = setting(30.0, "dB(A), equivalent level that disturbs nobody", low=0,
                                     high=120)
    air_absorption: float = setting(0.005, "dB/m, of sound in air", low=0, high=1)
    receptor_spacing: float = setting(50.0, "m, between the places on the ground that listen",
                                      low=5, high=1000)
    noise_near_buildings: float = setting(0.0, "m, from buildings within which somebody listens; "
                                          "0: everywhere", low=0, high=1000)

    def __post_init__(self):
        for name in ("start", "goal"):
            value = getattr(self, name)
            require(_numbers(value, 3), self, name,
                    "three finite numbers, metres east, north and up")
        for name, n, words in (("must_visit", 3, "three finite numbers, metres east, north, up"),
                               ("area", 2, "two finite numbers, metres east and north")):
            value = getattr(self, name)
            require(isinstance(value, tuple | list) and all(_numbers(p, n) for p in value), self,
                    name, f"a list of places of {words}")
            # JSON brings lists
            object.__setattr__(self, name, tuple(tuple(map(float, p)) for p in value))
        require(len(self.area) == 0 or len(self.area) >= 3, self, "area",
                "at least three corners, or none")
        check(self)
        if len(self.must_visit) > self.track_points:
            raise ConfigError(f"{len(self.must_visit)} places to visit need as many track points, "
                              f"track_points is {self.track_points}; raise it or visit fewer")
        require(self.model != "paper" or self.drone.camera_aperture_deg <= 85, self, "model",
                "corrected where the camera's aperture is above 85 degrees: (5) compares with the "
                "whole aperture")
        for name, usual in (("coverage", "ground"), ("carbon_model", "distance"),
                            ("noise_model", "altitude")):
            require(self.model != "paper" or getattr(self, name) == usual, self, name,
                    f"{usual} where model is paper: its equations know nothing else")
        wind = math.hypot(self.wind_east, self.wind_north)
        require(wind < self.drone.max_speed, self,
                "wind_east" if abs(self.wind_east) > abs(self.wind_north) else "wind_north",
                f"such that the wind, {wind:.1f} m/s, is below drone.max_speed "
                f"({self.drone.max_speed:g}), or the drone cannot fly against it; wait for less "
                "wind")
        require(self.min_altitude < self.max_altitude, self, "min_altitude",
                f"below max_altitude ({self.max_altitude})")
        require(self.coverage_floor > 0 or self.must_visit or self.start[:2] != self.goal[:2],
                self, "coverage_floor",
                "above 0 where start and goal are the same, or not to patrol at all is best")

    @property
    def endurance_s(self) -> float:
        """s, longest flight with the battery as it is."""
        return self.drone.endurance_s * self.battery_percent / 100

    @property
    def energy_limit_wh(self) -> float:
        """Wh that the battery has for this patrol."""
        return self.drone.battery_wh * self.battery_percent / 100

    @property
    def units(self) -> dict[str, str]:
        """Units of the objectives f1, f2, f3 by the names that plans give them."""
        seen = {"ground": "ground", "facades": "facades", "both": "ground and facades"}
        return {"coverage_km2": f"km² of {seen[self.coverage]}, weighted",
                "carbon": "g CO2" if self.carbon_model == "energy" else
                f"units ({self.drone.carbon_per_km:g} per km)",
                "noise_m": "dB ha" if self.noise_model == "level" else "m"}

    @property
    def closed(self) -> bool:
        """Whether the patrol ends above where it begins."""
        return self.start[:2] == self.goal[:2]


def _numbers(value, n: int) -> bool:
    try:
        return len(value) == n and all(math.isfinite(v) for v in value)
    except TypeError:
        return False
