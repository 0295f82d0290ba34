"""One drone in hand: what is sent until it shows, where it is, what it flew, what was set."""

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
from parallel_city_ros.flight.guidance import Limits
from parallel_city_ros.flight.outcome import distance
from parallel_city_ros.flight.route import Route
from parallel_city_ros.flight.state import AIRBORNE, HOLD, FlightEvent, FlightState, after
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.patrol.plan import PatrolPlan

logger = logging.getLogger(__name__)

POLL_S = 0.02           # wall, between two looks at the telemetry
REFUSED_S = 1.0         # wall, from a refusal to the next attempt


class Handling:
    """What all phases of a flight share. See PatrolFlight, whose part this is."""

    def __init__(self, plan: PatrolPlan, grid: VoxelGrid, autopilot: Autopilot,
                 config: FlightConfig):
        self._plan, self._grid, self._autopilot, self._config = plan, grid, autopilot, config
        self._home: np.ndarray | None = None    # (3,) ENU metres, on the twin's ground
        self._route: Route | None = None        # once its mission is on board
        self._limits = Limits()                 # of the drone's PX4
        self._transfer_s = 0.0                  # vehicle, that sending a mission took
        self._restarts = 0                      # of the autopilot, before this flight
        self._sent_at = math.inf                # wall, of the mission that is on board
        self._other_map = ""        # why the map that the plan was made on is none any more
        self._newest_grid: VoxelGrid | None = None  # to be looked at
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._state = FlightState.DISCONNECTED
        self._reason = ""
        self._remark = self._low_return = ""    # for the end of the outcome's message
        self._explain: Callable[[], str] = lambda: ""   # what the guard did last, and why
        self._held_because = ""                 # that, when it was held
        self._on_board: dict[str, float] = {}   # parameters that were set and read back
        self._before: dict[str, int | float] = {}   # what they were, to be restored
        self._flown: list[np.ndarray] = []      # (n, 4) pieces
        self._length = 0.0
        self._last_report = -math.inf

    @property
    def state(self) -> FlightState:
        return self._state

    @property
    def flown(self) -> np.ndarray:
        """(N, 4) vehicle time in s and ENU metres, so far. From any thread."""
        return np.concatenate([np.empty((0, 4)), *self._flown])

    def leave(self) -> None:
        """End `run` at once, as FAILED, and leave the drone to its autopilot."""
        self._left.set()

    # the map

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

    # parameters

    def _set_in_flight(self, name: str, value: float) -> None:
        self._autopilot.set_parameter(name, value, self._config.parameter_timeout_s)
        self._on_board[name] = value

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

    # commands

    def _command(self, send) -> None:
        """Send without waiting for the effect, which `_follow` watches."""
        try:
            send()
        except AutopilotError as error:
            logger.warning("%s; will be tried again", error)

    def _insist(self, name: str, send, reached: Callable[[Telemetry], bool],
                over_gaps: bool = True) -> None:
        """Send until telemetry shows the effect: PX4 acknowledges what it then does not do.

        over_gaps : again, too, if there was no answer; not where the autopilot may meanwhile do
            what its failsafe says, which was to be overridden then

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
                if isinstance(error, LinkError) and not over_gaps:
                    raise
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
        held = [-math.inf]      # wall

        def good(t):
            flying = t.armed and t.in_air   # what arming needs does not matter any more
            if not flying and t.failing == ("arming checks",) and t.flight_mode not in ("", HOLD) \
                    and time.monotonic() - held[0] > self._config.mode_timeout_s:
                # In return, land or a mode for sticks, where another ground station left it, PX4
                # does not arm, and does not say why.
                held[0] = time.monotonic()
                self._command(self._autopilot.hold)
            return (flying or t.healthy and t.health_wall_s > told_after_s) and not self._lacks(t)

        try:
            self._wait(good, self._config.health_timeout_s, lambda: "")
        except RefusedError:
            raise RefusedError(self._why_unhealthy()) from None

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
        problems: tuple[str, ...] = ()
        if self._autopilot.snapshot.link_age_s < self._config.link_timeout_s:
            try:
                problems = self._autopilot.arming_problems()
            except AutopilotError as error:
                logger.info("%s", error)
        t = self._autopilot.snapshot
        lacks = dict.fromkeys((*t.failing, *self._lacks(t), *problems))
        return (f"not ready to fly after {self._config.health_timeout_s:g} s: "
                f"{', '.join(lacks)}{t.last_words}; see to it, or wait and try again")

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

    def _happened(self, event: FlightEvent) -> None:
        self._state = after(self._state, event)
        if event is FlightEvent.PAUSED:
            self._held_because = self._explain()
        logger.info("%s%s", self._state.value, f": {self._reason}" if self._reason else "")
        self._report(self._autopilot.snapshot)

    def _check_cancelled(self) -> None:
        """Raises what ends the flight if the caller wants none and it has not begun."""
        raise NotImplementedError

    def _report(self, t: Telemetry) -> None:
        """Tell the caller how it stands."""
        raise NotImplementedError
