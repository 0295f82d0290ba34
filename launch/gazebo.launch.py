"""The system over Gazebo and PX4 SITL: ros2 launch parallel_city_ros gazebo.launch.py

Starts `gz sim` with a world that `parallel-city city export` wrote, one PX4 SITL for each drone
where its pose says, and patrol.launch.py on the same city. For a city of your own:

    parallel-city city export my_city.osm -o my_city.sdf
    ros2 launch parallel_city_ros gazebo.launch.py world:=my_city.sdf city_file:=my_city.osm \\
        poses:=-53,-53,0.2
"""

import os
import re
import shutil
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description import LaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

PACKAGE = "parallel_city_ros"
FIRST_PORT = 14540      # of PX4 SITL's API link; the instance is added
INSTANCES = 10          # whose ports PX4's start script keeps apart
# Open ground of worlds/small_city.sdf: east, north and up in metres.
SMALL_CITY_POSE = "-53,-53,0.2"

ARGUMENTS = {
    "world": ("", "SDF file of the city; empty: worlds/small_city.sdf"),
    "city_file": ("", "city files that the world was exported from, separated by commas; empty: "
                      "worlds/small_city.geojson"),
    "px4": ("", "build folder of PX4 SITL, such as PX4-Autopilot/build/px4_sitl_default; empty: "
                "environment PX4_BUILD"),
    "model": ("gz_x500", "PX4's model of the drones"),
    "drones": ("drone_1", "namespaces of the drones, separated by commas"),
    "poses": (SMALL_CITY_POSE, "where they stand, EAST,NORTH,UP in metres of the world, on open "
                               "ground; one each, separated by semicolons"),
    "gui": ("true", "whether Gazebo's window is shown"),
}
# Handed on to patrol.launch.py.
HANDED_ON = ("state_folder", "config", "autostart", "log_level")


def generate_launch_description():
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in ARGUMENTS.items()),
        OpaqueFunction(function=system)])


def system(context):
    """All processes, from the values of the arguments."""
    asked = {name: LaunchConfiguration(name).perform(context).strip() for name in ARGUMENTS}
    if asked["world"] and not asked["city_file"]:
        raise RuntimeError("city_file:=FILE is needed with a world of your own: what the world "
                           "was exported from, so that the twin is the same city")
    share = Path(get_package_share_directory(PACKAGE))
    world = existing("world", asked["world"] or share / "worlds" / "small_city.sdf")
    city = asked["city_file"] or str(share / "worlds" / "small_city.geojson")
    drones = parts(asked["drones"], ",")
    poses = parts(asked["poses"], ";")
    if len(poses) != len(drones):
        raise RuntimeError(f"poses gives {len(poses)} places for {len(drones)} drones; give "
                           "EAST,NORTH,UP for each, separated by semicolons")
    if len(poses) > INSTANCES:
        raise RuntimeError(f"{len(poses)} drones, but PX4 SITL keeps the ports of only "
                           f"{INSTANCES} instances apart; take fewer")
    for pose in poses:
        if not re.fullmatch(r"\s*-?[\d.]+\s*(,\s*-?[\d.]+\s*){2}", pose):
            raise RuntimeError(f"poses must be EAST,NORTH,UP in metres, got {pose!r}")
    build = px4_build(asked["px4"])
    if shutil.which("gz") is None:
        raise RuntimeError("the program gz is not found: install Gazebo Harmonic or later "
                           "(https://gazebosim.org), which PX4 needs too")
    gazebo = [process(build, "gazebo", ["gz", "sim", "-r", "-s", str(world)])]
    if asked["gui"].lower() == "true":
        gazebo.append(process(build, "gazebo_window", ["gz", "sim", "-g"], ends_all=False))
    return [
        *gazebo,
        *(px4(build, number, pose, asked["model"], name_of(world))
          for number, pose in enumerate(poses)),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(share / "launch" / "patrol.launch.py")),
            launch_arguments={
                "city_file": city, "drones": ",".join(drones),
                "autopilot": f"udpin://127.0.0.1:{FIRST_PORT}"}.items() | handed_on(context))]


def handed_on(context):
    """Arguments of patrol.launch.py that were given to this one."""
    given = context.launch_configurations
    return {(name, given[name]) for name in HANDED_ON if name in given}


def px4(build, number, pose, model, world):
    """One instance, which spawns its model into the world once that runs."""
    folder = Path(os.environ.get("ROS_HOME", Path.home() / ".ros"), "px4", str(number))
    folder.mkdir(parents=True, exist_ok=True)
    return process(
        build, f"px4_{number}", [str(build / "bin" / "px4"), "-i", str(number), "-d",
                                 str(build / "etc")], cwd=str(folder),
        additional_env={"PX4_GZ_STANDALONE": "1", "PX4_GZ_WORLD": world,
                        "PX4_SIMULATOR": "gz", "PX4_SIM_MODEL": model,
                        "PX4_GZ_MODEL_POSE": pose.replace(" ", "")})


def process(build, name, command, ends_all=True, **more):
    """With the models, plugins and server configuration of that PX4."""
    settings = build / "rootfs" / "gz_env.sh"
    if settings.is_file():
        command = ["sh", "-c", '. "$0" && exec "$@"', str(settings), *command]

    def ended(event, context):
        if context.is_shutdown or not ends_all:
            return []
        return [Shutdown(reason=f"{name} has ended with code {event.returncode}")]

    return ExecuteProcess(cmd=command, name=name, output="screen", on_exit=ended, **more)


def px4_build(given):
    folder = given or os.environ.get("PX4_BUILD", "")
    build = Path(folder).expanduser().resolve()
    if not folder or not os.access(build / "bin" / "px4", os.X_OK):
        raise RuntimeError(
            f"px4: {folder or 'not given, and PX4_BUILD is not set'}: no bin/px4 there; build it "
            "(git clone --recursive https://github.com/PX4/PX4-Autopilot, then make px4_sitl in "
            "it) and give its folder build/px4_sitl_default")
    return build


def existing(name, file):
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise RuntimeError(f"{name}: no such file: {path}")
    return path


def name_of(world):
    found = re.search(r'<world name="([^"]+)"', world.read_text(encoding="utf-8")[:100_000])
    if found is None:
        raise RuntimeError(f"world: {world} is no SDF world; write one with: parallel-city city "
                           "export CITY -o CITY.sdf")
    return found[1]


def parts(text, separator):
    return [part.strip().strip("/") for part in text.split(separator) if part.strip()]
