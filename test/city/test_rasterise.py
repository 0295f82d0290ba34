"""Solids, rasters, boxes and terrain: the grid contains what stands and little more."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull, QhullError

from parallel_city_ros.city.model import Boxes, Building, City, HeightRaster, HeightSource, Solid
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.geo import LocalFrame

CUBE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0],
                 [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], float)
FACES = np.array([[0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7], [0, 1, 5], [0, 5, 4],
                  [1, 2, 6], [1, 6, 5], [2, 3, 7], [2, 7, 6], [3, 0, 4], [3, 4, 7]])


def city_of(*solids, **more):
    triangles = np.concatenate([s.triangles for s in solids]) if solids else np.zeros((1, 3, 3))
    x, y = triangles[..., 0], triangles[..., 1]
    return City(**{"name": "test", "frame": LocalFrame(60.0, 25.0), "solids": solids,
                   "extent": (float(x.min()), float(y.min()), float(x.max()), float(y.max())),
                   "n_buildings": len(solids)} | more)


def box(lower, upper):
    return (CUBE * (np.array(upper) - lower) + lower)[FACES]


@settings(max_examples=60, deadline=None)
@given(points=st.lists(st.tuples(*[st.floats(0, 25)] * 3), min_size=4, max_size=12),
       resolution=st.sampled_from([0.7, 1.0, 2.0]))
def test_a_solid_is_contained_and_nothing_farther_than_a_voxel(points, resolution):
    points = np.array(points)
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        return      # flat
    if hull.volume < 0.1:
        return
    grid = voxelise(city_of(Solid(building_id="s", triangles=points[hull.simplices])),
                    resolution, margin=3)
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(len(points), 0.3), 2000)
    centre = points.mean(axis=0)
    inside = centre + (weights @ points - centre) * (1 - 1e-3)
    assert grid.is_occupied(inside).all()
    # a cube that meets the convex body is on no face's outer side altogether
    lower = grid.origin + grid.voxels() * resolution
    corners = lower[:, None] + CUBE * resolution
    side = np.einsum("ncd,fd->ncf", corners, hull.equations[:, :3]) + hull.equations[:, 3]
    assert side.min(axis=1).max() < 1e-3
    # and every cube's centre inside it is there
    centres = grid.origin + (np.argwhere(np.ones(grid.shape, bool)) + 0.5) * resolution
    within = (centres @ hull.equations[:, :3].T + hull.equations[:, 3] < -1e-6).all(axis=1)
    assert grid.is_occupied(centres[within]).all()


def test_a_solid_on_the_planes_of_the_grid_fills_its_own_voxels():
    grid = voxelise(city_of(Solid(building_id="s", triangles=box((2, 3, 0), (7, 9, 4)))), 1.0)
    assert len(grid.voxels()) == 5 * 6 * 4
    assert grid.is_occupied([[2.5, 3.5, 0.5], [6.5, 8.5, 3.5]]).all()


def test_a_courtyard_and_a_hall_inside_a_solid_are_free():
    outer, inner = box((0, 0, 0), (20, 20, 10)), box((5, 5, 2), (15, 15, 8))
    both = np.concatenate([outer, inner[:, ::-1]])
    grid = voxelise(city_of(Solid(building_id="s", triangles=both)), 1.0)
    assert not grid.is_occupied([10.0, 10.0, 5.0]) and grid.is_occupied([10.0, 10.0, 9.0])
    assert len(grid.voxels()) == 20 * 20 * 10 - 10 * 10 * 6


@pytest.mark.parametrize("missing", ["bottom", "wall"])
def test_what_is_not_closed_is_filled_down_to_the_ground(missing):
    triangles = box((0, 0, 3), (8, 8, 12))
    triangles = triangles[2:] if missing == "bottom" else np.delete(triangles, [4, 5], axis=0)
    grid = voxelise(city_of(Solid(building_id="s", triangles=triangles, closed=False),
                            terrain=HeightRaster(heights=np.zeros((3, 3), np.float32),
                                                 origin=(-5.0, -5.0), cell=10.0)), 1.0)
    x, y, z = np.meshgrid(*[np.arange(0.5, 8)] * 2, np.arange(0.5, 12), indexing="ij")
    assert grid.is_occupied(np.stack([x, y, z], axis=-1)).all()


def test_buildings_stand_on_the_terrain_beneath_them():
    slope = np.tile(np.arange(40, dtype=np.float32)[:, None], (1, 40))     # rises by 1 m a cell
    city = City(
        name="slope", frame=LocalFrame(60.0, 25.0), extent=(0.0, 0.0, 160.0, 160.0),
        n_buildings=2, terrain=HeightRaster(heights=slope, origin=(0.0, 0.0), cell=4.0),
        buildings=(
            Building(building_id="low", footprint=shapely.box(20, 20, 40, 40), base_z=0.0,
                     top_z=10.0, source=HeightSource.MEASURED),
            Building(building_id="known", footprint=shapely.box(100, 20, 120, 40), base_z=0.0,
                     top_z=10.0, source=HeightSource.MEASURED, ground_z=30.0)))
    grid = voxelise(city, 1.0, margin=0)
    assert grid.ground_at([82.0, 50.0]) == pytest.approx(20.0)
    assert grid.is_occupied([[82.0, 50.0, 19.0]]).all()            # in the ground
    assert not grid.is_occupied([82.0, 50.0, 20.5])
    # up to the highest ground beneath plus its height, down to the ground everywhere
    assert grid.is_occupied([[20.5, 30.0, 5.0], [39.5, 30.0, 18.5], [20.5, 30.0, 18.5]]).all()
    assert not grid.is_occupied([30.0, 30.0, 21.0])
    assert grid.is_occupied([110.0, 30.0, 39.5]) and not grid.is_occupied([110.0, 30.0, 40.5])
    assert grid.surface[150, 100] == pytest.approx(37.25, abs=0.3)     # the ground, uphill


def test_a_raster_of_heights_stands_wherever_a_cell_touches():
    heights = np.zeros((6, 5), np.float32)
    heights[2, 2], heights[4, 0] = 7.2, np.nan
    city = city_of(extent=(0.0, 0.0, 15.0, 12.5), surfaces=(
        HeightRaster(heights=heights, origin=(0.0, 0.0), cell=2.5, kind="building"),))
    grid = voxelise(city, 1.0, margin=0)
    found = {tuple(v) for v in grid.voxels().tolist()}
    assert found == {(i, j, k) for i in (5, 6, 7) for j in (5, 6, 7) for k in range(8)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 60)] * 3, *[st.integers(1, 9)] * 3), min_size=1,
                max_size=8))
def test_boxes_on_the_grid_fill_their_own_voxels_and_points_one(boxes):
    boxes = np.array(boxes)
    lower, upper = boxes[:, :3].astype(float), (boxes[:, :3] + boxes[:, 3:]).astype(float)
    low, high = lower.min(axis=0), upper.max(axis=0)
    extent = (*(float(v) for v in low[:2]), *(float(v) for v in high[:2]))
    grid = voxelise(city_of(extent=extent, boxes=(Boxes(lower=lower, upper=upper),)), 1.0,
                    margin=0)
    expected = np.zeros(grid.shape, bool)
    for a, b in zip(lower - grid.origin, upper - grid.origin, strict=True):
        expected[tuple(slice(int(p), int(q)) for p, q in zip(a, b, strict=True))] = True
    assert np.array_equal(grid.occupied, expected)
    points = lower + 0.3
    grid = voxelise(city_of(extent=extent, boxes=(Boxes(lower=points, upper=points),)), 1.0)
    assert len(grid.voxels()) == len(np.unique(lower, axis=0))
    assert grid.is_occupied(points).all()


def test_something_in_the_air_does_not_lift_the_ground():
    house = Building(building_id="h", footprint=shapely.box(2, 2, 9, 9), base_z=0.0, top_z=8.0,
                     source=HeightSource.MEASURED)
    wire = Boxes(lower=np.array([[12.0, 12.0, 40.0]]), upper=np.array([[13.0, 13.0, 41.0]]))
    grid = voxelise(city_of(extent=(0.0, 0.0, 20.0, 20.0), buildings=(house,), boxes=(wire,)), 1.0)
    assert grid.ground_at([5.0, 5.0]) == 0.0
    assert grid.is_occupied([[5.0, 5.0, 0.5], [5.0, 5.0, 7.5], [12.5, 12.5, 40.5]]).all()
    assert not grid.is_occupied([5.0, 5.0, 8.5])
