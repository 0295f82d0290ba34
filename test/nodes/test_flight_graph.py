"""The whole graph flies: real MAVSDK, a simulated PX4, the monitor that learns from it."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid, Odometry
from parallel_city_interfaces.action import FlyPatrol
from sensor_msgs.msg import BatteryState, NavSatFix
from std_msgs.msg import String
from std_srvs.srv import Trigger

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.cpss.resume import rest_of_plan
from parallel_city_ros.errors import ParallelCityError
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.nodes import conversions as c
from parallel_city_ros.nodes import qos
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanRequest

RESULT = FlyPatrol.Result
DRONE = "drone_1"


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return tmp_path_factory.mktemp("history")


def start_monitor(system, history):
    system.processes.start_node("cpss_monitor", {
        "drones": DRONE, "history_folder": str(history), "state_period_s": 0.2})


@pytest.fixture(scope="module")
def running(system, history):
    system.start_twin()
    system.processes.start_node("planner_server", {})
    start_monitor(system, history)
    grid = system.client.wait_for_map(60.0, system.processes.check)
    ends = [(*end, 60.0) for end in two_ends(grid, 12.0, 500.0)]
    system.task = PatrolTask(start=ends[0], goal=ends[1], track_points=14)
    home = grid.frame.to_wgs84((*ends[0][:2], 0.0))
    with SimulatedAutopilot(home, speed_factor=20.0, seed=1) as autopilot:
        system.autopilot = autopilot
        system.processes.start_node("mission_executor", {"address": autopilot.address}, DRONE)
        yield system


def plan_of(running, task, seed=1):
    planned = running.client.plan(PlanRequest(task=task, evaluation_budget=600, seed=seed))
    assert planned.plan is not None, planned.message
    return planned.plan


def trigger(client, name):
    service = client.node.create_client(Trigger, f"/{DRONE}/{name}")
    assert service.wait_for_service(10.0)
    answer = service.call_async(Trigger.Request())
    deadline = time.monotonic() + 10.0
    while not answer.done() and time.monotonic() < deadline:
        time.sleep(0.01)
    client.node.destroy_client(service)
    return answer.result()


def until(reached, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_patrol_is_flown_watched_and_learnt_from(running, history):
    client, heard, weights = running.client, {}, []
    node = client.node
    subscriptions = [
        node.create_subscription(kind, f"/{DRONE}/{topic}",
                                 lambda m, t=topic: heard.setdefault(t, []).append(m), qos.SENSOR)
        for kind, topic in ((Odometry, "odom"), (NavSatFix, "fix"),
                            (BatteryState, "battery_state"))]
    subscriptions.append(node.create_subscription(
        OccupancyGrid, "/cpss/coverage", lambda m: weights.append(c.weights_from_ros(m)),
        qos.LATCHED))
    plan = plan_of(running, running.task)
    states = []
    result = client.fly(plan, on_progress=lambda f: states.append(f.state),
                        alive=running.processes.check)
    assert result.status == RESULT.COMPLETED, result.message
    # The last feedback may come after the result, and is dropped then.
    assert list(dict.fromkeys(states))[:5] == [
        "disconnected", "ready", "arming", "taking_off", "on_patrol"]
    assert "landing" in states
    comparison = client.wait_for_comparison(1, 20.0)
    assert comparison.flown_length_m == pytest.approx(plan.length_m, rel=0.05)
    assert comparison.within_tube
    assert comparison.planned == plan.objectives
    assert client.state.replan_advised

    until(lambda: len(weights) >= 2)
    seen = weights[-1] < 1
    assert (weights[0] == 1).all() and 0.9 < comparison.flown.coverage_km2 / (
        seen.sum() * client.map.grid.resolution**2 * 1e-6) < 1.1
    track = c.track_from_ros(result.flown)
    odometry = np.array([(m.pose.pose.position.x, m.pose.pose.position.y)
                         for m in heard["odom"]])
    gap = np.linalg.norm(odometry[:, None] - track[None, :, 1:3], axis=2).min(axis=1)
    assert np.median(gap) < 3.0 and heard["fix"][-1].latitude > 60
    charge = [m.percentage for m in heard["battery_state"]]
    assert 0 < charge[-1] < charge[0] <= 1
    lines = (history / "history.jsonl").read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["comparison"]["flown_length_m"] == \
        pytest.approx(comparison.flown_length_m)
    for subscription in subscriptions:
        node.destroy_subscription(subscription)


def test_a_restarted_monitor_remembers_and_counts_nothing_twice(running, history):
    before = (history / "history.jsonl").read_text()
    running.kill("cpss_monitor")
    weights = []
    start_monitor(running, history)
    subscription = running.client.node.create_subscription(
        OccupancyGrid, "/cpss/coverage", lambda m: weights.append(c.weights_from_ros(m)),
        qos.LATCHED)
    until(lambda: any((w < 1).any() for w in weights), 60.0)
    time.sleep(1.5)         # longer than the monitor waits before it closes a sortie
    assert (history / "history.jsonl").read_text() == before
    running.client.node.destroy_subscription(subscription)


def test_pause_resume_skip_replace_a_second_goal_and_cancel(running):
    client = running.client
    back = replace(running.task, start=running.task.goal, goal=running.task.start)
    plan = plan_of(running, back)
    heard, results = {"first": [], "second": []}, {}
    cancel = threading.Event()

    def fly(name, plan, **more):
        def work():
            results[name] = client.fly(plan, on_progress=heard[name].append, **more)
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        return worker

    def state(name="first"):
        return heard[name][-1].state if heard[name] else ""

    # From the start: where another plan is entered depends on how long, in the drone's time, the
    # first one took to be sent.
    running.autopilot.inject("speed 5")
    first = fly("first", plan)
    until(lambda: state() == "on_patrol", 60.0)
    assert trigger(client, "pause").success
    until(lambda: state() == "paused")
    with pytest.raises(ParallelCityError, match="rejected"):
        client.fly(plan)
    refused = trigger(client, "skip")
    assert not refused.success and "while it is paused" in refused.message
    assert trigger(client, "resume").success
    until(lambda: state() == "on_patrol")
    before = heard["first"][-1].waypoint
    answer = trigger(client, "skip")    # over a city it is allowed, or refused with words
    assert answer.success or "not clear" in answer.message
    if answer.success:
        until(lambda: heard["first"][-1].waypoint > before)
    elsewhere = replace(plan, map_hash="0" * 64)
    result = client.fly(elsewhere, replace=True)
    assert result.status == RESULT.REFUSED and "another map" in result.message
    assert state() == "on_patrol" and "first" not in results
    # Near the beginning of a leg: no leg of the planner is longer than max_join_distance.
    before = heard["first"][-1].waypoint
    until(lambda: heard["first"][-1].waypoint > before)
    rest = rest_of_plan(plan, client.map.grid, heard["first"][-1].waypoint)
    fly("second", rest, replace=True, cancelled=cancel.is_set)
    until(lambda: state("second") == "on_patrol" or "second" in results, 60.0)
    assert "second" not in results, results["second"].message
    first.join(30.0)
    assert results["first"].status == RESULT.REPLACED
    assert heard["second"][-1].waypoints == len(rest.path)
    running.autopilot.inject("speed 20")
    cancel.set()
    until(lambda: "second" in results, 60.0)
    assert results["second"].status == RESULT.CANCELLED
    end = c.track_from_ros(results["second"].flown)[-1, 1:]
    assert np.linalg.norm(end[:2] - plan.path[0, :2]) < 5.0     # home is where it took off
    assert not trigger(client, "pause").success and not trigger(client, "skip").success
    result = client.fly(plan_of(running, back, seed=9), resume=True)
    assert result.status == RESULT.REFUSED and "no earlier flight" in result.message


def test_plans_that_may_not_be_flown_are_refused(running):
    plan = plan_of(running, replace(running.task, start=running.task.goal,
                                    goal=running.task.start))
    other = replace(plan, map_hash="0" * 64)
    result = running.client.fly(other)
    assert result.status == RESULT.REFUSED and "another map" in result.message
    low = plan.path.copy()
    low[3:-3, 2] = 5.0
    result = running.client.fly(replace(plan, path=low))
    assert result.status == RESULT.REFUSED and "plan again" in result.message


def test_an_autopilot_that_never_answers(running):
    with SimulatedAutopilot((60.17, 24.94, 0.0), options=("--silent",)) as silent:
        running.processes.start_node("mission_executor", {
            "address": silent.address, "connect_timeout_s": 2.0}, "drone_2")
        plan = plan_of(running, running.task)
        from parallel_city_ros.nodes.client import CityClient
        with CityClient("drone_2", "second_client") as client:
            result = client.fly(plan)
        assert result.status == RESULT.REFUSED and silent.address in result.message
        running.kill("drone_2.mission_executor")


def test_a_restarted_executor_finds_its_drone_and_goes_on(running, tmp_path):
    """SIGKILL in flight; the next run of the node flies the patrol to its end unasked."""
    drone, client = "drone_3", running.client
    home = client.map.grid.frame.to_wgs84((*running.task.start[:2], 0.0))
    states = []
    heard = client.node.create_subscription(
        String, f"/{drone}/flight_state", lambda m: states.append(m.data), qos.LATCHED)
    with SimulatedAutopilot(home, speed_factor=20.0, seed=2) as autopilot:
        parameters = {"address": autopilot.address, "state_folder": str(tmp_path)}
        running.processes.start_node("mission_executor", parameters, drone)
        plan = plan_of(running, running.task, seed=2)
        from parallel_city_ros.nodes.client import CityClient
        with CityClient(drone, "third_client") as other:
            worker = threading.Thread(target=lambda: _ignore(other.fly, plan), daemon=True)
            worker.start()
            until(lambda: "on_patrol" in states, 60.0)
            autopilot.inject("speed 1")     # the node's start is no shorter for it
            running.kill(f"{drone}.mission_executor")
            assert (tmp_path / f"{drone}.plan.json").exists()
            states.clear()
            running.processes.start_node("mission_executor", parameters, drone)
            until(lambda: "on_patrol" in states, 60.0)
            autopilot.inject("speed 20")
            until(lambda: "landed" in states, 120.0)
        truth = json.loads(autopilot.inject("truth"))[0]
        running.kill(f"{drone}.mission_executor")
    client.node.destroy_subscription(heard)
    assert "on_patrol" in states and truth["landed"] and not truth["armed"]
    goal = np.array(plan.path[-1, :2]) - plan.path[0, :2]
    assert np.linalg.norm(np.array(truth["position"][:2]) - goal) < 4.0
    assert not (tmp_path / f"{drone}.plan.json").exists()


def _ignore(fly, plan):
    """The client of a goal whose node was killed may wait in vain."""
    try:
        fly(plan, timeout_s=45.0)
    except ParallelCityError:
        pass
