"""Objectives and violation of whole populations of patrol paths, compiled.

The equations in brackets are those of Zhou et al. (2024), KSII TIIS 18(4). In the `corrected`
model coverage is a union, the range a slant range with occlusion, noise is +Σθ over heights above
ground, and what the paper says in words only (collision, band, map) counts as violation. The
`paper` model takes the equations to the letter, for comparison; doc/planner.md says where it
leads. f1, f2 and f3 may each be another term of the task: walls, energy, sound.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.kernels import evaluate_exact, mark_seen, mark_walls
from parallel_city_ros.patrol.scene import Scene, make_scene
from parallel_city_ros.patrol.table import VisibilityTable
from parallel_city_ros.patrol.task import PatrolTask

SLICE_CELLS = 4e6       # looked at before a cancel is looked for: some 20 ms
TABLE_SLICE = 50        # paths, of the table
MOST_THREADS = 256
UNKNOWN = (0.0, 0.0, 0.0, np.inf, 1e9)      # scores of a path that was not evaluated


@dataclass(frozen=True)
class Scores:
    """Scores of Q paths: (Q,) float arrays.

    coverage_km2 (f1), carbon (f2), noise_m (f3), fitness (F, inf if nothing is seen) and
    violation (G, 0 if feasible), in the units that PatrolTask.units has.
    """

    coverage_km2: np.ndarray
    carbon: np.ndarray
    noise_m: np.ndarray
    fitness: np.ndarray
    violation: np.ndarray

    @property
    def cost(self) -> np.ndarray:
        """(Q,) Deb's rules as one number: F/(1 + F) if feasible, else 1 + G.

        A negative F, which only the paper's literal model has, counts as itself.
        """
        with np.errstate(invalid="ignore"):
            share = np.where(np.isfinite(self.fitness),
                             self.fitness / (1 + np.abs(self.fitness)), 1.0)
        return np.where(self.violation > 0, 1 + self.violation, share)


class Evaluator:
    """Evaluates paths over one version of the twin; not to be shared between threads.

    weights : (nx, ny) float array, worth of seeing each ground cell, 1 by default
    coverage_floor_km2 : least weighted coverage; None takes the task's share of the reachable
        worth or, if that is 0, what the straight flight sees
    table_mb : memory of the tables of views, MB
    noise_weights : (nx, ny) float array, who hears what on each cell, see noise.listeners
    threads : that share each call; every path has the same scores whatever their number

    exact : whether calls look at every cell from every point, or at the table of views, which
        is some fifty times as fast and about 0.6 % off in f1. Walls are always exact.
    """

    def __init__(self, grid: VoxelGrid, task: PatrolTask, weights=None,
                 coverage_floor_km2: float | None = None, table_mb: float = 256.0,
                 noise_weights=None, threads: int = 1):
        if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
            raise ConfigError(f"threads must be a whole number from 1 to {MOST_THREADS}, got "
                              f"{threads!r}; the number of cores is a good one")
        self.task, self.grid = task, grid
        self.exact = True
        self.evaluations = 0
        scene, self._highest_near = make_scene(grid, task, weights, noise_weights)
        self.scene: Scene = scene
        self._workers = [_Worker(scene, table_mb / threads) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        if coverage_floor_km2 is None and task.coverage_floor > 0:
            coverage_floor_km2 = task.coverage_floor * self.reachable_km2
        elif coverage_floor_km2 is None:
            coverage_floor_km2 = float(self(self.straight()[None]).coverage_km2[0])
            self.evaluations = 0
        self.coverage_floor_km2 = float(coverage_floor_km2)
        self.scene = scene._replace(floor_km2=self.coverage_floor_km2)

    @property
    def clearance_surface(self) -> np.ndarray:
        """(nx, ny) z from which a drone keeps its clearance, metres."""
        return self.scene.clear

    def highest_near(self, i: int, j: int) -> float:
        """z of the highest column that a drone above cell (i, j) has to clear, metres."""
        return float(self._highest_near[i, j])

    @property
    def room(self) -> np.ndarray:
        """(nx, ny) bool: columns above which the altitude band and the clearance leave room."""
        return self.scene.clear <= self.scene.ground + self.task.max_altitude

    @property
    def view_cells(self) -> float:
        """Cells, runs of walls and receptors that one point may reach: the work of one view."""
        scene = self.scene
        return (np.pi * (scene.camera.reach / scene.camera.cell + 1)**2 + scene.walls.most
                + len(scene.receptors))

    @property
    def reachable_km2(self) -> float:
        """Worth of all ground above which the altitude band and the clearance leave room, and of
        all walls, as far as the task counts them."""
        scene, worth = self.scene, 0.0
        if scene.see_ground:
            worth += scene.weights[self.room].sum()
        if scene.see_walls:
            worth += scene.walls.weights @ scene.walls.runs[:, 4]
        return float(1e-6 * self.grid.resolution**2 * worth)

    def straight(self) -> np.ndarray:
        """(B + 2, 3) the direct flight."""
        return np.linspace(self.task.start, self.task.goal, self.task.track_points + 2)

    def band(self, points) -> tuple[np.ndarray, np.ndarray]:
        """z of the lower and upper end of the altitude band at (..., 3) points, metres."""
        points = np.asarray(points, float)
        index = np.floor((points[..., :2] - self.grid.origin[:2]) / self.grid.resolution)
        index = np.clip(np.nan_to_num(index), 0, np.array(self.scene.ground.shape) - 1).astype(int)
        ground = self.scene.ground[index[..., 0], index[..., 1]]
        return ground + self.task.min_altitude, ground + self.task.max_altitude

    def __call__(self, paths, stopped: Callable[[], bool] = lambda: False) -> Scores:
        """paths : (Q, B + 2, 3) ENU metres, start and goal included.

        Once stopped, what is left has the scores of a path that sees nothing.
        """
        paths = np.ascontiguousarray(paths, dtype=float)
        out = np.empty((len(paths), 5))
        out[:] = UNKNOWN
        exact = self.exact or self.scene.see_walls
        size = max(1, int(SLICE_CELLS / self.view_cells / paths.shape[1]))
        if not exact:
            size = min(2 * size, TABLE_SLICE)
        at = 0
        while at < len(paths) and not (at and stopped()):
            parts = []
            for worker in self._workers[:-(-(len(paths) - at) // size)]:
                part = slice(at, min(at + size, len(paths)))
                parts.append((worker, paths[part], out[part]))
                at = part.stop
            self._share(exact, parts)
            self.evaluations += sum(len(part[1]) for part in parts)
        return Scores(*out.T)

    def _share(self, exact, parts):
        """Has each worker evaluate its part; the first one here if there is no other."""
        if len(parts) == 1:
            worker, paths, out = parts[0]
            worker.evaluate(self.scene, exact, paths, out)
            return
        for done in [self._pool.submit(worker.evaluate, self.scene, exact, paths, out)
                     for worker, paths, out in parts]:
            done.result()

    def rescore(self, path) -> Scores:
        """Exact scores of one (B + 2, 3) path that was counted as an evaluation before."""
        out = np.empty((1, 5))
        self._workers[0].evaluate(self.scene, True,
                                  np.ascontiguousarray(path[None], dtype=float), out)
        return Scores(*out.T)

    def seen(self, points) -> np.ndarray:
        """(nx, ny) bool: ground cells seen from any of the (N, 3) points."""
        mask = np.zeros(self.scene.surface.shape, np.int64)
        mark_seen(self.scene, np.ascontiguousarray(points, dtype=float), mask, 1)
        return mask == 1

    def walls_seen(self, path) -> np.ndarray:
        """(faces,) bool: faces of walls seen along a (N, 3) path, in the order of scene.walls."""
        stamps = np.zeros(self.scene.walls.faces, np.int64)
        mark_walls(self.scene, np.ascontiguousarray(path, dtype=float), stamps, 1)
        return stamps == 1


class _Worker:
    """What one thread writes to: stamps on what was seen, and a table of views of its own.

    The same box has the same view in every table, so that it does not matter whose is asked.
    """

    def __init__(self, scene: Scene, table_mb: float):
        self._table_mb, self.table = table_mb, None
        self._stamps = np.zeros(scene.surface.shape, np.int64)
        self._wall_stamps = np.zeros(scene.walls.faces, np.int64)
        self._stamp = 0

    def evaluate(self, scene: Scene, exact: bool, paths, out) -> None:
        """paths : (Q, N, 3); out : (Q, 5)"""
        if exact:
            evaluate_exact(scene, paths, self._stamps, self._wall_stamps, self._stamp, out)
            self._stamp += len(paths)
            return
        if self.table is None:
            self.table = VisibilityTable(scene, self._table_mb, paths.shape[1])
        self.table.evaluate(scene, paths, out)
