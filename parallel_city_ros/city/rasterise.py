"""Compiled loops that turn prisms, triangles, height rasters and boxes into voxels.

Everything here is in voxel units: voxel (i, j, k) is the cube from (i, j, k) to
(i + 1, j + 1, k + 1). A voxel is filled iff a body overlaps its inside by more than `EPS`,
so that a body whose faces lie on the grid's planes fills exactly its own voxels.

Voxels live in chunks of 16³: `index[a, b, c]` is the row of `words` that holds chunk
(a, b, c), or `FREE`; bit k of `words[row, i, j]` is voxel (i, j, k) of the chunk.

The ground is a raster `(heights, x, y, cell)` of node heights, node (0, 0) at (x, y), bilinear
between nodes, constant beyond them.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
from numba import njit

CHUNK = 16
FREE, WANTED = -1, -2
MOST_ASKED = 512 * CHUNK**3     # voxels around one body, for which chunks are asked at once
EPS = 1e-5      # voxels: float noise of coordinates, far below any map's accuracy


@njit(cache=True, nogil=True)
def ground_at(heights, gx, gy, cell, x, y):
    """Height of the ground at one place."""
    nx, ny = heights.shape
    if nx == 1 and ny == 1:
        return heights[0, 0]
    u = min(max((x - gx) / cell, 0.0), nx - 1.0)
    v = min(max((y - gy) / cell, 0.0), ny - 1.0)
    i, j = min(int(u), max(nx - 2, 0)), min(int(v), max(ny - 2, 0))
    p, q = u - i, v - j
    i1, j1 = min(i + 1, nx - 1), min(j + 1, ny - 1)
    return ((1 - p) * ((1 - q) * heights[i, j] + q * heights[i, j1])
            + p * ((1 - q) * heights[i1, j] + q * heights[i1, j1]))


@njit(cache=True, nogil=True)
def column_ground(heights, gx, gy, cell, i, j):
    """Lowest and highest ground under column (i, j): at its corners and the nodes inside."""
    if heights.size == 1:
        return heights[0, 0], heights[0, 0]
    low = high = ground_at(heights, gx, gy, cell, float(i), float(j))
    for d in range(1, 4):
        z = ground_at(heights, gx, gy, cell, i + float(d & 1), j + float(d >> 1))
        low, high = min(low, z), max(high, z)
    for a in range(max(0, int(ceil((i - gx) / cell))),
                   min(heights.shape[0] - 1, int(floor((i + 1 - gx) / cell))) + 1):
        for b in range(max(0, int(ceil((j - gy) / cell))),
                       min(heights.shape[1] - 1, int(floor((j + 1 - gy) / cell))) + 1):
            low, high = min(low, heights[a, b]), max(high, heights[a, b])
    return low, high


@njit(cache=True, nogil=True)
def ground_range(heights, gx, gy, cell, i0, i1, j0, j1):
    """Bounds of the ground under columns i0..i1, j0..j1: lowest and highest node around."""
    nx, ny = heights.shape
    a0 = min(max(int(floor((i0 - gx) / cell)), 0), nx - 1)
    a1 = min(max(int(ceil((i1 + 1 - gx) / cell)), 0), nx - 1)
    b0 = min(max(int(floor((j0 - gy) / cell)), 0), ny - 1)
    b1 = min(max(int(ceil((j1 + 1 - gy) / cell)), 0), ny - 1)
    low = high = heights[a0, b0]
    for a in range(a0, a1 + 1):
        for b in range(b0, b1 + 1):
            low, high = min(low, heights[a, b]), max(high, heights[a, b])
    return low, high


@njit(cache=True, nogil=True)
def ground_of_columns(heights, gx, gy, cell, nx, ny):
    """(nx, ny) float32: the highest ground under each column."""
    out = np.empty((nx, ny), np.float32)
    for i in range(nx):
        for j in range(ny):
            out[i, j] = column_ground(heights, gx, gy, cell, i, j)[1]
    return out


@njit(cache=True, nogil=True)
def _inside(low, high):
    """First and last integer cell whose inside [low, high] overlaps; empty if first > last."""
    if high - low > 2 * EPS:
        return int(floor(low + EPS)), int(floor(high - EPS))
    middle = 0.5 * (low + high)
    cell = int(floor(middle))
    if middle - cell < EPS or cell + 1 - middle < EPS:
        return cell, cell - 1
    return cell, cell


@njit(cache=True, nogil=True)
def _touched(low, high):
    """First and last integer cell that [low, high] touches."""
    return int(floor(low - EPS)), int(floor(high + EPS))


@njit(cache=True, nogil=True)
def want(index, i0, i1, j0, j1, k0, k1):
    """Ask for the chunks of a box of voxels, ends included."""
    cx, cy, cz = index.shape
    for a in range(max(0, i0 // CHUNK), min(cx - 1, i1 // CHUNK) + 1):
        for b in range(max(0, j0 // CHUNK), min(cy - 1, j1 // CHUNK) + 1):
            for c in range(max(0, k0 // CHUNK), min(cz - 1, k1 // CHUNK) + 1):
                if index[a, b, c] == FREE:
                    index[a, b, c] = WANTED


@njit(cache=True, nogil=True)
def provide(index, start):
    """Number the chunks that were asked for, from start; their number."""
    n = start
    for a in range(index.shape[0]):
        for b in range(index.shape[1]):
            for c in range(index.shape[2]):
                if index[a, b, c] == WANTED:
                    index[a, b, c] = n
                    n += 1
    return n - start


@njit(cache=True, nogil=True)
def _fill_column(index, words, i, j, k0, k1):
    """Fill voxels k0..k1, ends included, of a column inside the grid."""
    cz = index.shape[2]
    k0, k1 = max(k0, 0), min(k1, cz * CHUNK - 1)
    if k0 > k1:
        return
    a, b, x, y = i // CHUNK, j // CHUNK, i % CHUNK, j % CHUNK
    for c in range(k0 // CHUNK, k1 // CHUNK + 1):
        low, high = max(k0 - c * CHUNK, 0), min(k1 - c * CHUNK, CHUNK - 1)
        words[index[a, b, c], x, y] |= np.uint16(((1 << (high - low + 1)) - 1) << low)


@njit(cache=True, nogil=True)
def _mark_polygon(edges, first, last, i0, j0, mask):
    """Cells of mask, whose lower corner is cell (i0, j0), that the polygon overlaps.

    Cells that an edge runs through, and those whose centre is inside: no edge, no border.
    """
    w, h = mask.shape
    crossings = np.empty(last - first)
    for j in range(h):
        level = j0 + j + 0.5
        n = 0
        for e in range(first, last):
            y0, y1 = edges[e, 1], edges[e, 3]
            if (y0 <= level) != (y1 <= level):
                share = (level - y0) / (y1 - y0)
                crossings[n] = edges[e, 0] + share * (edges[e, 2] - edges[e, 0])
                n += 1
        crossings[:n].sort()
        for c in range(0, n - 1, 2):
            for i in range(max(0, int(ceil(crossings[c] - 0.5)) - i0),
                           min(w, int(floor(crossings[c + 1] - 0.5)) - i0 + 1)):
                mask[i, j] = 1
    for e in range(first, last):
        x0, y0, x1, y1 = edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3]
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        row, end = _inside(y0, y1)
        for j in range(max(row, j0), min(end, j0 + h - 1) + 1):
            if y1 > y0:
                p = x0 + (x1 - x0) * (max(y0, float(j)) - y0) / (y1 - y0)
                q = x0 + (x1 - x0) * (min(y1, float(j + 1)) - y0) / (y1 - y0)
            else:
                p, q = x0, x1
            left, right = _inside(min(p, q), max(p, q))
            for i in range(max(left, i0), min(right, i0 + w - 1) + 1):
                mask[i - i0, j - j0] = 1


@njit(cache=True, nogil=True)
def _bounds(edges, first, last, nx, ny):
    """Columns i0, i1, j0, j1 within the grid, ends included, that the polygon may overlap."""
    box = edges[first:last]
    i0, i1 = _touched(min(box[:, 0].min(), box[:, 2].min()), max(box[:, 0].max(), box[:, 2].max()))
    j0, j1 = _touched(min(box[:, 1].min(), box[:, 3].min()), max(box[:, 1].max(), box[:, 3].max()))
    return max(i0, 0), min(i1, nx - 1), max(j0, 0), min(j1, ny - 1)


@njit(cache=True, nogil=True)
def prisms(index, words, nx, ny, edges, offsets, base, top, own_ground, heights, gx, gy, gcell,
           filling):
    """Prisms over polygons: ask for their chunks, or fill them.

    edges : (E, 4) ends x0, y0, x1, y1; those of polygon p are offsets[p]:offsets[p + 1]
    base, top : (P,) above the polygon's own ground
    own_ground : (P,) its z, NaN: what lies beneath. A prism with base 0 stands on the ground
        wherever it is; its top is counted from the highest ground beneath.
    """
    for p in range(len(base)):
        first, last = offsets[p], offsets[p + 1]
        if last <= first:
            continue
        i0, i1, j0, j1 = _bounds(edges, first, last, nx, ny)
        if i0 > i1 or j0 > j1:
            continue
        own = own_ground[p]
        low, high = ground_range(heights, gx, gy, gcell, i0, i1, j0, j1)
        if not filling:
            if np.isfinite(own):
                low, high = min(low, own), own
            want(index, i0, i1, j0, j1, int(floor(low + min(base[p], 0.0) + EPS)),
                 int(ceil(high + top[p] - EPS)) - 1)
            continue
        mask = np.zeros((i1 - i0 + 1, j1 - j0 + 1), np.uint8)
        _mark_polygon(edges, first, last, i0, j0, mask)
        stands, level = base[p] <= 0.0, low == high
        under = np.full(mask.shape, low)
        if not level and (stands or not np.isfinite(own)):
            low, high = np.inf, -np.inf
            for i in range(mask.shape[0]):
                for j in range(mask.shape[1]):
                    if mask[i, j]:
                        under[i, j], over = column_ground(heights, gx, gy, gcell, i0 + i, j0 + j)
                        low, high = min(low, under[i, j]), max(high, over)
        if np.isfinite(own):
            low = high = own
        k1 = int(ceil(high + top[p] - EPS)) - 1
        for i in range(mask.shape[0]):
            for j in range(mask.shape[1]):
                if mask[i, j]:
                    bottom = low + base[p]
                    if stands:
                        bottom = min(bottom, under[i, j])
                    _fill_column(index, words, i0 + i, j0 + j, int(floor(bottom + EPS)), k1)


@njit(cache=True, nogil=True)
def _clip(points, n, axis, bound, sign, out):
    """Part of a convex polygon where sign * (coordinate - bound) >= 0; its number of corners.

    Sutherland & Hodgman (1974).
    """
    m = 0
    for s in range(n):
        e = s + 1 if s + 1 < n else 0
        d0, d1 = sign * (points[s, axis] - bound), sign * (points[e, axis] - bound)
        if d0 >= 0:
            out[m, 0], out[m, 1], out[m, 2] = points[s, 0], points[s, 1], points[s, 2]
            m += 1
        if (d0 > 0 > d1) or (d0 < 0 < d1):
            share = d0 / (d0 - d1)
            for d in range(3):
                out[m, d] = points[s, d] + share * (points[e, d] - points[s, d])
            out[m, axis] = bound
            m += 1
    return m


@njit(cache=True, nogil=True)
def _range(points, n, axis):
    low = high = points[0, axis]
    for s in range(1, n):
        low, high = min(low, points[s, axis]), max(high, points[s, axis])
    return low, high


@njit(cache=True, nogil=True)
def _surface(index, words, nx, ny, triangle, closed, filling, scratch):
    """Voxels that a triangle overlaps; if its body is not closed, those that it touches."""
    low_i, high_i = _touched(*_range(triangle, 3, 0))
    low_j, high_j = _touched(*_range(triangle, 3, 1))
    if not filling:
        low_k, high_k = _touched(*_range(triangle, 3, 2))
        if (high_i - low_i) * (high_j - low_j) <= 4 * CHUNK * CHUNK:
            want(index, low_i, high_i, low_j, high_j, low_k, high_k)
            return
    a, b, c = scratch[0], scratch[1], scratch[2]
    # z = z0 + slope_x * x + slope_y * y, for columns that the triangle covers altogether
    ux, uy, uz = (triangle[1, 0] - triangle[0, 0], triangle[1, 1] - triangle[0, 1],
                  triangle[1, 2] - triangle[0, 2])
    vx, vy, vz = (triangle[2, 0] - triangle[0, 0], triangle[2, 1] - triangle[0, 1],
                  triangle[2, 2] - triangle[0, 2])
    area = ux * vy - uy * vx
    level = abs(area) > EPS
    slope_x = (uz * vy - uy * vz) / area if level else 0.0
    slope_y = (ux * vz - uz * vx) / area if level else 0.0
    z0 = triangle[0, 2] - slope_x * triangle[0, 0] - slope_y * triangle[0, 1]
    rise = abs(slope_x) + abs(slope_y)
    for i in range(max(low_i, 0), min(high_i, nx - 1) + 1):
        m = _clip(triangle, 3, 0, float(i), 1.0, a)
        m = _clip(a, m, 0, float(i + 1), -1.0, b)
        if m == 0:
            continue
        j0, j1 = _touched(*_range(b, m, 1))
        first, last = _covered(triangle, float(i), float(i + 1)) if level else (1.0, 0.0)
        for j in range(max(j0, 0), min(j1, ny - 1) + 1):
            if level and first <= j and j + 1 <= last:
                low = z0 + slope_x * (i + 0.5) + slope_y * (j + 0.5) - 0.5 * rise
                high = low + rise
            else:
                n = _clip(b, m, 1, float(j), 1.0, a)
                n = _clip(a, n, 1, float(j + 1), -1.0, c)
                if n == 0:
                    continue
                if closed:
                    # A face that only touches the column's side is its neighbour's.
                    left, right = _inside(*_range(c, n, 0))
                    front, back = _inside(*_range(c, n, 1))
                    if left > right or front > back:
                        continue
                low, high = _range(c, n, 2)
            k0, k1 = _inside(low, high) if closed else _touched(low, high)
            if filling:
                _fill_column(index, words, i, j, k0, k1)
            else:
                want(index, i, i, j, j, k0, k1)


@njit(cache=True, nogil=True)
def _span(triangle, x):
    """Lowest and highest y of a triangle on the line at x; empty if it is not there."""
    low, high = np.inf, -np.inf
    for s in range(3):
        x0, y0 = triangle[s, 0], triangle[s, 1]
        x1, y1 = triangle[(s + 1) % 3, 0], triangle[(s + 1) % 3, 1]
        if min(x0, x1) <= x <= max(x0, x1) and x0 != x1:
            y = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
            low, high = min(low, y), max(high, y)
    return low, high


@njit(cache=True, nogil=True)
def _covered(triangle, x0, x1):
    """The y between which a triangle covers the strip from x0 to x1 altogether."""
    a, b = _span(triangle, x0)
    c, d = _span(triangle, x1)
    return max(a, c), min(b, d)


@njit(cache=True, nogil=True)
def _line(triangle, x):
    """Lowest and highest y of a triangle on the line at x; equal if it is not there.

    Edges belong to x from their lower end on, up to and without their upper end, and are
    computed from the lower end whatever their direction: triangles that share an edge then
    share its crossings to the last bit, and none is lost or counted twice.
    """
    n, first, second = 0, 0.0, 0.0
    for s in range(3):
        e = s + 1 if s < 2 else 0
        x0, y0, x1, y1 = triangle[s, 0], triangle[s, 1], triangle[e, 0], triangle[e, 1]
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        if x0 <= x < x1:
            y = y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
            first, second = (y, second) if n == 0 else (first, y)
            n += 1
    return (min(first, second), max(first, second)) if n == 2 else (0.0, 0.0)


@njit(cache=True, nogil=True)
def _crossings(triangles, i0, j0, last, zs, before):
    """Where the upright line through the centre of each column meets the triangles.

    last : (w, h) number of the column's newest crossing, -1: none, changed in place
    zs, before : height of each crossing, and number of the column's crossing before it, -1: none;
        larger ones are returned where these are too small
    """
    w, h = last.shape
    n = 0
    for t in range(len(triangles)):
        triangle = triangles[t]
        x0, y0, z0 = triangle[0, 0], triangle[0, 1], triangle[0, 2]
        ux, uy, uz = triangle[1, 0] - x0, triangle[1, 1] - y0, triangle[1, 2] - z0
        vx, vy, vz = triangle[2, 0] - x0, triangle[2, 1] - y0, triangle[2, 2] - z0
        area = ux * vy - uy * vx
        if area == 0.0:
            continue
        low, high = _range(triangle, 3, 0)
        for i in range(max(0, int(floor(low - 0.5)) - i0),
                       min(w - 1, int(ceil(high - 0.5)) - i0) + 1):
            x = i0 + i + 0.5
            front, back = _line(triangle, x)
            if n + h > len(zs):
                zs = np.concatenate((zs, np.empty(len(zs) + h)))
                before = np.concatenate((before, np.empty(len(before) + h, np.int64)))
            for j in range(max(0, int(ceil(front - 0.5)) - j0),
                           min(h, int(ceil(back - 0.5)) - j0)):
                y = j0 + j + 0.5
                p = ((x - x0) * vy - (y - y0) * vx) / area
                q = (ux * (y - y0) - uy * (x - x0)) / area
                zs[n] = z0 + p * uz + q * vz
                before[n] = last[i, j]
                last[i, j] = n
                n += 1
    return zs, before


@njit(cache=True, nogil=True)
def _sorted_column(n, zs, before, column):
    """The heights of a column's crossings from its newest, n, on; how many; column may grow."""
    m = 0
    while n >= 0:
        if m == len(column):
            column = np.concatenate((column, np.empty(m)))
        place = m
        while place > 0 and column[place - 1] > zs[n]:
            column[place] = column[place - 1]
            place -= 1
        column[place] = zs[n]
        m += 1
        n = before[n]
    return m, column


