"""What the simulated autopilot does with wind, faults, fences, rally points, setpoints, photos."""

import json
import math
import socket
from dataclasses import replace

import numpy as np
import pytest
import shapely
from pymavlink.dialects.v20 import common as mavlink
from test_vehicle import DT, armed, in_the_air, until

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight.simulator import faults
from parallel_city_ros.flight.simulator.autopilot import (
    LAND,
    TAKEOFF,
    TRIGGER_DISTANCE,
    WAYPOINT,
    Area,
    Item,
    Mode,
    Result,
    SimulatedPx4,
)
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.flight.simulator.surroundings import Surroundings
from parallel_city_ros.flight.simulator.vehicle import Vehicle, VehicleModel
from parallel_city_ros.geo import LocalFrame

ROUTE = [(0.0, 0.0, 20.0), (60.0, 0.0, 20.0), (60.0, 60.0, 25.0), (120.0, 90.0, 20.0)]
SQUARE = ((-30.0, -30.0), (30.0, -30.0), (30.0, 30.0), (-30.0, 30.0))


def flown(seed=1, gps_noise=0.0, **model):
    """(N, 3) true positions between the first and the last waypoint."""
    autopilot = SimulatedPx4(Vehicle(VehicleModel(**model), seed), LocalFrame(60.0, 25.0),
                             gps_noise=gps_noise, seed=seed)
    while autopilot.time_s < 6:
        autopilot.step(DT)
    autopilot.set_mission([Item(TAKEOFF, point=ROUTE[0]),
                           *(Item(WAYPOINT, point=p) for p in ROUTE),
                           Item(LAND, point=(*ROUTE[-1][:2], 0.0))])
    autopilot.arm()
    autopilot.set_mode(Mode.MISSION)
    track = []
    while autopilot.armed and autopilot.time_s < 400:
        autopilot.step(DT)
        if 2 <= autopilot.current <= len(ROUTE):
            track.append(tuple(autopilot.vehicle.position))
    assert autopilot.landed and not autopilot.armed
    return np.array(track)


def off_route(track):
    gaps = np.full(len(track), np.inf)
    for a, b in zip(np.array(ROUTE[:-1]), np.array(ROUTE[1:]), strict=True):
        share = np.clip((track - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        gaps = np.minimum(gaps, np.linalg.norm(track - a - share[:, None] * (b - a), axis=1))
    return gaps


def test_the_route_is_kept_in_calm_air_and_in_gusts():
    def rms(track):
        return math.sqrt(np.mean(off_route(track) ** 2))
    calm, gusty = flown(), flown(wind_east=4.0, wind_north=-3.0, gust=8.0)
    assert rms(calm) < 1.0
    assert rms(calm) < rms(gusty) < 3.0


def test_the_same_seed_gives_the_same_track_in_wind_and_with_gps_noise():
    air = {"gust": 3.0, "wind_east": 5.0, "gps_noise": 0.5}
    first, again, other = flown(4, **air), flown(4, **air), flown(5, **air)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:500], other[:500])


def test_in_lockstep_the_same_commands_give_the_same_truth():
    def run():
        answers = []
        with SimulatedAutopilot((60.0, 25.0, 0.0), seed=3, options=(
                "--lockstep", "--gust=2", "--home=60.001,25,0")) as simulator:
            for line in ("step 6", "wind east=3 north=0 gust=2", "step 2.5", "truth",
                         "1: battery percent=30", "step 1", "truth"):
                answers.append(simulator.inject(line))
        return answers
    first = run()
    assert first == run()
    assert first[0] == "at 6.00" and '"battery_percent": 30' in first[-1]


def test_strong_wind_costs_energy_and_a_breeze_carries():
    """Hovering in wind is flying in air: rotors lift best at some speed (see patrol/power.py)."""
    def used(wind):
        autopilot = in_the_air()
        autopilot.vehicle.blow((wind, 0.0), 0.0)
        before, end = autopilot.vehicle.energy_wh, autopilot.time_s + 60
        while autopilot.time_s < end:
            autopilot.step(DT)
        return before - autopilot.vehicle.energy_wh
    assert used(8.0) < 0.97 * used(0.0)
    assert used(17.0) > 1.03 * used(0.0)


def test_a_lost_motor_falls_and_lost_gps_lands():
    falling = in_the_air()
    falling.vehicle.broken = True
    until(falling, lambda: not falling.armed, 10)
    assert falling.landed and "Failure detector" in " ".join(text for _, text in falling.texts)
    blind = in_the_air()
    blind.gps = False
    until(blind, lambda: blind.mode is Mode.LAND, 10)
    assert blind.set_mode(Mode.RETURN) != Result.ACCEPTED, "it does not know where home is"
    until(blind, lambda: not blind.armed, 60)


