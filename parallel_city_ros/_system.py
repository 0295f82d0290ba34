"""What the system must bring before anything of ours can be installed.

Only the standard library, and no syntax that an older Python does not know, so that it
can say that Python is too old:

    python3 parallel_city_ros/_system.py             missing Debian packages, one a line
    python3 parallel_city_ros/_system.py --report    every check, for people; 1 if one fails
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections import namedtuple

OK, WARN, FAIL = "ok", "warn", "fail"
MARKS = {OK: "✓", WARN: "!", FAIL: "✗"}
PYTHONS = ((3, 10), (3, 13))    # oldest and newest that the pinned packages exist for
LIBRARIES = {  # what open3d links to
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgomp.so.1": "libgomp1",
}
COMPILER_S = 5      # wall, for the compiler to tell its version

# name, status (one of the three above), what was found, and what to type where that is not ok
Check = namedtuple("Check", "name status found remedy")


def version():
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _missing_libraries():
    missing = []
    for library, package in LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(package)
    return missing


def _has_compiler():
    return bool(shutil.which("c++") and shutil.which("cc"))


def _header():
    return os.path.join(sysconfig.get_path("include"), "Python.h")


def missing_debian_packages():
    """Names of Debian packages, in the order in which they are looked for."""
    missing = _missing_libraries()
    if not _has_compiler():
        missing.append("g++")
    if not os.path.exists(_header()):
        missing.append(f"python{version()}-dev")
    if not importlib.util.find_spec("ensurepip"):
        missing.append(f"python{version()}-venv")
    return missing


def install_line(*packages):
    """What to type to get Debian packages."""
    if not shutil.which("apt-get"):
        return "install what your system calls: " + " ".join(packages)
    line = "apt-get update && apt-get install -y --no-install-recommends " + " ".join(packages)
    return line if os.geteuid() == 0 else f"sudo sh -c '{line}'"


def checks():
    """A list of Check of everything that this module knows of."""
    return [_platform(), _python(), _compiler(), _python_header(), _libraries(), _venv()]


def _platform():
    found = f"{_distribution()} on {platform.machine()}"
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        return Check("operating system", OK, found, "")
    return Check("operating system", FAIL, found,
                 "use Linux on x86-64: the pinned packages exist for nothing else")


def _distribution():
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                if line.startswith("PRETTY_NAME="):
                    return line.partition("=")[2].strip().strip('"')
    except OSError:
        pass
    return platform.system()


def _python():
    found = f"{platform.python_version()}, {sys.executable}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        return Check("Python", OK, found, "")
    return Check("Python", FAIL, found, "use Python 3.10 to 3.13: make distclean setup "
                                        "PYTHON=python3.12")


def _compiler():
    if not _has_compiler():
        return Check("C++ compiler", FAIL, "no c++ and cc in PATH", install_line("g++"))
    path = shutil.which("c++")
    try:
        said = subprocess.run([path, "--version"], stdout=subprocess.PIPE, timeout=COMPILER_S,
                              stderr=subprocess.DEVNULL).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError) as error:
        return Check("C++ compiler", FAIL, f"{path} does not run ({error})",
                     install_line("g++"))
    return Check("C++ compiler", OK, (said.splitlines() or [path])[0], "")


def _python_header():
    if os.path.exists(_header()):
        return Check("Python.h", OK, _header(), "")
    return Check("Python.h", FAIL, "not at " + _header(),
                 install_line(f"python{version()}-dev"))


def _libraries():
    missing = _missing_libraries()
    if not missing:
        return Check("Debian libraries", OK, ", ".join(LIBRARIES.values()), "")
    return Check("Debian libraries", FAIL, "missing: " + ", ".join(missing),
                 install_line(*missing))


def _venv():
    if importlib.util.find_spec("ensurepip"):
        return Check("Python venv", OK, "venv with ensurepip", "")
    return Check("Python venv", FAIL, "no ensurepip",
                 install_line(f"python{version()}-venv"))


def mark(status, encoding):
    """One character for a status, or its word where the terminal cannot show that."""
    try:
        MARKS[status].encode(encoding or "ascii")
    except UnicodeEncodeError:
        return f"{status:<4}"
    return MARKS[status]


def _report():
    found = checks()
    for check in found:
        print(f"{mark(check.status, sys.stdout.encoding)} {check.name:<18} {check.found}")
    failed = [check for check in found if check.status == FAIL]
    for check in failed:
        print(f"\n{check.name}: {check.found}\n    {check.remedy}")
    print("\n.venv does not exist yet, or does not work; "
          + ("when the above is done, type: make setup" if failed else "type: make setup"))
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--report"]:
        sys.exit(_report())
    for name in missing_debian_packages():
        print(name)
