"""Plans patrols on the newest map: action `plan_patrol`, topic `plan`."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass, field

import numpy as np
from nav_msgs.msg import OccupancyGrid, Path
from parallel_city_interfaces.action import PlanPatrol
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from parallel_city_ros.errors import ConfigError, ParallelCityError
from parallel_city_ros.nodes import conversions, parameters, qos
from parallel_city_ros.nodes.map_mirror import MapMirror
from parallel_city_ros.nodes.runtime import CityNode, run
from parallel_city_ros.planning.planner import PlanOutcome, PlanRequest, PlanStatus, plan, warm_up
from parallel_city_ros.settings import check, flatten, setting

RESULT = PlanPatrol.Result
HAND_OUT_S = 5.0            # wall time in which a goal that is told to end has ended
WEIGHTS_TIMEOUT_S = 2.0     # wall time
STATUS_TO_ROS = {
    PlanStatus.SUCCEEDED: RESULT.SUCCEEDED, PlanStatus.CANCELLED: RESULT.CANCELLED,
    PlanStatus.TIMEOUT: RESULT.TIMEOUT, PlanStatus.NO_VALID_PATH: RESULT.NO_VALID_PATH,
    PlanStatus.START_OCCUPIED: RESULT.START_OCCUPIED,
    PlanStatus.GOAL_OCCUPIED: RESULT.GOAL_OCCUPIED, PlanStatus.OUTSIDE_MAP: RESULT.OUTSIDE_MAP}


@dataclass(frozen=True, kw_only=True)
class PlannerServerConfig:
    map_timeout_s: float = setting(10.0, "s of wall time to wait for a map", above=0)
    weights_topic: str = setting("cpss/coverage", "worth of the ground; '': 1 everywhere")

    def __post_init__(self):
        check(self)


@dataclass
class _Job:
    """One goal on its way; superseded is set when it has to hand out what it has."""

    before: list[_Job]
    superseded: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


class PlannerServer(CityNode):
    def __init__(self):
        super().__init__("planner_server")
        parameters.declare(self, PlannerServerConfig)
        parameters.declare(self, PlanRequest)       # with its task, as task.*
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._map = None

    def setup(self):
        self._config = parameters.read(self, PlannerServerConfig)
        self._defaults = {s.name: self.get_parameter(s.name).value for s in flatten(PlanRequest)}
        # Said now, not at the first goal: a default that is out of range.
        conversions.request_from_ros(conversions.ANY_GOAL, self._defaults)
        warm_up()
        self._group = ReentrantCallbackGroup()
        self._map = MapMirror(self)
        self._weights: dict[str, np.ndarray] = {}
        self._weights_came = threading.Condition()
        self._weight_subscriptions = {}
        if self._config.weights_topic:
            self._listen_to_weights(self._config.weights_topic)
        self._path = self.create_lifecycle_publisher(Path, "plan", qos.LATCHED)
        self._server = ActionServer(
            self, PlanPatrol, "plan_patrol", self._execute, callback_group=self._group,
            goal_callback=self._on_goal, handle_accepted_callback=self._on_accepted,
            cancel_callback=lambda goal: CancelResponse.ACCEPT)

    def stop(self):
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.superseded.set()
        for job in jobs:
            job.done.wait(HAND_OUT_S)

    def teardown(self):
        if self._map is None:
            return
        self._server.destroy()
        self._map.destroy()
        for subscription in self._weight_subscriptions.values():
            self.destroy_subscription(subscription)
        self.destroy_lifecycle_publisher(self._path)
        self._map = None

    def _listen_to_weights(self, topic):
        if topic not in self._weight_subscriptions:
            self._weight_subscriptions[topic] = self.create_subscription(
                OccupancyGrid, topic, lambda msg: self._on_weights(topic, msg), qos.LATCHED,
                callback_group=self._group)

    def _on_weights(self, topic, msg):
        try:
            weights = conversions.weights_from_ros(msg)
        except ConfigError as error:
            self.get_logger().error(f"{topic}: {error}")
            return
        with self._weights_came:
            self._weights[topic] = weights
            self._weights_came.notify_all()

    def _on_goal(self, goal):
        if not self.active:
            self.get_logger().warning("goal rejected: the planner is not active")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle):
        with self._lock:
            handle.job = _Job(before=list(self._jobs))
            self._jobs.append(handle.job)
        for job in handle.job.before:      # the newest goal pre-empts
            job.superseded.set()
        handle.execute()

    def _execute(self, handle):
        job = handle.job
        try:
            for other in job.before:
                other.done.wait(HAND_OUT_S)
            try:
                result, ended = self._plan(handle, job)
            except Exception as error:      # rclpy would answer with an empty result
                self.get_logger().error(traceback.format_exc())
                result, ended = RESULT(message=f"the planner failed: {error!r}"), "abort"
            getattr(handle, ended)()
            return result
        finally:
            with self._lock:
                self._jobs.remove(job)
            job.before.clear()
            job.done.set()

    def _plan(self, handle, job):
        """The result, and how the goal ends: succeed, abort or canceled."""
        try:
            request = conversions.request_from_ros(handle.request, self._defaults)
            grid = self._map.wait(self._config.map_timeout_s)
            if grid is None:
                return RESULT(status=RESULT.OUTSIDE_MAP, message=(
                    f"no map came within {self._config.map_timeout_s:g} s; is twin_map_server "
                    "active?")), "abort"
            outcome = plan(
                grid, request, weights=self._weights_for(handle.request.weights_topic, grid),
                on_progress=lambda p: handle.publish_feedback(conversions.progress_to_ros(p)),
                cancelled=lambda: handle.is_cancel_requested or job.superseded.is_set())
        except ParallelCityError as error:
            return RESULT(status=RESULT.BAD_REQUEST, message=str(error)), "abort"
        result = self._result(outcome)
        if handle.is_cancel_requested:
            return result, "canceled"
        if job.superseded.is_set():
            result.message = f"a newer goal came, or the planner was deactivated; {result.message}"
            return result, "abort"
        useful = outcome.plan is not None
        return result, "succeed" if useful else "abort"

    def _weights_for(self, asked, grid):
        """Worth of the ground from the topic that was asked for, or the node's.

        None, which is 1 everywhere, if nobody has said anything on the node's own topic.
        """
        topic = asked or self._config.weights_topic
        if asked and asked not in self._weights:
            self._listen_to_weights(asked)
            with self._weights_came:    # latched: there at once or not at all
                self._weights_came.wait_for(lambda: asked in self._weights, WEIGHTS_TIMEOUT_S)
            if asked not in self._weights:
                raise ConfigError(f"no weights came on {asked} within {WEIGHTS_TIMEOUT_S:g} s; "
                                  "they must be published latched (transient local)")
        weights = self._weights.get(topic)
        if weights is not None and weights.shape != grid.surface.shape:
            raise ConfigError(f"weights on {topic} are for {weights.shape} cells, the map has "
                              f"{grid.surface.shape}")
        return weights

    def _result(self, outcome: PlanOutcome):
        result = RESULT(status=STATUS_TO_ROS[outcome.status], message=outcome.message)
        stamp = self.get_clock().now().to_msg()
        if outcome.plan is not None:
            result.plan = conversions.plan_to_ros(outcome.plan, stamp)
            self._path.publish(conversions.path_to_ros(outcome.plan.path, stamp))
        result.statistics_json = conversions.history_to_json(outcome.history)
        self.get_logger().info(f"{outcome.status.value}: {outcome.message}")
        return result


def main(args=None):
    raise SystemExit(run(PlannerServer, args))


if __name__ == "__main__":
    main()
