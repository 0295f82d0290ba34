"""A wrong command line, told to whoever reads JSON."""

import json
import sys

import pytest
from click.testing import CliRunner

from parallel_city_ros.cli import bench
from parallel_city_ros.cli.main import main


@pytest.mark.parametrize("arguments, words", [
    (["plan", "x.osm", "--bogus", "3"], "--bogus"), (["plan"], "FILE"),
    (["plan", "x.osm", "--from", "1,2", "--to", "1,2,3"], "1,2"), (["--nope", "plan"], "--nope"),
    (["frobnicate"], "frobnicate"), (["fly", "no.json"], "no.json")])
def test_errors_are_one_json_object_and_exit_code_2(arguments, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["parallel-city", *arguments, "--json"])
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 2 and words in json.loads(done.stdout)["error"]
    assert words in done.stderr     # for the operator too
    monkeypatch.setattr(sys, "argv", ["parallel-city", *arguments])
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2 and done.stdout == "" and words in done.stderr


@pytest.mark.parametrize("cause, code", [(KeyboardInterrupt(), 130), (OSError(), 1), (None, 1)])
def test_ctrl_c_while_an_extension_module_is_imported(cause, code, monkeypatch):
    def interrupted(*_, **__):
        try:
            raise ImportError("initialization failed") from cause
        except ImportError as error:
            raise ImportError("the module that imports it") from error

    monkeypatch.setattr(bench.planner, "callback", interrupted)
    done = CliRunner().invoke(main, ["bench", "planner", "--short"])
    assert done.exit_code == code and ("interrupted" in done.stderr) == (code == 130)
