"""ROS parameters, command-line flags and settings are the same, by construction and by test."""

import click
import pytest
import rclpy
from rclpy.parameter import Parameter

from parallel_city_ros.cli.fly import fly
from parallel_city_ros.cli.plan import ALIASES, plan
from parallel_city_ros.cpss.monitor import MonitorConfig
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.nodes import parameters
from parallel_city_ros.nodes.cpss_monitor import CpssMonitor
from parallel_city_ros.nodes.depth_sensor import DepthSensorNode, DepthSensorNodeConfig
from parallel_city_ros.nodes.mission_executor import ExecutorConfig, MissionExecutor
from parallel_city_ros.nodes.perception import PerceptionNode, PerceptionNodeConfig
from parallel_city_ros.nodes.planner_server import PlannerServer, PlannerServerConfig
from parallel_city_ros.nodes.twin_map_server import TwinConfig, TwinMapServer
from parallel_city_ros.planning.planner import PlanRequest
from parallel_city_ros.settings import flatten

NODES = [(TwinMapServer, [TwinConfig]), (PlannerServer, [PlannerServerConfig, PlanRequest]),
         (MissionExecutor, [ExecutorConfig, FlightConfig]), (CpssMonitor, [MonitorConfig]),
         (PerceptionNode, [PerceptionNodeConfig]), (DepthSensorNode, [DepthSensorNodeConfig])]
OF_ROS = {"use_sim_time", "autostart", "start_type_description_service"}


@pytest.fixture(scope="module", autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.mark.parametrize("node_class, configs", NODES, ids=[n.__name__ for n, _ in NODES])
def test_parameters_are_the_settings(node_class, configs):
    settings = {s.name: s for config in configs for s in flatten(config)}
    node = node_class()
    try:
        names = set(node.get_parameters_by_prefix("")) - OF_ROS
        assert names == set(settings)
        for name, setting in settings.items():
            assert node.get_parameter(name).value == setting.default, name
            about = node.describe_parameter(name)
            assert about.description == setting.description and about.read_only
            if about.floating_point_range:
                bounds = about.floating_point_range[0]
                assert bounds.from_value <= setting.default <= bounds.to_value
    finally:
        node.destroy_node()


def test_a_parameter_out_of_range_is_named():
    node = rclpy.create_node("probe", parameter_overrides=[
        Parameter("reserve_battery_percent", value=60.0)])
    try:
        parameters.declare(node, FlightConfig)
        with pytest.raises(ConfigError, match="reserve_battery_percent.*min_battery_percent"):
            parameters.read(node, FlightConfig)
    finally:
        node.destroy_node()


@pytest.mark.parametrize("command, config, aliases, strip, skip", [
    (plan, PlanRequest, ALIASES, "task.", ()), (fly, FlightConfig, {}, "", ("address",))])
def test_flags_are_the_settings(command, config, aliases, strip, skip):
    flags = {p.name: p for p in command.params if isinstance(p, click.Option)}
    for setting in flatten(config):
        if setting.name in skip:
            continue
        flag = flags[setting.name.replace(".", "__")]
        spelled = aliases.get(setting.name)
        if spelled is None:
            spelled = "--" + setting.name.removeprefix(strip).replace(".", "-").replace("_", "-")
        assert flag.opts == [spelled]
        assert setting.description in flag.help and str(setting.default) in flag.help
