"""A copy of the map stays right when messages are late, lost or from a new server."""

import threading
import time

import numpy as np
import pytest
import rclpy
from domain_coordinator import domain_id
from parallel_city_interfaces.msg import VoxelGrid as VoxelGridMsg
from parallel_city_interfaces.msg import VoxelGridUpdate
from parallel_city_interfaces.srv import GetRegion
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node

from parallel_city_ros.city.twin import CityEvent, Twin
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.nodes import conversions as c
from parallel_city_ros.nodes import qos
from parallel_city_ros.nodes.map_mirror import MapMirror


class Server:
    """Says what the test wants, when it wants it; its region service is honest."""

    def __init__(self, node):
        occupied = np.zeros((40, 40, 10), bool)
        occupied[10:14, 10:14, :5] = True
        self.twin = Twin(VoxelGrid.from_dense(occupied, np.zeros(3), 2.0, LocalFrame(60.0, 25.0)))
        self._whole = node.create_publisher(VoxelGridMsg, "/city_map/voxels", qos.LATCHED)
        self._updates = node.create_publisher(VoxelGridUpdate, "/city_map/updates", qos.UPDATES)
        node.create_service(GetRegion, "/city_map/region", self._region)
        self.asked = 0

    def event(self, number):
        x = 4.0 + 12 * number
        return self.twin.add(CityEvent(
            event_id=str(number), kind="crane", lower_z=0.0, upper_z=12.0,
            footprint=((x, 50.0), (x + 6, 50.0), (x, 56.0))))

    def say(self, what, second, epoch="first"):
        """Seconds may go back: the order is that of epoch and number."""
        stamp = c.time_to_ros(second)
        if isinstance(what, VoxelGrid):
            self._whole.publish(c.grid_to_ros(what, stamp, epoch=epoch))
        else:
            self._updates.publish(c.update_to_ros(what, stamp, epoch))

    def _region(self, request, response):
        self.asked += 1
        response.grid = c.grid_to_ros(self.twin.grid, c.time_to_ros(0.0), epoch="first")
        response.updates = [c.update_to_ros(u, c.time_to_ros(0.0), "first")
                            for u in self.twin.updates_after(request.since_update)]
        return response


@pytest.fixture
def pair():
    with domain_id() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        nodes = [Node(name, context=context) for name in ("server", "listener")]
        server, mirror = Server(nodes[0]), MapMirror(nodes[1])
        executor = MultiThreadedExecutor(num_threads=4, context=context)

        def spin():
            try:
                executor.spin()
            except ExternalShutdownException:
                pass
        for node in nodes:
            executor.add_node(node)
        spinner = threading.Thread(target=spin, daemon=True)
        spinner.start()
        server.say(server.twin.grid, 1.0)
        assert mirror.wait(20.0) is not None
        yield server, mirror
        executor.shutdown(timeout_sec=2.0)
        spinner.join(2.0)
        for node in nodes:
            node.destroy_node()
        context.try_shutdown()


def reaches(mirror, number, seconds=20.0):
    deadline = time.monotonic() + seconds
    while mirror.grid.map_update != number and time.monotonic() < deadline:
        time.sleep(0.01)
    return mirror.grid.map_update == number


def test_a_whole_map_that_comes_late_takes_nothing_back(pair):
    server, mirror = pair
    base = server.twin.grid
    server.say(server.event(1), 2.0)
    assert reaches(mirror, 1)
    server.say(base, 1.5)           # sent before the update, arrived after it
    server.say(server.event(2), 0.5)    # and the clock was set back
    assert reaches(mirror, 2)
    assert np.array_equal(mirror.grid.occupied, server.twin.grid.occupied) and not server.asked


def test_lost_updates_are_asked_for(pair):
    server, mirror = pair
    server.event(1)
    server.event(2)
    server.say(server.event(3), 2.0)
    assert reaches(mirror, 3) and server.asked == 1
    assert np.array_equal(mirror.grid.occupied, server.twin.grid.occupied)


def test_a_damaged_update_is_asked_for_again(pair):
    server, mirror = pair
    message = c.update_to_ros(server.event(1), c.time_to_ros(2.0), "first")
    message.crc32 ^= 1
    server._updates.publish(message)
    assert reaches(mirror, 1) and server.asked == 1
    assert np.array_equal(mirror.grid.occupied, server.twin.grid.occupied)


def test_a_server_that_started_anew_counts_even_at_the_same_number(pair):
    server, mirror = pair
    base = server.twin.grid
    server.say(server.event(1), 2.0)
    assert reaches(mirror, 1)
    server.say(base, 9.0, "second")
    assert reaches(mirror, 0)
    server.say(server.event(2), 1.0)            # the last words of the first
    anew = Twin(base)
    other = anew.add(CityEvent(event_id="x", kind="crane", lower_z=0.0, upper_z=9.0,
                               footprint=((60.0, 5.0), (66.0, 5.0), (60.0, 9.0))))
    server.say(other, 1.0, "second")
    assert reaches(mirror, 1)
    assert np.array_equal(mirror.grid.occupied, anew.grid.occupied)
    server.say(Twin(base).grid.with_prism(server.twin.events["1"].polygon, 0, 12), 1.0, "third")
    deadline = time.monotonic() + 20.0
    while mirror.grid.is_occupied((61.0, 6.0, 4.0)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not mirror.grid.is_occupied((61.0, 6.0, 4.0))
