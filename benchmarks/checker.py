"""Plans over random cities and tasks, each looked at by checkers that the planners do not share.

    python benchmarks/checker.py out/checker --plans 10000
    python benchmarks/checker.py out/slopes --plans 500 --kind hill --coverage facades

One line of JSON a run; begun again, it goes on where it ended. Run n is the same run always, of
the same code. What counts as a violation:

- a constraint that the certificate's checker finds broken in a plan, once it is read back from
  its file;
- a roof nearer than the clearance, by the outlines of the buildings and not by voxels;
- an objective that the checker finds to differ by more than a thousandth, or coverage by more
  than a hundredth: a line of sight through the very corner of a column is hidden for the one and
  not for the other;
- a path that the evaluator calls feasible and the checker does not: no plan comes of it, but one
  of them is wrong.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.ground import open_ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ParallelCityError
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.task import Drone, PatrolTask
from parallel_city_ros.planning.made_cities import KINDS, MadeCity
from parallel_city_ros.planning.planner import PLANNERS, PlanOutcome, PlanRequest, PlanStatus, plan

RUNS_A_CITY = 25
BUDGET = 300
COVERAGES = ("ground", "facades", "both")
STEP_M = 0.1            # of looking for roofs
DIFFERENCE = {"coverage_km2": 1e-2, "carbon": 1e-3, "noise_m": 1e-3}    # shares
RESULTS = "runs.jsonl"


@lru_cache(maxsize=2)
def city(number: int, kind: str | None = None) -> tuple[MadeCity, VoxelGrid]:
    """A city of random kind, unless that is given, size and resolution."""
    rng = np.random.default_rng([1, number])
    drawn = str(rng.choice(list(KINDS)))
    made = MadeCity(kind or drawn, number,
                    (float(rng.uniform(250, 450)), float(rng.uniform(250, 400))))
    return made, made.grid(float(rng.choice([2.5, 4.0, 5.0])))


def request(number: int, grid: VoxelGrid, coverage: str | None = None) -> PlanRequest:
    """A random planner, task and drone; its coverage is random unless given.

    Raises
    ------
    ConfigError
        If chance made a task that contradicts itself.
    """
    rng = np.random.default_rng([2, number])
    drone = Drone(max_speed=rng.uniform(8, 15), max_turn_deg=rng.uniform(40, 90),
                  max_climb_deg=rng.uniform(15, 40), endurance_s=rng.uniform(300, 1200),
                  camera_aperture_deg=rng.uniform(40, 80), camera_range=rng.uniform(70, 120))
    settings = {
        "clearance_horizontal": rng.uniform(1, 10), "clearance_vertical": rng.uniform(2, 10),
        "tube_radius": rng.uniform(0.5, 3), "min_altitude": rng.uniform(20, 40),
        "max_altitude": rng.uniform(90, 130), "noise_altitude": rng.uniform(60, 140),
        "occlusion": bool(rng.random() < 0.8), "battery_percent": rng.uniform(60, 100)}
    free = np.argwhere(open_ground(grid, settings["clearance_horizontal"]
                                   + settings["tube_radius"]))

    def place():
        i, j = rng.choice(free)
        east, north = grid.origin[:2] + (np.array([i, j]) + rng.random(2)) * grid.resolution
        return (float(east), float(north), float(grid.ground[i, j] + rng.uniform(
            settings["min_altitude"] + 4, 85)))

    start = place()
    goal, round_trip = place(), rng.random() < 0.2
    if round_trip:
        goal = start
        settings["coverage_floor"] = rng.uniform(0.01, 0.06)
    if rng.random() < 0.3:
        near = min((place() for _ in range(20)), key=lambda p: abs(
            np.hypot(*np.subtract(p, start)[:2]) - rng.uniform(60, 120)))
        settings["must_visit"] = (near, place())[:rng.integers(1, 3)]
        settings["visit_radius"] = rng.uniform(10, 40)
    if rng.random() < 0.3:
        corners = shapely.MultiPoint([place()[:2] for _ in range(6)]).convex_hull
        if corners.area > 0:
            settings["area"] = tuple(corners.exterior.coords[:-1])
    settings |= {name: str(rng.choice(choices, p=shares)) for name, choices, shares in (
        ("coverage", COVERAGES, (0.9, 0.05, 0.05)),
        ("carbon_model", ("distance", "energy"), (0.8, 0.2)),
        ("noise_model", ("altitude", "level"), (0.8, 0.2)))}
    settings["coverage"] = coverage or settings["coverage"]
    if settings["carbon_model"] == "energy":
        settings |= {"payload": rng.uniform(0, 0.5), "wind_east": rng.uniform(-4, 4),
                     "wind_north": rng.uniform(-4, 4)}
    points = int(rng.integers(6, 21))
    stops = np.array([start, *settings.get("must_visit", ()), goal])
    length = np.linalg.norm(np.diff(stops, axis=0), axis=1).sum()
    length = max(length, rng.uniform(300, 600) if round_trip else 100.0)
    settings["time_step_s"] = length / (points + 1) / drone.max_speed / rng.uniform(0.2, 0.6)
    planner = str(rng.choice(list(PLANNERS)))
    return PlanRequest(
        task=PatrolTask(start=start, goal=goal, drone=drone, track_points=points, **settings),
        planner_id=planner, seed=number, evaluation_budget=BUDGET, time_budget_s=1e6,
        evaluator=str(rng.choice(["table", "exact"])))


def violations(made: MadeCity, grid: VoxelGrid, found: PatrolPlan
               ) -> tuple[list[str], dict[str, float]]:
    """What is wrong with a plan, in words; by what share each objective differs."""
    back = PatrolPlan.from_dict(json.loads(json.dumps(found.to_dict())))
    certificate = certify(grid, back.task, back.path, whole=True, map_hash=back.map_hash,
                          coverage_floor_km2=back.coverage_floor_km2)
    wrong = [f"{c.constraint}: {c.margin:g} {c.unit}" for c in certificate.broken]
    apart = {}
    for term in certificate.objectives:
        told = getattr(back.objectives, term.objective)
        apart[term.objective] = abs(told - term.value) / max(abs(term.value), 1e-9)
        if apart[term.objective] > DIFFERENCE[term.objective]:
            wrong.append(f"{term.objective}: found {term.value:.6g}, told {told:.6g} {term.unit}")
    return wrong + near_roofs(made, back), apart


def near_roofs(made: MadeCity, found: PatrolPlan) -> list[str]:
    """Buildings that the path comes too near to, by their outlines. On a hill: not looked at."""
    if made.kind == "hill":
        return []
    task, rng = found.task, np.random.default_rng([made.seed, list(KINDS).index(made.kind)])
    shapes, heights = zip(*KINDS[made.kind](rng, *made.size), strict=True)
    walk = np.concatenate([
        np.linspace(a, b, 2 + int(np.linalg.norm(b - a) / STEP_M))
        for a, b in zip(found.path[:-1], found.path[1:], strict=True)])
    at, building = shapely.STRtree(shapes).query(
        shapely.points(walk[:, :2]), predicate="dwithin",
        distance=task.clearance_horizontal + task.tube_radius - 1e-6)
    missing = np.round(heights, 1)[building] + task.clearance_vertical + task.tube_radius \
        - walk[at, 2]
    return [f"roof {n}: {missing[building == n].max():g} m"
            for n in np.unique(building[missing > 1e-6])]


def ended(outcome: PlanOutcome) -> str:
    if outcome.plan is not None:
        return "plan"
    if not outcome.history:
        return "proved impossible"
    doubted = outcome.status is PlanStatus.NO_VALID_PATH \
        and outcome.history[-1].objectives.violation == 0
    return "feasible, not certified" if doubted else "none found"


def make(number: int, kind: str | None = None, coverage: str | None = None) -> dict:
    """Do run n: what is worth keeping of it."""
    made, grid = city(number // RUNS_A_CITY, kind)
    began = time.thread_time()
    told = {"number": number, "city": made.kind}
    try:
        asked = request(number, grid, coverage)
        task = asked.task
        told |= {"planner": asked.planner_id, "evaluator": asked.evaluator, "traits": [
            name for name, has in (
                ("closed", task.closed), ("must_visit", task.must_visit), ("area", task.area),
                ("terrain", made.kind == "hill"), ("facades", task.coverage != "ground"),
                ("energy", task.carbon_model == "energy"),
                ("level", task.noise_model == "level")) if has]}
        outcome = plan(grid, asked)
    except ParallelCityError as error:
        return told | {"ended": "refused", "message": str(error), "violations": []}
    told |= {"ended": ended(outcome), "message": outcome.message, "violations": []}
    if outcome.plan is not None:
        told["violations"], told["apart"] = violations(made, grid, outcome.plan)
    elif told["ended"].startswith("feasible"):
        told["violations"] = [outcome.message]
    return told | {"cpu_s": round(time.thread_time() - began, 3)}


def check(folder: Path, plans: int, on_done=lambda told: None, **given) -> list[dict]:
    """Runs until so many plans were made, those in the folder among them; all of them.

    given : kind and coverage, if all runs are to have the same
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RESULTS
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    done = [json.loads(line) for line in lines if line.endswith("\n")]     # not a half one
    with open(file, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(told) + "\n" for told in done)
        out.flush()
        while sum(told["ended"] == "plan" for told in done) < plans:
            done.append(make(len(done), **given))
            out.write(json.dumps(done[-1]) + "\n")
            out.flush()
            on_done(done[-1])
    return done


