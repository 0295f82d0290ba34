"""The command line as a user meets it: exit codes, one JSON object, errors that help."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.cli.main import main

HELSINKI = str(helsinki_file())
# Open ground at both ends, where a drone can take off and land.
ENDS = two_ends(voxelise(read_osm(HELSINKI)), 12.0, 500.0)
ROUTE = ("--from", "{},{},60".format(*ENDS[0]), "--to", "{},{},60".format(*ENDS[1]))


def run(*arguments, timeout=120, **options):
    code = "from parallel_city_ros.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], text=True,
                          capture_output=True, timeout=timeout, **options)


def here(capsys, monkeypatch, *arguments):
    """What ends before it works, in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["parallel-city", *map(str, arguments)])
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("it flew"))
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def osm(folder, *buildings):
    """An OpenStreetMap file of boxes (west, south, east, north in metres, height)."""
    nodes, ways = [], []
    for k, (w, s, e, n, height) in enumerate(buildings):
        corners = [(w, s), (e, s), (e, n), (w, n)]
        for c, (x, y) in enumerate(corners):
            nodes.append(f'<node id="{10 * k + c + 1}" version="1" lat="{60 + y / 111412:.8f}" '
                         f'lon="{25 + x / 55800:.8f}"/>')
        refs = "".join(f'<nd ref="{10 * k + c + 1}"/>' for c in (0, 1, 2, 3, 0))
        ways.append(f'<way id="{k + 1}" version="1">{refs}<tag k="building" v="yes"/>'
                    f'<tag k="height" v="{height}"/></way>')
    file = folder / "made.osm"
    file.write_text(f"<osm version='0.6'>{''.join(nodes)}{''.join(ways)}</osm>")
    return file


