"""A patrol that is too long for one battery, flown as several from the same base."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanOutcome, PlanRequest, PlanStatus, plan
from parallel_city_ros.planning.union import Union, sectors_around

STEPS_SHARE = 0.9       # of the endurance, by time steps: corners are slower
SHORTER = 0.8           # track points, after corners took longer than the battery lasts
HOPELESS = (PlanStatus.START_OCCUPIED, PlanStatus.GOAL_OCCUPIED, PlanStatus.OUTSIDE_MAP,
            PlanStatus.CANCELLED, PlanStatus.TIMEOUT)


@dataclass(frozen=True)
class SortiesOutcome:
    """plans : one for each battery, () if the task was not fulfilled; coverage_km2 : of all, each
    cell once"""

    status: PlanStatus
    message: str
    plans: tuple[PatrolPlan, ...] = ()
    coverage_km2: float = 0.0


def plan_sorties(grid: VoxelGrid, request: PlanRequest, most: int, *, weights=None,
                 city_file: str = "", on_progress: Callable[[str], None] = lambda words: None,
                 cancelled: Callable[[], bool] = lambda: False, **more) -> SortiesOutcome:
    """The fewest sorties, up to most, that together fulfil the task; each within the endurance.

    The places to visit are parted by their direction, the coverage floor in equal parts over
    sectors around the base; what one sortie sees is worth nothing to the next. Track points are
    at most as many as one battery allows.

    request : with a task that ends where it begins; its evaluation budget is for each sortie
    more : of `plan`

    Raises
    ------
    ConfigError
        If the task does not end where it begins, or no sortie at all fits the battery.
    """
    task = request.task
    if not task.closed:
        raise ConfigError("sorties come back to their base: let start and goal be the same place")
    if most < 1:
        raise ConfigError(f"sorties must be at least 1, got {most}")
    points = task.track_points
    if (points + 1) * task.time_step_s > task.endurance_s:
        points = math.floor(STEPS_SHARE * task.endurance_s / task.time_step_s) - 1
    if points < 1:
        raise ConfigError(
            f"the battery lasts {task.endurance_s:.0f} s, two legs of {task.time_step_s:g} s take "
            f"{2 * task.time_step_s:g} s: no sortie is so short; lower time_step_s")
    began, outcome = time.monotonic(), None
    for count in range(1, most + 1):
        if max(len(part) for part in _parts(task, count)) > points:
            continue
        if outcome is not None and "duration" in outcome.message:
            points = max(1, int(SHORTER * points))
        left = request.time_budget_s - (time.monotonic() - began)
        if outcome is not None and left <= 0:
            break
        union = Union(grid, task, weights)
        plans, outcome = _fly(grid, request, count, points, union, max(left, 1e-3), city_file,
                              weights, cancelled, more)
        if outcome.plan is not None and union.falls_short:
            outcome = PlanOutcome(PlanStatus.NO_VALID_PATH, (
                f"together they see {union.km2():.4f} km², coverage_floor asks for "
                f"{union.floor_km2:.4f} km²"))
        if outcome.plan is not None:
            needed = "one sortie is enough" if count == 1 else \
                f"{count} sorties are needed, one battery each"
            return SortiesOutcome(outcome.status, needed, tuple(plans), union.km2())
        on_progress(f"not in {count}: {outcome.message}")
        if outcome.status in HOPELESS:
            break
    if outcome is None:
        return SortiesOutcome(PlanStatus.NO_VALID_PATH, (
            f"{len(task.must_visit)} places to visit are more than {most} sorties of {points} "
            "track points can pass; allow more sorties"))
    return SortiesOutcome(outcome.status, f"not in {count} sorties: {outcome.message}")


def _fly(grid, request, count, points, union, seconds, city_file, weights, cancelled, more):
    """Plans of so many sorties, and the outcome of the last one that was tried."""
    task, ends = request.task, time.monotonic() + seconds
    sector = sectors_around(union, grid, task.start, count)[0]
    plans, outcome = [], None
    for k, places in enumerate(_parts(task, count)):
        left = union.worth_left(k)
        grounds = [left * (sector == k), left] if count > 1 else [left]
        for worth in grounds:       # its own sector, or wherever something is left to see
            sortie = union.ask_for(replace(task, must_visit=places, track_points=points), k, worth,
                                   count)
            outcome = plan(grid, replace(
                request, task=sortie, seed=request.seed + k,
                time_budget_s=max(ends - time.monotonic(), 1e-3) / (count - k)),
                weights=weights if count == 1 else worth, city_file=city_file,
                cancelled=cancelled, **more)
            if outcome.plan is not None or outcome.status in HOPELESS:
                break
        if outcome.plan is None:
            return plans, outcome
        plans.append(outcome.plan)
        union.put(k, outcome.plan.path)
    return plans, outcome


def _parts(task: PatrolTask, count: int) -> list[tuple]:
    """The places to visit in so many parts: cut around the base, where the gaps are best.

    By angle from the base (sweep, Gillett & Miller 1974); of all places to begin, the one whose
    longest part is the shortest.
    """
    places = np.array(task.must_visit, float).reshape(-1, 3)
    if not len(places) or count == 1:
        return [tuple(task.must_visit), *[()] * (count - 1)]
    base = np.array(task.start)
    order = np.argsort(np.arctan2(*(places - base)[:, 1::-1].T), kind="stable")

    def longest(parts):
        return max(np.linalg.norm(np.diff([base, *places[p], base], axis=0), axis=1).sum()
                   for p in parts)
    cuts = [np.array_split(np.roll(order, shift), count) for shift in range(len(order))]
    best = min(cuts, key=longest)
    return [tuple(task.must_visit[i] for i in part) for part in best]
