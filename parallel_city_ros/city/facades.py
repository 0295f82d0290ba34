"""Walls of the city, and which of them a tilted camera sees."""

from __future__ import annotations

from math import ceil, cos, floor, radians, sin, sqrt

import numpy as np
from numba import njit

from parallel_city_ros.city.rasterise import CHUNK, ground_at, is_filled
from parallel_city_ros.city.voxels import VoxelGrid

SIDES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
MAX_INCIDENCE_DEG = 75.0    # between a wall's normal and the view: flatter, nothing is recognised
TOUCH = 1e-9                # voxels in the ground, which are rounding


class Facades:
    """The upright faces between occupied and free voxels of one version of the twin.

    voxels : (N, 3) int32 occupied voxels; sides : (N,) int8 which neighbour is free, as in `SIDES`
    """

    def __init__(self, grid: VoxelGrid):
        self.grid = grid
        shell = grid.shell()
        voxels, sides = [], []
        for side, step in enumerate(SIDES):
            free = ~grid.holds(shell + step)
            centres = self._centres(shell[free], np.full(free.sum(), side))
            above = centres[:, 2] > grid.ground_at(centres)     # what is in the ground is no wall
            voxels.append(shell[free][above])
            sides.append(np.full(above.sum(), side, np.int8))
        voxels, sides = np.concatenate(voxels), np.concatenate(sides)
        # by columns of chunks, so that a look visits those within reach only
        column = voxels[:, 0] // CHUNK * grid.chunk_index.shape[1] + voxels[:, 1] // CHUNK
        order = np.argsort(column, kind="stable")
        self.voxels, self.sides = voxels[order], sides[order]
        n = grid.chunk_index.shape[0] * grid.chunk_index.shape[1]
        self._offsets = np.searchsorted(column[order], np.arange(n + 1))

    @property
    def area_m2(self) -> float:
        """Of all walls."""
        return len(self.voxels) * self.grid.resolution**2

    @property
    def centres(self) -> np.ndarray:
        """(N, 3) ENU metres of the middle of each face."""
        return self._centres(self.voxels, self.sides)

    def _centres(self, voxels, sides):
        return self.grid.origin + (voxels + 0.5 + 0.5 * SIDES[sides]) * self.grid.resolution

    def seen(self, cameras, aperture_deg: float, reach: float,
             max_incidence_deg: float = MAX_INCIDENCE_DEG) -> np.ndarray:
        """Faces that at least one camera sees.

        Parameters
        ----------
        cameras : (P, 5) float array
            East, north, up in metres, yaw and tilt in radians: ENU yaw, tilt below the horizon.
        aperture_deg : float
            Full cone of view, degrees.
        reach : float
            Largest distance from camera to face, metres.

        Returns
        -------
        (N,) bool array
            In the order of `voxels`: within the cone and reach, facing the camera, and with
            nothing that stands, nor the ground, in the line of sight.
        """
        grid = self.grid
        out = np.zeros(len(self.voxels), bool)
        cameras = np.array(cameras, float).reshape(-1, 5)
        cameras[:, :3] = (cameras[:, :3] - grid.origin) / grid.resolution
        _look(grid.chunk_index, grid.words, *grid.shape[:2], self._offsets, self.voxels,
              self.sides, cameras, cos(radians(aperture_deg) / 2), reach / grid.resolution,
              cos(radians(max_incidence_deg)), *grid.terrain.in_voxels(
                  grid.origin, grid.resolution), out)
        return out


