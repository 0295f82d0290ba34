"""PointCloud2 ↔ points and Odometry ↔ pose, in pairs, as `conversions` has the other messages.

A cloud with pose needs no TF here: it is in the drone's own frame, the child_frame_id of its
odometry, or in the map's; it was measured from where the odometry says that the drone was at the
cloud's stamp. Points that are not finite say "no return" and are left out, unless the cloud
claims to be dense.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.nodes.conversions import bytes_to_ros, point_from_ros, time_from_ros

_TYPES = {PointField.FLOAT32: "f4", PointField.FLOAT64: "f8"}


def cloud_to_ros(points, stamp: Time, frame_id: str) -> PointCloud2:
    """(N, 3) metres, as float32"""
    data = np.ascontiguousarray(points, "<f4").tobytes()
    return PointCloud2(
        header=Header(stamp=stamp, frame_id=frame_id), height=1, width=len(points), point_step=12,
        row_step=len(data), is_dense=True, is_bigendian=False, data=bytes_to_ros(data),
        fields=[PointField(name=name, offset=4 * n, datatype=PointField.FLOAT32, count=1)
                for n, name in enumerate("xyz")])


def cloud_from_ros(msg: PointCloud2) -> np.ndarray:
    """(N, 3) float64 metres in the message's frame; whatever other fields there are.

    Raises
    ------
    ConfigError
        If it has no x, y, z of floating point, or its lengths do not fit.
    """
    fields = {f.name: f for f in msg.fields}
    if not {"x", "y", "z"} <= set(fields):
        raise ConfigError("a cloud needs fields x, y and z, this has "
                          + (", ".join(fields) or "none"))
    chosen = [fields[name] for name in "xyz"]
    order = ">" if msg.is_bigendian else "<"
    if any(f.datatype not in _TYPES for f in chosen):
        raise ConfigError("x, y and z of a cloud must be FLOAT32 or FLOAT64")
    formats = [order + _TYPES[f.datatype] for f in chosen]
    if any(f.offset + np.dtype(kind).itemsize > msg.point_step
           for f, kind in zip(chosen, formats, strict=True)) \
            or msg.row_step < msg.width * msg.point_step \
            or len(msg.data) < msg.row_step * msg.height:
        raise ConfigError(f"a cloud of {msg.width} x {msg.height} points of {msg.point_step} "
                          f"bytes came with rows of {msg.row_step} and {len(msg.data)} bytes")
    if msg.width == 0 or msg.height == 0:
        return np.empty((0, 3))
    one = np.dtype({"names": list("xyz"), "formats": formats,
                    "offsets": [f.offset for f in chosen], "itemsize": msg.point_step})
    rows = np.frombuffer(msg.data, np.uint8)[:msg.row_step * msg.height].reshape(msg.height, -1)
    flat = np.ascontiguousarray(rows[:, :msg.width * msg.point_step]).view(one).reshape(-1)
    points = np.stack([flat[name].astype(float) for name in "xyz"], axis=1)
    return points if msg.is_dense else points[np.isfinite(points).all(axis=1)]


@dataclass(frozen=True, eq=False)
class Pose:
    """stamp : s; position : (3,) ENU metres; attitude : (4,) unit quaternion x, y, z, w"""

    stamp: float
    position: np.ndarray
    attitude: np.ndarray
    frame_id: str = ""      # of the drone itself

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) from the drone's frame to ENU."""
        x, y, z, w = self.attitude
        return np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])

    @property
    def yaw(self) -> float:
        """Radians from east, counter-clockwise."""
        x, y, z, w = self.attitude
        return math.atan2(2 * (x * y + z * w), 1 - 2 * (y * y + z * z))


def pose_from_ros(msg: Odometry) -> Pose:
    """Raises ConfigError if it is not finite or its quaternion is none."""
    q = msg.pose.pose.orientation
    attitude = np.array([q.x, q.y, q.z, q.w])
    position = np.array(point_from_ros(msg.pose.pose.position))
    length = np.linalg.norm(attitude)
    if not (np.isfinite(position).all() and abs(length - 1) < 0.1):
        raise ConfigError(f"odometry at {position.tolist()} m with quaternion "
                          f"{attitude.tolist()} is no pose")
    return Pose(time_from_ros(msg.header.stamp), position, attitude / length, msg.child_frame_id)


class Track:
    """The latest poses of a drone, to look up where it was."""

    def __init__(self, keep: int = 200):
        self._poses: deque[Pose] = deque(maxlen=keep)

    def add(self, pose: Pose) -> None:
        if self._poses and pose.stamp <= self._poses[-1].stamp:
            if pose.stamp > self._poses[-1].stamp - 1.0:
                return          # late or twice
            self._poses.clear()     # the clock was set back
        self._poses.append(pose)

    @property
    def newest_s(self) -> float:
        return self._poses[-1].stamp if self._poses else -math.inf

    def at(self, stamp: float, widest_s: float) -> Pose | None:
        """Between the two poses around it, if they are at most widest_s apart."""
        stamps = [p.stamp for p in self._poses]
        n = bisect_left(stamps, stamp - 1e-6)
        if n < len(stamps) and abs(stamps[n] - stamp) <= 1e-6:
            return self._poses[n]
        if n == 0 or n == len(stamps) or stamps[n] - stamps[n - 1] > widest_s:
            return None
        before, after = self._poses[n - 1], self._poses[n]
        share = (stamp - before.stamp) / (after.stamp - before.stamp)
        other = after.attitude if before.attitude @ after.attitude >= 0 else -after.attitude
        attitude = (1 - share) * before.attitude + share * other
        return Pose(stamp, (1 - share) * before.position + share * after.position,
                    attitude / np.linalg.norm(attitude), after.frame_id)
