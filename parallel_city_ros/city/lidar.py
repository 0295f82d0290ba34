"""LiDAR (LAS, LAZ): terrain, what stands on it, and the heights of roofs.

The file is read twice, in chunks, so that memory follows the area and not the points: first for
what is in it and which points are errors, then into grids. Heights stay in the file's datum.

Classes as ASPRS defines them (LAS 1.4, table 17). Where no points are classified as ground, or
hardly any, the ground is estimated from the lowest points (`bare_earth.estimate_ground`), and a
note says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.bare_earth import estimate_ground, fill_holes, without_errors
from parallel_city_ros.city.las import FirstLook, chunks, first_look, source_crs
from parallel_city_ros.city.local import metres_per_height_unit
from parallel_city_ros.city.model import Building, City, HeightRaster
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.geo import LocalFrame, SourceCrs

GROUND = (2, 8, 9, 10, 11)      # ground, its key points, water, rail, road
TREES, BUILDING = (3, 4, 5), 6

SMALLEST_CELL_M = 1.0
POINTS_PER_CELL = 4             # so that few cells of a roof have none
MAX_CELLS = 16_000_000          # a gigabyte while the grids are made
MAX_PROJECTION_ERROR_M = 1e-3
GROUND_SHARE = 0.01             # of cells with classified ground, or else it is estimated
MIN_OBJECT_M = 0.5              # what is lower is no obstacle: kerbs, grass
FILL_M = 100.0                  # how far the terrain is filled beyond what is known

MIN_ROOF_M = 2.0                # above ground, where roofs are not classified
MIN_ROOF_POINTS = 10
MIN_ROOF_SEEN = 0.6             # share of a footprint's cells that have points
INSET_M = 0.3                   # walls and neighbours stand on the outline, drawn that exactly
ROUND_M = 3.0                   # around a building, where its own ground is


@dataclass(frozen=True)
class Roof:
    """Percentiles of the points on a roof; z in the map frame, metres. ground : beneath it"""

    points: int
    p50: float
    p90: float
    p95: float
    p99: float
    ground: float

    @property
    def height(self) -> float:
        """Above ground, metres: of the 95th percentile.

        The highest twentieth of the points are aerials, branches and the very ridge, and stand
        in the surfaces of `read_lidar`. Fewer would be cut off by a percentile nearer to 100,
        but it takes a branch or a neighbour's wall for the roof of a small house.
        """
        return self.p95 - self.ground


def read_lidar(path: str | Path, options: ReadOptions = UNTOLD,
               frame: LocalFrame | None = None) -> City:
    """Read terrain and heights of objects from LAS or LAZ.

    Buildings and trees where the file classifies them; all else above ground is `unknown`, and
    an obstacle too. Noise (classes 7 and 18, points withheld, single points far from all others)
    is left out and counted. The reference system is the file's own, or else options.crs.

    Raises
    ------
    CityFileError
        If the file is missing, cut off, none, or empty, names no reference system and none is
        given, or lies outside the area of the system.
    """
    return survey(path, options, frame)[0]


def building_heights(path: str | Path, footprints: City,
                     options: ReadOptions = UNTOLD) -> dict[str, Roof]:
    """Roofs of a city's buildings as LiDAR sees them, by the buildings' ids.

    Buildings that it does not show, or less than 0.6 of, are left out. Points classified as
    building count, or else what is neither ground nor vegetation and at least 2 m high.
    """
    return survey(path, options, footprints.frame, footprints.buildings)[1]


def frame_of(path: str | Path, options: ReadOptions = UNTOLD) -> LocalFrame:
    """The frame that `read_lidar` makes for a file, at half the cost."""
    path = Path(path)
    source = source_crs(path, options)
    return _frame_at(first_look(path, source), source)


def survey(path: str | Path, options: ReadOptions = UNTOLD, frame: LocalFrame | None = None,
           buildings: Sequence[Building] = ()) -> tuple[City, dict[str, Roof]]:
    """What `read_lidar` and `building_heights` say, from one pass over the file."""
    path = Path(path)
    source = source_crs(path, options)
    unit = metres_per_height_unit(source.crs)
    first = first_look(path, source)
    frame = frame or _frame_at(first, source)
    to_enu = _projection(first.bounds, source, frame)
    grids = _Grids.over(_extent_of(first.bounds, source, frame), first)
    roofs = _RoofPoints(buildings, grids) if buildings else None
    for xyz, classes in chunks(path, first):
        points = np.column_stack([to_enu(xyz), xyz[:, 2] * unit - frame.altitude_m])
        grids.add(points, classes)
        if roofs is not None:
            roofs.add(points, classes, first.has(BUILDING))
    terrain, estimated = grids.terrain()
    city = City(
        name=path.name, frame=frame, extent=grids.extent, n_buildings=0, crs=source.name,
        terrain=_raster(fill_holes(terrain, FILL_M, grids.cell), grids, "terrain"),
        surfaces=() if options.kind == "terrain" else grids.surfaces(terrain, options.kind),
        vertical_datum=source.vertical_datum, notes=first.notes(grids.cell, estimated))
    return city, {} if roofs is None else roofs.result(grids, terrain, first.has(BUILDING))


def _frame_at(first: FirstLook, source: SourceCrs) -> LocalFrame:
    x, y, z = first.bounds[0]
    return source.frame_at(x, y, float(np.floor(z * metres_per_height_unit(source.crs))))


def _projection(bounds, source, frame):
    """(n, 2 or 3) coordinates within bounds → (n, 2) east and north, metres.

    Over a city a cubic polynomial is as good as the projections, and six times as fast; where it
    would err by more than a millimetre they are used.
    """
    lower, upper = bounds[:, :2]
    middle, half = (lower + upper) / 2, np.maximum((upper - lower) / 2, 1e-9)

    def exact(xy):
        return source.to_enu(frame, xy[:, 0], xy[:, 1])[:, :2]

    def terms(xy):
        return np.polynomial.polynomial.polyvander2d(*((xy[:, :2] - middle) / half).T, (3, 3))

    def places(n):
        steps = np.linspace(-1, 1, n)
        return middle + half * np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    factors = np.linalg.lstsq(terms(places(9)), exact(places(9)), rcond=None)[0]
    error = np.abs(terms(places(24)) @ factors - exact(places(24))).max()
    return (lambda xy: terms(xy) @ factors) if error < MAX_PROJECTION_ERROR_M else exact


def _extent_of(bounds, source, frame):
    """(2, 2) lower and upper east and north of a box of the file's coordinates."""
    (x0, y0, _), (x1, y1, _) = bounds
    side = np.linspace(0, 1, 17)
    x = np.concatenate([x0 + side * (x1 - x0)] * 2 + [np.full(17, x0), np.full(17, x1)])
    y = np.concatenate([np.full(17, y0), np.full(17, y1)] + [y0 + side * (y1 - y0)] * 2)
    enu = source.to_enu(frame, x, y)[:, :2]
    return np.stack([enu.min(axis=0), enu.max(axis=0)])


