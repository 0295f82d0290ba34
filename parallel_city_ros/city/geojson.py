"""GeoJSON city files (RFC 7946): building outlines with `height` or `levels`.

Properties carry the tags of OpenStreetMap's "Simple 3D Buildings", as numbers or texts;
`levels` is short for `building:levels`. Members of the collection beyond the RFC, which
permits them: `name`, `attribution`, and `origin` [longitude, latitude, altitude], where
the map frame has its zero.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import shapely

from parallel_city_ros.city.model import City
from parallel_city_ros.city.osm import (
    MAX_HEIGHT_M,
    Area,
    assemble,
    parse_length_m,
    parse_levels,
    require_file,
)
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

LENGTHS = ("height", "building:height", "min_height")
LEVELS = ("building:levels", "roof:levels", "building:min_level")
# An outline with none of these stands too, at an assumed height, unless it says that it is flat.
BUILDING_KEYS = ("building", "building:part", *LENGTHS, *LEVELS)
FLAT_KEYS = ("amenity", "boundary", "highway", "landuse", "leisure", "natural", "place",
             "railway", "waterway")
UNKNOWN = (None, "", -1)    # how data sets write that they do not know


class _Broken(ValueError):
    """What is wrong with a feature; the reader adds file and feature."""


def read_geojson(path: str | Path) -> City:
    """Read the buildings of a GeoJSON file.

    The frame's origin is the file's `origin`, or else the south-west corner of the built
    area. The third coordinate of positions is not used: heights are above flat ground.

    Raises
    ------
    CityFileError
        If the file is missing, is not GeoJSON, or has no buildings, or if a building's
        outline or height is broken; the message names the feature.
    """
    path = require_file(path)
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CityFileError(f"{path}: cannot be read as GeoJSON ({error}); the file is cut off or "
                            "of another kind, export it again") from error
    areas, skipped = [], 0
    for number, feature in enumerate(_features(path, document)):
        name = f"feature {number}"
        try:
            if not isinstance(feature, dict) or feature.get("type") != "Feature":
                raise _Broken("is not of type Feature")
            identity = _identity(feature, number)
            name += "" if identity == f"feature/{number}" else f" ({identity})"
            area = _area(feature, identity)
        except _Broken as error:
            raise CityFileError(f"{path}: {name} {error}") from None
        if area is None:
            skipped += 1
        else:
            areas.append(area)
    if not areas:
        raise CityFileError(f"{path}: holds no buildings (no Polygon or MultiPolygon that stands "
                            "above the ground); choose a file of building outlines")
    attribution = document.get("attribution", "")
    return assemble(path.name, _frame(path, document, areas), areas, skipped,
                    attribution if isinstance(attribution, str) else "")


def _features(path, document) -> list:
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "Feature":
        return [document]
    if kind != "FeatureCollection" or not isinstance(document.get("features"), list):
        raise CityFileError(f"{path}: is JSON, but neither a GeoJSON FeatureCollection nor a "
                            "Feature")
    crs = json.dumps(document.get("crs"))
    if crs != "null" and not any(name in crs for name in ("CRS84", "4326", "4979")):
        raise CityFileError(f"{path}: its coordinates are in another system ({crs}); export it "
                            "in longitude and latitude, as RFC 7946 asks (EPSG:4326)")
    return document["features"]


def _frame(path, document, areas) -> LocalFrame:
    if (origin := document.get("origin")) is None:
        lon, lat, _, _ = shapely.total_bounds([a.polygon for a in areas])
        return LocalFrame(float(lat), float(lon))
    try:
        lon, lat = _position(origin)
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


def _area(feature, identity) -> Area | None:
    """The outline in degrees with its tags; None for what is no building."""
    geometry, properties = feature.get("geometry"), feature.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise _Broken("has properties that are not an object")
    if geometry is None or _is_flat(properties):
        return None
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "Polygon":
        polygon = _polygon(geometry.get("coordinates"))
    elif kind == "MultiPolygon":
        polygon = shapely.MultiPolygon([
            _polygon(part) for part in _list(geometry.get("coordinates"), "polygons")])
    elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection"):
        return None
    else:
        raise _Broken(f"has a geometry of unknown type {kind!r}")
    if not polygon.is_valid:
        polygon = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    if not polygon.area > 0:
        raise _Broken("has an outline without area")
    return Area(identity, _tags(properties), polygon,
                is_part=not _says(properties, "building") and _says(properties, "building:part"))


def _says(properties, key) -> bool:
    return properties.get(key) not in (None, "", "no", False)


def _is_flat(properties) -> bool:
    if properties.get("building") in ("no", False) and not _says(properties, "building:part"):
        return True
    return any(_says(properties, key) for key in FLAT_KEYS) and \
        not any(_says(properties, key) for key in (*BUILDING_KEYS, "levels"))


def _tags(properties) -> dict[str, str]:
    values = {"building:levels": properties.get("levels")} | properties
    tags = {}
    for keys, parse, most in ((LENGTHS, parse_length_m, f"{MAX_HEIGHT_M:g} m"),
                              (LEVELS, parse_levels, "250 storeys")):
        for key in keys:
            value = values.get(key)
            if value in UNKNOWN:
                continue
            if isinstance(value, bool) or not isinstance(value, str | int | float) \
                    or parse(str(value)) is None:
                raise _Broken(f"has {key} {value!r}, which is no number from 0 to {most}")
            tags[key] = str(value)
    tags["building:part"] = "yes" if _says(properties, "building:part") else "no"
    return tags


def _list(value, what) -> list:
    if not isinstance(value, list) or not value:
        raise _Broken(f"has coordinates without {what}")
    return value


def _polygon(rings) -> shapely.Polygon:
    shell, *holes = [_ring(ring) for ring in _list(rings, "rings")]
    return shapely.Polygon(shell, holes)


def _ring(positions) -> list[tuple[float, float]]:
    ring = []
    for position in _list(positions, "positions"):
        try:
            ring.append(_position(position))
        except _Broken as error:
            raise _Broken(f"has a position that {error}") from None
    if len(ring) < 4 or ring[0] != ring[-1]:
        raise _Broken(f"has a ring of {len(ring)} positions that is not closed; the last must "
                      "repeat the first, at least four in all" if ring[0] != ring[-1]
                      else f"has a ring of {len(ring)} positions; it needs at least four")
    return ring


def _position(value) -> tuple[float, float]:
    """Longitude and latitude, degrees."""
    numbers = value if isinstance(value, list) else []
    if len(numbers) < 2 or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
            for v in numbers):
        raise _Broken(f"is not a list of finite numbers: {value!r}")
    lon, lat = float(numbers[0]), float(numbers[1])
    if not (abs(lon) <= 180 and abs(lat) <= 90):
        raise _Broken(f"is not longitude, latitude in degrees: {value!r}; if the file is in "
                      "metres, export it as RFC 7946 asks (EPSG:4326)")
    return lon, lat
