"""`parallel-city sim`: simulated drones for QGroundControl and other tools to connect to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile

import click

from parallel_city_ros.cli import options


@click.command()
@click.option("--home", metavar="LAT,LON,ALT", help="Where the first drone stands: degrees, "
              "metres above mean sea level.  [default: where PLAN starts]")
@click.option("--plan", "plan_file", type=click.Path(), help="Stand where this plan starts.")
@click.option("--drones", type=click.IntRange(1, 250), default=1, show_default=True,
              help="How many, 5 m apart to the east.")
@click.option("--port", type=click.IntRange(1, 65000), default=14540, show_default=True,
              help="Where MAVSDK listens; each further drone has the next.")
@click.option("--ground-port", type=click.IntRange(0, 65535), default=14550, show_default=True,
              help="Where QGroundControl listens; 0: nowhere.")
@click.option("--speed-factor", type=click.FloatRange(0, 50, min_open=True), default=1.0,
              show_default=True, help="Vehicle seconds per second.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--wind", metavar="EAST,NORTH", default="0,0", show_default=True, help="m/s.")
@click.option("--gust", type=click.FloatRange(0, 30), default=0.1, show_default=True, help="m/s.")
@click.option("--gps-noise", type=click.FloatRange(0, 20), default=0.3, show_default=True,
              help="m.")
@click.option("--city", "files", type=click.Path(), multiple=True,
              help="City file that really stands there, as it may differ from the twin: the "
                   "drones can fly into it, and tell distances to it.  [default: flat ground]")
@click.option("--resolution", type=click.FloatRange(0, 20, min_open=True), default=2.0,
              show_default=True, help="Metres, of the voxels of that city.")
@options.reading_flags
def sim(home, plan_file, drones, port, ground_port, speed_factor, seed, wind, gust, gps_noise,
        files, resolution, **reading):
    """Run simulated PX4 drones until Ctrl-C.

    Lines typed in are faults, such as "wind east=8 north=0 gust=3" or, for the second drone
    only, "1: gps_loss"; or "truth", "track", "speed 4". With a city, DISTANCE_SENSOR (down) and
    OBSTACLE_DISTANCE (around) are sent, and a drone that hits something falls.

    \b
    parallel-city sim --home 60.17,24.94,17 --drones 3
    parallel-city fly plan.json --autopilot udpin://127.0.0.1:14540
    """
    command = [sys.executable, "-m", "parallel_city_ros.flight.simulator", f"--port={port}",
               f"--ground-port={ground_port}", f"--speed-factor={speed_factor}",
               f"--seed={seed}", f"--wind={wind}", f"--gust={gust}", f"--gps-noise={gps_noise}",
               f"--parent-pid={os.getpid()}", *(f"--home={place}" for place in _homes(
                   home, plan_file, drones))]
    options.note(f"{drones} drone{'s' * (drones > 1)} at udpin://127.0.0.1:{port}"
                 f"{f' to {port + drones - 1}' * (drones > 1)}; Ctrl-C ends")
    with tempfile.NamedTemporaryFile(suffix=".npz") as city:
        read, voxelise = options.take_reading(reading)
        if files:
            from parallel_city_ros.flight.simulator.surroundings import write_city
            write_city(city, voxelise(read(files), resolution))
            city.flush()
            command.append(f"--city={city.name}")
        process = subprocess.Popen(command)
        # The simulator gets Ctrl-C from the terminal too, and ends in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        sys.exit(process.wait())


def _homes(home, plan_file, drones):
    from parallel_city_ros.errors import ConfigError
    from parallel_city_ros.geo import LocalFrame
    if home:
        try:
            lat, lon, alt = (float(v) for v in home.split(","))
        except ValueError:
            raise ConfigError(f"--home must be LAT,LON,ALT in degrees and metres, is {home!r}"
                              ) from None
        frame, start = LocalFrame(lat, lon, alt), (0.0, 0.0)
    elif plan_file:
        from parallel_city_ros.patrol.plan import PatrolPlan
        plan = PatrolPlan.load(plan_file)
        frame, start = plan.frame, plan.path[0, :2]
    else:
        raise ConfigError("where do the drones stand? add --home LAT,LON,ALT or --plan PLAN.json")
    for k in range(drones):
        lat, lon, alt = frame.to_wgs84((start[0] + 5.0 * k, start[1], 0.0))
        yield f"{float(lat)!r},{float(lon)!r},{float(alt)!r}"
