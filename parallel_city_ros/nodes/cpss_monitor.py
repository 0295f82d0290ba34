"""Closes the loop: compares flown with planned, keeps the ledger, passes reports to the map."""

from __future__ import annotations

import json
import math
import time
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from nav_msgs.msg import OccupancyGrid, Path
from parallel_city_interfaces.msg import CityEvent, CpssState, PatrolPlan
from parallel_city_interfaces.srv import AddEvent
from rclpy.node import Node
from std_msgs.msg import String

from parallel_city_ros.cpss.monitor import LoopMonitor, MonitorConfig
from parallel_city_ros.errors import ParallelCityError
from parallel_city_ros.flight.state import TERMINAL
from parallel_city_ros.nodes import conversions, parameters, qos
from parallel_city_ros.nodes.map_mirror import MapMirror
from parallel_city_ros.nodes.runtime import run

SETTLE_S = 0.5              # wall, for the last piece of the track to arrive
WEIGHTS_PERIOD_S = 60.0     # wall: what was seen gains worth again as time passes
MAP_SERVICE_S = 10.0        # wall, then a report that was not taken is dropped, loudly
PASS_ON_S = 0.2             # wall, between two looks whether a map server is there
ENDED = {state.value for state in TERMINAL}


class CpssMonitor(Node):
    def __init__(self):
        super().__init__("cpss_monitor")
        parameters.declare(self, MonitorConfig)
        self._config = parameters.read(self, MonitorConfig)
        self._monitor = LoopMonitor(self._config)
        self._state = self.create_publisher(CpssState, "cpss/state", qos.EVENTS)
        self._coverage = self.create_publisher(OccupancyGrid, "cpss/coverage", qos.LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.EVENTS)
        self._events = self.create_publisher(CityEvent, "city_events", qos.EVENTS)
        self._add_event = self.create_client(AddEvent, "/city_map/add_event")
        self.create_subscription(CityEvent, "city_reports", self._on_report, qos.EVENTS)
        for name in self._monitor.patrols:
            for message, topic, handle in ((PatrolPlan, "patrol_plan", self._on_plan),
                                           (Path, "flown_path", self._on_track),
                                           (String, "flight_state", self._on_phase)):
                self.create_subscription(message, f"/{name}/{topic}", partial(handle, name),
                                         qos.LATCHED)
        self._closing = {}
        self._reported: list[tuple[float, CityEvent]] = []      # and until when they wait
        # All callbacks one after the other: they share the monitor.
        self._map = MapMirror(self, self._on_map, self.default_callback_group)
        self.create_timer(self._config.state_period_s, self._publish)
        self.create_timer(WEIGHTS_PERIOD_S, self._publish_weights)
        self.create_timer(PASS_ON_S, self._pass_on)

    def _now(self):
        return self.get_clock().now()

    # the city

    def _on_map(self, grid, update):
        first = self._monitor.grid is None
        try:
            self._monitor.on_map(grid)
        except ParallelCityError as error:
            self.get_logger().error(str(error))
        if first:
            self._publish_weights()

    def _on_report(self, msg):
        """Somebody reports an event: if it is credible, it goes to the map."""
        if not msg.confidence >= self._config.least_confidence:
            self.get_logger().warning(
                f"report {msg.event_id} is ignored: its confidence is {msg.confidence:.2f}, "
                f"{self._config.least_confidence:.2f} is needed")
            return
        self._reported.append((time.monotonic() + MAP_SERVICE_S, msg))
        self._pass_on()

    def _pass_on(self):
        """To the map server what was reported, or once it is there; it is not waited for."""
        reported, self._reported = self._reported, []
        for late, msg in reported:
            if self._add_event.service_is_ready():
                self._add_event.call_async(AddEvent.Request(event=msg)).add_done_callback(
                    partial(self._on_added, msg))
            elif time.monotonic() < late:
                self._reported.append((late, msg))
            else:
                self.get_logger().error(f"report {msg.event_id} is lost: no map server took it")

    def _on_added(self, msg, future):
        answer = future.result()
        if answer is None or not answer.accepted:
            reason = answer.message if answer else "no answer"
            self.get_logger().error(f"report {msg.event_id} was not taken: {reason}")
        else:
            self._events.publish(msg)

    # the drones

    def _on_plan(self, drone, msg):
        try:
            stamp = msg.header.stamp
            self._monitor.on_plan(drone, conversions.plan_from_ros(msg),
                                  f"{drone}@{stamp.sec}.{stamp.nanosec:09d}")
        except ParallelCityError as error:
            self.get_logger().error(f"plan of {drone} cannot be read: {error}")

    def _on_track(self, drone, msg):
        if self._monitor.grid is not None and msg.poses:
            self._monitor.on_track(drone, conversions.track_from_ros(msg))

    def _on_phase(self, drone, msg):
        patrol = self._monitor.patrols[drone]
        patrol.phase = msg.data
        if msg.data in ENDED and not patrol.closed and drone not in self._closing:
            self._closing[drone] = self.create_timer(SETTLE_S, partial(self._close, drone))

    def _close(self, drone):
        self.destroy_timer(self._closing.pop(drone))
        now = self._now().nanoseconds * 1e-9
        if self._monitor.close(drone, now) is None:
            return
        self._publish_weights()
        patrol = self._monitor.patrols[drone]
        self.get_logger().info(
            f"{drone}, sortie {patrol.sortie}: flew {patrol.comparison.flown_length_m:.0f} m of "
            f"{patrol.comparison.planned_length_m:.0f} m planned")
        self._publish()

    # what goes out

    def _publish_weights(self):
        grid = self._monitor.grid
        if grid is not None and self._monitor.ledger is not None:
            now = self._now()
            weights = self._monitor.weights(now.nanoseconds * 1e-9)
            self._coverage.publish(conversions.weights_to_ros(grid, weights, now.to_msg()))

    def _publish(self):
        stamp = self._now().to_msg()
        states = [conversions.state_to_ros(name, self._monitor, stamp)
                  for name in self._monitor.patrols]
        for state in states:
            self._state.publish(state)
        self._diagnostics.publish(DiagnosticArray(
            header=conversions.header(stamp),
            status=[_diagnose(state, self._monitor) for state in states]))


def _diagnose(state, monitor) -> DiagnosticStatus:
    comparison = monitor.patrols[state.drone_id].comparison
    status = DiagnosticStatus(name=f"cpss_monitor: {state.drone_id}", hardware_id=state.drone_id,
                              level=DiagnosticStatus.OK, message=state.phase or "no flight yet")
    if monitor.grid is None:
        status.level, status.message = DiagnosticStatus.STALE, "no map yet"
    elif comparison is not None and not comparison.within_tube:
        status.level = DiagnosticStatus.WARN
        status.message = (f"left the certified corridor: {comparison.max_deviation_m:.1f} m, "
                          f"{comparison.tube_radius_m:g} m are certified")
    details = json.loads(state.json)
    status.values = [KeyValue(key=k, value=str(v)) for k, v in details.items()
                     if not isinstance(v, dict)]
    if math.isfinite(state.ledger_seen_share):
        status.values.append(KeyValue(key="ledger_seen_share",
                                      value=f"{state.ledger_seen_share:.4f}"))
    return status


def main(args=None):
    raise SystemExit(run(CpssMonitor, args))


if __name__ == "__main__":
    main()
