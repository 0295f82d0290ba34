"""Leaving the route in flight: a new map, a waypoint that is skipped, another plan."""

from __future__ import annotations

import logging
import math
import threading
import time

import numpy as np

from parallel_city_ros.errors import AutopilotError, RefusedError
from parallel_city_ros.flight import checks
from parallel_city_ros.flight.homecoming import STOPPING_S, Homecoming
from parallel_city_ros.flight.mission import leg_speeds, return_parameters, same_missions
from parallel_city_ros.flight.outcome import FlightStatus
from parallel_city_ros.flight.rehearsal import LEGS_BACK, rehearse
from parallel_city_ros.flight.route import Route, along, braking, entry, turning_places
from parallel_city_ros.flight.state import HOLD, MISSION, FlightEvent, FlightState, allows
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.patrol.plan import PatrolPlan

logger = logging.getLogger(__name__)

PAUSE_SPEED = 1.0       # m/s, to which it slows down before it holds
SLOWING_S = 6.0         # vehicle, and then it holds as fast as it is
LATE_S = 20.0           # vehicle, by which an order may come late, where the way is clear
CLIMBS_FIRST_M = 0.5    # below the next waypoint; PX4 does from NAV_MC_ALT_RAD on, 0.8 by default


class Rerouting(Homecoming):
    """Changes of the route. See PatrolFlight, whose part this is."""

    _joins: int | None = None       # waypoint to which it flies at a speed of its own
    _rehearsal: tuple[PatrolPlan, threading.Thread] | None = None   # of the plan that comes next

    def _heed_map(self, t: Telemetry) -> None:
        """Whether the rest of the route and the way home hold on the newest map."""
        new = self._take_map()
        if not new and time.monotonic() < self._look_again_at:
            return
        self._look_again_at, self._blocked = math.inf, ""
        if self._state is FlightState.RETURNING:
            self._go_on_home(t)
            return
        rest = self._plan.path[-1:] if self._state is FlightState.LANDING else \
            self._route.rest(self._position(t), t.mission_current)
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

    def _change(self, name: str, send, mode: str, event: FlightEvent) -> None:
        """A pause or resume. If the drone will not, it comes home."""
        try:
            self._insist(name, send, lambda t: t.flight_mode == mode, over_gaps=False)
        except AutopilotError as error:
            self._turn_back(FlightStatus.RETURNED, str(error))
        else:
            self._happened(event)

    def _pause(self, t: Telemetry) -> None:
        """Slow down along the route first: told to hold, PX4 brakes straight on, past a corner
        15 m at 8 m/s."""
        def slow(t):
            return math.hypot(*t.velocity[:2]) < 2 * PAUSE_SPEED or t.flight_mode != MISSION \
                or t.vehicle_time_s > began + SLOWING_S or self._requests or self._cancelled()

        began = t.vehicle_time_s
        self._command(lambda: self._autopilot.set_speed(PAUSE_SPEED))
        try:
            self._wait(slow, SLOWING_S, lambda: "")
        except RefusedError:
            pass
        if self._autopilot.snapshot.flight_mode == MISSION:
            self._change("hold mode", self._autopilot.hold, HOLD, FlightEvent.PAUSED)
        if self._state in (FlightState.ON_PATROL, FlightState.PAUSED):
            self._as_rehearsed()        # whatever comes next; a way home has a speed of its own

    def _join(self) -> None:
        """The speed of a leg that nobody rehearsed, to the first waypoint of the route. Commands
        of it that lie before that waypoint are left out by PX4."""
        first, rehearsed = self._route.first, self._speeds(self._plan)
        legs = slice(first, first + 1 + LEGS_BACK)
        speeds = rehearse(
            np.vstack([self._position(self._autopilot.snapshot), self._plan.path[legs]]),
            [self._config.cruise_speed, *rehearsed[legs]], self._config.acceptance_radius,
            self._plan.task.tube_radius, self._limits).speeds[1:]
        self._command(lambda: self._autopilot.set_speed(float(speeds[0])))
        self._joins = first if (rehearsed[first:] != speeds[0]).any() else None

    def _has_joined(self, t: Telemetry) -> None:
        """From the first waypoint on, the speeds are those of the mission."""
        if self._joins is not None and self._joins < self._route.waypoint(t.mission_current):
            self._as_rehearsed()

    def _as_rehearsed(self) -> None:
        """The speed that the mission has for the leg that is flown."""
        self._joins, speeds = None, self._speeds(self._plan)
        k = min(self._route.waypoint(self._autopilot.snapshot.mission_current), len(speeds) - 1)
        self._command(lambda: self._autopilot.set_speed(float(speeds[k])))

    def _speeds(self, plan: PatrolPlan) -> np.ndarray:
        """(N,) m/s of the leg to each waypoint, as its mission has them."""
        task = plan.task
        return leg_speeds(plan.path, self._config, task.time_step_s, task.tube_radius,
                          self._limits)

    def _climb_first(self, t: Telemetry) -> str:
        """PX4 goes on from a hold straight up to the height of the next waypoint, and from there
        straight to it: the route from here. Why it must not, or ""."""
        route, path = self._route, self._plan.path
        k, here = route.waypoint(t.mission_current), self._position(t)
        if k == len(path) or path[k, 2] - here[2] <= CLIMBS_FIRST_M:
            return ""
        stops = braking(here, t.velocity, STOPPING_S)
        fan = np.repeat(stops, 2, axis=0)
        fan[1::2, 2] = path[k, 2]
        reason = checks.why_not_straight(self._plan, self._grid, fan, path[k])
        if not reason:
            self._route = route.entered_at(k, fan, path[:k])
            self._on_route(self._plan, self._route.corridor)
        return reason

    def _resume(self, t: Telemetry) -> None:
        reason = self._climb_first(t)
        if reason:
            logger.warning("not resumed: it would climb where it is to the height of the next "
                           "waypoint, which is not clear: %s; return or land it", reason)
            return
        k = self._route.waypoint(t.mission_current)
        if self._config.photos != "off" and 0 < k < len(self._plan.path):
            # PX4 would fly back to the waypoint before this one, not to lose a photo; but not
            # if the item was changed meanwhile.
            try:
                for waypoint in (k - 1, k):
                    self._autopilot.set_current(self._route.item(waypoint))
            except AutopilotError as error:
                self._turn_back(FlightStatus.RETURNED, str(error))
                return
        def go_on():
            seen = self._autopilot.snapshot.flight_mode
            if seen != HOLD or self._explain() != self._held_because:
                raise RefusedError(f"not resumed: {self._explain() or seen.lower() + ' mode'} "
                                   "came first")
            self._autopilot.start_mission()

        self._change("mission mode", go_on, MISSION, FlightEvent.RESUMED)

    # another waypoint, another plan; each returns why not, or ""

    def _skip(self, t: Telemetry) -> str:
        """Straight to the next waypoint but one."""
        route, path = self._route, self._plan.path
        if not allows(self._state, FlightEvent.SKIPPED):
            return f"no waypoint is skipped while it is {self._state.value.replace('_', ' ')}"
        k = route.waypoint(t.mission_current)
        if k + 1 >= len(path):
            return "the last waypoint is not skipped; return or land it"
        here = self._position(t)
        fan = braking(here, t.velocity, STOPPING_S)
        reason = checks.why_not_straight(self._plan, self._grid, fan, path[k + 1])
        if reason:
            return f"the way straight to waypoint {k + 2} is not clear: {reason}"
        speed = max(self._config.cruise_speed, float(np.linalg.norm(t.velocity)))
        later, _ = turning_places(route.rest(here, t.mission_current), speed, LATE_S)
        count, _ = checks.clear_turns(self._plan, self._grid, later, path[k + 1])
        new = route.entered_at(k + 1, np.vstack([fan, later[:count]]), path[:k + 1])
        self._on_route(self._plan, new.corridor)
        try:
            self._enter(new)
        except AutopilotError as error:
            self._on_route(self._plan, route.corridor)
            return f"it goes on as before: {error}"
        self._route = new
        self._happened(FlightEvent.SKIPPED)
        self._join()
        return ""

    def _enter(self, route: Route) -> None:
        """Have the drone fly to the first waypoint of a route that is on board."""
        item = route.item(route.first)
        self._insist(f"waypoint {route.first + 1}", lambda: self._autopilot.set_current(item),
                     lambda t: t.mission_current >= item)

    def _rehearsed(self, plan: PatrolPlan) -> bool:
        """Whether there is nothing left to wait for before a plan can replace the rest of this
        one: its rehearsal takes a while, in which the flight is watched."""
        if self._rehearsal is None or self._rehearsal[0] is not plan:
            if self._why_not_instead(plan):
                return True
            thread = threading.Thread(target=self._speeds, args=(plan,), name="rehearsal",
                                      daemon=True)
            thread.start()
            self._rehearsal = plan, thread
        return not (self._rehearsal[1].is_alive() and allows(self._state, FlightEvent.REPLACED))

    def _why_not_instead(self, plan: PatrolPlan) -> str:
        """Why a plan cannot replace the rest of this one, wherever the drone is."""
        if not allows(self._state, FlightEvent.REPLACED):
            return f"no plan is replaced while it is {self._state.value.replace('_', ' ')}"
        return (checks.why_not_this_map(plan, self._grid)
                or checks.why_not_so_loosely(plan, self._config)
                or checks.why_not_down(plan, self._grid, plan.path[-1], "the goal"))

    def _replace(self, plan: PatrolPlan, t: Telemetry) -> str:
        """Fly another plan instead of the rest of this one, without stopping."""
        reason = self._why_not_instead(plan)
        if reason:
            return reason
        old, grid, config = self._route, self._grid, self._config
        items = self._mission(plan)
        # While the mission is sent the drone flies on, on the old route.
        speed = max(config.cruise_speed, float(np.linalg.norm(t.velocity)))
        rest = old.rest(self._position(t), t.mission_current)
        soon_s = 2 * self._transfer_s + STOPPING_S
        then = along(rest, max(speed * self._transfer_s, 1e-3), np.inf)
        if len(then) < 2 or len(rest) < 2:
            return "the plan that is flown ends before another one is on board"
        ways, seconds = turning_places(rest, speed, soon_s + LATE_S)
        k, gap = entry(plan.path, then[1], config.max_join_distance)
        if gap > config.max_join_distance:
            return (f"it begins {gap:.0f} m from where the drone will be, more than "
                    f"max_join_distance ({config.max_join_distance:g} m); plan from there")
        count, why = checks.clear_turns(plan, grid, ways, plan.path[k])
        if why and seconds[count] <= soon_s:
            return f"the way straight to its waypoint {k + 1} is not clear: {why}"
        ways = ways[:count]
        new = Route(plan, items, self._home).entered_at(k, ways, ways[:1])
        try:
            self._make_room(np.vstack([ways, plan.path]))
        except AutopilotError as error:
            return f"fence and return altitude do not allow it: {error}"
        self._on_route(plan, np.vstack([rest, rest[::-1], new.corridor]))
        try:
            self._send(new)
        except AutopilotError as error:
            return self._put_back(old, str(error))
        self._plan, self._route = plan, new
        self._on_route(plan, new.corridor)
        self._happened(FlightEvent.REPLACED)
        self._join()
        t = self._autopilot.snapshot
        if t.mission_current == new.item(k):    # late: not from where it was looked at
            late = checks.why_not_straight(plan, grid, braking(
                self._position(t), t.velocity, STOPPING_S), plan.path[k])
            if late:
                self._turn_back(FlightStatus.RETURNED, f"the new plan was on board late: {late}")
        return ""

    def _send(self, route: Route) -> None:
        """Upload a route's mission to a drone that flies another one, and see that it flies it.

        PX4 takes the item marked as current when the upload is complete, and keeps the old
        mission until then.
        """
        item, config = route.item(route.first), self._config
        self._autopilot.upload_mission(route.items, config.upload_timeout_s, current=item)
        sent = self._sent_at = time.monotonic()

        def flies(t):
            return t.mission_wall_s > sent and t.mission_current >= item and \
                t.flight_mode == MISSION

        try:
            self._wait(flies, config.mode_timeout_s, lambda: "")
        except RefusedError:
            self._enter(route)      # it had that mission already, or had not heard the mark
            self._wait(flies, config.mode_timeout_s, lambda: (
                "the new mission is on board, but is not flown"
                f"{self._autopilot.snapshot.last_words}"))

    def _put_back(self, old: Route, error: str) -> str:
        """The new mission was not taken: the old one goes on, or the drone comes home."""
        logger.error("another plan was not taken: %s", error)
        self._on_route(old.plan, old.corridor)
        try:
            stored = self._autopilot.download_mission(self._config.upload_timeout_s)
            if not same_missions(old.items, stored):
                t = self._autopilot.snapshot
                k = min(old.waypoint(t.mission_current), len(old.plan.path) - 1)
                raise RefusedError(f"the old mission is gone, it flew to waypoint {k + 1}")
        except AutopilotError as other:
            reason = f"{error}; {other}"
            self._turn_back(FlightStatus.RETURNED, reason)
            return f"it returns: {reason}"
        return f"the old plan is flown on: {error}"

    def _make_room(self, places: np.ndarray) -> None:
        """Widen the fence and raise the return altitude for places that it may come to."""
        altitude = checks.return_altitude(self._plan, self._grid, self._home, self._config, places)
        wanted = return_parameters(places, self._home, altitude, self._config)
        for name, value in wanted.items():
            if value > self._on_board[name]:
                self._set_in_flight(name, value)
