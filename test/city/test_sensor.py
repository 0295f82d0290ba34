"""What a sensor measures is what stands there: by hand, and by an independent check."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.geojson import read_geojson
from parallel_city_ros.city.sensor import (
    GROUND,
    DepthSensor,
    DepthSensorConfig,
    cast,
    true_city,
    turned,
)
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.errors import ConfigError, OutsideMapError
from parallel_city_ros.geo import LocalFrame

FRAME = LocalFrame(60.0, 25.0)
NOWHERE = np.zeros((60, 50, 40), bool)


def grid_of(occupied, resolution=1.0, origin=(0.0, 0.0, 0.0), **more):
    return VoxelGrid.from_dense(occupied, np.array(origin), resolution, FRAME, **more)


def walled(resolution=2.0):
    """A wall from x = 60 to 64 over the whole width, 40 m high."""
    occupied = NOWHERE.copy()
    occupied[30:32, :, :20] = True
    return grid_of(occupied, resolution)


def one(grid, origin, direction, reach=500.0):
    direction = np.array(direction, float)
    distance, face = cast(grid, origin, direction / np.linalg.norm(direction), reach)
    return float(distance[0]), int(face[0])


@pytest.mark.parametrize("origin, direction, distance, face", [
    ((20.5, 50.0, 30.0), (1, 0, 0), 39.5, 0), ((100.0, 50.0, 30.0), (-1, 0, 0), 36.0, 0),
    ((20.0, 10.0, 30.0), (1, 1, 0), 40 * np.sqrt(2), 0),
    ((20.0, 50.0, 10.0), (2, 0, 1), 20 * np.sqrt(5), 0),        # 20 m up at the wall
    ((62.0, 50.0, 70.0), (0, 0, -1), 30.0, 2),                  # its top
    ((20.0, 50.0, 30.0), (0, 0, -1), 30.0, GROUND),
    ((20.0, 50.0, 30.0), (-1, 0, -3), 10 * np.sqrt(10), GROUND),
    ((20.0, 50.0, 200.0), (0, 0, -1), 200.0, GROUND),           # from above the whole grid
    ((62.0, 50.0, 200.0), (0, 0, -1), 160.0, 2),
    ((20.0, 50.0, 50.0), (1, 0, 0), np.inf, -1),                # over it and out of the map
    ((20.0, 50.0, 30.0), (0, 0, 1), np.inf, -1),
    ((61.0, 50.0, 30.0), (1, 0, 0), 0.0, -1),                   # from inside
    ((20.0, 50.0, -1.0), (1, 0, 0), 0.0, GROUND)])              # from beneath the ground
def test_distances_by_hand(origin, direction, distance, face):
    found = one(walled(), origin, direction)
    assert found[0] == pytest.approx(distance, abs=1e-9) and found[1] == face


def test_nothing_beyond_its_reach():
    assert one(walled(), (20.0, 50.0, 30.0), (1, 0, 0), 39.0)[0] == np.inf
    assert one(walled(), (20.0, 50.0, 30.0), (1, 0, 0), 41.0)[0] == pytest.approx(40.0)


@pytest.mark.parametrize("where", [(-1.0, 50, 30), (20, 101, 30), (np.nan, 5, 5), (5, 5, np.inf)])
def test_a_place_beside_the_map_is_named(where):
    with pytest.raises(OutsideMapError, match="outside the map"):
        cast(walled(), where, [[1.0, 0, 0]], 10.0)


def test_sloping_ground_is_met():
    # rises 1 m for each 2 m eastward
    nodes = np.add.outer(np.arange(13) * 5.0, np.zeros(11)) / 2
    grid = grid_of(NOWHERE, terrain=Ground(nodes, (0.0, 0.0), 5.0))
    distance, face = one(grid, (10.0, 20.0, 15.0), (1, 0, 0))
    assert distance == pytest.approx(20.0, abs=1e-4) and face == GROUND
    distance, face = one(grid, (50.0, 20.0, 35.0), (-1, 0, -1))
    assert distance == pytest.approx(np.sqrt(2) * 20.0, abs=1e-4) and face == GROUND
    assert one(grid, (10.0, 20.0, 35.0), (0, 0, -1))[0] == pytest.approx(30.0, abs=1e-4)


@st.composite
def scenes(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    occupied = rng.random((45, 40, 38)) < draw(st.sampled_from([0.0005, 0.01, 0.2]))
    resolution = draw(st.sampled_from([0.5, 1.0, 2.0]))
    origin = np.array([-7.0, 13.0, draw(st.sampled_from([-4.0, 0.0, 2.5]))])
    ground = Ground.flat(origin[2])
    if draw(st.booleans()):
        ground = Ground(origin[2] + np.round(rng.random((12, 11)) * 6 * resolution, 2),
                        (origin[0], origin[1]), 4.0 * resolution)
    grid = grid_of(occupied, resolution, origin, terrain=ground)
    place = grid.origin + rng.uniform([1, 1, 7], [44, 39, 45]) * resolution
    return grid, place, rng.normal(size=(60, 3))


@settings(max_examples=60, deadline=None)
@given(scene=scenes())
def test_hits_lie_on_a_surface_and_nothing_stands_before_them(scene):
    grid, place, rays = scene
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    reach = 30 * grid.resolution
    distance, face = cast(grid, place, rays, reach)
    if grid.is_occupied(place):
        assert (distance == 0).all()
        return
    step = 1e-4 * grid.resolution
    for ray, found, side in zip(rays, distance, face, strict=True):
        far = min(found, reach)
        walk = place + ray * np.arange(0.0, far - step, 0.05 * grid.resolution)[:, None]
        inside = ((walk[:, :2] >= grid.origin[:2])
                  & (walk[:, :2] < grid.origin[:2] + np.array(grid.shape[:2])
                     * grid.resolution)).all(axis=1)
        # A sample may graze a voxel's edge by less than the noise of its coordinates.
        blocked = grid.is_occupied(walk[inside])
        if np.isfinite(found):
            assert inside.all()
            behind, before = place + ray * (found + step), place + ray * (found - step)
            if side == GROUND:
                assert abs(before[2] - grid.ground_at(before)) < 20 * step
            else:
                hit = (place + ray * found - grid.origin) / grid.resolution
                assert abs(hit[side] - round(hit[side])) < 1e-6
                voxel = np.floor(hit)
                voxel[side] = round(hit[side]) - (ray[side] < 0)
                assert grid.holds(voxel[None].astype(int))[0]
            assert np.isfinite(behind).all()
        assert not blocked.any()


def test_frames_of_a_scan():
    grid = walled()
    sensor = DepthSensor(DepthSensorConfig(kind="camera", horizontal_deg=10.0, vertical_deg=10.0,
                                           columns=1, rows=1, noise=0.0), np.random.default_rng(0))
    scan = sensor.scan(grid, (20.0, 50.0, 30.0), 0.0)
    assert scan.points == pytest.approx(np.array([[40.0, 0.0, 0.0]]))
    assert scan.in_map == pytest.approx(np.array([[60.0, 50.0, 30.0]]))
    scan = sensor.scan(grid, (100.0, 50.0, 30.0), np.pi)        # turned about: still ahead
    assert scan.points == pytest.approx(np.array([[36.0, 0.0, 0.0]]))
    assert scan.in_map == pytest.approx(np.array([[64.0, 50.0, 30.0]]))
    scan = sensor.scan(grid, (20.0, 50.0, 30.0), np.pi / 2, tilt=np.pi / 2)     # nose down
    assert scan.points == pytest.approx(np.array([[0.0, 0.0, -30.0]]))
    assert turned(0.3) @ turned(0.3).T == pytest.approx(np.eye(3))


@pytest.mark.parametrize("kind, wide, high", [("lidar", 360.0, 60.0), ("camera", 90.0, 60.0),
                                              ("lidar", 40.0, 20.0)])
def test_the_field_of_view(kind, wide, high):
    rays = DepthSensorConfig(kind=kind, horizontal_deg=wide, vertical_deg=high, columns=200,
                             rows=100).directions
    assert np.linalg.norm(rays, axis=1) == pytest.approx(np.ones(20000))
    azimuth = np.degrees(np.arctan2(rays[:, 1], rays[:, 0]))
    ahead = np.abs(azimuth) < 1.0
    elevation = np.degrees(np.arcsin(rays[ahead, 2]))
    assert np.ptp(azimuth) == pytest.approx(wide, rel=0.02)
    assert np.ptp(elevation) == pytest.approx(high, rel=0.03)
    down = DepthSensorConfig(kind=kind, horizontal_deg=wide, vertical_deg=high, columns=1, rows=1,
                             tilt_deg=30.0).directions
    assert down == pytest.approx(np.array([[np.cos(np.pi / 6), 0.0, -0.5]]))


def test_noise_is_along_the_ray_and_seeded():
    def scan(seed, **more):
        config = DepthSensorConfig(columns=90, rows=30, **({"noise": 0.1} | more))
        return DepthSensor(config, np.random.default_rng(seed)).scan(
            walled(), (30.0, 50.0, 20.0), 0.4)
    exact, noisy = scan(1, noise=0.0), scan(1)
    assert np.array_equal(noisy.points, scan(1).points)
    assert not np.array_equal(noisy.points, scan(2).points)
    gap = np.linalg.norm(noisy.points, axis=1)[:, None] - np.linalg.norm(exact.points, axis=1)
    assert len(noisy.points) == len(exact.points)
    assert np.diag(gap).std() == pytest.approx(0.1, rel=0.1)
    assert abs(np.diag(gap).mean()) < 0.02
    lossy = scan(1, dropout=0.5)
    assert len(lossy.points) == pytest.approx(0.5 * len(exact.points), rel=0.1)


@pytest.mark.parametrize("values, words", [
    ({"least_range": 90.0}, "least_range"), ({"range": 0.0}, "range"), ({"kind": "sonar"}, "kind"),
    ({"kind": "camera"}, "make it a lidar"), ({"rows": 0}, "rows")])
def test_a_sensor_that_cannot_be_is_named(values, words):
    with pytest.raises(ConfigError, match=words):
        DepthSensorConfig(**values)


def buildings(path, *boxes):
    """A file of buildings, (west, south, east, north, height) in metres around FRAME's zero."""
    features = []
    for x0, y0, x1, y1, height in boxes:
        corners = [(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0), (x0, y0, 0)]
        ring = [[lon, lat] for lat, lon, _ in FRAME.to_wgs84(np.array(corners, float)).tolist()]
        features.append({"type": "Feature", "properties": {"building": "yes", "height": height},
                         "geometry": {"type": "Polygon", "coordinates": [ring]}})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_the_city_that_is_seen_stands_where_the_twin_stands(tmp_path):
    """Its file begins elsewhere, so that its own frame and grid would have another zero."""
    house, new = (40.0, 30.0, 60.5, 50.0, 20.0), (-70.0, -90.5, -58.0, -80.0, 33.0)
    twin = voxelise(read_geojson(buildings(tmp_path / "twin.geojson", house)), 2.0)
    buildings(tmp_path / "more.geojson", new)
    for files in (str(buildings(tmp_path / "both.geojson", new, house)),
                  f"{tmp_path / 'twin.geojson'}, {tmp_path / 'more.geojson'}"):
        truth = true_city(files, twin)
        assert truth.frame == twin.frame and truth.resolution == twin.resolution
        assert not np.allclose(truth.origin, twin.origin)
        shift = np.round((twin.origin - truth.origin) / twin.resolution).astype(int)
        known = {tuple(v) for v in (twin.voxels() + shift).tolist()}
        seen = {tuple(v) for v in truth.voxels().tolist()}
        assert known < seen
        middle = truth.origin + (np.array(sorted(seen - known)) + 0.5) * truth.resolution
        there = truth.frame.to_wgs84(middle)
        east, north = FRAME.to_enu(there[:, 0], there[:, 1])[:, :2].T
        assert (east > -72).all() and (east < -56).all() and (north > -92.5).all() \
            and (north < -78).all() and middle[:, 2].max() == pytest.approx(33, abs=2)