def test_a_reboot_keeps_parameters_and_mission_and_nothing_else():
    autopilot = in_the_air({"GF_ACTION": 3})
    autopilot.set_mission([Item(WAYPOINT, point=(10.0, 0.0, 15.0))])
    autopilot.reboot()
    assert not autopilot.armed and autopilot.time_s == 0 and not autopilot.home_count
    until(autopilot, lambda: autopilot.landed, 20)
    until(autopilot, lambda: autopilot.home_count == 1, 20)
    assert autopilot.params["GF_ACTION"] == 3 and len(autopilot.mission) == 1


@pytest.mark.parametrize("area, place, outside", [
    (Area(SQUARE, True), (0, 0), False), (Area(SQUARE, True), (40, 0), True),
    (Area(SQUARE, False), (0, 0), True), (Area(SQUARE, False), (40, 0), False),
    (Area(((0.0, 0.0),), True, 20.0), (25, 0), True),
    (Area(((0.0, 0.0),), False, 20.0), (25, 0), False)])
def test_areas_of_a_fence(area, place, outside):
    assert area.forbids((*place, 10.0)) is outside


@pytest.mark.parametrize("action, mode", [(2, Mode.HOLD), (3, Mode.RETURN), (5, Mode.LAND)])
def test_leaving_the_fence_does_what_its_action_says(action, mode):
    autopilot = in_the_air({"GF_ACTION": action})
    autopilot.set_fence([Area(SQUARE, True)])
    autopilot.set_mission([Item(WAYPOINT, point=(80.0, 0.0, 15.0))])
    assert not autopilot.mission_valid
    autopilot.reposition((80.0, 0.0, 15.0))
    until(autopilot, lambda: "Geofence" in " ".join(text for _, text in autopilot.texts))
    assert autopilot.mode is mode


def test_a_return_goes_to_the_nearest_rally_point_only_with_rtl_type_0():
    for kind, place in ((0, (50.0, 0.0)), (2, (0.0, 0.0))):
        autopilot = in_the_air({"RTL_TYPE": kind, "RTL_CONE_ANG": 0, "RTL_RETURN_ALT": 15.0})
        autopilot.set_rally([(50.0, 0.0, 0.0)])
        autopilot.reposition((45.0, 0.0, 15.0))
        until(autopilot, lambda a=autopilot: a.vehicle.position[0] > 44)
        autopilot.set_mode(Mode.RETURN)
        until(autopilot, lambda a=autopilot: not a.armed)
        assert math.dist(autopilot.vehicle.position[:2], place) < 1.5


def test_offboard_needs_setpoints_before_and_all_the_time():
    autopilot = in_the_air({"COM_OBL_RC_ACT": 3, "RTL_CONE_ANG": 0})
    nowhere = (math.nan,) * 3
    assert autopilot.set_mode(Mode.OFFBOARD) != Result.ACCEPTED
    autopilot.offboard_setpoint(nowhere, (2.0, 0.0, 0.0))
    assert autopilot.set_mode(Mode.OFFBOARD) == Result.ACCEPTED
    for _ in range(100):
        autopilot.offboard_setpoint(nowhere, (2.0, 0.0, 0.0))
        autopilot.step(DT)
    assert autopilot.mode is Mode.OFFBOARD and autopilot.vehicle.velocity[0] > 1.5
    until(autopilot, lambda: autopilot.mode is Mode.RETURN,
          autopilot.params["COM_OF_LOSS_T"] + 0.1)


def test_photos_are_taken_along_the_way():
    autopilot = armed()
    autopilot.set_mission([Item(TAKEOFF, point=(0.0, 0.0, 15.0)),
                           Item(TRIGGER_DISTANCE, (10, 0, 1, 0)),
                           Item(WAYPOINT, point=(100.0, 0.0, 15.0)),
                           Item(TRIGGER_DISTANCE, (0, 0, 0, 0)),
                           Item(LAND, point=(100.0, 0.0, 0.0))])
    autopilot.arm()
    autopilot.set_mode(Mode.MISSION)
    until(autopilot, lambda: not autopilot.armed)
    assert 9 <= autopilot.photo_count <= 11
    assert all(math.dist(a, b) < 11.5 for a, b in
               zip(list(autopilot.photos), list(autopilot.photos)[1:], strict=False))


@pytest.mark.parametrize("line", ["", "earthquake", "gps_jump", "wind east=x north=0",
                                  "battery percent", "gps_loss now=1"])
def test_faults_that_are_none_are_named(line):
    with pytest.raises(ConfigError):
        faults.parse(line)


TOWER = shapely.box(180, 60, 200, 80)       # of the city in conftest, from z = 5 to 35 m


def at_place(grid, *place):
    """A drone in the air that stood at (e, n) m of the city, which it can fly into."""
    frame = LocalFrame(*grid.frame.to_wgs84((*place, 0.0)).tolist()[:2], 17.0)
    city = Surroundings(grid, frame)
    autopilot = in_the_air(city=city)
    return autopilot, city


