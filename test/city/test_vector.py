"""Footprints of GeoPackage, Shapefile, SQLite and FlatGeobuf, good and bad."""

import re
import shutil
import sqlite3
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import Transformer

from parallel_city_ros.city.model import HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.vector import is_vector, read_vector
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame

DATA = Path(__file__).parents[3] / "shared" / "data"
SQUARE = shapely.box(385000, 6672000, 385010, 6672020)      # near Helsinki in EPSG:25835
FAR = shapely.box(385100, 6672000, 385112, 6672012)


def write(path, geometry, crs="EPSG:25835", layer=None, driver=None, **columns):
    pyogrio.raw.write(
        path, np.array([None if g is None else shapely.to_wkb(g) for g in geometry], object),
        [np.array(c) for c in columns.values()], list(columns), layer=layer, driver=driver,
        geometry_type="Unknown" if path.suffix != ".shp" else "Polygon", crs=crs,
        append=path.exists())
    return path


@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.sqlite", "a.fgb"])
def test_every_kind_of_file(tmp_path, name):
    path = write(tmp_path / name, [SQUARE, FAR], HAUTEUR=[12.5, 30.0])
    assert is_vector(path, path.read_bytes()[:64])
    city = read_vector(path)
    assert sorted(b.top_z for b in city.buildings) == [12.5, 30.0]
    assert city.n_buildings == city.height_sources["measured"] == 2
    assert np.allclose(sorted(b.footprint.area for b in city.buildings), [144, 200], rtol=2e-3)
    assert city.crs == "EPSG:25835" and city.extent[:2] == pytest.approx((0, 0), abs=2.0)


@pytest.mark.parametrize("name", ["Building Height", "HAUTEUR", "hoogte", "measuredHeight",
                                  "roof_height", "HEIGHT", "Gebäudehöhe", "bld_height"])
def test_usual_names_of_heights(tmp_path, name):
    path = write(tmp_path / "a.gpkg", [SQUARE], storeys=[9], **{name: [7.5]})
    assert read_vector(path).buildings[0].top_z == 7.5


@pytest.mark.parametrize("name", ["num_floors", "Geschosszahl", "ANZAHL_GESCHOSSE"])
def test_usual_names_of_storeys(tmp_path, name):
    (house,) = read_vector(write(tmp_path / "a.gpkg", [SQUARE], **{name: [3]})).buildings
    assert house.source is HeightSource.LEVELS and house.top_z == pytest.approx(9.6)


def test_a_shapefile_shortens_names(tmp_path):
    path = write(tmp_path / "a.shp", [SQUARE, FAR], building_height=[7.5, np.nan],
                 building_levels=[9, 3])
    assert [b.top_z for b in read_vector(path).buildings] == [7.5, pytest.approx(9.6)]


@pytest.mark.filterwarnings("ignore:.*decode error message")
@pytest.mark.parametrize("encoding", ["UTF-8", "ISO-8859-1"])
def test_a_shapefile_cuts_names_within_a_letter(tmp_path, encoding):
    """Ten bytes of 'Gebäudehöhe' end in the middle of its ö."""
    path = tmp_path / "a.shp"
    pyogrio.raw.write(path, np.array([shapely.to_wkb(SQUARE)], object),
                      [np.array([8.5]), np.array(["Süd"], object)], ["Gebäudehöhe", "id"],
                      geometry_type="Polygon", crs="EPSG:25835", encoding=encoding)
    (house,) = read_vector(path).buildings
    assert (house.top_z, house.source) == (8.5, HeightSource.MEASURED)
    assert house.building_id == "Süd"


