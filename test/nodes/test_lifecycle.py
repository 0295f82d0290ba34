"""Lifecycle nodes go through their states as managers ask them to, and keep their services."""

import threading
import time

import pytest
import rclpy
from domain_coordinator import domain_id
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node

from parallel_city_ros.nodes.mission_executor import MissionExecutor
from parallel_city_ros.nodes.planner_server import PlannerServer
from parallel_city_ros.nodes.twin_map_server import TwinMapServer


@pytest.fixture
def manager():
    """A node of a lifecycle manager, and a way to spin others beside it."""
    with domain_id() as domain:
        rclpy.init(domain_id=domain)
        executor = MultiThreadedExecutor(num_threads=6)

        def spin():
            try:
                executor.spin()
            except ExternalShutdownException:
                pass
        node = Node("manager")
        executor.add_node(node)
        spinner = threading.Thread(target=spin, daemon=True)
        spinner.start()
        yield node, executor
        executor.shutdown(timeout_sec=5.0)
        spinner.join(5.0)
        node.destroy_node()
        rclpy.try_shutdown()


def call(node, kind, name, request, seconds=30.0):
    client = node.create_client(kind, name)
    try:
        assert client.wait_for_service(10.0), name
        answer = client.call_async(request)
        deadline = time.monotonic() + seconds
        while not answer.done() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert answer.done(), f"{name} did not answer"
        return answer.result()
    finally:
        node.destroy_client(client)


@pytest.mark.parametrize("node_class, parameter", [
    (TwinMapServer, "resolution"), (PlannerServer, "planner_id"), (MissionExecutor, "address")])
def test_through_all_states_twice(manager, node_class, parameter):
    node, executor = manager
    managed = node_class()
    executor.add_node(managed)
    name = managed.get_name()

    def state():
        return call(node, GetState, f"/{name}/get_state", GetState.Request()).current_state.id

    def change(transition):
        return call(node, ChangeState, f"/{name}/change_state", ChangeState.Request(
            transition=Transition(id=transition))).success

    try:
        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        for _ in range(2):
            assert change(Transition.TRANSITION_CONFIGURE)
            for _ in range(2):
                assert change(Transition.TRANSITION_ACTIVATE) and managed.active
                assert state() == State.PRIMARY_STATE_ACTIVE
                found = call(node, GetParameters, f"/{name}/get_parameters",
                             GetParameters.Request(names=[parameter]))
                assert found.values[0].type != 0
                assert change(Transition.TRANSITION_DEACTIVATE) and not managed.active
            assert change(Transition.TRANSITION_CLEANUP)
            assert state() == State.PRIMARY_STATE_UNCONFIGURED
        assert change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    finally:
        executor.remove_node(managed)
        managed.destroy_node()


def test_a_transition_that_is_not_possible_is_answered(manager):
    node, executor = manager
    managed = PlannerServer()
    executor.add_node(managed)
    try:
        answer = call(node, ChangeState, "/planner_server/change_state", ChangeState.Request(
            transition=Transition(id=Transition.TRANSITION_ACTIVATE)))
        assert not answer.success
        assert call(node, GetState, "/planner_server/get_state",
                    GetState.Request()).current_state.id == State.PRIMARY_STATE_UNCONFIGURED
    finally:
        executor.remove_node(managed)
        managed.destroy_node()
