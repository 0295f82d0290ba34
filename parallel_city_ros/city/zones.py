"""Zones of a city with their times: where not to fly, not to film, not to be heard; what matters.

Read from ED-269 (EUROCAE's format of UAS geographical zones), from GeoJSON features with a
property `zone`, and from tags of OpenStreetMap. What a file leaves open is taken on the safe
side; what is broken is refused, since a zone that cannot be read must not be taken for none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone, tzinfo
from enum import Enum
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import shapely

from parallel_city_ros.city.osm import mend, read_tagged, require_file
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.twin import MAX_EVENT_HEIGHT_M, CityEvent
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import CityFileError, ConfigError
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
# "*": any value but no
OSM_TAGS = {
    ("amenity", "hospital"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("building", "hospital"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("amenity", "clinic"): (ZoneKind.NOISE_SENSITIVE,),
    ("amenity", "nursing_home"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("social_facility", "nursing_home"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("amenity", "school"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("building", "school"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("amenity", "kindergarten"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("building", "kindergarten"): (ZoneKind.NOISE_SENSITIVE, ZoneKind.PRIVACY),
    ("amenity", "childcare"): (ZoneKind.PRIVACY,),
    ("leisure", "playground"): (ZoneKind.PRIVACY,),
    ("amenity", "place_of_worship"): (ZoneKind.NOISE_SENSITIVE,),
    ("landuse", "residential"): (ZoneKind.NOISE_SENSITIVE,),
    ("landuse", "cemetery"): (ZoneKind.NOISE_SENSITIVE,),
    ("amenity", "grave_yard"): (ZoneKind.NOISE_SENSITIVE,),
    ("amenity", "prison"): (ZoneKind.NO_FLY,),
    ("landuse", "military"): (ZoneKind.NO_FLY,), ("military", "*"): (ZoneKind.NO_FLY,),
    ("aeroway", "aerodrome"): (ZoneKind.NO_FLY,), ("aeroway", "heliport"): (ZoneKind.NO_FLY,),
    ("aeroway", "helipad"): (ZoneKind.NO_FLY,),
}
# Metres around what the file knows only as a point: as large as such a place is, and as
# helicopters need to come and go.
POINT_RADIUS_M = {ZoneKind.NO_FLY: 150.0, ZoneKind.PRIVACY: 50.0, ZoneKind.NOISE_SENSITIVE: 50.0}
PRIORITY_WORTH = 2.0    # of ground in a zone of weight 1, where other ground is worth 1
# How often a dB that is heard in a zone of weight 1 counts: ten times the energy, 10 dB, is the
# step between mixed and purely residential areas in TA Lärm (1998), section 6.1.
NOISE_WORTH = 10.0


@dataclass(frozen=True, kw_only=True)
class TimeWindow:
    """When a zone holds: between two moments, and of those on some days at some hours.

    start, end : aware datetimes; None: open
    days : of the week, 0 is Monday; hours : (from, to), past midnight if to <= from, and then
        of the day on which they begin
    zone : time zone that days and hours are of, with its summer time
    """

    start: datetime | None = None
    end: datetime | None = None
    days: frozenset[int] = frozenset(range(7))
    hours: tuple[time, time] | None = None
    zone: tzinfo = timezone.utc

    def __post_init__(self):
        for moment in (self.start, self.end):
            if moment is not None and moment.tzinfo is None:
                raise ConfigError(f"time {moment} has no time zone; a window needs one")

    def active(self, at: datetime) -> bool:
        """at : aware datetime"""
        if at.tzinfo is None:
            raise ConfigError(f"time {at} has no time zone; zones hold at moments")
        if (self.start and at < self.start) or (self.end and at >= self.end):
            return False
        at = at.astimezone(self.zone)
        if self.hours is None:
            return at.weekday() in self.days
        begins, ends = self.hours
        clock = at.time()
        if begins < ends:
            return at.weekday() in self.days and begins <= clock < ends
        if clock >= begins:
            return at.weekday() in self.days
        return clock < ends and (at.weekday() - 1) % 7 in self.days


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A place with its rule.

    polygon : in the map frame, metres
    lower, upper : metres above ground, or z in the map frame if absolute; may be infinite
    windows : when it holds, in any of them; none: always
    weight : worth of a place of priority, or how much noise matters; 1 is usual
    source : the format that it is from; notes : what was assumed of it, in words
    """

    zone_id: str
    kind: ZoneKind
    polygon: shapely.Geometry
    lower: float = 0.0
    upper: float = math.inf
    absolute: bool = False
    windows: tuple[TimeWindow, ...] = ()
    name: str = ""
    weight: float = 1.0
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.lower < self.upper:
            raise ConfigError(f"zone {self.zone_id}: lower limit {self.lower:g} m is not below "
                              f"the upper, {self.upper:g} m")
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"zone {self.zone_id}: weight {self.weight} is not a number from 0")

    def active(self, at: datetime) -> bool:
        """at : aware datetime"""
        return not self.windows or any(w.active(at) for w in self.windows)


