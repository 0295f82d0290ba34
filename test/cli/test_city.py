"""`parallel-city city` as a user meets it: what is told, drawn, exported, merged and tabled."""

import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio

from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.cli.main import main
from parallel_city_ros.settings import flatten

HELSINKI = str(helsinki_file())
SMALL_CITY = Path(__file__).parents[2] / "worlds" / "small_city.geojson"
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FIRST_BYTES = {".sdf": b"<?xml", ".ply": b"ply\n", ".glb": b"glTF", ".bt": b"# Octomap",
               ".geojson": b'{"type"', ".png": b"\x89PNG"}
READING = ("info", "preview", "export", "merge")


def run(*arguments, cwd=None):
    """(returncode, stdout, stderr) of what is typed, in this process: another one would import
    everything again."""
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr(sys, "argv", ["parallel-city", "city", *map(str, arguments)])
        patched.chdir(cwd or before)
        with pytest.raises(SystemExit) as ended:
            main()
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(),
                           stderr=err.getvalue())


def geojson(path, *boxes, **more):
    """A city of boxes (west, south, east, north in metres around 60 N 25 E, properties)."""
    def ring(w, s, e, n):
        return [[25 + x / 55800, 60 + y / 111412]
                for x, y in ((w, s), (e, s), (e, n), (w, n), (w, s))]
    features = [{"type": "Feature", "id": f"{path.stem}/{k}", "properties": properties,
                 "geometry": {"type": "Polygon", "coordinates": [ring(*box)]}}
                for k, (*box, properties) in enumerate(boxes)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features,
                                "origin": [25.0, 60.0, 0.0]} | more))
    return path


def hill(path):
    """Terrain that rises from 2 to 12 m eastwards, around 60 N 25 E."""
    heights = np.tile(np.linspace(2, 12, 60, dtype=np.float32), (60, 1))
    transform = rasterio.transform.from_bounds(24.998, 59.999, 25.004, 60.003, 60, 60)
    with rasterio.open(path, "w", driver="GTiff", width=60, height=60, count=1, dtype="float32",
                       crs="EPSG:4326", transform=transform) as file:
        file.write(heights, 1)
    return path


def two_houses(folder):
    return geojson(folder / "houses.geojson", (0, 0, 30, 20, {"building": "yes", "height": 14}),
                   (50, 40, 70, 70, {"building": "yes"}), attribution="© the town")


# --- flags ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", READING)
def test_every_setting_of_reading_is_a_flag_of_every_command(command):
    shown = run(command, "--help").stdout
    for setting in flatten(ReadOptions):
        assert re.search(rf"{setting.flag}\b", shown), setting.name
    for flag in ("--terrain", "--canopy", "--resolution", "--assumed-margin", "--json"):
        assert flag in shown
    assert "parallel-city city" in shown        # an example


def test_help_is_quick_to_show():
    code = ("import sys; from parallel_city_ros.cli.city import city\n"
            "assert not {'numba', 'numpy', 'matplotlib', 'open3d', 'shapely'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


# --- info -------------------------------------------------------------------------------------


def test_info_tells_what_is_known_and_what_is_assumed(tmp_path):
    done = run("info", two_houses(tmp_path), "--json")
    told = json.loads(done.stdout)
    assert told["buildings"] == 2 and told["heights"] == {"measured": 1, "levels": 0,
                                                          "assumed": 1}
    city = read_city(tmp_path / "houses.geojson")
    grid = voxelise(city, 2.0)
    assert told["map_hash"] == grid.map_hash and told["shape"] == list(grid.shape)
    assert told["occupied_voxels"] == len(grid.voxels()) and told["memory_bytes"] == grid.nbytes
    assert told["origin"] == {"latitude_deg": 60.0, "longitude_deg": 25.0, "altitude_m": 0.0}
    assert told["ground"] == "flat at z = 0 m" and told["attribution"] == "© the town"
    words = run("info", tmp_path / "houses.geojson").stdout
    for part in ("2 buildings", "1 measured", "1 assumed (14 m)", "flat at", grid.map_hash,
                 "60.0000000, 25.0000000", "EPSG:4326", "© the town"):
        assert part in words, part


def test_info_of_files_that_complete_each_other(tmp_path):
    houses, ground = two_houses(tmp_path), hill(tmp_path / "dem.tif")
    told = json.loads(run("info", houses, "--terrain", ground, "--json", "--resolution", 1,
                          "--assumed-margin", 5).stdout)
    assert told["ground"].startswith("terrain of ") and told["resolution_m"] == 1.0
    city = read_city(houses, terrain=ground)
    assert told["map_hash"] == voxelise(city, 1.0, assumed_margin=5.0).map_hash
    assert told["map_hash"] != voxelise(city, 1.0).map_hash
    told = json.loads(run("info", houses, ground, "--canopy", hill(tmp_path / "canopy.tif"),
                          "--json").stdout)
    assert [s["kind"] for s in told["surfaces"]] == ["tree"]


# --- export -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending, key", [(".sdf", "prisms"), (".ply", "triangles"),
                                         (".glb", "triangles"), (".bt", "voxels"),
                                         (".geojson", "features"), (".png", None)])
