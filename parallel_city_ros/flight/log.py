"""The record of a flight: JSON lines for programs, and all MAVLink as a .tlog for ground stations.

A .tlog is what QGroundControl, MAVProxy and pymavlink write and read: for each packet its time,
microseconds since 1970 as eight bytes big-endian, and the packet as it was on the wire.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight.guard import GuardEvent
from parallel_city_ros.flight.outcome import FlightOutcome, FlightProgress

LOOK_S = 0.2    # wall, between two looks at whether the log ends


class FlightLog:
    """Writes NAME.jsonl and NAME.tlog for as long as a `with` block. From any thread.

    address : where MAVSDK is to copy its traffic to, for Autopilot.connect(copy_to=...)

    Raises
    ------
    ConfigError
        If the files cannot be written.
    """

    def __init__(self, name: str | Path):
        self.lines_file = Path(f"{name}.jsonl")
        self.mavlink_file = Path(f"{name}.tlog")
        try:
            self._lines = open(self.lines_file, "w", encoding="utf-8", buffering=1)
            self._packets = open(self.mavlink_file, "wb", buffering=0)
        except OSError as error:
            raise ConfigError(f"{name}: no flight log can be written ({error})") from error
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(LOOK_S)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._record, name="tlog", daemon=True)

    @property
    def address(self) -> str:
        return f"udpout://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> FlightLog:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join(2.0)
        self._socket.close()
        with self._lock:
            self._lines.close()
        self._packets.close()

    def write(self, kind: str, **values) -> None:
        """One line; what JSON cannot say (NaN) becomes null."""
        line = json.dumps({"time": round(time.time(), 3), "kind": kind} | _plain(values))
        with self._lock:
            if not self._lines.closed:
                self._lines.write(line + "\n")

    def progress(self, p: FlightProgress) -> None:
        self.write("progress", state=p.state.value, vehicle_time_s=p.vehicle_time_s,
                   position=p.position.tolist(), waypoint=p.waypoint, distance_m=p.distance_m,
                   battery_percent=p.battery_percent)

    def guard(self, event: GuardEvent) -> None:
        b = event.breach
        self.write("breach", breach=b.kind, action=b.action, value=b.value, limit=b.limit,
                   message=b.message, commanded=event.commanded, latency_s=event.latency_s,
                   vehicle_time_s=event.vehicle_time_s)

    def outcome(self, o: FlightOutcome) -> None:
        self.write("outcome", status=o.status.value, message=o.message, distance_m=o.distance_m,
                   patrol_distance_m=o.patrol_distance_m, duration_s=o.duration_s,
                   energy_wh=o.energy_wh)

    def _record(self) -> None:
        while not self._end.is_set():
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                return
            self._packets.write(struct.pack(">Q", int(time.time() * 1e6)) + data)


def read_lines(file: str | Path) -> list[dict]:
    """The lines of a flight log; a last line that was cut off by a crash is left away.

    Raises
    ------
    ConfigError
        If it cannot be read, or is no flight log.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            found.append({"time": float(entry["time"]), "kind": str(entry["kind"])} | entry)
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and found:
                break
            raise ConfigError(f"{file}, line {number}: is no line of a flight log ({error})"
                              ) from error
    if not found:
        raise ConfigError(f"{file}: is empty; a flight log has a line for each report")
    return found


def read_packets(file: str | Path) -> Iterator[tuple[float, bytes]]:
    """(seconds since 1970, packet) of a .tlog.

    Raises
    ------
    ConfigError
        If it cannot be read, or something else than MAVLink comes.
    """
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error
    at = 0
    while at + 8 + 3 <= len(data):
        (stamp,) = struct.unpack_from(">Q", data, at)
        magic, length = data[at + 8], data[at + 9]
        if magic == 0xFD:       # MAVLink 2: signed ones carry 13 bytes more
            size = 12 + length + (13 if data[at + 10] & 1 else 0)
        elif magic == 0xFE:
            size = 8 + length
        else:
            raise ConfigError(f"{file}: no MAVLink packet at byte {at + 8}; is it a .tlog?")
        yield stamp * 1e-6, data[at + 8:at + 8 + size]
        at += 8 + size


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
