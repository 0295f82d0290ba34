"""Walls as the evaluators see them: runs of faces one above the other, by blocks of the map."""

from __future__ import annotations

from math import cos, radians, sin
from typing import NamedTuple

import numpy as np

from parallel_city_ros.city.facades import MAX_INCIDENCE_DEG, Facades
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol.task import PatrolTask

BLOCK = 16      # columns along the edge of a block


class WallCamera(NamedTuple):
    """The camera for facades; all floats, lengths in metres."""

    cell: float
    x0: float
    y0: float
    bottom: float           # z of the lowest voxel
    reach: float
    cos_half: float         # of the cone
    cos_incidence: float    # flatter, nothing is recognised
    level: float            # of its axis: cos and -sin of the tilt
    down: float
    cos_yaw: float          # from the course to the axis
    sin_yaw: float
    block: float
    ground_x: float         # node (0, 0) of the ground and distance of nodes, in cells
    ground_y: float
    ground_cell: float


class Walls(NamedTuple):
    """runs : (W, 6) int32, column i and j, side as in facades.SIDES, lowest voxel, number of
        faces and the first of them
    offsets : (blocks east, blocks north + 1) first run of each block
    weights : (W,) worth of a face of each run
    faces : number of faces; most : runs in reach of a place at most
    solid : (nx, ny) z of the top of what stands, which hides; where nothing does, of the ground
        if that is flat, else -inf
    ground : (a, b) z of the nodes of the ground, which hides between them too; (1, 1) if flat
    """

    runs: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray
    faces: int
    most: int
    camera: WallCamera
    solid: np.ndarray
    ground: np.ndarray


def walls_of(grid: VoxelGrid, task: PatrolTask, worth: np.ndarray) -> Walls:
    """All walls of the map if the task asks for facades, else none.

    worth : (nx, ny) of the columns, which their walls share
    """
    cell, drone = grid.resolution, task.drone
    tilt, yaw = radians(drone.facade_tilt_deg), radians(drone.facade_yaw_deg)
    # A column's step of ground would hide feet of walls that can be seen along the slope.
    heights, ground_x, ground_y, ground_cell = grid.terrain.in_voxels(grid.origin, cell)
    heights = grid.origin[2] + cell * heights
    solid = np.where(grid.built | grid.terrain.is_flat, grid.surface, -np.inf)
    camera = WallCamera(
        cell=float(cell), x0=float(grid.origin[0]), y0=float(grid.origin[1]),
        bottom=float(grid.origin[2]), reach=float(drone.camera_range),
        cos_half=cos(radians(drone.camera_aperture_deg / 2)),
        cos_incidence=cos(radians(MAX_INCIDENCE_DEG)), level=cos(tilt), down=-sin(tilt),
        cos_yaw=cos(yaw), sin_yaw=sin(yaw), block=float(BLOCK),
        ground_x=float(ground_x), ground_y=float(ground_y), ground_cell=float(ground_cell))
    nx, ny = grid.surface.shape
    blocks = -(-nx // BLOCK), -(-ny // BLOCK)
    if task.coverage == "ground":
        return Walls(np.empty((0, 6), np.int32), np.zeros((blocks[0], blocks[1] + 1), np.int32),
                     np.empty(0), 0, 0, camera, solid, heights)
    facades = Facades(grid)
    (i, j, k), side = facades.voxels.T, facades.sides
    block = i // BLOCK * blocks[1] + j // BLOCK
    order = np.lexsort((k, side, j, i, block))
    i, j, k, side, block = i[order], j[order], k[order], side[order], block[order]
    new = np.ones(len(i), bool)
    for a, step in ((i, 0), (j, 0), (side, 0), (k, 1)):
        new[1:] &= a[1:] == a[:-1] + step
    new[1:] = ~new[1:]
    first = np.flatnonzero(new)
    count = np.diff(np.r_[first, len(i)])
    runs = np.column_stack([i[first], j[first], side[first], k[first], count, first])
    per_block = np.bincount(block[first], minlength=blocks[0] * blocks[1]).reshape(blocks)
    ends = np.cumsum(per_block).reshape(blocks)
    offsets = np.column_stack([ends[:, 0] - per_block[:, 0], ends])
    near = 2 * int(np.ceil(drone.camera_range / cell / BLOCK)) + 3
    return Walls(np.ascontiguousarray(runs, np.int32), np.ascontiguousarray(offsets, np.int32),
                 np.ascontiguousarray(worth[i[first], j[first]]), len(i),
                 _most_within(per_block, near), camera, solid, heights)


def _most_within(per_block: np.ndarray, edge: int) -> int:
    """Largest sum over a square of blocks."""
    sums = np.pad(per_block, edge).cumsum(axis=0).cumsum(axis=1)
    windows = sums[edge:, edge:] - sums[:-edge, edge:] - sums[edge:, :-edge] + sums[:-edge, :-edge]
    return int(windows.max(initial=0))
