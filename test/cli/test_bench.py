"""`parallel-city bench planner --short` measures, writes its files and goes on where it was."""

import json

from click.testing import CliRunner

from parallel_city_ros.cli.bench import bench


def test_the_short_form(tmp_path):
    arguments = ["planner", "--short", "--planners", "de_aco,de", "--resolution", "4",
                 "--output", str(tmp_path), "--json"]
    done = CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    told = json.loads(done.stdout)["summary"]
    assert set(told) == {"de_aco", "de"}
    assert all(row["feasible"] == row["runs"] == 4 for row in told.values())
    names = {"runs.jsonl", "runs.csv", "summary.json", "summary.md", "gaps.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    before = (tmp_path / "runs.jsonl").read_bytes()
    CliRunner().invoke(bench, arguments, catch_exceptions=False)
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_names_that_do_not_exist(tmp_path):
    done = CliRunner().invoke(bench, ["planner", "--planners", "magic", "-o", str(tmp_path)])
    assert done.exit_code != 0 and "magic" in str(done.exception)
