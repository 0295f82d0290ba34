"""The doctor finds what is wrong, says what to type, and accuses nothing that works."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from parallel_city_ros._system import FAIL, OK, WARN
from parallel_city_ros.cli import doctor as module

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """The environment of a fresh shell."""
    for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS",
                 "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-c", "from parallel_city_ros.cli.doctor import doctor; doctor()",
         *arguments], capture_output=True, text=True, timeout=60, **more)


def test_here_nothing_fails():
    done = run("--json")
    answer = json.loads(done.stdout)
    assert [c for c in answer["checks"] if c["status"] == FAIL] == []
    assert answer["ok"] and done.returncode == 0
    names = [check["name"] for check in answer["checks"]]
    assert len(names) == len(set(names)) >= 18
    for check in answer["checks"]:
        assert check["found"]
        assert bool(check["remedy"]) == (check["status"] != OK), check["name"]


def test_people_read_it_in_80_columns():
    shown = run(env=os.environ | {"COLUMNS": "200"}).stdout
    table = shown.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert all(line[0] in "✓!✗ " for line in table)


def test_a_failure_is_an_exit_code_and_a_line_to_type(monkeypatch):
    monkeypatch.setattr(module._system, "_has_compiler", lambda: False)
    done = CliRunner().invoke(module.doctor)
    assert done.exit_code == 1
    assert "✗ C++ compiler" in done.output and "g++" in done.output.split("Missing")[1]
    assert "Ready" not in done.output
    answer = json.loads(CliRunner().invoke(module.doctor, ["--json"]).stdout)
    assert answer["ok"] is False


def test_port_in_use_names_the_process():
    code = ("import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.bind(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:
        port = int(other.stdout.readline())
        assert module._bind_error(port) == errno.EADDRINUSE
        pid, command = module._listener(port)
        other.stdin.close()
    assert pid == other.pid and "python" in command


def test_port_of_the_autopilot(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setattr(module, "MAVLINK_PORT", sock.getsockname()[1])
        check = module.autopilot_port()
        assert check.status == WARN and f"process {os.getpid()}" in check.found
    assert module.autopilot_port().status == OK


@pytest.mark.parametrize("variables, status, words", [
    ({}, OK, "LOCALHOST"), ({"ROS_DOMAIN_ID": "7"}, OK, "7 (ROS_DOMAIN_ID)"),
    ({"ROS_DOMAIN_ID": "200"}, FAIL, "200"), ({"ROS_DOMAIN_ID": "one"}, FAIL, "one"),
    ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, WARN, "SUBNET"),
    ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, FAIL, "do not find"),
    ({"ROS_STATIC_PEERS": "192.0.2.7"}, WARN, "192.0.2.7")])
def test_domain(monkeypatch, variables, status, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check = module.domain()
    assert (check.status, words in check.found) == (status, True), check


def test_a_full_domain_is_noticed(monkeypatch):
    monkeypatch.setattr(module, "_bind_error", lambda port: errno.EADDRINUSE)
    assert module.dds_ports().status == FAIL
    monkeypatch.setattr(module, "_bind_error", lambda port: errno.EACCES)
    assert "refused" in module.dds_ports().found
    monkeypatch.setattr(module, "_bind_error", lambda port: 0)
    assert module.dds_ports().status == OK


def test_only_segments_without_an_owner_are_left_over(tmp_path):
    for name in ("alive", "dead", "port7411"):
        (tmp_path / f"fastrtps_{name}").touch()
        (tmp_path / f"fastrtps_{name}_el").touch()
    (tmp_path / "sem.fastrtps_port7411_mutex").touch()
    (tmp_path / "somebody_else").touch()
    with open(tmp_path / "fastrtps_alive_el") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert module.leftovers(tmp_path) == ["fastrtps_dead"]
    assert module.leftovers(tmp_path, tmp_path / "no_locks") == []


def test_shared_memory_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHARED_MEMORY", tmp_path / "shm")
    assert module.shared_memory().status == FAIL
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm" / "fastrtps_1234_el").touch()
    check = module.shared_memory()
    assert check.status == WARN and check.remedy == f"rm -f {tmp_path}/shm/fastrtps_1234*"


def test_packages_that_differ_from_their_pins(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "parallel_city_ros")
    assert "imported" in module.packages().found        # no requirements.txt beside it
    pins = tmp_path / "requirements.txt"
    pins.write_text("# --- run time\nclick==0.0.1   # old\n")
    check = module.packages()
    assert check.status == WARN and "instead of 0.0.1" in check.found
    pins.write_text("no-such-package[extra]==1.0\n")
    check = module.packages()
    assert check.status == FAIL and "no-such-package" in check.found


@pytest.mark.parametrize("code, words", [
    ("print('{}')", "cannot be imported"), ("import os; os.abort()", "cannot be imported"),
    ("raise SystemExit('no librcl.so')", "no librcl.so"),
    ("import time; time.sleep(60)", "no answer")])
def test_a_broken_ros_does_not_take_the_doctor_along(monkeypatch, code, words):
    monkeypatch.setattr(module, "ASK_ROS", code)
    monkeypatch.setattr(module, "ROS_S", 3.0)
    began = time.monotonic()
    rclpy, interfaces = module.ros(module._ask_ros())
    assert (rclpy.status, interfaces.status) == (FAIL, FAIL)
    assert words in rclpy.found and rclpy.remedy
    assert time.monotonic() - began < 20


def test_interfaces_that_are_not_built(monkeypatch):
    monkeypatch.setattr(module, "ASK_ROS", """if True:
        import json
        print(json.dumps({"rclpy": "/opt/ros/jazzy/rclpy/__init__.py",
                          "rmw": "rmw_fastrtps_cpp", "error": "SetupError: not ready"}))""")
    rclpy, interfaces = module.ros(module._ask_ros())
    assert (rclpy.status, interfaces.status) == (OK, FAIL)
    assert "not ready" in interfaces.found and "setup" in interfaces.remedy


def test_another_map_is_noticed(monkeypatch, tmp_path):
    other = tmp_path / "Helsinki.osm.pbf"
    other.write_bytes(b"another")
    monkeypatch.setattr("parallel_city_ros.city.osm.helsinki_file", lambda: other)
    assert module.helsinki().status == WARN


def test_numba_has_somewhere_to_keep_what_it_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new"))
    assert module.numba_cache().status == OK
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    check = module.numba_cache()
    assert check.status == WARN and str(tmp_path) in check.found


def test_make_doctor_before_there_is_anything(tmp_path):
    """A bare Python answers, and nothing is installed for it."""
    for name in ("Makefile", "parallel_city_ros/_system.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", tmp_path, "doctor", "PYTHON=python3"],
        capture_output=True, text=True, timeout=60)
    assert "make setup" in done.stdout and "C++ compiler" in done.stdout
    assert not (tmp_path / ".venv").exists()
