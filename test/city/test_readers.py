"""The one entrance: every kind of file by its content, several files as one city."""

import bz2
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import laspy
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import CRS

from parallel_city_ros.city.lidar import read_lidar
from parallel_city_ros.city.local import LOCAL
from parallel_city_ros.city.model import HeightSource
from parallel_city_ros.city.octomap import write_bt
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.osm import helsinki_file
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL_CITY = Path(__file__).parents[2] / "worlds" / "small_city.geojson"
RD = ReadOptions(crs="EPSG:7415")
X0, Y0 = 85_000.0, 447_500.0        # south-west corner of the place that is drawn here, RD
HALL = (30, 20, 60, 50)             # roof 9 m above the ground at z = 2


def square(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]


def outlines(path, boxes=(HALL,), driver="GPKG", **columns):
    geometry = shapely.to_wkb([shapely.Polygon(np.array(square(*b)) + (X0, Y0)) for b in boxes])
    columns = {"name": np.array([f"b{k}" for k in range(len(boxes))], object)} | columns
    pyogrio.raw.write(path, geometry, list(columns.values()), list(columns), driver=driver,
                      geometry_type="Polygon", crs="EPSG:28992")
    return path


def points():
    rng = np.random.default_rng(3)
    x, y = (rng.uniform(0, s, 60_000) for s in (100, 80))
    inside = (x > HALL[0]) & (x < HALL[2]) & (y > HALL[1]) & (y < HALL[3])
    z = 2.0 + 9.0 * inside + rng.normal(0, 0.02, x.size)
    return np.stack([x + X0, y + Y0, z], axis=1), np.where(inside, 6, 2).astype(np.uint8)


def lidar(path, crs="EPSG:7415", chosen=slice(None)):
    xyz, classes = points()
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.offsets, header.scales = (X0, Y0, 0), (0.001, 0.001, 0.001)
    if crs:
        header.add_crs(CRS(crs))
    las = laspy.LasData(header)
    las.x, las.y, las.z = xyz[chosen].T
    las.classification = classes[chosen]
    las.write(str(path))
    return path


def geotiff(path, heights, crs="EPSG:28992"):
    """heights : (rows, columns) of 1 m, the first row in the north"""
    heights = np.asarray(heights, np.float32)
    with rasterio.open(path, "w", driver="GTiff", height=heights.shape[0], width=heights.shape[1],
                       count=1, dtype="float32", crs=crs,
                       transform=rasterio.transform.from_origin(
                           X0, Y0 + heights.shape[0], 1, 1)) as file:
        file.write(heights, 1)
    return path


def geojson(path, height=None):
    lon, lat = SourceCrs("EPSG:28992")._to_wgs84.transform(*(np.array(square(*HALL)) + (X0, Y0)).T)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [{
        "type": "Feature", "id": "hall", "properties": {"height": height} if height else {},
        "geometry": {"type": "Polygon", "coordinates": [np.stack([lon, lat], 1).tolist()]}}]}))
    return path


def osm(path):
    path.write_text(
        '<?xml version="1.0"?><osm version="0.6">' + "".join(
            f'<node id="{k}" version="1" lat="{lat}" lon="{lon}"/>' for k, (lat, lon) in
            enumerate([(52.0, 4.0), (52.0, 4.001), (52.001, 4.001), (52.001, 4.0)], 1))
        + '<way id="1" version="1">' + "".join(f'<nd ref="{k}"/>' for k in (1, 2, 3, 4, 1))
        + '<tag k="building" v="yes"/></way></osm>')
    return path


def cityjson(path):
    vertices = [[x, y, z] for z in (2, 11) for x, y in square(*HALL)[:4]]
    faces = [[[0, 3, 2, 1]], [[4, 5, 6, 7]], *[[[k, (k + 1) % 4, (k + 1) % 4 + 4, k + 4]]
                                               for k in range(4)]]
    path.write_text(json.dumps({
        "vertices": vertices * 60,      # so that the type stands far behind
        "CityObjects": {"hall": {"type": "Building", "geometry": [
            {"type": "Solid", "lod": "1.2", "boundaries": [faces]}]}},
        "metadata": {"referenceSystem": "https://www.opengis.net/def/crs/EPSG/0/7415"},
        "transform": {"scale": [1, 1, 1], "translate": [X0, Y0, 0]},
        "version": "2.0", "type": "CityJSON"}))
    return path


