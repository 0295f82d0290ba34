"""The certified distance of two plans against dense sampling in place and time."""

import math
from dataclasses import replace

import numpy as np
import pytest

from parallel_city_ros.patrol.profile import speed_profile
from parallel_city_ros.patrol.separation import (
    READY_S,
    Timeline,
    certify_separation,
    least_delay,
    leg_gaps,
    leg_seconds,
    timeline,
)
from parallel_city_ros.patrol.task import Drone

DRONE = Drone()


def flown(path, delay=0.0, tube=0.0):
    return timeline(np.asarray(path, float), DRONE, 8.0, (0.0, 0.0), start_after_s=delay,
                    tube_radius=tube)


def random_path(rng, n=6):
    return np.c_[np.cumsum(rng.normal(0, 30, (n, 2)), axis=0), rng.uniform(40, 100, n)]


def gap(a, b, tolerance=0.0):
    return certify_separation({"a": a, "b": b}, 20.0, tolerance).pairs[0]


@pytest.mark.parametrize("seed", range(8))
def test_distance_of_legs_is_that_of_their_nearest_places(seed):
    rng = np.random.default_rng(seed)
    a, b = (flown(random_path(rng)) for _ in range(2))
    if seed == 0:       # parallel ones
        b = flown(random_path(np.random.default_rng(0)) + (0.0, 5.0, 0.0))
    gaps, where = leg_gaps(a, b)
    share = np.linspace(0, 1, 101)[:, None]
    for i in range(len(a.a)):
        for j in range(len(b.a)):
            p = a.a[i] + share * (a.b[i] - a.a[i])
            q = b.a[j] + share * (b.b[j] - b.a[j])
            sampled = np.linalg.norm(p[:, None] - q[None], axis=-1).min()
            coarse = (np.linalg.norm(a.b[i] - a.a[i]) + np.linalg.norm(b.b[j] - b.a[j])) / 200
            assert gaps[i, j] - 1e-9 <= sampled <= gaps[i, j] + coarse
            along = np.linalg.norm(where[i, j] - a.a[i]) + np.linalg.norm(where[i, j] - a.b[i])
            assert along == pytest.approx(np.linalg.norm(a.b[i] - a.a[i]), abs=1e-6)


def places_at(line: Timeline, path, moments):
    """(T, 3) where a drone is that keeps one speed on each leg."""
    times = np.r_[line.begins[1:], line.ends[-2]]
    points = np.vstack([(*path[0, :2], 0.0), path, (*path[-1, :2], 0.0)])
    times = np.r_[times[0], times[1:len(points)]]
    return np.stack([np.interp(moments, times, points[:, d]) for d in range(3)], axis=1)


@pytest.mark.parametrize("seed", range(6))
def test_no_moment_within_the_tolerance_is_nearer_than_certified(seed):
    rng = np.random.default_rng(100 + seed)
    paths = [random_path(rng), random_path(rng)]
    lines = [flown(paths[0]), flown(paths[1], rng.uniform(0, 40))]
    moments = np.arange(-20, 200, 0.5)
    for tolerance in (0.0, 7.0):
        certified = gap(*lines, tolerance)
        a = places_at(lines[0], paths[0], moments)
        nearest = min(np.linalg.norm(a - places_at(lines[1], paths[1], moments + shift),
                                     axis=1).min()
                      for shift in np.linspace(-tolerance, tolerance, 9))
        assert certified.gap_any_time_m - 1e-9 <= certified.gap_m <= nearest + 1e-9


def test_the_same_place_at_other_times_is_apart():
    along = np.array([[0.0, 0.0, 60.0], [400.0, 0.0, 60.0]])
    across = np.array([[200.0, -200.0, 60.0], [200.0, 200.0, 60.0]])
    at_once = gap(flown(along), flown(across), 5.0)
    assert at_once.gap_m == pytest.approx(0.0, abs=1e-6)
    assert at_once.where == pytest.approx((200.0, 0.0, 60.0))
    late = gap(flown(along), flown(across, 300.0), 5.0)
    assert late.gap_m > 100 and late.gap_any_time_m == pytest.approx(0.0, abs=1e-6)
    assert gap(flown(along), flown(across, 300.0), math.inf).gap_m == late.gap_any_time_m


