"""The independent checker of a plan. Shares no code with the optimiser's evaluator.

It walks the legs in steps of 0.25 m and measures distances from the edges of voxels, not
from cell centres or dilated surfaces. What is seen it counts by intersecting each line of sight
with the borders of the columns.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numba import njit

from parallel_city_ros.city.facades import Facades
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol import terms
from parallel_city_ros.patrol.profile import speed_profile
from parallel_city_ros.patrol.task import PatrolTask

STEP_M = 0.25
MIN_STEP_M = 0.01   # a shorter leg has no direction to measure a turn from
COVERAGE_SLACK = 1e-3   # share of the floor: lines of sight that graze a corner
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
class Term:
    """One objective as the checker finds it, and its unit."""

    objective: str
    unit: str
    value: float


@dataclass(frozen=True)
class Certificate:
    """objectives : f1, f2, f3 recomputed, of a whole plan"""

    checks: tuple[Check, ...]
    objectives: tuple[Term, ...] = ()

    @property
    def valid(self) -> bool:
        return all(c.margin >= -_SLACK for c in self.checks)

    @property
    def broken(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.margin >= -_SLACK)

    def to_dict(self) -> dict:
        return {"valid": self.valid, "step_m": STEP_M,
                "checks": [asdict(c) for c in self.checks],
                "objectives": [asdict(t) for t in self.objectives]}


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


def _ground_under(grid: VoxelGrid, points: np.ndarray) -> np.ndarray:
    """(S,) z of the ground of the column of each point; outside the map that of its border."""
    cell = np.floor((points[:, :2] - grid.origin[:2]) / grid.resolution).astype(int)
    return grid.ground[tuple(np.clip(cell, 0, np.array(grid.surface.shape) - 1).T)]


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
    ground = _ground_under(grid, walk)
    nearest = np.minimum(np.minimum(walk[:, 2] - ground, edge), reach)
    cells = int(np.ceil(reach / grid.resolution)) + 1
    for di in range(-cells, cells + 1):
        for dj in range(-cells, cells + 1):
            cell = home + (di, dj)
            inside = ((cell >= 0) & (cell < size)).all(axis=1)
            gap = np.maximum(np.maximum(cell - local, local - cell - 1), 0) * grid.resolution
            top = grid.surface[tuple(np.clip(cell, 0, size - 1).T)]
            above = np.maximum(walk[:, 2] - top, 0)
            distance = np.sqrt(gap[:, 0]**2 + gap[:, 1]**2 + above**2)
            built = inside & (top > ground)     # a building, or a slope
            nearest[built] = np.minimum(nearest[built], distance[built])
    k = int(np.argmin(nearest))
    return float(nearest[k]), walk[k]


def count_seen(grid: VoxelGrid, task: PatrolTask, path) -> np.ndarray:
    """(nx, ny) number of the (N, 3) points from which each ground cell is seen.

    By the corrected model of the task, or the paper's.
    """
    surface, cell, drone = grid.surface, grid.resolution, task.drone
    literal = task.model == "paper"
    half = np.radians(drone.camera_aperture_deg) / (1 if literal else 2)
    counts = np.zeros(surface.shape, np.int64)
    path = np.asarray(path, float)
    local = np.column_stack([(path[:, :2] - grid.origin[:2]) / cell, path[:, 2]])
    inside = ((local[:, :2] >= 0) & (local[:, :2] < surface.shape)).all(axis=1)
    _count(np.ascontiguousarray(surface, float), local[inside], cell, np.tan(half),
           drone.camera_range, literal, task.occlusion and not literal, counts)
    return counts


@njit(cache=True, nogil=True)
def _count(surface, points, cell, slope, reach, literal, occlusion, counts):
    """Adds 1 for each of the points (east and north in cells, z in metres) that sees a cell."""
    nx, ny = surface.shape
    lowest, highest = surface.min(), surface.max()
    for n in range(len(points)):
        x, y, z = points[n]
        side = max(z - lowest, 0.0) * slope / cell
        if not literal:
            side = min(side, reach / cell)
        for i in range(max(0, int(x - side) - 1), min(nx, int(x + side) + 2)):
            for j in range(max(0, int(y - side) - 1), min(ny, int(y + side) + 2)):
                rise = z - surface[i, j]
                if rise <= 0:
                    continue
                level = np.hypot(i + 0.5 - x, j + 0.5 - y) * cell
                far = rise if literal else np.hypot(level, rise)
                if level > rise * slope or far > reach:
                    continue
                if occlusion and _hidden(surface, i, j, x, y, z, highest):
                    continue
                counts[i, j] += 1


@njit(cache=True, nogil=True)
def _hidden(surface, i, j, x, y, z, highest):
    """Is there a column between cell (i, j) and a point? Looks at the borders east or west of
    columns that the line crosses, then at those north or south."""
    nx, ny = surface.shape
    base = surface[i, j]
    way_x, way_y = x - i - 0.5, y - j - 0.5
    for axis in range(2):
        length = abs(way_x) if axis == 0 else abs(way_y)
        ahead = 1 if (way_x if axis == 0 else way_y) > 0 else -1
        for n in range(1, int(length + 0.5) + 1):
            share = (n - 0.5) / length
            line = base + share * (z - base)
            if share >= 1 or line >= highest:
                break
            if axis == 0:
                a, b = i + n * ahead, int(np.floor(j + 0.5 + share * way_y))
            else:
                a, b = int(np.floor(i + 0.5 + share * way_x)), j + n * ahead
            if 0 <= a < nx and 0 <= b < ny and surface[a, b] > line:
                return True
    return False


def seen_km2(grid: VoxelGrid, task: PatrolTask, path, weights=None) -> float:
    """Weighted area of ground and walls seen from the (N, 3) points, each cell and face once.

    By the paper's model each time that it is seen.
    """
    worth, area = terms.worth_of(grid, task, weights), 0.0
    if task.coverage != "facades":
        counts = count_seen(grid, task, path)
        times = counts if task.model == "paper" else counts > 0
        area += float((times * worth).sum() * grid.resolution**2 * 1e-6)
    if task.coverage != "ground":
        walls = Facades(grid)
        area += terms.walls_km2(walls, worth, terms.walls_seen(
            walls, task, terms.cameras_along(task, path)))
    return area


def carbon_of(task: PatrolTask, path) -> float:
    """f2 of (N, 3) points by the task's carbon model."""
    if task.carbon_model == "energy":
        return float(terms.leg_energies_wh(task, path).sum()) * task.grid_intensity / 1000
    length = np.linalg.norm(np.diff(np.asarray(path, float), axis=0), axis=1).sum()
    return float(task.drone.carbon_per_km * length / 1000)


