"""Pareto fronts of patrols: what is not worse in coverage, carbon and noise than another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.evaluator import Evaluator, Scores

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

    def hypervolume(self, most: np.ndarray) -> float:
        """Share, 0 to 1, of the box between the ideal and the worst that the front dominates.

        The box depends on the task and the map alone, so that runs, planners and generations
        compare.

        most : (3,) of f1 at the ideal, of f2 and f3 at the worst, see `most_of_each`

        References
        ----------
        Zitzler & Thiele (1998), Multiobjective Optimization Using Evolutionary Algorithms.
        """
        shares = self.objectives[:, :3] / most
        shares[:, 0] = 1 - shares[:, 0]
        x, y, z = np.clip(shares[np.argsort(shares[:, 0], kind="stable")], 0.0, 1.0).T
        # by layers of z: in each, the staircase of the paths that reach below it
        layer = np.sort(z)
        steps = np.minimum.accumulate(np.where(z <= layer[:, None], y, 1.0), axis=1)
        areas = (1 - steps) @ np.diff(x, append=1.0)
        return float(areas @ np.diff(layer, append=1.0))

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


def most_of_each(evaluator: Evaluator) -> np.ndarray:
    """(3,) bounds of f1, f2 and f3 in their units: all worth that can be reached, the carbon of
    the longest path or of a whole battery, and the noise of a flight at the lower end of the
    band, as level at every receptor at once."""
    task, scene = evaluator.task, evaluator.scene
    legs = task.track_points + 1
    carbon = scene.carbon.energy_limit_wh * scene.carbon.per_wh \
        or scene.carbon.per_km * legs * scene.limits.longest_leg / 1000
    noise = (legs + 1) * (task.noise_altitude - task.min_altitude + 1)
    if scene.by_level:
        gap = max(task.min_altitude, 1.0)
        level = task.drone.sound_level - 20 * np.log10(gap) - task.air_absorption * (gap - 1)
        noise = scene.receptors[:, 3].sum() * (level - task.noise_threshold)
    # as in F, 1 of noise is the least that counts
    return np.array([max(evaluator.reachable_km2, 1e-9), max(carbon, 1e-9), max(noise, 1.0)])


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
