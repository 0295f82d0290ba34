"""A patrol that was broken off goes on where something is left to see."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.resume import PatrolMemory, rest_of_plan
from parallel_city_ros.errors import ConfigError, PlanError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask


@pytest.fixture(scope="module")
def grid():
    return VoxelGrid.from_dense(np.zeros((150, 40, 1), bool), np.zeros(3), 2.0,
                                LocalFrame(60.17, 24.94, 0.0))


@pytest.fixture(scope="module")
def plan(grid):
    """Along 240 m, a point each 30 m; a place to visit at each end."""
    task = PatrolTask(start=(30.0, 40.0, 40.0), goal=(270.0, 40.0, 40.0), track_points=7,
                      must_visit=((60.0, 40.0, 40.0), (240.0, 40.0, 40.0)))
    path = np.linspace(task.start, task.goal, 9)
    return PatrolPlan(
        task=task, path=path, certificate=certify(grid, task, path), planner_id="by_hand",
        objectives=Objectives(coverage_km2=0.1, carbon=1.0, noise_m=0.0, fitness=1.0), seed=0,
        evaluations=1, coverage_floor_km2=0.0, map_hash=grid.map_hash, map_update=0,
        frame=grid.frame, resolution=grid.resolution)


def flown(plan, points):
    """A track up, along some of the plan with noise, and home above it."""
    path = plan.path[:points] + np.random.default_rng(1).normal(0, 0.7, (points, 3))
    return np.vstack([path[0] * (1, 1, 0), path, path[-1] + (0, 0, 30), path[0] + (0, 0, 30)])


@pytest.mark.parametrize("points", [1, 4, 6])
def test_the_rest_begins_at_the_first_waypoint_not_seen(grid, plan, points):
    memory = PatrolMemory()
    memory.begin(plan)
    memory.record(plan, grid, flown(plan, points), 100.0)
    rest = memory.rest(plan, grid)
    assert np.array_equal(rest.path, plan.path[points:]) and rest.certificate.valid
    assert rest.task.start == tuple(plan.path[points])
    assert rest.task.must_visit == plan.task.must_visit[1 if points > 1 else 0:]
    between = replace(plan, task=replace(plan.task, must_visit=((30.0 * points + 15, 40, 40),)))
    again = rest_of_plan(between, grid, points)
    assert np.array_equal(again.path, plan.path[points - 1:]) and again.certificate.valid
    assert 0 < rest.objectives.coverage_km2 and rest.objectives.violation == 0


def test_several_flights_add_up_and_all_seen_is_said(grid, plan):
    memory = PatrolMemory()
    memory.record(plan, grid, flown(plan, 5), 100.0)
    memory.record(plan, grid, plan.path[4:], 200.0)
    with pytest.raises(PlanError, match="has been seen"):
        memory.rest(plan, grid)
    memory.begin(plan)
    with pytest.raises(PlanError, match="no earlier flight"):
        memory.rest(plan, grid)


def test_a_gap_is_not_passed_over(grid, plan):
    """What was left out is flown, and what lies after it again."""
    memory = PatrolMemory()
    beside = plan.path.copy()
    beside[3] += (0.0, 38.0, 0.0)
    memory.record(plan, grid, beside, 1.0)
    assert np.array_equal(memory.rest(plan, grid).path, plan.path[3:])


def test_it_outlives_the_process_and_is_of_one_patrol_only(grid, plan, tmp_path):
    PatrolMemory(str(tmp_path), "a").record(plan, grid, flown(plan, 4), 1.0)
    assert len(PatrolMemory(str(tmp_path), "a").rest(plan, grid).path) == 5
    for name, other in (("b", plan), ("a", replace(plan, path=plan.path + (0.0, 1.0, 0.0)))):
        with pytest.raises(PlanError, match="no earlier flight"):
            PatrolMemory(str(tmp_path), name).rest(other, grid)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"not a ledger")
    with pytest.raises(ConfigError, match=file.name):
        PatrolMemory(str(tmp_path), "a").rest(plan, grid)


def test_the_rest_is_certified_on_the_newest_map(grid, plan):
    twin = grid.with_prism(shapely.box(190, 35, 200, 45), 0, 80)
    assert not rest_of_plan(plan, twin, 3).certificate.valid
    behind = grid.with_prism(shapely.box(40, 35, 50, 45), 0, 80)
    assert rest_of_plan(plan, behind, 3).certificate.valid
    assert len(rest_of_plan(plan, grid, 8).path) == 3, "a plan has a track point"
