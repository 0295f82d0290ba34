"""Speed profile and explanation add up to what is known of the whole."""

import numpy as np
import pytest

from parallel_city_ros.patrol.certificate import seen_km2
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.explain import explain
from parallel_city_ros.patrol.profile import speed_profile
from parallel_city_ros.patrol.task import Drone
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, plan


@pytest.mark.parametrize("length, seconds", [(12.0, 4.0), (480.0, 44.0)])
def test_a_straight_flight_accelerates_and_brakes(length, seconds):
    # v²/a = 48 m for both ramps; shorter ways never reach the speed: t = 2 sqrt(s / a)
    path = np.array([[0, 0, 50], [length / 3, 0, 50], [length, 0, 50]], float)
    assert speed_profile(path, Drone()).duration_s == pytest.approx(seconds)


def test_a_right_angle_is_taken_as_slowly_as_px4_does():
    path = np.array([[0, 0, 50], [100, 0, 50], [100, 100, 50]], float)
    profile = speed_profile(path, Drone(max_turn_deg=90.0))
    assert profile.speed[1] == pytest.approx(1.7, abs=0.05)
    assert profile.duration_s > 200 / 12.0 + 4


def test_speeds_keep_to_the_limits():
    path = np.cumsum(np.random.default_rng(2).normal(0, 12, (60, 3)), axis=0)
    drone = Drone()
    profile = speed_profile(path, drone)
    length = np.linalg.norm(np.diff(path, axis=0), axis=1)
    change = np.abs(np.diff(profile.speed**2)) / 2
    assert (profile.speed <= drone.max_speed).all() and profile.speed[[0, -1]].max() == 0
    assert (change <= drone.acceleration * length + 1e-9).all()
    assert (profile.leg_s >= length / drone.max_speed - 1e-9).all()


def test_legs_add_up_to_the_plan():
    city = MadeCity("grid", 4, (500.0, 400.0))
    grid = city.grid()
    task = task_over(grid, 12)
    found = plan(grid, PlanRequest(task=task, evaluation_budget=600)).plan
    asked = []
    legs = explain(grid, task, found.path, buildings_near=lambda place, distance: (
        asked.append((place, distance)) or ["the house"]))
    o = found.objectives
    assert [leg.number for leg in legs] == list(range(1, 14))
    assert sum(leg.carbon for leg in legs) == pytest.approx(o.carbon)
    first = Evaluator(grid, task)(np.repeat(found.path[None, :1], 14, axis=1))
    assert sum(leg.gained_km2 for leg in legs) + first.coverage_km2[0] == pytest.approx(
        seen_km2(grid, task, found.path))
    start = task.noise_altitude - found.path[0, 2] + grid.origin[2] + 1
    assert sum(leg.noise_m for leg in legs) + start == pytest.approx(o.noise_m)
    assert all(leg.margin >= -1e-6 for leg in legs) and {leg.binding for leg in legs}
    near = [leg for leg in legs if leg.building]
    assert len(asked) == len(near) and all(leg.clearance_m < 30 for leg in near)