def test_help_names_every_command_and_is_quick_to_import(capsys, monkeypatch):
    shown = run("--help")
    assert shown.returncode == 0
    for name in ("demo", "doctor", "city", "plan", "fly"):
        assert name in shown.stdout
        assert here(capsys, monkeypatch, name, "--help")[0] == 0
    code = ("import sys; from parallel_city_ros.cli.main import main\n"
            "assert not {'numba', 'rclpy', 'matplotlib', 'open3d'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    file, picture = folder / "plan.json", folder / "plan.png"
    done = run("plan", HELSINKI, *ROUTE, "--budget", 400, "--seed", 2, "--json", "--output", file,
               "--picture", picture)
    assert done.returncode == 0, done.stderr
    return file, picture, json.loads(done.stdout)


def test_plan_writes_a_certified_plan_and_a_picture(planned):
    file, picture, told = planned
    assert told["status"] == "succeeded" and told["plan"]["certificate"]["valid"]
    assert json.loads(file.read_text()) == told["plan"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_route(planned, tmp_path, capsys, monkeypatch):
    """In another process than the first."""
    code, out, _ = here(capsys, monkeypatch, "plan", HELSINKI, *ROUTE, "--budget", 400, "--seed",
                        2, "--json", "-o", tmp_path / "again.json")
    assert code == 0 and json.loads(out)["plan"]["path"] == planned[2]["plan"]["path"]


def test_a_plan_is_flown(planned, tmp_path):
    done = run("fly", planned[0], "--speed-factor", 20, "--json", "-o", tmp_path / "flown.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == "completed" and told["comparison"]["within_tube"]
    assert told["patrol_distance_m"] == pytest.approx(planned[2]["plan"]["length_m"], rel=0.05)
    assert len(json.loads((tmp_path / "flown.json").read_text())["track"]) > 50


@pytest.mark.parametrize("arguments, words", [
    (("plan", "nowhere.osm", *ROUTE), "nowhere.osm"),
    (("plan", HELSINKI, "--from", "1,2", "--to", "3,4,5"), "three numbers"),
    (("plan", HELSINKI, "--from", "nan,2,3", "--to", "3,4,5"), "three numbers"),
    (("plan", HELSINKI, *ROUTE, "--drone-max-speed", "-3"), "Drone.max_speed"),
    (("plan", HELSINKI, *ROUTE, "--planner", "magic"), "de_aco_paper"),
    (("plan", HELSINKI, *ROUTE, "--budget", "0"), "evaluation_budget"),
    (("plan", HELSINKI, *ROUTE, "--resolution", "0"), "resolution"),
    (("plan", HELSINKI, "--from", "9999,0,60", "--to", "600,700,60"), "outside the map"),
    (("city", "info", "nowhere.pbf"), "nowhere.pbf"),
    (("fly", "nowhere.json"), "nowhere.json"), (("demo", "--city", "nowhere.osm"), "nowhere.osm")])
def test_bad_input_is_named_and_ends_with_2(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = here(capsys, monkeypatch, *arguments)
    assert code == 2 and words in err, err
    assert "Traceback" not in err and out == ""
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".json", ".part")]


def test_errors_are_one_json_object_too(tmp_path, capsys, monkeypatch):
    code, out, _ = here(capsys, monkeypatch, "fly", tmp_path / "no.json", "--json")
    assert code == 2 and "no.json" in json.loads(out)["error"]


def test_a_start_inside_a_building_names_it_and_a_safe_altitude(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = osm(tmp_path, (0, 0, 40, 40, 50), (300, 300, 320, 320, 10))
    code, _, err = here(capsys, monkeypatch, "plan", file, "--from", "20,20,30", "--to",
                        "200,200,60")
    assert code == 2 and "way/1" in err and "raise it to" in err, err
    safe = float(err.split("raise it to ")[1].split(" m")[0])
    code, _, err = here(capsys, monkeypatch, "plan", file, "--from", f"20,20,{safe}", "--to",
                        "200,200,60", "--budget", 100)
    assert code == 0, err
    assert "no drone can take off at the start" in err


def test_no_path_possible(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wall = osm(tmp_path, (0, 100, 400, 120, 200), (0, 0, 20, 20, 10), (380, 300, 400, 320, 10))
    code, out, _ = here(capsys, monkeypatch, "plan", wall, "--from", "200,50,60", "--to",
                        "200,200,60", "--budget", 60, "--time", 10, "--track-points", 8, "--json")
    assert code == 1
    assert json.loads(out)["status"] in ("no_valid_path", "timeout")
    assert not (tmp_path / "plan.json").exists()


def test_a_plan_of_another_city_is_not_flown(planned, tmp_path):
    other = osm(tmp_path, (0, 0, 40, 40, 50), (300, 300, 320, 320, 10))
    done = run("fly", planned[0], "--city", other)
    assert done.returncode == 1 and "another map" in done.stdout


def test_a_port_in_use_and_a_drone_that_is_not_there(planned, capsys, monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"udpin://127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = here(capsys, monkeypatch, "fly", planned[0], "--autopilot", address)
        assert code == 2 and str(taken.getsockname()[1]) in err
    code, _, err = here(capsys, monkeypatch, "fly", planned[0], "--autopilot", address,
                        "--connect-timeout-s", 1)
    assert code == 2 and "no autopilot was heard" in err


def test_doctor_names_what_is_there():
    done = run("doctor", "--json", env=os.environ | {"ROS_DOMAIN_ID": "7"})
    told = json.loads(done.stdout)
    assert done.returncode == (0 if not any(
        c["status"] == "fail" for c in told["checks"]) else 1)
    assert {c["status"] for c in told["checks"]} <= {"ok", "warn", "fail", "info"}


def test_ctrl_c_in_flight_brings_the_drone_home(planned, tmp_path):
    code = "from parallel_city_ros.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "fly", str(planned[0]), "--speed-factor", "20", "--json",
         "-o", str(tmp_path / "flown.json"), "--log", str(tmp_path / "log")], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline, log = time.monotonic() + 60.0, tmp_path / "log.jsonl"
    while not (log.exists() and '"on_patrol"' in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    told = json.loads(out)
    assert process.returncode == 1 and told["status"] == "cancelled", err
    assert "comes home" in err and "Traceback" not in err
    track = json.loads((tmp_path / "flown.json").read_text())["track"]
    assert max(row[3] for row in track) > 20 and track[-1][3] < 2
    assert max(abs(track[-1][k] - track[0][k]) for k in (1, 2)) < 5     # where it took off


def test_a_plan_whose_frame_was_changed_is_not_flown(planned, tmp_path):
    values = json.loads(planned[0].read_text())
    values["frame"]["latitude_deg"] += 0.0008
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps(values))
    done = run("fly", moved)
    assert done.returncode == 1 and "frame" in done.stdout


def test_a_plan_with_events_that_the_city_file_lacks_is_not_flown(
        planned, tmp_path, capsys, monkeypatch):
    values = json.loads(planned[0].read_text()) | {"map_update": 3}
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps(values))
    code, _, err = here(capsys, monkeypatch, "fly", newer)
    assert code == 2 and "update 3" in err


@pytest.mark.parametrize("arguments", [("plan", HELSINKI, *ROUTE, "-o", "no/where/p.json"),
                                       ("fly", "x.json", "-o", "no/where/f.json")])
def test_files_that_cannot_be_written_are_named_before_the_work(
        arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = here(capsys, monkeypatch, *arguments)
    assert code == 2 and "no/where" in err


def test_settings_that_leave_the_certified_tube_are_refused(planned):
    done = run("fly", planned[0], "--acceptance-radius", 60)
    assert done.returncode == 1 and "certified" in done.stdout
