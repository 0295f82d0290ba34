"""The numbers behind pictures, report and table, on geometry whose answer is known."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from parallel_city_ros.viz.sortie import (
    gap_to_event,
    known_to,
    new_share,
    resample,
    surface_under,
)
from parallel_city_ros.viz.style import number, percent
from parallel_city_ros.viz.table import comparison_table, measures


def test_gap_to_event_is_sideways_above_and_zero_inside(crane):
    assert gap_to_event(np.array([(0.0, 70, 50), (100.0, 70, 50)]), crane) == pytest.approx(10)
    assert gap_to_event(np.array([(0.0, 70, 150), (300.0, 70, 150)]), crane) == pytest.approx(40)
    assert gap_to_event(np.array([(0.0, 70, 50), (300.0, 70, 50)]), crane) == 0
    assert math.isnan(gap_to_event(np.empty((0, 3)), crane))


def test_only_the_later_map_knows_the_crane(sorties, crane):
    assert [known_to(s, crane) for s in sorties] == [False, True]
    away = replace(crane, footprint=tuple((x + 5000, y) for x, y in crane.footprint))
    assert not known_to(sorties[1], away)


def test_new_share_counts_what_nobody_saw_before(sorties):
    assert new_share(sorties, sorties[0]) == 1
    both = sorties[0].flown_seen & sorties[1].flown_seen
    expected = 1 - both.sum() / sorties[1].flown_seen.sum()
    assert new_share(sorties, sorties[1]) == pytest.approx(expected)
    assert math.isnan(new_share(sorties, sorties[1], np.zeros_like(both)))


def test_the_flown_line_starts_and_ends_with_the_plan(sorties):
    at, line = sorties[0].flown_along
    assert at[0] == 0 and at[-1] == pytest.approx(sorties[0].plan.length_m)
    assert (np.diff(at) >= 0).all() and len(at) == len(line)
    assert line[:, 2].min() > 70       # without take-off and landing
    lost = replace(sorties[0], flown=np.full((5, 4), np.nan))
    assert len(lost.flown_along[0]) == 0


def test_resample_and_surface(base):
    at, points = resample(np.array([(70.0, 30, 0), (70.0, 130, 0)]), 1.0)
    assert at[-1] == 100 and len(points) == 101
    roofs = surface_under(base, np.array([(70.0, 30, 0), (140.0, 130, 0), (0.0, 0, 0),
                                          (1e4, 1e4, 0)]))
    assert roofs.tolist() == [20, 50, 0, 0]


def test_numbers_read_well():
    assert number(12345.678, 1) == "12\u202f345.7"
    assert number(-1e-9, 2) == "0.00"
    assert number(float("nan")) == number(float("inf")) == percent(float("nan")) == "–"


def test_the_terminal_table_holds_every_measure_in_80_columns(sorties):
    out = io.StringIO()
    Console(file=out, width=80).print(comparison_table(sorties))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for s in sorties:
        for m in measures(sorties, s):
            assert m.label in text and all(value in text for value in m.text())
