"""The preview of a city shows at once what is only assumed, where trees are, how the land lies."""

from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import shapely
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.text import Text

from parallel_city_ros.city.model import Boxes, Building, City, HeightRaster, HeightSource
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.voxels import VoxelGrid, voxelise
from parallel_city_ros.city.zones import Zone, ZoneKind
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.viz import preview
from parallel_city_ros.viz.preview import SOURCE_COLOURS, ZONE_COLOURS, draw_preview

ASSUMED, LEVELS, MEASURED = HeightSource.ASSUMED, HeightSource.LEVELS, HeightSource.MEASURED


def house(box=(20, 20, 120, 90), source=MEASURED, top=20.0, kind="building") -> Building:
    return Building(building_id=f"{box}", footprint=shapely.box(*box), base_z=0.0, top_z=top,
                    source=source, kind=kind)


def city_of(*buildings, **more) -> City:
    return City(name="town.osm", frame=LocalFrame(60.0, 25.0), extent=(0.0, 0.0, 300.0, 200.0),
                buildings=buildings, n_buildings=len(buildings),
                **{"attribution": "© the town", "assumed_height_m": 12.0} | more)


def map_of(path) -> np.ndarray:
    """(rows, columns, 3): the picture without legend, title and margin."""
    image = matplotlib.image.imread(path)[..., :3]
    return image[200:-90, 60:int(0.7 * image.shape[1])]


def share(image, colour, tolerance=0.06) -> float:
    return float((np.abs(image - to_rgb(colour)).max(axis=-1) < tolerance).mean())


def drawn(city, folder, zones=(), resolution=2.0):
    path = draw_preview(folder / "p.png", city, voxelise(city, resolution), zones)
    assert path == folder / "p.png" and [p.name for p in folder.iterdir()] == ["p.png"]
    return map_of(path)


def words_of(monkeypatch, city, folder, zones=()):
    """All that is written in a picture."""
    found = []

    def keep(figure, path):
        found.extend(t.get_text() for t in figure.findobj(Text)
                     if t.get_text())
        return path
    monkeypatch.setattr(preview, "save", keep)
    draw_preview(folder / "p.png", city, voxelise(city, 2.0), zones)
    return " | ".join(found)


def test_assumed_heights_are_seen_at_once(tmp_path):
    shares = {}
    for source in HeightSource:
        (tmp_path / source.value).mkdir()
        shares[source] = share(drawn(city_of(house(source=source)), tmp_path / source.value),
                               SOURCE_COLOURS[ASSUMED])
    assert shares[ASSUMED] > 0.01 and shares[MEASURED] == 0 and shares[LEVELS] == 0


def test_what_is_written_beside_the_map_is_true(monkeypatch, tmp_path):
    city = city_of(house(), house((150, 20, 250, 55), ASSUMED),
                   house((150, 100, 250, 135), LEVELS))
    words = words_of(monkeypatch, city, tmp_path)
    for part in ("town.osm", "3 buildings in 300 × 200 m", "voxels of 2 m", "measured: 50\u202f%",
                 "from storeys: 25\u202f%", "assumed (12 m): 25\u202f%", "ground, flat", " m", "N",
                 "Map data: © the town", "Metres above the ground"):
        assert part in words, (part, words)
    words = words_of(monkeypatch, replace(city, name="a.gpkg + b.laz + c.tif"), tmp_path)
    assert "a.gpkg and 2 more" in words


