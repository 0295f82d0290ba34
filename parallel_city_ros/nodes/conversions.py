"""Messages ↔ the project's own types, in pairs: x_to_ros, x_from_ros."""

from __future__ import annotations

import json
import math
from array import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, PoseStamped, TransformStamped, Vector3
from nav_msgs.msg import MapMetaData, OccupancyGrid, Odometry, Path
from parallel_city_interfaces.action import FlyPatrol, PlanPatrol
from parallel_city_interfaces.msg import Certificate as CertificateMsg
from parallel_city_interfaces.msg import CityEvent as CityEventMsg
from parallel_city_interfaces.msg import CpssState, VoxelGridUpdate
from parallel_city_interfaces.msg import Objectives as ObjectivesMsg
from parallel_city_interfaces.msg import PatrolPlan as PatrolPlanMsg
from parallel_city_interfaces.msg import VoxelGrid as VoxelGridMsg
from sensor_msgs.msg import BatteryState, NavSatFix, PointCloud2, PointField
from std_msgs.msg import Header

from parallel_city_ros.city import octomap
from parallel_city_ros.city.rasterise import CHUNK, FREE
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.twin import CityEvent, GridUpdate
from parallel_city_ros.city.voxels import CHUNK_BYTES, MAX_BYTES, VoxelGrid
from parallel_city_ros.cpss.comparison import Comparison
from parallel_city_ros.cpss.ledger import WEIGHT_STEPS
from parallel_city_ros.cpss.monitor import LoopMonitor
from parallel_city_ros.errors import ConfigError, MapUpdateError, PlanError
from parallel_city_ros.files import finite
from parallel_city_ros.flight.outcome import FlightOutcome, FlightProgress
from parallel_city_ros.flight.telemetry import Telemetry
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.plan import Objectives, PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.front import Front
from parallel_city_ros.planning.planner import PlanRequest, Progress
from parallel_city_ros.settings import build, dotted

MAP_FRAME = "map"
MOST_NOISE = 100        # times that what is heard counts: what an OccupancyGrid holds
# To check defaults with, before anybody asks for a plan.
ANY_GOAL = PlanPatrol.Goal(goal=Point(x=1.0))


def header(stamp: Time) -> Header:
    return Header(stamp=stamp, frame_id=MAP_FRAME)


def bytes_to_ros(data: bytes) -> array:
    """uint8[]: from an array.array thousands of times faster than from bytes or a list."""
    return array("B", data)


def time_to_ros(seconds: float) -> Time:
    whole = math.floor(seconds)
    return Time(sec=whole, nanosec=min(999_999_999, round((seconds - whole) * 1e9)))


def time_from_ros(time: Time) -> float:
    return time.sec + time.nanosec * 1e-9


def point_to_ros(point) -> Point:
    return Point(x=float(point[0]), y=float(point[1]), z=float(point[2]))


def point_from_ros(point: Point) -> tuple[float, float, float]:
    return (point.x, point.y, point.z)


# --- the map ------------------------------------------------------------------

def grid_to_ros(grid: VoxelGrid, stamp: Time, metadata: dict | None = None,
                epoch: str = "") -> VoxelGridMsg:
    frame, ground = grid.frame, grid.terrain
    where, words = grid.chunks()
    return VoxelGridMsg(
        header=header(stamp), map_hash=grid.map_hash, epoch=epoch, map_update=grid.map_update,
        resolution=grid.resolution, origin=point_to_ros(grid.origin),
        shape=list(grid.shape), origin_latitude_deg=frame.latitude_deg,
        origin_longitude_deg=frame.longitude_deg, origin_altitude_m=frame.altitude_m,
        crs=frame.proj, attribution=grid.attribution, chunks=array("H", where.tobytes()),
        data=bytes_to_ros(words.astype("<u2").tobytes()),
        ground_cm=array("i", ground.centimetres.tobytes()),
        ground_shape=list(ground.heights.shape), ground_cell=ground.cell,
        ground_origin=point_to_ros((*ground.origin, 0.0)),
        metadata_json=json.dumps(metadata or {}))


