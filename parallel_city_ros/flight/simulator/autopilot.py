"""PX4's rules for a multirotor, as v1.16 keeps them: modes, arming, mission, failsafes.

No sockets and no clock: `step` advances vehicle time, requests are methods, and what it
has to say (status texts, reached items) waits in queues for the protocol.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum

from parallel_city_ros.flight.simulator import guidance
from parallel_city_ros.flight.simulator.parameters import DEFAULTS, SIM_BAT_DRAIN_MOST
from parallel_city_ros.flight.simulator.vehicle import Vehicle
from parallel_city_ros.geo import LocalFrame

GPS_LOST_S = 5.0        # without GPS until the position is not good any more
GPS_TIME_S = 20.0       # correlation of its error
BLIND_DRIFT = 0.8       # m/s, of a position that is only integrated
OFFBOARD_FRESH_S = 0.5  # age of a setpoint with which offboard mode may begin
BOOT_S = 5.0            # until the estimator is ready and it may be armed
SPOOL_UP_S = 1.0        # from arming to the first thrust
PREFLIGHT_BATTERY = 0.15
TRACK_S = 0.1           # between two points of the true track
TRACK_LENGTH = 72_000   # points of it that are kept


class Mode(Enum):
    """Value: PX4's (main mode, sub mode)."""

    MANUAL = (1, 0)
    POSITION = (3, 0)
    TAKEOFF = (4, 2)
    HOLD = (4, 3)
    MISSION = (4, 4)
    RETURN = (4, 5)
    LAND = (4, 6)
    OFFBOARD = (6, 0)

    @property
    def custom_mode(self) -> int:
        main, sub = self.value
        return main << 16 | sub << 24


# Modes that PX4 leaves when it disarms, for the last one asked for that is not of these.
PREVENT_ARMING = (Mode.TAKEOFF, Mode.RETURN, Mode.LAND)


class Result(IntEnum):
    """MAV_RESULT."""

    ACCEPTED = 0
    TEMPORARILY_REJECTED = 1
    DENIED = 2
    UNSUPPORTED = 3


class Severity(IntEnum):
    """MAV_SEVERITY."""

    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    INFO = 6


class Landed(IntEnum):
    """MAV_LANDED_STATE."""

    ON_GROUND = 1
    IN_AIR = 2
    TAKEOFF = 3
    LANDING = 4


WAYPOINT, RETURN, LAND, TAKEOFF, DELAY, CHANGE_SPEED = 16, 20, 21, 22, 93, 178
POSITIONED = (WAYPOINT, LAND, TAKEOFF)
# Accepted in a mission and passed over: gimbal, camera trigger, region of interest.
IGNORED = (195, 197, 201, 203, 205, 206, 530, 1000, 1001, 2000, 2001)
SUPPORTED = (*POSITIONED, RETURN, DELAY, CHANGE_SPEED, *IGNORED)


TRIGGER_DISTANCE, TAKE_PHOTO, STOP_PHOTOS = 206, (203, 2000), 2001


@dataclass(frozen=True)
class Area:
    """A part of a fence: a polygon of (N, 2) points [e, n] m, or a circle of that radius.

    inclusion : it must not be left; else not be entered
    """

    points: tuple[tuple[float, float], ...]
    inclusion: bool
    radius: float = 0.0

    def forbids(self, point) -> bool:
        if self.radius:
            inside = math.dist(point[:2], self.points[0]) <= self.radius
        else:
            inside, (x, y) = False, point[:2]
            for (ax, ay), (bx, by) in zip(self.points, self.points[1:] + self.points[:1],
                                          strict=True):
                if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
                    inside = not inside
        return inside != self.inclusion