def test_what_one_attribute_does_not_know_another_may(tmp_path):
    nan = np.nan
    far = [shapely.box(385000 + 50 * k, 6672000, 385010 + 50 * k, 6672010) for k in range(5)]
    city = read_vector(write(
        tmp_path / "a.gpkg", far, height=[8.0, nan, nan, nan, nan], floors=[9, 2, 2, 0, 2],
        h_dak_max=[50.0, 25.0, nan, nan, 5.0], h_maaiveld=[10.0, 11.0, 12.0, 13.0, 14.0]))
    assert [b.top_z for b in city.buildings] == pytest.approx([8.0, 14.0, 6.4, 12.0, 6.4])
    assert [b.source for b in city.buildings] == [
        HeightSource.MEASURED, HeightSource.MEASURED, HeightSource.LEVELS, HeightSource.ASSUMED,
        HeightSource.LEVELS]
    assert city.height_sources == {"measured": 2, "levels": 2, "assumed": 1}
    assert "1 roofs lie below their ground, such as that of feature/4" in city.notes[0]


def test_heights_as_people_write_them(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE, FAR], height=np.array(["12,5 m", "tall"], object))
    city = read_vector(path)
    assert [b.top_z for b in city.buildings] == [12.5, 12.5]
    assert "1 values of height are no heights, such as 'tall' of feature/1" in city.notes[0]


FEET = [shapely.box(980_000 + 100 * k, 195_000, 980_060 + 100 * k, 195_040) for k in range(3)]


@pytest.mark.parametrize("unit, heights, grounds, words", [
    ("", (30.0, 100.0, 100.0), (10.0, 20.0, 30.0),
     "EPSG:2263 is in units of 0.304801 m.*HEIGHT_ROOF and GROUND_ELEVATION taken as metres.*"
     "--height-unit ft"),
    ("m", (30.0, 100.0, 100.0), (10.0, 20.0, 30.0), ""),
    ("ft", (9.144, 30.48, 381.0), (3.048, 6.096, 9.144),
     "HEIGHT_ROOF and GROUND_ELEVATION: taken as units of 0.3048 m, as --height-unit says")])
def test_attributes_beside_coordinates_in_feet(tmp_path, unit, heights, grounds, words):
    """State planes and their buildings: nothing in the file says which unit heights have."""
    path = write(tmp_path / "a.gpkg", FEET, "EPSG:2263", HEIGHT_ROOF=[30.0, 100.0, 1250.0],
                 GROUND_ELEVATION=[10.0, 20.0, 30.0])
    city = read_vector(path, ReadOptions(height_unit=unit))
    assert [b.ground_z + city.frame.altitude_m for b in city.buildings] == pytest.approx(grounds)
    assert [b.top_z for b in city.buildings][:2] == pytest.approx(heights[:2])
    if unit == "ft":
        assert city.buildings[2].top_z == pytest.approx(heights[2])     # no tower of 1250 m
    assert any(re.search(words, n) for n in city.notes) if words else not any(
        "HEIGHT_ROOF and" in n for n in city.notes)


def test_a_height_that_names_its_unit_keeps_it(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE, FAR], floors=[1, 1],
                 height=np.array(["100", "20 m"], object))
    city = read_vector(path, ReadOptions(height_unit="ft"))
    assert [b.top_z for b in city.buildings] == pytest.approx([30.48, 20.0])
    with pytest.raises(ConfigError, match="height_unit must be one of"):
        ReadOptions(height_unit="fathom")


def test_names_tell_all_apart(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE, FAR], id=[0, 0], cleabs=np.array(["x", "y"]))
    assert [b.building_id for b in read_vector(path).buildings] == ["x", "y"]


def test_heights_by_name_by_storeys_or_assumed(tmp_path):
    asked = ReadOptions(height_attribute="top")
    path = write(tmp_path / "a.gpkg", [SQUARE, FAR], height=[5.0, 6.0], top=[7.0, 8.0])
    assert [b.top_z for b in read_vector(path, asked).buildings] == [7.0, 8.0]
    path = write(tmp_path / "b.gpkg", [SQUARE, FAR], floors=[3, 0])
    low, flat = read_vector(path).buildings
    assert low.source is HeightSource.LEVELS and low.top_z == pytest.approx(9.6)
    assert flat.source is HeightSource.ASSUMED
    path = write(tmp_path / "c.gpkg", [SQUARE], colour=["red"])
    city = read_vector(path)
    assert city.buildings[0].source is HeightSource.ASSUMED and "--height-attr" in city.notes[0]
    with pytest.raises(CityFileError, match="no attribute 'top'; it has colour"):
        read_vector(path, asked)


