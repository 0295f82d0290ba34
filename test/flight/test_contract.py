"""What the executor relies on, of the simulated autopilot and of PX4 where it is installed.

PX4 is looked for in PX4_BUILD and on the PATH. One drone flies all tests of its kind, and each
leaves it on the ground with motors off; those that do not end where they began come last.
"""

import math
import os
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from patrols import BRISK, PATIENT, crane, make_plan
from test_simulator import wait_until

from parallel_city_ros.errors import LinkError, SetupError
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.guard import Guard, GuardWatch
from parallel_city_ros.flight.guidance import PARAMETERS, Limits
from parallel_city_ros.flight.mission import patrol_mission, same_missions, waypoint_items
from parallel_city_ros.flight.outcome import FlightStatus
from parallel_city_ros.flight.px4 import Px4Sitl, find_px4
from parallel_city_ros.flight.simulator.autopilot import Item, Mode, Result, SimulatedPx4
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.flight.simulator.vehicle import Vehicle, VehicleModel
from parallel_city_ros.flight.state import FlightState

HOME = (30.0, 50.0)
FACTOR = 4.0        # a loaded machine is late by wall time
WAIT_S = 90.0       # wall
# PX4's simulation has it so: empty after a minute in the air, unless the executor sees to it.
PX4S_BATTERY = "--param=SIM_BAT_DRAIN=60"
CONFIG = FlightConfig(progress_period_s=0.02, max_home_shift=5.0)


@pytest.fixture(scope="module", params=["simulator", "px4"])
def autopilot(request, grid):
    lat, lon, _ = grid.frame.to_wgs84((*HOME, 0.0))
    with ExitStack() as stack:
        if request.param == "px4":
            try:
                find_px4()
            except SetupError as error:
                pytest.skip(str(error))
            worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
            drone = Px4Sitl((lat, lon, 17.0), speed_factor=FACTOR, instance=3 + int(worker[2:]))
        else:
            drone = SimulatedAutopilot((lat, lon, 17.0), speed_factor=FACTOR, seed=3,
                                       options=(*PATIENT, *BRISK, PX4S_BATTERY))
        stack.enter_context(drone)
        connection = stack.enter_context(Autopilot())
        connection.connect(drone.address, 30.0)
        yield connection


def items_of(plan, grid, config=CONFIG):
    return patrol_mission(plan.path, np.array([*HOME, 5.0]), grid.frame, config,
                          time_step_s=plan.task.time_step_s)


def mode(autopilot, name):
    wait_until(lambda: autopilot.snapshot.flight_mode == name, WAIT_S)


def down(autopilot):
    wait_until(lambda: autopilot.snapshot.landed_state == "ON_GROUND"
               and not autopilot.snapshot.armed, WAIT_S)


def take_off(autopilot, items):
    """On its mission, on the way to the first waypoint."""
    autopilot.upload_mission(items, 30.0)
    if autopilot.snapshot.mission_current > 0:
        autopilot.set_current(0)
    if autopilot.snapshot.flight_mode != "HOLD":    # PX4 keeps the last mode in which it may arm
        autopilot.hold()
        mode(autopilot, "HOLD")
    wait_until(lambda: autopilot.snapshot.healthy, WAIT_S)
    autopilot.arm()
    wait_until(lambda: autopilot.snapshot.armed, WAIT_S)
    autopilot.start_mission()
    mode(autopilot, "MISSION")
    wait_until(lambda: autopilot.snapshot.mission_current >= waypoint_items(items)[0], WAIT_S)


def test_parameters_are_set_read_back_and_missing_ones_named(autopilot):
    for name, value in (("RTL_RETURN_ALT", 71.5), ("GF_ACTION", 3)):
        before = autopilot.set_parameter(name, value)
        assert autopilot.get_parameter(name, type(value)) == value
        assert autopilot.set_parameter(name, before) == value
    with pytest.raises(LinkError, match="does not have"):
        autopilot.set_parameter("NO_SUCH_PARAM", 1.0)


@pytest.mark.parametrize("extras", [
    {}, {"photos": "waypoints", "gimbal": "nadir", "speeds": "plan"},
    {"photos": "waypoints", "gimbal": "tilt"}])
def test_missions_come_back_as_they_were_sent(autopilot, grid, plan, extras):
    items = items_of(plan, grid, replace(CONFIG, **extras))
    autopilot.upload_mission(items, 30.0)      # reads it back and compares
    assert same_missions(items, autopilot.download_mission(30.0))


