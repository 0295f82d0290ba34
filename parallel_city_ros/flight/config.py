"""How patrols are flown. Becomes ROS parameters, YAML keys and command-line flags one to one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parallel_city_ros.settings import check, require, setting

if TYPE_CHECKING:
    from parallel_city_ros.patrol.task import Drone

LINK_LOSS_ACTIONS = {"continue": 0, "hold": 1, "return": 2, "land": 3}     # NAV_DLL_ACT
BLOCKED_ACTIONS = ("return", "land", "pause")
SPEEDS = ("cruise", "plan")
PHOTOS = ("off", "waypoints")
GIMBALS = ("none", "nadir", "tilt")
GUARD_ACTIONS = ("warn", "pause", "return", "land")     # the later, the stronger


def _action(default: str, description: str):
    return setting(default, f"what the guard does {description}", choices=GUARD_ACTIONS)


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What the guard takes for a breach, and what it does then."""

    enabled: bool = setting(True, "whether a guard watches beside the executor")
    period_s: float = setting(0.05, "s wall, between two looks", above=0, high=1)
    deviation_m: float = setting(
        3.0, "m, from the certified tube, for the noise of positions", low=0, high=50)
    deviation_action: str = _action("return", "when the drone leaves its corridor")
    clearance_action: str = _action("return", "when something on the newest map is too near")
    fence_action: str = _action("return", "outside fence_margin around the mission")
    battery_action: str = _action("return", "when what is left is just enough to come home")
    battery_margin: float = setting(1.3, "times the energy that coming home needs", low=1, high=5)
    battery_landing_percent: float = setting(
        10.0, "%, to be left after landing at home", low=0, high=90)
    endurance_s: float = setting(
        0.0, "s, hover with a full battery; 0: the endurance of the plan's drone", low=0)
    wind_speed: float = setting(
        4.0, "m/s, against it on its way home, if the drone tells no stronger", low=0, high=20)
    link_action: str = _action("return", "after link_timeout_s without telemetry")
    estimator_s: float = setting(2.0, "s wall, of a position that is not good", low=0)
    estimator_action: str = _action("land", "when the drone does not know where it is")
    jump_m: float = setting(
        15.0, "m, farther than it can have flown since its last position", above=0)
    time_action: str = _action("return", "after max_flight_s")

    def __post_init__(self):
        check(self)

    def endurance_of(self, drone: Drone) -> float:
        """Seconds of hover with a full battery."""
        return self.endurance_s or drone.endurance_s


@dataclass(frozen=True, kw_only=True)
class FlightConfig:
    """Deadlines say which clock they mean: wall, or vehicle, which a simulation speeds up."""

    address: str = setting(
        "udpin://127.0.0.1:14540", "MAVSDK connection; PX4 SITL sends to port 14540 + instance")
    system_id: int = setting(0, "MAVLink system id that the drone must have; 0: any", low=0,
                             high=255)
    cruise_speed: float = setting(8.0, "m/s, on straight legs", above=0, high=20)
    speeds: str = setting(
        "cruise", "of the legs: cruise_speed, or plan: so that each takes the plan's time_step_s, "
        "but no faster than that; slower where PX4 would leave the certified tube",
        choices=SPEEDS)
    acceptance_radius: float = setting(
        3.0, "m, from a waypoint at which the next leg begins", low=0.05, high=200)
    photos: str = setting(
        "off", "by a camera that takes MAVLink commands: off, or at all waypoints", choices=PHOTOS)
    gimbal: str = setting(
        "none", "where it points to: nadir is down, tilt by gimbal_tilt_deg; none: left alone",
        choices=GIMBALS)
    gimbal_tilt_deg: float = setting(-45.0, "degrees from the horizon, up", low=-90, high=45)
    telemetry_rate_hz: float = setting(
        10.0, "Hz, positions per second of vehicle time", above=0, high=50)
    connect_timeout_s: float = setting(10.0, "s wall, until the autopilot answers", above=0)
    command_timeout_s: float = setting(
        10.0, "s wall, of one request to the autopilot", above=0)
    parameter_timeout_s: float = setting(
        3.0, "s wall, of a parameter that is changed in flight", above=0)
    health_timeout_s: float = setting(
        60.0, "s wall, until position and arming checks are good", above=0)
    upload_timeout_s: float = setting(
        60.0, "s wall, of the mission, each way", above=0)
    mode_timeout_s: float = setting(
        3.0, "s wall, until telemetry shows what was asked for; it tells once a second", above=0)
    retries: int = setting(3, "of arming or a mode change", low=0, high=100)
    takeoff_timeout_s: float = setting(
        120.0, "s vehicle, from arming to the first leg, then it returns", above=0)
    progress_timeout_s: float = setting(
        60.0, "s vehicle, without moving, then it returns", above=0)
    max_flight_s: float = setting(1800.0, "s vehicle, from arming, then it returns", above=0)
    return_timeout_s: float = setting(
        600.0, "s vehicle, from turning back to motors off, then it is given up", above=0)
    link_timeout_s: float = setting(
        5.0, "s wall, without telemetry, then it is told to return", above=0)
    link_wait_s: float = setting(120.0, "s wall, until a lost link is given up", above=0)
    link_loss_action: str = setting(
        "return", "of the autopilot itself when it hears nobody", choices=LINK_LOSS_ACTIONS)
    blocked_action: str = setting(
        "return", "when the rest of the route is built over in flight; pause waits for a free "
        "map, or for somebody who returns or lands it", choices=BLOCKED_ACTIONS)
    return_margin: float = setting(
        5.0, "m, over the clearance above every building on the way home", low=0)
    fence_margin: float = setting(
        50.0, "m, beyond the mission; crossing it makes the autopilot return", above=0)
    max_join_distance: float = setting(
        60.0, "m, from the drone to the beginning of a plan that replaces the rest of its own",
        above=0)
    max_home_distance: float = setting(500.0, "m, from home to the start of the plan", above=0)
    max_home_shift: float = setting(
        3.0, "m, level or in height, from the place that was checked to the home that the "
        "autopilot sets when it arms", above=0)
    min_battery_percent: float = setting(40.0, "%, to take off", above=0, high=100)
    reserve_battery_percent: float = setting(25.0, "%, below which it returns", low=0, high=100)
    battery_wh: float = setting(0.0, "Wh, energy of a full battery, 0: unknown", low=0)
    progress_period_s: float = setting(0.2, "s wall, between two reports", above=0)
    guard: GuardConfig = field(default_factory=GuardConfig)

    def __post_init__(self):
        check(self)
        require(bool(self.address), self, "address", "a MAVSDK connection address")
        require(self.reserve_battery_percent < self.min_battery_percent, self,
                "reserve_battery_percent", f"below min_battery_percent "
                f"({self.min_battery_percent:g})")
        require(self.link_timeout_s < self.link_wait_s, self, "link_timeout_s",
                f"below link_wait_s ({self.link_wait_s:g})")
