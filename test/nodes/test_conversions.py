"""What goes out as a message comes back the same, through real serialisation."""

import array
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message

from parallel_city_ros.city.twin import CityEvent, Twin
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.comparison import Comparison
from parallel_city_ros.cpss.ledger import CoverageLedger
from parallel_city_ros.cpss.monitor import LoopMonitor, MonitorConfig
from parallel_city_ros.errors import ConfigError, MapUpdateError, PlanError
from parallel_city_ros.flight.outcome import FlightOutcome, FlightStatus
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.nodes import conversions as c
from parallel_city_ros.patrol.plan import Objectives
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.front import Front
from parallel_city_ros.planning.planner import PlanRequest, Progress, plan
from parallel_city_ros.settings import flatten

STAMP = c.time_to_ros(12.5)


def sent(message):
    """The message as another process gets it."""
    return deserialize_message(serialize_message(message), type(message))


@pytest.fixture(scope="module")
def grid():
    occupied = np.zeros((61, 47, 13), bool)
    occupied[20:30, 20:30, :8] = True
    return VoxelGrid.from_dense(occupied, np.array([-4.0, 6.0, 1.0]), 2.0,
                                LocalFrame(60.1, 24.9, 3.0), attribution="©")


@pytest.fixture(scope="module")
def found(grid):
    task = PatrolTask(start=(10.0, 20.0, 60.0), goal=(100.0, 80.0, 60.0), track_points=6)
    return plan(grid, PlanRequest(task=task, evaluation_budget=100, seed=2)).plan


def event(**changes):
    triangle = ((9.0, 9.0), (20.0, 9.0), (9.0, 20.0))
    values = {"event_id": "c", "kind": "crane", "footprint": triangle, "lower_z": 1.0,
              "upper_z": 40.0, "confidence": 0.75, "description": "Krån"}
    return CityEvent(**values | changes)


def test_grid(grid):
    back = c.grid_from_ros(sent(c.grid_to_ros(grid, STAMP, {"name": "x"})))
    assert np.array_equal(back.occupied, grid.occupied)
    assert np.array_equal(back.origin, grid.origin)
    assert (back.map_hash, back.map_update, back.frame, back.attribution, back.resolution) == (
        grid.map_hash, 0, grid.frame, "©", 2.0)


def test_update_and_event(grid):
    twin = Twin(grid)
    update = twin.add(event())
    message = sent(c.update_to_ros(update, STAMP))
    back = c.update_from_ros(message)
    assert np.array_equal(back.apply_to(grid).occupied, twin.grid.occupied)
    assert back.event == update.event
    message.data[3] ^= 1
    with pytest.raises(MapUpdateError, match="damaged"):
        c.update_from_ros(message)


@pytest.mark.parametrize("expires", [math.inf, 1e9 + 0.25])
def test_event_ends_when_it_said(expires):
    assert c.event_from_ros(sent(c.event_to_ros(event(expires_s=expires), STAMP))) == event(
        expires_s=expires)


def test_grid_of_another_size_than_it_says(grid):
    message = c.grid_to_ros(grid, STAMP)
    message.data = array.array("B", bytes(5))
    with pytest.raises(MapUpdateError, match="5 bytes"):
        c.grid_from_ros(message)


def test_plan(found):
    back = c.plan_from_ros(sent(c.plan_to_ros(found, STAMP)))
    assert back.to_dict() == found.to_dict()
    message = c.plan_to_ros(found, STAMP)
    message.waypoints[2].x += 1.0
    with pytest.raises(PlanError, match="not the same path"):
        c.plan_from_ros(message)
    message.json = "{"
    with pytest.raises(PlanError, match="json"):
        c.plan_from_ros(message)


def test_request_takes_defaults_of_the_node_for_what_is_not_said(found):
    defaults = {s.name: s.default for s in flatten(PlanRequest)}
    request = PlanRequest(task=found.task, seed=2**40, evaluation_budget=7, time_budget_s=1.5)
    overrides = {"track_points": 6, "drone": {"max_speed": 9.0}}
    goal = sent(c.request_to_ros(request, overrides))
    back = c.request_from_ros(goal, defaults | {"task.min_altitude": 33.0})
    assert (back.seed, back.evaluation_budget, back.time_budget_s) == (2**40, 7, 1.5)
    assert (back.task.drone.max_speed, back.task.min_altitude) == (9.0, 33.0)
    empty = c.request_from_ros(c.ANY_GOAL, defaults | {"evaluation_budget": 123})
    assert empty.evaluation_budget == 123 and empty.planner_id == PlanRequest.planner_id