def test_export_goes_by_the_ending(ending, key, tmp_path):
    output = tmp_path / "out" / f"city{ending.upper()}"
    output.parent.mkdir()
    done = run("export", two_houses(tmp_path), "-o", output, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert told["files"] == [str(output)] and list(output.parent.iterdir()) == [output]
    assert key is None or told["counts"][key] > 0
    assert output.read_bytes().startswith(FIRST_BYTES[ending])


def test_a_world_on_a_hill_has_its_ground_beside_it(tmp_path):
    output = tmp_path / "out" / "city.sdf"
    output.parent.mkdir()
    done = run("export", two_houses(tmp_path), "--terrain", hill(tmp_path / "dem.tif"),
               "-o", output)
    assert done.returncode == 0 and "boxes" in done.stdout and "not in it" in done.stderr
    (uri,) = {u.text for u in ElementTree.parse(output).iter("uri")}
    assert sorted(p.name for p in output.parent.iterdir()) == sorted(("city.sdf", uri))


def test_export_says_what_the_format_cannot_hold(tmp_path):
    done = run("export", two_houses(tmp_path), "-o", tmp_path / "city.bt")
    assert "--origin 60.0,25.0,0.0" in done.stderr and "voxels" in done.stdout


# --- preview ----------------------------------------------------------------------------------


def test_preview_with_zones(tmp_path):
    zones = geojson(tmp_path / "zones.geojson", (10, 10, 60, 50, {"zone": "privacy",
                                                                 "name": "No filming"}))
    plain, drawn = tmp_path / "plain.png", tmp_path / "zones.png"
    assert run("preview", two_houses(tmp_path), "-o", plain).returncode == 0
    done = run("preview", tmp_path / "houses.geojson", "--zones", zones, "-o", drawn, "--json")
    assert json.loads(done.stdout)["files"] == [str(drawn)]
    assert drawn.read_bytes().startswith(b"\x89PNG") and drawn.read_bytes() != plain.read_bytes()
    for text in ("{cut", '{"features": [3]}', '{"features": [{"properties": {"zone": "what"}}]}'):
        zones.write_text(text)
        done = run("preview", tmp_path / "houses.geojson", "--zones", zones, "-o",
                   tmp_path / "never.png")
        assert done.returncode == 2 and "zones.geojson" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and not (tmp_path / "never.png").exists()


# --- merge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".geojson", ".ply", ".glb", ".bt"])
def test_merged_files_are_one_city_that_is_read_again(ending, tmp_path):
    more = geojson(tmp_path / "more.geojson", (100, 0, 120, 20, {"building": "yes",
                                                                "height": 30}))
    output = tmp_path / f"both{ending}"
    done = run("merge", two_houses(tmp_path), more, "-o", output, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    both = voxelise(read_city([tmp_path / "houses.geojson", more]), 2.0)
    again = voxelise(read_city(output, ReadOptions(origin="60.0,25.0,0.0")), 2.0)
    assert len(again.voxels()) == len(both.voxels()) > 0
    assert told["read_back"]["voxels_missing"] == told["read_back"]["voxels_more"] == 0
    assert told["read_back"]["prisms"] == (3 if ending == ".geojson" else 0)
    if ending == ".geojson":        # 14 m were assumed for one; of all three it would be 22 m
        assert not told["lost"]
    else:
        assert any("--origin" in words for words in told["lost"])


def test_merging_says_what_got_lost(tmp_path):
    done = run("merge", two_houses(tmp_path), hill(tmp_path / "dem.tif"), "-o",
               tmp_path / "city.geojson")
    assert done.returncode == 0 and "not in it: the ground" in done.stderr
    assert "read back: 2 buildings" in done.stdout


# --- table ------------------------------------------------------------------------------------


def test_the_table_of_a_folder(tmp_path):
    (tmp_path / "maps").mkdir()
    two_houses(tmp_path / "maps")
    hill(tmp_path / "maps" / "dem.tif")
    (tmp_path / "maps" / "README.md").write_text("Maps of the town.")
    done = run("table", tmp_path / "maps", "--kind", "dem.tif=terrain")
    assert done.returncode == 0, done.stderr
    head, rule, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in (head, rule, *rows)}) == 1
    assert [row.split(" | ")[0] for row in rows] == ["| dem.tif", "| houses.geojson"]
    assert "2 buildings | 1 / 0 / 1" in rows[1] and "terrain of" in rows[0]
    assert "- dem.tif: read with kind terrain" in done.stdout
    assert "README.md" in done.stderr and str(tmp_path) not in done.stdout


