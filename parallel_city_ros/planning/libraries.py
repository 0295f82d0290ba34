"""Optimisers of well-known libraries on the raw track points, to measure our planners against.

All start from the same trees as the paper's algorithms. They are no planners of `plan_patrol`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.planning.de import De
from parallel_city_ros.planning.de_aco import DeAco, DeAcoConfig
from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps
from parallel_city_ros.settings import check, setting

SCALE = np.array([60.0, 60.0, 15.0])    # m, what counts as far in each coordinate


@dataclass(frozen=True, kw_only=True)
class LibraryConfig:
    population: int = setting(50, "candidate paths", low=4)

    def __post_init__(self):
        check(self)


class _Raw(Search):
    """Free points as one vector, in units of SCALE."""

    def trees(self) -> np.ndarray:
        return rrt_paths(self.evaluator, self.config.population, self.rng, self.stopped,
                         self.warm_start)

    def encode(self, paths: np.ndarray) -> np.ndarray:
        return (paths[:, 1:-1] / SCALE).reshape(len(paths), -1)

    def decode(self, vectors) -> np.ndarray:
        free = np.asarray(vectors).reshape(len(vectors), -1, 3) * SCALE
        free = np.clip(free, self.lower, self.upper)
        task = self.evaluator.task
        ends = (np.broadcast_to(end, (len(free), 1, 3)) for end in (task.start, task.goal))
        first, last = ends
        return np.concatenate([first, free, last], axis=1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        n = self.evaluator.task.track_points
        return np.tile(self.lower / SCALE, n), np.tile(self.upper / SCALE, n)


class Cma(_Raw):
    """pycma's CMA-ES from the best tree, restarted with twice the population."""

    def steps(self) -> Steps:
        import warnings

        import cma
        paths = self.trees()
        cost = (yield paths).cost
        start, size = self.encode(paths[int(np.argmin(cost))][None])[0], None
        lower, upper = self.bounds()
        while True:
            options = {"verbose": -9, "seed": int(self.rng.integers(1, 2**31)),
                       "bounds": [list(lower), list(upper)], "CMA_diagonal": 0}
            if size:
                options["popsize"] = size
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                strategy = cma.CMAEvolutionStrategy(np.clip(start, lower, upper), 0.1, options)
                while not strategy.stop():
                    asked = strategy.ask()
                    strategy.tell(asked, list((yield self.decode(asked)).cost))
            size = 2 * strategy.popsize


class PymooDe(_Raw):
    """pymoo's differential evolution, DE/rand/1/bin with its own defaults."""

    def steps(self) -> Steps:
        from pymoo.algorithms.soo.nonconvex.de import DE
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        lower, upper = self.bounds()
        first = np.clip(self.encode(self.trees()), lower, upper)
        algorithm = DE(pop_size=len(first), sampling=first)
        algorithm.setup(Problem(n_var=len(lower), n_obj=1, xl=lower, xu=upper),
                        termination=NoTermination(), seed=int(self.rng.integers(2**31)),
                        verbose=False)
        while True:
            asked = algorithm.ask()
            asked.set("F", (yield self.decode(asked.get("X"))).cost[:, None])
            for individual in asked:
                individual.evaluated.add("F")
            algorithm.tell(infills=asked)


class ScipyDe(_Raw):
    """scipy's differential_evolution, best1bin, without its final polish.

    It cannot be asked and told: it runs in a thread that takes turns with the generator.
    """

    def steps(self) -> Steps:
        import queue
        import threading

        from scipy.optimize import differential_evolution
        lower, upper = self.bounds()
        first = np.clip(self.encode(self.trees()), lower + 1e-9, upper - 1e-9)
        seed = int(self.rng.integers(2**31))
        asked: queue.Queue = queue.Queue(1)
        told: queue.Queue = queue.Queue(1)

        class Over(Exception):
            pass

        def objective(vectors):
            asked.put(vectors.T if vectors.ndim == 2 else vectors[None])
            cost = told.get()
            if cost is None:
                raise Over
            return cost

        def solve():
            try:
                differential_evolution(
                    objective, list(zip(lower, upper, strict=True)), maxiter=10**6, init=first,
                    tol=0, atol=0, polish=False, updating="deferred", vectorized=True, rng=seed)
            except Over:
                pass
            asked.put(None)

        thread = threading.Thread(target=solve, daemon=True)
        thread.start()
        try:
            while (vectors := asked.get()) is not None:
                told.put((yield self.decode(vectors)).cost)
        finally:        # also when the search ends and the generator is closed
            told.put(None)
            thread.join()


class SeededDe(De):
    """DE/rand/1/bin that begins with the seeds of de_aco instead of trees, as an ablation."""

    def steps(self) -> Steps:
        seeds = yield from DeAco(self.evaluator, DeAcoConfig(), self.rng, self.stopped,
                                 self.budget).seeds()
        self.warm_start = seeds.best(self.config.population, apart=5.0)
        yield from super().steps()


LIBRARIES = {"scipy_de": ScipyDe, "pycma": Cma, "pymoo_de": PymooDe}
