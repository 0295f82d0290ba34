"""Two flights of the soak, and that it goes on where it was stopped and finds what is wrong."""

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", FILE)
    module = sys.modules["soak"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flight(number, **changes):
    return {"number": number, "city": "grid-1", "status": "completed", "message": "",
            "landed": True, "collided": False, "parameters_kept": True, "distance_m": 600.0,
            "rss_mb": 300.0, "off_plan_m": 0.5, "process": os.getpid()} | changes


def test_two_flights_hold_and_are_not_flown_again(soak, tmp_path):
    file = tmp_path / "soak.jsonl"
    flights = soak.soak(2, file, 20.0)
    assert [f["number"] for f in flights] == [0, 1]
    assert not any(soak.judge(flights).values()), soak.judge(flights)
    assert flights[0]["distance_m"] > 300
    file.write_text(file.read_text() + '{"number": 2, "cit')     # killed while it wrote
    flown = []
    assert soak.soak(2, file, 20.0, flown.append) == flights and not flown
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [0, 1]


def test_what_is_wrong_is_found(soak):
    good = [flight(n) for n in range(60)]
    assert not any(soak.judge(good).values())
    for wrong in ({"status": "failed"}, {"landed": False}, {"collided": True},
                  {"parameters_kept": False}):
        assert sum(map(bool, soak.judge([*good, flight(60, **wrong)]).values())) == 1
    leaking = [flight(n, rss_mb=300 + 0.5 * n) for n in range(60)]
    assert soak.leak_mb(leaking) == pytest.approx(0.5)
    assert sum(map(bool, soak.judge(leaking).values())) == 1
    assert math.isnan(soak.leak_mb(good[:5]))


def test_a_track_through_a_building_is_a_collision(soak, grid):
    lat, lon, _ = grid.frame.to_wgs84((150.0, 70.0, 0.0)).tolist()
    home = soak.LocalFrame(lat, lon, 17.0)

    def enu(track):
        return soak.from_home(grid, home, np.column_stack([np.zeros(3), track, np.zeros(3)]))

    over, through = np.array([(0, 0, 0), (0, 0, 40), (80, 0, 40)], float), np.array(
        [(0, 0, 0), (0, 0, 20), (80, 0, 20)], float)
    assert not soak.touches(grid, enu(over)) and soak.touches(grid, enu(through))
    assert soak.off_plan(enu(over), enu(over)[1:]) < 1e-6 < 19.0 < soak.off_plan(
        enu(through), enu(over)[1:])
