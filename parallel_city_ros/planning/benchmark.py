"""The honest comparison of planners: same start, same evaluations, processor time beside them.

One line of JSON a run, so that a comparison can be broken off and taken up again, by one process
or many machines. A plan counts as feasible if the independent checker says so. What the runs say
is worked out in standings.py.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.plan import Objectives
from parallel_city_ros.planning import paper_setting
from parallel_city_ros.planning.made_cities import MadeCity, task_over

RESULTS = "runs.jsonl"
FRONTS = ("nsga2", "pymoo_nsga2 raw")       # entrants whose fronts are compared


@dataclass(frozen=True)
class Run:
    """city : kind-seed of a made city, helsinki, or a setting of paper_setting"""

    planner: str
    city: str
    seed: int
    budget: int
    track_points: int
    resolution: float


@dataclass(frozen=True)
class Entrant:
    """What competes: a planner, with other settings or another algorithm in its place."""

    planner_id: str
    algorithm: type | None = None
    config: object | None = None


def entrants() -> dict[str, Entrant]:
    """Planners, libraries, ablations by name."""
    from parallel_city_ros.planning.de_aco import DeAcoConfig
    from parallel_city_ros.planning.libraries import (
        LIBRARIES,
        LibraryConfig,
        PymooNsga2,
        SeededDe,
    )
    from parallel_city_ros.planning.planner import PLANNERS
    known = {name: Entrant(name) for name in PLANNERS}
    for ending, config in (("", LibraryConfig()), (" raw", LibraryConfig(use_spline=False)),
                           (" with the seeds of de_aco", LibraryConfig(use_seeds=True))):
        known |= {name + ending: Entrant("de", library, config)
                  for name, library in LIBRARIES.items()}
    return known | {
        "pymoo_nsga2 raw": Entrant("nsga2", PymooNsga2,
                                   LibraryConfig(population=100, use_spline=False)),
        "de_aco without graph": Entrant("de_aco", None, DeAcoConfig(use_graph=False)),
        "de_aco without graph, pheromone": Entrant("de_aco", None, DeAcoConfig(
            use_graph=False, use_pheromone=False)),
        "de_aco without graph, evolution": Entrant("de_aco", None, DeAcoConfig(
            use_graph=False, evolution_share=0.0)),
        "de_aco with evolution": Entrant("de_aco", None, DeAcoConfig(evolve_always=True)),
        "de_aco without annealing": Entrant("de_aco", None, DeAcoConfig(
            evolve_always=True, evolution_share=1.0)),
        "de with the seeds of de_aco": Entrant("de", SeededDe)}


def cities(kinds: Iterable[str], seeds: Iterable[int]) -> list[str]:
    return [MadeCity(kind, seed).name for kind in kinds for seed in seeds]


def make(run: Run) -> dict:
    """Do one run: everything that is worth keeping of it."""
    from parallel_city_ros.planning.planner import PlanRequest, plan, warm_up
    if run.planner not in entrants():
        raise ConfigError(f"no planner {run.planner!r}; there are {', '.join(entrants())}")
    entrant = entrants()[run.planner]
    grid, task = problem(run.city, run.track_points, run.resolution)
    warm_up()
    request = PlanRequest(task=task, planner_id=entrant.planner_id, seed=run.seed,
                          evaluation_budget=run.budget, time_budget_s=1e6)
    began, times = time.thread_time(), []
    outcome = plan(grid, request, config=entrant.config, algorithm=entrant.algorithm,
                   on_progress=lambda p: times.append(time.thread_time() - began))
    found = outcome.plan
    course = [(p.evaluations, round(t, 3), p.objectives.fitness if p.feasible else None)
              for p, t in zip(outcome.history, times, strict=True)]
    told = asdict(run) | {
        "feasible": found is not None and found.certificate.valid,
        "fitness": found.objectives.fitness if found else None,
        **{k: getattr(found.objectives, k) if found else None
           for k in Objectives.__dataclass_fields__ if k not in ("fitness", "violation")},
        "evaluations": outcome.history[-1].evaluations if outcome.history else 0,
        "cpu_s": round(outcome.cpu_s, 3), "cells": int(grid.surface.size),
        "first_feasible_s": next((t for _, t, f in course if f is not None), None),
        # only where it got better
        "course": [c for k, c in enumerate(course) if k == 0 or c[2] != course[k - 1][2]],
        "path": np.round(found.path, 3).tolist() if found else None}
    if outcome.front is not None:
        told["front"] = outcome.front.objectives[:, :3].tolist()
    return told


@lru_cache(4)
def problem(city: str, track_points: int, resolution: float):
    """The voxels of a city and the task over them."""
    if city in paper_setting.SETTINGS:
        return paper_setting.problem(city, track_points, resolution)
    if city == "helsinki":
        from parallel_city_ros.city.osm import helsinki_file, read_osm
        from parallel_city_ros.city.voxels import voxelise
        grid = voxelise(read_osm(helsinki_file()), resolution)
    else:
        kind, _, seed = city.rpartition("-")
        grid = MadeCity(kind, int(seed)).grid(resolution)
    return grid, task_over(grid, track_points)


def compare(runs: Sequence[Run], folder: str | Path, jobs: int = 1, backend: str = "loky",
            scheduler: str | None = None, on_done=lambda told: None) -> list[dict]:
    """Do the runs that the folder does not hold yet; all results, in the order of the runs.

    jobs : processes on this machine
    backend : of joblib; dask takes the work to more machines
    scheduler : address of a running Dask scheduler, such as tcp://10.0.0.1:8786; else dask
        starts processes on this machine
    """
    from joblib import Parallel, delayed
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = load(folder)
    missing = [run for run in runs if run not in done]
    with _workers(jobs, backend, scheduler), \
            open(folder / RESULTS, "a", encoding="utf-8") as file:
        for told in Parallel(return_as="generator_unordered")(
                delayed(make)(run) for run in missing):
            file.write(json.dumps(told) + "\n")
            file.flush()
            os.fsync(file.fileno())
            on_done(told)
    done = load(folder)
    return [done[run] for run in runs]


@contextmanager
def _workers(jobs: int, backend: str, scheduler: str | None) -> Iterator[None]:
    """joblib's backend for what is done inside."""
    from joblib import parallel_config
    if backend != "dask":
        with parallel_config(backend, n_jobs=jobs):
            yield
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise ConfigError("the dask backend needs a package that is not installed: "
                          "pip install 'dask[distributed]'") from None
    local = {} if scheduler else {"n_workers": jobs, "threads_per_worker": 1,
                                  "dashboard_address": None}
    with Client(scheduler, **local), parallel_config("dask", n_jobs=-1):
        yield


def load(folder: str | Path) -> dict[Run, dict]:
    """Results by run; a line that was cut off is passed over."""
    file = Path(folder) / RESULTS
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            told = json.loads(line)
            found[Run(**{k: told[k] for k in Run.__dataclass_fields__})] = told
        except (json.JSONDecodeError, KeyError):
            continue
    return found
