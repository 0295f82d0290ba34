"""GeoJSON city files (RFC 7946): building outlines with `height` or `levels`.

Properties carry the tags of OpenStreetMap's "Simple 3D Buildings", as numbers or texts;
`levels` is short for `building:levels`. Trees, masts and the like are told by the tags of
OpenStreetMap too, or by `building` if it names one of `NO_BUILDINGS`. Members of the
collection beyond the RFC, which permits them: `name`, `attribution`, and `origin` [longitude,
latitude, altitude], where the map frame has its zero. Coordinates are degrees, unless the
member `crs` of the format's first edition (2008) names another system. A file may also be one
feature after the other, line by line (GeoJSONL) or as RFC 8142 parts them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import shapely

from parallel_city_ros.city.model import City
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import (
    HEIGHT_TAGS,
    OBSTACLES,
    SOURCE_TAG,
    UNDERGROUND,
    Area,
    assemble,
    mend,
    parse_length_m,
    require_file,
)
from parallel_city_ros.city.vector import HEIGHTS, usual_name
from parallel_city_ros.city.vector import LEVELS as USUAL_LEVELS
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

LENGTHS = (*HEIGHT_TAGS, "min_height", "roof:height")
LEVELS = ("building:levels", "roof:levels", "building:min_level")
WIDTHS = ("diameter_crown", "diameter")     # of a tree or mast that is only a point
# An outline with none of these stands too, at an assumed height, unless it says that it is flat.
BUILDING_KEYS = ("building", "building:part", *LENGTHS, *LEVELS)
FLAT_KEYS = ("amenity", "boundary", "highway", "landuse", "leisure", "natural", "place",
             "railway", "waterway")
UNKNOWN = (None, "", -1)    # how data sets write that they do not know
# Kinds of obstacles; tower, chimney and water_tower are kinds of buildings too.
NO_BUILDINGS = ("tree", "mast", "crane", "communications_tower", "power_tower")
BETWEEN = re.compile(r"[\s\x1e]*")      # documents of one file
OTHER_JSON = (
    ("elements", "Overpass", "ask it for [out:xml], with (._;>;); before out;"),
    ("geometryType", "Esri", "convert it, as with ogr2ogr, or ask the service for f=geojson"),
    ("Topology", "TopoJSON", "convert it, as with mapshaper or ogr2ogr"))
DEGREES = re.compile(r"CRS84|\b4326\b|\b4979\b")


class _Broken(ValueError):
    """What is wrong with a feature; the reader adds file and feature."""


class _NoDegrees(_Broken):
    """A position that is none of the reference system, and so puts all others in doubt."""


@dataclass(frozen=True)
class _Reading:
    """What holds for every feature of a file.

    source : reference system of the positions; None: longitude and latitude
    height, levels : property that says how high a building is, in metres or storeys, beside the
        tags of OpenStreetMap; "": none
    asked : whether the property was named by the options
    unit : of lengths that name none: "ft", or "" for metres
    """

    source: SourceCrs | None = None
    height: str = ""
    levels: str = ""
    asked: bool = False
    unit: str = ""


def read_geojson(path: str | Path, options: ReadOptions = UNTOLD,
                 frame: LocalFrame | None = None) -> City:
    """Read the buildings of a GeoJSON file.

    The third coordinate of positions is not used: heights are above flat ground. Heights that are
    none are taken as not known, and features that cannot be read are left out: both are noted.

    options : crs is used where the file names no system and its positions are not degrees
    frame : local frame to read into; None: its origin is the file's `origin`, or else the
        south-west corner of the built area

    Raises
    ------
    CityFileError
        If the file is missing, is not GeoJSON, has no buildings, or more features that cannot
        be read than others; if the property that options name has no heights; or if positions
        are not of the file's reference system.
    """
    path = require_file(path)
    try:
        document = _document(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CityFileError(f"{path}: cannot be read as GeoJSON ({error}); the file is cut off or "
                            "of another kind, export it again") from error
    features = _features(path, document)
    reading = _reading(path, document, features, options)
    areas, obstacles, skipped, broken = [], [], 0, []
    for number, feature in enumerate(features):
        name = f"feature {number}"
        try:
            if not isinstance(feature, dict) or feature.get("type") != "Feature":
                raise _Broken("is not of type Feature")
            identity = _identity(feature, number)
            name += "" if identity == f"feature/{number}" else f" ({identity})"
            area = _area(feature, identity, reading)
        except _NoDegrees as error:
            raise CityFileError(f"{path}: {name} {error}") from None
        except _Broken as error:
            broken.append(f"{name} {error}")
            continue
        if area is None:
            skipped += 1
        else:
            (areas if area.kind == "building" else obstacles).append(area)
    if len(broken) > len(areas) + len(obstacles):
        raise CityFileError(f"{path}: {broken[0]}" + (
            f"; {len(broken):,} of {len(features):,} features cannot be read, export it again"
            if len(broken) > 1 else ""))
    if not areas:
        raise CityFileError(f"{path}: holds no buildings (no Polygon or MultiPolygon that stands "
                            "above the ground); choose a file of building outlines")
    x0, y0, x1, y1 = shapely.total_bounds([a.polygon for a in (*areas, *obstacles)])
    if (source := reading.source) is not None:
        try:
            source.check_within_area_of_use([x0, x1, x0, x1], [y0, y0, y1, y1])
        except ConfigError as error:
            raise CityFileError(f"{path}: {error}; name the right one, or export it in longitude "
                                "and latitude (EPSG:4326)") from error
    frame = frame or _frame(path, document, areas, source)
    to_enu = None if source is None else lambda x, y: source.to_enu(frame, x, y)
    notes = [f"{what} are those of the property {name!r}"
             for what, name in (("heights", reading.height), ("storeys", reading.levels))
             if name and not reading.asked]
    notes += _notes_on_heights(path, areas, features, reading)
    if broken:
        notes.append(f"{len(broken):,} features cannot be read and are left out: {broken[0]}"
                     + (", and others" if len(broken) > 1 else ""))
    attribution = document.get("attribution", "")
    return assemble(path.name, frame, areas, skipped + len(broken),
                    attribution if isinstance(attribution, str) else "", obstacles, notes, to_enu,
                    "EPSG:4326" if source is None else source.name)


def _document(text: str):
    """The JSON document; of several after each other the collection of their features."""
    decoder, documents, at = json.JSONDecoder(), [], 0
    while at < len(text) or not documents:
        document, at = decoder.raw_decode(text, BETWEEN.match(text, at).end())
        documents.append(document)
        at = BETWEEN.match(text, at).end()
    if len(documents) == 1:
        return documents[0]
    features = []
    for document in documents:
        inner = document.get("features") if isinstance(document, dict) else None
        features += inner if isinstance(inner, list) else [document]
    return {"type": "FeatureCollection", "features": features}


def _features(path, document) -> list:
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "Feature":
        return [document]
    if kind in ("Polygon", "MultiPolygon", "GeometryCollection"):
        return [{"type": "Feature", "properties": {}, "geometry": document}]
    if kind != "FeatureCollection" or not isinstance(document.get("features"), list):
        name, way_out = next(((f" of {name}", f"; {way_out}") for key, name, way_out in OTHER_JSON
                              if isinstance(document, dict) and (key in document or key == kind)),
                             ("", ""))
        raise CityFileError(f"{path}: is JSON{name}, but neither a GeoJSON FeatureCollection nor "
                            f"a Feature{way_out}")
    return document["features"]


def _notes_on_heights(path, areas, features, reading: _Reading) -> list[str]:
    said = [area for area in areas if any(area.tags.get(key) for key in HEIGHT_TAGS)]
    if reading.asked and said and not any(
            parse_length_m(area.tags.get(key)) for area in said for key in HEIGHT_TAGS):
        raise CityFileError(f"{path}: {said[0].area_id} has {reading.height} "
                            f"{said[0].tags.get('height')!r}, and no other has a height; name "
                            "another property with --height-attribute")
    if said or any(area.tags.get("building:levels") for area in areas):
        return []
    properties = [f.get("properties") for f in features if isinstance(f, dict)]
    others = dict.fromkeys(name for p in properties if isinstance(p, dict)
                           for name, value in p.items() if _is_number(value))
    return ["no property holds heights: all are assumed; name one with --height-attribute if "
            "there is one of another name" + (f" among {', '.join([*others][:8])}" if others
                                              else "")]


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reading(path, document, features, options: ReadOptions) -> _Reading:
    properties = [f.get("properties") for f in features if isinstance(f, dict)]
    names = dict.fromkeys(name for p in properties if isinstance(p, dict) for name in p)
    source = _source_crs(path, document, features, options)
    unit = "ft" if options.height_unit == "ft" else ""
    if asked := options.height_attribute:
        if asked not in names:
            raise CityFileError(f"{path}: has no property {asked!r}; it has "
                                + (", ".join(names) or "none"))
        return _Reading(source, height=asked, asked=True, unit=unit)
    others = [n for n in names if n not in (*LENGTHS, *LEVELS, "levels")]
    return _Reading(source, "" if names.keys() & set(HEIGHT_TAGS) else usual_name(others, HEIGHTS),
                    "" if names.keys() & {"levels", "building:levels"}
                    else usual_name(others, USUAL_LEVELS), unit=unit)


def _source_crs(path, document, features, options: ReadOptions) -> SourceCrs | None:
    said = document.get("crs")
    if said is None:
        text = "" if _are_degrees(features) else options.crs
    elif DEGREES.search(json.dumps(said)):
        text = ""
    else:
        text = said.get("properties") if isinstance(said, dict) else None
        text = text.get("name") or text.get("code") if isinstance(text, dict) else None
        text = f"EPSG:{text}" if isinstance(text, int) else text
        if not isinstance(text, str):
            raise CityFileError(f"{path}: its coordinates are in another system "
                                f"({json.dumps(said)}) that is not named; export it in longitude "
                                "and latitude, as RFC 7946 asks (EPSG:4326)")
    try:
        return SourceCrs(text) if text else None
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}") from error


def _are_degrees(features) -> bool:
    """Whether the first position there is could be longitude and latitude."""
    for feature in features:
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        while isinstance(geometry, dict) and isinstance(geometry.get("geometries"), list):
            geometry = next(iter(geometry["geometries"]), None)
        first = geometry.get("coordinates") if isinstance(geometry, dict) else None
        while isinstance(first, list) and first and isinstance(first[0], list):
            first = first[0]
        if isinstance(first, list) and len(first) > 1 and all(
                isinstance(v, int | float) for v in first[:2]):
            return abs(first[0]) <= 180 and abs(first[1]) <= 90
    return True


def _frame(path, document, areas, source: SourceCrs | None) -> LocalFrame:
    if (origin := document.get("origin")) is None:
        x, y, _, _ = shapely.total_bounds([a.polygon for a in areas])
        return LocalFrame(float(y), float(x)) if source is None else source.frame_at(x, y)
    try:
        lon, lat = _position(origin, None)
    except _Broken as error:
        raise CityFileError(f"{path}: origin {error}") from None
    return LocalFrame(lat, lon, float(origin[2]) if len(origin) > 2 else 0.0)


def _identity(feature, number) -> str:
    properties = feature.get("properties")
    inner = properties.get("id") if isinstance(properties, dict) else None
    for found in (feature.get("id"), inner):
        if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
            return str(found)
    return f"feature/{number}"


def _area(feature, identity, reading: _Reading) -> Area | None:
    """The outline as in the file with its tags; None for what is no building or obstacle."""
    geometry, properties = feature.get("geometry"), feature.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise _Broken("has properties that are not an object")
    obstacle = _obstacle(properties)
    if geometry is None or (obstacle is None and _is_flat(properties, reading)):
        return None
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    source, coordinates = reading.source, geometry.get("coordinates") if kind else None
    if coordinates == []:       # no geometry, as the RFC permits
        return None
    outline = _polygons(geometry, source)
    if outline:
        polygon = outline[0] if kind == "Polygon" else shapely.MultiPolygon(outline)
    elif obstacle is not None and kind == "Point":
        polygon = shapely.Point(_positions([coordinates], source))
    elif obstacle is not None and kind == "LineString":
        polygon = shapely.LineString(_positions(coordinates, source))
    elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection"):
        return None
    else:
        raise _Broken(f"has a geometry of unknown type {kind!r}")
    mended = bool(outline) and not polygon.is_valid
    if mended:
        polygon = mend(polygon)
    if outline and not polygon.area > 0:
        raise _Broken("has an outline without area")
    return Area(identity, _tags(properties, reading), polygon,
                is_part=not _says(properties, "building") and _says(properties, "building:part"),
                kind=obstacle or "building", mended=mended)


def _obstacle(properties) -> str | None:
    """The kind of a tree, mast or the like; None for anything else."""
    if properties.get("building") in NO_BUILDINGS:
        return properties["building"]
    if _says(properties, "building") or _says(properties, "building:part"):
        return None
    return next((o.kind for (key, value), o in OBSTACLES.items()
                 if properties.get(key) == value), None)


def _says(properties, key) -> bool:
    return properties.get(key) not in (None, "", "no", False)


def _is_flat(properties, reading: _Reading) -> bool:
    if properties.get("location") in UNDERGROUND:
        return True
    if properties.get("building") in ("no", False) and not _says(properties, "building:part"):
        return True
    return any(_says(properties, key) for key in FLAT_KEYS) and not any(
        _says(properties, key)
        for key in (*BUILDING_KEYS, "levels", *filter(None, (reading.height, reading.levels))))


def _tags(properties, reading: _Reading) -> dict[str, str]:
    values = {"building:levels": properties.get("levels")} | properties
    if reading.asked:
        values["height"] = properties.get(reading.height)
    # Those that are none go along: they are taken as not known, and noted.
    tags = {key: _in_unit(values[key], reading.unit if key in LENGTHS else "")
            for key in (*LENGTHS, *LEVELS) if values.get(key) not in UNKNOWN}
    # By other names they are only guessed to be heights, and those that are none are noted.
    for key, name in (("height", reading.height), ("building:levels", reading.levels)):
        if name and properties.get(name) not in UNKNOWN:
            tags.setdefault(key, _in_unit(properties[name], reading.unit * (key == "height")))
    tags |= {key: str(properties[key]) for key in (*WIDTHS, SOURCE_TAG) if _says(properties, key)}
    tags["building:part"] = "yes" if _says(properties, "building:part") else "no"
    return tags


def _in_unit(value, unit: str) -> str:
    """unit : of numbers; a text may name its own"""
    return f"{value} {unit}" if unit and re.fullmatch(r"\s*[\d.,]+\s*", str(value)) else str(value)


def _list(value, what) -> list:
    if not isinstance(value, list) or not value:
        raise _Broken(f"has coordinates without {what}")
    return value


def _polygons(geometry, source) -> list[shapely.Polygon]:
    """All there are in a geometry."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "Polygon":
        return [_polygon(geometry.get("coordinates"), source)]
    if kind == "MultiPolygon":
        return [_polygon(part, source)
                for part in _list(geometry.get("coordinates"), "polygons")]
    if kind == "GeometryCollection":
        parts = geometry.get("geometries")
        return [p for part in (parts if isinstance(parts, list) else ())
                for p in _polygons(part, source)]
    return []


