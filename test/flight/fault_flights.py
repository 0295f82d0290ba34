"""One flight in which one thing goes wrong in one phase, in a process of its own.

python fault_flights.py FAULT PHASE [UNDO]
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import shapely
from conftest import make_plan

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig, GuardConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.guard import Guard, GuardWatch
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.flight.state import FlightState
from parallel_city_ros.geo import LocalFrame

SPEED_FACTOR = 20.0
HOME = (30.0, 50.0)
PASSES_S = 1.5          # wall, after which what is undone by itself is
DOWN_S = 40.0           # wall, for a drone that is given up to come down by itself
# COM_DL_LOSS_T, link, mode and estimator times are wall: shorter here, as all else is faster.
OPTIONS = ("--param=COM_DISARM_PRFLT=60", "--param=COM_DL_LOSS_T=2")
CONFIG = FlightConfig(
    link_timeout_s=0.7, link_wait_s=6.0, command_timeout_s=2.0, parameter_timeout_s=1.0,
    mode_timeout_s=1.0, retries=2, progress_period_s=0.05, return_timeout_s=300.0,
    guard=GuardConfig(estimator_s=0.2))


def fly(fault: str, phase: str, undo: str = "") -> dict:
    """status, message, states and the truth about the drone in the end.

    undo : a fault that ends the first PASSES_S later
    """
    empty = VoxelGrid.from_dense(np.zeros((120, 100, 1), bool), np.array([0.0, 0.0, 5.0]), 2.0,
                                 LocalFrame(60.17, 24.94, 0.0))
    grid = empty.with_prism(shapely.box(180, 60, 200, 80), 5, 35)
    plan = make_plan(grid, bow=12.0, start=(40.0, 40.0, 40.0), goal=(150.0, 120.0, 40.0))
    lat, lon, _ = grid.frame.to_wgs84((*HOME, 0.0))
    states, struck = [], []
    with SimulatedAutopilot((lat, lon, 17.0), speed_factor=SPEED_FACTOR, seed=5,
                            options=OPTIONS) as simulator, Autopilot(
                                command_timeout_s=CONFIG.command_timeout_s) as autopilot:
        autopilot.connect(simulator.address, 15.0)
        guard = GuardWatch(Guard(plan, grid, CONFIG), autopilot, CONFIG)
        flight = PatrolFlight(plan, grid, autopilot, CONFIG, lambda: guard.reason)

        def on_progress(progress):
            if not states or states[-1] != progress.state.value:
                states.append(progress.state.value)
            if not struck and progress.state.value == phase:
                struck.append(time.monotonic())
                simulator.inject(fault)
                if progress.state is FlightState.PAUSED:
                    flight.resume()
            elif not struck and progress.state is FlightState.ON_PATROL \
                    and progress.waypoint >= 2:
                {"paused": flight.pause, "returning": flight.return_home,
                 "landing": flight.land}.get(phase, lambda: None)()
            elif undo and len(struck) == 1 and time.monotonic() - struck[0] > PASSES_S:
                struck.append(0.0)
                simulator.inject(undo)

        with guard:
            outcome = flight.run(on_progress)
        if undo and len(struck) == 1:
            simulator.inject(undo)
        deadline = time.monotonic() + DOWN_S
        while True:
            truth = json.loads(simulator.inject("truth"))[0]
            if truth["landed"] and not truth["armed"] or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    lost = np.hypot(*truth["position"][:2])
    return {"status": outcome.status.value, "message": outcome.message, "states": states,
            "struck": bool(struck), "truth": truth, "from_home_m": float(lost)}


if __name__ == "__main__":
    print(json.dumps(fly(*sys.argv[1:])), flush=True)
    # MAVSDK's native threads may wait for the drone that is gone.
    os._exit(0)
