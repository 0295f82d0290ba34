"""Compile the loops of a patrol into numba's cache, so that the first flight need not wait for it.

Part of the set-up. Whatever is not here is compiled when it is first needed.
"""

from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

WORLD = Path(__file__).resolve().parents[1] / "worlds" / "small_city.geojson"


def planning() -> None:
    from dataclasses import replace

    import numpy as np

    from parallel_city_ros.city.readers import read_city
    from parallel_city_ros.city.voxels import voxelise
    from parallel_city_ros.patrol.task import PatrolTask
    from parallel_city_ros.planning.planner import PlanRequest, plan, warm_up

    warm_up()
    grid = voxelise(read_city(WORLD), 4.0)
    low = grid.origin[:2] + 30
    high = grid.origin[:2] + np.array(grid.surface.shape) * grid.resolution - 30
    task = PatrolTask(start=(*low, 60.0), goal=(*high, 60.0), track_points=8)
    for planner, evaluator, settings in (
            ("de_aco_paper", "exact", {}), ("iaco", "table", {"coverage": "both"}),
            ("nsga2", "table", {"carbon_model": "energy", "noise_model": "level"})):
        plan(grid, PlanRequest(task=replace(task, **settings), planner_id=planner,
                               evaluator=evaluator, evaluation_budget=100, time_budget_s=1e6))


def twin() -> None:
    import numpy as np
    from shapely import box

    from parallel_city_ros.city.distance import DistanceField
    from parallel_city_ros.city.facades import Facades
    from parallel_city_ros.city.perception import warm_up
    from parallel_city_ros.city.readers import read_city
    from parallel_city_ros.city.sensor import DepthSensor, DepthSensorConfig
    from parallel_city_ros.city.voxels import voxelise

    warm_up()
    grid = voxelise(read_city(WORLD))
    place = np.array([*(grid.origin[:2] + 40), 50.0])
    crane = grid.with_prism(box(*place[:2], *(place[:2] + 10)), 0.0, 40.0)
    DistanceField(crane).clearance(place[None])
    crane.is_occupied(place[None])
    Facades(crane).seen([(*place, 1.0, 0.0)], 60.0, 80.0)
    crane.voxels, crane.surface, crane.shell()
    DepthSensor(DepthSensorConfig(), np.random.default_rng(0)).scan(crane, place, 0.0)


def main() -> None:
    with ProcessPoolExecutor(2) as processes:
        for done in as_completed([processes.submit(part) for part in (planning, twin)]):
            done.result()


if __name__ == "__main__":
    main()
