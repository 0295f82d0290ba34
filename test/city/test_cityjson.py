"""CityJSON of every version, and files that only look like it."""

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.cityjson import is_cityjson, read_cityjson
from parallel_city_ros.city.model import City, HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real city files beside the project")
EAST, NORTH = 85000.0, 446000.0     # Delft in EPSG:28992


class Draft:
    """A document in the making; shapes are added at metres east and north of a corner in Delft."""

    def __init__(self, version="1.1", crs="urn:ogc:def:crs:EPSG::7415", kind="CityJSON"):
        self.document = {"type": kind, "version": version, "CityObjects": {}, "vertices": []}
        if kind == "CityJSON":
            self.document["metadata"] = {"referenceSystem": crs}
        self.vertices = self.document["vertices"]

    def add(self, name="b", kind="Building", geometry=(), **more):
        self.document["CityObjects"][name] = {"type": kind, "geometry": list(geometry), **more}
        return self

    def box(self, x=0.0, y=0.0, z=0.0, size=(10.0, 6.0, 4.0), at=(EAST, NORTH)):
        """The six faces of a box."""
        first = len(self.vertices)
        self.vertices += [
            [at[0] + x + size[0] * (k & 1), at[1] + y + size[1] * (k >> 1 & 1),
             z + size[2] * (k >> 2)] for k in range(8)]
        return [[[first + k for k in ring]] for ring in (
            (0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (1, 3, 7, 5), (3, 2, 6, 7), (2, 0, 4, 6))]

    def solid(self, lod="2", **box):
        return {"type": "Solid", "lod": lod, "boundaries": [self.box(**box)]}

    def surfaces(self, lod="2", **box):
        return {"type": "MultiSurface", "lod": lod, "boundaries": self.box(**box)}

    def outline(self, lod="0", **box):
        return {"type": "MultiSurface", "lod": lod, "boundaries": self.box(**box)[:1]}

    def write(self, folder, name="city.json", indent=None):
        path = folder / name
        path.write_text(json.dumps(self.document, indent=indent))
        return path


@pytest.fixture
def read(tmp_path):
    def read(draft, frame=None, **options):
        return read_cityjson(draft.write(tmp_path), ReadOptions(**options), frame)
    return read


def volume(triangles) -> float:
    return float(np.einsum("ij,ij->i", triangles[:, 0], np.cross(
        triangles[:, 1], triangles[:, 2])).sum() / 6)


def sizes(solid):
    return np.ptp(solid.triangles.reshape(-1, 3), axis=0)


# --- geometry ------------------------------------------------------------------------------

@pytest.mark.parametrize("version", ["1.0", "1.1", "2.0", "1.0.3", "2.0.1"])
@pytest.mark.parametrize("kind", [
    "Solid", "MultiSurface", "CompositeSurface", "MultiSolid", "CompositeSolid"])
def test_every_version_and_geometry(read, version, kind):
    draft = Draft(version)
    box = draft.box(z=3.0)
    boundaries = {"Solid": [box], "MultiSolid": [[box]], "CompositeSolid": [[box]]}.get(kind, box)
    lod = 2 if version.startswith("1.0") else "2"
    city = read(draft.add(geometry=[{"type": kind, "lod": lod, "boundaries": boundaries}]))
    (solid,) = city.solids
    assert solid.closed and solid.building_id == "b" and not solid.is_part
    assert solid.triangles.shape == (12, 3, 3) and solid.triangles.dtype == float
    assert sizes(solid) == pytest.approx((10, 6, 4), abs=0.3)     # grid north is not true north
    assert abs(volume(solid.triangles)) == pytest.approx(240, rel=1e-3)
    assert solid.triangles[..., 2].min() == 0.0 == solid.ground_z
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (1, 0, 0)
    assert city.height_sources == {"measured": 1, "levels": 0, "assumed": 0}
    assert (city.crs, city.vertical_datum) == ("EPSG:7415", "NAP height")
    assert city.frame.altitude_m == 3.0 and city.notes == ()


def test_vertices_are_scaled_and_moved(read):
    plain, whole = Draft(), Draft()
    plain.add(geometry=[plain.solid(x=1.5, z=-2.25)])
    whole.add(geometry=[whole.solid(x=1.5, z=-2.25)])
    whole.document["vertices"] = [
        [round((x - EAST) * 1000), round((y - NORTH) * 1000), round(z * 100)]
        for x, y, z in whole.vertices]
    whole.document["transform"] = {"scale": [0.001, 0.001, 0.01], "translate": [EAST, NORTH, 0]}
    a, b = read(plain), read(whole)
    assert a.frame.altitude_m == b.frame.altitude_m == -3.0
    assert np.abs(a.solids[0].triangles - b.solids[0].triangles).max() < 1e-6


def test_the_frame_is_at_the_south_west_corner_of_what_stands_or_as_given(read):
    draft = Draft()
    draft.add(geometry=[draft.solid(x=100.0, y=50.0, z=12.7)])
    draft.add("land", "TINRelief", [{"type": "CompositeSurface", "lod": "1", "boundaries":
                                     draft.box(z=10.2, size=(300.0, 300.0, 0.0))[:1]}])
    city = read(draft)
    assert city.frame.altitude_m == 10.0        # the floor of the lowest, which is the ground
    assert city.extent == pytest.approx((0, 0, 10, 6), abs=0.2)
    assert city.solids[0].triangles[..., 2].min() == pytest.approx(2.7)
    other = LocalFrame(city.frame.latitude_deg - 0.001, city.frame.longitude_deg, 5.0)
    moved = read(draft, frame=other)
    assert moved.frame == other
    shift = moved.solids[0].triangles - city.solids[0].triangles
    assert shift[..., 1] == pytest.approx(111.3, abs=0.2) and shift[..., 2] == pytest.approx(5.0)


def test_a_courtyard_and_an_inner_shell_stay_open(read):
    draft = Draft()
    outer, inner = draft.box(size=(30.0, 30.0, 20.0)), draft.box(5.0, 5.0, 5.0, (9.0, 9.0, 9.0))
    draft.add("hollow", geometry=[{"type": "Solid", "lod": "2", "boundaries": [outer, inner]}])
    outer, inner = draft.box(100.0, size=(30.0, 30.0, 20.0)), \
        draft.box(110.0, 10.0, size=(10.0, 10.0, 20.0))
    yard = [[outer[0][0], inner[0][0]], [outer[1][0], inner[1][0]], *outer[2:], *inner[2:]]
    draft.add("yard", geometry=[{"type": "Solid", "lod": "2", "boundaries": [yard]}])
    hollow, yard = read(draft).solids
    assert hollow.closed and len(hollow.triangles) == 24
    assert yard.closed
    caps = yard.triangles[np.ptp(yard.triangles[..., 2], axis=1) < 1e-9]
    assert shapely.area(shapely.polygons(caps[..., :2])).sum() == pytest.approx(2 * 800, rel=1e-3)


def test_every_solid_of_several_is_its_own_body(read):
    """Solids that overlap would cut holes into each other, were they one body."""
    draft = Draft()
    draft.add(geometry=[{"type": "MultiSolid", "lod": "2", "boundaries": [
        [draft.box()], [draft.box(x=5.0)]]}])
    city = read(draft)
    assert [s.closed for s in city.solids] == [True, True]
    assert city.n_buildings == city.height_sources["measured"] == 1


def test_a_solid_drawn_again_as_surfaces_stands_once(read):
    draft = Draft()
    solid = draft.solid()
    again = draft.surfaces()        # other vertices at the same places
    roof = again["boundaries"][1][0]
    again["boundaries"][1][0] = roof[2:] + roof[:2] + roof[2:3]
    (body,) = read(draft.add(geometry=[solid, again])).solids
    assert body.closed and len(body.triangles) == 12
    twice = Draft()     # open surfaces that are there twice must not count as closed
    walls = [*twice.box()[1:], *twice.box()[1:]]
    twice.add(geometry=[{"type": "MultiSurface", "lod": "2", "boundaries": walls}])
    city = read(twice)
    assert len(city.solids[0].triangles) == 10 and not city.solids[0].closed
    assert "not closed" in " ".join(city.notes)


def test_templates_are_placed_scaled_and_turned(read):
    draft = Draft()
    corner = Draft()
    crown = corner.box(size=(2.0, 1.0, 3.0), at=(0.0, 0.0))
    draft.document["geometry-templates"] = {
        "templates": [{"type": "Solid", "lod": "2", "boundaries": [crown]}],
        "vertices-templates": corner.vertices}
    draft.vertices += [[EAST + 50.0, NORTH, 7.0], [EAST, NORTH + 20.0, 3.0]]
    same, turned = np.eye(4), np.diag([2.0, 2.0, 2.0, 1.0])
    turned[:2, :2] = [[0, -2], [2, 0]]
    for n, matrix in enumerate((same, turned)):
        draft.add(f"tree{n}", "SolitaryVegetationObject", [{
            "type": "GeometryInstance", "template": 0, "boundaries": [n],
            "transformationMatrix": matrix.ravel().tolist()}])
    small, large = read(draft).solids
    assert small.kind == large.kind == "tree" and small.closed and large.closed
    assert sizes(small) == pytest.approx((2, 1, 3), abs=0.1)
    assert sizes(large) == pytest.approx((2, 4, 6), abs=0.1)
    assert small.triangles[..., 2].min() == pytest.approx(4.0)
    assert small.triangles[..., 0].min() == pytest.approx(52.0, abs=0.2)


def test_templates_are_metres_where_coordinates_are_degrees(read):
    draft, corner = Draft(crs="https://www.opengis.net/def/crs/EPSG/0/4979"), Draft()
    pole = corner.box(size=(2.0, 1.0, 3.0), at=(0.0, 0.0))
    draft.document["geometry-templates"] = {
        "templates": [{"type": "MultiSurface", "lod": "2", "boundaries": pole}],
        "vertices-templates": corner.vertices}
    draft.vertices.append([4.4, 52.0, 30.0])
    draft.add("pole", "CityFurniture", [{
        "type": "GeometryInstance", "template": 0, "boundaries": [0],
        "transformationMatrix": np.eye(4).ravel().tolist()}])
    (pole,) = read(draft).solids
    assert pole.kind == "furniture" and sizes(pole) == pytest.approx((2, 1, 3))


# --- objects -------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, meant", [
    ("BuildingPart", "building"), ("BuildingInstallation", "building"), ("Bridge", "bridge"),
    ("BridgePart", "bridge"), ("OtherConstruction", "construction"), ("PlantCover", "tree"),
    ("SolitaryVegetationObject", "tree"), ("CityFurniture", "furniture"),
    ("GenericCityObject", "other"), ("+Crane", "other")])
