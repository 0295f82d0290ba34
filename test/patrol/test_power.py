"""Power and energy against momentum theory by hand, an independent sum, and what must hold."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol import terms
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.kernels import electric_power
from parallel_city_ros.patrol.power import energy_wh, grams_co2, least_wh, multirotor, power_w
from parallel_city_ros.patrol.profile import speed_profile
from parallel_city_ros.patrol.task import Drone, PatrolTask
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, plan

STRAIGHT = np.linspace((0, 0, 50), (1200, 0, 50), 13)


def test_hover_is_momentum_theory():
    drone = Drone(mass=2.0, rotor_area=0.25, figure_of_merit=0.5, efficiency=0.8)
    weight = (2.0 + 0.5) * 9.80665
    lift = weight * sqrt(weight / (2 * 1.225 * 0.25))
    assert power_w(0.0, 0.0, drone, payload=0.5) == pytest.approx(lift / 0.5 / 0.8)


def test_climbing_costs_the_height_and_sinking_gives_nothing_back():
    drone = Drone()
    hover = power_w(0.0, 0.0, drone)
    assert power_w(0.0, 2.0, drone) - hover == pytest.approx(1.5 * 9.80665 * 2 / 0.75)
    assert power_w(0.0, -2.0, drone) == hover
    assert electric_power(multirotor(drone), 0.0, 2.0) == power_w(0.0, 2.0, drone)


def test_a_multirotor_saves_at_a_moderate_speed_and_pays_for_drag_at_a_high_one():
    levels = np.array([power_w(v, 0.0, Drone()) for v in np.linspace(0, 30, 61)])
    best = int(levels.argmin())
    assert 0 < best < 60 and (np.diff(levels[:best + 1]) < 0).all()
    assert (np.diff(levels[best:]) > 0).all() and levels[-1] > 2 * levels[0]


def test_the_same_power_by_iteration():
    rng = np.random.default_rng(1)
    air = rng.normal(0, (9, 9, 3), (40, 3))
    task = PatrolTask(start=(0, 0, 50), goal=(9, 9, 50), payload=0.4)
    told = [power_w(np.hypot(x, y), z, task.drone, task.payload) for x, y, z in air]
    assert np.allclose(terms.powers_w(task, air), told, rtol=1e-9)


def test_a_long_straight_flight_takes_its_power_for_its_time():
    drone = Drone(acceleration=500.0)       # ramps without length
    for wind, airspeed in ((0.0, 12.0), (-6.0, 18.0), (6.0, 6.0)):
        assert energy_wh(STRAIGHT, drone, (wind, 0.0)) == pytest.approx(
            power_w(airspeed, 0, drone) * 100 / 3600, rel=1e-3)
    assert energy_wh(STRAIGHT, drone, payload=1.0) > energy_wh(STRAIGHT, drone)


def test_waiting_is_hovering():
    task = PatrolTask(start=(0, 0, 50), goal=(1200, 0, 50), track_points=12, time_step_s=20.0)
    waits = np.insert(STRAIGHT, 6, STRAIGHT[6], axis=0)
    profile = speed_profile(waits, task.drone, task.time_step_s)
    assert profile.leg_s[6] == task.time_step_s and profile.speed[6] == profile.speed[7] == 0
    assert (profile.leg_s >= 20.0 - 1e-9).all()
    more = energy_wh(waits, task) - energy_wh(STRAIGHT, task)
    # a hover, and the time to brake for it and to speed up again
    assert power_w(0, 0, task.drone) * 20 < more * 3600 < power_w(0, 0, task.drone) * 25


@pytest.mark.parametrize("bad", [np.empty((0, 3)), [[0, 0]], [[0, 0, np.nan]]])
def test_what_is_no_path_has_no_energy(bad):
    with pytest.raises(ValueError, match="finite metres"):
        energy_wh(bad, Drone())
    assert energy_wh([[0, 0, 9]], Drone()) == 0


@pytest.fixture(scope="module")
def city():
    grid = MadeCity("grid", 8, (500.0, 400.0)).grid()
    return grid, replace(task_over(grid, 20), carbon_model="energy", wind_east=5.0,
                         wind_north=-3.0, payload=0.3)


def test_the_evaluator_and_the_checker_find_the_same_carbon(city):
    grid, task = city
    rng = np.random.default_rng(2)
    paths = np.cumsum(rng.normal((20, 12, 0), (9, 9, 4), (30, 22, 3)), axis=1) + (0, 0, 70)
    told = Evaluator(grid, task, coverage_floor_km2=0.0)(paths).carbon
    assert np.allclose(told, [grams_co2(energy_wh(p, task), task) for p in paths], rtol=1e-12)
    sums = [grams_co2(terms.leg_energies_wh(task, p).sum(), task) for p in paths]
    assert least_wh(task) <= told.min() * 1000 / task.grid_intensity < 1.2 * least_wh(task)
    assert np.allclose(told, sums, rtol=2e-3) and np.ptp(told) > 0.02 * told.mean()


def test_a_battery_that_is_too_small_is_told(city):
    grid, task = city
    path = Evaluator(grid, task).straight()
    needed, usual = energy_wh(path, task), Evaluator(grid, task)(path[None]).violation[0]
    for share, fits in ((1.01, True), (0.99, False)):
        other = replace(task, drone=Drone(battery_wh=2 * share * needed, endurance_s=3600.0),
                        battery_percent=50.0)
        assert (Evaluator(grid, other)(path[None]).violation[0] == usual) == fits
        check = next(c for c in certify(grid, other, path).checks if c.constraint == "energy")
        assert (check.margin >= 0) == fits and check.unit == "Wh"
        assert check.value == pytest.approx(needed, rel=1e-3)


def test_a_plan_by_energy_keeps_its_battery_and_says_grams(city):
    grid, task = city
    found = plan(grid, PlanRequest(task=task, evaluation_budget=400)).plan
    assert found.to_dict()["units"]["carbon"] == "g CO2"
    assert found.objectives.carbon == pytest.approx(
        grams_co2(energy_wh(found.path, task), task))
    objectives = {t.objective: t for t in found.certificate.objectives}
    assert objectives["carbon"].unit == "g CO2"
    assert objectives["carbon"].value == pytest.approx(found.objectives.carbon, rel=2e-3)


@pytest.mark.parametrize("settings, words", [
    ({"wind_east": 9.0, "wind_north": -9.5}, "wind_north.*below drone.max_speed"),
    ({"carbon_model": "energy", "model": "paper"}, "carbon_model must be distance"),
    ({"carbon_model": "weight"}, "one of distance, energy"), ({"payload": -1.0}, "payload"),
    ({"grid_intensity": 0.0}, "grid_intensity")])
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ConfigError, match=words):
        PatrolTask(start=(0, 0, 50), goal=(9, 9, 50), **settings)
