"""Binary glTF 2.0 in double precision: what `export` writes comes back to the last bit.

open3d multiplies corners with their nodes' matrices in single precision, in which 0.3 m is none.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from parallel_city_ros.errors import CityFileError

COMPONENTS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
TRIANGLES, STRIP, FAN = 4, 5, 6     # lower modes are points and lines
MOST_TRIANGLES = 50_000_000     # nodes of a few bytes can place a large mesh each


class _Beyond(Exception):
    """Something of the standard that is rare, and not read here."""


def read_glb(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(V, 3) float corners, y up, and (F, 3) int faces of the file's scene.

    None if it uses what is not read here: other files, extensions, sparse accessors.

    Raises
    ------
    CityFileError
        If the file is cut off or damaged.
    """
    try:
        return _Scene(path.read_bytes()).meshes()
    except _Beyond:
        return None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError,
            struct.error) as error:
        raise CityFileError(f"{path}: cannot be read as glTF ({type(error).__name__}: {error}); "
                            "the file is cut off or damaged, copy it again") from error


class _Scene:
    def __init__(self, content: bytes):
        magic, version, length = struct.unpack_from("<4sII", content)
        size, kind = struct.unpack_from("<I4s", content, 12)
        if (magic, version, kind) != (b"glTF", 2, b"JSON") or length > len(content):
            raise ValueError(f"{len(content):,} bytes of version {version}, {length:,} announced")
        self.document = json.loads(content[20:20 + size])
        self.binary = content[28 + size:length]
        buffers = self.document.get("buffers", [])
        if self.document.get("extensionsRequired") or len(buffers) != 1 or "uri" in buffers[0]:
            raise _Beyond
        self.corners, self.faces, self.n_corners, self.n_faces = [], [], 0, 0
        self.placed = set()

    def meshes(self) -> tuple[np.ndarray, np.ndarray]:
        scenes = self.document.get("scenes")
        nodes = self.document.get("nodes", [])
        if scenes:
            roots = scenes[self.document.get("scene", 0)].get("nodes", [])
        else:
            roots = set(range(len(nodes))) - {c for n in nodes for c in n.get("children", ())}
        for root in roots:
            self._add(nodes, root, np.eye(4))
        if not self.faces:
            return np.empty((0, 3)), np.empty((0, 3), np.int64)
        return np.concatenate(self.corners), np.concatenate(self.faces)

    def _add(self, nodes, number: int, above: np.ndarray) -> None:
        if number in self.placed:
            raise ValueError(f"node {number} is placed twice")
        self.placed.add(number)
        node = nodes[number]
        matrix = above @ _matrix(node)
        meshes = [self.document["meshes"][node["mesh"]]] if "mesh" in node else []
        for primitive in (p for mesh in meshes for p in mesh["primitives"]):
            if (mode := primitive.get("mode", TRIANGLES)) < TRIANGLES:
                continue
            points = self._accessor(primitive["attributes"]["POSITION"], 3).astype(float)
            named = self._accessor(primitive["indices"], 1).astype(np.int64) \
                if "indices" in primitive else np.arange(len(points))
            if len(named) and named.max() >= len(points):
                raise ValueError(f"a face names corner {named.max():,} of {len(points):,}")
            if mode in (STRIP, FAN):
                first = named[:-2] if mode == STRIP else np.full(max(len(named) - 2, 0), named[0])
                faces = np.stack([first, named[1:-1], named[2:]], axis=1)
            else:
                faces = named.reshape(-1, 3)
            self.corners.append(points @ matrix[:3, :3].T + matrix[:3, 3])
            self.faces.append(faces + self.n_corners)
            self.n_corners += len(points)
            self.n_faces += len(faces)
            if self.n_faces > MOST_TRIANGLES:
                raise ValueError(f"it has more than {MOST_TRIANGLES:,} triangles")
        for child in node.get("children", ()):
            self._add(nodes, child, matrix)

    def _accessor(self, number: int, width: int) -> np.ndarray:
        accessor = self.document["accessors"][number]
        if "sparse" in accessor or "bufferView" not in accessor or accessor.get("normalized"):
            raise _Beyond
        view = self.document["bufferViews"][accessor["bufferView"]]
        dtype = np.dtype(COMPONENTS[accessor["componentType"]])
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        stride = view.get("byteStride", width * dtype.itemsize)
        rows = np.ndarray((accessor["count"], width), dtype, self.binary, start,
                          (stride, dtype.itemsize))
        return rows[:, 0] if width == 1 else rows


def _matrix(node) -> np.ndarray:
    """(4, 4) of a node, from its matrix or its translation, rotation and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = (float(v) for v in node.get("rotation", (0, 0, 0, 1)))
    turned = np.array([
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y))])
    matrix = np.eye(4)
    matrix[:3, :3] = turned * np.array(node.get("scale", (1, 1, 1)), float)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
