"""The loop's memory: sorties are closed once, kept, and change what comes next."""

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.monitor import LoopMonitor, MonitorConfig
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanRequest, plan


@pytest.fixture(scope="module")
def grid():
    return VoxelGrid.from_dense(np.zeros((200, 150, 1), bool), np.zeros(3), 2.0,
                                LocalFrame(60.0, 25.0))


@pytest.fixture(scope="module")
def found(grid):
    task = PatrolTask(start=(40.0, 40.0, 70.0), goal=(360.0, 260.0, 70.0), track_points=12)
    return plan(grid, PlanRequest(task=task, evaluation_budget=200)).plan


def track_of(path, until=1.0):
    points = np.concatenate([np.linspace(a, b, 20, endpoint=False)
                             for a, b in zip(path[:-1], path[1:], strict=True)] + [path[-1:]])
    points = points[:max(2, int(until * len(points)))]
    return np.column_stack([np.arange(len(points)) * 0.5, points])


def monitor_of(grid, folder=""):
    monitor = LoopMonitor(MonitorConfig(drones="drone_1, drone_2", history_folder=str(folder)))
    monitor.on_map(grid)
    return monitor


def test_a_sortie_is_closed_once_and_what_it_saw_is_worth_less(grid, found, tmp_path):
    monitor = monitor_of(grid, tmp_path)
    assert (monitor.weights(0.0) == 1).all() and monitor.why_replan("drone_1") == ""
    monitor.on_plan("drone_1", found)
    monitor.on_track("drone_1", track_of(found.path))
    comparison = monitor.close("drone_1", 10.0)
    assert comparison.flown_length_m == pytest.approx(found.length_m, rel=1e-6)
    assert comparison.flown.coverage_km2 == pytest.approx(found.objectives.coverage_km2)
    assert monitor.close("drone_1", 11.0) is None
    assert "worth less" in monitor.why_replan("drone_1") and not monitor.why_replan("drone_2")
    weights = monitor.weights(10.0)
    assert (weights == 0.2).sum() * 4e-6 == pytest.approx(found.objectives.coverage_km2)
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert kept["drone"] == "drone_1" and len(kept["track"]) == len(track_of(found.path))

    again = monitor_of(grid, tmp_path)      # a new process remembers
    assert np.array_equal(again.weights(10.0), weights)


def test_a_broken_off_sortie_counts_what_it_reached(grid, found):
    monitor = monitor_of(grid)
    monitor.on_plan("drone_1", found)
    monitor.on_track("drone_1", track_of(found.path, 0.5))
    half = monitor.close("drone_1", 1.0)
    assert 0.3 < half.flown_length_m / found.length_m < 0.6
    assert 0 < half.flown.coverage_km2 < found.objectives.coverage_km2
    monitor.on_plan("drone_1", found)
    assert monitor.close("drone_1", 2.0) is None        # never left the ground


def test_an_event_on_the_route_asks_for_a_new_plan_and_one_beside_it_does_not(grid, found):
    monitor = monitor_of(grid)
    monitor.on_plan("drone_1", found)
    x, y, _ = found.path[6]
    corner = grid.with_prism(shapely.box(380, 10, 390, 20), 0, 100)
    monitor.on_map(corner)
    assert monitor.why_replan("drone_1") == ""
    monitor.on_map(corner.with_prism(shapely.box(x - 5, y - 5, x + 5, y + 5), 0, 130))
    assert "map update 2 breaks: height over what is near" in monitor.why_replan("drone_1")
    other = VoxelGrid.from_dense(np.ones((200, 150, 1), bool), np.zeros(3), 2.0, grid.frame)
    monitor.on_map(other)
    assert "another" in monitor.why_replan("drone_1")


def test_a_plan_is_judged_by_the_weights_it_was_made_for(grid, found):
    monitor = monitor_of(grid)
    monitor.on_plan("drone_1", found)
    monitor.on_track("drone_1", track_of(found.path))
    monitor.close("drone_1", 10.0)
    weights = monitor.weights(10.0)
    second = plan(grid, PlanRequest(task=replace(found.task, start=found.task.goal,
                                                 goal=found.task.start),
                                    evaluation_budget=200, seed=1), weights=weights).plan
    monitor.on_plan("drone_1", second)
    monitor.on_track("drone_1", track_of(second.path))
    comparison = monitor.close("drone_1", 20.0)
    assert comparison.flown.coverage_km2 == pytest.approx(second.objectives.coverage_km2)


def test_a_broken_ledger_and_a_folder_that_cannot_be(grid, tmp_path):
    (tmp_path / f"ledger-{grid.map_hash[:16]}.npz").write_bytes(b"broken")
    with pytest.raises(ConfigError, match="ledger-"):
        monitor_of(grid, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="history_folder"):
        monitor_of(grid, tmp_path / "file")


def test_zones_change_what_the_ground_is_worth(grid, tmp_path):
    def square(zone, east, **more):
        corners = [grid.frame.to_wgs84((x, y, 0.0)) for x, y in (
            (east, 20), (east + 40, 20), (east + 40, 60), (east, 60), (east, 20))]
        return {"type": "Feature", "properties": {"zone": zone} | more, "geometry": {
            "type": "Polygon", "coordinates": [[[lon, lat] for lat, lon, _ in corners]]}}
    zones = tmp_path / "zones.geojson"
    zones.write_text(json.dumps({"type": "FeatureCollection", "features": [
        square("privacy", 100.0), square("priority", 200.0, end="2026-11-24T12:00:00Z")]}))
    monitor = LoopMonitor(MonitorConfig(zones_file=str(zones)))
    monitor.on_map(grid)
    noon = 1795521600.0     # 2026-11-24 12:00 UTC
    before, after = monitor.weights(noon - 60), monitor.weights(noon + 60)
    private, first, beside = (60, 20), (110, 20), (10, 20)      # cells of 2 m
    assert (before[private], before[first], before[beside]) == (0.0, 1.0, 0.5)
    assert (after[private], after[first], after[beside]) == (0.0, 1.0, 1.0)
