"""Every picture is written, shows what it claims, and copes with what is missing."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.viz import pictures, style
from parallel_city_ros.viz.scene import CityScene

DRAWN = {"city_3d": pictures.draw_city_3d, "map": pictures.draw_map,
         "coverage": pictures.draw_coverage, "altitude": pictures.draw_altitude,
         "convergence": lambda path, grid, sorties, events: pictures.draw_convergence(
             path, grid, sorties)}


@pytest.fixture(autouse=True)
def coarse_light(monkeypatch):
    monkeypatch.setattr("parallel_city_ros.viz.scene.SUPERSAMPLING", 1)
    monkeypatch.setattr("parallel_city_ros.viz.scene.DAYLIGHT_RAYS", 1)


def pixels_of(image, colour):
    return int((np.abs(image[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02).sum())


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_shows_both_routes_and_names_its_source(
        name, tmp_path, base, sorties, crane, monkeypatch):
    texts = []

    def keep_texts(figure, path):
        texts.extend(t.get_text() for t in figure.texts)
        return style.save(figure, path)

    monkeypatch.setattr(pictures, "save", keep_texts)
    path = DRAWN[name](tmp_path / f"{name}.png", base, sorties, [crane])
    assert path == tmp_path / f"{name}.png" and path.read_bytes().startswith(b"\x89PNG")
    image = imread(path)
    assert image.shape[1] == 1600 and 600 < image.shape[0] < 1700
    assert image[..., :3].std() > 0.02
    assert any(base.attribution in text for text in texts)
    if name != "coverage":      # laid half transparent over the map
        assert all(pixels_of(image, style.colour(s.number)) > 200 for s in sorties)
    if name in ("map", "altitude"):
        assert pixels_of(image, style.EVENT_COLOUR) > 100
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_flight_gives_the_same_bytes(tmp_path, base, sorties, crane):
    a, b = (DRAWN["city_3d"](tmp_path / f"{k}.png", base, sorties, [crane]) for k in "ab")
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("name", DRAWN)
def test_one_sortie_without_telemetry_sight_or_event(name, tmp_path, base, sorties):
    lost = sorties[0].flown.copy()
    lost[:, 2] = np.nan
    nothing = np.zeros_like(sorties[0].flown_seen)
    blind = replace(sorties[0], flown=lost, planned_seen=nothing, flown_seen=nothing,
                    convergence=[])
    assert DRAWN[name](tmp_path / "a.png", base, [blind], []).stat().st_size > 10_000


@pytest.mark.parametrize("name", DRAWN)
def test_gaps_in_telemetry_and_an_empty_city(name, tmp_path, base, sorties):
    empty = VoxelGrid.from_dense(np.zeros_like(base.occupied), base.origin, base.resolution,
                                 base.frame)
    flown = sorties[0].flown.copy()
    flown[30:40, 1:] = np.nan
    sortie = replace(sorties[0], grid=empty, flown=flown)
    assert DRAWN[name](tmp_path / "a.png", empty, [sortie], []).is_file()


def test_the_headline_claims_only_what_is_so(sorties, crane):
    assert "keeps clear of the crane" in pictures._headline(sorties, [crane])
    assert "clear" not in pictures._headline(sorties[:1], [crane])
    through = replace(sorties[1], flown=sorties[0].flown)
    assert "clear" not in pictures._headline([sorties[0], through], [crane])


def test_an_interrupted_picture_leaves_nothing(tmp_path, monkeypatch):
    figure = style.new_figure("a", "b", "c", 3.0)
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for moment in ("matplotlib.figure.Figure.savefig", "pathlib.Path.replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(moment, interrupted)
            style.save(figure, tmp_path / "a.png")
        assert list(tmp_path.iterdir()) == []


def test_a_building_hides_what_is_behind_it(base):
    scene = CityScene(base, [], (0.0, 0.0, 1.0))
    eye = np.array([80.0, -300.0, 10.0])
    behind, before, above = (80.0, 70.0, 5.0), (80.0, 10.0, 5.0), (80.0, 70.0, 60.0)
    assert scene.visible([behind, before, above], eye).tolist() == [False, True, True]


def test_projection_puts_ahead_in_the_middle_and_up_above(base, sorties, crane):
    camera = pictures._view(sorties, [crane], 800, 500)
    pixels = camera.project(np.concatenate([s.plan.path for s in sorties]))
    assert (pixels > 0).all() and (pixels < (800, 500)).all()
    assert np.allclose(camera.project([camera.eye + 100 * camera.axes[2]]), (400, 250))
    low, high = camera.project([(100, 60, 0), (100, 60, 50)])
    assert high[1] < low[1]
    ray = camera.rays(range(100, 101), 1)[0, 300]
    assert np.allclose(camera.project([camera.eye + 50 * ray]), (300.5, 100.5))