def _features(document) -> list | None:
    """By the names that publishers give the list of ED-269's UASZoneVersion, or GeoJSON's."""
    if not isinstance(document, dict):
        return None
    found = (document.get(name) for name in ("features", "UASZoneList", "UASZoneVersion"))
    return next((f for f in found if isinstance(f, list)), None)


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
    features = _features(document)
    if features is None:
        raise CityFileError(f"{path}: is JSON, but neither ED-269 nor GeoJSON (it has no list of "
                            "features)")
    if features and not any(isinstance(f, dict) and (
            "restriction" in f or "zone" in (f.get("properties") or ())) for f in features):
        raise CityFileError(f"{path}: holds no zones (no feature of ED-269, and none of GeoJSON "
                            "with a property 'zone')")
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
    flat = flat if flat.is_valid else mend(flat)
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
        notes = ()
        # Of two references the safe one: from the ground, or up without end.
        absolute = references == ["AMSL", "AMSL"]
        if absolute:
            lower, upper = lower - frame.altitude_m, upper - frame.altitude_m
            notes = (f"limits above mean sea level: the map's zero is taken to be "
                     f"{frame.altitude_m:g} m above it",)
        elif references[0] == "AMSL":
            lower, notes = 0.0, ("lower limit above mean sea level: taken to be the ground",)
        elif references[1] == "AMSL":
            upper, notes = math.inf, ("upper limit above mean sea level: taken to be none",)
        zones.append(Zone(
            zone_id=f"{feature['identifier']}" + (f"/{k}" if k else ""), kind=kind,
            polygon=_horizontal(part["horizontalProjection"], frame), lower=lower, upper=upper,
            absolute=absolute, windows=windows, name=str(feature.get("name") or ""),
            source="ED-269", notes=notes))
    return zones


def _horizontal(projection, frame):
    if projection["type"] == "Circle":
        return _circle(projection["center"], projection["radius"], frame)
    if projection["type"] != "Polygon":
        raise ValueError(f"horizontal projection {projection['type']!r} is none of Polygon, "
                         "Circle")
    return _project(shapely.from_geojson(json.dumps(projection)), frame)


