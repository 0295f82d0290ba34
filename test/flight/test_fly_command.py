"""The commands fly, sim and replay as a user meets them, with logs and fleets."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely
from pymavlink import mavutil
from test_simulator import alive, wait_until

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.cli import fly
from parallel_city_ros.cli.fleet import _instances
from parallel_city_ros.cli.main import main
from parallel_city_ros.cpss.resume import rest_of_plan
from parallel_city_ros.errors import ConfigError, LinkError, SetupError
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.fleet import FleetDrone, FleetMission, Separation, crossings
from parallel_city_ros.flight.outcome import FlightStatus
from parallel_city_ros.flight.px4 import Px4Sitl, find_px4
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask

CITY = Path(__file__).parents[2] / "worlds" / "small_city.geojson"
ALTITUDE = 55.0
MAIN = [sys.executable, "-c", "from parallel_city_ros.cli.main import main; main()"]


def run(*arguments, **kinds):
    return subprocess.run([*MAIN, *map(str, arguments)], capture_output=True, text=True,
                          timeout=180, **kinds)


@pytest.fixture
def here(capsys, monkeypatch):
    """The same in this process, for what flies nothing: (exit code, stdout, stderr)."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["parallel-city", *map(str, arguments)])
        monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("it flew"))
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()
    return run