@pytest.mark.parametrize("value", [0.0, -3.0, 3_000_000.0, float("nan")])
def test_a_height_that_cannot_be_is_assumed_and_said(tmp_path, value):
    path = write(tmp_path / "a.gpkg", [SQUARE, FAR], height=[value, 20.0])
    city = read_vector(path)
    assert city.buildings[0].source is HeightSource.ASSUMED and city.buildings[0].top_z == 20.0
    assert np.isnan(value) or "1 values of height" in city.notes[0]


def test_buildings_stand_on_the_ground_that_the_file_gives(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE, FAR], height=[10.0, 20.0], Z_MIN_SOL=[31.5, 34.0])
    city = read_vector(path)
    assert city.frame.altitude_m == 31.0
    assert [b.ground_z for b in city.buildings] == [0.5, 3.0]
    grid = voxelise(city, 1.0)
    centre = city.buildings[1].footprint.centroid
    assert grid.is_occupied([centre.x, centre.y, 22.5])
    assert not grid.is_occupied([centre.x, centre.y, 23.5])


def test_outlines_that_cross_themselves_or_are_there_twice(tmp_path):
    bow = shapely.Polygon([(385200, 6672000), (385210, 6672010), (385210, 6672000),
                           (385200, 6672010)])
    thin = shapely.Polygon([(385200, 6672000), (385210, 6672000), (385205, 6672000)])
    endless = shapely.Polygon([(385200, 6672000), (np.inf, 6672000), (385205, 6672009)])
    path = write(tmp_path / "a.gpkg", [SQUARE, SQUARE, bow, thin, endless, None,
                                       shapely.Point(385000, 6672000)], height=[9.0] * 7)
    city = read_vector(path)
    assert city.n_buildings == 2 and city.n_skipped == 5
    told = " ".join(city.notes)
    assert all(word in told for word in ("twice", "mended", "no area", "no numbers", "polygons"))


def test_of_doubled_outlines_the_highest_stands(tmp_path):
    again = shapely.Polygon(np.roll(np.array(SQUARE.exterior.coords)[:-1], 1, axis=0)[::-1])
    path = write(tmp_path / "a.gpkg", [SQUARE, again, FAR], height=[5.0, 9.0, np.nan])
    city = read_vector(path)
    assert [b.top_z for b in city.buildings] == [9.0, 12.0] and city.n_skipped == 1
    assert city.height_sources == {"measured": 1, "levels": 0, "assumed": 1}


def curve_polygon():
    """A circle of 10 m, as WKB of four arcs."""
    x, y = 385010, 6672010
    ring = [(x - 10, y), (x, y + 10), (x + 10, y), (x, y - 10), (x - 10, y)]
    return struct.pack("<BII", 1, 10, 1) + struct.pack("<BII", 1, 8, 5) \
        + b"".join(struct.pack("<dd", *p) for p in ring)


@pytest.mark.parametrize("several", [False, True])
def test_arcs_become_polygons(tmp_path, several):
    path = write(tmp_path / "a.gpkg", [SQUARE], layer="a", height=[5.0])
    wkb = curve_polygon()
    wkb = struct.pack("<BII", 1, 12, 1) + wkb if several else wkb
    with sqlite3.connect(path) as file:
        (old,) = file.execute("SELECT geom FROM a").fetchone()
        for (trigger,) in file.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            file.execute(f'DROP TRIGGER "{trigger}"')
        file.execute("UPDATE a SET geom = ?", (b"GP\0\1" + old[4:8] + wkb,))
    file.close()
    (round_one,) = read_vector(path).buildings
    assert round_one.footprint.area == pytest.approx(100 * np.pi, rel=3e-3)


def test_heights_of_corners_are_not_needed_and_polygons_in_collections_are_found(tmp_path):
    high = shapely.force_3d(SQUARE, 17.0)
    both = shapely.GeometryCollection([FAR, shapely.Point(385000, 6672000)])
    city = read_vector(write(tmp_path / "a.gpkg", [high, both], height=[5.0, 6.0]))
    assert [round(b.footprint.area) for b in city.buildings] == [200, 144]
    assert not city.buildings[0].footprint.has_z


