"""Tasks that no search can fulfil, proved before one begins."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from scipy.ndimage import label
from scipy.sparse.csgraph import minimum_spanning_tree

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.power import least_wh


class Impossible(NamedTuple):
    """status : of PlanStatus, by its value; message : what is wrong and what would help"""

    status: str
    message: str


def why_impossible(evaluator: Evaluator) -> Impossible | None:
    """None where nothing speaks against the task; that is no proof that a path exists.

    Raises
    ------
    ConfigError
        If the settings contradict each other or the map.
    """
    for proof in (_area, _camera, _ends, _places, _time, _energy, _unreachable, _floor):
        found = proof(evaluator)
        if found is not None:
            return found
    return None


def _area(evaluator):
    task, grid = evaluator.task, evaluator.grid
    if not task.area:
        return None
    area = shapely.Polygon(task.area)
    if not area.is_valid:
        raise ConfigError(f"area is no simple polygon: {shapely.is_valid_reason(area)}; give its "
                          "corners in order")
    if not area.intersects(shapely.box(*_extent(grid))):
        raise ConfigError(f"area lies outside the map, which reaches {_reach_of(grid)}")
    if not evaluator.scene.weights.any():
        raise ConfigError("area has no ground that is worth seeing: it is smaller than a cell of "
                          f"{grid.resolution:g} m, or all privacy areas")
    return None


def _camera(evaluator):
    task = evaluator.task
    if task.min_altitude > task.drone.camera_range + np.ptp(evaluator.scene.surface):
        raise ConfigError(
            f"min_altitude is {task.min_altitude:g} m and camera_range {task.drone.camera_range:g}"
            " m: nothing in the altitude band sees anything; lower the one or raise the other")
    if not evaluator.room.any():
        return Impossible("no_valid_path", (
            f"max_altitude {task.max_altitude:g} m is below what has to be cleared everywhere; "
            "raise it"))
    return None


def _ends(evaluator):
    """Start and goal need their clearance; says where it would hold."""
    for name, point in (("start", evaluator.task.start), ("goal", evaluator.task.goal)):
        found = _end(evaluator, name, point)
        if found is not None:
            return found
    return None


def _end(evaluator, name, point):
    grid, task, scene = evaluator.grid, evaluator.task, evaluator.scene
    label_ = f"{name.capitalize()} ({point[0]:g}, {point[1]:g}, {point[2]:g}) m"
    i, j = (int(v) for v in grid.index(point)[:2])
    nx, ny = grid.surface.shape
    if not (0 <= i < nx and 0 <= j < ny):
        return Impossible("outside_map", (
            f"{label_} is outside the map, which reaches {_reach_of(grid)}"))
    ceiling = scene.ground[i, j] + task.max_altitude
    if point[2] > ceiling:
        raise ConfigError(f"{label_} is above max_altitude, {task.max_altitude:g} m over the "
                          "ground; lower it or raise max_altitude")
    floor = max(scene.clear[i, j], scene.ground[i, j] + task.min_altitude)
    if scene.limits.uneven:
        floor = max(floor, scene.lowest_z[i, j])
    if point[2] < floor:
        return Impossible(f"{name}_occupied", (
            f"{label_} is too low: buildings near there reach "
            f"{evaluator.highest_near(i, j):g} m and the band begins at "
            f"{task.min_altitude:g} m; raise it to {np.ceil(floor):g} m or move it"))
    return None


def why_closed(evaluator: Evaluator) -> Impossible | None:
    """Of start and goal in air that is closed though no building is near, as by a zone."""
    grid, scene = evaluator.grid, evaluator.scene
    for name, point in (("start", evaluator.task.start), ("goal", evaluator.task.goal)):
        i, j = grid.index(point)[:2]
        if point[2] < scene.clear[i, j]:
            return Impossible(f"{name}_occupied", (
                f"{name.capitalize()} ({point[0]:g}, {point[1]:g}, {point[2]:g}) m is in closed "
                "air: a no-fly zone that holds during the flight, or other drones' routes; move "
                "it, or fly at another time"))
    return None


def _places(evaluator):
    task, grid, scene = evaluator.task, evaluator.grid, evaluator.scene
    n = int(task.visit_radius / grid.resolution) + 1
    for k, (x, y, z) in enumerate(task.must_visit):
        i, j = (int(v) for v in grid.index((x, y, z))[:2])
        name = f"place {k + 1} to visit ({x:g}, {y:g}, {z:g}) m"
        if not (0 <= i < scene.clear.shape[0] and 0 <= j < scene.clear.shape[1]):
            return Impossible("outside_map", (
                f"{name} is outside the map, which reaches {_reach_of(grid)}"))
        near = slice(max(0, i - n), i + n + 1), slice(max(0, j - n), j + n + 1)
        lowest = np.maximum(scene.clear[near], scene.ground[near] + task.min_altitude).min()
        highest = scene.ground[near].max() + task.max_altitude
        if not lowest - task.visit_radius <= z <= highest + task.visit_radius:
            return Impossible("no_valid_path", (
                f"{name} cannot be reached within {task.visit_radius:g} m: drones fly there from "
                f"{lowest:.0f} to {highest:.0f} m; move it or raise visit_radius"))
    return None


def _time(evaluator):
    task = evaluator.task
    legs = task.track_points + 1
    longest = legs * task.drone.max_speed * task.time_step_s
    stops = [np.array(task.start), np.array(task.goal)]
    straight = float(np.linalg.norm(stops[1] - stops[0]))
    words = "the straight flight"
    for place in task.must_visit:
        by = sum(float(np.linalg.norm(stop - place)) for stop in stops) - 2 * task.visit_radius
        if by > straight:
            straight, words = by, "the way by a place to visit"
    if (by := _tour(task)) > straight:
        straight, words = by, "the way by all places to visit"
    needed = straight / task.drone.max_speed
    if needed > task.endurance_s:
        return Impossible("no_valid_path", (
            f"{words} of {straight:.0f} m takes {needed:.0f} s at "
            f"{task.drone.max_speed:g} m/s, the battery lasts {task.endurance_s:.0f} s: "
            f"{needed - task.endurance_s:.0f} s are missing"))
    if straight > longest:
        return Impossible("no_valid_path", (
            f"{words} is {straight:.0f} m long, {legs} legs of {task.time_step_s:g} s at "
            f"{task.drone.max_speed:g} m/s reach {longest:.0f} m: {straight - longest:.0f} m are "
            "missing; raise track_points or time_step_s"))
    flight = legs * task.time_step_s
    if flight > task.endurance_s:
        return Impossible("no_valid_path", (
            f"{legs} legs of {task.time_step_s:g} s take {flight:.0f} s, the battery lasts "
            f"{task.endurance_s:.0f} s: {flight - task.endurance_s:.0f} s are missing; lower "
            "track_points or time_step_s"))
    return None


def _tour(task) -> float:
    """Metres that no way by all places is shorter than: their minimum spanning tree, with what
    the radius of a visit may save."""
    stops = np.array([task.start, task.goal, *task.must_visit], float)
    saved = np.full(len(stops), task.visit_radius)
    saved[:2] = 0.0
    gaps = np.linalg.norm(stops[:, None] - stops[None], axis=2) - saved[:, None] - saved[None]
    # scipy takes 0 for no edge at all
    return float(minimum_spanning_tree(np.maximum(gaps, 1e-9)).sum())


def _unreachable(evaluator):
    """A flood fill over the columns that leave room below the ceiling."""
    regions, _ = label(evaluator.room, np.ones((3, 3)))
    task = evaluator.task
    here = regions[tuple(evaluator.grid.index(task.start)[:2])]
    for name, point in (("goal", task.goal),
                        *((f"place {k + 1} to visit", p) for k, p in enumerate(task.must_visit))):
        i, j = evaluator.grid.index(point)[:2]
        n = int(task.visit_radius / evaluator.grid.resolution) + 1 if name != "goal" else 0
        if not (regions[max(0, i - n):i + n + 1, max(0, j - n):j + n + 1] == here).any():
            return Impossible("no_valid_path", (
                f"no way leads from the start to the {name}: below max_altitude "
                f"{task.max_altitude:g} m everything between them is built over or closed; "
                "raise it or choose another"))
    return None


def _energy(evaluator):
    task = evaluator.task
    if task.carbon_model != "energy" or (least := least_wh(task)) <= task.energy_limit_wh:
        return None
    return Impossible("no_valid_path", (
        f"{task.track_points + 1} legs of {task.time_step_s:g} s take {least:.1f} Wh at "
        f"the least, the battery has {task.energy_limit_wh:.1f} Wh at {task.battery_percent:g} %: "
        f"{least - task.energy_limit_wh:.1f} Wh are missing; raise drone.battery_wh or "
        "battery_percent, or lower track_points or time_step_s"))


def _floor(evaluator):
    task, scene = evaluator.task, evaluator.scene
    floor = evaluator.coverage_floor_km2
    if task.model == "paper" or task.coverage != "ground" or floor <= 0:
        return None     # what is below counts the ground only
    height = task.max_altitude + float(np.ptp(scene.ground))
    radius = min(scene.camera.reach, height * scene.camera.slope) + scene.camera.cell
    view = np.pi * radius**2
    longest = (task.track_points + 1) * scene.limits.longest_leg
    most = 1e-6 * scene.weights.max() * min((task.track_points + 2) * view,
                                            2 * radius * longest + view)
    if floor <= most:
        return None
    share = f"coverage_floor {task.coverage_floor:g} is {floor:.3f} km²" \
        if task.coverage_floor > 0 else f"the coverage floor is {floor:.3f} km²"
    return Impossible("no_valid_path", (
        f"{share}, {task.track_points} track points see {most:.3f} km² at most; lower it to "
        f"{most / evaluator.reachable_km2:.2f} of the reachable or raise track_points"))


def _extent(grid):
    x, y = grid.origin[:2]
    nx, ny = grid.surface.shape
    return float(x), float(y), float(x + nx * grid.resolution), float(y + ny * grid.resolution)


def _reach_of(grid) -> str:
    x0, y0, x1, y1 = _extent(grid)
    return f"from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) m"
