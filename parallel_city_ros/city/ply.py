"""PLY, the Stanford triangle format: ASCII and binary, whatever its elements are."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parallel_city_ros.errors import CityFileError

HEADER_BYTES = 65536


def is_ply(head: bytes) -> bool:
    return re.match(rb"ply\s*\n", head) is not None


@dataclass(frozen=True)
class _Element:
    """Rows of a PLY. properties : (name, type), or (name, type, type of its length) of a list"""

    name: str
    count: int
    properties: tuple[tuple[str, ...], ...]

    def dtype(self, order: str, lengths=()) -> np.dtype:
        """Of a row, if its lists are that long; a list's length is a field of its own."""
        fields, lengths = [], iter(lengths)
        for name, kind, *of_length in self.properties:
            if of_length:
                fields.append((f"{name} length", order + of_length[0]))
            fields.append((name, order + kind, (next(lengths),)) if of_length
                          else (name, order + kind))
        return np.dtype(fields)


@dataclass(frozen=True)
class PlyHeader:
    """order : of bytes, "" in ascii; start : offset of the first row"""

    order: str
    elements: tuple[_Element, ...]
    start: int

    def count(self, name: str) -> int:
        """How many rows there are of an element, such as face; 0 if it has none."""
        return sum(e.count for e in self.elements if e.name == name)


_PLY_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4",
              "uint": "u4", "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1",
              "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4",
              "float64": "f8"}
_PLY_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def ply_header(path: Path) -> PlyHeader:
    """Raises CityFileError if the header is broken or cut off."""
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    end = re.search(rb"\nend_header\r?\n", head)
    if end is None:
        raise CityFileError(f"{path}: its PLY header has no end; the file is cut off, copy it "
                            "again")
    order, elements = None, []
    try:
        for line in head[:end.start()].decode("latin-1").splitlines():
            match line.split():
                case ["format", name, *_]:
                    order = _PLY_ORDERS[name]
                case ["element", name, count]:
                    elements.append((name, int(count), []))
                case ["property", "list", of_length, kind, name]:
                    elements[-1][2].append((name, _PLY_TYPES[kind], _PLY_TYPES[of_length]))
                case ["property", kind, name]:
                    elements[-1][2].append((name, _PLY_TYPES[kind]))
        if order is None or any(count < 0 for _, count, _ in elements):
            raise ValueError("no format, or a negative count")
    except (IndexError, KeyError, ValueError) as error:
        raise CityFileError(f"{path}: has a broken PLY header ({error}); export it again") \
            from error
    return PlyHeader(order, tuple(_Element(n, c, tuple(p)) for n, c, p in elements), end.end())


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray | list[list[int]]]:
    """(V, 3) float corners, and faces as an (F, k) array if all have k corners, else as lists.

    Raises
    ------
    CityFileError
        If the file is cut off or damaged.
    """
    header = ply_header(path)
    content = path.read_bytes()[header.start:]
    lines = [] if header.order else [row for row in content.splitlines() if row.strip()]
    corners, faces, at = np.empty((0, 3)), [], 0
    try:
        for element in header.elements:
            if header.order:
                found, at = _binary_rows(content, at, element, header.order)
            else:
                found, at = _ascii_rows(lines, at, element)
            if element.name == "vertex":
                corners = np.stack([np.asarray(found[axis], float) for axis in "xyz"], axis=1)
            elif element.name == "face":
                faces = next(found[n] for n in ("vertex_indices", "vertex_index") if n in found)
    except (ValueError, IndexError, struct.error) as error:
        raise CityFileError(f"{path}: is cut off or damaged ({error}); copy or export it again") \
            from error
    except (KeyError, StopIteration) as error:
        raise CityFileError(f"{path}: its vertices have no x, y, z, or its faces no "
                            "vertex_indices; export it again") from error
    return corners, faces


def _binary_rows(content, at, element, order):
    """Columns by name, and where the next element begins. Most files' lists are equally long."""
    lists = [name for name, _, *of_length in element.properties if of_length]
    lengths = []
    if lists and element.count:
        first = at
        for _, kind, *of_length in element.properties:
            if of_length:
                lengths.append(int(np.frombuffer(content, order + of_length[0], 1, first)[0]))
                first += np.dtype(of_length[0]).itemsize
            first += np.dtype(kind).itemsize * (lengths[-1] if of_length else 1)
    dtype = element.dtype(order, lengths or [0] * len(lists))
    if at + dtype.itemsize * element.count <= len(content):
        rows = np.frombuffer(content, dtype, element.count, at) if element.count else \
            np.empty(0, dtype)
        if all((rows[f"{name} length"] == n).all()
               for name, n in zip(lists, lengths or [0] * len(lists), strict=True)):
            return {name: rows[name] for name, *_ in element.properties}, \
                at + rows.nbytes
    elif not lists:
        raise ValueError(f"{len(content) - at:,} bytes are left for {element.count:,} of "
                         f"{element.name}")
    columns = {name: [] for name, *_ in element.properties}
    for _ in range(element.count):
        for name, kind, *of_length in element.properties:
            length = 1
            if of_length:
                code = order + np.dtype(of_length[0]).char
                (length,) = struct.unpack_from(code, content, at)
                at += struct.calcsize(code)
            code = f"{order}{length}{np.dtype(kind).char}"
            values = struct.unpack_from(code, content, at)
            at += struct.calcsize(code)
            columns[name].append(list(values) if of_length else values[0])
    return columns, at


def _ascii_rows(lines, at, element):
    rows = lines[at:at + element.count]
    if len(rows) < element.count:
        raise ValueError(f"{len(rows):,} lines are left for {element.count:,} of {element.name}")
    names = [name for name, *_ in element.properties]
    if rows and not any(of_length for _, _, *of_length in element.properties):
        table = np.loadtxt([row.decode("latin-1") for row in rows], ndmin=2,
                           usecols=range(len(names)))
        return dict(zip(names, table.T, strict=True)), at + element.count
    columns = {name: [] for name in names}
    for row in rows:
        words = iter(row.split())
        for name, kind, *of_length in element.properties:
            length = int(next(words, b"")) if of_length else 1
            values = [(float if kind[0] == "f" else int)(next(words, b"")) for _ in range(length)]
            columns[name].append(values if of_length else values[0])
    return columns, at + element.count
