"""What is refused before anything is sent, and what is sent."""

import math
from dataclasses import replace

import numpy as np
import pytest
import shapely
from patrols import crane, make_plan

from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.resume import rest_of_plan
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight import checks
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.mission import (
    CHANGE_SPEED,
    GIMBAL,
    GIMBAL_CONTROL,
    LAND,
    PHOTO,
    TAKEOFF,
    WAYPOINT,
    autopilot_parameters,
    patrol_mission,
    same_missions,
    waypoint_items,
)
from parallel_city_ros.flight.outcome import FlightStatus
from parallel_city_ros.geo import LocalFrame

CONFIG = FlightConfig()
HOME = np.array([30.0, 50.0, 5.0])


def refused_without_a_link(plan, grid):
    """Nothing can have been sent: the autopilot is not even connected."""
    outcome = PatrolFlight(plan, grid, Autopilot(), CONFIG).run()
    assert outcome.status is FlightStatus.REFUSED and len(outcome.flown) == 0
    return outcome.message


def test_a_plan_of_another_map_is_refused(grid, plan):
    assert "another map" in refused_without_a_link(replace(plan, map_hash="0" * 64), grid)


def test_a_crane_in_the_way_voids_the_plan_one_elsewhere_does_not(grid, plan):
    message = refused_without_a_link(plan, crane(grid, *(plan.path[5, :2] + 5)))
    assert "height over what is near" in message and "plan again" in message
    assert checks.why_not_this_map(plan, crane(grid, 20, 250)) == ""


def test_a_plan_edited_by_hand_is_refused(grid, plan):
    path = plan.path.copy()
    path[4] = (190.0, 70.0, 20.0)
    assert "plan again" in refused_without_a_link(replace(plan, path=path), grid)


@pytest.mark.parametrize("home, words", [
    ((190.0, 70.0), "30 m high"), ((176.0, 70.0), "of home"), ((2.0, 50.0), "inside the map"),
    ((-500.0, 0.0), "inside the map")])
def test_homes_that_are_refused(grid, plan, home, words):
    config = replace(CONFIG, max_home_distance=50.0 if words == "move the drone" else 500.0)
    assert words in checks.why_not_from_home(plan, grid, np.array([*home, 5.0]), config)


def test_a_far_home_and_blocked_ways_are_refused(grid, plan):
    assert checks.why_not_from_home(plan, grid, HOME, CONFIG) == ""
    near = replace(CONFIG, max_home_distance=10.0)
    assert "move the drone" in checks.why_not_from_home(plan, grid, HOME, near)
    far = np.array([40.0, 200.0, 5.0])
    between = crane(grid, 35, 120)
    assert "passes a building" in checks.why_not_from_home(plan, between, far, CONFIG)
    over_goal = grid.with_prism(shapely.box(255, 175, 265, 185), 5, 20)
    assert "the goal" in checks.why_not_from_home(plan, over_goal, HOME, CONFIG)


@pytest.mark.parametrize("first", [5, 8])
def test_a_resumed_patrol_does_not_cross_what_stands_before_its_first_waypoint(grid, plan, first):
    """It flies there straight from home, where the plan from its start did not fly."""
    middle = (HOME + plan.path[first])[:2] / 2
    twin = crane(grid, *middle, 90.0)
    rest = rest_of_plan(plan, twin, first)
    assert rest.certificate.valid and len(rest.path) == len(plan.path) - first
    message = checks.why_not_from_home(rest, twin, HOME, CONFIG)
    assert "passes a building of 86 m" in message and "raise the start above 98 m" in message
    assert checks.why_not_from_home(rest_of_plan(plan, grid, first), grid, HOME, CONFIG) == ""


