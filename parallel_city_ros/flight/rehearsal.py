"""A patrol flown before it is flown, as PX4 will: how fast each leg may be, and where that leads.

PX4 slows down for corners seen from above, but hardly for those of its height: at the top of a
steep leg it flies on upwards, metres out of the certified tube, before it turns down (6 m were
seen at 8 m/s with PX4 v1.16). So each leg is flown here first, and again more slowly, together
with the one before it, until the drone keeps within a share of the tube.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parallel_city_ros.flight.guidance import Guidance, Limits
from parallel_city_ros.flight.simulator.vehicle import Vehicle, VehicleModel

DT = 0.04               # s
TUBE_SHARE = 0.75       # of its radius; the rest is for wind and positions
SLOWER = 0.75           # at each try
SLOWEST = 1.0           # m/s
DRAG_RATE = 1.0         # 1/s, as that of PX4's SIH, for which it leans out of a corner: the most
LEGS_BACK = 3           # that may be slowed down for what happens on one
LEG_PATIENCE_S = 60.0   # more than at SLOWEST, for a leg


class RehearsedDrone:
    """PX4's guidance and a drone that follows it, in still air."""

    def __init__(self, at, limits: Limits | None = None, **model):
        self.guidance = Guidance(limits)
        self.body = Vehicle(VehicleModel(**{"gust": 0.0} | model),
                            ground=lambda east, north: -math.inf)
        self.guidance.begin(at)
        self.body.position = list(at)
        self._began = tuple(at)
        self.seconds = 0.0

    def leg(self, previous, target, following, cruise: float, radius: float):
        """Fly to a target; yields (position, velocity) every DT until it is reached."""
        guidance, body = self.guidance, self.body
        tolerance = guidance.limits.height_tolerance
        patience = self.seconds + LEG_PATIENCE_S + math.dist(previous, target) / SLOWEST
        while self.seconds < patience:
            guidance.follow(body.position, previous, target, following, cruise, radius, DT)
            self._fly()
            yield body.position, body.velocity
            if math.dist(body.position[:2], target[:2]) <= radius \
                    and abs(body.position[2] - target[2]) <= tolerance:
                return

    def climb(self, top, height: float, **limits):
        """Straight up until it is so many metres above where it began; yields as a leg does."""
        enough = self._began[2] + height
        while self.body.position[2] < enough:
            self.guidance.follow(self.body.position, top, top, top, limits.get("climb", 1.0), 0.1,
                                 DT, **limits)
            self._fly()
            yield self.body.position, self.body.velocity

    def sink(self, place, speed: float):
        """One step down, over a place; its velocity."""
        self.guidance.descend(self.body.position, place, speed, DT)
        self._fly()
        return self.body.velocity

    def _fly(self) -> None:
        guidance = self.guidance
        self.body.fly(guidance.position, guidance.velocity, guidance.acceleration, 0.0, DT)
        self.seconds += DT

    def copy(self) -> RehearsedDrone:
        return copy.deepcopy(self)


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """speeds : (N,) m/s of the leg to each point of the path; farthest : m from its legs, of any
    of them"""

    speeds: np.ndarray
    farthest: float


def rehearse(path, speeds, acceptance_radius: float, tube_radius: float,
             limits: Limits | None = None) -> Rehearsal:
    """Slow legs down until each is flown within TUBE_SHARE of the tube, if that can be.

    path : (N, 3) ENU metres; speeds : (N,) m/s that each leg may have at most; the first leads to
    the first point, from which the rehearsal begins, at rest. limits : of the drone's PX4
    """
    path = np.ascontiguousarray(path, float)
    speeds = tuple(float(s) for s in speeds)
    return _rehearse(path.tobytes(), speeds, float(acceptance_radius), float(tube_radius),
                     limits or Limits())


@lru_cache(maxsize=32)      # a mission is made several times of one plan
def _rehearse(data: bytes, fastest: tuple[float, ...], radius: float, tube: float,
              limits: Limits) -> Rehearsal:
    path = [tuple(p) for p in np.frombuffer(data).reshape(-1, 3).tolist()]
    speeds, most, last = list(fastest), TUBE_SHARE * tube, len(path) - 1
    # The drone as it was when each leg began.
    begun = [None, RehearsedDrone(path[0], limits, drag_rate=DRAG_RATE)]
    strays = [0.0] * len(path)
    k = 1
    while k <= last:
        drone = begun[k].copy()
        near = path[max(k - 2, 0):k + 2]
        following = path[min(k + 1, last)]
        strays[k] = 0.0
        slow = None
        for place, _ in drone.leg(path[k - 1], path[k], following, speeds[k], radius):
            strays[k] = max(strays[k], _distance(place, near))
            if strays[k] > most:
                slow = _to_slow_down(speeds, k)
                if slow is not None:
                    break
        if slow is None:
            k += 1
            del begun[k:]
            begun.append(drone)
        else:
            speeds[slow] = max(SLOWER * speeds[slow], min(SLOWEST, speeds[slow]))
            k = max(slow, 1)
    return Rehearsal(np.array(speeds), max(strays))


def _to_slow_down(speeds: list[float], k: int) -> int | None:
    """The leg before, as overshoots come from there; then this one; then those before them."""
    order = [k - 1, k, *range(k - 2, k - 1 - LEGS_BACK, -1)]
    return next((leg for leg in order if leg >= 1 and speeds[leg] > SLOWEST), None)


def _distance(place, line) -> float:
    """Metres from a place to a short polyline."""
    return min(_from_leg(place, a, b) for a, b in zip(line, line[1:], strict=False))


def _from_leg(place, a, b) -> float:
    x, y, z = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    east, north, up = place[0] - a[0], place[1] - a[1], place[2] - a[2]
    size = x * x + y * y + z * z
    share = (x * east + y * north + z * up) / size if size else 0.0
    share = min(max(share, 0.0), 1.0)
    return math.hypot(east - share * x, north - share * y, up - share * z)
