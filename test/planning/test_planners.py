"""What every planner keeps: feasible, repeatable, anytime, warm starts, better than a start."""

import numpy as np
import pytest

from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.planning.made_cities import KINDS, MadeCity, task_over
from parallel_city_ros.planning.planner import PLANNERS, PlanRequest, PlanStatus, plan

BUDGET = 800


@pytest.fixture(scope="module")
def city():
    grid = MadeCity("organic", 7, (500.0, 400.0)).grid()
    return grid, task_over(grid, 20)


@pytest.fixture(scope="module")
def outcomes(city):
    grid, task = city
    return {name: plan(grid, PlanRequest(task=task, planner_id=name, seed=2,
                                         evaluation_budget=BUDGET)) for name in PLANNERS}


@pytest.mark.parametrize("name", PLANNERS)
def test_plans_are_certified_and_no_worse_than_the_straight_flight(city, outcomes, name):
    grid, task = city
    outcome = outcomes[name]
    assert outcome.status is PlanStatus.SUCCEEDED, outcome.message
    again = certify(grid, task, outcome.plan.path, whole=True, map_hash=grid.map_hash,
                    coverage_floor_km2=outcome.plan.coverage_floor_km2)
    assert again.valid and outcome.plan.evaluations <= BUDGET
    evaluate = Evaluator(grid, task)
    exact = evaluate(outcome.plan.path[None])
    assert exact.fitness[0] == outcome.plan.objectives.fitness     # reported values are exact
    straight = evaluate(evaluate.straight()[None])
    assert straight.violation[0] > 0 or exact.fitness[0] <= straight.fitness[0]
    best = [p.objectives.fitness for p in outcome.history if p.feasible]
    assert all(a >= b for a, b in zip(best, best[1:], strict=False))


@pytest.mark.parametrize("name", PLANNERS)
def test_same_seed_same_plan_and_another_seed_another(city, name):
    grid, task = city
    first, again, other = (
        plan(grid, PlanRequest(task=task, planner_id=name, seed=seed, evaluation_budget=300))
        for seed in (2, 2, 3))
    assert np.array_equal(first.plan.path, again.plan.path)
    # the best path of two seeds may be the same walk over the graph, not all of the population
    assert not np.array_equal(first.population, other.population)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_warm_start_is_never_lost(city, outcomes, name):
    grid, task = city
    best = min((o.plan for o in outcomes.values()), key=lambda p: p.objectives.fitness)
    warm = plan(grid, PlanRequest(task=task, planner_id=name, evaluation_budget=300),
                warm_start=best)
    assert warm.plan.objectives.fitness <= best.objectives.fitness


@pytest.mark.parametrize("name", PLANNERS)
def test_cancelled_at_once_and_in_the_middle(city, name):
    grid, task = city
    outcome = plan(grid, PlanRequest(task=task, planner_id=name), cancelled=lambda: True)
    assert outcome.status is PlanStatus.CANCELLED and len(outcome.history) <= 1
    reports = []
    outcome = plan(grid, PlanRequest(task=task, planner_id=name), on_progress=reports.append,
                   cancelled=lambda: len(reports) >= 3)
    assert outcome.status is PlanStatus.CANCELLED and len(outcome.history) == 3
    assert outcome.plan is None or outcome.plan.certificate.valid


def test_the_default_beats_the_baselines(outcomes):
    fitness = {name: o.plan.objectives.fitness for name, o in outcomes.items()}
    assert next(iter(PLANNERS)) == "de_aco" == PlanRequest.planner_id
    assert all(fitness["de_aco"] < 0.95 * f for name, f in fitness.items()
               if name not in ("de_aco", "nsga2"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_city(kind):
    grid = MadeCity(kind, 9, (500.0, 400.0)).grid()
    outcome = plan(grid, PlanRequest(task=task_over(grid, 20), evaluation_budget=500))
    assert outcome.status is PlanStatus.SUCCEEDED, outcome.message
    if kind == "hill":      # else this is no test of uneven ground
        assert np.ptp(grid.ground) > 20


def test_time_ends_a_search_of_many_evaluations(city):
    grid, task = city
    outcome = plan(grid, PlanRequest(task=task, evaluation_budget=10**8, time_budget_s=1.5))
    assert outcome.status is PlanStatus.TIMEOUT and outcome.plan.certificate.valid
