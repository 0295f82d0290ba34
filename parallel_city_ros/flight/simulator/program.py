"""Simulated PX4 drones on UDP ports of this machine; see --help."""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, fields

import numpy as np

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight.simulator import faults
from parallel_city_ros.flight.simulator.autopilot import Faults, SimulatedPx4
from parallel_city_ros.flight.simulator.parameters import DEFAULTS
from parallel_city_ros.flight.simulator.protocol import MavlinkServer
from parallel_city_ros.flight.simulator.vehicle import Vehicle, VehicleModel, ground_of
from parallel_city_ros.geo import LocalFrame

TIME_STEP_S = 0.02      # of vehicle time
PAUSE_S = 0.005         # wall, between looks at the clock
LATE_S = 0.25           # wall; what it is later by than that is given up
BAD_INPUT = 2


@dataclass
class Drone:
    """One simulated vehicle and its radio."""

    autopilot: SimulatedPx4
    server: MavlinkServer
    socket: socket.socket


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    drones: list[Drone] = []
    try:
        for index in range(len(options.home)):
            drones.append(_drone(options, index))
    except OSError as error:
        port = options.local_port + index if options.local_port else 0
        print(f"UDP port {port} of 127.0.0.1 cannot be used ({error.strerror}); "
              "choose another --local-port, or 0 for any free one", file=sys.stderr)
        return BAD_INPUT
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    stop = _stop_requested(options.parent_pid)
    print("ready", *(drone.socket.getsockname()[1] for drone in drones), flush=True)
    try:
        (_lockstep if options.lockstep else _run)(drones, options.speed_factor, stop)
    except KeyboardInterrupt:
        pass
    finally:
        for drone in drones:
            drone.socket.close()
    return 0


def _terrain(name: str):
    """(east, north) → height of the ground, from a file of heights around where the drone stands.
    """
    try:
        with np.load(name) as file:
            ground = ground_of(file["heights"], file["origin"].tolist(), float(file["cell"]))
    except (OSError, ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"{name}: holds no terrain ({error})") from error
    here = ground(0.0, 0.0)
    return lambda east, north: ground(east, north) - here


def _drone(options, index: int) -> Drone:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind(("127.0.0.1", options.local_port and options.local_port + index))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    seed, instance = options.seed + index, options.instance + index
    wind_east, wind_north = options.wind
    model = VehicleModel(**{"gust": options.gust, "wind_east": wind_east,
                            "wind_north": wind_north} | dict(options.vehicle))
    frame = LocalFrame(*options.home[index])
    city = _surroundings(options.city, frame) if options.city else None
    ground = city.ground if city else options.terrain
    autopilot = SimulatedPx4(
        Vehicle(model, seed, options.battery_percent, **({"ground": ground} if ground else {})),
        frame,
        Faults(refuse_arm=options.refuse_arm, refuse_mode=options.refuse_mode,
               lock_params=options.lock_params, stuck_params=options.stuck_params,
               ardupilot=options.ardupilot, mode_lies=options.lie_about_mode),
        home_noise=options.home_noise, gps_noise=options.gps_noise, seed=seed, city=city)
    autopilot.params.update({"MAV_SYS_ID": instance + 1} | dict(options.param))
    also = [("127.0.0.1", options.ground_port)] if options.ground_port else []
    server = MavlinkServer(
        autopilot, sock, ("127.0.0.1", options.port + instance), system_id=instance + 1,
        speed_factor=options.speed_factor, silent=options.silent, also=also)
    return Drone(autopilot, server, sock)


def _surroundings(file: str, frame: LocalFrame):
    from parallel_city_ros.flight.simulator.surroundings import Surroundings, read_city
    return Surroundings(read_city(file), frame)


