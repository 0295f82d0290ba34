"""How patrols are flown. Becomes ROS parameters, YAML keys and command-line flags one to one."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from parallel_city_ros.patrol.task import require

LINK_LOSS_ACTIONS = {"continue": 0, "hold": 1, "return": 2, "land": 3}     # NAV_DLL_ACT


@dataclass(frozen=True, kw_only=True)
class FlightConfig:
    """Deadlines say which clock they mean: wall, or vehicle (which a simulation speeds up)."""

    address: str = "udpin://127.0.0.1:14540"  # MAVSDK connection; 14540 + instance for PX4 SITL
    cruise_speed: float = 8.0               # m/s on straight legs
    acceptance_radius: float = 3.0          # m from a waypoint at which the next leg begins
    telemetry_rate_hz: float = 10.0         # positions per second of vehicle time
    connect_timeout_s: float = 10.0         # wall, until the autopilot answers
    health_timeout_s: float = 60.0          # wall, until position and checks are good
    command_timeout_s: float = 10.0         # wall, of one request to the autopilot
    upload_timeout_s: float = 60.0          # wall, of the mission there and back
    mode_timeout_s: float = 3.0             # wall, until telemetry shows a mode that was asked for
    takeoff_timeout_s: float = 120.0        # vehicle, from arming to the first leg
    progress_timeout_s: float = 60.0        # vehicle, without moving, then it returns
    max_flight_s: float = 1800.0            # vehicle, from arming, then it returns
    return_timeout_s: float = 600.0         # vehicle, from turning back to standing on the ground
    link_timeout_s: float = 5.0             # wall, without telemetry, then it is told to return
    link_wait_s: float = 120.0              # wall, until a lost link is given up
    retries: int = 3                        # of a mode change or of arming
    link_loss_action: str = "return"        # of the autopilot itself: continue, hold, return, land
    return_margin: float = 5.0              # m over the clearance above buildings on the way home
    fence_margin: float = 50.0              # m beyond the mission; crossing it makes it return
    max_home_distance: float = 500.0        # m from home to the start of the plan
    min_battery_percent: float = 40.0       # to take off
    reserve_battery_percent: float = 25.0   # below it, it returns
    battery_wh: float = 0.0                 # energy of a full battery, 0: unknown
    progress_period_s: float = 0.2          # wall, between two reports

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, float):
                least = 0 if f.name == "battery_wh" else 1e-9
                require(math.isfinite(value) and value >= least, self, f.name,
                        "a finite number above 0")
        require(bool(self.address), self, "address", "a MAVSDK connection address")
        require(0 <= self.retries <= 100, self, "retries", "from 0 to 100")
        require(self.link_loss_action in LINK_LOSS_ACTIONS, self, "link_loss_action",
                "one of " + ", ".join(LINK_LOSS_ACTIONS))
        require(self.min_battery_percent <= 100, self, "min_battery_percent", "at most 100")
        require(self.reserve_battery_percent < self.min_battery_percent, self,
                "reserve_battery_percent", f"below min_battery_percent "
                f"({self.min_battery_percent})")
