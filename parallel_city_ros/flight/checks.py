"""What the plan's certificate does not cover: the ways from home, back home and down."""

from __future__ import annotations

import numpy as np
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.plan import PatrolPlan


def highest_near(grid: VoxelGrid, shape, distance: float) -> float:
    """Height (z, m) of the highest column of the twin within a distance of a shape; the ground's
    if there is no building.

    shape : shapely geometry in ENU metres
    """
    zone = shapely.buffer(shape, distance + 1e-6)
    x0, y0, x1, y1 = zone.bounds
    lower = np.floor((np.array([x0, y0]) - grid.origin[:2]) / grid.resolution).astype(int)
    upper = np.floor((np.array([x1, y1]) - grid.origin[:2]) / grid.resolution).astype(int) + 1
    lower, upper = (np.clip(v, 0, grid.surface.shape) for v in (lower, upper))
    surface = grid.surface[lower[0]:upper[0], lower[1]:upper[1]]
    if surface.size == 0:
        return float(grid.origin[2])
    i, j = np.nonzero(surface > grid.origin[2])
    x = grid.origin[0] + (lower[0] + i) * grid.resolution
    y = grid.origin[1] + (lower[1] + j) * grid.resolution
    shapely.prepare(zone)
    near = shapely.intersects(zone, shapely.box(x, y, x + grid.resolution, y + grid.resolution))
    return float(surface[i[near], j[near]].max(initial=grid.origin[2]))


def why_not_this_map(plan: PatrolPlan, grid: VoxelGrid) -> str:
    """Why the plan may not be flown in this twin; "" if it may."""
    if plan.map_hash != grid.map_hash:
        return (f"the plan was made on another map ({plan.map_hash[:12]}…, the twin is "
                f"{grid.map_hash[:12]}…); plan again on this one")
    broken = certify(grid, plan.task, plan.path).broken
    if broken:
        checks = "; ".join(
            f"{c.constraint} {c.value:.1f} {c.unit}, bound {c.bound:g}, at "
            f"({c.where[0]:.0f}, {c.where[1]:.0f}, {c.where[2]:.0f}) m" for c in broken)
        return (f"the plan, made at map update {plan.map_update}, does not hold on update "
                f"{grid.map_update}: {checks}; plan again")
    return ""


def why_not_from_home(plan: PatrolPlan, grid: VoxelGrid, home: np.ndarray,
                      config: FlightConfig) -> str:
    """Why the ways up, to the start and down at the goal are not clear; "" if they are.

    home : (3,) ENU metres
    """
    task, start, goal = plan.task, plan.path[0], plan.path[-1]
    level = task.clearance_horizontal + task.tube_radius
    lower = grid.origin[:2]
    upper = lower + np.array(grid.surface.shape) * grid.resolution
    if not ((home[:2] - level >= lower) & (home[:2] + level <= upper)).all():
        return (f"home ({home[0]:.1f}, {home[1]:.1f}) m is not inside the map with {level:g} m to "
                "spare; place the drone inside, or make a larger map")
    away = float(np.hypot(*(start[:2] - home[:2])))
    if away > config.max_home_distance:
        return (f"the plan starts {away:.0f} m from home, more than max_home_distance "
                f"({config.max_home_distance:g} m); move the drone, or plan from here")
    for name, place in (("home", home), ("the goal", goal)):
        roof = highest_near(grid, shapely.Point(place[:2]), level)
        if roof > grid.origin[2]:
            return (f"a building or event {roof - grid.origin[2]:.0f} m high is within "
                    f"{level:g} m of {name} ({place[0]:.1f}, {place[1]:.1f}) m; take off and "
                    "land where the sky is free")
    roof = highest_near(grid, shapely.LineString([home[:2], start[:2]]), level)
    least = roof + task.clearance_vertical + task.tube_radius
    if start[2] < least:
        return (f"the way from home to the start at {start[2]:.0f} m passes a building of "
                f"{roof - grid.origin[2]:.0f} m; raise the start above {least:.0f} m or move "
                "the drone")
    return ""


def return_altitude(plan: PatrolPlan, grid: VoxelGrid, home: np.ndarray,
                    config: FlightConfig) -> float:
    """Metres above home at which every straight way home from the path is clear.

    All those ways lie in the convex hull of home and path.
    """
    task = plan.task
    hull = shapely.MultiPoint(np.vstack([plan.path[:, :2], home[None, :2]])).convex_hull
    roof = highest_near(grid, hull, task.clearance_horizontal + task.tube_radius)
    above = roof + task.clearance_vertical + task.tube_radius + config.return_margin
    return max(above - grid.origin[2], task.min_altitude)
