"""Fleets keep apart, share what is to be seen, and are told what cannot be; sorties likewise."""

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.facades import Facades
from parallel_city_ros.city.ground import nearest_open_ground
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight.fleet import FleetMission
from parallel_city_ros.patrol import terms
from parallel_city_ros.patrol.certificate import certify, count_seen
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.separation import certify_separation, timeline
from parallel_city_ros.patrol.task import Drone, PatrolTask
from parallel_city_ros.planning.fleet import FleetConfig, plan_fleet, rounds_from
from parallel_city_ros.planning.made_cities import MadeCity
from parallel_city_ros.planning.planner import PlanRequest, PlanStatus
from parallel_city_ros.planning.sorties import plan_sorties
from parallel_city_ros.planning.union import Union

QUICK = FleetConfig(evaluation_budget=800)


@pytest.fixture(scope="module")
def grid():
    return MadeCity("organic", 5, (500.0, 400.0)).grid()


def place(grid, east, north, up=70.0):
    return (*nearest_open_ground(grid, (east, north), 8.0), up)


@pytest.fixture(scope="module")
def task(grid):
    """A round from the middle."""
    base = place(grid, 250, 200)
    return PatrolTask(start=base, goal=base, coverage_floor=0.3, track_points=24)


@pytest.fixture(scope="module")
def crossing(grid):
    """Two routes that cross in the middle."""
    corners = [place(grid, *at) for at in ((60, 60), (440, 340), (60, 340), (440, 60))]
    return [PatrolTask(start=a, goal=b, track_points=16) for a, b in (corners[:2], corners[2:])]


def fleet_of(grid, tasks, config=QUICK, sectors=(), **more):
    request = PlanRequest(task=tasks[0], time_budget_s=600.0)
    return plan_fleet(grid, request, tasks, config, sectors=sectors, **more)


@pytest.fixture(scope="module")
def rounds(grid, task):
    tasks, sectors = rounds_from(grid, task, 3, QUICK)
    return tasks, sectors, fleet_of(grid, tasks, sectors=sectors)


def test_rounds_share_the_floor_and_keep_apart(grid, task, rounds):
    tasks, sectors, outcome = rounds
    assert outcome.status is PlanStatus.SUCCEEDED, outcome.message
    fleet = outcome.fleet
    assert fleet.valid and len(fleet.separation.pairs) == 3
    assert np.sum(sectors, axis=0).max() == 1, "sectors overlap"
    counts = sum((count_seen(grid, task, p.path) > 0).astype(int) for p in fleet.plans.values())
    union = 1e-6 * grid.resolution**2 * (counts > 0).sum()
    assert fleet.coverage_km2 == pytest.approx(union, rel=2e-3), "each cell once"
    reachable = 1e-6 * grid.resolution**2 * grid.surface.size
    assert union >= 0.3 * 0.9 * reachable
    for found, wanted in zip(fleet.plans.values(), tasks, strict=True):
        assert certify(grid, found.task, found.path).valid
        assert found.task.start == wanted.start


@pytest.mark.parametrize("coverage, floor", [("facades", 0.1), ("both", 0.12)])
def test_walls_that_another_sees_are_worth_nothing_and_count_once(coverage, floor):
    grid = MadeCity("organic", 5, (300.0, 240.0)).grid(4.0)
    base = place(grid, 150, 120)
    task = PatrolTask(start=base, goal=base, coverage=coverage, coverage_floor=floor,
                      track_points=16)
    config = FleetConfig(evaluation_budget=400)
    tasks, sectors = rounds_from(grid, task, 2, config)
    faces = Facades(grid)
    value = np.full(grid.surface.shape, float(coverage == "both"))
    np.add.at(value, tuple(faces.voxels[:, :2].T), 1.0)
    shares = [(value * sector).sum() / value.sum() for sector in sectors]
    assert shares == pytest.approx([0.5, 0.5], abs=0.02)
    outcome = fleet_of(grid, tasks, config, sectors)
    fleet = outcome.fleet
    assert outcome.status is PlanStatus.SUCCEEDED and fleet.valid, outcome.message
    area = 1e-6 * grid.resolution**2
    paths = [found.path for found in fleet.plans.values()]
    seen = [terms.walls_seen(faces, task, terms.cameras_along(task, path)) for path in paths]
    union = area * np.logical_or(*seen).sum()
    if coverage == "both":
        union += area * np.logical_or(*(count_seen(grid, task, path) > 0 for path in paths)).sum()
    assert fleet.coverage_km2 == pytest.approx(union, rel=0.03)     # the checker sees a bit more
    assert fleet.coverage_km2 >= floor * 0.9 * area * value.sum()
    union = Union(grid, task)
    union.put("a", paths[0])
    once = Evaluator(grid, task, union.worth_left("a"), 0.0)(paths[:1]).coverage_km2[0]
    again = Evaluator(grid, task, union.worth_left("b"), 0.0)(paths[:1]).coverage_km2[0]
    # of a column that was seen in part, its rest is spread over all of it
    assert once == pytest.approx(union.km2()) and again < 0.4 * once
    with pytest.raises(ConfigError, match="another coverage than drone 1"):
        fleet_of(grid, [tasks[0], replace(tasks[1], coverage="ground")], config)


