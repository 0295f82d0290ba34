"""The Pareto front is one, holds the extremes, and preferences choose from it."""

import numpy as np
import pytest
from pymoo.indicators.hv import HV

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.planning.front import PREFERENCES, most_of_each, not_dominated
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, plan

BUDGET = 1500


@pytest.fixture(scope="module")
def found():
    grid = MadeCity("grid", 6, (500.0, 400.0)).grid()
    task = task_over(grid, 20)
    return grid, task, plan(grid, PlanRequest(task=task, planner_id="nsga2",
                                              evaluation_budget=BUDGET))


def test_none_dominates_another_and_all_are_feasible_and_exact(found):
    grid, task, outcome = found
    front = outcome.front
    assert len(front) >= 10
    values = front.objectives[:, :3] * (-1, 1, 1)
    for k, one in enumerate(values):
        others = np.delete(values, k, axis=0)
        assert not ((others <= one).all(axis=1) & (others < one).any(axis=1)).any()
    told = Evaluator(grid, task)(front.paths)
    assert (told.violation == 0).all()
    assert np.allclose(told.coverage_km2, front.objectives[:, 0], rtol=1e-12)
    assert all(certify(grid, task, path).valid for path in front.paths[:20])


def test_the_hypervolume_grows_and_is_what_pymoo_says(found):
    grid, task, outcome = found
    told = [p.hypervolume for p in outcome.history]
    assert all(b >= a - 1e-3 for a, b in zip(told[:-1], told[1:], strict=True))
    assert 0 <= told[0] < told[-1] < 1
    most, front = most_of_each(Evaluator(grid, task)), outcome.front
    assert told[-1] == front.hypervolume(most)
    shares = front.objectives[:, :3] / most * (-1, 1, 1) + (1, 0, 0)
    assert (shares >= 0).all() and (shares <= 1).all()      # nothing feasible is beyond the box
    assert told[-1] == pytest.approx(HV(ref_point=np.ones(3))(shares), rel=1e-9)
    alone = plan(grid, PlanRequest(task=task, planner_id="igso", evaluation_budget=100))
    assert {p.hypervolume for p in alone.history} == {None}


@pytest.mark.parametrize("preference", PREFERENCES)
def test_preferences(found, preference):
    front = found[2].front
    k = front.choose(preference)
    columns = {"coverage": (0, np.max), "carbon": (1, np.min), "noise": (2, np.min),
               "fitness": (3, np.min)}
    if preference in columns:
        column, best = columns[preference]
        assert front.objectives[k, column] == best(front.objectives[:, column])
    else:
        assert k not in {front.choose(p) for p in ("coverage", "carbon", "noise")}


def test_the_plan_is_what_is_preferred(found):
    grid, task, outcome = found
    front = outcome.front
    again = plan(grid, PlanRequest(task=task, planner_id="nsga2", evaluation_budget=BUDGET,
                                   prefer="knee")).plan
    k = front.choose("knee")
    assert np.array_equal(again.path, front.paths[k])
    assert again.objectives.coverage_km2 == pytest.approx(front.objectives[k, 0])
    assert np.array_equal(outcome.plan.path, front.paths[front.choose("fitness")])


def test_a_file_of_the_front(found):
    told = found[2].front.to_dict()
    assert told["chosen_by"]["fitness"] == 0
    assert len(told["paths"]) == len(told["objectives"]) == len(found[2].front)


def test_a_preference_needs_a_front(found):
    with pytest.raises(ConfigError, match="prefer"):
        PlanRequest(task=found[1], prefer="noise")
    with pytest.raises(ConfigError, match="beauty"):
        found[2].front.choose("beauty")


def test_not_dominated():
    values = np.array([[1, 2], [2, 1], [2, 2], [1, 2], [0, 3], [3, 3]])
    assert not_dominated(values).tolist() == [True, True, False, False, True, False]
