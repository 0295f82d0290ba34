"""What a flight takes is known before it: against the simulated autopilot's own account."""

import numpy as np
import pytest
from test_vehicle import DT, armed, staircase

from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.prediction import predict
from parallel_city_ros.flight.simulator.autopilot import LAND, TAKEOFF, WAYPOINT, Item, Mode
from parallel_city_ros.patrol.task import Drone

CONFIG = FlightConfig(cruise_speed=8.0)
ROUTES = {"corners": staircase(), "straight": [(20.0, 0.0, 30.0), (420.0, 100.0, 30.0)],
          "steep": [(0.0, 0.0, 20.0), (80.0, 0.0, 60.0), (160.0, 20.0, 20.0), (240.0, 20.0, 55.0)]}


def flown(route):
    """(s, Wh) from the first thrust to the ground, in calm air."""
    autopilot = armed({"MPC_XY_CRUISE": CONFIG.cruise_speed, "COM_DISARM_LAND": 0.0})
    autopilot.vehicle.gust = 0.0
    autopilot.set_mission([Item(TAKEOFF, point=(0.0, 0.0, route[0][2])),
                           *(Item(WAYPOINT, point=p) for p in route),
                           Item(LAND, point=(*route[-1][:2], 0.0))])
    autopilot.arm()
    autopilot.set_mode(Mode.MISSION)
    while autopilot.landed:
        autopilot.step(DT)
    began, full = autopilot.time_s, autopilot.vehicle.energy_wh
    while autopilot.armed and autopilot.time_s < 900:
        autopilot.step(DT)
    assert not autopilot.armed
    return autopilot.time_s - began, full - autopilot.vehicle.energy_wh


@pytest.mark.parametrize("name", ROUTES)
def test_time_and_energy_are_predicted_within_a_fiftieth(name):
    seconds, used = flown(ROUTES[name])
    expected = predict(ROUTES[name], (0.0, 0.0, 0.0), 0.0, CONFIG, Drone())
    assert expected.duration_s == pytest.approx(seconds, rel=0.02)
    assert expected.energy_wh == pytest.approx(used, rel=0.02)


def test_weight_slowness_and_strong_wind_cost_energy():
    def energy(config=CONFIG, **more):
        return predict(np.array(ROUTES["straight"]), np.zeros(3), 0.0, config, Drone(),
                       **more).energy_wh
    calm = energy()
    assert energy(payload=0.5) > 1.2 * calm
    assert energy(wind=(-14.0, 0.0)) > calm
    assert energy(FlightConfig(cruise_speed=4.0)) > calm
