"""plan-fleet, plan --sorties and plan --departure as a user meets them."""

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.cli.main import main
from parallel_city_ros.flight.fleet import FleetMission
from parallel_city_ros.patrol.certificate import noise_of
from parallel_city_ros.patrol.departure import departure_window
from parallel_city_ros.patrol.explain import explain
from parallel_city_ros.patrol.plan import PatrolPlan

CITY = Path(__file__).parents[2] / "worlds" / "small_city.geojson"
GRID = voxelise(read_city(CITY), 2.0)
ENDS = ["{:.1f},{:.1f},70".format(*p) for p in two_ends(GRID, 12.0, 200.0)]
QUICK = ("--budget", 300, "--track-points", 16)


def run(*arguments):
    """In this process, which has everything compiled."""
    return CliRunner().invoke(main, list(map(str, arguments)))


def fly(*arguments):
    """In a process of its own: flights end theirs."""
    code = "from parallel_city_ros.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, "fly", *map(str, arguments)], text=True,
                          capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet") / "out"
    middle = "{:.0f},{:.0f},70".format(*(
        GRID.origin[:2] + np.array(GRID.surface.shape) * GRID.resolution / 2))
    done = run("plan-fleet", CITY, "--base", middle, "--drones", 2, "--coverage-floor", 0.1,
               "--separation-m", 12, *QUICK, "--json", "-o", folder)
    assert done.exit_code == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_a_fleet_has_plans_a_mission_a_certificate_and_a_picture(fleet):
    folder, told = fleet
    assert {p.name for p in folder.iterdir()} == {
        "drone_1.json", "drone_2.json", "fleet.json", "fleet.png", "mission.yaml"}
    assert told["status"] == "succeeded" and told["fleet"]["separation"]["valid"]
    assert told["fleet"] == json.loads((folder / "fleet.json").read_text())
    mission = FleetMission.load(told["mission_file"])
    assert mission.separation_m == 12.0
    for drone in mission.drones:
        found = PatrolPlan.load(drone.plan_file)
        assert found.certificate.valid and found.city_file == str(CITY)
    assert imread(folder / "fleet.png")[..., :3].std() > 0.02


def test_the_mission_is_flown(fleet):
    done = fly(fleet[1]["mission_file"], "--speed-factor", 8, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert {d["status"] for d in told["drones"].values()} == {"completed"}
    assert told["closest_m"] > 6.0


@pytest.mark.parametrize("arguments, words", [
    ((), "either --base"), (("--base", "9,9,60"), "--drones"),
    (("--base", "9,9,60", "--drones", 2), "coverage_floor"),
    (("--route", "9,9,60", "99,99,60", "--visit", "5,5,60"), "--visit goes with --base"),
    (("--route", ENDS[0], ENDS[1], "--route", ENDS[0], "99,99,60"), "drones 1 and 2 stand")])
def test_bad_fleets_are_named(arguments, words, tmp_path):
    done = run("plan-fleet", CITY, *arguments, "-o", tmp_path / "out")
    assert done.exit_code == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_sorties_are_a_plan_each(tmp_path):
    done = run("plan", CITY, "--from", ENDS[0], "--to", ENDS[0], "--coverage-floor", 0.5,
               "--drone-endurance-s", 70, "--sorties", 6, *QUICK, "--json", "-o",
               tmp_path / "round.json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and "needed" in told["message"], done.stderr
    assert len(told["plan_files"]) >= 2
    for file in told["plan_files"]:
        assert PatrolPlan.load(file).certificate.valid


def test_noise_sensitive_zones_weigh_on_the_plan(tmp_path):
    zones, file = tmp_path / "zones.geojson", tmp_path / "plan.json"
    lat, lon, _ = GRID.frame.to_wgs84((*GRID.origin[:2], 0.0))
    zones.write_text(json.dumps({"type": "FeatureCollection", "features": [{
        "type": "Feature", "id": "town", "geometry": {"type": "Point", "coordinates": [lon, lat]},
        "properties": {"zone": "noise_sensitive", "radius": 5000}}]}))
    route = ("--from", ENDS[0], "--to", ENDS[1], *QUICK, "--zones", zones, "--departure", "now",
             "-o", file, "--json")
    done = run("plan", CITY, *route)
    assert done.exit_code == 0 and "--noise-model level" in done.stderr
    done = run("plan", CITY, *route, "--noise-model", "level", "--threads", 2, "--explain")
    assert done.exit_code == 0 and "have no say" not in done.stderr, done.stderr
    found = PatrolPlan.load(file)
    once = noise_of(GRID, found.task, found.path)
    assert once > 0 and found.objectives.noise_m == pytest.approx(10 * once)
    louder = sum(leg["noise_m"] for leg in json.loads(done.stdout)["legs"])
    assert louder == pytest.approx(10 * sum(
        leg.noise_m for leg in explain(GRID, found.task, found.path)))


def test_a_plan_for_another_day_is_not_flown_today(tmp_path):
    zones = tmp_path / "zones.geojson"
    lat, lon, _ = GRID.frame.to_wgs84((*GRID.origin[:2], 0.0))
    zones.write_text(json.dumps({"type": "FeatureCollection", "features": [{
        "type": "Feature", "id": "fair", "geometry": {
            "type": "Point", "coordinates": [lon, lat]},
        "properties": {"zone": "no_fly", "radius": 10, "hours": "08:00-12:00"}}]}))
    file = tmp_path / "plan.json"
    route = ("--from", ENDS[0], "--to", ENDS[1], *QUICK, "--zones", zones)
    done = run("plan", CITY, *route, "--departure", "2031-05-05T10:00Z", "-o", file)
    assert done.exit_code == 0 and "takes off from 2031-05-0" in done.stdout, done.stderr
    flown = fly(file, "--speed-factor", 20)
    assert flown.returncode == 1 and "certified for a take-off" in flown.stdout
    fleet = ("--route", *ENDS, "--zones", zones)
    for more, words in (((), "belong together"), (("--departure", "noon"), "ISO 8601"),
                        (("--departure", "2031-05-05T10:00"), "time zone")):
        for command in (("plan", CITY, *route, *more, "-o", file),
                        ("plan-fleet", CITY, *fleet, *more, "-o", tmp_path / "fleet")):
            done = run(*command)
            assert done.exit_code == 2 and words in done.stderr
    done = run("plan-fleet", CITY, *fleet, "--departure", "2031-05-05T10:00Z", *QUICK,
               "-o", tmp_path / "fleet")
    assert done.exit_code == 0, done.stderr
    window = departure_window(PatrolPlan.load(tmp_path / "fleet" / "drone_1.json").certificate)
    assert window[0] < datetime(2031, 5, 5, 10, tzinfo=timezone.utc) < window[1]
    assert os.path.exists(file)
