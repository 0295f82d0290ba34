"""What is not on the map is found, what is on it raises nothing, what cannot be is refused."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.perception import (
    PerceptionConfig,
    Refused,
    RegistrationConfig,
    SensorLayer,
)
from parallel_city_ros.city.sensor import DepthSensor, DepthSensorConfig
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.twin import Twin
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame

BOX = shapely.box(118.0, 97.0, 123.0, 102.0)        # 5 m wide, 40 m high, unknown to the twin
NOISE_M = 0.1
STEP_S = 0.1


@pytest.fixture(scope="module")
def town():
    """200 x 200 x 60 m, two walls, the ground."""
    occupied = np.zeros((100, 100, 30), bool)
    occupied[20:80, 30:33, :15] = True
    occupied[85:90, 20:80, :20] = True
    return VoxelGrid.from_dense(occupied, np.zeros(3), 2.0, LocalFrame(60.0, 25.0))


@pytest.fixture(scope="module")
def helsinki():
    return voxelise(read_osm(helsinki_file()), 2.0)


def sensor(seed=1, **more):
    return DepthSensor(DepthSensorConfig(**({"noise": NOISE_M} | more)),
                       np.random.default_rng(seed))


def fly(layer, world, path, eye, grid_after=lambda events: None, begin=100.0):
    """Everything that is told along a path."""
    appeared, vanished = [], []
    for n, place in enumerate(path):
        scan = eye.scan(world, place, 0.5)
        done = layer.integrate(scan.in_map, place, begin + n * STEP_S)
        assert done.refused is None, done.message
        told = layer.changes()
        appeared += told.appeared
        vanished += told.vanished
        grid_after(told.appeared)
    return appeared, vanished


def line(start, end, n):
    return np.linspace(start, end, n)


PAST_BOX = line((60.0, 130.0, 30.0), (160.0, 130.0, 30.0), 21)


@pytest.mark.parametrize("seed", range(3))
def test_an_unknown_box_is_found_within_ten_scans(town, seed):
    world = town.with_prism(BOX, 0.0, 40.0)
    around = 120.5 + 30 * np.cos(np.linspace(0, 2 * np.pi, 10)), \
        99.5 + 30 * np.sin(np.linspace(0, 2 * np.pi, 10))
    path = np.column_stack([*around, np.full(10, 30.0)])
    appeared, vanished = fly(SensorLayer(town), world, path, sensor(seed))
    assert len({e.event_id for e in appeared}) == 1 and vanished == []
    event = appeared[-1]
    # the true one, as the world's voxels have it
    true = shapely.box(118.0, 96.0, 124.0, 102.0)
    assert event.kind == "obstacle" and event.confidence >= 0.8
    assert event.polygon.centroid.distance(true.centroid) < town.resolution
    assert event.polygon.covers(true)
    assert true.buffer(2 * town.resolution, join_style="mitre").covers(event.polygon)
    assert event.lower_z == 0.0     # from the ground, whatever was seen of it
    assert 40.0 <= event.upper_z <= 40.0 + 2 * town.resolution


def test_the_same_obstacle_keeps_its_id_while_it_grows_and_the_map_takes_it_over(town):
    world, twin = town.with_prism(BOX, 0.0, 40.0), Twin(town)
    layer = SensorLayer(town)

    def take(events):
        for event in events:
            twin.add(event)
            layer.update_map(twin.grid)
    appeared, vanished = fly(layer, world, PAST_BOX, sensor(), take)
    assert len(appeared) > 1 and len({e.event_id for e in appeared}) == 1 and not vanished
    for before, after in zip(appeared[:-1], appeared[1:], strict=True):
        assert after.polygon.buffer(1e-6).covers(before.polygon)
        assert after.upper_z >= before.upper_z and after.confidence >= before.confidence
    assert twin.grid.is_occupied((120.0, 99.0, 20.0)) and len(twin.events) == 1
    # Past it again, from the other side of time: nothing new, so no map changes for nothing.
    again, _ = fly(layer, world, PAST_BOX[::-1], sensor(7), take, begin=200.0)
    assert len(again) <= len(appeared) and {e.event_id for e in again} <= {
        appeared[0].event_id}


def test_an_event_that_the_map_lacks_is_told_again(town):
    world, layer = town.with_prism(BOX, 0.0, 40.0), SensorLayer(town)
    appeared, _ = fly(layer, world, PAST_BOX, sensor())
    assert layer.changes(now=103.0).appeared == ()
    (again,) = layer.changes(now=103.0 + 2 * PerceptionConfig().repeat_s).appeared
    assert again.event_id == appeared[-1].event_id
    layer.update_map(town.with_prism(again.polygon, again.lower_z, again.upper_z))
    assert layer.changes(now=150.0).appeared == ()


def test_two_obstacles_have_two_ids(town):
    other = shapely.box(60.0, 150.0, 66.0, 156.0)
    world = town.with_prisms([(BOX, 0.0, 40.0), (other, 0.0, 30.0)])
    appeared, _ = fly(SensorLayer(town, name="eye"), world, PAST_BOX, sensor())
    newest = {e.event_id: e for e in appeared}
    assert sorted(newest) == ["eye-1", "eye-2"]
    for true in (BOX, other):
        assert any(e.polygon.centroid.distance(true.centroid) < 3.0 for e in newest.values())


def test_a_wall_becomes_occupied_and_the_air_before_it_free(town):
    layer = SensorLayer(town)
    fly(layer, town, line((60.0, 100.0, 20.0), (120.0, 100.0, 20.0), 8), sensor())
    wall = np.array([[x, 66.0 - 0.5, 15.0] for x in (70.0, 90.0, 110.0)])
    assert (layer.probability(wall) > 0.9).all()
    assert (layer.probability(wall + (0.0, 10.0, 0.0)) < 0.2).all()
    assert layer.probability((60.0, 40.0, 15.0)) == 0.5       # behind it: never seen
    assert layer.probability((-500.0, 0.0, 15.0)) == 0.5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("altitude", [35.0, 60.0])
def test_the_city_as_it_is_raises_nothing(helsinki, seed, altitude):
    rng = np.random.default_rng(seed)
    size = np.array(helsinki.shape[:2]) * helsinki.resolution
    ends = helsinki.origin[:2] + size * rng.uniform(0.1, 0.9, (2, 2))
    path = line((*ends[0], altitude), (*ends[1], altitude), 60)
    path = path[~helsinki.is_occupied(path)]
    layer = SensorLayer(helsinki)
    appeared, vanished = fly(layer, helsinki, path, sensor(seed))
    assert appeared == [] and vanished == []
    assert len(layer.occupied()) > 100      # it did look


def test_sloping_ground_raises_nothing():
    rng = np.random.default_rng(3)
    occupied = np.zeros((100, 100, 30), bool)
    nodes = np.round(np.cumsum(rng.uniform(-2, 3, (21, 21)), axis=0).clip(0, 25), 2)
    grid = VoxelGrid.from_dense(occupied, np.zeros(3), 2.0, LocalFrame(60.0, 25.0),
                                terrain=Ground(nodes, (0.0, 0.0), 10.0))
    layer = SensorLayer(grid)
    told = fly(layer, grid, line((20.0, 100.0, 50.0), (180.0, 90.0, 50.0), 30), sensor())
    assert told == ([], []) and len(layer.occupied()) > 100


def test_what_the_map_has_and_nobody_sees_is_told_but_stays(town):
    occupied = town.occupied
    occupied[50:56, 60:66, :18] = True
    with_block = VoxelGrid.from_dense(occupied, np.zeros(3), 2.0, LocalFrame(60.0, 25.0))
    layer = SensorLayer(with_block)
    appeared, vanished = fly(layer, town, line((40.0, 100.0, 30.0), (170.0, 100.0, 30.0), 40),
                             sensor())
    assert appeared == [] and len(vanished) == 1
    (gone,) = vanished
    assert gone.kind == "vanished" and gone.confidence >= 0.8 and "stays" in gone.description
    assert shapely.box(100.0, 120.0, 112.0, 132.0).covers(gone.polygon)
    assert layer.grid is with_block and with_block.is_occupied((105.0, 125.0, 20.0))


def test_an_obstacle_that_has_gone_is_told_but_stays(town):
    world, layer, twin = town.with_prism(BOX, 0.0, 40.0), SensorLayer(town), Twin(town)

    def take(events):
        for event in events:
            twin.add(event)
            layer.update_map(twin.grid)
    fly(layer, world, PAST_BOX, sensor(), take)
    path = np.concatenate([PAST_BOX, PAST_BOX[::-1]])
    appeared, vanished = fly(layer, town, path, sensor(2), take, begin=200.0)
    assert appeared == [] and [e.kind for e in vanished] == ["vanished"]
    assert twin.grid.is_occupied((120.0, 99.0, 20.0)) and len(layer.events) == 1


def test_a_block_that_somebody_closed_has_not_vanished(town):
    """A crane's block is mostly air, and is seen through."""
    layer = SensorLayer(town)
    layer.update_map(town.with_prism(shapely.box(100.0, 90.0, 140.0, 110.0), 0.0, 50.0))
    assert fly(layer, town, PAST_BOX, sensor()) == ([], [])


