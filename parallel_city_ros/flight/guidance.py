"""How PX4 flies to a place: a trajectory of limited jerk towards it, which its controllers follow.

Flown by the simulated autopilot, and by ours before PX4 flies (see rehearsal.py): both need what
PX4 v1.16 does, corners and overshoots included. Written from its documentation ("Jerk-limited
Type Trajectory for Multicopters"), what its sources do, and flights of PX4 v1.16 in its own
simulation, with which it is compared in test/flight/test_contract.py.

A leg goes from `previous` to `target`, with `following` after it, [east, north, up] in metres.
Plain Python: a simulator is to start in a fifth of a second, and one step takes some 50 µs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NO_TURN_BELOW = 0.2         # m/s level, of the trajectory
ALIGNED = 0.98              # cosine of course and bearing, from which it is on its way
AIM_AHEAD_M = 5.0           # in a turn, at least: of the point of the leg that is aimed at
WHOLE_BELOW = 0.5           # m/s; slower than that a limit of one axis leaves the others alone
HOLD_DELAY_S = 0.6          # that PX4 reckons with until it brakes
OPEN = math.pi - 1e-7       # rad, of a corner that is none


@dataclass(frozen=True, kw_only=True)
class Limits:
    """PX4's parameters that shape trajectories, by default as PX4 has them."""

    acceleration: float = 3.0           # m/s² level, MPC_ACC_HOR
    acceleration_up: float = 4.0        # m/s², MPC_ACC_UP_MAX
    acceleration_down: float = 3.0      # m/s², MPC_ACC_DOWN_MAX
    jerk: float = 4.0                   # m/s³, MPC_JERK_AUTO
    speed: float = 12.0                 # m/s level, MPC_XY_VEL_MAX
    climb: float = 3.0                  # m/s, MPC_Z_V_AUTO_UP
    descent: float = 1.5                # m/s, MPC_Z_V_AUTO_DN
    turn_gain: float = 0.5              # share of the acceleration in turns, MPC_XY_TRAJ_P
    lag_m: float = 2.0                  # at which the trajectory waits, MPC_XY_ERR_MAX
    height_tolerance: float = 0.8       # m, NAV_MC_ALT_RAD

    @classmethod
    def of(cls, parameters: Mapping[str, float]) -> Limits:
        """As a vehicle with these PX4 parameters has them; PX4's own where one is not known."""
        return cls(**{ours: float(parameters[name]) for ours, name in PARAMETERS.items()
                      if name in parameters})


PARAMETERS = {
    "acceleration": "MPC_ACC_HOR", "acceleration_up": "MPC_ACC_UP_MAX",
    "acceleration_down": "MPC_ACC_DOWN_MAX", "jerk": "MPC_JERK_AUTO", "speed": "MPC_XY_VEL_MAX",
    "climb": "MPC_Z_V_AUTO_UP", "descent": "MPC_Z_V_AUTO_DN", "turn_gain": "MPC_XY_TRAJ_P",
    "lag_m": "MPC_XY_ERR_MAX", "height_tolerance": "NAV_MC_ALT_RAD"}