def grid_from_ros(msg: VoxelGridMsg) -> VoxelGrid:
    """Raises MapUpdateError if what came does not fit its shape."""
    shape = tuple(int(n) for n in msg.shape)
    where, words = _chunks_from_ros(msg)
    chunks = tuple(-(-n // CHUNK) for n in shape)
    nodes = tuple(int(n) for n in msg.ground_shape)
    if words is None or math.prod(chunks) * 4 > MAX_BYTES or (where >= chunks).any() \
            or math.prod(nodes) != len(msg.ground_cm) or not nodes[0] * nodes[1]:
        raise MapUpdateError(f"map of {shape} voxels came with {len(msg.chunks)} numbers of "
                             f"chunks, {len(msg.data)} bytes and {len(msg.ground_cm)} heights")
    index = np.full(chunks, FREE, np.int32)
    index[tuple(where.astype(int).T)] = np.arange(len(where))
    ground = Ground(np.array(msg.ground_cm, float).reshape(nodes) / 100,
                    (msg.ground_origin.x, msg.ground_origin.y), msg.ground_cell)
    return VoxelGrid(
        index, words, shape, np.array(point_from_ros(msg.origin)), msg.resolution,
        LocalFrame(msg.origin_latitude_deg, msg.origin_longitude_deg, msg.origin_altitude_m),
        ground, msg.attribution, msg.map_update, msg.map_hash)


def update_to_ros(update: GridUpdate, stamp: Time, epoch: str = "") -> VoxelGridUpdate:
    return VoxelGridUpdate(
        header=header(stamp), map_hash=update.map_hash, epoch=epoch,
        map_update=update.map_update, layers=update.layers,
        chunks=array("H", update.where.astype(np.uint16).tobytes()),
        data=bytes_to_ros(update.words.astype("<u2").tobytes()), crc32=update.crc32,
        event=event_to_ros(update.event, stamp))


def update_from_ros(msg: VoxelGridUpdate) -> GridUpdate:
    """Raises MapUpdateError if the bits are not those that were sent."""
    where, words = _chunks_from_ros(msg)
    if words is None:
        raise MapUpdateError(f"update {msg.map_update} was damaged on its way")
    update = GridUpdate(msg.map_hash, msg.map_update, where, words, msg.layers,
                        event_from_ros(msg.event))
    if update.crc32 != msg.crc32:
        raise MapUpdateError(f"update {msg.map_update} was damaged on its way")
    return update


def _chunks_from_ros(msg):
    """(N, 3) numbers and (N, 16, 16) words; words are None if their lengths do not fit."""
    where = np.array(msg.chunks, np.uint16)
    if len(where) % 3 or len(msg.data) != len(where) // 3 * CHUNK_BYTES:
        return where[:0].reshape(0, 3), None
    words = np.frombuffer(msg.data, "<u2").astype(np.uint16)
    return where.reshape(-1, 3), words.reshape(-1, CHUNK, CHUNK)


def event_to_ros(event: CityEvent, stamp: Time) -> CityEventMsg:
    return CityEventMsg(
        header=header(stamp), event_id=event.event_id, kind=event.kind,
        footprint=[point_to_ros((x, y, event.lower_z)) for x, y in event.footprint],
        lower_z=float(event.lower_z), upper_z=float(event.upper_z),
        confidence=float(event.confidence), description=event.description,
        expires=time_to_ros(event.expires_s) if math.isfinite(event.expires_s) else Time())


def event_from_ros(msg: CityEventMsg) -> CityEvent:
    """Raises ConfigError that says what is wrong with the event."""
    expires = time_from_ros(msg.expires)
    return CityEvent(
        event_id=msg.event_id, kind=msg.kind, footprint=tuple((p.x, p.y) for p in msg.footprint),
        lower_z=msg.lower_z, upper_z=msg.upper_z, confidence=msg.confidence,
        expires_s=expires if expires > 0 else math.inf, description=msg.description)


def points_to_ros(grid: VoxelGrid, stamp: Time) -> PointCloud2:
    """Centres of the voxels that can be seen, for display."""
    centres = grid.origin + (grid.shell() + 0.5) * grid.resolution
    data = centres.astype("<f4").tobytes()
    return PointCloud2(
        header=header(stamp), height=1, width=len(centres), point_step=12, row_step=len(data),
        is_dense=True, is_bigendian=False, data=bytes_to_ros(data),
        fields=[PointField(name=name, offset=4 * n, datatype=PointField.FLOAT32, count=1)
                for n, name in enumerate("xyz")])


def octomap_to_ros(grid: VoxelGrid, stamp: Time):
    """The occupied voxels as an octomap_msgs/Octomap. Raises ConfigError if they do not fit."""
    from octomap_msgs.msg import Octomap  # not on every machine
    stream, _ = octomap.encode(grid.voxels(), grid.resolution, grid.origin)
    return Octomap(header=header(stamp), binary=True, id="OcTree", resolution=grid.resolution,
                   data=array("b", stream))


def slice_to_ros(grid: VoxelGrid, altitude: float, stamp: Time) -> OccupancyGrid:
    """What is occupied at an altitude above ground, 0 or 100."""
    nx, ny, _ = grid.shape
    x, y = (grid.origin[d] + (np.arange(n) + 0.5) * grid.resolution for d, n in ((0, nx), (1, ny)))
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), grid.ground + altitude], axis=-1)
    layer = grid.is_occupied(points).astype(np.int8)
    return _layer_to_ros(grid, layer * 100, stamp)