def _polygon(rings, source) -> shapely.Polygon:
    shell, *holes = [_ring(ring, source) for ring in _list(rings, "rings")]
    return shapely.Polygon(shell, holes)


def _positions(positions, source) -> list[tuple[float, float]]:
    found = []
    for position in _list(positions, "positions"):
        try:
            found.append(_position(position, source))
        except _Broken as error:
            raise type(error)(f"has a position that {error}") from None
    return found


def _ring(positions, source) -> list[tuple[float, float]]:
    ring = _positions(positions, source)
    if ring[:1] != ring[-1:]:       # left open it would leave its building out
        ring.append(ring[0])
    if len(ring) < 4:
        raise _Broken(f"has a ring of {len(ring)} positions, closed; it needs at least four")
    return ring


def _position(value, source: SourceCrs | None) -> tuple[float, float]:
    """x and y of a reference system; None: longitude and latitude, degrees."""
    numbers = value if isinstance(value, list) else []
    if len(numbers) < 2 or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in numbers):
        raise _Broken(f"is not a list of finite numbers: {value!r}")
    x, y = float(numbers[0]), float(numbers[1])
    if source is None and not (abs(x) <= 180 and abs(y) <= 90):
        raise _NoDegrees(f"is not longitude, latitude in degrees: {value!r}; if the file is in "
                      "metres, export it as RFC 7946 asks (EPSG:4326), or name its reference "
                      "system with --crs")
    return x, y