def test_what_stands_has_a_kind(read, kind, meant):
    draft = Draft()
    city = read(draft.add("it", kind, [draft.solid()]))
    assert city.solids[0].kind == meant
    assert (city.solids[0].ground_z is None) == (meant == "bridge")     # bridges may hang
    assert city.n_buildings == 0 and city.n_parts == (kind == "BuildingPart")


def test_what_is_flat_or_below_is_left_out_and_told(read):
    draft = Draft()
    draft.add(geometry=[draft.solid()])
    for kind in ("Road", "Tunnel", "TransportSquare", "WaterBody", "LandUse", "+Noise"):
        draft.add(kind, kind, [draft.surfaces()])
    city = read(draft)
    assert len(city.solids) == 1 and city.n_skipped == 0
    assert "Tunnel" in city.notes[0] and "WaterBody" in city.notes[0]


def test_a_building_and_its_parts_stand_and_a_mere_carrier_does_not(read):
    draft = Draft()
    draft.add("own", geometry=[draft.solid(z=2.0)], children=["part"])
    draft.add("part", "BuildingPart", [draft.solid(x=20.0, z=9.0)], parents=["own"])
    draft.add("carrier", children=["a", "b"])
    for n, name in enumerate("ab"):
        draft.add(name, "BuildingPart", [draft.solid(x=40.0 + 20 * n)], parents=["carrier"])
    city = read(draft)
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (2, 3, 0)
    assert {s.building_id: s.is_part for s in city.solids} == {
        "own": False, "part": True, "a": True, "b": True}
    assert city.height_sources["measured"] == 4
    high = next(s for s in city.solids if s.building_id == "part")
    assert high.ground_z == pytest.approx(2.0)      # of its building: it begins on a roof