class Guidance:
    """Where a drone is to be now, how fast and how hard pushed: PX4's trajectory setpoint.

    position, velocity, acceleration : [east, north, up], m, m/s, m/s²
    datum : east and north of the origin of PX4's local frame, from which it judges how sharply
        it turns upwards or down
    """

    def __init__(self, limits: Limits | None = None, datum=(0.0, 0.0)):
        self.limits, self._datum = limits or Limits(), datum
        self.begin((0.0, 0.0, 0.0))

    def begin(self, position, velocity=(0.0, 0.0, 0.0)) -> None:
        """Anew, from there."""
        self.position, self.velocity = list(position), list(velocity)
        self.acceleration = [0.0, 0.0, 0.0]
        self._ramps = [_REST] * 3
        self._turn_speed, self._rises = 0.0, False
        self._strayed, self._from = "", self.position

    def shift(self, offset) -> None:
        """The estimated position jumps by [east, north, up] m, and the trajectory with it."""
        self.position = [p + o for p, o in zip(self.position, offset, strict=True)]

    def follow(self, position, previous, target, following, cruise: float, radius: float,
               dt: float, *, climb: float = math.inf, climb_acceleration: float = math.inf
               ) -> None:
        """One step along the leg previous → target, fit to go on to following.

        position : of the drone; cruise : m/s level
        radius : acceptance radius, m; so far from the leg it flies back to it
        climb, climb_acceleration : that a take-off limits
        """
        previous, target, following = self._way(position, previous, target, following, radius)
        limits = self.limits
        up = (min(limits.climb, climb), min(limits.acceleration_up, climb_acceleration))
        vertical, push = up if self._rises else (limits.descent, limits.acceleration_down)
        turns = self._turns(target, radius)
        aim = self._point_ahead(previous, target, radius) if turns else target
        level = self._level_speed(target, following, cruise, radius)
        if turns:
            level = min(level, self._turn_speed)
        else:
            self._turn_speed = level
        rise = self._vertical_speed(target, following, vertical, push)
        course = _unit(_difference(aim, self.position))
        speed = math.hypot(level, rise)
        velocity = [speed * c for c in course]
        velocity = _within(velocity, math.hypot(velocity[0], velocity[1]), level, (0, 1))
        velocity = _within(velocity, abs(velocity[2]), rise, (2,))
        self._advance(position, velocity, vertical, push, dt)

    def descend(self, position, place, sink: float, dt: float) -> None:
        """One step of a landing: over a place (east, north), down at that many m/s."""
        limits, height = self.limits, self.position[2]
        target = (*place[:2], height)
        level = min(self._level_speed(target, target, limits.speed, 0.0), limits.speed)
        course = _unit(_difference(target, self.position))
        self._advance(position, [level * course[0], level * course[1], -sink],
                      max(limits.descent, sink), limits.acceleration_down, dt)

    # where to

    def _way(self, position, previous, target, following, radius: float):
        """The leg that is flown: back to it, or straight to its end, if it has strayed."""
        along = _unit(_difference(target, previous))
        offset, ahead = _difference(position, previous), _difference(target, position)
        done = _dot(along, offset)
        nearest = _ahead(previous, along, done)
        strayed = ""
        if any(along):
            if _dot(along, ahead) < 0:
                strayed = "past it"
            elif done < 0 and math.dist(position, previous) > radius:
                strayed = "before it"
            elif math.dist(position, nearest) > radius:
                strayed = "beside it"
        if strayed != self._strayed or strayed == "beside it":
            self._strayed, self._from = strayed, list(position)
        if strayed == "past it":
            return self._from, target, following
        if strayed == "before it":
            return self._from, previous, target
        if strayed == "beside it":
            return self._from, nearest, target
        return previous, target, following

    def _turns(self, target, radius: float) -> bool:
        """Whether its course is not yet that to the target."""
        east, north = target[0] - self.position[0], target[1] - self.position[1]
        speed, gap = math.hypot(self.velocity[0], self.velocity[1]), math.hypot(east, north)
        if speed <= NO_TURN_BELOW or gap <= radius:
            return False
        return (self.velocity[0] * east + self.velocity[1] * north) / (speed * gap) < ALIGNED

    def _point_ahead(self, previous, target, radius: float):
        """The point of the leg that is so far from the trajectory, or the nearest one."""
        along = _unit(_difference(target, previous))
        done = _dot(along, _difference(self.position, previous))
        nearest = _ahead(previous, along, done)
        reach = max(radius, AIM_AHEAD_M)
        ahead = math.sqrt(max(reach ** 2 - math.dist(nearest, self.position) ** 2, 0.0))
        return _ahead(nearest, along, ahead)

    # how fast

    def _level_speed(self, target, following, cruise: float, radius: float) -> float:
        """With which the target, and the stop at the point after it, can still be reached."""
        leaving = self._approach(target, following, following, 0.0, cruise, radius)
        return self._approach(self.position, target, following, leaving, cruise, radius)

    def _approach(self, start, target, following, leaving: float, cruise: float, radius: float
                  ) -> float:
        limits, passing = self.limits, 0.0
        after = math.dist(target[:2], following[:2])
        if after > 1e-3 and after >= radius:    # else it stops there
            corner = _angle((target[0] - start[0], target[1] - start[1]),
                            (target[0] - following[0], target[1] - following[1]))
            passing = min(_speed_in_turn(corner, limits.turn_gain * limits.acceleration, radius),
                          leaving, cruise)
        return min(cruise, _speed_to_brake(math.dist(start[:2], target[:2]), passing,
                                           limits.acceleration, limits.jerk))

    def _vertical_speed(self, target, following, fastest: float, push: float) -> float:
        passing = 0.0
        if abs(target[2] - following[2]) > 1e-3:
            here, there, then = (math.dist(p[:2], self._datum)
                                 for p in (self.position, target, following))
            corner = _angle((there - here, self.position[2] - target[2]),
                            (there - then, following[2] - target[2]))
            passing = min(_speed_in_turn(corner, push, self.limits.height_tolerance), fastest)
        return min(fastest, _speed_to_brake(abs(target[2] - self.position[2]), passing, push,
                                            self.limits.jerk))

    # the trajectory

    def _advance(self, position, velocity, vertical: float, push: float, dt: float) -> None:
        """One step of the ramps as they are, then new ones to that velocity."""
        limits = self.limits
        self._rises = velocity[2] > 0
        east, north = self.position[0] - position[0], self.position[1] - position[1]
        if east * self.velocity[0] + north * self.velocity[1] >= 0:     # the drone is behind
            dt *= 1 - min(math.hypot(east, north) / limits.lag_m, 1.0)
        for axis, ramp in enumerate(self._ramps):
            self._step(axis, ramp, dt)
        pushes, fastest = (limits.acceleration,) * 2 + (push,), (limits.speed,) * 2 + (vertical,)
        changes = [max(-f, min(f, v)) - now for v, now, f in
                   zip(velocity, self.velocity, fastest, strict=True)]
        ramps = [_quickest(a, change, p, limits.jerk) for a, change, p in
                 zip(self.acceleration, changes, pushes, strict=True)]
        longest = max(range(3), key=lambda axis: _duration(ramps[axis]))
        seconds = _duration(ramps[longest])
        for axis in range(3):
            if axis != longest and _duration(ramps[axis]) < seconds:    # all end together
                ramps[axis] = _lasting(self.acceleration[axis], changes[axis], pushes[axis],
                                       limits.jerk, ramps[axis][0], seconds)
        self._ramps = ramps

    def _step(self, axis: int, ramp, dt: float) -> None:
        x, v, a = self.position[axis], self.velocity[axis], self.acceleration[axis]
        sign, *parts = ramp
        jerk = sign * self.limits.jerk
        for j, seconds in zip((jerk, 0.0, -jerk), parts, strict=True):
            t = min(dt, seconds)
            if t > 0:
                x += t * (v + t * (a / 2 + j * t / 6))
                v += t * (a + j * t / 2)
                a += j * t
                dt -= t
        if dt > 0:
            x, a = x + v * dt, 0.0
        self.position[axis], self.velocity[axis], self.acceleration[axis] = x, v, a


