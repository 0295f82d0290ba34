"""Differential evolution, DE/rand/1/bin (Storn & Price 1997), on the raw track points.

One of the baselines of Zhou et al. (2024), section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps, others
from parallel_city_ros.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class DeConfig:
    population: int = setting(50, "candidate paths", low=4)
    mutation_factor: float = setting(0.5, "F", above=0, high=2)
    crossover_rate: float = setting(0.9, "CR, per coordinate", low=0, high=1)

    def __post_init__(self):
        check(self)


class De(Search):
    def steps(self) -> Steps:
        config, rng = self.config, self.rng
        paths = rrt_paths(self.evaluator, config.population, rng, self.stopped, self.warm_start)
        cost = (yield paths).cost
        n, points, _ = paths.shape
        while True:
            if self.evaluator_changed():
                cost = (yield paths).cost
            first, second, third = others(rng, n, 3)
            mutant = paths[first] + config.mutation_factor * (paths[second] - paths[third])
            crossed = rng.random(paths.shape) < config.crossover_rate
            crossed[np.arange(n), rng.integers(1, points - 1, n), rng.integers(3, size=n)] = True
            trial = self.inside(np.where(crossed, mutant, paths), paths)
            trial_cost = (yield trial).cost
            better = trial_cost <= cost
            paths[better], cost[better] = trial[better], trial_cost[better]
