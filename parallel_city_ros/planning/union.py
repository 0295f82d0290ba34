"""What several patrols of one map see together, of the ground and of walls: what another has seen
is worth nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask

LEAST_SHARE = 1e-4      # of the floor of a round when the others have seen enough
WALLS_ASKED = 1.05      # times what is needed: walls that others saw in part count up to 4 % too
                        # much, in fleets over made cities


class Union:
    """Coverage of patrols that share a map; its floor is the task's, for all of them together.

    Ground and walls count as far as the task has them. Columns have one worth for their ground
    and their walls: of one that others have seen in part, what is left is spread over all of it.

    task : of any of them; they have drone, area, coverage and coverage floor in common
    weights : (nx, ny) worth of each ground cell, or None for 1 everywhere
    """

    def __init__(self, grid: VoxelGrid, task: PatrolTask, weights=None):
        self._evaluator = Evaluator(grid, task, weights, coverage_floor_km2=0.0)
        scene = self._evaluator.scene
        self.worth = scene.weights
        self._cells = _cells_of_faces(scene.walls, self.worth.shape)
        # how many squares of a cell's size there are to see, on the ground and of walls
        self._parts = self._sum(np.full(self.worth.shape, scene.see_ground), ...)
        self.floor_km2 = task.coverage_floor * self._reachable_km2(self.worth)
        self._seen: dict = {}

    def _sum(self, ground, faces) -> np.ndarray:
        """(nx, ny) how many squares each column has of a (nx, ny) mask of the ground and one of
        the faces of walls."""
        walls = np.bincount(self._cells[faces], minlength=ground.size)
        return ground.astype(float) + walls.reshape(ground.shape)

    def _km2(self, worth) -> float:
        return float(1e-6 * self._evaluator.grid.resolution**2 * worth.sum())

    def _reachable_km2(self, worth) -> float:
        """As Evaluator.reachable_km2 has it: ground that is flown over, and all walls."""
        walls = self._parts - self._evaluator.scene.see_ground
        return self._km2(worth * (self._evaluator.room & self._evaluator.scene.see_ground)) \
            + self._km2(worth * walls)

    def value(self, worth) -> np.ndarray:
        """(nx, ny) of what there is to see in each column, by its worth."""
        return worth * self._parts

    def put(self, member, path) -> None:
        """The (N, 3) path of a member, in place of the one that it had."""
        ground = self._evaluator.seen(path) & self._evaluator.scene.see_ground
        self._seen[member] = ground, self._evaluator.walls_seen(path)

    def _together(self, without=None) -> np.ndarray:
        """(nx, ny) how many squares of each column the members see, each once."""
        seen = [masks for member, masks in self._seen.items() if member != without]
        if not seen:
            return np.zeros(self.worth.shape)
        return self._sum(*(np.logical_or.reduce(masks) for masks in zip(*seen, strict=True)))

    def worth_left(self, member) -> np.ndarray:
        """(nx, ny) worth of the columns without what others than the member see."""
        left = 1 - self._together(without=member) / np.maximum(self._parts, 1.0)
        return self.worth * left

    def km2(self, without=None) -> float:
        """Weighted area that the members see, each cell and each face of a wall once."""
        return self._km2(self.worth * self._together(without))

    @property
    def falls_short(self) -> bool:
        """Whether members who each see what they were asked for miss the floor together, as they
        may where walls count that another has seen in part."""
        return self._evaluator.scene.see_walls and self.km2() < self.floor_km2 * (1 - 1e-9)

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
        if self._evaluator.scene.see_walls and members > 1:
            own *= WALLS_ASKED
        reachable = self._reachable_km2(worth)
        share = own / reachable if reachable > 0 else 1.0
        return replace(task, coverage_floor=float(np.clip(share, LEAST_SHARE, 1.0)))


def _cells_of_faces(walls, shape) -> np.ndarray:
    """(faces,) flat index of the column of each face, in the order of Evaluator.walls_seen."""
    i, j, _, _, count, first = walls.runs.astype(int).T
    run = np.repeat(np.arange(len(count)), count)
    cells = np.empty(walls.faces, int)
    cells[first[run] + np.arange(len(run)) - (np.cumsum(count) - count)[run]] = (
        i * shape[1] + j)[run]
    return cells


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
    value = union.value(union.worth).ravel()[order]
    total = np.cumsum(value)
    share = (total - value / 2) / max(total[-1], 1e-9)
    sector = np.empty(angle.size, int)
    sector[order] = np.clip((share * count).astype(int), 0, count - 1)
    sorted_angle = angle.ravel()[order]
    middles = [float(sorted_angle[np.searchsorted(share, (k + 0.5) / count)])
               for k in range(count)]
    return sector.reshape(nx, ny), middles
