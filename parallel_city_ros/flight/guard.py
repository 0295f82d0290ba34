"""A second pair of eyes: watches a flight beside the executor and needs nothing from it.

`Guard` judges, without input, output or clock of its own. `GuardWatch` looks at a drone's
telemetry in a thread of its own and acts: it goes on when the executor hangs or has failed.
The autopilot's own failsafes stand behind both.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import AutopilotError
from parallel_city_ros.flight import checks
from parallel_city_ros.flight.config import GUARD_ACTIONS, FlightConfig
from parallel_city_ros.flight.guidance import stopping_distance
from parallel_city_ros.flight.state import HOLD, LAND, MISSION, RETURN
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.patrol.plan import PatrolPlan

logger = logging.getLogger(__name__)

# PX4's defaults: MPC_Z_V_AUTO_UP, MPC_Z_V_AUTO_DN, and MPC_LAND_SPEED for the last metres.
CLIMB, DESCENT, LAND_SPEED, LAND_SLOWLY_M = 3.0, 1.5, 0.7, 8.0
SLOWEST = 1.0           # m/s over ground that a drone is believed to make against the wind
MEASURED_PERCENT = 3.0  # used since take-off, from where on consumption is believed
FASTEST = 25.0          # m/s; what moves farther between two positions has jumped
_SHOWN = {"pause": HOLD, "return": RETURN, "land": LAND}    # the mode that a command leads to
AUTOMATIC = (MISSION, HOLD, RETURN, LAND, "TAKEOFF")     # other modes are a pilot's


@dataclass(frozen=True)
class Breach:
    """What is not as it should be.

    kind : deviation, clearance, fence, battery, link, estimator, jump or time
    action : one of GUARD_ACTIONS
    """

    kind: str
    action: str
    value: float
    limit: float
    message: str


class Guard:
    """Judges one flight of one plan by what telemetry shows.

    home : (3,) ENU metres where it takes off; None: where telemetry says that home is
    """

    def __init__(self, plan: PatrolPlan, grid: VoxelGrid, config: FlightConfig, home=None):
        self._plan, self._grid, self._config = plan, grid, config
        self._path = np.asarray(plan.path, float)
        self._home = None if home is None else np.asarray(home, float)
        self._told_home = None
        self._fence: tuple | None = None        # see _limits
        self._bad_since = math.nan              # wall, of the estimator
        self._before: tuple | None = None       # vehicle time and position
        self._airborne_at = math.nan            # vehicle time
        self._homeward = False                  # a return was seen, and no mission since
        self._charge_at_start = math.nan
        self._hover_rate = 100.0 / config.guard.endurance_of(plan.task.drone)  # percent per second

    def update_map(self, grid: VoxelGrid) -> None:
        """The newest twin; one of another city is ignored."""
        if grid.map_hash == self._plan.map_hash:
            self._grid = grid
            self._fence = None

    def update_route(self, plan: PatrolPlan, corridor: np.ndarray) -> None:
        """What is flown from now on. corridor : (N, 3) polyline to the goal, ENU metres"""
        self._plan, self._path, self._fence = plan, np.asarray(corridor, float), None

    def look(self, t: Telemetry) -> list[Breach]:
        """What is wrong now, the gravest first; nothing on the ground."""
        if not (t.armed and t.in_air):
            self._airborne_at, self._before, self._homeward = math.nan, None, False
            return []
        self._homeward = t.flight_mode == RETURN or self._homeward and t.flight_mode != MISSION
        if math.isnan(self._airborne_at):
            self._airborne_at, self._charge_at_start = t.vehicle_time_s, t.battery_percent
        self._learn_home(t)
        found = [self._link(t), self._time(t), *self._estimator(t)]
        here = self._position(t)
        if here is not None and self._home is not None and not any(
                b and b.kind in ("jump", "estimator") for b in found):
            found += [self._deviation(t, here), self._clearance(t, here), self._outside(t, here),
                      self._battery(t, here)]
        order = GUARD_ACTIONS.index
        return sorted((b for b in found if b), key=lambda b: -order(b.action))

    def _breach(self, kind, action, value, limit, message) -> Breach:
        return Breach(kind, getattr(self._config.guard, f"{action}_action"), float(value),
                      float(limit), message)

    def _learn_home(self, t: Telemetry) -> None:
        if t.home is not None and t.home != self._told_home:
            self._told_home = t.home
            self._home = self._on_ground(self._plan.frame.to_enu(*t.home[:2]))
            self._fence = None

    def _on_ground(self, place) -> np.ndarray:
        return np.array([place[0], place[1], checks.ground_at(self._grid, place)])

    def _position(self, t: Telemetry) -> np.ndarray | None:
        """(3,) ENU metres; heights are told above home."""
        if math.isnan(t.latitude_deg + t.height_m) or self._home is None:
            return None
        here = self._plan.frame.to_enu(t.latitude_deg, t.longitude_deg)
        return np.array([here[0], here[1], self._home[2] + t.height_m])

    # the watched quantities

    def _link(self, t):
        limit = self._config.link_timeout_s
        if t.link_age_s > limit:
            return self._breach("link", "link", t.link_age_s, limit,
                                f"no telemetry for {t.link_age_s:.1f} s")
        return None

    def _time(self, t):
        flown, limit = t.vehicle_time_s - self._airborne_at, self._config.max_flight_s
        if flown > limit:
            return self._breach("time", "time", flown, limit,
                                f"in the air for more than {limit:g} s")
        return None

    def _estimator(self, t):
        config, now = self._config.guard, time.monotonic()
        bad = [name for name in t.failing if name in ("local position", "global position")]
        if not bad:
            self._bad_since = math.nan
        elif math.isnan(self._bad_since):
            self._bad_since = now
        lasted = now - self._bad_since
        if lasted >= config.estimator_s:
            yield self._breach("estimator", "estimator", lasted, config.estimator_s,
                               f"no good {' and '.join(bad)} for {lasted:.1f} s")
        here = self._position(t)
        # After a gap in the link a place may be told before the time that it took to get there.
        if here is None or not math.isfinite(t.vehicle_time_s) or t.position_late:
            return
        if self._before is not None and not np.array_equal(here, self._before[1]):
            flown = math.dist(here, self._before[1])
            limit = config.jump_m + FASTEST * max(t.vehicle_time_s - self._before[0], 0.0)
            if flown > limit:
                yield self._breach("jump", "estimator", flown, limit,
                                   f"its position jumped by {flown:.0f} m")
        self._before = (t.vehicle_time_s, here)

    def _deviation(self, t, here):
        """On a mission or held: from the way up, over, along the plan, and down. PX4 holds on
        its way home, too, when another failsafe acts. Told to hold, it brakes straight on."""
        if t.flight_mode not in (MISSION, HOLD) or self._homeward:
            return None
        up = (*self._home[:2], self._path[0, 2])
        down = self._on_ground(self._path[-1])
        limit = self._plan.task.tube_radius + self._config.guard.deviation_m
        *level, rise = _offset(np.vstack([self._home, up, self._path, down]), here)
        level = math.hypot(*level)
        if t.flight_mode == HOLD:
            level = max(level - stopping_distance(self._config.cruise_speed), 0.0)
        gap = math.hypot(level, rise)
        if gap > limit:
            return self._breach("deviation", "deviation", gap, limit,
                                f"{gap:.1f} m beside its corridor, allowed are {limit:g} m")
        return None

    def _clearance(self, t, here):
        if t.flight_mode == LAND:       # nothing better is left
            return None
        task = self._plan.task
        roof = checks.roof_near(self._grid, shapely.Point(here[:2]), task.clearance_horizontal)
        above = here[2] - roof
        if above < task.clearance_vertical:
            return self._breach(
                "clearance", "clearance", above, task.clearance_vertical,
                f"{above:+.1f} m over what stands within {task.clearance_horizontal:g} m at "
                f"({here[0]:.0f}, {here[1]:.0f}) m; {task.clearance_vertical:g} m are due")
        return None

    def _outside(self, t, here):
        polygon, top, _ = self._limits()
        gap = float(shapely.distance(polygon, shapely.Point(here[:2])))
        if gap > 0 or here[2] > top:
            over = max(gap, here[2] - top)
            return self._breach("fence", "fence", over, 0.0,
                                f"{over:.1f} m outside the fence around its mission")
        return None

    def _limits(self):
        """(polygon, highest z, return altitude over home) of home and the newest map."""
        if self._fence is None:
            config = self._config
            hull = shapely.MultiPoint(np.vstack([self._path[:, :2], self._home[:2]])).convex_hull
            altitude = checks.return_altitude(self._plan, self._grid, self._home, config)
            top = max(self._path[:, 2].max(), self._home[2] + altitude) + config.fence_margin
            self._fence = shapely.buffer(hull, config.fence_margin), float(top), altitude
            shapely.prepare(self._fence[0])
        return self._fence

    def needed_percent(self, t: Telemetry, here: np.ndarray) -> float:
        """Battery percent to come home from a place and land, against the wind."""
        away = self._home[:2] - here[:2]
        distance = float(np.hypot(*away))
        wind = self._config.guard.wind_speed
        if t.wind is not None and distance > 1:
            wind = max(wind, -float(np.dot(t.wind, away)) / distance)
        speed = max(self._config.cruise_speed - wind, SLOWEST)
        height = here[2] - self._home[2]
        altitude = height if t.flight_mode == RETURN else max(height, self._limits()[2])
        seconds = (altitude - height) / CLIMB + distance / speed \
            + max(altitude - LAND_SLOWLY_M, 0.0) / DESCENT \
            + min(altitude, LAND_SLOWLY_M) / LAND_SPEED
        return seconds * self._rate(t)

    def _rate(self, t) -> float:
        """Percent per second: of a hover, or what was used so far if that is more."""
        used = self._charge_at_start - t.battery_percent
        flown = t.vehicle_time_s - self._airborne_at
        measured = used / flown if used >= MEASURED_PERCENT and flown > 0 else 0.0
        return max(self._hover_rate, measured)

    def _battery(self, t, here):
        config = self._config.guard
        if math.isnan(t.battery_percent):
            return None
        limit = config.battery_landing_percent \
            + config.battery_margin * self.needed_percent(t, here)
        if t.battery_percent < limit:
            return self._breach("battery", "battery", t.battery_percent, limit,
                                f"the battery is at {t.battery_percent:.0f} %, to come home it "
                                f"takes {limit:.0f} % with what is to be left")
        return None


def _offset(route: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(3,) metres from the nearest place on an (N, 3) polyline, in space, to a point."""
    a, leg = route[:-1], np.diff(route, axis=0)
    share = ((point - a) * leg).sum(1) / np.maximum((leg ** 2).sum(1), 1e-12)
    nearest = a + np.clip(share, 0, 1)[:, None] * leg
    return (point - nearest)[np.linalg.norm(point - nearest, axis=1).argmin()]


