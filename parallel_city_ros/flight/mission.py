"""What is sent to the autopilot before a flight: mission items and parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.flight.config import LINK_LOSS_ACTIONS, FlightConfig
from parallel_city_ros.geo import LocalFrame

WAYPOINT, LAND, TAKEOFF, CHANGE_SPEED = 16, 21, 22, 178     # MAV_CMD
GLOBAL_RELATIVE_ALT_INT, NO_FRAME = 6, 2                    # MAV_FRAME
FIRST_WAYPOINT = 2      # index of the item of path[0]; take-off and speed come before


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

        PX4 keeps degrees as doubles, heights as floats, and no parameters that it does
        not use.
        """
        if self.command != other.command:
            return False
        if self.command == CHANGE_SPEED:
            return abs(self.params[1] - other.params[1]) < 1e-3
        return (abs(self.x - other.x) <= 1 and abs(self.y - other.y) <= 1
                and abs(self.z - other.z) < 1e-2 and self.frame == other.frame)


def patrol_mission(path: np.ndarray, home: np.ndarray, frame: LocalFrame,
                   config: FlightConfig, goal_ground: float | None = None) -> list[MissionItem]:
    """Take-off at home to the height of the start, the path, landing below its last point.

    path : (N, 3), home : (3,) ENU metres of the map frame; home z is the twin's ground.
    Item k + FIRST_WAYPOINT is path[k]. goal_ground : z of the ground at its end; None: as home
    """
    path = np.asarray(path, float)
    nan = float("nan")

    def place(command, enu, params):
        lat, lon, _ = frame.to_wgs84(enu)
        return MissionItem(command, GLOBAL_RELATIVE_ALT_INT, params, int(round(lat * 1e7)),
                           int(round(lon * 1e7)), float(np.float32(enu[2] - home[2])))

    return [
        place(TAKEOFF, (home[0], home[1], path[0, 2]), (0.0, 0.0, 0.0, nan)),
        MissionItem(CHANGE_SPEED, NO_FRAME, (1.0, config.cruise_speed, -1.0, 0.0)),
        *(place(WAYPOINT, point, (0.0, config.acceptance_radius, 0.0, nan)) for point in path),
        place(LAND, (*path[-1, :2], home[2] if goal_ground is None else goal_ground),
              (0.0, 0.0, 0.0, nan)),
    ]


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
