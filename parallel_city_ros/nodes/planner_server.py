"""Plans patrols on the newest map: action `plan_patrol`; topics `plan` and `patrol_plan`.

The newest plan stands until another one comes. When a change of the map breaks it, that is said,
and with `replan` it is repaired: searched for again, from what it was, and published anew.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from nav_msgs.msg import MapMetaData, OccupancyGrid, Path
from parallel_city_interfaces.action import PlanPatrol
from parallel_city_interfaces.msg import PatrolPlan as PatrolPlanMsg
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError, ParallelCityError
from parallel_city_ros.nodes import conversions, parameters, qos
from parallel_city_ros.nodes.map_mirror import MapMirror
from parallel_city_ros.nodes.runtime import CityNode, run
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.planning.planner import (
    WITH_FRONT,
    PlanOutcome,
    PlanRequest,
    PlanStatus,
    plan,
    warm_up,
)
from parallel_city_ros.settings import check, flatten, setting

RESULT = PlanPatrol.Result
HAND_OUT_S = 5.0            # wall time in which a goal that is told to end has ended
LAYER_TIMEOUT_S = 2.0       # wall time
CANCEL_LOOK_S = 0.05        # wall time between two looks at a cancel, while a map is waited for
STATUS_TO_ROS = {
    PlanStatus.SUCCEEDED: RESULT.SUCCEEDED, PlanStatus.CANCELLED: RESULT.CANCELLED,
    PlanStatus.TIMEOUT: RESULT.TIMEOUT, PlanStatus.NO_VALID_PATH: RESULT.NO_VALID_PATH,
    PlanStatus.START_OCCUPIED: RESULT.START_OCCUPIED,
    PlanStatus.GOAL_OCCUPIED: RESULT.GOAL_OCCUPIED, PlanStatus.OUTSIDE_MAP: RESULT.OUTSIDE_MAP}


@dataclass(frozen=True, kw_only=True)
class PlannerServerConfig:
    map_timeout_s: float = setting(10.0, "s of wall time to wait for a map", above=0)
    weights_topic: str = setting("cpss/coverage", "worth of the ground; '': 1 everywhere")
    noise_topic: str = setting("city_map/noise", "how often what is heard where counts, with "
                               "task.noise_model level; '': once everywhere")
    replan: str = setting("off", "when a change of the map breaks the newest plan: off, to say so "
                          "only, or publish, of a repaired one", choices=("off", "publish"))
    replan_time_s: float = setting(5.0, "s of wall time that a repair may take", above=0)

    def __post_init__(self):
        check(self)


class _Layer(NamedTuple):
    """A value for each column of the map, from a latched topic."""

    topic: str
    from_ros: Callable[[OccupancyGrid], np.ndarray]


def _worth(topic: str) -> _Layer:
    return _Layer(topic, conversions.weights_from_ros)


@dataclass
class _Job:
    """One goal or repair on its way; superseded is set when it has to hand out what it has."""

    before: list[_Job] = field(default_factory=list)
    superseded: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class _Standing:
    """The newest plan and what it was asked for with; heeded: the newest map that it was held
    against."""

    plan: PatrolPlan
    request: PlanRequest
    weights_topic: str
    heeded: VoxelGrid | None = None


class PlannerServer(CityNode):
    def __init__(self):
        super().__init__("planner_server")
        parameters.declare(self, PlannerServerConfig)
        parameters.declare(self, PlanRequest)       # with its task, as task.*
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._map = None
        self._standing: _Standing | None = None

    def setup(self):
        self._config = parameters.read(self, PlannerServerConfig)
        self._defaults = {s.name: self.get_parameter(s.name).value for s in flatten(PlanRequest)}
        # Said now, not at the first goal: a default that is out of range.
        conversions.request_from_ros(conversions.ANY_GOAL, self._defaults)
        warm_up()
        self._group = ReentrantCallbackGroup()
        self._map = MapMirror(self, self._heed_map)
        self._came: dict[_Layer, tuple[np.ndarray, MapMetaData]] = {}
        self._some_came = threading.Condition()
        self._layer_subscriptions = {}
        self._noise = _Layer(self._config.noise_topic, conversions.noise_from_ros)
        for layer in (_worth(self._config.weights_topic), self._noise):
            if layer.topic:
                self._listen_to(layer)
        self._path = self.create_lifecycle_publisher(Path, "plan", qos.LATCHED)
        self._whole_plan = self.create_lifecycle_publisher(PatrolPlanMsg, "patrol_plan",
                                                           qos.LATCHED)
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
        for subscription in self._layer_subscriptions.values():
            self.destroy_subscription(subscription)
        for publisher in (self._path, self._whole_plan):
            self.destroy_lifecycle_publisher(publisher)
        self._map = self._standing = None

    def _listen_to(self, layer):
        if layer not in self._layer_subscriptions:
            self._layer_subscriptions[layer] = self.create_subscription(
                OccupancyGrid, layer.topic, partial(self._on_layer, layer), qos.LATCHED,
                callback_group=self._group)

    def _on_layer(self, layer, msg):
        try:
            values = layer.from_ros(msg)
        except ConfigError as error:
            self.get_logger().error(f"{layer.topic}: {error}")
            return
        with self._some_came:
            self._came[layer] = values, msg.info
            self._some_came.notify_all()

    def _wait_for_layer(self, layer) -> bool:
        """Whether it came: latched, it is there at once or not at all."""
        with self._some_came:
            return self._some_came.wait_for(lambda: layer in self._came, LAYER_TIMEOUT_S)

    def _newest(self, layer, grid):
        """(nx, ny) that came last, None if none did. Raises a ConfigError unless it has the cells
        of the map."""
        if layer not in self._came:
            return None
        values, info = self._came[layer]
        if not conversions.lies_over(info, grid):
            place = info.origin.position
            raise ConfigError(
                f"weights on {layer.topic} are for {info.width} x {info.height} cells of "
                f"{info.resolution:g} m from ({place.x:g}, {place.y:g}) m, the map has "
                f"{grid.shape[0]} x {grid.shape[1]} of {grid.resolution:g} m from "
                f"({grid.origin[0]:g}, {grid.origin[1]:g}) m")
        return values

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
            self._end(job)

    def _end(self, job):
        with self._lock:
            self._jobs.remove(job)
        job.before.clear()
        job.done.set()
        if self.active:     # what came while it was busy
            self._heed_map(self._map.grid)

    def _plan(self, handle, job):
        """The result, and how the goal ends: succeed, abort or canceled."""
        def stopped():
            return handle.is_cancel_requested or job.superseded.is_set()
        try:
            goal = handle.request
            request = conversions.request_from_ros(goal, self._defaults)
            if goal.want_front and request.planner_id not in WITH_FRONT:
                raise ConfigError("want_front needs a planner with a Pareto front: "
                                  f"{', '.join(WITH_FRONT)}")
            warm_start = conversions.warm_start_from_ros(goal)
            grid = self._wait_for_map(stopped)
            if grid is None and not stopped():
                return RESULT(status=RESULT.OUTSIDE_MAP, message=(
                    f"no map came within {self._config.map_timeout_s:g} s; is twin_map_server "
                    "active?")), "abort"
            outcome = PlanOutcome(PlanStatus.CANCELLED, "no map had come")
            if grid is not None:
                outcome = self._search(
                    request, goal.weights_topic, warm_start, stopped,
                    lambda p: handle.publish_feedback(conversions.progress_to_ros(p)))
        except ParallelCityError as error:
            return RESULT(status=RESULT.BAD_REQUEST, message=str(error)), "abort"
        result = self._result(outcome, goal.want_front)
        if outcome.plan is not None:
            self._publish(_Standing(outcome.plan, request, goal.weights_topic))
        self.get_logger().info(f"{outcome.status.value}: {outcome.message}")
        if handle.is_cancel_requested:
            return result, "canceled"
        if job.superseded.is_set():
            result.message = f"a newer goal came, or the planner was deactivated; {result.message}"
            return result, "abort"
        return result, "succeed" if outcome.plan is not None else "abort"

    def _wait_for_map(self, stopped) -> VoxelGrid | None:
        deadline = time.monotonic() + self._config.map_timeout_s
        while self._map.grid is None and not stopped() and time.monotonic() < deadline:
            self._map.wait(CANCEL_LOOK_S)
        return self._map.grid

    def _search(self, request: PlanRequest, weights_topic: str, warm_start: PatrolPlan | None,
                stopped: Callable[[], bool], on_progress=lambda progress: None) -> PlanOutcome:
        """A plan on the newest map: one that the map overtakes is repaired in the time left."""
        ends_at = time.monotonic() + request.time_budget_s
        while True:
            grid = self._map.grid
            outcome = plan(
                grid, request, weights=self._weights_for(weights_topic, grid),
                noise_weights=self._noise_for(request, grid),
                warm_start=None if warm_start is None else _path_in(grid, warm_start),
                on_progress=on_progress, cancelled=stopped)
            newest = self._map.grid
            broken = _broken(newest, outcome.plan)
            if not broken:
                return outcome
            said = (f"map update {newest.map_update} came during the search and breaks the plan: "
                    f"{broken}")
            left_s = ends_at - time.monotonic()
            if stopped() or left_s <= 0:
                return replace(outcome, message=f"{outcome.message}; {said}")
            self.get_logger().info(f"{said}; going on from it for {left_s:.1f} s")
            request, warm_start = replace(request, time_budget_s=left_s), outcome.plan

    def _heed_map(self, grid, update=None):
        """Hold the standing plan against the newest map."""
        with self._lock:
            standing = self._standing
            if standing is None or self._jobs or not self.active or standing.heeded is grid:
                return
            standing.heeded = grid
            broken = _broken(grid, standing.plan)
            if not broken:
                return
            job = _Job()
            # in another city its start and goal mean nothing
            publish = self._config.replan == "publish" and grid.map_hash == standing.plan.map_hash
            if publish:
                self._jobs.append(job)
        said = f"map update {grid.map_update} breaks the newest plan: {broken}"
        self.get_logger().warning(f"{said}; " + (
            "it is repaired" if publish else "plan again; replan:=publish repairs plans"))
        if publish:     # not here: it would keep the next change of the map waiting
            threading.Thread(target=self._repair, args=(standing, job), daemon=True).start()

    def _repair(self, standing, job):
        request = replace(standing.request, time_budget_s=min(
            self._config.replan_time_s, standing.request.time_budget_s))
        try:
            outcome = self._search(request, standing.weights_topic, standing.plan,
                                   job.superseded.is_set)
            if job.superseded.is_set():
                standing.heeded = None
            elif outcome.plan is None or _broken(self._map.grid, outcome.plan):
                self.get_logger().error(f"the broken plan was not repaired: {outcome.message}")
            else:
                self._publish(_Standing(outcome.plan, standing.request, standing.weights_topic))
                self.get_logger().info(f"repaired on map update {outcome.plan.map_update}")
        except ParallelCityError as error:
            self.get_logger().error(f"the broken plan was not repaired: {error}")
        except Exception:       # a thread's would be lost
            self.get_logger().error(traceback.format_exc())
        finally:
            self._end(job)

    def _weights_for(self, asked, grid):
        """Worth of the ground from the topic that was asked for, or the node's.

        None, which is 1 everywhere, if nobody has said anything on the node's own topic.
        """
        layer = _worth(asked or self._config.weights_topic)
        if asked and layer not in self._came:
            self._listen_to(layer)
            if not self._wait_for_layer(layer):
                raise ConfigError(f"no weights came on {asked} within {LAYER_TIMEOUT_S:g} s; "
                                  "they must be published latched (transient local)")
        return self._newest(layer, grid)

    def _noise_for(self, request, grid):
        """How often what is heard counts; None, which is once, where nobody says or listens."""
        if request.task.noise_model != "level" or not self._noise.topic:
            return None
        if self.count_publishers(self._noise.topic):
            self._wait_for_layer(self._noise)       # it may be on its way with the map
        weights = self._newest(self._noise, grid)
        return None if weights is None or (weights == 1).all() else weights

    def _publish(self, standing: _Standing):
        stamp = self.get_clock().now().to_msg()
        with self._lock:
            self._standing = standing
        self._path.publish(conversions.path_to_ros(standing.plan.path, stamp))
        self._whole_plan.publish(conversions.plan_to_ros(standing.plan, stamp))

    def _result(self, outcome: PlanOutcome, want_front: bool):
        result = RESULT(status=STATUS_TO_ROS[outcome.status], message=outcome.message,
                        statistics_json=conversions.history_to_json(outcome.history))
        if outcome.plan is not None:
            result.plan = conversions.plan_to_ros(outcome.plan, self.get_clock().now().to_msg())
        if want_front and outcome.front is not None:
            result.front_json = conversions.front_to_json(outcome.front)
        return result


def _broken(grid: VoxelGrid, plan: PatrolPlan | None) -> str:
    """What does not hold of a plan on another version of the map, in words; "" if all does."""
    if plan is None or (grid.map_hash, grid.map_update) == (plan.map_hash, plan.map_update):
        return ""
    return ", ".join(c.constraint for c in certify(
        grid, plan.task, plan.path, map_hash=plan.map_hash).broken)


def _path_in(grid: VoxelGrid, plan: PatrolPlan) -> np.ndarray:
    """(1, N, 3) the path of a plan in the frame of a map."""
    if plan.frame == grid.frame:
        return plan.path[None]
    return grid.frame.to_enu(*plan.frame.to_wgs84(plan.path).T)[None]


def main(args=None):
    raise SystemExit(run(PlannerServer, args))


if __name__ == "__main__":
    main()
