"""What a flight of a plan takes, as PX4 flies it, before it is flown: seconds and watt-hours.

Unlike patrol/profile.py, which plans with what a drone could do, this rehearses what PX4 does: it
brakes early, takes corners by its acceptance radius, climbs and lands at speeds of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.guidance import Limits
from parallel_city_ros.flight.mission import leg_speeds
from parallel_city_ros.flight.rehearsal import DT, RehearsedDrone
from parallel_city_ros.patrol.kernels import electric_power
from parallel_city_ros.patrol.power import multirotor
from parallel_city_ros.patrol.task import Drone

TAKEOFF_SPEED, TAKEOFF_M = 1.5, 10.0            # m/s, MPC_TKO_SPEED, and to which height
TAKEOFF_ACCELERATION = 0.5                      # m/s², MPC_TKO_SPEED / MPC_TKO_RAMP_T
LAND_SPEED, LAND_SLOW_BELOW = 0.7, (10.0, 5.0)  # m/s, MPC_LAND_SPEED, and between which heights
LAND_DETECTION_S = 3.5                          # on the ground with motors that lift


@dataclass(frozen=True)
class Prediction:
    duration_s: float       # from the first thrust to standing on the ground
    energy_wh: float


def predict(path, home, goal_ground: float, config: FlightConfig, drone: Drone, *,
            time_step_s: float = math.inf, tube_radius: float = math.inf,
            wind: tuple[float, float] = (0.0, 0.0), payload: float = 0.0) -> Prediction:
    """Take-off at home, the path, landing below its end.

    path : (N, 3), home : (3,) ENU metres, home on the ground; goal_ground : z below the end, m
    time_step_s, tube_radius : of the plan, see leg_speeds
    wind : m/s east and north, as it moves; payload : kg
    """
    path, home = np.asarray(path, float), np.asarray(home, float)
    craft, limits = multirotor(drone, payload=payload), Limits()
    joules = 0.0

    def spend(velocity):
        nonlocal joules
        airspeed = math.hypot(velocity[0] - wind[0], velocity[1] - wind[1])
        joules += DT * electric_power(craft, airspeed, float(velocity[2]))

    flown = RehearsedDrone(home.tolist(), limits)
    top = (float(home[0]), float(home[1]), float(path[0, 2]))
    slow, quick = top[2] - home[2] - limits.height_tolerance, {
        "climb": TAKEOFF_SPEED, "climb_acceleration": TAKEOFF_ACCELERATION}
    for _, velocity in flown.climb(top, min(TAKEOFF_M, slow), **quick):
        spend(velocity)
    for _, velocity in flown.climb(top, slow):
        spend(velocity)
    places = [top, *map(tuple, path.tolist())]
    speeds = leg_speeds(path, config, time_step_s, tube_radius).tolist()
    for k, speed in enumerate(speeds, 1):
        for _, velocity in flown.leg(places[k - 1], places[k], places[min(k + 1, len(path))],
                                     speed, config.acceptance_radius):
            spend(velocity)
    high, low = LAND_SLOW_BELOW
    while flown.body.position[2] > goal_ground:
        share = min(max((flown.body.position[2] - home[2] - low) / (high - low), 0.0), 1.0)
        spend(flown.sink(places[-1], LAND_SPEED + share * (limits.descent - LAND_SPEED)))
    joules += LAND_DETECTION_S * electric_power(craft, math.hypot(*wind), 0.0)
    return Prediction(flown.seconds + LAND_DETECTION_S, joules / 3600)