def test_a_way_over_a_valley_may_not_be_higher_above_it_than_a_patrol():
    heights = np.repeat([[105.0], [105.0], [5.0], [105.0], [105.0], [105.0], [105.0]], 2, axis=1)
    hills = VoxelGrid.from_dense(
        np.zeros((150, 150, 1), bool), np.array([0.0, 0.0, 105.0]), 2.0,
        LocalFrame(60.17, 24.94, 0.0), terrain=Ground(heights, (0.0, 0.0), 50.0))
    beyond = make_plan(hills, start=(180.0, 50.0, 165.0), goal=(270.0, 180.0, 165.0), bow=5.0)
    message = checks.why_not_from_home(beyond, hills, np.array([30.0, 50.0, 105.0]), CONFIG)
    assert "156 m above ground at (98, 50) m" in message
    assert checks.why_not_from_home(beyond, hills, np.array([170.0, 40.0, 105.0]), CONFIG) == ""


def test_return_altitude_is_above_everything_on_the_way(grid, plan):
    low = checks.return_altitude(plan, grid, HOME, CONFIG)
    high = checks.return_altitude(plan, crane(grid, 140, 110, 95.0), HOME, CONFIG)
    task = plan.task
    assert low >= task.min_altitude
    assert high >= 90 + task.clearance_vertical + task.tube_radius + CONFIG.return_margin
    parameters = autopilot_parameters(plan.path, HOME, high, CONFIG)
    assert high <= parameters["RTL_RETURN_ALT"] <= high + 0.1
    assert parameters["RTL_CONE_ANG"] == 0
    assert parameters["GF_MAX_VER_DIST"] > high


def test_what_stands_on_the_rest_of_the_path_is_named(grid, plan):
    rest = plan.path[4:]
    assert checks.why_not_the_rest(plan, grid, rest) == ""
    assert checks.why_not_the_rest(plan, crane(grid, *plan.path[2, :2]), rest) == ""
    e, n = plan.path[8, :2]
    message = checks.why_not_the_rest(plan, crane(grid, e, n), rest)
    assert "96 m high stands 0 m from" in message, "100 m is in the 48th voxel over the ground"
    beside = checks.why_not_the_rest(plan, crane(grid, 250, 100, size=20), plan.path[-2:])
    assert beside == "", "far from the last leg"
    over_goal = crane(grid, 260, 180, 20.0)
    assert "of the goal" in checks.why_not_the_rest(plan, over_goal, rest)
    assert "of the goal" in checks.why_not_the_rest(plan, over_goal, plan.path[-1:])


@pytest.mark.parametrize("north", [-200.0, 60.0, 104.0, 150.0, 190.0])
def test_turns_are_clear_up_to_the_first_that_is_not(grid, plan, north):
    """As looking at one after the other finds it."""
    twin, to = crane(grid, 150.0, north), np.array([250.0, 150.0, 40.0])
    places = np.column_stack([np.full(16, 40.0), np.linspace(30.0, 180.0, 16), np.full(16, 40.0)])
    count, reason = checks.clear_turns(plan, twin, places, to)
    alone = [checks.why_not_straight(plan, twin, place[None], to) for place in places]
    assert count == next((k for k, why in enumerate(alone) if why), 16)
    assert reason.split(",")[0] == ("" if count == 16 else alone[count].split(",")[0])


def test_a_return_from_here_need_not_be_above_what_is_elsewhere(grid, plan):
    twin = crane(grid, *plan.path[8, :2])
    everywhere = checks.return_altitude(plan, twin, HOME, CONFIG)
    from_here = checks.return_altitude(plan, twin, HOME, CONFIG, plan.path[2:3])
    assert from_here < 60 < everywhere


