"""A node's own copy of the twin, kept up to date by numbered updates."""

from __future__ import annotations

import threading

from parallel_city_interfaces.msg import VoxelGrid as VoxelGridMsg
from parallel_city_interfaces.msg import VoxelGridUpdate
from parallel_city_interfaces.srv import GetRegion
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import MapUpdateError, ParallelCityError
from parallel_city_ros.nodes import qos
from parallel_city_ros.nodes.conversions import grid_from_ros, update_from_ros


class MapMirror:
    """Follows `city_map/voxels` and `city_map/updates`; asks `city_map/region` about gaps.

    on_change(grid, update) is called after each change; update is None when a whole map came.
    group : callback group in which that happens, one of its own by default
    """

    def __init__(self, node, on_change=lambda grid, update: None, group=None):
        self._node, self._on_change = node, on_change
        self._changed = threading.Condition()
        self.grid: VoxelGrid | None = None
        self._epoch = ""        # run of the map server that our map comes from
        group = group or MutuallyExclusiveCallbackGroup()
        self._whole = node.create_subscription(
            VoxelGridMsg, "/city_map/voxels", self._on_whole, qos.LATCHED, callback_group=group)
        self._updates = node.create_subscription(
            VoxelGridUpdate, "/city_map/updates", self._on_update, qos.UPDATES,
            callback_group=group)
        self._region = node.create_client(GetRegion, "/city_map/region", callback_group=group)

    def wait(self, timeout_s: float, at_least: int = 0) -> VoxelGrid | None:
        """The newest map; None if none came within timeout_s of wall time.

        at_least : number of an update that it must hold
        """
        def there():
            return self.grid is not None and self.grid.map_update >= at_least
        with self._changed:
            return self.grid if self._changed.wait_for(there, timeout_s) else None

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
        mine = self.grid
        if mine and msg.epoch == self._epoch and msg.map_hash == mine.map_hash \
                and msg.map_update <= mine.map_update:
            return      # the latched copy of what the updates already said, or a late one
        if mine and msg.epoch != self._epoch:
            self._node.get_logger().warning("the map server started anew: its map counts")
        try:
            self._set(grid_from_ros(msg))
            self._epoch = msg.epoch
        except MapUpdateError as error:
            self._node.get_logger().error(f"map refused: {error}")

    def _on_update(self, msg) -> None:
        # Of another run of the server: its whole map comes too.
        if self.grid is None or msg.epoch != self._epoch or (
                msg.map_hash == self.grid.map_hash and msg.map_update <= self.grid.map_update):
            return
        try:
            update = update_from_ros(msg)
            self._set(update.apply_to(self.grid), update)
        except ParallelCityError as error:
            self._node.get_logger().warning(f"{error}; asking for the missed updates")
            request = GetRegion.Request(since_update=self.grid.map_update)
            self._region.call_async(request).add_done_callback(self._on_region)

    def _on_region(self, future) -> None:
        """The updates that are missing, or the whole map if they do not fit ours."""
        answer = future.result()
        if answer is None or answer.grid.epoch != self._epoch:
            return
        try:
            for msg in answer.updates:
                if msg.map_update > self.grid.map_update:
                    update = update_from_ros(msg)
                    self._set(update.apply_to(self.grid), update)
        except ParallelCityError as error:
            self._node.get_logger().warning(f"the whole map is taken: {error}")
            self._set(grid_from_ros(answer.grid))
