"""GeoJSON cities: what they say, what they may leave out, and what is refused by name."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.geojson import read_geojson
from parallel_city_ros.city.model import HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame, SourceCrs

SMALL_CITY = Path(__file__).parents[2] / "worlds" / "small_city.geojson"
SQUARE = [[[25.0, 60.0], [25.001, 60.0], [25.001, 60.001], [25.0, 60.001], [25.0, 60.0]]]


def moved(rings, degrees):
    return [[[lon + degrees, lat] for lon, lat in ring] for ring in rings]


def feature(properties=None, coordinates=SQUARE, kind="Polygon", **more):
    return {"type": "Feature", "properties": properties,
            "geometry": {"type": kind, "coordinates": coordinates}} | more


@pytest.fixture
def write(tmp_path):
    def write(*features, name="city.geojson", **members):
        path = tmp_path / name
        path.write_text(json.dumps(
            {"type": "FeatureCollection", "features": list(features)} | members))
        return path
    return write


def test_small_city_is_a_place_to_fly():
    city = read_geojson(SMALL_CITY)
    assert (city.n_buildings, city.n_parts) == (19, 3)
    assert all(city.height_sources.values())        # some measured, levels and assumed
    assert "fictitious" in city.attribution
    assert city.buildings_near((0.0, 0.0), 50.0) == []      # where the drone takes off
    outlines = [b.footprint for b in city.buildings if not b.is_part]
    gaps = [a.distance(b) for i, a in enumerate(outlines) for b in outlines[i + 1:]]
    assert min(gaps) > 20.0     # streets


def test_small_city_is_valid_as_the_rfc_asks():
    for number, found in enumerate(json.loads(SMALL_CITY.read_text())["features"]):
        assert found["type"] == "Feature" and "id" in found, number
        geometry = shapely.from_geojson(json.dumps(found["geometry"]))
        assert geometry.is_valid
        for polygon in shapely.get_parts(geometry):
            if polygon.geom_type == "Polygon":      # the right-hand rule of section 3.1.6
                assert polygon.exterior.is_ccw
                assert not any(hole.is_ccw for hole in polygon.interiors)


def test_origin_is_that_of_the_file_or_the_south_west_corner(write):
    frame = read_geojson(write(feature(), origin=[25.5, 60.5, 12.0])).frame
    assert (frame.longitude_deg, frame.latitude_deg, frame.altitude_m) == (25.5, 60.5, 12.0)
    city = read_geojson(write(feature()))
    assert (city.frame.longitude_deg, city.frame.latitude_deg) == (25.0, 60.0)
    assert city.extent[:2] == pytest.approx((0.0, 0.0), abs=0.1)


@pytest.mark.parametrize("properties, top, source", [
    ({"height": 12.5}, 12.5, HeightSource.MEASURED),
    ({"height": "40 ft"}, 12.192, HeightSource.MEASURED),
    ({"height": 9, "levels": 7}, 9.0, HeightSource.MEASURED),
    ({"levels": 4}, 12.8, HeightSource.LEVELS),
    ({"building:levels": "4"}, 12.8, HeightSource.LEVELS),
    ({"height": -1}, 12.0, HeightSource.ASSUMED),      # as Microsoft writes unknown
    ({"height": None}, 12.0, HeightSource.ASSUMED),
    ({}, 12.0, HeightSource.ASSUMED), (None, 12.0, HeightSource.ASSUMED)])
def test_heights_and_where_they_come_from(write, properties, top, source):
    (building,) = read_geojson(write(feature(properties))).buildings
    assert (building.top_z, building.source) == (pytest.approx(top), source)


def test_a_bridge_hangs_and_a_part_replaces_its_outline(write):
    half = [[[25.0, 60.0], [25.0005, 60.0], [25.0005, 60.001], [25.0, 60.001], [25.0, 60.0]]]
    path = write(feature({"building": "yes", "height": 10}, id="hall"),
                 feature({"building:part": "yes", "min_height": 5, "height": 30}, half, id=7))
    hall, part = read_geojson(path).buildings
    assert (hall.building_id, part.building_id) == ("hall", "7")
    assert (part.base_z, part.top_z) == (5.0, 30.0)
    assert hall.footprint.intersection(part.footprint).area < 1e-3


def test_what_lies_flat_is_no_obstacle_and_is_counted(write):
    city = read_geojson(write(
        feature({"height": 5}), feature({"leisure": "park"}), feature({"building": "no"}),
        feature({"building": "school", "amenity": "school"}, moved(SQUARE, 0.01)),
        feature({"building": "yes", "location": "underground"}, moved(SQUARE, 0.02)),
        feature({}, [25.0, 60.0], "Point"), {"type": "Feature", "geometry": None}))
    assert (city.n_buildings, city.n_skipped) == (2, 5)


def test_every_polygon_of_a_multipolygon_and_its_holes_count(write):
    hole = [[25.0002, 60.0002], [25.0002, 60.0008], [25.0008, 60.0008], [25.0008, 60.0002],
            [25.0002, 60.0002]]
    far = [[[lon + 0.01, lat] for lon, lat in SQUARE[0]]]
    (building,) = read_geojson(write(
        feature({"height": 8}, [[*SQUARE, hole], far], "MultiPolygon"))).buildings
    assert len(building.footprint.geoms) == 2
    assert [len(p.interiors) for p in building.footprint.geoms] == [1, 0]


@pytest.mark.parametrize("key, value", [
    ("height", "tall"), ("height", 5000), ("height", -3.5), ("height", -9999), ("height", True),
    ("height", [3]), ("height", "NaN"), ("height", "1,250"), ("levels", "many"),
    ("min_height", "low"), ("roof:levels", -2)])
def test_a_height_that_is_none_is_not_known_and_noted(write, key, value):
    city = read_geojson(write(feature({"height": 4}),
                              feature({key: value}, moved(SQUARE, 0.01), id="way/7")))
    odd = city.buildings[1]
    assert (odd.source, odd.base_z, odd.top_z) == (HeightSource.ASSUMED, 0.0, 12.0)
    key = key.replace("levels", "building:levels") if key == "levels" else key
    assert f"1 heights are none, such as {key}={value} of way/7: taken as not known" in city.notes


BROKEN = [
    (feature(properties=[1]), "properties"),
    (feature({}, [SQUARE[0][:2]], id=7), r" \(7\) has a ring of 3 positions, closed"),
    (feature({}, [[[25, 60], [25, 61], [25, 60]]]), "at least four"),
    (feature({}, [[[25, 60]] * 4]), "without area"),
    (feature({}, [[]]), "without positions"), (feature({}, None), "without rings"),
    (feature({}, [[385000, 6672000]]), "position that is not a list"),
    (feature({}, [[[25, "60"]] * 4]), "finite numbers"),
    (feature({}, [[[25, float("nan")]] * 4]), "finite numbers"),
    (feature({}, kind="Circle"), "Circle"), ({"type": "Polygon"}, "not of type Feature"),
    (17, "not of type Feature")]


def test_an_open_ring_is_closed(write):
    opened, closed = (read_geojson(write(feature({"height": 4}, [ring])))
                      for ring in (SQUARE[0][:-1], SQUARE[0]))
    assert opened.n_buildings == 1 and opened.n_skipped == 0
    assert opened.buildings[0].footprint.equals(closed.buildings[0].footprint)


@pytest.mark.parametrize("broken, words", BROKEN)
def test_broken_features_are_named(write, broken, words):
    with pytest.raises(CityFileError, match=r"broken\.geojson: feature 0.*" + words):
        read_geojson(write(broken, name="broken.geojson"))
    with pytest.raises(CityFileError, match=words + ".*2 of 3 features cannot be read"):
        read_geojson(write(broken, broken, feature({"height": 4})))


@pytest.mark.parametrize("broken, words", BROKEN)
def test_a_broken_feature_beside_others_is_left_out(write, broken, words):
    city = read_geojson(write(feature({"height": 4}), broken))
    assert (city.n_buildings, city.n_skipped) == (1, 1)
    (note,) = city.notes
    assert re.search(r"^1 features cannot be read and are left out: feature 1.*" + words, note)


def test_empty_coordinates_are_no_geometry(write):
    city = read_geojson(write(feature({"height": 4}), feature({"height": 5}, []),
                              feature({"height": 5}, [], "MultiPolygon"),
                              feature({"natural": "tree"}, [], "Point")))
    assert (city.n_buildings, city.n_skipped, city.notes) == (1, 3, ())


def collection(*geometries):
    return {"type": "GeometryCollection", "geometries": list(geometries)}


def test_the_outlines_of_a_geometry_collection_stand(write):
    there = [feature({}, moved(SQUARE, k / 100))["geometry"] for k in range(4)]
    many = {"type": "MultiPolygon", "coordinates": [there[2]["coordinates"]]}
    point = {"type": "Point", "coordinates": [25.0, 60.0]}
    city = read_geojson(write(
        feature({"height": 4}, there[0]["coordinates"]),
        {"type": "Feature", "properties": {"height": 9}, "geometry": collection(
            point, there[1], collection(many))},
        {"type": "Feature", "properties": {"height": 9}, "geometry": collection(point)}))
    assert [b.top_z for b in city.buildings] == [4.0, 9.0] and city.n_skipped == 1
    assert shapely.get_num_geometries(city.buildings[1].footprint) == 2


@pytest.mark.parametrize("first", ["", "\x1e", "\ufeff"])
@pytest.mark.parametrize("between", ["\n", "\r\n\r\n", "\n\x1e"])
def test_features_line_by_line(tmp_path, first, between):
    lines = [json.dumps(feature({"height": 4 + k}, moved(SQUARE, k / 100)), indent=k or None)
             for k in range(3)]
    path = tmp_path / "city.geojsonl"
    path.write_text(first + between.join(lines) + "\n", encoding="utf-8")
    assert [b.top_z for b in read_city(path).buildings] == [4.0, 5.0, 6.0]
    path.write_text(first + between.join(lines)[:-9], encoding="utf-8")
    with pytest.raises(CityFileError, match="city.geojsonl.*cut off"):
        read_city(path)


def test_a_geometry_alone_is_a_city(tmp_path):
    path = tmp_path / "house.geojson"
    for geometry in (feature()["geometry"], collection(feature()["geometry"])):
        path.write_text(json.dumps(geometry))
        assert read_city(path).n_buildings == 1


@pytest.mark.parametrize("content, words", [
    ({"version": 0.6, "elements": []}, r"Overpass, but neither.*; .*\[out:xml\]"),
    ({"geometryType": "esriGeometryPolygon", "features": []}, "Esri, .*; convert.*f=geojson"),
    ({"type": "Topology", "objects": {}, "arcs": []}, "TopoJSON, .*; convert")])
def test_other_json_is_told_what_it_is(tmp_path, content, words):
    path = tmp_path / "city.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CityFileError, match=r"city\.json: is JSON of " + words):
        read_city(path)


def test_a_file_without_heights_says_which_property_may_be_one(write):
    city = read_geojson(write(feature({"dachhoehe": 14.5, "name": "hall", "flat": True})))
    (note,) = city.notes
    assert "all are assumed; name one with --height-attribute" in note
    assert note.endswith("among dachhoehe")
    assert len(read_geojson(write(feature(), feature(), feature([1]))).notes) == 3


def test_heights_in_feet(write):
    path = write(feature({"HEIGHTROOF": 100}),
                 feature({"HEIGHTROOF": "20 m"}, moved(SQUARE, 0.01)))
    city = read_city(path, ReadOptions(height_unit="ft"))
    assert [b.top_z for b in city.buildings] == pytest.approx([30.48, 20.0])
    path = write(feature({"height": "100.0", "min_height": 10, "levels": 3}))
    (building,) = read_city(path, ReadOptions(height_unit="ft")).buildings
    assert (building.base_z, building.top_z) == pytest.approx((3.048, 30.48))
    assert read_city(path).buildings[0].top_z == 100.0


@pytest.mark.parametrize("members, words", [
    ({"features": []}, "no buildings"), ({"features": 3}, "neither"),
    ({"type": "Topology"}, "neither"), ({"origin": [900, 0]}, "origin"),
    ({"origin": "here"}, "origin"),
    ({"crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}},
     "outside the area of EPSG:25832.*EPSG:4326"),
    ({"crs": {"type": "name", "properties": {"name": "EPSG:0"}}}, "EPSG:0' names no"),
    ({"crs": {"type": "link", "properties": {"href": "x"}}}, "not named.*EPSG:4326"),
    ({"crs": 7}, "not named")])
def test_broken_collections_say_what_is_wrong(write, members, words):
    with pytest.raises(CityFileError, match=words):
        read_geojson(write(feature(), **members))


def test_cut_off_file_is_named(tmp_path):
    cut = tmp_path / "cut.geojson"
    cut.write_bytes(SMALL_CITY.read_bytes()[:3000])
    with pytest.raises(CityFileError, match="cut.geojson.*cut off"):
        read_city(cut)


def test_the_reader_is_chosen_by_content(tmp_path):
    disguised = tmp_path / "city.osm.pbf"
    disguised.write_bytes(b"\xef\xbb\xbf\n" + SMALL_CITY.read_bytes())
    assert voxelise(read_city(disguised)).map_hash == voxelise(read_geojson(SMALL_CITY)).map_hash
    other = tmp_path / "helsinki.geojson"
    other.write_bytes(helsinki_file().read_bytes())
    assert read_city(other).n_buildings == read_osm(helsinki_file()).n_buildings


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x00" * 40])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "photo.geojson"
    path.write_bytes(content)
    with pytest.raises(CityFileError, match="photo.geojson: is neither"):
        read_city(path)
    with pytest.raises(CityFileError, match="no such file"):
        read_city(tmp_path / "nowhere.osm")


# --- other systems, other names, trees ----------------------------------------------------

CRS = "EPSG:25835"
FRAME = LocalFrame(60.0, 25.0, 3.0)


def in_metres(rings):
    """Longitude and latitude → metres of CRS."""
    source = SourceCrs(CRS)
    x, y = 385000.0, 6653000.0      # a metre is a metre to 1 part in 2,000
    middle = source.frame_at(x, y)
    return [[(np.array([x, y]) + middle.to_enu(lat, lon)[:2]).tolist() for lon, lat in ring]
            for ring in rings]


@pytest.mark.parametrize("crs", [
    {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::25835"}},
    {"type": "name", "properties": {"name": "EPSG:25835"}},
    {"type": "EPSG", "properties": {"code": 25835}}, None])
def test_metres_of_a_system_that_the_file_or_the_caller_names(write, crs):
    metres = in_metres(SQUARE)
    path = write(feature({"height": 9}, metres), crs=crs)
    city = read_geojson(path, ReadOptions(crs=CRS if crs is None else ""))
    assert city.crs == CRS
    assert city.extent[:2] == pytest.approx((0, 0), abs=5.0)    # the grid's north is not north
    there = SourceCrs(CRS).to_enu(city.frame, *np.array(metres[0]).T)[:, :2]
    (building,) = city.buildings
    assert shapely.hausdorff_distance(building.footprint.boundary,
                                      shapely.LinearRing(there)) < 1e-6
    again = read_geojson(path, ReadOptions(crs=CRS), FRAME)
    assert again.frame == FRAME
    there = SourceCrs(CRS).to_enu(FRAME, *np.array(metres[0]).T)[:, :2]
    assert shapely.hausdorff_distance(again.buildings[0].footprint.boundary,
                                      shapely.LinearRing(there)) < 1e-6


def test_a_system_that_another_file_needs_does_not_change_degrees(write):
    path = write(feature({"height": 9}))
    plain, told = read_geojson(path), read_geojson(path, ReadOptions(crs=CRS))
    assert plain.frame == told.frame and plain.crs == told.crs == "EPSG:4326"


def test_mixed_systems_are_refused(write):
    with pytest.raises(CityFileError, match="feature 1.*degrees.*EPSG:4326"):
        read_geojson(write(feature({"height": 9}), feature({"height": 9}, in_metres(SQUARE))))
    with pytest.raises(CityFileError, match="outside the area of EPSG:25835"):
        read_geojson(write(feature({"height": 9}, in_metres(SQUARE)), feature({"height": 9}),
                           crs={"type": "name", "properties": {"name": CRS}}))


def test_heights_by_the_name_that_is_asked_for(write):
    path = write(feature({"height": 9, "top": 14.5}), feature({"top": None}, moved(SQUARE, 0.01)))
    assert read_geojson(path).buildings[0].top_z == 9
    city = read_geojson(path, ReadOptions(height_attribute="top"))
    assert [b.top_z for b in city.buildings] == [14.5, 14.5]
    assert [b.source for b in city.buildings] == [HeightSource.MEASURED, HeightSource.ASSUMED]
    with pytest.raises(CityFileError, match="no property 'roof'; it has height, top"):
        read_geojson(path, ReadOptions(height_attribute="roof"))
    broken = write(feature({"top": "tall"}))
    with pytest.raises(CityFileError, match="has top 'tall'.*no other.*--height-attribute"):
        read_geojson(broken, ReadOptions(height_attribute="top"))


def test_heights_by_usual_names(write):
    city = read_geojson(write(
        feature({"HAUTEUR": 21.5, "NB_ETAGES": 3}),
        feature({"HAUTEUR": None, "NB_ETAGES": 3}, moved(SQUARE, 0.01)),
        feature({"HAUTEUR": "?"}, moved(SQUARE, 0.02))))
    assert [b.top_z for b in city.buildings] == pytest.approx([21.5, 9.6, 15.6])
    assert [b.source.value for b in city.buildings] == ["measured", "levels", "assumed"]
    told = " ".join(city.notes)
    assert "'HAUTEUR'" in told and "1 heights are none, such as height=? of feature/2" in told


def test_a_frame_of_another_file_wins_over_the_origin(write):
    path = write(feature({"height": 9}), origin=[25.5, 60.5, 12.0])
    city = read_geojson(path, frame=FRAME)
    assert city.frame == FRAME
    assert city.extent[:2] == pytest.approx((0.0, 0.0), abs=1e-3)


def test_what_crosses_itself_or_is_there_twice_is_noted(write):
    bow = [[[25.01, 60.0], [25.011, 60.001], [25.011, 60.0], [25.01, 60.001], [25.01, 60.0]]]
    backwards = [SQUARE[0][::-1]]
    city = read_geojson(write(feature({"height": 5}), feature({"height": 8}, backwards),
                              feature({"height": 6}, bow)))
    assert [b.top_z for b in city.buildings] == [8.0, 6.0]
    assert (city.n_buildings, city.n_skipped) == (2, 1)
    assert shapely.get_num_geometries(city.buildings[1].footprint) == 2     # both its wings
    told = " ".join(city.notes)
    assert "1 outlines cross themselves" in told and "1 outlines are there twice" in told


def test_parts_that_stand_on_each_other_are_not_the_same(write):
    city = read_geojson(write(
        feature({"building:part": "yes", "height": 10}),
        feature({"building:part": "yes", "min_height": 10, "height": 30})))
    assert [(b.base_z, b.top_z) for b in city.buildings] == [(0.0, 10.0), (10.0, 30.0)]


def test_trees_and_masts_stand_and_are_not_counted(write):
    city = read_geojson(write(
        feature({"height": 9}), feature({"natural": "tree", "height": "8 m"}, [25.01, 60.0],
                                        "Point"),
        feature({"building": "mast", "height": 40}, moved(SQUARE, 0.02)),
        feature({"natural": "tree_row"}, [[25.0, 60.01], [25.001, 60.01]], "LineString"),
        feature({"building": "tower", "height": 50}, moved(SQUARE, 0.03))))
    assert {b.kind: b.top_z for b in city.buildings[:4]} == {
        "building": 50.0, "tree": 8.0, "mast": 40.0}
    assert city.n_buildings == 2 and sum(city.height_sources.values()) == 2
    assert [b.kind for b in city.buildings] == ["building", "building", "tree", "mast", "tree"]
