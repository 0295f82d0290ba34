"""`parallel-city plan-fleet`: several drones over one city, and the mission that flies them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from parallel_city_ros.cli import options
from parallel_city_ros.cli.plan import ALIASES, Interruptible, warn_of_ends
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.planning.fleet import FleetConfig
from parallel_city_ros.planning.planner import PlanRequest
from parallel_city_ros.settings import build, flatten


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@click.option("--base", type=options.Point(),
              help="Drones fly rounds from places around here: metres east, north, up.")
@click.option("--drones", type=click.IntRange(1), help="How many, with --base.")
@click.option("--route", "routes", type=options.Point(), nargs=2, multiple=True,
              metavar="E,N,U E,N,U", help="In place of --base: start and goal of one drone; again "
              "for each.")
@click.option("--output", "-o", type=click.Path(file_okay=False), default="fleet",
              show_default=True, help="Folder for the plans, mission.yaml, fleet.json and "
                                      "fleet.png.")
@options.resolution_option
@click.option("--visit", "must_visit", type=options.Point(), multiple=True,
              help="A place that the drone of its sector passes, with --base; again for more.")
@options.area_option
@options.zones_options
@options.settings_flags(FleetConfig, ALIASES)
@options.settings_flags(PlanRequest, ALIASES, strip="task.",
                        skip=("evaluation_budget", "prefer"))
@options.reading_flags
@options.json_option
def plan_fleet(files, base, drones, routes, output, resolution, must_visit, area, zones,
               departure, as_json, **settings):
    """Plan a patrol for each of several drones over the city in FILE, all to be flown at once.

    What another drone sees, of ground or walls as --coverage has it, is worth nothing. Routes keep
    --separation-m in space, or, where that cannot be, in time: a drone then starts later. With
    --coverage-floor all drones together see that share. Ctrl-C ends the search and keeps the best
    so far.

    \b
    parallel-city plan-fleet CITY --base 500,800,80 --drones 4 --coverage-floor 0.2 -o fleet
    parallel-city plan-fleet CITY --route 100,300,60 850,1250,60 --route 850,300,60 100,1250,60
    parallel-city plan-fleet CITY --base 500,800,80 --drones 4 --zones zones.json --departure now
    parallel-city fly fleet/mission.yaml
    """
    from parallel_city_ros.patrol.task import PatrolTask
    from parallel_city_ros.planning.fleet import plan_fleet as search
    from parallel_city_ros.planning.fleet import rounds_from
    from parallel_city_ros.planning.planner import plan, warm_up
    from parallel_city_ros.planning.windows import plan_at

    _require_one(base, drones, routes, must_visit)
    leaves = options.take_departure(zones, departure)
    options.require_folders(output)
    read, voxelise = options.take_reading(settings)
    values = options.given(settings)
    of_fleet = {s.name for s in flatten(FleetConfig)}
    config = build(FleetConfig, {k: v for k, v in values.items() if k in of_fleet})
    of_task = {k.removeprefix("task."): v for k, v in values.items() if k.startswith("task.")}
    ends = routes or [(base, base)]
    tasks = [build(PatrolTask, of_task, start=start, goal=goal, area=area, must_visit=must_visit)
             for start, goal in ends]
    request = PlanRequest(task=tasks[0], **{
        k: v for k, v in values.items() if k not in of_fleet and not k.startswith("task.")})
    city = read(files)
    grid = voxelise(city, resolution)
    sectors = ()
    if base:
        tasks, sectors = rounds_from(grid, tasks[0], drones, config)
    for k, task in enumerate(tasks):
        warn_of_ends(grid, task, f"drone_{k + 1}: ")
    how = plan if leaves is None else partial(
        plan_at, zones=options.take_zones(zones, grid, tasks[0]), departure=leaves,
        late_s=config.max_delay_s)
    warm_up()
    with Interruptible() as interrupted:
        outcome = search(grid, request, tasks, config, sectors=sectors, how=how,
                         cancelled=interrupted,
                         city_file=",".join(str(Path(file).resolve()) for file in files),
                         on_progress=options.note)
    fleet = outcome.fleet
    report = {"status": outcome.status.value, "message": outcome.message,
              "mission_file": None, "fleet": fleet.to_dict() if fleet else None}
    if fleet:
        from parallel_city_ros.viz.fleet import draw_fleet
        report["mission_file"] = str(fleet.save(output))
        draw_fleet(Path(output) / "fleet.png", grid, fleet)
    if as_json:
        options.print_json(report)
    elif fleet:
        _tell(outcome, report["mission_file"], grid)
    else:
        options.note(f"{outcome.status.value}: {outcome.message}")
    raise SystemExit(0 if fleet and len(fleet.plans) == len(tasks) else 1)


def _require_one(base, drones, routes, must_visit):
    if bool(base) == bool(routes):
        raise ConfigError("give either --base E,N,U with --drones N, or --route START GOAL for "
                          "each drone")
    if bool(base) != (drones is not None):
        raise ConfigError("--base and --drones belong together; with --route there is a drone for "
                          "each")
    if routes and must_visit:
        raise ConfigError("--visit goes with --base, whose drones share the places; plan the "
                          "drone that has to visit a place alone")


def _tell(outcome, mission_file, grid):
    fleet = outcome.fleet
    click.echo(f"{outcome.status.value}: {outcome.message}, written to {mission_file}")
    for name, found in fleet.plans.items():
        late = fleet.start_after_s[name]
        click.echo(f"{name}: {found.length_m:.0f} m, {fleet.durations_s[name]:.0f} s"
                   + (f", starts {late:.0f} s later" if late else ""))
    click.echo(f"F {fleet.fitness:.0f}: together they see {fleet.coverage_km2:.3f} km², each once")
    if fleet.separation.pairs:
        pair = min(fleet.separation.pairs, key=lambda p: p.gap_m)
        click.echo(f"certified: {fleet.separation.separation_m:g} m are kept within "
                   f"{fleet.separation.time_tolerance_s:g} s; nearest, at {pair.gap_m:.0f} m: "
                   f"{pair.first} and {pair.second}")
    click.echo(f"fly them with: parallel-city fly {mission_file}")
    if grid.attribution:
        click.echo(f"map data {grid.attribution}")
