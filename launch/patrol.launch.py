"""The whole system of `make demo`, left running: ros2 launch parallel_city_ros patrol.launch.py

Starts twin_map_server, planner_server, cpss_monitor, one mission_executor for each drone in the
drone's namespace and, with autopilot:=sim, one simulated PX4 for each. Then, for example:

    ros2 action send_goal /plan_patrol parallel_city_interfaces/action/PlanPatrol \\
        "{start: {x: 959.0, y: 597.0, z: 60.0}, goal: {x: 843.0, y: 1373.0, z: 60.0}}" --feedback

The three lifecycle nodes go to active by themselves, because nothing manages them on a machine
without launch. autostart:=false leaves them unconfigured for a manager, or for
`ros2 lifecycle set /planner_server configure`.
"""

import os
import re
import sys
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.launch_description import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = "parallel_city_ros"
FIRST_PORT = 14540      # of PX4 SITL's API link; the instance is added
# Senate Square: 57 m from every building. Latitude and longitude in degrees, altitude in metres.
HELSINKI_HOME = "60.16951,24.95246,0"

ARGUMENTS = {
    "city_file": ("", "city files of any kind, separated by commas; empty: those of config, or "
                      "else central Helsinki"),
    "state_folder": ("~/.ros/parallel_city", "events of the city outlive a restart of the map "
                                             "server here; empty: that of config, or else they "
                                             "do not"),
    "autopilot": ("sim", "sim: a simulated PX4 for each drone; or a MAVSDK address such as "
                         "udpin://127.0.0.1:14540, of which the next drones take the next ports; "
                         "or one for each drone, separated by commas"),
    "drones": ("drone_1", "namespaces of the drones, separated by commas"),
    "home": (HELSINKI_HOME, "where the simulated drones stand, LAT,LON,ALT in degrees and metres, "
                            "on open ground; one for all, or one each, separated by semicolons"),
    "speed_factor": ("1", "vehicle seconds per second of the simulated drones"),
    "config": ("", "parameter file that is read after config/patrol.yaml"),
    "autostart": ("true", "the lifecycle nodes go to active by themselves"),
    "log_level": ("info", "of the nodes: debug, info, warn, error"),
}


def generate_launch_description():
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in ARGUMENTS.items()),
        # Nodes and simulators end with launch, even if that is killed.
        SetEnvironmentVariable("PARALLEL_CITY_ENDS_WITH_PARENT", str(os.getpid())),
        OpaqueFunction(function=system),
    ])


def system(context):
    """All processes, from the values of the arguments."""
    asked = {name: LaunchConfiguration(name).perform(context).strip() for name in ARGUMENTS}
    drones = parts(asked["drones"], ",")
    if not drones or len(set(drones)) < len(drones):
        raise RuntimeError("drones needs different names, separated by commas, such as "
                           f"drones:=drone_1,drone_2; got {asked['drones']!r}")
    files = [os.path.join(get_package_share_directory(PACKAGE), "config", "patrol.yaml")]
    if asked["config"]:
        if not os.path.isfile(asked["config"]):
            raise RuntimeError(f"config: no such file: {asked['config']}")
        files.append(asked["config"])
    simulated = asked["autopilot"] == "sim"
    addresses = addresses_of(asked["autopilot"], len(drones))
    city = {"city_file": ",".join(os.path.abspath(file.strip()) for file in
                                  asked["city_file"].split(","))} if asked["city_file"] else {}
    if asked["state_folder"]:
        city["state_folder"] = os.path.expanduser(asked["state_folder"])

    def settings(**values):
        return [*files, {name: ParameterValue(value, value_type=type(value))
                         for name, value in values.items()}]

    def lifecycle(executable, values, namespace="", **more):
        return LifecycleNode(
            package=PACKAGE, executable=executable, name=executable, namespace=namespace,
            parameters=settings(**values, autostart=asked["autostart"].lower() == "true"),
            arguments=["--ros-args", "--log-level", asked["log_level"]], output="screen", **more)

    actions = [
        lifecycle("twin_map_server", city, on_exit=end_all("twin_map_server")),
        lifecycle("planner_server", {}, on_exit=end_all("planner_server")),
        Node(package=PACKAGE, executable="cpss_monitor", name="cpss_monitor", output="screen",
             parameters=settings(drones=",".join(drones)),
             arguments=["--ros-args", "--log-level", asked["log_level"]],
             on_exit=end_all("cpss_monitor")),
        # The patrol goes on without it: what it told stays in the map.
        Node(package=PACKAGE, executable="perception", name="perception", output="screen",
             parameters=settings(drones=",".join(drones)), respawn=True, respawn_delay=2.0,
             arguments=["--ros-args", "--log-level", asked["log_level"]])]
    if simulated:
        actions += simulators(drones, asked)
        actions += [Node(package=PACKAGE, executable="depth_sensor", name="depth_sensor",
                         namespace=drone, parameters=settings(seed=number), output="screen",
                         arguments=["--ros-args", "--log-level", asked["log_level"]])
                    for number, drone in enumerate(drones)]
    # MAVSDK's native library can take its process along; the autopilot flies on meanwhile.
    actions += [lifecycle("mission_executor", {"address": address}, drone,
                          respawn=True, respawn_delay=2.0, respawn_max_retries=3)
                for drone, address in zip(drones, addresses, strict=True)]
    return actions


