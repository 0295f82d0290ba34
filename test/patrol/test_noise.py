"""Sound on the ground against numpy receptor by receptor, and against acoustics by hand."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol import terms
from parallel_city_ros.patrol.certificate import noise_of
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.explain import explain
from parallel_city_ros.patrol.noise import receptors_of
from parallel_city_ros.patrol.task import Drone, PatrolTask
from parallel_city_ros.planning.made_cities import MadeCity, task_over


@pytest.fixture(scope="module", params=["grid", "hill"])
def city(request):
    grid = MadeCity(request.param, 8, (500.0, 400.0)).grid()
    return grid, replace(task_over(grid, 20), noise_model="level", receptor_spacing=33.0)


@pytest.fixture(scope="module")
def field():
    return VoxelGrid.from_dense(np.zeros((100, 80, 1), bool), np.zeros(3), 2.0,
                                LocalFrame(60.0, 25.0))


def some_paths(evaluator, count=8):
    rng = np.random.default_rng(5)
    paths = np.repeat(evaluator.straight()[None], count, axis=0)
    return paths + rng.normal(0, (20, 20, 15), paths.shape)


def test_one_listener_by_hand(field):
    task = PatrolTask(start=(101.0, 81.0, 50.0), goal=(101.0, 81.5, 100.0), noise_model="level",
                      track_points=1, air_absorption=0.01, noise_threshold=35.0)
    weights = np.zeros((100, 80))
    weights[50, 40] = 7.0
    task = replace(task, receptor_spacing=5.0)     # 2 x 2 columns
    x, y, z, share = receptors_of(field, task, weights)[0]
    assert (x, y, z, share) == (102.0, 82.0, 0.0, pytest.approx(7 * 4 / 1e4))
    evaluate = Evaluator(field, task, coverage_floor_km2=0.0, noise_weights=weights)
    path = np.array([[x, y, 50.0], [x, y, 100.0], [x, y, 200.0]])
    levels = 80 - 20 * np.log10([50, 100, 200]) - 0.01 * (np.array([50, 100, 200]) - 1)
    mean = 10 * np.log10(np.mean(10 ** (levels / 10)))
    assert mean > 35
    assert evaluate(path[None]).noise_m[0] == pytest.approx(7 * 4e-4 * (mean - 35))


@pytest.mark.parametrize("near", [0.0, 15.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluators_and_checker_agree(city, near, weighted):
    grid, task = city
    task = replace(task, noise_near_buildings=near)
    weights = np.random.default_rng(3).random(grid.surface.shape) if weighted else None
    evaluate = Evaluator(grid, task, coverage_floor_km2=0.0, noise_weights=weights)
    paths = some_paths(evaluate)
    told = evaluate(paths)
    slow = [noise_of(grid, task, path, weights) for path in paths]
    assert np.allclose(told.noise_m, slow, rtol=1e-9) and min(slow) > 0
    assert np.allclose(told.fitness, told.carbon * (told.noise_m + 1) / told.coverage_km2)
    evaluate.exact = False
    assert np.array_equal(evaluate(paths).noise_m, told.noise_m)


def test_every_hectare_is_heard_for_once(city):
    grid, task = city
    for spacing in (5.0, 50.0, 170.0, 1000.0):
        places = receptors_of(grid, replace(task, receptor_spacing=spacing))
        assert places[:, 3].sum() == pytest.approx(grid.surface.size * grid.resolution**2 / 1e4)
        assert np.array_equal(places, terms.receptors(
            grid, replace(task, receptor_spacing=spacing)))


def test_who_listens_near_buildings(field):
    block = field.with_prism(shapely.box(100, 80, 110, 90), 0, 20)
    task = PatrolTask(start=(20, 20, 50), goal=(180, 140, 50), noise_model="level",
                      receptor_spacing=5.0, noise_near_buildings=10.0)
    places = receptors_of(block, task)
    assert 0.0300 < places[:, 3].sum() < 0.0950     # the block's 0.01 ha and 10 m around it
    away = np.maximum(np.abs(places[:, :2] - (105, 85)) - 5, 0)
    assert np.hypot(*away.T).max() < 10 + 4
    assert len(receptors_of(field, task)) == 0
    evaluate = Evaluator(field, task)
    assert evaluate(evaluate.straight()[None]).noise_m[0] == 0
    assert noise_of(field, task, evaluate.straight()) == 0


def test_higher_softer_and_farther_is_quieter(city):
    grid, task = city
    path = Evaluator(grid, task).straight()

    def heard(path, **changes):
        return Evaluator(grid, replace(task, **changes), coverage_floor_km2=0.0)(
            path[None]).noise_m[0]
    loud = heard(path)
    assert 0 < heard(path + (0, 0, 20)) < loud
    assert heard(path, drone=Drone(sound_level=74.0)) < loud
    assert heard(path, air_absorption=0.05) < loud
    assert heard(path, drone=Drone(sound_level=20.0)) == 0
    # silence leaves coverage and carbon to decide
    quiet = Evaluator(grid, replace(task, drone=Drone(sound_level=20.0)), coverage_floor_km2=0.0)
    scores = quiet(path[None])
    assert scores.fitness[0] == pytest.approx(scores.carbon[0] / scores.coverage_km2[0])


def test_legs_say_what_silence_at_their_end_would_save(city):
    grid, task = city
    k = 4
    path = Evaluator(grid, task).straight()[:k + 2]
    legs = explain(grid, task, path)
    whole = noise_of(grid, task, path)
    places = terms.receptors(grid, task)
    powers = terms.powers_at(task, np.delete(path, k, axis=0), places)
    left = terms.exposure_db_ha(task, powers, places, len(path))
    assert legs[k - 1].noise_m == pytest.approx(whole - left) and legs[k - 1].noise_m > 0


@pytest.mark.parametrize("weights, words", [
    (np.ones((3, 3)), r"noise_weights are for \(3, 3\)"),
    (np.full((100, 80), np.nan), "noise_weights must be finite"),
    (np.full((100, 80), -1.0), "noise_weights must be finite and at least 0")])
def test_weights_that_cannot_be(field, weights, words):
    task = PatrolTask(start=(20, 20, 50), goal=(180, 140, 50), noise_model="level")
    with pytest.raises(ConfigError, match=words):
        Evaluator(field, task, noise_weights=weights)


def test_the_paper_knows_no_level():
    with pytest.raises(ConfigError, match="noise_model must be altitude where model is paper"):
        PatrolTask(start=(0, 0, 50), goal=(9, 9, 50), noise_model="level", model="paper")
