"""The monitor goes on while something that it needs is not there."""

import os
import threading
import time

import pytest
import rclpy
from domain_coordinator import domain_id
from parallel_city_interfaces.msg import CityEvent, CpssState
from parallel_city_interfaces.srv import AddEvent
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from parallel_city_ros.nodes import qos
from parallel_city_ros.nodes.cpss_monitor import CpssMonitor


@pytest.fixture
def other(monkeypatch):
    """A node beside a monitor; both are spun."""
    with domain_id() as domain:
        monkeypatch.setitem(os.environ, "ROS_DOMAIN_ID", str(domain))
        rclpy.init(args=["--ros-args", "-p", "state_period_s:=0.05"])
        node, executor = Node("beside"), MultiThreadedExecutor(num_threads=3)
        executor.add_node(node)
        executor.add_node(CpssMonitor())
        spinner = threading.Thread(target=executor.spin, daemon=True)
        spinner.start()
        yield node
        executor.shutdown()
        rclpy.try_shutdown()
        spinner.join(10.0)


def test_a_report_that_no_map_server_takes_yet_keeps_nothing_waiting(other):
    states, taken = [], []
    other.create_subscription(CpssState, "/cpss/state", states.append, qos.EVENTS)
    reports = other.create_publisher(CityEvent, "/city_reports", qos.EVENTS)
    until(lambda: reports.get_subscription_count() > 0 and states)
    reports.publish(CityEvent(event_id="crane", confidence=0.9))
    seen = len(states)
    until(lambda: len(states) > seen + 20)      # the report has come, and the monitor goes on

    def take(request, response):
        taken.append(request.event.event_id)
        response.accepted = True
        return response
    other.create_service(AddEvent, "/city_map/add_event", take)
    until(lambda: taken == ["crane"])


def until(reached, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
