"""python -m parallel_city_ros.flight.simulator: one simulated PX4 drone on a UDP port."""

from __future__ import annotations

import argparse
import math
import os
import select
import signal
import socket
import sys
import time

from parallel_city_ros.flight.simulator.autopilot import Faults, SimulatedPx4
from parallel_city_ros.flight.simulator.parameters import DEFAULTS
from parallel_city_ros.flight.simulator.protocol import MavlinkServer
from parallel_city_ros.flight.simulator.vehicle import Vehicle, VehicleModel
from parallel_city_ros.geo import LocalFrame

TIME_STEP_S = 0.02      # of vehicle time
PAUSE_S = 0.005         # wall, between looks at the clock
LATE_S = 0.25           # wall; what it is later by than that is given up
BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind(("127.0.0.1", options.local_port))
    except OSError as error:
        print(f"UDP port {options.local_port} of 127.0.0.1 cannot be used ({error.strerror}); "
              "choose another --local-port, or 0 for any free one", file=sys.stderr)
        return BAD_INPUT
    sock.setblocking(False)
    autopilot = SimulatedPx4(
        Vehicle(VehicleModel(gust=options.gust), options.seed, options.battery_percent),
        LocalFrame(*options.home),
        Faults(refuse_arm=options.refuse_arm, refuse_mode=options.refuse_mode,
               lock_params=options.lock_params, mode_lies=options.lie_about_mode),
        home_noise=options.home_noise, seed=options.seed)
    autopilot.params.update(options.param)
    server = MavlinkServer(
        autopilot, sock, ("127.0.0.1", options.port + options.instance),
        system_id=options.instance + 1, speed_factor=options.speed_factor, silent=options.silent)
    stop = _stop_requested(options.parent_pid)
    print(f"ready {sock.getsockname()[1]}", flush=True)
    try:
        _run(autopilot, server, sock, options.speed_factor, stop)
    except KeyboardInterrupt:
        pass
    finally:
        sock.close()
    return 0


def _run(autopilot, server, sock, factor: float, stop) -> None:
    """Keep vehicle time at factor × wall time until told to stop."""
    start, warned = time.monotonic(), False
    while not stop():
        wall = time.monotonic()
        due = (wall - start) * factor
        if due - autopilot.time_s > LATE_S * factor:
            start = wall - (autopilot.time_s + LATE_S * factor) / factor
            due = autopilot.time_s + LATE_S * factor
            if not warned:
                print(f"cannot keep up with a speed factor of {factor:g}: vehicle time is slower "
                      "than asked; lower --speed-factor", file=sys.stderr, flush=True)
                warned = True
        server.tick_wall()
        while autopilot.time_s + TIME_STEP_S <= due:
            autopilot.step(TIME_STEP_S)
            server.publish()
        select.select([sock], [], [], PAUSE_S)
        server.receive()


def _stop_requested(parent_pid: int | None):
    """A function that says whether a signal came or the parent is gone."""
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.append(True))
    return lambda: bool(asked) or (parent_pid is not None and os.getppid() != parent_pid)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parallel_city_ros.flight.simulator",
        description="A simulated PX4 multirotor that MAVSDK and ground stations can connect to. "
                    "It talks MAVLink 2 on 127.0.0.1 only, and ends on SIGTERM or Ctrl-C.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--port", type=_port, default=14540,
        help="UDP port where MAVSDK listens; the instance is added")
    add("--local-port", type=_port_or_any, default=0,
        help="UDP port of the autopilot itself, 0 for any free one")
    add("--instance", type=_instance, default=0, help="system id is this + 1")
    add("--home", type=_home, required=True, metavar="LAT,LON,ALT",
        help="where it stands, degrees and metres above mean sea level; write --home=-33.9,... "
             "south of the equator")
    add("--speed-factor", type=_positive, default=1.0, help="vehicle seconds per wall second")
    add("--seed", type=int, default=0, help="of gusts and home: the same seed, the same flight")
    add("--gust", type=_at_least_0, default=VehicleModel.gust, help="of the air, m/s")
    add("--home-noise", type=_at_least_0, default=0.7,
        help="m, by how much the altitude of home may be wrong; it is set anew at each arming")
    add("--battery-percent", type=_percent, default=100.0, help="charge at the start")
    add("--parent-pid", type=int, help="end when this is no longer the parent process")
    add("--param", type=_parameter, action="append", default=[], metavar="NAME=VALUE",
        help="PX4 parameter that differs from its default; may be repeated")
    add("--refuse-arm", action="store_true", help="fault: arming is denied")
    add("--refuse-mode", action="store_true", help="fault: every mode change is denied")
    add("--lock-params", action="store_true",
        help="fault: parameters cannot be changed while armed")
    add("--lie-about-mode", type=int, default=0, metavar="N",
        help="fault: N changes to mission mode are acknowledged but not done")
    add("--silent", action="store_true", help="fault: it never says anything")
    return parser


def _number(text: str, kind, accept, expected: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not accept(value):
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
    return value


def _port(text):
    return _number(text, int, lambda v: 1 <= v <= 65535, "a port from 1 to 65535")


def _port_or_any(text):
    return _number(text, int, lambda v: 0 <= v <= 65535, "a port from 0 to 65535")


def _instance(text):
    return _number(text, int, lambda v: 0 <= v <= 253, "a number from 0 to 253")


def _positive(text):
    return _number(text, float, lambda v: 0 < v < math.inf, "a number above 0")


def _at_least_0(text):
    return _number(text, float, lambda v: 0 <= v < math.inf, "a number not below 0")


def _percent(text):
    return _number(text, float, lambda v: 0 <= v <= 100, "a number from 0 to 100")


def _parameter(text):
    name, _, value = text.partition("=")
    if name not in DEFAULTS:
        raise argparse.ArgumentTypeError(f"no such parameter here: {name!r}")
    kind = type(DEFAULTS[name])
    return name, _number(value, kind, math.isfinite, f"a {kind.__name__} for {name}")


def _home(text):
    parts = _number(text, lambda t: [float(v) for v in t.split(",")],
                    lambda v: len(v) == 3 and all(map(math.isfinite, v)) and abs(v[0]) <= 90
                    and abs(v[1]) <= 180, "LAT,LON,ALT")
    return tuple(parts)


if __name__ == "__main__":
    sys.exit(main())
