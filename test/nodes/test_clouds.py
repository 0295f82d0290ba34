"""Clouds and poses survive the wire, and what is broken in them is named."""

import math
import struct
from array import array

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.nodes.clouds import Pose, Track, cloud_from_ros, cloud_to_ros, pose_from_ros

STAMP = Time(sec=12, nanosec=250_000_000)


def through_the_wire(msg):
    return deserialize_message(serialize_message(msg), type(msg))


@settings(max_examples=30, deadline=None)
@given(points=st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 3), max_size=20))
def test_points_go_through(points):
    points = np.array(points, float).reshape(-1, 3)
    msg = through_the_wire(cloud_to_ros(points, STAMP, "drone_1/base_link"))
    assert isinstance(cloud_to_ros(points, STAMP, "x").data, array)
    assert np.array_equal(cloud_from_ros(msg), points)
    assert msg.header.frame_id == "drone_1/base_link" and msg.header.stamp == STAMP


@pytest.mark.parametrize("big", [False, True])
def test_the_layout_of_other_drivers_is_read(big):
    """Organised, padded rows, other fields between, doubles, both byte orders."""
    order = ">" if big else "<"
    rows, data = 2, b""
    for row in range(rows):
        for column in range(3):
            data += struct.pack(order + "BxfdH2xf", 7, row, column, 9, row + column / 8)
        data += b"pads"
    size = struct.calcsize(order + "BxfdH2xf")
    msg = PointCloud2(
        height=rows, width=3, point_step=size, row_step=3 * size + 4, is_bigendian=big,
        is_dense=True, data=array("B", data),
        fields=[PointField(name=n, offset=o, datatype=t, count=1) for n, o, t in (
            ("ring", 0, PointField.UINT8), ("z", struct.calcsize(order + "BxfdH2x"),
                                            PointField.FLOAT32),
            ("x", struct.calcsize(order + "Bx"), PointField.FLOAT32),
            ("y", struct.calcsize(order + "Bxf"), PointField.FLOAT64))])
    # struct's native alignment is off with an explicit order: these offsets are the file's.
    expected = [(row, column, row + column / 8) for row in range(rows) for column in range(3)]
    assert np.array_equal(cloud_from_ros(through_the_wire(msg)), expected)


def test_no_return_is_left_out_where_that_is_allowed():
    points = np.array([[1.0, 2.0, 3.0], [np.nan, np.nan, np.nan], [np.inf, 0.0, 0.0]])
    msg = cloud_to_ros(points, STAMP, "map")
    assert np.array_equal(cloud_from_ros(msg), points, equal_nan=True)  # the layer judges
    msg.is_dense = False
    assert np.array_equal(cloud_from_ros(msg), points[:1])


def broken(**changes):
    msg = cloud_to_ros(np.ones((4, 3)), STAMP, "map")
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


@pytest.mark.parametrize("msg, words", [
    (PointCloud2(), "this has none"), (broken(fields=broken().fields[:2]), "this has x, y"),
    (broken(width=5), "5 x 1 points"), (broken(height=3), "4 x 3 points"),
    (broken(row_step=2**31), "48 bytes"), (broken(point_step=8), "points of 8 bytes"),
    (broken(data=array("B", b"abc")), "3 bytes"),
    (broken(fields=[PointField(name=n, offset=0, datatype=PointField.INT32, count=1)
                    for n in "xyz"]), "FLOAT32 or FLOAT64")])
def test_what_is_no_cloud_says_why(msg, words):
    with pytest.raises(ConfigError, match="cloud") as caught:
        cloud_from_ros(through_the_wire(msg))
    assert words in str(caught.value)


def odometry(x, y, z, w, position=(1.0, 2.0, 3.0)):
    msg = Odometry(child_frame_id="drone_1/base_link")
    msg.header.stamp = STAMP
    q, p = msg.pose.pose.orientation, msg.pose.pose.position
    q.x, q.y, q.z, q.w = x, y, z, w
    p.x, p.y, p.z = position
    return msg


def test_a_pose_turns_points_into_the_map():
    half = math.pi / 4
    north = pose_from_ros(odometry(0.0, 0.0, math.sin(half), math.cos(half)))
    assert north.yaw == pytest.approx(math.pi / 2) and north.stamp == pytest.approx(12.25)
    assert north.rotation @ (1, 0, 0) == pytest.approx([0, 1, 0])
    nose_down = pose_from_ros(odometry(0.0, math.sin(half), 0.0, math.cos(half)))
    assert nose_down.rotation @ (1, 0, 0) == pytest.approx([0, 0, -1], abs=1e-12)
    assert nose_down.frame_id == "drone_1/base_link"


@pytest.mark.parametrize("msg", [odometry(0.0, 0.0, 0.0, 0.0), odometry(0.0, 0.0, math.nan, 1.0),
                                 odometry(0.0, 0.0, 0.0, 1.0, (math.inf, 0.0, 0.0))])
def test_what_is_no_pose_says_why(msg):
    with pytest.raises(ConfigError, match="no pose"):
        pose_from_ros(msg)


def pose(stamp, x, yaw=0.0):
    return Pose(stamp, np.array([x, 0.0, 0.0]),
                np.array([0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)]))


def test_a_track_is_looked_up_between_its_poses_only():
    track = Track(keep=3)
    assert track.at(1.0, 1.0) is None
    for stamp, x, yaw in ((1.0, 0.0, 3.0), (1.5, 10.0, -3.0), (4.0, 20.0, 0.0)):
        track.add(pose(stamp, x, yaw))
    assert track.at(1.5, 1.0).position[0] == 10.0
    between = track.at(1.25, 1.0)
    assert between.position[0] == pytest.approx(5.0)
    assert abs(between.yaw) == pytest.approx(math.pi)       # the short way round
    assert track.at(0.9, 1.0) is None and track.at(4.1, 1.0) is None
    assert track.at(3.0, 1.0) is None       # the gap is too wide
    track.add(pose(3.5, 99.0))              # late
    assert track.newest_s == 4.0
    track.add(pose(1.0, 7.0))               # the clock was set back
    assert track.newest_s == 1.0 and track.at(4.0, 1.0) is None
