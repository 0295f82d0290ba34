"""CityJSON 1.0, 1.1 and 2.0, and CityJSONSeq (.jsonl); from city objects to a `City`.

CityJSON is one encoding of the city objects that CityGML defines: `citygml` reads the other
into the same `Model`, which `city_of` puts into a frame.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import shapely

from parallel_city_ros.city.local import metres_per_height_unit
from parallel_city_ros.city.model import Building, City, HeightSource, Solid
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import (
    MAX_HEIGHT_M,
    METRES_PER_LEVEL,
    MIN_ASSUMED_HEIGHT_M,
    parse_length_m,
    parse_levels,
    require_file,
)
from parallel_city_ros.city.triangulate import Faces, terrain_raster, triangulate, weld
from parallel_city_ros.city.vector import GROUNDS, HEIGHTS, LEVELS
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

VERSIONS = ("1.0", "1.1", "2.0")

# What stands in the air's way, by the names of CityGML 1 and 2 and of CityJSON.
KINDS = {
    "Building": "building", "BuildingPart": "building", "BuildingInstallation": "building",
    "BuildingConstructiveElement": "building",
    "Bridge": "bridge", "BridgePart": "bridge", "BridgeInstallation": "bridge",
    "BridgeConstructionElement": "bridge", "BridgeConstructiveElement": "bridge",
    "OtherConstruction": "construction", "SolitaryVegetationObject": "tree",
    "PlantCover": "tree", "CityFurniture": "furniture", "GenericCityObject": "other"}
HOUSES = ("building", "construction")   # of these a mere outline stands too
TERRAIN = "TINRelief"
NO_SURFACES = ("MultiPoint", "MultiLineString")

# Beyond those of vector files; compared without case, blanks and underscores.
HEIGHT_NAMES = ("measuredheight", *HEIGHTS, "relativeridgeheight", "averageheight")
GROUND_NAMES = (*GROUNDS, "b3hmaaiveld", "hoehegrund")
ROOF_NAMES = ("b3hdakmax", "hdakmax", "absoluteridgeheight", "hoehedach")

MOST_FACES = 20_000_000     # several GB in memory
MOST_UNPACKED = 2 << 30     # bytes
LOWEST_M, HIGHEST_M = -1000.0, 10_000.0     # of all cities; a height beyond is an error
FLAT_M = 0.1                # a body lower than that is an outline
STOREY_M = 2.0              # outlines of ground and roof are at least that far apart
GROUND_BELOW_M = 10.0       # how far below a building its ground may be said to be


@dataclass(eq=False)
class CityObject:
    """Something that stands, with its geometry of one level of detail.

    family : id of the object that it is a part of, else its own
    solids : face numbers of each; surfaces : of those that belong to none, or to them too
    at_roof : whether an outline lies at the top of what stands, not on the ground
    """

    object_id: str
    kind: str
    is_part: bool
    family: str
    attributes: dict
    lod: str = ""
    solids: list = field(default_factory=list)
    surfaces: list = field(default_factory=list)
    at_roof: bool = False

    @property
    def has_faces(self) -> bool:
        return bool(self.surfaces or any(len(s) for s in self.solids))


@dataclass(eq=False)
class Model:
    """What a file holds, in its own coordinates.

    vertices : (V, 3) float array; offsets : (V, 3), to be added; they are in metres where the
        coordinates are in degrees (of what is placed many times, such as a tree)
    terrain : face numbers of the ground
    crs_name : as the file says it; "" if it does not
    authority_order : whether coordinates that fit either way have the order of axes which the
        authority of the reference system prescribes, not x, y
    lods : of all that stands, chosen or not
    types : how many objects of each there are
    """

    path: Path
    vertices: np.ndarray
    faces: Faces
    objects: list[CityObject]
    terrain: list[int]
    types: Counter
    lods: set[str]
    offsets: np.ndarray | None = None
    crs_name: str = ""
    authority_order: bool = False
    attribution: str = ""
    notes: list[str] = field(default_factory=list)


def is_cityjson(head: bytes) -> bool:
    """By the first kilobytes of a file, which may be gzipped."""
    head = unpacked_head(head).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"{") and re.search(rb'"CityJSON(Feature)?"', head) is not None \
        or head.startswith(b"{") and b'"CityObjects"' in head


def read_cityjson(path: str | Path, options: ReadOptions = UNTOLD,
                  frame: LocalFrame | None = None) -> City:
    """Read CityJSON or CityJSONSeq, gzipped or not.

    Each object has the highest level of detail that is there, or that of options.lod or the
    nearest to it. A building's own geometry and its parts both stand. Outlines (LoD 0) are
    extruded where neither a building nor its parts have anything else.

    frame : local frame to read into; None: its origin is the south-west corner of what stands,
        its altitude the lowest height of the file in whole metres

    Raises
    ------
    CityFileError
        If the file is missing, broken, of another kind or version, or empty; if it names no
        reference system, or coordinates are not of it; if no object has the level of detail.
    """
    path = require_file(path)
    reading = _Reading(path, options)
    try:
        with open_unpacked(path) as file:
            header, lines = _header(path, file)
            reading.document(header, is_sequence=lines is not None)
            for number, line in lines or ():
                reading.feature(number, line)
    except (OSError, EOFError, zlib.error) as error:
        raise CityFileError(f"{path}: cannot be read ({error}); the file is cut off, copy it "
                            "again") from error
    return city_of(reading.model(header), options, frame)


# --- files -----------------------------------------------------------------------------------

def open_unpacked(path: Path) -> io.BufferedIOBase:
    """The file's bytes, unpacked if it is gzipped."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(_Unpacked(path), 1 << 20) if packed else open(path, "rb")


