"""The table of views, the incremental local search and the independent checker agree."""

import numpy as np
import pytest

from parallel_city_ros.patrol.certificate import seen_km2
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.kernels import WIDTH_CLASSES, anneal
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.rrt import rrt_paths


@pytest.fixture(scope="module", params=["grid", "hill"])
def city(request):
    grid = MadeCity(request.param, 8, (500.0, 400.0)).grid()
    return grid, task_over(grid, 20)


def paths_over(evaluator, count=40):
    return rrt_paths(evaluator, count, np.random.default_rng(4))


@pytest.mark.parametrize("weighted", [False, True])
def test_table_is_near_the_exact_coverage_and_else_the_same(city, weighted):
    grid, task = city
    weights = np.random.default_rng(1).random(grid.surface.shape) if weighted else None
    evaluate = Evaluator(grid, task, weights)
    paths = paths_over(evaluate)
    exact = evaluate(paths)
    evaluate.exact = False
    table = evaluate(paths)
    off = table.coverage_km2 / exact.coverage_km2 - 1
    assert np.abs(off).mean() < 0.02 and np.abs(off).max() < 0.1 and (off != 0).any()
    assert np.array_equal(table.carbon, exact.carbon)
    assert np.array_equal(table.noise_m, exact.noise_m)


def test_a_full_table_forgets_but_says_the_same(city):
    grid, task = city
    large, small = Evaluator(grid, task), Evaluator(grid, task, table_mb=0.001)
    paths = paths_over(large)
    large.exact = small.exact = False
    for _ in range(2):
        a, b = large(paths), small(paths)
        assert np.array_equal(a.coverage_km2, b.coverage_km2)
    assert small._workers[0].table.records <= (
        small._workers[0].table.capacity) < large._workers[0].table.records


def test_privacy_areas_count_nothing(city):
    grid, task = city
    open_half = np.ones(grid.surface.shape)
    open_half[:, :grid.surface.shape[1] // 2] = 0.0
    evaluate = Evaluator(grid, task, open_half, coverage_floor_km2=0.0)
    paths = paths_over(evaluate, 5)
    for evaluate.exact in (True, False):
        told = evaluate(paths).coverage_km2
        assert np.allclose(told, [seen_km2(grid, task, p, open_half) for p in paths], rtol=0.03)


def test_the_independent_checker_counts_the_same(city):
    grid, task = city
    evaluate = Evaluator(grid, task)
    paths = paths_over(evaluate, 8)
    assert np.allclose(evaluate(paths).coverage_km2, [seen_km2(grid, task, p) for p in paths],
                       rtol=1e-3)


def test_local_search_ends_where_the_exact_evaluator_says(city):
    grid, task = city
    evaluate = Evaluator(grid, task)
    for path in paths_over(evaluate, 3):
        before = evaluate(path[None])
        best, out = path.copy(), np.empty((2, 5))
        counts = np.zeros(grid.surface.shape, np.int16)
        anneal(evaluate.scene, path, 400, np.array([12.0, 5.0]), np.array([1.0, 6.0]),
               np.array([0.003, 3e-5, 0.0, 1.0]), 5, counts, np.ones((3, 3 * WIDTH_CLASSES)),
               best, out)
        told = evaluate(np.array([path, best]))
        assert not counts.any()
        for column, values in enumerate(vars(told).values()):
            assert np.allclose(values, out[:, column], rtol=1e-9, atol=1e-9)
        assert told.cost[1] <= before.cost[0]


def test_stopped_in_the_middle_leaves_the_rest_unknown(city):
    grid, task = city
    evaluate = Evaluator(grid, task)
    paths = np.repeat(evaluate.straight()[None], 300, axis=0)
    evaluate.evaluations = 0
    scores = evaluate(paths, stopped=lambda: evaluate.evaluations >= 100)
    assert 100 <= evaluate.evaluations < 300
    assert np.isfinite(scores.fitness[:evaluate.evaluations]).all()
    assert (scores.violation[evaluate.evaluations:] > 0).all()


def test_the_literal_model_pays_for_hovering(city):
    from dataclasses import replace
    grid, task = city
    literal = replace(task, model="paper")
    evaluate = Evaluator(grid, literal, coverage_floor_km2=0.0)
    path = evaluate.straight()
    twice = np.concatenate([path[:10], path[9:10] + [0.02, 0, 0], path[11:]])
    corrected = Evaluator(grid, task, coverage_floor_km2=0.0)
    over = [e(np.array([path, twice])).coverage_km2 for e in (evaluate, corrected)]
    views = [seen_km2(grid, literal, p[None]) for p in path]
    assert over[0][0] == pytest.approx(sum(views), rel=1e-9)   # (1): overlaps count again
    assert over[0][0] > 1.5 * over[1][0]
    evaluate.exact = False
    assert evaluate(path[None]).coverage_km2[0] == pytest.approx(sum(views), rel=0.1)
