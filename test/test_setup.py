"""The set-up leaves an environment that works when nothing is set outside."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from parallel_city_ros import _system

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "tools" / "setup.sh"
BASE = Path(sys.prefix)
BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}

needs_own_venv = pytest.mark.skipif(
    BASE != ROOT / ".venv", reason="runs in the .venv that make setup makes"
)


def run(*command, env=BARE, cwd=None):
    return subprocess.run(
        list(map(str, command)), env=env, cwd=cwd, capture_output=True, text=True, timeout=120
    )


def python(code, env=BARE):
    done = run(sys.executable, "-c", code, env=env, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@needs_own_venv
def test_ament_index_finds_the_package_with_live_files():
    code = """if True:
        from parallel_city_ros._environment import prepare
        prepare()
        from ament_index_python.packages import get_package_share_directory
        print(get_package_share_directory("parallel_city_ros"))
        print(get_package_share_directory("parallel_city_interfaces"))
    """
    shares = [Path(line) for line in python(code)]
    assert [share.parent for share in shares] == [BASE / "share"] * 2
    assert (shares[0] / "config").resolve() == ROOT / "config"
    # ros2 launch does not follow a folder that is a link, only files.
    assert not (shares[0] / "launch").is_symlink()
    found = {path.name: path.resolve() for path in (shares[0] / "launch").iterdir()}
    assert found == {path.name: path for path in (ROOT / "launch").glob("*.launch.py")}
    assert (shares[0] / "package.xml").resolve() == ROOT / "package.xml"


@needs_own_venv
def test_ros2_run_finds_the_executables():
    installed = entry_points(group="console_scripts")
    names = {entry.name for entry in installed if entry.dist.name == "parallel_city_ros"}
    folder = BASE / "lib" / "parallel_city_ros"
    assert {path.name for path in folder.iterdir()} == names >= {"parallel-city"}
    for name in names:
        assert os.access(folder / name, os.X_OK) and os.access(BASE / "bin" / name, os.X_OK)


def test_prepare_keeps_what_the_operator_has_set():
    code = """if True:
        import os
        from parallel_city_ros._environment import prepare
        prepare()
        prepare()
        print(os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"])
        print(os.environ["AMENT_PREFIX_PATH"])
    """
    asked = BARE | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "AMENT_PREFIX_PATH": "/elsewhere"}
    discovery, prefixes = python(code, env=asked)
    assert discovery == "SUBNET"
    assert prefixes.split(":")[-1] == "/elsewhere"
    assert len(prefixes.split(":")) == len(set(prefixes.split(":")))


def test_nothing_is_seen_beyond_this_machine_by_default():
    code = """if True:
        import os
        from parallel_city_ros._environment import prepare
        prepare()
        print(os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"])
    """
    assert python(code) == ["LOCALHOST"]


@needs_own_venv
def test_libraries_are_found_when_another_environment_started_this_one():
    """Its marker is inherited, its library path does not lead here."""
    code = """if True:
        from parallel_city_ros._environment import prepare, require_interfaces
        prepare()
        require_interfaces()
        from parallel_city_interfaces.msg import Objectives
        from rclpy.serialization import deserialize_message, serialize_message
        message = Objectives(f1_coverage_km2=0.25)
        print(deserialize_message(serialize_message(message), Objectives) == message)
    """
    inherited = BARE | {"_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1", "LD_LIBRARY_PATH": "/elsewhere/lib"}
    assert python(code, env=inherited) == ["True"]


def checkout(folder):
    """The files that the set-up reads, in a folder of their own."""
    for name in ("requirements.txt", "setup.py", "setup.cfg", "package.xml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "interfaces", folder / "interfaces")
    shutil.copytree(ROOT / "tools", folder / "tools")
    (folder / "parallel_city_ros").mkdir()
    shutil.copy(ROOT / "parallel_city_ros" / "_system.py", folder / "parallel_city_ros")
    return folder


def fake_python(folder, body):
    """An interpreter for PYTHON=... that answers as `body` does."""
    path = folder / "fake_python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_wrong_python_is_refused_by_name(tmp_path):
    body = 'case "$*" in *version_info*) exit 1;; *) echo "Python 3.8.10";; esac'
    fake = fake_python(tmp_path, body)
    done = run("tools/setup.sh", env=BARE | {"PYTHON": str(fake)}, cwd=checkout(tmp_path))
    assert done.returncode == 1
    assert "Python 3.8.10" in done.stderr and "make setup PYTHON=" in done.stderr


def test_failed_step_is_shown_and_done_again(tmp_path):
    """The environment cannot be made: no stamp may say that it was."""
    body = f"""case "$1" in
        -m) echo "disk is full" >&2; exit 3;;
        *_system.py) ;;
        *) exec {sys.executable} "$@";;
    esac"""
    fake = fake_python(tmp_path, body)
    folder = checkout(tmp_path)
    for _ in range(2):
        done = run("tools/setup.sh", env=BARE | {"PYTHON": str(fake)}, cwd=folder)
        assert done.returncode == 1
        assert "disk is full" in done.stderr
        assert "failed: Python environment" in done.stderr
        assert not (folder / ".venv/stamps/venv").exists()


def test_missing_libraries_are_named_with_the_line_to_type(tmp_path):
    body = f'case "$1" in *_system.py) echo libegl1;; *) exec {sys.executable} "$@";; esac'
    fake = fake_python(tmp_path, body)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, answer in (("id", "1000"), ("apt-get", "called")):
        (bin_folder / name).write_text(f"#!/bin/sh\necho {answer}\n")
        (bin_folder / name).chmod(0o755)
    env = BARE | {"PYTHON": str(fake), "PATH": f"{bin_folder}:{BARE['PATH']}"}
    done = run("tools/setup.sh", env=env, cwd=checkout(tmp_path))
    assert done.returncode == 1
    assert "sudo sh -c 'apt-get update && apt-get install -y" in done.stderr
    assert "libegl1" in done.stderr


def test_what_is_missing_is_told_by_a_bare_python():
    """One Debian package a line, or every check for people; nothing is installed for it."""
    command = (Path(sys.base_prefix) / "bin" / "python3", "-I", "-S",
               ROOT / "parallel_city_ros" / "_system.py")
    done = run(*command, cwd="/")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= missing_of_all()
    report = run(*command, "--report", env=BARE | {"LANG": "C", "PYTHONIOENCODING": "ascii"})
    assert report.returncode == (1 if done.stdout else 0), report.stderr
    for name in ("operating system", "C++ compiler", "Python.h", "Debian libraries"):
        assert name in report.stdout


def missing_of_all():
    number = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {*_system.LIBRARIES.values(), "g++", f"python{number}-dev", f"python{number}-venv"}


def test_a_system_without_anything_is_told_everything(monkeypatch):
    def fail(name):
        raise OSError(name)
    monkeypatch.setattr(_system.ctypes, "CDLL", fail)
    monkeypatch.setattr(_system.shutil, "which", lambda name: None)
    monkeypatch.setattr(_system.sysconfig, "get_path", lambda name: "/nonexistent")
    monkeypatch.setattr(_system.importlib.util, "find_spec", lambda name: None)
    assert set(_system.missing_debian_packages()) == missing_of_all()
    failed = {c.name: c for c in _system.checks() if c.status == _system.FAIL}
    assert set(failed) >= {"C++ compiler", "Python.h", "Debian libraries", "Python venv"}
    assert all(check.found and check.remedy for check in failed.values())


def test_the_remedy_is_a_line_to_type(monkeypatch):
    monkeypatch.setattr(_system.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(_system.os, "geteuid", lambda: 1000)
    assert _system.install_line("g++") == (
        "sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends g++'")
    monkeypatch.setattr(_system.os, "geteuid", lambda: 0)
    assert _system.install_line("g++").startswith("apt-get update")


def test_other_kind_of_machine_does_not_mix(tmp_path):
    folder = checkout(tmp_path)
    (folder / ".venv/stamps").mkdir(parents=True)
    (folder / ".venv/stamps/machine").write_text("/opt/ros/jazzy")
    done = run("tools/setup.sh", cwd=folder)
    assert done.returncode == 1
    assert "/opt/ros/jazzy" in done.stderr and "make distclean setup" in done.stderr


def test_ros_machine_leaves_out_what_ros_brings(tmp_path):
    script = SETUP.read_text()
    start = script.index("split_requirements() {")
    function = script[start : script.index("\n}\n", start) + 3]
    command = f"ROS=/opt/ros/jazzy STAMPS={tmp_path}\n{function}\nsplit_requirements"
    assert run("bash", "-c", command, cwd=ROOT).returncode == 0
    with_deps = (tmp_path / "requirements.txt").read_text()
    assert "\nros-" not in with_deps and "\ncmake==" not in with_deps
    assert "\nnumpy<2\n" in with_deps
    assert "\nmavsdk==" in with_deps and "\npytest==" in with_deps
    without = (tmp_path / "no_deps.txt").read_text()
    assert "\npyrosm==" in without and "pyrosm" not in with_deps