def body(x=385000.0, low=30.0, high=42.0):
    """Roof, floor and walls of 20 x 10 m: rings of (5, 3) corners."""
    plan = [(x, 6672000.0), (x + 20, 6672000.0), (x + 20, 6672010.0), (x, 6672010.0)]
    rings = [[(*p, z) for p in (*plan, plan[0])] for z in (low, high)]
    for a, b in zip(plan, (*plan[1:], plan[0]), strict=True):
        rings.append([(*a, low), (*b, low), (*b, high), (*a, high), (*a, low)])
    return np.array(rings)


def multipatch(path, *bodies, triangles):
    """A Shapefile of bodies of rings, or of triangles; pyogrio writes none of the latter."""
    strip, outer_ring = 0, 2
    records = []
    for rings in bodies:
        parts = rings[:, [0, 1, 3, 2]] if triangles else rings      # a strip of two triangles
        points = parts.reshape(-1, 3)
        (x0, y0, z0), (x1, y1, z1) = points.min(axis=0), points.max(axis=0)
        starts = parts.shape[1] * np.arange(len(parts))
        kinds = np.full(len(parts), strip if triangles else outer_ring)
        records.append(
            struct.pack("<i4d2i", 31, x0, y0, x1, y1, len(parts), len(points))
            + starts.astype("<i4").tobytes() + kinds.astype("<i4").tobytes()
            + points[:, :2].tobytes() + struct.pack("<2d", z0, z1) + points[:, 2].tobytes())
    heads = [struct.pack(">2i", n, len(r) // 2) for n, r in enumerate(records, 1)]
    content = b"".join(h + r for h, r in zip(heads, records, strict=True))
    starts = np.cumsum([100, *(8 + len(r) for r in records)])
    index = b"".join(struct.pack(">2i", start // 2, len(r) // 2)
                     for start, r in zip(starts, records, strict=False))
    every = np.concatenate(bodies).reshape(-1, 3)
    box = (*every.min(axis=0)[:2], *every.max(axis=0)[:2])
    for ending, rest in ((".shp", content), (".shx", index)):
        head = struct.pack(">i20xi", 9994, (100 + len(rest)) // 2) + struct.pack(
            "<2i8d", 1000, 31, *box, every[:, 2].min(), every[:, 2].max(), 0, 0)
        path.with_suffix(ending).write_bytes(head + rest)
    return path


@pytest.mark.parametrize("kind", ["polygons", "rings", "triangles"])
def test_bodies_with_walls_bring_height_and_ground(tmp_path, kind):
    bodies = body(), body(385100.0, 31.0, 60.5)
    if kind == "polygons":
        path = write(tmp_path / "a.gpkg", [
            shapely.MultiPolygon([shapely.Polygon(r) for r in rings]) for rings in bodies])
    else:
        path = multipatch(tmp_path / "a.shp", *bodies, triangles=kind == "triangles")
    city = read_vector(path, ReadOptions(crs="EPSG:25835"))
    assert [(b.top_z, b.ground_z, b.source) for b in city.buildings] == [
        (12.0, 0.0, HeightSource.MEASURED), (29.5, 1.0, HeightSource.MEASURED)]
    assert city.frame.altitude_m == 30.0
    assert [b.footprint.area for b in city.buildings] == pytest.approx([200, 200], rel=2e-3)
    assert city.notes == ("2 heights and grounds are those of walls, from the Z of their corners",)


def test_what_attributes_say_counts_before_walls(tmp_path):
    solid = [shapely.MultiPolygon([shapely.Polygon(r) for r in body(x)])
             for x in (385000.0, 385100.0)]
    city = read_vector(write(tmp_path / "a.gpkg", solid, height=[7.0, np.nan], floors=[2, 2],
                             ground=[np.nan, 28.0]))
    assert [(b.top_z, b.ground_z + city.frame.altitude_m) for b in city.buildings] == [
        (7.0, 30.0), (14.0, 28.0)]


def test_outlines_on_a_slope_are_not_taken_for_houses(tmp_path):
    """Their Z spans metres too, but is that of the ground or of eaves."""
    draped = [shapely.Polygon([(x, y, 30 + 0.3 * (x - 385000)) for x, y in
                               shapely.get_coordinates(g)]) for g in (SQUARE, FAR)]
    city = read_vector(write(tmp_path / "a.gpkg", draped, colour=["red", "blue"]))
    assert city.height_sources["assumed"] == 2
    assert any(n.startswith("Z of the corners, 30 to 63.6 m, is not used") for n in city.notes)
    flat = [shapely.force_3d(g, 0.0) for g in (SQUARE, FAR)]
    assert not any("Z of" in n for n in read_vector(write(
        tmp_path / "b.gpkg", flat, colour=["red", "blue"])).notes)


def zipped(tmp_path, *stems, folder=""):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for stem in stems:
            for ending in (".shp", ".shx", ".dbf", ".prj"):
                packed.write(tmp_path / (stem + ending), f"{folder}{stem}{ending}")
    return path


def test_a_zip_of_shapefiles(tmp_path):
    write(tmp_path / "east.shp", [SQUARE], height=[9.0])
    write(tmp_path / "west.shp", [FAR], height=[7.0])
    one = zipped(tmp_path, "east", folder="deep/down here/")
    assert is_vector(one, one.read_bytes()[:64])
    assert read_vector(one).buildings[0].top_z == 9.0
    other = shutil.copy(one, tmp_path / "a.dat")
    assert is_vector(other, one.read_bytes()[:64]) and read_vector(other).n_buildings == 1
    cut = tmp_path / "cut.zip"
    cut.write_bytes(one.read_bytes()[:-100])
    assert is_vector(cut, cut.read_bytes()[:64])
    with pytest.raises(CityFileError, match="cut.zip.*cut off"):
        read_vector(cut)
    two = zipped(tmp_path, "east", "west")
    with pytest.raises(CityFileError, match="east, west; say which with --layer"):
        read_vector(two)
    assert read_vector(two, ReadOptions(layer="west")).buildings[0].top_z == 7.0
    with zipfile.ZipFile(cut, "w") as packed:
        packed.writestr("readme.txt", "no map")
    assert not is_vector(cut, cut.read_bytes()[:64])
    assert not is_vector(cut, b"PK\x03\x04 a zip")


@pytest.mark.parametrize("ending", [".shp", ".shx", ".dbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_shapefile_that_is_cut_off_is_not_half_read(tmp_path, ending, packed):
    many = [shapely.box(385000 + 20 * k, 6672000, 385010 + 20 * k, 6672010) for k in range(50)]
    path = write(tmp_path / "a.shp", many, height=[9.0] * 50)
    part = path.with_suffix(ending)
    part.write_bytes(part.read_bytes()[:part.stat().st_size * 2 // 3])
    with pytest.raises(CityFileError, match=rf"its \{ending} is cut off"):
        read_vector(zipped(tmp_path, "a") if packed else path)


@pytest.mark.parametrize("name", ["a.gpkg", "a.fgb", "a.sqlite"])
def test_other_files_that_are_cut_off(tmp_path, name):
    many = [shapely.box(385000 + 20 * k, 6672000, 385010 + 20 * k, 6672010) for k in range(300)]
    path = write(tmp_path / name, many, height=[9.0] * 300)
    for share in (0.4, 0.9):
        cut = tmp_path / f"cut{path.suffix}"
        cut.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
        with pytest.raises(CityFileError, match="cut.*cut off"):
            read_vector(cut)


def test_a_shapefile_of_another_name_is_told_to_be_one(tmp_path):
    path = write(tmp_path / "a.shp", [SQUARE], height=[9.0])
    with pytest.raises(CityFileError, match="a.dat: is a Shapefile.*name it .shp"):
        read_vector(shutil.copy(path, tmp_path / "a.dat"))


def test_the_same_place_in_several_systems(tmp_path):
    """Also into the frame of another file, and with axes that the authority has the other way."""
    first = read_vector(write(tmp_path / "a.gpkg", [SQUARE, FAR], height=[9.0, 9.0]))
    for crs in ("EPSG:4326", "EPSG:3857", "EPSG:3067", "EPSG:3879", "EPSG:4258"):
        to_other = Transformer.from_crs("EPSG:25835", crs, always_xy=True).transform
        there = [shapely.transform(g, lambda c, t=to_other: np.column_stack(t(*c.T)))
                 for g in (SQUARE, FAR)]
        path = write(tmp_path / f"{crs[5:]}.fgb", there, crs=crs, height=[9.0, 9.0])
        city = read_vector(path, frame=first.frame)
        assert city.frame == first.frame and city.crs == crs
        for a in first.buildings:
            assert min(shapely.hausdorff_distance(a.footprint, b.footprint)
                       for b in city.buildings) < 0.01


def test_mixed_systems_in_one_layer_are_refused(tmp_path):
    degrees = shapely.box(25.0, 60.0, 25.001, 60.001)
    with pytest.raises(CityFileError, match="outside the area.*names a wrong one"):
        read_vector(write(tmp_path / "a.gpkg", [SQUARE, degrees], height=[9.0, 9.0]))


def test_a_frame_with_an_altitude(tmp_path):
    path = write(tmp_path / "a.gpkg", [SQUARE, FAR], height=[9.0, 9.0], ground=[31.5, -9999.0])
    city = read_vector(path, frame=LocalFrame(60.16, 24.93, 20.0))
    assert [b.ground_z for b in city.buildings] == [11.5, None]
    assert "-9999.0 of feature/1" in city.notes[0]
    assert read_vector(path).frame.altitude_m == 31.0


def test_what_cannot_be_read_says_why(tmp_path):
    plain = write(tmp_path / "plain.shp", [SQUARE], height=[9.0])
    (tmp_path / "plain.prj").unlink()
    with pytest.raises(CityFileError, match="--crs"):
        read_vector(plain)
    assert read_vector(plain, ReadOptions(crs="EPSG:25835")).n_buildings == 1
    with pytest.raises(CityFileError, match="plain.shp.*outside the area.*--crs"):
        read_vector(plain, ReadOptions(crs="EPSG:28992"))
    with pytest.raises(CityFileError, match="names no coordinate reference system"):
        read_vector(plain, ReadOptions(crs="EPSG:0"))
    two = write(tmp_path / "two.gpkg", [SQUARE], layer="east", height=[9.0])
    write(two, [FAR], layer="west", height=[9.0])
    with pytest.raises(CityFileError, match="east, west; say which with --layer"):
        read_vector(two)
    assert read_vector(two, ReadOptions(layer="west")).n_buildings == 1
    with pytest.raises(CityFileError, match="no layer 'north'"):
        read_vector(two, ReadOptions(layer="north"))
    whole = two.read_bytes()
    (tmp_path / "cut.gpkg").write_bytes(whole[:len(whole) // 3])
    with pytest.raises(CityFileError, match="cut.gpkg.*cut off"):
        read_vector(tmp_path / "cut.gpkg")
    points = write(tmp_path / "points.gpkg", [shapely.Point(385000, 6672000)], height=[9.0])
    with pytest.raises(CityFileError, match="no buildings"):
        read_vector(points)
    with pytest.raises(CityFileError, match="no such file"):
        read_vector(tmp_path / "absent.gpkg")


@pytest.mark.skipif(not DATA.is_dir(), reason="the sample city files are not here")
def test_sample_files():
    nantes = read_vector(DATA / "nantes_bdtopo_buildings.gpkg")
    assert nantes.n_buildings == 8639 and nantes.height_sources["measured"] == 8565
    assert sum(b.ground_z is not None for b in nantes.buildings) == 8610
    east, north = nantes.extent[2] - nantes.extent[0], nantes.extent[3] - nantes.extent[1]
    assert (east, north) == (pytest.approx(2740, abs=140), pytest.approx(2290, abs=140))
    assert read_vector(DATA / "delft_bgt_pand_2.gpkg").n_buildings == 21
