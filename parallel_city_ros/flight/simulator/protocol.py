"""The MAVLink microservices of the simulated autopilot, over one UDP socket."""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from pymavlink.dialects.v20 import common as mavlink

from parallel_city_ros.flight.simulator.autopilot import (
    POSITIONED,
    SUPPORTED,
    TAKE_PHOTO,
    TRIGGER_DISTANCE,
    Area,
    Item,
    Mode,
    Result,
    SimulatedPx4,
)
from parallel_city_ros.flight.simulator.radio import Radio
from parallel_city_ros.geo import yaw_enu_to_heading_deg

REBOOT_S = 3.0              # of vehicle time, without a word
# What stands still when telemetry is frozen; heartbeats and answers go on.
_FREEZES = ("ATTITUDE_QUATERNION", "GLOBAL_POSITION_INT", "ATTITUDE", "LOCAL_POSITION_NED",
            "GPS_RAW_INT", "ALTITUDE", "VFR_HUD", "SYSTEM_TIME")
MAX_WALL_RATE_HZ = 50.0     # of one message: MAVSDK loses callbacks when its user is slow
NO_MISSION = 65535          # MISSION_CURRENT.total
MISSION_LIMIT = 10_000      # items, as PX4 SITL
_MODES = {mode.value: mode for mode in Mode}
_FRAMES = (mavlink.MAV_FRAME_GLOBAL, mavlink.MAV_FRAME_GLOBAL_INT,
           mavlink.MAV_FRAME_GLOBAL_RELATIVE_ALT, mavlink.MAV_FRAME_GLOBAL_RELATIVE_ALT_INT)
_RELATIVE = _FRAMES[2:]
# inclusion, exclusion
_POLYGONS = (mavlink.MAV_CMD_NAV_FENCE_POLYGON_VERTEX_INCLUSION,
             mavlink.MAV_CMD_NAV_FENCE_POLYGON_VERTEX_EXCLUSION)
_CIRCLES = (mavlink.MAV_CMD_NAV_FENCE_CIRCLE_INCLUSION,
            mavlink.MAV_CMD_NAV_FENCE_CIRCLE_EXCLUSION)
_SENSORS = (mavlink.MAV_SYS_STATUS_SENSOR_3D_GYRO | mavlink.MAV_SYS_STATUS_SENSOR_3D_ACCEL
            | mavlink.MAV_SYS_STATUS_SENSOR_3D_MAG | mavlink.MAV_SYS_STATUS_SENSOR_GPS
            | mavlink.MAV_SYS_STATUS_SENSOR_ABSOLUTE_PRESSURE)
_CAPABILITIES = (
    mavlink.MAV_PROTOCOL_CAPABILITY_MISSION_INT | mavlink.MAV_PROTOCOL_CAPABILITY_COMMAND_INT
    | mavlink.MAV_PROTOCOL_CAPABILITY_PARAM_ENCODE_BYTEWISE
    | mavlink.MAV_PROTOCOL_CAPABILITY_MISSION_FENCE
    | mavlink.MAV_PROTOCOL_CAPABILITY_MISSION_RALLY | mavlink.MAV_PROTOCOL_CAPABILITY_MAVLINK2
    | mavlink.MAV_PROTOCOL_CAPABILITY_SET_POSITION_TARGET_GLOBAL_INT
    | mavlink.MAV_PROTOCOL_CAPABILITY_FLIGHT_TERMINATION)


@dataclass
class _Stream:
    """A message sent by itself, every so many seconds of vehicle time; 0: not."""

    build: Callable[[], object]
    interval_s: float
    due_s: float = 0.0


@dataclass
class _Upload:
    """A mission that is arriving."""

    count: int
    sender: tuple[int, int]
    items: list
    asked_at: float     # wall