def test_the_ground_is_what_the_building_says(read):
    draft = Draft()
    draft.add("a", geometry=[draft.solid(z=3.0)], attributes={"h_maaiveld": 4.5})
    draft.add("b", geometry=[draft.solid(x=30.0, z=3.0)], attributes={"h_maaiveld": -99})
    a, b = read(draft).solids
    assert a.ground_z == pytest.approx(1.5)
    assert b.ground_z == pytest.approx(0.0)     # 102 m below: not credible


def test_objects_without_a_geometry_of_use_are_counted(read):
    draft = Draft()
    draft.add("good", geometry=[draft.solid()]).add("none").add("null", geometry=())
    draft.document["CityObjects"]["null"]["geometry"] = None
    draft.add("line", geometry=[{"type": "Solid", "lod": "2", "boundaries": [[[[0, 1, 0]]]]}])
    draft.add("point", geometry=[{"type": "MultiPoint", "lod": "1", "boundaries": [0]}])
    city = read(draft)
    assert city.n_skipped == 4 and len(city.solids) == 1
    assert any("no area" in note for note in city.notes)


def test_the_terrain_is_a_raster(read):
    draft = Draft()
    draft.add(geometry=[draft.solid(z=5.0)])
    first = len(draft.vertices)
    draft.vertices += [[EAST + x, NORTH + y, 2.0 + 0.1 * x] for x in (-20, 60) for y in (-20, 40)]
    draft.add("land", "TINRelief", [{"type": "CompositeSurface", "lod": "1", "boundaries": [
        [[first, first + 2, first + 3]], [[first, first + 3, first + 1]]]}])
    city = read(draft)
    terrain = city.terrain
    assert terrain.kind == "terrain" and terrain.cell == 2.0 and city.frame.altitude_m == 0.0
    i, j = (int((0.0 - o) / 2.0) for o in terrain.origin)
    assert terrain.heights[i, j] == pytest.approx(2.0, abs=0.3)
    assert terrain.heights[i + 20, j] == pytest.approx(6.0, abs=0.3)
    alone = Draft()
    alone.vertices += draft.vertices
    alone.document["CityObjects"] = {"land": draft.document["CityObjects"]["land"]}
    ground = read(alone)
    assert ground.n_buildings == 0 and ground.extent == ground.terrain.extent