def test_tubes_are_taken_off_and_columns_count():
    along = np.array([[0.0, 0.0, 60.0], [100.0, 0.0, 60.0]])
    level = gap(flown(along, tube=2.0), flown(along + (0.0, 30.0, 0.0), tube=2.0))
    assert level.gap_m == pytest.approx(26.0)
    over_the_start = np.array([[-50.0, 0.0, 25.0], [50.0, 0.0, 25.0]])
    assert gap(flown(along), flown(over_the_start)).gap_any_time_m == pytest.approx(0.0)
    landed = gap(flown(along), flown(along[::-1] + (0.0, 4.0, 0.0), 1000.0))
    assert landed.gap_m == pytest.approx(4.0), "one lands where the other stands"


def test_certificate_says_who_is_too_near():
    along = np.array([[0.0, 0.0, 60.0], [100.0, 0.0, 60.0]])
    lines = {name: flown(along + (0.0, north, 0.0))
             for name, north in (("a", 0.0), ("b", 15.0), ("c", 90.0))}
    certificate = certify_separation(lines, 20.0, 10.0)
    assert not certificate.valid and certificate.least_m == pytest.approx(15.0)
    assert [(p.first, p.second) for p in certificate.broken] == [("a", "b")]
    assert not certificate.to_dict()["valid"] and len(certificate.to_dict()["pairs"]) == 3
    assert certify_separation({"a": lines["a"]}, 20.0, 10.0).valid


@pytest.mark.parametrize("seed", range(6))
def test_least_delay_is_enough_and_no_second_too_long(seed):
    rng = np.random.default_rng(seed)
    # routes that cross, from places that are apart
    paths = [np.linspace((-150, y, 60), (150, -y, 60), 9) for y in rng.uniform(40, 160, 3)]
    others = [flown(p, 12.0 * k, 2.0) for k, p in enumerate(paths[:2])]
    drone = flown(paths[2] + (0.0, 5.0 + 250.0 * (seed % 2), 0.0), tube=2.0)
    delay = least_delay(drone, others, 20.0, 8.0)
    if math.isinf(delay):
        pads = [np.linalg.norm(drone.a[[0, -1]][:, None] - o.a[[0, -1]][None], axis=-1).min()
                for o in others]
        assert min(pads) < 24.0
        return

    def valid(late):
        return all(gap(drone.later(late), o, 8.0).gap_m >= 20.0 for o in others)
    assert valid(delay)
    assert delay == 0 or not all(valid(d) for d in np.arange(max(0, delay - 3), delay, 0.25))


def test_legs_take_as_long_as_seen_with_px4():
    """40 m legs with right angles at 8 m/s took twice their nominal time; no leg is faster than
    cruise, climbs and what the drone could do allow."""
    square = np.array([[0, 0, 60], [40, 0, 60], [40, 40, 60], [0, 40, 60], [0, 0, 60],
                       [40, 0, 60]], float)
    seconds = leg_seconds(square, 8.0, 3.0)
    assert 1.7 < seconds[1:-1].mean() / 5.0 < 2.3
    down = np.array([[0.0, 0.0, 120.0], [60.0, 0.0, 90.0], [120.0, 0.0, 60.0]])
    assert leg_seconds(down, 8.0, 3.0) == pytest.approx([20.0, 20.0])
    for seed in range(5):
        path = random_path(np.random.default_rng(seed))
        line = flown(path, 30.0)
        length = np.linalg.norm(np.diff(path, axis=0), axis=1).sum()
        could = speed_profile(path, replace(DRONE, max_speed=8.0)).duration_s
        assert line.duration_s > max(could, length / 8.0) + READY_S
        assert line.ends[0] == 30.0 and math.isinf(line.begins[0]) and math.isinf(line.ends[-1])
