"""Same seed and budget of evaluations, same plan: whatever the threads, in whatever process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from parallel_city_ros.planning.de_aco import DeAco
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, PlanStatus, plan

PLANNERS = ("de_aco", "nsga2")
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture(scope="module")
def city():
    grid = MadeCity("grid", 5, (400.0, 350.0)).grid(4.0)
    return grid, task_over(grid, 12)


class Late(DeAco):
    """The default planner, with a third of its time over before it has begun."""

    def __init__(self, *args):
        super().__init__(*args)
        self._time_share = lambda: 0.35


def made(planner: str, **settings) -> str:
    """The plan as its file has it. Runs in other processes too."""
    grid = MadeCity("grid", 5, (400.0, 350.0)).grid(4.0)
    outcome = plan(grid, PlanRequest(task=task_over(grid, 12), planner_id=planner, seed=11,
                                     evaluation_budget=600, time_budget_s=1e6, **settings))
    assert outcome.status is PlanStatus.SUCCEEDED, outcome.message
    return json.dumps(outcome.plan.to_dict())


def test_the_number_of_threads_and_processes_does_not_matter():
    from joblib import Parallel, delayed
    here = [made(planner) for planner in PLANNERS]
    code = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            f"import test_same_plan as t; [print(t.made(p)) for p in {PLANNERS}]")
    # here: as many threads as there are cores; but not as many there
    there = 1 if numba.get_num_threads() > 1 else 2
    apart = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                             env=os.environ | dict.fromkeys(THREADS, str(there)))
    by_joblib = Parallel(n_jobs=2)(delayed(made)(planner) for planner in PLANNERS)
    assert by_joblib == here
    out, _ = apart.communicate(timeout=300)
    assert apart.returncode == 0 and out.splitlines() == here
    assert [made(planner, threads=3) for planner in PLANNERS] == here
    assert all(json.loads(text)["ended_by"] == "evaluations" for text in here)


def test_a_plan_that_the_clock_had_a_say_in_says_so(city):
    grid, task = city
    endless = PlanRequest(task=task, evaluation_budget=10**8, time_budget_s=0.5)
    outcome = plan(grid, endless)
    assert outcome.status is PlanStatus.TIMEOUT and outcome.plan.ended_by == "time"
    # the time would have done in the end, but the search hurried
    hurried = plan(grid, PlanRequest(task=task, evaluation_budget=900), algorithm=Late)
    assert hurried.status is PlanStatus.SUCCEEDED and hurried.plan.ended_by == "time"
    seen = []
    outcome = plan(grid, endless, on_progress=seen.append,
                   cancelled=lambda: bool(seen) and seen[-1].feasible)
    assert outcome.status is PlanStatus.CANCELLED and outcome.plan.ended_by == "cancel"
