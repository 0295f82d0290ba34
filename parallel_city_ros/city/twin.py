"""The living twin: an immutable base and the events that close a part of its air, numbered."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import shapely

from parallel_city_ros.city.rasterise import CHUNK
from parallel_city_ros.city.voxels import VoxelGrid, footprint_box
from parallel_city_ros.errors import ConfigError, MapUpdateError

MAX_EVENT_HEIGHT_M = 1000.0


@dataclass(frozen=True, kw_only=True)
class CityEvent:
    """Something that closes a prism of air: a crane, a crowd, a closure.

    footprint : ((east, north), ...) metres in the map frame; lower_z, upper_z : ENU metres
    expires_s : end of it, seconds on the clock of whoever adds it; infinite: stays
    """

    event_id: str
    kind: str
    footprint: tuple[tuple[float, float], ...]
    lower_z: float
    upper_z: float
    confidence: float = 1.0
    expires_s: float = math.inf
    description: str = ""

    def __post_init__(self):
        def bad(what):
            return ConfigError(f"event {self.event_id!r}: {what}")
        if not self.event_id:
            raise bad("event_id is empty; every event needs a name of its own")
        corners = np.array(self.footprint, float)
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 \
                or not np.isfinite(corners).all():
            raise bad("footprint needs at least three corners of two finite numbers, in metres")
        if not self.polygon.is_valid or self.polygon.area <= 0:
            raise bad("footprint crosses itself or has no area; give its corners in order")
        if not -MAX_EVENT_HEIGHT_M <= self.lower_z < self.upper_z <= MAX_EVENT_HEIGHT_M:
            raise bad(f"lower_z ({self.lower_z}) must be below upper_z ({self.upper_z}), both "
                      f"within {MAX_EVENT_HEIGHT_M:g} m of the ground")
        if not 0 <= self.confidence <= 1:
            raise bad(f"confidence must be in [0, 1], got {self.confidence}")

    @property
    def polygon(self) -> shapely.Polygon:
        return shapely.Polygon(self.footprint)


@dataclass(frozen=True, eq=False)
class GridUpdate:
    """The chunks of the grid that update number map_update changed, as they are after it.

    where : (N, 3) uint16 numbers of the chunks; words : (N, 16, 16) uint16, see `VoxelGrid`
    layers : height of the grid after it, voxels
    """

    map_hash: str
    map_update: int
    where: np.ndarray
    words: np.ndarray
    layers: int
    event: CityEvent

    def packed(self) -> bytes:
        """Numbers, then words, little endian."""
        return self.where.astype("<u2").tobytes() + self.words.astype("<u2").tobytes()

    @property
    def crc32(self) -> int:
        return zlib.crc32(self.packed())

    def apply_to(self, grid: VoxelGrid) -> VoxelGrid:
        """The next version of a grid that is exactly one update behind.

        Raises
        ------
        MapUpdateError
            If the grid has another base, or an update in between was missed.
        """
        if grid.map_hash != self.map_hash:
            raise MapUpdateError(f"update {self.map_update} belongs to map {self.map_hash[:12]}, "
                                 f"this is {grid.map_hash[:12]}")
        if self.map_update != grid.map_update + 1:
            raise MapUpdateError(f"update {self.map_update} does not follow {grid.map_update}: "
                                 "ask for what was missed")
        return grid.with_chunks(self.where, self.words, self.layers, self.map_update)


class Twin:
    """The map server's model: the newest grid, and every update that led to it."""

    def __init__(self, base: VoxelGrid):
        self.base = self.grid = base
        self.events: dict[str, CityEvent] = {}
        self.updates: list[GridUpdate] = []

    def add(self, event: CityEvent) -> GridUpdate:
        """Put an event into the map; one of the same id is replaced.

        Raises
        ------
        ConfigError
            If no part of it lies on the map.
        """
        if footprint_box(self.base, event.polygon) is None:
            raise ConfigError(f"event {event.event_id!r} lies outside the map; its footprint is "
                              f"within {np.round(event.polygon.bounds, 1).tolist()} m")
        old = self.events.get(event.event_id)
        self.events[event.event_id] = event
        return self._update(event, old)

    def remove(self, event_id: str) -> GridUpdate:
        """Free the air of one event. Raises KeyError if there is none of that name."""
        return self._update(self.events.pop(event_id))

    def remove_expired(self, now_s: float) -> list[GridUpdate]:
        """Free the air of events that have ended."""
        ended = [e for e in self.events.values() if e.expires_s <= now_s]
        return [self._update(self.events.pop(e.event_id)) for e in ended]

    def updates_after(self, number: int) -> list[GridUpdate]:
        return self.updates[max(0, number):]

    def _update(self, event: CityEvent, old: CityEvent | None = None) -> GridUpdate:
        """Recompute the chunks of the changed footprint from the base and all that stands."""
        changed = event.polygon if old is None else shapely.union(event.polygon, old.polygon)
        (i0, j0), (i1, j1) = footprint_box(self.base, changed)
        a0, b0, a1, b1 = i0 // CHUNK, j0 // CHUNK, (i1 - 1) // CHUNK, (j1 - 1) // CHUNK
        side = CHUNK * self.base.resolution
        x, y = self.base.origin[:2]
        touched = shapely.box(x + a0 * side, y + b0 * side, x + (a1 + 1) * side,
                              y + (b1 + 1) * side)
        fresh = self.base.with_prisms(
            (e.polygon, e.lower_z, e.upper_z) for e in self.events.values()
            if e.polygon.intersects(touched))
        layers = max(fresh.shape[2], self.grid.shape[2])
        where = np.stack(np.meshgrid(
            np.arange(a0, a1 + 1), np.arange(b0, b1 + 1), np.arange(-(-layers // CHUNK)),
            indexing="ij"), axis=-1).reshape(-1, 3)
        words = fresh.chunk(where)
        differs = (words != self.grid.chunk(where)).any(axis=(1, 2))
        update = GridUpdate(self.base.map_hash, self.grid.map_update + 1,
                            where[differs].astype(np.uint16), words[differs], layers, event)
        self.grid = update.apply_to(self.grid)
        self.updates.append(update)
        return update
