"""Electrical power of a multirotor and energy of a flight, and from that its carbon.

Momentum theory for a rotor disc in level flight (Leishman 2006, Principles of Helicopter
Aerodynamics, 2.14 and 5.4), profile power as Zeng, Xu & Zhang (2019, IEEE TWC 18(4)) have it, and
CO2 by the electricity that is charged (Stolaroff et al. 2018, Nature Communications 9:409):

    T² = W² + D²,  D = ½ ρ A_d v²,  W = (mass + payload) g
    v_i² = √(v⁴/4 + (T / 2ρA)²) − v²/2
    P = [T v_i + P_0 (1 + 3 v² / U²) + D v + W max(climb, 0)] / η

with v the level airspeed, A_d drag_area, A rotor_area, U tip_speed, η efficiency, and P_0 what the
figure of merit leaves over in hover: W √(W / 2ρA) (1 / figure_of_merit − 1). Sinking gives nothing
back, because rotors then work in their own wake. Speeding up and braking cost what level flight at
the same speed costs: what the one takes the other returns.
"""

from __future__ import annotations

from math import hypot, sqrt
from typing import NamedTuple

import numpy as np

from parallel_city_ros.patrol.kernels import AIR_DENSITY, electric_power, flight_energy
from parallel_city_ros.patrol.task import Drone, PatrolTask

GRAVITY = 9.80665


class Multirotor(NamedTuple):
    """What compiled code reads: all floats, SI units."""

    weight: float           # N
    rotor_area: float
    drag_area: float
    profile_power: float    # W, in hover
    tip_speed: float
    efficiency: float
    max_speed: float
    acceleration: float
    wind_east: float
    wind_north: float
    time_step: float        # s that a leg takes at least; 0: as fast as it may


def multirotor(drone: Drone, *, payload: float = 0.0, wind: tuple[float, float] = (0.0, 0.0),
               time_step_s: float = 0.0) -> Multirotor:
    """payload : kg; wind : m/s east and north, of the air over ground"""
    weight = (drone.mass + payload) * GRAVITY
    lift_power = weight * sqrt(weight / (2 * AIR_DENSITY * drone.rotor_area))
    return Multirotor(
        weight=weight, rotor_area=float(drone.rotor_area), drag_area=float(drone.drag_area),
        profile_power=lift_power * (1 / drone.figure_of_merit - 1),
        tip_speed=float(drone.tip_speed), efficiency=float(drone.efficiency),
        max_speed=float(drone.max_speed), acceleration=float(drone.acceleration),
        wind_east=float(wind[0]), wind_north=float(wind[1]), time_step=float(time_step_s))


def multirotor_of(task: PatrolTask) -> Multirotor:
    """With the payload, wind and time step of a task."""
    return multirotor(task.drone, payload=task.payload, wind=(task.wind_east, task.wind_north),
                      time_step_s=task.time_step_s)


def power_w(airspeed: float, climb_rate: float, drone: Drone, payload: float = 0.0) -> float:
    """Electrical W at a level airspeed and a rate of climb, both m/s; payload in kg.

    Who calls it often makes the multirotor once and calls kernels.electric_power.
    """
    return electric_power(multirotor(drone, payload=payload), float(airspeed), float(climb_rate))


def energy_wh(path, drone: Drone | PatrolTask, wind: tuple[float, float] = (0.0, 0.0), *,
              payload: float = 0.0) -> float:
    """Wh from rest at the first of (N, 3) ENU points to rest at the last.

    drone : flies as fast as its limits allow; a task instead brings payload, wind and the time
        step that each leg takes at least, and then the other arguments do not count
    wind : m/s east and north, of the air over ground; payload : kg

    The speeds are those of profile.speed_profile. Hover counts: a leg without length is one.

    Raises
    ------
    ValueError
        If the path is not at least one point of three finite numbers.
    """
    path = np.ascontiguousarray(path, dtype=float)
    if path.ndim != 2 or path.shape[1] != 3 or not len(path) or not np.isfinite(path).all():
        raise ValueError(f"a path is (N, 3) finite metres, N at least 1, got shape {path.shape}")
    craft = multirotor_of(drone) if isinstance(drone, PatrolTask) else multirotor(
        drone, payload=payload, wind=wind)
    return flight_energy(craft, path, np.empty(len(path)))


def least_wh(task: PatrolTask) -> float:
    """Wh that every path of the task takes at least: its time steps at the least power."""
    fastest = task.drone.max_speed + hypot(task.wind_east, task.wind_north)
    craft = multirotor_of(task)
    least = min(electric_power(craft, airspeed, 0.0) for airspeed in np.linspace(0, fastest, 201))
    return (task.track_points + 1) * task.time_step_s * least / 3600


def grams_co2(wh: float, task: PatrolTask) -> float:
    """g CO2 that a flight's energy stands for."""
    return wh * task.grid_intensity / 1000
