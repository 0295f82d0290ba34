"""Flown against planned, measured on tracks whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.comparison import closest_approaches, compare, deviation
from parallel_city_ros.cpss.ledger import CoverageLedger, LedgerConfig
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask


@pytest.fixture
def sortie():
    grid = VoxelGrid.from_dense(np.zeros((200, 150, 1), bool), np.zeros(3), 2.0,
                                LocalFrame(60.0, 25.0))
    task = PatrolTask(start=(40.0, 40.0, 70.0), goal=(360.0, 260.0, 70.0), track_points=12)
    evaluator = Evaluator(grid, task)
    path = evaluator.straight()
    plan = PatrolPlan(
        task=task, path=path, objectives=Objectives.of(evaluator(path[None])),
        planner_id="straight", seed=0,
        certificate=certify(grid, task, path), evaluations=1, frame=grid.frame, resolution=2.0,
        coverage_floor_km2=0.0, map_hash=grid.map_hash, map_update=0)
    return plan, evaluator


def dense(path, ends=()):
    """Take-off below the first waypoint, every metre of the path, landing below the last."""
    pieces = [a + (b - a) * np.linspace(0, 1, 40)[:, None]
              for a, b in zip(path[:-1], path[1:], strict=True)]
    track = np.concatenate(pieces)
    up = np.linspace((*path[0, :2], 0.0), path[0], 30)
    down = np.linspace(path[-1], (*path[-1, :2], 0.0), 30)
    return np.concatenate([up, track, down]) if ends else track


def test_a_perfect_flight_is_as_planned_and_ends_do_not_count(sortie):
    plan, evaluator = sortie
    found = compare(plan, dense(plan.path, ends=True), evaluator)
    assert found.flown_length_m == pytest.approx(plan.length_m, rel=1e-6)
    for name in ("coverage_km2", "carbon", "noise_m", "fitness"):
        planned, flown = getattr(found.planned, name), getattr(found.flown, name)
        assert flown == pytest.approx(planned, rel=1e-6), name
    assert found.max_deviation_m < 1e-6 and found.within_tube
    assert found.below_noise_altitude_share == 1.0


def test_a_plan_whose_listeners_are_not_known_still_compares(sortie):
    """Made where noise counts threefold near a hospital, which the evaluator is not told."""
    plan, evaluator = sortie
    loud = replace(plan, objectives=replace(plan.objectives, noise_m=3 * plan.objectives.noise_m))
    found = compare(loud, dense(plan.path), evaluator)
    assert 0 < found.planned.noise_m == pytest.approx(found.flown.noise_m, rel=1e-6)
    assert found.planned.fitness == pytest.approx(found.flown.fitness, rel=1e-6)


def test_a_track_beside_the_path_is_measured(sortie):
    plan, evaluator = sortie
    shifted = dense(plan.path) + (0, 0, -5.0)
    found = compare(plan, shifted, evaluator)
    assert found.max_deviation_m == pytest.approx(5.0) and not found.within_tube
    assert found.flown.noise_m == pytest.approx(found.planned.noise_m + 14 * 5)
    assert found.flown.coverage_km2 < found.planned.coverage_km2
    assert deviation(plan.path, shifted).shape == (len(shifted),)


def test_a_route_that_crosses_itself_is_followed_in_order():
    path = np.array([(0, 0, 50), (100, 0, 50), (100, 100, 50), (2, -2, 50), (-50, -60, 50)], float)
    track = dense(path)
    index = closest_approaches(path, track)
    assert list(index) == sorted(index)
    assert np.linalg.norm(track[index] - path, axis=1).max() < 1e-6


def test_what_was_seen_is_worth_less_until_time_passes():
    ledger = CoverageLedger((4, 3), LedgerConfig(seen_weight=0.2, revisit_time_s=100.0))
    seen = np.zeros((4, 3), bool)
    seen[1] = True
    assert (ledger.weights(0.0) == 1).all() and ledger.seen_share == 0
    ledger.record(seen, 50.0)
    now, later = ledger.weights(50.0), ledger.weights(150.0)
    assert now[1] == pytest.approx(0.2) and (now[~seen] == 1).all()
    assert later[1] == pytest.approx(1 - 0.8 / np.e, abs=0.005) and ledger.seen_share == 0.25
    ledger.record(seen, 10.0)       # an old report that comes late takes nothing back
    assert (ledger.weights(50.0) == now).all()


@pytest.mark.parametrize("settings", [{"seen_weight": 1.2}, {"revisit_time_s": 0.0}])
def test_ledger_settings_that_cannot_be(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LedgerConfig(**settings)
