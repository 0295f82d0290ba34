"""The twin: occupied voxels of a city, sparse and bit-packed, with a content hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import shapely

from parallel_city_ros.city import rasterise
from parallel_city_ros.city.model import City, HeightSource
from parallel_city_ros.city.rasterise import CHUNK, FREE
from parallel_city_ros.city.terrain import Ground, ground_of, highest_in_columns
from parallel_city_ros.errors import CityFileError, ConfigError, MapUpdateError, OutsideMapError
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.memory import give_back_memory

MAX_BYTES = 1_000_000_000   # of a grid in memory
CHUNK_BYTES = CHUNK**3 // 8
SKY_VOXELS = 1              # free layer kept above the highest roof


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """Occupancy of axis-aligned cubes in the map frame, and the ground. Immutable.

    Only chunks of 16³ voxels in which something stands are stored, one bit a voxel:
    free sky and ground cost nothing.

    chunk_index : (⌈nx/16⌉, ⌈ny/16⌉, ⌈nz/16⌉) int32 array, row of `words` of each chunk, -1: free
    words : (N, 16, 16) uint16 array, bit k of [row, i, j] is voxel (i, j, k) of the chunk
    shape : (nx, ny, nz) voxels
    origin : (3,) float array, ENU metres of the lower corner of voxel (0, 0, 0)
    resolution : edge of a voxel, metres
    terrain : the ground
    map_update : number of the newest event that is in it, 0 for the base
    base_hash : content hash of the base, "" if this is the base
    """

    chunk_index: np.ndarray
    words: np.ndarray
    shape: tuple[int, int, int]
    origin: np.ndarray
    resolution: float
    frame: LocalFrame
    terrain: Ground = field(default_factory=Ground.flat)
    attribution: str = ""
    map_update: int = 0
    base_hash: str = ""

    @classmethod
    def from_dense(cls, occupied, origin, resolution: float, frame: LocalFrame, **more):
        """From an (nx, ny, nz) bool array; more : other fields. Flat ground beneath by default."""
        more.setdefault("terrain", Ground.flat(float(origin[2])))
        index, words = _empty(occupied.shape)
        for a, b, c in {tuple(v) for v in (np.argwhere(occupied) // CHUNK).tolist()}:
            index[a, b, c] = rasterise.WANTED
        words = _provide(index, words)
        rasterise.pack(index, words, np.ascontiguousarray(occupied, bool))
        return cls(index, words, tuple(int(n) for n in occupied.shape),
                   np.asarray(origin, float), float(resolution), frame, **more)

    @cached_property
    def map_hash(self) -> str:
        """SHA-256 over geometry, ground and occupancy of the base: same file, same hash."""
        if self.base_hash:
            return self.base_hash
        ground = self.terrain
        digest = hashlib.sha256(repr((
            self.shape, float(self.resolution), [float(v) for v in self.origin],
            self.frame.latitude_deg, self.frame.longitude_deg, self.frame.altitude_m,
            ground.heights.shape, [float(v) for v in ground.origin],
            float(ground.cell))).encode())
        digest.update(ground.centimetres.astype("<i4").tobytes())
        where, words = self.chunks()
        digest.update(where.astype("<u2").tobytes())
        digest.update(words.astype("<u2").tobytes())
        return digest.hexdigest()

    def chunks(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) uint16 numbers and (N, 16, 16) uint16 words of the stored chunks, in order."""
        where = np.argwhere(self.chunk_index >= 0)
        return where.astype(np.uint16), self.words[self.chunk_index[tuple(where.T)]]

    @property
    def nbytes(self) -> int:
        """Memory of what is stored, bytes."""
        return self.chunk_index.nbytes + self.words.nbytes + self.terrain.heights.nbytes

    @cached_property
    def ground(self) -> np.ndarray:
        """(nx, ny) float: z of the highest ground under each column, metres."""
        return highest_in_columns(self.terrain, self.origin, self.resolution, self.shape)

    def ground_at(self, points) -> np.ndarray:
        """(..., 2 or 3) ENU metres → (...) z of the ground beneath, metres."""
        return self.terrain.at(points)

    @cached_property
    def surface(self) -> np.ndarray:
        """(nx, ny) float: top of the highest occupied voxel, z of the ground if none, metres."""
        layers = rasterise.highest(self.chunk_index, self.words, *self.shape[:2])
        return self._tops(layers, np.s_[:, :])

    def _tops(self, layers, columns) -> np.ndarray:
        ground = self.ground[columns]
        tops = self.origin[2] + layers[columns] * self.resolution
        return np.where(layers[columns] > 0, np.maximum(tops, ground), ground)

    @property
    def built(self) -> np.ndarray:
        """(nx, ny) bool: columns in which something stands."""
        return rasterise.highest(self.chunk_index, self.words, *self.shape[:2]) > 0

    @property
    def occupied(self) -> np.ndarray:
        """(nx, ny, nz) bool: the whole grid, one byte a voxel. For small grids."""
        return self.box((0, 0, 0), self.shape)

    def box(self, lower, shape) -> np.ndarray:
        """(a, b, c) bool: a box of voxels from index lower; what lies outside is free."""
        out = np.zeros(tuple(int(n) for n in shape), bool)
        rasterise.dense(self.chunk_index, self.words, *(int(v) for v in lower), out)
        return out

    def voxels(self) -> np.ndarray:
        """(N, 3) int32 indices of all occupied voxels."""
        return self._list(lambda out: rasterise.filled(self.chunk_index, self.words, out))

    def shell(self) -> np.ndarray:
        """(N, 3) int32 indices of the occupied voxels that have a free neighbour at a face."""
        return self._list(lambda out: rasterise.shell(self.chunk_index, self.words, out))

    @staticmethod
    def _list(write):
        out = np.empty((write(np.empty((0, 3), np.int32)), 3), np.int32)
        if len(out):
            write(out)
        return out

    def index(self, points) -> np.ndarray:
        """(..., 3) ENU metres → (..., 3) voxel indices; may lie outside."""
        return np.floor((np.asarray(points, float) - self.origin) / self.resolution).astype(int)

    def is_occupied(self, points) -> np.ndarray:
        """(..., 3) ENU metres → (...) bool. Above the grid is free sky; the ground is occupied.

        Raises
        ------
        OutsideMapError
            If a point lies beside the grid, or is not finite.
        """
        points = np.asarray(points, float)
        flat = np.ascontiguousarray(points.reshape(-1, 3))
        out = np.empty(len(flat), np.uint8)
        rasterise.query(self.chunk_index, self.words, *self.shape[:2], flat, *self.origin,
                        self.resolution, *self._ground_in_voxels, out)
        if (out == 2).any():
            where = flat[np.argmax(out == 2)]
            raise OutsideMapError(f"point {np.round(where, 1).tolist()} m is outside the map")
        return out.view(bool).reshape(points.shape[:-1])

    def holds(self, voxels) -> np.ndarray:
        """(N, 3) indices of voxels → (N,) bool: occupied; what lies outside is free."""
        voxels = np.ascontiguousarray(voxels, np.int64)
        out = np.empty(len(voxels), bool)
        rasterise.are_filled(self.chunk_index, self.words, voxels, out)
        return out

    @cached_property
    def _ground_in_voxels(self):
        return self.terrain.in_voxels(self.origin, self.resolution)

    def region(self, lower, upper) -> VoxelGrid:
        """The part between two corners in ENU metres, widened to whole voxels; at least one."""
        shape = np.array(self.shape)
        first = np.clip(self.index(lower), 0, shape - 1)
        last = np.clip(np.ceil((np.asarray(upper, float) - self.origin) / self.resolution - 1e-9),
                       first + 1, shape).astype(int)
        return VoxelGrid.from_dense(
            self.box(first, last - first), self.origin + first * self.resolution,
            self.resolution, self.frame, terrain=self.terrain, attribution=self.attribution,
            map_update=self.map_update, base_hash=self.map_hash)

    def with_prisms(self, prisms: Iterable[tuple], map_update: int | None = None) -> VoxelGrid:
        """A later version of the twin, in which prisms are occupied.

        prisms : (polygon in ENU metres, lower z, upper z in metres) each
        map_update : its number; the next one by default
        """
        prisms = list(prisms)
        top = max((z for _, _, z in prisms), default=self.origin[2])
        layers = int(np.ceil((top - self.origin[2]) / self.resolution - 1e-9)) + SKY_VOXELS
        nz = max(self.shape[2], layers)
        index, words = self._grown(nz)
        words = _fill_prisms(index, words, self.shape, self.origin, self.resolution,
                             Ground.flat(float(self.origin[2])),
                             [p for p, _, _ in prisms],
                             [a - self.origin[2] for _, a, _ in prisms],
                             [b - self.origin[2] for _, _, b in prisms],
                             [self.origin[2]] * len(prisms))
        number = self.map_update + 1 if map_update is None else map_update
        return self._next(index, words, nz, number)

    def with_prism(self, footprint, lower_z: float, upper_z: float) -> VoxelGrid:
        """The next version of the twin, in which one prism is occupied."""
        return self.with_prisms([(footprint, lower_z, upper_z)])

    def with_chunks(self, where, words, nz: int, map_update: int) -> VoxelGrid:
        """The version map_update of the twin, in which some chunks were replaced.

        where : (N, 3) numbers of the chunks; words : (N, 16, 16) uint16; nz : voxels in z

        Raises
        ------
        MapUpdateError
            If a chunk lies outside the grid.
        """
        where = np.asarray(where).astype(int).reshape(-1, 3)
        nz = max(self.shape[2], int(nz))
        index, old = self._grown(nz)
        if (where >= index.shape).any():
            raise MapUpdateError(f"update {map_update} has chunks outside the map")
        rows = index[tuple(where.T)]
        new = rows < 0
        index[tuple(where[new].T)] = len(old) + np.arange(new.sum())
        out = np.concatenate([old, words[new]])
        out[rows[~new]] = words[~new]
        after = self._next(index, out, nz, map_update)
        if "surface" in self.__dict__:      # most of it is the same
            surface, layers = self.surface.copy(), np.zeros(self.shape[:2], np.int32)
            for a, b in np.unique(where[:, :2], axis=0):
                rasterise.highest_of_chunks(index, out, a, b, layers)
                pile = np.s_[a * CHUNK:(a + 1) * CHUNK, b * CHUNK:(b + 1) * CHUNK]
                surface[pile] = after._tops(layers, pile)
            after.__dict__["surface"] = surface
        return after

    def chunk(self, where) -> np.ndarray:
        """(N, 3) numbers of chunks → (N, 16, 16) uint16 words, zero where nothing is stored."""
        where = np.asarray(where, int).reshape(-1, 3)
        out = np.zeros((len(where), CHUNK, CHUNK), np.uint16)
        inside = (where < self.chunk_index.shape).all(axis=1)
        rows = np.full(len(where), FREE)
        rows[inside] = self.chunk_index[tuple(where[inside].T)]
        out[rows >= 0] = self.words[rows[rows >= 0]]
        return out

    def _grown(self, nz: int) -> tuple[np.ndarray, np.ndarray]:
        cx, cy, cz = self.chunk_index.shape
        index = np.full((cx, cy, max(cz, -(-nz // CHUNK))), FREE, np.int32)
        index[:, :, :cz] = self.chunk_index
        return index, self.words

    def _next(self, index, words, nz: int, map_update: int) -> VoxelGrid:
        after = replace(self, chunk_index=index, words=words, shape=(*self.shape[:2], nz),
                        map_update=map_update, base_hash=self.map_hash)
        # the ground is the same, and where it is not flat it took a while
        if "ground" in self.__dict__:
            after.__dict__["ground"] = self.ground
        return after


def voxelise(city: City, resolution: float = 2.0, margin: float = 20.0,
             assumed_margin: float = 0.0) -> VoxelGrid:
    """Every voxel that something of the city overlaps is occupied: the grid contains the city.

    resolution : metres; margin : free metres kept around what stands
    assumed_margin : metres added to the top of buildings whose height is assumed

    Raises
    ------
    ConfigError
        If the resolution is not positive.
    CityFileError
        If the grid would not fit; the message says what would.
    """
    if not (np.isfinite(resolution) and resolution > 0):
        raise ConfigError(f"resolution must be above 0 m, got {resolution}")
    ground = ground_of(city)
    x0, y0, x1, y1 = city.extent
    highest, lowest = _vertical_extent(city, ground, assumed_margin)
    origin = np.floor(np.array([x0 - margin, y0 - margin, lowest]) / resolution) * resolution
    size = np.array([x1 + margin, y1 + margin, highest]) - origin
    shape = np.ceil(size / resolution - 1e-9).astype(np.int64) + np.array([0, 0, SKY_VOXELS])
    if not np.isfinite(size).all():
        raise CityFileError(f"{city.name}: has coordinates that are not finite")
    index_bytes = 4.0 * np.prod(np.ceil(shape / CHUNK))
    _require_memory(city, resolution, shape, index_bytes)
    index, words = _empty(shape)
    shape = tuple(int(n) for n in shape)
    bodies = _bodies(city, origin, resolution, ground, assumed_margin)
    for kernel, arguments in bodies:
        kernel(index, words, *shape[:2], *arguments, False)
    _require_memory(city, resolution, shape,
                    index_bytes + CHUNK_BYTES * np.count_nonzero(index == rasterise.WANTED))
    words = _provide(index, words)
    for kernel, arguments in bodies:
        kernel(index, words, *shape[:2], *arguments, True)
    index, words = _pruned(index, words)
    del bodies
    give_back_memory()
    return VoxelGrid(index, words, shape, origin, float(resolution), city.frame, ground,
                     city.attribution)


def _bodies(city, origin, resolution, ground, assumed_margin) -> list[tuple]:
    """Kernels of `rasterise` and their arguments, in voxel units."""
    heights = ground.in_voxels(origin, resolution)
    out = []
    if city.buildings:
        raised = [b.top_z + assumed_margin * (b.source is HeightSource.ASSUMED)
                  for b in city.buildings]
        own = [np.nan if b.ground_z is None else b.ground_z for b in city.buildings]
        out.append((rasterise.prisms, (
            *_edges([b.footprint for b in city.buildings], origin, resolution),
            np.array([b.base_z for b in city.buildings], float) / resolution,
            np.array(raised, float) / resolution,
            (np.array(own, float) - origin[2]) / resolution, *heights)))
    if city.solids:
        triangles = np.concatenate([s.triangles for s in city.solids])
        offsets = np.r_[0, np.cumsum([len(s.triangles) for s in city.solids])]
        out.append((rasterise.solids, (
            np.ascontiguousarray((triangles - origin) / resolution), offsets,
            np.array([s.closed for s in city.solids], bool), *heights)))
    for surface in city.surfaces:
        corner = (np.array(surface.origin, float) - origin[:2]) / resolution
        out.append((rasterise.raster, (
            np.ascontiguousarray(surface.heights, np.float64) / resolution,
            *corner, surface.cell / resolution, *heights)))
    for boxes in city.boxes:
        out.append((rasterise.boxes, tuple(
            np.ascontiguousarray((np.asarray(v, float) - origin) / resolution)
            for v in (boxes.lower, boxes.upper))))
    return out


def _vertical_extent(city: City, ground: Ground, assumed_margin: float) -> tuple[float, float]:
    """Highest and lowest z of the map, metres."""
    low, high = float(ground.heights.min()), float(ground.heights.max())
    tops = [high]
    if city.buildings:
        tops.append(max((high if b.ground_z is None else b.ground_z) + b.top_z
                        for b in city.buildings) + assumed_margin)
    tops += [s.triangles[..., 2].max() for s in city.solids]
    tops += [high + np.nanmax(s.heights) for s in city.surfaces if np.isfinite(s.heights).any()]
    tops += [b.upper[:, 2].max() for b in city.boxes if len(b.upper)]
    return float(max(tops)), low


def _require_memory(city, resolution, shape, needed: float) -> None:
    if needed > MAX_BYTES:
        coarser = resolution * (needed / MAX_BYTES) ** (1 / 2)
        raise CityFileError(
            f"{city.name}: {np.prod(np.asarray(shape, float)):,.0f} voxels at {resolution:g} m "
            f"would take {needed / 1e9:.1f} GB, more than {MAX_BYTES / 1e9:g} GB; use a "
            f"resolution of {np.ceil(coarser * 10) / 10:g} m or a smaller area")


def _empty(shape) -> tuple[np.ndarray, np.ndarray]:
    chunks = tuple(int(-(-n // CHUNK)) for n in shape)
    return np.full(chunks, FREE, np.int32), np.empty((0, CHUNK, CHUNK), np.uint16)


def _provide(index, words) -> np.ndarray:
    """Words with room for the chunks that were asked for; the index gets their rows."""
    n = rasterise.provide(index, len(words))
    return np.concatenate([words, np.zeros((n, CHUNK, CHUNK), np.uint16)])


def _pruned(index, words) -> tuple[np.ndarray, np.ndarray]:
    """Without chunks in which nothing stands."""
    keep = words.any(axis=(1, 2))
    row = np.where(keep, np.cumsum(keep) - 1, FREE).astype(np.int32)
    stored = index >= 0
    index[stored] = row[index[stored]]
    return index, np.ascontiguousarray(words[keep])


def _edges(polygons: Sequence, origin, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """(E, 4) edges in voxel units and (P + 1,) where those of each polygon begin."""
    parts, of_part = shapely.get_parts(np.asarray(polygons, object), return_index=True)
    if (shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION).any():
        parts, inner = shapely.get_parts(parts, return_index=True)
        of_part = of_part[inner]
    rings, of_ring = shapely.get_rings(parts, return_index=True)
    points, of_point = shapely.get_coordinates(rings, return_index=True)
    points = (points - origin[:2]) / resolution
    same = of_point[:-1] == of_point[1:]
    edges = np.hstack([points[:-1], points[1:]])[same]
    owner = of_part[of_ring[of_point[:-1][same]]]
    offsets = np.searchsorted(owner, np.arange(len(polygons) + 1))
    return np.ascontiguousarray(edges), offsets


def _fill_prisms(index, words, shape, origin, resolution, ground, polygons, base, top, own):
    """The words with prisms filled; the index is changed in place."""
    arguments = (*_edges(polygons, origin, resolution), np.array(base, float) / resolution,
                 np.array(top, float) / resolution,
                 (np.array(own, float) - origin[2]) / resolution,
                 *ground.in_voxels(origin, resolution))
    rasterise.prisms(index, words, *shape[:2], *arguments, False)
    words = _provide(index, words)      # a copy: other versions keep theirs
    rasterise.prisms(index, words, *shape[:2], *arguments, True)
    return words


def footprint_box(grid: VoxelGrid, footprint) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Columns (i0, j0) to (i1, j1), exclusive, that a footprint may touch; None if none."""
    bounds = (np.array(footprint.bounds).reshape(2, 2) - grid.origin[:2]) / grid.resolution
    lower = np.clip(np.floor(bounds[0] - 1e-9).astype(int), 0, grid.shape[:2])
    upper = np.clip(np.floor(bounds[1] + 1e-9).astype(int) + 1, 0, grid.shape[:2])
    if (lower >= upper).any():
        return None
    return (int(lower[0]), int(lower[1])), (int(upper[0]), int(upper[1]))
