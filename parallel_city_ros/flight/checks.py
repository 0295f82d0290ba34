"""What the plan's certificate does not cover: the ways from home, back home and down."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.plan import PatrolPlan

CHUNK = 2048    # columns that are compared with a shape at once
ABOVE = "height over what is near"      # the certificate's constraint that keeps from buildings
HIGHEST = "altitude at most"
# What of it a leg has to keep that no planner chose.
STRAIGHT = (ABOVE, "altitude at least", HIGHEST, "distance inside the map")


def ground_at(grid: VoxelGrid, place) -> float:
    """z of the ground under a place, ENU metres."""
    return float(grid.ground_at(np.asarray(place, float)))


def _columns_near(grid: VoxelGrid, shape, distance: float, at_least: float = -np.inf,
                  built: bool = True):
    """Columns near the bounding box of a shape, the highest first: their heights, and x and y of
    their lower corners, each (N,).

    built : only those in which something stands
    """
    x0, y0, x1, y1 = shape.bounds
    lower = np.floor((np.array([x0, y0]) - distance - grid.origin[:2]) / grid.resolution)
    upper = np.floor((np.array([x1, y1]) + distance - grid.origin[:2]) / grid.resolution) + 1
    lower, upper = (np.clip(v.astype(int), 0, grid.surface.shape) for v in (lower, upper))
    window = slice(lower[0], upper[0]), slice(lower[1], upper[1])
    surface = grid.surface[window]
    wanted = surface >= at_least
    if built:
        wanted &= surface > grid.ground[window]
    i, j = np.nonzero(wanted)
    heights = surface[i, j]
    order = np.argsort(-heights, kind="stable")
    x = grid.origin[0] + (lower[0] + i[order]) * grid.resolution
    y = grid.origin[1] + (lower[1] + j[order]) * grid.resolution
    return heights[order], x, y


def roof_near(grid: VoxelGrid, shape, distance: float, built: bool = True) -> float:
    """Height (z, m) of the highest column within a distance of a shape in which something
    stands; -inf if there is none.

    shape : shapely geometry in ENU metres; built : else of any column
    """
    distance += 1e-6
    zone = shapely.buffer(shape, distance)
    shapely.prepare(zone)
    heights, x, y = _columns_near(grid, shape, distance, built=built)
    for k in range(0, len(heights), CHUNK):
        part = slice(k, k + CHUNK)
        near = shapely.intersects(zone, _squares(grid, x[part], y[part]))
        if near.any():
            return float(heights[part][near][0])
    return -np.inf


def highest_near(grid: VoxelGrid, shape, distance: float) -> float:
    """Height (z, m) of what is highest within a distance of a shape: a building, an event, or
    the ground itself."""
    roof = roof_near(grid, shape, distance)
    lowest, highest = float(grid.ground.min()), float(grid.ground.max())
    if lowest == highest:
        return max(roof, lowest)
    return max(roof, roof_near(grid, shape, distance, built=False), lowest)


def _squares(grid: VoxelGrid, x, y):
    return shapely.box(x, y, x + grid.resolution, y + grid.resolution)


def why_not_so_loosely(plan: PatrolPlan, config: FlightConfig) -> str:
    """Why these settings would leave the certified tube; "" if they keep it.

    Seen with PX4 at right angles: with an acceptance radius of 3 m it cut them by 1.4 m.
    """
    task = plan.task
    if config.acceptance_radius > 2 * task.tube_radius:
        return (f"acceptance_radius {config.acceptance_radius:g} m cuts corners beyond the "
                f"certified tube of {task.tube_radius:g} m; at most {2 * task.tube_radius:g} m")
    if config.cruise_speed > task.drone.max_speed:
        return (f"cruise_speed {config.cruise_speed:g} m/s is above the plan's max_speed "
                f"{task.drone.max_speed:g} m/s")
    return ""


def why_not_this_map(plan: PatrolPlan, grid: VoxelGrid) -> str:
    """Why the plan may not be flown in this twin; "" if it may."""
    if not plan.certificate.checks or not plan.certificate.valid:
        return "the plan carries no valid certificate, and is not flown without; plan again"
    if plan.map_hash != grid.map_hash:
        return (f"the plan was made on another map ({plan.map_hash[:12]}…, the twin is "
                f"{grid.map_hash[:12]}…); plan again on this one")
    if plan.frame != grid.frame or plan.resolution != grid.resolution:
        return ("the plan's frame or resolution is not that of the map it names: it was changed "
                "by hand; plan again")
    if plan.map_update > grid.map_update:
        return (f"the plan was made on map update {plan.map_update}, newer than the map's "
                f"{grid.map_update}: an event that it avoids may be missing; fly on the newest")
    broken = certify(grid, plan.task, plan.path).broken
    if broken:
        checks = "; ".join(
            f"{c.constraint} {c.value:.1f} {c.unit}, bound {c.bound:g}, at "
            f"({c.where[0]:.0f}, {c.where[1]:.0f}, {c.where[2]:.0f}) m" for c in broken)
        return (f"the plan, made at map update {plan.map_update}, does not hold on update "
                f"{grid.map_update}: {checks}; plan again")
    return ""


def why_not_down(plan: PatrolPlan, grid: VoxelGrid, place: np.ndarray, name: str) -> str:
    """Why the column over a place to land at is not free; "" if it is."""
    level = plan.task.clearance_horizontal + plan.task.tube_radius
    roof = roof_near(grid, shapely.Point(place[:2]), level)
    if roof == -np.inf:
        return ""
    height = roof - ground_at(grid, place)
    return (f"a building or event {height:.0f} m high is within {level:g} m of {name} "
            f"({place[0]:.1f}, {place[1]:.1f}) m")


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
        closed = why_not_down(plan, grid, place, name)
        if closed:
            return f"{closed}; take off and land where the sky is free"
    roof = highest_near(grid, shapely.LineString([home[:2], start[:2]]), level)
    least = roof + task.clearance_vertical + task.tube_radius
    if start[2] < least:
        return (f"the way from home to the start at {start[2]:.0f} m passes a building of "
                f"{roof - ground_at(grid, home):.0f} m; raise the start above {least:.0f} m or "
                "move the drone")
    way = np.array([[*home[:2], start[2]], start])
    for check in certify(grid, task, way).broken if away > 0 else ():
        if check.constraint == HIGHEST:     # as high as the start is, but over a valley
            return (f"the way from home to the start is {check.value:.0f} m above ground at "
                    f"({check.where[0]:.0f}, {check.where[1]:.0f}) m, more than max_altitude "
                    f"({check.bound:g} m); move the drone")
    return ""


def why_not_the_rest(plan: PatrolPlan, grid: VoxelGrid, rest: np.ndarray) -> str:
    """What stands in the way of the rest of the path or of its landing; "" if nothing does.

    rest : (N, 3) ENU metres, N >= 1, to the goal
    """
    task = plan.task
    level = task.clearance_horizontal + task.tube_radius
    for check in certify(grid, task, rest).broken if len(rest) > 1 else ():
        if check.constraint == ABOVE:
            roof = check.where[2] - check.value
            gap, (e, n) = _where_it_stands(grid, shapely.LineString(rest[:, :2]), level, roof)
            height = roof - ground_at(grid, (e, n))
            return (f"a building or event {height:.0f} m high stands {gap:.0f} m "
                    f"from the rest of the route at ({e:.0f}, {n:.0f}) m")
    return why_not_down(plan, grid, plan.path[-1], "the goal")


def why_not_straight(plan: PatrolPlan, grid: VoxelGrid, places: np.ndarray,
                     to: np.ndarray) -> str:
    """Why a drone that turns somewhere on the way along some places must not fly straight from
    there to another; "" if it may.

    places : (F, 3), to : (3,) ENU metres
    """
    return clear_turns(plan, grid, places, to)[1]


def clear_turns(plan: PatrolPlan, grid: VoxelGrid, places: np.ndarray, to: np.ndarray
                ) -> tuple[int, str]:
    """From how many of these places, one after the other, it may; and why not from the next."""
    def why_not(count: int) -> str:
        way = places[:count]
        moved = np.linalg.norm(np.diff(way, axis=0), axis=1) > 1e-3
        way = way[np.concatenate([[True], moved])]
        # There from one, back to the next: that is quicker than one after the other.
        turns = np.stack([way, np.broadcast_to(to, way.shape)], axis=1)
        turns[1::2] = turns[1::2, ::-1]
        for line in (turns.reshape(-1, 3), way):
            for check in certify(grid, plan.task, line).broken if len(line) > 1 else ():
                if check.constraint in STRAIGHT:
                    e, n, u = check.where
                    return (f"{check.constraint} {check.value:.1f} {check.unit}, bound "
                            f"{check.bound:g}, at ({e:.0f}, {n:.0f}, {u:.0f}) m")
        return ""

    if not why_not(len(places)):
        return len(places), ""
    clear = bisect_left(range(1, len(places)), True, key=lambda count: bool(why_not(count)))
    return clear, why_not(clear + 1)


def _where_it_stands(grid: VoxelGrid, line, distance: float, height: float):
    """Distance to a line, and the nearest point of the line, of what is so high beside it."""
    _, x, y = _columns_near(grid, line, distance, height - grid.resolution / 2)
    squares = _squares(grid, x, y)
    nearest = squares[int(np.argmin(shapely.distance(squares, line)))]
    here = shapely.shortest_line(line, nearest)
    return shapely.length(here), shapely.get_coordinates(here)[0]


def return_altitude(plan: PatrolPlan, grid: VoxelGrid, home: np.ndarray, config: FlightConfig,
                    path: np.ndarray | None = None) -> float:
    """Metres above home at which every straight way home from a path is clear.

    All those ways lie in the convex hull of home and path.

    home : (3,) ENU metres, on the ground
    path : (N, 2 or 3) ENU metres; the plan's if None
    """
    task, path = plan.task, plan.path if path is None else path
    hull = shapely.MultiPoint(np.vstack([path[:, :2], home[None, :2]])).convex_hull
    roof = highest_near(grid, hull, task.clearance_horizontal + task.tube_radius)
    above = roof + task.clearance_vertical + task.tube_radius + config.return_margin
    return max(above - home[2], task.min_altitude)
