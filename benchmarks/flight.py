"""make bench: what flying costs and how well it is done, each figure with its goal.

Real processes throughout: simulator, executor with guard, and node, each on its own. --json
writes one object to stdout; --only NAME measures a part.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
from soak import off_plan

from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig, GuardConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.guard import Guard, GuardWatch
from parallel_city_ros.flight.prediction import predict
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.flight.state import HOLD, MISSION, FlightState
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, plan

LATE_S = 0.25       # wall: what a simulator is later by than that is a missed deadline
WATCHED_S = 10.0    # wall, of a load that is measured
BREACHES = 8
POSITIONS = 400     # whose way to a topic is timed
PATIENT = "--param=COM_DISARM_PRFLT=60"
FAST = 20.0
# All goals are upper bounds.
GOALS = {
    "1 drone at 20 times real time, latest": (LATE_S, "s"),
    "4 drones at 4 times real time, latest": (LATE_S, "s"),
    "30 drones in the air at real time, simulator": (60.0, "% of a core"),
    "executor with guard, telemetry at 10 Hz": (8.0, "% of a core"),
    "autopilot to ROS topic, median": (10.0, "ms"),
    "autopilot to ROS topic, 99th percentile": (30.0, "ms"),
    "breach to commanded action, slowest": (200.0, "ms"),
    "track from plan in calm air, RMS": (1.0, "m"),
    "track from plan in gusts of 8 m/s, RMS": (3.0, "m"),
    "energy against prediction in calm air": (5.0, "%"),
}


def cpu_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_of_core(pid: int, seconds: float) -> float:
    """% of a core that a process takes from now on."""
    began, before = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return 100 * (cpu_s(pid) - before) / (time.monotonic() - began)


def patrol():
    """(grid, plan) over a made city."""
    grid = MadeCity("grid", 1).grid()
    found = plan(grid, PlanRequest(task=task_over(grid, track_points=30), seed=1,
                                   evaluation_budget=3000))
    if found.plan is None:
        raise SystemExit(f"no plan to fly: {found.message}")
    return grid, found.plan


def home_of(grid, flown) -> tuple[float, float, float]:
    lat, lon, _ = grid.frame.to_wgs84((*flown.path[0, :2], 0.0)).tolist()
    return lat, lon, 17.0


def pilot(grid, flown, config: FlightConfig, says) -> None:
    """A process that flies the plan and tells each state, then (status, message)."""
    with Autopilot() as autopilot:
        autopilot.connect(config.address, 30.0, rate_hz=config.telemetry_rate_hz)
        guard = GuardWatch(Guard(flown, grid, config), autopilot, config)
        told = []

        def on_progress(progress):
            if progress.state not in told:
                told.append(progress.state)
                says.send(progress.state)
        with guard:
            outcome = PatrolFlight(flown, grid, autopilot, config, lambda: guard.reason).run(
                on_progress)
    says.send((outcome.status.value, outcome.message))
    says.close()
    os._exit(0)


@contextmanager
def pilots(grid, flown, simulator, count: int = 1, **config):
    """Started: (process, receiver of what it says) of each."""
    context = multiprocessing.get_context("spawn")
    crew = []
    for k in range(count):
        hears, says = context.Pipe(duplex=False)
        process = context.Process(target=pilot, daemon=True, args=(
            grid, flown, FlightConfig(address=f"udpin://127.0.0.1:{simulator.port + k}",
                                      **config), says))
        process.start()
        says.close()
        crew.append((process, hears))
    try:
        yield crew
    finally:
        for process, _ in crew:
            process.kill()
            process.join()


def until(hears, wanted) -> None:
    """Hear a pilot until it tells a state, or None: its outcome, which must be good."""
    while True:
        if not hears.poll(900.0):
            raise SystemExit("a flight does not go on")
        told = hears.recv()
        if told is wanted:
            return
        if isinstance(told, tuple):
            if wanted is None and told[0] == "completed":
                return
            raise SystemExit(f"a flight ended as {told[0]}: {told[1]}")


def latest_s(grid, flown, count: int, factor: float) -> float:
    """How far vehicle time is behind wall time at worst while so many drones fly their plan."""
    home = home_of(grid, flown)
    options = [PATIENT, *(f"--home={home[0]!r},{home[1] + 1e-5 * k!r},{home[2]}"
                          for k in range(1, count))]
    worst = 0.0
    with SimulatedAutopilot(home, speed_factor=factor, city=grid, options=options) as simulator, \
            pilots(grid, flown, simulator, count) as crew:
        for _, hears in crew:
            until(hears, FlightState.READY)

        def vehicle_s():
            return json.loads(simulator.inject("truth"))[0]["time_s"]
        began, first = time.monotonic(), vehicle_s()
        ended = threading.Event()
        waiting = threading.Thread(target=lambda: [
            until(hears, None) for _, hears in crew] and ended.set(), daemon=True)
        waiting.start()
        while not ended.wait(0.2) and waiting.is_alive():
            asked = time.monotonic()
            worst = max(worst, asked - began - (vehicle_s() - first) / factor)
        if not ended.is_set():
            raise SystemExit("a flight failed")
    return worst


def deadlines(grid, flown):
    yield "1 drone at 20 times real time, latest", latest_s(grid, flown, 1, 20.0)
    yield "4 drones at 4 times real time, latest", latest_s(grid, flown, 4, 4.0)


def fleet_of_simulated_drones(grid, flown):
    """All in the air, each with a ground station that hears it."""
    from pymavlink.dialects.v20 import common as mavlink
    count, home = 30, home_of(grid, flown)
    options = [f"--home={home[0]!r},{home[1]!r},{home[2]}" for _ in range(count - 1)]
    with SimulatedAutopilot(home, speed_factor=FAST, options=(
            *options, "--param=MIS_TAKEOFF_ALT=60")) as simulator, ExitStack() as stack:
        stations = []
        for k in range(count):
            station = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            station.bind(("127.0.0.1", simulator.port + k))
            stations.append(station)
        over = threading.Event()

        def attend():
            """Heartbeats, take-off; what is heard is thrown away."""
            heard_from, beat_at = {}, 0.0
            while not over.is_set():
                for station in select.select(stations, [], [], 0.05)[0]:
                    heard_from[station] = station.recvfrom(2048)[1]
                if time.monotonic() > beat_at:
                    beat_at = time.monotonic() + 1.0
                    for k, station in enumerate(stations):
                        link = mavlink.MAVLink(None, srcSystem=245)
                        messages = [mavlink.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3)] + [
                            mavlink.MAVLink_command_long_message(
                                k + 1, 1, command, 0, 1, 0, 0, 0, 0, 0, 0)
                            for command in (mavlink.MAV_CMD_COMPONENT_ARM_DISARM,
                                            mavlink.MAV_CMD_NAV_TAKEOFF)]
                        for message in messages if station in heard_from else ():
                            station.sendto(message.pack(link), heard_from[station])
        attending = threading.Thread(target=attend, daemon=True)
        attending.start()
        stack.callback(attending.join)
        stack.callback(over.set)
        deadline = time.monotonic() + 60
        while any(drone["landed"] for drone in json.loads(simulator.inject("truth"))):
            if time.monotonic() > deadline:
                raise SystemExit("the simulated drones do not take off")
            time.sleep(0.2)
        simulator.inject("speed 1")
        yield ("30 drones in the air at real time, simulator",
               share_of_core(simulator.pid, WATCHED_S))


def executor(grid, flown):
    with SimulatedAutopilot(home_of(grid, flown), speed_factor=FAST, options=(PATIENT,)) \
            as simulator, pilots(grid, flown, simulator) as ((process, hears),):
        until(hears, FlightState.ON_PATROL)
        simulator.inject("speed 1")
        time.sleep(2.0)
        yield "executor with guard, telemetry at 10 Hz", share_of_core(process.pid, WATCHED_S)


def topic(grid, flown):
    """A position that the autopilot sends reaches the node, and a ground station beside it, at
    once; here that ground station also listens to the node's topic."""
    import rclpy
    from pymavlink.dialects.v20 import common as mavlink
    from sensor_msgs.msg import NavSatFix

    from parallel_city_ros.nodes import qos
    sent, waits = {}, []
    with ExitStack() as stack:
        station = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        station.bind(("127.0.0.1", 0))
        station.settimeout(0.5)
        simulator = stack.enter_context(SimulatedAutopilot(
            home_of(grid, flown), speed_factor=1.0, options=(
                "--gps-noise=5", f"--ground-port={station.getsockname()[1]}")))
        log = stack.enter_context(tempfile.TemporaryFile())
        node = subprocess.Popen([
            sys.executable, "-m", "parallel_city_ros.nodes.mission_executor", "--ros-args",
            "-r", "__ns:=/bench", "-p", f'address:="{simulator.address}"'],
            stdout=log, stderr=log)
        stack.callback(node.wait)
        stack.callback(node.terminate)
        over = threading.Event()
        stack.callback(over.set)

        def hear_autopilot():
            parser = mavlink.MAVLink(None)
            while not over.is_set():
                try:
                    data = station.recv(2048)
                except TimeoutError:
                    continue
                now = time.monotonic()
                for message in parser.parse_buffer(data) or ():
                    if message.get_type() == "GLOBAL_POSITION_INT":
                        sent.setdefault((message.lat, message.lon), now)

        def on_fix(fix):
            at = sent.pop((round(fix.latitude * 1e7), round(fix.longitude * 1e7)), None)
            if at is not None:
                waits.append(1000 * (time.monotonic() - at))
        rclpy.init()
        stack.callback(rclpy.shutdown)
        listener = rclpy.create_node("bench_listener")
        listener.create_subscription(NavSatFix, "/bench/fix", on_fix, qos.SENSOR)
        threading.Thread(target=hear_autopilot, daemon=True).start()
        deadline = time.monotonic() + 60 + POSITIONS / 5
        while len(waits) < POSITIONS:
            rclpy.spin_once(listener, timeout_sec=0.2)
            if time.monotonic() > deadline or node.poll() is not None:
                raise SystemExit(f"only {len(waits)} positions came through the node")
        listener.destroy_node()
    waits = waits[POSITIONS // 10:]     # discovery
    yield "autopilot to ROS topic, median", statistics.median(waits)
    yield "autopilot to ROS topic, 99th percentile", float(np.percentile(waits, 99))


def breaches(grid, flown):
    """The position jumps, again and again; the executor is gone, only the guard is there."""
    actions = {name: "warn" for name in vars(GuardConfig()) if name.endswith("_action")}
    # Each jump takes it some metres off its leg, to which it does not come back.
    config = FlightConfig(guard=GuardConfig(deviation_m=30.0, **actions | {
        "deviation_action": "pause", "estimator_action": "pause"}))
    with SimulatedAutopilot(home_of(grid, flown), speed_factor=FAST, options=(PATIENT,)) \
            as simulator, Autopilot() as autopilot:
        autopilot.connect(simulator.address, 30.0, rate_hz=config.telemetry_rate_hz)
        flight = PatrolFlight(flown, grid, autopilot, config)
        on_patrol = threading.Event()
        worker = threading.Thread(target=flight.run, daemon=True, args=(
            lambda p: p.state is FlightState.ON_PATROL and on_patrol.set(),))
        worker.start()
        if not on_patrol.wait(120):
            raise SystemExit("the flight does not get to its patrol")
        flight.leave()
        worker.join(30)
        simulator.inject("speed 1")
        events, waits = [], []
        with GuardWatch(Guard(flown, grid, config), autopilot, config, events.append):
            for _ in range(BREACHES):
                wait_for(lambda: autopilot.snapshot.flight_mode == MISSION)
                time.sleep(1.0)
                events.clear()
                began = time.time()
                simulator.inject("gps_jump east=60 north=-60")
                wait_for(lambda: any(e.commanded for e in events))
                waits.append(1000 * (next(e for e in events if e.commanded).wall_s - began))
                wait_for(lambda: autopilot.snapshot.flight_mode == HOLD)
                simulator.inject("gps_jump east=-60 north=60")
                time.sleep(0.3)     # until that is seen, but not until it flies where it was
                autopilot.start_mission()
    yield "breach to commanded action, slowest", max(waits)


def wait_for(done, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit("what was waited for did not happen")
        time.sleep(0.005)


def track(grid, flown, *options) -> np.ndarray:
    """(N, 5) true s, ENU m of the city, Wh left, from arming to disarming."""
    home = home_of(grid, flown)
    config = FlightConfig()
    config = replace(config, guard=replace(config.guard, deviation_action="warn"))
    with SimulatedAutopilot(home, speed_factor=10.0, seed=1, city=grid,
                            options=(PATIENT, *options)) as simulator, \
            pilots(grid, flown, simulator, guard=config.guard) as ((_, hears),):
        until(hears, None)
        true = np.array(json.loads(simulator.inject("track"))[0])
    true[:, 1:4] += (*flown.path[0, :2], float(grid.ground_at(flown.path[0])))
    return true


def quality(grid, flown):
    calm = track(grid, flown, "--gust=0")
    yield "track from plan in calm air, RMS", off_plan(calm[:, 1:4], flown.path)
    used, predicted = calm[0, 4] - calm[-1, 4], predicted_wh(grid, flown)
    yield "energy against prediction in calm air", 100 * abs(used / predicted - 1)
    yield ("track from plan in gusts of 8 m/s, RMS",
           off_plan(track(grid, flown, "--gust=8")[:, 1:4], flown.path))


def predicted_wh(grid, flown) -> float:
    """Of take-off, patrol and landing."""
    start, goal = flown.path[0], flown.path[-1]
    return predict(flown.path, (*start[:2], float(grid.ground_at(start))),
                   float(grid.ground_at(goal)), FlightConfig(), flown.task.drone,
                   time_step_s=flown.task.time_step_s,
                   tube_radius=flown.task.tube_radius).energy_wh


PARTS = {"deadlines": deadlines, "fleet": fleet_of_simulated_drones, "executor": executor,
         "topic": topic, "breaches": breaches, "quality": quality}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    grid, flown = patrol()
    measured = {}
    for part in arguments.only or PARTS:
        for name, value in PARTS[part](grid, flown):
            measured[name] = value
            goal, unit = GOALS[name]
            if not arguments.json:
                print(f"{name:46} {value:8.3g} {unit:11} goal < {goal:g}  "
                      f"{'holds' if value < goal else 'MISSED'}", flush=True)
    if arguments.json:
        print(json.dumps({
            name: {"value": float(value), "goal": GOALS[name][0], "unit": GOALS[name][1],
                   "holds": bool(value < GOALS[name][0])}
            for name, value in measured.items()}, indent=1))
    sys.stdout.flush()
    # A call into MAVSDK's native library may never return once the drone is gone.
    os._exit(0)


if __name__ == "__main__":
    main()
