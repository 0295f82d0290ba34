"""Where the demo's drone flies in a city that nobody looked at before, and what stands there.

Large open cities get what central Helsinki gets. On small or crowded maps each choice gives way
step by step, as far as the flight stays safe, and no farther.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.ndimage import label

from parallel_city_ros.city.ground import most_open_ends
from parallel_city_ros.city.sensor import cast
from parallel_city_ros.city.twin import MAX_EVENT_HEIGHT_M, CityEvent
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cli import options
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask

OPEN_M = (12.0, 10.0, 8.0)      # from every building where the drone takes off and lands; else
                                # what the executor demands
DETOUR_SHARE = 0.65             # of the longest route: how far apart start and goal may be
END_ALTITUDE_M = 60.0           # of start and goal, above ground
SHORTEST_M = 40.0               # between start and goal: a crane has room between them
LEG_M, LEAST_POINTS = 8.0, 11   # of short routes: legs as long as this, if they went straight
WINDING = 2.0                   # so much longer than straight may a route be, at the least
CRANE_SHARE = 0.3               # of the first route: where the crane appears
REPORT_SHARE = 0.6              # of its waypoints: when it appears, so behind the drone
LANDED = 1.0                    # or then, where it cannot be clear of the rest of the route
CRANE_M = (44.0, 33.0, 22.0, 11.0, 6.0)     # its edge
CRANE_HEIGHT_M = 130.0          # higher than a drone may fly
CRANE_CLEAR_M = 6.0             # more than a drone needs, between it and the rest of the route
MAST_OVER_M = 12.0              # over the route: what nobody reported
LOW_MAST_M = 10.0               # it is at least so high over what is known
SEEN_FROM_M = 45.0              # the route passes it at most so far away
LOOK_FROM_M, LOOK_DOWN = 60.0, 0.8      # a sensor sees well: so far, so steeply (down / ahead)
LOOKS = 3                       # waypoints at least that a low mast is seen from
EVENT_VOXELS = 3.0              # by which its event may be larger than it is
# Of the mast, what is wished for first: its edge, and metres from start and goal, from the crane,
# and voxels from the map's edge at least; whether it is higher than the route.
MASTS = ((8.0, 90.0, 40.0, 30, True), (8.0, 60.0, 30.0, 15, True), (8.0, 35.0, 20.0, 6, True),
         (4.0, 20.0, 14.0, 3, True), (8.0, 60.0, 30.0, 15, False), (8.0, 35.0, 20.0, 6, False),
         (4.0, 20.0, 14.0, 3, False))


def first_task(grid: VoxelGrid, city: str) -> PatrolTask:
    """A patrol across the middle of the map, from open ground to open ground.

    city : what the refusal calls it

    Raises
    ------
    CityFileError
        If no two places are open enough and far enough apart, and what would help.
    """
    usual = PatrolTask(start=(0.0, 0.0, 0.0), goal=(1.0, 0.0, 0.0))
    least = usual.clearance_horizontal + usual.tube_radius
    reach = (usual.track_points + 1) * usual.time_step_s * usual.drone.max_speed
    found = most_open_ends(grid, (*OPEN_M, least), DETOUR_SHARE * reach,
                           _can_begin(grid, usual))
    apart = 0.0 if found is None else float(np.hypot(*np.subtract(found[0], found[1])))
    if apart < SHORTEST_M:
        extent = np.array(grid.shape[:2]) * grid.resolution
        finer = f"--resolution {grid.resolution / 2:g}, or " \
            if grid.resolution > 1 and np.hypot(*(extent - 2 * least)) > SHORTEST_M else ""
        raise CityFileError(
            f"{city}: the demo takes off and lands on open ground {least:g} m from every building "
            f"and from the edge of the map, {SHORTEST_M:g} m apart or more; on this map of "
            f"{extent[0]:g} x {extent[1]:g} m, in voxels of {grid.resolution:g} m, "
            + (f"such places are {apart:.0f} m apart at most" if apart else "there are no two")
            + f"; give {finer}--city a file of a larger area")
    if found[2] < OPEN_M[0]:
        options.note(f"little open ground: start and goal are {found[2]:g} m from every building "
                     f"and the edge of the map, {apart:.0f} m apart")
    start, goal = ((*end, float(grid.ground_at(end)) + END_ALTITUDE_M) for end in found[:2])
    highest = max(start[2], goal[2]) - END_ALTITUDE_M
    if highest + CRANE_HEIGHT_M + grid.resolution > MAX_EVENT_HEIGHT_M:
        raise CityFileError(
            f"{city}: its ground is {highest:.0f} m above the zero of the map, and the map takes "
            f"events up to {MAX_EVENT_HEIGHT_M:g} m; give the file of the ground as the first "
            "--city, so that the zero lies on it")
    points = min(usual.track_points, max(LEAST_POINTS, int(apart / LEG_M)))
    # With longer legs the points would crowd in the middle of a small map, which is seen from
    # there as a whole.
    step = apart * WINDING / ((points + 1) * usual.drone.max_speed)
    return PatrolTask(start=start, goal=goal, track_points=points,
                      time_step_s=min(usual.time_step_s, round(step, 1)))


def _can_begin(grid, task):
    """(nx, ny) bool: columns above which the drone is free at END_ALTITUDE_M, and from which
    most of the map can be reached."""
    evaluator = Evaluator(grid, task, coverage_floor_km2=0.0)
    regions, count = label(evaluator.room, np.ones((3, 3)))
    if not count:
        return evaluator.room
    largest = 1 + np.argmax(np.bincount(regions.ravel())[1:])
    scene = evaluator.scene
    floor = np.maximum(scene.clear, scene.lowest_z)
    return (regions == largest) & (floor <= scene.ground + END_ALTITUDE_M - grid.resolution)


@dataclass(frozen=True)
class Crane:
    """The block that is closed during the first flight, or after it.

    report_share : of the waypoints of the first route, after which it appears; 1: after landing
    """

    event: CityEvent
    report_share: float


def place_for_crane(grid: VoxelGrid, plan: PatrolPlan, city: str) -> Crane:
    """On the route, clear of the rest of it and of its start; a way leads around it.

    Raises
    ------
    CityFileError
        If there is no such place.
    """
    path, task = plan.path, plan.task
    room = _Room(grid, task)
    usual = int(CRANE_SHARE * len(path))
    wished = task.clearance_horizontal + 2 * task.tube_radius + CRANE_CLEAR_M
    least = task.clearance_horizontal + 2 * task.tube_radius + grid.resolution
    for share, clear in ((REPORT_SHARE, wished), (REPORT_SHARE, least), (LANDED, least)):
        rest = shapely.union(shapely.LineString(path[int(share * len(path)) - 2:, :2]),
                             shapely.Point(path[0, :2]))
        for edge in CRANE_M:
            last = len(path) // 2 if share < LANDED else len(path) - 2
            for k in sorted(range(1, last), key=lambda k: abs(k - usual)):
                place = square(path[k], edge)
                if shapely.Polygon(place).distance(rest) >= clear \
                        and room.leads_around([shapely.Polygon(place)]):
                    return Crane(_crane(grid, place), share)
    raise CityFileError(
        f"{city}: the route of {plan.length_m:.0f} m has no place for a crane that a second one "
        f"could fly around, with {least:g} m to spare; give --city a file of a larger area")


def _crane(grid, footprint):
    ground = grid.ground_at(np.array([*footprint, np.mean(footprint, axis=0)]))
    return CityEvent(
        event_id="crane-1", kind="crane", footprint=footprint, confidence=0.9,
        lower_z=float(ground.min()), upper_z=float(ground.max()) + CRANE_HEIGHT_M,
        description="closed block, tower crane at work")


def place_for_mast(grid: VoxelGrid, plan: PatrolPlan, crane: CityEvent) -> CityEvent | None:
    """A mast beside a route, or a low one below it; None if there is no place for one.

    The route stays certified with the mast in the city and with the event that it becomes, and
    a way leads back; the drone sees it from the route, if nothing stands between.
    """
    room = _Room(grid, plan.task)
    for wish in MASTS:
        found = _mast(grid, plan, crane.polygon, room, *wish)
        if found is not None:
            return found
    return None


def _mast(grid, plan, crane, room, edge, from_ends, from_crane, from_border, high):
    task, path = plan.task, plan.path
    route = shapely.LineString(path[:, :2])
    ends = shapely.MultiPoint([task.start[:2], task.goal[:2]])
    larger = EVENT_VOXELS * grid.resolution
    beside = task.clearance_horizontal + 2 * task.tube_radius + larger
    nearest = beside + edge / 2 if high else 0.0
    for k in sorted(range(1, len(path) - 1), key=lambda k: abs(k - len(path) / 2)):
        ahead = path[k + 1, :2] - path[k - 1, :2]
        left = np.array([-ahead[1], ahead[0]]) / max(np.linalg.norm(ahead), 1e-9)
        for aside in (side * distance for distance in np.arange(nearest, SEEN_FROM_M, 4.0)
                      for side in (1, -1)):
            middle = path[k, :2] + aside * left
            corners = square(middle, edge)
            outline = shapely.Polygon(corners)
            at = grid.index([*middle, 0.0])[:2]
            if (at < from_border).any() or (at + from_border >= grid.shape[:2]).any() \
                    or outline.distance(ends) < from_ends \
                    or outline.distance(crane) < from_crane \
                    or high and outline.distance(route) < beside:
                continue
            lower = float(grid.ground_at(middle))
            upper = float(path[k, 2] + MAST_OVER_M) if high else _low_top(
                grid, task, path, outline, larger)
            if upper < _top(grid, outline) + LOW_MAST_M or (
                    not _seen(grid, path[k:k + 1], middle, upper) if high
                    else _seen(grid, path, middle, upper) < LOOKS):
                continue
            grown = outline.buffer(larger)
            if high and not room.leads_around([crane, grown]):
                continue
            known = grid.with_prism(grown, lower, upper + larger)
            if certify(known, task, path).valid:
                return CityEvent(event_id="mast", kind="mast", footprint=corners,
                                 lower_z=lower, upper_z=upper,
                                 description="stands there, and nobody reported it")
    return None


def square(middle, edge: float):
    """Corners of a square around a place in ENU metres."""
    x, y, h = float(middle[0]), float(middle[1]), edge / 2
    return ((x - h, y - h), (x + h, y - h), (x + h, y + h), (x - h, y + h))


def _box(grid, bounds):
    """Slices of the columns that a box (x0, y0, x1, y1) touches."""
    lower = np.floor((np.array(bounds[:2]) - grid.origin[:2]) / grid.resolution)
    upper = np.ceil((np.array(bounds[2:]) - grid.origin[:2]) / grid.resolution)
    return tuple(slice(max(0, int(a)), max(0, int(b)))
                 for a, b in zip(lower, upper, strict=True))


def _top(grid, outline):
    """z of what is highest under an outline."""
    return float(grid.surface[_box(grid, outline.bounds)].max())


def _low_top(grid, task, path, outline, larger):
    """z of the top of a mast whose event, larger than itself, the route keeps clear of."""
    legs = shapely.linestrings(np.stack([path[:-1, :2], path[1:, :2]], axis=1))
    keep = task.clearance_horizontal + task.tube_radius + larger + 2 * grid.resolution
    near = np.flatnonzero(shapely.distance(legs, outline) <= keep)
    lowest = min((path[k:k + 2, 2].min() for k in near), default=path[:, 2].min())
    return float(lowest - task.clearance_vertical - task.tube_radius - larger - grid.resolution)


def _seen(grid, places, middle, upper) -> int:
    """From how many of the places, (N, 3) ENU metres, the sensor sees a point of the mast: one at
    their height, or its top where that is lower."""
    count = 0
    for place in places:
        to = np.array([*(middle - place[:2]), min(upper - grid.resolution, place[2]) - place[2]])
        level, far = np.hypot(*to[:2]), np.linalg.norm(to)
        if 0 < far <= LOOK_FROM_M and -to[2] <= level * LOOK_DOWN:
            count += cast(grid, place, [to / far], far)[0][0] >= far
    return count


class _Room:
    """The columns that a drone can fly over, and whether it gets from start to goal."""

    def __init__(self, grid, task):
        self._grid = grid
        self._room = Evaluator(grid, task, coverage_floor_km2=0.0).room
        self._ends = tuple(grid.index([task.start, task.goal])[:, :2].T)
        self._keep = task.clearance_horizontal + task.tube_radius + 2 * grid.resolution

    def leads_around(self, closed) -> bool:
        """closed : polygons through which no way leads"""
        room = self._room.copy()
        for polygon in closed:
            x0, y0, x1, y1 = polygon.bounds
            keep = self._keep
            room[_box(self._grid, (x0 - keep, y0 - keep, x1 + keep, y1 + keep))] = False
        regions, _ = label(room, np.ones((3, 3)))
        start, goal = regions[self._ends]
        return start == goal != 0
