"""One drone through MAVSDK: blocking calls with deadlines, and immutable snapshots.

MAVSDK lives on an asyncio loop in a thread of its own. Frames and units are converted
here and nowhere else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
from mavsdk import logging as mavsdk_logging
from mavsdk.asyncio import ComponentType, Configuration, Mavsdk, MavsdkError
from mavsdk.asyncio.mavsdk import ForwardingOption
from mavsdk.asyncio.plugins.action import ActionAsync
from mavsdk.asyncio.plugins.events import EventsAsync
from mavsdk.asyncio.plugins.mavlink_direct import MavlinkDirectAsync, MavlinkMessage
from mavsdk.asyncio.plugins.mission_raw import MissionItem as RawItem
from mavsdk.asyncio.plugins.mission_raw import MissionRawAsync
from mavsdk.asyncio.plugins.param import ParamAsync
from mavsdk.asyncio.plugins.telemetry import TelemetryAsync
from mavsdk.autopilot import Autopilot as Kind

from parallel_city_ros.errors import LinkError, RefusedError
from parallel_city_ros.flight.mission import MissionItem
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.geo import heading_deg_to_yaw_enu, ned_to_enu
from parallel_city_ros.memory import give_back_memory, share_one_heap

logger = logging.getLogger(__name__)

TRACK_LENGTH = 20_000       # positions kept until they are taken
STATUS_TEXTS = 5
RESTARTED_S = 5.0           # vehicle; what comes out of order is not so old
CLOSE_S = 5.0               # wall
CLEARED_S = 0.1             # wall, between two looks at what was to be cleared
RALLY = 2                   # MAV_MISSION_TYPE
NO_MISSION = 65535          # MISSION_CURRENT.total; 0: it is not told
EVENT_LOOKS, EVENT_LOOK_S = 6, 1.0      # wall
RUN_PREARM_CHECKS = 401     # MAV_CMD
# A ground station that is at work, as MAVSDK itself sends it once a second.
_HEARTBEAT = {"type": 6, "autopilot": 8, "base_mode": 0, "custom_mode": 0, "system_status": 4,
              "mavlink_version": 3}
# What MAVSDK calls a link that does not answer.
_NO_ANSWER = ("TIMEOUT", "NO_SYSTEM", "CONNECTION_ERROR")
_WARNINGS = ("WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")
_CHECKS = {
    "is_gyrometer_calibration_ok": "gyroscope", "is_accelerometer_calibration_ok":
    "accelerometer", "is_magnetometer_calibration_ok": "magnetometer",
    "is_local_position_ok": "local position", "is_global_position_ok": "global position",
    "is_home_position_ok": "home position", "is_armable": "arming checks"}


class Autopilot:
    """Methods block their thread, may be called from any, and raise

    LinkError
        if nothing is heard until the deadline;
    RefusedError
        if the autopilot says no. That a change of mode is acknowledged does not mean
        that it was made: look at `snapshot`.

    Every timeout is wall seconds.

    on_position : called in its thread when `snapshot` has a new position; must not block
    """

    def __init__(self, *, command_timeout_s: float = 10.0,
                 on_position: Callable[[], None] = lambda: None):
        self._timeout_s, self._tell_position = command_timeout_s, on_position
        self._telemetry = Telemetry()
        self._track: deque[tuple[float, float, float, float]] = deque(maxlen=TRACK_LENGTH)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._mavsdk: Mavsdk | None = None
        self._watches: list[asyncio.Task] = []
        self._kept: tuple = ()

    def __enter__(self) -> Autopilot:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # connection

    def connect(self, address: str, timeout_s: float, *, rate_hz: float = 10.0,
                system_id: int = 0, copy_to: str = "") -> None:
        """Listen or dial at a MAVSDK address, wait for an autopilot, subscribe to telemetry.

        rate_hz : positions per second of vehicle time
        system_id : that it must have; 0: any
        copy_to : MAVSDK address that gets all that is heard and said, such as a log's; "": none
        """
        if self._thread is not None:
            raise LinkError("already connected; close() first")
        _require_free_port(address)
        _quiet_mavsdk()
        share_one_heap()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mavsdk", daemon=True)
        self._thread.start()
        try:
            self._call(lambda: self._connect(address, timeout_s, rate_hz, system_id, copy_to),
                       "connect", timeout_s + self._timeout_s)
        except BaseException:
            self.close()
            raise

    async def _connect(self, address: str, timeout_s: float, rate_hz: float, system_id: int,
                       copy_to: str) -> None:
        self._mavsdk = Mavsdk(Configuration.create_with_component_type(
            ComponentType.GROUND_STATION))
        try:
            copies = ForwardingOption.ON if copy_to else ForwardingOption.OFF
            await self._mavsdk.add_any_connection(address, copies)
            if copy_to:
                await self._mavsdk.add_any_connection(copy_to, copies)
        except MavsdkError as error:
            raise LinkError(f"cannot open {address} ({error}); use udpin://HOST:PORT to listen, "
                            "udpout://HOST:PORT to dial, or serial:///dev/tty…:BAUD") from error
        system = await self._mavsdk.first_autopilot(timeout_s)
        if system is None:
            raise LinkError(
                f"no autopilot was heard at {address} within {timeout_s:g} s; is it running, and "
                "does it send to this address and port? PX4 SITL sends to port 14540 + instance")
        await _require_px4(system, system_id, address)
        self._action, self._param = ActionAsync(system), ParamAsync(system)
        self._mission, telemetry = MissionRawAsync(system), TelemetryAsync(system)
        # A plugin that the garbage collector takes apart while Mavsdk.destroy() runs aborts
        # the process, so all are kept until after it.
        self._system_id = await system.get_system_id()
        direct = self._direct = MavlinkDirectAsync(system)
        self._kept = (system, self._action, self._param, self._mission, telemetry, direct)
        try:
            # MAVSDK's own first heartbeat may come a second later, and until then PX4 knows of
            # no ground station and does not arm.
            await direct.send_message(MavlinkMessage("HEARTBEAT", 0, 0, 0, 0,
                                                     json.dumps(_HEARTBEAT)))
        except MavsdkError as error:
            logger.warning("no heartbeat sent: %s", error)
        for stream, follow in (
                (telemetry.subscribe_attitude_quaternion, self._on_attitude),
                (telemetry.subscribe_velocity_ned, self._on_velocity),
                (telemetry.subscribe_position, self._on_position),
                (telemetry.subscribe_flight_mode, self._on_mode),
                (telemetry.subscribe_armed, self._on_armed),
                (telemetry.subscribe_landed_state, self._on_landed),
                (telemetry.subscribe_health, self._on_health),
                (telemetry.subscribe_battery, self._on_battery),
                (telemetry.subscribe_home, self._on_home),
                (telemetry.subscribe_wind, self._on_wind),
                (telemetry.subscribe_status_text, self._on_text),
                # MAVSDK's own progress leaves out an item with the number of the one that was
                # reached last, which after a skip or in a new mission may be flown to.
                (lambda: direct.subscribe_message("MISSION_CURRENT"), self._on_current)):
            self._watches.append(asyncio.ensure_future(_follow(stream(), follow)))
        for set_rate, rate in ((telemetry.set_rate_position, rate_hz),
                               (telemetry.set_rate_attitude_quaternion, rate_hz),
                               (telemetry.set_rate_home, 1.0), (telemetry.set_rate_battery, 1.0)):
            try:
                await set_rate(rate)
            except MavsdkError as error:
                logger.warning("telemetry rate not set: %s", error)

    def close(self) -> None:
        """Let go of the drone, which goes on as it is. May be called twice."""
        loop, thread, self._thread = self._loop, self._thread, None
        if thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._disconnect(), loop).result(CLOSE_S)
        except concurrent.futures.TimeoutError:
            logger.warning("MAVSDK did not close within %g s", CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)
        if not thread.is_alive():
            loop.close()
        give_back_memory()      # of its many threads

    async def _disconnect(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        self._watches.clear()
        if self._mavsdk is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._mavsdk.destroy)
            self._mavsdk, self._kept = None, ()

    def _call(self, begin, what: str, timeout_s: float | None = None):
        """Run the coroutine that begin() makes on MAVSDK's loop; its errors become ours."""
        if self._thread is None:
            raise LinkError(f"{what}: not connected; connect() first")
        future = asyncio.run_coroutine_threadsafe(begin(), self._loop)
        try:
            return future.result(self._timeout_s if timeout_s is None else timeout_s)
        except concurrent.futures.TimeoutError as error:
            future.cancel()
            raise LinkError(f"{what}: the autopilot did not answer in time; check the link"
                            ) from error
        except MavsdkError as error:
            result = getattr(getattr(error, "result", None), "name", str(error))
            if result in _NO_ANSWER:
                raise LinkError(f"{what}: the autopilot did not answer; check the link"
                                ) from error
            raise RefusedError(f"{what}: the autopilot says {result.lower().replace('_', ' ')}"
                               f"{self._telemetry.last_words}") from error

    # telemetry

    @property
    def snapshot(self) -> Telemetry:
        return self._telemetry

    def take_track(self) -> np.ndarray:
        """(N, 4) positions since the last call: vehicle time in s, latitude and longitude in
        degrees, metres above home."""
        points = []
        while self._track:
            points.append(self._track.popleft())
        return np.array(points, float).reshape(-1, 4)

    def _update(self, **changes) -> None:
        self._telemetry = replace(self._telemetry, **changes)

    def _on_attitude(self, q) -> None:
        heading = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y ** 2 + q.z ** 2))
        now = q.timestamp_us * 1e-6
        changes = {} if now == self._telemetry.vehicle_time_s else {
            "last_message_wall_s": time.monotonic()}    # a frozen clock is a dead link
        restarted = now < self._telemetry.vehicle_time_s - RESTARTED_S
        self._update(vehicle_time_s=now, yaw=heading_deg_to_yaw_enu(math.degrees(heading)),
                     position_late=False, **changes)
        if restarted:
            # The times of its alerts are those of another clock.
            self._update(alerts=(), restarts=self._telemetry.restarts + 1)
            self._heard("the autopilot has restarted", True)

    def _on_velocity(self, v) -> None:
        self._update(velocity=tuple(ned_to_enu((v.north_m_s, v.east_m_s, v.down_m_s)).tolist()))

    def _on_position(self, p) -> None:
        self._update(latitude_deg=p.latitude_deg, longitude_deg=p.longitude_deg,
                     absolute_altitude_m=p.absolute_altitude_m,
                     relative_altitude_m=p.relative_altitude_m, position_late=True,
                     position_wall_s=time.monotonic())
        self._tell_position()
        # PX4 and the simulator send attitude and position at the same rate: the newest
        # attitude's time is the position's to within one period.
        if math.isfinite(self._telemetry.vehicle_time_s):
            self._track.append((self._telemetry.vehicle_time_s, p.latitude_deg, p.longitude_deg,
                                p.relative_altitude_m))

    def _on_mode(self, mode) -> None:
        self._update(flight_mode=mode.name)

    def _on_armed(self, armed) -> None:
        self._update(armed=bool(armed))

    def _on_landed(self, state) -> None:
        self._update(landed_state=state.name)

    def _on_health(self, health) -> None:
        failing = tuple(words for name, words in _CHECKS.items() if not getattr(health, name))
        self._update(healthy=not failing, failing=failing, health_wall_s=time.monotonic())

    def _on_battery(self, battery) -> None:
        percent = battery.remaining_percent
        self._update(battery_percent=percent if 0 <= percent <= 100 else math.nan,
                     battery_voltage=battery.voltage_v)

    def _on_home(self, home) -> None:
        self._update(home=(home.latitude_deg, home.longitude_deg, home.absolute_altitude_m),
                     home_wall_s=time.monotonic())

    def _on_wind(self, wind) -> None:
        east, north = wind.wind_y_ned_m_s, wind.wind_x_ned_m_s
        self._update(wind=(east, north) if math.isfinite(east + north) else None)

    def _on_text(self, text) -> None:
        self._heard(text.text.strip(), text.type.name in _WARNINGS)

    def _heard(self, text: str, warns: bool) -> None:
        logger.log(logging.WARNING if warns else logging.INFO, "autopilot: %s", text)
        t = self._telemetry
        self._update(status_texts=(*t.status_texts, text)[-STATUS_TEXTS:])
        if warns:
            self._update(alerts=(*t.alerts, (t.vehicle_time_s, text))[-STATUS_TEXTS:])

    def _on_current(self, message) -> None:
        if message.system_id == self._system_id:
            fields = json.loads(message.fields_json)
            total = int(fields.get("total", 0))
            self._update(mission_current=int(fields["seq"]),
                         mission_total={0: -1, NO_MISSION: 0}.get(total, total),
                         mission_id=int(fields.get("mission_id", 0)),
                         mission_wall_s=time.monotonic())

    # requests

    def get_parameter(self, name: str, kind: type[int] | type[float],
                      timeout_s: float | None = None) -> int | float:
        """PX4 does not answer for a parameter that it does not have."""
        read = "get_param_int" if kind is int else "get_param_float"
        return self._call(lambda: getattr(self._param, read)(name), f"parameter {name}",
                          timeout_s)

    def set_parameter(self, name: str, value: int | float,
                      timeout_s: float | None = None) -> int | float:
        """Set and read back. An int is PX4's INT32, a float its FLOAT; equal values are left.

        timeout_s : for all of it

        Returns
        -------
        The value that it had before.
        """
        kind = "int" if isinstance(value, int) else "float"

        async def exchange():
            read = getattr(self._param, f"get_param_{kind}")
            write = getattr(self._param, f"set_param_{kind}")
            before = await read(name)
            if _close(before, value):
                return before, value
            await write(name, value)
            return before, await read(name)

        try:
            before, found = self._call(exchange, f"parameter {name}", timeout_s)
        except LinkError as error:
            raise LinkError(f"{error}. PX4 does not answer either for a parameter that its "
                            "version does not have") from error
        if not _close(found, value):
            raise RefusedError(f"parameter {name} was set to {value:g} but reads {found:g}; "
                               "is another ground station changing it?")
        return before

    def upload_mission(self, items: list[MissionItem], timeout_s: float, current: int = 0) -> None:
        """Upload, download again and compare.

        current : item that PX4 goes on with, in flight at once. It keeps its own if the mission
            is the one that it has.
        """
        raw = [RawItem(seq=i, frame=item.frame, command=item.command, current=int(i == current),
                       autocontinue=1, param1=item.params[0], param2=item.params[1],
                       param3=item.params[2], param4=item.params[3], x=item.x, y=item.y, z=item.z,
                       mission_type=0) for i, item in enumerate(items)]
        self._call(lambda: self._mission.upload_mission(raw), "mission upload", timeout_s)
        stored = self.download_mission(timeout_s)
        if len(stored) != len(items):
            raise RefusedError(f"of {len(items)} mission items the autopilot kept {len(stored)}; "
                               "it may have no room for so many")
        for i, (sent, kept) in enumerate(zip(items, stored, strict=True)):
            if not sent.same_as(kept):
                raise RefusedError(f"mission item {i} came back changed: sent {sent}, "
                                   f"kept {kept}")

    def set_speed(self, metres_s: float) -> None:
        """Of the mission's leg from here on, until an item of it says another."""
        self._call(lambda: self._action.set_current_speed(metres_s), "speed")

    def download_mission(self, timeout_s: float) -> list[MissionItem]:
        return [MissionItem(r.command, r.frame, (r.param1, r.param2, r.param3, r.param4),
                            r.x, r.y, r.z)
                for r in self._call(lambda: self._mission.download_mission(),
                                    "mission download", timeout_s)]

    def clear_rally_points(self) -> None:
        """None is left, and that was looked at.

        MAVSDK cannot upload an empty list of them, hence a message of our own.
        """
        if not self._rally_points():
            return
        clear = {"target_system": self._system_id, "target_component": 1,
                 "mission_type": RALLY}
        self._call(lambda: self._direct.send_message(MavlinkMessage(
            "MISSION_CLEAR_ALL", 0, 0, self._system_id, 1, json.dumps(clear))),
            "clearing rally points")
        deadline = time.monotonic() + self._timeout_s
        while self._rally_points():
            if time.monotonic() > deadline:
                raise RefusedError("rally points: the autopilot keeps them; PX4 would return to "
                                   "one that is nearer than home, so clear them")
            time.sleep(CLEARED_S)

    def _rally_points(self) -> list:
        try:
            return self._call(lambda: self._mission.download_rallypoints(), "rally points")
        except RefusedError:    # MAVSDK's word for none
            return []

    def arming_problems(self) -> tuple[str, ...]:
        """What arming lacks in the mode that it is in, in PX4's words.

        PX4 tells it in events, for which MAVSDK asks it for their texts; whatever cannot do so
        says it in status texts when it is asked.
        """
        async def look():
            events = EventsAsync(self._kept[0])
            self._kept += (events,)
            for _ in range(EVENT_LOOKS):
                await asyncio.sleep(EVENT_LOOK_S)
                try:
                    report = await events.get_health_and_arming_checks_report()
                except MavsdkError:     # not told yet
                    continue
                return tuple(p.message for p in report.current_mode_intention.problems
                             if p.log_level.name in _WARNINGS)
            return ()

        problems = self._call(look, "arming checks", EVENT_LOOKS * EVENT_LOOK_S + self._timeout_s)
        if not problems:
            self._run_arming_checks()
            time.sleep(EVENT_LOOK_S)
        return problems

    def _run_arming_checks(self) -> None:
        check = {"target_system": self._system_id, "target_component": 1,
                 "command": RUN_PREARM_CHECKS, "confirmation": 0,
                 **{f"param{k}": 0.0 for k in range(1, 8)}}
        self._call(lambda: self._direct.send_message(MavlinkMessage(
            "COMMAND_LONG", 0, 0, self._system_id, 1, json.dumps(check))), "arming checks")

    def arm(self) -> None:
        self._call(lambda: self._action.arm(), "arming")

    def disarm(self) -> None:
        self._call(lambda: self._action.disarm(), "disarming")

    def start_mission(self) -> None:
        self._call(lambda: self._mission.start_mission(), "mission mode")

    def hold(self) -> None:
        self._call(lambda: self._action.hold(), "hold mode")

    def return_to_launch(self) -> None:
        self._call(lambda: self._action.return_to_launch(), "return mode")

    def land(self) -> None:
        self._call(lambda: self._action.land(), "landing")

    def set_current(self, index: int) -> None:
        """Go on with that mission item, which must have a place: one that is done at once is
        past before MAVSDK hears of it, and is asked for again and again."""
        self._call(lambda: self._mission.set_current_mission_item(index), f"mission item {index}")