def test_a_file_that_cannot_be_read_is_a_row_that_says_why(tmp_path):
    two_houses(tmp_path)
    hill(tmp_path / "dem.tif")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "dem.tif").read_bytes()[:200])
    done = run("table", tmp_path, "--json")
    told = {row["file"]: row for row in json.loads(done.stdout)["files"]}
    assert done.returncode == 1 and told["houses.geojson"]["buildings"] == 2
    assert "cut.tif" in told["cut.tif"]["error"] and str(tmp_path) not in told["cut.tif"]["error"]
    assert "| cut.tif | not read: " in run("table", tmp_path).stdout


@pytest.mark.skipif(not DATA.exists(), reason="no ../shared/data")
def test_the_document_has_the_table_of_the_sample_files():
    document = (Path(__file__).parents[2] / "doc" / "cities.md").read_text()
    names = set(re.findall(r"^\| (\S+\.\w+) \|", document, re.MULTILINE))
    assert {p.name for p in DATA.iterdir() if p.suffix != ".md"} <= names


def test_the_document_names_every_format_and_flag():
    document = (Path(__file__).parents[2] / "doc" / "cities.md").read_text()
    from parallel_city_ros.city.export import FORMATS
    for ending in (*FORMATS, ".png"):
        assert f"`{ending}`" in document
    for setting in flatten(ReadOptions):
        assert f"`{setting.flag}" in document


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, words", [
    (("export", HELSINKI, "-o", "out.xyz"), ".sdf, .ply, .glb, .bt, .geojson, .png"),
    (("export", HELSINKI, "-o", "out"), "names no format"),
    (("merge", HELSINKI, "-o", "out.sdf"), ".geojson"),
    (("preview", HELSINKI, "-o", "out.jpg"), ".png"),
    (("export", HELSINKI, "-o", "no/where/out.ply"), "no/where"),
    (("preview", HELSINKI, "-o", "no/where/out.png"), "no/where"),
    (("merge", HELSINKI, "-o", "no/where/out.bt"), "no/where"),
    (("export", HELSINKI, "-o", "."), "directory"),
    (("info", HELSINKI, "--resolution", "0.001"), "use a resolution of"),
    (("export", HELSINKI, "-o", "out.bt", "--resolution", "0.001"), "use a resolution of"),
    (("preview", HELSINKI, "-o", "out.png", "--resolution", "nan"), "resolution"),
    (("info", HELSINKI, "--assumed-margin", "-1"), "assumed-margin"),
    (("info", HELSINKI, "nowhere.tif"), "nowhere.tif"),
    (("info", HELSINKI, "--terrain", "nowhere.tif"), "nowhere.tif"),
    (("info",), "FILES"),
    (("table", "nowhere"), "nowhere"),
    (("table", "."), "no city files"),
    (("table", ".", "--crs", "EPSG:7415"), "NAME=VALUE"),
    (("table", ".", "--crs", "no.laz=EPSG:7415"), "NAME=VALUE")])
def test_bad_input_is_named_and_ends_with_2(arguments, words, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_city_without_buildings_has_no_geojson(tmp_path):
    done = run("export", hill(tmp_path / "dem.tif"), "-o", "out.geojson", "--json", cwd=tmp_path)
    assert done.returncode == 2 and "no buildings" in json.loads(done.stdout)["error"]
    assert [p.name for p in tmp_path.iterdir()] == ["dem.tif"]


def test_a_world_of_a_real_city_at_any_resolution_is_written_from_its_prisms(tmp_path):
    done = run("export", HELSINKI, "-o", "city.sdf", "--resolution", "0.001", "--json",
               cwd=tmp_path)
    assert json.loads(done.stdout)["counts"] == {"prisms": len(read_osm(HELSINKI).buildings)}
