"""Threads share a population, change nothing, and leave the interpreter to others."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.planning.made_cities import MadeCity, task_over

ALL = {"coverage": "both", "carbon_model": "energy", "noise_model": "level"}


@pytest.fixture(scope="module")
def city():
    grid = MadeCity("towers", 8, (500.0, 400.0)).grid()
    return grid, task_over(grid, 16)


def some_paths(evaluator, count):
    return evaluator.straight() + np.random.default_rng(6).normal(0, (30, 30, 12), (count, 18, 3))


@pytest.mark.parametrize("changes, exact", [(ALL, True), ({}, True), ({}, False),
                                            ({"noise_model": "level"}, False)])
def test_threads_change_nothing(city, changes, exact):
    grid, task = city
    one = Evaluator(grid, replace(task, **changes))
    paths = some_paths(one, 180)
    paths[7, 3, 1] = np.nan
    one.exact = exact
    told = one(paths)
    for threads in (2, 5):
        many = Evaluator(grid, one.task, threads=threads)
        many.exact = exact
        for _ in range(2):
            again = many(paths)
            for name, values in vars(told).items():
                assert np.array_equal(values, getattr(again, name)), name
        assert many.evaluations == 2 * len(paths)


@pytest.mark.parametrize("exact", [True, False])
def test_python_goes_on_while_paths_are_evaluated(city, exact):
    """Another thread sees some paths done and others not, in the middle of one compiled call."""
    evaluate = Evaluator(*city)
    paths = np.repeat(some_paths(evaluate, 20), 10 if exact else 1000, axis=0)
    worker, scene = evaluate._workers[0], evaluate.scene
    worker.evaluate(scene, exact, paths, np.empty((len(paths), 5)))     # compiled, views made

    def seen_half_done():
        out = np.full((len(paths), 5), np.nan)
        call = threading.Thread(target=worker.evaluate, args=(scene, exact, paths, out))
        call.start()
        done, half_done = 0, False
        while done < len(paths):
            done = len(paths) - int(np.isnan(out[:, 4]).sum())
            half_done |= 0 < done < len(paths)
        call.join()
        return half_done
    assert any(seen_half_done() for _ in range(50))


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", 1000, True])
def test_threads_that_cannot_be(city, threads):
    with pytest.raises(ConfigError, match="threads must be a whole number"):
        Evaluator(*city, threads=threads)


def test_threads_stop_when_they_are_told_to(city):
    evaluate = Evaluator(*city, threads=2)
    paths = some_paths(evaluate, 600)
    scores = evaluate(paths, stopped=lambda: evaluate.evaluations >= 100)
    assert 100 <= evaluate.evaluations < 600
    assert (scores.violation[evaluate.evaluations:] == 1e9).all()
    assert (scores.violation[:evaluate.evaluations] < 1e9).all()
