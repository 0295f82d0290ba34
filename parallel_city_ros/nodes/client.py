"""The system seen from outside: plan, fly, report, wait. For the command line and tests.

Blocking calls with deadlines in seconds of wall time, from any thread but the node's own.
"""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import rclpy
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from parallel_city_interfaces.action import FlyPatrol, PlanPatrol
from parallel_city_interfaces.msg import CityEvent as CityEventMsg
from parallel_city_interfaces.msg import CpssState
from rclpy.action import ActionClient
from rclpy.executors import (
    ExternalShutdownException,
    MultiThreadedExecutor,
    ShutdownException,
)
from rclpy.node import Node
from unique_identifier_msgs.msg import UUID

from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.cpss.comparison import Comparison
from parallel_city_ros.errors import LinkError, ParallelCityError
from parallel_city_ros.nodes import conversions, qos
from parallel_city_ros.nodes.map_mirror import MapMirror
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.planning.front import Front
from parallel_city_ros.planning.planner import PlanRequest, Progress

POLL_S = 0.02
HELLO_S = 1.0           # between two greetings of an action server
ANSWER_S = 30.0         # of a loaded machine, for an action server to accept a goal or a cancel


@dataclass(frozen=True, eq=False)
class Planned:
    """status : of PlanPatrol.Result; convergence : one dict a generation; front : if wanted"""

    status: int
    message: str
    plan: PatrolPlan | None
    convergence: list[dict]
    front: Front | None = None


class CarefulActionClient(ActionClient):
    """rclpy's, without its race: there, an answer that comes between sending a request and
    noting its number is thrown away as unexpected, and the caller waits in vain."""

    def __init__(self, *args, **options):
        self._noting = threading.RLock()
        super().__init__(*args, **options)

    def send_goal_async(self, *args, **options):
        with self._noting:
            return super().send_goal_async(*args, **options)

    def _cancel_goal_async(self, *args):
        with self._noting:
            return super()._cancel_goal_async(*args)

    def _get_result_async(self, *args):
        with self._noting:
            return super()._get_result_async(*args)

    async def execute(self, taken_data):
        with self._noting:      # a request that is being sent is noted by then
            pass
        await super().execute(taken_data)


