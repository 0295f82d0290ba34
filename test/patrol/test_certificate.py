"""The checker finds what is broken, and agrees with the evaluator where that says feasible."""

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.task import PatrolTask


@pytest.fixture(scope="module")
def grid():
    empty = VoxelGrid.from_dense(np.zeros((200, 150, 1), bool), np.zeros(3), 2.0,
                                 LocalFrame(60.0, 25.0))
    return empty.with_prism(shapely.box(150, 100, 190, 140), 0, 50)


@pytest.fixture(scope="module")
def task():
    return PatrolTask(start=(40.0, 40.0, 70.0), goal=(360.0, 260.0, 70.0), track_points=12)


def test_a_good_path_is_certified(grid, task):
    certificate = certify(grid, task, Evaluator(grid, task).straight())
    assert certificate.valid and not certificate.broken
    assert {c.constraint for c in certificate.checks} >= {"turn", "speed of a leg"}


@pytest.mark.parametrize("constraint, index, shift", [
    ("altitude at most", 3, (0, 0, 60)), ("altitude at least", 3, (0, 0, -60)),
    ("turn", 3, (-80, 0, 0)), ("distance inside the map", 3, (0, -200, 0)),
    ("climb angle", 3, (0, 0, 25)), ("speed of a leg", 6, (60, 0, 0)),
    ("distance from start", 0, (1, 0, 0)), ("height over what is near", 6, (0, 0, -25))])
def test_each_broken_constraint_is_named(grid, task, constraint, index, shift):
    path = Evaluator(grid, task).straight()
    path[index] += shift
    assert constraint in {c.constraint for c in certify(grid, task, path).broken}


def test_not_a_number_is_no_plan(grid, task):
    path = Evaluator(grid, task).straight()
    path[4, 1] = np.nan
    assert not certify(grid, task, path).valid


def test_what_the_evaluator_calls_feasible_is_certified(grid, task):
    rng = np.random.default_rng(3)
    evaluate = Evaluator(grid, task, coverage_floor_km2=0.0)
    paths = np.repeat(evaluate.straight()[None], 3000, axis=0)
    u = np.linspace(0, np.pi, 14)
    for k in (1, 2):
        paths += np.sin(k * u)[None, :, None] * rng.normal(0, (30, 30, 12), (3000, 1, 3)) / k
    paths[:, 0], paths[:, -1] = task.start, task.goal
    feasible = evaluate(paths).violation == 0
    assert 100 < feasible.sum() < 2900
    assert all(certify(grid, task, p).valid for p in paths[feasible][:300])
