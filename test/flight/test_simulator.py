"""The simulator's process: its ends, its exit codes, its faults, as MAVSDK meets them."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from parallel_city_ros.errors import ConfigError, LinkError, RefusedError
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.mission import MissionItem
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot

HOME = (60.17, 24.94, 17.0)
MODULE = [sys.executable, "-m", "parallel_city_ros.flight.simulator"]


def wait_until(done, seconds=20.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "deadline"
        time.sleep(0.02)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("arguments", [
    [], ["--home=1,2"], ["--home=95,0,0"], ["--home=1,2,3", "--port=70000"],
    ["--home=1,2,3", "--speed-factor=0"], ["--home=1,2,3", "--param=NOPE=1"],
    ["--home=1,2,3", "--vehicle=mass=-1"], ["--home=1,2,3", "--vehicle=wings=2"],
    ["--home=1,2,3", "--city=/nowhere.npz"]])
def test_bad_input_is_exit_code_2(arguments):
    done = subprocess.run([*MODULE, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "error" in done.stderr


def test_a_port_in_use_is_named_on_both_sides():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = subprocess.run([*MODULE, "--home=1,2,3", f"--local-port={port}"],
                              capture_output=True, text=True, timeout=30)
        assert done.returncode == 2 and str(port) in done.stderr
        with pytest.raises(LinkError, match=f"{port}.*another port"):
            Autopilot().connect(f"udpin://127.0.0.1:{port}", 1.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0(number):
    with subprocess.Popen([*MODULE, "--home=1,2,3"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"ready")
        process.send_signal(number)
        assert process.wait(10) == 0


def test_killing_the_parent_leaves_no_simulator():
    code = ("from parallel_city_ros.flight.simulator.process import SimulatedAutopilot\n"
            "import time\n"
            f"with SimulatedAutopilot({HOME}) as s: print(s.pid, flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        wait_until(lambda: not alive(pid))


def test_it_stops_with_its_block_and_says_why_it_cannot_start():
    with SimulatedAutopilot(HOME) as simulator:
        pid = simulator.pid
        assert alive(pid) and pid != os.getpid()
    assert not alive(pid)
    with pytest.raises(ConfigError, match="--bogus"):
        SimulatedAutopilot(HOME, options=("--bogus",)).start()


def test_a_silent_autopilot_is_a_link_error_within_the_deadline():
    with SimulatedAutopilot(HOME, options=("--silent",)) as simulator:
        start = time.monotonic()
        with pytest.raises(LinkError, match="no autopilot was heard"):
            Autopilot().connect(simulator.address, 1.0)
        assert time.monotonic() - start < 8.0


def test_an_address_that_means_nothing_is_a_link_error():
    with pytest.raises(LinkError, match="udpin://"):
        Autopilot().connect("carrier-pigeon", 1.0)
    with pytest.raises(LinkError, match="not connected"):
        Autopilot().arm()


def test_parameters_missions_and_commands_through_mavsdk(drone):
    with drone() as (_, autopilot):
        wait_until(lambda: autopilot.snapshot.healthy)
        autopilot.set_parameter("RTL_CONE_ANG", 25)         # INT32 in the bytes of a float
        autopilot.set_parameter("NAV_ACC_RAD", 2.5)
        assert autopilot.get_parameter("RTL_CONE_ANG", int) == 25
        assert autopilot.get_parameter("NAV_ACC_RAD", float) == 2.5
        with pytest.raises(LinkError, match="NO_SUCH"):
            autopilot.set_parameter("NO_SUCH", 1)
        with pytest.raises(RefusedError, match="NAV_ACC_RAD"):
            autopilot.set_parameter("NAV_ACC_RAD", 2)       # a float, not an int
        with pytest.raises(RefusedError, match="unsupported"):
            autopilot.upload_mission([MissionItem(31000, 6, (0, 0, 0, 0), 0, 0, 1.0)], 5.0)
        with pytest.raises(RefusedError, match="says"):
            autopilot.start_mission()                       # there is none
        nan = float("nan")
        lat, lon = (round(v * 1e7) for v in autopilot.snapshot.home[:2])
        autopilot.upload_mission(
            [MissionItem(22, 6, (0, 0, 0, nan), lat, lon, 10.0)]
            + [MissionItem(16, 6, (0, 3, 0, nan), lat + k, lon, 10.0) for k in range(300)], 20.0)
        wait_until(lambda: autopilot.snapshot.mission_total == 301)
        autopilot.set_current(7)
        wait_until(lambda: autopilot.snapshot.mission_current == 7)
        autopilot.arm()
        wait_until(lambda: autopilot.snapshot.armed)
        autopilot.disarm()
        wait_until(lambda: not autopilot.snapshot.armed)
        snapshot = autopilot.snapshot
        assert snapshot.battery_percent > 90 and snapshot.battery_voltage > 10
        assert snapshot.landed_state == "ON_GROUND" and not snapshot.in_air
        assert snapshot.absolute_altitude_m == pytest.approx(17.0, abs=0.1)
        assert snapshot.relative_altitude_m == pytest.approx(0.0, abs=0.8)
        assert snapshot.home[2] == pytest.approx(17.0, abs=0.8)
        assert snapshot.height_m == 0.0
        assert snapshot.link_age_s < 2.0 and snapshot.vehicle_time_s > 5.0
        wait_until(lambda: "Disarmed" in autopilot.snapshot.status_texts[-1])
