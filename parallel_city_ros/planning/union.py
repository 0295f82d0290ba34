"""What several patrols of one map see together: what another has seen is worth nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask

LEAST_SHARE = 1e-4      # of the floor of a round when the others have seen enough


class Union:
    """Coverage of patrols that share a map; its floor is the task's, for all of them together.

    task : of any of them; they have drone, area and coverage floor in common
    weights : (nx, ny) worth of each ground cell, or None for 1 everywhere
    """

    def __init__(self, grid: VoxelGrid, task: PatrolTask, weights=None):
        self._evaluator = Evaluator(grid, task, weights, coverage_floor_km2=0.0)
        self.worth = self._evaluator.scene.weights
        self.floor_km2 = task.coverage_floor * self._km2(self.worth * self._evaluator.room)
        self._seen: dict = {}

    def _km2(self, worth) -> float:
        return float(1e-6 * self._evaluator.grid.resolution**2 * worth.sum())

    def put(self, member, path) -> None:
        """The (N, 3) path of a member, in place of the one that it had."""
        self._seen[member] = self._evaluator.seen(path)

    def worth_left(self, member) -> np.ndarray:
        """(nx, ny) worth of the ground without what others than the member see."""
        left = self.worth.copy()
        for other, seen in self._seen.items():
            if other != member:
                left[seen] = 0.0
        return left

    def km2(self, without=None) -> float:
        """Weighted area that the members see, each cell once."""
        seen = [mask for member, mask in self._seen.items() if member != without]
        return self._km2(self.worth[np.logical_or.reduce(seen)]) if seen else 0.0

    def ask_for(self, task: PatrolTask, member, worth, members: int) -> PatrolTask:
        """The task with the share of the worth that the member has to see, if there is a floor:
        an equal part of the floor, or what it sees alone if it has a path, and what is missing.

        worth : (nx, ny) of what it may see; members : that there will be
        """
        if self.floor_km2 <= 0:
            return task
        own = self.floor_km2 / members
        if member in self._seen:
            others = self.km2(without=member)
            own = max(min(own, self.km2() - others), self.floor_km2 - others)
        elif len(self._seen) == members - 1:
            own = max(own, self.floor_km2 - self.km2())
        reachable = self._km2(worth * self._evaluator.room)
        share = own / reachable if reachable > 0 else 1.0
        return replace(task, coverage_floor=float(np.clip(share, LEAST_SHARE, 1.0)))


def joint_fitness(plans: list[PatrolPlan], coverage_km2: float) -> float:
    """F of all plans as of one: the sums of carbon and noise over what they see together."""
    carbon, noise = (sum(getattr(p.objectives, name) for p in plans)
                     for name in ("carbon", "noise_m"))
    return carbon * (noise + 1) / coverage_km2 if coverage_km2 > 0 else float("inf")


def sectors_around(union: Union, grid: VoxelGrid, base, count: int) -> tuple[np.ndarray, list]:
    """The ground around a place in sectors of equal worth.

    Returns
    -------
    (nx, ny) int, the sector of each cell, and the middle of each sector in radians from east.
    """
    nx, ny = grid.surface.shape
    east = grid.origin[0] + (np.arange(nx) + 0.5) * grid.resolution - base[0]
    north = grid.origin[1] + (np.arange(ny) + 0.5) * grid.resolution - base[1]
    angle = np.arctan2(north[None, :], east[:, None])
    order = np.argsort(angle, axis=None, kind="stable")
    total = np.cumsum(union.worth.ravel()[order])
    share = (total - union.worth.ravel()[order] / 2) / max(total[-1], 1e-9)
    sector = np.empty(angle.size, int)
    sector[order] = np.clip((share * count).astype(int), 0, count - 1)
    sorted_angle = angle.ravel()[order]
    middles = [float(sorted_angle[np.searchsorted(share, (k + 0.5) / count)])
               for k in range(count)]
    return sector.reshape(nx, ny), middles