def test_a_new_mission_begins_where_it_is_marked_and_the_same_one_is_left_as_it_is(
        autopilot, grid, plan):
    items = items_of(plan, grid)
    autopilot.upload_mission(items, 30.0, current=5)
    wait_until(lambda: autopilot.snapshot.mission_current == 5)
    autopilot.set_current(7)
    autopilot.upload_mission(items, 30.0, current=3)
    seen = autopilot.snapshot.mission_wall_s
    wait_until(lambda: autopilot.snapshot.mission_wall_s > seen)
    assert autopilot.snapshot.mission_current == 7
    autopilot.upload_mission(items[:-2] + items[-1:], 30.0, current=3)
    wait_until(lambda: autopilot.snapshot.mission_current == 3)


def test_hold_mission_land_and_return_are_seen_and_end_on_the_ground(autopilot, grid, plan):
    items = items_of(plan, grid)
    for send, name in ((autopilot.return_to_launch, "RETURN_TO_LAUNCH"),
                       (autopilot.land, "LAND")):
        take_off(autopilot, items)
        autopilot.hold()
        mode(autopilot, "HOLD")
        autopilot.start_mission()
        mode(autopilot, "MISSION")
        assert autopilot.snapshot.in_air and autopilot.snapshot.armed
        send()
        mode(autopilot, name)
        down(autopilot)


def test_outside_the_geofence_it_returns_by_itself(autopilot, grid, plan):
    before = {name: autopilot.set_parameter(name, value)
              for name, value in (("GF_ACTION", 3), ("RTL_RETURN_ALT", 45.0))}
    take_off(autopilot, items_of(plan, grid))
    before["GF_MAX_HOR_DIST"] = autopilot.set_parameter("GF_MAX_HOR_DIST", 25.0)
    mode(autopilot, "RETURN_TO_LAUNCH")
    down(autopilot)
    for name, value in before.items():
        autopilot.set_parameter(name, value)


def fly(plan, grid, autopilot, act, **config):
    """Outcome, and how often it was at each state; guarded, as every flight."""
    config = replace(CONFIG, **config)
    watch = GuardWatch(Guard(plan, grid, config), autopilot, config)
    flight = PatrolFlight(plan, grid, autopilot, config, lambda: watch.reason, watch.update_route)
    seen = []

    def on_progress(progress):
        seen.append(progress)
        act(flight, progress)

    with watch:
        return flight.run(on_progress), seen


def gap(track, point):
    """Metres from the nearest point of an (N, 4) track to a place."""
    return np.linalg.norm(track[:, 1:] - point, axis=1).min()


def test_a_waypoint_is_not_skipped_into_a_crane(autopilot, grid, plan):
    path = make_plan(grid, bow=0.0).path
    path[4] += (-6.5, 10.2, 0.0)        # around what stands on the straight way
    bowed = make_plan(grid, path=path)
    twin = crane(grid, *(path[3, :2] + path[5, :2]) / 2, 60.0, size=2.0)
    asked = []

    def act(flight, progress):
        if progress.waypoint == 4 and progress.state is FlightState.ON_PATROL and not asked:
            asked.append(flight.skip())
        elif asked and progress.state is FlightState.ON_PATROL:
            flight.return_home()        # enough is seen

    outcome, _ = fly(bowed, twin, autopilot, act)
    words = asked[0].result(1.0)
    assert "not clear" in words and "height over what is near" in words, words
    assert outcome.status is FlightStatus.RETURNED and "asked for" in outcome.message


def test_a_waypoint_is_skipped_and_a_pause_with_a_camera_does_not_turn_back(
        autopilot, grid, plan):
    """PX4 resumes a mission with photos at the waypoint before, if it may."""
    path = plan.path.copy()
    path[4] += (-9.0, 14.0, 0.0)        # a detour that is worth skipping
    path[5] += (-9.0, 14.0, 0.0)
    bowed = make_plan(grid, path=path)
    asked, held = [], []

    def act(flight, progress):
        if progress.state is not FlightState.ON_PATROL:
            if progress.state is FlightState.PAUSED and asked[-1] == "pause":
                held.append(progress.position)
                asked.append("resume")
                flight.resume()
        elif progress.waypoint == 4 and not asked:
            asked.append(flight.skip())
        elif progress.waypoint == 5 and len(asked) == 1:
            asked.append("pause")
            flight.pause()

    outcome, seen = fly(bowed, grid, autopilot, act, photos="waypoints", cruise_speed=3.0)
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    assert asked[0].result(1.0) == "" and asked[1:] == ["pause", "resume"]
    assert gap(outcome.flown, path[4]) > 5.0 > gap(outcome.flown, path[5])
    # From where it was held it went on, and not back.
    after = outcome.flown[np.argmin(np.linalg.norm(outcome.flown[:, 1:] - held[0], axis=1)):, 1:]
    ahead = path[5] - held[0]
    back = (after - held[0]) @ ahead / np.linalg.norm(ahead)
    assert back.min() > -5.0, back.min()
    waypoints = [p.waypoint for p in seen if p.state is FlightState.ON_PATROL]
    assert waypoints == sorted(waypoints) and waypoints[-1] == len(path) - 1


