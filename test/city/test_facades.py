"""Which walls a tilted camera sees, against plain geometry."""

import numpy as np
import pytest

from parallel_city_ros.city.facades import SIDES, Facades
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.geo import LocalFrame


def grid_of(*boxes, shape=(60, 60, 30), **more):
    occupied = np.zeros(shape, bool)
    for (i, j, k), (a, b, c) in boxes:
        occupied[i:a, j:b, k:c] = True
    return VoxelGrid.from_dense(occupied, np.zeros(3), 1.0, LocalFrame(60.0, 25.0), **more)


def test_the_walls_of_a_block():
    walls = Facades(grid_of(((20, 20, 0), (30, 26, 12))))
    assert walls.area_m2 == 2 * (10 + 6) * 12
    assert np.allclose(walls.centres[walls.sides == 0][:, 0], 30.0)


def test_a_camera_sees_the_wall_that_it_faces_and_no_other():
    walls = Facades(grid_of(((20, 20, 0), (30, 26, 12))))
    camera = [50.0, 23.0, 6.0, np.pi, 0.0]      # east of it, looking west
    seen = walls.seen([camera], 90.0, 60.0)
    assert (walls.sides[seen] == 0).all() and seen.sum() == 6 * 12
    assert not walls.seen([[50.0, 23.0, 6.0, 0.0, 0.0]], 90.0, 60.0).any()      # looks away
    assert not walls.seen([camera], 90.0, 15.0).any()                           # too far
    narrow = walls.seen([camera], 10.0, 60.0)
    offset = np.abs(walls.centres[narrow] - camera[:3])
    assert narrow.any() and np.hypot(offset[:, 1], offset[:, 2]).max() < 20 * np.tan(np.radians(5))


def test_what_stands_in_between_hides():
    wall = ((20, 20, 0), (24, 26, 12))
    screen = ((32, 10, 0), (34, 40, 6))
    camera = [[50.0, 23.0, 6.0, np.pi, 0.0]]
    walls = Facades(grid_of(wall, screen))
    seen = walls.seen(camera, 120.0, 80.0)
    behind = (walls.sides == 0) & (walls.voxels[:, 0] == 23)
    heights = walls.voxels[seen & behind][:, 2]
    assert len(heights) and heights.min() >= 6      # only what looks over the screen


def test_tilt_and_incidence():
    walls = Facades(grid_of(((20, 20, 0), (30, 26, 12))))
    above = [[25.0 + 8.0, 23.0, 29.0, np.pi, np.radians(70)]]
    assert walls.seen(above, 60.0, 60.0, 89.0).any()
    assert not walls.seen(above, 60.0, 60.0, 60.0).any()    # too flat to see anything on it


def test_ground_hides_between_its_nodes_too():
    """Between them it is a saddle, on whose ridge no line of nodes lies."""
    saddle = Ground(np.array([[0.0, 12.0], [12.0, 0.0]]), (0.0, 0.0), 60.0)
    walls = Facades(grid_of(((2, 2, 0), (6, 6, 20)), terrain=saddle))
    for height in (6.5, 12.0, 25.0):
        camera = np.array([55.3, 54.1, height, -0.75 * np.pi, 0.0])
        seen = walls.seen([camera], 100.0, 80.0)
        ends = walls.centres + 1e-3 * SIDES[walls.sides]
        way = ends[:, None] + (camera[:3] - ends)[:, None] * np.linspace(0, 1, 2000)[:, None]
        free = ((way[..., 2] >= walls.grid.ground_at(way)).all(axis=1)
                & ~walls.grid.is_occupied(way).any(axis=1))
        to_it = np.isin(walls.sides, (0, 2))
        assert 0 < free[to_it].sum() and (seen[to_it] == free[to_it]).all()
        assert free[to_it].all() == (height == 25.0)


@pytest.mark.parametrize("seed", range(3))
def test_against_sampled_lines_of_sight(seed):
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(8):
        low = rng.integers(5, 45, 2)
        boxes.append(((*low, 0), (*(low + rng.integers(2, 9, 2)), int(rng.integers(4, 25)))))
    grid = grid_of(*boxes)
    walls = Facades(grid)
    camera = np.array([2.3, 3.1, 26.7, np.pi / 4, 0.5])
    seen = walls.seen([camera], 100.0, 70.0)
    ends = walls.centres + 1e-3 * SIDES[walls.sides]
    way = camera[:3] + (ends - camera[:3])[:, None] * np.linspace(0, 1, 4000)[:, None]
    free = ~grid.is_occupied(way).any(axis=1)
    away = ends - camera[:3]
    far = np.linalg.norm(away, axis=1)
    forward = np.array([np.cos(0.5) * np.sqrt(0.5)] * 2 + [-np.sin(0.5)])
    in_view = ((away @ forward >= far * np.cos(np.radians(50))) & (far <= 70) & (
        -(away * SIDES[walls.sides]).sum(axis=1) >= far * np.cos(np.radians(75))))
    # sampling may miss a corner that the exact walk meets, never the other way round
    assert not (seen & ~(free & in_view)).any()
    assert (seen != (free & in_view)).sum() <= 0.01 * in_view.sum()
