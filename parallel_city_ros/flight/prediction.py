"""What a flight of a plan takes, as PX4 flies it, before it is flown: seconds and watt-hours.

Unlike patrol/profile.py, which plans with what a drone could do, this knows what PX4 does: it
brakes early, takes corners by its acceptance radius, climbs and lands at speeds of its own (see
simulator/guidance.py, and what was seen there). Speed along the route is integrated, nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.mission import leg_speeds
from parallel_city_ros.flight.simulator import guidance
from parallel_city_ros.patrol.kernels import electric_power
from parallel_city_ros.patrol.power import multirotor
from parallel_city_ros.patrol.task import Drone

DT = 0.05               # s
UP, DOWN = 3.0, 1.5     # m/s, MPC_Z_V_AUTO_UP, MPC_Z_V_AUTO_DN
TAKEOFF_SPEED, TAKEOFF_M = 1.5, 5.0             # m/s, MPC_TKO_SPEED, and to which height
LAND_SPEED, LAND_SLOW_BELOW = 0.7, (10.0, 5.0)  # m/s, MPC_LAND_SPEED, and between which heights
ARRIVED_M = 0.5         # level, from where it begins to land
SHORT_M = 0.8           # NAV_MC_ALT_RAD: so much below the top it is taken off


@dataclass(frozen=True)
class Prediction:
    duration_s: float       # from the first thrust to standing on the ground
    energy_wh: float


def predict(path, home, goal_ground: float, config: FlightConfig, drone: Drone, *,
            time_step_s: float = math.inf, wind: tuple[float, float] = (0.0, 0.0),
            payload: float = 0.0) -> Prediction:
    """Take-off at home, the path, landing below its end.

    path : (N, 3), home : (3,) ENU metres, home on the ground; goal_ground : z below the end, m
    time_step_s : of the plan, where speeds are planned; wind : m/s east and north, as it moves;
    payload : kg
    """
    path, home = np.asarray(path, float), np.asarray(home, float)
    craft = multirotor(drone, payload=payload)
    seconds, joules = 0.0, 0.0

    def spend(velocity):
        nonlocal seconds, joules
        airspeed = math.hypot(velocity[0] - wind[0], velocity[1] - wind[1])
        seconds += DT
        joules += DT * electric_power(craft, airspeed, float(velocity[2]))

    height, top = 0.0, path[0, 2] - home[2]
    while height < top - SHORT_M:
        climb = min(TAKEOFF_SPEED if height < TAKEOFF_M else UP, top - height + 0.1)
        height += climb * DT
        spend((0.0, 0.0, climb))
    at, speed = np.array([*home[:2], path[0, 2]]), 0.0
    radius = config.acceptance_radius
    passing = guidance.passing_speeds([tuple(at), *map(tuple, path)], radius)[1:]
    for point, end_speed, cruise in zip(path, passing, leg_speeds(path, config, time_step_s),
                                        strict=True):
        left = float(np.linalg.norm(point - at))
        along = (point - at) / max(left, 1e-9)
        cruise = min(cruise, (UP if along[2] > 0 else DOWN) / max(abs(along[2]), 1e-9))
        while left > radius:
            allowed = max(math.sqrt(end_speed ** 2 + 2 * guidance.BRAKING * (left - radius)),
                          guidance.CRAWL)
            speed = min(speed + drone.acceleration * DT, cruise, allowed)
            left -= speed * DT
            spend(speed * along)
        at = point - left * along
    gap = float(np.linalg.norm((path[-1] - at)[:2]))
    while gap > ARRIVED_M:
        gap -= guidance.POSITION_GAIN * gap * DT
        spend((guidance.POSITION_GAIN * gap, 0.0, 0.0))
    height, (high, low) = path[-1, 2] - goal_ground, LAND_SLOW_BELOW
    while height > 0:
        share = min(max((height - low) / (high - low), 0.0), 1.0)
        sink = LAND_SPEED + share * (DOWN - LAND_SPEED)
        height -= sink * DT
        spend((0.0, 0.0, -sink))
    return Prediction(seconds, joules / 3600)