def test_paused_while_it_climbs_it_goes_on_up_first_and_that_is_foreseen(autopilot, grid):
    path = make_plan(grid, bow=0.0).path
    path[5:-1, 2] += 14.0
    steep = make_plan(grid, path=path)
    held = []

    def act(flight, progress):
        if progress.state is FlightState.ON_PATROL and not held \
                and path[4, 2] + 2.0 < progress.position[2] < path[5, 2] - 4.0:
            held.append(None)
            flight.pause()
        elif progress.state is FlightState.PAUSED and len(held) == 1:
            held.append(progress.position)
            flight.resume()

    outcome, _ = fly(steep, grid, autopilot, act)
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    track = outcome.flown[:, 1:]
    after = track[np.argmin(np.linalg.norm(track - held[1], axis=1)):]
    there = after[np.argmax(after[:, 2] > path[5, 2] - 1.0)]
    # Straight on it would be within 2 m of it at that height.
    assert np.linalg.norm(there[:2] - path[5, :2]) > 4.0


def test_a_drone_that_was_left_in_a_mode_without_arming_flies(autopilot, grid, plan):
    """PX4 arms neither in return nor in land mode, and tells no reason in words."""
    autopilot.return_to_launch()
    mode(autopilot, "RETURN_TO_LAUNCH")
    wait_until(lambda: not autopilot.snapshot.healthy, WAIT_S)

    def act(flight, progress):
        if progress.state is FlightState.TAKING_OFF:
            flight.land()

    outcome, _ = fly(plan, grid, autopilot, act)
    assert outcome.status is FlightStatus.LANDED_EARLY, outcome.message
    assert "asked for" in outcome.message


def test_a_mission_that_somebody_clears_in_flight_brings_it_home(autopilot, grid, plan):
    cleared = []

    def act(flight, progress):
        if progress.waypoint == 3 and not cleared:
            cleared.append(None)
            # As another ground station does.
            autopilot._call(lambda: autopilot._mission.clear_mission(), "clearing", WAIT_S)

    outcome, _ = fly(plan, grid, autopilot, act)
    assert outcome.status is FlightStatus.RETURNED, outcome.message
    assert "to 0 items" in outcome.message


def test_its_track_is_that_of_the_simulated_drone(request, autopilot, grid):
    """Corners, slopes, speeds and times, whoever flies them; SIH's drone has much drag."""
    path = make_plan(grid, bow=60.0).path
    path[2:-1:2, 2] += 10.0
    flown = make_plan(grid, path=path)
    outcome, _ = fly(flown, grid, autopilot, lambda *_: None)
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    sih = {"mass": 1.0, "drag_rate": 1.0, "drag_area": 1e-3}
    model = VehicleModel(gust=0.0, **sih if "px4" in request.node.callspec.id else {})
    limits = {name: autopilot.get_parameter(name, float) for name in PARAMETERS.values()}
    expected = simulated_track(flown, grid, model, limits)
    (took, track), (takes, _) = on_patrol(outcome.flown, path), on_patrol(expected, path)
    gaps = np.array([gap(expected, point) for point in track])
    assert np.sqrt((gaps ** 2).mean()) < 0.8 and gaps.max() < 2.0, (gaps.mean(), gaps.max())
    assert took == pytest.approx(takes, rel=0.1)
    # As the guard of a real flight has it, too.
    assert max(gap(path_points(path), point) for point in track) < flown.task.tube_radius + 0.5


def simulated_track(plan, grid, model, limits):
    """(N, 4) s and ENU metres of the same mission without a link, in time steps."""
    drone = SimulatedPx4(Vehicle(model, 1), grid.frame)
    drone.params |= {"MPC_XY_CRUISE": CONFIG.cruise_speed} | limits
    home = np.array([*HOME, 5.0])
    items = []
    for item in patrol_mission(plan.path, home, grid.frame, CONFIG,
                               tube_radius=plan.task.tube_radius,
                               limits=Limits.of(limits)):
        place = None
        if item.x:
            place = (*grid.frame.to_enu(item.x * 1e-7, item.y * 1e-7)[:2] - HOME, item.z)
        items.append(Item(item.command, item.params, place))
    while drone.time_s < 6:
        drone.step(0.02)
    drone.set_mission(items)
    assert drone.arm() == drone.set_mode(Mode.MISSION) == Result.ACCEPTED
    while drone.armed and drone.time_s < 900:
        drone.step(0.02)
    assert not drone.armed
    return np.array([row[:4] for row in drone.track]) + (0.0, *home)


