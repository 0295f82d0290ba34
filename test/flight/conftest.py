"""A small city with a tower, a patrol around it, and simulated drones 20 times as fast as real."""

from contextlib import contextmanager

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask

SPEED_FACTOR = 20.0
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


@pytest.fixture(scope="session")
def grid():
    """300 x 300 m, ground at z = 5 m, one tower of 30 m beside the route."""
    empty = VoxelGrid.from_dense(np.zeros((150, 150, 1), bool), np.array([0.0, 0.0, 5.0]), 2.0,
                                 LocalFrame(60.17, 24.94, 0.0))
    return empty.with_prism(shapely.box(180, 60, 200, 80), 5, 35)


@pytest.fixture(scope="session")
def plan(grid):
    return make_plan(grid)


def crane(grid, x, y, height=100.0, size=10.0):
    """The next version of the twin, in which a crane stands around (x, y)."""
    half = size / 2
    return grid.with_prism(shapely.box(x - half, y - half, x + half, y + half), 5.0, height)


@pytest.fixture
def drone(grid):
    """drone(*options, at=(e, n)): a simulated drone and a connection to it."""

    @contextmanager
    def start(*options, at=(30.0, 50.0)):
        lat, lon, _ = grid.frame.to_wgs84((*at, 0.0))
        # Home is 17 m above mean sea level: no height may be taken for another.
        with SimulatedAutopilot(
                (lat, lon, 17.0), speed_factor=SPEED_FACTOR, seed=3,
                options=(*PATIENT, *BRISK, *options)) as simulator, Autopilot() as autopilot:
            autopilot.connect(simulator.address, 15.0)
            yield simulator, autopilot

    return start


@pytest.fixture
def fly(grid, plan, drone):
    """fly(*options, act=f, **config): the outcome and all progress of one flight.

    act(flight, progress, simulator) is called on every report.
    """

    def run(*options, act=lambda *_: None, cancelled=None, at=(30.0, 50.0), **config):
        seen = []
        with drone(*options, at=at) as (simulator, autopilot):
            flight = PatrolFlight(plan, grid, autopilot,
                                  FlightConfig(address=simulator.address, **{
                                      "progress_period_s": 0.02} | config))     # misses no leg

            def on_progress(progress):
                seen.append(progress)
                act(flight, progress, simulator)

            outcome = flight.run(on_progress, cancelled)
        return outcome, seen

    return run