@dataclass(frozen=True)
class Item:
    """A mission item.

    point : [east, north, up] in the frame, m; None if it has no position
    relative : up is from home, the newest at any time
    """

    command: int
    params: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    point: tuple[float, float, float] | None = None
    relative: bool = True


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong on request."""

    refuse_arm: bool = False        # arming is denied
    refuse_mode: bool = False       # every mode change is denied
    stuck_params: bool = False      # parameters cannot be changed at all
    ardupilot: bool = False         # it says that it is an ArduPilot
    lock_params: bool = False       # parameters cannot be changed while it is armed
    mode_lies: int = 0              # so many changes to mission are acknowledged, not done


@dataclass
class _Leg:
    """Where the vehicle is going now."""

    start: tuple[float, float, float]
    passing: list[float] = field(default_factory=list)  # speeds of the points from `first` on
    first: int = 0                  # mission index of the first point
    waited_s: float = 0.0


class SimulatedPx4:
    """One vehicle and the rules that fly it.

    Home is set when it is first ready and anew whenever it arms, to where it stands.

    frame : local frame with its origin on the ground where it was switched on
    city : Surroundings, into which it may fly; None: nothing stands there
    home_noise : m, by how much the altitude of home may be wrong either way
    gps_noise : m, standard deviation of the error of level positions
    """

    def __init__(self, vehicle: Vehicle, frame: LocalFrame, faults: Faults | None = None, *,
                 home_noise: float = 0.0, gps_noise: float = 0.0, seed: int = 0, city=None):
        self.vehicle, self.frame, self.faults = vehicle, frame, faults or Faults()
        self.city, self.collided = city, False
        # Of the newest flight, as it really was: s, [e, n, u] m, Wh left
        self.track: deque[tuple[float, ...]] = deque(maxlen=TRACK_LENGTH)
        self.home = (0.0, 0.0, 0.0)     # [east, north, up] in the frame, m
        self.home_count = 0             # how often it was set; 0: not known yet
        self._home_noise, self._random = home_noise, random.Random(seed)
        self._gps_noise, self._gps_random = gps_noise, random.Random(seed + 1)
        self._error = [0.0, 0.0, 0.0]   # of the estimated position, m
        self.gps = True
        self._blind_s = 0.0             # without GPS
        self.fence: list = []           # Area, of the fence protocol
        self.rally: list[tuple[float, float, float]] = []   # [e, n, u], m
        self.photos: deque[tuple[float, float, float]] = deque(maxlen=500)  # where, to be told
        self.photo_count = 0
        self._photo_every_m, self._photo_at = 0.0, None
        self._setpoint: tuple | None = None     # offboard: position or velocity, each or None
        self._setpoint_at = -math.inf
        self._place: tuple[float, float] | None = None      # where a return lands
        self.params = dict(DEFAULTS)
        self.time_s = 0.0
        self.mode = Mode.HOLD
        self._armable = Mode.HOLD       # the newest that was asked for in which it may arm
        self.armed = False
        self.landed = True
        self.mission: list[Item] = []
        self.mission_valid = False
        self.current = 0
        self._left_at = -1              # item at which the mission was left and not set since
        self.mission_finished = False
        self.link_age_s: float | None = None    # wall, since the last ground station; None: never
        self.texts: deque[tuple[Severity, str]] = deque(maxlen=50)
        self.reached: deque[int] = deque()
        self._lies = self.faults.mode_lies
        self._cruise = self.params["MPC_XY_CRUISE"]
        self._since = 0.0               # of arming, then of landing
        self._hold: list[float] = [0.0, 0.0, 0.0]
        self._leg = _Leg((0.0, 0.0, 0.0))
        self._descending = False        # return or landing has reached its place
        self._climb_to: float | None = None     # m, before it goes on with its mission
        self._tripped: set[str] = set()  # failsafes that have acted in this flight
        self._yaw = vehicle.yaw

    # what it is asked

    def arming_refusal(self) -> str:
        """Why it would not arm now; "" if it would."""
        if not self.position_good:
            return "global position estimate invalid"
        if self.time_s < BOOT_S:
            return "heading estimate not stable, waiting for estimator to initialize"
        if self.vehicle.battery_percent < 100 * max(PREFLIGHT_BATTERY,
                                                    self.params["COM_ARM_BAT_MIN"]):
            return "low battery"
        if self.collided:
            return "attitude failure"
        if self.params["NAV_DLL_ACT"] > 0 and self._link_lost():
            return "No connection to the ground control station"
        return ""

    def arm(self) -> Result:
        if self.armed:
            return Result.ACCEPTED
        reason = "switch is engaged" if self.faults.refuse_arm else self.arming_refusal()
        if reason:
            self.say(Severity.CRITICAL, f"Arming denied: {reason}")
            return Result.TEMPORARILY_REJECTED if self.faults.refuse_arm else Result.DENIED
        self.armed, self._since = True, self.time_s
        self._tripped.clear()
        self.track.clear()
        self._set_home()
        self.say(Severity.INFO, "Armed by external command")
        return Result.ACCEPTED

    def disarm(self) -> Result:
        if not self.landed:
            self.say(Severity.CRITICAL, "Disarming denied: not landed")
            return Result.DENIED
        self._disarm("external command")
        return Result.ACCEPTED

    def set_mode(self, mode: Mode) -> Result:
        offboard_stale = mode is Mode.OFFBOARD and self.time_s - self._setpoint_at \
            > OFFBOARD_FRESH_S
        blind = not self.position_good and mode not in (Mode.LAND, Mode.MANUAL)
        if self.faults.refuse_mode or offboard_stale or blind:
            self.say(Severity.CRITICAL, f"Switching to mode '{mode.name.title()}' is currently "
                                        "not possible")
            return Result.DENIED if self.faults.refuse_mode else Result.TEMPORARILY_REJECTED
        if mode is Mode.MISSION:
            if self._lies > 0:
                self._lies -= 1
                return Result.ACCEPTED
            if not self.mission_valid:
                self.say(Severity.CRITICAL, "Switching to mode 'Mission' is currently not "
                                            "possible: no valid mission available")
                return Result.TEMPORARILY_REJECTED
            if self.mission_finished:
                self.current, self.mission_finished = 0, False
            elif self._left_at == self.current and self._photographs():
                self.current = max((i for i, item in enumerate(self.mission[:self.current])
                                    if item.point is not None), default=self.current)
        if mode not in PREVENT_ARMING:
            self._armable = mode
        if mode is not self.mode:
            self._enter(mode)
        return Result.ACCEPTED

    def take_off(self) -> Result:
        return self.set_mode(Mode.TAKEOFF) if self.landed else Result.TEMPORARILY_REJECTED

    def reposition(self, point) -> Result:
        """Hold at a point [e, n, u]; NaN keeps the present value."""
        if self.landed:
            return Result.DENIED
        if self.mode is not Mode.HOLD and self.set_mode(Mode.HOLD) != Result.ACCEPTED:
            return Result.DENIED
        self._hold = [h if math.isnan(p) else p for p, h in zip(point, self._hold, strict=True)]
        return Result.ACCEPTED

    def change_speed(self, speed: float) -> Result:
        if speed > 0:
            self._cruise = min(speed, self.params["MPC_XY_VEL_MAX"])
        return Result.ACCEPTED

    def _photographs(self) -> bool:
        """Whether a camera was at work when the mission was left: PX4 then resumes it at the
        waypoint before, not to lose a photo."""
        triggers = [item for item in self.mission[:self.current]
                    if item.command in (TRIGGER_DISTANCE, 2000, STOP_PHOTOS)]
        return bool(triggers) and (triggers[-1].command == 2000
                                   or triggers[-1].command == TRIGGER_DISTANCE
                                   and triggers[-1].params[0] > 0)

    def set_mission(self, items: list[Item], current: int = 0) -> None:
        """Take over a mission; an infeasible one is kept, announced and never flown.

        current : where it goes on if it is new; the one that it has is left as it is
        """
        if items and repr(list(items)) == repr(self.mission):   # NaN too
            return
        self.mission, self.current, self.mission_finished = list(items), current, False
        self._left_at = -1
        self._judge_mission()
        if self.mode is Mode.MISSION and not self.landed:
            self._enter(Mode.MISSION if self.mission_valid else Mode.HOLD)

    def set_current(self, index: int) -> bool:
        if not 0 <= index < len(self.mission):
            return False
        if index != self.current:
            self._left_at = -1
        self.current, self.mission_finished = index, False
        self._climb_to = None
        self._start_leg()
        return True

    def offboard_setpoint(self, position, velocity) -> None:
        """[e, n, u] each; NaN where the other counts."""
        self._setpoint, self._setpoint_at = (tuple(position), tuple(velocity)), self.time_s

    def set_fence(self, areas: list[Area]) -> None:
        self.fence = list(areas)
        self._judge_mission()

    def set_rally(self, points) -> None:
        self.rally = [tuple(p) for p in points]

    def pretend(self, **faults) -> None:
        self.faults = replace(self.faults, **faults)

    def jump(self, offset) -> None:
        """The position that it believes in moves by [e, n, u] metres."""
        self._error = [e + o for e, o in zip(self._error, offset, strict=True)]

    def reboot(self) -> None:
        """Starts anew, disarmed; parameters and mission are stored, home is not. In the air it
        falls, as nothing holds it."""
        if not self.landed:
            self.vehicle.broken = True
        self.time_s, self.armed, self.mode, self.home_count = 0.0, False, Mode.HOLD, 0
        self._armable = Mode.HOLD
        self._tripped.clear()
        self.texts.clear()

    def truth(self) -> dict:
        """What is really so, whatever it believes or tells. For tests."""
        return {"time_s": self.time_s, "position": list(self.vehicle.position),
                "landed": self.landed, "armed": self.armed, "mode": self.mode.name,
                "battery_percent": self.vehicle.battery_percent, "collided": self.collided}

    def take_photo(self) -> None:
        self.photo_count += 1
        self._photo_at = tuple(self.position)
        self.photos.append(self._photo_at)

    def trigger_every(self, metres: float) -> None:
        """A photo now and every so many metres; 0: no more."""
        self._photo_every_m = max(metres, 0.0)
        if self._photo_every_m:
            self.take_photo()

    @property
    def position(self) -> list[float]:
        """Where it believes to be, [e, n, u] m."""
        return [p + e for p, e in zip(self.vehicle.position, self._error, strict=True)]

    @property
    def position_good(self) -> bool:
        return self._blind_s < GPS_LOST_S

    def _set_home(self) -> None:
        east, north, up = self.position
        self.home = (east, north, up + self._random.uniform(-self._home_noise, self._home_noise))
        self.home_count += 1
        self._judge_mission()       # fence and heights are seen from home

    def say(self, severity: Severity, text: str) -> None:
        self.texts.append((severity, text))

    # what it tells

    @property
    def landed_state(self) -> Landed:
        if self.landed:
            return Landed.ON_GROUND
        if self.mode is Mode.TAKEOFF:
            return Landed.TAKEOFF
        return Landed.LANDING if self.mode is Mode.LAND else Landed.IN_AIR

    @property
    def relative_altitude(self) -> float:
        """Metres above home."""
        return self.position[2] - self.home[2]

    @property
    def ready(self) -> bool:
        return self.time_s >= BOOT_S

    # flying

    def step(self, dt: float) -> None:
        """Advance vehicle time by dt seconds."""
        before = self.vehicle.energy_wh
        self._step(dt)
        if self.params["SIM_BAT_DRAIN"] < SIM_BAT_DRAIN_MOST:
            self._drain(before, dt)

    def _drain(self, before: float, dt: float) -> None:
        """As PX4's own simulation has it, whatever is flown."""
        full, least = self.vehicle.model.battery_wh, self.params["SIM_BAT_MIN_PCT"] / 100
        left = before - full * dt / self.params["SIM_BAT_DRAIN"] if self.armed else full
        self.vehicle.energy_wh = max(left, least * full)

    def _step(self, dt: float) -> None:
        self.time_s += dt
        if self.ready and not self.home_count:
            self._set_home()
        self._estimate(dt)
        if self.armed and not (self.track and self.time_s - self.track[-1][0] < TRACK_S - 1e-6):
            self.track.append((self.time_s, *self.vehicle.position, self.vehicle.energy_wh))
        if not self.armed and self.landed:
            self.vehicle.rest(False, dt)
            return
        if self.vehicle.broken:
            self._crash(dt)
            return
        self._failsafes()
        if self.landed:
            self._on_ground(dt)
            return
        if self._photo_every_m and self._photo_at and \
                math.dist(self.position, self._photo_at) >= self._photo_every_m:
            self.take_photo()
        velocity = guidance.within_vertical_limits(
            self._guide(dt), self.params["MPC_Z_V_AUTO_UP"], self.params["MPC_Z_V_AUTO_DN"])
        if math.hypot(velocity[0], velocity[1]) > 0.5:
            self._yaw = math.atan2(velocity[1], velocity[0])
        self._move(velocity, dt)
        if self.vehicle.height <= 0 and velocity[2] < 0 and not self.vehicle.broken:
            self._touch_down()

    def _move(self, velocity, dt: float) -> bool:
        """Fly on; what stands in the way breaks the drone, which then slides down a wall.

        Returns
        -------
        Whether it rests on a roof.
        """
        before = tuple(self.vehicle.position)
        self.vehicle.fly(velocity, self._yaw, dt)
        at = self.vehicle.position
        if self.city is None or not self.city.hits(at):
            return False
        if not self.vehicle.broken:
            self.vehicle.broken = self.collided = True
            self.say(Severity.CRITICAL, f"Collision at {at[0]:.0f} {at[1]:.0f} {at[2]:.0f} m")
        below = [*before[:2], at[2]]
        rests = self.city.hits(below)
        self.vehicle.position = list(before) if rests else below
        self.vehicle.velocity = [0.0, 0.0, self.vehicle.velocity[2] * (not rests)]
        return rests

    def _estimate(self, dt: float) -> None:
        """The error of GPS wanders; without GPS it grows."""
        if self.gps and self._blind_s:
            self._error = [0.0, 0.0, 0.0]
        self._blind_s = 0.0 if self.gps else self._blind_s + dt
        if not self.gps and not self.landed:
            self._error[0] += BLIND_DRIFT * dt
        elif self._gps_noise:
            decay = math.exp(-dt / GPS_TIME_S)
            spread = self._gps_noise * math.sqrt(1 - decay * decay)
            for axis in (0, 1):
                self._error[axis] = decay * self._error[axis] \
                    + spread * self._gps_random.gauss(0, 1)

    def _crash(self, dt: float) -> None:
        """A motor is lost, or all of them stand: it falls."""
        if "failure" not in self._tripped:
            self._tripped.add("failure")
            self.say(Severity.CRITICAL, "Failure detector: attitude failure, flight terminated")
        if self._move((0.0, 0.0, 0.0), dt) or self.vehicle.height <= 0:
            self.landed, self.vehicle.broken = True, False
            self._disarm("failure detector")

    def _on_ground(self, dt: float) -> None:
        self.vehicle.rest(True, dt)
        waited = self.time_s - self._since
        if self.mode in (Mode.MISSION, Mode.TAKEOFF) and not self.mission_finished:
            if waited >= SPOOL_UP_S:
                self.landed = False
                self._start_leg()
                self.say(Severity.INFO, "Takeoff detected")
        elif "landed" in self._tripped:
            if waited >= self.params["COM_DISARM_LAND"]:
                self._disarm("landing")
        elif waited >= self.params["COM_DISARM_PRFLT"]:
            self._disarm("auto preflight disarming")

    def _touch_down(self) -> None:
        self.landed, self._since = True, self.time_s
        self._tripped.add("landed")
        self.say(Severity.INFO, "Landing detected")
        if self.mode is Mode.MISSION:
            self._reach_item()
            self.mission_finished = True

    def _disarm(self, reason: str) -> None:
        if self.armed:
            self.say(Severity.INFO, f"Disarmed by {reason}")
        self.armed = False
        if self.mode is not self._armable:
            self._enter(self._armable)

    def _enter(self, mode: Mode) -> None:
        if self.mode is Mode.MISSION and mode is not Mode.MISSION:
            self._left_at = self.current
        self.mode = mode
        p, v = self.position, self.vehicle.velocity
        # Hold where it can stop, not where it was asked to.
        stop = math.hypot(v[0], v[1]) / (2 * self.vehicle.model.max_acceleration)
        self._hold = [p[0] + v[0] * stop, p[1] + v[1] * stop, p[2]]
        self._descending = False
        self._place = self._safe_place()
        if mode is Mode.RETURN:     # what the parameter becomes later is for the next return
            self._hold[2] = max(p[2], self.home[2] + self._return_altitude())
        if self.landed and self.armed and mode in (Mode.MISSION, Mode.TAKEOFF):
            self._since = max(self._since, self.time_s - SPOOL_UP_S)
            self._tripped.discard("landed")
        if mode is Mode.MISSION and self.current == 0:
            self._cruise = self.params["MPC_XY_CRUISE"]
        self._climb_to = self._height_to_go_on() if mode is Mode.MISSION else None
        self._start_leg()

    def _height_to_go_on(self) -> float | None:
        """To which it climbs where it is before it goes on: that of the next place, if higher."""
        places = (self._target(i)[2] for i in self.mission[self.current:] if i.point is not None)
        height = next(places, -math.inf)
        low = height - self.position[2] > self.params["NAV_MC_ALT_RAD"]
        return height if low and not self.landed else None

    def _guide(self, dt: float) -> list[float]:
        if self.mode is Mode.MISSION:
            return self._guide_mission(dt)
        if self.mode is Mode.RETURN:
            return self._guide_return()
        if self.mode is Mode.LAND:
            return self._descend(self._hold)
        if self.mode is Mode.TAKEOFF:
            return self._guide_take_off()
        if self.mode is Mode.OFFBOARD:
            return self._guide_offboard()
        return guidance.towards(self.position, self._hold, self._cruise)

    def _guide_take_off(self) -> list[float]:
        top = [*self._hold[:2], self.home[2] + self.params["MIS_TAKEOFF_ALT"]]
        if self._at(top):
            self._enter(Mode.HOLD)
        return self._climb(top)

    def _guide_offboard(self) -> list[float]:
        position, velocity = self._setpoint
        if not any(map(math.isnan, position)):
            return guidance.towards(self.position, position, self._cruise)
        return [0.0 if math.isnan(v) else v for v in velocity]

    def _safe_place(self) -> tuple[float, float]:
        """Where a return ends. RTL_TYPE 0: home or a rally point, whichever is nearest."""
        places = [self.home[:2], *(p[:2] for p in self.rally)]
        if self.params["RTL_TYPE"] != 0:
            return places[0]
        return min(places, key=lambda p: math.dist(p, self.position[:2]))

    def _return_altitude(self) -> float:
        """Metres above home. The cone keeps a return from near home lower."""
        altitude, cone = self.params["RTL_RETURN_ALT"], self.params["RTL_CONE_ANG"]
        if cone > 0:
            away = math.dist(self.position[:2], self.home[:2])
            altitude = min(altitude, away / math.tan(math.radians(cone)))
        return altitude

    def _guide_return(self) -> list[float]:
        """Up to the return altitude, home, down."""
        p, (east, north), altitude = self.position, self._place, self._hold[2]
        if self._descending:
            return self._descend((east, north))
        if p[2] < altitude - self.params["NAV_MC_ALT_RAD"]:
            return self._climb((*self._hold[:2], altitude))
        if math.dist(p[:2], (east, north)) > 0.5:
            return guidance.along_leg(
                p, self._speed(), (*self._hold[:2], altitude), (east, north, altitude), 0.0,
                self.params["MPC_XY_CRUISE"], 0.0)
        self._descending = True
        return self._descend((east, north))

    def _guide_mission(self, dt: float) -> list[float]:
        p = self.position
        if self._climb_to is not None:
            if self._climb_to - p[2] > self.params["NAV_MC_ALT_RAD"]:
                return self._climb((*self._hold[:2], self._climb_to))
            self._climb_to = None
            self._start_leg()
        item = self.mission[self.current]
        while item.point is None:       # acts at once, or waits
            if item.command == DELAY and self._leg.waited_s < item.params[0]:
                self._leg.waited_s += dt
                return guidance.towards(p, self._hold, self._cruise)
            if item.command == CHANGE_SPEED:
                self.change_speed(item.params[1])
            self._photograph(item)
            if item.command == RETURN:
                self._enter(Mode.RETURN)
                return self._guide_return()
            if not self._next_item():
                return guidance.towards(p, self._hold, self._cruise)
            item = self.mission[self.current]
        point = self._target(item)
        if item.command == TAKEOFF:
            top = (*self._leg.start[:2], point[2])
            if p[2] < point[2] - self.params["NAV_MC_ALT_RAD"]:
                return self._climb(top)
            self._reach_item()
            self._next_item()
            return self._climb(top)
        if item.command == LAND and self._descending:
            return self._descend(point)
        if item.command == LAND:
            over = (*point[:2], max(p[2], self._hold[2]))
            if math.dist(p[:2], over[:2]) < 0.5:
                self._descending = True
            return guidance.towards(p, over, self._cruise)
        return self._to_waypoint(item, dt)

    def _photograph(self, item: Item) -> None:
        """Camera items: DO_SET_CAM_TRIGG_DIST, DO_DIGICAM_CONTROL, IMAGE_START_CAPTURE."""
        if item.command == TRIGGER_DISTANCE:
            self.trigger_every(item.params[0])
        elif item.command in TAKE_PHOTO:
            self.take_photo()

    def _to_waypoint(self, item: Item, dt: float) -> list[float]:
        p, point = self.position, self._target(item)
        radius = item.params[1] if item.params[1] > 0 else self.params["NAV_ACC_RAD"]
        passing = self._leg.passing[self.current - self._leg.first]
        if self._at(point, radius):
            if self._leg.waited_s >= item.params[0]:
                self._reach_item()
                if not self._next_item():
                    return guidance.towards(p, point, self._cruise)
                return self._guide_mission(dt)
            self._leg.waited_s += dt
            return guidance.towards(p, point, self._cruise)
        return guidance.along_leg(p, self._speed(), self._leg.start, point, passing,
                                  self._cruise, radius)

    def _climb(self, top) -> list[float]:
        """Straight up, or down, to a height."""
        p = self.position
        level = guidance.towards(p, (*top[:2], p[2]), 2.0)
        speed = self.params["MPC_TKO_SPEED"] if p[2] < 5.0 else self.params["MPC_Z_V_AUTO_UP"]
        return [*level[:2], max(-speed, min(speed, top[2] - p[2] + 0.1))]

    def _descend(self, spot) -> list[float]:
        p = self.position
        high, low = self.params["MPC_LAND_ALT1"], self.params["MPC_LAND_ALT2"]
        fast, slow = self.params["MPC_Z_V_AUTO_DN"], self.params["MPC_LAND_SPEED"]
        share = min(max((p[2] - self.home[2] - low) / max(high - low, 0.1), 0.0), 1.0)
        level = guidance.towards(p, (spot[0], spot[1], p[2]), 2.0)
        return [*level[:2], -(slow + share * (fast - slow))]

    def _at(self, point, radius: float = 0.5) -> bool:
        p = self.position
        return (math.dist(p[:2], point[:2]) <= radius
                and abs(p[2] - point[2]) <= self.params["NAV_MC_ALT_RAD"])

    def _speed(self) -> float:
        return math.hypot(*self.vehicle.velocity)

    # mission

    def _target(self, item: Item) -> tuple[float, float, float]:
        east, north, up = item.point
        return east, north, up + self.home[2] * item.relative

    def _start_leg(self) -> None:
        """From the present position to the current item, with speeds for all points after it."""
        here = tuple(self.position)
        points, radius = [here], self.params["NAV_ACC_RAD"]
        speeds = []
        for item in self.mission[self.current:]:
            if item.command == WAYPOINT:
                points.append(self._target(item))
            elif item.command in (LAND, RETURN):
                break
        passing = iter(guidance.passing_speeds(points, radius)[1:])
        for item in self.mission[self.current:]:
            stops = item.command == WAYPOINT and item.params[0] > 0
            speed = next(passing, 0.0) if item.command == WAYPOINT else 0.0
            speeds.append(0.0 if stops else speed)
        self._leg = _Leg(here, speeds, self.current)

    def _reach_item(self) -> None:
        self.reached.append(self.current)

    def _next_item(self) -> bool:
        """Go on to the next item; False, and hold, after the last."""
        item = self.mission[self.current]
        if self.current + 1 >= len(self.mission):
            if not self.mission_finished:
                self.mission_finished = True
                self.say(Severity.INFO, "Mission finished, loitering")
                self._enter(Mode.HOLD)
            return False
        self.current += 1
        if item.point is not None:
            self._leg.start = self._target(item) if item.command == WAYPOINT \
                else tuple(self.position)
            self._hold = list(self._target(item))
        self._leg.waited_s = 0.0
        return True

    def _judge_mission(self) -> None:
        problem = self._infeasible() if self.mission else ""
        self.mission_valid = bool(self.mission) and not problem
        if problem:
            self.say(Severity.CRITICAL, f"Mission rejected: {problem}")

    def _infeasible(self) -> str:
        """Why the mission cannot be flown; "" if it can."""
        points = [(i, item) for i, item in enumerate(self.mission) if item.point is not None]
        if not points:
            return "no position in the mission"
        far = math.dist(points[0][1].point[:2], self.home[:2])
        if 0 < self.params["MIS_DIST_1WP"] < far:
            return f"first waypoint too far away: {far:.0f}m"
        for i, item in points:
            target = self._target(item)
            if item.command == TAKEOFF and \
                    target[2] - self.home[2] <= self.params["NAV_MC_ALT_RAD"]:
                return "takeoff altitude too low"
            if item.command == TAKEOFF and i != points[0][0]:
                return f"item {i + 1}: takeoff is not the first item"
            if item.command == LAND and i + 1 < len(self.mission) \
                    and self.mission[i + 1].command == LAND:
                return f"item {i + 2}: land twice"
            if self._outside_fence(target):
                return f"waypoint {i + 1} is outside the geofence"
        return ""

    # failsafes

    def _outside_fence(self, point) -> bool:
        level, height = self.params["GF_MAX_HOR_DIST"], self.params["GF_MAX_VER_DIST"]
        if any(area.forbids(point) for area in self.fence):
            return True
        return (0 < level < math.dist(point[:2], self.home[:2])) \
            or (0 < height < point[2] - self.home[2])

    def _link_lost(self) -> bool:
        return self.link_age_s is None or self.link_age_s > self.params["COM_DL_LOSS_T"]

    def _failsafes(self) -> None:
        if self.landed:
            return
        share = self.vehicle.battery_percent / 100
        action = self.params["COM_LOW_BAT_ACT"]
        if share < self.params["BAT_LOW_THR"]:
            self._trip("battery low", "Low battery level, return advised", None)
        if share < self.params["BAT_CRIT_THR"]:
            self._trip("battery critical", "Critical battery level",
                       {2: Mode.LAND, 3: Mode.RETURN}.get(action))
        if share < self.params["BAT_EMERGEN_THR"]:
            self._trip("battery emergency", "Dangerously low battery level, landing",
                       Mode.LAND if action else None)
        if self.params["NAV_DLL_ACT"] > 0 and self.link_age_s is not None and self._link_lost() \
                and not (self.mode is Mode.MISSION and self.params["COM_DLL_EXCEPT"] & 1):
            self._trip("link", "Connection to ground station lost",
                       {1: Mode.HOLD, 2: Mode.RETURN, 3: Mode.LAND}.get(
                           self.params["NAV_DLL_ACT"]))
        elif not self._link_lost():
            self._tripped.discard("link")
        if not self.position_good:
            self._trip("position", "Position lost, descending", Mode.LAND)
        if self.mode is Mode.OFFBOARD and \
                self.time_s - self._setpoint_at > self.params["COM_OF_LOSS_T"]:
            # Without remote control position mode, the default, is not possible: it holds.
            self._tripped.discard("offboard")
            self._trip("offboard", "Offboard signal lost",
                       {3: Mode.RETURN, 4: Mode.LAND}.get(self.params["COM_OBL_RC_ACT"],
                                                          Mode.HOLD))
        if self._outside_fence(self.position):
            self._trip("fence", "Geofence violation",
                       {2: Mode.HOLD, 3: Mode.RETURN, 5: Mode.LAND}.get(self.params["GF_ACTION"]))
        else:
            self._tripped.discard("fence")

    def _trip(self, name: str, text: str, mode: Mode | None) -> None:
        """A failsafe acts once, and never replaces landing or return by something weaker."""
        if name in self._tripped:
            return
        self._tripped.add(name)
        self.say(Severity.CRITICAL if mode else Severity.WARNING, f"Failsafe: {text}")
        if mode and self.mode is not Mode.LAND and not (
                self.mode is Mode.RETURN and mode is not Mode.LAND):
            self._enter(mode)
