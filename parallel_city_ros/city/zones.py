"""Zones of a city with their times: where not to fly, not to film, not to be heard; what matters.

Read from ED-269 (EUROCAE's format of UAS geographical zones), from GeoJSON features with a
property `zone`, and from tags of OpenStreetMap.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from enum import Enum
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.osm import read_tagged_areas, require_file
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.twin import MAX_EVENT_HEIGHT_M, CityEvent
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
FEET = 0.3048
CIRCLE_SIDES = 64
EVENT_PREFIX = "zone/"


class ZoneKind(Enum):
    NO_FLY = "no_fly"
    PRIVACY = "privacy"                     # not to be filmed
    NOISE_SENSITIVE = "noise_sensitive"
    PRIORITY = "priority"                   # worth more to see


# A condition or a permit cannot be checked here: what needs one is closed.
RESTRICTIONS = {"PROHIBITED": ZoneKind.NO_FLY, "REQ_AUTHORISATION": ZoneKind.NO_FLY,
                "CONDITIONAL": ZoneKind.NO_FLY, "NO_RESTRICTION": None}
OSM_TAGS = {
    ("amenity", "hospital"): ZoneKind.NOISE_SENSITIVE, ("amenity", "school"): ZoneKind.PRIVACY,
    ("amenity", "kindergarten"): ZoneKind.PRIVACY, ("amenity", "prison"): ZoneKind.NO_FLY,
    ("building", "hospital"): ZoneKind.NOISE_SENSITIVE,
    ("landuse", "residential"): ZoneKind.NOISE_SENSITIVE,
    ("landuse", "cemetery"): ZoneKind.NOISE_SENSITIVE, ("landuse", "military"): ZoneKind.NO_FLY,
    ("leisure", "playground"): ZoneKind.PRIVACY, ("aeroway", "aerodrome"): ZoneKind.NO_FLY,
    ("aeroway", "helipad"): ZoneKind.NO_FLY,
}


@dataclass(frozen=True, kw_only=True)
class TimeWindow:
    """When a zone holds: between two moments, and of those on some days at some hours.

    start, end : aware datetimes; None: open
    days : of the week, 0 is Monday; hours : (from, to) in UTC, past midnight if to <= from
    """

    start: datetime | None = None
    end: datetime | None = None
    days: frozenset[int] = frozenset(range(7))
    hours: tuple[time, time] | None = None

    def active(self, at: datetime) -> bool:
        if (self.start and at < self.start) or (self.end and at >= self.end):
            return False
        at = at.astimezone(timezone.utc)
        if self.hours is None:
            return at.weekday() in self.days
        begins, ends = self.hours
        clock = at.time()
        if begins < ends:
            return at.weekday() in self.days and begins <= clock < ends
        if clock >= begins:
            return at.weekday() in self.days
        return clock < ends and (at - timedelta(days=1)).weekday() in self.days


@dataclass(frozen=True, kw_only=True)
class Zone:
    """lower, upper : metres above ground, or z in the map frame if absolute; may be infinite."""

    zone_id: str
    kind: ZoneKind
    polygon: shapely.Geometry       # in the map frame, metres
    lower: float = 0.0
    upper: float = math.inf
    absolute: bool = False
    windows: tuple[TimeWindow, ...] = ()    # none: always
    name: str = ""

    def active(self, at: datetime) -> bool:
        """at : aware datetime."""
        return not self.windows or any(w.active(at) for w in self.windows)


def read_zones(path: str | Path, frame: LocalFrame) -> tuple[Zone, ...]:
    """Zones of an ED-269 or GeoJSON file, or of an OpenStreetMap file's tags.

    Raises
    ------
    CityFileError
        If the file is missing, of another kind or broken: a zone that cannot be read must not
        be taken for none. The message names the zone.
    """
    path = require_file(path)
    content = path.read_bytes()
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        return zones_from_osm(path, frame)
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CityFileError(f"{path}: cannot be read as zones ({error}); the file is cut off, "
                            "export it again") from error
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        raise CityFileError(f"{path}: is JSON, but neither ED-269 nor GeoJSON (it has no list of "
                            "features)")
    zones = []
    for number, feature in enumerate(features):
        ed269 = isinstance(feature, dict) and "restriction" in feature
        try:
            zones += (_ed269 if ed269 else _geojson)(feature, number, frame)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError,
                shapely.errors.GEOSException) as error:
            name = feature.get("identifier") or feature.get("id") if isinstance(
                feature, dict) else None
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise CityFileError(f"{path}: zone {number}" + (f" ({name})" if name else "")
                                + f": {what}") from error
    return tuple(zones)


def _project(polygon, frame: LocalFrame):
    """Longitude and latitude in degrees → a valid polygon in the map frame."""
    coordinates = shapely.get_coordinates(polygon)
    if not len(coordinates) or not np.isfinite(coordinates).all() \
            or (np.abs(coordinates) > (180, 90)).any():
        raise ValueError("its corners are not longitudes and latitudes in degrees")
    flat = shapely.transform(polygon, lambda c: frame.to_enu(c[:, 1], c[:, 0])[:, :2])
    flat = flat if flat.is_valid else shapely.make_valid(flat, method="structure",
                                                         keep_collapsed=False)
    if not flat.area > 0:
        raise ValueError("its outline has no area")
    return flat


def _ed269(feature, number, frame) -> list[Zone]:
    restriction = feature["restriction"]
    if restriction not in RESTRICTIONS:
        raise ValueError(f"restriction {restriction!r} is none of {', '.join(RESTRICTIONS)}")
    kind = RESTRICTIONS[restriction]
    if kind is None:
        return []
    windows = tuple(w for entry in feature.get("applicability") or ()
                    for w in _applicability(entry))
    zones = []
    for k, part in enumerate(feature["geometry"]):
        unit = FEET if str(part.get("uomDimensions", "M")).upper() in ("FT", "FEET") else 1.0
        references = [part.get(f"{end}VerticalReference", "AGL") for end in ("lower", "upper")]
        if not set(references) <= {"AGL", "AMSL"}:
            raise ValueError(f"vertical reference {references} is none of AGL, AMSL")
        lower = float(part.get("lowerLimit") or 0.0) * unit
        upper = part.get("upperLimit")
        upper = math.inf if upper is None else float(upper) * unit
        # Of two references the safe one: from the ground, or up without end.
        absolute = references == ["AMSL", "AMSL"]
        if absolute:
            lower, upper = lower - frame.altitude_m, upper - frame.altitude_m
        elif references[0] == "AMSL":
            lower = 0.0
        elif references[1] == "AMSL":
            upper = math.inf
        if not lower < upper:
            raise ValueError(f"lower limit {lower:g} m is not below the upper, {upper:g} m")
        zones.append(Zone(
            zone_id=f"{feature['identifier']}" + (f"/{k}" if k else ""), kind=kind,
            polygon=_horizontal(part["horizontalProjection"], frame), lower=lower, upper=upper,
            absolute=absolute, windows=windows, name=str(feature.get("name") or "")))
    return zones


def _horizontal(projection, frame):
    if projection["type"] == "Circle":
        lon, lat = (float(v) for v in projection["center"][:2])
        radius = float(projection["radius"])
        if not 0 < radius < math.inf or not (abs(lon) <= 180 and abs(lat) <= 90):
            raise ValueError(f"circle of {radius} m around {lon}, {lat}")
        east, north, _ = frame.to_enu(lat, lon)
        # around the circle, not within it
        return shapely.Point(east, north).buffer(radius / math.cos(math.pi / CIRCLE_SIDES),
                                                 quad_segs=CIRCLE_SIDES // 4)
    if projection["type"] != "Polygon":
        raise ValueError(f"horizontal projection {projection['type']!r} is none of Polygon, "
                         "Circle")
    return _project(shapely.from_geojson(json.dumps(projection)), frame)


def _plain(text) -> str:
    """As Python 3.10 reads it: no Z, no fractions of a second."""
    return re.sub(r"\.\d+", "", str(text)).replace("Z", "+00:00")


def _moment(text) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(_plain(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _hour(text) -> time:
    """'07:00Z', '07:00:00.00+02:00' → time of day in UTC."""
    moment = time.fromisoformat(_plain(text))
    shift = moment.utcoffset() or timedelta()
    return (datetime(2000, 1, 2, moment.hour, moment.minute, moment.second) - shift).time()


def _applicability(entry) -> list[TimeWindow]:
    start = end = None
    if str(entry.get("permanent", "NO")).upper() != "YES":
        start, end = _moment(entry.get("startDateTime")), _moment(entry.get("endDateTime"))
    schedule = entry.get("schedule") or ()
    if not schedule:
        return [TimeWindow(start=start, end=end)]
    windows = []
    for line in schedule:
        days = line.get("day") or ["ANY"]
        days = [days] if isinstance(days, str) else days
        numbers = range(7) if "ANY" in days else [DAYS.index(d) for d in days]
        hours = None
        if line.get("startTime") and line.get("endTime"):
            hours = _hour(line["startTime"]), _hour(line["endTime"])
        windows.append(TimeWindow(start=start, end=end, days=frozenset(numbers), hours=hours))
    return windows


def _geojson(feature, number, frame) -> list[Zone]:
    properties = feature.get("properties") or {}
    if "zone" not in properties:
        return []
    kinds = [k.value for k in ZoneKind]
    if properties["zone"] not in kinds:
        raise ValueError(f"zone {properties['zone']!r} is none of {', '.join(kinds)}")
    shape = shapely.from_geojson(json.dumps(feature["geometry"]))
    if shape.geom_type not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"its geometry is a {shape.geom_type}, not a Polygon or MultiPolygon")
    lower, upper = float(properties.get("lower", 0.0)), float(properties.get("upper", math.inf))
    if not lower < upper:
        raise ValueError(f"lower ({lower:g} m) is not below upper ({upper:g} m)")
    window = TimeWindow(start=_moment(properties.get("start")), end=_moment(properties.get("end")))
    return [Zone(zone_id=str(feature.get("id") or properties.get("id") or number),
                 kind=ZoneKind(properties["zone"]), polygon=_project(shape, frame), lower=lower,
                 upper=upper, windows=() if window == TimeWindow() else (window,),
                 name=str(properties.get("name") or ""))]


def zones_from_osm(path: str | Path, frame: LocalFrame) -> tuple[Zone, ...]:
    """Zones that follow from what an OpenStreetMap area is (`OSM_TAGS`), from the ground up.

    Raises
    ------
    CityFileError
        If the file is no OpenStreetMap data.
    """
    zones = []
    for area in read_tagged_areas(path, sorted({key for key, _ in OSM_TAGS})):
        kind = next((k for tag, k in OSM_TAGS.items() if area.tags.get(tag[0]) == tag[1]), None)
        if kind is not None:
            try:
                polygon = _project(area.polygon, frame)
            except ValueError:
                continue        # an area without one
            zones.append(Zone(zone_id=area.area_id, kind=kind, polygon=polygon,
                              name=area.tags.get("name", "")))
    return tuple(zones)


def zone_mask(zones: Iterable[Zone], kind: ZoneKind, origin: Sequence[float], cell: float,
              shape: tuple[int, int], at: datetime) -> np.ndarray:
    """(nx, ny) bool: cells that an active zone of a kind touches.

    origin : east and north of the corner of cell (0, 0), metres; cell : edge, metres
    """
    out = np.zeros(shape, bool)
    for zone in zones:
        if zone.kind is not kind or not zone.active(at):
            continue
        low, high = ((np.array(b) - origin[:2]) / cell for b in (
            zone.polygon.bounds[:2], zone.polygon.bounds[2:]))
        i0, j0 = np.clip(np.floor(low), 0, shape).astype(int)
        i1, j1 = np.clip(np.floor(high) + 1, 0, shape).astype(int)
        if i0 >= i1 or j0 >= j1:
            continue
        i, j = np.meshgrid(np.arange(i0, i1), np.arange(j0, j1), indexing="ij")
        x, y = origin[0] + i * cell, origin[1] + j * cell
        shapely.prepare(zone.polygon)
        out[i0:i1, j0:j1] |= shapely.intersects(zone.polygon,
                                                shapely.box(x, y, x + cell, y + cell))
    return out


def closures(zones: Iterable[Zone], extent, ground: Ground, at: datetime) -> list[CityEvent]:
    """The active no-fly zones as events that close their air, cut to the map.

    extent : (min east, min north, max east, max north) of the map, metres
    """
    events = []
    for zone in zones:
        if zone.kind is not ZoneKind.NO_FLY or not zone.active(at):
            continue
        inside = shapely.intersection(zone.polygon, shapely.box(*extent))
        parts = [p for p in shapely.get_parts(inside) if p.geom_type == "Polygon" and p.area > 0]
        for k, part in enumerate(parts):
            # Events have no holes: what a zone surrounds is closed with it, on the safe side.
            corners = np.array(part.exterior.coords)[:-1]
            low, high = ground.range_within(part.bounds)
            lower = zone.lower if zone.absolute else low + zone.lower
            upper = zone.upper if zone.absolute else high + zone.upper
            upper = min(upper, MAX_EVENT_HEIGHT_M)
            if not lower < upper:
                continue
            events.append(CityEvent(
                event_id=f"{EVENT_PREFIX}{zone.zone_id}" + (f"/{k}" if k else ""), kind="no_fly",
                footprint=tuple(map(tuple, corners.tolist())),
                lower_z=max(lower, -MAX_EVENT_HEIGHT_M), upper_z=upper, description=zone.name))
    return events