# --- levels of detail and outlines ---------------------------------------------------------

def layered(draft):
    """One building of LoD 0, 1.2, 2.2, and another of LoD 1.3 only: the height tells which."""
    draft.add("a", geometry=[
        draft.outline(), draft.solid("1.2", size=(9.0, 9.0, 12.0)),
        draft.solid(2.2, size=(9.0, 9.0, 22.0))])
    return draft.add("b", geometry=[draft.solid("1.3", x=50.0, size=(9.0, 9.0, 13.0))])


@pytest.mark.parametrize("lod, heights", [
    ("", [22, 13]), ("2.2", [22, 13]), ("2", [22, 13]), ("1.2", [12, 13]), ("1", [12, 13]),
    ("1.3", [12, 13])])
def test_the_level_of_detail_is_the_highest_or_nearest_to_that_asked_for(read, lod, heights):
    city = read(layered(Draft()), lod=lod)
    assert [round(np.ptp(s.triangles[..., 2])) for s in city.solids] == heights


@pytest.mark.parametrize("lod", ["3", "2.1", "high"])
def test_a_level_of_detail_that_is_not_there_is_told(read, lod):
    with pytest.raises(CityFileError, match=f"detail {lod}; there is 0, 1.2, 1.3, 2.2"):
        read(layered(Draft()), lod=lod)


@pytest.mark.parametrize("attributes, height, source", [
    ({"measuredHeight": 15.5}, 15.5, HeightSource.MEASURED),
    ({"Building_Height": "15.5 m"}, 15.5, HeightSource.MEASURED),
    ({"b3_h_dak_max": 17.0, "b3_h_maaiveld": 2.0}, 15.0, HeightSource.MEASURED),
    ({"storeysAboveGround": 5, "measuredHeight": -9999}, 16.0, HeightSource.LEVELS),
    ({"measuredHeight": 3e6}, 12.0, HeightSource.ASSUMED), ({}, 12.0, HeightSource.ASSUMED)])
def test_a_mere_outline_is_extruded(read, attributes, height, source):
    draft = Draft()
    city = read(draft.add(geometry=[draft.outline(z=2.0)], attributes=attributes))
    (building,) = city.buildings
    assert (building.top_z, building.source) == (pytest.approx(height), source)
    assert building.base_z == building.ground_z == 0.0
    assert building.footprint.area == pytest.approx(60, rel=1e-3)
    assert city.height_sources[source.value] == 1 and not city.solids
    assert city.assumed_height_m == (12.0 if source is HeightSource.ASSUMED else 0.0)