@njit(cache=True, nogil=True)
def _free_line(index, words, nx, ny, x, y, z, u, v, w):
    """Does nothing stand in the line from (x, y, z) to (u, v, w), its ends' voxels included?

    In voxel units; visits every voxel on the way (Amanatides & Woo 1987).
    """
    i, j, k = int(floor(x)), int(floor(y)), int(floor(z))
    dx, dy, dz = u - x, v - y, w - z
    sx, sy, sz = (1 if dx > 0 else -1), (1 if dy > 0 else -1), (1 if dz > 0 else -1)
    wx = 1.0 / abs(dx) if dx != 0 else np.inf
    wy = 1.0 / abs(dy) if dy != 0 else np.inf
    wz = 1.0 / abs(dz) if dz != 0 else np.inf
    tx = ((i + 1 - x) if dx > 0 else (x - i)) * wx if dx != 0 else np.inf
    ty = ((j + 1 - y) if dy > 0 else (y - j)) * wy if dy != 0 else np.inf
    tz = ((k + 1 - z) if dz > 0 else (z - k)) * wz if dz != 0 else np.inf
    while True:
        if 0 <= i < nx and 0 <= j < ny and is_filled(index, words, i, j, k):
            return False
        if min(tx, ty, tz) >= 1.0:
            return True
        if tx <= ty and tx <= tz:
            i += sx
            tx += wx
        elif ty <= tz:
            j += sy
            ty += wy
        else:
            k += sz
            tz += wz


@njit(cache=True, nogil=True)
def _over_ground(x, y, z, u, v, w, heights, gx, gy, gcell):
    """Is no point of the line from (x, y, z) to (u, v, w) in the ground?

    In voxel units. Between two lines of nodes the height over the ground is a parabola, which
    three values tell.
    """
    if heights.size == 1:
        return min(z, w) >= heights[0, 0] - TOUCH
    dx, dy, dz = u - x, v - y, w - z
    t, before = 0.0, z - ground_at(heights, gx, gy, gcell, x, y)
    while t < 1.0:
        end = 1.0
        for at, step, first in ((x, dx, gx), (y, dy, gy)):
            if step != 0:
                node = (at + t * step - first) / gcell
                # a step of rounding must not end on the line that it began on
                node = ceil(node - 1.0 - 1e-9) if step < 0 else floor(node + 1.0 + 1e-9)
                end = min(end, (first + node * gcell - at) / step)
        middle = 0.5 * (t + end)
        half = z + middle * dz - ground_at(heights, gx, gy, gcell, x + middle * dx,
                                           y + middle * dy)
        after = z + end * dz - ground_at(heights, gx, gy, gcell, x + end * dx, y + end * dy)
        least = min(before, half, after)
        bend, lean = before - 2 * half + after, 0.25 * (after - before)
        if 0 < abs(lean) < 0.5 * bend:      # its lowest point lies in between
            least = min(least, half - 2 * lean * lean / bend)
        if least < -TOUCH:
            return False
        t, before = end, after
    return True


@njit(cache=True, nogil=True)
def _look(index, words, nx, ny, offsets, voxels, sides, cameras, cos_half, reach, cos_incidence,
          heights, gx, gy, gcell, out):
    cx, cy = index.shape[0], index.shape[1]
    for p in range(len(cameras)):
        x, y, z, yaw, tilt = cameras[p]
        ex, ey, ez = cos(yaw) * cos(tilt), sin(yaw) * cos(tilt), -sin(tilt)
        for a in range(max(0, int(floor((x - reach) / CHUNK))),
                       min(cx - 1, int(floor((x + reach) / CHUNK))) + 1):
            for b in range(max(0, int(floor((y - reach) / CHUNK))),
                           min(cy - 1, int(floor((y + reach) / CHUNK))) + 1):
                for n in range(offsets[a * cy + b], offsets[a * cy + b + 1]):
                    if out[n]:
                        continue
                    u, v = voxels[n, 0] + 0.5, voxels[n, 1] + 0.5
                    w = voxels[n, 2] + 0.5
                    side = sides[n]
                    normal_x = 1.0 if side == 0 else (-1.0 if side == 1 else 0.0)
                    normal_y = 1.0 if side == 2 else (-1.0 if side == 3 else 0.0)
                    # just outside the wall: the line is to end in the free voxel
                    u += 0.501 * normal_x
                    v += 0.501 * normal_y
                    dx, dy, dz = u - x, v - y, w - z
                    far = sqrt(dx * dx + dy * dy + dz * dz)
                    if far > reach or far < 1e-9:
                        continue
                    if dx * ex + dy * ey + dz * ez < cos_half * far:
                        continue
                    if -(dx * normal_x + dy * normal_y) < cos_incidence * far:
                        continue
                    out[n] = _free_line(index, words, nx, ny, x, y, z, u, v, w) \
                        and _over_ground(x, y, z, u, v, w, heights, gx, gy, gcell)
