"""What all planners share: ask and tell, the best path so far, warm starts."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
from numba import njit

from parallel_city_ros.patrol.evaluator import Evaluator, Scores
from parallel_city_ros.patrol.plan import Objectives

Steps = Generator[np.ndarray, Scores, None]


class Search:
    """Ask for paths, tell their scores: (Q, B + 2, 3) ENU metres with start and goal.

    A planner is one generator, `steps`, which yields paths and gets their scores. It ends when it
    has nothing more to try; else it goes on for as long as it is asked.

    stopped : looked at in long work between two batches, which then is cut short
    budget : evaluations of the whole search, for schedules
    time_share : share of the time budget that is over
    warm_start : (W, N, 3) paths to begin with, such as a plan of before, or None
    """

    def __init__(self, evaluator: Evaluator, config, rng: np.random.Generator,
                 stopped: Callable[[], bool] = lambda: False, budget: int = 20_000,
                 warm_start: np.ndarray | None = None,
                 time_share: Callable[[], float] = lambda: 0.0):
        self.evaluator, self.config, self.rng = evaluator, config, rng
        self.stopped, self.budget, self._time_share = stopped, budget, time_share
        self.warm_start = np.empty((0, evaluator.task.track_points + 2, 3))
        if warm_start is not None and len(warm_start):
            self.warm_start = np.array([fit(path, evaluator) for path in warm_start])
        self._steps = self.steps()
        self._told: Scores | None = None
        self._exact = evaluator.exact
        self.hurried = False    # by the clock, which then has had a say in the result
        self._best_cost, self._best_told = np.inf, np.inf
        self._best: tuple[np.ndarray, Scores] | None = None
        band = evaluator.task.min_altitude, evaluator.task.max_altitude
        grid, ground = evaluator.grid, evaluator.scene.ground
        size = np.array(ground.shape) * grid.resolution
        self.lower = np.array([*grid.origin[:2], ground.min() + band[0]])
        self.upper = np.array([*(grid.origin[:2] + size - 1e-6), ground.max() + band[1]])

    def steps(self) -> Steps:
        raise NotImplementedError

    def ask(self) -> np.ndarray | None:
        """Paths to evaluate; None at the end."""
        try:
            return self._steps.send(self._told)
        except StopIteration:
            return None

    def close(self) -> None:
        """Nothing more will be asked for."""
        self._steps.close()

    def tell(self, paths: np.ndarray, scores: Scores) -> None:
        """Scores of the paths that were asked for, by the table or exact."""
        self._told = scores
        if self._exact != self.evaluator.exact:
            self._exact, self._best_told = self.evaluator.exact, np.inf
        k = int(np.argmin(scores.cost))
        if self._best is not None and scores.cost[k] >= self._best_told:
            return
        self._best_told = scores.cost[k]
        exact = self.evaluator.rescore(paths[k])
        if self._best is None or exact.cost[0] < self._best_cost:
            self._best, self._best_cost = (paths[k].copy(), exact), exact.cost[0]

    @property
    def best(self) -> tuple[np.ndarray, Objectives]:
        """Best path so far and its exact objectives."""
        path, scores = self._best
        return path.copy(), Objectives.of(scores)

    @property
    def population(self) -> np.ndarray:
        """(Q, B + 2, 3) paths that a later search may start from."""
        return np.empty((0,)) if self._best is None else self._best[0][None]

    # what planners use

    def late_share(self) -> float:
        """Share of the time that is over, once it is clear that time ends the search and not
        the number of evaluations; else 0, so that the clock has no say in the result."""
        share = self._time_share()
        if share <= max(0.3, self.evaluator.evaluations / self.budget):
            return 0.0
        self.hurried = True
        return share

    def late(self, share: float) -> bool:
        """Whether a stage that ends at a share of the search should end by the clock."""
        return self.late_share() > max(share, 0.3)

    def evaluator_changed(self) -> bool:
        """Whether scores told so far are of another kind than the next: the search has become
        exact, and what is kept is to be evaluated again."""
        changed = getattr(self, "_seen_exact", self.evaluator.exact) != self.evaluator.exact
        self._seen_exact = self.evaluator.exact
        return changed

    def inside(self, trial: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Half-way back to the parent instead of onto the border, where paths would pile up."""
        trial = np.where(trial < self.lower, (self.lower + parents) / 2, trial)
        trial = np.where(trial > self.upper, (self.upper + parents) / 2, trial)
        trial[..., 2] = np.clip(trial[..., 2], *self.evaluator.band(trial))
        trial[:, 0], trial[:, -1] = self.evaluator.task.start, self.evaluator.task.goal
        return trial


def fit(path, evaluator: Evaluator) -> np.ndarray:
    """(B + 2, 3) a path of other length or ends made one of the task."""
    path = resample(np.asarray(path, float), evaluator.task.track_points + 2)
    share = np.linspace(0, 1, len(path))[:, None]
    path += (1 - share) * (evaluator.task.start - path[0]) + share * (
        evaluator.task.goal - path[-1])
    path[0], path[-1] = evaluator.task.start, evaluator.task.goal
    return path


def resample(path: np.ndarray, n: int) -> np.ndarray:
    """(n, 3) points at equal distances along a path; a fit one is left as it is."""
    return path.copy() if len(path) == n else _resample(path, n)


@njit(cache=True, nogil=True)
def _resample(path, n):
    travelled = np.zeros(len(path))
    for k in range(1, len(path)):
        x, y, z = path[k] - path[k - 1]
        travelled[k] = travelled[k - 1] + np.sqrt(x * x + y * y + z * z)
    points, k = np.empty((n, 3)), 0
    step = travelled[-1] / (n - 1)
    for i in range(n - 1):
        at = i * step
        while k < len(path) - 1 and travelled[k + 1] <= at:
            k += 1
        if k == len(path) - 1:
            points[i] = path[k]
            continue
        length, left = travelled[k + 1] - travelled[k], at - travelled[k]
        for d in range(3):
            points[i, d] = (path[k + 1, d] - path[k, d]) / length * left + path[k, d]
    points[n - 1] = path[-1]
    return points


@njit(cache=True, nogil=True)
def smooth(path, passes):
    """A 1-2-1 filter, some times over; the ends stay."""
    path = path.copy()
    for _ in range(passes):
        for d in range(3):
            before = path[0, d]
            for k in range(1, len(path) - 1):
                here = path[k, d]
                path[k, d] = 0.25 * before + 0.5 * here + 0.25 * path[k + 1, d]
                before = here
    return path


def crossed_points(rng: np.random.Generator, shape: tuple[int, int], rate) -> np.ndarray:
    """(Q, N) bool: points that come from the mutant, at least one free one of each path."""
    crossed = rng.random(shape) < rate
    crossed[np.arange(shape[0]), rng.integers(1, shape[1] - 1, shape[0])] = True
    return crossed


def others(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """(count, n) indices, for each of n distinct ones that are not its own."""
    return np.argsort(rng.random((n, n)) + 2 * np.eye(n), axis=1)[:, :count].T