def test_what_a_search_is_to_begin_with(found):
    request = PlanRequest(task=found.task, planner_id="nsga2", prefer="knee")
    goal = sent(c.request_to_ros(request, warm_start=found, want_front=True))
    assert c.warm_start_from_ros(goal).to_dict() == found.to_dict() and goal.want_front
    assert c.request_from_ros(goal, {s.name: s.default for s in flatten(PlanRequest)}
                              ).prefer == "knee"
    goal.warm_start.waypoints[1].z += 9.0
    with pytest.raises(PlanError, match="warm_start"):
        c.warm_start_from_ros(goal)
    assert c.warm_start_from_ros(sent(c.request_to_ros(request))) is None


def test_front():
    front = Front(np.arange(24.0).reshape(2, 4, 3), np.array([[1.0, 2, 3, 8], [2.0, 3, 4, 7.5]]))
    back = c.front_from_json(c.front_to_json(front))
    order = [1, 0]      # the best in F first
    assert np.array_equal(back.paths, front.paths[order])
    assert np.array_equal(back.objectives, front.objectives[order])
    assert c.front_from_json("") is None


@pytest.mark.parametrize("change, words", [
    ({"task_json": "{"}, "task_json"), ({"task_json": "[1]"}, "task_json"),
    ({"task_json": '{"speed": 3}'}, "speed"), ({"planner_id": "magic"}, "magic"),
    ({"task_json": '{"drone": {"max_speed": -1}}'}, "max_speed"),
    ({"time_budget_s": -1.0}, "time_budget_s"), ({"time_budget_s": math.nan}, "time_budget_s")])
def test_requests_that_cannot_be(change, words):
    goal = c.PlanPatrol.Goal(goal=c.point_to_ros((9, 9, 9)), **change)
    with pytest.raises((ConfigError, PlanError), match=words):
        c.request_from_ros(goal, {s.name: s.default for s in flatten(PlanRequest)})


def test_tracks_and_paths_keep_their_points_and_vehicle_time():
    track = np.array([[0.0, 1, 2, 3], [0.123456789, 4, 5, 6], [1e6 + 0.5, -7, 8, 9]])
    assert np.allclose(c.track_from_ros(sent(c.track_to_ros(track, STAMP))), track, atol=1e-8)
    assert c.track_from_ros(c.track_to_ros(np.empty((0, 4)), STAMP)).shape == (0, 4)
    assert np.array_equal(c.path_from_ros(sent(c.path_to_ros(track[:, 1:], STAMP))), track[:, 1:])


def test_weights_come_back_as_they_were_published(grid):
    ledger = CoverageLedger(grid.surface.shape)
    ledger.record(np.random.default_rng(0).random(grid.surface.shape) < 0.4, 10.0)
    weights = ledger.weights(700.0)
    back = c.weights_from_ros(sent(c.weights_to_ros(grid, weights, STAMP)))
    assert np.array_equal(back, weights)


def test_noise_weights_are_whole_numbers(grid):
    weights = np.random.default_rng(4).integers(0, 100, grid.surface.shape).astype(float)
    weights[0, :3] = 10.4, 1e6, 0.0
    message = sent(c.noise_to_ros(grid, weights, STAMP))
    assert c.lies_over(message.info, grid)
    back = c.noise_from_ros(message)
    assert back[0, :3].tolist() == [10.0, 100.0, 0.0]
    assert np.array_equal(back[1:], weights[1:])
    message.data[0] = -1        # unknown
    assert c.noise_from_ros(message)[0, 0] == 1.0
    message.data = message.data[:-1]
    with pytest.raises(ConfigError, match="came with"):
        c.noise_from_ros(message)


def test_weights_of_another_place_or_size_are_told_from_those_of_the_map(grid):
    info = sent(c.weights_to_ros(grid, np.ones(grid.surface.shape), STAMP)).info
    assert c.lies_over(info, grid)
    for change in ({"origin": grid.origin + (2.0, 0.0, 0.0)}, {"resolution": 1.0}):
        values = {"origin": grid.origin, "resolution": grid.resolution} | change
        other = VoxelGrid.from_dense(grid.occupied, values["origin"], values["resolution"],
                                     grid.frame)
        assert other.shape[:2] == grid.shape[:2] and not c.lies_over(info, other)


