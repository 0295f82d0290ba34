"""Events come and go as numbered updates; a listener that follows them has the same map."""

from dataclasses import replace

import numpy as np
import pytest

from parallel_city_ros.city.twin import CityEvent, Twin
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError, MapUpdateError
from parallel_city_ros.geo import LocalFrame


@pytest.fixture
def base():
    occupied = np.zeros((60, 50, 12), bool)
    occupied[20:30, 20:30, :8] = True
    return VoxelGrid.from_dense(occupied, np.zeros(3), 2.0, LocalFrame(60.0, 25.0))


def event(name="crane", x=50.0, y=50.0, top=40.0, **more):
    square = ((x, y), (x + 8, y), (x + 8, y + 8), (x, y + 8))
    return CityEvent(event_id=name, kind="crane", footprint=square, lower_z=0.0, upper_z=top,
                     **more)


def test_a_listener_that_applies_every_update_has_the_same_map(base):
    twin, mirror = Twin(base), base
    assert mirror.surface.any()     # kept up to date from here on
    for change in (event(), event("closure", 10, 10, 90), event(x=54.0), event(top=30.0)):
        update = twin.add(change)
        mirror = update.apply_to(mirror)
        assert mirror.map_update == twin.grid.map_update == update.map_update
        assert np.array_equal(mirror.occupied, twin.grid.occupied)
        assert np.array_equal(mirror.surface, replace(mirror).surface)
        assert mirror.map_hash == base.map_hash
    assert twin.grid.is_occupied([12.0, 12.0, 80.0])
    assert not twin.grid.is_occupied([51.0, 51.0, 35.0])


def test_what_ends_frees_its_air_and_nothing_else(base):
    twin = Twin(base)
    twin.add(event("short", expires_s=10.0))
    twin.add(event("long", x=54.0, top=22.0))
    assert twin.remove_expired(9.9) == []
    (update,) = twin.remove_expired(10.0)
    assert update.map_update == 3
    assert not twin.grid.is_occupied([52.0, 51.0, 30.0])
    assert twin.grid.is_occupied([56.0, 51.0, 20.0])      # the other event
    assert twin.grid.is_occupied([51.0, 51.0, 10.0])      # the building
    assert np.array_equal(twin.grid.occupied[:, :, :12] & base.occupied, base.occupied)


def test_a_gap_and_another_map_are_noticed(base):
    twin = Twin(base)
    twin.add(event())
    second = twin.add(event("second", 10, 10))
    with pytest.raises(MapUpdateError, match="does not follow 0"):
        second.apply_to(base)
    assert [u.map_update for u in twin.updates_after(1)] == [2]
    other = VoxelGrid.from_dense(~base.occupied, base.origin, 2.0, base.frame)
    with pytest.raises(MapUpdateError, match="belongs to map"):
        twin.updates[0].apply_to(other)


@pytest.mark.parametrize("change, words", [
    ({"footprint": ((0, 0), (1, 1))}, "three corners"),
    ({"footprint": ((0, 0), (9, 9), (9, 0), (0, 9))}, "crosses itself"),
    ({"footprint": ((0, 0), (float("nan"), 9), (9, 0))}, "finite"),
    ({"upper_z": -1.0}, "below upper_z"), ({"upper_z": float("nan")}, "below upper_z"),
    ({"confidence": 1.5}, "confidence"), ({"event_id": ""}, "name of its own")])
def test_events_that_cannot_be(change, words):
    settings = {"event_id": "e", "kind": "crane", "lower_z": 0.0, "upper_z": 9.0,
                "footprint": ((0, 0), (9, 0), (9, 9))}
    with pytest.raises(ConfigError, match=words):
        CityEvent(**settings | change)


def test_an_event_beside_the_map_is_refused_and_changes_nothing(base):
    twin = Twin(base)
    with pytest.raises(ConfigError, match="outside the map"):
        twin.add(event(x=500.0))
    assert twin.grid is base and not twin.events
