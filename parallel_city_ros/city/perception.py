"""The live layer of the twin: what depth sensors saw, and where that is not what the twin says.

Each voxel that a sensor looked at has the log-odds of being occupied (OctoMap's rule). Where
something stands that the twin does not know, a `CityEvent` closes the air around it. Where the
twin knows something that rays went through many times, that is told and nothing else: sensing
alone never opens air again, because a thin mast or glass is seen through just as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from math import floor, inf

import numpy as np
import shapely
from numba import njit
from scipy.ndimage import maximum_filter

from parallel_city_ros.city.rasterise import CHUNK
from parallel_city_ros.city.sensor import GROUND, cast
from parallel_city_ros.city.twin import MAX_EVENT_HEIGHT_M, CityEvent
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.settings import check, require, setting

CEILING_M = 300.0       # over the map's bottom: what is higher than that is not looked at
MOST_COUNTED = 255      # scans that hit a voxel
LOG_ODDS_STEP = 1e-3    # of the stored whole numbers
_PASSED, _HIT = 1, 2
_NORMAL_SHARE = 0.05    # of matched surfaces that must face each direction, to register by them


class Refused(Enum):
    """Why an observation was not taken."""

    FRAME = "frame"
    STALE = "stale"
    FUTURE = "future"
    POINTS = "points"
    POSE = "pose"
    REGISTRATION = "registration"


@dataclass(frozen=True, kw_only=True)
class RegistrationConfig:
    """Correction of a drifting pose by fitting what was seen to the twin (ICP)."""

    enabled: bool = setting(False, "whether clouds are fitted to the twin first")
    pairing: float = setting(3.0, "m, farthest that a point may lie from its surface", above=0)
    least_share: float = setting(0.6, "of the points that must find their surface", above=0,
                                 high=1)
    most_rmse: float = setting(1.0, "m, of the points after the fit", above=0)
    most_shift: float = setting(3.0, "m, of a correction; more is refused", above=0)
    most_turn_deg: float = setting(5.0, "degrees, of a correction; more is refused", above=0,
                                   high=45)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True)
class PerceptionConfig:
    hit_probability: float = setting(0.7, "of a voxel in which a point lies", above=0.5, high=0.99)
    miss_probability: float = setting(0.4, "of a voxel that a ray went through", low=0.01,
                                      high=0.5)
    least_probability: float = setting(0.12, "that many rays can lower it to", low=0.001, high=0.5)
    most_probability: float = setting(0.97, "that many points can raise it to", low=0.5,
                                      high=0.999)
    occupied_probability: float = setting(0.8, "from which a voxel counts as occupied", above=0.5,
                                          high=0.99)
    least_scans: int = setting(3, "scans that must have hit a voxel", low=1, high=MOST_COUNTED)
    least_voxels: int = setting(4, "voxels of the smallest obstacle that is told", low=1)
    vanished_voxels: int = setting(12, "voxels of the smallest part that has vanished", low=1)
    gap_voxels: int = setting(2, "voxels apart that are one obstacle all the same", low=1, high=8)
    margin_voxels: int = setting(1, "voxels around what the twin knows in which nothing is new",
                                 low=0, high=8)
    downsample: float = setting(0.5, "of a voxel's edge: one point is kept in such a cube",
                                above=0, high=2)
    range: float = setting(80.0, "m, points beyond it only say what is free", above=0, high=1000)
    least_range: float = setting(1.0, "m, nearer points are the drone itself", low=0)
    most_age_s: float = setting(2.0, "s, older clouds are refused", above=0)
    most_ahead_s: float = setting(0.5, "s, clouds from the future are refused", above=0)
    keep_s: float = setting(900.0, "s, after which what was seen is forgotten", above=0)
    repeat_s: float = setting(5.0, "s, until an event that the map lacks is told again", above=0)
    most_chunks: int = setting(8192, "of 16 x 16 x 16 voxels, 32 KB each, that are remembered",
                               low=64, high=100_000)
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)

    def __post_init__(self):
        check(self)
        require(self.least_range < self.range, self, "least_range", f"below range ({self.range})")
        require(self.occupied_probability < self.most_probability, self, "occupied_probability",
                f"below most_probability ({self.most_probability})")


@dataclass(frozen=True, eq=False)
class Integration:
    """What became of one observation.

    refused : None if it was taken; message : for the operator
    correction : (4, 4) from the given pose to the one that was used, in ENU
    """

    refused: Refused | None = None
    message: str = ""
    points: int = 0
    correction: np.ndarray = field(default_factory=lambda: np.eye(4))


@dataclass(frozen=True)
class Changes:
    """appeared : to be put into the twin; vanished : for people to judge, not for the twin."""

    appeared: tuple[CityEvent, ...] = ()
    vanished: tuple[CityEvent, ...] = ()


@dataclass
class _Obstacle:
    """Something that the twin did not know. voxels : (N, 3), only ever more."""

    event_id: str
    voxels: np.ndarray
    event: CityEvent | None = None
    told_s: float = -inf


class SensorLayer:
    """Log-odds of the voxels that were looked at, over one base of the twin.

    grid : the twin as it was when the layer began; `update_map` tells what it is now
    name : begins the ids of events; one that no earlier run had, or its events are replaced
    """

    def __init__(self, grid: VoxelGrid, config: PerceptionConfig | None = None,
                 name: str = "sensed"):
        self._config = config or PerceptionConfig()
        self._name = name
        self._first = self.grid = grid
        layers = max(grid.shape[2], math.ceil(CEILING_M / grid.resolution))
        self._index = np.full(tuple(-(-n // CHUNK) for n in (*grid.shape[:2], layers)), -1,
                              np.int32)
        self._log_odds = np.empty((0, CHUNK, CHUNK, CHUNK), np.int16)
        self._hits = np.empty((0, CHUNK, CHUNK, CHUNK), np.uint8)
        self._seen_s = np.empty((0, CHUNK, CHUNK, CHUNK), np.float32)   # after self._began_s
        self._mark = np.empty((0, CHUNK, CHUNK, CHUNK), np.uint8)       # zero between scans
        self._free_rows = np.empty(0, np.int32)
        self._began_s: float | None = None
        self._newest_s = -inf
        self._obstacles: list[_Obstacle] = []
        self._vanished: dict[tuple, CityEvent] = {}
        self._count = 0

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (self._index, self._log_odds, self._hits, self._seen_s,
                                      self._mark))

    @property
    def events(self) -> tuple[CityEvent, ...]:
        """All that was told to have appeared."""
        return tuple(o.event for o in self._obstacles if o.event is not None)

    def update_map(self, grid: VoxelGrid) -> None:
        """The twin is now this.

        Raises
        ------
        ConfigError
            If it has another base: that needs a layer of its own.
        """
        if grid.map_hash != self._first.map_hash:
            raise ConfigError(f"the layer lies over map {self._first.map_hash[:12]}, not over "
                              f"{grid.map_hash[:12]}; make a new one")
        self.grid = grid

    # what comes in

    def integrate(self, points, sensor_origin, stamp: float, *, now: float | None = None,
                  frame: str = "map") -> Integration:
        """Fuse one cloud.

        points : (N, 3) ENU metres, may be empty; sensor_origin : (3,) ENU metres
        stamp : seconds of the measurement; now : seconds on the same clock, by default the stamp
        frame : that the points are in; only the map's is taken
        """
        config, grid = self._config, self.grid
        now = stamp if now is None else now
        points = np.asarray(points, float)
        origin = np.asarray(sensor_origin, float)
        wrong = self._why_not(points, origin, stamp, now, frame)
        if wrong is not None:
            return wrong
        distance = np.linalg.norm(points - origin, axis=1)
        points = _thinned(points[distance >= config.least_range],
                          config.downsample * grid.resolution)
        correction = np.eye(4)
        if config.registration.enabled:
            fitted = register(grid, points, origin, config.registration)
            if isinstance(fitted, str):
                return Integration(Refused.REGISTRATION, fitted)
            correction = fitted
            points = points @ correction[:3, :3].T + correction[:3, 3]
            origin = correction[:3, :3] @ origin + correction[:3, 3]
            if not self._on_map(origin):
                return Integration(Refused.REGISTRATION, "the fit puts the sensor beside the map")
        if len(points):
            self._fuse(points, origin, stamp)
        self._newest_s = max(self._newest_s, stamp)
        return Integration(None, "", len(points), correction)

    def _why_not(self, points, origin, stamp, now, frame) -> Integration | None:
        config = self._config
        if frame != "map":
            return Integration(Refused.FRAME, f"the points are in frame {frame!r}, not 'map'")
        if not (math.isfinite(stamp) and math.isfinite(now)):
            return Integration(Refused.STALE, f"the stamp is {stamp}")
        if now - stamp > config.most_age_s:
            return Integration(Refused.STALE, f"it is {now - stamp:.2f} s old, at most "
                               f"{config.most_age_s:g} s are taken")
        if stamp - now > config.most_ahead_s:
            return Integration(Refused.FUTURE, f"its stamp is {stamp - now:.2f} s ahead; are the "
                               "clocks the same?")
        if points.ndim != 2 or points.shape[1] != 3:
            return Integration(Refused.POINTS, f"points of shape {points.shape}, not (N, 3)")
        if not np.isfinite(points).all():
            bad = int((~np.isfinite(points)).any(axis=1).sum())
            return Integration(Refused.POINTS, f"{bad} of {len(points)} points are not finite")
        if origin.shape != (3,) or not np.isfinite(origin).all():
            return Integration(Refused.POSE, f"the sensor's place is {origin.tolist()}")
        if not self._on_map(origin):
            return Integration(Refused.POSE, f"the sensor at {np.round(origin, 1).tolist()} m is "
                               "outside the map")
        return None

    def _on_map(self, origin) -> bool:
        local = (origin - self.grid.origin) / self.grid.resolution
        return bool((local >= (0, 0, -1)).all()     # it may stand on the ground
                    and (local < np.array(self._index.shape) * CHUNK).all()
                    and (local[:2] < self.grid.shape[:2]).all())

    def _fuse(self, points, origin, stamp):
        config, grid = self._config, self.grid
        if self._began_s is None:
            self._began_s = stamp
        local = (points - grid.origin) / grid.resolution
        start = (origin - grid.origin) / grid.resolution
        start[2] = max(start[2], 0.0)
        rays = (local, start, config.range / grid.resolution, *grid.shape[:2])
        touched = np.zeros(self._index.shape, bool)
        _mark_rays(self._index, self._mark, touched, *rays, False)
        self._make_room(touched)
        _mark_rays(self._index, self._mark, touched, *rays, True)
        rows = self._index[touched]
        _apply(self._log_odds, self._hits, self._seen_s, self._mark, rows[rows >= 0],
               np.float32(stamp - self._began_s), self._units(config.hit_probability),
               self._units(config.miss_probability), self._units(config.least_probability),
               self._units(config.most_probability))

    @staticmethod
    def _units(probability: float) -> int:
        return round(math.log(probability / (1 - probability)) / LOG_ODDS_STEP)

    def _make_room(self, touched):
        """Rows for the chunks that rays touch; if they are too many, the longest unseen go.

        What finds no room even so, of one huge scan, is not remembered.
        """
        missing = np.argwhere(touched & (self._index < 0))
        rows = len(self._log_odds)
        short = len(missing) - len(self._free_rows)
        wanted = min(max(2 * rows, rows + short), self._config.most_chunks)
        if short > 0 and wanted > rows:
            def grown(array):
                more = np.zeros((wanted - rows, *array.shape[1:]), array.dtype)
                return np.concatenate([array, more])
            self._log_odds, self._hits = grown(self._log_odds), grown(self._hits)
            self._seen_s, self._mark = grown(self._seen_s), grown(self._mark)
            self._free_rows = np.concatenate(
                [self._free_rows, np.arange(rows, wanted, dtype=np.int32)])
            short = len(missing) - len(self._free_rows)
        if short > 0:
            where = np.argwhere((self._index >= 0) & ~touched)
            newest = self._seen_s[self._index[tuple(where.T)]].max(axis=(1, 2, 3), initial=0)
            self._give_up(where[np.argsort(newest, kind="stable")[:short]])
        missing = missing[:len(self._free_rows)]
        new, self._free_rows = np.split(self._free_rows, [len(missing)])
        self._index[tuple(missing.T)] = new
        self._log_odds[new], self._hits[new], self._seen_s[new] = 0, 0, 0.0

    def _give_up(self, where):
        rows = self._index[tuple(where.T)]
        self._index[tuple(where.T)] = -1
        self._free_rows = np.concatenate([self._free_rows, rows])

    def forget(self, now: float) -> None:
        """Drop what was not seen for keep_s."""
        if self._began_s is None:
            return
        old = now - self._began_s - self._config.keep_s
        if old <= 0:
            return
        where = np.argwhere(self._index >= 0)
        rows = self._index[tuple(where.T)]
        empty = _forget(self._log_odds, self._hits, self._seen_s, rows, np.float32(old))
        self._give_up(where[empty])

    # what is known

    def probability(self, points) -> np.ndarray:
        """(..., 3) ENU metres → (...) that the voxel is occupied; 0.5 where nothing is known."""
        points = np.asarray(points, float)
        voxels = np.floor((points - self.grid.origin) / self.grid.resolution).astype(int)
        units = self._read(self._log_odds, voxels.reshape(-1, 3)).reshape(points.shape[:-1])
        return _probability(units)

    def _read(self, array, voxels):
        """Values at (N, 3) voxels, 0 where nothing was stored."""
        inside = ((voxels >= 0) & (voxels < np.array(self._index.shape) * CHUNK)).all(axis=1)
        out = np.zeros(len(voxels), array.dtype)
        v = voxels[inside]
        rows = self._index[tuple((v // CHUNK).T)]
        out[inside] = np.where(rows >= 0, array[(rows, *(v % CHUNK).T)] if len(array) else 0, 0)
        return out

    def occupied(self) -> np.ndarray:
        """(N, 3) int voxels that observation says are occupied."""
        config = self._config
        return self._select(np.argwhere(self._index >= 0),
                            self._units(config.occupied_probability), 2**15 - 1,
                            config.least_scans, MOST_COUNTED)

    def _select(self, where, *bounds):
        """Voxels of the chunks at (N, 3) whose log-odds and hits lie within bounds, inclusive."""
        arguments = (self._log_odds, self._hits, where, self._index[tuple(where.T)], *bounds)
        out = np.empty((_select(*arguments, np.empty((0, 3), np.int64)), 3), np.int64)
        if len(out):
            _select(*arguments, out)
        return out

    def changes(self, now: float | None = None) -> Changes:
        """What is to be told: new, grown or not yet in the map; each vanished part once.

        now : seconds on the clock of the stamps, by default the newest stamp
        """
        now = self._newest_s if now is None else now
        if not math.isfinite(now):
            return Changes()
        self.forget(now)
        seen = self.occupied()
        return Changes(tuple(self._appeared(seen, now)), tuple(self._seen_through(seen)))

    # what has appeared

    def _appeared(self, seen, now):
        config = self._config
        fresh = seen[~self._known(seen)]
        for cluster in _clusters(fresh, config.gap_voxels, upright=True):
            near = self._obstacles_near(cluster)
            if near:
                # Those that turn out to be one: the largest goes on, the others stay as told.
                mine = near[0]
                mine.voxels = np.unique(np.concatenate(
                    [cluster, *(other.voxels for other in near)]), axis=0)
            elif len(cluster) >= config.least_voxels:
                self._count += 1
                self._obstacles.append(_Obstacle(f"{self._name}-{self._count}", cluster))
        for obstacle in self._obstacles:
            event = self._event_of(obstacle)
            if self._to_be_told(obstacle, event, now):
                obstacle.event, obstacle.told_s = event, now
                yield event

    def _known(self, voxels) -> np.ndarray:
        """(N,) bool: at or beside something that the twin has, not counting what we told it."""
        known = self._near_ground(voxels) | self._near(self._first, voxels)
        if self.grid is not self._first:
            # The newest map holds our own events too: those do not make their obstacle known.
            ours = np.zeros(len(voxels), bool)
            reach = self._config.margin_voxels + 2
            for obstacle in self._obstacles:
                columns = obstacle.voxels[:, :2]
                low, high = columns.min(axis=0) - reach, columns.max(axis=0) + reach
                ours |= ((voxels[:, :2] >= low) & (voxels[:, :2] <= high)).all(axis=1)
            known |= ~ours & self._near(self.grid, voxels)
        return known

    def _near(self, grid, voxels):
        near = np.zeros(len(voxels), bool)
        for offset in _cube(self._config.margin_voxels):
            near |= grid.holds(voxels + offset)
        return near

    @cached_property
    def _ground_layers(self):
        """(nx, ny) number of the voxel layer with the highest ground at or beside a column."""
        size = 2 * self._config.margin_voxels + 1
        ground = self._first.ground
        if not self._first.terrain.is_flat:
            ground = maximum_filter(ground, size)
        return np.floor((ground - self._first.origin[2]) / self._first.resolution + 1e-6)

    def _near_ground(self, voxels):
        i, j = (np.clip(voxels[:, d], 0, self._first.shape[d] - 1) for d in (0, 1))
        return voxels[:, 2] <= self._ground_layers[i, j] + self._config.margin_voxels

    def _obstacles_near(self, cluster):
        """The obstacles that a cluster belongs to, the largest first."""
        gap = self._config.gap_voxels
        near = [o for o in self._obstacles
                if ((cluster >= o.voxels.min(axis=0) - gap)
                    & (cluster <= o.voxels.max(axis=0) + gap))[:, :2].all(axis=1).any()]
        return sorted(near, key=lambda o: len(o.voxels), reverse=True)

    def _event_of(self, obstacle) -> CityEvent:
        """Closed air: the hull of its voxels and half a voxel more, from the ground upwards.

        From the ground, because what carries it may be hidden; a gap that was seen beneath is
        not offered as a way through.
        """
        grid, voxels = self.grid, obstacle.voxels
        half = grid.resolution / 2
        # Squares that are half a voxel larger on each side: what grows, covers what it was.
        columns = np.unique(voxels[:, :2], axis=0)
        corners = columns[:, None] + np.array([(-0.5, -0.5), (-0.5, 1.5), (1.5, -0.5), (1.5, 1.5)])
        footprint = shapely.convex_hull(shapely.MultiPoint(
            grid.origin[:2] + corners.reshape(-1, 2) * grid.resolution))
        outline = np.array(footprint.exterior.coords[:-1])
        top = float(grid.origin[2] + (voxels[:, 2].max() + 1) * grid.resolution + half)
        lower = float(np.min(grid.ground_at(outline)))
        units, hits = self._read(self._log_odds, voxels), self._read(self._hits, voxels)
        # What was forgotten, or seen through since, does not make it less sure than it was.
        confidence = float(np.mean(_probability(units)))
        if obstacle.event is not None:
            confidence = max(confidence, obstacle.event.confidence)
        size = np.ptp(outline, axis=0)
        return CityEvent(
            event_id=obstacle.event_id, kind="obstacle",
            footprint=tuple(map(tuple, np.round(outline, 3).tolist())),
            lower_z=max(lower, -MAX_EVENT_HEIGHT_M), upper_z=min(top, MAX_EVENT_HEIGHT_M),
            confidence=round(confidence, 3),
            description=f"unknown to the map, {size[0]:.0f} x {size[1]:.0f} m, up to "
                        f"{top - lower:.0f} m above ground; {len(voxels)} voxels, hit by up to "
                        f"{int(hits.max(initial=0))} scans")

    def _to_be_told(self, obstacle, event, now):
        told = obstacle.event
        if told is None or event.upper_z > told.upper_z + 1e-6 \
                or not told.polygon.buffer(1e-3).covers(event.polygon) \
                or event.confidence > told.confidence + 0.1:
            return True
        inside = self.grid.holds(obstacle.voxels).all()
        return not inside and now - obstacle.told_s >= self._config.repeat_s

    # what has vanished

    def _seen_through(self, seen):
        """Parts that stood and that rays went through until their log-odds could fall no lower.

        Of the base and of what was told from here. Events of others may close free air.
        """
        config = self._config
        chunk_index = self._first.chunk_index
        a, b, c = np.minimum(self._index.shape, chunk_index.shape)
        where = np.argwhere((self._index[:a, :b, :c] >= 0) & (chunk_index[:a, :b, :c] >= 0))
        lowest = self._units(config.least_probability)
        empty = self._select(where, -2**15, lowest, 0, 0)
        gone = [empty[self._first.holds(empty)]]
        gone += [o.voxels[self._read(self._log_odds, o.voxels) <= lowest]
                 for o in self._obstacles]
        gone = np.unique(np.concatenate(gone), axis=0)
        if len(gone) and len(seen):     # a wall beside it may stand a little elsewhere
            gone = gone[~_beside(gone, seen, config.margin_voxels)]
        for cluster in _clusters(gone, 1):
            if len(cluster) < config.vanished_voxels:
                continue
            low = cluster.min(axis=0) * self.grid.resolution + self.grid.origin
            high = (cluster.max(axis=0) + 1) * self.grid.resolution + self.grid.origin
            event = CityEvent(
                event_id=f"{self._name}-gone-{'-'.join(map(str, cluster[0]))}", kind="vanished",
                footprint=((low[0], low[1]), (high[0], low[1]), (high[0], high[1]),
                           (low[0], high[1])),
                lower_z=float(low[2]), upper_z=float(high[2]),
                confidence=round(1 - config.least_probability, 3),
                description=f"{len(cluster)} voxels of the map were seen through; the map stays "
                            "as it is until somebody changes it")
            told = any(e.polygon.intersects(event.polygon) for e in self._vanished.values())
            if not told:
                self._vanished[event.event_id] = event
                yield event


def warm_up() -> None:
    """Load and compile what the first cloud would wait for."""
    grid = VoxelGrid.from_dense(np.zeros((8, 8, 8), bool), np.zeros(3), 1.0, LocalFrame(0.0, 0.0))
    layer = SensorLayer(grid)
    layer.integrate([(4.0, 4.0, 4.0)], (4.0, 4.0, 2.0), 0.0)
    layer.changes()


# --- fitting a cloud to the twin -----------------------------------------------------

def register(grid: VoxelGrid, points, origin, config: RegistrationConfig) -> np.ndarray | str:
    """(4, 4) that moves a cloud to where the twin says its surfaces are; text: why not.

    Point-to-plane ICP against what the sensor would have measured in the twin along the same
    rays. Refused where too little is matched, where surfaces do not hold the pose in all three
    directions, or if the correction is larger than it may be.

    References
    ----------
    Chen & Medioni (1992), Object modelling by registration of multiple range images.
    """
    import open3d
    if len(points) < 10:
        return f"{len(points)} points are too few to fit to the twin"
    rays = points - origin
    distance = np.linalg.norm(rays, axis=1)
    rays = rays / distance[:, None]
    expected, face = cast(grid, origin, rays, float(distance.max()) + 2 * config.pairing)
    met = np.isfinite(expected) & (face >= 0)
    if met.sum() < 10:
        return "the twin has nothing where the points are"
    normals = np.zeros((int(met.sum()), 3))
    axis = np.where(face[met] == GROUND, 2, face[met])
    normals[np.arange(len(normals)), axis] = -np.sign(rays[met][np.arange(len(normals)), axis])
    target = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(
        origin + rays[met] * expected[met, None]))
    target.normals = open3d.utility.Vector3dVector(normals)
    source = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    icp = open3d.pipelines.registration
    found = icp.registration_icp(source, target, config.pairing, np.eye(4),
                                 icp.TransformationEstimationPointToPlane())
    pairs = np.asarray(found.correspondence_set)
    if found.fitness < config.least_share or found.inlier_rmse > config.most_rmse:
        return (f"poor fit: {100 * found.fitness:.0f} % of the points are on surfaces of the "
                f"twin, {found.inlier_rmse:.2f} m off; {100 * config.least_share:.0f} % and "
                f"{config.most_rmse:g} m are needed")
    facing = (normals[pairs[:, 1]] ** 2).mean(axis=0)
    if facing.min() < _NORMAL_SHARE:
        where = ("east or west", "north or south", "up")[int(facing.argmin())]
        return f"too few surfaces face {where} to hold the fit"
    moved = np.array(found.transformation)
    shift = np.linalg.norm(moved[:3, :3] @ origin + moved[:3, 3] - origin)
    turn = math.degrees(math.acos(min(1.0, max(-1.0, (np.trace(moved[:3, :3]) - 1) / 2))))
    if not (shift <= config.most_shift and turn <= config.most_turn_deg):
        return (f"the fit moves the sensor by {shift:.1f} m and {turn:.1f} degrees, at most "
                f"{config.most_shift:g} m and {config.most_turn_deg:g} degrees are taken")
    return moved


# --- clusters and loops --------------------------------------------------------------

def _thinned(points, cell: float) -> np.ndarray:
    if len(points) == 0:
        return points
    import open3d
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    return np.asarray(cloud.voxel_down_sample(cell).points)


def _probability(units):
    return 1 / (1 + np.exp(-np.asarray(units, float) * LOG_ODDS_STEP))


def _cube(reach: int) -> np.ndarray:
    side = np.arange(-reach, reach + 1)
    return np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)


def _keys(voxels):
    """One number for each voxel; voxels less than 2^20 from the origin."""
    v = np.asarray(voxels, np.int64) + 2**19
    return (v[:, 0] << 42) | (v[:, 1] << 21) | v[:, 2]


def _beside(voxels, others, reach: int) -> np.ndarray:
    """(N,) bool: one of others lies within reach voxels."""
    there = np.unique(_keys(others))
    near = np.zeros(len(voxels), bool)
    for offset in _cube(reach):
        near |= np.isin(_keys(voxels + offset), there)
    return near


def _clusters(voxels, gap: int, upright: bool = False) -> list[np.ndarray]:
    """Voxels that are at most gap apart in each direction, together; the largest first.

    upright : whatever is above one another is together, as events close air from the ground
    """
    if not len(voxels):
        return []
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    places = voxels * (1, 1, 0) if upright else voxels
    keys, first, of_place = np.unique(_keys(places), return_index=True, return_inverse=True)
    places = places[first]
    rows, columns = [], []
    cube = _cube(gap)
    if upright:
        cube = cube[cube[:, 2] == 0]
    for offset in cube[len(cube) // 2 + 1:]:    # half of the neighbours: the others look back
        wanted = _keys(places + offset)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found = np.flatnonzero(keys[at] == wanted)
        rows.append(found)
        columns.append(at[found])
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(keys),) * 2)
    _, labels = connected_components(graph, directed=False)
    labels = labels[of_place]
    return sorted((voxels[labels == n] for n in range(labels.max() + 1)), key=len, reverse=True)


@njit(cache=True, nogil=True)
def _mark_rays(index, mark, touched, points, origin, reach, nx, ny, marking):
    """Mark the voxels that rays pass and those that they end in (Amanatides & Woo 1987).

    All in voxel units. A hit outweighs the rays of the same scan that pass that voxel.
    touched : (like index) bool, chunks that rays enter; set unless marking
    """
    size = (nx, ny, index.shape[2] * CHUNK)
    v, step, last = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3, np.int64)
    d, t_max, t_step = np.empty(3), np.empty(3), np.empty(3)
    for n in range(len(points)):
        length = 0.0
        for a in range(3):
            d[a] = points[n, a] - origin[a]
            length += d[a] * d[a]
        length = np.sqrt(length)
        if length == 0.0:
            continue
        hit, end = length <= reach, min(length, reach)
        steps = 0       # to the voxel of the end, so that rounding cannot miss it
        for a in range(3):
            d[a] /= length
            v[a] = int(floor(origin[a]))
            last[a] = int(floor(points[n, a] if hit else origin[a] + end * d[a]))
            steps += abs(last[a] - v[a])
            step[a] = 1 if last[a] > v[a] else -1
            t_max[a], t_step[a] = inf, inf
            if last[a] != v[a]:
                t_max[a] = (v[a] + (step[a] > 0) - origin[a]) / d[a]
                t_step[a] = abs(1 / d[a])
        for s in range(steps + 1):
            if v[0] < 0 or v[1] < 0 or v[2] < 0 \
                    or v[0] >= size[0] or v[1] >= size[1] or v[2] >= size[2]:
                break
            i, j, k = v[0] // CHUNK, v[1] // CHUNK, v[2] // CHUNK
            if not marking:
                touched[i, j, k] = True
            else:
                row = index[i, j, k]
                if row >= 0:
                    x, y, z = v[0] % CHUNK, v[1] % CHUNK, v[2] % CHUNK
                    if s == steps and hit:
                        mark[row, x, y, z] = _HIT
                    elif mark[row, x, y, z] != _HIT:
                        mark[row, x, y, z] = _PASSED
            axis = 0
            if t_max[1] < t_max[axis]:
                axis = 1
            if t_max[2] < t_max[axis]:
                axis = 2
            v[axis] += step[axis]
            t_max[axis] = inf if v[axis] == last[axis] else t_max[axis] + t_step[axis]


@njit(cache=True, nogil=True)
def _apply(log_odds, hits, seen, mark, rows, stamp, up, down, lowest, highest):
    """Log-odds of what was marked; marks are wiped."""
    for row in rows:
        for x in range(CHUNK):
            for y in range(CHUNK):
                for z in range(CHUNK):
                    m = mark[row, x, y, z]
                    if m == 0:
                        continue
                    mark[row, x, y, z] = 0
                    value = log_odds[row, x, y, z] + (up if m == _HIT else down)
                    log_odds[row, x, y, z] = min(max(value, lowest), highest)
                    if value <= lowest:     # whatever was there is there no more
                        hits[row, x, y, z] = 0
                    elif m == _HIT and hits[row, x, y, z] < MOST_COUNTED:
                        hits[row, x, y, z] += 1
                    seen[row, x, y, z] = max(seen[row, x, y, z], stamp)


@njit(cache=True, nogil=True)
def _forget(log_odds, hits, seen, rows, old):
    """Wipe voxels that were seen before old; (R,) bool: rows in which nothing is left."""
    empty = np.ones(len(rows), np.bool_)
    for n in range(len(rows)):
        row = rows[n]
        for x in range(CHUNK):
            for y in range(CHUNK):
                for z in range(CHUNK):
                    if seen[row, x, y, z] < old:
                        log_odds[row, x, y, z] = 0
                        hits[row, x, y, z] = 0
                    elif log_odds[row, x, y, z] != 0 or hits[row, x, y, z] != 0:
                        empty[n] = False
    return empty


@njit(cache=True, nogil=True)
def _select(log_odds, hits, where, rows, lowest, highest, least_hits, most_hits, out):
    """Voxels within bounds: written to (N, 3) out, their number; empty out: count."""
    count = 0
    for n in range(len(rows)):
        row = rows[n]
        for x in range(CHUNK):
            for y in range(CHUNK):
                for z in range(CHUNK):
                    if lowest <= log_odds[row, x, y, z] <= highest \
                            and least_hits <= hits[row, x, y, z] <= most_hits:
                        if len(out):
                            out[count, 0] = where[n, 0] * CHUNK + x
                            out[count, 1] = where[n, 1] * CHUNK + y
                            out[count, 2] = where[n, 2] * CHUNK + z
                        count += 1
    return count
