"""What is left of a route, where a plan is entered, and the corridor that the guard watches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.guidance import stopping_distance
from parallel_city_ros.flight.mission import patrol_mission
from parallel_city_ros.flight.route import Route, along, braking, entry, turning_places

HOME = np.array([0.0, 0.0, 5.0])


@pytest.fixture(params=["off", "waypoints"], ids=["bare", "photos"])
def route(request, plan):
    items = patrol_mission(plan.path, HOME, plan.frame, FlightConfig(photos=request.param))
    return Route(plan, items, HOME)


def distance(line, point):
    a, leg = line[:-1], np.diff(line, axis=0)
    share = np.clip(((point - a) * leg).sum(1) / np.maximum((leg ** 2).sum(1), 1e-12), 0, 1)
    return np.linalg.norm(a + share[:, None] * leg - point, axis=1).min()


def test_items_are_waypoints_and_only_the_landing_is_left_after_the_last(route):
    path = route.plan.path
    assert [route.waypoint(route.item(k)) for k in range(len(path))] == list(range(len(path)))
    assert route.waypoint(0) == 0 and not route.flown(route.item(len(path) - 1))
    assert route.flown(len(route.items) - 1)


@settings(max_examples=40, deadline=None)
@given(leg=st.integers(0, 10), share=st.floats(0.0, 1.0), beside=st.floats(-3.0, 3.0))
def test_the_rest_begins_at_the_foot_of_the_drone(plan, leg, share, beside):
    items = patrol_mission(plan.path, HOME, plan.frame, FlightConfig())
    route, path = Route(plan, items, HOME), plan.path
    on_leg = path[leg] + share * (path[leg + 1] - path[leg])
    rest = route.rest(on_leg + (0.0, 0.0, beside), route.item(leg + 1))
    assert np.array_equal(rest[1:], path[leg + 1:])
    assert distance(path[leg:leg + 2], rest[0]) < 1e-6
    assert np.linalg.norm(rest[0] - on_leg) <= 3.01


def test_from_home_it_is_flown_to_the_first_and_from_a_turn_straight(route):
    path, above_home = route.plan.path, np.array([0.0, 0.0, route.plan.path[0, 2]])
    rest = route.rest(above_home + 0.5 * (path[0] - above_home), route.item(0))
    assert len(rest) == len(path) + 1 and rest[0] == pytest.approx(0.5 * (above_home + path[0]))
    here = path[3] + (2.0, 1.0, 0.0)
    turned = route.entered_at(6, braking(here, (8.0, 0.0, 0.0), 3.0), path[:4])
    assert np.array_equal(turned.rest(here, turned.item(6)), np.vstack([here, path[6:]]))
    assert np.array_equal(turned.rest(path[6], turned.item(7))[1:], path[7:])


def test_the_corridor_has_every_way_that_may_be_flown(route):
    path = route.plan.path
    assert np.array_equal(route.corridor, path)
    fan = braking(path[3], (8.0, 0.0, 0.0), 3.0)
    corridor = route.entered_at(6, fan, path[:4]).corridor
    for place in [*fan, *(f + s * (path[6] - f) for f in fan for s in (0.2, 0.7)), *path[:4],
                  *path[6:]]:
        assert distance(corridor, place) < 1e-6
    assert distance(corridor, path[5] + (0.0, 0.0, 30.0)) > 20


def test_a_plan_is_entered_ahead_of_the_drone_and_near_its_beginning():
    path = np.array([(0, 0, 40), (30, 0, 40), (60, 0, 40), (60, 30, 40), (0, 30, 40), (0, 2, 40)],
                    float)
    assert entry(path, np.array([-20.0, 0, 40]), 60.0) == (0, 20.0)
    assert entry(path, np.array([40.0, 3, 40]), 60.0) == (2, 3.0)
    # The end of the loop is nearer, but most of it would be left out.
    assert entry(path, np.array([1.0, 2.5, 40]), 60.0)[0] == 1
    assert entry(path, np.array([500.0, 0, 40]), 60.0)[1] == 440.0


def test_places_along_a_polyline_end_with_it():
    line = np.array([(0, 0, 0), (10, 0, 0), (10, 10, 0)], float)
    assert along(line, 4.0, 100.0).tolist() == [
        [0, 0, 0], [4, 0, 0], [8, 0, 0], [10, 2, 0], [10, 6, 0], [10, 10, 0]]
    assert len(along(line, 4.0, 9.0)) == 3


def test_past_a_corner_a_drone_flies_on_before_it_turns():
    rest = np.array([(0, 0, 40), (40, 0, 40), (40, 80, 50)], float)
    places, seconds = turning_places(rest, 8.0, 9.0)
    assert np.array_equal(places[np.unique(seconds, return_index=True)[1]],
                          along(rest, 4.0, 72.0))
    assert seconds[0] == 0 and seconds[-1] == 9.0 and np.all(np.diff(seconds) >= 0)
    on_it = np.array([distance(rest, place) < 1e-6 for place in places])
    beyond = places[~on_it]
    assert np.all(beyond[:, 1] == 0) and np.all(beyond[:, 2] == 40)
    assert 40 < beyond[0, 0] < 45 and beyond[-1, 0] == pytest.approx(36 + stopping_distance(8.0))
    assert len(turning_places(rest[:2], 8.0, 2.0)[0]) == 5


def test_beyond_the_goal_it_flies_on_too():
    rest = np.array([(0, 0, 40), (10, 0, 40)], float)
    places, seconds = turning_places(rest, 8.0, 60.0)
    assert places[:, 0].max() == pytest.approx(8 + stopping_distance(8.0))
    assert seconds.max() == 1.0
