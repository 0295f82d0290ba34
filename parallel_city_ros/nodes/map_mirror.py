"""A node's own copy of the twin, kept up to date by numbered updates."""

from __future__ import annotations

import threading

from parallel_city_interfaces.msg import VoxelGrid as VoxelGridMsg
from parallel_city_interfaces.msg import VoxelGridUpdate
from parallel_city_interfaces.srv import GetRegion
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import MapUpdateError
from parallel_city_ros.nodes import qos
from parallel_city_ros.nodes.conversions import grid_from_ros, time_from_ros, update_from_ros


class MapMirror:
    """Follows `city_map/voxels` and `city_map/updates`; asks `city_map/region` about gaps.

    on_change(grid, update) is called after each change; update is None when a whole map came.
    group : callback group in which that happens, one of its own by default
    """

    def __init__(self, node, on_change=lambda grid, update: None, group=None):
        self._node, self._on_change = node, on_change
        self._changed = threading.Condition()
        self.grid: VoxelGrid | None = None
        self._newest = 0.0      # stamp of the newest message that was taken, s
        group = group or MutuallyExclusiveCallbackGroup()
        self._whole = node.create_subscription(
            VoxelGridMsg, "/city_map/voxels", self._on_whole, qos.LATCHED, callback_group=group)
        self._updates = node.create_subscription(
            VoxelGridUpdate, "/city_map/updates", self._on_update, qos.UPDATES,
            callback_group=group)
        self._region = node.create_client(GetRegion, "/city_map/region", callback_group=group)

    def wait(self, timeout_s: float) -> VoxelGrid | None:
        """The newest map; None if none came within timeout_s of wall time."""
        with self._changed:
            self._changed.wait_for(lambda: self.grid is not None, timeout_s)
            return self.grid

    def destroy(self) -> None:
        self._node.destroy_subscription(self._whole)
        self._node.destroy_subscription(self._updates)
        self._node.destroy_client(self._region)

    def _set(self, grid, update=None) -> None:
        with self._changed:
            self.grid = grid
            self._changed.notify_all()
        self._on_change(grid, update)

    def _on_whole(self, msg) -> None:
        mine, stamp = self.grid, time_from_ros(msg.header.stamp)
        if mine and mine.map_hash == msg.map_hash:
            # The latched copy of what the updates already said; a large message may come after
            # small ones that were sent later.
            if msg.map_update == mine.map_update or stamp < self._newest:
                return
            if msg.map_update < mine.map_update:
                self._node.get_logger().warning("the map server started anew: its map counts")
        try:
            self._newest = stamp
            self._set(grid_from_ros(msg))
        except MapUpdateError as error:
            self._node.get_logger().error(f"map refused: {error}")

    def _on_update(self, msg) -> None:
        if self.grid is None or time_from_ros(msg.header.stamp) < self._newest:
            return
        self._newest = time_from_ros(msg.header.stamp)
        if msg.map_hash == self.grid.map_hash and msg.map_update == self.grid.map_update:
            return
        try:
            update = update_from_ros(msg)
            self._set(update.apply_to(self.grid), update)
        except MapUpdateError as error:
            self._node.get_logger().warning(f"{error}; asking for the missed updates")
            request = GetRegion.Request(since_update=self.grid.map_update)
            self._region.call_async(request).add_done_callback(self._on_region)

    def _on_region(self, future) -> None:
        """The updates that are missing, or the whole map if they do not fit ours."""
        answer = future.result()
        if answer is None:
            return
        try:
            for msg in answer.updates:
                if msg.map_update > self.grid.map_update:
                    update = update_from_ros(msg)
                    self._set(update.apply_to(self.grid), update)
        except MapUpdateError as error:
            self._node.get_logger().warning(f"the whole map is taken: {error}")
            self._set(grid_from_ros(answer.grid))
