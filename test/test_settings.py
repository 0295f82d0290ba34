"""One dataclass field says what a setting means, what it may be and what it is called."""

from dataclasses import dataclass, field

import pytest

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.settings import build, check, dotted, flatten, setting


@dataclass(frozen=True, kw_only=True)
class Camera:
    aperture_deg: float = setting(60.0, "degrees", above=0, high=179)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str = setting("a", "which", choices=("a", "b"))
    count: int = setting(3, "of them", low=1)
    loud: bool = setting(False, "or quiet")
    camera: Camera = field(default_factory=Camera)
    place: tuple

    def __post_init__(self):
        check(self)


def test_names_are_dotted_and_flags_follow():
    settings = list(flatten(Config))
    assert [s.name for s in settings] == ["name", "count", "loud", "camera.aperture_deg"]
    assert [s.flag for s in settings][-1] == "--camera-aperture-deg"
    assert [s.kind for s in settings] == [str, int, bool, float]


def test_build_keeps_what_is_not_given():
    made = build(Config, {"camera.aperture_deg": 90, "count": 5}, place=(1, 2))
    assert made == Config(count=5, camera=Camera(aperture_deg=90), place=(1, 2))
    assert dotted({"camera": {"aperture_deg": 90}, "count": 5}) == {
        "camera.aperture_deg": 90, "count": 5}


@pytest.mark.parametrize("values, words", [
    ({"count": 0}, "Config.count must be a whole number at least 1, got 0"),
    ({"count": 1.5}, "whole number"), ({"count": True}, "whole number"),
    ({"name": "c"}, "one of a, b"), ({"loud": 1}, "true or false"),
    ({"camera.aperture_deg": 0.0}, "Camera.aperture_deg must be a finite number above 0"),
    ({"camera.aperture_deg": float("nan")}, "finite"), ({"wings": 2}, "has no wings"),
    ({"camera.aperture_deg": 180.0}, "at most 179"), ({"camera.aperture_deg": "6"}, "finite")])
def test_what_is_wrong_is_named(values, words):
    with pytest.raises(ConfigError) as caught:
        build(Config, values, place=())
    assert words in str(caught.value)


def test_what_is_needed_is_named():
    with pytest.raises(ConfigError, match="needs place"):
        build(Config, {})
