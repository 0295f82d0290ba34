"""One call from task to certified plan, anytime: the best so far on cancel or time-out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import MOST_THREADS, Evaluator
from parallel_city_ros.patrol.noise import listeners
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan, weights_hash
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.de import De, DeConfig
from parallel_city_ros.planning.de_aco import DeAco, DeAcoConfig
from parallel_city_ros.planning.de_aco_paper import DeAcoPaper, DeAcoPaperConfig
from parallel_city_ros.planning.front import PREFERENCES, Front, most_of_each
from parallel_city_ros.planning.iaco import Iaco, IacoConfig
from parallel_city_ros.planning.igso import Igso, IgsoConfig
from parallel_city_ros.planning.impossible import why_closed, why_impossible
from parallel_city_ros.planning.nsga2 import Nsga2, Nsga2Config
from parallel_city_ros.settings import check, require, setting

PLANNERS = {
    "de_aco": (DeAco, DeAcoConfig), "de_aco_paper": (DeAcoPaper, DeAcoPaperConfig),
    "de": (De, DeConfig), "iaco": (Iaco, IacoConfig), "igso": (Igso, IgsoConfig),
    "nsga2": (Nsga2, Nsga2Config)}
WITH_FRONT = ("nsga2",)
MOST_TOLD = 8           # constraints that are broken, in a message
HEIGHT = "height over what is near"     # constraint of the certificate
TABLE_SHARE = 0.9       # of the search in which the table of views may stand for the exact views


class PlanStatus(Enum):
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    NO_VALID_PATH = "no_valid_path"
    START_OCCUPIED = "start_occupied"
    GOAL_OCCUPIED = "goal_occupied"
    OUTSIDE_MAP = "outside_map"


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    planner_id: str = setting("de_aco", "which planner", choices=PLANNERS)
    seed: int = setting(0, "seed of the random numbers: same seed, same plan", low=0)
    evaluation_budget: int = setting(20_000, "paths that may be evaluated", low=1)
    time_budget_s: float = setting(60.0, "s of wall time that may be used", above=0)
    evaluator: str = setting(
        "table", "views of the first nine tenths of the search: from a table of what is seen "
        "from every 4 m, some fifty times as fast and 0.6 % off, or exact; what is reported "
        "always is", choices=("table", "exact"))
    table_mb: float = setting(256.0, "MB of memory that the table may take", above=0)
    threads: int = setting(1, "threads that share the evaluation of each generation; the plan is "
                           "the same whatever their number", low=1, high=MOST_THREADS)
    prefer: str = setting("fitness", "path of a Pareto front that becomes the plan; knee: nearest "
                          "to the best of each objective", choices=PREFERENCES)
    task: PatrolTask

    def __post_init__(self):
        check(self)
        require(self.prefer == "fitness" or self.planner_id in WITH_FRONT, self, "prefer",
                f"fitness, unless planner_id is one with a Pareto front: {', '.join(WITH_FRONT)}")


@dataclass(frozen=True)
class Progress:
    """After each generation; times in seconds, scores of the best path so far.

    hypervolume : of planners that have a front, see Front.hypervolume; None of others
    """

    generation: int
    evaluations: int
    objectives: Objectives
    time_left_s: float
    hypervolume: float | None = None

    @property
    def feasible(self) -> bool:
        return self.objectives.violation == 0


@dataclass(frozen=True)
class PlanOutcome:
    """plan is None unless a feasible path was found; history has one Progress a generation.

    population : (Q, B + 2, 3) paths that a later search may start from, the best first
    cpu_s : processor time of the search, seeding included
    front : of planners that have one; the plan is one of its paths
    """

    status: PlanStatus
    message: str
    plan: PatrolPlan | None = None
    history: tuple[Progress, ...] = ()
    population: np.ndarray | None = None
    cpu_s: float = 0.0
    front: Front | None = None


def warm_up() -> None:
    """Compile the hot loops, or load them from numba's cache: not on the time of a search."""
    empty = VoxelGrid.from_dense(np.zeros((60, 60, 1), bool), np.zeros(3), 2.0,
                                 LocalFrame(0.0, 0.0))
    task = PatrolTask(start=(20.0, 20.0, 50.0), goal=(90.0, 90.0, 50.0), track_points=4)
    # however long the very first compilation takes: ended by time it would not reach all loops
    plan(empty, PlanRequest(task=task, evaluation_budget=300, time_budget_s=1e6))


def heard(grid: VoxelGrid, task: PatrolTask, noise_weights=None) -> np.ndarray | None:
    """(nx, ny) who hears what, as Evaluator, certify and explain take it: the noise weights of
    `plan` where the task has listeners at all. None where noise is by altitude, which knows no
    places, and where there are no weights. Raises ConfigError for weights that cannot be."""
    if noise_weights is None or task.noise_model != "level":
        return None
    return listeners(grid, task) * listeners(grid, task, noise_weights)


