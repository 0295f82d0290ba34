"""Files of meshes and point clouds: told apart by content, checked to be whole, as arrays.

open3d 0.20 reads STL of text, compressed PCD, and of glTF what `gltf` does not. It is not asked
for the others: it keeps the coordinates of OBJ and OFF in single precision, half a metre in a map
projection, leaves out every face of an OBJ that is no triangle, takes the numbers of a PCD of
double precision for 0, refuses a binary STL that a byte follows, and of a PLY or PCD that was cut
off it hands back what there is, or memory that was never written.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from pathlib import Path

import numpy as np

from parallel_city_ros.city.gltf import read_gltf
from parallel_city_ros.city.ply import is_ply, ply_header, read_ply
from parallel_city_ros.errors import CityFileError

MESHES, CLOUDS = ("ply", "obj", "stl", "gltf", "glb", "off"), ("pcd", "ply", "xyz")
LOOK_BYTES = 4096
PCD_HEADER_BYTES = 65536

_OBJ_WORDS = frozenset("v vn vt vp f l p o g s mg usemtl mtllib usemap lod shadow_obj trace_obj "
                       "deg curv surf parm end cstype bevel c_interp d_interp".split())
# Names of columns, compared in lower case without signs; the first that is there counts
AXES = (("x", "east", "easting", "rechtswert", "xcoord", "pointx"),
        ("y", "north", "northing", "hochwert", "ycoord", "pointy"),
        ("z", "up", "height", "elevation", "elev", "altitude", "höhe", "hoehe", "zcoord",
         "pointz"))
_SEPARATORS = re.compile(rb"[\s,;]+")


def mesh_format(path: Path, head: bytes) -> str:
    """ply, obj, stl, gltf, glb, off; "" for what is no mesh. head : the file's beginning"""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if is_ply(head):
        return "ply" if ply_header(path).count("face") else ""
    if head.startswith(b"glTF"):
        return "glb"
    if text.startswith(b"{"):
        is_other = re.search(rb'"type"\s*:\s*"(CityJSON|Feature)', head)
        words = (b'"asset"', b'"accessors"', b'"bufferViews"')
        return "gltf" if not is_other and any(word in head for word in words) else ""
    if re.match(rb"(ST)?(C)?(N)?OFF\s", text):
        return "off"
    if _is_binary_stl(path, head) or _may_be_cut_stl(path, head) or re.match(
            rb"solid\b[^\n]*\n\s*(facet|endsolid)\b", text):
        return "stl"
    words = [line.split()[0].decode("latin-1") for line in _lines(head)]
    is_obj = words and set(words) <= _OBJ_WORDS and not {"v", "o", "g", "mtllib"}.isdisjoint(words)
    return "obj" if is_obj else ""


def cloud_format(path: Path, head: bytes) -> str:
    """pcd, ply, xyz; "" for what is no point cloud. head : the file's beginning"""
    if is_ply(head):
        return "" if ply_header(path).count("face") else "ply"
    if re.match(rb"(\s*#[^\n]*\n)*\s*(VERSION [0-9.]+\s+FIELDS|FIELDS|COLUMNS)\s", head):
        return "pcd"
    rows = [_numbers(line) for line in _lines(head)]
    rows = rows[1:] if rows and rows[0] == 0 else rows      # a line of names
    return "xyz" if rows and min(rows) >= 3 else ""


def head_of(path: Path) -> bytes:
    """The beginning of a file, by which it is told apart."""
    try:
        with open(path, "rb") as file:
            return file.read(LOOK_BYTES)
    except OSError as error:
        raise CityFileError(f"{path}: cannot be read ({error.strerror})") from error


def _lines(head: bytes) -> list[bytes]:
    """Lines of a text that are no comments; none if it is no text. The last may be cut."""
    if b"\0" in head:
        return []
    lines = re.sub(rb"\\\r?\n", b" ", head).removeprefix(b"\xef\xbb\xbf").splitlines()
    if len(lines) > 1 and not head.endswith((b"\n", b"\r")):
        lines = lines[:-1]
    return [line for line in map(bytes.strip, lines) if line and not line.startswith(b"#")]


def _numbers(line: bytes) -> int:
    """How many numbers a line begins with."""
    count = 0
    for word in filter(None, _SEPARATORS.split(line)):
        try:
            float(word)
        except ValueError:
            break
        count += 1
    return count


def _stl_bytes(head) -> int:
    """Of a binary STL, as its number of triangles has it; 0 if it is too short."""
    return 84 + 50 * int.from_bytes(head[80:84], "little") if len(head) >= 84 else 0


def _is_binary_stl(path, head) -> bool:
    """As long as it says; some writers add a line's end, or less than another triangle."""
    return _stl_bytes(head) > 84 and 0 <= path.stat().st_size - _stl_bytes(head) < 50


def _may_be_cut_stl(path, head) -> bool:
    """Told by its name, as nothing else in it is certain: to be refused with the right words."""
    return path.suffix.lower() == ".stl" and b"\0" in head[80:] \
        and _stl_bytes(head) > path.stat().st_size


