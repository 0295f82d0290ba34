"""Flies a certified plan: checks, uploads, starts, watches until the motors are off."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import AutopilotError, LinkError, RefusedError
from parallel_city_ros.flight import checks
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.mission import (
    FIRST_WAYPOINT,
    autopilot_parameters,
    patrol_mission,
    return_parameters,
)
from parallel_city_ros.flight.outcome import (
    FlightOutcome,
    FlightProgress,
    FlightStatus,
    distance,
    patrol_distance,
)
from parallel_city_ros.flight.state import (
    AIRBORNE,
    HOLD,
    LAND,
    MISSION,
    RETURN,
    FlightEvent,
    FlightState,
    Reaction,
    Seen,
    after,
    allows,
    reaction,
)
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.patrol.plan import PatrolPlan

logger = logging.getLogger(__name__)

POLL_S = 0.02           # wall, between two looks at the telemetry
REFUSED_S = 1.0         # wall, from a refusal to the next attempt
AWAY_M = 10.0           # from home or goal: a landing there is none of those that were meant
MOVED_M = 2.0           # less than that within progress_timeout_s is standing still
STOPPING_S = 3.0        # vehicle, by which a drone may have gone on before it turns back
SPARE_M = 1.0           # of the fence, for a home that is set beside the place checked


class _Refused(Exception):
    """The flight must not begin; nothing that makes the drone fly was sent."""


class _Cancelled(Exception):
    """The caller wants no flight any more, and none has begun."""


class PatrolFlight:
    """One flight of one plan with a connected autopilot.

    The mission with its landing is on board before the drone takes off, so that it ends
    by itself whatever happens to this process.

    Parameters
    ----------
    plan : PatrolPlan
        Refused if it was made on another base map.
    grid : VoxelGrid
        The newest twin; the plan is certified again on it.
    autopilot : Autopilot
        Connected. It is not closed.
    explain :
        Asked when the drone returns or lands unasked: why, or "" if it is not known.
    """

    def __init__(self, plan: PatrolPlan, grid: VoxelGrid, autopilot: Autopilot,
                 config: FlightConfig, explain: Callable[[], str] = lambda: ""):
        self._explain = explain
        self._plan, self._grid, self._autopilot, self._config = plan, grid, autopilot, config
        self._path = np.asarray(plan.path, float)
        self._home: np.ndarray | None = None    # (3,) ENU metres, on the twin's ground
        self._requests: set[str] = set()
        self._left = threading.Event()
        self._other_map = ""        # why the map that the plan was made on is none any more
        self._newest_grid: VoxelGrid | None = None  # to be looked at
        self._lock = threading.Lock()
        self._state = FlightState.DISCONNECTED
        self._status = FlightStatus.COMPLETED   # unless something else comes up
        self._reason = ""
        self._blocked = ""                      # what stands on the rest of the route
        self._remark = ""                       # for the end of the outcome's message
        self._on_board: dict[str, float] = {}   # parameters that were set and read back
        self._before: dict[str, int | float] = {}   # what they were, to be restored
        self._flown: list[np.ndarray] = []      # (n, 4) pieces
        self._length = 0.0
        self._last_report = -math.inf
        self._battery_before = math.nan         # percent

    @property
    def state(self) -> FlightState:
        return self._state

    @property
    def flown(self) -> np.ndarray:
        """(N, 4) vehicle time in s and ENU metres, so far. From any thread."""
        return np.concatenate([np.empty((0, 4)), *self._flown])

    # requests from other threads, served within POLL_S

    def pause(self) -> None:
        self._request("pause")

    def resume(self) -> None:
        self._request("resume")

    def return_home(self) -> None:
        self._request("return")

    def land(self) -> None:
        """Land at once, where it is."""
        self._request("land")

    def leave(self) -> None:
        """End `run` at once, as FAILED, and leave the drone to its autopilot."""
        self._left.set()

    def _request(self, name: str) -> None:
        with self._lock:
            self._requests.add(name)

    def update_map(self, grid: VoxelGrid) -> None:
        """The newest twin. In flight the rest of the route, its landing and the way home are
        looked at again: a route that is built over is left as blocked_action says, a return
        altitude that has become too low is raised."""
        if grid.map_hash != self._plan.map_hash:
            self._other_map = (f"the map was replaced by another one ({grid.map_hash[:12]}…); "
                               "plan again on that")
            logger.error("map update %d ignored: it is of another map (%.12s…) than the plan "
                         "(%.12s…)", grid.map_update, grid.map_hash, self._plan.map_hash)
            return
        with self._lock:
            self._newest_grid = grid

    def _take_map(self) -> bool:
        """Whether there is another map than before; from now on it counts."""
        with self._lock:
            grid, self._newest_grid = self._newest_grid, None
        if grid is None:
            return False
        self._grid = grid
        return True

    # the flight

    def run(self, on_progress: Callable[[FlightProgress], None] | None = None,
            cancelled: Callable[[], bool] | None = None) -> FlightOutcome:
        """Fly, once, and block until the drone stands on the ground or is given up.

        cancelled : asked all the time; True before take-off ends it, later brings it home.
        An exception of a callback brings the drone home too, and is raised then.
        """
        self._on_progress = on_progress or (lambda _: None)
        self._cancelled = cancelled or (lambda: False)
        self._autopilot.take_track()
        try:
            if not self._prepare():
                self._start()
            self._supervise()
        except _Refused as refusal:
            self._end(FlightStatus.REFUSED, str(refusal))
        except _Cancelled:
            self._end(FlightStatus.CANCELLED, "cancelled before take-off")
        except AutopilotError as error:
            self._leave_no_hold()
            self._end(FlightStatus.FAILED, f"{error}{self._whereabouts()}")
        except BaseException:
            self._abandon()
            raise
        self._restore()
        return self._outcome()

    def _leave_no_hold(self) -> None:
        """A drone that is given up in the air must not wait there for nobody."""
        t = self._autopilot.snapshot
        if self._state in AIRBORNE and t.in_air and t.flight_mode == HOLD \
                and not self._left.is_set():
            self._command(self._autopilot.land if self._state is FlightState.LANDING
                          else self._autopilot.return_to_launch)

    def _restore(self) -> None:
        """Give the drone its own parameters back, once it stands with motors off.

        Those of a drone that may still fly are left: they bring it home.
        """
        t = self._autopilot.snapshot
        if not self._before or t.armed or t.landed_state != "ON_GROUND" \
                or t.link_age_s > self._config.link_timeout_s:
            return
        for name, value in reversed(self._before.items()):
            try:
                self._autopilot.set_parameter(name, value, self._config.parameter_timeout_s)
            except AutopilotError as error:
                self._remark = "; ".join(filter(None, (self._remark, (
                    f"not all parameters are what they were before: {error}"))))
                logger.warning("%s", self._remark)
                return

    def _prepare(self) -> bool:
        """Everything that can be refused while the drone stands still.

        Returns
        -------
        Whether the drone flies this plan already: an earlier executor of it has gone.
        """
        config = self._config
        self._take_map()
        self._refuse(checks.why_not_this_map(self._plan, self._grid)
                     or checks.why_not_so_loosely(self._plan, config))
        self._wait_for_health()
        telemetry = self._autopilot.snapshot
        self._battery_before = telemetry.battery_percent
        if telemetry.armed or telemetry.in_air:
            self._find(telemetry)
            return True
        if telemetry.battery_percent < config.min_battery_percent:
            raise _Refused(f"the battery holds {telemetry.battery_percent:.0f} %, take-off needs "
                           f"{config.min_battery_percent:.0f} %; charge or change it")
        # Where it stands becomes home when it arms; what it calls home now may be far away.
        home = self._home = self._place(telemetry.latitude_deg, telemetry.longitude_deg)
        self._home_altitude = telemetry.absolute_altitude_m
        self._refuse(checks.why_not_from_home(self._plan, self._grid, home, config))
        altitude = checks.return_altitude(self._plan, self._grid, home, config)
        parameters = autopilot_parameters(self._path, home, altitude, config)
        # PX4 judges the mission by the old home: the fence is drawn in after arming.
        old = return_parameters(self._path, self._place(*telemetry.home[:2]), altitude, config)
        parameters["GF_MAX_HOR_DIST"] = SPARE_M + max(
            p["GF_MAX_HOR_DIST"] for p in (parameters, old))
        for name, value in parameters.items():
            self._check_cancelled()
            self._before[name] = self._autopilot.set_parameter(name, value)
            self._on_board[name] = value
        self._autopilot.clear_rally_points()    # PX4 would return to one that is nearer than home
        self._autopilot.upload_mission(
            patrol_mission(self._path, home, self._plan.frame, config,
                           checks.ground_at(self._grid, self._path[-1])), config.upload_timeout_s)
        if self._autopilot.snapshot.mission_current > 0:    # of an earlier flight
            self._insist("first mission item", lambda: self._autopilot.set_current(0),
                         lambda t: t.mission_current == 0)
        self._happened(FlightEvent.PREPARED)
        return False

    def _find(self, t: Telemetry) -> None:
        """Take over a drone that flies this plan, as its mission on board shows.

        What its parameters were before that flight is not known any more.
        """
        armed = "the drone is armed already, somebody flies it; land and disarm first"
        if not t.in_air or t.flight_mode not in (MISSION, HOLD, RETURN, LAND):
            raise _Refused(armed)
        self._home = self._place(*t.home[:2])
        mine = patrol_mission(self._path, self._home, self._plan.frame, self._config,
                              checks.ground_at(self._grid, self._path[-1]))
        stored = self._autopilot.download_mission(self._config.upload_timeout_s)
        # Where it took off was not exactly the home that it set then.
        if len(mine) != len(stored) or not all(
                a.same_as(b) for a, b in zip(mine[1:-1], stored[1:-1], strict=True)):
            raise _Refused(f"{armed} (its mission is not that of this plan)")
        for name in ("RTL_RETURN_ALT", "GF_MAX_VER_DIST", "GF_MAX_HOR_DIST"):
            self._on_board[name] = self._autopilot.get_parameter(name, float)
        self._armed_at = t.vehicle_time_s
        self._remark = "found in flight and taken over; its parameters are not given back"
        logger.warning("the drone flies this plan already: taken over in %s mode", t.flight_mode)
        self._happened(FlightEvent.FOUND)

    @staticmethod
    def _refuse(reason: str) -> None:
        if reason:
            raise _Refused(reason)

    def _start(self) -> None:
        """Arm, start the mission, and see both in the telemetry."""
        # Again, told anew: parameters change what arming needs.
        self._wait_for_health(time.monotonic())
        self._refuse(self._other_map)
        if self._take_map():
            self._refuse(checks.why_not_this_map(self._plan, self._grid) or
                         checks.why_not_from_home(self._plan, self._grid, self._home,
                                                  self._config))
        self._happened(FlightEvent.ARM)
        self._armed_at = self._autopilot.snapshot.vehicle_time_s
        armed = [math.inf]      # wall, when that was acknowledged

        def arm():
            armed[0] = time.monotonic()     # should the answer be lost
            self._autopilot.arm()
            armed[0] = time.monotonic()

        try:
            self._insist("arming", arm, lambda t: t.armed)
            self._settle_home(armed[0])
            changed = self._other_map or self._take_map() and checks.why_not_this_map(
                self._plan, self._grid)
            if changed:
                raise RefusedError(f"disarmed again: {changed}")
            self._insist("mission mode", self._autopilot.start_mission,
                         lambda t: t.flight_mode == MISSION)
        except AutopilotError:
            self._stand_down()
            raise
        self._happened(FlightEvent.STARTED)

    def _settle_home(self, armed_wall_s: float) -> None:
        """Home as the autopilot set it when it armed: what was checked must hold from there."""
        config = self._config

        def shift(t):
            level = self._place(*t.home[:2]) - self._home
            return math.hypot(*level[:2]), t.home[2] - self._home_altitude

        def told(t):
            return t.home_wall_s > armed_wall_s

        def complaint():
            t = self._autopilot.snapshot
            if not told(t):
                return (f"it has not told its home within {config.mode_timeout_s:g} s of arming; "
                        "not started, look at the link")
            away, up = shift(t)
            return (f"armed, it set home {away:.1f} m away from and {up:+.1f} m above the place "
                    f"that was checked, more than max_home_shift ({config.max_home_shift:g} m); "
                    "disarmed, wait for a steady position and try again")

        self._wait(lambda t: told(t) and max(map(abs, shift(t))) <= config.max_home_shift,
                   config.mode_timeout_s, complaint)
        self._home = self._place(*self._autopilot.snapshot.home[:2])
        refusal = checks.why_not_from_home(self._plan, self._grid, self._home, config)
        if refusal:
            raise RefusedError(f"from the home that it set when it armed: {refusal}")
        altitude = checks.return_altitude(self._plan, self._grid, self._home, config)
        for name, value in return_parameters(self._path, self._home, altitude, config).items():
            if not 0 <= self._on_board[name] - value <= 2 * SPARE_M:
                self._set_in_flight(name, value)

    def _set_in_flight(self, name: str, value: float) -> None:
        self._autopilot.set_parameter(name, value, self._config.parameter_timeout_s)
        self._on_board[name] = value

    def _stand_down(self) -> None:
        """After a start that failed: motors off, or home if it flies although it does not say."""
        try:
            self._autopilot.disarm()
        except AutopilotError:
            self._command(self._autopilot.return_to_launch)

    def _supervise(self) -> None:
        """Until the motors are off: state from telemetry, breaches, requests."""
        config = self._config
        self._moved = (self._armed_at, None)
        self._turned_back_at = math.nan
        self._asked_at = -math.inf      # wall, of the newest correction of a mode
        self._look_again_at = math.inf  # wall, at a map whose return altitude was not set
        while self._state in AIRBORNE:
            telemetry = self._observe()
            if telemetry.link_age_s > config.link_wait_s:
                raise LinkError(f"the link has been lost for {config.link_wait_s:g} s; the "
                                f"autopilot is set to {config.link_loss_action} by itself")
            if telemetry.link_age_s < config.link_timeout_s:
                self._follow(telemetry)
            if self._state in AIRBORNE:
                self._watch(telemetry)
                self._serve(telemetry)
            if self._state in AIRBORNE and telemetry.link_age_s < config.link_timeout_s:
                self._heed_map(telemetry)
            time.sleep(POLL_S)

    def _follow(self, t: Telemetry) -> None:
        """What the drone is seen to do."""
        what = reaction(self._state, Seen(
            mode=t.flight_mode, armed=t.armed, on_ground=t.landed_state == "ON_GROUND",
            climbed=t.mission_current > 0,
            past_route=t.mission_current >= FIRST_WAYPOINT + len(self._path)))
        if what is Reaction.DOWN:
            places = {FlightStatus.COMPLETED: self._path[-1], FlightStatus.RETURNED: self._home,
                      FlightStatus.CANCELLED: self._home}
            place = places.get(self._status)
            if self._state is not FlightState.LANDING and self._status is FlightStatus.COMPLETED:
                self._status = FlightStatus.LANDED_EARLY
                self._reason = f"it landed before the end{t.last_words}"
            elif place is not None:
                away = np.hypot(*(self._position(t) - place)[:2])
                if not away <= AWAY_M:
                    self._status = FlightStatus.LANDED_EARLY
                    self._reason = "; ".join(filter(None, (self._reason, (
                        f"it came down {away:.0f} m from where it was to land{t.last_words}"))))
            self._happened(FlightEvent.DISARMED)
        elif what in (Reaction.RETURN_AGAIN, Reaction.LAND_AGAIN):
            # The link was down when it was told, or it was told too early.
            if time.monotonic() - self._asked_at > self._config.mode_timeout_s:
                self._asked_at = time.monotonic()
                self._command(self._autopilot.return_to_launch if what is Reaction.RETURN_AGAIN
                              else self._autopilot.land)
        elif what is Reaction.RETURNS_BY_ITSELF:
            self._turn_back(FlightStatus.RETURNED, self._explain() or
                            f"the autopilot returns by itself{t.last_words}", by_itself=True)
        elif what is Reaction.OUT_OF_HAND:
            self._conclude(FlightStatus.LANDED_EARLY, self._explain() or (
                f"the drone changed to {t.flight_mode.lower()} mode by itself or by a pilot"
                f"{t.last_words}"))
            self._turned_back_at = t.vehicle_time_s
            self._happened(FlightEvent.LANDING)
        elif what is not Reaction.NOTHING:
            self._happened(what.value)

    def _watch(self, t: Telemetry) -> None:
        """Breaches, each of which brings it home; from there on, only a deadline."""
        config, now = self._config, t.vehicle_time_s
        if math.isfinite(self._turned_back_at) and \
                now - self._turned_back_at > config.return_timeout_s:
            raise RefusedError(f"it has not landed {config.return_timeout_s:g} s after it turned "
                               "back; a pilot must take over")
        here = np.array(self._position(t))
        if self._moved[1] is None or self._state is FlightState.PAUSED \
                or np.linalg.norm(here - self._moved[1]) > MOVED_M:
            self._moved = (now, here)
        stuck = now - self._moved[0] > config.progress_timeout_s
        if self._state is FlightState.LANDING:
            if not math.isfinite(self._turned_back_at):
                self._turned_back_at = now      # the regular landing has that deadline too
            return
        if self._state is FlightState.RETURNING:
            if stuck:
                self._touch_down("it does not move on its way home")
            return
        breach = ""
        if t.link_age_s > config.link_timeout_s:
            breach = f"no telemetry for {t.link_age_s:.0f} s"
        elif t.battery_percent < config.reserve_battery_percent:
            breach = (f"the battery is at {t.battery_percent:.0f} %, below the reserve of "
                      f"{config.reserve_battery_percent:.0f} %")
        elif now - self._armed_at > config.max_flight_s:
            breach = f"the flight takes longer than {config.max_flight_s:g} s"
        elif self._state is FlightState.TAKING_OFF and \
                now - self._armed_at > config.takeoff_timeout_s:
            breach = f"take-off takes longer than {config.takeoff_timeout_s:g} s"
        elif stuck:
            breach = f"it has not moved for {config.progress_timeout_s:g} s"
        if breach:
            self._turn_back(FlightStatus.RETURNED, breach)

    def _serve(self, t: Telemetry) -> None:
        """What the caller asks for; the safest request first."""
        with self._lock:
            asked, self._requests = self._requests, set()
        if "land" in asked and self._state is not FlightState.LANDING:
            self._touch_down("landing was asked for")
        elif self._state in (FlightState.RETURNING, FlightState.LANDING):
            return
        elif self._cancelled():
            self._turn_back(FlightStatus.CANCELLED, "cancelled")
        elif "return" in asked:
            self._turn_back(FlightStatus.RETURNED, "return was asked for")
        elif "pause" in asked and allows(self._state, FlightEvent.PAUSED):
            self._change("hold mode", self._autopilot.hold, HOLD, FlightEvent.PAUSED)
        elif "resume" in asked and allows(self._state, FlightEvent.RESUMED):
            if self._blocked:
                logger.warning("not resumed: %s; return or land it", self._blocked)
                return
            self._change("mission mode", self._autopilot.start_mission, MISSION,
                         FlightEvent.RESUMED)

    # a new map in flight

    def _heed_map(self, t: Telemetry) -> None:
        """Whether the rest of the route and the way home hold on the newest map."""
        new = self._take_map()
        if not new and time.monotonic() < self._look_again_at:
            return
        self._look_again_at, self._blocked = math.inf, ""
        if self._state is FlightState.RETURNING:
            self._go_on_home(t)
            return
        rest = self._path[-1:] if self._state is FlightState.LANDING else self._rest_of_path(t)
        reason = checks.why_not_the_rest(self._plan, self._grid, rest)
        if self._state is FlightState.LANDING:
            if reason and self._status is FlightStatus.COMPLETED:   # too late to turn back
                logger.error("map update %d: %s", self._grid.map_update, reason)
        elif reason:
            self._leave_route(f"map update {self._grid.map_update}: {reason}")
        else:
            # If that fails it goes on, for the way ahead is clear; every return is looked at
            # again before it is asked for.
            error = self._raise_return(np.vstack([self._position(t), rest])) or self._home_closed()
            if error:
                logger.error("map update %d: the rest of the route is clear, but %s",
                             self._grid.map_update, error)
            elif new:
                logger.info("map update %d: the rest of the route is clear",
                            self._grid.map_update)

    def _rest_of_path(self, t: Telemetry) -> np.ndarray:
        """(N, 3) from the foot of the drone on the leg that it flies to the goal."""
        route = np.vstack([(*self._home[:2], self._path[0, 2]), self._path])
        k = min(max(t.mission_current - FIRST_WAYPOINT, 0), len(self._path))
        if k == len(self._path):
            return route[-1:]       # only the landing is left
        start, leg = route[k], route[k + 1] - route[k]
        share = (self._position(t) - start) @ leg / max(leg @ leg, 1e-9)
        return np.vstack([start + min(max(share, 0.0), 1.0) * leg, route[k + 1:]])

    def _leave_route(self, reason: str) -> None:
        """The rest of the route is built over."""
        self._blocked = reason
        t, action = self._autopilot.snapshot, self._config.blocked_action
        logger.error("%s: %s", reason, action)
        if action == "land":
            self._touch_down(reason)
            return
        if self._state is not FlightState.PAUSED:
            if action == "pause" and allows(self._state, FlightEvent.PAUSED):
                self._change("hold mode", self._autopilot.hold, HOLD, FlightEvent.PAUSED)
            else:
                self._command(self._autopilot.hold)     # parameters may take seconds
        if action == "return":
            self._turn_back(FlightStatus.RETURNED, reason)
        elif self._state is FlightState.PAUSED:     # for whatever brings it home later
            error = self._raise_return(self._position(t)[None])
            if error:
                logger.error("%s; will be tried again", error)

    def _go_on_home(self, t: Telemetry) -> None:
        """Returning, and the map has changed, or the autopilot began it by itself."""
        before = self._on_board["RTL_RETURN_ALT"]
        error = self._why_no_way_home(t)
        if error:
            self._look_again_at = time.monotonic() + self._config.mode_timeout_s
            self._touch_down(error)
        elif self._on_board["RTL_RETURN_ALT"] > before:     # PX4 reads it when a return begins
            self._command(self._autopilot.hold)
            try:
                self._wait(lambda t: t.flight_mode == HOLD, self._config.mode_timeout_s,
                           lambda: "the return could not be begun again at its new altitude")
            except RefusedError as refusal:
                logger.error("%s", refusal)
            self._asked_at = time.monotonic()
            self._command(self._autopilot.return_to_launch)

    def _home_closed(self) -> str:
        return checks.why_not_down(self._plan, self._grid, self._home, "home")

    def _why_no_way_home(self, t: Telemetry) -> str:
        """Why the drone must not return from where it is on the newest map; "" if it may. A
        return altitude that is too low is raised."""
        closed = self._home_closed()
        if closed:
            return closed
        here = self._position(t)
        stop = here + np.array(t.velocity) * STOPPING_S
        places = np.vstack([here, np.where(np.isfinite(stop), stop, here)])
        return self._raise_return(places) and self._raise_return(here[None])

    def _raise_return(self, places: np.ndarray) -> str:
        """Raise the return altitude if a way home from the places needs it.

        Returns
        -------
        "", or why it is too low. It is said at the end of the flight too and, in the air,
        tried again.
        """
        self._remark = ""
        altitude = checks.return_altitude(self._plan, self._grid, self._home, self._config, places)
        wanted = return_parameters(places, self._home, altitude, self._config)
        low = self._on_board["RTL_RETURN_ALT"]
        if wanted["RTL_RETURN_ALT"] <= low:
            return ""
        try:
            for name in ("GF_MAX_VER_DIST", "RTL_RETURN_ALT"):
                if wanted[name] > self._on_board[name]:
                    self._set_in_flight(name, wanted[name])
        except AutopilotError as error:
            self._remark = (f"the way home needs a return altitude of {altitude:.0f} m since map "
                            f"update {self._grid.map_update}, set is {low:.0f} m ({error})")
            self._look_again_at = time.monotonic() + self._config.mode_timeout_s
            return self._remark
        logger.info("return altitude raised from %.0f to %.0f m", low, altitude)
        return ""

    # changes of what the drone does

    def _change(self, name: str, send, mode: str, event: FlightEvent) -> None:
        """A pause or resume. If the drone will not, it comes home."""
        try:
            self._insist(name, send, lambda t: t.flight_mode == mode)
        except AutopilotError as error:
            self._turn_back(FlightStatus.RETURNED, str(error))
        else:
            self._happened(event)

    def _turn_back(self, status: FlightStatus, reason: str, *, by_itself: bool = False) -> None:
        """Return home, and land there; or here, if the way home is built over.

        by_itself : the autopilot has begun it
        """
        self._conclude(status, reason)
        if by_itself:
            self._head_home(send=False)
            self._go_on_home(self._autopilot.snapshot)
            return
        t = self._autopilot.snapshot
        if t.flight_mode == LAND and t.link_age_s < self._config.link_timeout_s:
            # A failsafe lands it already: that is not taken back.
            self._conclude(FlightStatus.LANDED_EARLY, f"the autopilot lands it{t.last_words}")
            self._turned_back_at = t.vehicle_time_s
            self._happened(FlightEvent.LANDING)
            return
        # A link that is lost cannot be waited for; the autopilot returns by itself then.
        error = t.link_age_s < self._config.link_timeout_s and self._why_no_way_home(t)
        if error:
            self._touch_down(error)
        else:
            self._head_home()

    def _head_home(self, *, send: bool = True) -> None:
        """What cannot be sent now is sent again later."""
        self._turned_back_at = self._autopilot.snapshot.vehicle_time_s
        self._happened(FlightEvent.RETURNING)
        self._asked_at = time.monotonic()
        if send:
            self._command(self._autopilot.return_to_launch)

    def _touch_down(self, reason: str) -> None:
        """Land here and now."""
        self._conclude(FlightStatus.LANDED_EARLY, reason)
        self._turned_back_at = self._autopilot.snapshot.vehicle_time_s
        try:
            self._insist("landing", self._autopilot.land, lambda t: t.flight_mode == LAND)
        except AutopilotError as error:
            logger.error("%s; asking it to return", error)
            if self._state is not FlightState.RETURNING:
                self._status, self._reason = FlightStatus.RETURNED, f"{self._reason}, but {error}"
                self._head_home()
            return
        self._happened(FlightEvent.LANDING)

    def _command(self, send) -> None:
        """Send without waiting for the effect, which `_follow` watches."""
        try:
            send()
        except AutopilotError as error:
            logger.warning("%s; will be tried again", error)

    def _insist(self, name: str, send, reached: Callable[[Telemetry], bool]) -> None:
        """Send until telemetry shows the effect: PX4 acknowledges what it then does not do.

        Raises
        ------
        RefusedError, LinkError
            After the last of the retries; with the autopilot's own words.
        """
        refusal: AutopilotError | None = None
        for attempt in range(self._config.retries + 1):
            if attempt:
                logger.warning("%s: attempt %d", name, attempt + 1)
            try:
                send()
                refusal = None
            except AutopilotError as error:
                refusal = error
            # Acknowledged may take until the next heartbeat; what refused may pass.
            wait = self._config.mode_timeout_s if refusal is None else REFUSED_S
            try:
                self._wait(reached, wait, lambda: "")
                return
            except RefusedError:
                continue
        raise refusal or RefusedError(
            f"{name} was acknowledged {self._config.retries + 1} times, but telemetry does not "
            f"show it{self._autopilot.snapshot.last_words}; look at the autopilot's messages")

    # looking

    def _wait(self, reached: Callable[[Telemetry], bool], timeout_s: float,
              complaint: Callable[[], str]) -> None:
        """Observe until reached; RefusedError with the complaint after so many wall seconds."""
        deadline = time.monotonic() + timeout_s
        while not reached(self._observe()):
            if self._state in (FlightState.DISCONNECTED, FlightState.READY):
                self._check_cancelled()
            if time.monotonic() > deadline:
                raise RefusedError(complaint())
            time.sleep(POLL_S)

    def _wait_for_health(self, told_after_s: float = -math.inf) -> None:
        """told_after_s : time.monotonic(); an older health does not count"""
        def good(t):
            flying = t.armed and t.in_air   # what arming needs does not matter any more
            return (flying or t.healthy and t.health_wall_s > told_after_s) and not self._lacks(t)

        self._wait(good, self._config.health_timeout_s, self._why_unhealthy)

    def _lacks(self, t: Telemetry) -> list[str]:
        """What has not been told, or is old."""
        oldest = self._config.link_timeout_s
        known = {
            "home position": t.home and time.monotonic() - t.home_wall_s < oldest,
            "position": not math.isnan(t.latitude_deg + t.absolute_altitude_m),
            "battery state": not math.isnan(t.battery_percent),
            "telemetry": t.link_age_s < oldest}
        return [name for name, good in known.items() if not good]

    def _why_unhealthy(self) -> str:
        t = self._autopilot.snapshot
        lacks = dict.fromkeys((*t.failing, *self._lacks(t)))
        return (f"not ready to fly after {self._config.health_timeout_s:g} s: "
                f"{', '.join(lacks)}{t.last_words}; see to it, or wait and try again")

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise _Cancelled

    def _observe(self) -> Telemetry:
        """Take what has arrived, add it to the track, report progress when it is time."""
        if self._left.is_set():
            raise LinkError("let go of the drone, which goes on by itself")
        telemetry = self._autopilot.snapshot
        track = self._autopilot.take_track()
        if self._state in AIRBORNE and len(track):
            enu = self._plan.frame.to_enu(track[:, 1], track[:, 2])
            enu[:, 2] = track[:, 3] + self._home[2]
            before = self._flown[-1][-1:, 1:] if self._flown else enu[:1]
            self._length += distance(np.vstack([before, enu]))
            self._flown.append(np.column_stack([track[:, 0], enu]))
        if time.monotonic() - self._last_report >= self._config.progress_period_s:
            self._report(telemetry)
        return telemetry

    def _position(self, t: Telemetry) -> np.ndarray:
        """(3,) ENU metres; NaN before the first position."""
        if math.isnan(t.latitude_deg):
            return np.full(3, math.nan)
        place = self._place(t.latitude_deg, t.longitude_deg)
        standing = t.landed_state == "ON_GROUND" and not t.armed
        if self._home is not None and not standing:     # heights are told above home
            place[2] = self._home[2]
        return place + (0.0, 0.0, t.height_m)

    def _place(self, latitude_deg: float, longitude_deg: float) -> np.ndarray:
        """(3,) ENU metres on the twin's ground."""
        place = self._plan.frame.to_enu(latitude_deg, longitude_deg)
        place[2] = checks.ground_at(self._grid, place)
        return place

    def _report(self, t: Telemetry) -> None:
        self._last_report = time.monotonic()
        last = len(self._path) - 1
        self._on_progress(FlightProgress(
            state=self._state, waypoint=min(max(t.mission_current - FIRST_WAYPOINT, 0), last),
            waypoints=last + 1, distance_m=self._length, battery_percent=t.battery_percent,
            position=self._position(t), vehicle_time_s=t.vehicle_time_s))

    def _happened(self, event: FlightEvent) -> None:
        self._state = after(self._state, event)
        logger.info("%s%s", self._state.value, f": {self._reason}" if self._reason else "")
        self._report(self._autopilot.snapshot)

    # the end

    def _conclude(self, status: FlightStatus, reason: str) -> None:
        """The first cause is what counts, a landing asked for on the way home what happens."""
        if self._status is FlightStatus.COMPLETED:
            self._status, self._reason = status, reason
        elif status is FlightStatus.LANDED_EARLY:
            self._status, self._reason = status, f"{self._reason}; {reason}"

    def _end(self, status: FlightStatus, message: str) -> None:
        self._status, self._reason = status, message
        if self._state not in (FlightState.LANDED, FlightState.FAILED):
            self._happened(FlightEvent.FAILED)

    def _whereabouts(self) -> str:
        """For the message of a flight that was given up in the air."""
        t = self._autopilot.snapshot
        if self._state not in AIRBORNE and not t.in_air:
            return ""
        e, n, u = self._position(t)
        return (f"; last seen {t.link_age_s:.0f} s ago at ({e:.0f}, {n:.0f}, {u:.0f}) m in "
                f"{t.flight_mode.lower() or 'unknown'} mode")

    def _abandon(self) -> None:
        """Something unforeseen: the drone comes home if it flies, and is not waited for."""
        if self._state in AIRBORNE or self._state is FlightState.ARMING:
            logger.exception("the flight is abandoned; the drone is told to return")
            self._command(self._autopilot.return_to_launch)
        self._state = FlightState.FAILED

    def _outcome(self) -> FlightOutcome:
        flown, config = self.flown, self._config
        message = self._reason or "the patrol was flown to its end"
        if self._remark and self._remark not in message:
            message += f"; {self._remark}"
        used = self._battery_before - self._autopilot.snapshot.battery_percent
        return FlightOutcome(
            status=self._status, message=message,
            flown=flown, distance_m=self._length,
            patrol_distance_m=patrol_distance(flown, self._path),
            duration_s=float(flown[-1, 0] - flown[0, 0]) if len(flown) else 0.0,
            energy_wh=used / 100 * config.battery_wh if config.battery_wh else math.nan)