class MavlinkServer:
    """Speaks MAVLink 2 as PX4 on its onboard link.

    Parameters
    ----------
    remote : (host, port)
        Where the ground station or companion listens.
    system_id : int
        PX4 uses instance + 1.
    speed_factor : float
        Vehicle seconds per wall second; it caps the rates of streams.
    also : (host, port) pairs
        Other ground stations.
    silent : bool
        Hear everything, say nothing.
    """

    def __init__(self, autopilot: SimulatedPx4, sock: socket.socket, remote: tuple[str, int],
                 *, system_id: int = 1, speed_factor: float = 1.0, silent: bool = False,
                 also: tuple = ()):
        self.autopilot = autopilot
        self.radio = Radio(sock, (remote, *also), seed=system_id)
        self._silent = silent
        self.frozen = False         # positions and attitudes do not change any more
        self._frozen_at: dict = {}
        self._booting_until = 0.0   # wall, and nothing is said or heard
        self._link = mavlink.MAVLink(self, srcSystem=system_id, srcComponent=1)
        self._link.robust_parsing = True
        self.pace(speed_factor)
        self._heard_station: float | None = None    # wall
        self._stored: dict[int, list] = {kind: [] for kind in (
            mavlink.MAV_MISSION_TYPE_MISSION, mavlink.MAV_MISSION_TYPE_FENCE,
            mavlink.MAV_MISSION_TYPE_RALLY)}
        self._uploads: dict[int, _Upload] = {}
        self._streams = {
            mavlink.MAVLINK_MSG_ID_HEARTBEAT: _Stream(self._heartbeat, 1.0),
            mavlink.MAVLINK_MSG_ID_SYS_STATUS: _Stream(self._sys_status, 1.0),
            mavlink.MAVLINK_MSG_ID_EXTENDED_SYS_STATE: _Stream(self._extended_sys_state, 1.0),
            mavlink.MAVLINK_MSG_ID_BATTERY_STATUS: _Stream(self._battery_status, 2.0),
            # Attitude before position: its time stamp is the position's.
            mavlink.MAVLINK_MSG_ID_ATTITUDE_QUATERNION: _Stream(self._attitude_quaternion, 0.1),
            mavlink.MAVLINK_MSG_ID_GLOBAL_POSITION_INT: _Stream(self._global_position, 0.1),
            mavlink.MAVLINK_MSG_ID_ATTITUDE: _Stream(self._attitude, 0.5),
            mavlink.MAVLINK_MSG_ID_LOCAL_POSITION_NED: _Stream(self._local_position, 0.5),
            mavlink.MAVLINK_MSG_ID_GPS_RAW_INT: _Stream(self._gps_raw, 1.0),
            mavlink.MAVLINK_MSG_ID_ALTITUDE: _Stream(self._altitude, 1.0),
            mavlink.MAVLINK_MSG_ID_VFR_HUD: _Stream(self._vfr_hud, 1.0),
            mavlink.MAVLINK_MSG_ID_HOME_POSITION: _Stream(self._home_position, 2.0),
            mavlink.MAVLINK_MSG_ID_MISSION_CURRENT: _Stream(self._mission_current, 1.0),
            mavlink.MAVLINK_MSG_ID_SYSTEM_TIME: _Stream(self._system_time, 1.0),
            mavlink.MAVLINK_MSG_ID_ESTIMATOR_STATUS: _Stream(self._estimator_status, 2.0),
            mavlink.MAVLINK_MSG_ID_WIND_COV: _Stream(self._wind, 2.0),
        }
        if autopilot.city is not None:
            self._streams |= {
                mavlink.MAVLINK_MSG_ID_DISTANCE_SENSOR: _Stream(self._distance_below, 0.1),
                mavlink.MAVLINK_MSG_ID_OBSTACLE_DISTANCE: _Stream(self._obstacles, 0.1)}
        self._on_request = {
            mavlink.MAVLINK_MSG_ID_AUTOPILOT_VERSION: self._autopilot_version,
            mavlink.MAVLINK_MSG_ID_GPS_GLOBAL_ORIGIN: self._gps_origin,
        }
        self._handlers = {
            "HEARTBEAT": self._on_heartbeat,
            "PING": self._on_ping,
            "COMMAND_LONG": self._on_command_long,
            "COMMAND_INT": self._on_command_int,
            "PARAM_REQUEST_READ": self._on_param_read,
            "PARAM_REQUEST_LIST": self._on_param_list,
            "PARAM_SET": self._on_param_set,
            "MISSION_COUNT": self._on_mission_count,
            "MISSION_ITEM_INT": self._on_mission_item,
            "MISSION_REQUEST_LIST": self._on_mission_list,
            "MISSION_REQUEST_INT": self._on_mission_request,
            "MISSION_REQUEST": self._on_mission_request,
            "MISSION_CLEAR_ALL": self._on_mission_clear,
            "MISSION_SET_CURRENT": self._on_mission_set_current,
            "SET_POSITION_TARGET_LOCAL_NED": self._on_setpoint,
            "SET_POSITION_TARGET_GLOBAL_INT": self._on_global_setpoint,
        }

    def pace(self, speed_factor: float) -> None:
        """speed_factor : vehicle seconds per wall second from now on"""
        self._speed_factor = speed_factor
        self._shortest_s = speed_factor / MAX_WALL_RATE_HZ

    # the socket

    def write(self, packet: bytes) -> None:
        """pymavlink's way out."""
        if not self._silent and time.monotonic() >= self._booting_until:
            self.radio.send(packet)

    def reboot(self) -> None:
        """The autopilot starts anew and is silent meanwhile."""
        self._booting_until = time.monotonic() + REBOOT_S / self._speed_factor
        self.autopilot.reboot()
        self._uploads.clear()
        for stream in self._streams.values():
            stream.due_s = 0.0

    def receive(self) -> None:
        """Handle everything that has arrived."""
        for data in self.radio.receive():
            if time.monotonic() < self._booting_until:
                continue
            for message in self._link.parse_buffer(data) or ():
                handler = self._handlers.get(message.get_type())
                target = getattr(message, "target_system", 0)
                if handler and target in (0, self._link.srcSystem):
                    handler(message)

    def publish(self) -> None:
        """Send what is due at the autopilot's time, and what it has to say."""
        now = self.autopilot.time_s
        for stream in self._streams.values():
            if stream.interval_s > 0 and now >= stream.due_s:
                stream.due_s = max(stream.due_s + max(stream.interval_s, self._shortest_s), now)
                message = stream.build()
                if self.frozen and message is not None and message.get_type() in _FREEZES:
                    message = self._frozen_at.setdefault(message.get_type(), message)
                if message is not None:
                    self._link.send(message)
        while self.autopilot.texts:
            severity, text = self.autopilot.texts.popleft()
            self._link.statustext_send(int(severity), text.encode()[:50])
        while self.autopilot.photos:
            self._tell_photo(self.autopilot.photos.popleft())
        while self.autopilot.reached:
            self._link.mission_item_reached_send(self.autopilot.reached.popleft())
            self._link.send(self._mission_current())

    def _tell_photo(self, place) -> None:
        lat, lon, alt = self._lat_lon_alt(place)
        number = self.autopilot.photo_count
        self._link.camera_trigger_send(self._ms * 1000, number)
        self._link.camera_image_captured_send(
            self._ms, 0, 1, lat, lon, alt, int(place[2] * 1000), [1.0, 0.0, 0.0, 0.0], number, 1,
            b"")

    def tick_wall(self) -> None:
        """What depends on wall time: age of the link, uploads that stopped half way."""
        now = time.monotonic()
        if self._heard_station is not None:
            self.autopilot.link_age_s = now - self._heard_station
        for kind, upload in list(self._uploads.items()):
            if now - upload.asked_at > 1.0:     # ask once more for the missing item
                upload.asked_at = now
                self._link.mission_request_int_send(*upload.sender, len(upload.items), kind)

    # telemetry

    @property
    def _ms(self) -> int:
        return int(round(self.autopilot.time_s * 1000))

    def _lat_lon_alt(self, point=None):
        """Degrees E7 and millimetres above mean sea level."""
        lat, lon, alt = self.autopilot.frame.to_wgs84(
            self.autopilot.position if point is None else point)
        return int(round(lat * 1e7)), int(round(lon * 1e7)), int(round(alt * 1e3))

    def _velocity_ned(self):
        e, n, u = self.autopilot.vehicle.velocity
        return n, e, -u

    def _heading(self) -> float:
        """Radians clockwise from north, in (-pi, pi]."""
        return math.remainder(math.radians(yaw_enu_to_heading_deg(self.autopilot.vehicle.yaw)),
                              2 * math.pi)

    def _heartbeat(self):
        a = self.autopilot
        base = mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | mavlink.MAV_MODE_FLAG_STABILIZE_ENABLED
        if a.mode.value[0] == 4:
            base |= mavlink.MAV_MODE_FLAG_AUTO_ENABLED | mavlink.MAV_MODE_FLAG_GUIDED_ENABLED
        if a.armed:
            base |= mavlink.MAV_MODE_FLAG_SAFETY_ARMED
        state = mavlink.MAV_STATE_ACTIVE if a.armed else (
            mavlink.MAV_STATE_STANDBY if a.ready else mavlink.MAV_STATE_BOOT)
        return mavlink.MAVLink_heartbeat_message(
            mavlink.MAV_TYPE_QUADROTOR, mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA
            if a.faults.ardupilot else mavlink.MAV_AUTOPILOT_PX4, base, a.mode.custom_mode,
            state, 3)

    def _sys_status(self):
        a, vehicle = self.autopilot, self.autopilot.vehicle
        health = _SENSORS if a.ready and a.gps else _SENSORS & ~mavlink.MAV_SYS_STATUS_SENSOR_GPS
        if a.armed or not a.arming_refusal():
            health |= mavlink.MAV_SYS_STATUS_PREARM_CHECK
        return mavlink.MAVLink_sys_status_message(
            _SENSORS | mavlink.MAV_SYS_STATUS_PREARM_CHECK,
            _SENSORS | mavlink.MAV_SYS_STATUS_PREARM_CHECK, health, 200,
            int(vehicle.voltage * 1000), int(vehicle.current * 100),
            int(math.ceil(vehicle.battery_percent)), 0, 0, 0, 0, 0, 0)

    def _extended_sys_state(self):
        return mavlink.MAVLink_extended_sys_state_message(
            mavlink.MAV_VTOL_STATE_UNDEFINED, int(self.autopilot.landed_state))

    def _battery_status(self):
        vehicle = self.autopilot.vehicle
        cell = int(vehicle.voltage * 1000 / 4)
        used = vehicle.model.battery_wh - vehicle.energy_wh
        return mavlink.MAVLink_battery_status_message(
            0, mavlink.MAV_BATTERY_FUNCTION_ALL, mavlink.MAV_BATTERY_TYPE_LIPO, 2500,
            [cell] * 4 + [65535] * 6, int(vehicle.current * 100),
            int(used / vehicle.voltage * 1000), -1, int(math.ceil(vehicle.battery_percent)))

    def _attitude_quaternion(self):
        half = self._heading() / 2
        return mavlink.MAVLink_attitude_quaternion_message(
            self._ms, math.cos(half), 0.0, 0.0, math.sin(half), 0.0, 0.0, 0.0)

    def _attitude(self):
        return mavlink.MAVLink_attitude_message(self._ms, 0.0, 0.0, self._heading(),
                                                0.0, 0.0, 0.0)

    def _global_position(self):
        lat, lon, alt = self._lat_lon_alt()
        north, east, down = (int(round(v * 100)) for v in self._velocity_ned())
        return mavlink.MAVLink_global_position_int_message(
            self._ms, lat, lon, alt, int(round(self.autopilot.relative_altitude * 1000)),
            north, east, down, int(math.degrees(self._heading()) % 360 * 100))

    def _local_position(self):
        e, n, u = self.autopilot.position
        return mavlink.MAVLink_local_position_ned_message(self._ms, n, e, -u,
                                                          *self._velocity_ned())

    def _gps_raw(self):
        lat, lon, alt = self._lat_lon_alt()
        north, east, _ = self._velocity_ned()
        fixed = self.autopilot.time_s > 1 and self.autopilot.gps
        fix = mavlink.GPS_FIX_TYPE_3D_FIX if fixed else mavlink.GPS_FIX_TYPE_NO_FIX
        return mavlink.MAVLink_gps_raw_int_message(
            self._ms * 1000, fix, lat, lon, alt, 90, 120,
            int(math.hypot(north, east) * 100),
            int(math.degrees(math.atan2(east, north)) % 360 * 100), 12)

    def _altitude(self):
        a = self.autopilot
        up, origin = a.position[2], a.frame.altitude_m
        return mavlink.MAVLink_altitude_message(
            self._ms * 1000, origin + up, origin + up, up, a.relative_altitude, up, up)

    def _vfr_hud(self):
        north, east, down = self._velocity_ned()
        speed, a = math.hypot(north, east), self.autopilot
        return mavlink.MAVLink_vfr_hud_message(
            speed, speed, int(math.degrees(self._heading()) % 360), 50 if a.armed else 0,
            a.frame.altitude_m + a.position[2], -down)

    def _home_position(self):
        """None until there is one."""
        if not self.autopilot.home_count:
            return None
        lat, lon, alt = self._lat_lon_alt(self.autopilot.home)
        east, north, up = self.autopilot.home
        return mavlink.MAVLink_home_position_message(
            lat, lon, alt, north, east, -up, [1.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.0, self._ms * 1000)

    def _mission_current(self):
        a = self.autopilot
        state = 1 if not a.mission else (5 if a.mission_finished else (
            3 if a.mode is Mode.MISSION else 2))    # MISSION_STATE
        return mavlink.MAVLink_mission_current_message(
            a.current, len(a.mission) or NO_MISSION, state, int(a.mode is Mode.MISSION))

    def _system_time(self):
        return mavlink.MAVLink_system_time_message(self._ms * 1000, self._ms)

    def _estimator_status(self):
        a = self.autopilot
        flags = 831 if a.ready and a.position_good else int(a.ready)    # all, or attitude only
        return mavlink.MAVLink_estimator_status_message(
            self._ms * 1000, flags, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.3, 0.4)

    def _wind(self):
        """As estimated: the mean, without gusts."""
        east, north = self.autopilot.vehicle.wind
        return mavlink.MAVLink_wind_cov_message(
            self._ms * 1000, north, east, 0.0, 0.3, 0.3,
            self.autopilot.frame.altitude_m + self.autopilot.position[2], 0.5, 0.5)

    def _distance_below(self):
        """What really is below, as a laser tells it; the maximum and 1 cm where nothing is."""
        vehicle, reach = self.autopilot.vehicle, self.autopilot.city.reach_below
        return mavlink.MAVLink_distance_sensor_message(
            self._ms, 20, int(reach * 100), _centimetres(self.autopilot.city.below(
                vehicle.position), reach), mavlink.MAV_DISTANCE_SENSOR_LASER, 0,
            mavlink.MAV_SENSOR_ROTATION_PITCH_270, 255)

    def _obstacles(self):
        """What really stands around, clockwise from the nose."""
        vehicle, city = self.autopilot.vehicle, self.autopilot.city
        metres = city.around(vehicle.position, vehicle.yaw)
        return mavlink.MAVLink_obstacle_distance_message(
            self._ms * 1000, mavlink.MAV_DISTANCE_SENSOR_LASER,
            [_centimetres(d, city.reach) for d in metres], 0, 20, int(city.reach * 100),
            360 / len(metres), 0.0, mavlink.MAV_FRAME_BODY_FRD)

    def _autopilot_version(self):
        version = 1 << 24 | 16 << 16 | 255      # 1.16.0, release
        return mavlink.MAVLink_autopilot_version_message(
            _CAPABILITIES, version, 0, version, 1, [0] * 8, [0] * 8, [0] * 8, 0, 0,
            self._link.srcSystem)

    def _gps_origin(self):
        return mavlink.MAVLink_gps_global_origin_message(*self._lat_lon_alt((0.0, 0.0, 0.0)),
                                                         self._ms * 1000)

    # commands

    def _on_heartbeat(self, message) -> None:
        if message.type == mavlink.MAV_TYPE_GCS:
            self._heard_station = time.monotonic()
            self.autopilot.link_age_s = 0.0

    def _on_setpoint(self, m) -> None:
        """Local NED; what the mask says to ignore is NaN."""
        def part(north, east, down, bits):
            ignored = m.type_mask & bits == bits
            return (math.nan,) * 3 if ignored else (east, north, -down)
        self.autopilot.offboard_setpoint(part(m.x, m.y, m.z, 0b111),
                                         part(m.vx, m.vy, m.vz, 0b111000))

    def _on_global_setpoint(self, m) -> None:
        """A place, its height above home or above mean sea level."""
        relative = m.coordinate_frame in _RELATIVE
        east, north, up = self._point(m.lat_int * 1e-7, m.lon_int * 1e-7, m.alt,
                                      relative=relative)
        self.autopilot.offboard_setpoint((east, north, up + self.autopilot.home[2] * relative),
                                         (math.nan,) * 3)

    def _on_ping(self, message) -> None:
        if message.target_system == 0:
            self._link.ping_send(message.time_usec, message.seq, message.get_srcSystem(),
                                 message.get_srcComponent())

    def _on_command_long(self, message) -> None:
        p = [getattr(message, f"param{i}") for i in range(1, 8)]
        self._command(message, p, (p[4], p[5], p[6]))

    def _on_command_int(self, message) -> None:
        p = [getattr(message, f"param{i}") for i in range(1, 5)] + [message.x, message.y,
                                                                    message.z]
        unset = (-2 ** 31, 2 ** 31 - 1)
        lat, lon = (math.nan if v in unset else v * 1e-7 for v in (message.x, message.y))
        self._command(message, p, (lat, lon, message.z))

    def _command(self, message, p: list[float], place) -> None:
        result, reply = self._obey(message.command, p, place)
        self._link.command_ack_send(message.command, int(result), 255, 0,
                                    message.get_srcSystem(), message.get_srcComponent())
        if reply is not None:
            self._link.send(reply)
        if message.command in (mavlink.MAV_CMD_COMPONENT_ARM_DISARM, mavlink.MAV_CMD_DO_SET_MODE,
                               mavlink.MAV_CMD_NAV_LAND, mavlink.MAV_CMD_NAV_TAKEOFF,
                               mavlink.MAV_CMD_NAV_RETURN_TO_LAUNCH):
            self._link.send(self._heartbeat())  # PX4 too tells a change of mode at once

    def _obey(self, command: int, p: list[float], place):
        """(MAV_RESULT, message to send after the acknowledgement or None)."""
        a = self.autopilot
        if command == mavlink.MAV_CMD_COMPONENT_ARM_DISARM:
            return (a.arm() if p[0] == 1 else a.disarm()), None
        if command == mavlink.MAV_CMD_DO_SET_MODE:
            mode = _MODES.get((int(p[1]), int(p[2])))
            return (a.set_mode(mode) if mode else Result.UNSUPPORTED), None
        if command == mavlink.MAV_CMD_NAV_TAKEOFF:
            return a.take_off(), None
        if command == mavlink.MAV_CMD_NAV_LAND:
            return a.set_mode(Mode.LAND), None
        if command == mavlink.MAV_CMD_NAV_RETURN_TO_LAUNCH:
            return a.set_mode(Mode.RETURN), None
        if command == mavlink.MAV_CMD_MISSION_START:
            return a.set_mode(Mode.MISSION), None
        if command == mavlink.MAV_CMD_DO_PAUSE_CONTINUE:
            return a.set_mode(Mode.HOLD if p[0] == 0 else Mode.MISSION), None
        if command == mavlink.MAV_CMD_DO_CHANGE_SPEED:
            return a.change_speed(p[1]), None
        if command == mavlink.MAV_CMD_DO_REPOSITION:
            return a.reposition(self._point(*place, relative=False)), None
        if command == mavlink.MAV_CMD_RUN_PREARM_CHECKS:
            a.explain_refusal()
            return Result.ACCEPTED, None
        if command == mavlink.MAV_CMD_DO_SET_MISSION_CURRENT:
            return (Result.ACCEPTED if a.set_current(int(p[0])) else Result.DENIED), None
        if command in TAKE_PHOTO:
            a.take_photo()
            return Result.ACCEPTED, None
        if command == TRIGGER_DISTANCE:
            a.trigger_every(p[0])
            return Result.ACCEPTED, None
        if command == mavlink.MAV_CMD_SET_MESSAGE_INTERVAL:
            return self._set_interval(int(p[0]), p[1]), None
        if command == mavlink.MAV_CMD_GET_MESSAGE_INTERVAL:
            stream = self._streams.get(int(p[0]))
            if stream is None:
                return Result.UNSUPPORTED, None
            return Result.ACCEPTED, mavlink.MAVLink_message_interval_message(
                int(p[0]), int(stream.interval_s * 1e6) or -1)
        if command == mavlink.MAV_CMD_REQUEST_MESSAGE:
            stream = self._streams.get(int(p[0]))
            build = stream.build if stream else self._on_request.get(int(p[0]))
            message = build() if build else None
            return (Result.ACCEPTED if message else Result.UNSUPPORTED), message
        if command == mavlink.MAV_CMD_REQUEST_AUTOPILOT_CAPABILITIES:
            return Result.ACCEPTED, self._autopilot_version()
        return Result.UNSUPPORTED, None

    def _set_interval(self, message_id: int, interval_us: float) -> Result:
        """-1 stops a stream; 0, the default rate, leaves it as it is."""
        stream = self._streams.get(message_id)
        if stream is None:
            return Result.UNSUPPORTED
        if interval_us != 0:
            stream.interval_s = max(interval_us, 0) * 1e-6
            stream.due_s = self.autopilot.time_s
        return Result.ACCEPTED

    def _point(self, lat: float, lon: float, alt: float, *, relative: bool):
        """Degrees and metres → [e, n, u] in the frame, or with u as it is; NaN stays NaN."""
        height = alt if relative else alt - self.autopilot.frame.altitude_m
        if math.isnan(lat) or math.isnan(lon):
            return math.nan, math.nan, height
        e, n, _ = self.autopilot.frame.to_enu(lat, lon)
        return float(e), float(n), float(height)

    # parameters: PX4 sends an INT32 as the bytes of the float

    def _send_param(self, name: str) -> None:
        params = self.autopilot.params
        value = params[name]
        kind = mavlink.MAV_PARAM_TYPE_REAL32
        if isinstance(value, int):
            kind = mavlink.MAV_PARAM_TYPE_INT32
            value = struct.unpack("<f", struct.pack("<i", value))[0]
        self._link.param_value_send(name.encode(), value, kind, len(params),
                                    list(params).index(name))

    def _on_param_read(self, message) -> None:
        names = list(self.autopilot.params)
        name = message.param_id if message.param_index < 0 else (
            names[message.param_index] if message.param_index < len(names) else "")
        if name in self.autopilot.params:
            self._send_param(name)

    def _on_param_list(self, _message) -> None:
        for name in self.autopilot.params:
            self._send_param(name)

    def _on_param_set(self, message) -> None:
        params, name = self.autopilot.params, message.param_id
        if name not in params:
            return      # as PX4: no answer
        faults = self.autopilot.faults
        locked = faults.stuck_params or faults.lock_params and self.autopilot.armed
        if isinstance(params[name], int) and not locked and \
                message.param_type == mavlink.MAV_PARAM_TYPE_INT32:
            params[name] = struct.unpack("<i", struct.pack("<f", message.param_value))[0]
        elif isinstance(params[name], float) and not locked and \
                message.param_type == mavlink.MAV_PARAM_TYPE_REAL32:
            params[name] = message.param_value
        self._send_param(name)

    # missions

    def _ack(self, message, kind: int, result: int) -> None:
        self._link.mission_ack_send(message.get_srcSystem(), message.get_srcComponent(), result,
                                    kind)

    def _on_mission_count(self, message) -> None:
        kind, sender = message.mission_type, (message.get_srcSystem(), message.get_srcComponent())
        if kind not in self._stored:
            self._ack(message, kind, mavlink.MAV_MISSION_UNSUPPORTED)
        elif message.count > MISSION_LIMIT:
            self._ack(message, kind, mavlink.MAV_MISSION_NO_SPACE)
        elif message.count == 0:
            self._store(kind, [])
            self._ack(message, kind, mavlink.MAV_MISSION_ACCEPTED)
        else:
            self._uploads[kind] = _Upload(message.count, sender, [], time.monotonic())
            self._link.mission_request_int_send(*sender, 0, kind)

    def _on_mission_item(self, message) -> None:
        kind = message.mission_type
        upload = self._uploads.get(kind)
        if upload is None:
            return
        if message.seq == len(upload.items):
            problem = self._unacceptable(message)
            if problem:
                del self._uploads[kind]
                self._ack(message, kind, problem)
                return
            upload.items.append(message)
        upload.asked_at = time.monotonic()
        if len(upload.items) < upload.count:
            self._link.mission_request_int_send(*upload.sender, len(upload.items), kind)
            return
        del self._uploads[kind]
        self._store(kind, upload.items)
        self._ack(message, kind, mavlink.MAV_MISSION_ACCEPTED)

    def _unacceptable(self, message) -> int:
        """MAV_MISSION_RESULT that refuses the item, 0 if it is fine."""
        if message.mission_type != mavlink.MAV_MISSION_TYPE_MISSION:
            fence = message.mission_type == mavlink.MAV_MISSION_TYPE_FENCE
            known = (*_POLYGONS, *_CIRCLES, mavlink.MAV_CMD_NAV_FENCE_RETURN_POINT) if fence \
                else (mavlink.MAV_CMD_NAV_RALLY_POINT,)
            return 0 if message.command in known else mavlink.MAV_MISSION_UNSUPPORTED
        if message.command not in SUPPORTED:
            return mavlink.MAV_MISSION_UNSUPPORTED
        if message.command in POSITIONED:
            if message.frame not in _FRAMES:
                return mavlink.MAV_MISSION_UNSUPPORTED_FRAME
            if abs(message.x) > 90e7:
                return mavlink.MAV_MISSION_INVALID_PARAM5_X
            if abs(message.y) > 180e7:
                return mavlink.MAV_MISSION_INVALID_PARAM6_Y
            if not math.isfinite(message.z):
                return mavlink.MAV_MISSION_INVALID_PARAM7
        return 0

    def _store(self, kind: int, messages: list) -> None:
        self._stored[kind] = messages
        if kind == mavlink.MAV_MISSION_TYPE_FENCE:
            self.autopilot.set_fence(self._areas(messages))
        elif kind == mavlink.MAV_MISSION_TYPE_RALLY:
            self.autopilot.set_rally([self._point(m.x * 1e-7, m.y * 1e-7, m.z, relative=True)
                                      for m in messages])
        if kind != mavlink.MAV_MISSION_TYPE_MISSION:
            return
        marked = [m.seq for m in messages if m.current]
        self.autopilot.set_mission([self._item(m) for m in messages], marked[0] if marked else 0)
        self._link.send(self._mission_current())

    def _areas(self, messages) -> list[Area]:
        """Polygons come as runs of vertices, each with their number; circles with a radius."""
        areas, run = [], []
        for m in messages:
            place = self._point(m.x * 1e-7, m.y * 1e-7, m.z, relative=True)[:2]
            if m.command in _CIRCLES:
                areas.append(Area((place,), m.command == _CIRCLES[0], m.param1))
            elif m.command in _POLYGONS:
                run.append(place)
                if len(run) == int(m.param1):
                    areas.append(Area(tuple(run), m.command == _POLYGONS[0]))
                    run = []
        return areas

    def _item(self, message) -> Item:
        point, relative = None, message.frame in _RELATIVE
        if message.command in POSITIONED:
            point = self._point(message.x * 1e-7, message.y * 1e-7, message.z, relative=relative)
        return Item(message.command, (message.param1, message.param2, message.param3,
                                      message.param4), point, relative)

    def _on_mission_list(self, message) -> None:
        kind = message.mission_type
        if kind not in self._stored:
            self._ack(message, kind, mavlink.MAV_MISSION_UNSUPPORTED)
            return
        self._link.mission_count_send(message.get_srcSystem(), message.get_srcComponent(),
                                      len(self._stored[kind]), kind)

    def _on_mission_request(self, message) -> None:
        items = self._stored.get(message.mission_type, [])
        if message.seq >= len(items):
            self._ack(message, message.mission_type, mavlink.MAV_MISSION_INVALID_SEQUENCE)
            return
        item = items[message.seq]
        self._link.mission_item_int_send(
            message.get_srcSystem(), message.get_srcComponent(), item.seq, item.frame,
            item.command, int(item.seq == self.autopilot.current), item.autocontinue,
            item.param1, item.param2, item.param3, item.param4, item.x, item.y, item.z,
            item.mission_type)

    def _on_mission_clear(self, message) -> None:
        kinds = list(self._stored) if message.mission_type == mavlink.MAV_MISSION_TYPE_ALL \
            else [message.mission_type]
        for kind in kinds:
            if kind in self._stored:
                self._store(kind, [])
        self._ack(message, message.mission_type, mavlink.MAV_MISSION_ACCEPTED)

    def _on_mission_set_current(self, message) -> None:
        if self.autopilot.set_current(message.seq):
            self._link.send(self._mission_current())
        else:
            self.autopilot.say(4, f"WPM: REJECTED: WP {message.seq} out of range")


def _centimetres(distance: float, reach: float) -> int:
    return int(min(distance, reach + 0.01) * 100)
