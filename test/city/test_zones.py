"""Zones from ED-269, GeoJSON and OpenStreetMap, their times, and the air that they close."""

import json
from datetime import datetime, time, timezone

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from parallel_city_ros.city.osm import helsinki_file
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.city.zones import (
    TimeWindow,
    Zone,
    ZoneKind,
    closures,
    ground_weights,
    noise_weights,
    read_zones,
    zone_mask,
)
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

FRAME = LocalFrame(60.16, 24.93, 5.0)
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)       # a Tuesday


def ring(east, north, size=100.0):
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) * size + (east, north)
    wgs84 = FRAME.to_wgs84(np.column_stack([corners, np.zeros(5)]))
    return [[float(lon), float(lat)] for lat, lon, _ in wgs84]


def ed269(**changes):
    part = {"uomDimensions": "M", "lowerLimit": 0, "lowerVerticalReference": "AGL",
            "upperLimit": 120, "upperVerticalReference": "AGL",
            "horizontalProjection": {"type": "Polygon", "coordinates": [ring(100, 200)]}}
    part |= {k: changes.pop(k) for k in list(changes) if k in part}
    return {"identifier": "FI123", "country": "FIN", "name": "Port", "type": "COMMON",
            "restriction": "PROHIBITED", "geometry": [part]} | changes


def written(tmp_path, *features):
    path = tmp_path / "zones.json"
    path.write_text(json.dumps({"title": "zones", "features": features}))
    return path


def test_a_polygon_and_a_circle(tmp_path):
    lat, lon, _ = FRAME.to_wgs84((500.0, 300.0, 0.0))
    circle = {"type": "Circle", "center": [float(lon), float(lat)], "radius": 50}
    port, pad = read_zones(written(tmp_path, ed269(), ed269(
        identifier="pad", horizontalProjection=circle, upperLimit=400,
        uomDimensions="FT")), FRAME)
    assert port.kind is ZoneKind.NO_FLY and (port.lower, port.upper) == (0.0, 120.0)
    assert port.polygon.symmetric_difference(shapely.box(100, 200, 200, 300)).area < 1.0
    assert pad.upper == pytest.approx(121.92)
    assert shapely.Point(500, 300).buffer(50, quad_segs=200).within(pad.polygon.buffer(1e-3))
    assert pad.polygon.area < 1.01 * np.pi * 50**2
    assert read_zones(written(tmp_path, ed269(restriction="NO_RESTRICTION")), FRAME) == ()


def test_heights_above_the_sea_take_the_map_or_the_safe_side(tmp_path):
    sea = {"lowerVerticalReference": "AMSL", "upperVerticalReference": "AMSL"}
    (zone,) = read_zones(written(tmp_path, ed269(**sea, lowerLimit=30)), FRAME)
    assert zone.absolute and (zone.lower, zone.upper) == (25.0, 115.0)
    (zone,) = read_zones(written(tmp_path, ed269(upperVerticalReference="AMSL")), FRAME)
    assert not zone.absolute and zone.upper == np.inf


def test_times(tmp_path):
    hours = [{"day": ["MON", "TUE"], "startTime": "07:00Z", "endTime": "14:00+02:00"}]
    (zone,) = read_zones(written(tmp_path, ed269(applicability=[
        {"startDateTime": "2026-11-01T00:00:00Z", "endDateTime": "2026-12-01T00:00:00Z",
         "permanent": "NO", "schedule": hours}])), FRAME)
    assert zone.active(NOON.replace(hour=11, minute=59)) and not zone.active(NOON)
    assert not zone.active(NOON.replace(hour=6)) and not zone.active(NOON.replace(day=25, hour=9))
    assert not zone.active(NOON.replace(month=12, day=1, hour=9))
    night = TimeWindow(hours=(time(22), time(5)), days=frozenset({1}))      # of Tuesday
    assert night.active(NOON.replace(hour=23)) and night.active(NOON.replace(day=25, hour=4))
    assert not night.active(NOON.replace(hour=4)) and not night.active(NOON)


@given(st.datetimes(timezones=st.just(timezone.utc)))
def test_a_zone_without_times_always_holds(at):
    assert Zone(zone_id="z", kind=ZoneKind.NO_FLY, polygon=shapely.box(0, 0, 1, 1)).active(at)
    assert TimeWindow().active(at)


def test_geojson_zones(tmp_path):
    feature = {"type": "Feature", "id": "school", "geometry": {
        "type": "Polygon", "coordinates": [ring(0, 0)]}, "properties": {
            "zone": "privacy", "end": "2026-11-24T12:00:00Z"}}
    other = {"type": "Feature", "properties": {"building": "yes"}, "geometry": None}
    (zone,) = read_zones(written(tmp_path, feature, other), FRAME)
    assert zone.kind is ZoneKind.PRIVACY and zone.zone_id == "school"
    assert zone.active(NOON.replace(hour=11)) and not zone.active(NOON)