class CityClient:
    """A node of its own, spun in a thread, that talks to the four nodes.

    answer_s : seconds of wall time that an action server has to accept a goal or a cancel
    """

    def __init__(self, drone: str = "drone_1", name: str = "parallel_city",
                 answer_s: float = ANSWER_S):
        self.drone, self._answer_s = drone, answer_s
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = Node(name, context=self._context)
        self._states: dict[str, CpssState] = {}
        self.events: dict[str, CityEvent] = {}      # that went onto the map, by id, the newest
        self._changed = threading.Condition()
        self.map = MapMirror(self.node)
        self._plan = CarefulActionClient(self.node, PlanPatrol, "/plan_patrol")
        self._fly = CarefulActionClient(self.node, FlyPatrol, f"/{drone}/fly_patrol")
        # After the action clients: whoever answers these has met those.
        self._hello = {client: self.node.create_client(CancelGoal, f"{name}/_action/cancel_goal")
                       for client, name in ((self._plan, "/plan_patrol"),
                                            (self._fly, f"/{drone}/fly_patrol"))}
        self._reports = self.node.create_publisher(CityEventMsg, "/city_reports", qos.EVENTS)
        self._truth = self.node.create_publisher(CityEventMsg, "/ground_truth/events",
                                                 qos.STANDING)
        self.node.create_subscription(CpssState, "/cpss/state", self._on_state, qos.EVENTS)
        self.node.create_subscription(CityEventMsg, "/city_events", self._on_event, qos.EVENTS)
        self._executor = MultiThreadedExecutor(num_threads=3, context=self._context)
        self._executor.add_node(self.node)
        self._spinner = threading.Thread(target=self._spin, daemon=True)
        self._spinner.start()

    def __enter__(self) -> CityClient:
        return self

    def __exit__(self, *_) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._spinner.join(2.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self):
        while self._context.ok():
            try:
                self._executor.spin()
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception:
                # Of one callback, or of a subscription destroyed while it was being taken from:
                # whoever waits for an answer would wait in vain if this thread ended.
                self.node.get_logger().error(f"a callback failed: {traceback.format_exc()}")
            else:
                return

    def _on_state(self, msg):
        with self._changed:
            self._states[msg.drone_id] = msg
            self._changed.notify_all()

    def _on_event(self, msg):
        event = conversions.event_from_ros(msg)
        self.events[event.event_id] = event

    # waiting

    def wait_for_map(self, timeout_s: float, alive: Callable[[], None] = lambda: None
                     ) -> VoxelGrid:
        self._until(lambda: self.map.grid is not None, timeout_s, "no map came", alive)
        return self.map.grid

    def wait_for_planner(self, timeout_s: float, alive: Callable[[], None] = lambda: None) -> None:
        """Until it takes goals, which is when its loops are compiled."""
        self._until(self._plan.server_is_ready, timeout_s, "plan_patrol is not offered", alive)

    def wait_for_update(self, number: int, timeout_s: float) -> VoxelGrid:
        self._until(lambda: self.map.grid.map_update >= number, timeout_s,
                    f"map update {number} did not come")
        return self.map.grid

    def wait_for_event(self, event: CityEvent, timeout_s: float) -> VoxelGrid:
        """The map, once it holds that event."""
        def there():
            grid = self.map.grid
            inside = event.polygon.representative_point()
            return grid.is_occupied((inside.x, inside.y, event.upper_z - grid.resolution / 2))
        self._until(there, timeout_s, f"event {event.event_id} did not come onto the map")
        return self.map.grid

    def wait_for_comparison(self, sortie: int, timeout_s: float) -> Comparison:
        """Flown against planned, once the monitor has closed that sortie."""
        def closed():
            state = self._states.get(self.drone)
            return state is not None and state.sortie >= sortie \
                and conversions.comparison_from_ros(state) is not None
        self._until(closed, timeout_s, f"the monitor did not compare sortie {sortie}")
        return conversions.comparison_from_ros(self._states[self.drone])

    @property
    def state(self) -> CpssState | None:
        """The newest state of the drone's patrol."""
        return self._states.get(self.drone)

    @staticmethod
    def _until(reached, timeout_s: float, complaint: str, alive=lambda: None) -> None:
        deadline = time.monotonic() + timeout_s
        while not reached():
            alive()
            if time.monotonic() > deadline:
                raise LinkError(f"{complaint} within {timeout_s:g} s; are all nodes running in "
                                "this ROS domain?")
            time.sleep(POLL_S)

    # doing

    def report(self, event: CityEvent) -> None:
        """Tell the city that something happened."""
        self._until(lambda: self._reports.get_subscription_count() > 0, ANSWER_S,
                    "nobody listens to /city_reports")
        self._reports.publish(conversions.event_to_ros(event, self._stamp()))

    def stand(self, event: CityEvent) -> None:
        """Put something into the city that simulated sensors see; the twin is not told."""
        self._until(lambda: self._truth.get_subscription_count() > 0, ANSWER_S,
                    "nobody listens to /ground_truth/events")
        self._truth.publish(conversions.event_to_ros(event, self._stamp()))

    def plan(self, request: PlanRequest, *, overrides: dict | None = None,
             weights_topic: str = "", warm_start: PatrolPlan | None = None,
             want_front: bool = False,
             on_progress: Callable[[Progress], None] = lambda p: None,
             cancelled: Callable[[], bool] = lambda: False,
             alive: Callable[[], None] = lambda: None, timeout_s: float = 120.0) -> Planned:
        goal = conversions.request_to_ros(request, overrides, weights_topic, warm_start,
                                          want_front)
        result = self._run(self._plan, goal, "plan_patrol",
                           lambda f: on_progress(conversions.progress_from_ros(f)),
                           cancelled, alive, timeout_s)
        return Planned(result.status, result.message,
                       conversions.plan_from_ros(result.plan) if result.plan.json else None,
                       conversions.history_from_json(result.statistics_json),
                       conversions.front_from_json(result.front_json))

    def fly(self, plan: PatrolPlan, *, replace: bool = False, resume: bool = False,
            on_progress: Callable[[FlyPatrol.Feedback], None] = lambda f: None,
            cancelled: Callable[[], bool] = lambda: False,
            alive: Callable[[], None] = lambda: None,
            timeout_s: float = 600.0) -> FlyPatrol.Result:
        goal = FlyPatrol.Goal(plan=conversions.plan_to_ros(plan, self._stamp()), replace=replace,
                              resume=resume)
        return self._run(self._fly, goal, f"/{self.drone}/fly_patrol", on_progress, cancelled,
                         alive, timeout_s)

    def _stamp(self):
        return self.node.get_clock().now().to_msg()

    def _greet(self, client, name, alive) -> None:
        """Wait until the server knows us too; before that, its answer to a goal is lost.

        Asks it to cancel a goal that nobody has.
        """
        nobodys = CancelGoal.Request()
        nobodys.goal_info.goal_id = UUID(uuid=list(uuid.uuid4().bytes))
        deadline = time.monotonic() + self._answer_s
        while time.monotonic() < deadline:
            alive()
            answer, again = self._hello[client].call_async(nobodys), time.monotonic() + HELLO_S
            while time.monotonic() < again:
                if answer.done():
                    return
                time.sleep(POLL_S)
            self._hello[client].remove_pending_request(answer)
        raise LinkError(f"{name} did not answer within {self._answer_s:g} s; are all nodes "
                        "running in this ROS domain?")

    def _run(self, client, goal, name, on_feedback, cancelled, alive, timeout_s):
        """Send a goal and wait for its result; cancelled or late: cancel and take what comes."""
        self._until(client.server_is_ready, self._answer_s, f"{name} is not offered", alive)
        self._greet(client, name, alive)
        answer = client.send_goal_async(goal, lambda msg: on_feedback(msg.feedback))
        self._until(answer.done, self._answer_s, f"{name} did not answer", alive)
        handle = answer.result()
        if not handle.accepted:
            raise ParallelCityError(f"{name} rejected the goal: its node is not active, or busy")
        result, cancelling = handle.get_result_async(), None
        deadline = time.monotonic() + timeout_s
        while not result.done():
            alive()
            if cancelling is None and (cancelled() or time.monotonic() > deadline):
                cancelling = handle.cancel_goal_async()
                deadline = time.monotonic() + timeout_s
            elif cancelling is not None and time.monotonic() > deadline:
                raise LinkError(f"{name} did not end within {timeout_s:g} s after its cancel")
            time.sleep(POLL_S)
        if result.result().status == GoalStatus.STATUS_UNKNOWN:
            raise LinkError(f"{name} lost the goal: its node started anew")
        if result.result().result.status == 0:
            raise LinkError(f"{name} broke off: {result.result().result.message or 'no reason'}; "
                            "its log says more")
        return result.result().result
