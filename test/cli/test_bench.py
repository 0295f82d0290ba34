"""`parallel-city bench planner --short` measures, writes its files and goes on where it was."""

import json

from click.testing import CliRunner

from parallel_city_ros.cli.bench import bench


def test_the_short_form(tmp_path):
    arguments = ["planner", "--short", "--planners", "de_aco,iaco", "--resolution", "4",
                 "--output", str(tmp_path), "--json"]
    done = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    told = json.loads(done.stdout)["summary"]
    assert set(told) == {"de_aco", "iaco"}
    assert all(row["feasible"] == row["runs"] == 4 for row in told.values())
    names = {"runs.jsonl", "runs.csv", "summary.json", "summary.md", "gaps.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    before = (tmp_path / "runs.jsonl").read_bytes()
    CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_the_paper_s_tables_and_figures(tmp_path):
    done = CliRunner().invoke(bench, [
        "paper", "--settings", "paper-calm", "--seeds", "1", "--budget", "150", "--resolution",
        "4", "-o", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0 and "12233.08" in done.stdout
    for number in (5, 6, 7, 8):
        assert (tmp_path / f"paper-calm-fig{number}.png").stat().st_size > 10_000


def test_fronts(tmp_path):
    done = CliRunner().invoke(bench, [
        "planner", "--front", "--kinds", "open", "--city-seeds", "1", "--seeds", "1", "--budget",
        "600", "--track-points", "20", "--resolution", "4", "--json", "-o", str(tmp_path)],
        catch_exceptions=False)
    told = json.loads(done.stdout)["summary"]
    assert told["nsga2"]["hypervolume"]["mean"] > told["pymoo_nsga2 raw"]["hypervolume"]["mean"]


def test_dask_says_what_it_needs(tmp_path):
    try:
        import dask.distributed  # noqa: F401
    except ImportError:
        done = CliRunner().invoke(bench, ["planner", "--short", "--backend", "dask", "-o",
                                          str(tmp_path)])
        assert "pip install" in str(done.exception)
    else:
        done = CliRunner().invoke(bench, [
            "planner", "--short", "--planners", "iaco", "--resolution", "4", "--backend", "dask",
            "-o", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0 and (tmp_path / "runs.csv").exists()


def test_names_that_do_not_exist(tmp_path):
    done = CliRunner().invoke(bench, ["planner", "--planners", "magic", "-o", str(tmp_path)])
    assert done.exit_code != 0 and "magic" in str(done.exception)