def weights_to_ros(grid: VoxelGrid, weights: np.ndarray, stamp: Time) -> OccupancyGrid:
    """(nx, ny) weights in steps of 1/WEIGHT_STEPS, 0 to WEIGHT_STEPS."""
    return _layer_to_ros(grid, np.rint(weights * WEIGHT_STEPS), stamp)


def weights_from_ros(msg: OccupancyGrid) -> np.ndarray:
    """(nx, ny) weights, 0..1; unknown cells are worth 1. Raises ConfigError."""
    layer = _layer_from_ros(msg)
    return np.where(layer < 0, 1.0, np.minimum(layer, WEIGHT_STEPS) / WEIGHT_STEPS)


def noise_to_ros(grid: VoxelGrid, weights: np.ndarray, stamp: Time) -> OccupancyGrid:
    """(nx, ny) how often what is heard counts, in whole numbers, MOST_NOISE at most."""
    return _layer_to_ros(grid, np.clip(np.rint(weights), 0, MOST_NOISE), stamp)


def noise_from_ros(msg: OccupancyGrid) -> np.ndarray:
    """(nx, ny) how often what is heard counts; once in unknown cells. Raises ConfigError."""
    layer = _layer_from_ros(msg)
    return np.where(layer < 0, 1.0, layer.astype(float))


def lies_over(info: MapMetaData, grid: VoxelGrid) -> bool:
    """Whether a layer has the cells of the map: as many, of that size, in that place."""
    return (info.width, info.height) == grid.shape[:2] \
        and math.isclose(info.resolution, grid.resolution, rel_tol=1e-6) \
        and np.allclose(point_from_ros(info.origin.position)[:2], grid.origin[:2], atol=1e-6)


def _layer_from_ros(msg) -> np.ndarray:
    layer = np.array(msg.data, np.int8)
    if layer.size != msg.info.height * msg.info.width:
        raise ConfigError(f"weights of {msg.info.width} x {msg.info.height} cells came with "
                          f"{layer.size}")
    return layer.reshape(msg.info.height, msg.info.width).T


def _layer_to_ros(grid, layer, stamp) -> OccupancyGrid:
    """(nx, ny) → rows of east, as map_server has them."""
    msg = OccupancyGrid(header=header(stamp))
    msg.info.map_load_time = stamp
    msg.info.resolution = grid.resolution
    msg.info.width, msg.info.height = (int(n) for n in layer.shape)
    msg.info.origin.position = point_to_ros(grid.origin)
    msg.info.origin.orientation.w = 1.0
    msg.data = array("b", layer.T.astype(np.int8).tobytes())
    return msg


# --- plans ----------------------------------------------------------------------

def objectives_to_ros(objectives: Objectives) -> ObjectivesMsg:
    return ObjectivesMsg(
        f1_coverage_km2=objectives.coverage_km2, f2_carbon=objectives.carbon,
        f3_noise_m=objectives.noise_m, fitness=objectives.fitness, violation=objectives.violation)


