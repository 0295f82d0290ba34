"""The ground under the city: one raster of heights, made from the best that is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from parallel_city_ros.city import rasterise
from parallel_city_ros.city.model import City

NEIGHBOURS = 8          # buildings whose ground is averaged where no terrain is known
MOST_NODES = 500        # along one side of a ground that is made from buildings
SMALLEST_CELL_M = 5.0


@dataclass(frozen=True, eq=False)
class Ground:
    """Heights of the ground at nodes, bilinear between them, constant beyond them.

    heights : (a, b) float64 array, z in the map frame, metres, whole centimetres, finite
    origin : east and north of node (0, 0), metres; cell : distance of nodes, metres
    """

    heights: np.ndarray
    origin: tuple[float, float] = (0.0, 0.0)
    cell: float = 1.0

    @classmethod
    def flat(cls, z: float = 0.0) -> Ground:
        return cls(np.full((1, 1), z))

    @cached_property
    def centimetres(self) -> np.ndarray:
        """(a, b) int32: what is hashed and sent."""
        return np.round(self.heights * 100).astype(np.int32)

    @property
    def is_flat(self) -> bool:
        return self.heights.size == 1

    def at(self, points) -> np.ndarray:
        """(..., 2 or 3) ENU metres → (...) z of the ground beneath, metres."""
        xy = np.asarray(points, float)[..., :2]
        if self.is_flat:
            return np.full(xy.shape[:-1], self.heights[0, 0])
        top = np.array(self.heights.shape) - 1
        node = np.clip((xy - self.origin) / self.cell, 0, top)
        low = np.minimum(node.astype(int), np.maximum(top - 1, 0))
        p, q = np.moveaxis(node - low, -1, 0)
        (i, j), (i1, j1) = np.moveaxis(low, -1, 0), np.moveaxis(np.minimum(low + 1, top), -1, 0)
        h = self.heights
        return ((1 - p) * ((1 - q) * h[i, j] + q * h[i, j1])
                + p * ((1 - q) * h[i1, j] + q * h[i1, j1]))

    def range_within(self, bounds) -> tuple[float, float]:
        """Lowest and highest z within (min east, min north, max east, max north), metres.

        Of the nodes around: the ground between them is no lower and no higher.
        """
        if self.is_flat:
            return float(self.heights[0, 0]), float(self.heights[0, 0])
        top = np.array(self.heights.shape) - 1
        nodes = (np.array(bounds, float).reshape(2, 2) - self.origin) / self.cell
        (i0, j0), (i1, j1) = (np.clip(v, 0, top).astype(int)
                              for v in (np.floor(nodes[0]), np.ceil(nodes[1])))
        part = self.heights[i0:i1 + 1, j0:j1 + 1]
        return float(part.min()), float(part.max())

    def in_voxels(self, origin, resolution: float):
        """heights, x, y, cell in voxel units of a grid: what `rasterise` takes."""
        return (np.ascontiguousarray((self.heights - origin[2]) / resolution),
                (self.origin[0] - origin[0]) / resolution,
                (self.origin[1] - origin[1]) / resolution, self.cell / resolution)


def ground_of(city: City) -> Ground:
    """The ground of a city: its terrain, else what its buildings stand on, else flat.

    Unknown places of a terrain take the nearest known height. Between buildings whose ground
    is known it is the mean of the nearest eight, weighted by 1/distance².
    """
    if city.terrain is not None:
        heights = np.asarray(city.terrain.heights, float)
        unknown = ~np.isfinite(heights)
        if not unknown.all():
            if unknown.any():
                nearest = distance_transform_edt(unknown, return_distances=False,
                                                 return_indices=True)
                heights = heights[tuple(nearest)]
            half = city.terrain.cell / 2
            return Ground(_whole_centimetres(heights),
                          (city.terrain.origin[0] + half, city.terrain.origin[1] + half),
                          city.terrain.cell)
    on = [b for b in city.buildings if b.ground_z is not None]
    middle = shapely.get_coordinates(shapely.centroid([b.footprint for b in on]))
    known = [(*xy, b.ground_z) for xy, b in zip(middle, on, strict=True)]
    known += _middles([s for s in city.solids if s.ground_z is not None])
    if known:
        return _between(np.array(known, float), city.extent)
    if city.buildings or city.surfaces:     # they are told from their ground, which is z = 0
        return Ground.flat()
    lowest = [s.triangles[..., 2].min() for s in city.solids]
    lowest += [b.lower[:, 2].min() for b in city.boxes if len(b.lower)]
    return Ground.flat(float(np.floor(min(lowest) * 100) / 100) if lowest else 0.0)


def _middles(solids) -> list[tuple[float, float, float]]:
    """Mean east and north of the corners of each body, and its ground."""
    if not solids:
        return []
    sizes = np.array([3 * len(s.triangles) for s in solids])
    corners = np.concatenate([s.triangles[..., :2].reshape(-1, 2) for s in solids])
    sums = np.add.reduceat(corners, np.cumsum(sizes) - sizes)
    return [(*xy, s.ground_z) for xy, s in zip(sums / sizes[:, None], solids, strict=True)]


def _between(known: np.ndarray, extent) -> Ground:
    x0, y0, x1, y1 = extent
    cell = max(SMALLEST_CELL_M, max(x1 - x0, y1 - y0) / MOST_NODES)
    x, y = np.arange(x0, x1 + cell, cell), np.arange(y0, y1 + cell, cell)
    nodes = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    distance, which = cKDTree(known[:, :2]).query(nodes, k=min(NEIGHBOURS, len(known)))
    if len(known) == 1:
        return Ground.flat(float(known[0, 2]))
    weight = 1.0 / np.maximum(distance, 1.0)**2
    heights = (weight * known[which, 2]).sum(axis=-1) / weight.sum(axis=-1)
    return Ground(_whole_centimetres(heights), (x0, y0), cell)


def _whole_centimetres(heights):
    return np.round(heights * 100) / 100


def highest_in_columns(ground: Ground, origin, resolution: float, shape) -> np.ndarray:
    """(nx, ny) z of the highest ground under each column; costs nothing where it is flat."""
    nx, ny = (int(n) for n in shape[:2])
    if ground.is_flat:
        return np.broadcast_to(ground.heights[0, 0], (nx, ny))
    columns = rasterise.ground_of_columns(*ground.in_voxels(origin, resolution), nx, ny)
    return origin[2] + columns.astype(float) * resolution