@pytest.mark.parametrize("change, words", [
    ({"restriction": "FORBIDDEN"}, "zone 0 .FI123.*FORBIDDEN"),
    ({"upperLimit": -5}, "not below the upper"),
    ({"upperVerticalReference": "WGS84"}, "vertical reference"),
    ({"horizontalProjection": {"type": "Polygon", "coordinates": [[[385e3, 667e4]] * 4]}},
     "degrees"),
    ({"horizontalProjection": {"type": "Polygon", "coordinates": [[[24.9, 60.1]] * 4]}}, "area"),
    ({"horizontalProjection": {"type": "Circle", "center": [24.9, 60.1], "radius": -1}},
     "circle"),
    ({"geometry": None}, "zone 0"), ({"applicability": [{"schedule": [{"day": ["XXX"]}]}]},
                                     "zone 0")])
def test_a_zone_that_cannot_be_read_is_not_taken_for_none(tmp_path, change, words):
    with pytest.raises(CityFileError, match=words):
        read_zones(written(tmp_path, ed269(**change)), FRAME)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '{"features": 3}', ""])
def test_files_that_are_none(tmp_path, text):
    (tmp_path / "zones.json").write_text(text)
    with pytest.raises(CityFileError, match="zones.json"):
        read_zones(tmp_path / "zones.json", FRAME)


def test_openstreetmap_says_where_people_are():
    zones = read_zones(helsinki_file(), LocalFrame(60.1629, 24.9359))
    kinds = {z.kind for z in zones}
    assert zones and kinds <= set(ZoneKind) and all(z.polygon.area > 0 for z in zones)


def test_a_mask_has_every_cell_that_is_touched():
    zone = Zone(zone_id="z", kind=ZoneKind.PRIVACY, polygon=shapely.box(3.5, 4.5, 6.2, 8.9))
    mask = zone_mask([zone], ZoneKind.PRIVACY, (0.0, 0.0), 2.0, (10, 8), NOON)
    assert {tuple(v) for v in np.argwhere(mask).tolist()} == {
        (i, j) for i in (1, 2, 3) for j in (2, 3, 4)}
    assert not zone_mask([zone], ZoneKind.NO_FLY, (0.0, 0.0), 2.0, (10, 8), NOON).any()


def test_zones_weigh_the_ground_and_its_noise_while_they_hold():
    def zone(kind, west, weight=1.0, **more):
        return Zone(zone_id=f"{kind}/{west}", kind=kind, weight=weight,
                    polygon=shapely.box(west + 0.5, 0.5, west + 3.5, 15.5), **more)
    grid = VoxelGrid.from_dense(np.zeros((10, 8, 2), bool), np.zeros(3), 2.0, FRAME)
    after = TimeWindow(start=NOON.replace(hour=13))
    zones = [zone(ZoneKind.PRIORITY, 0), zone(ZoneKind.PRIORITY, 2, 3.0),
             zone(ZoneKind.PRIVACY, 4), zone(ZoneKind.PRIORITY, 12, 9.0, windows=(after,)),
             zone(ZoneKind.NOISE_SENSITIVE, 8), zone(ZoneKind.NOISE_SENSITIVE, 10, 0.01),
             zone(ZoneKind.NO_FLY, 16)]
    ground, noise = (weigh(grid, iter(zones), NOON) for weigh in (ground_weights, noise_weights))
    assert ground.tolist() == [[w] * 8 for w in (2, 6, 0, 0, 1, 1, 1, 1, 1, 1)]
    assert noise.tolist() == [[w] * 8 for w in (1, 1, 1, 1, 10, 10, 1, 1, 1, 1)]
    later = ground_weights(grid, zones, NOON.replace(hour=14))
    assert later[6:8].tolist() == [[18.0] * 8] * 2
    assert (ground_weights(grid, (), NOON) == 1).all()


def test_closed_air_reaches_from_the_ground_that_is_there():
    slope = Ground(np.tile(np.arange(11.0)[:, None] * 10, (1, 11)), (0.0, 0.0), 10.0)
    zone = Zone(zone_id="z", kind=ZoneKind.NO_FLY, polygon=shapely.box(15, 15, 45, 200),
                lower=10.0, upper=60.0)
    (event,) = closures([zone], (0.0, 0.0, 100.0, 100.0), slope, NOON)
    assert (event.lower_z, event.upper_z) == (20.0, 110.0)      # lowest + 10, highest + 60
    assert event.polygon.bounds == (15.0, 15.0, 45.0, 100.0)
    far = Zone(zone_id="far", kind=ZoneKind.NO_FLY, polygon=shapely.box(500, 500, 600, 600))
    assert closures([far], (0.0, 0.0, 100.0, 100.0), slope, NOON) == []
