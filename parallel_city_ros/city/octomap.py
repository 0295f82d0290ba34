"""OctoMap files: occupied leaves of .bt and .ot, and writing .bt.

The codec is our own. OctoMap's library, as the package pyoctomap 1.2.2 wraps it, hands back what
it got of a file that is cut off, an empty tree for one that is none, and only prints that; it
visits leaves one by one in Python, and packs no array of voxels into a file. The format is a
text header and a depth-first stream; `test_octomap.py` holds both against each other.

References
----------
Hornung et al. (2013), OctoMap: An Efficient Probabilistic 3D Mapping Framework Based on Octrees;
`OccupancyOcTreeBase::readBinaryNode` and `OcTreeBaseImpl::readNodesRecurs` of octomap 1.10.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from numba import njit

from parallel_city_ros.city.local import place
from parallel_city_ros.city.model import Boxes, City
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.files import write_atomically
from parallel_city_ros.geo import LocalFrame

DEPTH = 16                  # OctoMap's trees are this deep
CENTRE = 1 << (DEPTH - 1)   # key of the voxel whose lower corner is the tree's zero
FIRST_LINES = {b"# Octomap OcTree binary file": ".bt", b"# Octomap OcTree file": ".ot"}
# Bytes of a node in .ot: log odds as float32, and the colour; then one bit for each child.
NODE_BYTES = {"OcTree": 4, "OcTreeStamped": 4, "ColorOcTree": 7}

_COMPLETE, _CUT_OFF, _TOO_DEEP = 0, 1, 2    # how reading the stream ended


def is_octomap(head: bytes) -> bool:
    """Whether a file that begins like this is an OctoMap."""
    return head.startswith(tuple(FIRST_LINES))


def read_octomap(path: str | Path, options: ReadOptions = UNTOLD,
                 frame: LocalFrame | None = None) -> City:
    """Read the occupied leaves of an OctoMap, each as a box of its own size.

    Occupied is what OctoMap takes for occupied: a probability of one half or more. What is
    free or unknown is not an obstacle. Where the boxes stand in the world: see `local.place`.

    Raises
    ------
    CityFileError
        If the file is missing, cut off, no OctoMap, or of a kind with other nodes, or if nothing
        in it is occupied.
    """
    path = Path(path)
    keys, depths, resolution = read_leaves(path)
    if not len(keys):
        raise CityFileError(f"{path}: no voxel of it is occupied; record a map that has seen "
                            "obstacles")
    lower = (keys.astype(float) - CENTRE) * resolution
    edge = np.exp2(DEPTH - depths.astype(float)) * resolution
    upper = lower + edge[:, None]
    spot = place(path, (lower.min(axis=0), upper.max(axis=0)), options, frame)
    lower, upper = spot.boxes_to_enu(lower, upper)
    sizes = ", ".join(f"{count:,} of {size:g} m"
                      for size, count in zip(*np.unique(edge, return_counts=True), strict=True))
    return City(
        name=path.name, frame=spot.frame, boxes=(Boxes(lower=lower, upper=upper),),
        extent=(*lower[:, :2].min(axis=0).tolist(), *upper[:, :2].max(axis=0).tolist()),
        n_buildings=0, crs=spot.crs, vertical_datum=spot.vertical_datum,
        notes=(f"occupied leaves: {sizes}", *spot.notes))


def read_leaves(path: str | Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Occupied leaves of an OctoMap file.

    Returns
    -------
    keys : (N, 3) uint16 array, OctoMap's keys of the lowest voxel of each leaf
    depths : (N,) uint8 array, 16: one voxel; a leaf of depth d is 2 ** (16 - d) voxels wide
    resolution : edge of a voxel, metres

    Raises
    ------
    CityFileError
        If the file is missing, cut off, no OctoMap, or of a kind with other nodes.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CityFileError(f"{path}: cannot be read ({error.strerror})") from error
    binary, kind, size, resolution, start = _header(path, content)
    stream = np.frombuffer(content, np.uint8, offset=start)
    room = max(1, min(size, 4 * len(stream)))   # no byte makes more than four leaves
    if binary:
        ended, nodes, keys, depths = _read_binary(stream, size, room)
    else:
        ended, nodes, keys, depths = _read_full(stream, size, room, NODE_BYTES[kind])
    if ended == _CUT_OFF or (ended == _COMPLETE and nodes != size):
        raise CityFileError(f"{path}: is cut off or damaged: its header names {size:,} nodes, "
                            f"{nodes:,} are there; copy it again")
    if ended == _TOO_DEEP:
        raise CityFileError(f"{path}: is damaged: its tree is deeper than {DEPTH} levels; copy "
                            "it again")
    return keys, depths, resolution


def _header(path, content):
    """(is .bt, kind of tree, number of nodes, resolution, offset of the stream)"""
    first = content[:100].split(b"\n")[0].rstrip()
    match = re.compile(rb"\ndata\r?\n").search(content, 0, 65536)
    if first not in FIRST_LINES or match is None:
        raise CityFileError(f"{path}: is no OctoMap: it does not begin with the header of one, "
                            "'# Octomap OcTree ... data'")
    fields = {}
    for line in content[:match.start()].decode("latin-1").splitlines():
        words = line.split()
        if len(words) > 1 and not line.startswith("#"):
            fields[words[0]] = words[1]
    kind = fields.get("id", "")
    if kind not in NODE_BYTES:
        raise CityFileError(f"{path}: holds a tree of kind {kind!r}; {', '.join(NODE_BYTES)} are "
                            "read, convert it with OctoMap's convert_octree")
    try:
        size, resolution = int(fields["size"]), float(fields["res"])
    except (KeyError, ValueError):
        size, resolution = -1, math.nan
    if not (size >= 0 and math.isfinite(resolution) and resolution > 0):
        raise CityFileError(f"{path}: its header gives size {fields.get('size')} and res "
                            f"{fields.get('res')}; they must be a count and metres above 0")
    return FIRST_LINES[first] == ".bt", kind, size, resolution, match.end()


@njit(cache=True, nogil=True)
def _read_binary(stream, size, room):
    """The stream of .bt: for each inner node, depth first, two bits for each of its children.

    01 free leaf, 10 occupied leaf, 11 inner node, 00 unknown; from the lowest bit on. Bits 0, 1
    and 2 of a child's number say that it is the upper half in x, y and z.
    """
    keys = np.empty((room, 3), np.uint16)
    depths = np.empty(room, np.uint8)
    n = 0
    if size == 0:
        return 0, 0, keys[:0], depths[:0]
    # Inner nodes that are still to be read, the next on top; at most 7 siblings wait a level.
    stack = np.empty((8 * 16, 4), np.int64)
    stack[0] = 0
    top, nodes, at = 1, 1, 0
    while top:
        top -= 1
        x, y, z = stack[top, 0], stack[top, 1], stack[top, 2]
        depth = stack[top, 3]
        if at + 2 > len(stream):
            return 1, nodes, keys[:0], depths[:0]
        word = int(stream[at]) | int(stream[at + 1]) << 8
        at += 2
        half = 1 << (15 - depth)
        for child in range(7, -1, -1):      # so that child 0 is on top
            state = word >> (2 * child) & 3
            if state == 0:
                continue
            nodes += 1
            cx, cy, cz = x, y, z
            if child & 1:
                cx += half
            if child & 2:
                cy += half
            if child & 4:
                cz += half
            if state == 3:
                if depth == 15:
                    return 2, nodes, keys[:0], depths[:0]
                stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = cx, cy, cz, depth + 1
                top += 1
            elif state == 2:
                if n == room:
                    return 1, nodes, keys[:0], depths[:0]
                keys[n, 0], keys[n, 1], keys[n, 2] = cx, cy, cz
                depths[n] = depth + 1
                n += 1
        if nodes > size:
            return 1, nodes, keys[:0], depths[:0]
    return 0, nodes, keys[:n], depths[:n]


@njit(cache=True, nogil=True)
def _read_full(stream, size, room, node_bytes):
    """The stream of .ot: nodes, depth first, each a value and a bit for each of its children."""
    keys = np.empty((room, 3), np.uint16)
    depths = np.empty(room, np.uint8)
    n = 0
    if size == 0:
        return 0, 0, keys[:0], depths[:0]
    stack = np.empty((8 * 17, 4), np.int64)
    stack[0] = 0
    top, nodes, at = 1, 0, 0
    while top:
        top -= 1
        x, y, z = stack[top, 0], stack[top, 1], stack[top, 2]
        depth = stack[top, 3]
        if at + node_bytes + 1 > len(stream):
            return 1, nodes, keys[:0], depths[:0]
        bits = (int(stream[at]) | int(stream[at + 1]) << 8 | int(stream[at + 2]) << 16
                | int(stream[at + 3]) << 24)
        children = stream[at + node_bytes]
        at += node_bytes + 1
        nodes += 1
        if nodes > size:
            return 1, nodes, keys[:0], depths[:0]
        if children == 0:
            # As float32: 0 (log odds of one half) to infinity, or minus zero.
            if bits <= 0x7F800000 or bits == 0x80000000:
                keys[n, 0], keys[n, 1], keys[n, 2] = x, y, z
                depths[n] = depth
                n += 1
            continue
        if depth == 16:
            return 2, nodes, keys[:0], depths[:0]
        half = 1 << (15 - depth)
        for child in range(7, -1, -1):
            if children >> child & 1:
                stack[top, 0] = x + half * (child & 1)
                stack[top, 1] = y + half * (child >> 1 & 1)
                stack[top, 2] = z + half * (child >> 2 & 1)
                stack[top, 3] = depth + 1
                top += 1
    return 0, nodes, keys[:n], depths[:n]


def write_bt(path: str | Path, occupied, resolution: float, origin=(0.0, 0.0, 0.0)) -> None:
    """Write voxels as an OctoMap (.bt); eight occupied siblings become one leaf.

    What is not listed is unknown in the file, as a city model says nothing about it.

    Parameters
    ----------
    occupied : (N, 3) int array
        Indices of occupied voxels; voxel (0, 0, 0) has its lower corner at the origin.
    resolution : float
        Edge of a voxel, metres.
    origin : (3,) float
        Metres; OctoMap's grid has a corner at zero, so it must be a multiple of the resolution.

    Raises
    ------
    ConfigError
        If resolution, origin or indices do not fit OctoMap's grid of 65,536 voxels a side.
    """
    stream, size = encode(occupied, resolution, origin)
    header = (f"{next(iter(FIRST_LINES)).decode()}\n"
              "# (feel free to add / change comments, but leave the first line as it is!)\n#\n"
              f"id OcTree\nsize {size}\nres {float(resolution)!r}\ndata\n")
    write_atomically(path, header.encode() + stream)


def _keys(occupied, resolution, origin) -> np.ndarray:
    if not (np.isfinite(resolution) and resolution > 0):
        raise ConfigError(f"resolution of an OctoMap must be above 0 m, got {resolution}")
    occupied = np.asarray(occupied)
    if occupied.size and not np.issubdtype(occupied.dtype, np.integer):
        raise ConfigError(f"voxel indices must be whole numbers, got {occupied.dtype}")
    occupied = occupied.reshape(-1, 3).astype(np.int64)
    shift = np.asarray(origin, float) / resolution
    if not np.allclose(shift, np.round(shift), rtol=0, atol=1e-6):
        raise ConfigError(f"origin {tuple(map(float, origin))} is no multiple of the resolution "
                          f"{resolution:g} m; OctoMap's grid has a corner at zero")
    keys = occupied + np.round(shift).astype(np.int64) + CENTRE
    if keys.size and not (keys.min() >= 0 and keys.max() < 2 * CENTRE):
        raise ConfigError(f"voxels up to {np.abs(keys - CENTRE).max():,} from the zero do not fit "
                          f"an OctoMap, which reaches {CENTRE:,}; choose a coarser resolution")
    return keys


def encode(occupied, resolution: float, origin=(0.0, 0.0, 0.0)) -> tuple[bytes, int]:
    """What .bt holds behind its header, and an octomap_msgs/Octomap as its data: the stream and
    its number of nodes. Parameters and errors as of `write_bt`.

    In Morton order the descendants of a node are neighbours, and depth first is the order of
    (code of the first descendant, depth): so each level is one pass over an array.
    """
    keys = _keys(occupied, resolution, origin)
    codes = np.unique(_spread(keys[:, 0]) | _spread(keys[:, 1]) << 1 | _spread(keys[:, 2]) << 2)
    if not len(codes):
        return b"", 0
    inner, words, depths = [], [], []   # of every inner node: first code, its 16 bits, depth
    states = np.full(len(codes), 2, np.uint16)      # occupied leaves
    size = 1
    for depth in range(DEPTH - 1, -1, -1):
        parents, first = np.unique(codes >> 3, return_index=True)
        bits = states << (2 * (codes & 7)).astype(np.uint16)
        word = np.bitwise_or.reduceat(bits, first)
        full = (word == 0xAAAA) & (depth > 0)       # OctoMap's root is always written
        keep = ~full
        counts = np.diff(np.append(first, len(codes)))
        size += int(counts[keep].sum())
        inner.append(parents[keep] << 3 * (DEPTH - depth))
        words.append(word[keep])
        depths.append(np.full(int(keep.sum()), depth))
        codes, states = parents, np.where(full, 2, 3).astype(np.uint16)
    order = np.lexsort((np.concatenate(depths), np.concatenate(inner)))
    return np.concatenate(words)[order].astype("<u2").tobytes(), size


def _spread(values: np.ndarray) -> np.ndarray:
    """16 bits, each three places from the next."""
    v = values.astype(np.int64)
    for shift, mask in ((16, 0x0000FF0000FF), (8, 0x00F00F00F00F), (4, 0x0C30C30C30C3),
                        (2, 0x249249249249)):
        v = (v | v << shift) & mask
    return v