def test_higher_is_darker(tmp_path):
    image = drawn(city_of(house((20, 20, 130, 180), top=10.0), house((170, 20, 280, 180),
                                                                    top=60.0)), tmp_path)
    left, right = (image[:, s].sum(axis=-1) for s in (slice(0, image.shape[1] // 2),
                                                      slice(image.shape[1] // 2, None)))
    assert np.percentile(left, 10) > np.percentile(right, 10) + 0.5


@pytest.mark.parametrize("as_raster", [True, False])
def test_trees_are_green_and_not_hatched(as_raster, tmp_path):
    if as_raster:
        heights = np.full((60, 40), np.nan, np.float32)
        heights[10:50, 10:30] = 9.0
        city = city_of(surfaces=(HeightRaster(heights=heights, origin=(0.0, 0.0), cell=5.0,
                                              kind="tree"),))
    else:
        city = city_of(house((50, 50, 250, 150), ASSUMED, 9.0, "tree"))
    image = drawn(city, tmp_path)
    green = (image[..., 1] > image[..., 0] + 0.1) & (image[..., 1] > image[..., 2] + 0.1)
    assert green.mean() > 0.15 and share(image, SOURCE_COLOURS[ASSUMED]) == 0


def test_the_land_is_shaded_by_its_slope(tmp_path):
    ridge = 30 * np.exp(-((np.arange(80) - 40) / 12.0)**2)
    terrain = HeightRaster(heights=np.tile(ridge[:, None], (1, 60)).astype(np.float32),
                           origin=(-50.0, -50.0), cell=5.0)
    image = drawn(city_of(terrain=terrain), tmp_path).mean(axis=-1)
    middle = image[image.shape[0] // 2]
    left, right = middle[:len(middle) // 2], middle[len(middle) // 2:]
    assert left.min() > right.min() + 0.05      # light comes from the north-west


def test_shadows_fall_away_from_the_sun():
    surface = np.zeros((60, 60))
    surface[28:32, 28:32] = 20.0
    dark = preview._shadow(surface, 2.0)
    i, j = np.argwhere(dark & (surface == 0)).T
    assert dark.any() and not dark[surface > 0].any()
    assert (i >= 28).all() and (j <= 31).all()          # south-east
    reach = np.hypot(i - 31, j - 28).max() * 2.0
    assert reach == pytest.approx(20 / np.tan(preview.SUN_HEIGHT), abs=5)


def test_zones_are_drawn_by_their_kind_where_they_lie_on_the_map(monkeypatch, tmp_path):
    zones = [Zone(zone_id="z", kind=ZoneKind.NO_FLY, polygon=shapely.box(100, 50, 900, 150),
                  name="Airfield"),
             Zone(zone_id="far", kind=ZoneKind.PRIVACY, polygon=shapely.box(900, 0, 990, 90))]
    image = drawn(city_of(house()), tmp_path, zones)
    assert share(image, ZONE_COLOURS[ZoneKind.NO_FLY], 0.15) > 0.001
    words = words_of(monkeypatch, city_of(house()), tmp_path, zones)
    assert "Airfield" in words and "zone: no fly" in words and "privacy" not in words


@pytest.mark.parametrize("city", [
    city_of(boxes=(Boxes(lower=np.array([[5.0, 5, 5]]), upper=np.array([[5.0, 5, 5]])),)),
    city_of(terrain=HeightRaster(heights=np.ones((3, 3), np.float32), origin=(0.0, 0.0),
                                 cell=100.0)),
    replace(city_of(house((0, 0, 1, 1))), extent=(0.0, 0.0, 1.0, 1.0), attribution=""),
    replace(city_of(house((0, 0, 3000, 10))), extent=(0.0, 0.0, 3000.0, 10.0)),
    replace(city_of(house((0, 0, 10, 3000))), extent=(0.0, 0.0, 10.0, 3000.0)),
    replace(city_of(house(top=500.0), house((150, 20, 250, 55), top=3.0)), name="n" * 300)],
    ids=["points", "bare ground", "tiny", "wide", "tall", "tower and long name"])
def test_any_city_has_a_picture(city, tmp_path):
    drawn(city, tmp_path)


def test_a_large_grid_is_drawn_in_few_pixels_that_lose_no_tower(tmp_path):
    grid = voxelise(replace(city_of(house((9000, 9000, 9002, 9002), top=80.0)),
                            extent=(0.0, 0.0, 10_000.0, 10_000.0)), 2.0)
    cells = preview._Cells(grid)
    assert max(cells.above.shape) <= preview.MOST_PIXELS
    assert cells.above.max() == 80.0 and (cells.above > 0).sum() <= 4
    i, j = np.argwhere(cells.above > 0)[0]
    assert np.allclose(np.array([i, j]) * cells.edge + grid.origin[:2], 9000, atol=cells.edge)


def test_what_is_looked_at_square_by_square_is_the_whole(monkeypatch):
    """Over a slope, with squares and cells that do not divide the grid."""
    slope = HeightRaster(heights=np.add.outer(0.7 * np.arange(70), 1.1 * np.arange(50)).astype(
        np.float32), origin=(-10.0, -10.0), cell=7.0)
    random = np.random.default_rng(0)
    corners = random.uniform(0, 280, (60, 2))
    city = city_of(*(house((x, y, x + 9, y + 5), top=h) for (x, y), h in zip(
        corners, random.uniform(3, 60, 60), strict=True)), terrain=slope)
    grid = voxelise(city, 1.0)
    above = np.where(grid.built, grid.surface - grid.ground, 0.0)
    monkeypatch.setattr(preview, "SQUARE", 3)
    for most in (1400, 100, 47):
        monkeypatch.setattr(preview, "MOST_PIXELS", most)
        cells = preview._Cells(grid)
        assert cells.step == -(-max(grid.shape[:2]) // most)
        assert np.allclose(cells.above, preview._highest(above, cells.step), atol=1e-3)
        inside = np.s_[:grid.shape[0] // cells.step, :grid.shape[1] // cells.step]
        assert np.allclose(cells.ground[inside], preview._highest(
            grid.ground, cells.step)[inside], atol=1e-3)


def test_a_map_of_fifty_kilometres_is_never_as_large_as_its_columns(tmp_path):
    """Half a thousand million of them would be 4 GB an array."""
    city = replace(city_of(house((40_000, 20_000, 40_002, 20_002), top=80.0), terrain=HeightRaster(
        heights=np.random.default_rng(0).uniform(0, 50, (50, 40)).astype(np.float32),
        origin=(0.0, 0.0), cell=1000.0)), extent=(0.0, 0.0, 50_000.0, 40_000.0))
    grid = voxelise(city, 2.0)
    draw_preview(tmp_path / "p.png", city, grid)
    assert not {"surface", "ground"} & set(vars(grid))
    assert 80.0 <= preview._Cells(grid).above.max() <= 84.0


def test_a_few_towers_do_not_make_all_others_look_flat():
    low = np.full(1000, 8.0)
    assert not isinstance(preview._norm(low), LogNorm)
    assert isinstance(preview._norm(np.r_[low, 150.0]), LogNorm)


def test_the_same_city_gives_the_same_bytes(tmp_path):
    city = read_osm(helsinki_file())
    grid = voxelise(city, 4.0)
    for name in ("a.png", "b.png"):
        draw_preview(tmp_path / name, city, grid)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_event_that_raised_the_grid_is_drawn_too(tmp_path):
    city = city_of(house())
    grid = voxelise(city, 2.0)
    later = grid.with_prism(shapely.box(200, 100, 280, 180), 0.0, 90.0)
    assert isinstance(later, VoxelGrid)
    a, b = (map_of(draw_preview(tmp_path / f"{k}.png", city, g)) for k, g in enumerate(
        (grid, later)))
    assert (np.abs(a - b).max(axis=-1) > 0.2).mean() > 0.05
