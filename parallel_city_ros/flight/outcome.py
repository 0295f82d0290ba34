"""What a flight reports while it goes on, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from parallel_city_ros.flight.state import FlightState


class FlightStatus(Enum):
    COMPLETED = "completed"         # the whole patrol, landed at its goal
    RETURNED = "returned"           # came home before the end, landed there
    LANDED_EARLY = "landed_early"   # landed on the way
    CANCELLED = "cancelled"         # by the caller; home and landed, or never armed
    FAILED = "failed"               # the message says what is known of the drone
    REFUSED = "refused"             # nothing was sent that makes it fly


@dataclass(frozen=True, kw_only=True, eq=False)
class FlightProgress:
    state: FlightState
    waypoint: int               # index in plan.path that is flown to
    waypoints: int
    distance_m: float           # flown since take-off
    battery_percent: float
    position: np.ndarray        # (3,) ENU metres, map frame
    vehicle_time_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FlightOutcome:
    """flown : (N, 4) vehicle time in s, east, north, up in metres of the map frame."""

    status: FlightStatus
    message: str
    flown: np.ndarray
    distance_m: float           # all of it, take-off and landing included
    patrol_distance_m: float    # between the closest approaches to first and last waypoint
    duration_s: float           # vehicle time, first to last position in the air
    energy_wh: float            # NaN if the battery is unknown


def distance(points: np.ndarray) -> float:
    """Length of a polyline of (N, 3) points, metres."""
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def patrol_distance(flown: np.ndarray, path: np.ndarray) -> float:
    """Metres flown between the closest approaches to the first and the last waypoint.

    The first is looked for before the closest approach to the middle one and the last after
    it, so that a round trip has a length too.
    """
    if len(flown) < 2:
        return 0.0
    points = flown[:, 1:]

    def closest(waypoint, part):
        return int(np.argmin(np.linalg.norm(part - waypoint, axis=1)))

    middle = closest(path[len(path) // 2], points)
    first = closest(path[0], points[:middle + 1])
    last = middle + closest(path[-1], points[middle:])
    return distance(points[first:last + 1])
