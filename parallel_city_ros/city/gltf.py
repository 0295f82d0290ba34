"""glTF 2.0, text and binary, in double precision: what `export` writes comes back to the last bit.

open3d multiplies corners with their nodes' matrices in single precision, in which 0.3 m is none,
takes whole numbers for none, and does not find files whose names have blanks.
"""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import numpy as np

from parallel_city_ros.errors import CityFileError

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
TRIANGLES, STRIP, FAN = 4, 5, 6     # lower modes are points and lines
MOST_TRIANGLES = 50_000_000     # nodes of a few bytes can place a large mesh each
QUANTISED = "KHR_mesh_quantization"     # whole numbers for coordinates: read here, not by open3d
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")


class _Beyond(Exception):
    """Something of the standard that is rare, and not read here."""


def read_gltf(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(V, 3) float corners, y up, and (F, 3) int faces of the file's scene.

    None if it uses what is not read here: sparse accessors, extensions that it requires.

    Raises
    ------
    CityFileError
        If the file is cut off or damaged, needs a file that is not there, or an extension that
        is not read anywhere.
    """
    try:
        document, inside = _parts(path.read_bytes())
        if str(document.get("asset", {}).get("version", "")).startswith("1"):
            raise CityFileError(f"{path}: is glTF 1.0, which is not read; export it as glTF 2.0")
        required = document.get("extensionsRequired", ())
        _refuse(path, [name for name in COMPRESSED if name in required])
        buffers = [_buffer(path, told, inside if n == 0 else b"")
                   for n, told in enumerate(document.get("buffers", []))]
        try:
            if set(required) - {QUANTISED}:
                raise _Beyond
            return _Scene(document, buffers).meshes()
        except _Beyond:
            _refuse(path, [QUANTISED] if QUANTISED in required else [])
            return None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError,
            struct.error) as error:
        raise CityFileError(f"{path}: cannot be read as glTF ({type(error).__name__}: {error}); "
                            "the file is cut off or damaged, copy it again") from error


def _refuse(path: Path, names: list[str]) -> None:
    if names:
        raise CityFileError(f"{path}: needs the extension {', '.join(names)}, which is not read; "
                            "export it without compression")


def _parts(content: bytes) -> tuple[dict, bytes]:
    """The document, and the buffer that a binary file has inside."""
    if not content.startswith(b"glTF"):
        return json.loads(content.decode("utf-8-sig")), b""
    magic, version, length = struct.unpack_from("<4sII", content)
    size, kind = struct.unpack_from("<I4s", content, 12)
    if (version, kind) != (2, b"JSON") or length > len(content):
        raise ValueError(f"{len(content):,} bytes of version {version}, {length:,} announced")
    return json.loads(content[20:20 + size]), content[28 + size:length]


def _buffer(path: Path, told: dict, inside: bytes) -> bytes:
    uri = told.get("uri")
    if uri is None:
        return inside
    if uri.startswith("data:"):
        head, _, text = uri.partition(",")
        return base64.b64decode(unquote(text)) if head.endswith(";base64") \
            else unquote_to_bytes(text)
    for name in (unquote(uri), uri):    # some writers do not encode what the standard wants so
        if (path.parent / name).is_file():
            return (path.parent / name).read_bytes()
    raise CityFileError(f"{path}: needs {unquote(uri)} beside it; copy that too, or export it as "
                        ".glb, which is one file")


class _Scene:
    def __init__(self, document: dict, buffers: list[bytes]):
        self.document, self.buffers = document, buffers
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
        if "sparse" in accessor or "bufferView" not in accessor:
            raise _Beyond
        view = self.document["bufferViews"][accessor["bufferView"]]
        dtype = np.dtype(COMPONENTS[accessor["componentType"]])
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        stride = view.get("byteStride", width * dtype.itemsize)
        rows = np.ndarray((accessor["count"], width), dtype, self.buffers[view["buffer"]], start,
                          (stride, dtype.itemsize))
        if accessor.get("normalized") and dtype.kind in "iu":
            rows = np.maximum(rows / np.iinfo(dtype).max, -1.0)
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
