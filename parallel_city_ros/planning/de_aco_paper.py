"""DE-ACO of Zhou et al. (2024), KSII TIIS 18(4), section 4.2, in a reading that works:

pheromone starts at 1; (17) gives the best path 1 and 0/0 gives 1; (19) is compared with the
median, because over the population P > 0.5 never happens; (22) turns around an elite path,
because one number that shifts all coordinates has no target; replacement is greedy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.patrol.evaluator import Scores
from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps, crossed_points, others
from parallel_city_ros.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class DeAcoPaperConfig:
    population: int = setting(50, "candidate paths (Q)", low=4)
    mutation_factor: float = setting(0.5, "mu of (20)", above=0, high=2)
    crossover_rate: float = setting(0.5, "theta of (21), per track point", low=0, high=1)
    pheromone_importance: float = setting(1.0, "kappa of (19)", low=0)
    evaporation_rate: float = setting(0.1, "psi of (18), per generation", low=0, high=1)

    def __post_init__(self):
        check(self)


class DeAcoPaper(Search):
    def steps(self) -> Steps:
        config, rng = self.config, self.rng
        paths = rrt_paths(self.evaluator, config.population, rng, self.stopped, self.warm_start)
        told = yield paths
        cost, quality = told.cost, _Quality(told)
        pheromone = np.ones(config.population)
        n, points, _ = paths.shape
        while True:
            if self.evaluator_changed():
                told = yield paths
                cost, quality = told.cost, _Quality(told)
            pheromone = ((1 - config.evaporation_rate) * pheromone
                         + quality.deposit())                                 # (18)
            weight = pheromone ** config.pheromone_importance
            roulette = weight / weight.sum()
            by_evolution = weight / (weight + np.median(weight)) > 0.5        # (19)

            first = rng.choice(n, n, p=roulette)
            second, third = others(rng, n, 2)
            mutant = paths[first] + config.mutation_factor * (
                paths[second] - paths[third])                                 # (20)
            crossed = crossed_points(rng, (n, points), config.crossover_rate)     # (21)
            evolved = np.where(crossed[:, :, None], mutant, paths)

            elite = paths[rng.choice(n, n, p=roulette)]
            turn = rng.uniform(-1, 1, (n, 1, 1))
            spiral = elite + np.abs(elite - paths) * np.exp(turn) * np.cos(
                2 * np.pi * turn)                                             # (22)

            trial = self.inside(np.where(by_evolution[:, None, None], evolved, spiral), paths)
            told = yield trial
            better = told.cost <= cost
            paths[better], cost[better] = trial[better], told.cost[better]
            quality.replace(better, told)


class _Quality:
    """Fitness and violation of the population, and the pheromone that they deposit."""

    def __init__(self, scores: Scores):
        self._fitness, self._violation = scores.fitness.copy(), scores.violation.copy()

    def replace(self, which: np.ndarray, scores: Scores) -> None:
        self._fitness[which] = scores.fitness[which]
        self._violation[which] = scores.violation[which]

    def deposit(self) -> np.ndarray:
        """(17): 1 for the best path, 0 for the worst; infeasible ones just behind."""
        feasible = self._violation == 0
        quality = self._fitness.copy()
        if feasible.any():
            low, high = quality[feasible].min(), quality[feasible].max()
            excess = self._violation[~feasible]
            quality[~feasible] = high + max(high - low, 1e-9) * excess / (1 + excess)
        else:
            quality = self._violation.copy()
        span = quality.max() - quality.min()
        return (quality.max() - quality) / span if span > 0 else np.ones(len(quality))