@njit(cache=True, nogil=True)
def solids(index, words, nx, ny, triangles, offsets, closed, heights, gx, gy, gcell, filling):
    """Bodies of triangles: their surface and what it encloses; ask for chunks, or fill.

    triangles : (T, 3, 3); those of body s are offsets[s]:offsets[s + 1]
    A body that is not closed, or that a line enters and does not leave, is filled from the
    ground to its highest point in that column.
    """
    scratch = np.empty((3, 16, 3))
    zs, before, column = np.empty(1024), np.empty(1024, np.int64), np.empty(64)
    for s in range(len(closed)):
        body = triangles[offsets[s]:offsets[s + 1]]
        if len(body) == 0:
            continue
        i0, i1 = _touched(body[:, :, 0].min(), body[:, :, 0].max())
        j0, j1 = _touched(body[:, :, 1].min(), body[:, :, 1].max())
        i0, i1, j0, j1 = max(i0, 0), min(i1, nx - 1), max(j0, 0), min(j1, ny - 1)
        if i0 > i1 or j0 > j1:
            continue
        if not filling:
            k0, k1 = _touched(body[:, :, 2].min(), body[:, :, 2].max())
            k0 = k0 if closed[s] else 0
            if (i1 - i0) * (j1 - j0) * (k1 - k0) <= MOST_ASKED:
                want(index, i0, i1, j0, j1, min(k0, 0), k1)
                continue
        for t in range(len(body)):
            low, high = _range(body[t], 3, 2)
            # A level face needs no search: upright lines meet it in the middle of columns, and
            # at its rim another face of the closed body ends.
            if not closed[s] or high - low > EPS:
                _surface(index, words, nx, ny, body[t], closed[s], filling, scratch)
        w, h = i1 - i0 + 1, j1 - j0 + 1
        last = np.full((w, h), -1, np.int64)
        zs, before = _crossings(body, i0, j0, last, zs, before)
        for i in range(w):
            for j in range(h):
                if last[i, j] < 0:
                    continue
                m, column = _sorted_column(last[i, j], zs, before, column)
                whole = closed[s] and m % 2 == 0
                step = 2 if whole else m
                for c in range(0, m, step):
                    low, high = column[c], column[c + step - 1]
                    if not closed[s] or m == 1:
                        low = min(low, column_ground(
                            heights, gx, gy, gcell, i0 + i, j0 + j)[0])
                    k0, k1 = _inside(low, high)
                    if filling:
                        _fill_column(index, words, i0 + i, j0 + j, k0, k1)
                    else:
                        want(index, i0 + i, i0 + i, j0 + j, j0 + j, k0, k1)


