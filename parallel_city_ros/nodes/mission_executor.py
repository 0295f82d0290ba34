"""Flies plans with one drone: action `fly_patrol`, state topics, pause, resume, return, land.

One process, one drone: MAVSDK's native library takes its process along if it fails. Stamps of
`flown_path`'s poses are vehicle time, everything else is stamped with the node's clock.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path as FilePath

from nav_msgs.msg import Odometry, Path
from parallel_city_interfaces.action import FlyPatrol
from parallel_city_interfaces.msg import PatrolPlan
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from sensor_msgs.msg import BatteryState, NavSatFix
from std_msgs.msg import String
from std_srvs.srv import Trigger

from parallel_city_ros.errors import LinkError, PlanError
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.guard import Guard, GuardWatch
from parallel_city_ros.flight.outcome import FlightStatus
from parallel_city_ros.flight.state import TERMINAL, FlightState
from parallel_city_ros.nodes import conversions, parameters, qos
from parallel_city_ros.nodes.map_mirror import MapMirror
from parallel_city_ros.nodes.runtime import CityNode, run
from parallel_city_ros.patrol.plan import PatrolPlan as Plan
from parallel_city_ros.settings import check, setting

RESULT = FlyPatrol.Result
STATUS_TO_ROS = {
    FlightStatus.COMPLETED: RESULT.COMPLETED, FlightStatus.RETURNED: RESULT.RETURNED,
    FlightStatus.LANDED_EARLY: RESULT.LANDED_EARLY, FlightStatus.CANCELLED: RESULT.CANCELLED,
    FlightStatus.FAILED: RESULT.FAILED, FlightStatus.REFUSED: RESULT.REFUSED}
ATTEMPT_S = 3.0         # wall, of one attempt to find the autopilot
RECONNECT_S = 1.0       # wall, between two of them
FIND_S = 3.0            # wall, in which a drone in the air tells that it is
PROMISE_S = 2.0         # wall, from accepting a goal to beginning it
STOP_S = 15.0           # wall, from deactivation in flight to seeing the drone return
# Before these are over the plan may still be refused; then nobody is told that it is flown.
UNCERTIFIED = {FlightState.DISCONNECTED, FlightState.READY, *TERMINAL}
GOING_HOME = {FlightState.RETURNING, FlightState.LANDING, FlightState.LANDED, FlightState.FAILED}


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    state_rate_hz: float = setting(10.0, "Hz of wall time, of odom and fix", above=0, high=100)
    path_rate_hz: float = setting(2.0, "Hz of wall time, of flown_path", above=0, high=20)
    map_timeout_s: float = setting(10.0, "s of wall time to wait for a map", above=0)
    state_folder: str = setting("", "folder where the plan that is flown is kept, so that a "
                                "restarted node finds its drone and goes on; '': not")

    def __post_init__(self):
        check(self)


class MissionExecutor(CityNode):
    def __init__(self):
        super().__init__("mission_executor")
        parameters.declare(self, ExecutorConfig)
        parameters.declare(self, FlightConfig)
        self._autopilot = self._flight = self._guard = self._map = None
        self._claimed = False       # by a flight that goes on
        self._promised_until = -math.inf    # wall, to a goal that was accepted and has not begun
        self._lock = threading.Lock()
        self._map_lock = threading.Lock()
        self._ending = threading.Event()
        logging.getLogger("parallel_city_ros").addHandler(_ToRosLog(self.get_logger()))

    def setup(self):
        self._config = parameters.read(self, ExecutorConfig)
        self._flight_config = parameters.read(self, FlightConfig)
        self._base_link = f"{self.get_namespace().strip('/')}/base_link".lstrip("/")
        self._group = ReentrantCallbackGroup()
        self._map = MapMirror(self, self._on_map)
        publisher = self.create_lifecycle_publisher
        self._odom = publisher(Odometry, "odom", qos.SENSOR)
        self._fix = publisher(NavSatFix, "fix", qos.SENSOR)
        self._battery = publisher(BatteryState, "battery_state", qos.SENSOR)
        self._flown_path = publisher(Path, "flown_path", qos.LATCHED)
        self._plan = publisher(PatrolPlan, "patrol_plan", qos.LATCHED)
        self._phase = publisher(String, "flight_state", qos.LATCHED)
        self._tf = _transform_broadcaster(self)
        self._offered = [
            self.create_service(Trigger, name, self._on_request(name), callback_group=self._group)
            for name in ("pause", "resume", "return", "land")]
        self._clocked = [
            self.create_timer(1 / self._config.state_rate_hz, self._publish_state),
            self.create_timer(1 / self._config.path_rate_hz, self._publish_path)]
        self._server = ActionServer(
            self, FlyPatrol, "fly_patrol", self._execute, callback_group=self._group,
            goal_callback=self._on_goal, handle_accepted_callback=self._on_accepted,
            cancel_callback=lambda goal: CancelResponse.ACCEPT)

    def start(self):
        self._ending.clear()
        self._autopilot = Autopilot(command_timeout_s=self._flight_config.command_timeout_s)
        self._connected = threading.Event()
        self._connector = threading.Thread(target=self._connect, daemon=True)
        self._connector.start()

    def stop(self):
        """A flight that goes on is sent home; the autopilot does the rest without us."""
        self._ending.set()
        flight = self._flight
        if flight is not None:
            self.get_logger().warning("deactivated in flight: the drone returns")
            deadline = time.monotonic() + STOP_S
            while flight.state not in GOING_HOME and time.monotonic() < deadline \
                    and self._autopilot.snapshot.link_age_s < self._flight_config.link_timeout_s:
                time.sleep(0.05)
            self.get_logger().warning(f"left while {flight.state.value}")
            flight.leave()
        self._connector.join(ATTEMPT_S + RECONNECT_S)
        self._autopilot.close()

    def teardown(self):
        if self._map is None:
            return
        self._server.destroy()
        self._map.destroy()
        for service in self._offered:
            self.destroy_service(service)
        for timer in self._clocked:
            self.destroy_timer(timer)
        for publisher in (self._odom, self._fix, self._battery, self._flown_path, self._plan,
                          self._phase):
            self.destroy_lifecycle_publisher(publisher)
        self._map = None

    def _connect(self):
        config, said = self._flight_config, ""
        while not self._ending.is_set():
            try:
                # In short attempts, so that the end need not wait for a long one.
                self._autopilot.connect(config.address,
                                        min(config.connect_timeout_s, ATTEMPT_S),
                                        rate_hz=config.telemetry_rate_hz,
                                        system_id=config.system_id)
            except LinkError as error:
                if str(error) != said:
                    self.get_logger().warning(f"{error}; trying on")
                said = str(error)
                self._ending.wait(RECONNECT_S)
            else:
                self.get_logger().info(f"autopilot heard at {config.address}")
                self._connected.set()
                self._go_on()
                return

    # the flight

    def _on_goal(self, goal):
        with self._lock:
            if not self.active or self._claimed or time.monotonic() < self._promised_until:
                self.get_logger().warning(
                    "goal rejected: " + ("the drone is flying a plan; cancel that first"
                                         if self.active else "the executor is not active"))
                return GoalResponse.REJECT
            # Not claimed yet: rclpy drops a goal whose acceptance cannot be told.
            self._promised_until = time.monotonic() + PROMISE_S
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle):
        with self._lock:
            taken, self._claimed = self._claimed, True
            self._promised_until = -math.inf
        if not taken:
            handle.execute()
        else:       # its promise had run out, and another one flies
            handle.execute(lambda handle: self._busy(handle))

    def _busy(self, handle):
        handle.abort()
        return RESULT(status=RESULT.REFUSED, message="the drone is flying another plan")

    def _execute(self, handle):
        try:
            result = self._fly(handle)
        except Exception as error:      # rclpy would answer with an empty result
            self.get_logger().error(traceback.format_exc())
            result = RESULT(status=RESULT.FAILED, message=f"the executor failed: {error!r}")
        finally:
            self._flight = None
            with self._lock:
                self._claimed = False
        self.get_logger().info(f"{handle.request.plan.planner_id} flight: {result.message}")
        if result.status == RESULT.COMPLETED:
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    def _fly(self, handle):
        try:
            plan = conversions.plan_from_ros(handle.request.plan)
        except PlanError as error:
            return RESULT(status=RESULT.REFUSED, message=str(error))
        return self._fly_plan(plan, handle)

    def _keep(self, plan):
        """The plan that is flown, for whoever comes after us; None: no flight goes on."""
        if not self._config.state_folder:
            return
        file = self._state_file()
        if plan is None:
            file.unlink(missing_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            plan.save(file)

    def _state_file(self):
        name = self.get_namespace().strip("/").replace("/", "_") or "drone"
        return FilePath(self._config.state_folder) / f"{name}.plan.json"

    def _go_on(self):
        """The drone is in the air with a plan that was kept: an earlier run of this node ended."""
        if not self._config.state_folder or not self._state_file().exists():
            return
        deadline = time.monotonic() + FIND_S
        while not self._autopilot.snapshot.in_air:
            if time.monotonic() > deadline or self._ending.wait(0.1):
                self._keep(None)
                return
        with self._lock:
            if self._claimed:
                return
            self._claimed = True
        try:
            plan = Plan.load(self._state_file())
            self.get_logger().warning("in the air with a kept plan: going on with it")
            result = self._fly_plan(plan, None)
            self.get_logger().info(f"flight that was found: {result.message}")
        except Exception:
            self.get_logger().error(traceback.format_exc())
        finally:
            self._flight = None
            with self._lock:
                self._claimed = False

    def _fly_plan(self, plan, handle):
        """handle : of the goal; None: a flight that was found goes on"""
        config = self._config
        if not self._connected.wait(self._flight_config.connect_timeout_s):
            return RESULT(status=RESULT.REFUSED, message=(
                f"no autopilot was heard at {self._flight_config.address}"))
        grid = self._map.wait(config.map_timeout_s, at_least=plan.map_update)
        if grid is None:
            return RESULT(status=RESULT.REFUSED, message=(
                f"no map that holds update {plan.map_update}, on which the plan was made, came "
                f"within {config.map_timeout_s:g} s; is twin_map_server active?"))
        guard = GuardWatch(Guard(plan, grid, self._flight_config), self._autopilot,
                           self._flight_config)
        flight = PatrolFlight(plan, grid, self._autopilot, self._flight_config,
                              lambda: guard.reason)
        self._keep(plan)
        with self._map_lock:    # what changes from here on reaches the flight, nothing is between
            self._flight, self._guard = flight, guard
            self._heed(self._map.grid)
        self._flown_path.publish(conversions.track_to_ros(flight.flown, self._stamp()))
        self._say(FlightState.READY)
        said, told = [FlightState.READY], threading.Event()

        def on_progress(progress):
            if not told.is_set() and progress.state not in UNCERTIFIED:
                told.set()
                self._plan.publish(conversions.plan_to_ros(plan, self._stamp()))
            if progress.state is not said[-1] and progress.state not in TERMINAL:
                said.append(progress.state)
                self._say(progress.state)
            if handle is not None:
                handle.publish_feedback(conversions.flight_progress_to_ros(progress))

        with guard if self._flight_config.guard.enabled else nullcontext():
            outcome = flight.run(on_progress, lambda: self._ending.is_set() or (
                handle is not None and handle.is_cancel_requested))
        self._keep(None)
        # The whole track before the last word, so that who hears it has all of it.
        self._flown_path.publish(conversions.track_to_ros(outcome.flown, self._stamp()))
        self._say(flight.state)
        return conversions.outcome_to_ros(outcome, STATUS_TO_ROS[outcome.status], self._stamp())

    def _on_request(self, name):
        def serve(request, response):
            flight = self._flight
            response.success = flight is not None
            if flight is None:
                response.message = "no flight goes on"
            else:
                {"pause": flight.pause, "resume": flight.resume,
                 "return": flight.return_home, "land": flight.land}[name]()
                response.message = f"{name} is asked for; flight_state says when it is done"
            return response
        return serve

    def _on_map(self, grid, update):
        with self._map_lock:
            if self._flight is not None:
                self._heed(grid)

    def _heed(self, grid):
        self._flight.update_map(grid)
        self._guard.update_map(grid)

    # what is published

    def _stamp(self):
        return self.get_clock().now().to_msg()

    def _say(self, state):
        self._phase.publish(String(data=state.value))

    def _publish_path(self):
        flight = self._flight
        if self.active and flight is not None:
            self._flown_path.publish(conversions.track_to_ros(flight.flown, self._stamp()))

    def _publish_state(self):
        if not self.active or not self._connected.is_set():
            return
        telemetry, stamp = self._autopilot.snapshot, self._stamp()
        if not math.isfinite(telemetry.latitude_deg):
            return
        self._fix.publish(conversions.fix_to_ros(telemetry, stamp, self._base_link))
        self._battery.publish(conversions.battery_to_ros(telemetry, stamp, self._base_link))
        grid = self._map.grid
        if grid is None:
            return
        odometry = conversions.odometry_to_ros(telemetry, grid, stamp, self._base_link)
        self._odom.publish(odometry)
        if self._tf is not None:
            self._tf.sendTransform(conversions.transform_to_ros(odometry))


def _transform_broadcaster(node):
    """None where tf2 is not installed, as on a plain machine."""
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError:
        return None
    return TransformBroadcaster(node)


class _ToRosLog(logging.Handler):
    """What the flight package logs goes to the node's log."""

    def __init__(self, logger):
        super().__init__(logging.INFO)
        self._logger = logger
        logging.getLogger("parallel_city_ros").setLevel(logging.INFO)

    def emit(self, record):
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def main(args=None):
    code = run(MissionExecutor, args)
    sys.stdout.flush()
    sys.stderr.flush()
    # A call into MAVSDK's native library may never return once the drone is gone, and Python
    # would wait for its thread.
    os._exit(code)


if __name__ == "__main__":
    main()