def _run(drones: list[Drone], factor: float, stop) -> None:
    """Keep vehicle time at factor × wall time until told to stop."""
    start, warned, now_s = time.monotonic(), False, 0.0
    commands = _Commands(drones, factor)
    while not stop():
        wall = time.monotonic()
        if commands.factor != factor:
            factor = commands.factor
            start = wall - now_s / factor
        due = (wall - start) * factor
        if due - now_s > LATE_S * factor:
            start = wall - (now_s + LATE_S * factor) / factor
            due = now_s + LATE_S * factor
            if not warned:
                print(f"cannot keep up with a speed factor of {factor:g}: vehicle time is slower "
                      "than asked; lower --speed-factor", file=sys.stderr, flush=True)
                warned = True
        for drone in drones:
            drone.server.tick_wall()
        while now_s + TIME_STEP_S <= due:
            now_s += TIME_STEP_S
            _step(drones)
        select.select([drone.socket for drone in drones] + commands.files, [], [], PAUSE_S)
        for drone in drones:
            drone.server.receive()
        commands.obey()
        start += commands.stood_still()


def _lockstep(drones: list[Drone], factor: float, stop) -> None:
    """Time goes on only when it is told to: the same commands, the same track."""
    commands = _Commands(drones, factor)
    while not stop() and commands.files:
        select.select([drone.socket for drone in drones] + commands.files, [], [], PAUSE_S)
        for drone in drones:
            drone.server.tick_wall()
            drone.server.receive()
        commands.obey()


def _step(drones: list[Drone]) -> None:
    for drone in drones:
        drone.autopilot.step(TIME_STEP_S)
        drone.server.publish()


class _Commands:
    """Lines on standard input: a fault for all drones, "K: fault" for drone K (0 is the first),
    "truth", "track", "speed FACTOR", "city FILE.npz" where they have a city, or with --lockstep
    "step SECONDS"; each is answered by a line."""

    def __init__(self, drones: list[Drone], factor: float):
        self._drones, self._text, self._still_s = drones, b"", 0.0
        self.factor = factor        # vehicle seconds per wall second from now on
        try:
            os.set_blocking(0, False)
            self.files = [0]
        except OSError:     # there is none
            self.files = []

    def obey(self) -> None:
        while self.files:
            try:
                data = os.read(0, 4096)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.files = []
            self._text += data
            *lines, self._text = self._text.split(b"\n")
            for line in lines:
                print(self._one(line.decode(errors="replace").strip()), flush=True)

    def stood_still(self) -> float:
        """Wall seconds since it was last asked in which vehicle time was not to go on."""
        seconds, self._still_s = self._still_s, 0.0
        return seconds

    def _one(self, line: str) -> str:
        try:
            if line.startswith("step "):
                for _ in range(round(float(line[5:]) / TIME_STEP_S)):
                    _step(self._drones)
                return f"at {self._drones[0].autopilot.time_s:.2f}"
            if line.startswith("speed "):
                self.factor = _positive(line[6:])
                for drone in self._drones:
                    drone.server.pace(self.factor)
                return f"done {line}"
            if line.startswith("city "):
                self._rebuild(line[5:])
                return f"done {line}"
            if line == "truth":
                return json.dumps([drone.autopilot.truth() for drone in self._drones])
            if line == "track":
                return json.dumps([list(drone.autopilot.track) for drone in self._drones])
            number, colon, fault = line.rpartition(":")
            for drone in [self._drones[int(number)]] if colon else self._drones:
                faults.apply(fault, drone.autopilot, drone.server)
            return f"done {line}"
        except (ConfigError, ValueError, IndexError, argparse.ArgumentTypeError) as error:
            return f"error {error}"

    def _rebuild(self, file: str) -> None:
        """What stands around all drones is another city from now on."""
        if any(drone.autopilot.city is None for drone in self._drones):
            raise ConfigError("city: these drones were started without; start them with --city")
        from parallel_city_ros.flight.simulator.surroundings import read_city
        began = time.monotonic()
        grid = read_city(file)
        for drone in self._drones:
            drone.autopilot.city.replace(grid)
        self._still_s += time.monotonic() - began


