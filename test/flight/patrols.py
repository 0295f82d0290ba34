"""Plans, cities and options of simulated drones that tests of flights share."""

import numpy as np
import shapely

from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask

# Disarms 60, not 10 s of its fast time after arming: a loaded machine is not a slow pilot.
PATIENT = ("--param=COM_DISARM_PRFLT=60",)
# Up and down are not what is tested.
BRISK = ("--param=MPC_TKO_RAMP_T=0.3", "--param=MPC_Z_V_AUTO_UP=6",
         "--param=MPC_Z_V_AUTO_DN=5", "--param=MPC_LAND_SPEED=2")


def make_plan(grid, bow=30.0, start=(40.0, 40.0, 40.0), goal=(260.0, 180.0, 40.0), path=None):
    """A patrol of about 290 m that swings out sideways and up and down; or along a path."""
    task = PatrolTask(start=start, goal=goal, track_points=10)
    if path is None:
        path = Evaluator(grid, task).straight()
        u = np.linspace(0, 2 * np.pi, len(path))
        path += np.sin(u)[:, None] * (-0.54 * bow, 0.84 * bow, 4.0)
    path[0], path[-1] = task.start, task.goal
    certificate = certify(grid, task, path)
    assert certificate.valid, certificate.broken
    return PatrolPlan(
        task=task, path=path, certificate=certificate, planner_id="by_hand", seed=0,
        objectives=Objectives(coverage_km2=0.1, carbon=1.0, noise_m=0.0, fitness=1.0),
        evaluations=1, coverage_floor_km2=0.0, map_hash=grid.map_hash, map_update=grid.map_update,
        frame=grid.frame, resolution=grid.resolution)


def crane(grid, x, y, height=100.0, size=10.0):
    """The next version of the twin, in which a crane stands around (x, y)."""
    half = size / 2
    return grid.with_prism(shapely.box(x - half, y - half, x + half, y + half), 5.0, height)
