"""A simulated autopilot in a process of its own, for as long as a `with` block."""

from __future__ import annotations

import json
import logging
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np

from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError, LinkError
from parallel_city_ros.flight.simulator.surroundings import write_city

logger = logging.getLogger(__name__)

DISARM_S = 10.0     # after arming, if it does not take off; PX4's default
ANSWER_S = 10.0     # wall, to a line that it was told
START_S = 30.0      # wall; importing on a loaded machine takes seconds
PORTS_TRIED = 50
PACE_S = 0.4        # vehicle, by which time goes on at once
AHEAD_S = 1.5       # vehicle, by which it may be ahead of who keeps up with it
BLIND_S = 0.2       # wall, that those are waited for: they may wait for something themselves
STOP_S = 3.0        # wall, from SIGTERM to SIGKILL


def patience(speed_factor: float) -> str:
    """Option by which it waits for the take-off as long of our time as a drone of real time:
    between arming and the order to start lies our work, which is not quicker if the drone is."""
    return f"--param=COM_DISARM_PRFLT={DISARM_S * max(speed_factor, 1.0):g}"


class SimulatedAutopilot:
    """Starts `python -m parallel_city_ros.flight.simulator`; stops it on exit.

    Nothing is left behind if this process is killed: the simulator watches its parent.

    Parameters
    ----------
    home : (3,) floats
        Latitude and longitude in degrees, altitude above mean sea level in metres.
    speed_factor : float
        Vehicle seconds per wall second.
    city : VoxelGrid
        What really stands there, which it may fly into and measures distances to, and its
        terrain; None: only the ground.
    ground : Ground
        The terrain that it stands and lands on; None: flat.
    stands_at : (2,) floats
        East and north of home in the frame of the ground, metres.
    options : str
        Further command-line options, such as "--refuse-arm".

    Raises
    ------
    ConfigError
        From `start`, if the simulator does not accept an option.
    LinkError
        From `start`, if it does not start.
    """

    _open = subprocess.Popen    # how its process begins: a class of its own may fork instead

    def __init__(self, home, *, speed_factor: float = 10.0, seed: int = 0,
                 city: VoxelGrid | None = None, ground: Ground | None = None,
                 stands_at=(0.0, 0.0), options: tuple[str, ...] = ()):
        self.home = tuple(float(v) for v in home)
        self.speed_factor = float(speed_factor)
        self._seed, self._options = seed, tuple(options)
        self._city = city
        self._ground = None if ground is None or ground.is_flat else ground
        self._stands_at = np.asarray(stands_at, float)[:2]
        self._process: subprocess.Popen | None = None
        self._complaints = None     # its stderr, a temporary file
        self._speaking = threading.Lock()
        self.port = 0

    @property
    def address(self) -> str:
        """Where MAVSDK is to listen."""
        return f"udpin://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> SimulatedAutopilot:
        self.port = _free_udp_port()
        command = [
            sys.executable, "-m", "parallel_city_ros.flight.simulator",
            f"--port={self.port}", "--home=" + ",".join(repr(v) for v in self.home),
            f"--speed-factor={self.speed_factor}", f"--seed={self._seed}",
            f"--parent-pid={os.getpid()}", *self._options]
        # For as long as it takes to start.
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            if self._city is not None:
                write_city(file, self._city)
                command.append(f"--city={file.name}")
            elif self._ground is not None:
                np.savez(file, heights=self._ground.heights, cell=self._ground.cell,
                         origin=np.array(self._ground.origin) - self._stands_at)
                command.append(f"--terrain={file.name}")
            file.flush()
            return self._begin(command)

    def _begin(self, command) -> SimulatedAutopilot:
        self._complaints = tempfile.TemporaryFile()
        # A session of its own: Ctrl-C in the terminal is for us, and the drone flies on home.
        self._process = self._open(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=self._complaints, start_new_session=True)
        if self._answer(START_S).startswith("ready"):
            return self
        code, words = self._end()
        error = ConfigError if code == 2 else LinkError
        raise error(f"the simulated autopilot did not start: {words or 'no word from it'}")

    def inject(self, fault: str) -> str:
        """Let a fault happen now, such as "gps_loss" or "wind east=8 north=0 gust=3"; for one
        of several drones "1: gps_loss"; "speed 4" from now on; or "step 0.5" where it was
        started with --lockstep.

        Returns
        -------
        Its answer.

        Raises
        ------
        ConfigError
            If there is no such fault.
        LinkError
            If the simulator is gone.
        """
        try:
            with self._speaking:    # or another thread gets this answer
                self._process.stdin.write(fault.encode() + b"\n")
                self._process.stdin.flush()
                answer = self._answer(ANSWER_S)
        except (OSError, AttributeError, ValueError) as error:
            raise LinkError(f"{fault}: the simulated autopilot is gone ({error})") from error
        if answer.startswith("error "):
            raise ConfigError(answer.removeprefix("error "))
        return answer

    def crashed(self) -> bool:
        """Whether one of its drones flew into the city; False too if the simulator is gone."""
        try:
            return any(drone["collided"] for drone in json.loads(self.inject("truth")))
        except LinkError:
            return False

    def rebuild(self, city: VoxelGrid) -> None:
        """Something was built or torn down where it flies, which it hits from now on.

        city : in the frame of the one that it was started with

        Raises
        ------
        ConfigError
            If it was started without a city, or in another frame.
        LinkError
            If the simulator is gone.
        """
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            write_city(file, city)
            file.flush()
            self.inject(f"city {file.name}")

    @contextmanager
    def paced(self, seen: Callable[[], float]):
        """Vehicle time goes on, up to speed_factor, while somebody keeps up with it: what a
        loaded machine holds up is slow then, never late. Of a simulator with --lockstep.

        seen : vehicle time that they have looked at, s; NaN or inf if nobody is to be waited for
        """
        over = threading.Event()

        def run():
            while not over.is_set():
                began = time.monotonic()
                now = float(self.inject(f"step {PACE_S}").removeprefix("at "))
                while now - seen() > AHEAD_S and time.monotonic() < began + BLIND_S:
                    time.sleep(0.002)
                time.sleep(max(began + PACE_S / self.speed_factor - time.monotonic(), 0.0))

        thread = threading.Thread(target=run, name="pace", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(ANSWER_S)

    def _answer(self, timeout_s: float) -> str:
        """Its next line; "" if none comes."""
        came, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline().decode(errors="replace").strip() if came else ""

    def stop(self) -> None:
        """End the process and pass on what it complained about. May be called twice."""
        if self._process is not None:
            _, words = self._end()
            if words:
                logger.warning("simulated autopilot: %s", words)

    def _end(self) -> tuple[int, str]:
        """(exit code, stderr) of the process, which is gone then."""
        process, self._process = self._process, None
        process.stdout.close()
        try:
            process.stdin.close()
        except OSError:
            pass
        process.terminate()
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait(STOP_S)
        with self._complaints as file:
            file.seek(0)
            return code, file.read().decode(errors="replace").strip()[-2000:]

    def __enter__(self) -> SimulatedAutopilot:
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()


def _free_udp_port() -> int:
    """A port that is free now, below those that systems hand out by themselves: between now and
    its use no socket of another program gets it by chance."""
    for port in random.SystemRandom().sample(range(20000, 32000), PORTS_TRIED):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LinkError(f"none of {PORTS_TRIED} UDP ports from 20000 on is free on 127.0.0.1")
