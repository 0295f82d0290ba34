"""Pareto fronts of patrols: what is not worse in coverage, carbon and noise than another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.evaluator import Scores

PREFERENCES = ("fitness", "knee", "coverage", "carbon", "noise")
MOST = 200      # paths that are kept


@dataclass(frozen=True)
class Front:
    """Feasible paths of which none dominates another.

    paths : (P, B + 2, 3) ENU metres
    objectives : (P, 4) f1 in km², f2, f3 in metres, F
    """

    paths: np.ndarray
    objectives: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def normalised(self) -> np.ndarray:
        """(P, 3) -f1, f2, f3, each from 0 for the best of the front to 1 for the worst."""
        values = self.objectives[:, :3] * (-1, 1, 1)
        span = np.ptp(values, axis=0)
        return (values - values.min(axis=0)) / np.where(span > 0, span, 1.0)

    def choose(self, preference: str) -> int:
        """The path that is best in one objective, or in F, or the knee.

        The knee is the nearest to the ideal, which has the best of each (compromise programming,
        Zeleny 1973). Among the best in one objective the one with the least F.
        """
        if preference not in PREFERENCES:
            raise ConfigError(f"prefer one of {', '.join(PREFERENCES)}, not {preference!r}")
        fitness = self.objectives[:, 3]
        first = {"fitness": fitness, "coverage": -self.objectives[:, 0],
                 "carbon": self.objectives[:, 1], "noise": self.objectives[:, 2]}
        if preference == "knee":
            return int(np.argmin(np.linalg.norm(self.normalised(), axis=1)))
        return int(np.lexsort((fitness, first[preference]))[0])

    def to_dict(self) -> dict:
        """For a file: objectives and paths, the best in F first, and which is which."""
        order = np.argsort(self.objectives[:, 3])
        place = np.argsort(order)
        return {"chosen_by": {p: int(place[self.choose(p)]) for p in PREFERENCES},
                "objectives": [dict(zip(("coverage_km2", "carbon", "noise_m", "fitness"),
                                        map(float, row), strict=True))
                               for row in self.objectives[order]],
                "paths": self.paths[order].tolist()}


def not_dominated(values: np.ndarray) -> np.ndarray:
    """(P,) bool: which rows of (P, M) values, less is better, no other row dominates.

    Of rows that are the same the first one counts.
    """
    keep = np.ones(len(values), bool)
    for k in range(len(values)):
        if keep[k]:
            worse = (values[k] <= values).all(axis=1)
            worse[:k + 1] &= (values[k] < values[:k + 1]).any(axis=1)
            keep &= ~worse | (np.arange(len(values)) == k)
    return keep


def joined(front: Front | None, paths: np.ndarray, scores: Scores) -> Front:
    """The front of what is in a front and of the feasible among more paths."""
    good = (scores.violation == 0) & np.isfinite(scores.fitness)
    values = np.column_stack([scores.coverage_km2, scores.carbon, scores.noise_m,
                              scores.fitness])[good]
    paths = paths[good]
    if front is not None:
        paths = np.concatenate([front.paths, paths])
        values = np.concatenate([front.objectives, values])
    keep = not_dominated(values[:, :3] * (-1, 1, 1))
    found = Front(paths[keep], values[keep])
    while len(found) > MOST:    # what lies closest to another goes, but not the best in anything
        place = found.normalised()
        gaps = np.linalg.norm(place[:, None] - place[None], axis=2) + 9 * np.eye(len(found))
        gaps = gaps.min(axis=1)
        gaps[[found.choose(p) for p in PREFERENCES]] = np.inf
        stay = np.sort(np.argsort(gaps)[max(1, (len(found) - MOST) // 4):])
        found = Front(found.paths[stay], found.objectives[stay])
    return found
