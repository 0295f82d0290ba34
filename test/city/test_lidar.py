"""LiDAR: terrain, objects and roofs of a place that is drawn here, and of a real one."""

from pathlib import Path

import laspy
import numpy as np
import pytest
import shapely
from pyproj import CRS

from parallel_city_ros.city import las
from parallel_city_ros.city.bare_earth import estimate_ground, fill_holes, without_errors
from parallel_city_ros.city.las import is_lidar
from parallel_city_ros.city.lidar import building_heights, read_lidar
from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame, SourceCrs

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
RD = ReadOptions(crs="EPSG:7415")
PLACE = np.array([85_000.0, 447_500.0, 0.0])        # south-west corner of the place, EPSG:7415
HALL, HOUSE, TREE = (30, 20, 60, 50), (80, 60, 90, 72), (85, 25, 5)   # boxes; centre and radius


def ground_z(x, y):
    return 3.0 + 0.03 * x + 1.5 * np.sin(y / 40)


def place(spacing=0.5, size=(120, 100)):
    """Points of a slope with a hall (flat roof 9 m up), a house (gable, 4 to 8 m) and a tree.

    Returns x, y, z in metres from PLACE, and classes.
    """
    rng = np.random.default_rng(5)
    x, y = np.meshgrid(*(np.arange(0, s, spacing) for s in size), indexing="ij")
    x, y = (v.ravel() + rng.uniform(0, spacing, v.size) for v in (x, y))
    z, classes = ground_z(x, y) + rng.normal(0, 0.03, x.size), np.full(x.size, 2, np.uint8)
    for (x0, y0, x1, y1), height in ((HALL, lambda x: np.full_like(x, 9.0)),
                                     (HOUSE, lambda x: 8.0 - 4.0 * np.abs(x - 85) / 5)):
        on = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        z[on] = ground_z(x0, y0) + height(x[on])
        classes[on] = 6
    crown = np.hypot(x - TREE[0], y - TREE[1]) < TREE[2]
    hit = crown & (rng.random(x.size) < 0.7)
    z[hit] += rng.uniform(3, 7, hit.sum())
    classes[hit] = 5
    return np.stack([x, y, z], axis=1), classes


def write(path, points, classes, crs=None, shift=PLACE, version="1.2", scale=0.001, **fields):
    header = laspy.LasHeader(version=version, point_format=6 if version == "1.4" else 1)
    header.offsets, header.scales = shift, np.full(3, scale)
    if crs is not None:
        header.add_crs(CRS(crs))
    data = laspy.LasData(header)
    data.x, data.y, data.z = (points + shift).T
    data.classification = np.asarray(classes, np.uint8)
    for name, values in fields.items():
        setattr(data, name, values)
    data.write(str(path))
    return path


def enu(city, x, y):
    return SourceCrs(RD.crs).to_enu(city.frame, x + PLACE[0], y + PLACE[1])[..., :2]


def at(raster, xy):
    i, j = np.floor((xy - raster.origin) / raster.cell).astype(int).T
    return raster.heights[i, j]


def box(city, x0, y0, x1, y1):
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
    return shapely.Polygon(enu(city, *corners.T))


def footprints(city, **boxes):
    return City(
        name="outlines", frame=city.frame, extent=city.extent, n_buildings=len(boxes),
        buildings=tuple(Building(building_id=name, footprint=box(city, *b), base_z=0.0, top_z=12.0,
                                 source=HeightSource.ASSUMED) for name, b in boxes.items()))


def inside(name_box, inset=1.5):
    """Places inside a box of PLACE, away from its edge."""
    x0, y0, x1, y1 = name_box
    x, y = np.meshgrid(np.arange(x0 + inset, x1 - inset), np.arange(y0 + inset, y1 - inset))
    return x.ravel(), y.ravel()


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lidar") / "town.laz", *place(), crs="EPSG:7415",
                 version="1.4")


