"""The front and the legs are drawn as they are."""

import numpy as np
import pytest
from matplotlib.image import imread

from parallel_city_ros.patrol.explain import explain
from parallel_city_ros.planning.front import PREFERENCES, Front
from parallel_city_ros.viz import front as pictures
from parallel_city_ros.viz import style


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []

    def keep(figure, path):
        figures.append(figure)
        return style.save(figure, path)
    monkeypatch.setattr(pictures, "save", keep)
    return figures


def test_the_front_marks_knee_and_extremes_in_every_panel(tmp_path, drawn, sorties):
    rng = np.random.default_rng(3)
    share = rng.dirichlet(np.ones(3), 40)
    front = Front(np.zeros((40, 3, 3)), np.column_stack([
        1 - share[:, 0]**2, 1 + share[:, 1]**2, 50 * share[:, 2]**2, rng.uniform(1, 9, 40)]))
    file = pictures.draw_front(tmp_path / "front.png", front, sorties[0].plan.task.units, "knee",
                               "© somebody")
    assert imread(file).std() > 0.01
    assert "Map data: © somebody" in [text.get_text() for text in drawn[0].texts]
    assert len(drawn[0].axes) == 3
    for axes, pair in zip(drawn[0].axes, ((0, 1), (0, 2), (1, 2)), strict=True):
        dots, *marks, ring = axes.lines
        assert np.array_equal(np.array(dots.get_data()).T, front.objectives[:, pair])
        expected = [front.objectives[front.choose(p), pair] for p in pictures.MARKS]
        assert np.array_equal([np.ravel(m.get_data()) for m in marks], expected)
        assert np.array_equal(np.ravel(ring.get_data()), front.objectives[front.choose("knee"),
                                                                          pair])
    assert set(pictures.MARKS) == set(PREFERENCES)


def test_a_front_of_one_patrol(tmp_path, sorties):
    front = Front(np.zeros((1, 3, 3)), np.array([[0.1, 1.0, 0.0, 10.0]]))
    assert pictures.draw_front(tmp_path / "one.png", front, sorties[0].plan.task.units).exists()


def test_each_leg_has_the_colour_of_what_binds_it(tmp_path, drawn, base, sorties):
    plan = sorties[0].plan
    legs = explain(base, plan.task, plan.path, buildings_near=lambda at, within: ["the tower"])
    pictures.draw_legs(tmp_path / "legs.png", base, plan, legs)
    route, bars = drawn[0].axes
    inks = route.collections[-1].get_colors()
    assert len(inks) == len(legs) == len(plan.path) - 1
    for a, leg in zip(inks, legs, strict=True):
        for b, other in zip(inks, legs, strict=True):
            assert (tuple(a) == tuple(b)) == (leg.binding == other.binding)
    assert [bar.get_height() for bar in bars.patches] == [leg.clearance_m for leg in legs]
    legend = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert sorted(legend) == sorted({leg.binding for leg in legs})
