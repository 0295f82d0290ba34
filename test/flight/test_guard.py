"""The guard sees each breach, does what the configuration says, and never weakens a landing."""

import json
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from patrols import crane
from test_simulator import wait_until

from parallel_city_ros.errors import RefusedError
from parallel_city_ros.flight.config import FlightConfig, GuardConfig
from parallel_city_ros.flight.guard import Guard, GuardWatch
from parallel_city_ros.flight.telemetry import Telemetry

HOME = np.array([30.0, 50.0, 5.0])
KINDS = {"deviation": "deviation", "clearance": "clearance", "fence": "fence",
         "battery": "battery", "link": "link", "estimator": "estimator", "jump": "estimator",
         "time": "time"}


def seen_at(plan, place, **changes):
    """Telemetry of a drone on patrol at an ENU place."""
    frame = plan.frame
    lat, lon, _ = frame.to_wgs84(place)
    home_lat, home_lon, _ = frame.to_wgs84(HOME)
    return replace(Telemetry(
        vehicle_time_s=100.0, latitude_deg=lat, longitude_deg=lon, absolute_altitude_m=50.0,
        relative_altitude_m=place[2] - HOME[2], velocity=(5.0, 0.0, 0.0), flight_mode="MISSION",
        armed=True, landed_state="IN_AIR", healthy=True, failing=(), battery_percent=90.0,
        home=(home_lat, home_lon, 17.0), last_message_wall_s=time.monotonic()), **changes)


def on_leg(plan, k=5):
    return (plan.path[k] + plan.path[k + 1]) / 2


def breach(kind, plan, guard):
    """What the drone tells when that is wrong."""
    here = on_leg(plan)
    if kind == "deviation":
        return seen_at(plan, here + (0, 0, 6.0))
    if kind == "clearance":
        guard.update_map(crane(guard._grid, *here[:2], height=here[2] - 2))
    if kind == "fence":
        return seen_at(plan, (30.0, -120.0, 40.0), flight_mode="RETURN_TO_LAUNCH")
    if kind == "battery":
        return seen_at(plan, here, battery_percent=14.0)
    if kind == "link":
        return seen_at(plan, here, last_message_wall_s=time.monotonic() - 20)
    if kind == "estimator":
        guard._bad_since = time.monotonic() - 60
        return seen_at(plan, here, failing=("global position",))
    if kind == "jump":
        guard.look(seen_at(plan, plan.path[1], vehicle_time_s=99.9))
        return seen_at(plan, plan.path[9])
    if kind == "time":
        guard.look(seen_at(plan, here, vehicle_time_s=-5000.0))
    return seen_at(plan, here)


def test_nothing_is_wrong_with_a_drone_on_its_route_or_on_the_ground(grid, plan):
    guard = Guard(plan, grid, FlightConfig())
    steps = np.linspace(0, 1, 40)[:, None]
    up = HOME + steps * (0, 0, plan.path[0, 2] - 5)
    over = up[-1] + steps * (plan.path[0] - up[-1])
    down = plan.path[-1] - steps * (0, 0, plan.path[-1, 2] - 5)
    route = np.vstack([up, over, plan.path, down])
    flown = np.append(0, np.cumsum(np.linalg.norm(np.diff(route, axis=0), axis=1)))
    for place, way in zip(route, flown, strict=True):
        assert guard.look(seen_at(plan, place, vehicle_time_s=way / 5)) == []
    far = seen_at(plan, (900.0, 900.0, 5.0), armed=False, landed_state="ON_GROUND",
                  battery_percent=1.0)
    assert guard.look(far) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_breach_is_seen_alone_with_the_action_that_was_set(grid, plan, kind):
    for action in ("warn", "pause", "return", "land"):
        config = FlightConfig(guard=GuardConfig(**{f"{KINDS[kind]}_action": action}))
        guard = Guard(plan, grid, config, HOME)
        found = guard.look(breach(kind, plan, guard))
        assert [(b.kind, b.action) for b in found] == [(kind, action)], found


