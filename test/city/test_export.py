"""What is written for other tools is the twin: read again, it is equal voxel by voxel."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.export import (
    FORMATS,
    difference,
    export,
    surface,
    write_geojson,
    write_glb,
    write_ply,
)
from parallel_city_ros.city.geojson import read_geojson
from parallel_city_ros.city.local import LOCAL
from parallel_city_ros.city.model import (
    Boxes,
    Building,
    City,
    HeightRaster,
    HeightSource,
    Solid,
)
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.osm import OBSTACLE_OF_KIND, helsinki_file, read_osm
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL_CITY = Path(__file__).parents[2] / "worlds" / "small_city.geojson"
FRAME = LocalFrame(60.17, 24.94, 3.5)
VOXEL_ENDINGS = (".ply", ".glb", ".bt")


def in_map(grid) -> np.ndarray:
    """Occupied voxels counted from the map's zero, whatever the grid's origin, sorted."""
    return np.unique(grid.voxels() + np.round(grid.origin / grid.resolution).astype(int), axis=0)


def read_again(path, frame, resolution):
    origin = f"{frame.latitude_deg!r},{frame.longitude_deg!r},{frame.altitude_m!r}"
    city = read_city(path, ReadOptions(origin=origin))
    assert city.frame == frame
    return voxelise(city, resolution)


def comes_back(grid, path):
    return np.array_equal(in_map(grid), in_map(read_again(path, grid.frame, grid.resolution)))


def grid_of(occupied, resolution=1.0, origin=(0, 0, 0)) -> VoxelGrid:
    return VoxelGrid.from_dense(np.asarray(occupied, bool), np.array(origin) * resolution,
                                resolution, FRAME, attribution="© somebody")


def city_of(*buildings, **more) -> City:
    return City(name="made", frame=FRAME, extent=(0.0, 0.0, 90.0, 90.0), buildings=buildings,
                **{"n_buildings": len(buildings)} | more)


def house(name="house", box=(10, 10, 30, 25), top=20.0, base=0.0, source=HeightSource.MEASURED,
          **more) -> Building:
    return Building(building_id=name, footprint=shapely.box(*box), base_z=base, top_z=top,
                    source=source, **more)


def shed(**more) -> Solid:
    """Triangles of a gable roof's house, 20 x 10 m, 6 to 12 m above z = 0."""
    a, b, c, d = [np.array(p, float) for p in ((40, 40, 6), (60, 40, 6), (60, 50, 6),
                                              (40, 50, 6))]
    e, f = np.array([40.0, 45, 12]), np.array([60.0, 45, 12])
    return Solid(building_id="shed", triangles=np.array([
        (a, c, b), (a, d, c), (a, b, f), (a, f, e), (c, d, e), (c, e, f), (b, c, f), (d, a, e)]),
        **more)


@pytest.fixture(scope="module")
def helsinki():
    city = read_osm(helsinki_file())
    return city, voxelise(city, 2.0)


# --- voxels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", VOXEL_ENDINGS)
def test_a_real_city_comes_back_voxel_by_voxel(helsinki, ending, tmp_path):
    city, _ = helsinki
    grid = voxelise(city, 5.0)      # a mesh of finer voxels takes long to read
    written = export(city, grid, tmp_path / f"twin{ending}")
    assert comes_back(grid, *written.files)
    assert any("--origin" in words for words in written.lost)
    assert [p.name for p in tmp_path.iterdir()] == [f"twin{ending}"]


@pytest.mark.skipif(not (DATA / "DenHaag_01.city.json").exists(), reason="no ../shared/data")
@pytest.mark.parametrize("ending", VOXEL_ENDINGS)
def test_a_city_of_solids_on_terrain_comes_back(ending, tmp_path):
    city = read_city(DATA / "DenHaag_01.city.json")
    grid = voxelise(city, 4.0)
    written = export(city, grid, tmp_path / f"twin{ending}")
    assert comes_back(grid, *written.files)
    assert any("--terrain" in words for words in written.lost)