async def _require_px4(system, system_id: int, address: str) -> None:
    """Raises LinkError if it is not the drone that is meant, or no PX4."""
    found, kind = await system.get_system_id(), await system.autopilot_type()
    if system_id not in (0, found):
        raise LinkError(f"the drone at {address} has system id {found}, not {system_id}; look at "
                        "its MAV_SYS_ID and at the address (PX4 SITL: instance + 1)")
    if kind is not Kind.PX4:
        raise LinkError(f"the autopilot at {address} is {kind.name.lower()}, not PX4; modes, "
                        "parameters and missions differ, so that it is not flown")


async def _follow(stream, handle) -> None:
    async for message in stream:
        handle(message)


def _close(a: float, b: float) -> bool:
    """Equal as 32-bit floats, which the wire carries."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)


def _require_free_port(address: str) -> None:
    """MAVSDK shares a UDP port that is in use without a word; then nobody hears all."""
    parts = urlsplit(address)
    if parts.scheme not in ("udpin", "udp") or parts.port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((parts.hostname or "0.0.0.0", parts.port))
        except OSError as error:
            raise LinkError(
                f"UDP port {parts.port} of {parts.hostname or 'this machine'} cannot be listened "
                f"on ({error.strerror}); end the program that uses it (ss -ulnp shows which), or "
                "give the drone and this program another port") from error


def _quiet_mavsdk() -> None:
    """MAVSDK prints to stderr by itself; its lines belong in the log."""
    levels = {"DEBUG": logging.DEBUG, "INFO": logging.DEBUG, "WARN": logging.INFO,
              "ERROR": logging.WARNING}

    def take(level, message, _file, _line) -> bool:
        # Who asked in vain gets an error of ours that says more.
        vain = message.startswith(("Retrying failed", "Sending message failed",
                                   "Dropping subscription", "Error from async_receive_from"))
        heed = logging.DEBUG if vain else levels[level.name]
        logging.getLogger("mavsdk").log(heed, "%s", message)
        return True

    mavsdk_logging.log_subscribe(take)
