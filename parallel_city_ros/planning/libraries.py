"""Optimisers of well-known libraries on the spline of de_aco or on the raw track points.

They are what our planners are measured against, and no planners of `plan_patrol`. All start from
the same trees as the paper's algorithms.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.patrol.evaluator import Scores
from parallel_city_ros.planning.de import De
from parallel_city_ros.planning.de_aco import DeAco, DeAcoConfig
from parallel_city_ros.planning.nsga2 import WithFront, pymoo_steps, three_objectives
from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps
from parallel_city_ros.planning.spline import BEYOND, Spline
from parallel_city_ros.settings import check, setting

SCALE = np.array([60.0, 60.0, 15.0])    # m, what counts as far in each coordinate


@dataclass(frozen=True, kw_only=True)
class LibraryConfig:
    population: int = setting(50, "candidate paths", low=4)
    use_spline: bool = setting(True, "whether the controls of a B-spline are searched, or else "
                               "the track points")
    controls: int = setting(14, "free controls of the B-spline", low=4)
    step: float = setting(0.1, "pycma's first standard deviation, of 60 m level and 15 m up",
                          above=0)
    use_seeds: bool = setting(False, "whether de_aco's seeds are the start in place of trees")

    def __post_init__(self):
        check(self)


class Library(Search):
    """Paths as vectors in units of SCALE, and the other way round."""

    def first(self) -> Generator[np.ndarray, Scores, np.ndarray]:
        """(population, B + 2, 3) paths to begin with."""
        if self.config.use_seeds:
            self.warm_start = yield from seeds_of_de_aco(self, self.config.population)
        return rrt_paths(self.evaluator, self.config.population, self.rng, self.stopped,
                         self.warm_start)

    def prepare(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of the vectors."""
        count, beyond, self._spline = self.evaluator.task.track_points, 0.0, None
        if self.config.use_spline:
            self._spline = Spline(self.evaluator, self.config.controls)
            count, beyond = self.config.controls, BEYOND
        return (np.tile((self.lower - beyond) / SCALE, count),
                np.tile((self.upper + beyond) / SCALE, count))

    def encode(self, paths: np.ndarray) -> np.ndarray:
        free = paths[:, 1:-1] if self._spline is None else self._spline.encode(paths)
        return (free / SCALE).reshape(len(paths), -1)

    def decode(self, vectors) -> np.ndarray:
        free = np.asarray(vectors).reshape(len(vectors), -1, 3) * SCALE
        if self._spline is not None:
            return self._spline.decode(free, self.lower, self.upper)
        task = self.evaluator.task
        first, last = (np.broadcast_to(end, (len(free), 1, 3)) for end in (task.start, task.goal))
        return np.concatenate([first, np.clip(free, self.lower, self.upper), last], axis=1)


class Cma(Library):
    """pycma's CMA-ES from the best path, restarted with twice the population."""

    def steps(self) -> Steps:
        import warnings

        import cma
        lower, upper = self.prepare()
        paths = yield from self.first()
        cost = (yield paths).cost
        start, size = self.encode(paths[int(np.argmin(cost))][None])[0], None
        while True:
            options = {"verbose": -9, "seed": int(self.rng.integers(1, 2**31)),
                       "bounds": [list(lower), list(upper)], "CMA_diagonal": 0}
            if size:
                options["popsize"] = size
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                strategy = cma.CMAEvolutionStrategy(
                    np.clip(start, lower, upper), self.config.step, options)
                while not strategy.stop():
                    asked = strategy.ask()
                    strategy.tell(asked, list((yield self.decode(asked)).cost))
            size = 2 * strategy.popsize


class _Pymoo(Library):
    """An algorithm of pymoo with its own defaults."""

    told = staticmethod(lambda scores: (scores.cost[:, None], np.empty((len(scores.cost), 0))))

    def algorithm(self, first: np.ndarray):
        """The algorithm that begins with (population, n) vectors."""
        raise NotImplementedError

    def steps(self) -> Steps:
        lower, upper = self.prepare()
        paths = yield from self.first()
        algorithm = self.algorithm(np.clip(self.encode(paths), lower, upper))
        yield from pymoo_steps(algorithm, lower, upper, self.rng, self.told, self.decode)


class PymooDe(_Pymoo):
    def algorithm(self, first):
        from pymoo.algorithms.soo.nonconvex.de import DE
        return DE(pop_size=len(first), sampling=first)


class PymooGa(_Pymoo):
    def algorithm(self, first):
        from pymoo.algorithms.soo.nonconvex.ga import GA
        return GA(pop_size=len(first), sampling=first)


class PymooNsga2(WithFront, _Pymoo):
    """NSGA-II on coverage, carbon and noise."""

    told = staticmethod(three_objectives)

    def algorithm(self, first):
        from pymoo.algorithms.moo.nsga2 import NSGA2
        return NSGA2(pop_size=len(first), sampling=first)


class ScipyDe(Library):
    """scipy's differential_evolution, best1bin, without its final polish.

    It cannot be asked and told: it runs in a thread that takes turns with the generator.
    """

    def steps(self) -> Steps:
        import queue
        import threading

        from scipy.optimize import differential_evolution
        lower, upper = self.prepare()
        paths = yield from self.first()
        first = np.clip(self.encode(paths), lower + 1e-9, upper - 1e-9)
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


def seeds_of_de_aco(search: Search, count: int) -> Generator[np.ndarray, Scores, np.ndarray]:
    """(<= count, B + 2, 3) the best seeds of de_aco, made for another search."""
    seeds = yield from DeAco(search.evaluator, DeAcoConfig(), search.rng, search.stopped,
                             search.budget).seeds()
    return seeds.best(count, apart=5.0)


class SeededDe(De):
    """DE/rand/1/bin that begins with the seeds of de_aco instead of trees, as an ablation."""

    def steps(self) -> Steps:
        self.warm_start = yield from seeds_of_de_aco(self, self.config.population)
        yield from super().steps()


LIBRARIES = {"scipy_de": ScipyDe, "pycma": Cma, "pymoo_ga": PymooGa, "pymoo_de": PymooDe}
