"""`parallel-city fly`: fly a plan with a simulated or a real autopilot, without ROS."""

from __future__ import annotations

import logging
import os
import sys
import threading

import click

from parallel_city_ros.cli import options
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.settings import build


@click.command()
@click.argument("plan_file", metavar="PLAN.json", type=click.Path())
@click.option("--autopilot", default="sim", show_default=True,
              help="sim: a simulated PX4 of our own; or the MAVSDK address of a drone, such as "
                   "udpin://127.0.0.1:14540 for PX4 SITL.")
@click.option("--city", "city_file", type=click.Path(),
              help="The city file to certify the plan on again.  [default: the plan's own]")
@click.option("--speed-factor", type=click.FloatRange(0, 50, min_open=True), default=10.0,
              show_default=True, help="Of the simulated drone: vehicle seconds per second.")
@click.option("--output", "-o", type=click.Path(dir_okay=False),
              help="The flown track and how it compares with the plan, as JSON.")
@options.settings_flags(FlightConfig, skip=("address",))
@options.json_option
def fly(plan_file, autopilot, city_file, speed_factor, output, as_json, **settings):
    """Fly the patrol of PLAN.json.

    The plan is certified again on its city before anything is sent. Ctrl-C brings the drone
    home and waits for its landing; a second Ctrl-C leaves it to its autopilot, which has the
    mission and its way home on board.

    \b
    parallel-city fly plan.json
    parallel-city fly plan.json --autopilot udpin://127.0.0.1:14540
    """
    from parallel_city_ros.city.readers import read_city
    from parallel_city_ros.city.voxels import voxelise
    from parallel_city_ros.errors import PlanError
    from parallel_city_ros.patrol.plan import PatrolPlan

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options.require_folders(output)
    plan = PatrolPlan.load(plan_file)
    city_file = city_file or plan.city_file
    if not city_file:
        raise PlanError(f"{plan_file}: does not say which city it was made for; add --city FILE")
    values = options.given(settings)
    if autopilot != "sim":
        values["address"] = autopilot
    config = build(FlightConfig, values)
    grid = voxelise(read_city(city_file), plan.resolution)
    if plan.map_update:
        raise PlanError(
            f"{plan_file}: was made on update {plan.map_update} of the map, and the city file "
            "does not hold those events; fly it through the nodes, which know them, or plan again")
    if autopilot == "sim":
        from dataclasses import replace

        from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
        home = plan.frame.to_wgs84((*plan.path[0, :2], float(grid.ground_at(plan.path[0]))))
        with SimulatedAutopilot(home, speed_factor=speed_factor, seed=plan.seed) as drone:
            outcome = _fly(plan, grid, replace(config, address=drone.address))
    else:
        outcome = _fly(plan, grid, config)
    _report(plan, grid, outcome, output, as_json)


def _fly(plan, grid, config):
    from parallel_city_ros.flight.autopilot import Autopilot
    from parallel_city_ros.flight.executor import PatrolFlight

    cancelled, done, result = threading.Event(), threading.Event(), []
    with Autopilot(command_timeout_s=config.command_timeout_s) as autopilot, \
            options.progress("connecting", plan.length_m) as bar:
        autopilot.connect(config.address, config.connect_timeout_s,
                          rate_hz=config.telemetry_rate_hz, system_id=config.system_id)
        flight = PatrolFlight(plan, grid, autopilot, config)

        def on_progress(p):
            bar.update(p.distance_m, f"{p.state.value.replace('_', ' ')}, waypoint "
                       f"{p.waypoint + 1} of {p.waypoints}, battery {p.battery_percent:.0f} %")

        def work():
            try:
                result.append(flight.run(on_progress, cancelled.is_set))
            except BaseException as error:
                result.append(error)
            finally:
                done.set()

        threading.Thread(target=work, daemon=True).start()
        while not done.is_set():
            try:
                # Not join(): interrupted, it takes a thread that runs for one that has ended.
                done.wait(0.1)
            except KeyboardInterrupt:
                if cancelled.is_set():
                    raise
                cancelled.set()
                options.note("the drone comes home; Ctrl-C again leaves it to its autopilot")
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _report(plan, grid, outcome, output, as_json):
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
        import json
        write_atomically(output, json.dumps(options.finite(
            values | {"track": outcome.flown.tolist()})) + "\n")
    if as_json:
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
