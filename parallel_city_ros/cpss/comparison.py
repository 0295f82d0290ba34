"""Learning from a flight: what was flown against what was planned."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan


@dataclass(frozen=True)
class Comparison:
    """Planned and flown objectives of one sortie, by the same evaluator, so that they compare: if
    it does not know who hears what, or what is worth seeing, neither of them does.

    flown.coverage_km2 and flown.noise_m are taken where photographs are: at the track's closest
    approach to each waypoint; flown.carbon from the whole track between the first and the last.

    Lengths in metres, between first and last waypoint. max_deviation_m is the farthest that the
    track left the planned legs by; it is compared with the tube that was certified.
    """

    planned: Objectives
    flown: Objectives
    planned_length_m: float
    flown_length_m: float
    max_deviation_m: float
    tube_radius_m: float
    below_noise_altitude_share: float
    lowest_altitude_m: float

    @property
    def within_tube(self) -> bool:
        return self.max_deviation_m <= self.tube_radius_m

    def to_dict(self) -> dict:
        return asdict(self) | {"within_tube": self.within_tube}

    @classmethod
    def from_dict(cls, values: dict) -> Comparison:
        values = {k: v for k, v in values.items() if k != "within_tube"}
        return cls(**values | {k: Objectives(**values[k]) for k in ("planned", "flown")})


def closest_approaches(path: np.ndarray, track: np.ndarray) -> np.ndarray:
    """(len(path),) index of the track point nearest to each waypoint, never going back.

    path : (W, 3), track : (N, 3) ENU metres. A dynamic programme, so that a loop of the route
    which comes by an earlier waypoint again does not take the later passage.
    """
    gaps = np.linalg.norm(track[None] - path[:, None], axis=2)
    best = gaps[0].copy()
    came = np.zeros(gaps.shape, int)
    for w in range(len(path)):
        if w:
            best = best[came[w - 1]] + gaps[w]
        # the cheapest way to have reached this waypoint at or before each track point
        running = np.minimum.accumulate(best)
        came[w] = np.maximum.accumulate(np.where(best == running, np.arange(len(track)), 0))
    index = np.empty(len(path), int)
    index[-1] = came[-1, -1]
    for w in range(len(path) - 1, 0, -1):
        index[w - 1] = came[w - 1, index[w]]
    return index


def patrol_part(path: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The track between the first and last waypoint, and the (W, 3) photograph positions."""
    index = closest_approaches(path, track)
    return track[index[0]:index[-1] + 1], track[index]


def waypoints_passed(path: np.ndarray, track: np.ndarray, radius: float) -> int:
    """How many waypoints, counted from the first, a flight that goes on has come by."""
    ahead = 0
    for point in track:
        while ahead < len(path) and np.linalg.norm(path[ahead] - point) <= radius:
            ahead += 1
    return ahead


def deviation(path: np.ndarray, track: np.ndarray) -> np.ndarray:
    """(N,) distance of each track point from the nearest leg, metres."""
    nearest = np.full(len(track), np.inf)
    for a, b in zip(path[:-1], path[1:], strict=True):
        leg = b - a
        share = np.clip((track - a) @ leg / max(leg @ leg, 1e-12), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(track - a - share[:, None] * leg, axis=1))
    return nearest


def compare(plan: PatrolPlan, track, evaluator: Evaluator,
            passed: int | None = None) -> Comparison:
    """Compare a flight with its plan.

    track : (N, 3) ENU metres; evaluator : on the plan's map, and with its weights if known
    passed : number of waypoints that were come by, of a flight that goes on or was broken off;
        all by default. planned is always the whole plan.

    Raises
    ------
    ValueError
        If the track has fewer than two points.
    """
    track = np.asarray(track, float)
    if track.ndim != 2 or len(track) < 2:
        raise ValueError("a track needs at least two points")
    patrol, photographs = patrol_part(plan.path[:passed], track)
    scores = evaluator(photographs[None])
    length = float(np.linalg.norm(np.diff(patrol, axis=0), axis=1).sum())
    # as flown, corners rounded; energy is reckoned from waypoint to waypoint
    carbon = float(scores.carbon[0]) if plan.task.carbon_model == "energy" else \
        plan.task.drone.carbon_per_km * length / 1000
    coverage, noise = float(scores.coverage_km2[0]), float(scores.noise_m[0])
    height = patrol[:, 2] - evaluator.grid.ground_at(patrol)
    flown = Objectives(
        coverage_km2=coverage, carbon=carbon, noise_m=noise,
        fitness=carbon * (noise + 1) / coverage if coverage > 0 else float("inf"),
        violation=float(scores.violation[0]))
    return Comparison(
        planned=Objectives.of(evaluator(plan.path[None])), flown=flown,
        planned_length_m=plan.length_m, flown_length_m=length,
        max_deviation_m=float(deviation(plan.path, patrol).max()),
        tube_radius_m=plan.task.tube_radius,
        below_noise_altitude_share=float(np.mean(height <= plan.task.noise_altitude)),
        lowest_altitude_m=float(height.min()))
