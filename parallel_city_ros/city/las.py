"""LAS and LAZ files by laspy: a first look at what is in them, and their points in chunks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pyproj.exceptions import CRSError

from parallel_city_ros.city.local import inside_area_of_use, metres_per_height_unit
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import SourceCrs

NOISE = (7, 18)
CLASS_NAMES = {0: "never classified", 1: "unclassified", 2: "ground", 3: "low vegetation",
               4: "medium vegetation", 5: "high vegetation", 6: "building", 7: "noise",
               8: "key points", 9: "water", 10: "rail", 11: "road", 12: "overlap",
               17: "bridge", 18: "high noise"}

SMALLEST_HEADER, LARGEST_HEADER = 227, 375    # bytes, of LAS 1.0 and 1.4
CHUNK = 1_000_000

# Points of which so few are within 30 m are birds, clouds or echoes that came by a detour; of a
# mast or a wire there are more. In files with fewer points than MANY nothing can be said.
LONELY, LONELY_M, MANY = 3, 10.0, 1000


def is_lidar(head: bytes) -> bool:
    """Whether a file that begins like this is LAS or LAZ."""
    return head.startswith(b"LASF")


def _open(path):
    import laspy

    try:
        _check_header(path)
        # Not in parallel: a damaged table of chunks makes that abort the process.
        return laspy.open(path, laz_backend=laspy.LazBackend.Lazrs)
    except CityFileError:
        raise
    except OSError as error:
        raise CityFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:      # of laspy, lazrs, struct, numpy: whatever a header can break
        raise CityFileError(f"{path}: is no LAS or LAZ, or its header is damaged ({error}); copy "
                            "it again") from error


def _check_header(path) -> None:
    """Refuse a header that sends the library through billions of records that are not there."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(LARGEST_HEADER)
    if not is_lidar(head) or len(head) < SMALLEST_HEADER:
        raise CityFileError(f"{path}: is no LAS or LAZ, or is cut off in its header; copy it "
                            "again")
    minor = head[25]
    header_size, start, records = struct.unpack_from("<HII", head, 94)
    evlr_start, evlrs = struct.unpack_from("<QI", head, 235) if minor >= 4 else (0, 0)
    if not header_size + 54 * records <= start <= size or evlr_start + 60 * evlrs > size:
        raise CityFileError(
            f"{path}: is cut off or its header is damaged: it speaks of {records:,} records and "
            f"of points from byte {start:,} on, but has {size:,} bytes; copy it again")


def source_crs(path: Path, options: ReadOptions) -> SourceCrs:
    """The reference system that the file names, or else options.crs.

    Raises
    ------
    CityFileError
        If neither names one, or the file is none.
    """
    with _open(path) as reader:
        try:
            crs = reader.header.parse_crs()
        except (CRSError, ValueError, KeyError):
            crs = None
    if crs is not None and (crs.is_projected or crs.is_geographic):
        return SourceCrs(crs)
    if not options.crs:
        raise CityFileError(f"{path}: names no reference system; give it with --crs, such as "
                            "--crs EPSG:7415 for the Netherlands")
    return SourceCrs(options.crs)


@dataclass(eq=False)
class FirstLook:
    """What is in a file: classes, bounds without lonely points, and the cubes of those."""

    scale: np.ndarray               # metres per unit of x, y, z
    zero: np.ndarray                # where keys are counted from
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, int))
    withheld: int = 0
    bounds: np.ndarray | None = None
    lonely: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    n_lonely: int = 0
    area: float = 0.0               # m² that have points

    def has(self, *classes) -> bool:
        return bool(self.counts[list(classes)].any())

    @property
    def n_points(self) -> int:
        """Of those that are used."""
        return int(self.counts.sum() - self.counts[list(NOISE)].sum()) - self.n_lonely

    def keys(self, xyz) -> np.ndarray:
        """One number for each cube of LONELY_M, 21 bits for each axis."""
        cubes = np.floor((xyz - self.zero) * self.scale / LONELY_M)
        x, y, z = (np.clip(cubes, -2**20 + 1, 2**20 - 2) + 2**20).astype(np.int64).T
        return x << 42 | y << 21 | z

    def notes(self, cell, estimated) -> tuple[str, ...]:
        named = ", ".join(f"{n:,} {CLASS_NAMES.get(c, f'of class {c}')}"
                          for c, n in enumerate(self.counts.tolist()) if n)
        notes = [f"LiDAR points: {named}; in cells of {cell:g} m"]
        if estimated:
            notes.append("ground is not classified: it is estimated from the lowest points")
        left_out = int(self.counts[list(NOISE)].sum()) + self.withheld
        if left_out or self.n_lonely:
            notes.append(f"left out: {left_out:,} points of noise, {self.n_lonely:,} far from all "
                         "others")
        return tuple(notes)