@njit(cache=True, nogil=True)
def raster(index, words, nx, ny, above, x, y, cell, heights, gx, gy, gcell, filling):
    """Things on the ground as heights above it, (a, b) with cell (0, 0) at (x, y); NaN: none."""
    for a in range(above.shape[0]):
        i0, i1 = _inside(x + a * cell, x + (a + 1) * cell)
        for b in range(above.shape[1]):
            if not above[a, b] > 0:
                continue
            j0, j1 = _inside(y + b * cell, y + (b + 1) * cell)
            for i in range(max(i0, 0), min(i1, nx - 1) + 1):
                for j in range(max(j0, 0), min(j1, ny - 1) + 1):
                    low, high = column_ground(heights, gx, gy, gcell, i, j)
                    k0 = int(floor(low + EPS))
                    k1 = int(ceil(high + above[a, b] - EPS)) - 1
                    if filling:
                        _fill_column(index, words, i, j, k0, k1)
                    else:
                        want(index, i, i, j, j, k0, k1)


@njit(cache=True, nogil=True)
def boxes(index, words, nx, ny, lower, upper, filling):
    """Boxes from lower to upper, (N, 3); one without size fills the voxel that it lies in."""
    for n in range(len(lower)):
        first, last = np.empty(3, np.int64), np.empty(3, np.int64)
        for d in range(3):
            if upper[n, d] - lower[n, d] > 2 * EPS:
                first[d], last[d] = _inside(lower[n, d], upper[n, d])
            else:
                first[d] = last[d] = int(floor(lower[n, d] + EPS))
        if filling:
            for i in range(max(first[0], 0), min(last[0], nx - 1) + 1):
                for j in range(max(first[1], 0), min(last[1], ny - 1) + 1):
                    _fill_column(index, words, i, j, first[2], last[2])
        else:
            want(index, first[0], last[0], first[1], last[1], first[2], last[2])


