"""What is flown of a plan now, and what of it is left. No input, no output."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import shapely

from parallel_city_ros.flight.guidance import stopping_distance
from parallel_city_ros.flight.mission import MissionItem, waypoint_items
from parallel_city_ros.patrol.plan import PatrolPlan

FAN_S = 0.5         # vehicle, between two places from which a drone may turn
OFF_M = 1.0         # from a route, of a place that is none of its own


@dataclass(frozen=True, eq=False)
class Route:
    """A plan, the mission on board that flies it, and where it was entered.

    home : (3,) ENU metres, on the ground
    first : waypoint to which the drone flies straight from somewhere in the fan
    fan : (F, 3) ENU metres; None: it flies there from above home
    before : (M, 3) ENU metres, what it flew until then
    """

    plan: PatrolPlan
    items: list[MissionItem]
    home: np.ndarray
    first: int = 0
    fan: np.ndarray | None = None
    before: np.ndarray | None = None

    def item(self, waypoint: int) -> int:
        """Index of a waypoint's item."""
        return int(waypoint_items(self.items)[waypoint])

    def waypoint(self, current: int) -> int:
        """The waypoint that is flown to at a current item; their number if all are done."""
        return int(np.searchsorted(waypoint_items(self.items), current))

    def flown(self, current: int) -> bool:
        """Whether only the landing is left."""
        return self.waypoint(current) == len(self.plan.path)

    def rest(self, here: np.ndarray, current: int) -> np.ndarray:
        """(N, 3) from the foot of the drone on the leg that it flies to the goal."""
        path, k = self.plan.path, self.waypoint(current)
        if k == len(path):
            return path[-1:]
        if k == self.first and self.fan is not None:
            return np.vstack([here, path[k:]])
        start = path[k - 1] if k else np.array([*self.home[:2], path[0, 2]])
        return np.vstack([_foot(start, path[k], here)[0], path[k:]])

    def entered_at(self, waypoint: int, fan: np.ndarray, before: np.ndarray) -> Route:
        return replace(self, first=waypoint, fan=fan, before=before)

    @property
    def corridor(self) -> np.ndarray:
        """(N, 3) polyline of all legs that may be flown, from the first to the goal."""
        path = self.plan.path
        if self.fan is None:
            return path
        to = path[self.first]
        turns = np.stack([self.fan, np.broadcast_to(to, self.fan.shape)], 1).reshape(-1, 3)
        return np.vstack([self.before, self.fan, turns, path[self.first:]])


def braking(here: np.ndarray, velocity, seconds: float) -> np.ndarray:
    """(F, 3) places where a drone may be while it turns: it does not stop at once."""
    times = np.arange(0.0, seconds + FAN_S / 2, FAN_S)[:, None]
    velocity = np.asarray(velocity, float)
    return here + times * np.where(np.isfinite(velocity), velocity, 0.0)


def along(path: np.ndarray, step: float, length: float) -> np.ndarray:
    """(F, 3) places on a polyline each so many metres, up to a length or its end."""
    ends = _arc(path)
    at = np.arange(0.0, min(length, ends[-1]) + 1e-9, step)
    return np.column_stack([np.interp(at, ends, path[:, axis]) for axis in range(3)])


def turning_places(rest: np.ndarray, speed: float, seconds: float
                   ) -> tuple[np.ndarray, np.ndarray]:
    """Where a drone may turn off a route that it is told to leave within some time.

    It flies straight on while it turns: past a corner, off the route and back.

    rest : (N, 3) ENU metres, N >= 2; speed : m/s
    returns : (F, 3) ENU metres, each FAN_S, and the seconds after which it is at each
    """
    ends, places = _arc(rest), along(rest, speed * FAN_S, speed * seconds)
    times = FAN_S * np.arange(len(places))
    leg = np.clip(np.searchsorted(ends, speed * times, "right") - 1, 0, len(rest) - 2)
    course = np.diff(rest[:, :2], axis=0)
    course /= np.maximum(np.linalg.norm(course, axis=1, keepdims=True), 1e-9)
    beyond = places.copy()
    beyond[:, :2] += stopping_distance(speed) * course[leg]
    off = shapely.distance(shapely.LineString(rest[:, :2]), shapely.points(beyond[:, :2])) > OFF_M
    way = np.stack([places, beyond, places], axis=1)
    taken = np.stack([np.ones(len(off), bool), off, off], axis=1)
    return way[taken], np.repeat(times, 3).reshape(-1, 3)[taken]


def entry(path: np.ndarray, here: np.ndarray, reach: float) -> tuple[int, float]:
    """Waypoint of the (N, 3) path at which a drone comes in without turning back, and its
    distance from the path, metres; looked for on the first `reach` metres of the path."""
    best, gap = 0, math.dist(path[0], here)
    for k in np.flatnonzero(_arc(path)[:-1] <= reach):
        foot, share = _foot(path[k], path[k + 1], here)
        if share > 0 and math.dist(foot, here) < gap:
            best, gap = int(k) + 1, math.dist(foot, here)
    return best, gap


def _arc(path: np.ndarray) -> np.ndarray:
    """(N,) metres along a polyline."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])


def _foot(start, end, here) -> tuple[np.ndarray, float]:
    """The place of a leg that is nearest, and its share of the leg, 0..1."""
    leg = end - start
    share = min(max(float((here - start) @ leg / max(leg @ leg, 1e-9)), 0.0), 1.0)
    return start + share * leg, share