def summary(runs: list[dict]) -> dict:
    made = [r for r in runs if r["ended"] == "plan"]
    return {"runs": len(runs), "plans": len(made),
            "violations": sum(bool(r["violations"]) for r in runs),
            "farthest_apart": {name: max((r["apart"][name] for r in made), default=0.0)
                               for name in DIFFERENCE},
            "ended": dict(Counter(r["ended"] for r in runs)),
            "plans_by_planner": dict(Counter(r["planner"] for r in made)),
            "plans_by_trait": dict(Counter(t for r in made for t in r["traits"])),
            "plans_by_city": dict(Counter(r["city"] for r in made)),
            "cpu_s": round(sum(r.get("cpu_s", 0.0) for r in runs), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plans", type=int, default=10_000)
    parser.add_argument("--kind", choices=KINDS, help="of all cities; by default chance")
    parser.add_argument("--coverage", choices=COVERAGES, help="of all tasks; by default chance")
    arguments = parser.parse_args()

    def tell(told):
        if told["violations"]:
            print(json.dumps(told), flush=True)
    runs = check(arguments.folder, arguments.plans, tell, kind=arguments.kind,
                 coverage=arguments.coverage)
    print(json.dumps(summary(runs), indent=1))
    raise SystemExit(any(r["violations"] for r in runs))


if __name__ == "__main__":
    main()
