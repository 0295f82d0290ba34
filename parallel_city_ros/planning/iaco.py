"""Improved ant colony on a layered graph between start and goal.

Pheromone lies on moves; the ants prefer short and high edges. The tour that deposits is accepted
by Metropolis' rule, and some tours are smoothed. A baseline of Zhou et al. (2024), section 5,
after Dorigo & Stützle (2004), whose improvements that paper leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from parallel_city_ros.planning.layered import LayeredGraph
from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps, resample, smooth
from parallel_city_ros.settings import check, setting

LEAST_PHEROMONE, MOST_PHEROMONE = 0.02, 20.0
SMOOTHED = 0.3          # share of the tours
SMOOTHING = 4           # passes


@dataclass(frozen=True, kw_only=True)
class IacoConfig:
    ants: int = setting(50, "tours of a generation", low=4)
    pheromone_importance: float = setting(1.0, "exponent of the pheromone", low=0)
    heuristic_importance: float = setting(1.5, "exponent of short and high", low=0)
    evaporation_rate: float = setting(0.1, "per generation", low=0, high=1)
    temperature: float = setting(0.05, "of Metropolis' rule at the start, as share of F", above=0)

    def __post_init__(self):
        check(self)


class Iaco(Search):
    def steps(self) -> Steps:
        config, rng, points = self.config, self.rng, self.evaluator.task.track_points + 2
        yield rrt_paths(self.evaluator, max(4, len(self.warm_start)), rng, self.stopped,
                        self.warm_start)
        graph = LayeredGraph.between_ends(self.evaluator, self.stopped)
        if not graph.connected:
            while True:     # no way on the graph: trees are all there is
                yield rrt_paths(self.evaluator, 10, rng, self.stopped)
        lengths, noise = graph.lengths(), graph.noise()
        short = np.where(graph.free, lengths[lengths > 0].min() / np.maximum(lengths, 1e-9), 0.0)
        high = np.sqrt((noise.max() + 1) / (noise + 1))
        pheromone = np.ones(graph.free.shape, np.float32)
        walks = np.empty((2, config.ants, graph.layers + 1), np.int64)
        current, best = None, None
        while True:
            _walk(int(rng.integers(2**31)), graph.free, graph.moves, pheromone,
                  short, high, config.pheromone_importance,
                  config.heuristic_importance, *graph.first, walks[0], walks[1])
            tours = [graph.path(*walks[:, q]) for q in range(config.ants)]
            smoothed = rng.random(config.ants) < SMOOTHED
            paths = np.array([resample(smooth(t, SMOOTHING) if s else t, points)
                              for t, s in zip(tours, smoothed, strict=True)])
            cost = (yield paths).cost
            k = int(np.argmin(cost))
            left = max(0.0, 1 - self.evaluator.evaluations / self.budget)
            warmth = config.temperature * left * (1 - min(cost[k], 1)) + 1e-12
            if current is None or cost[k] <= current[0] or rng.random() < np.exp(
                    (current[0] - cost[k]) / warmth):
                current = cost[k], walks[:, k].copy()
            if best is None or cost[k] < best[0]:
                best = cost[k], walks[:, k].copy()
            pheromone *= 1 - config.evaporation_rate
            np.clip(pheromone, LEAST_PHEROMONE, MOST_PHEROMONE, out=pheromone)
            deposits = [(current[1], 0.5), (best[1], 0.5)]
            deposits += [(walks[:, q], 0.3 / (1 + rank))
                         for rank, q in enumerate(np.argsort(cost)[:5])]
            for walk, amount in deposits:
                _deposit(pheromone, graph.moves, walk[0], walk[1], amount)


@njit(cache=True, nogil=True)
def _walk(seed, free, moves, pheromone, short, high, alpha, beta, a0, c0, walks_a, walks_c):
    np.random.seed(seed)
    n, count = free.shape[0], free.shape[3]
    wish = np.empty(count)
    for q in range(len(walks_a)):
        a, c = a0, c0
        walks_a[q, 0], walks_c[q, 0] = a, c
        for k in range(n):
            total = 0.0
            for m in range(count):
                wish[m] = 0.0
                if free[k, a, c, m]:
                    eta = short[k, a, c, m] * high[k + 1, a + moves[m, 0], c + moves[m, 1]]
                    wish[m] = pheromone[k, a, c, m] ** alpha * eta ** beta
                    total += wish[m]
            drawn = np.random.random() * total
            chosen = -1
            for m in range(count):
                if wish[m] > 0:
                    chosen = m
                    drawn -= wish[m]
                    if drawn <= 0:
                        break
            a, c = a + moves[chosen, 0], c + moves[chosen, 1]
            walks_a[q, k + 1], walks_c[q, k + 1] = a, c


@njit(cache=True, nogil=True)
def _deposit(pheromone, moves, walk_a, walk_c, amount):
    for k in range(len(walk_a) - 1):
        for m in range(len(moves)):
            if (moves[m, 0] == walk_a[k + 1] - walk_a[k]
                    and moves[m, 1] == walk_c[k + 1] - walk_c[k]):
                pheromone[k, walk_a[k], walk_c[k], m] += amount
