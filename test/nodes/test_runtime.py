"""A node that cannot start says why, whatever went wrong and wherever its log goes."""

import subprocess
import sys

import pytest

PROGRAM = """
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.nodes.runtime import CityNode, run

class Faulty(CityNode):
    def __init__(self):
        super().__init__("faulty")
        if {when!r} == "init":
            raise {error}
    def setup(self):
        if {when!r} == "setup":
            raise {error}
    def start(self):
        raise {error}

raise SystemExit(run(Faulty, ["--ros-args", "--disable-stdout-logs"]))
"""


@pytest.mark.parametrize("when, error, words", [
    ("init", "CityFileError('a.osm is cut off')", "a.osm is cut off"),
    ("setup", "CityFileError('a.osm is cut off')", "Faulty did not start: a.osm is cut off"),
    ("start", "KeyError('never foreseen')", "KeyError: 'never foreseen'")])
def test_the_reason_reaches_stderr(when, error, words):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(when=when, error=error)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and words in done.stderr