def test_slice_lies_as_map_server_has_it(grid):
    message = sent(c.slice_to_ros(grid, 5.0, STAMP))
    assert (message.info.width, message.info.height) == (61, 47)
    cells = np.array(message.data).reshape(47, 61)
    assert cells[25, 22] == 100 and cells[22, 35] == 0      # rows are north, columns east


def test_points_are_the_voxels_that_can_be_seen(grid):
    message = sent(c.points_to_ros(grid, STAMP))
    points = np.frombuffer(message.data, "<f4").reshape(-1, 3)
    assert len(points) == message.width == 10 * 10 * 8 - 8 * 8 * 6
    assert grid.is_occupied(points).all()


def test_progress():
    progress = Progress(4, 250, Objectives(coverage_km2=0.1, carbon=1.2, noise_m=30.0,
                                           fitness=400.0, violation=0.0), 3.5)
    assert math.isnan(c.progress_to_ros(progress).hypervolume)      # it has no front
    for one in (progress, replace(progress, hypervolume=0.25)):
        assert c.progress_from_ros(sent(c.progress_to_ros(one))) == one
    history = c.history_from_json(c.history_to_json([progress, Progress(5, 300, Objectives(
        coverage_km2=0.0, carbon=1.0, noise_m=1.0, fitness=math.inf, violation=2.0), 3.0)]))
    assert history[0]["evaluations"] == 250 and math.isinf(history[1]["fitness"])


def test_a_flight_that_saw_nothing_is_told_in_json_that_every_reader_takes(grid, found):
    monitor = LoopMonitor(MonitorConfig())
    monitor.on_map(grid)
    monitor.on_plan("drone_1", found)
    blind = replace(found.objectives, coverage_km2=0.0, fitness=math.inf)
    comparison = Comparison(
        planned=found.objectives, flown=blind, planned_length_m=10.0, flown_length_m=9.0,
        max_deviation_m=1.0, tube_radius_m=2.0, below_noise_altitude_share=0.5,
        lowest_altitude_m=40.0)
    monitor.patrols["drone_1"].comparison = comparison
    monitor.patrols["drone_1"].closed = True
    state = sent(c.state_to_ros("drone_1", monitor, STAMP))
    json.loads(state.json, parse_constant=lambda word: pytest.fail(word))
    assert c.comparison_from_ros(state) == comparison


def test_outcome():
    flown = np.array([[0.0, 1, 2, 3], [1.0, 2, 3, 4]])
    outcome = FlightOutcome(status=FlightStatus.RETURNED, message="wind", flown=flown,
                            distance_m=3.0, patrol_distance_m=2.0, duration_s=1.0,
                            energy_wh=math.nan)
    result = sent(c.outcome_to_ros(outcome, 1, STAMP))
    assert (result.status, result.message, result.distance_m) == (1, "wind", 3.0)
    assert np.array_equal(c.track_from_ros(result.flown), flown)


def test_odometry_is_in_map_and_body_frame(grid):
    lat, lon, _ = grid.frame.to_wgs84((30.0, 40.0, 0.0))
    telemetry = Telemetry(latitude_deg=lat, longitude_deg=lon, relative_altitude_m=20.0,
                          velocity=(0.0, 5.0, 1.0), yaw=math.pi / 2, battery_percent=80.0)
    odometry = sent(c.odometry_to_ros(telemetry, grid, STAMP, "drone_1/base_link"))
    position, linear = odometry.pose.pose.position, odometry.twist.twist.linear
    assert (position.x, position.y, position.z) == pytest.approx((30.0, 40.0, 21.0), abs=1e-6)
    assert (linear.x, linear.y, linear.z) == pytest.approx((5.0, 0.0, 1.0))   # north is ahead
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("map", "drone_1/base_link")
    assert c.transform_to_ros(odometry).transform.translation.z == position.z
    assert c.battery_to_ros(telemetry, STAMP, "b").percentage == pytest.approx(0.8)
    assert math.isnan(c.fix_to_ros(telemetry, STAMP, "b").altitude)
