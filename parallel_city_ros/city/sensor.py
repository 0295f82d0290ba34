"""A depth camera or LiDAR that looks into a voxel grid: what a drone would measure there.

The grid may be the twin, or a city that differs from it: then the difference can be found
(see `perception`). Frames: a scan's points are in the drone's level frame, x ahead, y left,
z up (REP 103), which stands at the drone and is turned by its yaw alone, as a gimbal keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import floor, inf

import numpy as np
from numba import njit

from parallel_city_ros.city.rasterise import CHUNK, ground_at
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.errors import ConfigError, OutsideMapError
from parallel_city_ros.settings import check, require, setting

GROUND = 3              # the face that a ray hit, where others have the axis of its normal
_BISECTIONS = 20        # where a ray meets sloping ground, to 1e-6 of a voxel
_OPENING = 179.0        # degrees, widest that a camera's flat picture can be


@dataclass(frozen=True, kw_only=True)
class DepthSensorConfig:
    kind: str = setting("lidar", "rays at equal angles, or through the pixels of a flat picture",
                        choices=("lidar", "camera"))
    range: float = setting(80.0, "m, farthest return", above=0, high=1000)
    least_range: float = setting(1.0, "m, nearest return: beyond the drone itself", low=0)
    horizontal_deg: float = setting(360.0, "degrees, field of view", above=0, high=360)
    vertical_deg: float = setting(90.0, "degrees, field of view", above=0, high=180)
    columns: int = setting(180, "rays side by side", low=1, high=4096)
    rows: int = setting(45, "rays one above the other", low=1, high=4096)
    tilt_deg: float = setting(0.0, "degrees, of the axis below the horizon", low=-90, high=90)
    noise: float = setting(0.1, "m, standard deviation of a distance", low=0, high=10)
    dropout: float = setting(0.0, "share of returns that are lost", low=0, high=1)

    def __post_init__(self):
        check(self)
        require(self.least_range < self.range, self, "least_range", f"below range ({self.range})")
        if self.kind == "camera" and max(self.horizontal_deg, self.vertical_deg) > _OPENING:
            raise ConfigError(f"a camera's field of view is at most {_OPENING:g} degrees, got "
                              f"{self.horizontal_deg:g} x {self.vertical_deg:g}; make it a lidar")

    @cached_property
    def directions(self) -> np.ndarray:
        """(rows · columns, 3) unit vectors in the drone's level frame."""
        wide, high = np.radians(self.horizontal_deg), np.radians(self.vertical_deg)
        across = (np.arange(self.columns) + 0.5) / self.columns - 0.5     # left is positive
        upward = (np.arange(self.rows) + 0.5) / self.rows - 0.5
        if self.kind == "camera":
            y, z = np.meshgrid(2 * across * np.tan(wide / 2), 2 * upward * np.tan(high / 2))
            rays = np.stack([np.ones_like(y), y, z], axis=-1)
            rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        else:
            azimuth, elevation = np.meshgrid(across * wide, upward * high)
            rays = np.stack([np.cos(elevation) * np.cos(azimuth),
                             np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1)
        return rays.reshape(-1, 3) @ _pitched(np.radians(self.tilt_deg)).T


@dataclass(frozen=True, eq=False)
class Scan:
    """What came back at once. Rays without a return have no point.

    points : (N, 3) float64, metres in the drone's level frame
    position : (3,) ENU metres; yaw : radians from east, counter-clockwise
    """

    points: np.ndarray
    position: np.ndarray
    yaw: float

    @property
    def in_map(self) -> np.ndarray:
        """(N, 3) float64, ENU metres."""
        return self.points @ turned(self.yaw).T + self.position


class DepthSensor:
    """One sensor; the same seed sees the same noise."""

    def __init__(self, config: DepthSensorConfig, rng: np.random.Generator):
        self.config, self._rng = config, rng

    def scan(self, grid: VoxelGrid, position, yaw: float, tilt: float = 0.0) -> Scan:
        """Look from a place.

        position : (3,) ENU metres; yaw : radians from east, counter-clockwise
        tilt : radians that the drone's nose is down, over the sensor's own

        Raises
        ------
        OutsideMapError
            If the place lies beside the grid or is not finite.
        """
        config = self.config
        position = np.asarray(position, float)
        level = config.directions @ _pitched(tilt).T if tilt else config.directions
        distance, _ = cast(grid, position, level @ turned(yaw).T, config.range)
        hit = np.isfinite(distance)
        # Drawn for every ray, so that one return more or less does not change the others.
        noise = self._rng.normal(0.0, 1.0, len(distance)) * config.noise
        lost = self._rng.random(len(distance)) < config.dropout
        hit &= ~lost
        measured = distance[hit] + noise[hit]
        rays = level[hit]
        near = (measured >= config.least_range) & (measured <= config.range)
        return Scan(rays[near] * measured[near, None], position, float(yaw))


def true_city(files: str, twin: VoxelGrid) -> VoxelGrid:
    """Another city than the twin, in the twin's frame and resolution: what really stands there.

    files : its file, or several that complete each other, separated by commas

    Raises
    ------
    CityFileError
        If a file cannot be read, or the city is too large.
    """
    paths = [name.strip() for name in files.split(",") if name.strip()]
    return voxelise(read_city(paths, frame=twin.frame), twin.resolution)


def cast(grid: VoxelGrid, origin, directions, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Follow rays to the first occupied voxel or the ground.

    Parameters
    ----------
    origin : (3,) ENU metres; directions : (N, 3) unit vectors, ENU; reach : metres

    Returns
    -------
    (N,) metres to the hit, inf where none is within reach or the ray leaves the map, 0 if the
    origin is not free; (N,) int8 axis of the face that was hit, GROUND, or -1.

    Raises
    ------
    OutsideMapError
        If the origin lies beside the grid or is not finite.

    References
    ----------
    Amanatides & Woo (1987), A Fast Voxel Traversal Algorithm. Chunks in which nothing stands
    are crossed in one step.
    """
    origin = np.asarray(origin, float)
    local = (origin - grid.origin) / grid.resolution
    if not np.isfinite(local).all() or (local[:2] < 0).any() \
            or (local[:2] >= grid.shape[:2]).any():
        raise OutsideMapError(f"sensor at {np.round(origin, 1).tolist()} m is outside the map")
    directions = np.ascontiguousarray(directions, float).reshape(-1, 3)
    distance = np.empty(len(directions))
    face = np.empty(len(directions), np.int8)
    _cast(grid.chunk_index, grid.words, *grid.shape[:2], local, directions,
          reach / grid.resolution, *grid._ground_in_voxels, distance, face)
    return distance * grid.resolution, face


def turned(yaw: float) -> np.ndarray:
    """(3, 3) from the level frame of a drone to ENU."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _pitched(down: float) -> np.ndarray:
    """(3, 3) nose down by radians: about y, which points left."""
    c, s = np.cos(down), np.sin(down)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


@njit(cache=True, nogil=True)
def _above(heights, gx, gy, cell, o, d, t):
    """Height of a ray over the ground."""
    return o[2] + t * d[2] - ground_at(heights, gx, gy, cell, o[0] + t * d[0], o[1] + t * d[1])


@njit(cache=True, nogil=True)
def _cast(index, words, nx, ny, origin, directions, reach, heights, gx, gy, gcell, out, face):
    """Everything in voxel units, see `rasterise`; out : (N,) distances, face : (N,)."""
    size = (nx, ny, index.shape[2] * CHUNK)
    highest = heights.max()
    flat = heights.size == 1
    o = origin
    v, step, t_max = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3)
    for n in range(len(directions)):
        d = directions[n]
        out[n], face[n] = inf, -1
        if _above(heights, gx, gy, gcell, o, d, 0.0) < 0:
            out[n], face[n] = 0.0, GROUND
            continue
        end = reach
        ground = False
        if flat and d[2] < 0:       # known at once
            meets = (heights[0, 0] - o[2]) / d[2]
            if meets <= end:
                end, ground = meets, True
        t, axis = 0.0, -1
        for a in range(3):
            v[a] = int(floor(o[a]))
            step[a] = 1 if d[a] > 0 else -1
        if v[2] >= size[2]:         # above everything: down to the uppermost chunk
            t = (size[2] - o[2]) / d[2] if d[2] < 0 else inf
            if t < end:
                axis = 2
                for a in range(2):
                    v[a] = int(floor(o[a] + t * d[a]))
                v[2] = size[2] - 1
        for a in range(3):
            t_max[a] = (v[a] + (step[a] > 0) - o[a]) / d[a] if d[a] != 0 else inf
        while t < end:
            if v[0] < 0 or v[1] < 0 or v[0] >= nx or v[1] >= ny or v[2] >= size[2]:
                ground = False
                break
            if v[2] < 0 and d[2] <= 0:      # nothing but flat ground, which is met at `end`
                break
            row = -1 if v[2] < 0 else index[v[0] // CHUNK, v[1] // CHUNK, v[2] // CHUNK]
            if row >= 0 and (words[row, v[0] % CHUNK, v[1] % CHUNK] >> (v[2] % CHUNK)) & 1:
                out[n], face[n] = t, axis
                ground = False
                break
            if row < 0 and v[2] >= 0 and (flat or (v[2] // CHUNK) * CHUNK >= highest):
                leave = inf         # of the free chunk
                for a in range(3):
                    if d[a] != 0:
                        side = (v[a] // CHUNK + (step[a] > 0)) * CHUNK
                        at = (side - o[a]) / d[a]
                        if at < leave:
                            leave, axis = at, a
                for a in range(3):
                    low = (v[a] // CHUNK) * CHUNK
                    if a == axis:
                        v[a] = low + CHUNK if step[a] > 0 else low - 1
                    else:
                        v[a] = min(max(int(floor(o[a] + leave * d[a])), low), low + CHUNK - 1)
                    if d[a] != 0:
                        t_max[a] = (v[a] + (step[a] > 0) - o[a]) / d[a]
                t = max(t, leave)
                continue
            axis = 0
            if t_max[1] < t_max[axis]:
                axis = 1
            if t_max[2] < t_max[axis]:
                axis = 2
            after = t_max[axis]
            if not flat and o[2] + min(after, end) * d[2] < highest:
                last = min(after, end)
                if _above(heights, gx, gy, gcell, o, d, last) < 0:
                    low, high = t, last
                    for _ in range(_BISECTIONS):
                        middle = 0.5 * (low + high)
                        if _above(heights, gx, gy, gcell, o, d, middle) < 0:
                            high = middle
                        else:
                            low = middle
                    out[n], face[n] = high, GROUND
                    break
            t = max(t, after)
            v[axis] += step[axis]
            t_max[axis] = (v[axis] + (step[axis] > 0) - o[axis]) / d[axis]
        if ground and out[n] == inf:
            x, y = o[0] + end * d[0], o[1] + end * d[1]
            if 0 <= x < nx and 0 <= y < ny:
                out[n], face[n] = end, GROUND
