"""The independent checker of a plan. Shares no code with the optimiser's evaluator.

It walks the legs in steps of 0.25 m and measures distances from the edges of voxels, not
from cell centres or dilated surfaces.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol.task import PatrolTask

STEP_M = 0.25
MIN_STEP_M = 0.01   # a shorter leg has no direction to measure a turn from
_SLACK = 1e-6


@dataclass(frozen=True)
class Check:
    """One constraint: its bound, the tightest value along the path and where it occurs.

    margin : by how much it holds, in the unit of the bound; negative if it is broken
    where : (3,) ENU metres
    """

    constraint: str
    unit: str
    bound: float
    value: float
    margin: float
    where: tuple[float, float, float]


@dataclass(frozen=True)
class Certificate:
    checks: tuple[Check, ...]

    @property
    def valid(self) -> bool:
        return all(c.margin >= -_SLACK for c in self.checks)

    @property
    def broken(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.margin >= -_SLACK)

    def to_dict(self) -> dict:
        return {"valid": self.valid, "step_m": STEP_M,
                "checks": [asdict(c) for c in self.checks]}


def _walk(path: np.ndarray) -> np.ndarray:
    """(S, 3) points along the legs, at most STEP_M apart."""
    pieces = []
    for a, b in zip(path[:-1], path[1:], strict=True):
        n = max(1, int(np.ceil(np.linalg.norm(b - a) / STEP_M)))
        pieces.append(a + (b - a) * (np.arange(n) / n)[:, None])
    return np.concatenate([*pieces, path[-1:]])


def _highest_within(grid: VoxelGrid, points: np.ndarray, radius: float) -> np.ndarray:
    """(S,) height of the highest column whose square comes closer than radius."""
    reach = int(np.ceil(radius / grid.resolution)) + 1
    local = (points[:, :2] - grid.origin[:2]) / grid.resolution
    home = np.floor(local).astype(int)
    highest = np.full(len(points), -np.inf)
    for di in range(-reach, reach + 1):
        for dj in range(-reach, reach + 1):
            cell = home + (di, dj)
            inside = ((cell >= 0) & (cell < grid.surface.shape)).all(axis=1)
            gap = np.maximum(np.maximum(cell - local, local - cell - 1), 0) * grid.resolution
            near = inside & (np.hypot(gap[:, 0], gap[:, 1]) <= radius)
            highest[near] = np.maximum(highest[near], grid.surface[tuple(cell[near].T)])
    return highest


def clearance(grid: VoxelGrid, path, reach: float) -> tuple[float, np.ndarray]:
    """Smallest distance of a path to a building, the ground or the map's edge.

    path : (N, 3) ENU metres, N >= 1; reach : metres that are looked at

    Returns
    -------
    The distance in metres, reach if nothing is nearer, and the (3,) point where that is.
    Columns count as solid up to their highest voxel.
    """
    walk = _walk(np.asarray(path, float))
    local = (walk[:, :2] - grid.origin[:2]) / grid.resolution
    home = np.floor(local).astype(int)
    size = np.array(grid.surface.shape)
    edge = np.minimum(local, size - local).min(axis=1) * grid.resolution
    nearest = np.minimum(np.minimum(walk[:, 2] - grid.origin[2], edge), reach)
    cells = int(np.ceil(reach / grid.resolution)) + 1
    for di in range(-cells, cells + 1):
        for dj in range(-cells, cells + 1):
            cell = home + (di, dj)
            inside = ((cell >= 0) & (cell < size)).all(axis=1)
            gap = np.maximum(np.maximum(cell - local, local - cell - 1), 0) * grid.resolution
            top = grid.surface[tuple(np.clip(cell, 0, size - 1).T)]
            above = np.maximum(walk[:, 2] - top, 0)
            distance = np.sqrt(gap[:, 0]**2 + gap[:, 1]**2 + above**2)
            built = inside & (top > grid.origin[2])
            nearest[built] = np.minimum(nearest[built], distance[built])
    k = int(np.argmin(nearest))
    return float(nearest[k]), walk[k]


def certify(grid: VoxelGrid, task: PatrolTask, path) -> Certificate:
    """Check every constraint of the task on (B + 2, 3) ENU metres, start and goal included."""
    path = np.asarray(path, float)
    if path.ndim != 2 or path.shape[1] != 3 or len(path) < 2 or not np.isfinite(path).all():
        return Certificate((Check("finite points", "", 1.0, 0.0, -1.0, (0.0, 0.0, 0.0)),))
    drone, checks = task.drone, []

    def check(name, unit, bound, values, places, *, least=False):
        """Keep the tightest of the values, which bound from above, or from below if least."""
        values = np.asarray(values, float)
        margins = values - bound if least else bound - values
        k = int(np.argmin(margins))
        checks.append(Check(name, unit, float(bound), float(values[k]), float(margins[k]),
                            tuple(float(v) for v in places[k])))

    walk = _walk(path)
    altitude = walk[:, 2] - grid.origin[2]
    check("altitude at least", "m", task.min_altitude, altitude, walk, least=True)
    check("altitude at most", "m", task.max_altitude, altitude, walk)
    lower = grid.origin[:2]
    upper = lower + np.array(grid.surface.shape) * grid.resolution
    border = np.minimum(walk[:, :2] - lower, upper - walk[:, :2]).min(axis=1)
    check("distance inside the map", "m", 0.0, border, walk, least=True)
    roofs = _highest_within(grid, walk, task.clearance_horizontal + task.tube_radius)
    above = walk[:, 2] - np.maximum(roofs, grid.origin[2])
    check("height over what is near", "m", task.clearance_vertical + task.tube_radius, above, walk,
          least=True)

    legs = np.diff(path, axis=0)
    level, length = np.hypot(legs[:, 0], legs[:, 1]), np.linalg.norm(legs, axis=1)
    check("horizontal step", "m", MIN_STEP_M, level, path[1:], least=True)
    climb = np.degrees(np.arctan2(np.abs(legs[:, 2]), level))
    check("climb angle", "deg", drone.max_climb_deg, climb, path[1:])
    check("speed of a leg", "m/s", drone.max_speed, length / task.time_step_s, path[1:])
    if len(legs) > 1:
        course = np.unwrap(np.arctan2(legs[:, 1], legs[:, 0]))
        turn = np.abs((np.diff(course) + np.pi) % (2 * np.pi) - np.pi)
        check("turn", "deg", drone.max_turn_deg, np.degrees(turn), path[1:-1])
    check("duration", "s", drone.endurance_s, [len(legs) * task.time_step_s], path[-1:])
    for name, end, wanted in (("start", path[0], task.start), ("goal", path[-1], task.goal)):
        check(f"distance from {name}", "m", 0.0, [np.linalg.norm(end - wanted)], [end])
    return Certificate(tuple(checks))