def end_all(name):
    """What to do when a process ends that the system cannot do without."""
    def act(event, context):
        if context.is_shutdown:     # as everything ends now
            return []
        return [Shutdown(reason=f"{name} has ended with code {event.returncode}")]
    return act


def simulators(drones, asked):
    """A simulated PX4 for each drone, as PX4 SITL would be: instance n sends to port 14540 + n."""
    if asked["city_file"] and asked["home"] == HELSINKI_HOME:
        raise RuntimeError("home:=LAT,LON,ALT is needed with a city_file of your own: open ground "
                           "in that city, where the simulated drone stands")
    homes = parts(asked["home"], ";")
    if len(homes) == 1:
        homes *= len(drones)
    if len(homes) != len(drones):
        raise RuntimeError(f"home gives {len(homes)} places for {len(drones)} drones; give one, "
                           "or one each, separated by semicolons")
    return [
        ExecuteProcess(
            cmd=[python(), "-m", f"{PACKAGE}.flight.simulator", f"--port={FIRST_PORT}",
                 f"--instance={number}", f"--home={home}", f"--seed={number}",
                 f"--speed-factor={asked['speed_factor']}", f"--parent-pid={os.getpid()}"],
            name=f"simulated_px4_{drone}", output="screen",
            on_exit=end_all(f"the simulated autopilot of {drone}"))
        for number, (drone, home) in enumerate(zip(drones, homes, strict=True))]


def addresses_of(autopilot, count):
    """The MAVSDK address of each of count drones."""
    if autopilot == "sim":
        autopilot = f"udpin://127.0.0.1:{FIRST_PORT}"
    addresses = parts(autopilot, ",")
    counted = re.fullmatch(r"(udp\w*://.*:)(\d+)", autopilot)
    if len(addresses) == 1 and counted:
        addresses = [f"{counted[1]}{int(counted[2]) + number}" for number in range(count)]
    if len(addresses) != count:
        raise RuntimeError(f"autopilot must be sim, one udpin:// address, or {count} addresses, "
                           f"one for each drone, separated by commas; got {autopilot!r}")
    return addresses


def parts(text, separator):
    return [part.strip().strip("/") for part in text.split(separator) if part.strip()]


def python():
    """The interpreter of the package's executables, which need not be that of launch."""
    executable = Path(get_package_prefix(PACKAGE), "lib", PACKAGE, "twin_map_server")
    try:
        head = executable.read_bytes()[:1024].decode(errors="replace")
    except OSError:
        return sys.executable
    # A long path stands in the second line, because the system takes only a short first one.
    found = (re.match(r"#!(/\S*python\S*)\n", head)
             or re.match(r"""#!/bin/sh\n'''exec' "?([^"\n]*python[^"\s]*)"? """, head))
    return found[1] if found else sys.executable
