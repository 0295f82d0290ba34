"""`parallel-city plan`: one certified patrol over a city file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from parallel_city_ros.cli import options
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.files import write_atomically
from parallel_city_ros.planning.planner import WITH_FRONT, PlanRequest, PlanStatus
from parallel_city_ros.settings import build

BAD_INPUT = {PlanStatus.START_OCCUPIED, PlanStatus.GOAL_OCCUPIED, PlanStatus.OUTSIDE_MAP}
ALIASES = {"planner_id": "--planner", "evaluation_budget": "--budget", "time_budget_s": "--time"}


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@click.option("--from", "start", type=options.Point(), required=True,
              help="Where the patrol starts: metres east, north, up in the city's frame.")
@click.option("--to", "goal", type=options.Point(), required=True, help="Where it ends.")
@click.option("--output", "-o", type=click.Path(dir_okay=False), default="plan.json",
              show_default=True, help="The plan, for parallel-city fly.")
@click.option("--picture", type=click.Path(dir_okay=False),
              help="A PNG of the route from above; with --explain one of the legs, and with "
                   "--front one of the front too.")
@options.resolution_option
@click.option("--visit", "must_visit", type=options.Point(), multiple=True,
              help="A place to pass within --visit-radius; may be given many times.")
@options.area_option
@options.zones_options
@click.option("--sorties", type=click.IntRange(1),
              help="Of a round: fly up to so many, a battery each, where one is not enough.")
@click.option("--warm-start", type=click.Path(dir_okay=False),
              help="A plan of before, to begin with.")
@click.option("--front", type=click.Path(dir_okay=False),
              help="A JSON file for the Pareto front, with --planner nsga2.")
@click.option("--explain", is_flag=True,
              help="What each leg brings, costs and is bound by.")
@options.settings_flags(PlanRequest, ALIASES, strip="task.")
@options.reading_flags
@options.json_option
def plan(files, start, goal, output, picture, resolution, must_visit, area, zones, departure,
         sorties, warm_start, front, explain, as_json, **settings):
    """Plan a patrol over the city in FILE, or in several that complete each other; certify it.

    The route sees most for least carbon and noise (fitness F = f2 (f3 + 1) / f1). Ctrl-C ends
    the search and keeps the best so far.

    \b
    parallel-city plan CITY.osm.pbf --from 100,300,60 --to 850,1250,60 --time 20
    parallel-city plan CITY.osm.pbf --from 100,300,60 --to 850,1250,60 \\
        --planner nsga2 --prefer knee --front front.json
    parallel-city plan CITY.osm.pbf --from 500,800,80 --to 500,800,80 --coverage-floor 0.3 \\
        --sorties 6
    parallel-city plan CITY.osm.pbf --from 100,300,60 --to 850,1250,60 \\
        --zones zones.geojson --departure 2026-05-01T10:00+03:00
    """
    from parallel_city_ros.cli.sorties import plan_all
    from parallel_city_ros.patrol.departure import EARLIEST, LATEST, departure_window
    from parallel_city_ros.patrol.explain import explain as explain_legs
    from parallel_city_ros.patrol.plan import PatrolPlan
    from parallel_city_ros.patrol.task import PatrolTask
    from parallel_city_ros.planning.planner import heard, warm_up
    from parallel_city_ros.planning.planner import plan as search
    from parallel_city_ros.planning.windows import noise_at, plan_at

    options.require_folders(output, picture, front)
    pictures = {name: str(Path(file).with_suffix(f".{name}.png")) for name, file in (
        ("front", front), ("legs", explain and picture)) if picture and file}
    read, voxelise = options.take_reading(settings)
    values = options.given(settings)
    of_task = {k.removeprefix("task."): v for k, v in values.items() if k.startswith("task.")}
    of_search = {k: v for k, v in values.items() if not k.startswith("task.")}
    request = PlanRequest(task=build(PatrolTask, of_task, start=start, goal=goal,
                                     must_visit=must_visit, area=area), **of_search)
    if front and request.planner_id not in WITH_FRONT:
        raise ConfigError(f"--front needs a planner with a Pareto front: --planner "
                          f"{', '.join(WITH_FRONT)}")
    leaves = options.take_departure(zones, departure)
    if zones and sorties:
        raise ConfigError("--zones has times, and when each of --sorties takes off is not known "
                          "before; plan them one by one")
    before = PatrolPlan.load(warm_start) if warm_start else None
    city = read(files)
    grid = voxelise(city, resolution)
    city_file = ",".join(str(Path(file).resolve()) for file in files)
    loud = None
    if zones:
        held = options.take_zones(zones, grid, request.task)
        loud = noise_at(grid, request.task, held, leaves)
        search = partial(plan_at, zones=held, departure=leaves, noise_weights=loud)
    warm_up()
    if sorties:
        with Interruptible() as interrupted:
            plan_all(grid, request, sorties, output, city_file, interrupted, as_json)
    with Interruptible() as interrupted, \
            options.progress("planning", request.evaluation_budget) as bar:
        outcome = search(
            grid, request, warm_start=before, city_file=city_file, cancelled=interrupted,
            on_progress=lambda p: bar.update(p.evaluations, options.found_so_far(p)))
    found, message = outcome.plan, outcome.message
    ends = {PlanStatus.START_OCCUPIED: start, PlanStatus.GOAL_OCCUPIED: goal}
    if outcome.status in ends:
        near = city.buildings_near(ends[outcome.status][:2], request.task.clearance_horizontal
                                   + request.task.tube_radius + 2 * resolution)
        message += f" (building {', '.join(near)})" if near else ""
    report = {"status": outcome.status.value, "message": message,
              "plan_file": output if found else None, "plan": found.to_dict() if found else None}
    legs = []
    if found:
        found.save(output)
        if front and outcome.front is not None:
            write_atomically(front, json.dumps(outcome.front.to_dict()) + "\n")
            report["front_file"], report["front_paths"] = front, len(outcome.front)
        if explain:
            legs = explain_legs(grid, request.task, found.path,
                                buildings_near=city.buildings_near,
                                noise_weights=heard(grid, request.task, loud))
            report["legs"] = [leg.to_dict() for leg in legs]
        if picture:
            _draw(picture, grid, found)
        if pictures:
            _draw_more(pictures, grid, outcome, legs, request.prefer)
        report["pictures"] = [file for file in (picture, *pictures.values()) if file]
    if as_json:
        options.print_json(report)
    elif found:
        o, units = found.objectives, request.task.units
        click.echo(f"{outcome.status.value}: {outcome.message}, written to {output}")
        click.echo(f"F {o.fitness:.1f}: sees {o.coverage_km2:.4f} km² (f1), carbon {o.carbon:.3f} "
                   f"{units['carbon']} (f2), noise {o.noise_m:.0f} {units['noise_m']} (f3), "
                   f"{found.length_m:.0f} m long")
        tightest = min((c for c in found.certificate.checks
                        if c.bound > 0.1 and c.constraint not in (EARLIEST, LATEST)),
                       key=lambda c: c.margin / c.bound)
        click.echo(f"certified every 0.25 m on map {found.map_hash[:12]}, update "
                   f"{found.map_update}; tightest: {tightest.constraint} {tightest.value:.1f} "
                   f"{tightest.unit}, bound {tightest.bound:g}")
        if window := departure_window(found.certificate):
            click.echo("takes off from {} to {}".format(*(
                t.astimezone(leaves.tzinfo).isoformat(timespec="seconds") for t in window)))
        if front and outcome.front is not None:
            click.echo(f"{len(outcome.front)} paths of the Pareto front written to {front}")
        _tell(legs)
        if grid.attribution:
            click.echo(f"map data {grid.attribution}")
        warn_of_ends(grid, request.task)
    else:
        options.note(f"{outcome.status.value}: {report['message']}")
    raise SystemExit(0 if found else 2 if outcome.status in BAD_INPUT else 1)


def _tell(legs):
    """A line for each leg, if any."""
    if legs:
        click.echo(" leg  length m      s  new km²  noise m  nearest m  tightest (margin)")
    for leg in legs:
        name = f", {leg.building}" if leg.building else ""
        click.echo(f"{leg.number:4} {leg.length_m:9.1f} {leg.seconds:6.1f} {leg.gained_km2:8.4f} "
                   f"{leg.noise_m:8.0f} {leg.clearance_m:10.1f}  {leg.binding} "
                   f"({leg.margin:.1f} {leg.unit}){name}")


def warn_of_ends(grid, task, whose: str = "") -> None:
    """A plan may start and end over roofs; a drone that takes off and lands there may not."""
    from parallel_city_ros.city.ground import nearest_open_ground, open_ground
    needed = task.clearance_horizontal + task.tube_radius
    free = open_ground(grid, needed)
    for name, point, deed in (("start", task.start, "take off"), ("goal", task.goal, "land")):
        i, j, _ = grid.index(point)
        if not free[i, j]:
            east, north = nearest_open_ground(grid, point, needed)
            options.note(f"{whose}no drone can {deed} at the {name}: buildings are within "
                         f"{needed:g} m; open ground is at {east:.0f},{north:.0f}")


def _draw(file, grid, plan):
    import numpy as np

    from parallel_city_ros.patrol.evaluator import Evaluator
    from parallel_city_ros.viz.pictures import draw_map
    from parallel_city_ros.viz.sortie import Sortie
    seen = Evaluator(grid, plan.task, coverage_floor_km2=0.0).seen(plan.path)
    draw_map(file, grid, [Sortie(1, grid, plan, np.empty((0, 4)), seen, seen & False, None, [])],
             [])


def _draw_more(files, grid, outcome, legs, prefer):
    """The front and the legs, those of them that have a file."""
    from parallel_city_ros.viz.front import draw_front, draw_legs
    if "front" in files and outcome.front is not None:
        draw_front(files["front"], outcome.front, outcome.plan.task.units, prefer,
                   grid.attribution)
    if "legs" in files:
        draw_legs(files["legs"], grid, outcome.plan, legs)


class Interruptible:
    """Within it, the first Ctrl-C is remembered instead of raised: call it to see."""

    def __enter__(self):
        import signal
        self._caught = False
        self._before = signal.signal(signal.SIGINT, self._catch)
        return self

    def _catch(self, *_):
        import signal
        self._caught = True
        signal.signal(signal.SIGINT, self._before)

    def __call__(self):
        return self._caught

    def __exit__(self, *_):
        import signal
        signal.signal(signal.SIGINT, self._before)
