"""Child processes that end with this one, whatever happens, and whose death is noticed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from parallel_city_ros.errors import ConfigError, InUseError, SetupError

STOP_S = 8.0        # wall, from SIGINT to SIGKILL
LAST_LINES = 15


class Supervisor:
    """Starts nodes; `check` raises if one has died; leaving the block ends them all.

    logs : folder for one log file a process
    """

    def __init__(self, logs: Path, environment: dict[str, str]):
        self._logs = logs
        self._environment = os.environ | environment | {
            "PARALLEL_CITY_ENDS_WITH_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        self._running: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Supervisor:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start_node(self, module: str, parameters: dict, namespace: str = "") -> None:
        """python -m parallel_city_ros.nodes.<module> with those ROS parameters."""
        command = [sys.executable, "-m", f"parallel_city_ros.nodes.{module}", "--ros-args"]
        if namespace:
            command += ["-r", f"__ns:=/{namespace}"]
        for name, value in parameters.items():
            text = f'"{value}"' if isinstance(value, str) else str(value).lower()
            command += ["-p", f"{name}:={text}"]
        name = f"{namespace}.{module}" if namespace else module
        with open(self._logs / f"{name}.log", "wb") as log:
            # A group of its own: Ctrl-C in the terminal reaches only us, and we end the others
            # in order.
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=self._environment)

    def check(self) -> None:
        """Raises SetupError with the last lines of its log if a process has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
                raise SetupError(f"{name} ended with code {process.returncode}:\n  "
                                 + "\n  ".join(lines[-LAST_LINES:]))

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to what is left. May be called twice."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


class Claim:
    """Something that only one process at a time may use, as long as the object lives."""

    def __init__(self, file: Path, refusal: str):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(file, "a+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{file}: cannot be written ({error})") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise InUseError(refusal + (f" (process {holder})" if holder else "")) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()


def claim_domain() -> tuple[int, Claim]:
    """A ROS domain that no other demo uses: ROS_DOMAIN_ID if it is set, else the lowest free.

    Raises
    ------
    InUseError
        If ROS_DOMAIN_ID is set and taken, or all are taken.
    ConfigError
        If ROS_DOMAIN_ID is no number from 0 to 101.
    """
    folder = Path(tempfile.gettempdir()) / f"parallel_city_ros-{os.getuid()}"
    wanted = os.environ.get("ROS_DOMAIN_ID", "")
    if wanted:
        if not wanted.isdigit() or int(wanted) > 101:
            raise ConfigError(f"ROS_DOMAIN_ID must be a number from 0 to 101, got {wanted!r}")
        return int(wanted), Claim(
            folder / f"domain-{int(wanted)}",
            f"another demo runs in ROS domain {wanted}; wait for it, or set another ROS_DOMAIN_ID")
    for number in range(102):
        try:
            return number, Claim(folder / f"domain-{number}", "taken")
        except InUseError:
            continue
    raise InUseError("other demos use all ROS domains; wait for one to end")