class _Unpacked(io.RawIOBase):
    """A gzipped file, up to a size: a few kilobytes can unpack to more than fits the memory."""

    def __init__(self, path: Path):
        self.path, self.file, self.size = path, gzip.open(path, "rb"), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        count = self.file.readinto(buffer)
        self.size += count
        if self.size > MOST_UNPACKED:
            raise CityFileError(f"{self.path}: unpacks to more than {MOST_UNPACKED >> 30} GiB; "
                                "split it")
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def unpacked_head(head: bytes) -> bytes:
    """The same of a file's first bytes."""
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return zlib.decompressobj(31).decompress(head, 1 << 16)
    except zlib.error:
        return b""


def _header(path: Path, file) -> tuple[dict, Iterator | None]:
    """The document; and if it is the first of many lines, the numbered others."""
    first = file.readline()
    lines = None
    try:
        try:
            header = json.loads(first)
        except ValueError:      # laid out over many lines, or broken
            header = json.loads(first + file.read())
        else:
            following = ((n, line) for n, line in enumerate(file, 2) if line.strip())
            if (second := next(following, None)) is not None:
                lines = _chain(second, following)
    except (ValueError, RecursionError) as error:
        raise CityFileError(f"{path}: cannot be read as CityJSON ({error}); the file is cut off "
                            "or of another kind, export it again") from error
    kind = header.get("type") if isinstance(header, dict) else None
    if kind == "CityJSONFeature":
        raise CityFileError(f"{path}: begins with a CityJSONFeature; the first line of a sequence "
                            "has to be the CityJSON object with transform and metadata")
    if kind != "CityJSON":
        raise CityFileError(f"{path}: is JSON, but not CityJSON (its type is {kind!r})")
    version = str(header.get("version"))
    if not version.startswith(VERSIONS):
        raise CityFileError(f"{path}: is CityJSON {version}; {', '.join(VERSIONS)} are read, "
                            "convert it (cjio: upgrade)")
    return header, lines


def _chain(first, rest):
    yield first
    yield from rest


# --- documents and features ------------------------------------------------------------------

class _Broken(ValueError):
    """What is wrong with an object; the reader adds file and object."""


_WRONG_SHAPE = (TypeError, KeyError, IndexError, ValueError, AttributeError, OverflowError)


