"""The client of the actions loses no answer."""

import threading
import time

import pytest
import rclpy
from domain_coordinator import domain_id
from parallel_city_interfaces.action import PlanPatrol
from rclpy.action import ActionServer
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String

from parallel_city_ros.nodes.client import CarefulActionClient, CityClient


class _SlowToNote(dict):
    """A dictionary that another thread overtakes on every write."""

    def __setitem__(self, key, value):
        time.sleep(0.2)
        super().__setitem__(key, value)


@pytest.fixture
def node():
    with domain_id() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        node = Node("careful", context=context)
        executor = MultiThreadedExecutor(num_threads=4, context=context)
        executor.add_node(node)
        spinner = threading.Thread(target=executor.spin, daemon=True)
        spinner.start()
        yield node
        executor.shutdown()
        context.try_shutdown()
        spinner.join(10.0)


def test_an_answer_that_comes_before_its_request_is_noted(node):
    def execute(handle):
        handle.succeed()
        return PlanPatrol.Result(message="done")
    server = ActionServer(node, PlanPatrol, "plan", execute)
    client = CarefulActionClient(node, PlanPatrol, "plan")
    for name in ("_pending_goal_requests", "_pending_result_requests"):
        assert hasattr(client, name)        # or the test tests nothing
        setattr(client, name, _SlowToNote())
    assert client.wait_for_server(10.0)
    for _ in range(3):
        answer = client.send_goal_async(PlanPatrol.Goal())
        until(answer.done)
        assert answer.result().accepted
        result = answer.result().get_result_async()
        until(result.done)
        assert result.result().result.message == "done"
    client.destroy()
    server.destroy()


def test_a_callback_that_fails_leaves_the_others_served(monkeypatch):
    heard = []

    def fails_first(msg):
        heard.append(msg.data)
        if len(heard) == 1:
            raise RuntimeError("of one callback")

    with domain_id() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        with CityClient(name="hears") as client:
            client.node.create_subscription(String, "words", fails_first, 10)
            publisher = client.node.create_publisher(String, "words", 10)
            until(lambda: publisher.get_subscription_count() == 1)
            publisher.publish(String(data="first"))
            until(lambda: heard == ["first"])
            publisher.publish(String(data="second"))
            until(lambda: heard == ["first", "second"])


def until(reached, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "no answer"
        time.sleep(0.02)
