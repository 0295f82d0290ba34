"""The ways home and down, as the newest map has them."""

from __future__ import annotations

import logging
import math
import time

import numpy as np

from parallel_city_ros.errors import AutopilotError, RefusedError
from parallel_city_ros.flight import checks
from parallel_city_ros.flight.handling import Handling
from parallel_city_ros.flight.mission import return_parameters
from parallel_city_ros.flight.outcome import FlightStatus
from parallel_city_ros.flight.state import HOLD, LAND, FlightEvent, FlightState
from parallel_city_ros.flight.telemetry import Telemetry

logger = logging.getLogger(__name__)

READ_AGAIN_S = 0.5      # wall, that a return may wait for a parameter
STOPPING_S = 3.0        # vehicle, by which a drone may have gone on before it turns


class Homecoming(Handling):
    """Returns and landings, by our order or the autopilot's own. See PatrolFlight."""

    def _begin(self) -> None:
        self._status = FlightStatus.COMPLETED   # unless something else comes up
        self._turned_back_at = math.nan
        self._asked_at = -math.inf      # wall, of the newest correction of a mode
        self._look_again_at = math.inf  # wall, at a map whose return altitude was not set

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
        self._moved = (self._turned_back_at, None)      # it has a while to begin
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

    def _conclude(self, status: FlightStatus, reason: str) -> None:
        """The first cause is what counts, a landing asked for on the way home what happens."""
        if self._status is FlightStatus.COMPLETED:
            self._status, self._reason = status, reason
        elif status is FlightStatus.LANDED_EARLY:
            self._status, self._reason = status, f"{self._reason}; {reason}"

    # the way home on the newest map

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
        self._read_return_altitude()
        here = self._position(t)
        stop = here + np.array(t.velocity) * STOPPING_S
        places = np.vstack([here, np.where(np.isfinite(stop), stop, here)])
        return self._raise_return(places) and self._raise_return(here[None])

    def _read_return_altitude(self) -> None:
        """Another ground station may have changed it."""
        before = self._on_board["RTL_RETURN_ALT"]
        try:
            now = self._autopilot.get_parameter("RTL_RETURN_ALT", float, READ_AGAIN_S)
        except AutopilotError as error:
            logger.info("%s; taken for %.0f m, as it was set", error, before)
            return
        if abs(now - before) > 0.1:
            logger.warning("somebody else set the return altitude from %.1f to %.1f m", before,
                           now)
            self._on_board["RTL_RETURN_ALT"] = now

    def _raise_return(self, places: np.ndarray) -> str:
        """Raise the return altitude if a way home from the places needs it.

        Returns
        -------
        "", or why it is too low. It is said at the end of the flight too and, in the air,
        tried again.
        """
        self._low_return = ""
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
            self._low_return = (
                f"the way home needs a return altitude of {altitude:.0f} m since map update "
                f"{self._grid.map_update}, set is {low:.0f} m ({error})")
            self._look_again_at = time.monotonic() + self._config.mode_timeout_s
            return self._low_return
        logger.info("return altitude raised from %.0f to %.0f m", low, altitude)
        return ""
