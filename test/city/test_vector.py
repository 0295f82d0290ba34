"""Footprints of GeoPackage, Shapefile, SQLite and FlatGeobuf, good and bad."""

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from parallel_city_ros.city.model import HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.vector import is_vector, read_vector
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError

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