def test_coming_home_costs_more_against_the_wind_and_from_farther_away(grid, plan):
    guard = Guard(plan, grid, FlightConfig(guard=GuardConfig(wind_speed=0.0)), HOME)
    near, far = plan.path[1], plan.path[-1]
    t = seen_at(plan, far)
    guard.look(t)
    against = replace(t, wind=(5.0, 3.0))      # blows away from home
    with_it = replace(t, wind=(-5.0, -3.0))
    assert guard.needed_percent(t, near) < guard.needed_percent(t, far) \
        == guard.needed_percent(with_it, far) < guard.needed_percent(against, far)


def test_a_drone_that_drains_faster_than_planned_turns_back_earlier(grid, plan):
    guard = Guard(plan, grid, FlightConfig(), HOME)
    guard.look(seen_at(plan, plan.path[1], vehicle_time_s=100.0, battery_percent=90.0))
    later = seen_at(plan, plan.path[8], vehicle_time_s=160.0, battery_percent=50.0)
    assert [b.kind for b in guard.look(later)] == ["battery"]


class Drone:
    """Remembers what it was told; `obeys` says what it does."""

    def __init__(self, snapshot, obeys=()):
        self.snapshot, self.obeys, self.told = snapshot, obeys, []

    def _do(self, name, mode):
        self.told.append(name)
        if name not in self.obeys:
            raise RefusedError("not now")
        self.snapshot = replace(self.snapshot, flight_mode=mode)

    def hold(self):
        self._do("hold", "HOLD")

    def return_to_launch(self):
        self._do("return", "RETURN_TO_LAUNCH")

    def land(self):
        self._do("land", "LAND")


def watch(plan, grid, drone, **config):
    config = FlightConfig(mode_timeout_s=0.05, retries=1, **config)
    events = []
    return GuardWatch(Guard(plan, grid, config, HOME), drone, config, events.append), events


def settle(watch, drone, rounds=40):
    for _ in range(rounds):
        watch.look_once()
        time.sleep(0.01)


def test_a_refused_return_becomes_a_landing_and_a_landing_is_final(grid, plan):
    drone = Drone(seen_at(plan, on_leg(plan) + (0, 0, 9.0)), obeys=("land",))
    guard, events = watch(plan, grid, drone)
    settle(guard, drone)
    assert drone.told[0] == "return" and drone.told[-1] == "land"
    assert drone.snapshot.flight_mode == "LAND" and drone.told.count("land") == 1
    commanded = [e for e in events if e.commanded]
    assert commanded and all(math.isfinite(e.latency_s) for e in commanded)
    assert "beside its corridor" in guard.reason


def test_a_pilot_is_left_alone_and_a_pause_is_asked_for_once(grid, plan):
    off = seen_at(plan, on_leg(plan) + (0, 0, 9.0))
    pilot = Drone(replace(off, flight_mode="POSCTL"), obeys=("return", "hold"))
    guard, _ = watch(plan, grid, pilot, guard=GuardConfig(deviation_action="pause"))
    settle(guard, pilot)
    assert pilot.told == []
    drone = Drone(off, obeys=("hold",))
    guard, events = watch(plan, grid, drone, guard=GuardConfig(deviation_action="pause"))
    settle(guard, drone, 10)
    drone.snapshot = replace(drone.snapshot, flight_mode="MISSION")     # somebody resumes
    settle(guard, drone, 10)
    assert drone.told == ["hold"] and drone.snapshot.flight_mode == "MISSION"
    assert sum(not e.commanded for e in events) == 1, "a breach that lasts is told once"


def test_a_pause_that_was_lost_is_asked_for_again_and_a_new_breach_is_not_waited_with(grid, plan):
    on = seen_at(plan, on_leg(plan))
    off = seen_at(plan, on_leg(plan) + (0, 0, 9.0))
    drone = Drone(off)                  # does not obey: nobody may have heard it
    config = FlightConfig(mode_timeout_s=60.0, guard=GuardConfig(deviation_action="pause"))
    guard = GuardWatch(Guard(plan, grid, config, HOME), drone, config)

    def told(times):
        guard.look_once()
        wait_until(lambda: len(drone.told) == times)
    told(1)
    guard._sent = (*guard._sent[:1], -math.inf, 1)      # a while ago
    drone.obeys = ("hold",)
    told(2)
    wait_until(lambda: drone.snapshot.flight_mode == "HOLD")
    guard.look_once()
    drone.snapshot = on                 # it is back, and resumed
    guard.look_once()
    drone.snapshot = off
    told(3)


