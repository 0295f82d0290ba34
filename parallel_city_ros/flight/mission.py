"""What is sent to the autopilot before a flight: mission items and parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.flight.config import LINK_LOSS_ACTIONS, FlightConfig
from parallel_city_ros.flight.guidance import Limits
from parallel_city_ros.flight.rehearsal import SLOWEST, rehearse
from parallel_city_ros.geo import LocalFrame

WAYPOINT, LAND, TAKEOFF, CHANGE_SPEED = 16, 21, 22, 178     # MAV_CMD
PHOTO, GIMBAL, GIMBAL_CONTROL = 2000, 1000, 1001
GLOBAL_RELATIVE_ALT_INT, NO_FRAME = 6, 2                    # MAV_FRAME
NADIR_DEG = -90.0
LEVEL_GIMBAL = 12       # GIMBAL_MANAGER_FLAGS: roll and pitch by the horizon, yaw by the nose
ITSELF, UNCHANGED = -2.0, -1.0      # who controls the gimbal: the autopilot, in a mission


@dataclass(frozen=True)
class MissionItem:
    """One MISSION_ITEM_INT: x and y in degrees · 10⁷, z in metres above home; NaN: unset."""

    command: int
    frame: int
    params: tuple[float, float, float, float]
    x: int = 0
    y: int = 0
    z: float = 0.0

    def same_as(self, other: MissionItem) -> bool:
        """Whether an autopilot that stored this may return the other.

        PX4 keeps degrees as doubles, heights as floats, all parameters of an item without a
        place, and of one with a place none that it does not use.
        """
        if self.command != other.command or self.frame != other.frame:
            return False
        if self.frame == NO_FRAME and not all(
                abs(a - b) < 1e-3 or math.isnan(a) for a, b in zip(
                    self.params, other.params, strict=True)):
            return False
        return (abs(self.x - other.x) <= 1 and abs(self.y - other.y) <= 1
                and abs(self.z - other.z) < 1e-2)


def patrol_mission(path: np.ndarray, home: np.ndarray, frame: LocalFrame, config: FlightConfig,
                   goal_ground: float | None = None, time_step_s: float = math.inf,
                   tube_radius: float = math.inf, limits: Limits | None = None
                   ) -> list[MissionItem]:
    """Take-off at home to the height of the start, the path, landing below its last point.

    Yaw is left to the autopilot, which looks where it flies: one that is given makes PX4 wait
    at each waypoint until it points there. `waypoint_items` says where the path is in it.

    path : (N, 3), home : (3,) ENU metres of the map frame; home z is the twin's ground.
    goal_ground : z of the ground at its end; None: as home
    time_step_s : of the plan, from one point to the next, where speeds are planned
    tube_radius, limits : m that it may leave its legs by, and those of the drone's PX4; see
    leg_speeds
    """
    path = np.asarray(path, float)
    nan = math.nan

    def place(command, enu, params):
        lat, lon, _ = frame.to_wgs84(enu)
        return MissionItem(command, GLOBAL_RELATIVE_ALT_INT, params, int(round(lat * 1e7)),
                           int(round(lon * 1e7)), float(np.float32(enu[2] - home[2])))

    def speed(metres_s):
        return MissionItem(CHANGE_SPEED, NO_FRAME, (1.0, float(np.float32(metres_s)), -1.0, 0.0))

    items = [place(TAKEOFF, (home[0], home[1], path[0, 2]), (0.0, 0.0, 0.0, nan))]
    if config.gimbal != "none":
        pitch = NADIR_DEG if config.gimbal == "nadir" else config.gimbal_tilt_deg
        items += [MissionItem(GIMBAL_CONTROL, NO_FRAME, (ITSELF, ITSELF, UNCHANGED, UNCHANGED)),
                  MissionItem(GIMBAL, NO_FRAME, (pitch, 0.0, nan, nan), x=LEVEL_GIMBAL)]
    speeds = leg_speeds(path, config, time_step_s, tube_radius, limits)
    for k, point in enumerate(path):
        if k == 0 or speeds[k] != speeds[k - 1]:
            items.append(speed(speeds[k]))
        items.append(place(WAYPOINT, point, (0.0, config.acceptance_radius, 0.0, nan)))
        if config.photos == "waypoints":    # one, by all cameras
            items.append(MissionItem(PHOTO, NO_FRAME, (0.0, 0.0, 1.0, 0.0)))
    return [*items, place(LAND, (*path[-1, :2], home[2] if goal_ground is None else goal_ground),
                          (0.0, 0.0, 0.0, nan))]


def leg_speeds(path: np.ndarray, config: FlightConfig, time_step_s: float,
               tube_radius: float = math.inf, limits: Limits | None = None) -> np.ndarray:
    """(N,) m/s of the leg to each of the (N, 3) points; the first comes from home.

    Slower than configured where PX4 would leave the tube.
    """
    path = np.asarray(path, float)
    speeds = np.full(len(path), config.cruise_speed)
    if config.speeds == "plan":
        planned = np.linalg.norm(np.diff(path, axis=0), axis=1) / time_step_s
        slowest = min(SLOWEST, config.cruise_speed)
        # Rounded, as equal ones in a row are one command.
        speeds[1:] = np.clip(np.round(planned, 2), slowest, config.cruise_speed)
    if math.isinf(tube_radius):
        return speeds
    return rehearse(path, speeds, config.acceptance_radius, tube_radius, limits).speeds


def waypoint_items(items: list[MissionItem]) -> np.ndarray:
    """(N,) index of the item of each point of the path."""
    return np.array([i for i, item in enumerate(items) if item.command == WAYPOINT])


def same_missions(ours: list[MissionItem], stored: list[MissionItem]) -> bool:
    return len(ours) == len(stored) and all(
        a.same_as(b) for a, b in zip(ours, stored, strict=True))


def autopilot_parameters(path: np.ndarray, home: np.ndarray, return_altitude: float,
                         config: FlightConfig) -> dict[str, int | float]:
    """PX4 parameters of this flight. An int is PX4's INT32, a float its FLOAT.

    return_altitude : m above home, above every building on any way home
    """
    return {
        **return_parameters(path, home, return_altitude, config),
        "RTL_TYPE": 0,                  # straight home
        "RTL_CONE_ANG": 0,              # at 45, the default, it comes home lower than that
        "RTL_LAND_DELAY": 0.0,          # and lands there
        "NAV_DLL_ACT": LINK_LOSS_ACTIONS[config.link_loss_action],
        "NAV_RCL_ACT": 2,               # remote control lost in flight: return
        "COM_LOW_BAT_ACT": 3,           # critical: return; emergency: land
        "COM_DISARM_LAND": 2.0,         # s
        "NAV_ACC_RAD": config.acceptance_radius,
        "MPC_XY_CRUISE": config.cruise_speed,
        "MPC_YAW_MODE": 0,              # nose towards the waypoint
        "GF_ACTION": 3,                 # outside: return
    }


def return_parameters(path: np.ndarray, home: np.ndarray, return_altitude: float,
                      config: FlightConfig) -> dict[str, float]:
    """Those that depend on home and on the newest map, in the order in which to raise them: the
    return altitude is never above the fence."""
    path = np.asarray(path, float)
    reach = float(np.hypot(*(path[:, :2] - home[:2]).T).max())
    height = max(float((path[:, 2] - home[2]).max()), return_altitude)
    return {
        "GF_MAX_HOR_DIST": _upwards(reach + config.fence_margin),
        "GF_MAX_VER_DIST": _upwards(height + config.fence_margin),
        "RTL_RETURN_ALT": _upwards(return_altitude),
    }


def _upwards(metres: float) -> float:
    """To a decimetre: no checked height becomes lower."""
    return math.ceil(round(metres * 10, 6)) / 10
