"""A small city with a tower, a patrol around it, and simulated drones 20 times as fast as real."""

from contextlib import contextmanager

import numpy as np
import pytest
import shapely
from patrols import BRISK, PATIENT, make_plan

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.geo import LocalFrame

SPEED_FACTOR = 20.0


@pytest.fixture(scope="session")
def grid():
    """300 x 300 m, ground at z = 5 m, one tower of 30 m beside the route."""
    empty = VoxelGrid.from_dense(np.zeros((150, 150, 1), bool), np.array([0.0, 0.0, 5.0]), 2.0,
                                 LocalFrame(60.17, 24.94, 0.0))
    return empty.with_prism(shapely.box(180, 60, 200, 80), 5, 35)


@pytest.fixture(scope="session")
def plan(grid):
    return make_plan(grid)


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
