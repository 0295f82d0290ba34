"""The Gazebo world is the twin's city: read back and voxelised, it is the same grid."""

import os
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.gazebo import (
    TILE_M,
    is_plain,
    merged_boxes,
    write_world,
    write_world_of_grid,
)
from parallel_city_ros.city.geojson import read_geojson
from parallel_city_ros.city.mesh import read_mesh
from parallel_city_ros.city.model import (
    Boxes,
    Building,
    City,
    HeightRaster,
    HeightSource,
    Solid,
)
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.geo import LocalFrame

WORLDS = Path(__file__).parents[2] / "worlds"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL_CITY, SMALL_WORLD = WORLDS / "small_city.geojson", WORLDS / "small_city.sdf"


def _numbers(element, path):
    return [float(v) for v in element.findtext(path).split()]


def buildings_of(world) -> list[Building]:
    """An independent reader of what the exporter wrote: the collision shapes."""
    buildings = []
    for model in world.findall("model"):
        assert model.findtext("static") == "true"
        x, y, z, *turn = _numbers(model, "pose")
        assert turn == [0, 0, 0]
        polygons, heights = [], set()
        for geometry in model.findall("link/collision/geometry"):
            rings = [[(px + x, py + y) for px, py in (
                map(float, point.text.split()) for point in line.findall("point"))]
                for line in geometry.findall("polyline")]
            heights |= {float(h.text) for h in geometry.findall("polyline/height")}
            if rings:
                polygons.append(shapely.Polygon(rings[0], rings[1:]))
        if polygons:
            (height,) = heights
            buildings.append(Building(
                building_id=model.get("name"), footprint=shapely.MultiPolygon(polygons),
                base_z=z, top_z=z + height, source=HeightSource.MEASURED))
    return buildings


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0, 3.0])
def test_small_city_and_its_world_are_the_same_twin(resolution):
    city = read_geojson(SMALL_CITY)
    world = ElementTree.parse(SMALL_WORLD).find("world")
    back = replace(city, buildings=tuple(buildings_of(world)))
    twin, again = voxelise(city, resolution), voxelise(back, resolution)
    assert np.array_equal(twin.occupied, again.occupied)
    assert twin.map_hash == again.map_hash


def test_the_world_that_is_kept_is_the_one_that_is_written_today(tmp_path):
    write_world(read_geojson(SMALL_CITY), tmp_path / "world.sdf")
    assert (tmp_path / "world.sdf").read_bytes() == SMALL_WORLD.read_bytes(), (
        "write worlds/small_city.sdf anew: write_world(read_geojson(...), ...)")
    assert [p.name for p in tmp_path.iterdir()] == ["world.sdf"]


def test_the_world_lies_where_the_city_lies():
    frame = read_geojson(SMALL_CITY).frame
    place = ElementTree.parse(SMALL_WORLD).find("world/spherical_coordinates")
    assert float(place.findtext("latitude_deg")) == frame.latitude_deg
    assert float(place.findtext("longitude_deg")) == frame.longitude_deg
    assert float(place.findtext("elevation")) == frame.altitude_m
    assert place.findtext("world_frame_orientation") == "ENU"


def test_nothing_is_downloaded():
    text = SMALL_WORLD.read_text()
    assert "<uri>" not in text and "://" not in text


def test_a_real_city_keeps_every_wall_to_a_millimetre(tmp_path):
    city = read_osm(helsinki_file())
    write_world(city, tmp_path / "helsinki.sdf")
    world = ElementTree.parse(tmp_path / "helsinki.sdf").find("world")
    back = buildings_of(world)
    assert len({b.building_id for b in back}) == len(back) == len(city.buildings)
    for was, now in zip(city.buildings, back, strict=True):
        assert (now.base_z, now.top_z) == pytest.approx((was.base_z, was.top_z), abs=2e-3)
        walls = shapely.boundary(shapely.union_all(shapely.get_parts(was.footprint)))
        assert shapely.hausdorff_distance(walls, now.footprint.boundary) < 2e-3


def test_names_that_gazebo_cannot_take_stay_apart(tmp_path):
    def building(name):
        return Building(building_id=name, footprint=shapely.box(0, 0, 9, 9), base_z=0.0,
                        top_z=5.0, source=HeightSource.ASSUMED)
    city = City(name="a -- b.osm", frame=LocalFrame(60.0, 25.0), extent=(0.0, 0.0, 9.0, 9.0),
                buildings=tuple(map(building, ("way/1", "way 1", "a::b", "ground_plane"))),
                n_buildings=4, n_parts=0, n_skipped=0, assumed_height_m=12.0,
                attribution="<&> -- ü", height_sources={})
    write_world(city, tmp_path / "world.sdf")
    world = ElementTree.parse(tmp_path / "world.sdf").find("world")
    names = [model.get("name") for model in world.findall("model")]
    assert len(set(names)) == 5
    assert not any(c in name for name in names for c in ":/ ")


