"""Clamped cubic B-splines as a short representation of paths (de Boor 1978)."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline

from parallel_city_ros.patrol.evaluator import Evaluator

DEGREE = 3
BEYOND = np.array([60.0, 60.0, 15.0])   # m, controls may lie outside of map and band


class Spline:
    """Free controls (Q, K, 3) ↔ paths (Q, B + 2, 3); start and goal are the end controls."""

    def __init__(self, evaluator: Evaluator, controls: int):
        task, self._evaluator = evaluator.task, evaluator
        count = controls + 2
        knots = np.r_[np.zeros(DEGREE), np.linspace(0, 1, count - DEGREE + 1), np.ones(DEGREE)]
        at = np.linspace(0, 1, task.track_points + 2)
        basis = BSpline.design_matrix(at, knots, DEGREE).toarray()
        self._ends = np.outer(basis[:, 0], task.start) + np.outer(basis[:, -1], task.goal)
        self._basis = basis[:, 1:-1]
        self._inverse = np.linalg.pinv(self._basis)

    def decode(self, controls: np.ndarray, lower, upper) -> np.ndarray:
        paths = self._basis @ controls + self._ends
        paths = np.clip(paths, lower, upper)
        paths[..., 2] = np.clip(paths[..., 2], *self._evaluator.band(paths))
        paths[:, 0], paths[:, -1] = self._evaluator.task.start, self._evaluator.task.goal
        return paths

    def encode(self, paths: np.ndarray) -> np.ndarray:
        return self._inverse @ (paths - self._ends)
