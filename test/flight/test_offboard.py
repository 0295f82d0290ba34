"""Offboard setpoints stop when whoever decides is killed, stopped or done, and PX4 takes over."""

import json
import math
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from pymavlink.dialects.v20 import common as mavlink
from test_simulator import alive, wait_until

from parallel_city_ros.errors import LinkError
from parallel_city_ros.flight.offboard import OffboardStream
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot, _free_udp_port
from parallel_city_ros.geo import LocalFrame

HOME = (60.17, 24.94, 17.0)
DECIDES = """
import sys, time
from parallel_city_ros.flight.offboard import OffboardStream
with OffboardStream(int(sys.argv[1])) as stream:
    print(stream.pid, flush=True)
    for k in range(10**6):
        stream.velocity((2.0, 0.0, 0.0), 0.0)
        if k % 20 == 10:
            stream.engage()
        time.sleep(0.05)
"""


@contextmanager
def hovering():
    """(its port, what is true of it) of a drone that hovers at 15 m in real time."""
    port = _free_udp_port()
    with SimulatedAutopilot(HOME, speed_factor=20.0, options=(
            f"--local-port={port}", "--param=MIS_TAKEOFF_ALT=15",
            "--param=RTL_CONE_ANG=0", "--param=RTL_RETURN_ALT=15",
            "--param=COM_DISARM_PRFLT=600")) as simulator, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        link = mavlink.MAVLink(None, srcSystem=255)

        def truth():
            return json.loads(simulator.inject("truth"))[0]

        def asked_for(command, done):
            def ask():
                sock.sendto(mavlink.MAVLink_command_long_message(
                    1, 1, command, 0, 1, 0, 0, 0, 0, 0, 0).pack(link), ("127.0.0.1", port))
                return done(truth())
            wait_until(ask)
        asked_for(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, lambda t: t["armed"])
        asked_for(mavlink.MAV_CMD_NAV_TAKEOFF, lambda t: t["mode"] == "TAKEOFF")
        wait_until(lambda: truth()["mode"] == "HOLD")
        simulator.inject("speed 1")
        yield port, truth


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGSTOP])
def test_a_drone_whose_pilot_program_is_gone_or_hangs_comes_home(ended_by):
    with hovering() as (port, truth), subprocess.Popen(
            [sys.executable, "-c", DECIDES, str(port)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE) as pilot:
        try:
            stream = int(pilot.stdout.readline())
            wait_until(lambda: truth()["mode"] == "OFFBOARD")
            wait_until(lambda: truth()["position"][0] > 1.0)
            pilot.send_signal(ended_by)
            wait_until(lambda: truth()["mode"] == "RETURN")
            wait_until(lambda: not alive(stream))
            pilot.send_signal(signal.SIGCONT)       # too late: it is not the pilot any more
            assert pilot.wait(20) != 0
            assert ended_by is signal.SIGKILL or b"came too late" in pilot.stderr.read()
            assert truth()["mode"] in ("RETURN", "HOLD")
        finally:
            pilot.kill()


def test_it_flies_to_a_place_and_stops_with_its_block():
    with hovering() as (port, truth):
        lat, lon, _ = LocalFrame(*HOME).to_wgs84((6.0, -4.0, 0.0)).tolist()

        def there(stream):
            stream.position(lat, lon, HOME[2] + 15.0, math.pi / 2)
            stream.engage()
            return math.dist(truth()["position"], (6.0, -4.0, 15.0)) < 1.5
        with OffboardStream(port) as stream:
            pid = stream.pid
            wait_until(lambda: there(stream))
            assert truth()["mode"] == "OFFBOARD"
        assert not alive(pid)
        wait_until(lambda: truth()["mode"] == "RETURN")
        with pytest.raises(LinkError, match="ended"):
            stream.velocity((0.0, 0.0, 0.0), 0.0)


def test_orders_that_come_too_late_end_it_for_good():
    with OffboardStream(_free_udp_port()) as stream:
        stream.velocity((1.0, 0.0, 0.0), 0.0)
        wait_until(lambda: not alive(stream.pid))

        def refused():
            try:
                stream.velocity((1.0, 0.0, 0.0), 0.0)
            except LinkError:
                return True
            time.sleep(0.05)
            return False
        wait_until(refused)
