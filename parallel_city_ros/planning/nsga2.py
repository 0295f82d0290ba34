"""NSGA-II (Deb et al. 2002) on the spline: coverage, carbon and noise as three objectives.

Through pymoo (Blank & Deb 2020). Seeded as the default planner is; the front is that of all
paths that were evaluated, and is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.patrol.evaluator import Scores
from parallel_city_ros.planning.de_aco import JITTER, DeAco
from parallel_city_ros.planning.front import Front, joined
from parallel_city_ros.planning.rrt import rrt_paths
from parallel_city_ros.planning.search import Search, Steps
from parallel_city_ros.planning.spline import BEYOND, Spline
from parallel_city_ros.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class Nsga2Config:
    population: int = setting(100, "paths of a generation", low=8)
    controls: int = setting(14, "free controls of the B-spline", low=4)
    use_graph: bool = setting(True, "whether the layered graph gives seeds")

    def __post_init__(self):
        check(self)


class WithFront(Search):
    """A search that keeps the front of all that it was told."""

    _front: Front | None = None

    def tell(self, paths: np.ndarray, scores: Scores) -> None:
        super().tell(paths, scores)
        if self.evaluator.exact:
            self._front = joined(self._front, paths, scores)
            return
        # By the table a path may seem to be in the front: those that do are scored exactly.
        near = joined(None, paths, scores).paths
        if len(near):
            exact = [self.evaluator.rescore(path) for path in near]
            self._front = joined(self._front, near, Scores(*(
                np.concatenate([getattr(s, name) for s in exact]) for name in vars(scores))))

    @property
    def front(self) -> Front | None:
        return self._front if self._front is not None and len(self._front) else None

    @property
    def population(self) -> np.ndarray:
        return super().population if self.front is None else self.front.paths


class Nsga2(WithFront, DeAco):
    def search(self, seeds) -> Steps:
        from pymoo.algorithms.moo.nsga2 import NSGA2

        evaluator, config, rng = self.evaluator, self.config, self.rng
        more = rrt_paths(evaluator, config.population // 4, rng, self.stopped)
        seeds.add(more, (yield more).cost)
        spline = Spline(evaluator, config.controls)
        controls = spline.encode(seeds.best(3 * config.population // 4, apart=3.0))
        count = config.population - len(controls)
        copies = controls[rng.integers(len(controls), size=count)]
        controls = np.concatenate([controls, copies + rng.normal(size=copies.shape) * JITTER])
        lower, upper = (np.tile(v, config.controls)
                        for v in (self.lower - BEYOND, self.upper + BEYOND))
        algorithm = NSGA2(pop_size=config.population, sampling=np.clip(
            controls.reshape(config.population, -1), lower, upper))
        yield from pymoo_steps(
            algorithm, lower, upper, rng, three_objectives, lambda vectors: spline.decode(
                vectors.reshape(len(vectors), -1, 3), self.lower, self.upper))


def three_objectives(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """(Q, 3) what is to be small and (Q, 1) violation."""
    return (np.column_stack([-scores.coverage_km2, scores.carbon, scores.noise_m]),
            scores.violation[:, None])


def pymoo_steps(algorithm, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator,
                told: Callable[[Scores], tuple[np.ndarray, np.ndarray]],
                decode: Callable[[np.ndarray], np.ndarray]) -> Steps:
    """An algorithm of pymoo asked and told for ever.

    told : scores of Q paths → (Q, objectives) and (Q, constraints), which may be none
    decode : (Q, n) vectors → paths
    """
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination

    objectives, constraints = (values.shape[1] for values in told(Scores(*np.ones((5, 1)))))
    algorithm.setup(Problem(n_var=len(lower), n_obj=objectives, n_ieq_constr=constraints,
                            xl=lower, xu=upper),
                    termination=NoTermination(), seed=int(rng.integers(2**31)), verbose=False)
    while True:
        asked = algorithm.ask()
        values, violations = told((yield decode(asked.get("X"))))
        asked.set("F", values)
        asked.set("G", violations)
        for individual in asked:
            individual.evaluated.update({"F", "G"})
        algorithm.tell(infills=asked)