def test_the_fleet_file_can_be_certified_again(grid, rounds, tmp_path):
    fleet = rounds[2].fleet
    mission = FleetMission.load(fleet.save(tmp_path))
    told = json.loads((tmp_path / "fleet.json").read_text())
    assert told["valid"] and told["separation"]["valid"]
    lines = {}
    for drone in mission.drones:
        found = PatrolPlan.load(drone.plan_file)
        grounds = [float(grid.ground_at(found.path[k])) for k in (0, -1)]
        lines[drone.name] = timeline(
            found.path, found.task.drone, drone.flight["cruise_speed"], grounds,
            start_after_s=drone.start_after_s, tube_radius=found.task.tube_radius)
    again = certify_separation(lines, mission.separation_m, told["separation"]["time_tolerance_s"])
    assert again.valid
    assert [p["gap_m"] for p in told["separation"]["pairs"]] == pytest.approx(
        [p.gap_m for p in again.pairs])


def test_same_seed_same_fleet(grid, rounds):
    tasks, sectors, outcome = rounds
    again = fleet_of(grid, tasks, sectors=sectors).fleet
    for name, found in outcome.fleet.plans.items():
        assert np.array_equal(found.path, again.plans[name].path)


@pytest.mark.parametrize("apart", ["space", "time"])
def test_routes_that_cross_are_kept_apart(grid, crossing, apart):
    outcome = fleet_of(grid, crossing, replace(QUICK, apart=apart))
    fleet = outcome.fleet
    assert outcome.status is PlanStatus.SUCCEEDED and fleet.valid, outcome.message
    pair, = fleet.separation.pairs
    level = [shapely.LineString(p.path[:, :2]) for p in fleet.plans.values()]
    if apart == "space":
        assert pair.gap_any_time_m >= 20.0 and not any(fleet.start_after_s.values())
    elif level[0].intersects(level[1]):
        assert pair.gap_any_time_m < 20.0 <= pair.gap_m
        assert sum(late > 0 for late in fleet.start_after_s.values()) <= 1


def test_what_cannot_be_kept_apart_is_told(grid, crossing, task):
    there, back = crossing
    with pytest.raises(ConfigError, match="drones 1 and 2 stand 0.0 m apart at their goals"):
        fleet_of(grid, [there, replace(back, goal=there.goal)])
    impatient = replace(QUICK, apart="time", max_delay_s=0.0, separation_m=200.0)
    meets = replace(back, start=place(grid, 300, 390), goal=place(grid, 60, 390))
    outcome = fleet_of(grid, [there, meets], impatient)
    assert outcome.fleet is None and outcome.message.startswith("drone_")
    with pytest.raises(ConfigError, match="ask for fewer drones"):
        rounds_from(grid, task, 30, replace(QUICK, separation_m=200.0))
    with pytest.raises(ConfigError, match="1 to 30 drones"):
        fleet_of(grid, [there] * 31)
    with pytest.raises(ConfigError, match="cruise_speed"):
        fleet_of(grid, [there], replace(QUICK, cruise_speed=15.0))
    with pytest.raises(ConfigError, match="has another drone than drone 1"):
        fleet_of(grid, [there, replace(back, drone=Drone(max_speed=9.0))])


