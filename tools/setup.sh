#!/usr/bin/env bash
# Make .venv ready to run, test and build: does what is missing and nothing else.
#
#   tools/setup.sh            (make setup, and every target that needs it)
#
# A step is done when .venv/stamps/<step> holds the key of its inputs; it is written last, so a
# step that broke off is done again. Two at once wait for each other.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
ROOT=$PWD
VENV=$ROOT/.venv
STAMPS=$VENV/stamps
PACKAGE=parallel_city_ros
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONHOME

stop() { printf 'setup: %s\n' "$@" >&2; exit 1; }

# --- which of the two machines is this? ---------------------------------------

# A ROS 2 installation is sourced if rclpy is found outside .venv.
ros_installation() {
    local prefix
    local IFS=:
    for prefix in ${AMENT_PREFIX_PATH:-}; do
        if [ "$prefix" != "$VENV" ] && [ -d "$prefix/share/rclpy" ]; then echo "$prefix"; return; fi
    done
}
ROS=$(ros_installation)
MACHINE=${ROS:-plain}

# --- steps ------------------------------------------------------------------------

# step NAME KEY "what is shown" FUNCTION
step() {
    local name=$1 key=$2 title=$3 action=$4 log=$STAMPS/$1.log began=$SECONDS
    if [ -f "$STAMPS/$name" ] && [ "$(<"$STAMPS/$name")" = "$key" ]; then return; fi
    rm -f "$STAMPS/$name"
    mkdir -p "$STAMPS"
    printf 'setup: %s ...\n' "$title"
    # Not in a condition: there, set -e would not stop the action at its first failure.
    set +e
    (set -e; "$action") >"$log" 2>&1
    local code=$?
    set -e
    if [ "$code" -ne 0 ]; then
        tail -n 25 "$log" >&2
        stop "failed: $title. The whole output is in ${log#"$ROOT"/}; make setup tries again."
    fi
    printf '%s' "$key" >"$STAMPS/$name"
    printf 'setup: %s: %d s\n' "$title" "$((SECONDS - began))"
}

check_python() {
    command -v "$PYTHON" >/dev/null || stop "no $PYTHON; name one: make setup PYTHON=python3.12"
    "$PYTHON" -S -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
        stop "$PYTHON is $("$PYTHON" -V 2>&1); Python 3.10 to 3.13 is needed." \
            "Name one: make setup PYTHON=python3.12"
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) ;;
    *) stop "$(uname -s) on $(uname -m): the pinned packages exist for Linux x86-64 only." ;;
    esac
}

# Debian packages that are missing, one per line.
missing_debian_packages() {
    "$PYTHON" parallel_city_ros/_system.py
}

install_debian_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o DPkg::Lock::Timeout=120 update
    # shellcheck disable=SC2086
    apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $MISSING
}

make_venv() {
    # A folder that has a working pip is kept, whoever made it.
    if "$VENV/bin/python" -m pip --version; then return; fi
    rm -rf "$VENV/bin" "$VENV/lib" "$VENV/lib64" "$VENV/include" "$VENV/share" "$VENV/build" \
        "$VENV/pyvenv.cfg"
    if [ -n "$ROS" ]; then
        "$PYTHON" -m venv --system-site-packages "$VENV"
    else
        "$PYTHON" -m venv "$VENV"
    fi
}

# requirements.txt as this machine needs it, in two files.
split_requirements() {
    awk -v ros="$ROS" -v with="$STAMPS/requirements.txt" -v without="$STAMPS/no_deps.txt" '
        BEGIN { file = with }
        /^# --- without dependencies/ { file = without }
        ros && /^ros-/ { next }                            # ROS brings its own
        ros && /^(catkin_pkg|empy|lark|cmake)==/ { next }  # and what it generates with
        ros && /^numpy==/ { print "numpy<2" > file; next } # its extensions are built for 1.26
        { print > file }
    ' requirements.txt
}

install_requirements() {
    split_requirements
    "$VENV/bin/python" -m pip install --progress-bar off -r "$STAMPS/requirements.txt"
    "$VENV/bin/python" -m pip install --progress-bar off --no-deps -r "$STAMPS/no_deps.txt"
}