def test_what_passes_by_once_raises_nothing(town):
    """Another drone, a bird: seen in each place by one scan only."""
    layer, eye = SensorLayer(town), sensor()
    for n in range(20):
        x = 70.0 + 6 * n
        world = town.with_prism(shapely.box(x, 98.0, x + 2.0, 100.0), 28.0, 30.0)
        place = (100.0, 140.0, 30.0)
        layer.integrate(eye.scan(world, place, 0.0).in_map, place, n * STEP_S)
        assert layer.changes().appeared == ()


def test_what_was_seen_is_forgotten_but_not_what_was_told(town):
    world, layer = town.with_prism(BOX, 0.0, 40.0), SensorLayer(town)
    appeared, _ = fly(layer, world, PAST_BOX, sensor())
    layer.update_map(town.with_prism(appeared[-1].polygon, 0.0, appeared[-1].upper_z))
    assert len(layer.occupied()) > 0
    layer.changes(now=102.0 + PerceptionConfig().keep_s + 1)
    assert len(layer.occupied()) == 0
    assert [e.event_id for e in layer.events] == [appeared[-1].event_id]
    assert layer.events[0].polygon.equals(appeared[-1].polygon)


def test_memory_is_bounded(helsinki):
    layer = SensorLayer(helsinki, PerceptionConfig(most_chunks=64))
    size = np.array(helsinki.shape[:2]) * helsinki.resolution
    path = line((*helsinki.origin[:2] + 60, 50.0), (*helsinki.origin[:2] + size - 60, 50.0), 40)
    told = fly(layer, helsinki, path, sensor(range=150.0))
    assert told == ([], [])
    assert (layer._index >= 0).sum() <= 64 and layer.nbytes < 64 * 33_000 + layer._index.nbytes
    assert len(np.unique(layer._index[layer._index >= 0])) == (layer._index >= 0).sum()
    assert layer.probability(path[-1] - (0, 0, 3)) != 0.5 or layer.probability(path[-1]) < 0.5