def save_plan(file, grid, start, goal, altitude=ALTITUDE):
    task = PatrolTask(start=(*start, altitude), goal=(*goal, altitude), track_points=6)
    path = np.linspace(task.start, task.goal, 8)
    certificate = certify(grid, task, path)
    assert certificate.valid, certificate.broken
    PatrolPlan(
        task=task, path=path, certificate=certificate, planner_id="by_hand", seed=1,
        objectives=Objectives(coverage_km2=0.1, carbon=1.0, noise_m=0.0, fitness=1.0),
        evaluations=1, coverage_floor_km2=0.0, map_hash=grid.map_hash, map_update=0,
        frame=grid.frame, resolution=grid.resolution, city_file=str(CITY)).save(file)
    return file


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Two plans that cross: there, and back 10 m lower."""
    folder = tmp_path_factory.mktemp("plans")
    grid = voxelise(read_city(CITY), 2.0)
    a, b = two_ends(grid, 12.0, 160.0)
    return (save_plan(folder / "there.json", grid, a, b),
            save_plan(folder / "back.json", grid, b, a, ALTITUDE - 10))


def test_a_flight_is_logged_and_told_again(plans, tmp_path, here):
    name = tmp_path / "flight"
    done = run("fly", plans[0], "--speed-factor", 20, "--log", name, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "completed", done.stderr
    told = json.loads(here("replay", f"{name}.jsonl", "--json")[1])
    assert [s["state"] for s in told["states"]] == [
        "disconnected", "ready", "arming", "taking_off", "on_patrol", "landing", "landed"]
    assert told["outcome"]["status"] == "completed" and told["breaches"] == []
    story = here("replay", f"{name}.jsonl")[1]
    assert "on patrol at (" in story and "completed: the patrol was flown to its end" in story

    # What ground stations read logs with reads ours, and it shows the flight.
    log = mavutil.mavlink_connection(f"{name}.tlog")
    heights = []
    while (message := log.recv_match(type="GLOBAL_POSITION_INT")) is not None:
        heights.append(message.relative_alt / 1000)
    assert max(heights) > ALTITUDE - 25 and heights[-1] < 2
    counted = json.loads(here("replay", f"{name}.tlog", "--json")[1])["messages"]
    assert counted["GLOBAL_POSITION_INT"] == len(heights) and counted["HEARTBEAT"] > 3
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station:
        station.bind(("127.0.0.1", 0))
        port = station.getsockname()[1]
        assert here("replay", f"{name}.tlog", "--send", f"127.0.0.1:{port}")[0] == 0
        station.setblocking(False)
        assert station.recv(4096)[0] == 0xFD


def test_after_a_change_of_the_battery_the_rest_is_flown(plans, tmp_path, here):
    """The battery brings it home; the same plan goes on where something is left to see."""
    first, second = tmp_path / "first", tmp_path / "second"
    done = run("fly", plans[0], "--speed-factor", 20, "--log", first, "--json",
               "--min-battery-percent", 99.8, "--reserve-battery-percent", 97.2)
    assert json.loads(done.stdout)["status"] == "returned", done.stderr
    assert "battery" in json.loads(done.stdout)["message"]
    done = run("fly", plans[0], "--speed-factor", 20, "--resume", f"{first}.jsonl", "--log",
               second, "--json")
    assert done.returncode == 0 and "resumed at waypoint" in done.stderr, done.stderr
    path = PatrolPlan.load(plans[0]).path
    flown = [json.loads(line) for line in second.with_suffix(".jsonl").read_text().splitlines()]
    start = next(line for line in flown if line["kind"] == "start")
    assert 3 <= len(start["path"]) < len(path) and np.allclose(
        start["path"], path[-len(start["path"]):])
    code, _, err = here("fly", plans[0], "--resume", f"{first}.jsonl", "--resume",
                        f"{second}.jsonl")
    assert code == 2 and "has been seen" in err


def test_the_simulated_drone_can_fly_into_the_city_of_its_plan(plans):
    """Something was built over the place where it takes off since the plan was certified."""
    plan, grid = PatrolPlan.load(plans[0]), voxelise(read_city(CITY), 2.0)
    start = plan.path[0]
    slab = shapely.Point(start[:2]).buffer(6.0), start[2] - 24, start[2] - 18
    with fly._start_autopilot("sim", plan, grid, start, 20.0, None, "", "sih") as drone:
        drone.rebuild(grid.with_prism(*slab))
        flown = fly._fly(plan, grid, FlightConfig(address=drone.address), None, False)
        outcome = fly._with_crash(flown, drone)
    assert outcome.status is FlightStatus.LANDED_EARLY
    assert outcome.message.endswith("it flew into something and fell")


def test_orders_on_standard_input_are_answered(plans, tmp_path):
    """As a fleet gives them: a waypoint is skipped, a plan replaced or refused with words."""
    rest = tmp_path / "rest.json"
    plan = PatrolPlan.load(plans[0])
    rest_of_plan(plan, voxelise(read_city(CITY), 2.0), 3).save(rest)
    with subprocess.Popen([*MAIN, "fly", str(plans[0]), "--lines", "--speed-factor", "8"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        asked, answers = [], {}
        for line in process.stdout:
            told = json.loads(line)
            if told["kind"] == "answer":
                answers[asked[-1]] = told["refusal"]
            elif told["kind"] == "progress" and len(asked) == len(answers) < 3 \
                    and told["state"] == "on_patrol":
                asked.append((f"replace {tmp_path / 'none.json'}", f"replace {rest}", "skip")[
                    len(asked)])
                process.stdin.write(asked[-1] + "\n")
                process.stdin.flush()
            elif len(answers) == 3 and told["kind"] == "progress":
                process.stdin.write("land\n")
                process.stdin.flush()
            elif told["kind"] == "outcome":
                break
        process.stdin.close()
        assert process.wait(60) == 1 and told["status"] == "landed_early"
    assert "none.json" in answers[asked[0]] and answers[asked[1]] == "" == answers[asked[2]]


def test_logs_that_are_none_are_named(tmp_path, here):
    cut, other = tmp_path / "cut.jsonl", tmp_path / "other.tlog"
    cut.write_text('{"time": 1.0, "kind": "start"}\n{"time": 2.0, "ki')
    assert here("replay", cut)[0] == 0, "a flight whose process was killed has a log too"
    other.write_bytes(b"PNG" * 20)
    for file in (other, tmp_path / "none.jsonl"):
        code, _, err = here("replay", file)
        assert code == 2 and file.name in err


def test_a_fleet_is_flown_apart(plans, tmp_path):
    mission = tmp_path / "mission.yaml"
    mission.write_text(
        f"separation_m: 20\ndrones:\n  one: {{plan: {plans[0]}}}\n"
        f"  two: {{plan: {plans[1]}, flight: {{cruise_speed: 7.0}}}}\n")
    done = run("fly", mission, "--speed-factor", 8, "--json", "--log", tmp_path / "logs")
    told = json.loads(done.stdout)
    assert {d["status"] for d in told["drones"].values()} <= {"completed", "returned"}, told
    assert told["drones"]["one"]["status"] == "completed", "the first has priority"
    assert told["closest_m"] > 5.0
    assert "come within" in done.stderr and "two: " in done.stderr
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {
        "one.jsonl", "one.tlog", "two.jsonl", "two.tlog"}


def test_a_fleet_of_px4s_is_flown(plans, tmp_path):
    try:
        find_px4()
    except SetupError as error:
        pytest.skip(str(error))
    mission = tmp_path / "mission.yaml"
    mission.write_text(
        f"drones:\n  one: {{plan: {plans[0]}, connection: px4}}\n"
        f"  two: {{plan: {plans[1]}, connection: px4, flight: {{cruise_speed: 6.0}}}}\n"
        f"  three: {{plan: {plans[0]}, connection: sim, start_after_s: 200}}\n")
    done = run("fly", mission, "--speed-factor", 6, "--json")
    told = json.loads(done.stdout)
    assert {d["status"] for d in told["drones"].values()} <= {"completed", "returned"}, told
    assert told["drones"]["one"]["status"] == "completed", told


def test_one_drones_failure_does_not_disturb_another(plans, tmp_path):
    mission = tmp_path / "mission.yaml"
    mission.write_text(
        f"drones:\n  gone: {{plan: {plans[1]}, connection: 'udpin://127.0.0.1:14999'}}\n"
        f"  there: {{plan: {plans[0]}}}\n")
    done = run("fly", mission, "--speed-factor", 20, "--json")
    told = json.loads(done.stdout)["drones"]
    assert done.returncode == 1
    assert told["there"]["status"] == "completed" and told["gone"]["status"] == "failed"
    assert "no autopilot was heard" in told["gone"]["message"]


@pytest.mark.parametrize("text, words", [
    ("drones: 3", "needs drones"), ("{", "YAML"),
    ("drones: {a: {}}", "a needs plan"),
    ("drones: {a: {plan: p.json, colour: red}}", "colour"),
    ("drones: {a: {plan: p.json, connection: nowhere}}", "connection must be"),
    ("drones: {a: {plan: p.json, start_after_s: -1}}", "start_after_s"),
    ("drones: {a: {plan: p.json, flight: {cruise_speed: -1}}}", "cruise_speed"),
    ("drones: {a: {plan: p.json}}\nseparation_m: 0", "separation_m"),
    ("drones: {a: {plan: p, connection: 'udpin://h:1'}, b: {plan: q, connection: 'udpin://h:1'}}",
     "two executors")])
def test_bad_missions_are_named(tmp_path, text, words):
    file = tmp_path / "mission.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        FleetMission.load(file)


def test_who_waits_for_whom():
    watch = Separation(["a", "b"], 20.0)

    def look(gap, state="on_patrol"):
        places = {"a": (np.zeros(3), "on_patrol"), "b": (np.array([gap, 0.0, 0.0]), state)}
        return [command[:2] for command in watch.look(places)]

    assert look(30) == []
    assert look(18) == [("b", "pause")] and look(17) == [] and look(22, "paused") == []
    assert look(27, "paused") == [("b", "resume")]
    assert look(9) == [("b", "return")] and look(8, "returning") == []
    assert watch.look({"a": (np.zeros(3), "on_patrol")}) == []


def test_routes_that_cross_are_told_before(plans):
    there, back = (PatrolPlan.load(p) for p in plans)
    assert "there and back come within" in crossings({"there": there, "back": back}, 20.0)[0]
    assert crossings({"there": there}, 20.0) == []


def test_sim_runs_drones_that_mavsdk_finds_and_ends_on_ctrl_c(here):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with subprocess.Popen([*MAIN, "sim", "--home", "60.17,24.94,17", "--drones", "2", "--port",
                           str(port), "--ground-port", "0", "--speed-factor", "5"],
                          stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline().startswith(b"ready")
        for k in (0, 1):
            with Autopilot() as autopilot:
                autopilot.connect(f"udpin://127.0.0.1:{port + k}", 15.0, system_id=k + 1)
                wait_until(lambda a=autopilot: a.snapshot.healthy)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(10) == 0
    assert here("sim")[0] == 2


def test_a_missing_px4_is_explained(plans, tmp_path, monkeypatch, here):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("PX4_BUILD", raising=False)
    with pytest.raises(SetupError, match="make px4_sitl"):
        find_px4()
    code, _, err = here("fly", plans[0], "--autopilot", "px4", "--px4", tmp_path)
    assert code == 2 and "holds no bin/px4" in err


def test_px4_is_started_at_the_citys_home_in_its_own_folder(tmp_path):
    """A program in its place tells how it was called."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "px4"
    told = tmp_path / "told"
    program.write_text("#!/bin/sh\necho \"$@\" $PX4_SIM_MODEL $PX4_HOME_LAT $PX4_HOME_ALT > "
                       f"{told}\nexec sleep 60\n")
    program.chmod(0o755)
    with Px4Sitl((60.17, 24.94, 17.0), build=str(tmp_path), instance=2) as px4:
        wait_until(lambda: told.exists() and told.read_text().endswith("\n"))
        assert told.read_text().split() == ["-i", "2", "-d", str(tmp_path / "etc"),
                                            "sihsim_quadx", "60.17", "17.0"]
        assert px4.address == "udpin://127.0.0.1:14542"
        pid = px4.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    program.write_text("#!/bin/sh\necho no such model\nexit 3\n")
    with pytest.raises(LinkError, match="no such model"):
        Px4Sitl((60.17, 24.94, 17.0), build=str(tmp_path)).__enter__()


def test_px4_ends_with_a_program_that_is_killed(tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "px4"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    code = ("import time\nfrom parallel_city_ros.flight.px4 import Px4Sitl\n"
            f"with Px4Sitl((60.17, 24.94, 17.0), build={str(tmp_path)!r}) as px4:\n"
            "    print(px4.pid, flush=True)\n    time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as started:
        pid = int(started.stdout.readline())
        started.kill()
    wait_until(lambda: not alive(pid))


def test_each_px4_of_a_fleet_has_ports_of_its_own():
    def drone(name, connection):
        return FleetDrone(name=name, plan_file=Path("plan.json"), connection=connection)

    fleet = [drone("a", "px4"), drone("b", "udpin://127.0.0.1:14541"), drone("c", "px4"),
             drone("d", "sim"), drone("e", "px4")]
    assert _instances(fleet) == {"a": 0, "c": 2, "e": 3}
    with pytest.raises(ConfigError, match="9 more instances"):
        _instances([*fleet, *(drone(f"x{k}", "px4") for k in range(7))])