def objectives_from_ros(msg: ObjectivesMsg) -> Objectives:
    return Objectives(coverage_km2=msg.f1_coverage_km2, carbon=msg.f2_carbon,
                      noise_m=msg.f3_noise_m, fitness=msg.fitness, violation=msg.violation)


def plan_to_ros(plan: PatrolPlan, stamp: Time) -> PatrolPlanMsg:
    checks = plan.certificate.checks
    return PatrolPlanMsg(
        header=header(stamp), planner_id=plan.planner_id, seed=plan.seed, map_hash=plan.map_hash,
        map_update=plan.map_update, waypoints=[point_to_ros(p) for p in plan.path],
        time_step_s=float(plan.task.time_step_s), objectives=objectives_to_ros(plan.objectives),
        certificate=CertificateMsg(
            valid=plan.certificate.valid, constraint=[c.constraint for c in checks],
            bound=[c.bound for c in checks], value=[c.value for c in checks],
            margin=[c.margin for c in checks], where=[point_to_ros(c.where) for c in checks]),
        json=json.dumps(plan.to_dict()))


def plan_from_ros(msg: PatrolPlanMsg) -> PatrolPlan:
    """The plan in the message's json.

    Raises
    ------
    PlanError
        If it is broken, or its waypoints are not those of the message.
    """
    try:
        plan = PatrolPlan.from_dict(json.loads(msg.json))
    except json.JSONDecodeError as error:
        raise PlanError(f"the plan's json cannot be read ({error})") from error
    waypoints = [point_from_ros(p) for p in msg.waypoints]
    if np.shape(waypoints) != plan.path.shape or not np.allclose(waypoints, plan.path, atol=1e-6):
        raise PlanError("waypoints and json of the plan are not the same path; plan again")
    return plan


def path_to_ros(points, stamp: Time) -> Path:
    """(N, 3) ENU metres"""
    path = Path(header=header(stamp))
    for point in points:
        pose = PoseStamped(header=path.header)
        pose.pose.position = point_to_ros(point)
        pose.pose.orientation.w = 1.0
        path.poses.append(pose)
    return path


def path_from_ros(path: Path) -> np.ndarray:
    """(N, 3) ENU metres"""
    return np.array([point_from_ros(p.pose.position) for p in path.poses]).reshape(-1, 3)


def track_to_ros(track, stamp: Time) -> Path:
    """(N, 4) vehicle time in s, east, north, up: the stamps of the poses are vehicle time."""
    path = path_to_ros(track[:, 1:], stamp)
    for pose, seconds in zip(path.poses, track[:, 0], strict=True):
        pose.header = Header(stamp=time_to_ros(float(seconds)), frame_id=MAP_FRAME)
    return path


def track_from_ros(path: Path) -> np.ndarray:
    """(N, 4) vehicle time in s, east, north, up"""
    seconds = [time_from_ros(p.header.stamp) for p in path.poses]
    return np.column_stack([seconds, path_from_ros(path)]) if seconds else np.empty((0, 4))


def request_to_ros(request: PlanRequest, overrides: dict | None = None,
                   weights_topic: str = "", warm_start: PatrolPlan | None = None,
                   want_front: bool = False) -> PlanPatrol.Goal:
    """overrides : settings of the task that differ from the node's, nested or dotted"""
    return PlanPatrol.Goal(
        start=point_to_ros(request.task.start), goal=point_to_ros(request.task.goal),
        planner_id=request.planner_id, seed=request.seed, prefer=request.prefer,
        evaluation_budget=request.evaluation_budget, time_budget_s=float(request.time_budget_s),
        task_json=json.dumps(overrides) if overrides else "", weights_topic=weights_topic,
        want_front=want_front,
        warm_start=PatrolPlanMsg() if warm_start is None else plan_to_ros(warm_start, Time()))


