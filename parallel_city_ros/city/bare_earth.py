"""The ground in a grid of heights: holes filled, errors taken out, buildings and trees taken off.

Arrays are (nx, ny) float, metres, NaN where nothing is known; cell is the edge of a cell, metres.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import (
    distance_transform_edt,
    grey_opening,
    maximum_filter,
    minimum_filter,
    zoom,
)

STEP_M = 1.0                # a cell further than this from all cells around it is an error
WIDEST_BUILDING_M = 100.0   # what is wider is taken for ground: still solid, so still safe
SLOPE = 0.15                # of ground that curves; a plane may be of any slope
ROUGHNESS_M = 0.3           # kerbs, grass, and how well LiDAR repeats itself
_RING = np.ones((11, 11), bool)
_RING[4:7, 4:7] = False


def fill_holes(heights: np.ndarray, reach: float, cell: float) -> np.ndarray:
    """Heights with holes filled smoothly, as far as reach metres from what is known.

    Pull and push: means over ever larger blocks, from which the blocks' unknown quarters are
    interpolated (Gortler et al. 1996, The Lumigraph, section 3.4).
    """
    unknown = np.isnan(heights)
    if not unknown.any() or unknown.all():
        return heights.copy()
    filled = _pull_push(heights.astype(float))
    if np.isfinite(reach):
        filled[distance_transform_edt(unknown) * cell > reach] = np.nan
    return filled


def _pull_push(heights):
    unknown = np.isnan(heights)
    if not unknown.any():
        return heights
    nx, ny = heights.shape
    blocks = np.pad(heights, ((0, nx % 2), (0, ny % 2)), constant_values=np.nan)
    blocks = blocks.reshape(blocks.shape[0] // 2, 2, blocks.shape[1] // 2, 2)
    known = np.isfinite(blocks).sum(axis=(1, 3))
    sums = np.nansum(blocks, axis=(1, 3))
    coarse = _pull_push(np.where(known > 0, sums / np.maximum(known, 1), np.nan))
    fine = zoom(coarse, 2, order=1, mode="nearest", grid_mode=True)[:nx, :ny]
    return np.where(unknown, fine, heights)


def without_errors(heights: np.ndarray) -> np.ndarray:
    """Heights without cells, or blocks of 3 × 3, far below or above all within five cells."""
    low = minimum_filter(np.where(np.isnan(heights), np.inf, heights), footprint=_RING)
    high = maximum_filter(np.where(np.isnan(heights), -np.inf, heights), footprint=_RING)
    with np.errstate(invalid="ignore"):
        wrong = np.isfinite(low) & ((heights < low - STEP_M) | (heights > high + STEP_M))
    return np.where(wrong, np.nan, heights)


def without_pits(heights: np.ndarray) -> np.ndarray:
    """The same, but only what is too low: echoes that came by a detour."""
    low = minimum_filter(np.where(np.isnan(heights), np.inf, heights), footprint=_RING)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(low) & (heights < low - STEP_M), np.nan, heights)


def estimate_ground(lowest: np.ndarray, cell: float) -> np.ndarray:
    """Which cells show ground: their height, NaN elsewhere.

    A progressive morphological filter: openings with ever wider windows take off what is
    narrower than the window; a cell that loses more than ground would is an object.

    lowest : height of the lowest point in each cell

    References
    ----------
    Zhang et al. (2003), A Progressive Morphological Filter for Removing Nonground Measurements
    from Airborne LIDAR Data; thresholds by slope as in Pingel, Clarke & McBride (2013), An
    improved simple morphological filter for the terrain classification of airborne LIDAR data.
    """
    lowest = without_pits(lowest)
    surface = fill_holes(lowest, np.inf, cell)
    is_object = np.isnan(lowest)
    radius = 1
    while True:
        opened = grey_opening(surface, size=2 * radius + 1, mode="nearest")
        is_object |= surface - opened > ROUGHNESS_M + SLOPE * radius * cell
        if (2 * radius + 1) * cell > WIDEST_BUILDING_M or radius > max(lowest.shape):
            break
        surface, radius = opened, 2 * radius
    return np.where(is_object, np.nan, lowest)