def test_outlines_take_the_attribute_asked_for_and_their_buildings(read):
    draft = Draft()
    draft.add("a", attributes={"measuredHeight": 9.0, "Top": 21.0}, children=["p"])
    draft.add("p", "BuildingPart", [draft.outline()], parents=["a"])
    assert read(draft).buildings[0].top_z == 9.0
    assert read(draft, height_attribute="Top").buildings[0].top_z == 21.0


def test_outlines_of_ground_and_roof_tell_the_height(read):
    draft = Draft()
    box = draft.box(z=3.0, size=(10.0, 6.0, 8.0))
    city = read(draft.add(geometry=[{"type": "MultiSurface", "lod": "0", "boundaries": box[:2]}]))
    assert city.buildings[0].top_z == 8.0
    assert city.buildings[0].source is HeightSource.MEASURED


def test_an_outline_counts_only_where_nothing_else_is(read):
    draft = Draft()
    draft.add("a", geometry=[draft.outline()], children=["p"])
    draft.add("p", "BuildingPart", [draft.solid()], parents=["a"])
    city = read(draft)
    assert not city.buildings and [s.building_id for s in city.solids] == ["p"]
    assert city.n_skipped == 0
    asked = read(draft, lod="0")
    assert not asked.solids and [b.building_id for b in asked.buildings] == ["a"]
    assert asked.n_skipped == 0


def test_a_flat_body_is_an_outline_whatever_its_level(read):
    draft = Draft()
    city = read(draft.add(geometry=[draft.outline(lod="1")], attributes={"height": 7}))
    assert not city.solids and city.buildings[0].top_z == 7.0


def test_an_outline_of_a_tree_stands_only_with_a_height(read):
    draft = Draft()
    draft.add("h", "PlantCover", [draft.outline()], attributes={"averageHeight": 8.5})
    draft.add("n", "PlantCover", [draft.outline(x=30.0)])
    city = read(draft)
    assert [(b.building_id, b.kind, b.top_z) for b in city.buildings] == [("h", "tree", 8.5)]
    assert city.n_skipped == 1


# --- sequences and packing -----------------------------------------------------------------

def sequence(folder, *features, header=None, name="city.city.jsonl"):
    header = header or Draft().document
    path = folder / name
    path.write_text("\n".join(json.dumps(line) for line in (header, *features)) + "\n")
    return path


def features():
    for n in range(3):
        draft = Draft(kind="CityJSONFeature")
        yield draft.add(f"b{n}", geometry=[draft.solid(x=30.0 * n, z=float(n))]).document


def test_a_sequence_has_vertices_by_feature(tmp_path):
    city = read_cityjson(sequence(tmp_path, *features()))
    assert [s.building_id for s in city.solids] == ["b0", "b1", "b2"]
    assert [s.triangles[..., 2].min() for s in city.solids] == [0.0, 1.0, 2.0]
    assert all(s.closed for s in city.solids) and city.n_buildings == 3


def test_a_feature_of_two_tiles_stands_once(tmp_path):
    first, *rest = features()
    city = read_cityjson(sequence(tmp_path, first, first, *rest))
    assert len(city.solids) == 3 and "twice" in city.notes[0]


@pytest.mark.parametrize("lines, words", [
    (["{}"], r"line 2 is no CityJSONFeature \(its type is None\)"),
    (["[1, 2]"], "line 2 is no CityJSONFeature"),
    (['{"type": "CityJSONFeature", "CityObj'], "line 2 is no JSON.*cut off"),
    (['{"type": "CityJSONFeature", "CityObjects": [], "vertices": []}'], "line 2: .*CityObjects"),
    (['{"type": "CityJSONFeature", "CityObjects": {}, "vertices": [1]}'], "line 2: .*vertices")])
def test_broken_lines_are_named(tmp_path, lines, words):
    path = tmp_path / "city.jsonl"
    path.write_text("\n".join([json.dumps(Draft().document), *lines]))
    with pytest.raises(CityFileError, match=f"city.jsonl: {words}"):
        read_cityjson(path)