@st.composite
def grids(draw):
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    occupied = rng.random(shape) < draw(st.sampled_from((0.05, 0.5, 0.9)))
    occupied[0, 0, 0] = True
    return grid_of(occupied, draw(st.sampled_from((0.07, 0.3, 1.0, 2.0, 7.1))),
                   draw(st.tuples(*[st.integers(-900, 900)] * 3)))


@pytest.mark.parametrize("ending", VOXEL_ENDINGS)
@settings(deadline=None, max_examples=40)
@given(grid=grids())
def test_any_grid_comes_back(grid, ending, tmp_path_factory):
    written = export(city_of(), grid, tmp_path_factory.mktemp("any") / f"twin{ending}")
    assert comes_back(grid, *written.files)
    exact = ending != ".glb" or grid.resolution in (1.0, 2.0)
    assert exact != any("single precision" in words for words in written.lost)


def _edges_of(triangles):
    a, b = triangles.ravel(), triangles[:, [1, 2, 0]].ravel()
    return np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1), axis=0,
                     return_counts=True)[1]


@settings(deadline=None, max_examples=60)
@given(grid=grids())
def test_the_surface_is_closed_and_looks_outwards(grid):
    corners, quads = surface(grid)
    triangles = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    assert (_edges_of(triangles) % 2 == 0).all()
    a, b, c = np.moveaxis(corners[triangles].astype(float), 1, 0)
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6     # divergence theorem
    assert volume == pytest.approx(len(grid.voxels()))


@pytest.mark.parametrize("ending", [".ply", ".glb"])
def test_what_is_hollow_stays_hollow(ending, tmp_path):
    shells = np.ones((15, 13, 11), bool)
    shells[2:13, 2:11, 2:9] = False         # a room
    shells[4:11, 4:9, 4:7] = True           # in it a block
    shells[6:8, 6:8, 5] = False             # and in that a room
    grid = grid_of(shells, 2.0)
    written = export(city_of(), grid, tmp_path / f"hollow{ending}")
    assert comes_back(grid, *written.files)


