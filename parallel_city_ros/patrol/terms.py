"""Energy, sound and walls once more, for the certificate: plain, slow and on its own.

Shares no code with the evaluators. Induced velocity is found by iteration and power summed in
steps of time; levels are added receptor by receptor; walls are looked for voxel by voxel.
"""

from __future__ import annotations

import numpy as np
import shapely
from scipy.spatial import cKDTree

from parallel_city_ros.city.facades import Facades
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol.profile import speed_profile
from parallel_city_ros.patrol.task import PatrolTask

TIME_STEP_S = 0.05
_ITERATIONS = 60


def worth_of(grid: VoxelGrid, task: PatrolTask, weights=None) -> np.ndarray:
    """(nx, ny) weights of the columns, 0 outside the task's area."""
    worth = np.ones(grid.surface.shape) if weights is None else np.array(weights, float)
    if task.area:
        east, north = (grid.origin[k] + (np.arange(worth.shape[k]) + 0.5) * grid.resolution
                       for k in (0, 1))
        worth = worth * shapely.contains_xy(shapely.Polygon(task.area), east[:, None],
                                            north[None, :])
    return worth


# energy

def powers_w(task: PatrolTask, air: np.ndarray) -> np.ndarray:
    """(...) electrical W at (..., 3) velocities through the air, m/s; see power.py."""
    drone, density = task.drone, 1.225
    weight = (drone.mass + task.payload) * 9.80665
    level = np.hypot(air[..., 0], air[..., 1])
    drag = density / 2 * drone.drag_area * level**2
    thrust = np.hypot(weight, drag)
    low, high = np.zeros_like(level), np.sqrt(thrust / (2 * density * drone.rotor_area))
    for _ in range(_ITERATIONS):    # v_i √(v² + v_i²) = T / 2ρA, Glauert
        middle = (low + high) / 2
        more = middle * np.hypot(level, middle) < thrust / (2 * density * drone.rotor_area)
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    hover = weight * np.sqrt(weight / (2 * density * drone.rotor_area))
    profile = (hover / drone.figure_of_merit - hover) * (1 + 3 * (level / drone.tip_speed)**2)
    return (thrust * low + profile + drag * level
            + weight * np.maximum(air[..., 2], 0)) / drone.efficiency


def leg_energies_wh(task: PatrolTask, path) -> np.ndarray:
    """(N - 1,) Wh of each leg of (N, 3) points, flown as profile.speed_profile has it."""
    path, drone = np.asarray(path, float), task.drone
    profile = speed_profile(path, drone, task.time_step_s)
    wind = np.array([task.wind_east, task.wind_north, 0.0])
    energies = []
    for k, leg in enumerate(np.diff(path, axis=0)):
        length, seconds = np.linalg.norm(leg), profile.leg_s[k]
        n = max(1, int(np.ceil(seconds / TIME_STEP_S)))
        t = (np.arange(n) + 0.5) * seconds / n
        speed = np.minimum(profile.speed[k] + drone.acceleration * t,
                           profile.speed[k + 1] + drone.acceleration * (seconds - t))
        speed = np.minimum(speed, min(drone.max_speed, length / task.time_step_s))
        velocity = speed[:, None] * leg / max(length, 1e-9)
        energies.append(powers_w(task, velocity - wind).mean() * seconds / 3600)
    return np.array(energies)


# sound

def receptors(grid: VoxelGrid, task: PatrolTask, noise_weights=None) -> np.ndarray:
    """(R, 4) places that listen, ENU metres, and what each stands for; see noise.py."""
    nx, ny = grid.surface.shape
    if noise_weights is not None:
        weights = np.asarray(noise_weights, float)
    else:
        weights = np.ones((nx, ny))
        if task.noise_near_buildings > 0:
            built = np.argwhere(grid.surface > grid.ground)
            every = np.argwhere(np.ones((nx, ny), bool))
            weights = np.zeros((nx, ny))
            if len(built):
                gaps = cKDTree(built).query(every)[0] * grid.resolution
                weights = (gaps <= task.noise_near_buildings).astype(float).reshape(nx, ny)
    edge = max(1, round(task.receptor_spacing / grid.resolution))
    found = []
    for i in range(0, nx, edge):
        for j in range(0, ny, edge):
            part = weights[i:i + edge, j:j + edge]
            u, v = i + part.shape[0] / 2, j + part.shape[1] / 2
            found.append((grid.origin[0] + u * grid.resolution, grid.origin[1]
                          + v * grid.resolution, grid.ground[int(u), int(v)],
                          part.sum() * grid.resolution**2 / 10_000))
    return np.array(found)


def levels_db(task: PatrolTask, point, places) -> np.ndarray:
    """(R,) dB(A) at each place from a track point."""
    gap = np.maximum(np.linalg.norm(places[:, :3] - point, axis=1), 1.0)
    return task.drone.sound_level - 20 * np.log10(gap) - task.air_absorption * (gap - 1)


def powers_at(task: PatrolTask, path, places) -> np.ndarray:
    """(R,) sums of 10^(L/10) over (N, 3) track points."""
    total = np.zeros(len(places))
    for point in np.asarray(path, float):
        total += 10 ** (levels_db(task, point, places) / 10)
    return total


def exposure_db_ha(task: PatrolTask, powers, places, count: int) -> float:
    """f3 of sums (R,) of 10^(L/10) over count track points."""
    mean = 10 * np.log10(np.maximum(powers / count, 1e-30))
    return float((places[:, 3] * np.maximum(mean - task.noise_threshold, 0)).sum())


# walls

def cameras_along(task: PatrolTask, path) -> np.ndarray:
    """(N, 5) cameras for facades at (N, 3) points, as Facades.seen takes them.

    They look aside of the leg that begins there, at the last point of the one that ends.
    """
    path = np.asarray(path, float)
    legs = np.diff(path[:, :2], axis=0)
    course = np.arctan2(legs[:, 1], legs[:, 0])
    yaw = np.r_[course, course[-1:]] + np.radians(task.drone.facade_yaw_deg)
    return np.column_stack([path, yaw, np.full(len(path),
                                               np.radians(task.drone.facade_tilt_deg))])


def walls_seen(walls: Facades, task: PatrolTask, cameras) -> np.ndarray:
    """(faces,) bool: faces of walls that any of the cameras sees."""
    return walls.seen(cameras, task.drone.camera_aperture_deg, task.drone.camera_range)


def walls_km2(walls: Facades, worth: np.ndarray, seen: np.ndarray) -> float:
    """Weighted area of the faces that are seen; worth : (nx, ny) as of worth_of"""
    i, j = walls.voxels[seen][:, :2].T
    return float(worth[i, j].sum() * walls.grid.resolution**2 * 1e-6)