def test_a_sequence_needs_its_header(tmp_path):
    first, *rest = features()
    with pytest.raises(CityFileError, match="begins with a CityJSONFeature"):
        read_cityjson(sequence(tmp_path, *rest, header=first))
    with pytest.raises(CityFileError, match="no CityObjects"):
        read_cityjson(sequence(tmp_path))


def test_packed_laid_out_and_marked_files_are_the_same(tmp_path):
    draft = Draft()
    path = draft.add(geometry=[draft.solid()]).write(tmp_path)
    plain = read_cityjson(path)
    packed = tmp_path / "city.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for other in (packed, marked, draft.write(tmp_path, "laid_out.json", indent=2)):
        assert np.array_equal(read_cityjson(other).solids[0].triangles,
                              plain.solids[0].triangles)
        assert is_cityjson(other.read_bytes()[:4096])
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(CityFileError, match="cut.json.gz.*cut off"):
        read_cityjson(cut)


def test_a_file_that_unpacks_endlessly_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("parallel_city_ros.city.packed.MOST_UNPACKED", 1 << 20)
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(gzip.compress(b'{"type": "CityJSON", "x": "' + b" " * (3 << 20) + b'"}'))
    with pytest.raises(CityFileError, match="unpacks to more than"):
        read_cityjson(path)


# --- reference systems ---------------------------------------------------------------------

@pytest.mark.parametrize("name", [
    "urn:ogc:def:crs:EPSG::7415", "https://www.opengis.net/def/crs/EPSG/0/7415",
    "http://www.opengis.net/def/crs/EPSG/0/7415", "EPSG:7415",
    "urn:ogc:def:crs,crs:EPSG::28992,crs:EPSG::5709",
    "http://www.opengis.net/gml/srs/epsg.xml#7415"])
def test_reference_systems_in_every_spelling(read, name):
    draft = Draft(crs=name)
    city = read(draft.add(geometry=[draft.solid()]))
    assert city.vertical_datum == "NAP height"
    assert city.frame.latitude_deg == pytest.approx(52.0, abs=0.1)


@pytest.mark.parametrize("name, words", [
    ("", "names no reference system.*--crs"), ("urn:nobody:crs:9", "urn:nobody.*--crs"),
    ("EPSG:2056", "outside the area of EPSG:2056.*--crs"), ("EPSG:4978", "--crs"),
    ("https://www.opengis.net/def/crs/EPSG/0/999999", "not known.*--crs")])
def test_a_reference_system_that_is_missing_or_wrong_is_refused(read, name, words):
    draft = Draft(crs=name)
    draft.add(geometry=[draft.solid()])
    with pytest.raises(CityFileError, match=f"city.json: .*{words}"):
        read(draft)
    assert read(draft, crs="EPSG:28992").crs == "EPSG:28992"    # and this is the way out


def test_a_document_without_metadata_has_no_reference_system(read):
    draft = Draft()
    draft.add(geometry=[draft.solid()])
    for metadata in (None, [], {"referenceSystem": None}):
        draft.document["metadata"] = metadata
        with pytest.raises(CityFileError, match="names no reference system"):
            read(draft)
    with pytest.raises(ConfigError, match="EPSG:1"):
        read(draft, crs="EPSG:1")


def test_heights_in_feet_become_metres(read):
    draft = Draft(crs="EPSG:2263")      # New York, US survey feet
    city = read(draft.add(geometry=[draft.solid(size=(100.0, 100.0, 328.0833), z=100.0,
                                                at=(980000.0, 200000.0))]))
    assert np.ptp(city.solids[0].triangles[..., 2]) == pytest.approx(100.0, rel=1e-5)
    assert city.frame.altitude_m == 30.0 and "0.3048" in city.notes[0]


# --- broken files --------------------------------------------------------------------------

@pytest.mark.parametrize("change, words", [
    ({"version": "3.0"}, "is CityJSON 3.0; 1.0, 1.1, 2.0 are read"),
    ({"version": None}, "CityJSON None"), ({"version": 0.9}, "CityJSON 0.9"),
    ({"type": "FeatureCollection"}, "not CityJSON.*FeatureCollection"),
    ({"CityObjects": {}}, "no CityObjects"), ({"CityObjects": [1]}, "CityObjects"),
    ({"vertices": []}, "object b is broken: a surface names vertex 7 of 0"),
    ({"vertices": [[1, 2]]}, "vertices are not lists of three"),
    ({"vertices": "none"}, "vertices"), ({"vertices": [["a", 1, 2]]}, "vertices"),
    ({"transform": {"scale": [1, 1]}}, "transform"), ({"transform": 5}, "transform"),
    ({"geometry-templates": {"templates": []}}, "geometry-templates"),
    ({"CityObjects": {"x": {"type": "Road"}}}, "nothing that stands.*1 Road")])
