"""How far the next obstacle is: a sparse field of bounds for the whole city, exact on demand.

The field holds, for each cell of about two metres, a lower bound of the distance from any of
its points to the nearest occupied voxel, truncated at 20 m: a planner that trusts it is on the
safe side. `clearance` is exact; it looks at voxels only where the field says that some are near.
"""

from __future__ import annotations

from math import floor, sqrt

import numpy as np
from numba import njit
from scipy.ndimage import maximum_filter1d

from parallel_city_ros.city.rasterise import CHUNK, FREE
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.memory import give_back_memory

TRUNCATION_M = 20.0
CELL_M = 2.0        # largest edge of a cell, unless voxels are larger
TILE = 6            # chunks of cells that are computed at once, along x and y
STEPS = 250         # values of a byte between 0 and the truncation


class DistanceField:
    """Distances over one version of the twin; follows it from version to version.

    cell : edge of a cell, metres, a multiple of the grid's resolution
    index : (cx, cy, cz) int32, row of `values` of each chunk of 16³ cells, -1: truncation or more
    values : (N, 16, 16, 16) uint8, lower bounds in steps of truncation/250, rounded down
    """

    def __init__(self, grid: VoxelGrid):
        self.grid = grid
        self._factor = max(1, int(CELL_M / grid.resolution + 1e-9))
        self.cell = self._factor * grid.resolution
        self._reach = int(np.ceil(TRUNCATION_M / self.cell))
        self.index = np.full(self._chunks(grid), FREE, np.int32)
        self.values = np.empty((0, CHUNK, CHUNK, CHUNK), np.uint8)
        self._compute(0, 0, *self.index.shape[:2])
        give_back_memory()

    @property
    def nbytes(self) -> int:
        return self.index.nbytes + self.values.nbytes

    def follow(self, grid: VoxelGrid, where) -> None:
        """Take over a later version of the twin of which only some chunks differ.

        where : (N, 3) numbers of those chunks of voxels, as in `GridUpdate`
        """
        self.grid = grid
        chunks = self._chunks(grid)
        if chunks[2] > self.index.shape[2]:
            index = np.full(chunks, FREE, np.int32)
            index[:, :, :self.index.shape[2]] = self.index
            self.index = index
        where = np.asarray(where, int).reshape(-1, 3)
        if not len(where):
            return
        # in chunks of cells; what is within the truncation of a change may change too
        first = np.floor((where.min(axis=0) * CHUNK / self._factor - self._reach - 1) / CHUNK)
        last = np.floor(((where.max(axis=0) + 1) * CHUNK / self._factor + self._reach) / CHUNK)
        a0, b0 = np.maximum(first[:2], 0).astype(int)
        a1, b1 = np.minimum(last[:2] + 1, self.index.shape[:2]).astype(int)
        self._compute(int(a0), int(b0), int(a1), int(b1))

    def lower_bound(self, points) -> np.ndarray:
        """(..., 3) ENU metres → (...) metres that no occupied voxel is nearer than, at most 20."""
        points = np.asarray(points, float)
        flat = np.ascontiguousarray(points.reshape(-1, 3))
        out = np.empty(len(flat))
        _bounds(self.index, self.values, flat, self.grid.origin, self.cell, out)
        return out.reshape(points.shape[:-1])

    def clearance(self, points) -> np.ndarray:
        """(..., 3) ENU metres → (...) distance to the nearest occupied voxel, metres, at most 20.

        Beside the map nothing is known and nothing is counted; the ground is not an obstacle
        here (see `VoxelGrid.ground_at`).
        """
        points = np.asarray(points, float)
        flat = np.ascontiguousarray(points.reshape(-1, 3))
        out = np.empty(len(flat))
        grid = self.grid
        _bounds(self.index, self.values, flat, grid.origin, self.cell, out)
        _refine(grid.chunk_index, grid.words, *grid.shape[:2], (flat - grid.origin)
                / grid.resolution, grid.resolution, TRUNCATION_M, out)
        return out.reshape(points.shape[:-1])

    def _chunks(self, grid):
        nx, ny, nz = grid.shape
        cells = [-(-n // self._factor) for n in (nx, ny, nz)]
        cells[2] += self._reach + 1         # the air above the roofs is within reach of them
        return tuple(-(-n // CHUNK) for n in cells)

    def _compute(self, a0, b0, a1, b1) -> None:
        """The chunks of cells a0..a1, b0..b1 (exclusive) anew."""
        area = np.zeros(self.index.shape, bool)
        area[a0:a1, b0:b1] = True
        keep = self.index[~area]
        keep = np.sort(keep[keep >= 0])
        row = np.full(len(self.values) + 1, FREE, np.int32)
        row[keep] = np.arange(len(keep))
        self.index[area] = FREE
        self.index = np.where(self.index >= 0, row[self.index], FREE).astype(np.int32)
        n = len(keep)
        # Room for all that may be near something, of which only what is written takes memory.
        values = np.empty((n + int(self._near()[area].sum()), CHUNK, CHUNK, CHUNK), np.uint8)
        values[:n] = self.values[keep]
        for a in range(a0, a1, TILE):
            for b in range(b0, b1, TILE):
                for where, chunk in self._tile(a, b, min(a + TILE, a1), min(b + TILE, b1)):
                    values[n] = chunk
                    self.index[where] = n
                    n += 1
        values.resize((n, CHUNK, CHUNK, CHUNK), refcheck=False)
        self.values = values

    def _near(self) -> np.ndarray:
        """(cx, cy, cz) bool: chunks of cells that can be within the truncation of something."""
        out = np.zeros(self.index.shape, bool)
        out[tuple((np.argwhere(self.grid.chunk_index >= 0) // self._factor).T)] = True
        steps = -(-(self._reach + 1 + CHUNK) // CHUNK)
        for axis in range(3):       # a box around each
            out = maximum_filter1d(out, 2 * steps + 1, axis, mode="constant")
        return out

    def _tile(self, a0, b0, a1, b1):
        """Yields (a, b, c), (16, 16, 16) uint8 of each chunk that is not all truncation."""
        halo = self._reach + 1
        grid, n = self.grid, CHUNK
        low = np.array([a0 * n - halo, b0 * n - halo, 0])
        size = ((a1 - a0) * n + 2 * halo, (b1 - b0) * n + 2 * halo, self.index.shape[2] * n)
        near = np.zeros(size, bool)
        if not _coarse(grid.chunk_index, grid.words, low[0], low[1], self._factor, near):
            return
        squares = np.full(size, (self._reach + 1)**2, np.int16)
        _squared_gaps(near, self._reach, squares)
        inner = squares[halo:-halo, halo:-halo]
        table = np.minimum(np.sqrt(np.arange((self._reach + 1)**2 + 1)) * self.cell, TRUNCATION_M)
        values = np.floor(table * (STEPS / TRUNCATION_M) + 1e-9).astype(np.uint8)[inner]
        for a in range(a1 - a0):
            for b in range(b1 - b0):
                pile = values[a * n:(a + 1) * n, b * n:(b + 1) * n]
                for c in range(self.index.shape[2]):
                    chunk = pile[:, :, c * n:(c + 1) * n]
                    if (chunk < STEPS).any():
                        yield (a0 + a, b0 + b, c), chunk


@njit(cache=True, nogil=True)
def _coarse(index, words, i0, j0, factor, near):
    """Cells, from cell (i0, j0, 0), that hold an occupied voxel or touch one that does."""
    w, h, d = near.shape
    any_filled = False
    cx, cy, cz = index.shape
    for a in range(max(0, (i0 - 1) * factor // CHUNK),
                   min(cx, (i0 + w + 1) * factor // CHUNK + 1)):
        for b in range(max(0, (j0 - 1) * factor // CHUNK),
                       min(cy, (j0 + h + 1) * factor // CHUNK + 1)):
            for c in range(cz):
                row = index[a, b, c]
                if row < 0:
                    continue
                for x in range(CHUNK):
                    i = (a * CHUNK + x) // factor - i0
                    if i < -1 or i > w:
                        continue
                    for y in range(CHUNK):
                        j = (b * CHUNK + y) // factor - j0
                        word = words[row, x, y]
                        if word == 0 or j < -1 or j > h:
                            continue
                        before = -1
                        for bit in range(CHUNK):
                            if not (word >> bit) & 1:
                                continue
                            k = (c * CHUNK + bit) // factor
                            if k == before:
                                continue
                            before = k
                            any_filled = True
                            for p in range(max(0, i - 1), min(w, i + 2)):
                                for q in range(max(0, j - 1), min(h, j + 2)):
                                    for r in range(max(0, k - 1), min(d, k + 2)):
                                        near[p, q, r] = True
    return any_filled


@njit(cache=True, nogil=True)
def _squared_gaps(near, reach, out):
    """Squared distance in cells to the nearest marked one, up to (reach + 1)².

    Separable (Felzenszwalb & Huttenlocher 2012); within a short reach the plain minimum over
    a window is faster than their lower envelope. `near` is one cell wider than the obstacles,
    so that distances are between the sides of cells and not their centres.
    """
    w, h, d = near.shape
    most = (reach + 1) ** 2
    for i in range(w):
        for j in range(h):
            gap = reach + 1
            for k in range(d):
                gap = 0 if near[i, j, k] else min(gap + 1, reach + 1)
                out[i, j, k] = gap
            gap = reach + 1
            for k in range(d - 1, -1, -1):
                gap = 0 if near[i, j, k] else min(gap + 1, reach + 1)
                out[i, j, k] = min(out[i, j, k], gap)
            for k in range(d):
                out[i, j, k] = out[i, j, k] * out[i, j, k]
    other = np.empty_like(out)
    for i in range(w):
        for j in range(h):
            row = other[i, j]
            row[:] = out[i, j]
            for s in range(max(0, j - reach), min(h, j + reach + 1)):
                square, source = np.int16((s - j) * (s - j)), out[i, s]
                for k in range(d):
                    value = source[k] + square
                    row[k] = min(row[k], value)
    for i in range(w):
        for j in range(h):
            row = out[i, j]
            row[:] = np.int16(most)
            for s in range(max(0, i - reach), min(w, i + reach + 1)):
                square, source = np.int16((s - i) * (s - i)), other[s, j]
                for k in range(d):
                    value = source[k] + square
                    row[k] = min(row[k], value)


@njit(cache=True, nogil=True)
def _bounds(index, values, points, origin, cell, out):
    cx, cy, cz = index.shape
    for n in range(len(points)):
        i = int(floor((points[n, 0] - origin[0]) / cell))
        j = int(floor((points[n, 1] - origin[1]) / cell))
        k = max(int(floor((points[n, 2] - origin[2]) / cell)), 0)
        out[n] = TRUNCATION_M
        if 0 <= i < cx * CHUNK and 0 <= j < cy * CHUNK and k < cz * CHUNK:
            row = index[i // CHUNK, j // CHUNK, k // CHUNK]
            if row >= 0:
                out[n] = values[row, i % CHUNK, j % CHUNK, k % CHUNK] * (TRUNCATION_M / STEPS)


@njit(cache=True, nogil=True)
def _nearest_in_column(index, words, i, j, z, best):
    """Vertical gap from z to the nearest occupied voxel of a column, voxels; best if none."""
    a, b, x, y = i // CHUNK, j // CHUNK, i % CHUNK, j % CHUNK
    for c in range(index.shape[2]):
        low = c * CHUNK
        if low - z >= best:
            break
        if z - (low + CHUNK) >= best:
            continue
        row = index[a, b, c]
        if row < 0:
            continue
        word = words[row, x, y]
        bit = 0
        while word:
            if word & 1:
                k = low + bit
                best = min(best, max(max(k - z, z - (k + 1)), 0.0))
            word >>= 1
            bit += 1
    return best


@njit(cache=True, nogil=True)
def _refine(index, words, nx, ny, points, resolution, truncation, out):
    """Exact distances where the bound is below the truncation; points in voxel units."""
    limit = truncation / resolution
    for n in range(len(points)):
        if out[n] >= truncation:
            continue
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        i0, j0 = int(floor(x)), int(floor(y))
        best = limit
        ring = 0
        while ring - 1 < best:
            for i in range(i0 - ring, i0 + ring + 1):
                if i < 0 or i >= nx:
                    continue
                step = 1 if abs(i - i0) == ring else max(2 * ring, 1)
                for j in range(j0 - ring, j0 + ring + 1, step):
                    if j < 0 or j >= ny:
                        continue
                    dx = max(max(i - x, x - (i + 1)), 0.0)
                    dy = max(max(j - y, y - (j + 1)), 0.0)
                    level = dx * dx + dy * dy
                    if level >= best * best:
                        continue
                    up = sqrt(best * best - level)
                    dz = _nearest_in_column(index, words, i, j, z, up)
                    if dz < up:
                        best = sqrt(level + dz * dz)
            ring += 1
        out[n] = min(best * resolution, truncation)
