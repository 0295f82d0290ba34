"""Where a drone may stand: open ground away from buildings."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import CityFileError

WELL_APART = (0.75, 0.5)    # of the distance that was wished for
WAYS = np.array([[1, 1], [1, -1], [1, 0], [0, 1]])      # across a map: diagonals, then its axes
MOST_GRADE = 0.35       # of the ground between two places that a drone flies straight between


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
    centres = _centres(grid, open_ground(grid, clearance))
    if not len(centres):
        raise CityFileError(f"no place of the map is {clearance:g} m from every building; choose "
                            "a larger area or a finer resolution")
    east, north = _nearest(centres, np.asarray(point, float)[:2])
    return float(east), float(north)


def two_ends(grid: VoxelGrid, clearance: float, longest: float):
    """Two places to take off and land at, across the middle of the map.

    longest : metres between the two that are not to be exceeded by much
    """
    middle, half = _across(grid, longest)
    return (nearest_open_ground(grid, middle - half, clearance),
            nearest_open_ground(grid, middle + half, clearance))


def most_open_ends(grid: VoxelGrid, clearances, longest: float, usable=True):
    """As `two_ends`, of the largest clearance that leaves two places well apart.

    On small or crowded maps, and on steep ground, that may be another way across, or the open
    cells farthest apart.

    clearances : metres, the largest first; usable : (nx, ny) bool, cells that may be taken

    Returns
    -------
    Two places (east, north), and their clearance; None if fewer than two cells are open.
    """
    middle, half = _across(grid, longest)
    open_cells = [None] * len(clearances)
    for share in WELL_APART:
        for k, clearance in enumerate(clearances):
            if open_cells[k] is None:
                open_cells[k] = _centres(grid, open_ground(grid, clearance) & usable)
            for way in half * WAYS if len(open_cells[k]) else ():
                ends = [_nearest(open_cells[k], middle + side * way) for side in (-1, 1)]
                apart = np.linalg.norm(ends[1] - ends[0])
                if apart >= share * 2 * np.linalg.norm(half) \
                        and abs(np.diff(grid.ground_at(ends))[0]) <= MOST_GRADE * apart:
                    return *(tuple(map(float, end)) for end in ends), clearance
    if len(open_cells[-1]) < 2:
        return None
    centres = open_cells[-1]
    one = centres[np.argmax(((centres - middle)**2).sum(axis=1))]
    far = np.linalg.norm(centres - one, axis=1)
    other = centres[np.argmax(np.where(far <= longest, far, -1.0))]
    return tuple(map(float, one)), tuple(map(float, other)), clearances[-1]


def _across(grid, longest):
    """(2,) middle of the map, and from it to where a flight across may end."""
    size = np.array(grid.surface.shape) * grid.resolution
    diagonal = size / np.linalg.norm(size)
    return (grid.origin[:2] + size / 2,
            min(0.375 * np.linalg.norm(size), longest / 2) * diagonal)


def _centres(grid, cells):
    return grid.origin[:2] + (np.argwhere(cells) + 0.5) * grid.resolution


def _nearest(centres, point):
    return centres[np.argmin(((centres - point)**2).sum(axis=1))]
