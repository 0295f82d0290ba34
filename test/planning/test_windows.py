"""Zones with times: closed only while they hold, and a departure window that says until when."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.zones import TimeWindow, Zone, ZoneKind
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.certificate import noise_of
from parallel_city_ros.patrol.departure import departure_window, moment, why_not_at
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.planning.fleet import FleetConfig, plan_fleet
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, PlanStatus, heard
from parallel_city_ros.planning.windows import MARGIN_S, holds, noise_at, plan_at

NOON = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)    # a Monday
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def grid():
    return MadeCity("organic", 5, (500.0, 400.0)).grid()


@pytest.fixture(scope="module")
def task(grid):
    return task_over(grid, 20)


def zone(*windows, where=(200, 150, 300, 280), **more):
    return Zone(zone_id="market", kind=ZoneKind.NO_FLY, polygon=shapely.box(*where),
                windows=windows, **more)


def flown(grid, task, *zones, at=NOON):
    return plan_at(grid, PlanRequest(task=task, evaluation_budget=600), zones, at)


def passes(path, shape):
    return shapely.LineString(path[:, :2]).intersects(shape.polygon)


def test_spans_in_which_a_zone_holds_are_those_in_which_it_is_active():
    helsinki = ZoneInfo("Europe/Helsinki")
    rng = np.random.default_rng(5)
    windows = (TimeWindow(days=frozenset({0, 2}), hours=(NOON.time(), NOON.time().replace(
        hour=14)), zone=helsinki), TimeWindow(start=NOON - HOUR / 2, end=NOON + HOUR / 3))
    market, begin, end = zone(*windows), NOON - 20 * HOUR, NOON + 60 * HOUR
    spans = holds(market, begin, end)
    assert len(spans) >= 3 and all(a < b for a, b in spans)
    for share in rng.random(400):
        at = begin + share * (end - begin)
        assert market.active(at) == any(a <= at < b for a, b in spans)
    assert holds(zone(), begin, end) == [(begin, end)]
    assert holds(zone(TimeWindow(end=begin)), begin, end) == []


def test_a_zone_is_an_obstacle_only_while_it_holds(grid, task):
    soon = zone(TimeWindow(start=NOON + 2 * HOUR, end=NOON + 3 * HOUR))
    free = flown(grid, task, soon).plan
    assert free.certificate.valid and passes(free.path, soon)
    earliest, latest = departure_window(free.certificate)
    assert earliest <= NOON <= latest < NOON + 2 * HOUR - timedelta(seconds=MARGIN_S)
    lands = next(c.value for c in free.certificate.checks if c.constraint == "duration")
    assert latest == pytest.approx(NOON + 2 * HOUR - timedelta(seconds=MARGIN_S + lands),
                                   abs=timedelta(seconds=1))
    now = zone(TimeWindow(start=NOON + HOUR / 60, end=NOON + HOUR))
    around = flown(grid, task, now).plan
    assert around.certificate.valid and not passes(around.path, now)
    assert "height over closed air" in {c.constraint for c in around.certificate.checks}
    earliest, latest = departure_window(around.certificate)
    assert latest - earliest == timedelta(days=2), "it may be flown whenever the zone holds or not"


def test_outside_its_window_a_plan_is_refused(grid, task, tmp_path):
    over = zone(TimeWindow(start=NOON - 9 * HOUR, end=NOON - 2 * HOUR))
    flown(grid, task, over).plan.save(tmp_path / "plan.json")
    certificate = PatrolPlan.load(tmp_path / "plan.json").certificate
    assert why_not_at(certificate, NOON) == "" and why_not_at(certificate, NOON - HOUR) == ""
    assert "plan again" in why_not_at(certificate, NOON - 2 * HOUR)
    assert "10:05:00" in why_not_at(certificate, NOON - 3 * HOUR)
    assert why_not_at(certificate, NOON + 30 * HOUR)


def test_ends_in_a_zone_that_holds(grid, task):
    x, y, _ = task.goal
    there = zone(where=(x - 30, y - 30, x + 30, y + 30))
    outcome = flown(grid, task, there)
    assert outcome.status is PlanStatus.GOAL_OCCUPIED and "no-fly zone" in outcome.message
    later = replace(there, windows=(TimeWindow(start=NOON + 5 * HOUR),))
    assert flown(grid, task, later).plan is not None
    assert flown(grid, task, replace(there, kind=ZoneKind.PRIVACY)).plan is not None


def test_ground_under_a_closed_zone_is_seen_from_beside(grid, task):
    held = zone()
    inside = np.zeros(grid.surface.shape, bool)
    (i0, j0), (i1, j1) = (grid.index((*c, 0.0))[:2] for c in ((200, 150), (300, 280)))
    inside[i0:i1, j0:j1] = True
    worth = inside.astype(float)
    outcome = plan_at(grid, PlanRequest(task=task, evaluation_budget=600), [held], NOON,
                      weights=worth)
    assert outcome.plan.objectives.coverage_km2 > 0 and not passes(outcome.plan.path, held)


def test_noise_in_a_sensitive_zone_weighs_more_while_it_holds(grid, task):
    """Both shores of the straight flight in turn: the patrol keeps to the other one."""
    level = replace(task, noise_model="level", noise_near_buildings=15.0, max_altitude=90.0)
    way = shapely.LineString([level.start[:2], level.goal[:2]])
    hours = TimeWindow(start=NOON + HOUR / 6, end=NOON + HOUR)
    beside = []
    for side in (100.0, -100.0):
        shore = Zone(zone_id="ward", kind=ZoneKind.NOISE_SENSITIVE, weight=10.0, windows=(hours,),
                     polygon=way.buffer(side, single_sided=True))
        weights = noise_at(grid, level, [shore], NOON)
        assert set(np.unique(weights)) == {1.0, 100.0}
        assert noise_at(grid, level, [shore], NOON + 2 * HOUR) is None
        found = plan_at(grid, PlanRequest(task=level, evaluation_budget=600), [shore], NOON).plan
        ears = heard(grid, level, weights)
        assert (ears == 0).any()        # nobody lives far from buildings, in a zone or not
        told, = (t.value for t in found.certificate.objectives if t.objective == "noise_m")
        assert told == pytest.approx(found.objectives.noise_m, rel=1e-9)
        assert told == pytest.approx(noise_of(grid, level, found.path, ears), rel=1e-9)
        assert heard(grid, task, weights) is None       # by altitude there are no places
        east, north = (found.path[:, :2] - level.start[:2]).T
        ahead = np.subtract(level.goal[:2], level.start[:2])
        beside.append(float(np.mean(ahead[0] * north - ahead[1] * east) / np.hypot(*ahead)))
    assert beside[0] < beside[1] - 10.0     # metres left of the straight flight, on average


def test_a_fleet_keeps_out_whenever_each_of_its_drones_starts(grid, task):
    """The zone closes after the departure, and before a drone that waits may have landed."""
    late_s = 900.0
    market = zone(TimeWindow(start=NOON + timedelta(seconds=late_s), end=NOON + HOUR))
    alone = flown(grid, task, market, at=NOON - HOUR / 2).plan
    assert passes(alone.path, market)
    other = replace(task, start=(*np.add(task.start[:2], (30.0, 0.0)), task.start[2]),
                    goal=(*np.add(task.goal[:2], (-30.0, 0.0)), task.goal[2]))
    outcome = plan_fleet(
        grid, PlanRequest(task=task, time_budget_s=600.0), [task, other],
        FleetConfig(evaluation_budget=800, separation_m=10.0, max_delay_s=late_s),
        how=partial(plan_at, zones=[market], departure=NOON, late_s=late_s))
    assert len(outcome.fleet.plans) == 2 and outcome.fleet.separation.valid, outcome.message
    for found in outcome.fleet.plans.values():
        assert found.certificate.valid and not passes(found.path, market)
        earliest, latest = departure_window(found.certificate)
        assert earliest <= NOON and NOON + timedelta(seconds=late_s) <= latest


@pytest.mark.parametrize("text, words", [("noon", "ISO 8601"), ("2026-05-01T10:00", "time zone"),
                                         ("2026-13-01T10:00Z", "ISO 8601")])
def test_departures_that_cannot_be(text, words):
    with pytest.raises(ConfigError, match=words):
        moment(text)


def test_a_departure_says_its_time_zone():
    assert moment("2026-05-04T15:00+03:00") == moment("2026-05-04T12:00Z") == NOON
