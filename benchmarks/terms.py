"""What the terms cost that can stand for the paper's: evaluators, local search, certificate.

    python benchmarks/terms.py

Over real Helsinki, 2 m. Seconds are of this thread's processor time, the least of several
repeats, after compilation; threads by wall clock.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

from parallel_city_ros.city.ground import two_ends
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.kernels import WIDTH_CLASSES, anneal
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanRequest, plan
from parallel_city_ros.planning.rrt import rrt_paths

TERMS = {"the paper's terms": {}, "energy": {"carbon_model": "energy"},
         "level": {"noise_model": "level"}, "facades": {"coverage": "facades"},
         "both, energy, level": {"coverage": "both", "carbon_model": "energy",
                                 "noise_model": "level"}}
POPULATION, BUMPS, COPIES = 30, 500, 20


def least_s(work, repeats: int, clock=time.thread_time) -> float:
    """Seconds of one call."""
    work()
    taken = []
    for _ in range(repeats):
        began = clock()
        work()
        taken.append(clock() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    grid = voxelise(read_osm(helsinki_file()), 2.0)
    start, goal = two_ends(grid, 12.0, 1280.0)
    task = PatrolTask(start=(*start, 60.0), goal=(*goal, 60.0))
    paths = rrt_paths(Evaluator(grid, task), POPULATION, np.random.default_rng(1))
    many = np.repeat(paths, COPIES, axis=0)
    path = plan(grid, PlanRequest(task=task, evaluation_budget=1000)).plan.path
    print(f"{'':22}{'exact 1/s':>12}{'table 1/s':>12}{'bumps 1/s':>12}{'certificate s':>15}")
    for words, changes in TERMS.items():
        evaluator = Evaluator(grid, replace(task, **changes))
        counts = np.zeros(grid.surface.shape, np.int16)

        def bumps(scene=evaluator.scene, counts=counts):
            anneal(scene, path.copy(), BUMPS, np.array([8.0, 5.0]), np.array([1.0, 5.0]),
                   np.array([0.004, 3e-5, 0.3, 0.1]), 5, counts, np.ones((3, 3 * WIDTH_CLASSES)),
                   path.copy(), np.empty((2, 5)))
        exact = POPULATION / least_s(lambda e=evaluator: e(paths), repeats)
        annealed = BUMPS / least_s(bumps, repeats)
        certified = least_s(lambda e=evaluator: certify(
            grid, e.task, path, coverage_floor_km2=0.0), repeats)
        table = "-"
        if not evaluator.scene.see_walls:
            evaluator.exact = False
            table = f"{len(many) / least_s(lambda e=evaluator: e(many), repeats):.0f}"
        print(f"{words:22}{exact:12.0f}{table:>12}{annealed:12.0f}{certified:15.3f}")
    print(f"{evaluator.scene.surface.size} cells, {evaluator.scene.walls.faces} faces, "
          f"{len(evaluator.scene.receptors)} receptors, {len(path)} points")
    for threads in (1, 2):
        evaluator = Evaluator(grid, task, threads=threads)
        taken = least_s(lambda e=evaluator: e(many[:10 * POPULATION]), repeats, time.perf_counter)
        print(f"exact, {threads} threads: {10 * POPULATION / taken:.0f} paths/s of wall time")


if __name__ == "__main__":
    main()
