"""Map server and planner as others see them: feedback, cancel, pre-emption, events, restarts."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from nav_msgs.msg import Path
from parallel_city_interfaces.action import PlanPatrol
from parallel_city_interfaces.msg import PatrolPlan
from parallel_city_interfaces.srv import AddEvent, CheckPath, GetRegion

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.city.octomap import encode, read_octomap
from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.errors import LinkError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.nodes import conversions as c
from parallel_city_ros.nodes import qos
from parallel_city_ros.nodes.client import CityClient
from parallel_city_ros.patrol.certificate import certify, noise_of
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanRequest

RESULT = PlanPatrol.Result


@pytest.fixture(scope="module")
def running(system):
    system.start_twin()
    system.processes.start_node("planner_server", {"replan": "publish", "threads": 2})
    system.client.wait_for_map(60.0, system.processes.check)
    # the very first start compiles, which takes minutes on a loaded machine
    node = system.client.node
    wait(lambda: node.count_services("/plan_patrol/_action/send_goal"), system, 300.0)
    return system


@pytest.fixture(scope="module")
def task(running):
    start, goal = two_ends(running.client.map.grid, 12.0, 900.0)
    return PatrolTask(start=(*start, 60.0), goal=(*goal, 60.0))


def call(client, kind, name, request):
    service = client.node.create_client(kind, name)
    try:
        assert service.wait_for_service(10.0), name
        answer = service.call_async(request)
        deadline = time.monotonic() + 20.0
        while not answer.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert answer.done(), f"{name} did not answer"
        return answer.result()
    finally:
        client.node.destroy_client(service)


def add(client, event):
    """The number of the map update that the event makes."""
    answer = call(client, AddEvent, "/city_map/add_event",
                  AddEvent.Request(event=c.event_to_ros(event, c.time_to_ros(0.0))))
    assert answer.accepted, answer.message
    return answer.map_update


def crane(name, point, half=20.0, top=140.0):
    x, y = point[:2]
    return CityEvent(event_id=name, kind="crane", lower_z=0.0, upper_z=top, footprint=(
        (x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)))


def test_feedback_comes_each_generation_and_the_plan_is_certified(running, task):
    seen = []
    planned = running.client.plan(PlanRequest(task=task, seed=3, evaluation_budget=1500),
                                  on_progress=seen.append)
    assert planned.status == RESULT.SUCCEEDED, planned.message
    grid = running.client.map.grid
    assert certify(grid, task, planned.plan.path).valid and planned.plan.certificate.valid
    assert (planned.plan.map_hash, planned.plan.map_update) == (grid.map_hash, grid.map_update)
    assert [p.generation for p in seen] == list(range(len(planned.convergence)))
    assert len(seen) > 5
    assert seen[-1].objectives.fitness == pytest.approx(planned.plan.objectives.fitness)
    assert seen[-1].hypervolume is None     # one objective


def test_cancel_returns_the_best_so_far_at_once(running, task):
    seen, when = [], []

    def cancelled():
        if len(seen) >= 5 and not when:
            when.append(time.monotonic())
        return bool(when)
    planned = running.client.plan(PlanRequest(task=task, evaluation_budget=10**6, seed=1),
                                  on_progress=seen.append, cancelled=cancelled)
    assert time.monotonic() - when[0] < 5.0     # a bound for a loaded machine
    assert planned.status == RESULT.CANCELLED
    assert planned.plan is None or planned.plan.certificate.valid
    assert len(planned.convergence) >= 5


def test_the_newest_goal_preempts(running, task):
    first = []
    started = threading.Event()
    worker = threading.Thread(target=lambda: first.append(running.client.plan(
        PlanRequest(task=task, evaluation_budget=10**6), on_progress=lambda p: started.set())))
    worker.start()
    assert started.wait(30.0)
    second = running.client.plan(PlanRequest(task=task, evaluation_budget=300))
    worker.join(30.0)
    assert second.status == RESULT.SUCCEEDED
    assert first[0].status == RESULT.CANCELLED and "newer goal" in first[0].message


def test_a_goal_may_be_cancelled_before_anything_was_done(running, task):
    for _ in range(3):
        planned = running.client.plan(PlanRequest(task=task, evaluation_budget=10**6),
                                      cancelled=lambda: True)
        assert planned.status == RESULT.CANCELLED
        assert planned.plan is None or planned.plan.certificate.valid
    again = running.client.plan(PlanRequest(task=task, evaluation_budget=100))
    assert again.status == RESULT.SUCCEEDED


def test_time_budget_ends_the_search(running, task):
    planned = running.client.plan(PlanRequest(task=task, evaluation_budget=10**6,
                                              time_budget_s=1.0))
    assert planned.status == RESULT.TIMEOUT
    assert planned.plan is None or planned.plan.ended_by == "time"


def test_a_plan_to_begin_with_is_not_lost_whatever_its_frame(running, task):
    request = PlanRequest(task=task, evaluation_budget=100, planner_id="iaco")
    before = running.client.plan(PlanRequest(task=task, evaluation_budget=500)).plan
    again = running.client.plan(request, warm_start=before).plan
    assert again.objectives.fitness <= before.objectives.fitness
    # the same place in another frame, and one that is not even on the map
    frame = LocalFrame(*map(float, before.frame.to_wgs84((200.0, -100.0, 0.0))))
    lat, lon, up = before.frame.to_wgs84(before.path).T
    there = replace(before, frame=frame, path=frame.to_enu(lat, lon, up))
    again = running.client.plan(request, warm_start=there).plan
    assert again.objectives.fitness == pytest.approx(before.objectives.fitness, rel=0.02) \
        or again.objectives.fitness < before.objectives.fitness
    far = replace(before, path=before.path + (9e4, 0.0, 0.0))
    assert running.client.plan(request, warm_start=far).status == RESULT.SUCCEEDED


def test_the_front_comes_on_request(running, task):
    request = PlanRequest(task=task, evaluation_budget=300, planner_id="nsga2", prefer="knee")
    seen = []
    planned = running.client.plan(request, want_front=True, on_progress=seen.append)
    assert planned.status == RESULT.SUCCEEDED and len(planned.front) > 1
    assert seen[-1].hypervolume > 0
    assert np.array_equal(planned.front.paths[planned.front.choose("knee")], planned.plan.path)
    assert running.client.plan(replace(request, evaluation_budget=100)).front is None
    refused = running.client.plan(PlanRequest(task=task, planner_id="igso"), want_front=True)
    assert refused.status == RESULT.BAD_REQUEST and "nsga2" in refused.message


@pytest.mark.parametrize("change, status, words", [
    ({"start": (5000.0, 0.0, 60.0)}, RESULT.OUTSIDE_MAP, "outside the map"),
    ({"goal": None}, RESULT.GOAL_OCCUPIED, "raise it to")])
def test_ends_that_cannot_be(running, task, change, status, words):
    grid = running.client.map.grid
    if change.get("goal", 0) is None:
        i, j = np.unravel_index(np.argmax(grid.surface), grid.surface.shape)
        x, y = grid.origin[:2] + (np.array([i, j]) + 0.5) * grid.resolution
        change = {"goal": (x, y, 35.0)}
    ends = {"start": task.start, "goal": task.goal} | change
    planned = running.client.plan(PlanRequest(task=PatrolTask(**ends)))
    assert planned.status == status and words in planned.message and planned.plan is None


def test_a_bad_setting_is_named(running, task):
    planned = running.client.plan(PlanRequest(task=task), overrides={"drone": {"wings": 2}})
    assert planned.status == RESULT.BAD_REQUEST and "wings" in planned.message
    planned = running.client.plan(PlanRequest(task=task), weights_topic="/nobody/says/this")
    assert planned.status == RESULT.BAD_REQUEST and "/nobody/says/this" in planned.message


def test_an_event_changes_the_map_of_every_listener_and_the_next_plan(running, task):
    client = running.client
    before = client.plan(PlanRequest(task=task, evaluation_budget=500, seed=5)).plan
    number = client.map.grid.map_update
    block = crane("crane", before.path[len(before.path) // 2])
    answer = call(client, AddEvent, "/city_map/add_event",
                  AddEvent.Request(event=c.event_to_ros(block, c.time_to_ros(0.0))))
    assert answer.accepted and answer.map_update == number + 1
    grid = client.wait_for_update(number + 1, 10.0)
    assert not certify(grid, task, before.path).valid
    after = client.plan(PlanRequest(task=task, evaluation_budget=500, seed=5)).plan
    assert after.map_update == number + 1 and after.map_hash == before.map_hash
    assert certify(grid, task, after.path).valid
    free = call(client, CheckPath, "/city_map/check_path", CheckPath.Request(
        path=[c.point_to_ros(p) for p in before.path], radius_m=2.0))
    assert not free.free and free.map_update == number + 1


@pytest.fixture
def published(running):
    """Every patrol_plan and plan that comes, the latched ones first."""
    plans, paths = [], []
    node = running.client.node
    subscriptions = [
        node.create_subscription(PatrolPlan, "/patrol_plan",
                                 lambda msg: plans.append(c.plan_from_ros(msg)), qos.LATCHED),
        node.create_subscription(Path, "/plan",
                                 lambda msg: paths.append(c.path_from_ros(msg)), qos.LATCHED)]
    yield plans, paths
    for subscription in subscriptions:
        node.destroy_subscription(subscription)


def wait(reached, running, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not reached():
        running.processes.check()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_plan_that_the_map_breaks_is_repaired_and_published(running, task, published):
    plans, paths = published
    client = running.client
    before = client.plan(PlanRequest(task=task, evaluation_budget=500, seed=6)).plan
    wait(lambda: plans and np.array_equal(plans[-1].path, before.path), running)
    aside = add(client, crane("aside", before.path[3], top=2.0))
    number = add(client, crane("in the way", before.path[20]))
    wait(lambda: plans[-1].map_update >= number, running)
    repaired, grid = plans[-1], client.wait_for_update(number, 10.0)
    assert not certify(grid, task, before.path).valid
    assert repaired.certificate.valid and certify(grid, task, repaired.path).valid
    assert (repaired.map_hash, repaired.map_update) == (before.map_hash, number)
    assert aside not in [p.map_update for p in plans]       # which broke nothing
    wait(lambda: np.array_equal(paths[-1], repaired.path), running)


def test_a_map_that_changes_during_a_search_is_heeded(running, task):
    """The search goes on from what it had, on the new map."""
    client = running.client
    before = client.plan(PlanRequest(task=task, evaluation_budget=1500, seed=7)).plan
    numbers, generations = [], []

    def on_progress(progress):
        generations.append(progress.generation)
        if len(generations) == 1:
            adding.start()
    # not in the callback itself, which would wait for an answer that comes to its own thread
    adding = threading.Thread(target=lambda: numbers.append(
        add(client, crane("meanwhile", before.path[20], half=35.0))))
    planned = client.plan(
        PlanRequest(task=task, evaluation_budget=10_000, seed=7), warm_start=before,
        on_progress=on_progress,
        cancelled=lambda: generations != sorted(generations) and generations[-1] > 2)
    adding.join(30.0)
    assert generations != sorted(generations), planned.message
    assert planned.plan is None or planned.plan.map_update == numbers[0]
    if planned.plan is not None:
        assert certify(client.wait_for_update(numbers[0], 10.0), task, planned.plan.path).valid


def test_bad_events_are_refused_with_a_reason(running):
    far = crane("far", (1e5, 1e5))
    answer = call(running.client, AddEvent, "/city_map/add_event",
                  AddEvent.Request(event=c.event_to_ros(far, c.time_to_ros(0.0))))
    assert not answer.accepted and "outside the map" in answer.message
    empty = call(running.client, AddEvent, "/city_map/add_event", AddEvent.Request())
    assert not empty.accepted and "event_id" in empty.message


def test_what_a_listener_missed_can_be_asked_for(running):
    client = running.client
    for k in range(3):
        call(client, AddEvent, "/city_map/add_event", AddEvent.Request(event=c.event_to_ros(
            crane(f"again-{k}", (300.0 + 40 * k, 300.0), half=6.0, top=30.0), c.time_to_ros(0.0))))
    newest = client.map.grid.map_update
    grid = client.wait_for_update(newest, 10.0)
    answer = call(client, GetRegion, "/city_map/region", GetRegion.Request(since_update=1))
    assert [u.map_update for u in answer.updates][0] == 2
    whole = c.grid_from_ros(answer.grid)
    assert whole.map_update == answer.updates[-1].map_update
    assert np.array_equal(whole.occupied, client.wait_for_update(
        whole.map_update, 10.0).occupied)
    part = call(client, GetRegion, "/city_map/region", GetRegion.Request(
        lower=c.point_to_ros((290.0, 290.0, 0.0)), upper=c.point_to_ros((330.0, 330.0, 40.0))))
    assert c.grid_from_ros(part.grid).is_occupied((300.0, 300.0, 20.0))
    assert grid.map_hash == whole.map_hash


def test_the_octomap_holds_the_voxels_of_the_map(running, tmp_path):
    """As its readers get it: what a .bt file has behind its header."""
    messages = pytest.importorskip("octomap_msgs.msg", reason="octomap_msgs is no wheel")
    heard = []
    subscription = running.client.node.create_subscription(
        messages.Octomap, "/city_map/octomap_binary", heard.append, qos.LATCHED)
    wait(lambda: heard, running, 60.0)
    running.client.node.destroy_subscription(subscription)
    msg, grid = heard[-1], running.client.map.grid
    assert (msg.header.frame_id, msg.id, msg.binary) == ("map", "OcTree", True)
    file = tmp_path / "map.bt"
    _, size = encode(grid.voxels(), grid.resolution, grid.origin)   # which a message leaves out
    file.write_bytes(f"# Octomap OcTree binary file\nid {msg.id}\nsize {size}\n"
                     f"res {msg.resolution}\ndata\n".encode() + msg.data.tobytes())
    (boxes,) = read_octomap(file).boxes
    assert np.prod(np.round((boxes.upper - boxes.lower) / grid.resolution), axis=1).sum() \
        == len(grid.voxels())
    assert grid.is_occupied((boxes.lower + boxes.upper) / 2).all()


def test_a_killed_map_server_comes_back_with_the_same_map_and_its_events(running, task):
    before = running.client.map.grid
    assert before.map_update > 0
    running.kill("twin_map_server")
    planned = running.client.plan(PlanRequest(task=task, evaluation_budget=100))
    assert planned.status == RESULT.SUCCEEDED       # the planner has its copy
    running.start_twin()
    deadline = time.monotonic() + 60.0
    while running.client.map.grid is before and time.monotonic() < deadline:
        running.processes.check()
        time.sleep(0.05)
    after = running.client.map.grid
    assert after is not before and after.map_hash == before.map_hash
    assert np.array_equal(after.voxels(), before.voxels())


def test_zones_close_their_air_and_weigh_its_noise(running, task, tmp_path):
    frame = running.client.map.grid.frame
    corners = [frame.to_wgs84((x, y, 0.0)).tolist() for x, y in (
        (400, 400), (460, 400), (460, 460), (400, 460), (400, 400))]
    zones = tmp_path / "zones.json"
    zones.write_text(json.dumps({"features": [{
        "identifier": "P1", "restriction": "PROHIBITED", "geometry": [{
            "upperLimit": 90, "upperVerticalReference": "AGL", "lowerLimit": 0,
            "lowerVerticalReference": "AGL", "horizontalProjection": {
                "type": "Polygon", "coordinates": [[[lon, lat] for lat, lon, _ in corners]]}}]}, {
        "id": "town", "properties": {"zone": "noise_sensitive", "radius": 5000}, "geometry": {
            "type": "Point", "coordinates": corners[0][1::-1]}}]}))
    before = running.client.map.grid
    running.kill("twin_map_server")
    running.start_twin(zones_file=str(zones))
    deadline = time.monotonic() + 60.0
    while running.client.map.grid is before and time.monotonic() < deadline:
        running.processes.check()
        time.sleep(0.05)
    grid = running.client.map.grid
    assert grid.map_hash == before.map_hash
    assert grid.is_occupied([430.0, 430.0, 85.0]) and not grid.is_occupied([430.0, 430.0, 95.0])
    times = []

    def weighed():      # the planner hears of map and noise when it hears of them
        planned = running.client.plan(PlanRequest(task=task, evaluation_budget=100),
                                      overrides={"noise_model": "level"})
        assert planned.status == RESULT.SUCCEEDED, planned.message
        times.append(planned.plan.objectives.noise_m / noise_of(grid, planned.plan.task,
                                                                planned.plan.path))
        return times[-1] > 1.5

    wait(weighed, running)
    assert times[-1] == pytest.approx(10)


def test_a_killed_planner_is_noticed_and_can_be_replaced(running, task):
    running.kill("planner_server")
    # DDS forgets a killed process after 20 s: who asks has to notice before that
    with CityClient(name="impatient", answer_s=2.0) as client:
        with pytest.raises(LinkError, match="plan_patrol"):
            client.plan(PlanRequest(task=task, evaluation_budget=100), timeout_s=5.0)
        running.processes.start_node("planner_server", {})
        deadline = time.monotonic() + 90.0
        while True:
            running.processes.check()
            try:
                planned = client.plan(PlanRequest(task=task, evaluation_budget=100))
                break
            except LinkError:
                assert time.monotonic() < deadline
    assert planned.status == RESULT.SUCCEEDED


def test_a_missing_city_file_ends_the_node_with_a_reason(running, tmp_path):
    running.processes.start_node("twin_map_server", {"city_file": str(tmp_path / "no.osm")},
                                 "elsewhere")
    process = running.processes._running.pop("elsewhere.twin_map_server")
    assert process.wait(30.0) == 2
    log = running.processes._logs / "elsewhere.twin_map_server.log"
    assert "no.osm" in log.read_text() and "no such file" in log.read_text()