class _Reading:
    """Gathers the objects of a document and of the features that may follow."""

    def __init__(self, path: Path, options: ReadOptions):
        self.path, self.wanted = path, options.lod
        self.faces = Faces()
        self.vertices: list[np.ndarray] = []
        self.offsets: list[np.ndarray] = []
        self.n_vertices = 0
        self.objects: list[CityObject] = []
        self.terrain: list[int] = []
        self.types: Counter = Counter()
        self.lods: set[str] = set()
        self.ids: set[str] = set()
        self.n_repeated = 0
        self.base, self.points = 0, np.empty((0, 3))    # of the document or feature at hand
        self.scale, self.translate = np.ones(3), np.zeros(3)
        self.templates: list = []
        self.template_vertices = np.empty((0, 3))

    def document(self, document: dict, is_sequence: bool) -> None:
        if (transform := document.get("transform")) is not None:
            try:
                self.scale = np.array(transform["scale"], float).reshape(3)
                self.translate = np.array(transform["translate"], float).reshape(3)
            except _WRONG_SHAPE as error:
                raise CityFileError(f"{self.path}: its transform is broken ({error}); it needs "
                                    "scale and translate of three numbers each") from error
        if templates := document.get("geometry-templates"):
            try:
                self.templates = templates["templates"]
                self.template_vertices = _points(templates["vertices-templates"])
            except _WRONG_SHAPE as error:
                raise CityFileError(f"{self.path}: its geometry-templates are broken "
                                    f"({error})") from error
        if not is_sequence and not document.get("CityObjects"):
            raise CityFileError(f"{self.path}: holds no CityObjects; it is empty, or the first "
                                "line of a sequence without the others")
        self._add(document, "")

    def feature(self, number: int, line: bytes) -> None:
        try:
            feature = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CityFileError(f"{self.path}: line {number} is no JSON ({error}); the file is "
                                "cut off, copy it again") from error
        kind = feature.get("type") if isinstance(feature, dict) else None
        if kind != "CityJSONFeature":
            raise CityFileError(f"{self.path}: line {number} is no CityJSONFeature (its type is "
                                f"{kind!r})")
        self._add(feature, f"line {number}: ")

    def _add(self, document: dict, place: str) -> None:
        """The objects of a document or feature, which share its vertices."""
        where = f"{self.path}: {place}"
        objects = document.get("CityObjects", {})
        try:
            points = _points(document.get("vertices", [])) * self.scale + self.translate
        except _WRONG_SHAPE as error:
            raise CityFileError(f"{where}its vertices are not lists of three numbers "
                                f"({error})") from error
        if not isinstance(objects, dict):
            raise CityFileError(f"{where}its CityObjects are no object with ids as names")
        self.base, self.points = self.n_vertices, points
        self._add_vertices(points)
        for object_id, found in objects.items():
            try:
                self._add_object(object_id, found, objects)
            except _WRONG_SHAPE as error:
                raise CityFileError(f"{where}object {object_id} is broken: {_words(error)}") \
                    from error

    def _add_object(self, object_id, found, siblings) -> None:
        kind = found["type"]
        if not isinstance(kind, str):
            raise _Broken("its type is no text")
        if object_id in self.ids:   # a feature that is in two tiles of a sequence
            self.n_repeated += 1
            return
        self.ids.add(object_id)
        self.types[kind] += 1
        geometries = [
            (g, g if g["type"] != "GeometryInstance" else self._template(g))
            for g in found.get("geometry") or []]
        geometries = [(g, lod_name(shape.get("lod", "")), shape["type"])
                      for g, shape in geometries if shape["type"] not in NO_SURFACES]
        lods = [lod for _, lod, _ in geometries]
        if kind == TERRAIN:
            finest = max(lods, key=_level, default="")
            for geometry, lod, _ in geometries:
                for faces in self._bodies(geometry) if lod == finest else ():
                    self.terrain.extend(faces)
            return
        stands = KINDS.get(kind)
        if kind.startswith("+") and any(shape.endswith("Solid") for _, _, shape in geometries):
            stands = "other"        # an extension's: what has a volume stands
        if stands is None:
            return
        attributes = found.get("attributes")
        city_object = CityObject(object_id, stands, is_part(kind), _family(object_id, siblings),
                                 attributes if isinstance(attributes, dict) else {})
        self.objects.append(city_object)
        self.lods.update(lods)
        if not lods:
            return
        city_object.lod = choose_lod(lods, self.wanted)
        for geometry, lod, shape in geometries:
            if lod == city_object.lod:
                for faces in self._bodies(geometry):
                    if shape.endswith("Solid"):
                        city_object.solids.append(faces)
                    else:
                        city_object.surfaces.extend(faces)

    def _template(self, geometry) -> dict:
        number = geometry["template"]
        if isinstance(number, bool) or not 0 <= number < len(self.templates):
            raise _Broken(f"it names geometry template {number} of {len(self.templates)}")
        return self.templates[number]

    def _bodies(self, geometry) -> list[range]:
        """Face numbers of each solid of a geometry, or of all its surfaces."""
        if geometry["type"] != "GeometryInstance":
            return self._faces_of(geometry, self.base, len(self.points))
        matrix = np.array(geometry["transformationMatrix"], float).reshape(4, 4)
        (anchor,) = geometry["boundaries"]
        if isinstance(anchor, bool) or not 0 <= anchor < len(self.points):
            raise _Broken(f"it stands on vertex {anchor} of {len(self.points)}")
        bodies = self._faces_of(self._template(geometry), self.n_vertices,
                                len(self.template_vertices))
        moved = self.template_vertices @ matrix[:3, :3].T + matrix[:3, 3]
        self._add_vertices(np.broadcast_to(self.points[anchor], moved.shape), moved)
        return bodies

    def _add_vertices(self, points, offsets=None) -> None:
        self.vertices.append(points)
        self.offsets.append(np.zeros_like(points) if offsets is None else offsets)
        self.n_vertices += len(points)

    def _faces_of(self, geometry, base, n_vertices) -> list[range]:
        """Adds the faces of a geometry whose n_vertices vertices begin at number base."""
        kind, boundaries = geometry["type"], geometry["boundaries"]
        if kind in ("MultiSurface", "CompositeSurface"):
            shells_of_bodies = [[boundaries]]
        elif kind == "Solid":
            shells_of_bodies = [boundaries]
        elif kind in ("MultiSolid", "CompositeSolid"):
            shells_of_bodies = boundaries
        else:
            raise _Broken(f"it has a geometry of unknown type {kind!r}")
        bodies = []
        for shells in shells_of_bodies:
            begin, first = len(self.faces), len(self.faces.indices)
            for shell in shells:
                for face in shell:
                    self.faces.add(face if not base else [[i + base for i in r] for r in face])
            named = self.faces.indices[first:]
            if named and not base <= min(named) <= max(named) < base + n_vertices:
                wrong = min(named) if min(named) < base else max(named)
                raise _Broken(f"a surface names vertex {wrong - base} of {n_vertices}")
            if len(self.faces) > MOST_FACES:    # a few kilobytes can place a tree endlessly
                raise _Broken(f"with it there are more than {MOST_FACES:,} surfaces; split the "
                              "file")
            bodies.append(range(begin, len(self.faces)))
        return bodies

    def model(self, header: dict) -> Model:
        metadata = header.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        crs = metadata.get("referenceSystem") or ""
        placed = any(block.any() for block in self.offsets)
        notes = [f"{self.n_repeated:,} objects are there twice: the first of each stands"] \
            if self.n_repeated else []
        return Model(
            self.path, np.concatenate(self.vertices), self.faces, self.objects, self.terrain,
            self.types, self.lods, np.concatenate(self.offsets) if placed else None, str(crs),
            attribution=_attribution(metadata), notes=notes)


