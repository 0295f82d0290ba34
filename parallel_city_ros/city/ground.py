"""Where a drone may stand: open ground away from buildings."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import CityFileError


def open_ground(grid: VoxelGrid, clearance: float) -> np.ndarray:
    """(nx, ny) bool: cells at least clearance metres from every building and the map's edge."""
    free = np.pad(~grid.built, 1)
    # from cell centre to cell centre: the far half of both cells is taken off
    distance = distance_transform_edt(free)[1:-1, 1:-1] * grid.resolution
    return distance >= clearance + grid.resolution * np.sqrt(2)


def nearest_open_ground(grid: VoxelGrid, point, clearance: float) -> tuple[float, float]:
    """Centre (east, north) of the open cell nearest to a point in ENU metres.

    Raises
    ------
    CityFileError
        If no place of the map is that open.
    """
    cells = np.argwhere(open_ground(grid, clearance))
    if not len(cells):
        raise CityFileError(f"no place of the map is {clearance:g} m from every building; choose "
                            "a larger area or a finer resolution")
    centres = grid.origin[:2] + (cells + 0.5) * grid.resolution
    east, north = centres[np.argmin(((centres - np.asarray(point, float)[:2])**2).sum(axis=1))]
    return float(east), float(north)


def two_ends(grid: VoxelGrid, clearance: float, longest: float):
    """Two places to take off and land at, across the middle of the map.

    longest : metres between the two that are not to be exceeded by much
    """
    size = np.array(grid.surface.shape) * grid.resolution
    middle, diagonal = grid.origin[:2] + size / 2, size / np.linalg.norm(size)
    half = min(0.375 * np.linalg.norm(size), longest / 2) * diagonal
    return (nearest_open_ground(grid, middle - half, clearance),
            nearest_open_ground(grid, middle + half, clearance))
