"""Improved group search optimiser: a producer scans, scroungers follow, rangers roam.

After He, Wu & Saunders (2009), with the improvements that make it work on paths: rangers take
Lévy steps on some of the points, and a member keeps what is better. A baseline of Zhou et al.
(2024), section 5, which leaves the improvements open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps, crossed_points
from parallel_city_ros.settings import check, setting

SPAN = np.array([60.0, 60.0, 20.0])     # m, what counts as far
SCANS = 3                               # ahead, to the left and to the right


@dataclass(frozen=True, kw_only=True)
class IgsoConfig:
    population: int = setting(50, "members of the group", low=4)
    rangers: float = setting(0.2, "share of the members that roam", low=0, high=1)

    def __post_init__(self):
        check(self)


class Igso(Search):
    def steps(self) -> Steps:
        config, rng = self.config, self.rng
        paths = rrt_paths(self.evaluator, config.population, rng, self.stopped, self.warm_start)
        cost = (yield paths).cost
        n, points, _ = paths.shape
        heading = _unit(rng.normal(size=paths.shape))
        patience, failed = round(np.sqrt(3 * points)), 0
        while True:
            if self.evaluator_changed():
                cost = (yield paths).cost
            producer = int(np.argmin(cost))
            left = max(0.0, 1 - self.evaluator.evaluations / self.budget)
            turned = heading[producer] + rng.normal(size=(SCANS, points, 3)) * (
                np.array([0.0, 0.5, 0.5])[:, None, None] / np.sqrt(3 * points))
            far = 0.15 * left * np.sqrt(3 * points) * np.abs(rng.normal(size=(SCANS, 1, 1)))
            scan = self.inside(paths[producer] + far * SPAN * _unit(turned),
                               np.repeat(paths[producer][None], SCANS, axis=0))
            rest = np.delete(np.arange(n), producer)
            trial = paths[rest] + rng.random((n - 1, points, 3)) * (paths[producer] - paths[rest])
            step = 0.02 * SPAN * rng.standard_cauchy((n - 1, 1, 1)).clip(-20, 20) * rng.normal(
                size=(n - 1, points, 3))
            roamed = np.where(crossed_points(rng, (n - 1, points), 0.2)[:, :, None], step, 0.0)
            ranger = rng.random(n - 1) < config.rangers
            trial = self.inside(np.where(ranger[:, None, None], paths[rest] + roamed, trial),
                                paths[rest])
            told = (yield np.concatenate([scan, trial])).cost
            best = int(np.argmin(told[:SCANS]))
            if told[best] < cost[producer]:
                heading[producer] = _unit((scan[best] - paths[producer])[None])[0]
                paths[producer], cost[producer], failed = scan[best], told[best], 0
            else:
                failed += 1
                if failed >= patience:
                    heading[producer], failed = _unit(rng.normal(size=(1, points, 3)))[0], 0
            better = told[SCANS:] <= cost[rest]
            paths[rest[better]], cost[rest[better]] = trial[better], told[SCANS:][better]


def _unit(directions: np.ndarray) -> np.ndarray:
    length = np.sqrt((directions**2).sum(axis=(1, 2), keepdims=True))
    return directions / np.maximum(length, 1e-12)