def plan(grid: VoxelGrid, request: PlanRequest, *, weights=None, noise_weights=None,
         city_file: str = "", config=None, algorithm=None,
         warm_start: np.ndarray | PatrolPlan | None = None, air: VoxelGrid | None = None,
         on_progress: Callable[[Progress], None] = lambda progress: None,
         cancelled: Callable[[], bool] = lambda: False) -> PlanOutcome:
    """Plan one patrol over one version of the twin.

    weights : (nx, ny) worth of each ground cell, or None for 1 everywhere
    noise_weights : (nx, ny) how often what is heard on each cell counts, as zones.noise_weights
        has it or people per hectare, or None for once; has a say where noise is by level
    city_file : written into the plan, so that it can be checked against the city again
    config : settings of the planner, its defaults if None
    algorithm : a Search to use in place of the one that planner_id names, with its config
    warm_start : a plan, or (W, N, 3) paths, to begin with
    air : the twin with what closes its air but hides nothing, such as zones and other drones

    Same seed and evaluation budget, same plan, whatever the number of threads, unless ended_by
    of the plan says that something else had a say in it.
    """
    began, cpu = time.monotonic(), time.thread_time()
    ends_at = began + request.time_budget_s

    def stopped():
        return cancelled() or time.monotonic() >= ends_at

    ears = heard(grid, request.task, noise_weights)
    evaluator = Evaluator(grid, request.task, weights, table_mb=request.table_mb,
                          noise_weights=ears, threads=request.threads)
    if found := why_impossible(evaluator):
        return PlanOutcome(PlanStatus(found.status), found.message)
    if air is not None:
        closed = Evaluator(air, request.task, coverage_floor_km2=0.0).clearance_surface
        evaluator.scene = evaluator.scene._replace(
            clear=np.maximum(evaluator.clearance_surface, closed))
        if found := why_closed(evaluator) or why_impossible(evaluator):
            return PlanOutcome(PlanStatus(found.status), found.message)
    evaluator.exact = request.evaluator == "exact"
    registered, default = PLANNERS[request.planner_id]
    algorithm = algorithm or registered
    budget = request.evaluation_budget
    optimiser = algorithm(
        evaluator, default() if config is None else config, np.random.default_rng(request.seed),
        stopped, budget, warm_start.path[None] if isinstance(warm_start, PatrolPlan)
        else warm_start, lambda: (time.monotonic() - began) / request.time_budget_s)
    history: list[Progress] = []
    box = most_of_each(evaluator) if hasattr(optimiser, "front") else None
    while not history or not (stopped() or evaluator.evaluations >= budget):
        paths = optimiser.ask()
        if paths is None or (history and evaluator.evaluations + len(paths) > budget):
            break
        if evaluator.evaluations >= TABLE_SHARE * budget:
            evaluator.exact = True
        optimiser.tell(paths, evaluator(paths, stopped))
        volume = None
        if box is not None:
            volume = 0.0 if optimiser.front is None else optimiser.front.hypervolume(box)
        history.append(Progress(len(history), evaluator.evaluations,
                                optimiser.best[1],
                                max(0.0, ends_at - time.monotonic()), volume))
        on_progress(history[-1])
    optimiser.close()
    path, objectives = optimiser.best
    front = getattr(optimiser, "front", None)
    if front is not None:
        path = front.paths[front.choose(request.prefer)]
        objectives = Objectives.of(evaluator.rescore(path))
    status, ended_by = PlanStatus.SUCCEEDED, "time" if optimiser.hurried else "evaluations"
    if cancelled():
        status, ended_by = PlanStatus.CANCELLED, "cancel"
    elif time.monotonic() >= ends_at:
        status, ended_by = PlanStatus.TIMEOUT, "time"
    certificate = certify(
        grid, request.task, path, coverage_floor_km2=evaluator.coverage_floor_km2,
        weights=weights, whole=True, map_hash=grid.map_hash, noise_weights=ears)
    if air is not None:
        certificate = replace(certificate, checks=(*certificate.checks, *(
            replace(c, constraint="height over closed air")
            for c in certify(air, request.task, path).checks if c.constraint == HEIGHT)))
    rest = {"history": tuple(history), "population": optimiser.population,
            "cpu_s": time.thread_time() - cpu, "front": front}
    if objectives.violation > 0 or not certificate.valid:
        names = [c.constraint for c in certificate.broken] or ["coverage floor"]
        more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
        broken = ", ".join(names[:MOST_TOLD]) + more
        if status is PlanStatus.SUCCEEDED:
            status = PlanStatus.NO_VALID_PATH
        return PlanOutcome(status, f"no feasible path in the budget; the best breaks: {broken}",
                           **rest)
    return PlanOutcome(status, f"feasible after {evaluator.evaluations} evaluations", PatrolPlan(
        task=request.task, path=path, objectives=objectives, certificate=certificate,
        planner_id=request.planner_id, seed=request.seed, evaluations=evaluator.evaluations,
        coverage_floor_km2=evaluator.coverage_floor_km2, map_hash=grid.map_hash,
        map_update=grid.map_update, frame=grid.frame, resolution=grid.resolution,
        weights_hash=weights_hash(weights), city_file=city_file, ended_by=ended_by,
        attribution=grid.attribution), **rest)
