"""What has to be set in the process before rclpy is imported.

Used by everything that is started from a shell: the command and the nodes. It needs
no variable to be set outside, so that `.venv/bin/parallel-city` works when called
directly. Where ROS 2 is sourced, its own settings are kept.
"""

import importlib
import os
import sys
from pathlib import Path

from parallel_city_ros.errors import SetupError

INTERFACES = "parallel_city_interfaces"

SETUP_ADVICE = (
    "On a plain machine type\n"
    "    make setup\n"
    "and start .venv/bin/parallel-city. In a ROS 2 workspace, where colcon does not look inside "
    "a package for another, type\n"
    "    colcon build --base-paths src/parallel_city_ros src/parallel_city_ros/interfaces\n"
    "    source install/setup.bash"
)


def prepare():
    """Make packages, libraries and other processes of this machine found.

    Safe to call more than once. Call it before rclpy is imported: if the folder of the
    libraries is not in LD_LIBRARY_PATH, which the linker reads only when a process
    starts, Python starts itself again with the same arguments.
    """
    prefix = Path(sys.prefix)
    if (prefix / "share" / "ament_index").is_dir():
        _prepend("AMENT_PREFIX_PATH", prefix)
    # Nothing is seen beyond this machine unless the operator opens it up.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    _find_libraries(prefix / "lib")


def require_interfaces():
    """Import the package of messages, services and actions.

    Raises
    ------
    SetupError
        If it has not been built, or its libraries do not load.
    """
    for name in (f"{INTERFACES}.msg", f"{INTERFACES}.srv", f"{INTERFACES}.action"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SetupError(
                f"The ROS interfaces are not ready ({error}).\n{SETUP_ADVICE}"
            ) from error


def _prepend(variable, folder):
    """Put a folder first in a search path; True if it was not in it."""
    folders = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    if str(folder) in folders:
        return False
    os.environ[variable] = os.pathsep.join([str(folder), *folders])
    return True


def _find_libraries(folder):
    if not (folder / f"lib{INTERFACES}__rosidl_generator_c.so").exists():
        return
    if not _prepend("LD_LIBRARY_PATH", folder) or "rclpy" in sys.modules:
        return
    # The wheels do the same, unless a Python of another environment started this one.
    os.environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, sys.orig_argv, os.environ)
