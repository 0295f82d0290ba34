"""Start, goal, crane and mast of the demo on maps that are small, crowded or steep."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.ground import open_ground, two_ends
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.cli.demo_places import first_task, place_for_crane, place_for_mast
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.planning.planner import PlanRequest, plan


def a_map(size, buildings=(), slope=0.0):
    more = {}
    if slope:
        more["terrain"] = Ground(heights=np.outer(np.arange(size / 10 + 1) * 10 * slope,
                                                  np.ones(int(size / 10) + 1)),
                                 origin=(0.0, 0.0), cell=10.0)
    empty = VoxelGrid.from_dense(np.zeros((size // 2, size // 2, 3), bool), np.zeros(3), 2.0,
                                 LocalFrame(60.0, 25.0), **more)
    return empty.with_prisms([(box, 0.0, height) for box, height in buildings], 0)


TWO_HOUSES = [(shapely.box(28, 30, 42, 44), 8.0), (shapely.box(56, 54, 72, 70), 9.0)]
A_BLOCK = [(shapely.box(20, 20, 220, 220), 140.0)]      # higher than a drone may fly


@pytest.mark.parametrize("grid", [
    a_map(60, [(shapely.box(24, 24, 36, 36), 5.0)]), a_map(100, TWO_HOUSES),
    a_map(240, A_BLOCK), a_map(300, slope=1.0)], ids=["tiny", "two houses", "a block", "steep"])
def test_small_maps_have_room_for_crane_and_mast(grid):
    task = first_task(grid, "x.city")
    i, j = grid.index([task.start, task.goal])[:, :2].T
    assert open_ground(grid, task.clearance_horizontal + task.tube_radius)[i, j].all()
    found = plan(grid, PlanRequest(task=task, seed=1, evaluation_budget=600)).plan
    crane = place_for_crane(grid, found, "x.city").event
    mast = place_for_mast(grid, found, crane)
    # What nobody knows does not endanger the flight that finds it; the crane ends it.
    with_mast = grid.with_prism(mast.polygon.buffer(grid.resolution), mast.lower_z, mast.upper_z)
    assert certify(with_mast, task, found.path).valid
    both = with_mast.with_prism(crane.polygon, crane.lower_z, crane.upper_z)
    assert not certify(both, task, found.path).valid
    back = replace(task, start=task.goal, goal=task.start)
    assert plan(both, PlanRequest(task=back, seed=2, evaluation_budget=1500)).plan is not None


def test_helsinki_is_flown_as_ever():
    grid = voxelise(read_osm(helsinki_file()), 4.0)
    task = first_task(grid, "Helsinki")
    assert (task.start[:2], task.goal[:2]) == two_ends(grid, 12.0, 1279.2)
    assert task.track_points == 40 and task.time_step_s == 4.0
    assert task.start[2] == task.goal[2] == 60.0


def test_too_small_a_map_is_refused_with_what_would_help():
    with pytest.raises(CityFileError, match=r"hut\.osm: .*6 m from every building.*40 m apart.*"
                                            r"40 x 40 m.*larger area"):
        first_task(a_map(40), "hut.osm")
