"""Fuses depth clouds of all drones and reports what the twin does not know.

Clouds are in the drone's own frame or in the map's (see `clouds`), and are refused, counted and
told in the diagnostics if they cannot be placed. What appears goes to `city_reports`, from where
the monitor passes credible events to the map, as it does with everybody's. What has vanished goes
to `perception/vanished` and to the log, for people: the map stays as it is.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import Odometry
from parallel_city_interfaces.msg import CityEvent
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from parallel_city_ros.city.perception import PerceptionConfig, SensorLayer, warm_up
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.nodes import conversions, parameters, qos
from parallel_city_ros.nodes.clouds import Track, cloud_from_ros, pose_from_ros
from parallel_city_ros.nodes.map_mirror import MapMirror
from parallel_city_ros.nodes.runtime import run
from parallel_city_ros.settings import check, setting

WAITING = 10            # clouds of a drone that may wait for its odometry
STATE_PERIOD_S = 1.0    # of the diagnostics


@dataclass(frozen=True, kw_only=True)
class PerceptionNodeConfig:
    drones: str = setting("drone_1", "namespaces of the drones, separated by commas")
    report_period_s: float = setting(0.5, "s of wall time between two looks for changes", above=0)
    odometry_gap_s: float = setting(1.0, "s, between two poses that a cloud may lie between",
                                    above=0)
    layer: PerceptionConfig = field(default_factory=PerceptionConfig)

    def __post_init__(self):
        check(self)

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(name.strip().strip("/") for name in self.drones.split(",") if name.strip())


class _Drone:
    """What came from one drone."""

    def __init__(self):
        self.track, self.waiting = Track(), []
        self.taken, self.refused, self.last = 0, Counter(), ""


class PerceptionNode(Node):
    def __init__(self):
        super().__init__("perception")
        parameters.declare(self, PerceptionNodeConfig)
        self._config = parameters.read(self, PerceptionNodeConfig)
        self._name = f"sensed-{uuid.uuid4().hex[:6]}"       # of this run: see SensorLayer
        self._layer, self._layers = None, 0
        self._drones = {name: _Drone() for name in self._config.namespaces}
        self._reports = self.create_publisher(CityEvent, "/city_reports", qos.EVENTS)
        self._vanished = self.create_publisher(CityEvent, "perception/vanished", qos.EVENTS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.EVENTS)
        # All callbacks one after the other: they share the layer.
        group = MutuallyExclusiveCallbackGroup()
        self._map = MapMirror(self, self._on_map, group)
        for name in self._drones:
            for message, topic, handle in ((Odometry, "odom", self._on_odometry),
                                           (PointCloud2, "depth/points", self._on_cloud)):
                self.create_subscription(message, f"/{name}/{topic}", partial(handle, name),
                                         qos.SENSOR, callback_group=group)
        self.create_timer(self._config.report_period_s, self._report, callback_group=group)
        self.create_timer(STATE_PERIOD_S, self._publish_state, callback_group=group)
        # The first cloud need not wait for open3d and compiled loops.
        self._warm = self.create_timer(0.0, self._warm_up, callback_group=group)

    def _warm_up(self):
        self.destroy_timer(self._warm)
        warm_up()

    def _now_s(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _on_map(self, grid, update):
        if self._layer is not None and grid.map_hash == self._layer.grid.map_hash:
            self._layer.update_map(grid)
            return
        self._layers += 1
        name = self._name if self._layers == 1 else f"{self._name}-{self._layers}"
        self._layer = SensorLayer(grid, self._config.layer, name)

    # what the drones measure

    def _on_odometry(self, name, msg):
        drone = self._drones[name]
        try:
            drone.track.add(pose_from_ros(msg))
        except ConfigError as error:
            drone.last = str(error)
            return
        ready = [m for m in drone.waiting if self._placed(drone, m)]
        drone.waiting = [m for m in drone.waiting if not self._placed(drone, m)]
        for cloud in ready:
            self._take(drone, cloud)

    @staticmethod
    def _placed(drone, msg):
        return conversions.time_from_ros(msg.header.stamp) <= drone.track.newest_s + 1e-6

    def _on_cloud(self, name, msg):
        drone = self._drones[name]
        ahead = conversions.time_from_ros(msg.header.stamp) - self._now_s()
        if ahead > self._config.layer.most_ahead_s:
            self._refuse(drone, "future", f"its stamp is {ahead:.2f} s ahead; are the clocks the "
                         "same?")
        elif self._placed(drone, msg):
            self._take(drone, msg)
        else:
            drone.waiting.append(msg)
            if len(drone.waiting) > WAITING:
                self._give_up(drone, drone.waiting.pop(0))

    def _give_up(self, drone, msg):
        self._refuse(drone, "no odometry", "no odometry came up to its stamp "
                     f"{conversions.time_from_ros(msg.header.stamp):.3f}")

    def _take(self, drone, msg):
        stamp = conversions.time_from_ros(msg.header.stamp)
        now = self._now_s()
        if self._layer is None:
            self._refuse(drone, "no map", "no map came yet")
            return
        pose = drone.track.at(stamp, self._config.odometry_gap_s)
        if pose is None:
            why = "stale" if now - stamp > self._config.layer.most_age_s else "no odometry"
            self._refuse(drone, why, f"nothing says where the drone was at {stamp:.3f}")
            return
        try:
            points = cloud_from_ros(msg)
        except ConfigError as error:
            self._refuse(drone, "points", str(error))
            return
        frame = msg.header.frame_id
        if frame == pose.frame_id:
            points, frame = points @ pose.rotation.T + pose.position, conversions.MAP_FRAME
        done = self._layer.integrate(points, pose.position, stamp, now=now, frame=frame)
        if done.refused is None:
            drone.taken += 1
        else:
            self._refuse(drone, done.refused.value, done.message)

    def _refuse(self, drone, why, message):
        drone.refused[why] += 1
        drone.last = message
        self.get_logger().warning(f"cloud refused: {message}", throttle_duration_sec=5.0)

    # what is told

    def _report(self):
        oldest = self._now_s() - self._config.layer.most_age_s
        for drone in self._drones.values():
            while drone.waiting and conversions.time_from_ros(
                    drone.waiting[0].header.stamp) < oldest:
                self._give_up(drone, drone.waiting.pop(0))
        if self._layer is None:
            return
        changes, stamp = self._layer.changes(self._now_s()), self.get_clock().now().to_msg()
        for event in changes.appeared:
            self.get_logger().info(f"{event.event_id}: {event.description}, confidence "
                                   f"{event.confidence:.2f}")
            self._reports.publish(conversions.event_to_ros(event, stamp))
        for event in changes.vanished:
            self.get_logger().warning(f"{event.event_id}: {event.description}")
            self._vanished.publish(conversions.event_to_ros(event, stamp))

    def _publish_state(self):
        self._diagnostics.publish(DiagnosticArray(
            header=conversions.header(self.get_clock().now().to_msg()),
            status=[self._diagnose(name, drone) for name, drone in self._drones.items()]))

    def _diagnose(self, name, drone) -> DiagnosticStatus:
        refused = sum(drone.refused.values())
        status = DiagnosticStatus(name=f"perception: {name}", hardware_id=name,
                                  level=DiagnosticStatus.OK,
                                  message=f"{drone.taken} clouds taken, {refused} refused")
        if refused:
            status.level = DiagnosticStatus.WARN
            status.message += f", the last because {drone.last}"
        values = {"taken": drone.taken, "refused": refused} | {
            f"refused: {why}": count for why, count in sorted(drone.refused.items())}
        if self._layer is not None:
            values |= {"events": len(self._layer.events),
                       "memory_mb": round(self._layer.nbytes / 1e6, 1)}
        status.values = [KeyValue(key=k, value=str(v)) for k, v in values.items()]
        return status


def main(args=None):
    raise SystemExit(run(PerceptionNode, args))


if __name__ == "__main__":
    main()
