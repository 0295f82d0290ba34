"""Cities made by chance, to try planners on: a grid, an old town, towers, open land, a hill.

They lie in the package and not with the benchmarks because the command `bench` makes them
wherever it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.city.model import Building, City, HeightRaster, HeightSource
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.task import PatrolTask

STREET_M = 14.0
TUNING, REPORTING = range(100, 103), range(1, 3)    # seeds: what is tuned on is not reported


@dataclass(frozen=True)
class MadeCity:
    """kind : grid, organic, towers, open or hill; size in metres"""

    kind: str
    seed: int
    size: tuple[float, float] = (900.0, 700.0)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.seed}"

    def grid(self, resolution: float = 2.0) -> VoxelGrid:
        if self.kind not in KINDS:
            raise ConfigError(f"no city of kind {self.kind!r}; there are {', '.join(KINDS)}")
        rng = np.random.default_rng([self.seed, list(KINDS).index(self.kind)])
        terrain = None
        buildings = [
            Building(building_id=f"{self.name}/{n}", footprint=shape, base_z=0.0,
                     top_z=round(float(height), 1), source=HeightSource.ASSUMED)
            for n, (shape, height) in enumerate(KINDS[self.kind](rng, *self.size))]
        if self.kind == "hill":
            terrain = _hill(rng, *self.size)
        return voxelise(City(
            name=self.name, frame=LocalFrame(60.0, 25.0), extent=(0.0, 0.0, *self.size),
            buildings=tuple(buildings), terrain=terrain, n_buildings=len(buildings)), resolution)


def task_over(grid: VoxelGrid, track_points: int = 40, **settings) -> PatrolTask:
    """Across the middle of a city, as fast as the points allow."""
    start, goal = two_ends(grid, 10.0, 1280.0)
    at = [(*p, float(grid.ground[tuple(grid.index((*p, 0.0))[:2])]) + 60.0) for p in (start, goal)]
    # the same flight in finer steps
    settings.setdefault("time_step_s", 4.0 * 41 / (track_points + 1))
    return PatrolTask(start=at[0], goal=at[1], track_points=track_points, **settings)


def _blocks(rng, width, depth, across=(60, 90)):
    """Lots of a street grid: (x0, y0, x1, y1)."""
    xs = np.arange(0, width - 30, rng.uniform(*across))
    ys = np.arange(0, depth - 30, rng.uniform(*across))
    return [(x + STREET_M / 2, y + STREET_M / 2, x + (xs[1] - xs[0]) - STREET_M / 2,
             y + (ys[1] - ys[0]) - STREET_M / 2) for x in xs for y in ys]


def _grid(rng, width, depth):
    """Blocks of flat roofs, the highest downtown."""
    centre = rng.uniform(0.3, 0.7, 2) * (width, depth)
    for x0, y0, x1, y1 in _blocks(rng, width, depth):
        if rng.random() < 0.08:
            continue        # a square
        ease = rng.uniform(0, 0.25, 4) * (x1 - x0)
        far = np.hypot(*(((x0 + x1) / 2, (y0 + y1) / 2) - centre)) / 250
        height = 10 + rng.gamma(2.0, 9.0) + 50 * np.exp(-far**2) * rng.uniform(0.3, 1)
        yield (shapely.box(x0 + ease[0], y0 + ease[1], x1 - ease[2], y1 - ease[3]),
               min(height, 90))


def _organic(rng, width, depth):
    """Crooked blocks with courts, as a town grows: cells of a Voronoi diagram."""
    count = int(width * depth / 4500)
    points = shapely.MultiPoint(rng.uniform((0, 0), (width, depth), (count, 2)))
    frame = shapely.box(0, 0, width, depth)
    for cell in shapely.voronoi_polygons(points, extend_to=frame).geoms:
        block = cell.intersection(frame).buffer(-rng.uniform(4, 9), join_style="mitre")
        if block.is_empty or block.area < 200 or rng.random() < 0.1:
            continue
        court = block.buffer(-rng.uniform(12, 16))
        yield (block.difference(court) if court.area > 100 else block), max(8.0, rng.normal(20, 5))


def _towers(rng, width, depth):
    """Slender towers over low buildings, some through the ceiling of the altitude band."""
    for x0, y0, x1, y1 in _blocks(rng, width, depth, (90, 120)):
        middle = (x0 + x1) / 2, (y0 + y1) / 2
        if rng.random() < 0.55:
            half = rng.uniform(12, 20)
            yield shapely.Point(middle).buffer(half, cap_style="square"), rng.uniform(50, 150)
        else:
            yield shapely.box(x0 + 10, y0 + 10, x1 - 10, y1 - 10), rng.uniform(5, 15)


def _open(rng, width, depth):
    """Scattered houses and barns."""
    for _ in range(int(width * depth / 12000)):
        x, y = rng.uniform((10, 10), (width - 40, depth - 40))
        yield shapely.box(x, y, x + rng.uniform(8, 30), y + rng.uniform(8, 30)), rng.uniform(4, 14)


def _hill(rng, width, depth) -> HeightRaster:
    cell = 10.0
    x, y = np.meshgrid(np.arange(-50, width + 50, cell), np.arange(-50, depth + 50, cell),
                       indexing="ij")
    heights = np.zeros(x.shape)
    for _ in range(4):
        cx, cy, spread = *rng.uniform((0, 0), (width, depth)), rng.uniform(120, 300)
        heights += rng.uniform(10, 35) * np.exp(-((x - cx)**2 + (y - cy)**2) / (2 * spread**2))
    return HeightRaster(heights=heights.astype(np.float32), origin=(-50.0, -50.0), cell=cell)


KINDS = {"grid": _grid, "organic": _organic, "towers": _towers, "open": _open, "hill": _organic}