# --- the twin as boxes ------------------------------------------------------------------------


def boxes_of(world) -> Boxes:
    """An independent reader of the boxes, of which what is seen must be what is hit."""
    shapes = {}
    for kind in ("collision", "visual"):
        rows = []
        for model in world.findall("model"):
            assert _numbers(model, "pose") == [0] * 6 or model.find("link//box") is None
            for element in model.findall(f"link/{kind}"):
                if element.find("geometry/box") is not None:
                    *middle, a, b, c = _numbers(element, "pose")
                    assert (a, b, c) == (0, 0, 0)
                    rows.append((*middle, *_numbers(element, "geometry/box/size")))
        shapes[kind] = np.array(rows).reshape(-1, 6)
    assert np.array_equal(shapes["collision"], shapes["visual"])
    middle, size = shapes["collision"][:, :3], shapes["collision"][:, 3:]
    return Boxes(lower=middle - size / 2, upper=middle + size / 2)


def in_map(grid) -> np.ndarray:
    """Occupied voxels counted from the map's zero, whatever the grid's origin, sorted."""
    return np.unique(grid.voxels() + np.round(grid.origin / grid.resolution).astype(int), axis=0)


def city_of(boxes, frame) -> City:
    return City(name="boxes", frame=frame, boxes=(boxes,), n_buildings=0, extent=(
        *boxes.lower[:, :2].min(axis=0).tolist(), *boxes.upper[:, :2].max(axis=0).tolist()))


def round_trip(grid, folder):
    voxels, boxes = write_world_of_grid(grid, folder / "world.sdf", "made")
    world = ElementTree.parse(folder / "world.sdf").find("world")
    back = boxes_of(world)
    assert (voxels, boxes) == (len(grid.voxels()), len(back.lower))
    again = voxelise(city_of(back, grid.frame), grid.resolution)
    assert np.array_equal(in_map(grid), in_map(again))
    return world, voxels, boxes


def hill(size=120.0) -> HeightRaster:
    x, y = np.meshgrid(*[np.arange(-40, size, 5.0)] * 2, indexing="ij")
    return HeightRaster(heights=(7 + x / 10 + 3 * np.sin(y / 15)).astype(np.float32),
                        origin=(-40.0, -40.0), cell=5.0)


def pyramid() -> Solid:
    base = np.array([(0, 0), (30, 0), (30, 20), (0, 20)], float) + (50, 60)
    corners = np.column_stack([base, np.full(4, 14.0)])
    top = np.array([65.0, 70.0, 32.0])
    sides = [(corners[k], corners[(k + 1) % 4], top) for k in range(4)]
    floor = [(corners[0], corners[2], corners[1]), (corners[0], corners[3], corners[2])]
    return Solid(building_id="pyramid", triangles=np.array(sides + floor))


def mixed_city() -> City:
    """Everything that a city can hold: a prism, a solid, trees, points, a hill."""
    trees = np.full((6, 5), np.nan, np.float32)
    trees[2:4, 1:3] = 8.0
    tower = Building(building_id="tower", footprint=shapely.box(10.5, 11, 31, 27.5).difference(
        shapely.box(15, 16, 20, 21)), base_z=0.0, top_z=21.0, source=HeightSource.MEASURED)
    points = np.array([[70.0, 20.0, 40.0], [72.5, 21.0, 41.0]])
    return City(name="mixed", frame=LocalFrame(60.0, 25.0, 3.0), extent=(0.0, 0.0, 90.0, 90.0),
                buildings=(tower,), solids=(pyramid(),), terrain=hill(), n_buildings=2,
                boxes=(Boxes(lower=points, upper=points),),
                surfaces=(HeightRaster(heights=trees, origin=(0.0, 60.0), cell=5.0,
                                       kind="tree"),))


def test_a_real_city_as_boxes_is_the_twin_voxel_by_voxel(tmp_path):
    world, voxels, boxes = round_trip(voxelise(read_osm(helsinki_file()), 4.0), tmp_path)
    assert boxes < voxels / 15
    assert [p.name for p in tmp_path.iterdir()] == ["world.sdf"]
    tiles = [m.get("name") for m in world.findall("model") if m.find("link//box") is not None]
    assert len(set(tiles)) == len(tiles) < 40