# --- grids ------------------------------------------------------------------------------


class _Grids:
    """Of the points in each cell: how many, lowest and highest by kind, the mean of ground.

    origin : (2,) east and north of the lower corner of cell (0, 0), metres; cell : metres
    """

    def __init__(self, origin, shape, cell):
        self.origin, self.shape, self.cell = origin, shape, cell
        size = shape[0] * shape[1]
        self.hits = np.zeros(size, np.uint32)
        self.lowest = np.full(size, np.inf, np.float32)
        self.ground_sum, self.ground_hits = np.zeros(size, np.float64), np.zeros(size, np.uint32)
        self.highest = {kind: np.full(size, -np.inf, np.float32)
                        for kind in ("building", "tree", "unknown")}

    @classmethod
    def over(cls, extent, look: FirstLook) -> _Grids:
        size = np.maximum(extent[1] - extent[0], 0.0)
        cell = max(SMALLEST_CELL_M, np.sqrt(POINTS_PER_CELL * look.area / max(look.n_points, 1)),
                   np.sqrt(np.prod(size + 1) / MAX_CELLS))
        cell = float(np.ceil(2 * cell - 1e-6) / 2)
        origin = np.floor(extent[0] / cell) * cell
        return cls(origin, tuple((np.floor((extent[1] - origin) / cell) + 1).astype(int)), cell)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Of the cells that have points."""
        hit = np.argwhere(self.hits.reshape(self.shape))
        (x0, y0), (x1, y1) = (self.origin + self.cell * c
                              for c in (hit.min(axis=0), hit.max(axis=0) + 1))
        return float(x0), float(y0), float(x1), float(y1)

    def index(self, points) -> tuple[np.ndarray, np.ndarray]:
        """Flat index of each point's cell, and which points are on the grid."""
        cells = np.floor((points[:, :2] - self.origin) / self.cell).astype(np.int64)
        inside = ((cells >= 0) & (cells < self.shape)).all(axis=1)
        return cells[:, 0] * self.shape[1] + cells[:, 1], inside

    def add(self, points, classes) -> None:
        cells, inside = self.index(points)
        cells, z, classes = cells[inside], points[inside, 2].astype(np.float32), classes[inside]
        np.add.at(self.hits, cells, 1)
        np.minimum.at(self.lowest, cells, z)
        ground = np.isin(classes, GROUND)
        np.add.at(self.ground_sum, cells[ground], z[ground])
        np.add.at(self.ground_hits, cells[ground], 1)
        tree, building = np.isin(classes, TREES), classes == BUILDING
        for kind, chosen in (("tree", tree), ("building", building),
                             ("unknown", ~(ground | tree | building))):
            np.maximum.at(self.highest[kind], cells[chosen], z[chosen])

    def terrain(self) -> tuple[np.ndarray, bool]:
        """Ground beneath every cell, and whether it had to be estimated."""
        seen = self.ground_hits > 0
        classified = seen.sum() >= GROUND_SHARE * (self.hits > 0).sum()
        if classified:
            mean = np.where(seen, self.ground_sum / np.maximum(self.ground_hits, 1), np.nan)
            ground = without_errors(mean.reshape(self.shape))
        else:
            lowest = np.where(np.isfinite(self.lowest), self.lowest, np.nan).astype(float)
            ground = estimate_ground(lowest.reshape(self.shape), self.cell)
        self.ground = ground
        return fill_holes(ground, np.inf, self.cell), not classified

    def surfaces(self, terrain, kind: str) -> tuple[HeightRaster, ...]:
        """What stands above the terrain, by kind; all of one kind if that is given."""
        tops = {name: top for name, top in self.highest.items() if np.isfinite(top).any()}
        if kind and tops:
            tops = {kind: np.maximum.reduce(list(tops.values()))}
        found = []
        for name, top in tops.items():
            above = top.reshape(self.shape) - terrain
            above = np.where(np.isfinite(above) & (above >= MIN_OBJECT_M), above, np.nan)
            above = self._without_gaps(above)
            if np.isfinite(above).any():
                found.append(_raster(above, self, name))
        return tuple(found)

    def _without_gaps(self, above):
        """Cells without any point are as high as the highest around them if most of those are
        objects: a roof has no holes where chance or dark tiles sent no echo."""
        for _ in range(2):
            padded = np.pad(above, 1, constant_values=np.nan)
            around = np.stack([padded[1 + i:padded.shape[0] - 1 + i, 1 + j:padded.shape[1] - 1 + j]
                               for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j])
            gap = (self.hits.reshape(self.shape) == 0) & np.isnan(above)
            gap &= np.isfinite(around).sum(axis=0) >= 5
            above = above.copy()
            above[gap] = np.nanmax(around[:, gap], axis=0)
        return above