def test_terrain_and_objects(town):
    city = read_lidar(town)
    assert city.crs == "EPSG:7415" and city.vertical_datum == "NAP height"
    assert city.frame.altitude_m == np.floor(place()[0][:, 2].min())
    rng = np.random.default_rng(2)
    x, y = rng.uniform(2, 118, 4000), rng.uniform(2, 98, 4000)
    terrain = at(city.terrain, enu(city, x, y)) + city.frame.altitude_m
    assert np.isfinite(terrain).all()
    x0, y0, x1, y1 = HALL
    near_hall = (x > x0 - 1) & (x < x1 + 1) & (y > y0 - 1) & (y < y1 + 1)
    assert np.abs(terrain - ground_z(x, y))[~near_hall].max() < 0.35
    assert np.abs(terrain - ground_z(x, y))[near_hall].max() < 1.0      # guessed from around it
    kinds = {s.kind: s for s in city.surfaces}
    assert set(kinds) == {"building", "tree"}
    hall = at(kinds["building"], enu(city, *inside(HALL)))
    roof = ground_z(x0, y0) + 9.0
    expected = roof - (at(city.terrain, enu(city, *inside(HALL))) + city.frame.altitude_m)
    assert np.allclose(hall, expected, atol=0.1)        # without a hole
    crown = at(kinds["tree"], enu(city, np.array([85.5]), np.array([25.5])))
    assert 3.0 < crown[0] < 7.5


def test_frame_and_extent(town):
    city = read_lidar(town)
    assert city.frame.latitude_deg == pytest.approx(
        SourceCrs(RD.crs).frame_at(*PLACE[:2]).latitude_deg, abs=1e-5)
    x0, y0, x1, y1 = city.extent
    assert (x1 - x0, y1 - y0) == pytest.approx((120, 100), abs=4)   # RD is not quite north
    given = LocalFrame(52.0, 4.37, -10.0)
    other = read_lidar(town, frame=given)
    assert other.frame == given
    spot = np.array([10.0]), np.array([10.0])
    assert at(other.terrain, enu(other, *spot)) == pytest.approx(
        at(city.terrain, enu(city, *spot)) + city.frame.altitude_m + 10.0, abs=0.1)


def test_the_twin_stands_on_the_terrain_and_holds_every_echo(town):
    city = read_lidar(town)
    grid = voxelise(city, resolution=1.0)
    points, classes = place()
    z = points[:, 2] - city.frame.altitude_m
    xyz = np.column_stack([enu(city, *points[:, :2].T), z])
    assert grid.is_occupied(xyz[classes == 6] - (0, 0, 0.1)).mean() > 0.999
    assert grid.is_occupied(xyz[classes == 5] - (0, 0, 0.1)).mean() > 0.999
    free = xyz[classes == 2] + (0, 0, 2.0)
    far = np.hypot(points[:, 0] - 85, points[:, 1] - 25)[classes == 2] > 8
    for b in (HALL, HOUSE):
        edge = shapely.box(*b).buffer(3)
        far &= ~shapely.contains_xy(edge, *points[classes == 2, :2].T)
    assert not grid.is_occupied(free[far]).any()


@pytest.mark.parametrize("unknown", [0, 1])
def test_without_classes_the_ground_is_estimated(tmp_path, unknown):
    points, _ = place()
    city = read_lidar(write(tmp_path / "a.las", points, np.full(len(points), unknown)), RD)
    assert any("estimated" in note for note in city.notes)
    rng = np.random.default_rng(2)
    x, y = rng.uniform(2, 118, 4000), rng.uniform(2, 98, 4000)
    error = np.abs(at(city.terrain, enu(city, x, y)) + city.frame.altitude_m - ground_z(x, y))
    assert np.median(error) < 0.1 and np.percentile(error, 99) < 1.0
    (surface,) = city.surfaces
    assert surface.kind == "unknown"
    assert at(surface, enu(city, *inside(HALL))).min() > 7.0
    assert np.nanmax(at(surface, enu(city, *inside(HOUSE, 0)))) > 7.0
    open_air = at(surface, enu(city, *inside((2, 2, 25, 98))))
    assert np.isnan(open_air).mean() > 0.99
    grid = voxelise(city, resolution=1.0)
    _, classes = place()
    xyz = np.column_stack([enu(city, *points[:, :2].T), points[:, 2] - city.frame.altitude_m])
    assert grid.is_occupied(xyz[classes > 2] - (0, 0, 0.1)).mean() > 0.999


