"""Several inputs as one city: nothing that stands gets lost, heights come from the best."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.combine import combine, moved, together
from parallel_city_ros.city.lidar import Roof
from parallel_city_ros.city.model import Boxes, Building, City, HeightRaster, HeightSource, Solid
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

FRAME = LocalFrame(60.0, 25.0, 5.0)


def building(name, x, top=12.0, source=HeightSource.ASSUMED, size=10.0, **more):
    return Building(building_id=name, footprint=shapely.box(x, 0, x + size, size), base_z=0.0,
                    top_z=top, source=source, **more)


def city(*buildings, name="a.osm", frame=FRAME, **more):
    counts = {s.value: sum(b.source is s for b in buildings) for s in HeightSource}
    x = [b.footprint.bounds for b in buildings] or [(0, 0, 1, 1)]
    return City(**{
        "name": name, "frame": frame, "buildings": buildings, "n_buildings": len(buildings),
        "extent": (min(b[0] for b in x), 0.0, max(b[2] for b in x), 10.0),
        "height_sources": counts} | more)


def raster(heights, origin=(0.0, 0.0), cell=1.0, kind="building"):
    return HeightRaster(heights=np.asarray(heights, np.float32), origin=origin, cell=cell,
                        kind=kind)


def roof(height, ground=2.0, points=100):
    z = ground + height
    return Roof(points, z - 1, z - 0.5, z, z + 1, ground)


BOXES = Boxes(lower=np.array([[50.0, 1, 1]]), upper=np.array([[52.0, 2, 9]]))
SOLID = Solid(building_id="s", triangles=np.array([[[30.0, 0, 0], [31, 0, 0], [30, 1, 9]]]))


def test_everything_stands_beside_each_other():
    a = city(building("a", 0), attribution="A", n_skipped=1, assumed_height_m=12.0,
             notes=("one",), crs="EPSG:3067")
    b = city(building("b", 20, 8.0, HeightSource.MEASURED), name="b.json", solids=(SOLID,),
             attribution="B", n_skipped=2, notes=("two", "one"), boxes=(BOXES,),
             extent=(-5.0, -7.0, 31.0, 2.0))
    c = city(name="c.tif", surfaces=(raster(np.full((3, 3), 4.0), kind="tree"),), attribution="A")
    both = combine([a, b, c])
    assert [x.building_id for x in both.buildings] == ["a", "b"]
    assert (both.solids, both.boxes, both.surfaces) == (b.solids, b.boxes, c.surfaces)
    assert both.name == "a.osm + b.json + c.tif" and both.attribution == "A; B"
    assert (both.n_buildings, both.n_skipped, both.assumed_height_m) == (2, 3, 12.0)
    assert both.extent == (-5.0, -7.0, 31.0, 10.0)
    assert both.notes == ("one", "two") and both.crs == "EPSG:3067" and both.frame == FRAME
    assert both.height_sources == {"measured": 1, "levels": 0, "assumed": 1}


def test_one_city_is_itself():
    a = city(building("a", 0), notes=("one",), vertical_datum="N2000 height")
    assert combine([a]) == a
    with pytest.raises(CityFileError, match="at least one"):
        combine([])


@pytest.mark.parametrize("frame", [LocalFrame(60.0, 25.1, 5.0), LocalFrame(60.0, 25.0, 6.0)])
def test_mixed_frames_are_refused(frame):
    with pytest.raises(CityFileError, match="b.json is in another frame than a.osm"):
        combine([city(building("a", 0)), city(building("b", 0), name="b.json", frame=frame)])


@pytest.mark.parametrize("source", HeightSource)
def test_a_raster_gives_heights_where_they_are_unsure(source):
    heights = np.full((30, 10), np.nan)
    heights[:10] = 20.0
    heights[0] = 26.0       # a tenth of the roof
    heights[4, 4] = 90.0    # a mast: stays in the raster
    both = combine([city(building("a", 0, 12.0, source), building("far", 60, 12.0, source)),
                    city(name="b.tif", surfaces=(raster(heights),), n_buildings=0)])
    a, far = both.buildings
    if source is HeightSource.MEASURED:
        assert a.top_z == 12.0 and not both.notes
    else:
        assert a.top_z == pytest.approx(26.0) and a.source is HeightSource.MEASURED
        assert any("1 of 2 buildings" in note for note in both.notes)
        assert both.height_sources["measured"] == 1 == both.height_sources[source.value]
    assert far.top_z == 12.0 and far.source is source
    assert np.nanmax(both.surfaces[0].heights) == 90.0


@pytest.mark.parametrize("heights", [
    np.full((10, 10), np.nan), np.zeros((10, 10)), np.full((10, 10), 1.0),      # cars
    np.where(np.arange(100).reshape(10, 10) < 50, 9.0, np.nan)])
def test_a_raster_that_does_not_know_a_building_leaves_it(heights):
    both = combine([city(building("a", 0)), city(name="b.tif", surfaces=(raster(heights),))])
    assert both.buildings[0].top_z == 12.0


def test_trees_do_not_make_roofs():
    both = combine([city(building("a", 0)), city(name="b.tif", surfaces=(
        raster(np.full((10, 10), 25.0), kind="tree"),))])
    assert both.buildings[0].top_z == 12.0


def test_a_small_building_takes_the_cell_that_it_is_in():
    both = combine([city(building("hut", 6.0, size=1.5)), city(name="b.tif", surfaces=(
        raster([[3.0, 3.0], [7.0, 3.0]], cell=5.0),))])
    assert both.buildings[0].top_z == 7.0


def test_roofs_of_lidar_count_before_rasters():
    a = city(building("a", 0), building("b", 20, 9.0, HeightSource.LEVELS),
             building("c", 40, 9.0, HeightSource.MEASURED), building("d", 60))
    b = city(name="b.laz", surfaces=(raster(np.full((70, 10), 15.0)),))
    both = combine([a, b], {"a": roof(10.0), "b": roof(11.0), "c": roof(12.0)})
    assert [x.top_z for x in both.buildings] == [10.0, 11.0, 9.0, 15.0]
    assert [x.ground_z for x in both.buildings] == [2.0, 2.0, None, None]
    assert both.height_sources == {"measured": 4, "levels": 0, "assumed": 0}


def test_a_part_on_pillars_keeps_standing_on_them():
    part = replace(building("p", 0, 20.0), base_z=6.0, is_part=True)
    assert combine([city(part)], {"p": roof(9.0)}).buildings[0].base_z == 6.0
    assert combine([city(part)], {"p": roof(5.0)}).buildings == (part,)     # not that roof


def test_the_same_building_of_two_extracts_stands_once():
    a = building("way/1", 0)
    again = replace(a, footprint=shapely.box(1e-7, 0, 10, 10))
    other = building("way/1", 30)
    higher = building("way/2", 0, 30.0, HeightSource.MEASURED)
    both = combine([city(a, building("way/2", 0)), city(again, higher, name="b.osm"),
                    city(other, name="c.osm")])
    assert [b.building_id for b in both.buildings] == ["way/1", "way/2", "way/2 (2)", "way/1 (2)"]
    assert both.n_buildings == 4 and sum(both.height_sources.values()) == 4
    assert both.buildings[2].top_z == 30.0      # what differs is safe to have twice
    assert together([both, both])[0] == both.buildings


def test_terrain_is_the_first_and_then_the_next():
    first = raster(np.where(np.arange(100).reshape(10, 10) == 55, np.nan, 1.0), kind="terrain")
    x = np.arange(-5.0, 30.0) + 0.5
    second = raster(np.broadcast_to(x[:, None] / 10, (35, 20)), origin=(-5.0, 0.0), kind="terrain")
    both = combine([city(terrain=first), city(name="b", terrain=second), city(name="c")])
    t = both.terrain
    assert t.extent == (-5.0, 0.0, 30.0, 20.0)
    expected = np.array(second.heights)
    expected[5:15, :10] = first.heights
    expected[10, 5] = second.heights[10, 5]
    assert np.allclose(t.heights, expected)
    assert combine([city(), city(name="b", terrain=second)]).terrain is second


def test_terrain_of_other_cells_is_interpolated():
    first = raster(np.full((4, 4), 3.0), kind="terrain", cell=2.0)
    x = np.arange(20) * 4.0 + 2.0 - 40.0
    second = raster(np.broadcast_to(x[:, None] * 0.5, (20, 5)), origin=(-40.0, -4.0), cell=4.0,
                    kind="terrain")
    t = combine([city(terrain=first), city(name="b", terrain=second)]).terrain
    i = np.arange(t.heights.shape[0])
    east = t.origin[0] + (i + 0.5) * t.cell
    row = t.heights[:, t.heights.shape[1] // 2]
    inside = (east > 0) & (east < 8)
    assert (row[inside] == 3.0).all()
    between = ~inside & (east > -38) & (east < 38)
    assert np.allclose(row[between], east[between] * 0.5)


def test_different_datums_are_refused_and_an_unknown_one_is_noted():
    ground = raster(np.zeros((2, 2)), kind="terrain")
    nap = city(name="nap.laz", vertical_datum="NAP height", terrain=ground)
    tide = city(name="tide.tif", vertical_datum="LAT depth", terrain=ground)
    flat = city(building("a", 0), name="flat.gpkg", vertical_datum="LAT depth")
    with pytest.raises(CityFileError, match="nap.laz above NAP height, tide.tif above LAT depth"):
        combine([nap, tide])
    assert combine([flat, nap]).vertical_datum == "NAP height"      # its heights are above ground
    silent = combine([nap, city(name="model.obj", solids=(SOLID,))])
    assert silent.vertical_datum == "NAP height"
    assert any("model.obj does not name its vertical datum" in note for note in silent.notes)
    assert not combine([nap, city(building("a", 0))]).notes


def test_moved_to_another_frame_a_city_stands_where_it_stood():
    a = city(building("a", 0), building("b", 500))
    frame = LocalFrame(60.01, 25.02, 80.0)
    there = moved(a, frame)
    for before, after in zip(a.buildings, there.buildings, strict=True):
        here, new = (np.array(b.footprint.exterior.coords) for b in (before, after))
        here, new = (np.column_stack([v, np.zeros(len(v))]) for v in (here, new))
        assert np.allclose(FRAME.to_wgs84(here)[:, :2], frame.to_wgs84(new)[:, :2], atol=1e-9)
        assert after.footprint.area == pytest.approx(100.0, rel=1e-3)
        assert (after.top_z, after.ground_z) == (before.top_z, before.ground_z)
    assert shapely.box(*there.extent).buffer(0.01).covers(
        shapely.union_all([b.footprint for b in there.buildings]))
    assert moved(a, FRAME) is a


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.floats(3, 30), st.sampled_from(HeightSource)),
                min_size=1, max_size=6), st.integers(0, 30), st.floats(3, 30))
def test_what_stands_in_one_stands_in_the_whole(buildings, at, height):
    """As voxels; heights that were assumed may change, so only measured ones are compared."""
    half = len(buildings) // 2 + 1
    named = [building(f"{k}", float(x), z, s) for k, (x, z, s) in enumerate(buildings)]
    above = np.full((60, 10), np.nan)
    above[at:at + 5] = height
    cities = [city(*named[:half]), city(*named[half:], name="b"),
              city(name="c", surfaces=(raster(above),), boxes=(BOXES,),
                   extent=(0.0, 0.0, 60.0, 10.0))]
    whole = combine(cities)
    assert len(whole.buildings) == len(named)
    grid = voxelise(whole, resolution=2.0)
    points = [BOXES.lower[0] + 0.5]
    for b in named:
        if b.source is HeightSource.MEASURED:
            points.append((*b.footprint.centroid.coords[0], b.top_z - 0.1))
    points.append((at + 2.5, 5.0, height - 0.1))
    assert grid.is_occupied(np.array(points)).all()
