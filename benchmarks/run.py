"""make bench: how long the parts of the loop take over real Helsinki, in one run.

Medians of several repeats in one process on one core, after compilation; compare ratios of one
run, not seconds of two. --json writes one object to stdout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.twin import CityEvent, Twin
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.cpss.comparison import closest_approaches
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanRequest, plan, warm_up
from parallel_city_ros.planning.rrt import rrt_paths

RESOLUTION = 2.0
POPULATION = 50


def median_s(work, repeats: int) -> float:
    """Median wall seconds of one call."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(repeats: int) -> dict[str, tuple[float, str]]:
    """Name → value and unit."""
    warm_up()
    city = read_osm(helsinki_file())
    grid = voxelise(city, RESOLUTION)
    start, goal = two_ends(grid, 12.0, 1280.0)
    task = PatrolTask(start=(*start, 60.0), goal=(*goal, 60.0))
    evaluator = Evaluator(grid, task)
    paths = rrt_paths(evaluator, POPULATION, np.random.default_rng(1))
    found = plan(grid, PlanRequest(task=task, evaluation_budget=1000)).plan
    x, y, _ = found.path[20]
    event = CityEvent(event_id="crane", kind="crane", lower_z=0.0, upper_z=130.0, footprint=(
        (x - 20, y - 20), (x + 20, y - 20), (x + 20, y + 20), (x - 20, y + 20)))
    track = np.repeat(found.path, 60, axis=0)
    by_table = Evaluator(grid, task)
    by_table.exact = False
    many = np.repeat(paths, 20, axis=0)
    by_table(paths)     # the views are made

    def feasible_plan():
        feasible = []
        outcome = plan(grid, PlanRequest(task=task), cancelled=lambda: bool(feasible),
                       on_progress=lambda p: feasible.append(p) if p.feasible else None)
        assert outcome.plan is not None
    return {
        "city file to buildings": (median_s(lambda: read_osm(helsinki_file()), repeats), "s"),
        "buildings to voxels, 2 m": (median_s(lambda: voxelise(city, RESOLUTION), repeats), "s"),
        "content hash": (median_s(lambda: voxelise(city, RESOLUTION).map_hash, repeats), "s"),
        "event to new map version": (median_s(lambda: Twin(grid).add(event), repeats), "s"),
        "exact evaluator with occlusion": (
            POPULATION / median_s(lambda: evaluator(paths), repeats), "paths/s"),
        "table of views, warm": (
            len(many) / median_s(lambda: by_table(many), repeats), "paths/s"),
        "de_aco, 20,000 evaluations": (median_s(
            lambda: plan(grid, PlanRequest(task=task)), min(repeats, 3)), "s"),
        "50 RRT paths": (median_s(
            lambda: rrt_paths(evaluator, POPULATION, np.random.default_rng(1)), repeats), "s"),
        "first feasible, certified plan": (median_s(feasible_plan, repeats), "s"),
        "certificate": (median_s(lambda: certify(grid, task, found.path), repeats), "s"),
        "flown against planned, 2520 points": (
            median_s(lambda: closest_approaches(found.path, track), repeats), "s"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    measured = measure(arguments.repeats)
    if arguments.json:
        print(json.dumps({k: {"value": v, "unit": u} for k, (v, u) in measured.items()}, indent=1))
        return
    for name, (value, unit) in measured.items():
        print(f"{name:36} {value:10.4g} {unit}")


if __name__ == "__main__":
    main()
