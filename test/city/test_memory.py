"""Events outlive a restart, and a broken file is not taken for none."""

import math

import pytest

from parallel_city_ros.city.memory import EventMemory
from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.errors import ConfigError

CRANE = CityEvent(event_id="crane", kind="crane", lower_z=0.0, upper_z=80.0, confidence=0.9,
                  footprint=((0.0, 0.0), (8.0, 0.0), (8.0, 8.5)), description="at the quay")
FAIR = CityEvent(event_id="fair", kind="crowd", lower_z=0.0, upper_z=40.0, expires_s=1.7e9,
                 footprint=((0.0, 0.0), (8.0, 0.0), (8.0, 8.5)))


def test_what_is_saved_comes_back(tmp_path):
    memory = EventMemory(tmp_path / "new folder", "a" * 64)
    assert memory.load() == []
    memory.save([CRANE, FAIR])
    again = EventMemory(tmp_path / "new folder", "a" * 64).load()
    assert again == [CRANE, FAIR] and math.isinf(again[0].expires_s)
    assert EventMemory(tmp_path / "new folder", "b" * 64).load() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"map_hash": "other", "events": []}'])
def test_a_broken_file_is_named(tmp_path, text):
    memory = EventMemory(tmp_path, "a" * 64)
    memory.file.write_text(text)
    with pytest.raises(ConfigError, match="events-a.*move it away"):
        memory.load()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state_folder"):
        EventMemory(tmp_path / "file", "a" * 64).save([CRANE])
