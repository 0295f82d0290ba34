"""What `ros2 launch` starts is what the settings say, and stands on open ground."""

import ast
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import shapely
import yaml

from parallel_city_ros.city.ground import open_ground
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.readers import read_city
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.cpss.monitor import MonitorConfig
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.nodes.depth_sensor import DepthSensorNodeConfig
from parallel_city_ros.nodes.mission_executor import ExecutorConfig
from parallel_city_ros.nodes.perception import PerceptionNodeConfig
from parallel_city_ros.nodes.planner_server import PlannerServerConfig
from parallel_city_ros.nodes.twin_map_server import TwinConfig
from parallel_city_ros.planning.planner import PlanRequest
from parallel_city_ros.settings import dotted, flatten

ROOT = Path(__file__).parents[2]
LAUNCH_FILE = ROOT / "launch" / "patrol.launch.py"
CONFIG = ROOT / "config" / "patrol.yaml"
NODES = {
    "twin_map_server": [TwinConfig], "planner_server": [PlannerServerConfig, PlanRequest],
    "/**/mission_executor": [ExecutorConfig, FlightConfig], "cpss_monitor": [MonitorConfig],
    "perception": [PerceptionNodeConfig], "/**/depth_sensor": [DepthSensorNodeConfig]}
NEEDED_M = 12.0     # from every building, where a simulated drone stands


def test_config_has_every_node():
    assert list(yaml.safe_load(CONFIG.read_text())) == list(NODES)


@pytest.mark.parametrize("node", NODES)
def test_config_is_the_settings(node):
    written = dotted(yaml.safe_load(CONFIG.read_text())[node]["ros__parameters"])
    settings = {s.name: s for config in NODES[node] for s in flatten(config)}
    assert written == {name: s.default for name, s in settings.items()}
    for name, value in written.items():     # ROS refuses 8 where 8.0 is declared
        assert type(value) is settings[name].kind, name


def test_every_parameter_is_explained():
    for line in CONFIG.read_text().splitlines():
        if re.match(r"    +\w+: \S", line):
            assert "  # " in line, line


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda f: f.name)
def test_configs_name_only_parameters_that_exist(file):
    for node, entry in yaml.safe_load(file.read_text()).items():
        known = {s.name for config in NODES[node] for s in flatten(config)}
        assert set(dotted(entry["ros__parameters"])) <= known


@pytest.mark.parametrize("file", sorted((ROOT / "launch").glob("*.launch.py")),
                         ids=lambda f: f.name)
