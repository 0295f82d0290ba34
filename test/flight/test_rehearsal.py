"""PX4's trajectories keep their limits, and rehearsed legs are flown within the tube."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.guidance import Guidance, Limits
from parallel_city_ros.flight.mission import CHANGE_SPEED, leg_speeds, patrol_mission
from parallel_city_ros.flight.rehearsal import SLOWEST, TUBE_SHARE, RehearsedDrone, rehearse
from parallel_city_ros.geo import LocalFrame

DT, RADIUS, TUBE = 0.02, 3.0, 2.0
# Up and down on one straight line: where PX4 v1.16 was 6 m off at 8 m/s.
VEES = np.array([(0.0, 45.0 * k, 60.0 + 15.0 * (k % 2)) for k in range(9)])
STAIRS = np.array([((k + 1) // 2 * 40.0, k // 2 * 40.0, 30.0) for k in range(9)])
places = st.tuples(st.floats(-80, 80), st.floats(-80, 80), st.floats(10, 90))


def off_route(path, speeds):
    """Farthest from the path, m, of a drone that flies it at those speeds; and seconds."""
    path, farthest = [tuple(p) for p in path.tolist()], 0.0
    drone = RehearsedDrone(path[0])
    legs = np.array(path)
    for k in range(1, len(path)):
        for place, _ in drone.leg(path[k - 1], path[k], path[min(k + 1, len(path) - 1)],
                                  float(speeds[k]), RADIUS):
            a, along = legs[:-1], np.diff(legs, axis=0)
            share = ((np.array(place) - a) * along).sum(1) / (along ** 2).sum(1)
            nearest = a + np.clip(share, 0, 1)[:, None] * along
            farthest = max(farthest, np.linalg.norm(nearest - place, axis=1).min())
    return farthest, drone.seconds


@settings(max_examples=60, deadline=None)
@given(st.lists(places, min_size=2, max_size=6), st.floats(1, 12))
def test_a_trajectory_keeps_its_limits_whatever_it_is_to_follow(path, cruise):
    limits, guidance = Limits(), Guidance()
    guidance.begin(path[0])
    for previous, target, following in zip(path, path[1:], path[2:] + path[-1:], strict=False):
        for _ in range(150):
            before, pushed = list(guidance.velocity), list(guidance.acceleration)
            guidance.follow(guidance.position, previous, target, following, cruise, RADIUS, DT)
            jerk = [(a - b) / DT for a, b in zip(guidance.acceleration, pushed, strict=True)]
            for axis in range(3):
                most = limits.acceleration if axis < 2 else limits.acceleration_up
                assert abs(guidance.acceleration[axis]) <= most + 1e-6
                assert abs(guidance.velocity[axis] - before[axis]) <= most * DT + 1e-6
                assert abs(jerk[axis]) <= limits.jerk + 1e-6 or guidance.acceleration[axis] == 0
            assert all(map(math.isfinite, guidance.position))


@settings(max_examples=40, deadline=None)
@given(places, places, st.floats(1, 12))
def test_it_gets_to_a_place_and_stops_there(start, goal, cruise):
    guidance = Guidance()
    guidance.begin(start)
    for _ in range(int((60 + math.dist(start, goal) / min(cruise, 1.5)) / DT)):
        guidance.follow(guidance.position, start, goal, goal, cruise, RADIUS, DT)
    assert math.dist(guidance.position, goal) < 0.5
    assert math.hypot(*guidance.velocity) < 0.3


def test_a_trajectory_waits_for_a_drone_that_is_behind():
    swift, held = Guidance(), Guidance()
    for guidance, where in ((swift, None), (held, (0.0, 0.0, 50.0))):
        guidance.begin((0.0, 0.0, 50.0))
        for _ in range(500):
            guidance.follow(where or guidance.position, (0.0, 0.0, 50.0), (200.0, 0.0, 50.0),
                            (200.0, 0.0, 50.0), 8.0, RADIUS, DT)
    assert swift.position[0] > 60.0
    assert held.position[0] < Limits().lag_m + 0.1


def test_far_from_its_leg_it_flies_back_to_it_first():
    guidance = Guidance()
    guidance.begin((50.0, 30.0, 60.0))
    for _ in range(200):
        guidance.follow(guidance.position, (0.0, 0.0, 60.0), (200.0, 0.0, 60.0),
                        (200.0, 0.0, 60.0), 8.0, RADIUS, DT)
    assert guidance.position[1] < 20.0 and abs(guidance.position[0] - 50.0) < 5.0


def test_where_px4_would_leave_the_tube_it_is_slowed_down():
    fast = np.full(len(VEES), 8.0)
    before, _ = off_route(VEES, fast)
    rehearsal = rehearse(VEES, fast, RADIUS, TUBE)
    after, _ = off_route(VEES, rehearsal.speeds)
    assert before > 3.0 and after < TUBE, (before, after)
    assert rehearsal.farthest <= TUBE_SHARE * TUBE
    assert rehearsal.speeds.min() >= SLOWEST and rehearsal.speeds.max() <= 8.0


def test_what_keeps_within_the_tube_is_flown_as_fast_as_it_may():
    fast = np.full(len(STAIRS), 8.0)
    assert np.array_equal(rehearse(STAIRS, fast, RADIUS, TUBE).speeds, fast)


@pytest.mark.parametrize("path", [
    np.tile((5.0, 6.0, 40.0), (30, 1)), np.array([(5.0, 6.0, 40.0)]),
    np.array([(0.0, 0.0, 40.0), (0.0, 0.0, 90.0), (0.0, 0.0, 40.0)])],
    ids=["one place", "one point", "straight up and down"])
def test_odd_paths_come_to_an_end(path):
    speeds = rehearse(path, np.full(len(path), 8.0), RADIUS, TUBE).speeds
    assert len(speeds) == len(path) and (speeds >= SLOWEST).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_random_patrols_are_flown_within_the_tube(seed):
    rng = np.random.default_rng(seed)
    courses = np.cumsum(rng.normal(0, 0.8, 12))
    lengths = rng.uniform(10, 60, 12)
    level = np.cumsum(np.c_[np.sin(courses), np.cos(courses)] * lengths[:, None], axis=0)
    climbs = lengths * np.tan(np.radians(rng.uniform(-25, 25, 12)))
    path = np.vstack([(0.0, 0.0, 60.0), np.c_[level, 60 + np.cumsum(climbs)]])
    rehearsal = rehearse(path, np.full(len(path), 8.0), RADIUS, TUBE)
    assert rehearsal.farthest <= TUBE


def test_slow_legs_are_in_the_mission_and_a_plan_gives_the_same_one_each_time():
    config, frame = FlightConfig(cruise_speed=8.0), LocalFrame(60.0, 25.0)
    missions = [patrol_mission(VEES, np.array([0.0, home, 0.0]), frame, config, tube_radius=TUBE)
                for home in (0.0, 1.0)]     # where exactly it stood does not matter
    told = [[item.params[1] for item in items if item.command == CHANGE_SPEED]
            for items in missions]
    assert told[0] == told[1] and min(told[0]) < 8.0
    assert leg_speeds(VEES, config, math.inf).tolist() == [8.0] * len(VEES)