def _points(values) -> np.ndarray:
    return np.array(values, float).reshape(-1, 3) if len(values) else np.empty((0, 3))


def _words(error) -> str:
    return str(error) if isinstance(error, _Broken) else f"{type(error).__name__}: {error}"


def _family(object_id: str, objects: dict) -> str:
    """The uppermost parent that stands."""
    seen = {object_id}
    while True:
        parents = objects[object_id].get("parents") or []
        above = next((p for p in parents if p in objects and p not in seen
                      and objects[p].get("type") in KINDS), None)
        if above is None:
            return object_id
        seen.add(above)
        object_id = above


def _attribution(metadata: dict) -> str:
    contact = metadata.get("pointOfContact") or metadata.get("datasetPointOfContact")
    contact = contact.get("contactName") if isinstance(contact, dict) else None
    title = metadata.get("title") or metadata.get("datasetTitle")
    return ", ".join(str(v) for v in (title, contact) if v)


def is_part(kind: str) -> bool:
    return kind.endswith(("Part", "Installation", "Element"))


# --- levels of detail ------------------------------------------------------------------------

def lod_name(lod) -> str:
    """2, 2.0 and "2.0" are one."""
    try:
        return f"{float(lod):g}"
    except (TypeError, ValueError):
        return str(lod)


def _level(lod: str) -> float:
    try:
        return float(lod)
    except ValueError:
        return -1.0


def _is_outline(lod: str) -> bool:
    return lod.split(".")[0] == "0"


def _is_lod(lod: str, wanted: str) -> bool:
    """Whether it is the level asked for; 2 asks for each of 2.0 to 2.3."""
    return lod == wanted or "." not in wanted and lod.split(".")[0] == wanted


def choose_lod(lods, wanted: str) -> str:
    """The highest; or that asked for, else the next below it, else the next above."""
    lods, wanted = sorted(lods, key=_level), wanted and lod_name(wanted)
    if not wanted:
        return lods[-1]
    exact = [lod for lod in lods if lod == wanted] or [v for v in lods if _is_lod(v, wanted)]
    below = [lod for lod in lods if _level(lod) < _level(wanted)]
    return (exact or below or lods[:1])[-1]


