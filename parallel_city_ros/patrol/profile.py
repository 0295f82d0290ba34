"""How fast a path can be flown: corners and acceleration limit the speed, not only its maximum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.patrol.task import Drone

# m by which a corner is cut. With 3 m/s² a right angle is then taken at 1.7 m/s, as PX4 1.16 does.
CORNER_CUT_M = 0.4


@dataclass(frozen=True)
class SpeedProfile:
    """speed : (N,) m/s at each track point, 0 at both ends; leg_s : (N - 1,) seconds a leg"""

    speed: np.ndarray
    leg_s: np.ndarray

    @property
    def duration_s(self) -> float:
        return float(self.leg_s.sum())


def speed_profile(path, drone: Drone, time_step_s: float = 0.0) -> SpeedProfile:
    """From rest at the first of (N, 3) points to rest at the last.

    time_step_s : that a leg takes at least, which a leg without length hovers; 0: as fast as the
        drone may

    The speed in a corner is that of the arc which cuts it by CORNER_CUT_M at the drone's
    acceleration; between corners it accelerates and brakes as hard as it may (forward and
    backward pass; Verscheure et al. 2009 for the general case).
    """
    legs = np.diff(np.asarray(path, float), axis=0)
    length = np.linalg.norm(legs, axis=1)
    cruise = np.full(len(legs), drone.max_speed)
    if time_step_s > 0:
        cruise = np.minimum(cruise, length / time_step_s)
    speed = np.minimum(np.r_[0.0, cruise], np.r_[cruise, 0.0])
    if len(legs) > 1:
        unit = legs / np.maximum(length, 1e-9)[:, None]
        half_turn = np.arccos(np.clip((unit[:-1] * unit[1:]).sum(axis=1), -1, 1)) / 2
        radius = CORNER_CUT_M / np.maximum(1 / np.maximum(np.cos(half_turn), 1e-6) - 1, 1e-9)
        speed[1:-1] = np.minimum(speed[1:-1], np.sqrt(drone.acceleration * radius))
    for order in (range(len(legs)), range(len(legs) - 1, -1, -1)):
        for k in order:
            a, b = (k, k + 1) if order.step > 0 else (k + 1, k)
            speed[b] = min(speed[b], np.sqrt(speed[a]**2 + 2 * drone.acceleration * length[k]))
    first, last = speed[:-1], speed[1:]
    peak = np.minimum(cruise, np.sqrt(drone.acceleration * length + (first**2 + last**2) / 2))
    ramps = (2 * peak**2 - first**2 - last**2) / (2 * drone.acceleration)
    seconds = (2 * peak - first - last) / drone.acceleration
    seconds += np.maximum(length - ramps, 0) / np.maximum(peak, 1e-9)
    return SpeedProfile(speed, np.where(length > 1e-9, seconds, time_step_s))