GOOD = {"points": np.array([[90.0, 100.0, 20.0], [91.0, 100.0, 20.0]]),
        "sensor_origin": (60.0, 100.0, 20.0), "stamp": 100.0, "now": 100.1, "frame": "map"}


@pytest.mark.parametrize("change, reason, words", [
    ({"frame": "odom"}, Refused.FRAME, "'odom'"), ({"frame": ""}, Refused.FRAME, "not 'map'"),
    ({"now": 103.0}, Refused.STALE, "3.00 s old"), ({"stamp": np.nan}, Refused.STALE, "nan"),
    ({"now": 99.0}, Refused.FUTURE, "1.00 s ahead"),
    ({"points": np.array([[1.0, np.nan, 2.0]])}, Refused.POINTS, "1 of 1 points"),
    ({"points": np.array([[1.0, np.inf, 2.0], [1, 2, 3]])}, Refused.POINTS, "1 of 2 points"),
    ({"points": np.zeros((4, 2))}, Refused.POINTS, "(4, 2)"),
    ({"points": np.zeros(3)}, Refused.POINTS, "(3,)"),
    ({"sensor_origin": (-10.0, 100.0, 20.0)}, Refused.POSE, "outside the map"),
    ({"sensor_origin": (60.0, 100.0, 5000.0)}, Refused.POSE, "outside the map"),
    ({"sensor_origin": (60.0, 100.0, -50.0)}, Refused.POSE, "outside the map"),
    ({"sensor_origin": (60.0, np.nan, 20.0)}, Refused.POSE, "nan"),
    ({"sensor_origin": (60.0, 20.0)}, Refused.POSE, "place")])
def test_what_cannot_be_is_refused_with_a_reason(town, change, reason, words):
    layer = SensorLayer(town)
    done = layer.integrate(**(GOOD | change))
    assert done.refused is reason and words in done.message
    assert len(layer._index[layer._index >= 0]) == 0        # nothing of it was taken
    assert layer.integrate(**GOOD).refused is None