@pytest.mark.parametrize("settings", [
    {"separation_m": 0.0}, {"separation_m": float("nan")}, {"time_tolerance_s": float("inf")},
    {"apart": "never"}, {"passes": -1}, {"evaluation_budget": 0}])
def test_fleet_settings_that_cannot_be(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        FleetConfig(**settings)


def test_a_fleet_that_is_cancelled_keeps_the_plans_it_has(grid, rounds):
    tasks, sectors, _ = rounds
    made = []
    outcome = fleet_of(grid, tasks, sectors=sectors, on_progress=made.append,
                       cancelled=lambda: len(made) >= 2)
    assert outcome.status is PlanStatus.CANCELLED
    assert "2 of 3 drones" in outcome.message and outcome.fleet.valid
    at_once = fleet_of(grid, tasks, sectors=sectors, cancelled=lambda: True)
    assert at_once.status is PlanStatus.CANCELLED


# --- sorties ------------------------------------------------------------------------------------

def sorties(grid, task, most=5, **settings):
    wanted = replace(task, **{"drone": Drone(endurance_s=100.0), "track_points": 40} | settings)
    return wanted, plan_sorties(grid, PlanRequest(task=wanted, evaluation_budget=800,
                                                  time_budget_s=600.0), most)


def test_what_one_battery_can_do_is_one_sortie(grid, task):
    _, outcome = sorties(grid, task, coverage_floor=0.1)
    assert len(outcome.plans) == 1 and "one sortie is enough" in outcome.message


def test_what_one_battery_cannot_see_is_flown_in_several(grid, task):
    wanted, outcome = sorties(grid, task, coverage_floor=0.45)
    assert len(outcome.plans) >= 2, outcome.message
    assert f"{len(outcome.plans)} sorties are needed" in outcome.message
    seen = np.logical_or.reduce([count_seen(grid, wanted, p.path) > 0 for p in outcome.plans])
    area = 1e-6 * grid.resolution**2
    assert outcome.coverage_km2 == pytest.approx(area * seen.sum(), rel=2e-3)
    assert outcome.coverage_km2 >= 0.45 * 0.9 * area * seen.size
    for found in outcome.plans:
        assert found.path[0] == pytest.approx(wanted.start) == found.path[-1]
        duration, = (c for c in found.certificate.checks if c.constraint == "duration")
        assert duration.value <= duration.bound == 100.0


def test_walls_of_one_sortie_are_worth_nothing_to_the_next(grid, task):
    wanted, outcome = sorties(grid, task, coverage="facades", coverage_floor=0.12)
    assert len(outcome.plans) >= 2, outcome.message
    faces = Facades(grid)
    seen = np.logical_or.reduce([terms.walls_seen(faces, wanted, terms.cameras_along(
        wanted, found.path)) for found in outcome.plans])
    area = 1e-6 * grid.resolution**2
    assert outcome.coverage_km2 == pytest.approx(area * seen.sum(), rel=0.03)
    assert outcome.coverage_km2 >= 0.12 * area * len(seen) * (1 - 1e-9)


def test_places_to_visit_are_shared_among_sorties(grid, task):
    places = tuple((x, y, 80.0) for x in (80.0, 420.0) for y in (60.0, 200.0, 340.0))
    wanted, outcome = sorties(grid, task, coverage_floor=0.0, must_visit=places, visit_radius=25.0)
    assert len(outcome.plans) >= 2, outcome.message
    assert sorted(p for found in outcome.plans for p in found.task.must_visit) == sorted(places)


def test_sorties_that_cannot_be(grid, task):
    with pytest.raises(ConfigError, match="same place"):
        sorties(grid, task, goal=place(grid, 400, 300))
    with pytest.raises(ConfigError, match="no sortie is so short"):
        sorties(grid, task, drone=Drone(endurance_s=5.0))
    far = (*task.start[:2], 500.0)
    _, outcome = sorties(grid, task, must_visit=(far,))
    assert outcome.plans == () and "place 1 to visit" in outcome.message
    many = tuple((x, y, 80.0) for x in np.linspace(60, 440, 8) for y in np.linspace(60, 340, 8))
    _, outcome = sorties(grid, task, most=2, must_visit=many, track_points=100)
    assert outcome.plans == () and "64 places to visit are more than 2 sorties" in outcome.message
