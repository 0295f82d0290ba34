"""What is known of a drone at one moment: an immutable snapshot."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

NAN = math.nan
FRESH_S = 20.0          # vehicle, in which a warning says something of the present
LAST_WORDS = 3


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """NaN, None or "" until the drone has told.

    Times of the drone are vehicle time, so that durations are right at any speed factor.
    """

    vehicle_time_s: float = NAN         # since its start, of the newest attitude
    latitude_deg: float = NAN
    longitude_deg: float = NAN
    absolute_altitude_m: float = NAN    # above mean sea level
    relative_altitude_m: float = NAN    # above home, which before arming may be an old one
    position_late: bool = False         # newer than vehicle_time_s
    position_wall_s: float = -math.inf  # time.monotonic() when it was last told
    velocity: tuple[float, float, float] = (NAN, NAN, NAN)  # ENU, m/s
    yaw: float = NAN                    # ENU, rad
    flight_mode: str = ""               # MAVSDK's name: "HOLD", "MISSION", "RETURN_TO_LAUNCH" …
    armed: bool = False
    landed_state: str = ""              # "ON_GROUND", "TAKING_OFF", "IN_AIR", "LANDING"
    healthy: bool = False               # all checks pass, and it may be armed
    failing: tuple[str, ...] = ("health not told yet",)
    health_wall_s: float = -math.inf    # time.monotonic() when it was last told
    battery_percent: float = NAN
    battery_voltage: float = NAN        # V
    wind: tuple[float, float] | None = None     # east, north m/s that the air moves; if told
    home: tuple[float, float, float] | None = None  # deg, deg, m above mean sea level
    home_wall_s: float = -math.inf      # time.monotonic() when it was last told
    mission_current: int = -1           # item that is flown to
    mission_total: int = -1             # items on board; -1: not told
    mission_id: int = 0                 # of the items on board, if the autopilot tells
    mission_wall_s: float = -math.inf   # time.monotonic() when it was last told
    restarts: int = 0                   # of the autopilot since it was connected to
    status_texts: tuple[str, ...] = ()  # the last few, newest last
    alerts: tuple[tuple[float, str], ...] = ()  # of them the warnings, with their vehicle time
    last_message_wall_s: float = -math.inf  # time.monotonic() of the newest attitude

    @property
    def in_air(self) -> bool:
        return self.landed_state in ("TAKING_OFF", "IN_AIR", "LANDING")

    @property
    def height_m(self) -> float:
        """Above the ground that it stands on, or took off from.

        PX4 sets home where it arms: until then relative_altitude_m is above the place of an
        earlier take-off.
        """
        standing = self.landed_state == "ON_GROUND" and not self.armed
        return 0.0 if standing else self.relative_altitude_m

    @property
    def link_age_s(self) -> float:
        """Wall seconds since the drone's clock was last seen to go on."""
        return time.monotonic() - self.last_message_wall_s

    @property
    def last_words(self) -> str:
        """Its newest warnings in quotes, for messages; "" if there are none. The cause often
        comes before what is done about it."""
        fresh = [text for time_s, text in self.alerts
                 if not self.vehicle_time_s - time_s > FRESH_S]
        return f' (it says: "{"; ".join(dict.fromkeys(fresh[-LAST_WORDS:]))}")' if fresh else ""