def request_from_ros(goal: PlanPatrol.Goal, defaults: dict) -> PlanRequest:
    """Settings of the goal over those of the node, which are by dotted name.

    Raises
    ------
    ConfigError
        Names the setting that does not exist or is out of range.
    PlanError
        If task_json is no JSON object.
    """
    try:
        overrides = json.loads(goal.task_json) if goal.task_json else {}
    except json.JSONDecodeError as error:
        raise PlanError(f"task_json cannot be read ({error})") from error
    if not isinstance(overrides, dict):
        raise PlanError("task_json must be one JSON object of settings")
    of_task = {k.removeprefix("task."): v for k, v in defaults.items() if k.startswith("task.")}
    of_search = {k: v for k, v in defaults.items() if not k.startswith("task.")}
    task = build(PatrolTask, of_task | dotted(overrides),
                 start=point_from_ros(goal.start), goal=point_from_ros(goal.goal))
    asked = {"planner_id": goal.planner_id, "evaluation_budget": goal.evaluation_budget,
             "time_budget_s": goal.time_budget_s, "prefer": goal.prefer}
    values = of_search | {k: v for k, v in asked.items() if v} | {"seed": goal.seed}
    return PlanRequest(task=task, **values)


def warm_start_from_ros(goal: PlanPatrol.Goal) -> PatrolPlan | None:
    """The plan that a goal wants to begin with. Raises PlanError if it is broken."""
    if not goal.warm_start.json:
        return None
    try:
        return plan_from_ros(goal.warm_start)
    except PlanError as error:
        raise PlanError(f"warm_start: {error}") from error


def progress_to_ros(progress: Progress) -> PlanPatrol.Feedback:
    volume = math.nan if progress.hypervolume is None else progress.hypervolume
    return PlanPatrol.Feedback(
        generation=progress.generation, evaluations=progress.evaluations,
        feasible=progress.feasible, best_fitness=progress.objectives.fitness,
        objectives=objectives_to_ros(progress.objectives), hypervolume=volume,
        time_left_s=progress.time_left_s)


def progress_from_ros(feedback: PlanPatrol.Feedback) -> Progress:
    return Progress(feedback.generation, feedback.evaluations,
                    objectives_from_ros(feedback.objectives), feedback.time_left_s,
                    None if math.isnan(feedback.hypervolume) else feedback.hypervolume)


def state_to_ros(drone: str, monitor: LoopMonitor, stamp: Time) -> CpssState:
    patrol, grid = monitor.patrols[drone], monitor.grid
    reason = monitor.why_replan(drone)
    state = CpssState(
        header=header(stamp), drone_id=drone, sortie=patrol.sortie, phase=patrol.phase,
        map_update=grid.map_update if grid else 0,
        ledger_seen_share=monitor.ledger.seen_share if monitor.ledger else math.nan,
        replan_advised=bool(reason))
    details = {"replan_reason": reason, "closed": patrol.closed}
    if patrol.plan is not None:
        plan = patrol.plan
        state.map_hash, state.planned_distance_m = plan.map_hash, plan.length_m
        state.planned_coverage_km2 = plan.objectives.coverage_km2
        state.planned_noise_m, state.planned_carbon = (plan.objectives.noise_m,
                                                       plan.objectives.carbon)
        details["plan_update"] = plan.map_update
    if patrol.comparison is not None:
        found = patrol.comparison
        state.flown_distance_m, state.max_deviation_m = found.flown_length_m, found.max_deviation_m
        state.flown_coverage_km2 = found.flown.coverage_km2
        state.flown_noise_m, state.flown_carbon = found.flown.noise_m, found.flown.carbon
        details["comparison"] = found.to_dict()
    state.json = json.dumps(finite(details))
    return state


def comparison_from_ros(state: CpssState) -> Comparison | None:
    """The comparison of a sortie that has ended; None while it goes on."""
    details = json.loads(state.json)
    if not details.get("closed") or "comparison" not in details:
        return None
    return Comparison.from_dict(_unlimited(details["comparison"]))


# --- the drone ------------------------------------------------------------------

def flight_progress_to_ros(progress: FlightProgress) -> FlyPatrol.Feedback:
    return FlyPatrol.Feedback(
        state=progress.state.value, waypoint=progress.waypoint, waypoints=progress.waypoints,
        distance_m=progress.distance_m, battery_percent=float(progress.battery_percent),
        position=point_to_ros(progress.position))