build_interfaces() {
    local build=$VENV/build/interfaces options=()
    export PATH=$VENV/bin:$PATH
    export AMENT_PREFIX_PATH=$VENV${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}
    # Files of messages that exist no more must not stay installed.
    if [ -f "$build/install_manifest.txt" ]; then xargs -d '\n' rm -f <"$build/install_manifest.txt"; fi
    rm -rf "$build"
    if [ -z "$ROS" ]; then
        options=(-DCMAKE_PREFIX_PATH="$VENV" -DCMAKE_PROJECT_INCLUDE="$ROOT/tools/wheel_includes.cmake")
    else
        options=(-DCMAKE_PREFIX_PATH="${AMENT_PREFIX_PATH//:/;}")
    fi
    cmake -S interfaces -B "$build" "${options[@]}" -DCMAKE_INSTALL_PREFIX="$VENV" \
        -DPython3_EXECUTABLE="$VENV/bin/python" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF
    cmake --build "$build" --parallel "$(nproc)"
    cmake --install "$build"
    LD_LIBRARY_PATH=$VENV/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        "$VENV/bin/python" -c 'import parallel_city_interfaces.action, parallel_city_interfaces.srv'
}

install_package() {
    "$VENV/bin/python" -m pip install --no-deps --no-build-isolation --progress-bar off -e .
    # ament_index and ros2 run look here; links, so that an edit is seen at once.
    local share=$VENV/share/$PACKAGE executables=$VENV/lib/$PACKAGE name
    rm -rf "$share" "$executables"
    mkdir -p "$share/launch" "$executables" "$VENV/share/ament_index/resource_index/packages"
    for name in config worlds package.xml; do ln -sfn "$ROOT/$name" "$share/$name"; done
    # One by one: ros2 launch does not look into a folder that is a link.
    for name in launch/*; do if [ -f "$name" ]; then ln -sfn "$ROOT/$name" "$share/$name"; fi; done
    ln -sfn "$ROOT/resource/$PACKAGE" "$VENV/share/ament_index/resource_index/packages/$PACKAGE"
    "$VENV/bin/python" - <<'PYTHON_END' | while read -r name; do ln -sfn "$VENV/bin/$name" "$executables/$name"; done
from importlib.metadata import distribution
for entry in distribution("parallel_city_ros").entry_points.select(group="console_scripts"):
    print(entry.name)
PYTHON_END
}

compile_loops() {
    "$VENV/bin/python" tools/compile_loops.py
}

# --- do what is missing -----------------------------------------------------------

exec 9<"$ROOT"
if command -v flock >/dev/null && ! flock -n 9; then
    echo "setup: waiting for another set-up of this folder ..."
    flock 9
fi

# Where .venv was made for: a moved folder or another kind of machine needs a new one.
if [ -f "$STAMPS/machine" ] && [ "$(<"$STAMPS/machine")" != "$MACHINE" ]; then
    stop ".venv was made for: $(<"$STAMPS/machine"); this shell is: $MACHINE." \
        "Source that ROS 2 installation (or open a shell without one), or start anew: make distclean setup"
fi
if [ -f "$STAMPS/venv" ]; then
    if [ "$(<"$STAMPS/venv")" != "$VENV" ] || ! "$VENV/bin/python" -I -S -c ''; then
        echo "setup: .venv was moved, or its Python is gone: it is made anew"
        rm -rf "$VENV"
    fi
fi

if [ ! -f "$STAMPS/system" ] || [ "$(<"$STAMPS/system")" != "$MACHINE" ]; then
    check_python
    MISSING=$(missing_debian_packages | tr '\n' ' ')
    if [ -n "$MISSING" ]; then
        LINE="apt-get update && apt-get install -y --no-install-recommends ${MISSING% }"
        if ! command -v apt-get >/dev/null; then
            stop "These are missing (names of Debian packages): ${MISSING% }"
        elif [ "$(id -u)" -ne 0 ]; then
            stop "Libraries are missing. Type this, then make setup again:" \
                "    sudo sh -c '$LINE'"
        fi
        step system "$MACHINE" "Debian packages ${MISSING% }" install_debian_packages
    else
        mkdir -p "$STAMPS"
        printf '%s' "$MACHINE" >"$STAMPS/system"
    fi
fi

REQUIREMENTS_KEY=$(sha256sum <requirements.txt)
INTERFACES_KEY=$(find interfaces tools/wheel_includes.cmake -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum)
PACKAGE_KEY=$({ cat setup.py setup.cfg package.xml pyproject.toml; ls launch/*.py; grep -l '^def main(' $PACKAGE/nodes/*.py || true; } 2>/dev/null | sha256sum)

step venv "$VENV" "Python environment in .venv" make_venv
printf '%s' "$MACHINE" >"$STAMPS/machine"
step requirements "$REQUIREMENTS_KEY" "Python packages, about 1.6 GB" install_requirements
step interfaces "$INTERFACES_KEY" "ROS interfaces" build_interfaces
step package "$PACKAGE_KEY" "$PACKAGE" install_package
# Once: loops that are edited later are compiled when they are needed.
step loops "$VENV" "compiling hot loops" compile_loops
