"""The twin: occupied voxels of a city, bit-packed, with a content hash and live events."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import shapely

from parallel_city_ros.city.model import City
from parallel_city_ros.errors import CityFileError, ConfigError, OutsideMapError
from parallel_city_ros.geo import LocalFrame

MAX_CELLS = 2_000_000_000   # 250 MB bit-packed, 2 GB while it is made
SKY_VOXELS = 1              # free layer kept above the highest roof


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """Occupancy of axis-aligned cubes in the map frame. Immutable.

    occupied : (nx, ny, nz) bool array
    origin : (3,) float array, ENU metres of the lower corner of voxel (0, 0, 0)
    resolution : edge of a voxel, metres
    map_update : number of the newest event that is in it, 0 for the base
    base_hash : content hash of the base, "" if this is the base
    """

    occupied: np.ndarray
    origin: np.ndarray
    resolution: float
    frame: LocalFrame
    attribution: str = ""
    map_update: int = 0
    base_hash: str = field(default="")

    @cached_property
    def map_hash(self) -> str:
        """SHA-256 over geometry and occupancy of the base: the same file, the same hash."""
        if self.base_hash:
            return self.base_hash
        digest = hashlib.sha256(repr((
            self.occupied.shape, float(self.resolution), [float(v) for v in self.origin],
            self.frame.latitude_deg, self.frame.longitude_deg, self.frame.altitude_m)).encode())
        digest.update(self.packed())
        return digest.hexdigest()

    def packed(self) -> bytes:
        """One bit a voxel, C order of (x, y, z), little bit order."""
        return np.packbits(self.occupied.ravel(), bitorder="little").tobytes()

    @staticmethod
    def unpack(data, shape) -> np.ndarray:
        """Inverse of `packed`: (nx, ny, nz) bool."""
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=int(np.prod(shape)),
                             bitorder="little")
        return bits.view(bool).reshape(tuple(int(n) for n in shape))

    @cached_property
    def surface(self) -> np.ndarray:
        """(nx, ny) float: height of the highest occupied voxel's top, z of the ground if none."""
        nz = self.occupied.shape[2]
        highest = nz - np.argmax(self.occupied[:, :, ::-1], axis=2)
        highest[~self.occupied.any(axis=2)] = 0
        return self.origin[2] + highest * self.resolution

    def index(self, points) -> np.ndarray:
        """(..., 3) ENU metres → (..., 3) voxel indices; may lie outside."""
        return np.floor((np.asarray(points, float) - self.origin) / self.resolution).astype(int)

    def is_occupied(self, points) -> np.ndarray:
        """(..., 3) ENU metres → (...) bool. Above the grid is free sky.

        Raises
        ------
        OutsideMapError
            If a point lies beside or below the grid.
        """
        index = self.index(points)
        shape = np.array(self.occupied.shape)
        outside = (index < 0).any(-1) | (index[..., :2] >= shape[:2]).any(-1)
        if outside.any():
            where = np.asarray(points, float)[outside][0] if outside.ndim else np.asarray(points)
            raise OutsideMapError(f"point {np.round(where, 1).tolist()} m is outside the map")
        sky = index[..., 2] >= shape[2]
        index[..., 2] = np.minimum(index[..., 2], shape[2] - 1)
        return self.occupied[index[..., 0], index[..., 1], index[..., 2]] & ~sky

    def region(self, lower, upper) -> VoxelGrid:
        """The part between two corners in ENU metres, widened to whole voxels; at least one."""
        shape = np.array(self.occupied.shape)
        first = np.clip(self.index(lower), 0, shape - 1)
        last = np.clip(np.ceil((np.asarray(upper, float) - self.origin) / self.resolution - 1e-9),
                       first + 1, shape).astype(int)
        part = self.occupied[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
        return VoxelGrid(part, self.origin + first * self.resolution, self.resolution, self.frame,
                         self.attribution, self.map_update, self.map_hash)

    def with_prism(self, footprint, lower_z: float, upper_z: float) -> VoxelGrid:
        """The next version of the twin, in which a prism is occupied.

        footprint : polygon in ENU metres; lower_z, upper_z : metres
        """
        top = int(np.ceil((upper_z - self.origin[2]) / self.resolution - 1e-9)) + SKY_VOXELS
        occupied = self._copy(top)
        _fill_prism(occupied, self.origin, self.resolution, footprint, lower_z, upper_z)
        return self._next(occupied, self.map_update + 1)

    def with_box(self, lower, box: np.ndarray, map_update: int) -> VoxelGrid:
        """The version map_update of the twin, in which a box of voxels was replaced.

        lower : (3,) indices of its lowest voxel; box : (a, b, c) bool, may be higher than the grid
        """
        i, j, k = (int(v) for v in lower)
        a, b, c = box.shape
        occupied = self._copy(k + c)
        occupied[i:i + a, j:j + b, k:k + c] = box
        return self._next(occupied, map_update)

    def _copy(self, height: int) -> np.ndarray:
        nx, ny, nz = self.occupied.shape
        occupied = np.zeros((nx, ny, max(nz, height)), bool)
        occupied[:, :, :nz] = self.occupied
        return occupied

    def _next(self, occupied: np.ndarray, map_update: int) -> VoxelGrid:
        return VoxelGrid(occupied, self.origin, self.resolution, self.frame, self.attribution,
                         map_update, self.map_hash)


def voxelise(city: City, resolution: float = 2.0, margin: float = 20.0) -> VoxelGrid:
    """Every voxel that a building touches is occupied: the grid contains the city.

    resolution : metres; margin : free metres kept around the built area

    Raises
    ------
    ConfigError
        If the resolution is not positive.
    CityFileError
        If the grid would not fit; the message says what would.
    """
    if not (np.isfinite(resolution) and resolution > 0):
        raise ConfigError(f"resolution must be above 0 m, got {resolution}")
    x0, y0, x1, y1 = city.extent
    origin = np.array([np.floor((x0 - margin) / resolution) * resolution,
                       np.floor((y0 - margin) / resolution) * resolution, 0.0])
    highest = max(b.top_z for b in city.buildings)
    size = np.array([x1 + margin, y1 + margin, highest]) - origin
    shape = np.ceil(size / resolution - 1e-9).astype(np.int64) + np.array([0, 0, SKY_VOXELS])
    cells = int(np.prod(shape))
    if cells > MAX_CELLS:
        coarser = resolution * (cells / MAX_CELLS) ** (1 / 3)
        raise CityFileError(
            f"{city.name}: {cells:,} voxels at {resolution:g} m are more than {MAX_CELLS:,}; "
            f"use a resolution of {np.ceil(coarser * 10) / 10:g} m or a smaller area")
    occupied = np.zeros(tuple(shape), bool)
    for building in city.buildings:
        _fill_prism(occupied, origin, resolution, building.footprint,
                    building.base_z, building.top_z)
    return VoxelGrid(occupied, origin, float(resolution), city.frame, city.attribution)


def footprint_box(grid: VoxelGrid, footprint) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Columns (i0, j0) to (i1, j1), exclusive, that a footprint may touch; None if none."""
    return _footprint_box(grid.occupied.shape, grid.origin, grid.resolution, footprint)


def _footprint_box(shape, origin, resolution, footprint):
    bounds = (np.array(footprint.bounds).reshape(2, 2) - origin[:2]) / resolution
    lower = np.clip(np.floor(bounds[0] - 1e-9).astype(int), 0, shape[:2])
    upper = np.clip(np.floor(bounds[1] + 1e-9).astype(int) + 1, 0, shape[:2])
    if (lower >= upper).any():
        return None
    return (int(lower[0]), int(lower[1])), (int(upper[0]), int(upper[1]))


def _fill_prism(occupied, origin, resolution, footprint, lower_z, upper_z) -> None:
    """Occupy, in place, every voxel whose cube meets the prism."""
    box = _footprint_box(occupied.shape, origin, resolution, footprint)
    if box is None:
        return
    i, j = np.meshgrid(*(np.arange(lo, hi) for lo, hi in zip(*box, strict=True)), indexing="ij")
    x, y = origin[0] + i * resolution, origin[1] + j * resolution
    cells = shapely.box(x, y, x + resolution, y + resolution)
    shapely.prepare(footprint)
    touched = shapely.intersects(footprint, cells)
    nz = occupied.shape[2]
    k0 = int(np.clip(np.floor((lower_z - origin[2]) / resolution + 1e-9), 0, nz))
    k1 = int(np.clip(np.ceil((upper_z - origin[2]) / resolution - 1e-9), 0, nz))
    occupied[i[touched], j[touched], k0:k1] = True