def chunks(path: Path, look: FirstLook | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(n, 3) coordinates as in the file and their classes, without withheld points.

    look : to leave out noise too

    Raises
    ------
    CityFileError
        If the file is cut off or damaged.
    """
    with _open(path) as reader:
        announced, there = reader.header.point_count, 0
        points = reader.chunk_iterator(CHUNK)
        while True:
            try:
                chunk = next(points, None)
                if chunk is None:
                    break
                xyz = np.stack([chunk.x, chunk.y, chunk.z], axis=1).astype(float)
                classes = np.array(chunk.classification, np.uint8)
                kept = ~np.array(chunk.withheld, bool)
            except Exception as error:      # of laspy, lazrs, numpy: whatever can be damaged
                raise CityFileError(f"{path}: is cut off or damaged after {there:,} of "
                                    f"{announced:,} points ({error}); copy it again") from error
            there += len(classes)
            kept &= np.isfinite(xyz).all(axis=1)
            if look is not None:
                kept &= ~np.isin(classes, NOISE)
                if len(look.lonely):
                    kept &= ~np.isin(look.keys(xyz), look.lonely)
            yield xyz[kept], classes[kept]
    if there != announced:
        raise CityFileError(f"{path}: is cut off: {there:,} of {announced:,} points are there; "
                            "copy it again")


def first_look(path: Path, source: SourceCrs) -> FirstLook:
    """Read a file for what is in it.

    Raises
    ------
    CityFileError
        If it is cut off, damaged or empty, or lies outside the area of its reference system.
    """
    look, cubes, total = None, [], 0
    for xyz, classes in chunks(path):
        total += len(xyz)
        if look is None:
            middle = np.median(xyz, axis=0) if len(xyz) else np.zeros(3)
            look = FirstLook(_metres_per_unit(source, middle), middle)
        look.counts += np.bincount(classes, minlength=256)
        xyz = xyz[~np.isin(classes, NOISE)]
        cubes.append(_merged_cubes(look.keys(xyz), np.ones(len(xyz), int), xyz, xyz))
        if len(cubes) > 16:
            cubes = [_merged_cubes(*map(np.concatenate, zip(*cubes, strict=True)))]
    if not total or not sum(len(keys) for keys, *_ in cubes):
        raise CityFileError(f"{path}: holds no points" + (" but noise" if total else "; it is "
                            "empty"))
    with _open(path) as reader:
        look.withheld = reader.header.point_count - total
    keys, count, lower, upper = _merged_cubes(*map(np.concatenate, zip(*cubes, strict=True)))
    lonely = _is_lonely(keys, count) if count.sum() >= MANY else np.zeros(len(keys), bool)
    look.lonely, look.n_lonely = keys[lonely], int(count[lonely].sum())
    look.bounds = np.stack([lower[~lonely].min(axis=0), upper[~lonely].max(axis=0)])
    inside_area_of_use(path, source, look.bounds)
    box = np.prod((look.bounds[1] - look.bounds[0])[:2] * look.scale[:2])
    look.area = float(min(box, len(np.unique(keys[~lonely] >> 21)) * LONELY_M**2))
    return look


def _merged_cubes(keys, count, lower, upper):
    """Cubes by key, in order: how many points, their lowest and highest coordinates."""
    if not len(keys):
        return keys, count, lower, upper
    order = np.argsort(keys, kind="stable")
    keys, first = np.unique(keys[order], return_index=True)
    return (keys, np.add.reduceat(count[order], first),
            np.minimum.reduceat(lower[order], first), np.maximum.reduceat(upper[order], first))


def _metres_per_unit(source, point) -> np.ndarray:
    height = metres_per_height_unit(source.crs)
    if source.crs.is_geographic:
        return np.array([111_320 * max(np.cos(np.radians(point[1])), 0.01), 111_320, height])
    horizontal = source.crs.axis_info[0].unit_conversion_factor
    return np.array([horizontal, horizontal, height])


def _is_lonely(keys, count) -> np.ndarray:
    """Cubes that with the 26 around them hold LONELY points or fewer. keys : sorted"""
    few = np.flatnonzero(count <= LONELY)
    around = np.zeros(len(few), int)
    steps = np.array([-1, 0, 1])
    for step in (steps[:, None, None] << 42) + (steps[:, None] << 21) + steps:
        for offset in step.ravel():
            wanted = keys[few] + offset
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            around += np.where(keys[at] == wanted, count[at], 0)
    lonely = np.zeros(len(keys), bool)
    lonely[few[around <= LONELY]] = True
    return lonely
