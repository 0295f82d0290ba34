"""How every node starts, becomes active and ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from functools import partial

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from parallel_city_ros.errors import ParallelCityError

ENDS_WITH_PARENT = "PARALLEL_CITY_ENDS_WITH_PARENT"     # environment: process id of the parent
LOOK_S = 0.2    # wall, between two looks at signals and parent
END_S = 5.0     # wall, for callbacks to return
THREADS = 6     # callbacks that may wait at the same time: an action, its cancel, services


class CityNode(LifecycleNode):
    """A lifecycle node whose `setup`, `start`, `stop` and `teardown` say what it does.

    Where nothing manages it, as on a plain machine, parameter `autostart` takes it to active.
    An error in a transition is logged and makes the transition fail; `failure` is the last one.
    """

    def __init__(self, name: str, **options):
        super().__init__(name, **options)
        self.declare_parameter("autostart", True)
        self.active = False
        self.failure = ""
        changes = self._service_change_state
        changes.callback = partial(self._answer_change, changes.callback)

    def _answer_change(self, change, request, response):
        """rclpy raises out of spin, and so ends the node, if a transition is not possible."""
        try:
            return change(request, response)
        except RCLError as error:
            self.get_logger().error(f"transition refused: {error}")
            response.success = False
            return response

    def setup(self) -> None:
        """Read parameters, make publishers and services."""

    def start(self) -> None:
        """Begin to serve."""

    def stop(self) -> None:
        """Cease to serve; what runs is ended."""

    def teardown(self) -> None:
        """Undo setup."""

    def _transition(self, action) -> TransitionCallbackReturn:
        try:
            return action() or TransitionCallbackReturn.SUCCESS
        except ParallelCityError as error:
            self.failure, done = str(error), TransitionCallbackReturn.FAILURE
        except Exception:   # rclpy makes it an ERROR without a word
            self.failure, done = traceback.format_exc(), TransitionCallbackReturn.ERROR
        self.get_logger().error(self.failure)
        return done

    def on_configure(self, state):
        return self._transition(self.setup)

    def on_activate(self, state):
        success = TransitionCallbackReturn.SUCCESS
        done = self._transition(self.start)
        if done == success:
            done = self._transition(lambda: super(CityNode, self).on_activate(state))
        self.active = done == success
        return done

    def on_deactivate(self, state):
        self.active = False
        self._transition(self.stop)
        return self._transition(lambda: super(CityNode, self).on_deactivate(state))

    def on_cleanup(self, state):
        return self._transition(self.teardown)

    def on_shutdown(self, state):
        if self.active:
            self.active = False
            self._transition(self.stop)
        return self._transition(self.teardown)

    def autostart(self) -> bool:
        """False if it should have become active and did not."""
        if not self.get_parameter("autostart").value:
            return True
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success


def run(node_class, args=None) -> int:
    """Run one node until it is told to end (SIGINT, SIGTERM) or its parent is gone.

    The exit code is 0, or 2 if the node could not start; stderr says why, whether logs go there
    or not.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    parent = int(os.environ.get(ENDS_WITH_PARENT) or 0)
    node, executor = None, MultiThreadedExecutor(num_threads=THREADS)
    try:
        node = node_class()
        executor.add_node(node)
        managed = isinstance(node, CityNode)
        if managed and not node.autostart():
            print(f"{node_class.__name__} did not start: {node.failure or 'see its log'}",
                  file=sys.stderr, flush=True)
            return 2
        while not ended.is_set() and parent in (0, os.getppid()):
            try:
                executor.spin_once(timeout_sec=LOOK_S)
            except Exception:   # of one callback: a malformed message must not end the node
                node.get_logger().error(f"a callback failed: {traceback.format_exc()}")
        if managed and node.active:
            node.trigger_deactivate()
        return 0
    except ParallelCityError as error:
        print(f"{node_class.__name__}: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        # Callbacks end before what they use is destroyed.
        executor.shutdown(timeout_sec=END_S)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
