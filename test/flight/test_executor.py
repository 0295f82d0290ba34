"""Whole flights: real MAVSDK, real MAVLink, a simulated PX4 in its own process."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from patrols import BRISK, PATIENT, crane, make_plan
from test_simulator import wait_until

from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import LinkError, RefusedError
from parallel_city_ros.flight import rerouting
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.mission import patrol_mission
from parallel_city_ros.flight.outcome import FlightStatus, patrol_distance
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.flight.state import FlightState
from parallel_city_ros.geo import LocalFrame

GOAL_SLACK, TUBE = 3.0, 2.0
# An executor in a process of its own, which may be killed: plan and grid, address.
EXECUTOR = (
    "import pickle, sys\n"
    "from parallel_city_ros.flight.autopilot import Autopilot\n"
    "from parallel_city_ros.flight.config import FlightConfig\n"
    "from parallel_city_ros.flight.executor import PatrolFlight\n"
    "plan, grid = pickle.load(open(sys.argv[1], 'rb'))\n"
    "with Autopilot() as autopilot:\n"
    "    autopilot.connect(sys.argv[2], 15.0)\n"
    "    PatrolFlight(plan, grid, autopilot, FlightConfig()).run(\n"
    "        lambda p: print(p.state.value, p.waypoint, flush=True))\n")


@pytest.fixture(scope="module")
def standing(grid):
    """A drone that does not leave the ground: all tests of what is refused share it."""
    lat, lon, _ = grid.frame.to_wgs84((30.0, 50.0, 0.0))
    with SimulatedAutopilot((lat, lon, 17.0), speed_factor=20.0, seed=3,
                            options=PATIENT) as simulator, Autopilot() as autopilot:
        autopilot.connect(simulator.address, 15.0)
        yield simulator, autopilot


@pytest.fixture
def stay(grid, plan, standing):
    """stay(fault, undo, **config): the outcome and all progress of a flight that is not begun."""

    def run(fault="", undo="", cancelled=None, **config):
        simulator, autopilot = standing
        seen = []
        if fault:
            simulator.inject(fault)
        try:
            outcome = PatrolFlight(plan, grid, autopilot, FlightConfig(**config)).run(
                seen.append, cancelled)
        finally:
            if undo:
                simulator.inject(undo)
                wait_until(lambda: autopilot.snapshot.healthy and not autopilot.snapshot.armed
                           and autopilot.snapshot.battery_percent > 90)
        assert len(outcome.flown) == 0 and FlightState.TAKING_OFF not in states(seen)
        return outcome, seen

    return run


def states(seen):
    order = []
    for progress in seen:
        if not order or order[-1] is not progress.state:
            order.append(progress.state)
    return order


def distance_from_legs(points, path):
    """(N,) metres from each point to the nearest leg, in space."""
    a, leg = path[:-1], np.diff(path, axis=0)
    t = np.einsum("nij,ij->ni", points[:, None] - a, leg) / (leg ** 2).sum(1)
    nearest = a + np.clip(t, 0, 1)[..., None] * leg
    return np.linalg.norm(points[:, None] - nearest, axis=2).min(1)


def on_patrol(points, path):
    first = np.argmin(np.linalg.norm(points - path[0], axis=1))
    last = np.argmin(np.linalg.norm(points - path[-1], axis=1))
    return points[first:last + 1]


def ended_at(outcome, place):
    return np.linalg.norm(outcome.flown[-1, 1:3] - place) < GOAL_SLACK \
        and abs(outcome.flown[-1, 3] - 5.0) < 1.0


def test_patrols_are_flown_there_and_back_as_planned(grid, plan, drone):
    """The second from where the first landed, over which PX4 has not set home yet."""
    way_back = make_plan(grid, start=plan.task.goal, goal=plan.task.start)
    with drone() as (_, autopilot):
        own = autopilot.get_parameter("GF_MAX_HOR_DIST", float)
        fences, armed_in = [], []
        for patrol in (plan, way_back):
            seen = []

            def on_progress(progress, seen=seen):
                if progress.state is FlightState.ARMING and seen[-1].state is not progress.state:
                    armed_in.append(autopilot.snapshot.flight_mode)
                if progress.state is FlightState.LANDING and seen[-1].state is not progress.state:
                    fences.append(autopilot.get_parameter("GF_MAX_HOR_DIST", float))
                seen.append(progress)

            outcome = PatrolFlight(patrol, grid, autopilot, FlightConfig(battery_wh=70.0)).run(
                on_progress)
            judge_a_whole_patrol(patrol, outcome, seen)
            if patrol is plan:
                old_home = grid.frame.to_enu(*autopilot.snapshot.home[:2])
                assert np.hypot(*(old_home[:2] - (30.0, 50.0))) < 1.0, "else nothing is tested"
                first_end = outcome.flown[-1]
        # After the first PX4 was in mission mode again, in which it takes off as soon as it arms.
        assert armed_in == ["HOLD", "HOLD"]
        here = seen[0].position
        assert np.linalg.norm(here[:2] - first_end[1:3]) < 1.0 and here[2] == 5.0
        new_home = grid.frame.to_enu(*autopilot.snapshot.home[:2])
        assert np.hypot(*(new_home[:2] - plan.path[-1, :2])) < GOAL_SLACK
        # The fence was drawn in again around the new home.
        reach = np.hypot(*(way_back.path - new_home)[:, :2].T).max()
        assert reach + 50.0 <= fences[1] <= reach + 53.0
        assert autopilot.get_parameter("GF_MAX_HOR_DIST", float) == own, "given back"


def judge_a_whole_patrol(plan, outcome, seen):
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    assert states(seen) == [FlightState.DISCONNECTED, FlightState.READY, FlightState.ARMING,
                            FlightState.TAKING_OFF, FlightState.ON_PATROL, FlightState.LANDING,
                            FlightState.LANDED]
    assert outcome.patrol_distance_m == pytest.approx(plan.length_m, rel=0.05)
    assert outcome.distance_m > outcome.patrol_distance_m + 60      # up and down
    assert ended_at(outcome, plan.path[-1, :2])
    flown = outcome.flown[:, 1:]
    assert distance_from_legs(on_patrol(flown, plan.path), plan.path).max() < TUBE
    assert outcome.flown[:, 3].max() < plan.path[:, 2].max() + TUBE
    assert outcome.duration_s > plan.length_m / 8.0
    assert (np.diff(outcome.flown[:, 0]) >= 0).all()
    assert 0 < outcome.energy_wh < 20
    waypoints = [p.waypoint for p in seen if p.state is FlightState.ON_PATROL]
    assert waypoints == sorted(waypoints) and waypoints[-1] == len(plan.path) - 1
    assert seen[-1].waypoints == len(plan.path)


def test_a_round_trip_has_a_length():
    ring = np.array([(0, 0, 9), (50, 0, 9), (50, 50, 9), (0, 50, 9), (0, 0, 9)], float)
    flown = np.column_stack([np.arange(7), np.vstack([(0, 0, 0), ring, (0, 0, 0)])])
    assert patrol_distance(flown, ring) == pytest.approx(200.0)


def test_pause_and_resume_and_a_crane_behind(grid, plan, drone):
    """The patrol goes on, and the way home is now above the crane."""
    resumed, behind = threading.Event(), crane(grid, *plan.path[1, :2], 90.0)
    stray = replace(crane(grid, *plan.path[8, :2]), base_hash="0" * 64)

    def on_progress(progress):
        seen.append(progress)
        if progress.state is FlightState.ON_PATROL and progress.waypoint == 4 \
                and not resumed.is_set():
            flight.update_map(behind)
            flight.update_map(stray)    # of another city: would bar the way
            flight.pause()
        elif progress.state is FlightState.PAUSED:
            resumed.set()
            flight.resume()
        elif progress.state is FlightState.LANDING:
            on_board.update({name: autopilot.get_parameter(name, float)
                             for name in ("RTL_RETURN_ALT", "GF_MAX_VER_DIST")})

    seen, on_board = [], {}
    with drone() as (_, autopilot):
        flight = PatrolFlight(plan, grid, autopilot, FlightConfig(progress_period_s=0.05))
        outcome = flight.run(on_progress)
        altitude, ceiling = on_board["RTL_RETURN_ALT"], on_board["GF_MAX_VER_DIST"]
        assert autopilot.get_parameter("RTL_RETURN_ALT", float) == 60.0, "its own again"
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    assert FlightState.PAUSED in states(seen)
    assert states(seen)[-1] is FlightState.LANDED and ended_at(outcome, plan.path[-1, :2])
    assert 85 + 5 + 2 + 5 <= altitude < 85 + 5 + 2 + 5 + 2 < ceiling


def distance_from_box(points, x, y, top, half=5.0):
    """(N,) metres from a crane of the twin, which fills the voxels of 2 m that it touches."""
    lower = np.floor((np.array([x, y]) - half) / 2) * 2
    upper = np.ceil((np.array([x, y]) + half) / 2) * 2
    level = np.maximum(np.maximum(lower - points[:, :2], points[:, :2] - upper), 0)
    return np.hypot(np.hypot(*level.T), np.maximum(points[:, 2] - top, 0))


def test_cranes_on_the_rest_of_the_route_and_on_the_way_home(grid, plan, fly):
    ahead, behind = plan.path[8, :2], np.array([66.0, 66.0])
    twin = crane(crane(grid, *ahead), *behind, 50.0)
    appeared = []

    def act(flight, progress, _):
        if progress.waypoint >= 5 and not appeared:
            appeared.append(progress.vehicle_time_s)
            flight.update_map(twin)
        elif progress.state is FlightState.RETURNING and len(appeared) == 1:
            appeared.append(progress.vehicle_time_s)
            flight.update_map(crane(twin, *behind, 80.0))   # and it grows

    outcome, seen = fly(act=act)
    assert outcome.status is FlightStatus.RETURNED, outcome.message
    assert "map update 3: a building or event 96 m high stands 0 m from" in outcome.message
    assert FlightState.RETURNING in states(seen) and ended_at(outcome, (30.0, 50.0))
    after = outcome.flown[outcome.flown[:, 0] >= appeared[0], 1:]
    for place, top in ((ahead, 101.0), (behind, 81.0)):
        assert distance_from_box(after, *place, top).min() >= plan.task.clearance_horizontal
    assert after[:, 2].max() > 81.0 + plan.task.clearance_vertical


def test_a_blocked_route_is_waited_at_until_the_map_is_free_and_cancel_comes_home(
        grid, plan, fly):
    barred = crane(grid, *plan.path[8, :2])
    free = replace(grid, map_update=barred.map_update + 1, base_hash=grid.map_hash)
    asked, went_on = [], threading.Event()

    def act(flight, progress, _):
        if progress.waypoint == 3 and not asked:
            asked.append("barred")
            flight.update_map(barred)
        elif progress.state is FlightState.PAUSED:
            asked.append("resume")
            flight.resume()             # not yet
            if asked.count("resume") == 3:
                flight.update_map(free)
        elif "resume" in asked and progress.state is FlightState.ON_PATROL:
            went_on.set()

    outcome, seen = fly(act=act, blocked_action="pause", cancelled=went_on.is_set)
    assert outcome.status is FlightStatus.CANCELLED, outcome.message
    assert asked.count("resume") > 3 and states(seen).count(FlightState.PAUSED) == 1
    assert FlightState.RETURNING in states(seen) and seen[-1].state is FlightState.LANDED
    assert ended_at(outcome, (30.0, 50.0)), outcome.flown[-1]


def test_cancel_before_take_off_flies_nothing(stay):
    outcome, _ = stay(cancelled=lambda: True)
    assert outcome.status is FlightStatus.CANCELLED


def test_landing_on_request_is_here_and_now(plan, fly):
    def act(flight, progress, _):
        if progress.waypoint >= 2:
            flight.land()

    outcome, _ = fly(act=act)
    assert outcome.status is FlightStatus.LANDED_EARLY
    assert abs(outcome.flown[-1, 3] - 5.0) < 1.0
    assert not ended_at(outcome, plan.path[-1, :2]) and not ended_at(outcome, (30.0, 50.0))


@pytest.mark.parametrize("options, fault, goal, words", [
    (("--lock-params",), "", (20.0, 280.0, 60.0), "do not allow it"),
    ((), "link_loss s=4", (60.0, 250.0, 40.0), "the old plan is flown on")], ids=["fence", "link"])
def test_a_plan_that_cannot_be_replaced_is_flown_on(grid, plan, fly, options, fault, goal, words):
    """The fence cannot be widened; the link is lost while the new mission is sent."""
    start = tuple(plan.path[3])
    other = make_plan(grid, start=start, goal=goal, path=np.linspace(start, goal, 12))
    asked = []

    def act(flight, progress, simulator):
        if progress.state is FlightState.ON_PATROL and progress.waypoint in (1, 2) and not asked:
            simulator.inject("speed 3")     # there is time to fail
            if fault:
                simulator.inject(fault)
            asked.append(flight.replace(other))
        elif len(asked) == 1 and asked[0].done():
            asked.append("fast")
            simulator.inject("speed 20")

    # However far it flies while a loaded machine sends the mission.
    outcome, _ = fly(*options, act=act, link_timeout_s=15.0, mode_timeout_s=2.0,
                     max_join_distance=400.0, progress_period_s=0.02)
    assert words in asked[0].result(1.0)
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    assert ended_at(outcome, plan.path[-1, :2])


def test_a_plan_that_does_not_hold_replaces_nothing(plan, fly):
    """It is not even rehearsed."""
    path, asked = plan.path.copy(), []
    path[5] = np.nan

    def act(flight, progress, _):
        if progress.state is FlightState.ON_PATROL and not asked:
            asked.append(flight.replace(replace(plan, path=path)))

    outcome, _ = fly(act=act)
    assert "does not hold" in asked[0].result(1.0)
    assert outcome.status is FlightStatus.COMPLETED, outcome.message


def test_a_flight_is_watched_while_another_plan_is_rehearsed(grid, plan, fly, monkeypatch):
    """However long that takes: it is paused, and a newer plan or a return goes before."""
    other, speeds = make_plan(grid, start=tuple(plan.path[3])), rerouting.leg_speeds
    ended, asked = threading.Event(), []

    def for_ever(path, *args):
        if path is other.path:
            assert ended.wait(60.0)
        return speeds(path, *args)

    def act(flight, progress, _):
        if progress.state is FlightState.ON_PATROL and progress.waypoint >= 1 and not asked:
            asked.extend([flight.replace(other), flight.replace(other)])
            flight.pause()
        elif progress.state is FlightState.PAUSED:
            flight.return_home()

    monkeypatch.setattr(rerouting, "leg_speeds", for_ever)
    outcome, seen = fly(act=act, progress_period_s=0.02)
    ended.set()
    assert outcome.status is FlightStatus.RETURNED and "asked for" in outcome.message
    assert FlightState.PAUSED in states(seen)
    assert asked[0].result(1.0) == "asked for again"
    assert asked[1].result(1.0) in ("it is returning", "no plan is replaced while it is paused")


def test_no_return_below_a_crane_when_the_altitude_cannot_be_raised(grid, fly):
    """A refused parameter is said; the patrol goes on, and a return becomes a landing."""
    behind, told = crane(grid, 66, 66, 80.0), []

    def act(flight, progress, simulator):
        if progress.waypoint >= 5 and progress.state is FlightState.ON_PATROL:
            if not told:
                simulator.inject("speed 2")     # what is refused takes its time
                flight.update_map(behind)
            elif len(told) == 3:
                flight.return_home()
                simulator.inject("speed 20")
            told.append(progress.state)

    outcome, seen = fly("--lock-params", act=act, progress_period_s=0.02)
    assert outcome.status is FlightStatus.LANDED_EARLY, outcome.message
    assert "return was asked for" in outcome.message
    assert "needs a return altitude of 88 m" in outcome.message
    assert FlightState.RETURNING not in states(seen) and seen[-1].state is FlightState.LANDED


def test_a_home_that_moves_when_it_arms_is_refused(fly):
    outcome, _ = fly("--home-noise=50", mode_timeout_s=0.5)
    assert outcome.status is FlightStatus.FAILED and "max_home_shift" in outcome.message
    assert len(outcome.flown) == 0


def test_low_battery_brings_it_home(fly):
    outcome, _ = fly("--battery-percent=40.5", reserve_battery_percent=39.5)
    assert outcome.status is FlightStatus.RETURNED and "battery" in outcome.message
    assert ended_at(outcome, (30.0, 50.0))


def test_the_autopilots_own_failsafe_is_followed_home(fly):
    """Its battery is critical for it before it is for us."""
    outcome, _ = fly("--battery-percent=60", "--param=BAT_CRIT_THR=0.59",
                     "--param=BAT_EMERGEN_THR=0.1")
    assert outcome.status is FlightStatus.RETURNED and "by itself" in outcome.message
    assert ended_at(outcome, (30.0, 50.0))


def test_a_lost_link_ends_in_a_return(fly):
    stopped = []

    def act(_flight, progress, simulator):
        if progress.state is FlightState.ON_PATROL and progress.waypoint >= 2 and not stopped:
            stopped.append(simulator.pid)
            os.kill(simulator.pid, signal.SIGSTOP)
        elif progress.state is FlightState.RETURNING and len(stopped) == 1:
            stopped.append(None)
            os.kill(simulator.pid, signal.SIGCONT)

    outcome, _ = fly(act=act, link_timeout_s=0.7, command_timeout_s=3.0)
    assert outcome.status is FlightStatus.RETURNED and "no telemetry" in outcome.message
    assert ended_at(outcome, (30.0, 50.0))


def test_a_dead_link_is_given_up_and_says_where_the_drone_was(fly):
    def act(_flight, progress, simulator):
        if progress.state is FlightState.ON_PATROL:
            os.kill(simulator.pid, signal.SIGKILL)

    outcome, _ = fly(act=act, link_timeout_s=0.5, link_wait_s=1.5, command_timeout_s=1.0)
    assert outcome.status is FlightStatus.FAILED
    assert "link has been lost" in outcome.message and "last seen" in outcome.message


def test_refusal_to_arm_fails_with_the_drones_words(stay):
    outcome, _ = stay("refuse_arm", "refuse_arm on=0", retries=1)
    assert outcome.status is FlightStatus.FAILED
    assert "arming" in outcome.message and "denied" in outcome.message.lower()


def test_refusal_of_mission_mode_fails_and_disarms(stay):
    outcome, seen = stay("refuse_mode", "refuse_mode on=0", retries=1)
    assert outcome.status is FlightStatus.FAILED and "mission mode" in outcome.message
    assert seen[-1].state is FlightState.FAILED


def test_a_mode_that_is_acknowledged_but_not_taken_is_asked_for_again(fly):
    def act(flight, progress, _):
        if progress.state is FlightState.TAKING_OFF:
            flight.return_home()

    outcome, seen = fly("--lie-about-mode=1", mode_timeout_s=0.4, act=act)
    assert outcome.status is FlightStatus.RETURNED and outcome.message == "return was asked for"
    assert states(seen)[3:] == [FlightState.TAKING_OFF, FlightState.RETURNING, FlightState.LANDED]


def test_a_mode_that_is_never_taken_fails(fly):
    outcome, _ = fly("--lie-about-mode=99", mode_timeout_s=0.3, retries=1)
    assert outcome.status is FlightStatus.FAILED and "telemetry does not show" in outcome.message


def test_a_low_battery_is_not_taken_off_with(stay, standing):
    standing[0].inject("battery percent=30")
    wait_until(lambda: standing[1].snapshot.battery_percent < 31)
    outcome, _ = stay("", "battery percent=100")
    assert outcome.status is FlightStatus.REFUSED and "charge" in outcome.message


def test_from_inside_a_building_it_is_not_begun(fly):
    outcome, _ = fly(at=(190.0, 70.0))
    assert outcome.status is FlightStatus.REFUSED and "30 m high" in outcome.message


def test_a_drone_that_does_not_become_ready_says_what_is_missing(stay, standing):
    standing[0].inject("battery percent=5")
    wait_until(lambda: not standing[1].snapshot.healthy)
    outcome, _ = stay("", "battery percent=100", health_timeout_s=1.0)
    assert outcome.status is FlightStatus.FAILED and "arming checks" in outcome.message


def test_a_failing_callback_brings_the_drone_home(grid, plan, drone):
    def on_progress(progress):
        if progress.state is FlightState.ON_PATROL:
            raise RuntimeError("mistake in the caller")

    with drone() as (_, autopilot):
        with pytest.raises(RuntimeError, match="mistake"):
            PatrolFlight(plan, grid, autopilot, FlightConfig()).run(on_progress)
        wait_until(lambda: autopilot.snapshot.flight_mode == "RETURN_TO_LAUNCH")


def test_the_drone_comes_home_when_its_executor_is_killed(grid, plan, tmp_path):
    """What is on board before take-off brings it home: nobody is there to ask for it."""
    (tmp_path / "flight.pickle").write_bytes(pickle.dumps((plan, grid)))
    lat, lon, _ = grid.frame.to_wgs84((30.0, 50.0, 0.0))
    with SimulatedAutopilot((lat, lon, 17.0), speed_factor=20.0,
                            options=("--param=COM_DL_LOSS_T=1", *BRISK)) as simulator:
        with subprocess.Popen([sys.executable, "-c", EXECUTOR, str(tmp_path / "flight.pickle"),
                               simulator.address], stdout=subprocess.PIPE, text=True) as executor:
            for line in executor.stdout:
                if line.startswith("on_patrol 2"):
                    break
            executor.kill()
        time.sleep(1.5)     # nobody is heard for longer than COM_DL_LOSS_T, which is wall time
        with Autopilot() as autopilot:
            # Somebody else watches, but the return goes on: a failsafe is not taken back.
            wait_until(lambda: _connect(autopilot, simulator.address))
            wait_until(lambda: autopilot.snapshot.flight_mode in ("RETURN_TO_LAUNCH", "HOLD"))
            wait_until(lambda: autopilot.snapshot.landed_state == "ON_GROUND", 30.0)
            here = grid.frame.to_enu(autopilot.snapshot.latitude_deg,
                                     autopilot.snapshot.longitude_deg)
    assert np.hypot(*(here[:2] - (30.0, 50.0))) < GOAL_SLACK


def _connect(autopilot, address):
    autopilot.connect(address, 10.0)
    return True


def test_a_second_executor_finds_the_drone_of_one_that_was_killed_and_goes_on(
        grid, plan, tmp_path):
    """Telemetry, mission and home tell all that it has to know."""
    (tmp_path / "flight.pickle").write_bytes(pickle.dumps((plan, grid)))
    other = make_plan(grid, bow=20.0)
    lat, lon, _ = grid.frame.to_wgs84((30.0, 50.0, 0.0))
    with SimulatedAutopilot((lat, lon, 17.0), speed_factor=6.0, options=BRISK) as simulator:
        with subprocess.Popen([sys.executable, "-c", EXECUTOR, str(tmp_path / "flight.pickle"),
                               simulator.address], stdout=subprocess.PIPE, text=True) as executor:
            for line in executor.stdout:
                if line.startswith("on_patrol 2"):
                    break
            simulator.inject("speed 2")     # to find it is no quicker for a quick drone
            executor.kill()
        with Autopilot() as autopilot:
            wait_until(lambda: _connect(autopilot, simulator.address))
            refused = PatrolFlight(other, grid, autopilot, FlightConfig()).run()
            assert refused.status is FlightStatus.REFUSED and "not that of" in refused.message
            seen = []

            def found(progress):
                seen.append(progress)
                if states(seen)[-1] is FlightState.ON_PATROL and "fast" not in asked:
                    asked.append("fast")
                    simulator.inject("speed 20")

            asked = []
            outcome = PatrolFlight(plan, grid, autopilot, FlightConfig()).run(found)
    assert outcome.status is FlightStatus.COMPLETED and "taken over" in outcome.message
    assert states(seen) == [FlightState.DISCONNECTED, FlightState.ON_PATROL,
                            FlightState.LANDING, FlightState.LANDED]
    assert ended_at(outcome, plan.path[-1, :2])


def test_parameters_that_cannot_be_set_are_said_and_nothing_is_flown(fly):
    outcome, seen = fly("--stuck-params", retries=1)
    assert outcome.status is FlightStatus.FAILED
    assert "parameter GF_MAX_HOR_DIST" in outcome.message
    assert len(outcome.flown) == 0 and FlightState.TAKING_OFF not in states(seen)


def test_a_plan_far_from_the_drone_is_refused(stay):
    outcome, _ = stay(max_home_distance=5.0)
    assert outcome.status is FlightStatus.REFUSED and "move the drone" in outcome.message


def test_only_the_right_drone_and_only_px4_is_flown(grid):
    for options, system_id, words in (((), 9, "has system id 1, not 9"),
                                      (("--ardupilot",), 0, "ardupilot, not PX4")):
        with SimulatedAutopilot((60.17, 24.94, 17.0), options=options) as simulator, \
                Autopilot() as autopilot:
            with pytest.raises(LinkError, match=words):
                autopilot.connect(simulator.address, 10.0, system_id=system_id)


def test_two_executors_cannot_share_an_address(standing):
    with Autopilot() as second, pytest.raises(LinkError, match="another port"):
        second.connect(standing[0].address, 5.0)


def test_a_mission_of_2000_points_is_carried_and_one_of_equal_points_refused(
        grid, plan, standing):
    items = patrol_mission(np.repeat(plan.path, 170, axis=0)[:2000], np.array([30.0, 50.0, 5.0]),
                           grid.frame, FlightConfig())
    autopilot = standing[1]
    autopilot.upload_mission(items, 60.0)
    assert len(autopilot.download_mission(60.0)) == 2003
    with pytest.raises(RefusedError, match="too many"):
        autopilot.upload_mission(items * 5, 60.0)   # 10,000 fit
    many = replace(plan, path=np.linspace(plan.path[0], plan.path[-1], 2000))
    outcome = PatrolFlight(many, grid, autopilot, FlightConfig()).run()
    assert outcome.status is FlightStatus.REFUSED and "duration" in outcome.message
    still = replace(plan, path=np.repeat(plan.path[:1], 12, axis=0))
    outcome = PatrolFlight(still, grid, autopilot, FlightConfig()).run()
    assert outcome.status is FlightStatus.REFUSED and "horizontal step" in outcome.message


def test_a_plan_without_a_valid_certificate_is_refused(grid, plan):
    bare = replace(plan, certificate=replace(plan.certificate, checks=()))
    broken = replace(plan, certificate=replace(plan.certificate, checks=tuple(
        replace(c, margin=-1.0) for c in plan.certificate.checks)))
    for bad in (bare, broken):
        outcome = PatrolFlight(bad, grid, Autopilot(), FlightConfig()).run()
        assert outcome.status is FlightStatus.REFUSED and "certificate" in outcome.message


def test_on_a_hill_it_lands_slowly():
    """PX4 without a rangefinder knows its height above home only."""
    heights = np.tile(5.0 + 25.0 * np.clip(np.arange(13) - 4, 0, 6)[:, None] / 6, (1, 13))
    hill = VoxelGrid.from_dense(np.zeros((150, 150, 1), bool), np.array([0.0, 0.0, 0.0]), 2.0,
                                LocalFrame(60.17, 24.94, 0.0),
                                terrain=Ground(heights, (0.0, 0.0), 25.0))
    over = make_plan(hill, bow=0.0, start=(40.0, 40.0, 70.0), goal=(260.0, 180.0, 70.0))
    rise = float(hill.ground_at(over.path[-1])) - 5.0
    assert rise == pytest.approx(25.0, abs=0.5)
    slow = []

    def on_progress(progress):
        if progress.state is FlightState.LANDING and not slow:
            slow.extend(autopilot.get_parameter(name, float)
                        for name in ("MPC_LAND_ALT1", "MPC_LAND_ALT2"))

    lat, lon, _ = hill.frame.to_wgs84((30.0, 50.0, 0.0))
    with SimulatedAutopilot(
            (lat, lon, 17.0), speed_factor=20.0, ground=hill.terrain, stands_at=(30.0, 50.0, 5.0),
            options=PATIENT) as simulator, Autopilot() as autopilot:
        autopilot.connect(simulator.address, 15.0)
        outcome = PatrolFlight(over, hill, autopilot, FlightConfig()).run(on_progress)
        assert outcome.status is FlightStatus.COMPLETED, outcome.message
        assert slow == [pytest.approx(10 + rise, abs=1.01), pytest.approx(5 + rise, abs=1.01)]
        assert autopilot.get_parameter("MPC_LAND_ALT1", float) == 10.0, "given back"
        track = np.array(json.loads(simulator.inject("track"))[0])
    down = track[track[:, 3] < track[-1, 3] + 3.0]
    down = down[np.diff(down[:, 3], prepend=np.inf) < -1e-4]
    speed = -np.diff(down[:, 3]) / np.diff(down[:, 0])
    assert len(speed) > 3 and speed.max() < 1.0


def test_rally_points_of_somebody_else_are_cleared(grid, standing):
    """PX4 would return to the nearest of them instead of home."""
    import asyncio

    from mavsdk.asyncio.plugins.mission_raw import MissionItem as RawItem
    lat, lon, _ = grid.frame.to_wgs84((200.0, 30.0, 0.0))
    rally = RawItem(seq=0, frame=3, command=5100, current=0, autocontinue=0, param1=0.0,
                    param2=0.0, param3=0.0, param4=0.0, x=round(lat * 1e7), y=round(lon * 1e7),
                    z=20.0, mission_type=2)
    autopilot = standing[1]
    asyncio.run_coroutine_threadsafe(
        autopilot._mission.upload_rally_points([rally]), autopilot._loop).result(10)
    assert len(autopilot._rally_points()) == 1
    autopilot.clear_rally_points()
    assert autopilot._rally_points() == []
