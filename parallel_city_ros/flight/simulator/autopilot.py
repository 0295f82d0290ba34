"""PX4's rules for a multirotor, as v1.16 keeps them: modes, arming, mission, failsafes.

No sockets and no clock: `step` advances vehicle time, requests are methods, and what it
has to say (status texts, reached items) waits in queues for the protocol.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

from parallel_city_ros.flight.guidance import Guidance, Limits, stopping_distance
from parallel_city_ros.flight.simulator.parameters import DEFAULTS, SIM_BAT_DRAIN_MOST
from parallel_city_ros.flight.simulator.vehicle import Vehicle
from parallel_city_ros.geo import LocalFrame

GPS_LOST_S = 5.0        # without GPS until the position is not good any more
GPS_TIME_S = 20.0       # correlation of its error
BLIND_DRIFT = 0.8       # m/s, of a position that is only integrated
OFFBOARD_FRESH_S = 0.5  # age of a setpoint with which offboard mode may begin
BOOT_S = 5.0            # until the estimator is ready and it may be armed
SPOOL_UP_S = 1.5        # from arming until thrust rises, for MPC_TKO_RAMP_T until it lifts
TOUCH_S = 2.5           # on the ground, and LNDMC_TRIG_TIME, until it believes it has landed
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
# In which it does not arm, those for sticks as there are none.
NO_ARMING = (Mode.RETURN, Mode.LAND, Mode.POSITION, Mode.MANUAL)
MODE_REFUSAL = "Resolve system health failures first"


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
        self._guidance = Guidance()
        self._previous = (0.0, 0.0, 0.0)    # where the leg that it flies begins
        self._waited_s = 0.0                # at the present item
        self._touching_s = 0.0              # the ground
        self._sinks = False        # return or landing has reached its place
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
        if self.mode in NO_ARMING or self.mode is Mode.MISSION and not self.mission_valid:
            return MODE_REFUSAL
        return ""

    def explain_refusal(self) -> None:
        """Say what arming lacks; of the mode PX4 tells nothing in words."""
        reason = self.arming_refusal()
        if reason and reason != MODE_REFUSAL:
            self.say(Severity.CRITICAL, f"Preflight Fail: {reason}")

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
        self._guidance.shift(offset)

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
        self._guide(dt)
        position, velocity, acceleration = self._setpoint_now()
        if math.hypot(velocity[0], velocity[1]) > 0.5:
            self._yaw = math.atan2(velocity[1], velocity[0])
        self._move(position, velocity, acceleration, dt)
        touches = self.vehicle.height <= 0 and velocity[2] < 0 and not self.vehicle.broken
        self._touching_s = self._touching_s + dt if touches else 0.0
        if self._touching_s >= TOUCH_S + self.params["LNDMC_TRIG_TIME"]:
            self._touch_down()

    def _setpoint_now(self):
        """Position, velocity and acceleration that are flown now, [e, n, u] each, as it is."""
        if self.mode is Mode.OFFBOARD:
            position, velocity = self._setpoint
            velocity, acceleration = [0.0 if math.isnan(v) else v for v in velocity], [0.0] * 3
        else:
            guided = self._guidance
            position, velocity, acceleration = (guided.position, guided.velocity,
                                                guided.acceleration)
        return ([p - e for p, e in zip(position, self._error, strict=True)], velocity,
                acceleration)

    def _move(self, position, velocity, acceleration, dt: float) -> bool:
        """Fly on; what stands in the way breaks the drone, which then slides down a wall.

        Returns
        -------
        Whether it rests on a roof.
        """
        before = tuple(self.vehicle.position)
        self.vehicle.fly(position, velocity, acceleration, self._yaw, dt)
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
            self.jump([-e for e in self._error])
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
        if self._move(self.position, [0.0] * 3, [0.0] * 3, dt) or self.vehicle.height <= 0:
            self.landed, self.vehicle.broken = True, False
            self._disarm("failure detector")

    def _on_ground(self, dt: float) -> None:
        self.vehicle.rest(True, dt)
        waited = self.time_s - self._since
        if self.mode in (Mode.MISSION, Mode.TAKEOFF) and not self.mission_finished:
            if waited >= self._lift_off_s:
                self.landed = False
                self._guidance.begin(self.position)
                self._start_leg()
                self.say(Severity.INFO, "Takeoff detected")
        elif "landed" in self._tripped:
            if waited >= self.params["COM_DISARM_LAND"]:
                self._disarm("landing")
        elif waited >= self.params["COM_DISARM_PRFLT"]:
            self._disarm("auto preflight disarming")

    @property
    def _lift_off_s(self) -> float:
        return SPOOL_UP_S + self.params["MPC_TKO_RAMP_T"]

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
        if mode is Mode.MISSION and self.mode is not Mode.MISSION:
            self._cruise = next(
                (item.params[1] for item in reversed(self.mission[:self.current])
                 if item.command == CHANGE_SPEED), self.params["MPC_XY_CRUISE"])
        self.mode = mode
        p, v = self.position, self.vehicle.velocity
        # Hold where it can stop, not where it was asked to; a return climbs where it was.
        speed = math.hypot(v[0], v[1])
        stop = 0.0 if mode is Mode.RETURN or not speed else \
            stopping_distance(speed, self._guidance.limits) / speed
        self._hold = [p[0] + v[0] * stop, p[1] + v[1] * stop, p[2]]
        self._sinks = False
        self._place = self._safe_place()
        if mode is Mode.RETURN:     # what the parameter becomes later is for the next return
            self._hold[2] = max(p[2], self.home[2] + self._return_altitude())
        if self.landed and self.armed and mode in (Mode.MISSION, Mode.TAKEOFF):
            self._since = max(self._since, self.time_s - self._lift_off_s)
            self._tripped.discard("landed")
        if mode in (Mode.HOLD, Mode.RETURN, Mode.LAND, Mode.TAKEOFF):
            self._cruise = self.params["MPC_XY_CRUISE"]
        self._climb_to = self._height_to_go_on() if mode is Mode.MISSION else None
        self._start_leg()

    def _height_to_go_on(self) -> float | None:
        """To which it climbs where it is before it goes on: that of the next place, if higher."""
        places = (self._target(i)[2] for i in self.mission[self.current:] if i.point is not None)
        height = next(places, -math.inf)
        low = height - self.position[2] > self.params["NAV_MC_ALT_RAD"]
        return height if low and not self.landed else None

    def _guide(self, dt: float) -> None:
        if self.mode is Mode.MISSION:
            self._guide_mission(dt)
        elif self.mode is Mode.RETURN:
            self._guide_return(dt)
        elif self.mode is Mode.LAND or self.mode is Mode.POSITION and self._sinks:
            self._sink(self._hold, dt)
        elif self.mode is Mode.TAKEOFF:
            self._guide_take_off(dt)
        elif self.mode is Mode.OFFBOARD:    # what flies it later begins here
            self._guidance.begin(self.position, self.vehicle.velocity)
        else:
            self._go(self._hold, dt)

    def _guide_take_off(self, dt: float) -> None:
        top = [*self._hold[:2], self.home[2] + self.params["MIS_TAKEOFF_ALT"]]
        if self._at(top):
            self._enter(Mode.HOLD)
        self._climb(top, dt, lifts=True)

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

    def _guide_return(self, dt: float) -> None:
        """Up to the return altitude, home, down."""
        p, place, altitude = self.position, self._place, self._hold[2]
        start, end = (*self._hold[:2], altitude), (*place, altitude)
        if self._sinks:
            self._sink(place, dt)
        elif p[2] < altitude - self.params["NAV_MC_ALT_RAD"]:
            self._climb(start, dt)
        else:
            self._go(end, dt, previous=start, cruise=self.params["MPC_XY_CRUISE"])
            self._sinks = self._at(end)

    def _guide_mission(self, dt: float) -> None:
        p = self.position
        if self._climb_to is not None:
            if self._climb_to - p[2] > self.params["NAV_MC_ALT_RAD"]:
                self._climb((*self._hold[:2], self._climb_to), dt)
                return
            self._climb_to = None
            self._start_leg()
        item = self.mission[self.current]
        while item.point is None:       # acts at once, or waits
            if item.command == DELAY and self._waited_s < item.params[0]:
                self._waited_s += dt
                self._go(self._hold, dt)
                return
            if item.command == CHANGE_SPEED:
                self.change_speed(item.params[1])
            self._photograph(item)
            if item.command == RETURN:
                self._enter(Mode.RETURN)
                self._guide_return(dt)
                return
            if not self._next_item():
                self._go(self._hold, dt)
                return
            item = self.mission[self.current]
        target = self._target(item)
        if item.command == TAKEOFF:
            self._climb((*self._previous[:2], target[2]), dt, lifts=True)
            if p[2] >= target[2] - self.params["NAV_MC_ALT_RAD"]:
                self._reach_item()
                self._next_item()
        elif item.command == LAND:
            self._sinks |= math.dist(p[:2], target[:2]) <= self.params["NAV_ACC_RAD"]
            if self._sinks:
                self._sink(target, dt)
            else:
                self._go((*target[:2], self._hold[2]), dt, previous=self._previous)
        else:
            self._to_waypoint(item, target, dt)

    def _to_waypoint(self, item: Item, target, dt: float) -> None:
        radius = item.params[1] if item.params[1] > 0 else self.params["NAV_ACC_RAD"]
        then = next((after for after in self.mission[self.current + 1:]
                     if after.point is not None), None)
        stops = then is None or item.params[0] > 0
        self._go(target, dt, previous=self._previous, radius=radius,
                 following=target if stops else self._target(then))
        if self._at(target, radius):
            if self._waited_s < item.params[0]:
                self._waited_s += dt
            else:
                self._reach_item()
                self._next_item()

    def _photograph(self, item: Item) -> None:
        """Camera items: DO_SET_CAM_TRIGG_DIST, DO_DIGICAM_CONTROL, IMAGE_START_CAPTURE."""
        if item.command == TRIGGER_DISTANCE:
            self.trigger_every(item.params[0])
        elif item.command in TAKE_PHOTO:
            self.take_photo()

    def _go(self, target, dt: float, *, previous=None, following=None,
            cruise: float | None = None, radius: float | None = None, **limits) -> None:
        """Towards a place along the leg to it; it stops there if nothing follows."""
        self._guidance.follow(
            self.position, previous or target, target, following or target,
            cruise or self._cruise, radius or self.params["NAV_ACC_RAD"], dt, **limits)

    def _climb(self, top, dt: float, lifts: bool = False) -> None:
        """Straight up to a height; lifts: off the ground, slowly at first."""
        limits = {}
        if lifts and self.relative_altitude < self.params["MPC_LAND_ALT1"]:
            speed = self.params["MPC_TKO_SPEED"]
            limits = {"climb": speed, "climb_acceleration": speed / self.params["MPC_TKO_RAMP_T"]}
            self._guidance.position[2] = self.position[2]
        self._go(top, dt, **limits)

    def _sink(self, place, dt: float) -> None:
        high, low = self.params["MPC_LAND_ALT1"], self.params["MPC_LAND_ALT2"]
        fast, slow = self.params["MPC_Z_V_AUTO_DN"], self.params["MPC_LAND_SPEED"]
        share = min(max((self.relative_altitude - low) / max(high - low, 0.1), 0.0), 1.0)
        self._guidance.descend(self.position, place, slow + share * (fast - slow), dt)

    def _at(self, point, radius: float | None = None) -> bool:
        p = self.position
        return (math.dist(p[:2], point[:2]) <= (radius or self.params["NAV_ACC_RAD"])
                and abs(p[2] - point[2]) <= self.params["NAV_MC_ALT_RAD"])

    # mission

    def _target(self, item: Item) -> tuple[float, float, float]:
        east, north, up = item.point
        return east, north, up + self.home[2] * item.relative

    def _start_leg(self) -> None:
        """From the present position."""
        self._previous, self._waited_s = tuple(self.position), 0.0
        self._guidance.limits = Limits.of(self.params)

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
            self._previous = self._target(item) if item.command == WAYPOINT \
                else tuple(self.position)
            self._hold = list(self._target(item))
        self._waited_s = 0.0
        self._guidance.limits = Limits.of(self.params)
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
            self._tripped.discard("offboard")
            self._trip("offboard", "Offboard signal lost",
                       {3: Mode.RETURN, 4: Mode.LAND, 5: Mode.HOLD}.get(
                           self.params["COM_OBL_RC_ACT"], Mode.POSITION))
            self._sinks = self.mode is Mode.POSITION    # the default, and nobody at the sticks
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
