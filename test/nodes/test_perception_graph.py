"""Sensor, perception, monitor and map server as processes: the unknown gets onto the map."""

import math
import time
from array import array

import numpy as np
import pytest
import shapely
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from parallel_city_interfaces.msg import CityEvent as CityEventMsg
from sensor_msgs.msg import PointCloud2

from parallel_city_ros.city.ground import nearest_open_ground
from parallel_city_ros.city.perception import SensorLayer
from parallel_city_ros.city.sensor import DepthSensor, DepthSensorConfig
from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.nodes import conversions as c
from parallel_city_ros.nodes import qos
from parallel_city_ros.nodes.clouds import cloud_to_ros

DRONE, BASE_LINK = "drone_1", "drone_1/base_link"
HALF_M, TOP_M = 8.0, 70.0       # of what stands there unknown


class Onlooker:
    """A drone's odometry, and what is said about what its sensor saw."""

    def __init__(self, system, drone=DRONE):
        self.client, self.drone = system.client, drone
        node = self.client.node
        self.odom = node.create_publisher(Odometry, f"/{drone}/odom", qos.SENSOR)
        self.cloud = node.create_publisher(PointCloud2, f"/{drone}/depth/points", qos.SENSOR)
        self.truth = node.create_publisher(CityEventMsg, "/ground_truth/events", qos.STANDING)
        self.clouds, self.events, self.gone, self.told = [], [], [], {}
        for kind, topic, take, profile in (
                (PointCloud2, f"/{drone}/depth/points", self.clouds.append, qos.SENSOR),
                (CityEventMsg, "/city_events", self.events.append, qos.EVENTS),
                (CityEventMsg, "/perception/vanished", self.gone.append, qos.EVENTS),
                (DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.EVENTS)):
            node.create_subscription(kind, topic, take, profile)

    def _on_diagnostics(self, msg):
        for status in msg.status:
            if status.name == f"perception: {self.drone}":
                self.told = {v.key: v.value for v in status.values} | {"words": status.message}

    def count(self, name):
        return int(self.told.get(name, 0))

    @property
    def now(self):
        return self.client.node.get_clock().now().nanoseconds * 1e-9

    def stand(self, place, yaw=0.0, stamp=None):
        msg = Odometry(header=c.header(c.time_to_ros(self.now if stamp is None else stamp)),
                       child_frame_id=f"{self.drone}/base_link")
        msg.pose.pose.position = c.point_to_ros(place)
        msg.pose.pose.orientation.z = math.sin(yaw / 2)
        msg.pose.pose.orientation.w = math.cos(yaw / 2)
        self.odom.publish(msg)
        return msg.header.stamp


