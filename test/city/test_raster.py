"""GeoTIFF as terrain and as things on the ground, good and bad."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin

from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.raster import is_geotiff, read_raster
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import SourceCrs

DATA = Path(__file__).parents[3] / "shared" / "data"
X, Y, PIXEL = 385000.0, 6672500.0, 2.5      # upper left corner in EPSG:25835, near Helsinki
HILL = np.fromfunction(lambda r, c: 20 + 0.5 * c + 0.25 * r, (60, 80)).astype(np.float32)
BLOCKS = np.zeros((60, 80), np.float32)
BLOCKS[10:14, 20:26], BLOCKS[40:41, 60:61] = 15.0, 33.5


NORTH_UP = from_origin(X, Y, PIXEL, PIXEL)


def write(path, values, crs="EPSG:25835", transform=NORTH_UP, **more):
    values = np.atleast_3d(values.T).T
    settings = {"driver": "GTiff", "dtype": values.dtype, "count": len(values), "crs": crs,
                "height": values.shape[1], "width": values.shape[2], "transform": transform}
    with rasterio.open(path, "w", **settings | more) as file:
        file.write(values)
    return path


def at(city, row, column):
    """ENU of the centre of a pixel."""
    return SourceCrs("EPSG:25835").to_enu(city.frame, X + (column + 0.5) * PIXEL,
                                          Y - (row + 0.5) * PIXEL)


def test_terrain_is_where_it_was(tmp_path):
    path = write(tmp_path / "a.tif", HILL)
    assert is_geotiff(path.read_bytes()[:16])
    city = read_raster(path)
    assert city.terrain is not None and not city.surfaces and city.frame.altitude_m == 20.0
    grid = voxelise(city, 2.0)
    for row, column in ((5, 5), (30, 40), (55, 70)):
        assert grid.ground_at(at(city, row, column)) == pytest.approx(
            HILL[row, column] - 20, abs=0.1)
    assert not len(grid.voxels()) and "--kind" in city.notes[0]


def test_no_building_gets_lost(tmp_path):
    city = read_raster(write(tmp_path / "a.tif", BLOCKS))
    assert city.n_buildings == 2 and city.surfaces[0].kind == "building"
    grid = voxelise(city, 1.0)
    for row, column in np.argwhere(BLOCKS > 0):
        for du in (-1.2, 0, 1.2):
            place = at(city, row, column) + (du, -du, 0)
            assert grid.is_occupied(place + (0, 0, BLOCKS[row, column] - 0.5))
            assert not grid.is_occupied(place + (0, 0, BLOCKS[row, column] + 1.5))
    assert not grid.is_occupied(at(city, 25, 50) + (0, 0, 0.5))
    assert not read_raster(tmp_path / "a.tif", ReadOptions(kind="tree")).n_buildings


def test_unknown_pixels_scales_whole_numbers_and_bands(tmp_path):
    holes = (HILL * 10).astype(np.int16)
    holes[20:30, 20:30] = -9999
    path = write(tmp_path / "a.tif", np.stack([holes, holes]), nodata=-9999)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.1, 1.0)
    city = read_raster(path, ReadOptions(kind="terrain"))
    assert "2 bands" in city.notes[0]
    assert np.isnan(city.terrain.heights).any()
    grid = voxelise(city, 2.0)      # holes are closed with what is next to them
    inside, beside = grid.ground_at(at(city, 25, 25)), grid.ground_at(at(city, 25, 19))
    assert inside == pytest.approx(beside, abs=6.0)


def test_a_turned_raster_is_turned_back(tmp_path):
    turned = Affine.translation(X, Y) * Affine.rotation(30.0) * Affine.scale(PIXEL, -PIXEL)
    city = read_raster(write(tmp_path / "a.tif", BLOCKS, transform=turned))
    x, y = turned * (23.0, 12.0)
    grid = voxelise(city, 1.0)
    assert grid.is_occupied(SourceCrs("EPSG:25835").to_enu(city.frame, x, y) + (0, 0, 14.5))


@pytest.mark.parametrize("change, words", [
    (lambda v: np.where(v > 0, 3e6, v), "3e\\+06 m at row 10, column 20.*--kind"),
    (lambda v: v - 50, "-50 m at row 0"), (lambda v: v * np.nan, "no heights")])
def test_heights_that_cannot_be(tmp_path, change, words):
    path = write(tmp_path / "a.tif", change(BLOCKS).astype(np.float32))
    with pytest.raises(CityFileError, match=words):
        read_raster(path, ReadOptions(kind="building"))


def test_what_cannot_be_read_says_why(tmp_path):
    bare = write(tmp_path / "bare.tif", BLOCKS, crs=None)
    with pytest.raises(CityFileError, match="bare.tif.*--crs"):
        read_raster(bare)
    assert read_raster(bare, ReadOptions(crs="EPSG:25835")).n_buildings == 2
    with pytest.raises(CityFileError, match="outside the area"):
        read_raster(bare, ReadOptions(crs="EPSG:28992"))
    with pytest.raises(CityFileError, match="none of terrain, building, tree"):
        read_raster(bare, ReadOptions(crs="EPSG:25835", kind="roof"))
    (tmp_path / "cut.tif").write_bytes(bare.read_bytes()[:200])
    with pytest.raises(CityFileError, match="cut.tif.*cut off"):
        read_raster(tmp_path / "cut.tif")
    with pytest.raises(CityFileError, match="no such file"):
        read_raster(tmp_path / "absent.tif")


@pytest.mark.skipif(not DATA.is_dir(), reason="the sample city files are not here")
def test_sample_files():
    terrain = read_raster(DATA / "bilbao_crop_DEM.tif")
    heights = terrain.terrain.heights + terrain.frame.altitude_m
    assert np.nanmin(heights) == pytest.approx(-1, abs=1)
    assert np.nanmax(heights) == pytest.approx(91, abs=1)
    buildings = read_raster(DATA / "bilbao_crop_BDSM.tif", frame=terrain.frame)
    assert buildings.surfaces[0].kind == "building" and buildings.surfaces[0].cell == 2.5
    assert buildings.extent == pytest.approx(terrain.extent, abs=6.0)
    east, north = terrain.extent[2] - terrain.extent[0], terrain.extent[3] - terrain.extent[1]
    assert (east, north) == (pytest.approx(1000, abs=40), pytest.approx(1000, abs=40))
    assert read_raster(DATA / "bilbao_crop_CDSM.tif").terrain is None
    trees = read_raster(DATA / "bilbao_crop_CDSM.tif", ReadOptions(kind="tree"), terrain.frame)
    assert trees.surfaces[0].kind == "tree"
