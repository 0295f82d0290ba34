"""Flies plans with one drone: action `fly_patrol`; pause, resume, skip, return, land; its state.

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
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from nav_msgs.msg import Odometry, Path
from parallel_city_interfaces.action import FlyPatrol
from parallel_city_interfaces.msg import PatrolPlan
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from sensor_msgs.msg import BatteryState, NavSatFix
from std_msgs.msg import String
from std_srvs.srv import Trigger

from parallel_city_ros.cpss.resume import PatrolMemory
from parallel_city_ros.errors import ConfigError, LinkError, PlanError
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
ANSWER_S = 90.0         # wall, to a skip or a replacement
STOP_S = 15.0           # wall, from deactivation in flight to seeing the drone return
# Before these are over the plan may still be refused; then nobody is told that it is flown.
UNCERTIFIED = {FlightState.DISCONNECTED, FlightState.READY, *TERMINAL}
GOING_HOME = {FlightState.RETURNING, FlightState.LANDING, FlightState.LANDED, FlightState.FAILED}


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    state_rate_hz: float = setting(10.0, "Hz of wall time, of odom and fix, at most: as often "
                                   "as the drone tells where it is", above=0, high=100)
    path_rate_hz: float = setting(2.0, "Hz of wall time, of flown_path", above=0, high=20)
    map_timeout_s: float = setting(10.0, "s of wall time to wait for a map", above=0)
    state_folder: str = setting("", "folder where the plan that is flown is kept, so that a "
                                "restarted node finds its drone and goes on; '': not")

    def __post_init__(self):
        check(self)


@dataclass(eq=False)
class _Sortie:
    """A flight that goes on, and whose goal it is.

    handle : of the newest goal; None: it was found in the air
    asked : the plan as it came, of which plan may be the rest
    """

    plan: Plan
    asked: Plan
    grid: object
    flight: PatrolFlight
    guard: GuardWatch
    handle: object
    done: threading.Event = field(default_factory=threading.Event)
    result: FlyPatrol.Result | None = None


class MissionExecutor(CityNode):
    def __init__(self):
        super().__init__("mission_executor")
        parameters.declare(self, ExecutorConfig)
        parameters.declare(self, FlightConfig)
        self._autopilot = self._map = self._sortie = None
        self._told_wall_s = 0.0     # position that was published last
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
        self._memory = PatrolMemory(self._config.state_folder, self._file_name())
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
            for name in ("pause", "resume", "skip", "return", "land")]
        self._position_came = self.create_guard_condition(self._publish_state)
        self._path_timer = self.create_timer(1 / self._config.path_rate_hz, self._publish_path)
        self._server = ActionServer(
            self, FlyPatrol, "fly_patrol", self._execute, callback_group=self._group,
            goal_callback=self._on_goal, handle_accepted_callback=self._on_accepted,
            cancel_callback=lambda goal: CancelResponse.ACCEPT)

    def start(self):
        self._ending.clear()
        self._autopilot = Autopilot(command_timeout_s=self._flight_config.command_timeout_s,
                                    on_position=self._position_came.trigger)
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
        self.destroy_timer(self._path_timer)
        self.destroy_guard_condition(self._position_came)
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
            if self.active and goal.replace and self._flight is not None:
                return GoalResponse.ACCEPT
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
            sortie = self._sortie
            if handle.request.replace and sortie is not None:
                handle.execute(lambda handle: self._execute(handle, sortie))
                return
            taken, self._claimed = self._claimed, True
            self._promised_until = -math.inf
        if not taken:
            handle.execute()
        else:       # its promise had run out, and another one flies
            handle.execute(lambda handle: self._busy(handle))

    def _busy(self, handle):
        handle.abort()
        return RESULT(status=RESULT.REFUSED, message="the drone is flying another plan")

    def _execute(self, handle, sortie=None):
        """sortie : whose plan is to be replaced; None: a flight is to begin"""
        try:
            plan = conversions.plan_from_ros(handle.request.plan)
            result = self._replace(sortie, plan, handle) if sortie else \
                self._fly_plan(plan, handle, handle.request.resume)
        except (PlanError, ConfigError) as error:
            result = RESULT(status=RESULT.REFUSED, message=str(error))
        except Exception as error:      # rclpy would answer with an empty result
            self.get_logger().error(traceback.format_exc())
            result = RESULT(status=RESULT.FAILED, message=f"the executor failed: {error!r}")
        finally:
            self._release()
        self.get_logger().info(f"{handle.request.plan.planner_id} flight: {result.message}")
        if result.status == RESULT.COMPLETED:
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    @property
    def _flight(self):
        return self._sortie.flight if self._sortie is not None else None

    def _release(self):
        """The drone is free for another plan, unless it flies one."""
        with self._lock:
            if self._sortie is None:
                self._claimed = False

    def _replace(self, sortie, plan, handle):
        if self._map.wait(self._config.map_timeout_s, at_least=plan.map_update) is None:
            return self._no_map(plan)
        why = sortie.flight.replace(plan).result(ANSWER_S)
        if why:
            return RESULT(status=RESULT.REFUSED, message=why)
        sortie.plan = sortie.asked = plan
        sortie.handle = handle
        self._keep(plan)
        self._plan.publish(conversions.plan_to_ros(plan, self._stamp()))
        return self._await(sortie, handle)

    def _await(self, sortie, handle):
        """The result of a flight, or that it is another goal's now."""
        while not sortie.done.wait(0.05):
            if handle is not None and sortie.handle is not handle:
                return RESULT(status=RESULT.REPLACED,
                              message="another plan is flown instead of the rest of this one")
        return sortie.result

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

    def _file_name(self):
        return self.get_namespace().strip("/").replace("/", "_") or "drone"

    def _state_file(self):
        return FilePath(self._config.state_folder) / f"{self._file_name()}.plan.json"

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
            result = self._fly_plan(plan, None, False)
            self.get_logger().info(f"flight that was found: {result.message}")
        except Exception:
            self.get_logger().error(traceback.format_exc())
        finally:
            self._release()

    def _fly_plan(self, asked, handle, resumed):
        """handle : of the goal; None: a flight that was found goes on"""
        if not self._connected.wait(self._flight_config.connect_timeout_s):
            return RESULT(status=RESULT.REFUSED, message=(
                f"no autopilot was heard at {self._flight_config.address}"))
        grid = self._map.wait(self._config.map_timeout_s, at_least=asked.map_update)
        if grid is None:
            return self._no_map(asked)
        plan = self._memory.rest(asked, grid) if resumed else asked
        if handle is not None and not resumed:
            self._memory.begin(asked)
        guard = GuardWatch(Guard(plan, grid, self._flight_config), self._autopilot,
                           self._flight_config)
        flight = PatrolFlight(plan, grid, self._autopilot, self._flight_config,
                              lambda: guard.reason, guard.update_route)
        sortie = _Sortie(plan, asked, grid, flight, guard, handle)
        self._keep(plan)
        with self._map_lock:    # what changes from here on reaches the flight, nothing is between
            self._sortie = sortie
            self._heed(self._map.grid)
        self._flown_path.publish(conversions.track_to_ros(flight.flown, self._stamp()))
        self._say(FlightState.READY)
        self._plan.publish(conversions.plan_to_ros(plan, self._stamp()))
        # On a thread of its own: it outlives the goal if another one replaces the plan.
        threading.Thread(target=self._run, args=(sortie,), daemon=True).start()
        return self._await(sortie, handle)

    def _no_map(self, plan):
        return RESULT(status=RESULT.REFUSED, message=(
            f"no map that holds update {plan.map_update}, on which the plan was made, came "
            f"within {self._config.map_timeout_s:g} s; is twin_map_server active?"))

    def _run(self, sortie):
        said = [FlightState.READY]

        def on_progress(progress):
            if progress.state is not said[-1] and progress.state not in TERMINAL:
                said.append(progress.state)
                self._say(progress.state)
            if sortie.handle is not None:
                sortie.handle.publish_feedback(conversions.flight_progress_to_ros(progress))

        flight = sortie.flight
        try:
            with sortie.guard if self._flight_config.guard.enabled else nullcontext():
                outcome = flight.run(on_progress, lambda: self._ending.is_set() or (
                    sortie.handle is not None and sortie.handle.is_cancel_requested))
            self._keep(None)
            # The whole track before the last word, so that who hears it has all of it.
            self._flown_path.publish(conversions.track_to_ros(outcome.flown, self._stamp()))
            self._say(flight.state)
            self._memory.record(sortie.asked, sortie.grid, outcome.flown[:, 1:], time.time())
            sortie.result = conversions.outcome_to_ros(outcome, STATUS_TO_ROS[outcome.status],
                                                       self._stamp())
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            sortie.result = RESULT(status=RESULT.FAILED,
                                   message=f"the executor failed: {error!r}")
        finally:
            self._sortie = None
            self._release()
            sortie.done.set()

    def _on_request(self, name):
        def serve(request, response):
            flight = self._flight
            response.success = flight is not None
            if flight is None:
                response.message = "no flight goes on"
            elif name == "skip":
                why = flight.skip().result(ANSWER_S)
                response.success = not why
                response.message = why or "it flies to the next waypoint but one"
            else:
                {"pause": flight.pause, "resume": flight.resume,
                 "return": flight.return_home, "land": flight.land}[name]()
                response.message = f"{name} is asked for; flight_state says when it is done"
            return response
        return serve

    def _on_map(self, grid, update):
        with self._map_lock:
            self._heed(grid)

    def _heed(self, grid):
        sortie = self._sortie
        if sortie is not None:
            sortie.flight.update_map(grid)
            sortie.guard.update_map(grid)

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
        telemetry = self._autopilot.snapshot
        # At once when it comes; never an old place as if it were a new one.
        if telemetry.position_wall_s - self._told_wall_s < 0.9 / self._config.state_rate_hz:
            return
        self._told_wall_s, stamp = telemetry.position_wall_s, self._stamp()
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
