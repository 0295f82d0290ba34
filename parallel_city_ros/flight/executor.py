"""Flies a certified plan: checks, uploads, starts, watches until the motors are off."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import AutopilotError, LinkError, RefusedError
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.departure import Departure, Refused
from parallel_city_ros.flight.handling import POLL_S
from parallel_city_ros.flight.outcome import (
    FlightOutcome,
    FlightProgress,
    FlightStatus,
    patrol_distance,
)
from parallel_city_ros.flight.rerouting import Rerouting
from parallel_city_ros.flight.state import (
    AIRBORNE,
    HOLD,
    FlightEvent,
    FlightState,
    Reaction,
    Seen,
    allows,
    reaction,
)
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.patrol.plan import PatrolPlan

logger = logging.getLogger(__name__)

AWAY_M = 10.0           # from home or goal: a landing there is none of those that were meant
EXPLAINED_S = 3.0       # vehicle, from a failsafe to its words
TOLD_S = 2.0            # wall, after which the autopilot tells of the mission that was sent
MOVED_M = 2.0           # less than that within progress_timeout_s is standing still


class _Cancelled(Exception):
    """The caller wants no flight any more, and none has begun."""


class PatrolFlight(Departure, Rerouting):
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
    on_route :
        Told the plan and the (N, 3) polyline of ENU metres that is flown from now on, when a
        waypoint is skipped or the plan replaced. Must not block.
    """

    def __init__(self, plan: PatrolPlan, grid: VoxelGrid, autopilot: Autopilot,
                 config: FlightConfig, explain: Callable[[], str] = lambda: "",
                 on_route: Callable[[PatrolPlan, np.ndarray], None] = lambda plan, line: None):
        super().__init__(plan, grid, autopilot, config)
        self._begin()
        self._explain, self._on_route = explain, on_route
        self._requests: dict[str, tuple[Future, PatrolPlan | None]] = {}
        self._mission_id = (math.inf, 0)        # when it was sent, and its id
        self._unexplained = False               # why it lands by itself
        self._blocked = ""                      # what stands on the rest of the route
        self._battery_before = self._battery_left = math.nan    # percent, of the latter in flight

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

    def skip(self) -> Future[str]:
        """Fly straight to the next waypoint but one: "", or why not, once that is known."""
        return self._request("skip")

    def replace(self, plan: PatrolPlan) -> Future[str]:
        """Fly another plan instead of the rest of this one, without stopping: "", or why not.

        It must begin near the drone, which comes in at the nearest leg of its beginning.
        """
        return self._request("replace", plan)

    def _request(self, name: str, plan: PatrolPlan | None = None) -> Future[str]:
        future: Future[str] = Future()
        with self._lock:
            if self._state in (FlightState.LANDED, FlightState.FAILED):
                future.set_result("the flight has ended")
                return future
            earlier = self._requests.pop(name, None)
            self._requests[name] = future, plan
        if earlier:
            earlier[0].set_result("asked for again")
        return future

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
        except Refused as refusal:
            self._end(FlightStatus.REFUSED, str(refusal))
        except _Cancelled:
            self._end(FlightStatus.CANCELLED, "cancelled before take-off")
        except AutopilotError as error:
            self._leave_no_hold()
            self._end(FlightStatus.FAILED, f"{error}{self._whereabouts()}")
        except BaseException:
            self._abandon()
            raise
        finally:
            self._turn_down()
        self._restore()
        return self._outcome()

    def _turn_down(self) -> None:
        """What was asked for too late."""
        with self._lock:
            late, self._requests = self._requests, {}
        for future, _ in late.values():
            future.set_result("the flight has ended")

    def _leave_no_hold(self) -> None:
        """A drone that is given up in the air must not wait there for nobody."""
        t = self._autopilot.snapshot
        if self._state in AIRBORNE and t.in_air and t.flight_mode == HOLD \
                and not self._left.is_set():
            self._command(self._autopilot.land if self._state is FlightState.LANDING
                          else self._autopilot.return_to_launch)

    def _supervise(self) -> None:
        """Until the motors are off: state from telemetry, breaches, requests."""
        config = self._config
        self._moved = (self._armed_at, None)
        while self._state in AIRBORNE:
            telemetry = self._observe()
            if telemetry.link_age_s > config.link_wait_s:
                raise LinkError(f"the link has been lost for {config.link_wait_s:g} s; the "
                                f"autopilot is set to {config.link_loss_action} by itself")
            if telemetry.armed:     # PX4's simulation fills its battery when it disarms
                self._battery_left = telemetry.battery_percent
            if telemetry.link_age_s < config.link_timeout_s:
                self._follow(telemetry)
            if self._state in AIRBORNE:
                self._watch(telemetry)
                self._serve(telemetry)
            if self._state is FlightState.ON_PATROL:
                self._has_joined(telemetry)
            if self._state in AIRBORNE and telemetry.link_age_s < config.link_timeout_s:
                self._heed_map(telemetry)
            time.sleep(POLL_S)

    def _follow(self, t: Telemetry) -> None:
        """What the drone is seen to do."""
        what = reaction(self._state, Seen(
            mode=t.flight_mode, armed=t.armed, on_ground=t.landed_state == "ON_GROUND",
            climbed=t.mission_current > 0,
            past_route=self._route.flown(t.mission_current)))
        if what is Reaction.DOWN:
            places = {FlightStatus.COMPLETED: self._plan.path[-1],
                      FlightStatus.RETURNED: self._home,
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
            explained = self._explain()
            self._conclude(FlightStatus.LANDED_EARLY, explained or self._out_of_hand(t))
            self._unexplained = not explained and self._reason == self._out_of_hand(t)
            self._turned_back_at = t.vehicle_time_s
            self._happened(FlightEvent.LANDING)
        elif what is not Reaction.NOTHING:
            if what is Reaction.GOES_ON:    # somebody else resumed it
                self._climb_first(t)
            elif what is Reaction.HELD:
                logger.warning("the drone holds, by itself or by somebody else%s; unless a "
                               "failsafe of its own follows, it waits to be resumed, returned or "
                               "landed", t.last_words)
            self._happened(what.value)

    def _other_mission(self, t: Telemetry) -> bool:
        """Whether what is on board is not what was sent; PX4 since 1.15 tells a sum of it."""
        if self._mission_id[0] != self._sent_at:
            self._mission_id = (self._sent_at, t.mission_id)
        return t.mission_total not in (-1, len(self._route.items)) \
            or t.mission_id != self._mission_id[1]

    @staticmethod
    def _out_of_hand(t: Telemetry) -> str:
        lost = [name for name in t.failing if name.endswith("position")]
        return "".join((
            f"the drone changed to {t.flight_mode.lower()} mode by itself or by a pilot",
            f", without a good {' and '.join(lost)}" if lost else "", t.last_words))

    def _learn_why(self, t: Telemetry) -> None:
        """A failsafe acts before the words about it come, and before the guard sees its cause."""
        cause = self._explain()
        if cause:
            self._reason, self._unexplained = f"{self._reason}; {cause}", False
        elif t.vehicle_time_s - self._turned_back_at < EXPLAINED_S:
            self._reason = self._out_of_hand(t)

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
            if self._unexplained and t.armed:
                self._learn_why(t)
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
        elif t.mission_wall_s > self._sent_at + TOLD_S and t.restarts == self._restarts and \
                self._other_mission(t):
            breach = (f"somebody else changed the mission on board, from "
                      f"{len(self._route.items)} to {t.mission_total} items")
        elif stuck:
            breach = f"it has not moved for {config.progress_timeout_s:g} s"
        if breach:
            self._turn_back(FlightStatus.RETURNED, breach)

    def _serve(self, t: Telemetry) -> None:
        """What the caller asks for; the safest request first."""
        with self._lock:
            asked, self._requests = self._requests, {}
        if asked.keys() & {"skip", "replace"}:
            self._heed_map(t)       # on the newest map
        if "replace" in asked and (len(asked) > 1 or not self._rehearsed(asked["replace"][1])):
            self._ask_again("replace", *asked.pop("replace"))
        answers = dict.fromkeys(asked, f"it is {self._state.value.replace('_', ' ')}")
        try:
            if "land" in asked and self._state is not FlightState.LANDING:
                self._touch_down("landing was asked for")
            elif self._state in (FlightState.RETURNING, FlightState.LANDING):
                return
            elif self._cancelled():
                self._turn_back(FlightStatus.CANCELLED, "cancelled")
            elif "return" in asked:
                self._turn_back(FlightStatus.RETURNED, "return was asked for")
            elif "pause" in asked and allows(self._state, FlightEvent.PAUSED):
                self._pause(t)
            elif "resume" in asked and allows(self._state, FlightEvent.RESUMED):
                if self._blocked:
                    logger.warning("not resumed: %s; return or land it", self._blocked)
                    return
                self._resume(t)
            elif "skip" in asked:
                answers["skip"] = self._skip(t)
            elif "replace" in asked:
                answers["replace"] = self._replace(asked["replace"][1], t)
        finally:
            for name, (future, _) in asked.items():
                future.set_result(answers[name])

    def _ask_again(self, name: str, future: Future[str], plan: PatrolPlan | None) -> None:
        """Serve a request later, unless there is a newer one by then."""
        with self._lock:
            newer = self._requests.setdefault(name, (future, plan))[0] is not future
        if newer:
            future.set_result("asked for again")

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise _Cancelled

    def _report(self, t: Telemetry) -> None:
        self._last_report = time.monotonic()
        last = len(self._plan.path) - 1
        ahead = self._route.waypoint(t.mission_current) if self._route else 0
        self._on_progress(FlightProgress(
            state=self._state, waypoint=min(ahead, last),
            waypoints=last + 1, distance_m=self._length, battery_percent=t.battery_percent,
            position=self._position(t), vehicle_time_s=t.vehicle_time_s))

    # the end

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
        t = self._autopilot.snapshot
        down = self._status is FlightStatus.LANDED_EARLY and math.isfinite(t.latitude_deg) and \
            f"it stands at {t.latitude_deg:.6f}, {t.longitude_deg:.6f}"
        for remark in (down, self._low_return, self._remark):
            if remark and remark not in message:
                message += f"; {remark}"
        used = self._battery_before - self._battery_left
        return FlightOutcome(
            status=self._status, message=message,
            flown=flown, distance_m=self._length,
            patrol_distance_m=patrol_distance(flown, self._plan.path),
            duration_s=float(flown[-1, 0] - flown[0, 0]) if len(flown) else 0.0,
            energy_wh=used / 100 * config.battery_wh if config.battery_wh else math.nan)