def _raster(heights, grids, kind) -> HeightRaster:
    x, y = grids.origin.tolist()
    return HeightRaster(heights=heights.astype(np.float32), origin=(x, y), cell=grids.cell,
                        kind=kind)


# --- roofs ------------------------------------------------------------------------------


class _RoofPoints:
    """Heights of the points over each footprint, counted by the centimetre."""

    def __init__(self, buildings: Sequence[Building], grids: _Grids):
        self.buildings = buildings
        self.insides = []
        self.near = np.zeros(grids.shape, bool)     # cells in some footprint's box
        self.grids = grids
        for b in buildings:
            inside = b.footprint.buffer(-INSET_M)
            self.insides.append(inside if inside.area > b.footprint.area / 2 else b.footprint)
            lower, upper = np.array(b.footprint.bounds).reshape(2, 2)
            i0, j0 = np.maximum(((lower - grids.origin) // grids.cell).astype(int), 0)
            i1, j1 = np.maximum(((upper - grids.origin) // grids.cell).astype(int) + 1, 0)
            self.near[i0:i1, j0:j1] = True
        self.tree = shapely.STRtree(self.insides)
        self.counted = [np.zeros((2, 0), np.int64)]     # building << 32 | centimetre; how many

    def add(self, points, classes, classified: bool) -> None:
        """classified : roofs are; else all counts that is neither ground nor vegetation"""
        cells, inside = self.grids.index(points)
        wanted = classes == BUILDING if classified else ~np.isin(classes, GROUND + TREES)
        wanted &= inside
        wanted[wanted] = self.near.ravel()[cells[wanted]]
        points = points[wanted]
        which, building = self.tree.query(shapely.points(points[:, :2]), predicate="intersects")
        height = np.round(points[which, 2] * 100).astype(np.int64) + 2**31
        self.counted.append(np.stack(np.unique(building << 32 | height, return_counts=True)))
        if len(self.counted) > 64:
            self.counted = [self._merged()]

    def _merged(self) -> np.ndarray:
        keys, counts = np.concatenate(self.counted, axis=1)
        keys, inverse = np.unique(keys, return_inverse=True)
        return np.stack([keys, np.bincount(inverse, counts, len(keys)).astype(np.int64)])

    def result(self, grids: _Grids, terrain, classified: bool) -> dict[str, Roof]:
        keys, counts = self._merged()
        heights = ((keys & 2**32 - 1) - 2**31) / 100
        first = np.searchsorted(keys >> 32, np.arange(len(self.buildings) + 1))
        roofs = {}
        for k, building in enumerate(self.buildings):
            z, n = heights[first[k]:first[k + 1]], counts[first[k]:first[k + 1]]
            if n.sum() < MIN_ROOF_POINTS or _share_seen(grids, building.footprint) < MIN_ROOF_SEEN:
                continue
            ground = _ground_of(grids, terrain, building.footprint)
            if not classified:
                z, n = z[z >= ground + MIN_ROOF_M], n[z >= ground + MIN_ROOF_M]
            if n.sum() >= MIN_ROOF_POINTS and z[-1] > ground:
                # no percentile of a histogram lies between its heights, nor more than 1 cm off
                p = z[np.searchsorted(np.cumsum(n), np.array([.5, .9, .95, .99]) * n.sum())]
                roofs[building.building_id] = Roof(int(n.sum()), *p.tolist(), ground)
        return roofs


def _cells_in(grids: _Grids, polygon):
    """Indices of the cells whose centre lies in a polygon."""
    lower, upper = np.array(polygon.bounds).reshape(2, 2)
    first = np.clip(((lower - grids.origin) // grids.cell).astype(int), 0, grids.shape)
    last = np.clip(((upper - grids.origin) // grids.cell).astype(int) + 1, 0, grids.shape)
    i, j = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last, strict=True)), indexing="ij")
    x, y = (grids.origin[d] + (c + 0.5) * grids.cell for d, c in enumerate((i, j)))
    inside = shapely.contains_xy(polygon, x, y)
    return i[inside], j[inside]


def _share_seen(grids, footprint) -> float:
    i, j = _cells_in(grids, footprint)
    return float((grids.hits.reshape(grids.shape)[i, j] > 0).mean()) if len(i) else 1.0


def _ground_of(grids, terrain, footprint) -> float:
    """z of the ground around a building, or, if none is seen there, of the terrain beneath.

    The median: on a slope a prism reaches down to the ground anyway, see `rasterise.prisms`.
    """
    i, j = _cells_in(grids, footprint.buffer(ROUND_M))
    seen = grids.ground[i, j]
    seen = seen[np.isfinite(seen)]
    return float(np.median(seen if len(seen) else terrain[i, j]))