def outcome_to_ros(outcome: FlightOutcome, status: int, stamp: Time) -> FlyPatrol.Result:
    return FlyPatrol.Result(
        status=status, message=outcome.message, distance_m=outcome.distance_m,
        duration_s=outcome.duration_s, energy_wh=outcome.energy_wh,
        flown=track_to_ros(outcome.flown, stamp))


def odometry_to_ros(telemetry: Telemetry, grid: VoxelGrid, stamp: Time, child: str) -> Odometry:
    """Pose in the map frame, twist in the body frame (REP 105, nav_msgs/Odometry)."""
    east, north, _ = grid.frame.to_enu(telemetry.latitude_deg, telemetry.longitude_deg)
    odometry = Odometry(header=header(stamp), child_frame_id=child)
    home = telemetry.home or (telemetry.latitude_deg, telemetry.longitude_deg)
    ground = float(grid.ground_at(grid.frame.to_enu(*home[:2])))     # of which height_m is above
    odometry.pose.pose.position = point_to_ros((east, north, telemetry.height_m + ground))
    yaw = telemetry.yaw if math.isfinite(telemetry.yaw) else 0.0
    odometry.pose.pose.orientation.z = math.sin(yaw / 2)
    odometry.pose.pose.orientation.w = math.cos(yaw / 2)
    east, north, up = telemetry.velocity
    linear = odometry.twist.twist.linear
    linear.x = east * math.cos(yaw) + north * math.sin(yaw)
    linear.y = north * math.cos(yaw) - east * math.sin(yaw)
    linear.z = up
    return odometry


def transform_to_ros(odometry: Odometry) -> TransformStamped:
    transform = TransformStamped(header=odometry.header, child_frame_id=odometry.child_frame_id)
    position = odometry.pose.pose.position
    transform.transform.translation = Vector3(x=position.x, y=position.y, z=position.z)
    transform.transform.rotation = odometry.pose.pose.orientation
    return transform


def fix_to_ros(telemetry: Telemetry, stamp: Time, frame_id: str) -> NavSatFix:
    """Altitude is NaN: the autopilot's is above mean sea level, the message's the ellipsoid."""
    fix = NavSatFix(header=Header(stamp=stamp, frame_id=frame_id),
                    latitude=telemetry.latitude_deg, longitude=telemetry.longitude_deg,
                    altitude=math.nan)
    status = fix.status
    status.status = status.STATUS_FIX if telemetry.healthy else status.STATUS_NO_FIX
    status.service = status.SERVICE_GPS
    return fix


def battery_to_ros(telemetry: Telemetry, stamp: Time, frame_id: str) -> BatteryState:
    nan = math.nan
    return BatteryState(
        header=Header(stamp=stamp, frame_id=frame_id), voltage=float(telemetry.battery_voltage),
        percentage=telemetry.battery_percent / 100, current=nan, charge=nan, capacity=nan,
        design_capacity=nan, temperature=nan, present=True,
        power_supply_status=BatteryState.POWER_SUPPLY_STATUS_DISCHARGING if telemetry.armed
        else BatteryState.POWER_SUPPLY_STATUS_UNKNOWN)


def history_to_json(history) -> str:
    """Convergence, one entry a generation: units are in the names, null is not finite."""
    return json.dumps(finite([{"evaluations": p.evaluations} | vars(p.objectives)
                              for p in history]))


def history_from_json(text: str) -> list[dict]:
    return _unlimited(json.loads(text or "[]"))


def _unlimited(value):
    """A copy of what was read from JSON, with infinity for null, as F is of what sees nothing."""
    if isinstance(value, dict):
        return {k: _unlimited(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_unlimited(v) for v in value]
    return math.inf if value is None else value


def front_to_json(front: Front) -> str:
    """Paths and objectives, and which is the knee and the best in each: units in the names."""
    return json.dumps(finite(front.to_dict()))


def front_from_json(text: str) -> Front | None:
    if not text:
        return None
    values = json.loads(text)
    return Front(np.array(values["paths"]),
                 np.array([list(row.values()) for row in values["objectives"]]))
