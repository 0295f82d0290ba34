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
)
from parallel_city_ros.flight.outcome import (
    FlightOutcome,
    FlightProgress,
    FlightStatus,
    distance,
    patrol_distance,
)
from parallel_city_ros.flight.state import AIRBORNE, FlightEvent, FlightState, after, allows
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.patrol.plan import PatrolPlan

logger = logging.getLogger(__name__)

POLL_S = 0.02           # wall, between two looks at the telemetry
REFUSED_S = 1.0         # wall, from a refusal to the next attempt
MOVED_M = 2.0           # less than that within progress_timeout_s is standing still
MISSION, HOLD, RETURN, LAND = "MISSION", "HOLD", "RETURN_TO_LAUNCH", "LAND"     # MAVSDK's names
_EXPECTED_MODE = {FlightState.TAKING_OFF: MISSION, FlightState.ON_PATROL: MISSION,
                  FlightState.PAUSED: HOLD, FlightState.RETURNING: RETURN}


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
    """

    def __init__(self, plan: PatrolPlan, grid: VoxelGrid, autopilot: Autopilot,
                 config: FlightConfig):
        self._plan, self._grid, self._autopilot, self._config = plan, grid, autopilot, config
        self._path = np.asarray(plan.path, float)
        self._ground = float(grid.origin[2])
        self._requests: set[str] = set()
        self._lock = threading.Lock()
        self._state = FlightState.DISCONNECTED
        self._status = FlightStatus.COMPLETED   # unless something else comes up
        self._reason = ""
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

    def _request(self, name: str) -> None:
        with self._lock:
            self._requests.add(name)

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
            self._prepare()
            self._start()
            self._supervise()
        except _Refused as refusal:
            self._end(FlightStatus.REFUSED, str(refusal))
        except _Cancelled:
            self._end(FlightStatus.CANCELLED, "cancelled before take-off")
        except AutopilotError as error:
            self._end(FlightStatus.FAILED, f"{error}{self._whereabouts()}")
        except BaseException:
            self._abandon()
            raise
        return self._outcome()

    def _prepare(self) -> None:
        """Everything that can be refused while the drone stands still."""
        config = self._config
        refusal = checks.why_not_this_map(self._plan, self._grid)
        if refusal:
            raise _Refused(refusal)
        self._wait_for_health()
        telemetry = self._autopilot.snapshot
        self._battery_before = telemetry.battery_percent
        if telemetry.armed or telemetry.in_air:
            raise _Refused("the drone is armed already, somebody flies it; land and disarm first")
        if telemetry.battery_percent < config.min_battery_percent:
            raise _Refused(f"the battery holds {telemetry.battery_percent:.0f} %, take-off needs "
                           f"{config.min_battery_percent:.0f} %; charge or change it")
        home = self._plan.frame.to_enu(*telemetry.home[:2])
        home[2] = self._ground
        refusal = checks.why_not_from_home(self._plan, self._grid, home, config)
        if refusal:
            raise _Refused(refusal)
        altitude = checks.return_altitude(self._plan, self._grid, home, config)
        parameters = autopilot_parameters(self._path, home, altitude, config)
        for name, value in parameters.items():
            self._check_cancelled()
            self._autopilot.set_parameter(name, value)
        self._autopilot.upload_mission(
            patrol_mission(self._path, home, self._plan.frame, config), config.upload_timeout_s)
        self._happened(FlightEvent.PREPARED)

    def _start(self) -> None:
        """Arm, start the mission, and see both in the telemetry."""
        self._wait_for_health()     # again: parameters change what arming needs
        self._happened(FlightEvent.ARM)
        self._armed_at = self._autopilot.snapshot.vehicle_time_s
        try:
            self._insist("arming", self._autopilot.arm, lambda t: t.armed)
            self._insist("mission mode", self._autopilot.start_mission,
                         lambda t: t.flight_mode == MISSION)
        except AutopilotError:
            self._stand_down()
            raise
        self._happened(FlightEvent.STARTED)

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
            time.sleep(POLL_S)

    def _follow(self, t: Telemetry) -> None:
        """What the drone is seen to do."""
        mode, wanted = t.flight_mode, _EXPECTED_MODE.get(self._state)
        if not t.armed and t.landed_state == "ON_GROUND":
            if self._state is not FlightState.LANDING and self._status is FlightStatus.COMPLETED:
                self._status = FlightStatus.LANDED_EARLY
                self._reason = f"it landed before the end{t.last_words}"
            self._happened(FlightEvent.DISARMED)
        elif self._state is FlightState.TAKING_OFF and t.mission_current > 0 and mode == MISSION:
            self._happened(FlightEvent.CLIMBED)
        elif self._state is FlightState.ON_PATROL and mode == MISSION \
                and t.mission_current >= FIRST_WAYPOINT + len(self._path):
            self._happened(FlightEvent.LANDING)
        elif wanted is not None and mode not in (wanted, ""):
            self._mode_changed(t)

    def _mode_changed(self, t: Telemetry) -> None:
        """The drone flies another mode than asked for: a failsafe, or a pilot's hand."""
        if self._state is FlightState.RETURNING and t.flight_mode in (MISSION, HOLD):
            # The link was down when it was told, or it was told too early.
            if time.monotonic() - self._asked_at > self._config.mode_timeout_s:
                self._asked_at = time.monotonic()
                self._command(self._autopilot.return_to_launch)
        elif t.flight_mode == RETURN:
            self._turn_back(FlightStatus.RETURNED, f"the autopilot returns by itself"
                            f"{t.last_words}", by_itself=True)
        elif t.flight_mode == HOLD and allows(self._state, FlightEvent.PAUSED):
            self._happened(FlightEvent.PAUSED)
        elif t.flight_mode == MISSION and allows(self._state, FlightEvent.RESUMED):
            self._happened(FlightEvent.RESUMED)
        elif t.flight_mode not in (HOLD, MISSION):      # landing, or a pilot: hands off
            self._conclude(FlightStatus.LANDED_EARLY,
                           f"the drone changed to {t.flight_mode.lower()} mode by itself or by a "
                           f"pilot{t.last_words}")
            self._turned_back_at = t.vehicle_time_s
            self._happened(FlightEvent.LANDING)

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
            self._change("mission mode", self._autopilot.start_mission, MISSION,
                         FlightEvent.RESUMED)

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
        """Return home, and land there. What cannot be sent now is sent again later."""
        self._conclude(status, reason)
        self._turned_back_at = self._autopilot.snapshot.vehicle_time_s
        self._asked_at = time.monotonic()
        self._happened(FlightEvent.RETURNING)
        if not by_itself:
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
                self._turn_back(FlightStatus.RETURNED, f"{self._reason}, but {error}")
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

    def _wait_for_health(self) -> None:
        self._wait(lambda t: t.healthy and t.home and not math.isnan(t.battery_percent)
                   and t.link_age_s < self._config.link_timeout_s,
                   self._config.health_timeout_s, self._why_unhealthy)

    def _why_unhealthy(self) -> str:
        t = self._autopilot.snapshot
        lacks = list(t.failing) + ["home position"] * (t.home is None and t.healthy) \
            + ["battery state"] * math.isnan(t.battery_percent) \
            + ["telemetry"] * (t.link_age_s >= self._config.link_timeout_s)
        return (f"not ready to fly after {self._config.health_timeout_s:g} s: "
                f"{', '.join(lacks)}{t.last_words}; see to it, or wait and try again")

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise _Cancelled

    def _observe(self) -> Telemetry:
        """Take what has arrived, add it to the track, report progress when it is time."""
        telemetry = self._autopilot.snapshot
        track = self._autopilot.take_track()
        if self._state in AIRBORNE and len(track):
            enu = self._plan.frame.to_enu(track[:, 1], track[:, 2])
            enu[:, 2] = track[:, 3] + self._ground
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
        position = self._plan.frame.to_enu(t.latitude_deg, t.longitude_deg)
        position[2] = t.relative_altitude_m + self._ground
        return position

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
        used = self._battery_before - self._autopilot.snapshot.battery_percent
        return FlightOutcome(
            status=self._status, message=self._reason or "the patrol was flown to its end",
            flown=flown, distance_m=self._length,
            patrol_distance_m=patrol_distance(flown, self._path),
            duration_s=float(flown[-1, 0] - flown[0, 0]) if len(flown) else 0.0,
            energy_wh=used / 100 * config.battery_wh if config.battery_wh else math.nan)