# --- from a model to a city ------------------------------------------------------------------

def city_of(model: Model, options: ReadOptions, frame: LocalFrame | None) -> City:
    """Put a model into a frame: triangles of all bodies, prisms over outlines, the ground.

    Raises
    ------
    CityFileError
        See `read_cityjson`.
    """
    path, notes = model.path, list(model.notes)
    _check_lod(model, options.lod)
    source, vertical_datum = source_crs(path, options.crs, model.crs_name)
    standing = _without_outlines(model.objects, options.lod)
    owners, faces, body_of_face = _bodies(standing, model)
    n_bodies = len(owners)
    if not len(faces):
        raise CityFileError(f"{path}: holds nothing that stands and has a geometry ("
                            + (_listed(model.types) or "no objects")
                            + "); choose a file of buildings")
    used, faces.indices = np.unique(faces.indices, return_inverse=True)
    points, offsets = _metres_of_crs(model, used, source, notes)
    in_body = np.repeat(np.repeat(body_of_face < n_bodies, faces.face_rings), faces.ring_sizes)
    stands = np.zeros(len(used), bool)
    stands[faces.indices[in_body]] = True
    vertices, frame = _into_frame(path, source, points, offsets,
                                  stands if stands.any() else ~stands, frame)
    faces.indices = _distinct(vertices)[faces.indices]
    single = _without_doubles(faces, body_of_face, owners)
    faces, body_of_face = faces.subset(np.flatnonzero(single)), body_of_face[single]

    mesh = triangulate(vertices, faces)
    body = body_of_face[mesh.face]
    corners, of_body = mesh.corners, body < n_bodies
    corners[of_body], closed = weld(vertices, corners[of_body], body[of_body], n_bodies)
    kept = ~mesh.degenerate[mesh.face]
    triangles, body = vertices[corners[kept]], body[kept]
    starts = np.searchsorted(body, np.arange(n_bodies + 2))
    parts = [triangles[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    if n := int(mesh.degenerate.sum()):
        notes.append(f"{n:,} of {len(faces):,} surfaces have no area and are left out")
    if n := int(mesh.crossing.sum()):
        notes.append(f"{n:,} of {len(faces):,} surfaces cross themselves")

    heights = _Heights(standing, options, frame.altitude_m)
    found = [(owner, part, bool(shut)) for (owner, _), part, shut
             in zip(owners, parts[:-1], closed, strict=True) if len(part)]
    for owner, part, _ in found:
        heights.saw(owner, part)
    solids, outlines = [], {}
    for owner, part, shut in found:
        if heights.is_outline(owner):
            outlines.setdefault(owner.object_id, (owner, []))[1].append(part)
        else:
            solids.append(Solid(building_id=owner.object_id, triangles=part, closed=shut,
                                is_part=owner.is_part, ground_z=heights.ground(owner),
                                kind=owner.kind))
    buildings = heights.prisms(outlines.values())
    terrain = terrain_raster(parts[-1])
    if not solids and not buildings and terrain is None:
        raise CityFileError(f"{path}: holds nothing that stands: its surfaces have no area, or "
                            "are outlines of no known height; export it again")
    sources = {o.building_id: o.source for o in (*buildings, *solids)}
    counts = {s.value: 0 for s in HeightSource} | Counter(s.value for s in sources.values())
    with_body = {o.family for o in standing if o.object_id in sources}
    # A building whose parts stand needs no geometry of its own.
    lost = [o for o in standing if o.object_id not in sources
            and (o.has_faces or o.family not in with_body)]
    notes += _notes(model, buildings, solids, lost)
    return City(
        name=path.name, frame=frame, extent=_extent(buildings, solids) or terrain.extent,
        buildings=buildings, solids=tuple(solids), terrain=terrain,
        n_buildings=model.types["Building"], n_parts=model.types["BuildingPart"],
        n_skipped=len(lost), attribution=model.attribution, height_sources=counts,
        assumed_height_m=heights.assumed if counts[HeightSource.ASSUMED.value] else 0.0,
        crs=source.name, vertical_datum=vertical_datum, notes=tuple(notes))


def _bodies(standing, model: Model):
    """What is to become bodies, and the terrain after them.

    Returns the owner of each body and whether it is a solid; faces; the body of each face.
    """
    owners, numbers = [], []
    for o in standing:
        for faces in (*o.solids, o.surfaces):
            if len(faces):
                owners.append((o, faces is not o.surfaces))
                numbers.append(np.asarray(faces, np.int64))
    numbers.append(np.asarray(model.terrain, np.int64))
    body = np.repeat(np.arange(len(numbers)), [len(n) for n in numbers])
    return owners, model.faces.subset(np.concatenate(numbers)), body


def _distinct(points) -> np.ndarray:
    """(N,) for each of (N, 3) points the number of the first that is equal to it."""
    order = np.lexsort(points.T)
    new = np.r_[True, (points[order[1:]] != points[order[:-1]]).any(axis=1)]
    first = np.empty(len(points), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def _without_doubles(faces: Faces, body_of_face, owners) -> np.ndarray:
    """(F,) bool: without surfaces of an object that one of its solids or surfaces equals.

    Files often draw a wall as part of the building's solid and again as its boundary. Twice
    the same surface would count as a closed body without volume.
    """
    # The sum of random numbers of its corners tells a face, wherever it begins.
    mark = np.random.default_rng(0).integers(
        1 << 62, size=int(faces.indices.max(initial=0)) + 1, dtype=np.uint64)
    corner_sums = np.r_[np.zeros(1, np.uint64), np.cumsum(mark[faces.indices])]
    ends = np.cumsum(faces.ring_sizes)
    starts = ends - faces.ring_sizes
    rings = corner_sums[ends] - corner_sums[starts]
    long = np.flatnonzero(faces.ring_sizes > 1)
    last = faces.indices[ends[long] - 1]
    rings[long] -= np.where(last == faces.indices[starts[long]], mark[last], np.uint64(0))
    ring_sums = np.r_[np.zeros(1, np.uint64), np.cumsum(rings)]
    ends = np.cumsum(faces.face_rings)
    keys = ring_sums[ends] - ring_sums[ends - faces.face_rings]

    number = {id(o): n for n, (o, _) in enumerate(owners)}
    owner = np.array([*(number[id(o)] for o, _ in owners), -1])[body_of_face]
    solid = np.array([*(is_solid for _, is_solid in owners), True])[body_of_face]
    order = np.lexsort([keys, owner])       # stable: solids come before surfaces
    again = np.zeros(len(keys), bool)
    again[order[1:]] = (keys[order[1:]] == keys[order[:-1]]) \
        & (owner[order[1:]] == owner[order[:-1]])
    return ~again | solid


def _extent(buildings, solids) -> tuple[float, float, float, float] | None:
    corners = [shapely.get_coordinates(b.footprint) for b in buildings]
    corners += [s.triangles[..., :2].reshape(-1, 2) for s in solids]
    if not corners:
        return None
    corners = np.concatenate(corners)
    return *corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()


def _notes(model: Model, buildings, solids, lost) -> list[str]:
    notes = []
    if buildings:
        notes.append(f"{len(buildings):,} objects are known by their outline only")
    if n := sum(not s.closed for s in solids):
        notes.append(f"{n:,} of {len(solids):,} bodies are not closed: they are filled down to "
                     "the ground")
    if lost:
        notes.append(f"{len(lost):,} objects have no geometry of use, such as "
                     f"{lost[0].object_id}")
    if flat := Counter({k: n for k, n in model.types.items() if k not in (*KINDS, TERRAIN)}):
        notes.append(f"no obstacles, left out: {_listed(flat)}")
    return notes


def _listed(types: Counter) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in types.most_common())


def _check_lod(model: Model, wanted: str) -> None:
    if wanted and not any(_is_lod(lod, lod_name(wanted)) for lod in model.lods):
        there = ", ".join(sorted(model.lods - {""}, key=_level)) or "none"
        raise CityFileError(f"{model.path}: has no geometry of level of detail {wanted}; there "
                            f"is {there}")


def _without_outlines(objects, wanted: str) -> list[CityObject]:
    """Of a family either what has height or, if nothing has, or they are asked for, outlines."""
    asked = bool(wanted) and _is_outline(lod_name(wanted))
    preferred = {o.family for o in objects if o.has_faces and _is_outline(o.lod) == asked}
    return [o for o in objects if o.family not in preferred or _is_outline(o.lod) == asked]


# --- reference systems -----------------------------------------------------------------------

_EPSG = re.compile(r"EPSG(?:::?|/|\.xml#)(?:[\d.]*[:/])?(\d{4,6})", re.IGNORECASE)
# Names of the German surveying authorities (AdV), horizontal*vertical: east comes first.
_GAUSS_KRUEGER = re.compile(r"DHDN_3GK([2-5])(?!\d)")
_UTM = re.compile(r"ETRS89_UTM(3[123])(?!\d)")


def source_crs(path: Path, told: str, named: str) -> tuple[SourceCrs, str]:
    """The reference system of a file and the name of its vertical datum.

    told : as the user says it, which goes before what the file names

    Raises
    ------
    CityFileError
        If the file names none, or one that is not known.
    ConfigError
        If the user's is none.
    """
    horizontal, _, vertical = named.partition("*")
    if told:
        source = SourceCrs(told)
        return source, source.vertical_datum or vertical
    if not named:
        raise CityFileError(f"{path}: names no reference system; give it with --crs, such as "
                            "--crs EPSG:7415")
    candidates = [named]
    if codes := _EPSG.findall(named):
        candidates.append("EPSG:" + "+".join(codes[:2]))
    elif match := _GAUSS_KRUEGER.search(horizontal):
        candidates = [f"EPSG:{31464 + int(match[1])}"]
    elif match := _UTM.search(horizontal):
        candidates = [f"EPSG:{25800 + int(match[1])}"]
    elif "CRS84" in named or "CRS:84" in named:
        candidates.append("OGC:CRS84")
    for candidate in candidates:
        try:
            source = SourceCrs(candidate)
        except ConfigError:
            continue
        return source, source.vertical_datum or vertical
    raise CityFileError(f"{path}: names the reference system {named!r}, which is not known; give "
                        "it with --crs, such as --crs EPSG:25832")


def _metres_of_crs(model, used, source, notes):
    """Coordinates and offsets of the used vertices as x east, y north, z in metres."""
    points = model.vertices[used]
    offsets = None if model.offsets is None else model.offsets[used]
    if offsets is not None and not source.crs.is_geographic:
        points, offsets = points + offsets, None
    finite = np.isfinite(points).all(axis=1)
    if offsets is not None:
        finite &= np.isfinite(offsets).all(axis=1)
    if not finite.all():
        raise CityFileError(f"{model.path}: has a vertex that is no number: "
                            f"{points[np.argmin(finite)].tolist()}; export it again")
    if _is_north_first(source, points, model.authority_order):
        points = points[:, [1, 0, 2]]
        notes.append(f"coordinates are taken as north, east, the order of {source.name}")
    unit = metres_per_height_unit(source.crs)
    if unit != 1.0:
        points = points * (1.0, 1.0, unit)
        notes.append(f"heights are taken as units of {unit:g} m, as those of {source.name}")
    z = points[:, 2]
    absurd = (z < LOWEST_M) | (z > HIGHEST_M)
    if absurd.any():
        raise CityFileError(f"{model.path}: has a vertex at a height of "
                            f"{z[np.argmax(absurd)]:g} m, where no city is; export it again")
    return points, offsets


def _is_north_first(source: SourceCrs, points, authority_order: bool) -> bool:
    """Whether x and y have to be swapped.

    Authorities put north first in many systems and files follow them or do not, whatever they
    declare. Where the coordinates fit the system's area in one order only, that is it. German
    surveyors put east first, whatever EPSG says of their systems on the datum DHDN.
    """
    lower, upper = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    x, y = [lower[0], lower[0], upper[0], upper[0]], [lower[1], upper[1], lower[1], upper[1]]
    prescribed = source.crs.axis_info[0].direction == "north" and "DHDN" not in source.crs.name
    if _fits(source, x, y):
        return prescribed and authority_order and _fits(source, y, x)
    return _fits(source, y, x)


def _fits(source, x, y) -> bool:
    try:
        _check_area(source, x, y)
    except ConfigError:
        return False
    return True


def _check_area(source, x, y) -> None:
    with np.errstate(invalid="ignore"):     # what cannot be projected is infinite
        source.check_within_area_of_use(x, y)


def _into_frame(path, source, points, offsets, stands, frame):
    """Vertices in ENU metres of the frame, and the frame; stands: those that it lies around."""
    x, y, z = points.T
    try:
        _check_area(source, x, y)
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}; give the right one with --crs") from error
    heights = z if offsets is None else z + offsets[:, 2]
    if frame is None:
        frame = source.frame_at(x[stands].min(), y[stands].min(), float(np.floor(heights.min())))
    vertices = source.to_enu(frame, x, y, z)
    return (vertices if offsets is None else vertices + offsets), frame


# --- heights ---------------------------------------------------------------------------------

class _Heights:
    """What is known of the ground and height of each family of objects.

    A part has the attributes of the building that it is of, where it has none itself.
    """

    def __init__(self, objects, options: ReadOptions, altitude_m: float):
        self.attribute, self.altitude_m = options.height_attribute, altitude_m
        self.assumed = 0.0
        self._attributes: dict[str, dict] = {}
        self._said: dict[str, float] = {}
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}
        for o in objects:
            plain = {re.sub(r"[\s_]", "", str(k)).lower(): v for k, v in o.attributes.items()}
            self._attributes[o.object_id] = plain
            ground = _first(plain, GROUND_NAMES, _number)
            if ground is not None and LOWEST_M < ground < HIGHEST_M:
                self._said.setdefault(o.family, ground - altitude_m)
        self._exact = {o.object_id: o.attributes for o in objects}

    def saw(self, owner: CityObject, triangles) -> None:
        z = triangles[..., 2]
        self._low[owner.family] = min(float(z.min()), self._low.get(owner.family, np.inf))
        self._high[owner.family] = max(float(z.max()), self._high.get(owner.family, -np.inf))

    def is_outline(self, owner: CityObject) -> bool:
        """Whether it says where something stands, but not how high it is."""
        return _is_outline(owner.lod) or owner.kind in HOUSES and \
            self._high[owner.family] - self._low[owner.family] < FLAT_M

    def ground(self, owner: CityObject) -> float | None:
        """z of the ground, metres; of a bridge it is not known, for it may hang."""
        if owner.kind == "bridge":
            return None
        low = self._low[owner.family]
        said = self._said.get(owner.family)
        if said is None or not _is_outline(owner.lod) and not \
                low - GROUND_BELOW_M <= said <= self._high[owner.family]:
            return low
        return said

    def prisms(self, outlines) -> tuple[Building, ...]:
        """Outlines with their heights; what is no house stands only if its height is known."""
        found = []
        for owner, parts in outlines:
            triangles = np.concatenate(parts)
            height, source = self._height(owner, np.ptp(triangles[..., 2]))
            if height is None and owner.kind not in HOUSES:
                continue
            found.append((owner, triangles, height, source))
        known = [h for _, _, h, _ in found if h is not None]
        self.assumed = max(MIN_ASSUMED_HEIGHT_M, round(median(known), 1) if known else 0.0)
        buildings = []
        for owner, triangles, height, source in found:
            flat = shapely.polygons(triangles[..., :2])
            footprint = shapely.union_all(flat[shapely.area(flat) > 0])
            if footprint.is_empty:
                continue
            height = self.assumed if height is None else height
            ground = self.ground(owner)
            if owner.at_roof and owner.family not in self._said:
                ground -= height
            buildings.append(Building(
                building_id=owner.object_id, footprint=footprint, base_z=0.0, top_z=height,
                source=source, is_part=owner.is_part, ground_z=ground, kind=owner.kind))
        return tuple(buildings)

    def _height(self, owner: CityObject, rise: float) -> tuple[float | None, HeightSource]:
        for object_id in (owner.object_id, owner.family):
            if self.attribute:
                own = self._exact.get(object_id, {}).get(self.attribute)
                height = None if own is None else parse_length_m(str(own))
            else:
                plain = self._attributes.get(object_id, {})
                height = _first(plain, HEIGHT_NAMES, lambda v: parse_length_m(str(v)))
                roof = _first(plain, ROOF_NAMES, _number)
                if not height and roof is not None and owner.family in self._said:
                    height = roof - self.altitude_m - self._said[owner.family]
            if height and 0 < height <= MAX_HEIGHT_M:
                return height, HeightSource.MEASURED
        if rise > STOREY_M:     # outlines of ground and roof
            return float(rise), HeightSource.MEASURED
        for object_id in (owner.object_id, owner.family):
            levels = _first(self._attributes.get(object_id, {}), LEVELS,
                            lambda v: parse_levels(str(v)))
            if levels:
                return levels * METRES_PER_LEVEL, HeightSource.LEVELS
        return None, HeightSource.ASSUMED


def _first(attributes: dict, names, parse) -> float | None:
    """The first of the names that is there with a value that can be read."""
    for name in names:
        value = attributes.get(name)
        if value is not None and (number := parse(value)) is not None:
            return number
    return None


def _number(value) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
