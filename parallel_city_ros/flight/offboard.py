"""Setpoints for offboard mode, streamed by a process of its own that has a dead man's switch.

PX4 flies in offboard mode only while setpoints come, and does what COM_OBL_RC_ACT says
COM_OF_LOSS_T after the last one. By default that is position mode, in which PX4 v1.16 sinks to
the ground if nobody is at the sticks: whoever engages has it return instead. What streams the
setpoints must stop when whoever decides is gone, hangs or is late; a thread that goes on by
itself would fly the last setpoint for ever. The child ends after LATE_S without a new one, and
for good: who comes back late finds that out by an error, and the drone in a mode of its own.

It speaks MAVLink over UDP to the autopilot's own port, from which it needs to hear nothing: a
mode counts when the telemetry of whoever started it shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import numpy as np

from parallel_city_ros.errors import LinkError

RATE_HZ = 20.0          # wall; PX4 wants more than 2
LATE_S = 0.5            # wall, from the newest order until no setpoint is sent any more
STOP_S = 3.0            # wall, from the end of orders to SIGKILL
COMPANION, SYSTEM = 18, 255     # MAV_TYPE_ONBOARD_CONTROLLER; the id of ground stations
LATE = 3                # exit code
OFFBOARD = 6            # PX4's main mode
RETURN = 3              # COM_OBL_RC_ACT


class OffboardStream:
    """Streams from `start` to the end of a `with` block, for as long as orders come.

    Orders are to come more often than LATE_S, from the loop that decides: that is the switch.
    The first begins the stream, `engage` asks for the mode, which telemetry then shows. Where
    the drone is sent is not checked here: hand over only what was checked on the newest map.

    Parameters
    ----------
    host, port : where the autopilot itself listens; PX4 SITL: 14580 + instance
    system_id : of the drone

    Raises
    ------
    LinkError
        From an order, if the stream has ended because orders came too late.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", system_id: int = 1):
        self._command = [sys.executable, "-m", "parallel_city_ros.flight.offboard", host,
                         str(port), f"--system-id={system_id}", f"--parent-pid={os.getpid()}"]
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> OffboardStream:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE,
                                         start_new_session=True)
        return self

    def velocity(self, enu, yaw: float) -> None:
        """(3,) m/s over ground; yaw ENU, radians."""
        self._order(velocity=[float(v) for v in enu], yaw=float(yaw))

    def position(self, latitude_deg: float, longitude_deg: float, altitude_m: float,
                 yaw: float) -> None:
        """Altitude above mean sea level, as the drone reckons it: PX4 1.16 takes a setpoint above
        home for another height where home is not where its estimator began."""
        self._order(place=[latitude_deg, longitude_deg, altitude_m], yaw=float(yaw))

    def engage(self) -> None:
        """Ask for offboard mode; refused until setpoints have come. Sets COM_OBL_RC_ACT to
        return."""
        self._order(engage=True)

    def _order(self, **order) -> None:
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, AttributeError, ValueError) as error:
            raise LinkError("offboard setpoints have ended: orders came too late or the stream "
                            "was stopped; look at the drone's mode, then begin anew") from error

    def stop(self) -> None:
        """No more setpoints: the autopilot does what COM_OBL_RC_ACT says. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.stdin.close()
        except OSError:
            pass
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> OffboardStream:
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()


def main(arguments: list[str] | None = None) -> int:
    from pymavlink.dialects.v20 import common as mavlink
    parser = argparse.ArgumentParser(prog="python -m parallel_city_ros.flight.offboard",
                                     description="Orders come as JSON lines on standard input.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--system-id", type=int, default=1)
    parser.add_argument("--parent-pid", type=int, required=True)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # the end of the orders is the end
    os.set_blocking(0, False)
    link = mavlink.MAVLink(None, srcSystem=SYSTEM, srcComponent=191)
    ordered, text, order, beat_at = None, b"", None, 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((options.host, options.port))

        def send(message):
            try:
                sock.send(message.pack(link))
            except OSError:
                pass        # nobody listens there now: UDP loses it

        while os.getppid() == options.parent_pid:
            select.select([0], [], [], 1 / RATE_HZ)
            try:
                data = os.read(0, 65536)
            except BlockingIOError:
                data = None
            now = time.monotonic()
            if data == b"":
                return 0
            *lines, text = (text + (data or b"")).split(b"\n")
            for line in lines:
                wanted, ordered = json.loads(line), now
                if "engage" in wanted:
                    send(_return_when_lost(mavlink, options.system_id))
                    send(_offboard_mode(mavlink, options.system_id))
                else:
                    order = wanted
            if ordered is not None and now - ordered > LATE_S:
                return LATE
            if now > beat_at:
                beat_at = now + 1.0
                send(mavlink.MAVLink_heartbeat_message(COMPANION, 8, 0, 0, 4, 3))
            if order is not None:
                send(_setpoint(mavlink, order, options.system_id))
    return 0


def _return_when_lost(mavlink, system_id: int):
    value, = struct.unpack("<f", struct.pack("<i", RETURN))     # PX4 has the bits of an INT32 so
    return mavlink.MAVLink_param_set_message(
        system_id, 1, b"COM_OBL_RC_ACT", value, mavlink.MAV_PARAM_TYPE_INT32)


def _offboard_mode(mavlink, system_id: int):
    return mavlink.MAVLink_command_long_message(
        system_id, 1, mavlink.MAV_CMD_DO_SET_MODE, 0, 1, OFFBOARD, 0, 0, 0, 0, 0)


def _setpoint(mavlink, order: dict, system_id: int):
    heading = np.pi / 2 - order["yaw"]      # NED
    rate_ignored = mavlink.POSITION_TARGET_TYPEMASK_YAW_RATE_IGNORE
    force_ignored = 0b111 << 6
    if "velocity" in order:
        east, north, up = order["velocity"]
        return mavlink.MAVLink_set_position_target_local_ned_message(
            0, system_id, 1, mavlink.MAV_FRAME_LOCAL_NED, 0b111 | force_ignored | rate_ignored,
            0, 0, 0, north, east, -up, 0, 0, 0, heading, 0)
    lat, lon, altitude = order["place"]
    return mavlink.MAVLink_set_position_target_global_int_message(
        0, system_id, 1, mavlink.MAV_FRAME_GLOBAL_INT,
        0b111 << 3 | force_ignored | rate_ignored, round(lat * 1e7), round(lon * 1e7), altitude,
        0, 0, 0, 0, 0, 0, heading, 0)


if __name__ == "__main__":
    sys.exit(main())