def test_what_is_not_classified_is_an_obstacle(tmp_path):
    points, classes = place()
    classes[classes == 5] = 1
    city = read_lidar(write(tmp_path / "a.las", points, classes), RD)
    assert {s.kind for s in city.surfaces} == {"building", "unknown"}
    assert not any("estimated" in note for note in city.notes)


def test_kind_overrules_classes(town):
    (trees,) = read_lidar(town, ReadOptions(kind="tree")).surfaces
    assert trees.kind == "tree" and np.isfinite(at(trees, enu(read_lidar(town),
                                                              *inside(HALL)))).all()
    assert read_lidar(town, ReadOptions(kind="terrain")).surfaces == ()


def test_noise_and_points_far_from_all_others_are_left_out(tmp_path):
    points, classes = place()
    stray = np.array([(50, 50, 300), (51, 50, 300), (20, 20, -150), (90, 10, 80), (3000, 50, 5),
                      (60, 60, 400), (61, 60, -90)], float)
    city = read_lidar(write(tmp_path / "a.laz", np.concatenate([points, stray]),
                            np.r_[classes, [1, 6, 2, 1, 2, 7, 18]]), RD)
    clean = read_lidar(write(tmp_path / "b.laz", points, classes), RD)
    assert np.array_equal(city.terrain.heights, clean.terrain.heights, equal_nan=True)
    assert max(np.nanmax(s.heights) for s in city.surfaces) < 12
    assert city.frame.altitude_m == clean.frame.altitude_m and city.extent == clean.extent
    assert any("2 points of noise, 5 far from all others" in note for note in city.notes)


def test_withheld_points_are_left_out(tmp_path):
    points, classes = place()
    high = np.arange(0, len(points), 100)
    points[high, 2] += 30
    withheld = np.zeros(len(points), np.uint8)
    withheld[high] = 1
    city = read_lidar(write(tmp_path / "a.las", points, classes, withheld=withheld), RD)
    assert max(np.nanmax(s.heights) for s in city.surfaces) < 12


def test_a_low_echo_does_not_dig_a_pit(tmp_path):
    points, classes = place()
    points[np.hypot(points[:, 0] - 10, points[:, 1] - 10) < 0.6, 2] -= 6.0
    for chosen in (classes, np.ones_like(classes)):
        city = read_lidar(write(tmp_path / "a.las", points, chosen), RD)
        pit = at(city.terrain, enu(city, np.array([10.0]), np.array([10.0])))
        assert pit[0] + city.frame.altitude_m == pytest.approx(ground_z(10, 10), abs=0.3)


def test_a_mast_stays(tmp_path):
    points, classes = place()
    mast = np.column_stack([np.full(20, 15.0), np.full(20, 80.0), np.linspace(5, 60, 20)])
    city = read_lidar(write(tmp_path / "a.las", np.concatenate([points, mast]),
                            np.r_[classes, np.ones(20)]), RD)
    (surface,) = (s for s in city.surfaces if s.kind == "unknown")
    assert np.nanmax(surface.heights) > 50


def test_sparse_points_make_larger_cells(tmp_path):
    points, classes = place(spacing=2.5)
    city = read_lidar(write(tmp_path / "a.las", points, classes), RD)
    assert 4.5 <= city.terrain.cell <= 6.0


def test_chunks_do_not_matter(town, monkeypatch):
    whole = read_lidar(town)
    monkeypatch.setattr(las, "CHUNK", 997)
    parts = read_lidar(town)
    assert parts.notes == whole.notes and parts.extent == whole.extent
    for a, b in zip((parts.terrain, *parts.surfaces), (whole.terrain, *whole.surfaces),
                    strict=True):
        assert np.allclose(a.heights, b.heights, atol=1e-4, equal_nan=True)
    boxes = footprints(whole, hall=HALL, house=HOUSE)
    assert building_heights(town, boxes) == building_heights(town, boxes)


