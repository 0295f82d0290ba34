"""CityJSON 1.0, 1.1 and 2.0, and CityJSONSeq (.jsonl)."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from parallel_city_ros.city.city_objects import (
    KINDS,
    MOST_FACES,
    TERRAIN,
    CityObject,
    Model,
    choose_lod,
    is_part,
    level_of,
    lod_name,
)
from parallel_city_ros.city.city_of_objects import city_of
from parallel_city_ros.city.model import City
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import require_file
from parallel_city_ros.city.packed import open_unpacked, unpacked_head
from parallel_city_ros.city.triangulate import Faces
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

VERSIONS = ("1.0", "1.1", "2.0")
NO_SURFACES = ("MultiPoint", "MultiLineString")


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
            finest = max(lods, key=level_of, default="")
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