def _stop_requested(parent_pid: int | None):
    """A function that says whether a signal came or the parent is gone."""
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.append(True))
    return lambda: bool(asked) or (parent_pid is not None and os.getppid() != parent_pid)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m parallel_city_ros.flight.simulator",
        description="Simulated PX4 multirotors that MAVSDK and ground stations can connect to. "
                    "They talk MAVLink 2 on 127.0.0.1 only, and end on SIGTERM or Ctrl-C. Lines "
                    "on standard input are faults: " + ", ".join(faults.FAULTS) + ".",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--terrain", type=_terrain, default=None, metavar="FILE.npz",
        help="ground under the drone: heights (a, b), origin (2,) and cell, metres from where it "
             "stands; flat without")
    add("--city", metavar="FILE.npz",
        help="what really stands around it, as simulator.surroundings.write_city writes it: it "
             "may fly into that, and tells distances; instead of --terrain")
    add("--port", type=_port, default=14540,
        help="UDP port where MAVSDK listens; the instance is added")
    add("--local-port", type=_port_or_any, default=0,
        help="UDP port of the autopilot itself, 0 for any free one")
    add("--instance", type=_instance, default=0, help="system id is this + 1")
    add("--home", type=_home, required=True, action="append", metavar="LAT,LON,ALT",
        help="where it stands, degrees and metres above mean sea level; write --home=-33.9,... "
             "south of the equator; one drone for each, the next with the next port, system id "
             "and seed")
    add("--ground-port", type=_port_or_any, default=0,
        help="UDP port of a ground station that hears all drones too, such as 14550 of "
             "QGroundControl; 0: none")
    add("--lockstep", action="store_true",
        help='time goes on only by lines "step SECONDS" on standard input')
    add("--wind", type=_wind, default=(0.0, 0.0), metavar="EAST,NORTH",
        help="m/s, that the air moves; write --wind=-3,... for a negative first number")
    add("--gps-noise", type=_at_least_0, default=0.0,
        help="m, standard deviation of the error of level positions")
    add("--speed-factor", type=_positive, default=1.0, help="vehicle seconds per wall second")
    add("--seed", type=int, default=0, help="of gusts and home: the same seed, the same flight")
    add("--gust", type=_at_least_0, default=VehicleModel.gust,
        help="m/s, standard deviation of the wind")
    add("--home-noise", type=_at_least_0, default=0.7,
        help="m, by how much the altitude of home may be wrong; it is set anew at each arming")
    add("--battery-percent", type=_percent, default=100.0, help="charge at the start")
    add("--parent-pid", type=int, help="end when this is no longer the parent process")
    add("--param", type=_parameter, action="append", default=[], metavar="NAME=VALUE",
        help="PX4 parameter that differs from its default; may be repeated")
    add("--vehicle", type=_vehicle, action="append", default=[], metavar="NAME=VALUE",
        help="of the drone as it really is, such as mass=1.8; may be repeated: "
             + ", ".join(f.name for f in fields(VehicleModel)))
    add("--refuse-arm", action="store_true", help="fault: arming is denied")
    add("--refuse-mode", action="store_true", help="fault: every mode change is denied")
    add("--lock-params", action="store_true",
        help="fault: parameters cannot be changed while armed")
    add("--stuck-params", action="store_true", help="fault: parameters cannot be changed")
    add("--ardupilot", action="store_true", help="fault: it says that it is an ArduPilot")
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


def _vehicle(text):
    name, _, value = text.partition("=")
    value = _number(value, float, math.isfinite, "NAME=NUMBER")
    try:
        VehicleModel(**{name: value})
    except (TypeError, ConfigError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return name, value


def _wind(text):
    return tuple(_number(text, lambda t: [float(v) for v in t.split(",")],
                         lambda v: len(v) == 2 and all(abs(x) <= 50 for x in v), "EAST,NORTH"))


def _home(text):
    parts = _number(text, lambda t: [float(v) for v in t.split(",")],
                    lambda v: len(v) == 3 and all(map(math.isfinite, v)) and abs(v[0]) <= 90
                    and abs(v[1]) <= 180, "LAT,LON,ALT")
    return tuple(parts)
