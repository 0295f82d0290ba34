"""A small city with a tower, two sorties over it and a crane that appears between them."""

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.twin import CityEvent, Twin
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.comparison import compare, patrol_part
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.viz.sortie import Sortie

ATTRIBUTION = "© OpenStreetMap contributors, ODbL"


def make_sortie(number, grid, start, goal, bow):
    """A sortie that swings out sideways by bow metres and is flown 1 m beside its plan."""
    task = PatrolTask(start=start, goal=goal, track_points=20)
    evaluator = Evaluator(grid, task)
    path = evaluator.straight()
    path[:, 1] += bow * np.sin(np.linspace(0, np.pi, len(path)))
    plan = PatrolPlan(
        task=task, path=path, objectives=Objectives.of(evaluator(path[None])),
        planner_id="by_hand", seed=5,
        certificate=certify(grid, task, path), evaluations=1234, frame=grid.frame,
        resolution=grid.resolution, coverage_floor_km2=0.0, map_hash=grid.map_hash,
        map_update=grid.map_update, city_file="/maps/small.osm", attribution=grid.attribution)
    line = np.concatenate([a + (b - a) * np.linspace(0, 1, 10)[:, None]
                           for a, b in zip(path[:-1], path[1:], strict=True)])
    track = np.concatenate([np.linspace((*line[0, :2], 0.0), line[0], 10), line + (0, 1, 0),
                            np.linspace(line[-1], (*line[-1, :2], 0.0), 10)])
    flown = np.c_[np.arange(len(track)) * 0.5, track]
    convergence = [dict(evaluations=50 * k, fitness=np.inf if k == 1 else 2e4 / k,
                        violation=1.0 / k if k < 4 else 0.0, coverage_km2=0.1, carbon=1.0,
                        noise_m=900.0) for k in range(1, 20)]
    return Sortie(number, grid, plan, flown, evaluator.seen(path),
                  evaluator.seen(patrol_part(path, track)[1]), compare(plan, track, evaluator),
                  convergence)


@pytest.fixture(scope="package")
def base():
    grid = VoxelGrid.from_dense(np.zeros((150, 120, 1), bool), np.array([-20.0, -10.0, 0.0]), 2.0,
                     LocalFrame(60.17, 24.94), attribution=ATTRIBUTION)
    for box, height in (((60, 20, 100, 60), 20.0), ((130, 120, 150, 150), 50.0)):
        grid = grid.with_prism(shapely.box(*box), 0.0, height)
    return VoxelGrid.from_dense(grid.occupied, grid.origin, 2.0, grid.frame,
                                attribution=ATTRIBUTION)


@pytest.fixture(scope="package")
def crane():
    return CityEvent(event_id="crane-1", kind="crane", lower_z=0.0, upper_z=110.0,
                     footprint=((110, 60), (135, 60), (135, 85), (110, 85)))


@pytest.fixture(scope="package")
def sorties(base, crane):
    twin = Twin(base)
    twin.add(crane)
    return [make_sortie(1, base, (10.0, 30.0, 80.0), (250.0, 100.0, 80.0), 10.0),
            make_sortie(2, twin.grid, (250.0, 100.0, 80.0), (10.0, 30.0, 80.0), 80.0)]