_PCD_TYPES = {"F": "f", "I": "i", "U": "u"}


def _check_length(path, start, least, ascii) -> None:
    """Refuse a file whose body is shorter than its header says: lines (ascii) or bytes."""
    if ascii:
        with open(path, "rb") as file:
            file.seek(start)
            there = sum(1 for line in file if line.strip())
    else:
        there = path.stat().st_size - start
    if there < least:
        raise CityFileError(f"{path}: is cut off: {there:,} of at least {least:,} "
                            f"{'lines' if ascii else 'bytes'} are there; copy it again")


# --- reading --------------------------------------------------------------------------


def read_faces(path: Path, kind: str):
    """(V, 3) float corners of a mesh, and its faces: (F, k) int array, or lists of corners.

    Raises
    ------
    CityFileError
        If the file is cut off or damaged.
    """
    own = {"obj": _read_obj, "off": _read_off, "ply": read_ply, "glb": read_gltf,
           "gltf": read_gltf, "stl": _read_stl}
    found = own[kind](path) if kind in own else None
    return _open3d_mesh(path, kind) if found is None else found


def read_points(path: Path, kind: str) -> np.ndarray:
    """(N, 3) float points of a cloud, as the file has them.

    Raises
    ------
    CityFileError
        If the file is cut off or damaged.
    """
    if kind == "ply":
        return read_ply(path)[0]
    return _read_pcd(path) if kind == "pcd" else _read_xyz(path)


def _open3d_read(read, path: Path, suffix: str):
    """open3d goes by the name: a link with the right one serves where the file's is another."""
    import open3d

    quiet = open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error)
    with quiet, tempfile.TemporaryDirectory() as folder:
        if path.suffix.lower() != f".{suffix}":
            link = Path(folder) / f"file.{suffix}"
            link.symlink_to(path.resolve())
            path = link
        return read(open3d.io, str(path))


def _open3d_mesh(path, kind) -> tuple[np.ndarray, np.ndarray]:
    mesh = _open3d_read(lambda io, name: io.read_triangle_mesh(name), path, kind)
    return np.array(mesh.vertices), np.array(mesh.triangles).astype(np.int64)


