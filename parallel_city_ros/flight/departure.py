"""From the plan to a drone that flies it: checks, parameters, mission, arming, start."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from datetime import datetime, timezone

from parallel_city_ros.errors import AutopilotError, LinkError, RefusedError
from parallel_city_ros.flight import checks
from parallel_city_ros.flight.guidance import PARAMETERS, Limits
from parallel_city_ros.flight.handling import Handling
from parallel_city_ros.flight.mission import (
    CHANGE_SPEED,
    MissionItem,
    autopilot_parameters,
    patrol_mission,
    return_parameters,
    same_missions,
)
from parallel_city_ros.flight.route import Route
from parallel_city_ros.flight.state import (
    HOLD,
    LAND,
    MISSION,
    RETURN,
    FlightEvent,
)
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.patrol.departure import why_not_at
from parallel_city_ros.patrol.plan import PatrolPlan

logger = logging.getLogger(__name__)

SPARE_M = 1.0           # of the fence, for a home that is set beside the place checked
SIM_BAT_DRAIN_MOST = 86400.0    # s, PX4's limit
SLOW_LANDING_MOST_M = 122.0     # PX4's limit
UNKNOWN_PARAMETER_S = 1.0       # wall, in which PX4 tells a parameter that it has


class Refused(Exception):
    """The flight must not begin; nothing that makes the drone fly was sent."""


class Departure(Handling):
    """Everything up to the take-off. See PatrolFlight, whose part this is."""

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
        self._limits = self._limits_on_board()
        self._restarts = self._autopilot.snapshot.restarts
        telemetry = self._autopilot.snapshot
        self._battery_before = telemetry.battery_percent
        if telemetry.armed or telemetry.in_air:
            self._find(telemetry)
            return True
        self._refuse(why_not_at(self._plan.certificate, datetime.now(timezone.utc)))
        if telemetry.battery_percent < config.min_battery_percent:
            raise Refused(f"the battery holds {telemetry.battery_percent:.0f} %, take-off needs "
                           f"{config.min_battery_percent:.0f} %; charge or change it")
        # Where it stands becomes home when it arms; what it calls home now may be far away.
        home = self._home = self._place(telemetry.latitude_deg, telemetry.longitude_deg)
        self._home_altitude = telemetry.absolute_altitude_m
        self._refuse(checks.why_not_from_home(self._plan, self._grid, home, config))
        altitude = checks.return_altitude(self._plan, self._grid, home, config)
        parameters = autopilot_parameters(self._plan.path, home, altitude, config)
        # PX4 judges the mission by the old home: the fence is drawn in after arming.
        old = return_parameters(self._plan.path, self._place(*telemetry.home[:2]), altitude,
                                config)
        parameters["GF_MAX_HOR_DIST"] = SPARE_M + max(
            p["GF_MAX_HOR_DIST"] for p in (parameters, old))
        parameters |= self._slow_landing() | self._simulated_battery()
        for name, value in parameters.items():
            self._check_cancelled()
            self._before[name] = self._autopilot.set_parameter(name, value)
            self._on_board[name] = value
        self._autopilot.clear_rally_points()    # PX4 would return to one that is nearer than home
        self._route = Route(self._plan, self._mission(self._plan), home)
        self._upload()
        if self._autopilot.snapshot.mission_current > 0:    # of an earlier flight
            self._insist("first mission item", lambda: self._autopilot.set_current(0),
                         lambda t: t.mission_current == 0)
        self._happened(FlightEvent.PREPARED)
        return False

    def _upload(self) -> None:
        """Twice, if need be: PX4 breaks off after 5 s of silence by its own clock."""
        for last in (False, True):
            began = self._autopilot.snapshot.vehicle_time_s
            try:
                self._autopilot.upload_mission(self._route.items, self._config.upload_timeout_s)
            except LinkError as error:
                if last:
                    raise
                logger.warning("%s; sent again", error)
            else:
                self._sent_at = time.monotonic()
                self._transfer_s = self._autopilot.snapshot.vehicle_time_s - began
                return

    def _find(self, t: Telemetry) -> None:
        """Take over a drone that flies this plan, as its mission on board shows.

        What its parameters were before that flight is not known any more.
        """
        armed = "the drone is armed already, somebody flies it; land and disarm first"
        if not t.in_air or t.flight_mode not in (MISSION, HOLD, RETURN, LAND):
            raise Refused(armed)
        self._home = self._place(*t.home[:2])
        self._route = Route(self._plan, self._mission(self._plan), self._home)
        began = t.vehicle_time_s
        stored = self._autopilot.download_mission(self._config.upload_timeout_s)
        self._transfer_s = 2 * (self._autopilot.snapshot.vehicle_time_s - began)
        # Where it took off was not exactly the home that it set then; how fast its legs are is
        # no matter of the plan.
        ours, theirs = ([item for item in items[1:-1] if item.command != CHANGE_SPEED]
                        for items in (self._route.items, stored))
        if not same_missions(ours, theirs):
            raise Refused(f"{armed} (its mission is not that of this plan)")
        self._route = replace(self._route, items=stored)
        for name in ("RTL_RETURN_ALT", "GF_MAX_VER_DIST", "GF_MAX_HOR_DIST"):
            self._on_board[name] = self._autopilot.get_parameter(name, float)
        self._armed_at, self._sent_at = t.vehicle_time_s, time.monotonic()
        self._remark = "found in flight and taken over; its parameters are not given back"
        logger.warning("the drone flies this plan already: taken over in %s mode", t.flight_mode)
        self._happened(FlightEvent.FOUND)

    def _limits_on_board(self) -> Limits:
        """What its trajectories are limited by; PX4's own where it does not tell."""
        known = {}
        for name in PARAMETERS.values():
            try:
                known[name] = self._autopilot.get_parameter(
                    name, float, self._config.parameter_timeout_s)
            except AutopilotError as error:
                logger.info("%s", error)
        return Limits.of(known)

    def _slow_landing(self) -> dict[str, float]:
        """Without a rangefinder PX4 takes the height above home for that above the ground: at a
        goal above home it would touch down as fast as it descends."""
        rise = checks.ground_at(self._grid, self._plan.path[-1]) - self._home[2]
        if rise <= 0:
            return {}
        return {name: min(self._autopilot.get_parameter(name, float) + math.ceil(rise),
                          SLOW_LANDING_MOST_M) for name in ("MPC_LAND_ALT1", "MPC_LAND_ALT2")}

    def _simulated_battery(self) -> dict[str, float]:
        """PX4's own simulation empties its battery in a minute of whatever flight, from which the
        guard would rightly come home: in one of endurance_s instead. No board has the parameter.
        """
        try:
            drain = self._autopilot.get_parameter("SIM_BAT_DRAIN", float, UNKNOWN_PARAMETER_S)
        except AutopilotError:
            return {}
        endurance = min(self._config.guard.endurance_of(self._plan.task.drone),
                        SIM_BAT_DRAIN_MOST)
        return {"SIM_BAT_DRAIN": endurance} if drain < endurance else {}

    @staticmethod
    def _refuse(reason: str) -> None:
        if reason:
            raise Refused(reason)

    def _start(self) -> None:
        """Arm, start the mission, and see both in the telemetry."""
        # Again, told anew: parameters change what arming needs.
        self._wait_for_health(time.monotonic())
        self._refuse(self._other_map)
        if self._take_map():
            self._refuse(checks.why_not_this_map(self._plan, self._grid) or
                         checks.why_not_from_home(self._plan, self._grid, self._home,
                                                  self._config))
        if self._autopilot.snapshot.flight_mode == MISSION:
            # Where PX4 is again after a patrol; it would take off before home is looked at.
            self._insist("hold mode", self._autopilot.hold, lambda t: t.flight_mode == HOLD)
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
        patience = 2 * config.mode_timeout_s    # PX4 tells it every other second, unless asked

        def shift(t):
            level = self._place(*t.home[:2]) - self._home
            return math.hypot(*level[:2]), t.home[2] - self._home_altitude

        def told(t):
            return t.home_wall_s > armed_wall_s

        def complaint():
            t = self._autopilot.snapshot
            if not told(t):
                return (f"it has not told its home within {patience:g} s of arming; "
                        "not started, look at the link")
            away, up = shift(t)
            return (f"armed, it set home {away:.1f} m away from and {up:+.1f} m above the place "
                    f"that was checked, more than max_home_shift ({config.max_home_shift:g} m); "
                    "disarmed, wait for a steady position and try again")

        self._wait(lambda t: told(t) and max(map(abs, shift(t))) <= config.max_home_shift,
                   patience, complaint)
        self._home = self._place(*self._autopilot.snapshot.home[:2])
        self._route = replace(self._route, home=self._home)
        refusal = checks.why_not_from_home(self._plan, self._grid, self._home, config)
        if refusal:
            raise RefusedError(f"from the home that it set when it armed: {refusal}")
        altitude = checks.return_altitude(self._plan, self._grid, self._home, config)
        wanted = return_parameters(self._plan.path, self._home, altitude, config)
        for name, value in wanted.items():
            if not 0 <= self._on_board[name] - value <= 2 * SPARE_M:
                self._set_in_flight(name, value)

    def _stand_down(self) -> None:
        """After a start that failed: motors off, or home if it flies although it does not say."""
        try:
            self._autopilot.disarm()
        except AutopilotError:
            self._command(self._autopilot.return_to_launch)

    def _mission(self, plan: PatrolPlan) -> list[MissionItem]:
        """What flies a plan from home, and lands at its goal."""
        return patrol_mission(plan.path, self._home, plan.frame, self._config,
                              checks.ground_at(self._grid, plan.path[-1]), plan.task.time_step_s,
                              plan.task.tube_radius, self._limits)
