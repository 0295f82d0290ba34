"""The Gazebo world is the twin's city: read back and voxelised, it is the same grid."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.gazebo import write_world
from parallel_city_ros.city.geojson import read_geojson
from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.geo import LocalFrame

WORLDS = Path(__file__).parents[2] / "worlds"
SMALL_CITY, SMALL_WORLD = WORLDS / "small_city.geojson", WORLDS / "small_city.sdf"


def _numbers(element, path):
    return [float(v) for v in element.findtext(path).split()]


def buildings_of(world) -> list[Building]:
    """An independent reader of what the exporter wrote: the collision shapes."""
    buildings = []
    for model in world.findall("model"):
        assert model.findtext("static") == "true"
        x, y, z, *turn = _numbers(model, "pose")
        assert turn == [0, 0, 0]
        polygons, heights = [], set()
        for geometry in model.findall("link/collision/geometry"):
            rings = [[(px + x, py + y) for px, py in (
                map(float, point.text.split()) for point in line.findall("point"))]
                for line in geometry.findall("polyline")]
            heights |= {float(h.text) for h in geometry.findall("polyline/height")}
            if rings:
                polygons.append(shapely.Polygon(rings[0], rings[1:]))
        if polygons:
            (height,) = heights
            buildings.append(Building(
                building_id=model.get("name"), footprint=shapely.MultiPolygon(polygons),
                base_z=z, top_z=z + height, source=HeightSource.MEASURED))
    return buildings


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0, 3.0])
def test_small_city_and_its_world_are_the_same_twin(resolution):
    city = read_geojson(SMALL_CITY)
    world = ElementTree.parse(SMALL_WORLD).find("world")
    back = replace(city, buildings=tuple(buildings_of(world)))
    twin, again = voxelise(city, resolution), voxelise(back, resolution)
    assert np.array_equal(twin.occupied, again.occupied)
    assert twin.map_hash == again.map_hash


def test_the_world_that_is_kept_is_the_one_that_is_written_today(tmp_path):
    write_world(read_geojson(SMALL_CITY), tmp_path / "world.sdf")
    assert (tmp_path / "world.sdf").read_bytes() == SMALL_WORLD.read_bytes(), (
        "write worlds/small_city.sdf anew: write_world(read_geojson(...), ...)")
    assert [p.name for p in tmp_path.iterdir()] == ["world.sdf"]


def test_the_world_lies_where_the_city_lies():
    frame = read_geojson(SMALL_CITY).frame
    place = ElementTree.parse(SMALL_WORLD).find("world/spherical_coordinates")
    assert float(place.findtext("latitude_deg")) == frame.latitude_deg
    assert float(place.findtext("longitude_deg")) == frame.longitude_deg
    assert float(place.findtext("elevation")) == frame.altitude_m
    assert place.findtext("world_frame_orientation") == "ENU"


def test_nothing_is_downloaded():
    text = SMALL_WORLD.read_text()
    assert "<uri>" not in text and "://" not in text


def test_a_real_city_keeps_every_wall_to_a_millimetre(tmp_path):
    city = read_osm(helsinki_file())
    write_world(city, tmp_path / "helsinki.sdf")
    world = ElementTree.parse(tmp_path / "helsinki.sdf").find("world")
    back = buildings_of(world)
    assert len({b.building_id for b in back}) == len(back) == len(city.buildings)
    for was, now in zip(city.buildings, back, strict=True):
        assert (now.base_z, now.top_z) == pytest.approx((was.base_z, was.top_z), abs=2e-3)
        walls = shapely.boundary(shapely.union_all(shapely.get_parts(was.footprint)))
        assert shapely.hausdorff_distance(walls, now.footprint.boundary) < 2e-3


def test_names_that_gazebo_cannot_take_stay_apart(tmp_path):
    def building(name):
        return Building(building_id=name, footprint=shapely.box(0, 0, 9, 9), base_z=0.0,
                        top_z=5.0, source=HeightSource.ASSUMED)
    city = City(name="a -- b.osm", frame=LocalFrame(60.0, 25.0), extent=(0.0, 0.0, 9.0, 9.0),
                buildings=tuple(map(building, ("way/1", "way 1", "a::b", "ground_plane"))),
                n_buildings=4, n_parts=0, n_skipped=0, assumed_height_m=12.0,
                attribution="<&> -- ü", height_sources={})
    write_world(city, tmp_path / "world.sdf")
    world = ElementTree.parse(tmp_path / "world.sdf").find("world")
    names = [model.get("name") for model in world.findall("model")]
    assert len(set(names)) == 5
    assert not any(c in name for name in names for c in ":/ ")
