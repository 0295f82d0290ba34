"""Whether several plans keep their distance from each other, at the times that they are flown.

Each drone is on the ground at its start until it takes off, climbs to its path, flies it, lands
below its end and stays there. Where on a leg it is at what moment between the leg's beginning and
its end is left open, so nothing is assumed about how it speeds up and brakes; two legs matter to
each other if their times, either of them shifted by the tolerance, have a moment in common, and
the distance of two legs is computed, not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from parallel_city_ros.patrol.task import Drone

# How PX4 1.16 flies missions, seen in SITL: it takes corners more slowly and brakes earlier than a
# drone could, climbs and sinks by MPC_Z_V_AUTO_UP and _DN, and lands slowly below 10 m.
CORNER_ACCELERATION, BRAKING, ACCEPTANCE_RADIUS = 1.0, 0.6, 3.0     # m/s², m/s², m
UP, DOWN = 3.0, 1.5                     # m/s, on the route
CLIMB_SPEED, LANDING_SPEED = 2.8, 1.3   # m/s, on the columns, slow parts included
READY_S = 5.0                           # from the order to start until it leaves the ground


@dataclass(frozen=True, eq=False)
class Timeline:
    """Where a drone is when: on leg k somewhere between begins[k] and ends[k].

    a, b : (L, 3) ENU metres, ends of the legs; the first and the last are the drone on the ground
    begins, ends : (L,) seconds after the start of the fleet, from -inf to inf
    tube_radius : metres by which it may leave its legs
    """

    a: np.ndarray
    b: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    tube_radius: float

    @property
    def duration_s(self) -> float:
        """From the order to start to standing on the ground."""
        return float(self.begins[-1] - self.ends[0])

    def later(self, seconds: float) -> Timeline:
        return replace(self, begins=self.begins + seconds, ends=self.ends + seconds)


def timeline(path, drone: Drone, cruise_speed: float, grounds: tuple[float, float], *,
             start_after_s: float = 0.0, tube_radius: float = 0.0) -> Timeline:
    """Of a path flown at the cruise speed as far as its corners and climbs allow.

    path : (N, 3) ENU metres; grounds : z of the ground below its first and last point
    """
    path = np.asarray(path, float)
    start, goal = ((*path[k, :2], z) for k, z in zip((0, -1), grounds, strict=True))
    points = np.vstack([start, start, path, goal, goal])
    legs = leg_seconds(path, min(cruise_speed, drone.max_speed), drone.acceleration)
    seconds = np.concatenate([[READY_S + (path[0, 2] - start[2]) / CLIMB_SPEED], legs,
                              [(path[-1, 2] - goal[2]) / LANDING_SPEED]])
    moments = start_after_s + np.concatenate([[0.0], np.cumsum(seconds)])
    return Timeline(points[:-1], points[1:], np.r_[-math.inf, moments], np.r_[moments, math.inf],
                    tube_radius)


def leg_seconds(path: np.ndarray, cruise_speed: float, acceleration: float) -> np.ndarray:
    """(N - 1,) seconds that an autopilot needs for the legs of (N, 3) points, rest to rest."""
    legs = np.diff(path, axis=0)
    length = np.maximum(np.linalg.norm(legs, axis=1), 1e-9)
    unit = legs / length[:, None]
    half_turn = np.arccos(np.clip((unit[:-1] * unit[1:]).sum(axis=1), -1, 1)) / 2
    corner = np.sqrt(CORNER_ACCELERATION * ACCEPTANCE_RADIUS / np.maximum(np.tan(half_turn), 1e-3))
    speed = np.r_[0.0, np.minimum(corner, cruise_speed), 0.0]
    for k in range(len(legs) - 1, -1, -1):
        speed[k] = min(speed[k], math.sqrt(speed[k + 1]**2 + 2 * BRAKING * length[k]))
    for k in range(len(legs)):
        speed[k + 1] = min(speed[k + 1], math.sqrt(speed[k]**2 + 2 * acceleration * length[k]))
    first, last = speed[:-1], speed[1:]
    a, b = acceleration, BRAKING
    peak = np.minimum(cruise_speed, np.sqrt(
        (2 * a * b * length + b * first**2 + a * last**2) / (a + b)))
    steady = length - (peak**2 - first**2) / (2 * a) - (peak**2 - last**2) / (2 * b)
    seconds = (peak - first) / a + (peak - last) / b + np.maximum(steady, 0.0) / peak
    return np.maximum(seconds, np.maximum(legs[:, 2] / UP, -legs[:, 2] / DOWN))


def leg_gaps(first: Timeline, second: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """(L, M) distance of every leg of the first from every one of the second, and the (L, M, 3)
    place on the first where that is.

    Two segments are nearest either at an end of one of them or, if they are not parallel, where
    the common perpendicular of their lines meets both (Ericson 2005, Real-Time Collision
    Detection, 5.1.9).
    """
    p, u = first.a[:, None], (first.b - first.a)[:, None]
    q, v = second.a[None], (second.b - second.a)[None]
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    r = p - q
    ur, vr = (u * r).sum(-1), (v * r).sum(-1)

    def share(top, bottom):
        return np.clip(np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape),
                                 where=bottom > 0), 0.0, 1.0)

    zero, one = np.zeros(uv.shape), np.ones(uv.shape)
    cross = uu * vv - uv**2
    inner = share(uv * vr - vv * ur, np.where(cross > 1e-12 * uu * vv, cross, 0.0))
    # of each candidate the share of the way along both legs
    tries = [(zero, share(vr, vv)), (one, share(vr + uv, vv)), (share(-ur, uu), zero),
             (share(uv - ur, uu), one), (inner, share(vr + inner * uv, vv))]
    s, t = (np.array(shares) for shares in zip(*tries, strict=True))
    gaps = np.linalg.norm(r + s[..., None] * u - t[..., None] * v, axis=-1)
    best = gaps.argmin(axis=0)[None]
    where = p + np.take_along_axis(s, best, 0)[0][..., None] * u
    return np.take_along_axis(gaps, best, 0)[0], where


@dataclass(frozen=True)
class Pair:
    """How near two drones come, tubes taken off: at the planned times, and if each flies
    whenever it likes. Metres.

    where : (3,) ENU metres, on the route of the first, at the planned times
    """

    first: str
    second: str
    gap_m: float
    gap_any_time_m: float
    where: tuple[float, float, float]


@dataclass(frozen=True)
class SeparationCertificate:
    """separation_m : to be kept; time_tolerance_s : by which one drone may be early or late
    against another"""

    separation_m: float
    time_tolerance_s: float
    pairs: tuple[Pair, ...]

    @property
    def valid(self) -> bool:
        return not self.broken

    @property
    def broken(self) -> tuple[Pair, ...]:
        return tuple(p for p in self.pairs if not p.gap_m >= self.separation_m)

    @property
    def least_m(self) -> float:
        """Of all pairs, at the planned times; infinite for a single drone."""
        return min((p.gap_m for p in self.pairs), default=math.inf)

    def to_dict(self) -> dict:
        return {"valid": self.valid, "separation_m": self.separation_m,
                "time_tolerance_s": self.time_tolerance_s,
                "pairs": [asdict(p) for p in self.pairs]}


def certify_separation(timelines: Mapping[str, Timeline], separation_m: float,
                       time_tolerance_s: float) -> SeparationCertificate:
    """Every pair of drones, take-off, landing and standing on the ground included."""
    pairs, names = [], list(timelines)
    for k, a in enumerate(names):
        for b in names[k + 1:]:
            first, second = timelines[a], timelines[b]
            gaps, where = leg_gaps(first, second)
            tubes = first.tube_radius + second.tube_radius
            timed = np.where(_meet(first, second, time_tolerance_s), gaps, np.inf)
            i, j = np.unravel_index(np.argmin(timed), timed.shape)
            pairs.append(Pair(a, b, float(timed[i, j]) - tubes, float(gaps.min()) - tubes,
                              tuple(map(float, where[i, j]))))
    return SeparationCertificate(separation_m, time_tolerance_s, tuple(pairs))


def _meet(first: Timeline, second: Timeline, tolerance: float) -> np.ndarray:
    """(L, M) bool: pairs of legs that may be flown at one moment."""
    return ((first.begins[:, None] - tolerance <= second.ends[None])
            & (second.begins[None] - tolerance <= first.ends[:, None]))


def least_delay(drone: Timeline, others: list[Timeline], separation_m: float,
                time_tolerance_s: float) -> float:
    """Seconds by which a drone has to start later to keep its distance; inf if nothing helps.

    Each pair of legs that are too near forbids one interval of delays.
    """
    forbidden = []
    for other in others:
        gaps, _ = leg_gaps(drone, other)
        i, j = np.nonzero(gaps < separation_m + drone.tube_radius + other.tube_radius)
        forbidden += zip(other.begins[j] - time_tolerance_s - drone.ends[i],
                         other.ends[j] + time_tolerance_s - drone.begins[i], strict=True)
    delay = 0.0
    for low, high in sorted(forbidden):
        if low <= delay <= high:
            delay = math.floor(high) + 1.0 if math.isfinite(high) else math.inf
    return delay
