"""The compiled evaluator against plain numpy and against what must always hold."""

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.task import Drone, PatrolTask


@pytest.fixture(scope="module")
def grid():
    empty = VoxelGrid.from_dense(np.zeros((200, 150, 1), bool), np.zeros(3), 2.0,
                                 LocalFrame(60.0, 25.0))
    return (empty.with_prism(shapely.box(150, 100, 190, 140), 0, 50)
            .with_prism(shapely.box(250, 180, 290, 220), 0, 25))


@pytest.fixture(scope="module")
def task():
    return PatrolTask(start=(40.0, 40.0, 60.0), goal=(360.0, 260.0, 60.0), track_points=12)


def test_objectives_are_those_of_the_equations(grid, task):
    evaluate = Evaluator(grid, task)
    path = evaluate.straight()
    scores = evaluate(path[None])
    assert scores.violation[0] == 0
    assert scores.carbon[0] == pytest.approx(np.linalg.norm(path[-1] - path[0]) / 1000)
    assert scores.noise_m[0] == pytest.approx(14 * (130 - 60 + 1))
    assert scores.coverage_km2[0] == pytest.approx(evaluate.seen(path).sum() * 4e-6)
    assert scores.fitness[0] == pytest.approx(
        scores.carbon[0] * (scores.noise_m[0] + 1) / scores.coverage_km2[0])


def test_coverage_over_open_ground_is_the_cone(task):
    flat = VoxelGrid.from_dense(np.zeros((200, 150, 1), bool), np.zeros(3), 2.0,
                                LocalFrame(60.0, 25.0))
    area = Evaluator(flat, task).seen([[200.0, 150.0, 60.0]]).sum() * 4.0
    assert area == pytest.approx(np.pi * (60 * np.tan(np.radians(30))) ** 2, rel=0.02)


def test_a_roof_hides_the_street_behind_it(grid, task):
    seen = Evaluator(grid, task).seen([[145.0, 120.0, 60.0]])
    assert seen[71, 60] and not seen[96, 60]     # 143 m east is open, 193 m lies behind the block


def test_each_constraint_counts(grid, task):
    evaluate = Evaluator(grid, task)
    good = evaluate.straight()
    bad = {"band": (3, (0, 0, 80)), "turn": (3, (-80, 0, 0)), "outside": (3, (0, -200, 0))}
    for index, shift in bad.values():
        path = good.copy()
        path[index] += shift
        assert evaluate(path[None]).violation[0] > 0
    low = good.copy()
    low[1:-1, 2] = 45.0
    low[:, :2] = np.linspace((40, 120), (360, 120), 14)
    assert evaluate(low[None]).violation[0] > 0     # through the block of 50 m
    broken = good.copy()
    broken[4, 0] = np.nan
    scores = evaluate(broken[None])
    assert scores.violation[0] > 0 and np.isfinite(scores.cost).all()


def test_weights_and_floor(grid, task):
    nothing = Evaluator(grid, task, weights=np.zeros((200, 150)), coverage_floor_km2=0.0)
    scores = nothing(nothing.straight()[None])
    assert scores.violation[0] > 0 and scores.cost[0] > 1
    greedy = Evaluator(grid, task, coverage_floor_km2=1.0)
    assert greedy(greedy.straight()[None]).violation[0] > 0


@pytest.mark.parametrize("settings", [
    {"track_points": 0}, {"min_altitude": 120.0}, {"time_step_s": float("nan")},
    {"start": (0.0, 0.0)}, {"noise_altitude": float("inf")}])
def test_settings_that_cannot_be(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PatrolTask(**{"start": (0, 0, 50), "goal": (9, 9, 50)} | settings)
    with pytest.raises(ConfigError, match="max_speed"):
        Drone(max_speed=-1.0)
