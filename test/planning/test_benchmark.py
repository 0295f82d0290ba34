"""The comparison: resumable, paired, honest about what failed."""

import csv
import json

import numpy as np
import pytest

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.planning import benchmark, paper_setting, standings
from parallel_city_ros.planning.benchmark import Run
from parallel_city_ros.planning.made_cities import REPORTING, TUNING, MadeCity

VARIANTS = " raw", " with the seeds of de_aco"      # of libraries; one of each is tried below


@pytest.mark.parametrize("planner", [
    name for name in benchmark.entrants()
    if not name.endswith(VARIANTS) or name.startswith(("de ", "pymoo_nsga2"))])
def test_every_competitor_runs(planner):
    told = benchmark.make(Run(planner, "open-1", 0, 300, 12, 4.0))
    assert told["feasible"] and told["evaluations"] <= 300
    assert told["course"][-1][2] == pytest.approx(told["fitness"]) or "front" in told
    assert told["cpu_s"] > 0 and told["coverage_km2"] > 0
    grid, task = benchmark.problem("open-1", 12, 4.0)
    assert certify(grid, task, np.array(told["path"])).valid     # what is kept can be checked


def test_libraries_search_what_their_name_says():
    """The spline's paths are smooth, the raw ones are not, and de_aco's seeds are better."""
    roughness = {}
    for name in ("pymoo_ga", "pymoo_ga raw", "pymoo_ga with the seeds of de_aco"):
        told = benchmark.make(Run(name, "open-1", 1, 400, 24, 4.0))
        roughness[name] = np.abs(np.diff(told["path"], n=3, axis=0)).sum(), told["fitness"]
    assert roughness["pymoo_ga"][0] < roughness["pymoo_ga raw"][0]
    assert roughness["pymoo_ga with the seeds of de_aco"][1] < roughness["pymoo_ga"][1]


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
    _, text = standings.write(results, tmp_path)
    assert "`iaco`" in text
    assert len(list(csv.DictReader((tmp_path / "runs.csv").open()))) == 4
    assert json.loads((tmp_path / "summary.json").read_text())["de"]["runs"] == 2


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
    table = standings.summary(results)
    assert table["de"]["worse_than_reference_percent"] == pytest.approx(50)
    assert table["de"]["p_holm"] < 0.01 < 0.05 < table["igso"]["p_holm"]
    assert table["iaco"]["feasible"] == 14 and table["iaco"]["runs"] == 16
    assert table["de"]["within_5_percent"]["share"] == 0
    assert table["de_aco"]["within_5_percent"] == {"share": 1.0, "median_cpu_s": 1.0}
    assert table["de"]["worst_gap_percent"] >= table["de"]["quartiles_percent"][2]
    assert table["de"]["worse_at_equal_cpu_percent"] == pytest.approx(50)
    assert table["de"]["reference_loses_in"] == []


def test_the_best_known_may_come_from_a_longer_run():
    runs = [_told("de_aco", "a-1", seed, 110.0) for seed in (0, 1)]
    longer = _told("de_aco", "a-1", 0, 100.0) | {"budget": 5}
    assert standings.summary(runs)["de_aco"]["mean_gap_percent"] == pytest.approx(0)
    assert standings.summary(runs, [longer])["de_aco"]["mean_gap_percent"] == pytest.approx(10)


def test_a_city_where_the_reference_loses_is_named():
    results = [_told(name, city, seed, f + 0.01 * seed)
               for seed in range(12) for name, city, f in (
                   ("de_aco", "a-1", 100), ("de", "a-1", 97), ("de_aco", "b-1", 100),
                   ("de", "b-1", 200))]
    assert standings.summary(results)["de"]["reference_loses_in"] == ["a-1"]


def test_hypervolume_of_known_fronts():
    """Of (-f1, f2, f3): a front that holds all corners of the other's box is larger."""
    good = [[3.0, 1.0, 3.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
    results = [_told(name, "a-1", 0, 1.0) | {"front": front} for name, front in (
        ("nsga2", good), ("pymoo_nsga2 raw", good[2:]))]
    told = standings.hypervolumes(results)
    # in shares of the box: good[2] is (1, 0, 0), which leaves 0.1 x 1.1 x 1.1
    assert told["pymoo_nsga2 raw"]["mean"] == pytest.approx(0.1 * 1.1 * 1.1)
    assert told["nsga2"]["mean"] > told["pymoo_nsga2 raw"]["mean"]
    assert told["pymoo_nsga2 raw"]["first_is_larger_percent"] > 0


@pytest.mark.parametrize("name", paper_setting.SETTINGS)
def test_the_paper_s_settings_can_be_flown(name):
    told = benchmark.make(Run("de_aco_paper", name, 0, 200, 40, 2.0))
    assert told["feasible"]
    text = paper_setting.tables([told])
    assert "12233.08" in text and f"{told['fitness']:.1f}" in text


def test_what_is_tuned_on_is_not_reported():
    assert not set(TUNING) & set(REPORTING)
    with pytest.raises(ConfigError, match="no city of kind"):
        MadeCity("moon", 1).grid()
    with pytest.raises(ConfigError, match="no planner"):
        benchmark.make(Run("magic", "open-1", 0, 300, 12, 4.0))
    first, second = (MadeCity("towers", 3, (300.0, 300.0)).grid().map_hash for _ in range(2))
    assert first == second != MadeCity("towers", 4, (300.0, 300.0)).grid().map_hash
