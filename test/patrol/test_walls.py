"""Walls as an objective: the evaluator against voxel by voxel, also on hills; local search."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.facades import Facades
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol import terms
from parallel_city_ros.patrol.certificate import seen_km2
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.explain import explain
from parallel_city_ros.patrol.kernels import WIDTH_CLASSES, anneal
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.task import Drone, PatrolTask
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, plan
from parallel_city_ros.planning.rrt import rrt_paths

ALL = {"coverage": "both", "carbon_model": "energy", "noise_model": "level", "wind_north": 4.0}


@pytest.fixture(scope="module", params=["hill", "towers"])
def city(request):
    grid = MadeCity(request.param, 8, (500.0, 400.0)).grid()
    return grid, replace(task_over(grid, 16), coverage="facades")


def paths_over(evaluator, count):
    return rrt_paths(evaluator, count, np.random.default_rng(4))


@pytest.mark.parametrize("look", [{}, {"facade_yaw_deg": -60.0, "facade_tilt_deg": 5.0},
                                  {"facade_yaw_deg": 0.0, "facade_tilt_deg": 80.0}])
def test_what_is_seen_is_seen_voxel_by_voxel_too(city, look):
    grid, task = city
    task = replace(task, drone=Drone(**look))
    evaluate, walls = Evaluator(grid, task), Facades(grid)
    order = {key: n for n, key in enumerate(zip(*walls.voxels.T, walls.sides, strict=True))}
    place = np.array([order[i, j, k + n, side] for i, j, side, k, count, _
                      in evaluate.scene.walls.runs for n in range(count)])
    assert len(place) == len(walls.voxels)
    for path in paths_over(evaluate, 2):
        told = evaluate.walls_seen(path)
        slow = terms.walls_seen(walls, task, terms.cameras_along(task, path))[place]
        assert told.sum() > 100
        assert (told == slow).all()     # the feet of walls along a slope too
        assert evaluate(path[None]).coverage_km2[0] == pytest.approx(
            told.sum() * grid.resolution**2 * 1e-6)


@pytest.mark.parametrize("turn", range(4))
def test_walls_at_every_border_of_the_map_are_seen(turn):
    """What a block of chunks leaves over counts too."""
    grid = VoxelGrid.from_dense(np.zeros((101, 101, 1), bool), np.zeros(3), 2.0,
                                LocalFrame(60.0, 25.0))
    middle, to = np.array([101.0, 101.0]), np.array([[0, -1], [1, 0]])
    way = np.array([[-80.0, 50.0], [80.0, 50.0]])      # west to east, with the block on its left
    for _ in range(turn):
        way = way @ to.T
    course = (way[1] - way[0]) / 160
    ahead = middle + way.mean(axis=0) + 44 * (to @ course)
    grid = grid.with_prism(shapely.box(*(ahead - 4), *(ahead + 4)), 0, 20)
    ends = [(*(middle + end), 40.0) for end in way]
    task = PatrolTask(start=ends[0], goal=ends[1], coverage="facades", track_points=8)
    evaluate = Evaluator(grid, task)
    path, walls = evaluate.straight(), Facades(grid)
    slow = terms.walls_seen(walls, task, terms.cameras_along(task, path))
    assert slow.sum() >= 4 * 8      # its side that faces the way
    assert evaluate.walls_seen(path).sum() == slow.sum()


def test_both_is_the_sum_and_the_checker_agrees(city):
    grid, task = city
    scores = {}
    for coverage in ("ground", "facades", "both"):
        evaluate = Evaluator(grid, replace(task, coverage=coverage), coverage_floor_km2=0.0)
        if coverage == "ground":
            paths = paths_over(evaluate, 3)
        scores[coverage] = evaluate(paths).coverage_km2
        slow = [seen_km2(grid, evaluate.task, path) for path in paths]
        assert np.allclose(scores[coverage], slow, rtol=6e-3)
    assert np.allclose(scores["both"], scores["ground"] + scores["facades"])


def test_the_camera_looks_to_the_side_that_it_is_told_to():
    empty = VoxelGrid.from_dense(np.zeros((150, 100, 1), bool), np.zeros(3), 2.0,
                                 LocalFrame(60.0, 25.0))
    grid = empty.with_prism(shapely.box(100, 140, 200, 160), 0, 20)     # left of a way east
    path = np.linspace((40, 100, 45), (260, 100, 45), 12)
    ends = {"start": tuple(path[0]), "goal": tuple(path[-1]), "coverage": "facades"}

    def seen(yaw, path=path, weights=None):
        task = PatrolTask(**ends, drone=Drone(facade_yaw_deg=yaw))
        return Evaluator(grid, task, weights, coverage_floor_km2=0.0)(path[None]).coverage_km2[0]
    # its southern wall and both ends
    assert seen(90.0) == pytest.approx((100 + 2 * 20) * 20 * 1e-6, rel=0.02)
    assert seen(-90.0) == 0
    assert seen(-90.0, path[::-1]) == pytest.approx(seen(90.0), rel=0.05)
    assert 0 < seen(0.0) < 0.9 * seen(90.0)     # ahead, and not its eastern end
    private = np.ones((150, 100))
    private[50:75, 70:80] = 0.0     # the western half of the block
    assert seen(90.0, weights=private) == pytest.approx(seen(90.0) / 2, rel=0.1)


@pytest.mark.parametrize("terms_of", [ALL, {}, {"coverage": "ground", "noise_model": "level"}])
def test_local_search_ends_where_the_exact_evaluator_says(city, terms_of):
    grid, task = city
    evaluate = Evaluator(grid, replace(task, **terms_of))
    counts = np.zeros(grid.surface.shape, np.int16)
    for path in paths_over(evaluate, 2):
        before, best, out = evaluate(path[None]), path.copy(), np.empty((2, 5))
        anneal(evaluate.scene, path, 150, np.array([12.0, 5.0]), np.array([1.0, 6.0]),
               np.array([0.003, 3e-5, 0.0, 1.0]), 5, counts, np.ones((3, 3 * WIDTH_CLASSES)),
               best, out)
        told = evaluate(np.array([path, best]))
        assert not counts.any()
        for column, values in enumerate(vars(told).values()):
            assert np.allclose(values, out[:, column], rtol=1e-9, atol=1e-9)
        assert told.cost[1] <= before.cost[0]


def test_a_plan_with_all_terms_comes_back_from_its_file(city, tmp_path):
    grid, task = city
    task = replace(task, **ALL)
    found = plan(grid, PlanRequest(task=task, evaluation_budget=400)).plan
    found.save(tmp_path / "plan.json")
    back = PatrolPlan.load(tmp_path / "plan.json")
    assert back.to_dict() == found.to_dict() and back.task == task
    told = {t.objective: t for t in back.certificate.objectives}
    assert {t.unit for t in told.values()} == {
        "km² of ground and facades, weighted", "g CO2", "dB ha"}
    for name, term in told.items():
        assert term.value == pytest.approx(getattr(found.objectives, name), rel=6e-3)
    legs = explain(grid, task, found.path)
    assert sum(leg.carbon for leg in legs) == pytest.approx(told["carbon"].value)
    assert sum(leg.gained_km2 for leg in legs) == pytest.approx(
        told["coverage_km2"].value - seen_km2(grid, task, np.repeat(
            found.path[:1], 2, axis=0) + ((0, 0, 0), found.path[1] - found.path[0])), abs=0.02)


def test_the_paper_knows_no_walls():
    with pytest.raises(ConfigError, match="coverage must be ground where model is paper"):
        PatrolTask(start=(0, 0, 50), goal=(9, 9, 50), coverage="facades", model="paper")