def _circle(centre, radius, frame):
    """A polygon around a circle, so that nothing of it is lost.

    centre : longitude and latitude, degrees; radius : metres
    """
    (lon, lat), radius = (float(v) for v in centre[:2]), float(radius)
    if not 0 < radius < math.inf or not (abs(lon) <= 180 and abs(lat) <= 90):
        raise ValueError(f"circle of {radius} m around {lon}, {lat}")
    east, north, _ = frame.to_enu(lat, lon)
    return shapely.Point(east, north).buffer(radius / math.cos(math.pi / CIRCLE_SIDES),
                                             quad_segs=CIRCLE_SIDES // 4)


def _plain(text) -> str:
    """As Python 3.10 reads it: no Z, no fractions of a second."""
    return re.sub(r"\.\d+", "", str(text)).replace("Z", "+00:00")


def _moment(text, zone: tzinfo = timezone.utc) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(_plain(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def _hours(begins, ends) -> tuple[tuple[time, time], tzinfo]:
    """'07:00Z', '14:00:00.00+02:00' → from, to, and the time zone of the first, that of both."""
    first, last = _clock(begins), _clock(ends)
    zone = first.tzinfo or last.tzinfo or timezone.utc
    shift = (first.utcoffset() or timedelta()) - (last.utcoffset() or timedelta())
    if first.tzinfo is None or last.tzinfo is None:
        shift = timedelta()
    # the last minute of a day is meant to be all of it
    end = time(0) if (last.hour, last.minute) == (23, 59) else last.replace(tzinfo=None)
    end = (datetime.combine(datetime(2000, 1, 2), end) + shift).time()
    return (first.replace(tzinfo=None), end), zone


def _clock(text) -> time:
    text = _plain(text)
    return time.fromisoformat("00" + text[2:] if text.startswith("24:00") else text)


def _days(names) -> frozenset[int]:
    names = names.split(",") if isinstance(names, str) else names
    names = [name.strip().upper()[:3] for name in names]
    return frozenset(range(7) if "ANY" in names else (DAYS.index(name) for name in names))


def _zone_named(name: str) -> tzinfo:
    """'Europe/Helsinki' or '+02:00'"""
    if re.fullmatch(r"[+-]\d\d:\d\d", name):
        return datetime.fromisoformat(f"2000-01-01T00:00{name}").tzinfo
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"time zone {name!r} is not known") from error


def _applicability(entry) -> list[TimeWindow]:
    start = end = None
    if str(entry.get("permanent", "NO")).upper() != "YES":
        start, end = _moment(entry.get("startDateTime")), _moment(entry.get("endDateTime"))
    schedule = entry.get("schedule") or ()
    if not schedule:
        return [TimeWindow(start=start, end=end)]
    windows = []
    for line in schedule:
        hours, zone = None, timezone.utc
        if line.get("startTime") and line.get("endTime"):
            hours, zone = _hours(line["startTime"], line["endTime"])
        windows.append(TimeWindow(start=start, end=end, days=_days(line.get("day") or ["ANY"]),
                                  hours=hours, zone=zone))
    return windows


def _geojson(feature, number, frame) -> list[Zone]:
    """Of a feature with the property `zone`, and others that say where and when.

    Its properties: zone, a kind; lower, upper, metres above ground; radius, metres around a
    Point; start, end, moments; days, such as ["MON", "TUE"]; hours, such as "08:00-16:00";
    timezone of both; name, weight.
    """
    properties = feature.get("properties") or {}
    if "zone" not in properties:
        return []
    kinds = [k.value for k in ZoneKind]
    kind = str(properties["zone"]).lower().replace("-", "_").replace(" ", "_")
    if kind not in kinds:
        raise ValueError(f"zone {properties['zone']!r} is none of {', '.join(kinds)}")
    geometry = feature["geometry"]
    if geometry["type"] == "Point":
        polygon = _circle(geometry["coordinates"], properties["radius"], frame)
    elif geometry["type"] in ("Polygon", "MultiPolygon"):
        polygon = _project(shapely.from_geojson(json.dumps(geometry)), frame)
    else:
        raise ValueError(f"its geometry is a {geometry['type']}, not a Polygon, a MultiPolygon or "
                         "a Point with a radius")
    given = {k: v for k, v in properties.items() if v is not None}
    hours, zone = None, _zone_named(given.get("timezone", "+00:00"))
    if "hours" in given:
        hours, _ = _hours(*re.split(r"\s*[-–]\s*", given["hours"].strip()))
    window = TimeWindow(start=_moment(given.get("start"), zone), end=_moment(
        given.get("end"), zone), days=_days(given.get("days", "ANY")), hours=hours, zone=zone)
    always = window == TimeWindow(zone=zone)
    return [Zone(zone_id=str(feature.get("id") or given.get("id") or number),
                 kind=ZoneKind(kind), polygon=polygon, lower=float(given.get("lower", 0.0)),
                 upper=float(given.get("upper", math.inf)), windows=() if always else (window,),
                 name=str(given.get("name", "")), weight=float(given.get("weight", 1.0)),
                 source="GeoJSON")]


def zones_from_osm(path: str | Path, frame: LocalFrame) -> tuple[Zone, ...]:
    """Zones that follow from what a place of OpenStreetMap is (`OSM_TAGS`), from the ground up.

    A place that is only a point has a circle (`POINT_RADIUS_M`).

    Raises
    ------
    CityFileError
        If the file is no OpenStreetMap data.
    """
    zones = []
    for place in read_tagged(path, sorted({key for key, _ in OSM_TAGS})):
        kinds = dict.fromkeys(
            kind for (key, value), found in OSM_TAGS.items() for kind in found
            if place.tags.get(key, "no") != "no" and value in ("*", place.tags[key]))
        for kind in kinds:
            try:
                if place.polygon.geom_type == "Point":
                    polygon = _circle(place.polygon.coords[0], POINT_RADIUS_M[kind], frame)
                else:
                    polygon = _project(place.polygon, frame)
            except ValueError:
                continue        # a line, or an area without one
            zones.append(Zone(zone_id=place.area_id, kind=kind, polygon=polygon,
                              name=place.tags.get("name", ""), source="OpenStreetMap"))
    return tuple(zones)


def zone_mask(zones: Iterable[Zone], kind: ZoneKind, origin: Sequence[float], cell: float,
              shape: tuple[int, int], at: datetime) -> np.ndarray:
    """(nx, ny) bool: cells that an active zone of a kind touches, be it at a corner.

    origin : east and north of the corner of cell (0, 0), metres; cell : edge, metres
    """
    out = np.zeros(shape, bool)
    for zone in zones:
        if zone.kind is kind and zone.active(at):
            _touch(out, zone.polygon, np.asarray(origin, float)[:2], cell)
    return out


def ground_weights(grid: VoxelGrid, zones: Iterable[Zone], when: datetime) -> np.ndarray:
    """(nx, ny) float: what seeing each ground cell is worth at a moment; 1 where no zone says.

    Zones of priority raise it, PRIORITY_WORTH times their weight, the highest of several; what is
    not to be filmed is worth 0, whatever else it is.
    """
    zones = tuple(zones)
    out = _raised(grid, zones, ZoneKind.PRIORITY, PRIORITY_WORTH, when)
    out[zone_mask(zones, ZoneKind.PRIVACY, grid.origin, grid.resolution, out.shape, when)] = 0.0
    return out


def noise_weights(grid: VoxelGrid, zones: Iterable[Zone], when: datetime) -> np.ndarray:
    """(nx, ny) float: how often what is heard at each ground cell counts; 1 where no zone says.

    In noise-sensitive zones NOISE_WORTH times their weight, the highest of several.
    """
    return _raised(grid, tuple(zones), ZoneKind.NOISE_SENSITIVE, NOISE_WORTH, when)


def _raised(grid, zones, kind, worth, when) -> np.ndarray:
    out = np.ones(grid.shape[:2])
    for weight in sorted({zone.weight for zone in zones if zone.kind is kind}):
        alike = (zone for zone in zones if zone.weight == weight)
        out[zone_mask(alike, kind, grid.origin, grid.resolution, out.shape, when)] = max(
            1.0, worth * weight)
    return out


def _touch(out: np.ndarray, polygon, origin, cell: float) -> None:
    """Set, in place, the cells that a polygon touches: squares of cells, quartered at its edge."""
    shapely.prepare(polygon)
    size = 2 ** max(0, int(np.ceil(np.log2(max(out.shape)))))
    corners = np.zeros((1, 2), int)     # of squares of `size` cells
    while len(corners):
        low = origin + corners * cell
        high = origin + np.minimum(corners + size, out.shape) * cell
        squares = shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])
        met = shapely.intersects(polygon, squares)
        full = met if size == 1 else met & shapely.contains(polygon, squares)
        for i, j in corners[full]:
            out[i:i + size, j:j + size] = True
        size //= 2
        rest = corners[met & ~full]
        corners = (rest[:, None] + [(0, 0), (0, size), (size, 0), (size, size)]).reshape(-1, 2)
        corners = corners[(corners < out.shape).all(axis=1)] if size else corners[:0]


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