@pytest.mark.parametrize("write", [write_ply, write_glb])
def test_the_same_twin_gives_the_same_bytes(write, tmp_path):
    for name in "ab":
        write(voxelise(city_of(house()), 2.0), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_meshes_say_where_they_stand_and_whose_they_are(tmp_path):
    grid = voxelise(city_of(house(), attribution="© the\nsurveyor"), 2.0)
    write_ply(grid, tmp_path / "m.ply")
    write_glb(grid, tmp_path / "m.glb")
    for name in ("m.ply", "m.glb"):
        head = (tmp_path / name).read_bytes()
        assert b"60.17 24.94 3.5" in head and grid.map_hash.encode() in head
    assert "comment © the surveyor\n".encode() in (tmp_path / "m.ply").read_bytes()


def test_glb_keeps_to_the_standard(tmp_path):
    """glTF 2.0, section 4: chunks of four bytes, views within the buffer, bounds of positions."""
    counts = write_glb(grid_of(np.ones((3, 4, 5)), 0.3, (7, -2, 1)), tmp_path / "m.glb")
    content = (tmp_path / "m.glb").read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content)) and length % 4 == 0
    size, kind = struct.unpack_from("<I4s", content, 12)
    document = json.loads(content[20:20 + size])
    assert kind == b"JSON" and size % 4 == 0
    rest, kind = struct.unpack_from("<I4s", content, 20 + size)
    assert kind == b"BIN\0" and rest == document["buffers"][0]["byteLength"]
    binary = content[28 + size:]
    positions, indices = (np.frombuffer(binary, dtype, offset=v.get("byteOffset", 0),
                                        count=v["byteLength"] // 4)
                          for dtype, v in zip(("<f4", "<u4"), document["bufferViews"],
                                              strict=True))
    positions = positions.reshape(-1, 3)
    assert len(positions) == counts["vertices"] == indices.max() + 1
    assert len(indices) == 3 * counts["triangles"] == 3 * 2 * 2 * (12 + 15 + 20)
    accessor = document["accessors"][0]
    assert accessor["min"] == positions.min(axis=0).tolist()
    assert accessor["max"] == positions.max(axis=0).tolist()
    node = document["nodes"][0]
    in_metres = positions * node["scale"] + node["translation"]     # y is up
    assert np.ptp(in_metres, axis=0) == pytest.approx((0.9, 1.5, 1.2))
    assert in_metres.min(axis=0) == pytest.approx((2.1, 0.3, -0.6))
    lattice = (in_metres[:, [0, 2, 1]] * (1, -1, 1)) / 0.3      # on the grid's planes, always
    assert np.abs(lattice - np.round(lattice)).max() < 1e-12


def test_what_does_not_fit_is_refused(tmp_path):
    empty = grid_of(np.zeros((3, 3, 3)))
    with pytest.raises(ConfigError, match="nothing stands"):
        export(city_of(), empty, tmp_path / "m.glb")
    assert write_ply(empty, tmp_path / "m.ply") == {"vertices": 0, "triangles": 0}
    odd = VoxelGrid.from_dense(np.ones((2, 2, 2), bool), np.array([0.3, 0, 0]), 2.0, FRAME)
    with pytest.raises(ConfigError, match="multiple of the resolution"):
        export(city_of(), odd, tmp_path / "m.bt")
    for name in ("m.xyz", "m", "m.GLTF"):
        with pytest.raises(ConfigError, match=r"\.sdf, \.ply, \.glb, \.bt, \.geojson"):
            export(city_of(house()), empty, tmp_path / name)
    for ending in FORMATS:
        with pytest.raises(CityFileError, match="cannot be written"):
            export(city_of(house()), grid_of(np.ones((2, 2, 2))),
                   tmp_path / "no" / f"m{ending}")
    assert [p.name for p in tmp_path.iterdir()] == ["m.ply"]


def test_a_world_is_prisms_where_that_is_all(tmp_path):
    for city, what in ((city_of(house()), "prisms"), (city_of(house(), solids=(shed(),)),
                                                      "boxes")):
        written = export(city, voxelise(city, 2.0), tmp_path / "world.sdf")
        assert what in written.counts and written.files == (tmp_path / "world.sdf",)


def test_a_world_on_a_hill_names_its_ground(tmp_path):
    hill = HeightRaster(heights=np.add.outer(np.arange(20.0), np.zeros(20)).astype(np.float32),
                        origin=(0.0, 0.0), cell=5.0)
    city = city_of(house(), terrain=hill)
    written = export(city, voxelise(city, 2.0), tmp_path / "world.sdf")
    assert sorted(written.files) == sorted(tmp_path.iterdir()) and len(written.files) == 2


# --- GeoJSON ----------------------------------------------------------------------------------


def same_prisms(city, again):
    assert again.frame == city.frame and len(again.buildings) == len(city.buildings)
    for was, now in zip(city.buildings, again.buildings, strict=True):
        assert now.building_id == was.building_id and now.source == was.source
        assert (now.base_z, now.top_z) == pytest.approx((was.base_z, was.top_z), abs=1e-9)
        assert shapely.symmetric_difference(was.footprint, now.footprint).area < 1e-3
        assert shapely.hausdorff_distance(was.footprint.boundary, now.footprint.boundary) < 1e-3


def only_outlines(city):
    """Without the lines and points that cutting outlines has left."""
    return replace(city, buildings=tuple(
        replace(b, footprint=shapely.MultiPolygon([
            p for p in shapely.get_parts(shapely.get_parts(b.footprint))
            if p.geom_type == "Polygon"])) for b in city.buildings))


def test_buildings_come_back_as_the_same_prisms(tmp_path):
    city = read_geojson(SMALL_CITY)
    written = export(city, None, tmp_path / "city.geojson")
    assert written.counts == {"features": len(city.buildings)} and not written.lost
    again = read_geojson(tmp_path / "city.geojson")
    same_prisms(only_outlines(city), again)
    assert again.attribution == city.attribution
    assert voxelise(city, 2.0).map_hash == voxelise(again, 2.0).map_hash


def test_a_real_city_comes_back_as_geojson_and_nothing_as_measured(helsinki, tmp_path):
    city, grid = helsinki
    written = export(city, None, tmp_path / "city.geojson")
    again = read_geojson(tmp_path / "city.geojson")
    assert difference(grid, voxelise(again, 2.0)) == (0, 0)
    assert again.attribution == city.attribution
    assert not written.lost
    assert {b.building_id: (b.kind, b.source) for b in again.buildings} == {
        b.building_id: (b.kind, b.source) for b in city.buildings}
    assert again.n_buildings + again.n_parts >= city.n_buildings


def test_what_is_no_building_keeps_its_kind_or_that_is_said(tmp_path):
    kinds = [*OBSTACLE_OF_KIND, "bridge"]
    city = city_of(house("home"), *(
        house(kind, (40 * k + 40, 0, 40 * k + 50, 9), source=HeightSource.ASSUMED, kind=kind,
              top=OBSTACLE_OF_KIND[kind].height if kind != "bridge" else 20.0)
        for k, kind in enumerate(kinds)))
    lost = write_geojson(city, tmp_path / "city.geojson").lost
    assert lost == ("what is no building (bridge) will be read as one",)
    again = read_geojson(tmp_path / "city.geojson")
    assert {b.building_id: b.kind for b in again.buildings} == {
        "home": "building", "bridge": "building"} | {k: k for k in OBSTACLE_OF_KIND}
    same_prisms(replace(city, buildings=sorted(city.buildings, key=lambda b: b.building_id)),
                replace(again, buildings=sorted(again.buildings, key=lambda b: b.building_id)))
    trees = city_of(house("oak", kind="tree"))
    with pytest.raises(CityFileError, match="no buildings"):
        write_geojson(trees, tmp_path / "trees.geojson")


def test_difference_counts_both_ways():
    a, b = np.zeros((5, 5, 5), bool), np.zeros((5, 5, 5), bool)
    a[0, 0, :3] = b[0, 0, 1:] = True
    assert difference(grid_of(a), grid_of(b)) == (1, 2)
    assert difference(grid_of(a, 2.0, (3, 4, 5)), grid_of(a[:, :, :3], 2.0, (3, 4, 5))) == (0, 0)
    shifted = grid_of(np.pad(a, ((1, 0), (0, 0), (0, 0))), 1.0, (-1, 0, 0))
    assert difference(grid_of(a), shifted) == (0, 0)


heights = st.floats(3.0, 200.0).map(lambda v: round(v, 2))
sources = st.sampled_from(HeightSource)


@settings(deadline=None, max_examples=80)
@given(tops=st.lists(st.tuples(heights, sources, st.booleans()), min_size=1, max_size=6))
def test_any_prisms_come_back_and_none_is_taken_for_measured(tops, tmp_path_factory):
    file = tmp_path_factory.mktemp("prisms") / "city.geojson"
    city = city_of(*(house(f"b/{k}", (5 * k, 0, 5 * k + 7, 9), top, base=top / 2 if part else 0,
                           source=source, is_part=part)
                     for k, (top, source, part) in enumerate(tops)))
    write_geojson(city, file)
    again = read_geojson(file)
    for was, now in zip(city.buildings, again.buildings, strict=True):
        assert (now.base_z, now.top_z) == pytest.approx((was.base_z, was.top_z), abs=1e-9)
        assert now.footprint.equals_exact(was.footprint, 1e-3) or \
            shapely.symmetric_difference(was.footprint, now.footprint).area < 1e-3
        assert now.source is was.source


def test_other_readers_are_told_where_a_height_is_from(tmp_path):
    assumed, levels = HeightSource.ASSUMED, HeightSource.LEVELS
    city = city_of(house("a", top=33.0, source=assumed), house("b", (40, 0, 50, 9), top=9.0),
                   house("c", (60, 0, 70, 9), top=15.0, source=levels))
    assert not write_geojson(city, tmp_path / "city.geojson").lost
    features = json.loads((tmp_path / "city.geojson").read_text())["features"]
    assert [(f["properties"]["height"], f["properties"]["height:source"]) for f in features] == [
        (33.0, "assumed"), (9.0, "measured"), (15.0, "levels")]
    again = read_geojson(tmp_path / "city.geojson")
    assert [b.source for b in again.buildings] == [assumed, HeightSource.MEASURED, levels]
    assert again.assumed_height_m == 12.0       # of what it knows, not of what was assumed before


def test_courtyards_and_several_outlines_come_back_wound_as_asked(tmp_path):
    ring = shapely.box(0, 0, 40, 40).difference(shapely.box(10, 10, 20, 20))
    both = shapely.MultiPolygon([ring, shapely.box(60, 0, 70, 10)])
    city = city_of(replace(house(), footprint=both))
    write_geojson(city, tmp_path / "city.geojson")
    same_prisms(city, read_geojson(tmp_path / "city.geojson"))
    geometry = json.loads((tmp_path / "city.geojson").read_text())["features"][0]["geometry"]
    for outer, *holes in geometry["coordinates"]:
        assert shapely.LinearRing(outer).is_ccw         # RFC 7946, section 3.1.6
        assert not any(shapely.LinearRing(hole).is_ccw for hole in holes)


@pytest.mark.parametrize("ground_z, closed, base, top", [
    (0.0, True, 6.0, 12.0), (0.0, False, 0.0, 12.0), (4.0, True, 2.0, 8.0)])
def test_a_body_becomes_the_prism_around_it_and_that_is_said(ground_z, closed, base, top,
                                                             tmp_path):
    city = city_of(house(), n_buildings=2, solids=(shed(ground_z=ground_z, closed=closed),))
    lost = write_geojson(city, tmp_path / "city.geojson").lost
    assert any("1 bodies" in words for words in lost) and any("ground" in w for w in lost)
    prism = read_geojson(tmp_path / "city.geojson").buildings[1]
    assert (prism.building_id, prism.base_z, prism.top_z) == ("shed", base, top)
    assert prism.footprint.area == pytest.approx(200.0, abs=1e-3)


def test_what_geojson_cannot_say_is_named(tmp_path):
    points = np.array([[1.0, 2, 3], [4, 5, 6]])
    trees = HeightRaster(heights=np.ones((3, 3), np.float32), origin=(0.0, 0.0), cell=1.0,
                         kind="tree")
    city = city_of(house(ground_z=5.0), surfaces=(trees,), boxes=(Boxes(lower=points,
                                                                        upper=points),))
    lost = " / ".join(write_geojson(city, tmp_path / "city.geojson").lost)
    for words in ("ground", "1 rasters of tree", "2 boxes"):
        assert words in lost


def test_a_city_without_buildings_or_place_has_no_geojson(tmp_path):
    points = np.array([[1.0, 2, 3], [4, 5, 6]])
    with pytest.raises(CityFileError, match="no buildings"):
        write_geojson(city_of(boxes=(Boxes(lower=points, upper=points),)),
                      tmp_path / "city.geojson")
    with pytest.raises(CityFileError, match="--origin"):
        write_geojson(city_of(house(), crs=LOCAL), tmp_path / "city.geojson")
    assert not list(tmp_path.iterdir())