def test_a_drone_that_flies_into_a_building_falls_outside_of_it_and_stays_there(grid):
    autopilot, city = at_place(grid, 150, 70)
    autopilot.reposition((60.0, 3.0, 20.0))     # behind the tower
    until(autopilot, lambda: not autopilot.armed, 120)
    end = city.in_city(autopilot.vehicle.position)
    assert autopilot.truth()["collided"] and autopilot.landed
    assert TOWER.distance(shapely.Point(end[:2])) < 1.0 and not TOWER.contains(
        shapely.Point(end[:2]))
    assert end[2] == pytest.approx(5.0, abs=0.01)
    assert "Collision" in " ".join(text for _, text in autopilot.texts)
    assert autopilot.arm() == Result.DENIED
    track = city.in_city(np.array(autopilot.track)[:, 1:4])
    assert len(track) > 100 and not grid.is_occupied(track + (0, 0, 0.01)).any()


def test_a_drone_that_fails_over_a_roof_comes_to_rest_on_it(grid):
    autopilot, city = at_place(grid, 150, 70)
    autopilot.reposition((40.0, 0.0, 45.0))
    until(autopilot, lambda: math.dist(autopilot.vehicle.position, (40.0, 0.0, 45.0)) < 1)
    assert city.below(autopilot.vehicle.position) == pytest.approx(45 - 30, abs=1.5)
    autopilot.vehicle.broken = True
    until(autopilot, lambda: not autopilot.armed, 20)
    end = city.in_city(autopilot.vehicle.position)
    assert TOWER.contains(shapely.Point(end[:2])) and end[2] == pytest.approx(35, abs=1)


def test_distances_are_those_of_the_true_city_whichever_way_it_looks(grid):
    city = Surroundings(grid, LocalFrame(*grid.frame.to_wgs84((160, 70, 0)).tolist()[:2]))
    nose_at_it, wall_on_the_left = city.around((0, 0, 10), 0.0), city.around((0, 0, 10),
                                                                             -math.pi / 2)
    assert nose_at_it[0] == pytest.approx(20, abs=0.1)
    assert wall_on_the_left[54] == pytest.approx(20, abs=0.1)
    assert math.isinf(nose_at_it[36]) and math.isinf(city.around((0, 0, 60), 0.0)[0])
    assert city.below((0, 0, 10)) == pytest.approx(10, abs=0.01)
    beside = (-500, 0, 10)      # the city ends; a drone that is blown there flies on
    assert math.isinf(city.below(beside)) and not city.hits(beside)
    assert np.isinf(city.around(beside, 0.0)).all() and city.ground(*beside[:2]) == 0
    with pytest.raises(ConfigError, match="something stands"):
        Surroundings(grid, LocalFrame(*grid.frame.to_wgs84((190, 70, 0)).tolist()[:2]))
    with pytest.raises(ConfigError, match="beside it"):
        Surroundings(grid, LocalFrame(*grid.frame.to_wgs84((-190, 70, 0)).tolist()[:2]))


def test_the_process_tells_distances_to_a_city_that_it_was_given_and_to_its_next(grid):
    home = (*grid.frame.to_wgs84((160, 70, 0))[:2], 17.0)
    with SimulatedAutopilot(home, city=grid) as simulator, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ground_station:
        ground_station.bind(("127.0.0.1", simulator.port))
        ground_station.settimeout(20)
        parser, heard = mavlink.MAVLink(None), {}
        while not {"OBSTACLE_DISTANCE", "DISTANCE_SENSOR"} <= heard.keys():
            for message in parser.parse_buffer(ground_station.recv(2048)) or ():
                heard[message.get_type()] = message
        assert json.loads(simulator.inject("truth"))[0]["collided"] is False
        simulator.rebuild(grid.with_prism(shapely.box(170, 60, 174, 80), 5, 35))
        for _ in range(1000):       # messages, of which the next ring is one of the first
            for message in parser.parse_buffer(ground_station.recv(2048)) or ():
                heard[message.get_type() + " now"] = message
            nearest = heard.get("OBSTACLE_DISTANCE now", heard["OBSTACLE_DISTANCE"])
            if nearest.distances[18] < 1500:
                break
        assert nearest.distances[18] == pytest.approx(1000, abs=10) and not simulator.crashed()
        with pytest.raises(ConfigError, match="another frame"):
            simulator.rebuild(replace(grid, frame=LocalFrame(60.0, 24.0, 0.0)))
    ring = heard["OBSTACLE_DISTANCE"]
    # It stands with its nose to the north: the tower is on its right.
    assert ring.distances[18] == pytest.approx(2000, abs=10)
    assert ring.distances[54] == ring.max_distance + 1
    assert heard["DISTANCE_SENSOR"].current_distance <= 1
