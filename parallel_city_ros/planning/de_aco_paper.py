"""DE-ACO of Zhou et al. (2024), KSII TIIS 18(4), section 4.2, in a reading that works:

pheromone starts at 1; (17) gives the best path 1 and 0/0 gives 1; (19) is compared with the
median, because over the population P > 0.5 never happens; (22) turns around an elite path,
because one number that shifts all coordinates has no target; replacement is greedy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.patrol.evaluator import Evaluator, Scores
from parallel_city_ros.planning.rrt import rrt_paths
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


class DeAcoPaper:
    """Ask for paths, tell their scores: (Q, B + 2, 3) ENU metres with start and goal."""

    def __init__(self, evaluator: Evaluator, config: DeAcoPaperConfig, rng: np.random.Generator,
                 cancelled=lambda: False):
        self._config, self._rng = config, rng
        self._paths = rrt_paths(evaluator, config.population, rng, cancelled)
        self._scores = None
        self._pheromone = np.ones(config.population)
        task, grid = evaluator.task, evaluator.grid
        ground = grid.origin[2]
        self._lower = np.array([*grid.origin[:2], ground + task.min_altitude])
        self._upper = np.array([
            *(grid.origin[:2] + np.array(grid.surface.shape) * grid.resolution - 1e-6),
            ground + task.max_altitude])

    def ask(self) -> np.ndarray:
        if self._scores is None:
            return self._paths
        config, rng, paths = self._config, self._rng, self._paths
        n = len(paths)
        weight = self._pheromone ** config.pheromone_importance
        roulette = weight / weight.sum()
        by_evolution = weight / (weight + np.median(weight)) > 0.5            # (19)

        first = rng.choice(n, n, p=roulette)
        second, third = np.argsort(rng.random((n, n)) + 2 * np.eye(n), axis=1)[:, :2].T
        mutant = paths[first] + config.mutation_factor * (paths[second] - paths[third])  # (20)
        crossed = rng.random((n, paths.shape[1])) < config.crossover_rate     # (21)
        crossed[np.arange(n), rng.integers(1, paths.shape[1] - 1, n)] = True
        evolved = np.where(crossed[:, :, None], mutant, paths)

        elite = paths[rng.choice(n, n, p=roulette)]
        turn = rng.uniform(-1, 1, (n, 1, 1))
        spiral = elite + np.abs(elite - paths) * np.exp(turn) * np.cos(2 * np.pi * turn)  # (22)

        trial = np.where(by_evolution[:, None, None], evolved, spiral)
        # Half-way back to the parent instead of onto the border, where paths would pile up.
        trial = np.where(trial < self._lower, (self._lower + paths) / 2, trial)
        trial = np.where(trial > self._upper, (self._upper + paths) / 2, trial)
        trial[:, 0], trial[:, -1] = paths[:, 0], paths[:, -1]
        return trial

    def tell(self, paths: np.ndarray, scores: Scores) -> None:
        cost = scores.cost
        if self._scores is None:
            self._cost, self._scores = cost, scores
        else:
            better = cost <= self._cost
            self._paths[better], self._cost[better] = paths[better], cost[better]
            for name in vars(scores):
                getattr(self._scores, name)[better] = getattr(scores, name)[better]
        self._pheromone = ((1 - self._config.evaporation_rate) * self._pheromone
                           + self._deposit())                                 # (18)

    def _deposit(self) -> np.ndarray:
        """(17): 1 for the best path, 0 for the worst; infeasible ones just behind."""
        feasible = self._scores.violation == 0
        quality = self._scores.fitness.copy()
        if feasible.any():
            low, high = quality[feasible].min(), quality[feasible].max()
            excess = self._scores.violation[~feasible]
            quality[~feasible] = high + max(high - low, 1e-9) * excess / (1 + excess)
        else:
            quality = self._scores.violation.copy()
        span = quality.max() - quality.min()
        return (quality.max() - quality) / span if span > 0 else np.ones(len(quality))

    @property
    def best(self) -> tuple[np.ndarray, dict[str, float]]:
        """Best path so far and its scores by name."""
        k = int(np.argmin(self._cost))
        return self._paths[k].copy(), {
            name: float(values[k]) for name, values in vars(self._scores).items()}