def noise_of(grid: VoxelGrid, task: PatrolTask, path, noise_weights=None) -> float:
    """f3 of (N, 3) points by the task's noise model."""
    path = np.asarray(path, float)
    if task.noise_model == "level":
        places = terms.receptors(grid, task, noise_weights)
        return terms.exposure_db_ha(task, terms.powers_at(task, path, places), places, len(path))
    if task.model == "paper":       # (9), to the letter: over the map's zero
        below = task.noise_altitude - path[:, 2]
        return float((below[below >= 0] - 1).sum())
    below = task.noise_altitude - (path[:, 2] - _ground_under(grid, path))
    return float((below[below >= 0] + 1).sum())


def certify(grid: VoxelGrid, task: PatrolTask, path, *, coverage_floor_km2: float | None = None,
            weights=None, whole: bool = False, map_hash: str | None = None,
            noise_weights=None) -> Certificate:
    """Check every constraint of the task on (N, 3) ENU metres, start and goal included.

    coverage_floor_km2 : what has to be seen, by the weights; None: is not checked, and the
        objectives are not recomputed
    whole : whether it is to have all the track points of the task, and not a rest of them
    map_hash : of the map that the path was made for; None: is not checked
    noise_weights : (nx, ny) who hears what on each cell, see noise.listeners
    """
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
    ground = _ground_under(grid, walk)
    altitude = walk[:, 2] - ground
    check("altitude at least", "m", task.min_altitude, altitude, walk, least=True)
    check("altitude at most", "m", task.max_altitude, altitude, walk)
    lower = grid.origin[:2]
    upper = lower + np.array(grid.surface.shape) * grid.resolution
    border = np.minimum(walk[:, :2] - lower, upper - walk[:, :2]).min(axis=1)
    check("distance inside the map", "m", 0.0, border, walk, least=True)
    roofs = _highest_within(grid, walk, task.clearance_horizontal + task.tube_radius)
    above = walk[:, 2] - np.maximum(roofs, ground)
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
    # by its time steps, or by what its corners and its acceleration allow if that is longer
    seconds = max(len(legs) * task.time_step_s, speed_profile(path, drone).duration_s)
    check("duration", "s", task.endurance_s, [seconds], path[-1:])
    if task.carbon_model == "energy":
        check("energy", "Wh", task.energy_limit_wh, [terms.leg_energies_wh(task, path).sum()],
              path[-1:])
    for k, place in enumerate(task.must_visit):
        gaps = np.linalg.norm(walk - place, axis=1)
        k_near = int(np.argmin(gaps))
        check(f"distance from place {k + 1} to visit", "m", task.visit_radius,
              gaps[k_near:k_near + 1], walk[k_near:k_near + 1])
    found = {}
    if coverage_floor_km2 is not None:
        found = {"coverage_km2": seen_km2(grid, task, path, weights),
                 "carbon": carbon_of(task, path),
                 "noise_m": noise_of(grid, task, path, noise_weights)}
        check("coverage", "km²", coverage_floor_km2 * (1 - COVERAGE_SLACK),
              [found["coverage_km2"]], path[-1:], least=True)
    if whole:
        check("track points", "", 0.0, [abs(len(path) - task.track_points - 2)], path[-1:])
    if map_hash is not None:
        check("another map", "", 0.0, [float(map_hash != grid.map_hash)], path[-1:])
    for name, end, wanted in (("start", path[0], task.start), ("goal", path[-1], task.goal)):
        check(f"distance from {name}", "m", 0.0, [np.linalg.norm(end - wanted)], [end])
    return Certificate(tuple(checks), tuple(
        Term(name, task.units[name], value) for name, value in found.items()))