def citygml(path):
    ring = " ".join(f"{x + X0} {y + Y0} 2.0" for x, y in square(*HALL)[::-1])
    path.write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<CityModel xmlns="http://www.opengis.net/citygml/2.0" xmlns:gml="http://www.opengis.net/gml"
  xmlns:bldg="http://www.opengis.net/citygml/building/2.0"><cityObjectMember>
  <bldg:Building gml:id="hall"><bldg:measuredHeight uom="m">9.0</bldg:measuredHeight>
  <bldg:lod0FootPrint><gml:MultiSurface srsName="EPSG:7415" srsDimension="3"><gml:surfaceMember>
  <gml:Polygon><gml:exterior><gml:LinearRing><gml:posList>{ring}</gml:posList></gml:LinearRing>
  </gml:exterior></gml:Polygon></gml:surfaceMember></gml:MultiSurface></bldg:lod0FootPrint>
  </bldg:Building></cityObjectMember></CityModel>""")
    return path


def obj(path):
    corners = [(x, y, z) for z in (0, 9) for x, y in square(*HALL)[:4]]
    faces = [(4, 3, 2, 1), (5, 6, 7, 8), *[(k, k % 4 + 1, k % 4 + 5, k + 4) for k in range(1, 5)]]
    path.write_text("".join("v {} {} {}\n".format(*c) for c in corners)
                    + "".join("f {} {} {} {}\n".format(*f) for f in faces))
    return path


def octomap(path):
    write_bt(path, np.argwhere(np.ones((4, 4, 4))), 1.0)
    return path


def cloud(path):
    path.write_text("1 2 3\n4 5 6\n")
    return path


FILES = {
    "osm": osm, "geojson": geojson, "city.json": cityjson, "gml": citygml, "gpkg": outlines,
    "fgb": lambda p: outlines(p, driver="FlatGeobuf"), "tif": lambda p: geotiff(
        p, np.add.outer(np.arange(60.0), np.arange(50.0))),
    "laz": lidar, "las": lidar, "obj": obj, "bt": octomap, "xyz": cloud}


BEGINNINGS = [b"", b"LASF", b"ply\n", b"# .PCD v0.7\nVERSION 0.7\n", b"II*\0", b"OFF\n", b"solid ",
              b"glTF", b"# Octomap OcTree binary file\n", b"\x1f\x8b", b"BZh", b"PK\x03\x04",
              b"SQLite format 3\0", b"fgb\x03", b"\x00\x00\x27\x0a", b"{", b"[", b"<", b"1 2 3\n",
              b'{"type": "CityJSON", ', b'<CityModel xmlns="http://www.opengis.net/citygml/2.0">',
              b"v 0 0 0\n", b'{"asset": {"version": "2.0"}, "buffers": [']


def extents(city):
    return [round(v, 2) for v in city.extent]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("wrong", ["json", "osm.pbf", "txt", ""])
def test_content_tells_and_not_the_name(tmp_path, kind, wrong):
    right = FILES[kind](tmp_path / f"place.{kind}")
    other = tmp_path / ("copy." + wrong if wrong else "copy")
    shutil.copy(right, other)
    a, b = read_city(right), read_city(other)
    assert extents(a) == extents(b) and a.frame == b.frame
    assert (a.n_buildings, len(a.solids), len(a.boxes), len(a.surfaces)) == (
        b.n_buildings, len(b.solids), len(b.boxes), len(b.surfaces))
    assert a.n_buildings or a.boxes or a.terrain is not None
    assert a.name == right.name


def test_packed_openstreetmap(tmp_path):
    content = osm(tmp_path / "a.osm").read_bytes() + b" " * 5000
    for name, pack in (("a.osm.gz", gzip.compress), ("a.osm.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(pack(content))
        assert read_city(tmp_path / name).n_buildings == 1
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(CityFileError, match="b.gz: is neither.*unpack it first"):
        read_city(tmp_path / "b.gz")


@pytest.mark.parametrize("kind, pack", [("osm", bytes), ("osm", gzip.compress), ("gml", bytes),
                                        ("gml", gzip.compress)])
def test_a_long_comment_at_the_beginning(tmp_path, kind, pack):
    path = FILES[kind](tmp_path / f"a.{kind}")
    declaration, text = re.fullmatch(r"(<\?xml.*?\?>)?(.*)", path.read_text(), re.DOTALL).groups()
    other = "CityModel" if kind == "osm" else "osm"
    licence = "".join(f"<!-- <{other}> {k} -->\n" for k in range(3000))
    path.write_bytes(pack(((declaration or "") + licence + text).encode()))
    assert read_city(path).n_buildings == 1


@pytest.mark.parametrize("name", ["city_gz", "city.osm", "city.bz2"])
def test_packed_openstreetmap_by_any_name(tmp_path, name):
    content = osm(tmp_path / "a.osm").read_bytes()
    for pack in (gzip.compress, bz2.compress):
        (tmp_path / name).write_bytes(pack(content))
        assert read_city(tmp_path / name).n_buildings == 1
    (tmp_path / name).write_bytes(gzip.compress(content + b" " * 2_000_000)[:-500])
    with pytest.raises(CityFileError, match="cut off"):
        read_city(tmp_path / name)


def test_a_shapefile_needs_its_siblings_and_is_found_by_them(tmp_path):
    path = outlines(tmp_path / "houses.shp", driver="ESRI Shapefile")
    assert read_city(path).n_buildings == 1
    with pytest.raises(CityFileError, match=r"houses\.dbf: .*give houses\.shp"):
        read_city(tmp_path / "houses.dbf")


@pytest.mark.parametrize("content, words", [
    (b"", "is neither OpenStreetMap.*LAZ.*OctoMap.*it is empty"),
    (b"\xff\xd8\xff\xe0 JFIF", "neither"),
    (b"Dear all,\nplease find the city attached\n", "neither"), (b"PK\x03\x04 a zip", "unpack"),
    (b'{"a": 1}', "neither a GeoJSON"), (b'{"type": "FeatureColl', "cut off"),
    (b"<html><body>404</body></html>", "neither OpenStreetMap.*<html>; it is a web page"),
    (b"<?xml version='1.0'?><!-- k --><k:kml xmlns:k='a'/>", "<kml>; convert it to GeoJSON"),
    (b"<COLLADA version='1.4'/>", "<COLLADA>; convert it to OBJ")])
def test_what_is_not_read_is_told_what_is(tmp_path, content, words):
    path = tmp_path / "thing.las"
    path.write_bytes(content)
    with pytest.raises(CityFileError, match=rf"(?s)thing\.las: .*{words}"):
        read_city(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BEGINNINGS), st.one_of(st.binary(max_size=600), st.text().map(str.encode)))
def test_whatever_a_file_holds_an_error_says_so(tmp_path_factory, beginning, rest):
    path = tmp_path_factory.mktemp("any") / "any.dat"
    path.write_bytes(beginning + rest)
    try:
        read_city(path, RD)
    except CityFileError as error:
        assert "any.dat" in str(error)


def test_folders_missing_and_unreadable_files(tmp_path):
    with pytest.raises(CityFileError, match="is a folder"):
        read_city(tmp_path)
    with pytest.raises(CityFileError, match="no such file"):
        read_city(tmp_path / "nowhere.tif")
    with pytest.raises(CityFileError, match="at least one"):
        read_city([])
    locked = cloud(tmp_path / "locked.xyz")
    locked.chmod(0)
    if not os.access(locked, os.R_OK):      # root may read everything
        with pytest.raises(CityFileError, match="cannot be read"):
            read_city(locked)


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_is_read_into_a_given_frame(tmp_path, kind):
    path = FILES[kind](tmp_path / f"place.{kind}")
    frame = LocalFrame(52.001, 4.36, 1.0)
    assert read_city(path, frame=frame).frame == frame


def test_lidar_gives_footprints_their_heights(tmp_path):
    houses = outlines(tmp_path / "a.gpkg", boxes=(HALL, (5, 60, 15, 70)))
    scan = lidar(tmp_path / "b.laz")
    for order in ([houses, scan], [scan, houses]):
        city = read_city(order)
        hall, nothing = city.buildings
        assert hall.source is HeightSource.MEASURED and hall.top_z == pytest.approx(9.0, abs=0.1)
        assert hall.ground_z + city.frame.altitude_m == pytest.approx(2.0, abs=0.1)
        assert nothing.source is HeightSource.ASSUMED       # demolished, or not yet built
        assert city.terrain is not None and city.vertical_datum == "NAP height"
        assert city.height_sources["measured"] == 1
        assert city.frame == (read_city(order[0]).frame)
        grid = voxelise(city, resolution=1.0)
        inside = hall.footprint.centroid
        roof = hall.ground_z + hall.top_z
        assert grid.is_occupied((inside.x, inside.y, roof - 0.5))
        assert not grid.is_occupied((inside.x, inside.y, roof + 1.5))


def test_heights_that_are_known_stay(tmp_path):
    houses = outlines(tmp_path / "a.gpkg", height=np.array([7.5]))
    (hall,) = read_city([houses, lidar(tmp_path / "b.laz")]).buildings
    assert (hall.top_z, hall.source) == (7.5, HeightSource.MEASURED)


def test_a_building_at_the_edge_of_two_scans(tmp_path):
    xyz, _ = points()
    west = lidar(tmp_path / "west.laz", chosen=xyz[:, 0] < X0 + 50)
    east = lidar(tmp_path / "east.laz", chosen=xyz[:, 0] >= X0 + 50)
    whole = read_city([outlines(tmp_path / "a.gpkg"), west, east])
    assert whole.buildings[0].top_z == pytest.approx(9.0, abs=0.1)
    assert np.isfinite(whole.terrain.heights).mean() > 0.9
    assert np.nanmax(np.abs(whole.terrain.heights + whole.frame.altitude_m - 2.0)) < 0.2
    x0, y0, x1, y1 = whole.extent
    assert x1 - x0 > 98
    scans = read_city([west, east])
    assert len(scans.surfaces) == 2 and scans.extent[2] - scans.extent[0] > 98


def test_the_option_crs_is_for_files_that_name_none(tmp_path):
    houses, scan = outlines(tmp_path / "a.gpkg"), lidar(tmp_path / "b.laz", crs=None)
    with pytest.raises(CityFileError, match=r"b\.laz: names no reference system.*--crs"):
        read_city([houses, scan])
    city = read_city([houses, scan], RD)
    assert city.crs == "EPSG:28992" and city.buildings[0].top_z == pytest.approx(9.0, abs=0.1)
    with pytest.raises(CityFileError, match="outside the area"):
        read_city([houses, scan], ReadOptions(crs="EPSG:25833"))
    assert read_city(lidar(tmp_path / "c.laz"), ReadOptions(crs="EPSG:25833")).crs == "EPSG:7415"


def test_options_reach_geojson_and_openstreetmap(tmp_path):
    metres = tmp_path / "metres.geojson"
    metres.write_text(json.dumps({"type": "FeatureCollection", "features": [{
        "type": "Feature", "properties": {"ridge": 14.5}, "geometry": {
            "type": "Polygon", "coordinates": [(np.array(square(*HALL)) + (X0, Y0)).tolist()]}}]}))
    with pytest.raises(CityFileError, match="metres.geojson.*--crs"):
        read_city(metres)
    told = ReadOptions(crs="EPSG:28992", height_attribute="ridge")
    city = read_city(metres, told)
    assert city.crs == "EPSG:28992" and city.buildings[0].top_z == 14.5
    frame = LocalFrame(52.001, 4.36, 1.0)
    there = read_city(geojson(tmp_path / "degrees.geojson"), frame=frame).buildings[0].footprint
    found = read_city(metres, told, frame=frame).buildings[0].footprint
    assert shapely.hausdorff_distance(found, there) < 0.01
    text = osm(tmp_path / "a.osm").read_text()
    (tmp_path / "a.osm").write_text(text.replace("<tag", '<tag k="ridge" v="17 m"/><tag'))
    assert read_city(tmp_path / "a.osm", told).buildings[0].top_z == 17.0


def test_terrain_and_canopy_beside_openstreetmap(tmp_path):
    north = np.arange(80.0)[::-1]
    slope = geotiff(tmp_path / "dem.tif", 40 + 0.1 * np.broadcast_to(north[:, None], (80, 100)))
    trees = np.zeros((80, 100))
    trees[10:14, 10:14] = 8.0
    canopy = geotiff(tmp_path / "chm.tif", trees)
    city = read_city(geojson(tmp_path / "a.geojson"), terrain=slope, canopy=canopy)
    assert city.terrain is not None and [s.kind for s in city.surfaces] == ["tree"]
    assert len(city.buildings) == 1 and city.frame == read_city(tmp_path / "a.geojson").frame
    grid = voxelise(city, resolution=1.0)
    hall = city.buildings[0]
    x, y = hall.footprint.centroid.coords[0]
    # on the slope: 40 m and more above the frame's zero
    assert grid.is_occupied((x, y, 43.5)) and grid.is_occupied((x, y, 43.5 + hall.top_z - 1.0))
    assert not grid.is_occupied((x, y, 48.0 + hall.top_z))


def test_a_terrain_that_is_given_replaces_others(tmp_path):
    flat = geotiff(tmp_path / "dem.tif", np.full((80, 100), 5.0))
    scan = lidar(tmp_path / "a.laz")
    city = read_city(scan, terrain=flat)
    assert np.nanmax(np.abs(city.terrain.heights + city.frame.altitude_m - 5.0)) < 0.01
    assert city.surfaces       # of the scan
    again = read_city(geojson(tmp_path / "a.geojson"), terrain=scan)
    assert again.surfaces == () and again.terrain is not None
    with pytest.raises(CityFileError, match="holds no terrain"):
        read_city(scan, terrain=geojson(tmp_path / "b.geojson"))


def test_a_raster_of_buildings_gives_outlines_their_heights(tmp_path):
    heights = np.zeros((80, 100))
    heights[80 - HALL[3]:80 - HALL[1], HALL[0]:HALL[2]] = 14.0
    raster = geotiff(tmp_path / "ndsm.tif", heights)
    city = read_city([geojson(tmp_path / "a.geojson"), raster])
    assert city.buildings[0].top_z == pytest.approx(14.0)
    assert city.buildings[0].source is HeightSource.MEASURED


def test_a_model_in_local_metres_beside_a_place_on_earth(tmp_path):
    house, scan = obj(tmp_path / "house.obj"), octomap(tmp_path / "scan.bt")
    town = outlines(tmp_path / "town.gpkg")
    lost = read_city([house, scan])
    assert lost.crs == LOCAL and len(lost.solids) == len(lost.boxes) == 1
    for other in (town, lidar(tmp_path / "a.laz")):
        with pytest.raises(CityFileError, match=r"house\.obj: has local metres and .*--origin"):
            read_city([house, other])
    origin = SourceCrs("EPSG:28992").frame_at(X0, Y0)
    placed = ReadOptions(origin=f"{origin.latitude_deg},{origin.longitude_deg},0")
    both = read_city([house, town], placed)
    (solid,) = both.solids
    corners = solid.triangles[..., :2].reshape(-1, 2)
    assert both.buildings[0].footprint.buffer(1.0).covers(shapely.MultiPoint(corners))
    after = read_city([town, house])
    assert any("taken for metres of the map frame" in note for note in after.notes)


def test_notes_name_their_file(tmp_path):
    city = read_city([outlines(tmp_path / "a.gpkg"), lidar(tmp_path / "b.laz")])
    assert any(note.startswith("b.laz: LiDAR points") for note in city.notes)


def test_mixed_datums_are_refused(tmp_path):
    scans = [lidar(tmp_path / "nap.laz"), lidar(tmp_path / "ostend.laz", crs="EPSG:28992+5710")]
    with pytest.raises(CityFileError, match="different datums: nap.laz above NAP.*, ostend.laz"):
        read_city(scans)


def test_options_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="origin"):
        read_city(obj(tmp_path / "a.obj"), ReadOptions(origin="north pole"))


def test_helsinki_beside_a_tower(tmp_path):
    town = read_city(helsinki_file())
    lat, lon, _ = town.frame.to_wgs84(np.array([500.0, 500.0, 0.0]))
    both = read_city([helsinki_file(), obj(tmp_path / "tower.obj")],
                     ReadOptions(origin=f"{lat},{lon}"))
    assert both.n_buildings == town.n_buildings + 1 and both.frame == town.frame
    lower = both.solids[0].triangles.min(axis=(0, 1))
    assert lower == pytest.approx([530.0, 520.0, 0.0], abs=0.01)


# --- real places --------------------------------------------------------------------------

needs_data = pytest.mark.skipif(not DATA.is_dir(),
                                reason="no folder shared/data beside the project")


@needs_data
@pytest.mark.parametrize("order", [1, -1])
def test_roofs_of_delft_are_as_high_as_lidar_says(order):
    files = [DATA / "delft_bgt_pand_2.gpkg", DATA / "delft_ahn3_2.laz"]
    city = read_city(files[::order], RD)
    las = laspy.read(files[1])
    x, y, z = np.array(las.x), np.array(las.y), np.array(las.z)
    roof = np.array(las.classification) == 6
    _, _, wkb, _ = pyogrio.raw.read(files[0])
    errors = []
    source = SourceCrs("EPSG:28992")
    for outline in shapely.force_2d(shapely.from_wkb(wkb)):
        over = roof & shapely.contains_xy(outline, x, y)
        centre = outline.representative_point()
        here = shapely.Point(source.to_enu(city.frame, centre.x, centre.y)[:2])
        (b,) = [b for b in city.buildings if b.footprint.contains(here)]
        assert b.source is HeightSource.MEASURED
        errors.append(b.ground_z + b.top_z + city.frame.altitude_m - np.percentile(z[over], 90))
    assert len(errors) == 21 and np.median(np.abs(errors)) < 0.5


@needs_data
def test_the_twin_of_delft_holds_every_roof_that_lidar_saw():
    path = DATA / "delft_ahn3_2.laz"
    city = read_city([DATA / "delft_bgt_pand_2.gpkg", path], RD)
    grid = voxelise(city, resolution=1.0)
    las = laspy.read(path)
    high = np.array(las.classification) != 9
    enu = SourceCrs(RD.crs).to_enu(city.frame, np.array(las.x), np.array(las.y), np.array(las.z))
    ground = read_lidar(path, RD, city.frame).terrain
    i, j = np.floor((enu[:, :2] - ground.origin) / ground.cell).astype(int).T
    high &= enu[:, 2] > ground.heights[i, j] + 1.5
    assert grid.is_occupied(enu[high] - (0, 0, 0.2)).mean() > 0.999


@needs_data
@pytest.mark.parametrize("name", [p.name for p in sorted(DATA.glob("*")) if p.suffix != ".md"]
                         if DATA.is_dir() else [])
def test_every_file_at_hand_is_read(name):
    city = read_city(DATA / name, RD if "ahn3" in name else ReadOptions())
    assert city.n_buildings or city.boxes or city.terrain is not None or city.surfaces