@njit(cache=True, nogil=True)
def highest(index, words, nx, ny):
    """(nx, ny) int32: number of the voxel layer above the highest filled one, 0 if none."""
    out = np.zeros((nx, ny), np.int32)
    for a in range(index.shape[0]):
        for b in range(index.shape[1]):
            highest_of_chunks(index, words, a, b, out)
    return out


@njit(cache=True, nogil=True)
def highest_of_chunks(index, words, a, b, out):
    """The same for the columns of one pile of chunks, in place."""
    nx, ny = out.shape
    for x in range(min(CHUNK, nx - a * CHUNK)):
        for y in range(min(CHUNK, ny - b * CHUNK)):
            top = 0
            for c in range(index.shape[2] - 1, -1, -1):
                row = index[a, b, c]
                if row >= 0 and words[row, x, y]:
                    word = words[row, x, y]
                    top = c * CHUNK
                    while word:
                        word >>= 1
                        top += 1
                    break
            out[a * CHUNK + x, b * CHUNK + y] = top


@njit(cache=True, nogil=True)
def is_filled(index, words, i, j, k):
    """One voxel inside the grid's columns; above and below the chunks is free."""
    if k < 0 or k >= index.shape[2] * CHUNK:
        return False
    row = index[i // CHUNK, j // CHUNK, k // CHUNK]
    return row >= 0 and ((words[row, i % CHUNK, j % CHUNK] >> (k % CHUNK)) & 1) != 0


@njit(cache=True, nogil=True)
def are_filled(index, words, voxels, out):
    """(N, 3) voxels, which may lie outside, to (N,) bool."""
    nx, ny = index.shape[0] * CHUNK, index.shape[1] * CHUNK
    for n in range(len(voxels)):
        i, j = voxels[n, 0], voxels[n, 1]
        out[n] = 0 <= i < nx and 0 <= j < ny and is_filled(index, words, i, j, voxels[n, 2])


@njit(cache=True, nogil=True)
def query(index, words, nx, ny, points, ox, oy, oz, resolution, heights, gx, gy, gcell, out):
    """Occupancy of (N, 3) points in metres: 1 in a voxel or the ground, 0 free, 2 beside the map.

    The ground is in voxel units as everywhere here.
    """
    inverse = 1.0 / resolution
    flat = heights.size == 1
    plain, top = heights[0, 0], float(index.shape[2] * CHUNK)
    for n in range(len(points)):
        x = (points[n, 0] - ox) * inverse
        y = (points[n, 1] - oy) * inverse
        z = (points[n, 2] - oz) * inverse
        if not (0 <= x < nx and 0 <= y < ny) or not np.isfinite(z):
            out[n] = 2
            continue
        if z < (plain if flat else ground_at(heights, gx, gy, gcell, x, y)):
            out[n] = 1
        elif z < 0 or z >= top:
            out[n] = 0
        else:       # `is_filled` written out, which is four times as fast
            i, j, k = int(x), int(y), int(z)
            row = index[i // CHUNK, j // CHUNK, k // CHUNK]
            out[n] = (words[row, i % CHUNK, j % CHUNK] >> (k % CHUNK)) & 1 if row >= 0 else 0


@njit(cache=True, nogil=True)
def dense(index, words, i0, j0, k0, out):
    """Copy a box of voxels, lower corner (i0, j0, k0), into out, (a, b, c) bool."""
    nx, ny = index.shape[0] * CHUNK, index.shape[1] * CHUNK
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            if not (0 <= i0 + i < nx and 0 <= j0 + j < ny):
                continue
            for k in range(out.shape[2]):
                out[i, j, k] = is_filled(index, words, i0 + i, j0 + j, k0 + k)


@njit(cache=True, nogil=True)
def pack(index, words, full):
    """Set the voxels of a dense (nx, ny, nz) bool array whose chunks are provided."""
    for i in range(full.shape[0]):
        for j in range(full.shape[1]):
            for k in range(full.shape[2]):
                if full[i, j, k]:
                    words[index[i // CHUNK, j // CHUNK, k // CHUNK], i % CHUNK, j % CHUNK] |= (
                        np.uint16(1 << (k % CHUNK)))


@njit(cache=True, nogil=True)
def _word(index, words, i, j, c):
    """The 16 voxels of column (i, j) in layer c of chunks; 0 outside."""
    if i < 0 or j < 0 or c < 0:
        return np.uint32(0)
    a, b = i // CHUNK, j // CHUNK
    if a >= index.shape[0] or b >= index.shape[1] or c >= index.shape[2]:
        return np.uint32(0)
    row = index[a, b, c]
    return np.uint32(words[row, i % CHUNK, j % CHUNK]) if row >= 0 else np.uint32(0)


@njit(cache=True, nogil=True)
def shell(index, words, out):
    """Filled voxels with a free neighbour at a face: written to (N, 3) out, their number.

    Call with an empty out to count them.
    """
    n = 0
    for a in range(index.shape[0]):
        for b in range(index.shape[1]):
            for c in range(index.shape[2]):
                row = index[a, b, c]
                if row < 0:
                    continue
                for x in range(CHUNK):
                    for y in range(CHUNK):
                        word = np.uint32(words[row, x, y])
                        if word == 0:
                            continue
                        i, j = a * CHUNK + x, b * CHUNK + y
                        below = _word(index, words, i, j, c - 1) >> np.uint32(CHUNK - 1)
                        above = _word(index, words, i, j, c + 1) & np.uint32(1)
                        hidden = (_word(index, words, i - 1, j, c)
                                  & _word(index, words, i + 1, j, c)
                                  & _word(index, words, i, j - 1, c)
                                  & _word(index, words, i, j + 1, c)
                                  & ((word << np.uint32(1)) | below)
                                  & ((word >> np.uint32(1)) | (above << np.uint32(CHUNK - 1))))
                        word &= ~hidden
                        bit = 0
                        while word:
                            if word & np.uint32(1):
                                if len(out):
                                    out[n, 0], out[n, 1] = i, j
                                    out[n, 2] = c * CHUNK + bit
                                n += 1
                            word >>= np.uint32(1)
                            bit += 1
    return n


@njit(cache=True, nogil=True)
def filled(index, words, out):
    """All filled voxels in order: written to (N, 3) out, their number; empty out: count."""
    n = 0
    for a in range(index.shape[0]):
        for b in range(index.shape[1]):
            for c in range(index.shape[2]):
                row = index[a, b, c]
                if row < 0:
                    continue
                for x in range(CHUNK):
                    for y in range(CHUNK):
                        word = words[row, x, y]
                        bit = 0
                        while word:
                            if word & 1:
                                if len(out):
                                    out[n, 0] = a * CHUNK + x
                                    out[n, 1] = b * CHUNK + y
                                    out[n, 2] = c * CHUNK + bit
                                n += 1
                            word >>= 1
                            bit += 1
    return n