def test_broken_documents_say_what_is_wrong(read, change, words):
    draft = Draft()
    draft.add(geometry=[draft.solid()])
    draft.document |= change
    with pytest.raises(CityFileError, match="city.json: .*" + words):
        read(draft)


@pytest.mark.parametrize("geometry, words", [
    ({"type": "Solid", "lod": "2", "boundaries": [[[[0, 1, 8]]]]}, "names vertex 8 of 8"),
    ({"type": "Solid", "lod": "2", "boundaries": [[[[0, 1, -1]]]]}, "names vertex -1 of 8"),
    ({"type": "Solid", "lod": "2", "boundaries": [[[[0, 1.5, 2]]]]}, "TypeError"),
    ({"type": "Solid", "lod": "2", "boundaries": [[[0, 1, 2]]]}, "TypeError"),
    ({"type": "Solid", "lod": "2", "boundaries": [[[["0", 1, 2]]]]}, "TypeError"),
    ({"type": "Solid", "lod": "2", "boundaries": [[[[0, 1, 10**30]]]]}, "Overflow"),
    ({"type": "Solid", "lod": "2"}, "boundaries"), ({"lod": "2"}, "type"), (7, "TypeError"),
    ({"type": "Sphere", "lod": "2", "boundaries": []}, "unknown type 'Sphere'"),
    ({"type": "GeometryInstance", "template": 3}, "template 3 of 0")])
def test_broken_objects_are_named(read, geometry, words):
    draft = Draft()
    draft.box()
    with pytest.raises(CityFileError, match=f"city.json: object bad is broken: .*{words}"):
        read(draft.add("bad", geometry=[geometry]))


@pytest.mark.parametrize("vertex, words", [
    ([float("nan"), NORTH, 0], "no number"), ([EAST, float("inf"), 0], "no number"),
    ([EAST, NORTH, float("nan")], "no number"), ([1e30, NORTH, 0], "outside the area"),
    ([0, 0, 0], "outside the area"), ([EAST, NORTH, 1e6], "height of 1e\\+06 m"),
    ([EAST, NORTH, -99999], "height of -99999 m")])
def test_absurd_coordinates_are_refused(read, vertex, words):
    draft = Draft()
    draft.add(geometry=[draft.solid()])
    draft.vertices[5] = vertex
    with pytest.raises(CityFileError, match=f"city.json: .*{words}"):
        read(draft)
    draft.document["CityObjects"] = {}
    draft.vertices.append(vertex)       # of which nothing is made
    assert read(draft.add(geometry=[draft.solid()])).n_buildings == 1


def test_a_city_of_surfaces_without_area_is_refused(read):
    draft = Draft()
    draft.add(geometry=[draft.solid(size=(5.0, 0.0, 0.0))])
    with pytest.raises(CityFileError, match="no area"):
        read(draft)


def test_endless_copies_of_a_template_are_refused(read, monkeypatch):
    monkeypatch.setattr("parallel_city_ros.city.cityjson.MOST_FACES", 50)
    draft, corner = Draft(), Draft()
    draft.document["geometry-templates"] = {
        "templates": [{"type": "MultiSurface", "lod": "2", "boundaries": corner.box()}],
        "vertices-templates": corner.vertices}
    draft.vertices.append([EAST, NORTH, 0.0])
    for n in range(20):
        draft.add(f"t{n}", "PlantCover", [{
            "type": "GeometryInstance", "template": 0, "boundaries": [0],
            "transformationMatrix": np.eye(4).ravel().tolist()}])
    with pytest.raises(CityFileError, match="more than 50 surfaces"):
        read(draft)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"a": 1}', b"\xff\xfe\x00",
                                     b"PK", b"[" * 100_000])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "photo.json"
    path.write_bytes(content)
    with pytest.raises(CityFileError, match="photo.json"):
        read_cityjson(path)
    with pytest.raises(CityFileError, match="no such file"):
        read_cityjson(tmp_path / "nowhere.json")


