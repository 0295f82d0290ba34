"""GeoTIFF as terrain and as things on the ground, good and bad."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, from_origin
from scipy.ndimage import label

from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.raster import grid_of, is_raster, read_raster, terrain_of_points
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
    assert is_raster(path.read_bytes()[:16])
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


def test_houses_that_grow_together_on_the_map_are_two_in_the_file(tmp_path):
    close = np.zeros((40, 60), np.float32)
    close[10:20, 10:20] = close[10:20, 21:30] = close[21:30, 21:30] = 9.0
    close[30, 30] = 9.0     # at a corner only
    path = write(tmp_path / "a.tif", close)
    for frame in (None, SourceCrs("EPSG:25835").frame_at(X - 101.3, Y - 307.9)):
        city = read_raster(path, frame=frame)
        assert city.n_buildings == city.height_sources["measured"] == 4
        assert any("touch at an edge" in note for note in city.notes)


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


@pytest.mark.parametrize("bands, more", [
    (3, {"photometric": "RGB"}), (4, {"photometric": "RGB", "alpha": "yes"}),
    (2, {"photometric": "MINISBLACK"}),
    (3, {"photometric": "YCBCR", "compress": "JPEG", "interleave": "pixel"})])
@pytest.mark.parametrize("kind", ["", "terrain"])
def test_a_picture_is_no_terrain(tmp_path, bands, more, kind):
    path = write(tmp_path / "ortho.tif", np.stack([HILL.astype(np.uint8)] * bands), **more)
    with pytest.raises(CityFileError, match="ortho.tif: is a picture.*give the DSM or DTM"):
        read_raster(path, ReadOptions(kind=kind))


def test_a_palette_is_a_picture_and_whole_metres_are_none(tmp_path):
    path = write(tmp_path / "a.tif", HILL.astype(np.uint8))
    assert read_raster(path).terrain is not None
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {n: (n, n, n, 255) for n in range(256)})
    with pytest.raises(CityFileError, match="is a picture.*palette"):
        read_raster(path)


def test_complex_numbers_are_no_heights(tmp_path, recwarn):
    path = write(tmp_path / "radar.tif", HILL.astype(np.complex64))
    with pytest.raises(CityFileError, match="radar.tif: holds complex numbers"):
        read_raster(path)
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["building", "terrain"])
def test_degrees_are_no_plane(tmp_path, kind):
    """Over 9 km at 60° N a plane through the corners is off by tens of metres."""
    step, rows, columns = 1e-4, 800, 800
    west, north = 24.9, 60.2
    values = np.zeros((rows, columns), np.float32)
    marks = [(20, 20), (20, 770), (400, 400), (400, 20), (770, 770), (770, 400)]
    for row, column in marks:
        values[row:row + 3, column:column + 3] = 20.0
    path = write(tmp_path / "a.tif", values, "EPSG:4326", from_origin(west, north, step, step))
    city = read_raster(path, ReadOptions(kind=kind))
    raster = city.terrain or city.surfaces[0]
    source = SourceCrs("EPSG:4326")
    for row, column in marks:
        place = source.to_enu(city.frame, west + (column + 1.5) * step, north - (row + 1.5) * step)
        i, j = ((place[:2] - raster.origin) / raster.cell).astype(int)
        assert raster.heights[i, j] + city.frame.altitude_m == 20.0
        near = raster.heights[i - 8:i + 9, j - 8:j + 9] + city.frame.altitude_m
        high = np.argwhere(near > 10) * raster.cell
        middle = high.mean(axis=0) - 8 * raster.cell
        assert np.abs(middle).max() < 1.5 * raster.cell     # as much on all sides
    assert kind == "terrain" or city.n_buildings == len(marks)


def test_a_continent_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", HILL, "EPSG:4326", from_origin(0, 60, 0.5, 0.5))
    with pytest.raises(CityFileError, match="too much for the frame of a city"):
        read_raster(path, ReadOptions(kind="terrain"))


def test_feet(tmp_path):
    """By the unit of the system (US survey feet of New York), or that of the band."""
    place = from_origin(985_000, 200_000, 10, 10)
    path = write(tmp_path / "a.tif", HILL, "EPSG:2263", place)
    city = read_raster(path, ReadOptions(kind="terrain"))
    top = np.nanmax(city.terrain.heights) + city.frame.altitude_m
    assert top == pytest.approx(HILL.max() * 0.3048, abs=0.1)
    assert city.terrain.cell == pytest.approx(3.05) and "0.3048" in city.notes[0]
    for unit, factor in (("m", 1.0), ("ft", 0.3048)):
        city = read_raster(path, ReadOptions(kind="terrain", height_unit=unit))
        assert np.nanmax(city.terrain.heights) + city.frame.altitude_m == pytest.approx(
            HILL.max() * factor, abs=0.1)
    with rasterio.open(path, "r+") as file:
        file.units = ("metre",)
    city = read_raster(path, ReadOptions(kind="terrain", height_unit="ft"))  # the file counts
    assert np.nanmax(city.terrain.heights) + city.frame.altitude_m == pytest.approx(
        HILL.max(), abs=0.1)


def test_the_vertical_datum_of_a_compound_system(tmp_path):
    path = write(tmp_path / "a.tif", HILL, "EPSG:7415", from_origin(85_000, 447_500, 2, 2))
    city = read_raster(path)
    assert (city.crs, city.vertical_datum) == ("EPSG:7415", "NAP height")


def test_a_system_that_the_file_names_wrongly(tmp_path):
    path = write(tmp_path / "a.tif", HILL, "EPSG:28992")
    with pytest.raises(CityFileError, match="outside the area of EPSG:28992.*correct it there"):
        read_raster(path)


def test_a_raster_without_a_place(tmp_path):
    path = write(tmp_path / "a.tif", HILL, transform=Affine.identity())
    with pytest.raises(CityFileError, match="where it lies"):
        read_raster(path)


@pytest.mark.parametrize("suffix", [".asc", ".grd"])
def test_an_esri_ascii_grid(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    rows = "\n".join(" ".join(f"{v:g}" for v in row) for row in HILL)
    path.write_text(f"ncols 80\nNROWS 60\nxllcorner {X}\nyllcorner {Y - 60 * PIXEL}\n"
                    f"cellsize {PIXEL}\nNODATA_value -9999\n{rows}\n")
    assert is_raster(path.read_bytes()[:64])
    with pytest.raises(CityFileError, match="names no coordinate reference system"):
        read_raster(path)
    city = read_raster(path, ReadOptions(crs="EPSG:25835"))
    twin = read_raster(write(tmp_path / "a.tif", HILL))
    assert np.allclose(city.terrain.heights, twin.terrain.heights, atol=1e-3, equal_nan=True)
    path.write_text(path.read_text()[:4000])
    with pytest.raises(CityFileError, match="cut off"):
        read_raster(path, ReadOptions(crs="EPSG:25835"))


def test_points_on_a_grid_are_a_raster(tmp_path):
    """In any order, with a hole, in metres and in degrees that are rounded."""
    row, column = (n.ravel() for n in np.indices(HILL.shape))
    points = np.column_stack([X + (column + 0.5) * PIXEL, Y - (row + 0.5) * PIXEL, HILL.ravel()])
    holed = np.where((row > 20) & (row < 30) & (column > 20) & (column < 30), np.nan, HILL.ravel())
    mixed = np.random.default_rng(0).permutation(points[np.isfinite(holed)])
    values, place = grid_of(mixed)
    assert np.array_equal(values, holed.reshape(HILL.shape), equal_nan=True)
    assert from_origin(*place).almost_equals(NORTH_UP)
    step = 1e-5 / 3
    degrees = np.column_stack([24.9 + column * step, 60.2 - row * step, HILL.ravel()]).round(7)
    values, place = grid_of(degrees)
    assert np.array_equal(values, HILL) and place[2:] == pytest.approx((step, step), rel=1e-3)

    city = terrain_of_points(tmp_path / "a.xyz", points, ReadOptions(
        kind="terrain", crs="EPSG:25835"), None)
    twin = read_raster(write(tmp_path / "a.tif", HILL))
    assert np.allclose(city.terrain.heights, twin.terrain.heights, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("points", [
    np.random.default_rng(0).uniform(0, 100, (500, 3)), np.arange(30.0).reshape(10, 3),
    np.array([(x, y, z) for x in range(9) for y in range(9) for z in range(2)], float),
    np.array([(0, y, 1) for y in range(9)], float), np.ones((1, 3)),
    np.array([(1000 * (k == 3) + k, 1000 * (k == 5) + k, 0) for k in range(9)], float)])
def test_other_points_lie_on_no_grid(points):
    assert grid_of(points) is None


def test_the_frame_of_another_file(tmp_path):
    frame = SourceCrs("EPSG:25835").frame_at(X - 100, Y - 300, 5.0)
    city = read_raster(write(tmp_path / "a.tif", HILL), frame=frame)
    assert city.frame == frame
    grid = voxelise(city, 2.0)
    assert grid.ground_at(at(city, 30, 40)) == pytest.approx(HILL[30, 40] - 5, abs=0.1)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("compress", [None, "deflate"])
def test_a_file_that_is_cut_off(tmp_path, share, compress):
    rough = HILL + np.random.default_rng(1).uniform(0, 1, HILL.shape).astype(np.float32)
    more = {"compress": compress} if compress else {}
    path = write(tmp_path / "cut.tif", rough, **more)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    with pytest.raises(CityFileError, match="cut.tif.*cut off"):
        read_raster(path)


@pytest.mark.skipif(not DATA.is_dir(), reason="the sample city files are not here")
def test_sample_files():
    terrain = read_raster(DATA / "bilbao_crop_DEM.tif")
    heights = terrain.terrain.heights + terrain.frame.altitude_m
    assert np.nanmin(heights) == pytest.approx(-1, abs=1)
    assert np.nanmax(heights) == pytest.approx(91, abs=1)
    buildings = read_raster(DATA / "bilbao_crop_BDSM.tif", frame=terrain.frame)
    assert buildings.surfaces[0].kind == "building" and buildings.surfaces[0].cell == 2.5
    with rasterio.open(DATA / "bilbao_crop_BDSM.tif") as file:
        pixels = file.read(1)
    assert pixels.shape == (400, 400) and buildings.n_buildings == label(pixels > 0)[1]
    assert np.nanmax(buildings.surfaces[0].heights) == pixels.max()
    assert buildings.extent == pytest.approx(terrain.extent, abs=6.0)
    east, north = terrain.extent[2] - terrain.extent[0], terrain.extent[3] - terrain.extent[1]
    assert (east, north) == (pytest.approx(1000, abs=40), pytest.approx(1000, abs=40))
    assert read_raster(DATA / "bilbao_crop_CDSM.tif").terrain is None
    trees = read_raster(DATA / "bilbao_crop_CDSM.tif", ReadOptions(kind="tree"), terrain.frame)
    assert trees.surfaces[0].kind == "tree"