def _read_stl(path) -> tuple[np.ndarray, np.ndarray] | None:
    """Binary STL; None for a text, which ends as it should: open3d would read half of one."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(LOOK_BYTES)
        file.seek(max(0, size - LOOK_BYTES))
        end = file.read()
    if _is_binary_stl(path, head):
        count = int.from_bytes(head[80:84], "little")
        rows = np.fromfile(path, [("normal", "<3f4"), ("corners", "<9f4"), ("more", "<u2")],
                           count, offset=84)
        return rows["corners"].reshape(-1, 3).astype(float), np.arange(3 * count).reshape(-1, 3)
    if _may_be_cut_stl(path, head):
        raise CityFileError(f"{path}: is cut off: {size:,} of {_stl_bytes(head):,} bytes are "
                            "there; copy it again")
    if b"endsolid" not in end:
        raise CityFileError(f"{path}: is cut off: it does not end with endsolid; copy it again")
    return None


def _read_pcd(path) -> np.ndarray:
    """PCD 0.7 and before; open3d unpacks the compressed, of which it tells if it is cut off."""
    with open(path, "rb") as file:
        head = file.read(PCD_HEADER_BYTES)
    end = re.search(rb"(?:^|\n)DATA (ascii|binary_compressed|binary)\r?\n", head)
    if end is None:
        raise CityFileError(f"{path}: its PCD header has no DATA; the file is cut off, copy it "
                            "again")
    fields = {words[0]: words[1:] for line in head[:end.start()].decode("latin-1").splitlines()
              if (words := line.split()) and not line.startswith("#")}
    try:
        names = fields["FIELDS"] if "FIELDS" in fields else fields["COLUMNS"]
        columns = [int(v) for v in fields.get("COUNT", ["1"] * len(names))]
        points = int(fields["POINTS"][0]) if "POINTS" in fields else \
            int(fields["WIDTH"][0]) * int(fields["HEIGHT"][0])
        # padding has the name "_" many times, which a dtype may not
        dtype = np.dtype([
            (name if name in "xyz" else f"{number}", f"<{_PCD_TYPES[kind]}{int(size)}", (count,))
            for number, (name, kind, size, count) in enumerate(
                zip(names, fields["TYPE"], fields["SIZE"], columns, strict=True))])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CityFileError(f"{path}: has a broken PCD header ({error}); export it again") \
            from error
    if not {"x", "y", "z"} <= set(names):
        raise CityFileError(f"{path}: has the fields {' '.join(names)}, but not x y z")
    packing = end[1].decode()
    if packing == "binary_compressed":
        if any(dtype[axis].base != np.float32 for axis in "xyz"):
            raise CityFileError(f"{path}: is compressed and not of single precision, which is not "
                                "read; save it as ascii or binary")
        cloud = _open3d_read(lambda io, name: io.read_point_cloud(name), path, "pcd")
        if len(cloud.points) != points:
            raise CityFileError(f"{path}: is cut off or damaged: {len(cloud.points):,} of "
                                f"{points:,} points could be read; copy or export it again")
        return np.array(cloud.points).reshape(-1, 3)
    _check_length(path, end.end(), points * (1 if packing == "ascii" else dtype.itemsize),
                  packing == "ascii")
    if packing == "binary":
        rows = np.fromfile(path, dtype, points, offset=end.end())
        return np.concatenate([rows[axis][:, :1].astype(float) for axis in "xyz"], axis=1)
    first = np.cumsum([0, *columns])
    with open(path, "rb") as file:
        file.seek(end.end())
        lines = (line.decode("latin-1") for line in file if line.strip())
        return _table(path, lines, [int(first[names.index(axis)]) for axis in "xyz"], None)


def _read_xyz(path) -> np.ndarray:
    """Lines of numbers: the columns that a line of names says, else the first three."""
    with open(path, "rb") as file:
        first = next((line for line in file if line.strip() and not line.startswith(b"#")), b"")
    delimiter = next((d for d in (",", ";") if d.encode() in first), None)
    named = _numbers(first.removeprefix(b"\xef\xbb\xbf").strip()) == 0
    columns = _columns(path, first, delimiter) if named else (0, 1, 2)
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = (line for line in file if line.strip() and not line.startswith("#"))
        if named:
            next(lines, None)
        return _table(path, lines, columns, delimiter)


def _columns(path, header: bytes, delimiter) -> list[int]:
    """Where a line of names has x, y and z."""
    try:
        text = header.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        text = header.decode("latin-1").strip()
    bare = re.sub(r"[(\[].*?[)\]]", "", text)      # units
    names = ["".join(c for c in name.lower() if c.isalnum()) for name in bare.split(delimiter)]
    found = [next((names.index(n) for n in usual if n in names), None) for usual in AXES]
    if None in found:
        raise CityFileError(
            f"{path}: its line of names, {text!r:.80}, does not say which columns are x, y and z; "
            "name them so, or east, north and height (degrees too, longitude as x, with --crs "
            "EPSG:4326)")
    return found


def _table(path, lines, columns, delimiter) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # of a file without data: we say so ourselves
            return np.loadtxt(lines, usecols=columns, delimiter=delimiter,
                              ndmin=2).reshape(-1, 3)
    except ValueError as error:
        raise CityFileError(f"{path}: has a line without three numbers ({error}); the file is cut "
                            "off or no list of points") from error


def _read_obj(path) -> tuple[np.ndarray, list[list[int]]]:
    vertices, faces = [], []
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            for line in _joined(file):
                word, _, rest = line.strip().partition(" ")
                if word == "v":
                    x, y, z, *_ = map(float, rest.split())
                    vertices.append((x, y, z))
                elif word == "f":
                    corners = [int(corner.split("/")[0]) for corner in rest.split()]
                    face = [c - 1 if c > 0 else len(vertices) + c for c in corners]
                    if len(face) < 3 or 0 in corners or min(face) < 0:
                        raise ValueError(f"face {rest!r}")
                    faces.append(face)
    except ValueError as error:
        raise CityFileError(f"{path}: the line {line.strip()!r:.60} is broken ({error}); the file "
                            "is cut off or damaged, export it again") from error
    return np.array(vertices, float).reshape(-1, 3), faces


def _joined(file):
    """Lines, those that end in a backslash with the next."""
    held = ""
    for line in file:
        line = held + line.expandtabs(1)
        if line.rstrip("\r\n").endswith("\\"):
            held = line.rstrip("\r\n")[:-1] + " "
            continue
        held = ""
        yield line
    yield held


def _read_off(path) -> tuple[np.ndarray, list[list[int]]]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    rows = [line for line in (row.split("#")[0].split() for row in text.splitlines()) if line]
    if rows and re.fullmatch(r"(ST)?C?N?OFF", rows[0][0]):
        rows[0] = rows[0][1:]
    rows = rows[0 if rows and rows[0] else 1:]
    try:
        n, f = int(rows[0][0]), int(rows[0][1])
        if not 0 <= f <= len(rows) - 1 - n <= len(rows):
            raise ValueError(f"{n} vertices and {f} faces are announced, {len(rows) - 1} lines "
                             "are there")
        vertices = np.array([row[:3] for row in rows[1:n + 1]], float).reshape(n, 3)
        faces = [[int(c) for c in row[1:int(row[0]) + 1]] for row in rows[n + 1:n + f + 1]]
        if any(len(face) != int(row[0]) or len(face) < 3 or min(face) < 0
               for face, row in zip(faces, rows[n + 1:n + f + 1], strict=True)):
            raise ValueError("a face has not the corners that it announces")
    except (ValueError, IndexError) as error:
        raise CityFileError(f"{path}: cannot be read as OFF ({error}); the file is cut off or "
                            "damaged, export it again") from error
    return vertices, faces