@pytest.mark.parametrize("resolution", [0.7, 1.0, 2.0, 3.3])
def test_solids_rasters_boxes_and_terrain_come_along(resolution, tmp_path):
    city = mixed_city()
    assert not is_plain(city) and is_plain(read_geojson(SMALL_CITY))
    grid = voxelise(city, resolution)
    world, *_ = round_trip(grid, tmp_path)
    uris = {uri.text for uri in world.iter("uri")}
    assert uris == {"world_ground.obj"}     # beside the world, nothing is downloaded
    mesh = read_mesh(tmp_path / "world_ground.obj")
    x0, y0, x1, y1 = mesh.extent
    assert x0 < -200 and y0 < -200 and x1 > 290 and y1 > 290
    corners = mesh.solids[0].triangles.reshape(-1, 3)
    assert np.allclose(grid.ground_at(corners), corners[:, 2], atol=0.006)
    a, b, c = np.moveaxis(mesh.solids[0].triangles[..., :2], 1, 0)
    assert ((b - a)[:, 0] * (c - a)[:, 1] > (b - a)[:, 1] * (c - a)[:, 0]).all()    # face up


@pytest.mark.skipif(not (DATA / "DenHaag_01.city.json").exists(), reason="no ../shared/data")
def test_a_real_city_of_solids_on_terrain_comes_along(tmp_path):
    grid = voxelise(read_city(DATA / "DenHaag_01.city.json"), 4.0)
    _, voxels, boxes = round_trip(grid, tmp_path)
    assert boxes < voxels / 4
    assert sorted(os.listdir(tmp_path)) == ["world.sdf", "world_ground.obj"]


def test_the_same_twin_gives_the_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_world_of_grid(voxelise(mixed_city(), 2.0), tmp_path / name / "w.sdf")
    for name in ("w.sdf", "w_ground.obj"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@st.composite
def grids(draw):
    shape = draw(st.tuples(*[st.integers(1, 20)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    occupied = rng.random(shape) < draw(st.sampled_from((0.03, 0.4, 0.9, 1.0)))
    occupied[0, 0, 0] = True
    resolution = draw(st.sampled_from((0.3, 1.0, 2.0, 7.1)))
    origin = np.array(draw(st.tuples(*[st.integers(-3000, 3000)] * 3)), float) * resolution
    return VoxelGrid.from_dense(occupied, origin, resolution, LocalFrame(60.0, 25.0))


@settings(deadline=None, max_examples=60)
@given(grid=grids())
def test_any_grid_comes_back(grid, tmp_path_factory):
    round_trip(grid, tmp_path_factory.mktemp("world"))


@settings(deadline=None, max_examples=60)
@given(grid=grids())
def test_boxes_fill_the_voxels_once(grid):
    times = np.zeros(grid.shape, int)
    for (a, b, c), (d, e, f) in zip(*merged_boxes(grid), strict=True):
        times[a:d, b:e, c:f] += 1
    assert np.array_equal(times, grid.occupied)


def test_a_block_is_one_box_and_nothing_is_none(tmp_path):
    block = np.zeros((40, 30, 20), bool)
    block[3:37, 5:25, :17] = True
    grid = VoxelGrid.from_dense(block, np.zeros(3), 2.0, LocalFrame(60.0, 25.0))
    lower, upper = merged_boxes(grid)
    assert lower.tolist() == [[3, 5, 0]] and upper.tolist() == [[37, 25, 17]]
    empty = VoxelGrid.from_dense(block & False, np.zeros(3), 2.0, LocalFrame(60.0, 25.0))
    assert write_world_of_grid(empty, tmp_path / "empty.sdf") == (0, 0)
    assert len(merged_boxes(empty)[0]) == 0


def test_models_are_tiles_of_the_map(tmp_path):
    dots = np.zeros((400, 3, 1), bool)
    dots[::20, 1, 0] = True
    grid = VoxelGrid.from_dense(dots, np.zeros(3), 2.0, LocalFrame(60.0, 25.0))
    world, _, boxes = round_trip(grid, tmp_path)
    tiles = [m for m in world.findall("model") if m.get("name").startswith("tile_")]
    assert boxes == 20 and len(tiles) == 1 + 761 // TILE_M
    assert sum(len(m.findall("link/collision")) for m in tiles) == boxes


def test_flat_ground_is_a_plane_at_its_height(tmp_path):
    grid = VoxelGrid.from_dense(np.ones((4, 4, 3), bool), np.array([0, 0, 12.0]), 2.0,
                                LocalFrame(60.0, 25.0))
    world, *_ = round_trip(grid, tmp_path)
    plane = next(m for m in world.findall("model") if m.find("link//plane") is not None)
    assert _numbers(plane, "pose")[2] == 12.0