@pytest.mark.parametrize("seed", range(5))
def test_the_highest_near_a_shape_is_what_looking_at_every_column_finds(grid, seed):
    rng = np.random.default_rng(seed)
    twin = grid
    for _ in range(12):
        twin = crane(twin, *rng.uniform(0, 300, 2), rng.uniform(10, 90), rng.uniform(1, 30))
    line, distance = shapely.LineString(rng.uniform(-20, 320, (3, 2))), rng.uniform(0.5, 20)
    i, j = np.indices(twin.surface.shape)
    x, y = 2.0 * i, 2.0 * j
    near = shapely.distance(line, shapely.box(x, y, x + 2, y + 2)) <= distance
    highest = twin.surface[near].max(initial=5.0)
    assert checks.highest_near(twin, line, distance) == pytest.approx(highest)


def test_mission_is_the_path_between_take_off_and_landing(grid, plan):
    items = patrol_mission(plan.path, HOME, grid.frame, CONFIG)
    assert [i.command for i in items] == [TAKEOFF, CHANGE_SPEED,
                                          *[WAYPOINT] * len(plan.path), LAND]
    assert list(waypoint_items(items)) == list(range(2, len(items) - 1))
    for point, item in zip(plan.path, items[2:-1], strict=True):
        enu = grid.frame.to_enu(item.x * 1e-7, item.y * 1e-7)
        assert np.hypot(*(enu[:2] - point[:2])) < 0.02
        assert item.z == pytest.approx(point[2] - HOME[2], abs=1e-3), "heights are above home"
        assert item.same_as(replace(item, x=item.x + 1, params=(0, 0, 0, 0)))
        assert not item.same_as(replace(item, z=item.z + 1))
    assert items[0].z == items[2].z and items[-1].z == 0


def test_a_mission_has_photos_a_gimbal_and_the_plans_speeds_if_that_is_wanted(grid, plan):
    """Yaw stays with the autopilot: one that is given makes PX4 wait at each waypoint."""
    config = replace(CONFIG, photos="waypoints", gimbal="tilt", gimbal_tilt_deg=-30.0,
                     speeds="plan")
    items = patrol_mission(plan.path, HOME, grid.frame, config, time_step_s=8.0)
    commands = [i.command for i in items]
    assert commands[:3] == [TAKEOFF, GIMBAL_CONTROL, GIMBAL] and items[2].params[0] == -30
    at = waypoint_items(items)
    assert len(at) == len(plan.path) and {commands[k + 1] for k in at} == {PHOTO}
    assert all(math.isnan(items[k].params[3]) for k in at)
    speeds = [items[k - 1].params[1] for k in at[1:] if commands[k - 1] == CHANGE_SPEED]
    legs = np.linalg.norm(np.diff(plan.path, axis=0), axis=1)
    assert len(speeds) == len(legs) and speeds == pytest.approx(legs / 8.0, abs=0.006)
    assert max(speeds) < CONFIG.cruise_speed
    in_a_hurry = patrol_mission(plan.path, HOME, grid.frame, config, time_step_s=0.5)
    assert max(i.params[1] for i in in_a_hurry if i.command == CHANGE_SPEED) == 8.0

    # As PX4 gives it back: NaN or not, but nothing that it would do otherwise.
    kept = [replace(i, params=tuple(0.0 if math.isnan(p) else p for p in i.params))
            for i in items]
    assert same_missions(items, kept)
    for k, change in ((2, {"params": (-90.0, 0.0, 0.0, 0.0)}), (2, {"x": 0}),
                      (at[0] + 1, {"params": (0.0, 0.0, 9.0, 0.0)})):
        assert not same_missions(items, [*kept[:k], replace(kept[k], **change), *kept[k + 1:]])


@pytest.mark.parametrize("field, value", [
    ("cruise_speed", 0.0), ("retries", -1), ("link_loss_action", "panic"), ("address", ""),
    ("reserve_battery_percent", 60.0), ("mode_timeout_s", float("nan")),
    ("link_timeout_s", 500.0), ("max_home_shift", 0.0), ("blocked_action", "hope"),
    ("photos", "video"), ("gimbal", "up"), ("speeds", "light"), ("gimbal_tilt_deg", -91.0)])
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(ConfigError, match=field):
        FlightConfig(**{field: value})
