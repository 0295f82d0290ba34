"""What is left of a patrol that was broken off, such as for a change of the battery."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.ledger import CoverageLedger
from parallel_city_ros.errors import PlanError
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan

PASSED_M = 10.0     # a photograph counts if the drone came that near to its place
STEP_M = 1.0        # between two places of a track that are looked at
FEWEST = 3          # points of a plan: start, one track point, goal


class PatrolMemory:
    """What the flights of a drone's newest patrol have seen.

    folder : where that outlives this process; "": nowhere
    name : of the drone's files in it
    """

    def __init__(self, folder: str = "", name: str = "drone"):
        self._folder, self._name = folder, name
        self._key, self._ledger = "", None

    def begin(self, plan: PatrolPlan) -> None:
        """A patrol is flown from its start: what was seen of it before does not count."""
        self._key, self._ledger = patrol_key(plan), None
        if self._folder:
            self._file(self._key).unlink(missing_ok=True)

    def record(self, plan: PatrolPlan, grid: VoxelGrid, track: np.ndarray, at_s: float) -> None:
        """A flight of a plan has ended. track : (N, 3) ENU metres"""
        ledger = self._known(plan, grid) or CoverageLedger(grid.surface.shape)
        record_flight(ledger, plan, grid, track, at_s)
        self._key, self._ledger = patrol_key(plan), ledger
        if self._folder:
            self._file(self._key).parent.mkdir(parents=True, exist_ok=True)
            ledger.save(self._file(self._key))

    def rest(self, plan: PatrolPlan, grid: VoxelGrid) -> PatrolPlan:
        """What the flights of a plan have not seen of it.

        Raises
        ------
        PlanError
            If no flight of it is known, or nothing is left.
        """
        ledger = self._known(plan, grid)
        if ledger is None:
            raise PlanError("no earlier flight of this plan is known; fly it from its start, or "
                            "say where its flights are kept")
        first = first_unseen(ledger, plan, grid)
        if first == len(plan.path):
            raise PlanError("all that this plan sees has been seen; fly it from its start")
        return rest_of_plan(plan, grid, first)

    def _known(self, plan: PatrolPlan, grid: VoxelGrid) -> CoverageLedger | None:
        key = patrol_key(plan)
        if key == self._key:
            return self._ledger
        if not self._folder or not self._file(key).exists():
            return None
        ledger = CoverageLedger(grid.surface.shape)
        ledger.load(self._file(key))
        return ledger

    def _file(self, key: str) -> Path:
        return Path(self._folder) / f"{self._name}-{key}.ledger.npz"


def patrol_key(plan: PatrolPlan) -> str:
    """The same for the same route on the same base map."""
    path = np.ascontiguousarray(plan.path, "<f8").tobytes()
    return hashlib.sha256(plan.map_hash.encode() + path).hexdigest()[:16]


def record_flight(ledger: CoverageLedger, plan: PatrolPlan, grid: VoxelGrid, track: np.ndarray,
                  at_s: float) -> None:
    """Note what was seen from the places of the plan that a flight came by.

    track : (N, 3) ENU metres
    """
    if len(track) < 2:
        return
    legs = np.linalg.norm(np.diff(track, axis=0), axis=1)
    ends = np.concatenate([[0.0], np.cumsum(legs)])
    at = np.arange(0.0, ends[-1] + STEP_M, STEP_M)
    walk = np.column_stack([np.interp(at, ends, track[:, axis]) for axis in range(3)])
    gaps = np.linalg.norm(walk[:, None] - plan.path[None], axis=2)
    nearest = gaps.argmin(axis=0)
    passed = gaps.min(axis=0) <= PASSED_M
    if passed.any():
        ledger.record(_evaluator(plan, grid).seen(walk[nearest[passed]]), at_s)


def first_unseen(ledger: CoverageLedger, plan: PatrolPlan, grid: VoxelGrid) -> int:
    """Index of the first waypoint of whose view something is left to see; their number if all
    is seen."""
    evaluator = _evaluator(plan, grid)
    for k in range(len(plan.path)):
        if not ledger.has_seen(evaluator.seen(plan.path[k:k + 1])):
            return k
    return len(plan.path)


def rest_of_plan(plan: PatrolPlan, grid: VoxelGrid, first: int) -> PatrolPlan:
    """The plan from a waypoint on, or from a little before if else a place to visit were on a leg
    that is not flown; certified on this map. What was visited is left out."""
    first, places = min(first, len(plan.path) - FEWEST), plan.task.must_visit

    def visited(part):
        return {place for place in places
                if len(part) and _distance(part, np.array(place)) <= plan.task.visit_radius}

    while first > 0 and not set(places) <= visited(plan.path[:first]) | visited(
            plan.path[first:]):
        first -= 1
    if first <= 0:
        return plan
    path, done = plan.path[first:], visited(plan.path[:first])
    task = replace(
        plan.task, start=tuple(path[0].tolist()), track_points=len(path) - 2,
        must_visit=tuple(place for place in places if place not in done))
    return replace(
        plan, task=task, path=path, certificate=certify(grid, task, path),
        coverage_floor_km2=0.0, map_update=grid.map_update,
        objectives=Objectives.of(Evaluator(grid, task, coverage_floor_km2=0.0)(path[None])))


def _evaluator(plan: PatrolPlan, grid: VoxelGrid) -> Evaluator:
    return Evaluator(grid, plan.task, coverage_floor_km2=0.0)


def _distance(path: np.ndarray, place: np.ndarray) -> float:
    """Metres from a polyline, or one point, to a place."""
    path = path if len(path) > 1 else np.repeat(path, 2, axis=0)
    a, leg = path[:-1], np.diff(path, axis=0)
    share = np.clip(((place - a) * leg).sum(1) / np.maximum((leg ** 2).sum(1), 1e-12), 0, 1)
    return float(np.linalg.norm(a + share[:, None] * leg - place, axis=1).min())