def test_roofs_of_footprints(town, tmp_path):
    city = read_lidar(town)
    outlines = footprints(city, hall=HALL, house=HOUSE, none=(5, 70, 15, 80),
                          outside=(-60, -60, -40, -40))
    roofs = building_heights(town, outlines)
    assert {"hall", "house"} <= set(roofs) and not {"none", "outside"} & set(roofs)
    points, classes = place()
    for name, b in (("hall", HALL), ("house", HOUSE)):
        on = (classes == 6) & shapely.contains_xy(shapely.box(*b), *points[:, :2].T)
        p50, p90, p99 = np.percentile(points[on, 2], [50, 90, 99]) - city.frame.altitude_m
        roof = roofs[name]
        assert (roof.p90, roof.p99) == pytest.approx((p90, p99), abs=0.3)
        assert roof.p50 <= roof.p90 <= roof.p95 <= roof.p99
        around = ground_z(*np.array([(b[0], b[1]), (b[2], b[3]), (b[0], b[3]), (b[2], b[1])]).T)
        assert around.min() - 0.2 < roof.ground + city.frame.altitude_m < around.max()
        assert roof.height == pytest.approx(roof.p95 - roof.ground)
    # the same without classes: ground and what lies low on it is no roof
    bare = write(tmp_path / "bare.las", points, np.ones(len(points)))
    again = building_heights(bare, outlines, RD)
    assert "none" not in again
    assert again["hall"].height == pytest.approx(roofs["hall"].height, abs=0.3)


def test_us_feet(tmp_path):
    foot = 1200 / 3937
    points, classes = place()
    shift = np.array([774_000.0, 2_955_000.0, 100.0])       # Boston
    city = read_lidar(write(tmp_path / "a.las", points / foot, classes, crs="EPSG:2249",
                            shift=shift, version="1.4"))
    x0, y0, x1, y1 = city.extent
    assert (x1 - x0, y1 - y0) == pytest.approx((120, 100), abs=4)
    heights = next(s for s in city.surfaces if s.kind == "building").heights
    assert 8.0 < np.nanmax(heights) < 11.0
    assert city.frame.altitude_m == np.floor(100 * foot + points[:, 2].min())


def test_degrees(tmp_path):
    points, classes = place()
    points = points * (1 / 68_000, 1 / 111_320, 1)
    city = read_lidar(write(tmp_path / "a.las", points, classes, crs="EPSG:4326", version="1.4",
                            shift=np.array([4.37, 52.0, 0.0]), scale=1e-8))
    x0, y0, x1, y1 = city.extent
    assert (x1 - x0, y1 - y0) == pytest.approx((121, 100), abs=3)


def test_the_files_own_reference_system_counts(town):
    assert read_lidar(town, ReadOptions(crs="EPSG:25833")).crs == "EPSG:7415"


def test_without_a_reference_system_it_is_refused(tmp_path):
    path = write(tmp_path / "nowhere.laz", *place())
    with pytest.raises(CityFileError, match="nowhere.laz: names no reference system.*EPSG"):
        read_lidar(path)
    assert read_lidar(path, RD).crs == "EPSG:7415"


