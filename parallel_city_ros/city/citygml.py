"""CityGML 1.0 and 2.0 through lxml, one city object after the other.

Files come from strangers: no entity, DTD or other file is ever loaded, and a document type
declaration is refused, because nothing but an attack needs one.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections import Counter
from dataclasses import dataclass, field
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
)
from parallel_city_ros.city.city_of_objects import city_of, source_crs
from parallel_city_ros.city.model import City
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import require_file
from parallel_city_ros.city.packed import open_unpacked, unpacked_head
from parallel_city_ros.city.triangulate import Faces
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame, SourceCrs

VERSIONS = ("1.0", "2.0")

POLYGONS = ("Polygon", "PolygonPatch", "Triangle", "Rectangle")
# What an xlink may mean besides a polygon.
AGGREGATES = ("CompositeSurface", "MultiSurface", "OrientableSurface", "Surface",
              "TriangulatedSurface", "Tin", "Shell", "Solid", "CompositeSolid", "MultiSolid")
SOLIDS = ("Solid", "MultiSolid", "CompositeSolid")
MEMBERS = ("cityObjectMember", "featureMember", "featureMembers")
# Properties without geometry of what stands in the open, or without any.
INSIDE = ("interiorRoom", "interiorBuildingInstallation", "interiorFurniture", "appearance",
          "address", "externalReference", "generalizesTo")

_LOD = re.compile(r"lod([0-4])(?!MultiCurve|TerrainIntersection)[A-Z]")
_FACE = "face"      # attribute that a polygon leaves behind: its number
_HREF = "{http://www.w3.org/1999/xlink}href"
_AS_IT_IS = "1 0 0 0  0 1 0 0  0 0 1 0  0 0 0 1"
_BEFORE_ROOT = re.compile(
    rb"(?:<!--.*?-->\s*|<\?.*?\?>\s*|<!DOCTYPE[^>\[]*(?:\[.*?\]\s*)?>\s*)*", re.DOTALL)
_FEET = re.compile(r"\b(ft|foot|feet)", re.IGNORECASE)


def is_citygml(head: bytes) -> bool:
    """By the first kilobytes of a file, which may be gzipped."""
    return b"CityModel" in from_root(unpacked_head(head).replace(b"\0", b""))     # of UTF-16


def from_root(text: bytes) -> bytes:
    """From the first element of an XML text on; b"" if it is none, or the element not in it."""
    text = text.lstrip(b"\xff\xfe\xef\xbb\xbf \t\r\n")
    text = text[_BEFORE_ROOT.match(text).end():]
    return text if re.match(rb"<[^!?]", text) else b""


def read_citygml(path: str | Path, options: ReadOptions = UNTOLD,
                 frame: LocalFrame | None = None) -> City:
    """Read CityGML 1.0 or 2.0, gzipped or not.

    Levels of detail, outlines and the frame are as of `read_cityjson`. Surfaces that bound a
    solid and are not part of it stand beside it.

    Raises
    ------
    CityFileError
        If the file is missing, broken, of another kind or version, unsafe or empty; if it names
        no reference system, or coordinates are not of it; if no object has the level of detail.
    """
    path = require_file(path)
    reading = _Reading(path, options)
    reading.read()
    return city_of(reading.model(), options, frame)


@dataclass(eq=False)
class _Found:
    """An object and its geometry by level of detail, before references are followed.

    solids : items of each solid; surfaces : items. An item is the number of a face, the name
        that an xlink refers to, or something placed
    """

    city_object: CityObject
    solids: dict[str, list] = field(default_factory=dict)
    surfaces: dict[str, list] = field(default_factory=dict)
    outlines: set[str] = field(default_factory=set)     # lod0FootPrint, lod0RoofEdge


@dataclass(frozen=True, eq=False)
class _Placed:
    """A shape that is drawn once around a zero of its own, here placed on a point.

    matrix : (4, 4); point : (3,) in the reference system of the file
    """

    items: list
    matrix: np.ndarray
    point: np.ndarray


class _Reading:
    """Gathers polygons as they end, and city objects once they are complete."""

    def __init__(self, path: Path, options: ReadOptions):
        self.path, self.options = path, options
        self.coordinates = array("d")
        self.faces = Faces()        # the indices follow: every corner has a vertex of its own
        self.names: dict[str, int | list] = {}      # faces by gml:id
        self.srs_names: Counter = Counter()
        self.envelope_srs = ""
        self.types: Counter = Counter()
        self.ids: set[str] = set()
        self.found: list[_Found] = []
        self.terrain: list = []
        self.n_missing = self.n_elsewhere = self.n_repeated = self.n_followed = 0

    # --- parsing -------------------------------------------------------------------------

    def read(self) -> None:
        from lxml import etree

        names = ("CityModel", "Envelope", "target", *POLYGONS, *MEMBERS)
        try:
            with open_unpacked(self.path) as file:
                events = etree.iterparse(
                    file, events=("start", "end"), tag=[f"{{*}}{name}" for name in names],
                    resolve_entities=False, load_dtd=False, dtd_validation=False,
                    attribute_defaults=False, no_network=True, huge_tree=False,
                    remove_comments=True, remove_pis=True)
                _, root = next(events, (None, None))
                self._check_root(root)
                for event, element in events:
                    if event == "end":
                        self._ended(element)
        except etree.XMLSyntaxError as error:
            # What came first; that of the error may be its echo, or of another file.
            words = events.error_log[0].message if len(events.error_log) else error.msg
            raise CityFileError(f"{self.path}: cannot be read as XML ({words}); the file is cut "
                                "off or damaged, export it again") from error
        except (OSError, EOFError, zlib.error) as error:
            raise CityFileError(f"{self.path}: cannot be read ({error}); the file is cut off, "
                                "copy it again") from error

    def _check_root(self, root) -> None:
        """root : the first element of the names looked for"""
        if root is not None and root.getroottree().docinfo.internalDTD is not None:
            raise CityFileError(f"{self.path}: declares a document type (DOCTYPE), which CityGML "
                                "does not need and attacks do; it is not read, remove that part")
        if root is None or root.getparent() is not None or _name(root) != "CityModel":
            raise CityFileError(f"{self.path}: is XML, but not CityGML: its root is no CityModel")
        namespace = root.tag.partition("}")[0].lstrip("{")
        version = re.search(r"citygml/(?:\w+/)*(\d\.\d)", namespace)
        if version is None or version[1] not in VERSIONS:
            raise CityFileError(f"{self.path}: is CityGML "
                                f"{version[1] if version else f'of namespace {namespace!r}'}; "
                                f"{' and '.join(VERSIONS)} are read, convert it")

    def _ended(self, element) -> None:
        name = _name(element)
        if name in POLYGONS:
            self._polygon(element)
        elif name == "Envelope":
            self.envelope_srs = self.envelope_srs or element.get("srsName", "")
        elif name == "target":
            element.clear()     # of a texture: as many numbers as the geometry itself
        elif name in MEMBERS:
            self.n_elsewhere += element.get(_HREF) is not None
            for child in element:
                self._visit(child, None)
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]

    def _polygon(self, element) -> None:
        """Keep the coordinates, and of the element only the number of its face."""
        self.srs_names[_inherited(element, "srsName") or ""] += 1
        dimension = _inherited(element, "srsDimension")
        face, n_rings = len(self.faces), 0
        rings = list(element.iter("{*}LinearRing"))
        rings.sort(key=lambda ring: _name(ring.getparent()).startswith("in"))     # holes last
        for ring in rings:
            numbers = self._numbers(ring, dimension)
            self.coordinates.extend(numbers)
            self.faces.ring_sizes.append(len(numbers) // 3)
            n_rings += 1
        self.faces.face_rings.append(n_rings)
        if name := _gml_id(element):
            self.names.setdefault(name, face)
        for child in list(element):
            element.remove(child)
        element.set(_FACE, str(face))

    def _numbers(self, ring, dimension: str | None) -> array:
        numbers = array("d")
        for part in ring.iter("{*}posList", "{*}pos", "{*}coordinates"):
            text = part.text or ""
            if _name(part) == "coordinates":    # of GML 2
                text = text.replace(",", " ")
            dimension = part.get("srsDimension") or dimension
            try:
                numbers.extend(map(float, text.split()))
            except ValueError as error:
                raise CityFileError(f"{self.path}: line {part.sourceline}: {error}; the file is "
                                    "damaged, export it again") from error
        if dimension not in (None, "3") or len(numbers) % 3:
            raise CityFileError(
                f"{self.path}: line {ring.sourceline}: a ring of {len(numbers)} numbers"
                + (f" in {dimension} dimensions" if dimension else "") + " is not made of "
                "positions of three, as CityGML needs; the file is damaged, export it again")
        return numbers

    # --- city objects --------------------------------------------------------------------

    def _visit(self, element, parent: CityObject | None) -> None:
        """An object and those within it."""
        kind = _name(element)
        within = {"CityObjectGroup": "groupMember", "ReliefFeature": "reliefComponent"}.get(kind)
        if within:
            for member in element.iterfind(f"{{*}}{within}/*"):
                self._visit(member, None)
            return
        object_id = _gml_id(element) or f"{kind}/{self.types[kind]}"
        if object_id in self.ids:
            self.n_repeated += 1
            return
        self.ids.add(object_id)
        self.types[kind] += 1
        if kind == TERRAIN:
            for tin in element.iterfind("{*}tin"):
                self.terrain += self._items(tin)
        if kind not in KINDS:
            return
        city_object = CityObject(object_id, KINDS[kind], is_part(kind),
                                 parent.family if parent else object_id, _attributes(element))
        found = _Found(city_object)
        self.found.append(found)
        for child in element:
            self._property(child, found)

    def _property(self, element, found: _Found) -> None:
        """A property of an object: geometry, a surface that bounds it, a part of it."""
        name = _name(element)
        if name in INSIDE:
            return
        if match := _LOD.match(name):
            self._geometry(element, name, match[1], found)
            return
        for child in element:
            kind = _name(child)
            if kind in KINDS:
                self._visit(child, found.city_object)
            elif kind.endswith("Surface") or kind in ("Door", "Window"):
                for inner in child:     # lod2MultiSurface, opening
                    self._property(inner, found)

    def _geometry(self, element, name: str, lod: str, found: _Found) -> None:
        if lod == "0":
            found.outlines.add(name)
        solids, surfaces = [], []
        for shape in element:
            if _name(shape) == "ImplicitGeometry":
                surfaces += self._placed(shape)
            elif _name(shape) in SOLIDS:
                solids += self._solids(shape)
            else:
                surfaces += self._items(shape)
        if href := element.get(_HREF):
            (solids if "Solid" in name else surfaces).append(
                [_target(href)] if "Solid" in name else _target(href))
        if solids:
            found.solids.setdefault(lod, []).extend(solids)
        if surfaces:
            found.surfaces.setdefault(lod, []).extend(surfaces)

    def _solids(self, shape) -> list[list]:
        """Items of each solid."""
        items = self._items(shape)
        if _name(shape) == "Solid":
            return [items]
        members = []
        for member in shape.iterfind("{*}solidMember"):
            if href := member.get(_HREF):
                members.append([_target(href)])
            for solid in member:
                members += self._solids(solid)
        for solid in shape.iterfind("{*}solidMembers/*"):
            members += self._solids(solid)
        return members

    def _items(self, shape) -> list:
        """The numbers of all faces in an element and the names that it refers to, in order."""
        items, open_ = [], []       # open_ : (element, its name, where its items begin)
        for child in shape.iter():
            if (face := child.get(_FACE)) is not None:
                items.append(int(face))
            elif href := child.get(_HREF):
                items.append(_target(href))
            elif _name(child) in AGGREGATES and (name := _gml_id(child)):
                open_.append((child, name, len(items)))
        for child, name, begin in open_:
            size = sum(1 for c in child.iter() if c.get(_FACE) is not None or c.get(_HREF))
            self.names.setdefault(name, items[begin:begin + size])
        return items

    def _placed(self, element) -> list[_Placed]:
        """What an ImplicitGeometry places; nothing if its shape is in a file of another kind."""
        items = []
        for shape in element.iterfind("{*}relativeGMLGeometry"):
            items += self._items(shape)
        try:
            matrix, point = (
                np.array([float(v) for v in element.findtext(place, default).split()])
                for place, default in (("{*}transformationMatrix", _AS_IT_IS),
                                       ("{*}referencePoint/{*}Point/{*}pos", "")))
            return [_Placed(items, matrix.reshape(4, 4), point.reshape(3))] if items else []
        except ValueError as error:
            raise CityFileError(f"{self.path}: line {element.sourceline}: an ImplicitGeometry "
                                f"without a matrix of 16 numbers or a point of three ({error}); "
                                "export it again") from error

    # --- the whole -----------------------------------------------------------------------

    def model(self) -> Model:
        n_own = len(self.coordinates) // 3
        own = np.array(self.coordinates, float).reshape(-1, 3)
        self.faces.indices = array("q", range(n_own))
        vertices, offsets = [own], [np.zeros_like(own)]
        lods: set[str] = set()
        for found in self.found:
            there = found.solids.keys() | found.surfaces.keys()
            lods |= there
            if not there:
                continue
            o = found.city_object
            o.lod = choose_lod(there, self.options.lod)
            o.at_roof = o.lod == "0" and found.outlines == {"lod0RoofEdge"}
            o.solids = [self._follow(items) for items in found.solids.get(o.lod, ())]
            items = found.surfaces.get(o.lod, [])
            o.surfaces = self._follow([i for i in items if not isinstance(i, _Placed)])
            for placed in (i for i in items if isinstance(i, _Placed)):
                o.surfaces += self._place(placed, own, vertices, offsets)
        terrain = self._follow(self.terrain)
        named, authority_order = self._reference_system()
        return Model(
            self.path, np.concatenate(vertices), self.faces,
            [found.city_object for found in self.found], terrain, self.types, lods,
            np.concatenate(offsets) if len(offsets) > 1 else None, named, authority_order,
            notes=self._notes())

    def _place(self, placed: _Placed, own, vertices, offsets) -> list[int]:
        """Faces of a shape where it is placed; its corners become new vertices."""
        shape = self.faces.subset(np.array(self._follow(placed.items), np.int64))
        corners = own[shape.indices]
        offsets.append(corners @ placed.matrix[:3, :3].T + placed.matrix[:3, 3])
        vertices.append(np.broadcast_to(placed.point, corners.shape))
        first, begin = len(self.faces), len(self.faces.indices)
        self.faces.indices.extend(range(begin, begin + len(corners)))
        self.faces.ring_sizes.extend(shape.ring_sizes.tolist())
        self.faces.face_rings.extend(shape.face_rings.tolist())
        return list(range(first, len(self.faces)))

    def _follow(self, items: list) -> list[int]:
        """Numbers of faces in place of names."""
        faces, waiting, seen = [], list(reversed(items)), set()
        while waiting:
            item = waiting.pop()
            if isinstance(item, int):
                faces.append(item)
                self.n_followed += 1
            elif item in seen or item not in self.names:    # in a circle, or not in this file
                self.n_missing += item not in self.names
            elif isinstance(meant := self.names[item], int):
                waiting.append(meant)
            else:
                seen.add(item)
                waiting.extend(reversed(meant))
            if self.n_followed > MOST_FACES:    # a few kilobytes can refer to much, often
                raise CityFileError(f"{self.path}: refers to more than {MOST_FACES:,} surfaces; "
                                    "split the file")
        return faces

    def _reference_system(self) -> tuple[str, bool]:
        """Its name, and whether names of that form put the axes in the authority's order."""
        named = [name for name, _ in self.srs_names.most_common() if name]
        named = named or [self.envelope_srs]
        if len(named) > 1 and not self.options.crs:
            systems = {_horizontal(source_crs(self.path, "", name)[0]): name for name in named}
            if len(systems) > 1:
                raise CityFileError(f"{self.path}: has coordinates in {len(systems)} reference "
                                    f"systems ({', '.join(systems.values())}); export it in one")
        return named[0], named[0].lower().startswith(("urn:ogc:", "urn:x-ogc:", "http"))

    def _notes(self) -> list[str]:
        return [f"{n:,} {words}" for n, words in (
            (self.n_repeated, "objects are there twice: the first of each stands"),
            (self.n_elsewhere, "objects are in other files and are not read"),
            (self.n_missing, "references to surfaces that are not in the file")) if n]


def _horizontal(source: SourceCrs) -> str:
    return (source.crs.sub_crs_list[0] if source.crs.is_compound else source.crs).name


def _name(element) -> str:
    return element.tag.rpartition("}")[2]


def _gml_id(element) -> str | None:
    return next((value for name, value in element.attrib.items()
                 if name == "id" or name.endswith("}id")), None)


def _target(href: str) -> str:
    """The name that '#name', 'name' and 'file.gml#name' refer to."""
    return href.rpartition("#")[2]


def _inherited(element, attribute: str) -> str | None:
    while element is not None:
        if value := element.get(attribute):
            return value
        element = element.getparent()
    return None


def _attributes(element) -> dict[str, str]:
    """Texts of an object's simple properties and generic attributes, with feet as such."""
    attributes = {}
    for child in element:
        name = _name(child)
        if name == "genericAttributeSet":
            attributes |= _attributes(child)
            continue
        value = child
        if name.endswith("Attribute") and child.get("name"):
            name, value = child.get("name"), child.find("{*}value")
        if value is None or len(value) or not (value.text or "").strip():
            continue
        unit = " ft" if _FEET.search(value.get("uom", "")) else ""
        attributes[name] = value.text.strip() + unit
    return attributes
