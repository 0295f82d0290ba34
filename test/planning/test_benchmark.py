"""The comparison: resumable, paired, honest about what failed."""

import csv
import json

import numpy as np
import pytest

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.planning import benchmark
from parallel_city_ros.planning.benchmark import Run
from parallel_city_ros.planning.made_cities import REPORTING, TUNING, MadeCity


@pytest.mark.parametrize("planner", benchmark.planners())
def test_every_competitor_runs(planner):
    told = benchmark.make(Run(planner, "open-1", 0, 300, 12, 4.0))
    assert told["feasible"] and told["evaluations"] <= 300
    assert told["course"][-1][2] == pytest.approx(told["fitness"]) or planner == "nsga2"
    assert told["cpu_s"] > 0 and told["coverage_km2"] > 0


def test_a_comparison_goes_on_where_it_was(tmp_path):
    runs = [Run(name, "open-1", seed, 200, 8, 4.0) for seed in (0, 1) for name in ("de", "iaco")]
    made = []
    benchmark.compare(runs[:2], tmp_path, on_done=made.append)
    with open(tmp_path / benchmark.RESULTS, "a") as file:
        file.write('{"planner": "de", "city": "op')    # broken off while it wrote
    with open(tmp_path / benchmark.RESULTS, "a") as file:
        file.write("\n")
    results = benchmark.compare(runs, tmp_path, on_done=made.append)
    assert len(made) == 4 and [r["planner"] for r in results] == ["de", "iaco"] * 2
    benchmark.compare(runs, tmp_path, on_done=made.append)
    assert len(made) == 4
    text = benchmark.write(results, tmp_path)
    assert "`iaco`" in text
    assert len(list(csv.DictReader((tmp_path / "runs.csv").open()))) == 4
    assert json.loads((tmp_path / "summary.json").read_text())["de"]["runs"] == 2
    assert (tmp_path / "gaps.png").stat().st_size > 1000


def _told(planner, city, seed, fitness):
    return {"planner": planner, "city": city, "seed": seed, "budget": 1, "track_points": 1,
            "resolution": 1.0, "feasible": fitness is not None, "fitness": fitness, "cpu_s": 2.0,
            "first_feasible_s": 0.1, "course": [(1, 1.0, fitness)]}


def test_summary_of_known_numbers():
    rng = np.random.default_rng(1)
    results = []
    for city in ("a-1", "b-1"):
        for seed in range(8):
            base = 100 + rng.random()
            results += [_told("de_aco", city, seed, base), _told("de", city, seed, 2 * base),
                        _told("igso", city, seed, base + rng.normal(0, 0.3)),
                        _told("iaco", city, seed, None if seed == 0 else 1.3 * base)]
    table = benchmark.summary(results)
    assert table["de"]["worse_than_reference_percent"] == pytest.approx(50)
    assert table["de"]["p_holm"] < 0.01 < 0.05 < table["igso"]["p_holm"]
    assert table["iaco"]["feasible"] == 14 and table["iaco"]["runs"] == 16
    assert table["de"]["within_5_percent"]["share"] == 0
    assert table["de_aco"]["within_5_percent"] == {"share": 1.0, "median_cpu_s": 1.0}
    assert table["de"]["worst_gap_percent"] >= table["de"]["quartiles_percent"][2]


def test_what_is_tuned_on_is_not_reported():
    assert not set(TUNING) & set(REPORTING)
    with pytest.raises(ConfigError, match="no city of kind"):
        MadeCity("moon", 1).grid()
    with pytest.raises(ConfigError, match="no planner"):
        benchmark.make(Run("magic", "open-1", 0, 300, 12, 4.0))
    first, second = (MadeCity("towers", 3, (300.0, 300.0)).grid().map_hash for _ in range(2))
    assert first == second != MadeCity("towers", 4, (300.0, 300.0)).grid().map_hash
