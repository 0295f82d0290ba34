"""Flights in which one thing goes wrong in one phase, each in a process of its own, some at once.

Cases, [fault, phase, undo] each, come as JSON on standard input; for each a line of JSON goes to
standard output when its flight has ended. undo : a fault that ends the first after a while.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace

import numpy as np
import shapely
from patrols import make_plan

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig, GuardConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.guard import Guard, GuardWatch
from parallel_city_ros.flight.simulator import program
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.flight.state import FlightState
from parallel_city_ros.geo import LocalFrame

AT_ONCE = 8             # a flight waits more than it works
SPEED_FACTOR = 20.0     # at most
HOME = (30.0, 50.0)
PASSES_S = 25.0         # vehicle, after which what is undone by itself is
FLIGHT_S = 180          # wall, of a flight: then its process is killed, which is a failure
PATIENT = FlightConfig(
    takeoff_timeout_s=1200.0, progress_timeout_s=600.0, return_timeout_s=1500.0,
    link_timeout_s=15.0, mode_timeout_s=1.0, retries=4, progress_period_s=0.05,
    guard=GuardConfig(estimator_s=0.2))
# Where the link is what fails, its wall times are short, as all else is fast.
BRISK = replace(PATIENT, link_timeout_s=1.5, link_wait_s=6.0, command_timeout_s=2.0,
                parameter_timeout_s=1.0, retries=2)
LINK = ("link_loss", "freeze", "reboot")


class Forked:
    """What SimulatedAutopilot needs of a subprocess.Popen, without importing everything again:
    that is most of the work of a flight."""

    def __init__(self, command, *, stderr, **_):
        read, self.stdin = _pipe()
        self.stdout, write = _pipe()
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            for fd, file in enumerate((read, write, stderr)):
                os.dup2(file.fileno(), fd)
            self.stdin.close()      # or it would not hear that nobody speaks to it any more
            self.stdout.close()
            code = 1
            try:
                code = program.main(command[3:])    # after: python -m module
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        read.close()
        write.close()

    def terminate(self):
        os.kill(self.pid, signal.SIGTERM)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout):
        deadline = time.monotonic() + timeout
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("simulator", timeout)
            time.sleep(0.01)


def _pipe():
    read, write = os.pipe()
    return os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)


class ForkedAutopilot(SimulatedAutopilot):
    """Starts as a fork of this process."""

    _open = Forked


def city():
    """(grid, plan), small so that flights are short."""
    empty = VoxelGrid.from_dense(np.zeros((120, 100, 1), bool), np.array([0.0, 0.0, 5.0]), 2.0,
                                 LocalFrame(60.17, 24.94, 0.0))
    grid = empty.with_prism(shapely.box(180, 60, 200, 80), 5, 35)
    return grid, make_plan(grid, bow=12.0, start=(40.0, 40.0, 40.0), goal=(150.0, 120.0, 40.0))


def fly(grid, plan, fault: str, phase: str, undo: str) -> dict:
    """status, message, states and the truth about the drone in the end."""
    lat, lon, _ = grid.frame.to_wgs84((*HOME, 0.0))
    states, struck, seen = [], [], [np.inf]
    link = fault.startswith(LINK)
    config = BRISK if link else PATIENT
    options = ("--lockstep", "--param=COM_DISARM_PRFLT=600",
               f"--param=COM_DL_LOSS_T={2 if link else 30}")
    with ForkedAutopilot((lat, lon, 17.0), speed_factor=SPEED_FACTOR, seed=5, city=grid,
                         options=options) as simulator, simulator.paced(lambda: seen[-1]), \
            Autopilot(command_timeout_s=config.command_timeout_s) as autopilot:
        autopilot.connect(simulator.address, 30.0)
        guard = GuardWatch(Guard(plan, grid, config), autopilot, config)
        flight = PatrolFlight(plan, grid, autopilot, config, lambda: guard.reason,
                              guard.update_route)

        def on_progress(progress):
            now = seen[-1] = progress.vehicle_time_s
            if not states or states[-1] != progress.state.value:
                states.append(progress.state.value)
            if not struck and progress.state.value == phase:
                struck.append(now)
                simulator.inject(fault)
                if progress.state is FlightState.PAUSED:
                    flight.resume()
            elif not struck and progress.state is FlightState.ON_PATROL \
                    and progress.waypoint >= 2:
                {"paused": flight.pause, "returning": flight.return_home,
                 "landing": flight.land}.get(phase, lambda: None)()
            elif undo and len(struck) == 1 and now - struck[0] > PASSES_S:
                struck.append(now)
                simulator.inject(undo)

        with guard:
            outcome = flight.run(on_progress)
        seen[-1] = np.inf
        if undo and len(struck) == 1:
            simulator.inject(undo)
        while True:     # one that was given up comes down by itself
            truth = json.loads(simulator.inject("truth"))[0]
            if truth["landed"] and not truth["armed"]:
                break
            time.sleep(0.1)
    return {"status": outcome.status.value, "message": outcome.message, "states": states,
            "struck": bool(struck), "truth": truth}


def fly_in_child(grid, plan, case) -> int:
    """Process id of a flight that tells how it ended in one line."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(FLIGHT_S)
    try:
        told, code = fly(grid, plan, *case), 0
    except BaseException:
        told, code = {"error": traceback.format_exc()}, 1
    os.write(1, (json.dumps(told | {"case": case[:2]}) + "\n").encode())
    # MAVSDK's native threads may wait for the drone that is gone.
    os._exit(code)


def main() -> None:
    cases = json.load(sys.stdin)
    grid, plan = city()     # once, and what it imports and compiles: children have it too
    flying = {}
    while cases or flying:
        while cases and len(flying) < AT_ONCE:
            case = cases.pop(0)
            flying[fly_in_child(grid, plan, case)] = case
        pid, status = os.wait()
        case = flying.pop(pid, None)
        if case is not None and status:
            print(json.dumps({"case": case[:2], "error": (
                f"its process ended with status {status}: killed after {FLIGHT_S} s?")}),
                flush=True)


if __name__ == "__main__":
    main()
