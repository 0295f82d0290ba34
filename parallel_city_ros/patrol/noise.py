"""Sound on the ground: who listens, and how loud a patrol is there.

A drone of level L_1 at 1 m is heard at a receptor r metres away with

    L = L_1 − 20 lg r − a (r − 1)      dB(A)

spherical spreading and absorption a in dB/m (ISO 9613-2 without its ground and screens; a for the
whole A-weighted spectrum is a rough mean of ISO 9613-1). Over a patrol the equivalent level
counts, L_eq = 10 lg mean 10^(L/10) over the track points, which are a constant time apart. The
objective is

    f3 = Σ w max(0, L_eq − noise_threshold)      dB ha

over receptors, w the hectares each stands for, times the weights of the ground there: with people
per hectare it is dB times people. Buildings neither screen nor reflect.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.task import PatrolTask


class Sound(NamedTuple):
    """What compiled code reads: all floats."""

    source: float       # 10^(L_1/10)
    absorption: float   # dB/m
    threshold: float    # dB(A)


def sound_of(task: PatrolTask) -> Sound:
    return Sound(10.0 ** (task.drone.sound_level / 10), float(task.air_absorption),
                 float(task.noise_threshold))


def listeners(grid: VoxelGrid, task: PatrolTask, noise_weights=None) -> np.ndarray:
    """(nx, ny) how much it matters what is heard on each column of the map.

    noise_weights : such as people per hectare; None: 1 within noise_near_buildings of buildings

    Raises
    ------
    ConfigError
        If the weights are not finite, negative, or not those of the map.
    """
    shape = grid.surface.shape
    if noise_weights is not None:
        weights = np.array(noise_weights, float)
        if weights.shape != shape:
            raise ConfigError(f"noise_weights are for {weights.shape} cells, the map has {shape}; "
                              "make them on this map's columns")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise ConfigError("noise_weights must be finite and at least 0; mend them or leave "
                              "them out for 1 everywhere")
        return weights
    if task.noise_near_buildings == 0:
        return np.ones(shape)
    built = grid.surface > grid.ground
    if not built.any():
        return np.zeros(shape)
    gap = distance_transform_edt(~built) * grid.resolution
    return (gap <= task.noise_near_buildings).astype(float)


def receptors_of(grid: VoxelGrid, task: PatrolTask, noise_weights=None) -> np.ndarray:
    """(R, 4) places that listen, ENU metres on the ground, and hectares times weight.

    Each is the middle of a square of columns; those that nobody stands for are left out.
    """
    cell = grid.resolution
    edge = max(1, round(task.receptor_spacing / cell))
    weights = listeners(grid, task, noise_weights)
    nx, ny = weights.shape
    first_x, first_y = np.arange(0, nx, edge), np.arange(0, ny, edge)
    total = np.add.reduceat(np.add.reduceat(weights, first_x, axis=0), first_y, axis=1)
    middle_x = (first_x + np.minimum(first_x + edge, nx)) / 2
    middle_y = (first_y + np.minimum(first_y + edge, ny)) / 2
    x, y = np.meshgrid(middle_x, middle_y, indexing="ij")
    z = grid.ground[x.astype(int), y.astype(int)]
    found = np.column_stack([grid.origin[0] + x.ravel() * cell, grid.origin[1] + y.ravel() * cell,
                             z.ravel(), total.ravel() * cell**2 / 1e4])
    return np.ascontiguousarray(found[found[:, 3] > 0])
