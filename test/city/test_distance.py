"""Distances to obstacles: the field never promises too much, the exact query is exact."""

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.distance import TRUNCATION_M, DistanceField
from parallel_city_ros.city.twin import CityEvent, Twin
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.geo import LocalFrame


def random_grid(seed, resolution, shape=(70, 60, 40)):
    rng = np.random.default_rng(seed)
    occupied = np.zeros(shape, bool)
    for _ in range(6):
        low = rng.integers(0, np.array(shape) - 8)
        high = low + rng.integers(1, 8, 3)
        low[2] *= rng.random() < 0.5    # half of them stand on the ground
        occupied[low[0]:high[0], low[1]:high[1], low[2]:high[2]] = True
    return VoxelGrid.from_dense(occupied, [-30.0, 12.0, 4.0], resolution, LocalFrame(60.0, 25.0))


def by_hand(grid, points):
    """Distance to the nearest cube, the plain way."""
    lower = grid.origin + grid.voxels() * grid.resolution
    gap = np.maximum(np.maximum(lower - points[:, None], points[:, None] - lower
                                - grid.resolution), 0)
    return np.minimum(np.linalg.norm(gap, axis=2).min(axis=1), TRUNCATION_M)


@pytest.mark.parametrize("seed, resolution", [(0, 0.5), (1, 1.0), (2, 2.0), (3, 3.0), (4, 1.3)])
def test_the_field_is_a_lower_bound_and_the_query_exact(seed, resolution):
    grid = random_grid(seed, resolution)
    field = DistanceField(grid)
    rng = np.random.default_rng(seed)
    size = np.array(grid.shape) * resolution
    points = grid.origin + rng.uniform(0, 1, (3000, 3)) * (size + (0, 0, 25))
    truth, bound = by_hand(grid, points), field.lower_bound(points)
    assert np.allclose(field.clearance(points), truth, atol=1e-9)
    assert (bound <= truth + 1e-9).all()
    # from any point of a cell to any point of another: at most two diagonals are given away
    assert (truth - bound <= 2 * np.sqrt(3) * field.cell + TRUNCATION_M / 250).all()
    assert bound.max() == TRUNCATION_M and bound.min() == 0


def test_after_a_change_it_is_the_field_of_the_changed_map():
    twin = Twin(random_grid(7, 1.0, (300, 200, 30)))
    field = DistanceField(twin.grid)
    rng = np.random.default_rng(1)
    points = twin.grid.origin + rng.uniform(0, 1, (20_000, 3)) * (300, 200, 90)
    for number, (x, y, top) in enumerate([(50, 60, 70), (200, 150, 20), (50, 60, 15)]):
        block = shapely.box(x, y, x + 12, y + 9)
        update = twin.add(CityEvent(
            event_id="e" if number != 1 else "f", kind="crane", lower_z=0.0, upper_z=float(top),
            footprint=tuple(block.exterior.coords[:4])))
        field.follow(twin.grid, update.where)
        fresh = DistanceField(twin.grid)
        assert np.array_equal(field.lower_bound(points), fresh.lower_bound(points))
        assert np.array_equal(field.clearance(points), fresh.clearance(points))


def test_free_sky_costs_nothing():
    occupied = np.zeros((2000, 2000, 20), bool)
    occupied[5:9, 5:9, :9] = True
    grid = VoxelGrid.from_dense(occupied, np.zeros(3), 1.0, LocalFrame(60.0, 25.0))
    field = DistanceField(grid)
    assert field.nbytes < 400_000
    assert field.clearance([1500.0, 1500.0, 3.0]) == TRUNCATION_M
    assert field.clearance([7.0, 7.0, 12.0]) == pytest.approx(3.0)
