"""One patrol that was flown, and the numbers that pictures, report and table share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely

from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.comparison import Comparison, closest_approaches
from parallel_city_ros.patrol.plan import PatrolPlan


@dataclass(frozen=True, eq=False)
class Sortie:
    """All that is shown of one flight.

    grid : version of the twin that it was planned on
    flown : (N, 4) float, vehicle time in seconds and ENU metres; rows with NaN are ignored
    planned_seen, flown_seen : (nx, ny) bool, ground cells
    convergence : one dict a generation with the keys evaluations, fitness, violation,
        coverage_km2, carbon, noise_m
    """

    number: int
    grid: VoxelGrid
    plan: PatrolPlan
    flown: np.ndarray
    planned_seen: np.ndarray
    flown_seen: np.ndarray
    comparison: Comparison
    convergence: list[dict]

    @cached_property
    def track(self) -> np.ndarray:
        """(M, 3) ENU metres: what telemetry really told, take-off and landing included."""
        flown = np.asarray(self.flown, float).reshape(-1, 4)[:, 1:]
        return flown[np.isfinite(flown).all(axis=1)]

    @cached_property
    def flown_along(self) -> tuple[np.ndarray, np.ndarray]:
        """The patrol as (K,) metres along the planned route and (K, 3) ENU metres flown there."""
        if len(self.track) < 2:
            return np.empty(0), np.empty((0, 3))
        index = closest_approaches(self.plan.path, self.track)
        distance = along(self.plan.path)
        first, last = index[0], index[-1]
        at, which = np.unique(index, return_index=True)
        return (np.interp(np.arange(first, last + 1), at, distance[which]),
                self.track[first:last + 1])

    def seen_km2(self, seen: np.ndarray) -> float:
        """Ground area of a (nx, ny) mask; every cell counts the same."""
        return float(seen.sum()) * self.grid.resolution**2 * 1e-6


def along(path: np.ndarray) -> np.ndarray:
    """(N,) metres from the first point of an (N, 3) line, along it."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])


def resample(path: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """(K,) metres along an (N, 3) line and (K, 3) points of it, at most step metres apart."""
    distance = along(path)
    at = np.linspace(0.0, distance[-1], max(2, int(np.ceil(distance[-1] / step)) + 1))
    return at, np.stack([np.interp(at, distance, path[:, d]) for d in range(3)], axis=1)


def surface_under(grid: VoxelGrid, points: np.ndarray) -> np.ndarray:
    """(N,) height of roof or ground under (N, 3) points; points beside the map take its edge."""
    i, j = np.clip(grid.index(points)[:, :2], 0, np.array(grid.surface.shape) - 1).T
    return grid.surface[i, j]


def seen_before(sorties: Sequence[Sortie], number: int) -> np.ndarray:
    """(nx, ny) bool: ground that the flights before this one saw."""
    before = np.zeros_like(sorties[0].flown_seen)
    for s in sorties:
        if s.number < number:
            before |= s.flown_seen
    return before


def new_share(sorties: Sequence[Sortie], sortie: Sortie, seen=None) -> float:
    """Share of ground seen that no sortie before had seen, 0..1; NaN if none was seen.

    seen : (nx, ny) bool, by default what the sortie saw when it was flown
    """
    seen = sortie.flown_seen if seen is None else seen
    fresh = seen & ~seen_before(sorties, sortie.number)
    return float(fresh.sum() / seen.sum()) if seen.any() else float("nan")


def gap_to_event(line: np.ndarray, event: CityEvent) -> float:
    """Least distance in metres from an (N, 3) line to the closed block; 0: it goes through it.

    Measured every metre. NaN for a line without points.
    """
    if len(line) == 0:
        return float("nan")
    points = resample(line, 1.0)[1]
    aside = shapely.distance(event.polygon, shapely.points(points[:, :2]))
    above = np.maximum(np.maximum(points[:, 2] - event.upper_z, event.lower_z - points[:, 2]), 0)
    return float(np.hypot(aside, above).min())


def known_to(sortie: Sortie, event: CityEvent) -> bool:
    """Whether the map that a sortie was planned on already holds the event."""
    grid = sortie.grid
    lower = grid.origin[:2]
    upper = lower + np.array(grid.surface.shape) * grid.resolution
    on_map = event.polygon.intersection(shapely.box(*(lower + 1e-6), *(upper - 1e-6)))
    if on_map.is_empty:
        return False
    at = on_map.representative_point()
    return bool(grid.is_occupied([at.x, at.y, event.upper_z - grid.resolution / 2]))


def kind_of(event: CityEvent) -> str:
    """'crane', 'road closure': the kind in plain words."""
    return event.kind.replace("_", " ").strip() or "event"