def test_the_guard_goes_on_when_its_judgement_fails(grid, plan):
    drone = Drone(seen_at(plan, on_leg(plan) + (0, 0, 9.0)), obeys=("return",))
    good, drone.snapshot = drone.snapshot, None     # nothing that could be looked at
    guard, _ = watch(plan, grid, drone)
    with guard:
        time.sleep(0.2)
        drone.snapshot = good
        wait_until(lambda: drone.told == ["return"])


def test_a_drone_blown_off_its_route_comes_home_without_its_executor(grid, plan, drone):
    """The flight is started, its executor let go; only the guard is there when the wind comes."""
    from parallel_city_ros.flight.executor import PatrolFlight
    from parallel_city_ros.flight.state import FlightState
    config = FlightConfig()
    with drone() as (simulator, autopilot):
        flight, events = PatrolFlight(plan, grid, autopilot, config), []
        on_patrol = threading.Event()

        def on_progress(progress):
            if progress.state is FlightState.ON_PATROL:
                on_patrol.set()

        worker = threading.Thread(target=flight.run, args=(on_progress,))
        worker.start()
        with GuardWatch(Guard(plan, grid, config), autopilot, config, events.append):
            assert on_patrol.wait(30)
            flight.leave()
            worker.join(10)
            simulator.inject("wind east=0 north=-28 gust=0")
            wait_until(lambda: autopilot.snapshot.flight_mode == "RETURN_TO_LAUNCH")
            simulator.inject("wind east=0 north=0 gust=0")
            wait_until(lambda: not autopilot.snapshot.armed, 40.0)
            here = grid.frame.to_enu(autopilot.snapshot.latitude_deg,
                                     autopilot.snapshot.longitude_deg)
    assert np.hypot(*(here[:2] - HOME[:2])) < 3.0
    assert [e.breach.kind for e in events if e.commanded][0] == "deviation", json.dumps(
        [e.breach.message for e in events])


def test_a_hold_on_the_way_home_is_no_deviation(plan, grid):
    """PX4 holds for some seconds before the failsafe that comes on top acts."""
    guard = Guard(plan, grid, FlightConfig())
    away = on_leg(plan) + (12.0, -20.0, 0.0)
    assert [b.kind for b in guard.look(seen_at(plan, away))] == ["deviation"]
    for seen in ("RETURN_TO_LAUNCH", "HOLD"):
        assert guard.look(seen_at(plan, away, flight_mode=seen)) == []
    assert [b.kind for b in guard.look(seen_at(plan, away))] == ["deviation"]   # resumed


def test_braking_past_a_corner_is_no_deviation_while_it_holds_and_a_gap_in_the_link_no_jump(
        plan, grid):
    guard, beside = Guard(plan, grid, FlightConfig()), on_leg(plan) + (4.0, -7.0, 0.0)
    assert [b.kind for b in guard.look(seen_at(plan, beside))] == ["deviation"]
    assert guard.look(seen_at(plan, beside, flight_mode="HOLD")) == []
    guard = Guard(plan, grid, FlightConfig())
    guard.look(seen_at(plan, plan.path[2]))
    # 60 m on, and the time of it comes after the place.
    assert guard.look(seen_at(plan, on_leg(plan, 4), position_late=True)) == []
    assert guard.look(seen_at(plan, on_leg(plan, 4), vehicle_time_s=108.0)) == []


def test_the_last_words_are_the_newest_warnings_and_no_old_ones():
    def words(now, *alerts):
        return Telemetry(vehicle_time_s=now, status_texts=("Takeoff detected",),
                         alerts=alerts).last_words

    assert words(100.0) == "" == words(100.0, (20.0, "long ago"))
    assert words(100.0, (20.0, "long ago"), (97.0, "Geofence: too far"), (98.0, "Failsafe"),
                 (99.0, "Failsafe")) == ' (it says: "Geofence: too far; Failsafe")'