@pytest.mark.parametrize("kind", ["laz", "las"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_files_that_are_cut_off_are_refused(tmp_path, kind, share):
    content = write(tmp_path / f"whole.{kind}", *place()).read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(CityFileError, match=rf"cut\.{kind}: is (cut off|no LAS)"):
        read_lidar(path, RD)


def test_a_header_that_promises_billions_is_refused(tmp_path):
    path = write(tmp_path / "a.las", *place())
    content = bytearray(path.read_bytes())
    content[100:104] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(CityFileError, match="2,147,483,647 records"):
        read_lidar(path, RD)


@pytest.mark.parametrize("points, classes, words", [
    (np.empty((0, 3)), [], "holds no points; it is empty"),
    (np.array([(1.0, 2, 3)]), [7], "no points but noise"),
    (np.array([(9e5, 2, 3)] * 5), [2] * 5, "outside the area"),
    (np.array([(0, 0, 1e6)] * 5), [2] * 5, "heights")])
def test_files_that_hold_no_place_are_refused(tmp_path, points, classes, words):
    path = write(tmp_path / "odd.las", points, np.array(classes, np.uint8))
    with pytest.raises(CityFileError, match=rf"odd\.las: .*{words}"):
        read_lidar(path, RD)


def test_few_points_are_enough(tmp_path):
    city = read_lidar(write(tmp_path / "few.las", np.array([(0.0, 0, 1), (1, 1, 1), (5, 5, 9)]),
                            np.array([2, 2, 6])), RD)
    assert len(city.surfaces) == 1 and np.isfinite(city.terrain.heights).all()


def test_missing_and_other_files(tmp_path):
    with pytest.raises(CityFileError, match="nowhere.laz: cannot be read"):
        read_lidar(tmp_path / "nowhere.laz", RD)
    (tmp_path / "text.laz").write_text("LASso")
    assert not is_lidar(b"LASso")
    with pytest.raises(CityFileError, match="text.laz: is no LAS"):
        read_lidar(tmp_path / "text.laz", RD)


# --- grids of heights ---------------------------------------------------------------------


def test_holes_are_filled_between_what_surrounds_them():
    x, y = np.meshgrid(np.arange(60.0), np.arange(45.0), indexing="ij")
    plane = 0.2 * x - 0.1 * y
    holed = plane.copy()
    holed[20:35, 10:30] = np.nan
    holed[np.random.default_rng(0).random(plane.shape) < 0.3] = np.nan
    filled = fill_holes(holed, np.inf, 1.0)
    assert np.array_equal(filled[~np.isnan(holed)], holed[~np.isnan(holed)])
    assert np.abs(filled - plane).max() < 1.5
    assert np.nanmin(holed) <= filled.min() and filled.max() <= np.nanmax(holed)
    corner = np.full((60, 45), np.nan)
    corner[0, 0] = 1.0
    near = fill_holes(corner, 10.0, 1.0)
    assert np.isfinite(near).sum() == sum(i * i + j * j <= 100 for i in range(60)
                                          for j in range(45))


def test_single_errors_are_taken_out_and_cliffs_stay():
    heights = np.zeros((40, 40))
    heights[20:] = 12.0     # a quay
    clean = without_errors(heights)
    assert np.array_equal(clean, heights)
    heights[5, 5], heights[30:32, 8:10] = -7.0, 40.0
    assert np.argwhere(np.isnan(without_errors(heights))).tolist() == [
        [5, 5], [30, 8], [30, 9], [31, 8], [31, 9]]


@pytest.mark.parametrize("slope", [0.0, 0.05, 0.1])
def test_buildings_are_taken_off_slopes(slope):
    x, y = np.meshgrid(np.arange(120.0), np.arange(120.0), indexing="ij")
    ground = slope * x + 3 * np.sin(y / 60)
    lowest = ground.copy()
    lowest[30:50, 30:70] += 6.0
    lowest[80:88, 20:28] += 3.0
    found = estimate_ground(lowest, 1.0)
    assert np.isnan(found[30:50, 30:70]).all() and np.isnan(found[80:88, 20:28]).all()
    seen = np.isfinite(found)
    assert np.abs(found - ground)[seen].max() < 1e-9
    assert seen.sum() > 0.9 * (lowest == ground).sum()


# --- a real place -------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data beside the project")
def test_estimated_ground_agrees_with_classified_ground(tmp_path):
    path = DATA / "delft_ahn3_2.laz"
    city = read_lidar(path, RD)
    data = laspy.read(path)
    data.classification[:] = 1
    data.write(tmp_path / "bare.laz")
    error = read_lidar(tmp_path / "bare.laz", RD).terrain.heights - city.terrain.heights
    assert np.nanmedian(np.abs(error)) < 0.1 and np.nanpercentile(np.abs(error), 95) < 0.5