def until(reached, again=lambda: None, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        again()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def running(system):
    system.start_twin()
    system.processes.start_node("cpss_monitor", {"drones": DRONE})
    system.processes.start_node("perception", {"drones": DRONE, "report_period_s": 0.2})
    system.processes.start_node("depth_sensor", {"rate_hz": 50.0}, DRONE)
    system.eye = Onlooker(system)
    system.client.wait_for_map(60.0, system.processes.check)
    return system


@pytest.fixture(scope="module")
def place(running):
    """Open ground, where something will stand, and a circle around it to look from."""
    grid = running.client.map.grid
    middle = grid.origin[:2] + np.array(grid.shape[:2]) * grid.resolution / 2
    x, y = nearest_open_ground(grid, middle, 12.0)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.column_stack([x + 35 * np.cos(angle), y + 35 * np.sin(angle), np.full(48, 55.0)])
    return (x, y), circle[~grid.is_occupied(circle)]


def circling(eye, circle):
    """A function that takes one step on the circle."""
    steps = iter(range(10**6))

    def step():
        n = next(steps)
        eye.stand(circle[n % len(circle)], yaw=0.3 * n)
    return step


def test_the_city_as_it_is_raises_nothing(running, place):
    eye = running.eye
    step = circling(eye, place[1])
    # The sensor may hear of the first poses before the perception does: those clouds are refused.
    until(lambda: eye.count("taken") > 0, step, 60.0)
    taken, refused = eye.count("taken"), eye.count("refused")
    until(lambda: eye.count("taken") >= taken + 48, step, 60.0)
    assert eye.count("refused") == refused, eye.told
    assert eye.events == [] and eye.gone == [] and eye.count("events") == 0
    assert running.client.map.grid.map_update == 0
    cloud = eye.clouds[-1]
    assert cloud.header.frame_id == BASE_LINK and cloud.width > 500


def test_what_nobody_reported_gets_onto_the_map(running, place):
    eye, ((x, y), circle) = running.eye, place
    h = HALF_M
    true = CityEvent(event_id="true", kind="scaffold", lower_z=0.0, upper_z=TOP_M, footprint=(
        (x - h, y - h), (x + h, y - h), (x + h, y + h), (x - h, y + h)))
    assert not running.client.map.grid.is_occupied((x, y, TOP_M - 10))
    eye.truth.publish(c.event_to_ros(true, c.time_to_ros(0.0)))
    step = circling(eye, circle)

    def known():
        found = [c.event_from_ros(m) for m in eye.events]
        return found and found[-1].polygon.buffer(0.1).covers(true.polygon)
    until(known, step, 60.0)
    running.processes.check()
    found = [c.event_from_ros(m) for m in eye.events]
    assert len({e.event_id for e in found}) == 1
    event = found[-1]
    grid = running.client.wait_for_update(len(found), 10.0)
    assert event.kind == "obstacle" and 0.8 <= event.confidence <= 1
    assert event.polygon.centroid.distance(shapely.Point(x, y)) < grid.resolution
    corners = [(x + sx * h * 0.9, y + sy * h * 0.9, 50.0) for sx in (-1, 1) for sy in (-1, 1)]
    assert grid.is_occupied(corners).all() and grid.is_occupied((x, y, 5.0))
    assert eye.gone == []


def test_clouds_that_cannot_be_placed_are_counted_by_reason(running, place):
    eye, (_, circle) = running.eye, place
    before, points = dict(eye.told), np.full((10, 3), 5.0)
    here = circle[0]

    def refused(reason, send):
        count = eye.count(f"refused: {reason}")
        until(lambda: eye.count(f"refused: {reason}") > count, send)

    def cloud(frame=BASE_LINK, what=points, shift=0.0, **changes):
        stamp = eye.stand(here)
        msg = cloud_to_ros(what, c.time_to_ros(c.time_from_ros(stamp) + shift), frame)
        for name, value in changes.items():
            setattr(msg, name, value)
        eye.cloud.publish(msg)
    refused("frame", lambda: cloud("camera"))
    refused("points", lambda: cloud(what=np.full((3, 3), np.nan)))
    refused("points", lambda: cloud(data=array("B", b"short")))
    refused("points", lambda: cloud(fields=[]))
    refused("stale", lambda: cloud(shift=-60.0))
    refused("future", lambda: cloud(shift=60.0))

    def beside():
        stamp = eye.stand((-9000.0, 0.0, 50.0))
        eye.cloud.publish(cloud_to_ros(points, stamp, BASE_LINK))
    refused("pose", beside)
    assert "outside the map" in eye.told["words"]
    running.processes.check()       # nothing of that ended a node
    taken = eye.count("taken")
    assert taken >= int(before.get("taken", 0))
    until(lambda: eye.count("taken") > taken, circling(eye, circle))


def test_a_map_server_that_starts_anew_needs_nothing_else_restarted(running, place):
    eye = running.eye
    running.kill("twin_map_server")
    running.start_twin()
    taken = eye.count("taken")
    until(lambda: eye.count("taken") > taken + 5, circling(eye, place[1]), 60.0)
    running.processes.check()


def test_points_in_the_map_frame_are_taken_too(running, place):
    eye, (_, circle) = running.eye, place
    running.kill(f"{DRONE}.depth_sensor")       # only our own clouds from here on
    time.sleep(1.5)                             # what it said before is counted by then
    taken, refused = eye.count("taken"), eye.count("refused")
    until(lambda: eye.count("taken") > taken, lambda: eye.cloud.publish(
        cloud_to_ros(circle[:5] - (0, 0, 30.0), eye.stand(circle[0]), "map")))
    assert eye.count("refused") == refused


def test_a_drifting_pose_is_corrected_by_what_is_seen(running, place):
    """Without registration such a drift raises obstacles where none are."""
    running.processes.start_node("perception", {
        "drones": "drone_2", "report_period_s": 0.2, "layer.registration.enabled": True,
        "layer.registration.pairing": 8.0, "layer.registration.most_shift": 9.0,
        "layer.registration.most_rmse": 4.0}, "fitted")     # as coarse as the map
    eye, grid = Onlooker(running, "drone_2"), running.client.map.grid
    low = place[1] - (0.0, 0.0, 25.0)
    low = low[~grid.is_occupied(low)]
    sensor = DepthSensor(DepthSensorConfig(), np.random.default_rng(0))
    naive, steps = SensorLayer(grid), iter(range(10**6))

    def step(drift=(5.0, -4.0, 1.0)):
        n = next(steps)
        yaw = 0.6 * n
        scan = sensor.scan(grid, low[2 * n % len(low)], yaw)
        naive.integrate(scan.in_map + drift, scan.position + drift, 0.1 * n)
        stamp = eye.stand(scan.position + drift, yaw)
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0],
                         [0.0, 0.0, 1.0]])
        eye.cloud.publish(cloud_to_ros((scan.in_map - scan.position) @ turn, stamp,
                                       "drone_2/base_link"))
    until(lambda: eye.count("taken") >= 12, step, 60.0)
    assert eye.count("events") == 0 and eye.gone == [], eye.told
    assert len(naive.changes().appeared) > 0
    until(lambda: "poor fit" in eye.told["words"] or "moves the sensor" in eye.told["words"],
          lambda: step((40.0, 30.0, 0.0)))
    assert eye.count("refused: registration") > 0 and eye.count("events") == 0
    running.processes.check()