@dataclass(frozen=True)
class GuardEvent:
    """A breach that began or that was acted on.

    commanded : what was sent, "" if it was only told; latency_s : wall, from the look that found
    it to the moment it was sent
    """

    wall_s: float           # time.time()
    vehicle_time_s: float
    breach: Breach
    commanded: str = ""
    latency_s: float = math.nan


OWN_FAILSAFES = ("estimator", "battery", "link")    # that PX4 may see sooner


class GuardWatch:
    """A guard at work, for as long as a `with` block.

    autopilot : has `snapshot`, `hold()`, `return_to_launch()` and `land()`
    on_event : called from the guard's thread; must not block

    A pilot's mode is never interfered with, a landing never taken back, a return only made a
    landing. What the drone does not do is sent again after mode_timeout_s, and a return that
    is refused `retries` times becomes a landing.
    """

    def __init__(self, guard: Guard, autopilot, config: FlightConfig,
                 on_event: Callable[[GuardEvent], None] = lambda event: None):
        self._guard, self._autopilot, self._config = guard, autopilot, config
        self._on_event = on_event
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._active: set[str] = set()      # kinds of breaches that last
        self._paused: set[str] = set()      # of which it has held: who resumes then is let go
        self._sent = ("", -math.inf, 0)     # command, wall time, how often
        self.reason = ""                    # of the newest command, for who tells about the flight

    def __enter__(self) -> GuardWatch:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join(2.0)

    def update_map(self, grid: VoxelGrid) -> None:
        self._guard.update_map(grid)

    def update_route(self, plan: PatrolPlan, corridor: np.ndarray) -> None:
        self._guard.update_route(plan, corridor)

    def _watch(self) -> None:
        while not self._end.wait(self._config.guard.period_s):
            try:
                self.look_once()
            except Exception:       # a guard that is gone guards nothing
                logger.exception("the guard stumbled, and goes on")

    def look_once(self) -> None:
        found_at = time.monotonic()
        t = self._autopilot.snapshot
        breaches = self._guard.look(t)
        kinds = {b.kind for b in breaches}
        if t.flight_mode == HOLD:
            self._paused |= kinds | self._active
        else:
            self._paused &= kinds
        if t.flight_mode == _SHOWN.get(self._sent[0]):
            self._sent = ("", -math.inf, 0)     # done; what comes next is new, and not waited with
        for breach in breaches:
            if breach.kind not in self._active:
                logger.warning("guard: %s: %s", breach.message, breach.action)
                self._tell(t, breach)
        self._active = kinds
        # A finger on the stick counts more than any breach.
        if breaches and (t.flight_mode in AUTOMATIC or "link" in kinds):
            self._act(t, breaches[0], found_at)

    def _act(self, t: Telemetry, breach: Breach, found_at: float) -> None:
        action, mode = breach.action, t.flight_mode
        if action == "warn":
            return
        if mode == LAND or (mode == RETURN and action != "land"):
            if breach.kind in OWN_FAILSAFES:    # why it does so by itself
                self.reason = self.reason or breach.message
            return
        if action == "pause" and breach.kind in self._paused:
            return
        command, sent_at, times = self._sent
        if command == action:
            if found_at - sent_at < self._config.mode_timeout_s:
                return
            if action == "return" and times > self._config.retries and "link" not in self._active:
                action = "land"
        times = times + 1 if command == action else 1
        self._sent = (action, found_at, times)
        self.reason = breach.message
        # On a thread of its own: an acknowledgement that does not come must not blind the guard.
        threading.Thread(target=self._send, args=(t, breach, action, found_at),
                         daemon=True).start()

    def _send(self, t, breach, action, found_at) -> None:
        send = {"pause": self._autopilot.hold, "return": self._autopilot.return_to_launch,
                "land": self._autopilot.land}[action]
        self._tell(t, breach, action, time.monotonic() - found_at)
        try:
            send()
        except AutopilotError as error:
            logger.warning("guard: %s", error)

    def _tell(self, t, breach, commanded="", latency_s=math.nan) -> None:
        self._on_event(GuardEvent(time.time(), t.vehicle_time_s, breach, commanded, latency_s))
