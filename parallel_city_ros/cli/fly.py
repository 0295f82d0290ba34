"""`parallel-city fly`: fly a plan, or the plans of a fleet, without ROS."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from contextlib import ExitStack, nullcontext
from pathlib import Path

import click

from parallel_city_ros.cli import options
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.px4 import INSTANCES
from parallel_city_ros.settings import build

SPEED_FACTORS = {"sim": 10.0}
PX4_STARTS_S = 30.0
FASTEST_PX4 = 20.0  # of which 16 was flown; at 50 nothing answers in time
FLAT_M = 4.0        # by which a hill may differ from PX4's flat ground
STANDS_M = 0.2      # over the ground of Gazebo's world
AIRBORNE = ("taking_off", "on_patrol", "paused")    # and not on the way home


@click.command()
@click.argument("plan_file", metavar="PLAN.json|MISSION.yaml", type=click.Path())
@click.option("--autopilot", default="sim", show_default=True,
              help="sim: a simulated PX4 of our own; px4: an installed PX4 SITL; or the MAVSDK "
                   "address of a drone, such as udpin://127.0.0.1:14540.")
@click.option("--px4", "px4_build", metavar="FOLDER", type=click.Path(), default="",
              help="Build folder of PX4 SITL.  [default: $PX4_BUILD, else px4 on the PATH]")
@click.option("--simulator", type=click.Choice(["sih", "gazebo"]), default="sih",
              show_default=True, help="What PX4 SITL flies in.")
@click.option("--instance", type=click.IntRange(0, INSTANCES - 1), default=0, show_default=True,
              help="Of PX4 SITL, of which several run side by side: added to its ports.")
@click.option("--city", "files", type=click.Path(), multiple=True,
              help="City file to certify the plan on again; again for others that complete it.  "
                   "[default: the plan's own]")
@click.option("--speed-factor", type=click.FloatRange(0, 50, min_open=True),
              help="Of the simulated drone: vehicle seconds per second.  [default: 10; of PX4 "
                   "SITL 1, whose missions are sent within seconds of its own]")
@click.option("--seed", type=click.IntRange(0), help="Of the simulated drone.  [default: the "
              "plan's]")
@click.option("--resume", "earlier", metavar="LOG.jsonl", type=click.Path(), multiple=True,
              help="Log of an earlier flight of this plan, such as one that the battery ended: "
                   "begin at the first waypoint not yet seen; again for more flights.")
@click.option("--log", "log_name", type=click.Path(),
              help="Flight log: NAME.jsonl and, with all MAVLink, NAME.tlog; of a fleet a folder.")
@click.option("--output", "-o", type=click.Path(dir_okay=False),
              help="The flown track and how it compares with the plan, as JSON.")
@click.option("--lines", is_flag=True, hidden=True)
@options.settings_flags(FlightConfig, skip=("address",))
@options.reading_flags
@options.json_option
def fly(plan_file, autopilot, px4_build, simulator, instance, files, speed_factor, seed, earlier,
        log_name, output, lines, as_json, **settings):
    """Fly the patrol of PLAN.json, or those of all drones of MISSION.yaml.

    The plan is certified again on its city before anything is sent. Ctrl-C brings the drone
    home and waits for its landing; a second Ctrl-C leaves it to its autopilot, which has the
    mission and its way home on board. With --autopilot sim, the buildings of that city stand in
    the drone's way, too.

    \b
    parallel-city fly plan.json
    parallel-city fly plan.json --autopilot udpin://127.0.0.1:14540
    parallel-city fly plan.json --resume out/first.jsonl --log out/second
    parallel-city fly mission.yaml
    """
    if Path(plan_file).suffix in (".yaml", ".yml"):
        from parallel_city_ros.cli.fleet import fly_fleet
        fly_fleet(plan_file, speed_factor, log_name, as_json, px4_build, simulator)
        return
    speed_factor = speed_factor or SPEED_FACTORS.get(autopilot, 1.0)
    if autopilot == "px4" and speed_factor > FASTEST_PX4:
        raise click.UsageError(f"--speed-factor {speed_factor:g}: PX4 SITL is not heard in time "
                               f"above {FASTEST_PX4:g}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options.require_folders(output)
    plan, grid = _load(plan_file, files, *options.take_reading(settings))
    stands_at = plan.path[0]
    if earlier:
        plan = _rest(plan, grid, earlier)
    values = options.given(settings)
    if autopilot not in ("sim", "px4"):
        values["address"] = autopilot
    if autopilot == "px4":
        values.setdefault("connect_timeout_s", PX4_STARTS_S)
    config = build(FlightConfig, values)
    with ExitStack() as stack:
        log = None
        if log_name:
            from parallel_city_ros.flight.log import FlightLog
            log = stack.enter_context(FlightLog(log_name))
            log.write("start", plan=str(plan_file), planner=plan.planner_id,
                      map_hash=plan.map_hash, map_update=plan.map_update,
                      frame=[plan.frame.latitude_deg, plan.frame.longitude_deg,
                             plan.frame.altitude_m],
                      path=plan.path.tolist(), autopilot=autopilot)
        if autopilot == "px4" and simulator == "sih":
            _tell_of_flat_ground(plan, grid, stands_at)
        drone = _start_autopilot(autopilot, plan, grid, stands_at, speed_factor, seed,
                                 px4_build, simulator, instance)
        stack.enter_context(drone)
        if drone.address:
            from dataclasses import replace
            config = replace(config, address=drone.address)
        outcome = _with_crash(_fly(plan, grid, config, log, lines), drone)
        if log:
            log.write("track", points=outcome.flown.round(2).tolist())
            log.outcome(outcome)
    _report(plan, grid, outcome, output, as_json or lines, lines)


def _load(plan_file, files, read, voxelise):
    """The plan, and the newest twin of its city."""
    from parallel_city_ros.errors import PlanError
    from parallel_city_ros.patrol.plan import PatrolPlan

    plan = PatrolPlan.load(plan_file)
    files = files or tuple(filter(None, plan.city_file.split(",")))
    if not files:
        raise PlanError(f"{plan_file}: does not say which city it was made for; add --city FILE")
    grid = voxelise(read(files), plan.resolution)
    if plan.map_update:
        raise PlanError(
            f"{plan_file}: was made on update {plan.map_update} of the map, and the city file "
            "does not hold those events; fly it through the nodes, which know them, or plan again")
    return plan, grid


def _rest(plan, grid, earlier):
    """What earlier flights of a plan, by their logs, have not seen of it."""
    import numpy as np

    from parallel_city_ros.cpss.resume import PatrolMemory
    from parallel_city_ros.errors import PlanError
    from parallel_city_ros.flight.log import read_lines

    memory = PatrolMemory()
    for file in earlier:
        lines = read_lines(file)
        if any(line.get("map_hash", plan.map_hash) != plan.map_hash for line in lines):
            raise PlanError(f"{file}: is of a flight over another map; name one of this plan")
        track = np.array([row[1:] for line in lines if line["kind"] == "track"
                          for row in line["points"]])
        if not len(track):      # its process was killed: as far as it told
            track = np.array([line["position"] for line in lines if line["kind"] == "progress"
                              and line["state"] in AIRBORNE and None not in line["position"]])
        memory.record(plan, grid, track.reshape(-1, 3), lines[-1]["time"])
    rest = memory.rest(plan, grid)
    first = len(plan.path) - len(rest.path)
    options.note(f"resumed at waypoint {first + 1} of {len(plan.path)}")
    return rest


class _NoProcess(nullcontext):
    address = ""


def _tell_of_flat_ground(plan, grid, stands_at):
    home, goal = (float(grid.ground_at(place)) for place in (stands_at, plan.path[-1]))
    lowest = float(plan.path[:, 2].min())
    if abs(goal - home) > FLAT_M or lowest < home + FLAT_M:
        options.note(f"PX4's own simulator has flat ground, at the height of home, {home:.0f} m; "
                     f"the city has {goal:.0f} m under the goal and the route comes down to "
                     f"{lowest:.0f} m: what looks like leaving the corridor brings it home. "
                     "--simulator gazebo has the city's ground")


def _start_autopilot(autopilot, plan, grid, stands_at, speed_factor, seed, px4_build, simulator,
                     instance=0):
    """A context manager with the address of what it starts; "" if nothing is to be started."""
    if autopilot not in ("sim", "px4"):
        return _NoProcess()
    home = plan.frame.to_wgs84((*stands_at[:2], float(grid.ground_at(stands_at))))
    if autopilot == "px4":
        from parallel_city_ros.flight.px4 import Px4Sitl
        return Px4Sitl(home, build=px4_build, simulator=simulator, speed_factor=speed_factor,
                       instance=instance,
                       place=(*stands_at[:2], float(grid.ground_at(stands_at)) + STANDS_M))
    from parallel_city_ros.flight.checks import why_not_down
    from parallel_city_ros.flight.simulator.process import SimulatedAutopilot, patience
    # The twin is the truth, too. A plan of another city, and a drone that stands in a building,
    # are refused before it flies.
    same = (plan.map_hash, plan.frame) == (grid.map_hash, grid.frame)
    truth = grid if same and not why_not_down(plan, grid, stands_at, "home") else None
    return SimulatedAutopilot(home, speed_factor=speed_factor, city=truth, ground=grid.terrain,
                              stands_at=stands_at, options=(patience(speed_factor),),
                              seed=plan.seed if seed is None else seed)


def _with_crash(outcome, drone):
    """The outcome, and whether a simulated drone flew into something."""
    from dataclasses import replace

    from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
    if isinstance(drone, SimulatedAutopilot) and drone.crashed():
        return replace(outcome, message=f"{outcome.message}; it flew into something and fell")
    return outcome


def _fly(plan, grid, config, log, lines):
    from parallel_city_ros.flight.autopilot import Autopilot
    from parallel_city_ros.flight.executor import PatrolFlight
    from parallel_city_ros.flight.guard import Guard, GuardWatch

    cancelled, left, done, result = (threading.Event(), threading.Event(), threading.Event(), [])
    with Autopilot(command_timeout_s=config.command_timeout_s) as autopilot, \
            options.progress("connecting", plan.length_m) as bar:
        autopilot.connect(config.address, config.connect_timeout_s,
                          rate_hz=config.telemetry_rate_hz, system_id=config.system_id,
                          copy_to=log.address if log else "")
        watch = GuardWatch(Guard(plan, grid, config), autopilot, config,
                           log.guard if log else lambda event: None)
        flight = PatrolFlight(plan, grid, autopilot, config, lambda: watch.reason,
                              watch.update_route)

        def on_progress(p):
            bar.update(p.distance_m, f"{p.state.value.replace('_', ' ')}, waypoint "
                       f"{p.waypoint + 1} of {p.waypoints}, battery {p.battery_percent:.0f} %")
            if log:
                log.progress(p)
            if lines:
                _print_line(kind="progress", state=p.state.value, waypoint=p.waypoint,
                            waypoints=p.waypoints, distance_m=p.distance_m,
                            position=p.position.tolist(), battery_percent=p.battery_percent)

        def work():
            try:
                result.append(flight.run(on_progress, cancelled.is_set))
            except BaseException as error:
                result.append(error)
            finally:
                done.set()

        def interrupted(*_):
            # Not an exception: it could strike between two instructions of the start.
            if cancelled.is_set():
                left.set()
                flight.leave()
            else:
                cancelled.set()
                options.note("a drone that flies comes home; Ctrl-C again leaves it to its "
                             "autopilot")

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            with watch if config.guard.enabled else nullcontext():
                threading.Thread(target=work, daemon=True).start()
                if lines:
                    threading.Thread(target=_obey, args=(flight, cancelled), daemon=True).start()
                while not done.wait(0.1):
                    pass
        finally:
            signal.signal(signal.SIGINT, before)
    if left.is_set():
        raise KeyboardInterrupt
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _obey(flight, cancelled):
    """Orders of whoever started us, one word a line; when that is gone, the drone comes home."""
    orders = {"pause": flight.pause, "resume": flight.resume, "return": flight.return_home,
              "land": flight.land, "cancel": cancelled.set, "skip": flight.skip}
    for line in sys.stdin:
        word, _, file = line.strip().partition(" ")
        answer = _replace(flight, file) if word == "replace" else orders.get(
            word, lambda: None)()
        if word in ("skip", "replace"):
            answer.add_done_callback(lambda done, word=word: _print_line(
                kind="answer", order=word, refusal=done.result()))
    cancelled.set()


def _replace(flight, file):
    """A future of why the plan of a file is not flown instead, "" if it is."""
    from concurrent.futures import Future

    from parallel_city_ros.errors import PlanError
    from parallel_city_ros.patrol.plan import PatrolPlan

    try:
        return flight.replace(PatrolPlan.load(file))
    except PlanError as error:
        refused = Future()
        refused.set_result(str(error))
        return refused


def _print_line(**values):
    click.echo(json.dumps(options.finite(values)))
    sys.stdout.flush()


def _report(plan, grid, outcome, output, as_json, lines):
    from parallel_city_ros.cpss.comparison import compare
    from parallel_city_ros.files import write_atomically
    from parallel_city_ros.flight.outcome import FlightStatus
    from parallel_city_ros.patrol.evaluator import Evaluator

    completed = outcome.status is FlightStatus.COMPLETED
    values = {"status": outcome.status.value, "message": outcome.message,
              "distance_m": outcome.distance_m, "patrol_distance_m": outcome.patrol_distance_m,
              "duration_s": outcome.duration_s, "energy_wh": outcome.energy_wh}
    if completed:
        evaluator = Evaluator(grid, plan.task, coverage_floor_km2=0.0)
        comparison = compare(plan, outcome.flown[:, 1:], evaluator)
        values["comparison"] = comparison.to_dict()
    if output:
        write_atomically(output, json.dumps(options.finite(
            values | {"track": outcome.flown.tolist()})) + "\n")
    if lines:
        _print_line(kind="outcome", **values)
    elif as_json:
        options.print_json(values)
    else:
        click.echo(f"{outcome.status.value}: {outcome.message}")
        if completed:
            c = comparison
            click.echo(f"flew {c.flown_length_m:.0f} m, planned were {c.planned_length_m:.0f} m, "
                       f"in {outcome.duration_s:.0f} s; at most {c.max_deviation_m:.1f} m from "
                       f"the route ({c.tube_radius_m:g} m are certified)")
    sys.stdout.flush()
    # A call into MAVSDK's native library may never return once the drone is gone, and Python
    # would wait for its thread.
    os._exit(0 if completed else 1)