def test_launch_files_import_only_launch_and_the_standard_library(file):
    allowed = {"launch", "launch_ros", "ament_index_python", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
            [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in names} <= allowed
    compile(file.read_text(), str(file), "exec")


def test_home_is_open_ground():
    (home,) = re.findall(r'^HELSINKI_HOME = "(.+)"$', LAUNCH_FILE.read_text(), re.M)
    city = read_osm(helsinki_file())
    place = city.frame.to_enu(*map(float, home.split(",")))
    assert min(b.footprint.distance(shapely.Point(place[:2])) for b in city.buildings) >= NEEDED_M
    grid = voxelise(city)
    assert open_ground(grid, NEEDED_M)[tuple(grid.index(place)[:2])]


# --- where launch is installed ------------------------------------------------------

@pytest.fixture
def launch_file():
    # Not "launch" alone: a folder of that name in the path passes for it.
    pytest.importorskip("launch.actions", reason="launch is not installed: it comes with ROS 2")
    pytest.importorskip("launch_ros.actions", reason="launch_ros comes with ROS 2")
    spec = spec_from_file_location("patrol_launch", LAUNCH_FILE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def started(launch_file):
    """A function from arguments to the processes that would be started."""
    from launch import LaunchContext

    def started(**arguments):
        context = LaunchContext()
        context.launch_configurations.update(
            {name: default for name, (default, _) in launch_file.ARGUMENTS.items()} | arguments)
        return launch_file.system(context)
    return started


def _names(actions):
    """Executables of the nodes; None for what is no node."""
    return [getattr(action, "node_executable", None) for action in actions]


def test_description_can_be_made(launch_file):
    assert len(launch_file.generate_launch_description().entities) > len(launch_file.ARGUMENTS)


def test_the_system_of_the_demo_is_started(started):
    assert _names(started()) == ["twin_map_server", "planner_server", "cpss_monitor", "perception",
                                 None, "depth_sensor", "mission_executor"]
    two = _names(started(drones="drone_1, drone_2"))
    assert [two.count(n) for n in ("mission_executor", None, "depth_sensor")] == [2, 2, 2]


def test_nothing_is_simulated_for_a_real_drone(started):
    names = _names(started(autopilot="udpin://127.0.0.1:14540"))
    assert None not in names and "depth_sensor" not in names and "perception" in names


@pytest.mark.parametrize("autopilot, count, addresses", [
    ("sim", 2, ["udpin://127.0.0.1:14540", "udpin://127.0.0.1:14541"]),
    ("udpin://0.0.0.0:14550", 2, ["udpin://0.0.0.0:14550", "udpin://0.0.0.0:14551"]),
    ("serial:///dev/ttyUSB0:57600", 1, ["serial:///dev/ttyUSB0:57600"]),
    ("udpin://0.0.0.0:1, serial:///dev/a:9", 2, ["udpin://0.0.0.0:1", "serial:///dev/a:9"])])
def test_every_drone_has_an_address_of_its_own(launch_file, autopilot, count, addresses):
    assert launch_file.addresses_of(autopilot, count) == addresses


@pytest.mark.parametrize("arguments, words", [
    ({"drones": "a,a"}, "different names"), ({"drones": " "}, "drones"),
    ({"autopilot": "serial:///dev/ttyUSB0:57600", "drones": "a,b"}, "2 addresses"),
    ({"city_file": "mine.osm"}, "home:=LAT,LON,ALT"),
    ({"home": "1,2,3;4,5,6"}, "2 places for 1 drones"), ({"config": "/nowhere.yaml"}, "no such")])
def test_arguments_that_cannot_be_say_why(started, arguments, words):
    with pytest.raises(RuntimeError, match=words):
        started(**arguments)


def test_the_interpreter_is_that_of_the_executables(launch_file, tmp_path, monkeypatch):
    monkeypatch.setattr(launch_file, "get_package_prefix", lambda _: tmp_path)
    assert launch_file.python() == sys.executable
    executable = tmp_path / "lib" / "parallel_city_ros" / "twin_map_server"
    executable.parent.mkdir(parents=True)
    for head, found in (("#!/opt/v/bin/python3.12\n", "/opt/v/bin/python3.12"),
                        ("#!/bin/sh\n'''exec' \"/a long/bin/python\" \"$0\" \"$@\"\n' '''\n",
                         "/a long/bin/python"),
                        ("#!/bin/sh\n'''exec' /long/bin/python3 \"$0\" \"$@\"\n' '''\n",
                         "/long/bin/python3"),
                        ("\x7fELF", sys.executable)):
        executable.write_text(head)
        assert launch_file.python() == found


# --- Gazebo ---------------------------------------------------------------------------

@pytest.fixture
def gazebo(launch_file, tmp_path, monkeypatch):
    """(module, arguments → processes), with programs in the places of gz and px4."""
    from launch import LaunchContext

    spec = spec_from_file_location("gazebo_launch", ROOT / "launch" / "gazebo.launch.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    build = tmp_path / "px4_sitl_default"
    for program in (build / "bin" / "px4", tmp_path / "bin" / "gz"):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("ROS_HOME", str(tmp_path / "ros"))
    monkeypatch.setattr(module, "get_package_share_directory", lambda _: str(ROOT))

    def started(**arguments):
        context = LaunchContext()
        context.launch_configurations.update(
            {name: default for name, (default, _) in module.ARGUMENTS.items()}
            | {"px4": str(build)} | arguments)
        return context, module.system(context)
    return module, started


def _command(context, action):
    return ["".join(part.perform(context) for part in word) for word in action.cmd]


def test_gazebo_has_the_twins_world_and_a_px4_for_each_drone(gazebo, tmp_path):
    module, started = gazebo
    assert len(module.generate_launch_description().entities) > len(module.ARGUMENTS)
    context, actions = started(drones="a,b", poses="-53,-53,0.2; 45,31,0", gui="false",
                               log_level="debug")
    server, *drones, system = actions
    assert _command(context, server) == ["gz", "sim", "-r", "-s",
                                         str(ROOT / "worlds" / "small_city.sdf")]
    build = tmp_path / "px4_sitl_default"
    for number, (drone, pose) in enumerate(zip(drones, ("-53,-53,0.2", "45,31,0"), strict=True)):
        assert _command(context, drone) == [str(build / "bin" / "px4"), "-i", str(number), "-d",
                                            str(build / "etc")]
        told = {"".join(p.perform(context) for p in name): "".join(
            p.perform(context) for p in value) for name, value in drone.additional_env}
        assert told["PX4_GZ_MODEL_POSE"] == pose and told["PX4_GZ_WORLD"] == "small_city"
    handed = dict(system.launch_arguments)
    assert handed == {"city_file": str(ROOT / "worlds" / "small_city.geojson"), "drones": "a,b",
                      "autopilot": "udpin://127.0.0.1:14540", "log_level": "debug"}

    # PX4's build says where its models and plugins are.
    settings = build / "rootfs" / "gz_env.sh"
    settings.parent.mkdir()
    settings.write_text("export PX4_GZ_MODELS=/models\n")
    context, (server, window, drone, _) = started()
    assert _command(context, server)[:4] == ["sh", "-c", '. "$0" && exec "$@"', str(settings)]
    assert _command(context, window)[-3:] == ["gz", "sim", "-g"]
    assert _command(context, drone)[4] == str(build / "bin" / "px4")


@pytest.mark.parametrize("arguments, words", [
    ({"world": "mine.sdf"}, "city_file"), ({"world": "no.sdf", "city_file": "a"}, "no such file"),
    ({"poses": "1,2"}, "EAST,NORTH,UP"), ({"drones": "a,b"}, "1 places for 2 drones"),
    ({"px4": "/nowhere"}, "make px4_sitl"),
    ({"world": str(CONFIG), "city_file": "a"}, "is no SDF world")])
def test_gazebo_arguments_that_cannot_be_say_why(gazebo, arguments, words):
    with pytest.raises(RuntimeError, match=words):
        gazebo[1](**arguments)


def test_gazebo_that_is_not_installed_is_named(gazebo, monkeypatch):
    monkeypatch.setattr(gazebo[0].shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match="gz is not found"):
        gazebo[1]()


def test_gazebos_drone_stands_on_open_ground():
    text = (ROOT / "launch" / "gazebo.launch.py").read_text()
    (pose,) = re.findall(r'^SMALL_CITY_POSE = "(.+)"$', text, re.M)
    grid = voxelise(read_city(ROOT / "worlds" / "small_city.geojson"))
    place = np.array([float(v) for v in pose.split(",")])
    assert open_ground(grid, NEEDED_M)[tuple(grid.index(place)[:2])]
    assert 0 <= place[2] - grid.ground_at(place) < 0.5
