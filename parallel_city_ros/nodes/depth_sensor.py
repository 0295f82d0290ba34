"""The depth sensor of a simulated drone: looks from its odometry into a city of its own.

That city is the ground truth, which may differ from the twin: it is `city_file` if one is given,
else the map as this node first heard it, and whatever `/ground_truth/events` adds (CityEvent, as
`city_reports` has them; nobody else listens to those). One for each drone, in its namespace.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from nav_msgs.msg import Odometry
from parallel_city_interfaces.msg import CityEvent
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from parallel_city_ros.city.osm import require_file
from parallel_city_ros.city.sensor import DepthSensor, DepthSensorConfig, true_city
from parallel_city_ros.errors import ConfigError, OutsideMapError, ParallelCityError
from parallel_city_ros.nodes import conversions, parameters, qos
from parallel_city_ros.nodes.clouds import cloud_to_ros, pose_from_ros
from parallel_city_ros.nodes.map_mirror import MapMirror
from parallel_city_ros.nodes.runtime import run
from parallel_city_ros.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class DepthSensorNodeConfig:
    city_file: str = setting("", "city that the sensor sees, file or several separated by "
                                 "commas; '': the map as it was first heard")
    rate_hz: float = setting(20.0, "Hz of wall time, of clouds at most", above=0, high=100)
    seed: int = setting(0, "of the noise", low=0)
    sensor: DepthSensorConfig = field(default_factory=DepthSensorConfig)

    def __post_init__(self):
        check(self)


class DepthSensorNode(Node):
    def __init__(self):
        super().__init__("depth_sensor")
        parameters.declare(self, DepthSensorNodeConfig)
        self._config = config = parameters.read(self, DepthSensorNodeConfig)
        self._sensor = DepthSensor(config.sensor, np.random.default_rng(config.seed))
        for name in filter(None, config.city_file.split(",")):
            require_file(name.strip())
        self._truth, self._base, self._waiting = None, "", []
        self._last = -np.inf        # wall
        self._group = MutuallyExclusiveCallbackGroup()
        self._points = self.create_publisher(PointCloud2, "depth/points", qos.SENSOR)
        self._map = MapMirror(self, self._on_map, self._group)
        self.create_subscription(CityEvent, "/ground_truth/events", self._on_truth, qos.STANDING,
                                 callback_group=self._group)
        self.create_subscription(Odometry, "odom", self._on_odometry, qos.SENSOR,
                                 callback_group=self._group)

    def _on_map(self, grid, update):
        if self._base == grid.map_hash:
            return      # what the twin learns does not change the city
        truth, self._base = grid, grid.map_hash
        if self._config.city_file:
            try:
                truth = true_city(self._config.city_file, grid)
            except ParallelCityError as error:
                self.get_logger().error(f"sees nothing: {error}")
                return
        self._truth = truth
        for event in self._waiting:
            self._add(event)
        self._waiting = []
        self.get_logger().info(f"sees {self._config.city_file or 'the map'}, "
                               f"{truth.shape} voxels of {truth.resolution:g} m")

    def _on_truth(self, msg):
        try:
            event = conversions.event_from_ros(msg)
        except ConfigError as error:
            self.get_logger().error(f"not put into the ground truth: {error}")
            return
        if self._truth is None:
            self._waiting.append(event)
        else:
            self._add(event)

    def _add(self, event):
        self._truth = self._truth.with_prism(event.polygon, event.lower_z, event.upper_z)
        self.get_logger().info(f"ground truth: {event.event_id} stands there now")

    def _on_odometry(self, msg):
        now = time.monotonic()
        if self._truth is None or now - self._last < 0.9 / self._config.rate_hz:
            return
        self._last = now
        try:
            pose = pose_from_ros(msg)
            scan = self._sensor.scan(self._truth, pose.position, pose.yaw)
        except (ConfigError, OutsideMapError) as error:
            self.get_logger().warning(f"no picture: {error}", throttle_duration_sec=5.0)
            return
        level = scan.in_map - pose.position     # in the drone's frame, whichever way it leans
        self._points.publish(cloud_to_ros(level @ pose.rotation, msg.header.stamp,
                                          msg.child_frame_id))


def main(args=None):
    raise SystemExit(run(DepthSensorNode, args))


if __name__ == "__main__":
    main()
