"""What the compiled evaluators read: map, limits and task as one record of arrays and numbers."""

from __future__ import annotations

from math import cos, radians, sin, tan
from typing import NamedTuple

import numpy as np
import shapely
from scipy.ndimage import maximum_filter, maximum_filter1d, minimum_filter

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.kernels import cone_over
from parallel_city_ros.patrol.noise import Sound, receptors_of, sound_of
from parallel_city_ros.patrol.power import Multirotor, grams_co2, multirotor_of
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.patrol.walls import Walls, walls_of


class Camera(NamedTuple):
    """All floats, so that compiled code hands it on in registers; lengths in metres."""

    cell: float
    x0: float
    y0: float
    bottom: float       # z of the lowest surface
    slope: float        # of the cone: tan of its half aperture
    reach: float        # horizontal reach
    slant: float        # largest range
    occlusion: float    # 1 or 0
    paper: float        # 1: the literal reading of the equations


class Limits(NamedTuple):
    """All floats; lengths in metres, heights above ground."""

    cell: float
    x0: float
    y0: float
    uneven: float       # 1 where the ground is not level
    noise_altitude: float
    min_altitude: float
    max_altitude: float
    cos_turn: float
    tan_climb: float
    longest_leg: float
    paper: float


class Carbon(NamedTuple):
    """All floats; f2 is by energy where that has a limit."""

    per_km: float
    per_wh: float
    energy_limit_wh: float


class Scene(NamedTuple):
    """Arrays are (nx, ny) over the columns of the map; heights are z in the map frame, metres.

    surface, ground : z of the highest voxel and of the ground
    clear : z from which a drone keeps its clearance, whatever it does between two samples
    lowest_z, highest_z : altitude band as z, read between track points where the ground is uneven
    tallest : above this no line of sight from the cell is blocked; its own surface where none is
    must_visit : (M, 3)
    receptors : (R, 4) as in noise.receptors_of, none where noise is by altitude
    """

    surface: np.ndarray
    ground: np.ndarray
    clear: np.ndarray
    lowest_z: np.ndarray
    highest_z: np.ndarray
    weights: np.ndarray
    tallest: np.ndarray
    must_visit: np.ndarray
    camera: Camera
    limits: Limits
    visit_radius: float
    carbon: Carbon
    duration_share: float   # of the endurance that the flight takes by its time steps
    floor_km2: float
    see_ground: bool
    see_walls: bool
    walls: Walls
    by_level: bool      # f3
    receptors: np.ndarray
    sound: Sound
    multirotor: Multirotor


