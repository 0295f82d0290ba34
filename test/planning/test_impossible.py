"""Tasks that cannot be: each is told at once, with what would help; the odd but possible work."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.power import least_wh
from parallel_city_ros.patrol.task import Drone, PatrolTask
from parallel_city_ros.planning.made_cities import MadeCity, task_over
from parallel_city_ros.planning.planner import PlanRequest, PlanStatus, plan
from parallel_city_ros.settings import build, flatten


@pytest.fixture(scope="module")
def grid():
    return MadeCity("organic", 5, (500.0, 400.0)).grid()


@pytest.fixture(scope="module")
def task(grid):
    return task_over(grid, 20)


def outcome_of(grid, task, **request):
    return plan(grid, PlanRequest(**{"task": task, "evaluation_budget": 1200,
                                     "time_budget_s": 600.0} | request))


def refused(grid, task, *words):
    outcome = outcome_of(grid, task)
    assert outcome.plan is None and outcome.history == (), "it was searched for"
    for word in words:
        assert word in outcome.message
    return outcome.status


def test_a_goal_behind_a_wall_is_proved_unreachable(grid, task):
    wall = grid.with_prism(shapely.box(240, -100, 260, 600), 0, 150)
    assert refused(wall, task, "no way leads", "max_altitude") is PlanStatus.NO_VALID_PATH


def test_a_coverage_floor_out_of_reach(grid, task):
    large = MadeCity("open", 5, (2000.0, 2000.0)).grid(4.0)
    far = replace(task_over(large, 10), coverage_floor=0.99)
    assert refused(large, far, "coverage_floor 0.99", "at most") is PlanStatus.NO_VALID_PATH


def test_a_battery_too_small_for_every_path_says_how_much_is_missing(grid, task):
    small = replace(task, carbon_model="energy", drone=Drone(battery_wh=5.0))
    assert refused(grid, small, "Wh are missing", "battery_wh") is PlanStatus.NO_VALID_PATH
    enough = replace(small, drone=Drone(battery_wh=least_wh(small) + 0.1))
    assert outcome_of(grid, enough).history, "what may be possible is searched for"


def test_a_floor_for_facades_is_not_reckoned_by_the_ground(grid, task):
    walls = replace(task, coverage="facades", coverage_floor=0.0)
    assert "coverage floor" not in outcome_of(grid, walls).message.split(";")[0]


def test_start_equal_to_goal_needs_something_to_do(task):
    with pytest.raises(ConfigError, match="coverage_floor"):
        replace(task, goal=task.start)


def test_start_or_goal_in_an_obstacle(grid, task):
    for name, status in (("start", PlanStatus.START_OCCUPIED), ("goal", PlanStatus.GOAL_OCCUPIED)):
        x, y, z = getattr(task, name)
        built = grid.with_prism(shapely.box(x - 5, y - 5, x + 5, y + 5), 0, z + 10)
        assert refused(built, task, name.capitalize(), "raise it to") is status
    outside = replace(task, goal=(9e4, 0.0, 60.0))
    assert refused(grid, outside, "outside the map") is PlanStatus.OUTSIDE_MAP


def test_endurance_too_short_says_how_much_is_missing(grid, task):
    short = replace(task, drone=Drone(endurance_s=10.0))
    seconds = np.linalg.norm(np.subtract(task.goal, task.start)) / 12.0
    refused(grid, short, f"{seconds - 10:.0f} s are missing")
    low = replace(task, drone=Drone(endurance_s=200.0), battery_percent=10.0)
    refused(grid, low, "the battery lasts 20 s", "s are missing")
    slow = replace(task, time_step_s=0.5)
    refused(grid, slow, "m are missing", "track_points")
    enough = (task.track_points + 1) * task.time_step_s
    between = replace(task, drone=Drone(endurance_s=0.99 * enough))
    refused(grid, between, "lower track_points")


@pytest.mark.parametrize("settings", [
    {"evaluation_budget": 0}, {"time_budget_s": 0.0}, {"time_budget_s": float("inf")},
    {"table_mb": float("nan")}, {"evaluator": "guess"}])
def test_budgets_that_cannot_be(task, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PlanRequest(task=task, **settings)


@pytest.mark.parametrize("settings", [
    {"track_points": 0}, {"max_altitude": float("inf")}, {"min_altitude": float("nan")},
    {"area": ((0.0, 0.0), (9.0, 9.0))}, {"area": ((0.0, 0.0), (9.0, float("nan")), (5.0, 5.0))},
    {"must_visit": ((1.0, 2.0),)}, {"battery_percent": 0.0}, {"model": "newest"}])
def test_tasks_that_cannot_be(task, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        replace(task, **settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_limit_may_be_nan_or_infinite(task, value):
    ends = {"start": task.start, "goal": task.goal}
    names = [s.name for s in flatten(PatrolTask) if s.kind is float]
    assert len(names) > 20
    for name in names:
        with pytest.raises(ConfigError, match=name.split(".")[-1]):
            build(PatrolTask, {name: value}, **ends)
    for name in ends:
        with pytest.raises(ConfigError, match=name):
            replace(task, **{name: (1.0, value, 60.0)})
    for name, places in (("must_visit", ((1.0, 1.0, value),)), ("area", ((0.0, value),) * 3)):
        with pytest.raises(ConfigError, match=name):
            replace(task, **{name: places})


def test_a_thousand_places_to_visit(grid, task):
    places = tuple((float(k % 40) * 10, float(k // 40) * 10, 60.0) for k in range(1000))
    with pytest.raises(ConfigError, match="1000 places to visit.*track_points is 20"):
        replace(task, must_visit=places)
    # as many track points: too far for one battery, which is proved and not searched for
    many = replace(task, must_visit=places, track_points=1000, visit_radius=1.0,
                   drone=Drone(endurance_s=500.0))
    status = refused(grid, many, "the way by all places", "s are missing")
    assert status is PlanStatus.NO_VALID_PATH
    # within the battery's reach, but not to be found in no time: the message stays short
    near = replace(many, drone=Drone(), time_step_s=1.1)
    outcome = outcome_of(grid, near, time_budget_s=1e-6)
    assert outcome.plan is None and "more" in outcome.message and len(outcome.message) < 400


def test_the_map_changes_under_the_planner(grid, task):
    """A plan of before does not pass for one of the new map, nor keep one from being found."""
    before = outcome_of(grid, task).plan
    x, y, z = before.path[len(before.path) // 2]
    crane = grid.with_prism(shapely.box(x - 15, y - 15, x + 15, y + 15), 0, z + 20)
    assert "height over what is near" in {
        c.constraint for c in certify(crane, task, before.path).broken}
    after = outcome_of(crane, task, evaluation_budget=2400)
    warm = plan(crane, PlanRequest(task=task, evaluation_budget=2400), warm_start=before)
    for found in (after.plan, warm.plan):
        assert found.certificate.valid and found.map_update == before.map_update + 1
        assert certify(crane, task, found.path).valid
    other = MadeCity("towers", 6, (500.0, 400.0)).grid()
    assert "another map" in {c.constraint for c in certify(
        other, task, before.path, map_hash=before.map_hash).broken}


@pytest.mark.parametrize("planner_id", ["de_aco", "de", "iaco", "igso", "de_aco_paper", "nsga2"])
def test_cancel_in_the_first_millisecond(grid, task, planner_id):
    outcome = plan(grid, PlanRequest(task=task, planner_id=planner_id), cancelled=lambda: True)
    assert outcome.status is PlanStatus.CANCELLED and len(outcome.history) <= 1
    assert outcome.plan is None or outcome.plan.certificate.valid


def test_a_time_budget_that_is_over_at_once(grid, task):
    outcome = outcome_of(grid, task, time_budget_s=1e-6)
    assert outcome.status is PlanStatus.TIMEOUT and len(outcome.history) <= 1
    assert outcome.plan is None or outcome.plan.certificate.valid


def test_an_altitude_band_above_or_below_everything(grid, task):
    above = replace(task, start=(*task.start[:2], 400.0), goal=(*task.goal[:2], 400.0),
                    min_altitude=300.0, max_altitude=500.0)
    with pytest.raises(ConfigError, match="camera_range"):
        outcome_of(grid, above)
    covered = grid.with_prism(shapely.box(-100, -100, 900, 900), 0, 150)
    assert refused(covered, task, "max_altitude", "raise it") is PlanStatus.NO_VALID_PATH


@pytest.mark.parametrize("noise_altitude", [20.0, 300.0])
def test_a_noise_altitude_outside_the_band_is_no_trouble(grid, task, noise_altitude):
    quiet = replace(task, noise_altitude=noise_altitude)
    found = outcome_of(grid, quiet).plan
    assert found.certificate.valid
    assert (found.objectives.noise_m == 0) == (noise_altitude == 20.0)


def test_an_area_outside_the_map_or_crossing_itself(grid, task):
    with pytest.raises(ConfigError, match="area lies outside the map"):
        outcome_of(grid, replace(task, area=((9e4, 0.0), (9.1e4, 0.0), (9e4, 1e3))))
    with pytest.raises(ConfigError, match="no simple polygon"):
        outcome_of(grid, replace(task, area=((0, 0), (100, 100), (100, 0), (0, 100))))


def test_a_place_to_visit_that_nothing_can_fly_to(grid, task):
    refused(grid, replace(task, must_visit=((250.0, 200.0, 400.0),)), "place 1 to visit")


def test_only_the_area_counts(grid, task):
    area = ((100.0, 50.0), (400.0, 50.0), (400.0, 350.0), (100.0, 350.0))
    inside = replace(task, area=area)
    found = outcome_of(grid, inside).plan
    assert found.certificate.valid
    seen = Evaluator(grid, task, coverage_floor_km2=0.0).seen(found.path)
    x = grid.origin[0] + (np.arange(seen.shape[0]) + 0.5) * grid.resolution
    y = grid.origin[1] + (np.arange(seen.shape[1]) + 0.5) * grid.resolution
    within = ((x > 100) & (x < 400))[:, None] & ((y > 50) & (y < 350))[None, :]
    assert found.objectives.coverage_km2 == pytest.approx(seen[within].sum() * 4e-6)
    assert found.objectives.coverage_km2 < seen.sum() * 4e-6


def test_places_are_visited(grid, task):
    places = ((150.0, 320.0, 70.0), (350.0, 80.0, 80.0))
    visiting = replace(task, must_visit=places, time_step_s=8.0)
    found = outcome_of(grid, visiting, evaluation_budget=4000).plan
    assert found is not None and found.certificate.valid
    dense = np.concatenate([np.linspace(a, b, 50) for a, b in
                            zip(found.path[:-1], found.path[1:], strict=True)])
    for place in places:
        assert np.linalg.norm(dense - place, axis=1).min() <= visiting.visit_radius + 0.5


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_closed_patrol_sees_its_share(grid, task, share):
    closed = replace(task, goal=task.start, coverage_floor=share, track_points=40)
    outcome = outcome_of(grid, closed, evaluation_budget=4000)
    assert outcome.status is PlanStatus.SUCCEEDED, outcome.message
    evaluate = Evaluator(grid, closed)
    assert outcome.plan.objectives.coverage_km2 >= share * evaluate.reachable_km2 * (1 - 1e-9)
    assert "coverage" in {c.constraint for c in outcome.plan.certificate.checks}


def test_settings_survive_the_plan_file(grid, task, tmp_path):
    from parallel_city_ros.patrol.plan import PatrolPlan
    visiting = replace(task, must_visit=((250.0, 200.0, 80.0),), time_step_s=8.0,
                       area=((0.0, 0.0), (500.0, 0.0), (500.0, 400.0), (0.0, 400.0)))
    found = outcome_of(grid, visiting).plan
    found.save(tmp_path / "plan.json")
    assert PatrolPlan.load(tmp_path / "plan.json").task == visiting