def on_patrol(track, path):
    """Seconds, and (N, 3) metres, from the first point of the path to its last."""
    first = int(np.argmin(np.linalg.norm(track[:, 1:] - path[1], axis=1)))
    last = first + int(np.argmin(np.linalg.norm(track[first:, 1:] - path[-1], axis=1)))
    return track[last, 0] - track[first, 0], track[first:last, 1:]


def path_points(path):
    """(N, 4), the last three of which are places each decimetre of a path."""
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    points = np.vstack([np.linspace(a, b, int(10 * n) + 2) for a, b, n in
                        zip(path, path[1:], lengths, strict=False)])
    return np.column_stack([np.zeros(len(points)), points])


def test_the_rest_of_a_plan_is_replaced_without_stopping(autopilot, grid, plan):
    """Another plan that begins on its way, to another goal; what begins elsewhere is refused."""
    begins = plan.path[3]
    other = make_plan(grid, bow=-20.0, start=tuple(begins), goal=(60.0, 250.0, 40.0))
    elsewhere = make_plan(grid, bow=5.0, start=(40.0, 250.0, 40.0), goal=(250.0, 260.0, 40.0))
    asked = []

    def act(flight, progress):
        if progress.state is FlightState.ON_PATROL and progress.waypoint == 2 and not asked:
            asked.append(flight.replace(elsewhere))
        elif len(asked) == 1 and asked[0].done():
            asked.append(flight.replace(other))

    # However far it flies meanwhile on a loaded machine.
    outcome, seen = fly(plan, grid, autopilot, act, max_join_distance=120.0, cruise_speed=4.0)
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    assert "max_join_distance" in asked[0].result(1.0)
    assert asked[1].result(1.0) == ""
    end = outcome.flown[-1, 1:3]
    assert np.linalg.norm(end - other.path[-1, :2]) < 3.0
    assert all(gap(outcome.flown, point) < 5.0 for point in other.path[6:])
    # It never stood still between the first waypoint of the one and the last of the other.
    track = outcome.flown
    first = int(np.argmin(np.linalg.norm(track[:, 1:] - plan.path[1], axis=1)))
    last = first + int(np.argmin(np.linalg.norm(track[first:, 1:] - other.path[-1], axis=1)))
    part = track[first:last:10]
    speeds = np.linalg.norm(np.diff(part[:, 1:], axis=0), axis=1) / np.diff(part[:, 0])
    assert speeds[:-1].min() > 0.5, speeds
    assert seen[-1].state is FlightState.LANDED and math.isfinite(outcome.distance_m)


def test_a_plan_that_replaces_another_is_flown_at_its_own_speeds(autopilot, grid, plan):
    """PX4 leaves out what commands the speed before the item that it goes on with."""
    start, goal = plan.path[1], (60.0, 250.0, 40.0)
    path = np.linspace(start, goal, 12)
    other, asked = make_plan(grid, start=tuple(start), goal=goal, path=path), []
    planned = math.dist(path[0], path[1]) / plan.task.time_step_s

    def act(flight, progress):
        if progress.state is FlightState.ON_PATROL and progress.waypoint == 3 and not asked:
            asked.append(flight.replace(other))

    outcome, _ = fly(plan, grid, autopilot, act, max_join_distance=400.0, speeds="plan")
    assert asked[0].result(1.0) == "" and outcome.status is FlightStatus.COMPLETED
    first, last = (int(np.linalg.norm(outcome.flown[:, 1:] - p, axis=1).argmin())
                   for p in (path[7], path[10]))
    part = outcome.flown[first:last:10]
    flown = np.linalg.norm(np.diff(part[:, 1:], axis=0), axis=1) / np.diff(part[:, 0])
    assert len(flown) > 3 and np.median(flown) == pytest.approx(planned, rel=0.1)


def test_a_plan_that_is_on_board_late_is_joined_where_the_way_is_clear(
        autopilot, grid, plan, monkeypatch):
    """The drone flies on for many seconds more than a mission takes; the guard lets it."""
    other = make_plan(grid, bow=-20.0, start=tuple(plan.path[3]), goal=(60.0, 250.0, 40.0))
    send, asked = PatrolFlight._send, []

    def send_late(flight, route):
        began = autopilot.snapshot.vehicle_time_s
        wait_until(lambda: autopilot.snapshot.vehicle_time_s > began + 18.0)
        send(flight, route)

    def act(flight, progress):
        if progress.state is FlightState.ON_PATROL and progress.waypoint == 1 and not asked:
            asked.append(flight.replace(other))

    monkeypatch.setattr(PatrolFlight, "_send", send_late)
    outcome, _ = fly(plan, grid, autopilot, act, max_join_distance=400.0)
    assert asked[0].result(1.0) == ""
    assert outcome.status is FlightStatus.COMPLETED, outcome.message
    assert gap(outcome.flown, other.path[-1]) < 5.0
    assert gap(outcome.flown, plan.path[4]) < 15.0, "it was not late"