def cell_centres(grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """East (nx, 1) and north (1, ny) of the columns' centres."""
    nx, ny = grid.surface.shape
    return ((grid.origin[0] + (np.arange(nx) + 0.5) * grid.resolution)[:, None],
            (grid.origin[1] + (np.arange(ny) + 0.5) * grid.resolution)[None, :])


def worth_of_ground(grid: VoxelGrid, task: PatrolTask, weights) -> np.ndarray:
    """(nx, ny) what seeing each cell is worth: the weights, 0 outside the task's area."""
    shape = grid.surface.shape
    worth = np.ones(shape) if weights is None else np.array(weights, float)
    if worth.shape != shape:
        raise ConfigError(f"weights are for {worth.shape} cells, the map has {shape}")
    if not (np.isfinite(worth).all() and (worth >= 0).all()):
        raise ConfigError("weights must be finite and at least 0")
    if task.area:
        east, north = np.broadcast_arrays(*cell_centres(grid))
        worth[~shapely.contains_xy(shapely.Polygon(task.area), east, north)] = 0.0
    return np.ascontiguousarray(worth)


def dilate(heights: np.ndarray, radius: float) -> np.ndarray:
    """Highest value within a radius in cells: a disc, as the union of one row for each offset."""
    n = int(radius)
    nx = len(heights)
    highest = heights.copy()
    for d in range(n + 1):
        half = int(np.sqrt(radius**2 - d**2))
        row = maximum_filter1d(heights, 2 * half + 1, axis=1, mode="nearest")
        for shift in {d, -d}:
            to = slice(max(0, shift), nx + min(0, shift))
            of = slice(max(0, -shift), nx + min(0, -shift))
            np.maximum(highest[to], row[of], out=highest[to])
    return highest


def make_scene(grid: VoxelGrid, task: PatrolTask, weights=None,
               noise_weights=None) -> tuple[Scene, np.ndarray]:
    """The scene, still without a coverage floor, and the heights that its clearance is over."""
    cell, drone = grid.resolution, task.drone
    surface, ground = (np.ascontiguousarray(a, dtype=float) for a in (grid.surface, grid.ground))
    # Dilated so far that no point between two samples can break the clearance which the
    # independent checker measures from the edges of the voxels.
    rise = 0.5 * cell * tan(radians(drone.max_climb_deg))
    highest_near = dilate(surface, (task.clearance_horizontal + task.tube_radius) / cell + 1.5)
    clear = highest_near + task.clearance_vertical + task.tube_radius + rise
    uneven = bool(ground.min() < ground.max())
    lowest_z, highest_z = ground, ground
    if uneven:
        lowest_z = maximum_filter(ground, 3) + task.min_altitude + rise
        highest_z = minimum_filter(ground, 3) + task.max_altitude - rise
    paper = task.model == "paper"
    half = radians(drone.camera_aperture_deg) / (1 if paper else 2)
    reach = drone.camera_range * (tan(half) if paper else sin(half))
    where = {"cell": float(cell), "x0": float(grid.origin[0]), "y0": float(grid.origin[1]),
             "paper": float(paper)}
    camera = Camera(**where, bottom=float(surface.min()), slope=tan(half), reach=reach,
                    slant=float(drone.camera_range),
                    occlusion=float(task.occlusion and not paper))
    worth = worth_of_ground(grid, task, weights)
    by_level = task.noise_model == "level"
    receptors = receptors_of(grid, task, noise_weights) if by_level else np.empty((0, 4))
    return Scene(
        surface=surface, ground=ground, clear=clear, lowest_z=lowest_z, highest_z=highest_z,
        weights=worth,
        tallest=tallest_over(surface, camera),
        must_visit=np.array(task.must_visit, float).reshape(-1, 3),
        camera=camera,
        limits=Limits(**where, uneven=float(uneven), noise_altitude=float(task.noise_altitude),
                      min_altitude=float(task.min_altitude),
                      max_altitude=float(task.max_altitude),
                      cos_turn=cos(radians(drone.max_turn_deg)),
                      tan_climb=tan(radians(drone.max_climb_deg)),
                      longest_leg=float(drone.max_speed * task.time_step_s)),
        visit_radius=float(task.visit_radius), carbon=Carbon(
            float(drone.carbon_per_km), grams_co2(1.0, task),
            task.energy_limit_wh if task.carbon_model == "energy" else 0.0),
        duration_share=(task.track_points + 1) * task.time_step_s / task.endurance_s,
        floor_km2=0.0, see_ground=task.coverage != "facades", see_walls=task.coverage != "ground",
        walls=walls_of(grid, task, worth), by_level=by_level, receptors=receptors,
        sound=sound_of(task),
        multirotor=multirotor_of(task)), highest_near


def tallest_over(surface: np.ndarray, camera: Camera) -> np.ndarray:
    """(nx, ny) z above which no line of sight from the cell is blocked.

    A line of sight rises by 1 / slope per metre or more, so that a column can only hide what is
    within its height over it times slope. What nothing can hide has its own surface.
    """
    within = min(camera.reach, float(np.ptp(surface)) * camera.slope)
    n = 2 * (int(np.ceil(within / camera.cell)) + 1) + 1
    tallest = maximum_filter1d(maximum_filter1d(surface, n, axis=0), n, axis=1)
    return np.where(cone_over(surface, camera.cell / camera.slope) > surface, tallest, surface)