# A ramp from one speed to another, at its end without acceleration: sign of the jerk, and seconds
# with that jerk, with none, with the opposite one.
_REST = (0, 0.0, 0.0, 0.0)


def _duration(ramp) -> float:
    return ramp[1] + ramp[2] + ramp[3]


def _quickest(acceleration: float, change: float, most: float, jerk: float):
    """The shortest ramp that changes the speed by so much."""
    rest = change - acceleration * abs(acceleration) / (2 * jerk)   # if it eased off at once
    sign = _sign(rest) or _sign(acceleration)
    if not sign:
        return _REST
    now, change = sign * acceleration, sign * change
    peak = min(math.sqrt(max(jerk * change + now * now / 2, 0.0)), most)
    first = max((peak - now) / jerk, 0.0)
    peak = now + jerk * first
    level = (change - (2 * peak * peak - now * now) / (2 * jerk)) / peak if peak > 1e-7 else 0.0
    return sign, first, max(level, 0.0), max(peak / jerk, 0.0)


def _lasting(acceleration: float, change: float, most: float, jerk: float, sign: int,
             seconds: float):
    """The ramp of that many seconds, more than the shortest one takes."""
    if not sign:
        return _REST
    now, change = sign * acceleration, sign * change
    half = (jerk * seconds + now) / 2
    root = half * half - jerk * change - now * now / 2
    first = 0.0
    if root >= 0:
        for peak in (half - math.sqrt(root), half + math.sqrt(root)):
            if peak >= max(now, 0.0) and 2 * peak - now <= jerk * seconds:
                first = max((min(peak, most) - now) / jerk, 0.0)
                break
    last = max(first + now / jerk, 0.0)
    return sign, first, max(seconds - first - last, 0.0), last


def stopping_distance(speed: float, limits: Limits | None = None) -> float:
    """m from a level speed, m/s, to the place that PX4 holds at when it is told to."""
    return speed * (speed / (2 * (limits or Limits()).acceleration) + HOLD_DELAY_S)


def _speed_to_brake(distance: float, final: float, acceleration: float, jerk: float) -> float:
    """m/s from which it can slow down to a final speed within a distance, m."""
    late = 2 * acceleration ** 2 / jerk
    return max(math.sqrt(late ** 2 + 2 * acceleration * distance + final ** 2) - late, final)


def _speed_in_turn(corner: float, acceleration: float, radius: float) -> float:
    """m/s through a corner, rad (π: straight on), along the circle that touches both legs so
    far from it."""
    return math.sqrt(acceleration * radius * math.tan(min(corner, OPEN) / 2))


def _within(velocity, size: float, limit: float, axes) -> list[float]:
    """Slowed down as a whole until that part of it is within its limit."""
    if size <= limit or size <= 1e-7:
        return velocity
    scale, own = limit / size, limit < WHOLE_BELOW and size < WHOLE_BELOW
    return [v * scale if not own or axis in axes else v for axis, v in enumerate(velocity)]


def _angle(a, b) -> float:
    """rad between two (east, north) vectors; a right angle if one is none."""
    size = math.hypot(*a) * math.hypot(*b)
    cosine = (a[0] * b[0] + a[1] * b[1]) / size if size else 0.0
    return math.acos(max(-1.0, min(1.0, cosine)))


def _sign(value: float) -> int:
    return int(value > 0) - int(value < 0)


# Of three components, written out: each step asks for them a dozen times.

def _unit(vector) -> list[float]:
    x, y, z = vector
    size = math.hypot(x, y, z)
    return [x / size, y / size, z / size] if size > 1e-9 else [0.0, 0.0, 0.0]


def _dot(a, b) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _difference(a, b) -> list[float]:
    return [a[0] - b[0], a[1] - b[1], a[2] - b[2]]


def _ahead(start, along, distance: float) -> list[float]:
    return [start[0] + distance * along[0], start[1] + distance * along[1],
            start[2] + distance * along[2]]