def test_odd_clouds_that_are_taken(town):
    layer = SensorLayer(town)
    for points in (np.empty((0, 3)), [(60.0, 100.0, 20.0)] * 3, [(1e9, -1e9, 1e9)],
                   [(60.0, 100.0, -1e5)], np.full((500, 3), 90.0)):
        assert layer.integrate(points, (60.0, 100.0, 20.0), 1.0).refused is None
    assert layer.changes().appeared == ()
    with pytest.raises(ConfigError, match="make a new one"):
        layer.update_map(VoxelGrid.from_dense(np.ones((5, 5, 5), bool), np.zeros(3), 2.0,
                                              LocalFrame(60.0, 25.0)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40))
def test_a_ray_marks_what_it_crosses(town, seed, n):
    """Against a walk in small steps, which shares nothing with the traversal."""
    rng = np.random.default_rng(seed)
    origin = rng.uniform((40, 40, 10), (160, 160, 50))
    points = origin + rng.normal(size=(n, 3)) * rng.uniform(2, 15)
    layer = SensorLayer(town, PerceptionConfig(downsample=0.001))
    layer.integrate(points, origin, 1.0)
    ends = np.floor(points / 2.0)
    near = np.linalg.norm(points - origin, axis=1) < PerceptionConfig().least_range
    inside = (points >= 0).all(axis=1) & (points[:, :2] < 200).all(axis=1)
    assert (layer.probability(points[~near & inside]) > 0.5).all()
    for point in points[~near]:
        walk = origin + (point - origin) * np.linspace(0.0, 1.0, 50)[:, None]
        passed = ~(np.floor(walk / 2.0)[:, None] == ends).all(axis=2).any(axis=1)
        passed &= (walk >= 0).all(axis=1) & (walk[:, :2] < 200).all(axis=1)
        assert (layer.probability(walk[passed]) < 0.5).all()


@pytest.mark.parametrize("drift", [(1.2, -0.8, 0.4), (-1.0, 1.4, -0.5)])
def test_a_drifting_pose_is_corrected_by_what_is_seen(town, drift):
    config = PerceptionConfig(registration=RegistrationConfig(enabled=True))
    layer, eye = SensorLayer(town, config), sensor()
    place = np.array([140.0, 90.0, 22.0])
    for n in range(10):
        scan = eye.scan(town, place + (0, 2.0 * n, 0), 0.0)
        done = layer.integrate(scan.in_map + drift, scan.position + drift, n * STEP_S)
        assert done.refused is None, done.message
        assert np.linalg.norm(done.correction[:3, 3] + drift) < 0.5
    assert layer.changes().appeared == ()


def test_a_fit_that_cannot_be_trusted_is_refused(town):
    config = PerceptionConfig(registration=RegistrationConfig(enabled=True))
    place = np.array([140.0, 100.0, 22.0])
    scan = sensor().scan(town, place, 0.0)
    layer = SensorLayer(town, replace(config, registration=replace(
        config.registration, most_shift=0.5)))
    done = layer.integrate(scan.in_map + (1.5, -1.0, 0.0), place + (1.5, -1.0, 0.0), 0.0)
    assert done.refused is Refused.REGISTRATION and "moves the sensor by 1." in done.message
    layer = SensorLayer(town, config)
    done = layer.integrate(scan.in_map + (25.0, 30.0, 9.0), place, 0.0)
    assert done.refused is Refused.REGISTRATION and "poor fit" in done.message
    open_ground = np.array([40.0, 150.0, 25.0])     # nothing holds it sideways there
    scan = sensor(range=30.0, vertical_deg=170.0).scan(town, open_ground, 0.0)
    done = layer.integrate(scan.in_map, open_ground, 0.0)
    assert done.refused is Refused.REGISTRATION and "too few surfaces" in done.message


@pytest.mark.parametrize("values, words", [
    ({"hit_probability": 0.5}, "hit_probability"), ({"least_range": 90.0}, "least_range"),
    ({"occupied_probability": 0.98, "most_probability": 0.97}, "occupied_probability"),
    ({"least_scans": 0}, "least_scans"), ({"keep_s": 0.0}, "keep_s")])
def test_settings_that_cannot_be_are_named(values, words):
    with pytest.raises(ConfigError, match=words):
        PerceptionConfig(**values)