def _places(node, path=()):
    """Every place in a document."""
    yield path
    for key, inner in node.items() if isinstance(node, dict) else enumerate(
            node if isinstance(node, list) else ()):
        yield from _places(inner, (*path, key))


def everything():
    draft = layered(Draft())
    draft.add("p", "BuildingPart", [draft.surfaces()], parents=["a"], attributes={"height": 3})
    draft.add("o", geometry=[draft.outline(x=90.0)], attributes={"storeysAboveGround": 2})
    draft.add("land", "TINRelief", [draft.surfaces(lod="1")])
    corner = Draft()
    draft.document["geometry-templates"] = {
        "templates": [{"type": "MultiSurface", "lod": "2", "boundaries": corner.box()}],
        "vertices-templates": corner.vertices}
    draft.add("t", "PlantCover", [{
        "type": "GeometryInstance", "template": 0, "boundaries": [0],
        "transformationMatrix": np.eye(4).ravel().tolist()}])
    draft.document["transform"] = {"scale": [1, 1, 1], "translate": [0, 0, 0]}
    return draft.document


DOCUMENT = everything()
JUNK = st.sampled_from([None, True, -1, 0, 7, 1e300, float("nan"), "", "2", [], {}, [[]], [[0]],
                        [None], {"type": "Solid"}, 10**25, "Solid", ["a"], "o"])


@given(st.sampled_from(list(_places(DOCUMENT))[1:]), JUNK)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)
def test_whatever_is_broken_is_read_or_refused_by_name(tmp_path, place, junk):
    document = copy.deepcopy(DOCUMENT)
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = junk
    path = tmp_path / "junk.json"
    path.write_text(json.dumps(document))
    try:
        city = read_cityjson(path)
    except CityFileError as error:
        assert "junk.json" in str(error)
    else:
        assert isinstance(city, City)
        assert all(np.isfinite(s.triangles).all() for s in city.solids)


@given(st.integers(0, 10**6))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)
def test_a_file_that_is_cut_off_is_told(tmp_path, cut):
    text = json.dumps(DOCUMENT)
    path = tmp_path / "cut.json"
    path.write_text(text[:cut % len(text)])
    with pytest.raises(CityFileError, match="cut.json"):
        read_cityjson(path)


@pytest.mark.parametrize("head, told", [
    (b'{"type":"CityJSON","version":"1.1"', True), (b' \n{ "type" : "CityJSON" }', True),
    (b'{"CityObjects": {"a": {', True), (b'{"type":"FeatureCollection"', False), (b"", False),
    (b'<CityModel "CityJSON"', False), (b'{"name": "CityJSONs"}', False),
    # of no time: it is in the test's name, on which all processes of a run must agree
    (gzip.compress(b'{"type":"CityJSON"}', mtime=0), True), (b"\x1f\x8b broken", False)])
def test_the_content_tells(head, told):
    assert is_cityjson(head) == told


# --- real cities ---------------------------------------------------------------------------

@needs_data
def test_the_hague():
    city = read_cityjson(DATA / "DenHaag_01.city.json")
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (844, 1653, 0)
    assert city.height_sources == {"measured": 1990, "levels": 0, "assumed": 0}
    assert len(city.solids) == 1990 and all(s.closed for s in city.solids)
    assert city.frame.altitude_m == 2.0 and city.vertical_datum == "NAP height"
    z = np.concatenate([s.triangles[..., 2].ravel() for s in city.solids])
    assert z.min() >= 0 and z.max() == pytest.approx(37.481 - 2.0)
    heights = city.terrain.heights
    assert np.nanmin(heights) >= 0 and np.isfinite(heights).mean() > 0.4
    x0, y0, x1, y1 = city.extent
    assert 600 < x1 - x0 < 800 and 600 < y1 - y0 < 700


@needs_data
@pytest.mark.parametrize("lod", ["", "1.2", "0"])
def test_delft(lod):
    city = read_cityjson(DATA / "3dbag_delft_tile901.city.jsonl", ReadOptions(lod=lod))
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (52, 52, 0)
    assert city.height_sources["measured"] == 52
    bodies = city.buildings if lod == "0" else city.solids
    assert len(bodies) == 52 and all(b.ground_z is not None for b in bodies)
    if lod == "":
        assert all(s.closed for s in city.solids)
        grid = voxelise(city, 2.0)
        assert grid.surface.max() > 15.0
