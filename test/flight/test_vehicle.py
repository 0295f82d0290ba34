"""The simulated drone keeps its limits, and flies corners as PX4 was seen to."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.flight.simulator.autopilot import (
    LAND,
    TAKEOFF,
    WAYPOINT,
    Item,
    Mode,
    Result,
    SimulatedPx4,
)
from parallel_city_ros.flight.simulator.vehicle import Vehicle, VehicleModel
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.power import power_w
from parallel_city_ros.patrol.task import Drone

DT = 0.02
FREE = (math.nan,) * 3
speeds = st.floats(-50, 50)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(speeds, speeds, speeds, st.floats(-10, 10)), min_size=1, max_size=20),
       st.integers(0, 1000))
def test_limits_are_kept_and_the_battery_only_drains(setpoints, seed):
    model = VehicleModel(gust=2.0)
    vehicle = Vehicle(model, seed)
    vehicle.position = [0.0, 0.0, 100.0]
    for *velocity, yaw in setpoints:
        for _ in range(20):
            before, charge = list(vehicle.velocity), vehicle.energy_wh
            vehicle.fly(FREE, velocity, [0.0] * 3, yaw, DT)
            e, n, u = vehicle.velocity
            drag = model.drag_rate * (model.max_speed + 10.0)
            push = math.hypot(e - before[0], n - before[1]) / DT
            assert push <= 9.81 * math.tan(math.radians(model.max_tilt_deg)) + 2 * drag
            # it swings beyond them, as the controller is behind
            assert math.hypot(e, n) <= model.max_speed + 5.0
            assert -model.max_descent - 2.0 <= u <= model.max_climb + 2.0
            assert vehicle.energy_wh < charge and vehicle.position[2] >= 0


def test_it_holds_its_place_and_its_speed_in_wind():
    vehicle = Vehicle(VehicleModel(gust=0.0, wind_east=8.0), 1)
    vehicle.position = place = [10.0, 20.0, 30.0]
    for _ in range(int(20 / DT)):
        vehicle.fly(place, [0.0] * 3, [0.0] * 3, 0.0, DT)
    assert math.dist(vehicle.position, place) < 0.1
    for _ in range(int(20 / DT)):
        vehicle.fly(FREE, (-5.0, 3.0, 1.0), [0.0] * 3, 0.0, DT)
    assert math.dist(vehicle.velocity, (-5.0, 3.0, 1.0)) < 0.1


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 25), st.floats(-5, 5), st.floats(0.3, 20))
def test_the_vehicle_takes_the_power_that_plans_are_reckoned_with(airspeed, climb, mass):
    theirs = power_w(airspeed, climb, Drone(mass=mass))
    assert VehicleModel(mass=mass).electric_power(airspeed, climb) == pytest.approx(theirs)


def test_a_drone_starts_as_what_its_plan_takes_it_for():
    ours, theirs = VehicleModel(), Drone()
    for field in fields(VehicleModel):
        if hasattr(theirs, field.name) and not field.name.startswith("max_"):
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name


def armed(params=(), seed=1, city=None, model=None, **kinds):
    if city is not None:
        kinds["ground"] = city.ground
    vehicle = Vehicle(model or VehicleModel(), seed, **kinds)
    autopilot = SimulatedPx4(vehicle, LocalFrame(60.0, 25.0), city=city)
    autopilot.params.update(params)
    while autopilot.time_s < 6:
        autopilot.step(DT)
    return autopilot


def staircase():
    """40 m legs with right angles at 20 m."""
    return [((k + 1) // 2 * 40.0, k // 2 * 40.0, 20.0) for k in range(8)]


def fly_staircase(seed, model=None):
    autopilot = armed({"MPC_XY_CRUISE": 8.0}, seed, model=model)
    points = staircase()
    autopilot.set_mission([Item(TAKEOFF, point=(0.0, 0.0, 20.0)),
                           *(Item(WAYPOINT, point=p) for p in points),
                           Item(LAND, point=(*points[-1][:2], 0.0))])
    assert autopilot.arm() == autopilot.set_mode(Mode.MISSION) == Result.ACCEPTED
    track = []
    while autopilot.armed and autopilot.time_s < 600:
        autopilot.step(DT)
        if 2 <= autopilot.current <= len(points):   # from the first waypoint to the last
            track.append((autopilot.time_s, *autopilot.vehicle.position,
                          math.hypot(*autopilot.vehicle.velocity)))
    return autopilot, np.array(track)


def test_corners_are_flown_as_px4_flies_them():
    """Seen with PX4 v1.16: peak 6.2 m/s, twice the nominal time, 2.5 to 3.2 % shorter."""
    autopilot, track = fly_staircase(1, VehicleModel(mass=1.0, drag_rate=1.0, drag_area=1e-3))
    assert not autopilot.armed and autopilot.landed
    assert list(autopilot.reached) == list(range(len(autopilot.mission)))
    length = np.linalg.norm(np.diff(track[:, 1:4], axis=0), axis=1).sum()
    legs = 40.0 * 7
    assert 5.7 < track[:, 4].max() < 6.7
    assert 1.7 < (track[-1, 0] - track[0, 0]) / (legs / 8.0) < 2.3
    assert 0.96 < length / legs < 0.98


def test_same_seed_same_track_another_seed_another():
    tracks = [fly_staircase(seed)[1] for seed in (5, 5, 6)]
    assert np.array_equal(tracks[0], tracks[1])
    assert not np.array_equal(tracks[0][:1000], tracks[2][:1000])


def test_disarms_itself_after_landing_and_when_it_does_not_take_off():
    autopilot = armed()
    assert autopilot.arm() == Result.ACCEPTED
    for _ in range(int(10.5 / DT)):
        autopilot.step(DT)
    assert not autopilot.armed


def in_the_air(params=(), **kinds):
    autopilot = armed({"MIS_TAKEOFF_ALT": 15.0, **dict(params)}, **kinds)
    autopilot.arm()
    autopilot.take_off()
    while autopilot.mode is not Mode.HOLD:
        autopilot.step(DT)
        assert autopilot.time_s < 60
    return autopilot


def until(autopilot, done, seconds=300):
    end = autopilot.time_s + seconds
    while not done() and autopilot.time_s < end:
        autopilot.step(DT)
    assert done(), (autopilot.mode, autopilot.vehicle.position, autopilot.texts)


@pytest.mark.parametrize("cone, expected", [(0, 40.0), (45, 20.0)])
def test_return_altitude_follows_the_cone(cone, expected):
    autopilot = in_the_air({"RTL_RETURN_ALT": 40.0, "RTL_CONE_ANG": cone})
    autopilot.reposition((20.0, 0.0, 15.0))
    until(autopilot, lambda: math.dist(autopilot.vehicle.position, (20.0, 0.0, 15.0)) < 0.3)
    autopilot.set_mode(Mode.RETURN)
    heights = []
    until(autopilot, lambda: heights.append(autopilot.vehicle.position[2]) or not autopilot.armed)
    assert max(heights) == pytest.approx(expected, abs=1.0)
    assert math.hypot(*autopilot.vehicle.position[:2]) < 1.0


def test_what_the_return_altitude_becomes_on_the_way_home_is_for_the_next_return():
    autopilot = in_the_air({"RTL_RETURN_ALT": 20.0, "RTL_CONE_ANG": 0})
    autopilot.set_mode(Mode.RETURN)
    autopilot.params["RTL_RETURN_ALT"] = 60.0
    heights = []
    until(autopilot, lambda: heights.append(autopilot.vehicle.position[2]) or not autopilot.armed)
    assert max(heights) == pytest.approx(20.0, abs=1.0)


def test_home_is_where_it_arms():
    autopilot = armed({"RTL_CONE_ANG": 0, "RTL_RETURN_ALT": 20.0, "GF_MAX_HOR_DIST": 60.0})
    first = (Item(TAKEOFF, point=(0.0, 0.0, 15.0)), Item(WAYPOINT, point=(50.0, 0.0, 15.0)),
             Item(LAND, point=(50.0, 0.0, 0.0)))
    autopilot.set_mission(first)
    autopilot.arm()
    autopilot.set_mode(Mode.MISSION)
    until(autopilot, lambda: not autopilot.armed)
    assert autopilot.home[:2] == (0.0, 0.0) and autopilot.home_count == 2
    farther = Item(WAYPOINT, point=(100.0, 0.0, 15.0))
    autopilot.set_mission((first[0], farther))
    assert not autopilot.mission_valid, "outside the fence around the old home"
    assert autopilot.arm() == Result.DENIED, "in mission mode without one that it could fly"
    autopilot.set_mode(Mode.HOLD)
    assert autopilot.arm() == Result.ACCEPTED
    assert autopilot.home[:2] == pytest.approx((50.0, 0.0), abs=1.0)
    assert autopilot.mission_valid and autopilot.set_mode(Mode.MISSION) == Result.ACCEPTED
    until(autopilot, lambda: autopilot.vehicle.position[0] > 80)
    autopilot.set_mode(Mode.RETURN)
    until(autopilot, lambda: not autopilot.armed)
    assert math.dist(autopilot.vehicle.position[:2], autopilot.home[:2]) < 1.0


def test_the_altitude_of_home_is_noisy_and_what_is_relative_refers_to_it():
    def homes(seed):
        autopilot = SimulatedPx4(Vehicle(VehicleModel()), LocalFrame(60.0, 25.0),
                                 home_noise=0.7, seed=seed)
        found = []
        while autopilot.time_s < 6:
            autopilot.step(DT)
        for _ in range(20):
            assert autopilot.arm() == Result.ACCEPTED
            found.append(autopilot.home[2])
            assert autopilot.relative_altitude == -autopilot.home[2]
            assert autopilot.disarm() == Result.ACCEPTED
        return found

    assert homes(1) == homes(1) != homes(2)
    assert all(abs(up) <= 0.7 for up in homes(1)) and np.ptp(homes(1)) > 0.5


@pytest.mark.parametrize("name, params, act", [
    ("battery", {"COM_LOW_BAT_ACT": 3},
     lambda a: setattr(a.vehicle, "energy_wh", 0.06 * a.vehicle.model.battery_wh)),
    ("link", {"NAV_DLL_ACT": 2}, lambda a: setattr(a, "link_age_s", 30.0)),
    ("fence", {"GF_ACTION": 3, "GF_MAX_HOR_DIST": 30.0}, lambda a: a.reposition((50, 0, 15))),
])
def test_failsafes_bring_it_home(name, params, act):
    autopilot = in_the_air()
    autopilot.params.update(params)
    act(autopilot)
    until(autopilot, lambda: autopilot.mode is Mode.RETURN)
    assert any("Failsafe" in text for _, text in autopilot.texts)
    until(autopilot, lambda: not autopilot.armed)


@pytest.mark.parametrize("params, points, words", [
    ({"GF_MAX_HOR_DIST": 100.0}, [(50.0, 0, 20), (120.0, 0, 20)], "outside the geofence"),
    ({"MIS_DIST_1WP": 100.0}, [(150.0, 0, 20)], "too far"),
    ({}, [], "no position")])
def test_an_infeasible_mission_is_announced_and_never_flown(params, points, words):
    autopilot = armed(params)
    autopilot.set_mission([Item(178, (1, 5, 0, 0)), *(Item(WAYPOINT, point=p) for p in points)])
    assert any(words in text for _, text in autopilot.texts)
    autopilot.arm()
    assert autopilot.set_mode(Mode.MISSION) != Result.ACCEPTED
    assert autopilot.mode is not Mode.MISSION


def test_arming_is_refused_with_a_reason():
    early = SimulatedPx4(Vehicle(VehicleModel()), LocalFrame(60.0, 25.0))
    assert early.arm() == Result.DENIED
    assert armed(battery_percent=5.0).arm() == Result.DENIED
    assert armed({"NAV_DLL_ACT": 2}).arm() == Result.DENIED
