"""Drones are placed on open ground."""

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.ground import nearest_open_ground, open_ground, two_ends
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame


def test_open_ground_keeps_its_distance():
    empty = VoxelGrid.from_dense(np.zeros((60, 50, 3), bool), np.zeros(3), 2.0,
                                 LocalFrame(60.0, 25.0))
    grid = empty.with_prism(shapely.box(40, 40, 60, 60), 0, 6)
    free = open_ground(grid, 8.0)
    x, y = ((np.argwhere(free) + 0.5) * 2.0).T
    house = shapely.box(40, 40, 60, 60)
    assert shapely.distance(house, shapely.points(x, y)).min() >= 8.0
    assert np.minimum.reduce([x, y, 120 - x, 100 - y]).min() >= 8.0
    assert free.any()
    east, north = nearest_open_ground(grid, (50.0, 50.0, 60.0), 8.0)
    assert house.distance(shapely.Point(east, north)) >= 8.0
    with pytest.raises(CityFileError, match="no place of the map"):
        nearest_open_ground(grid, (50, 50), 60.0)


def test_two_ends_of_helsinki():
    grid = voxelise(read_osm(helsinki_file()), 2.0)
    a, b = two_ends(grid, 12.0, 1280.0)
    assert 1000 < np.hypot(a[0] - b[0], a[1] - b[1]) < 1500
    i, j = grid.index(np.array([[*a, 1.0], [*b, 1.0]]))[:, :2].T
    assert open_ground(grid, 12.0)[i, j].all()
