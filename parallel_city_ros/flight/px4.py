"""PX4's own software-in-the-loop, where it is installed."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from parallel_city_ros.errors import LinkError, SetupError

STOP_S = 5.0
PR_SET_PDEATHSIG = 1
PORT = 14540            # of instance 0
INSTANCES = 10          # whose ports PX4's start script keeps apart
MODELS = {"sih": "sihsim_quadx", "gazebo": "gz_x500"}
# Vehicle seconds that a slow ground station needs; in a quick simulation it needs more of them.
PATIENCE = {"COM_DISARM_PRFLT": 10, "COM_DL_LOSS_T": 10}
MOST_PATIENCE = 300
HOW_TO_GET = (
    "PX4 is not installed here. Either build it (git clone --recursive "
    "https://github.com/PX4/PX4-Autopilot, then make px4_sitl in it) and give its folder "
    "build/px4_sitl_default by --px4 or in PX4_BUILD, or put the program px4 on the PATH; or "
    "start PX4 yourself and name its address: --autopilot udpin://127.0.0.1:14540; or fly "
    "with --autopilot sim")


def find_px4(build: str = "") -> tuple[Path, Path]:
    """(program, folder with etc/) of an installed PX4 SITL.

    build : build folder; "": environment PX4_BUILD, else the PATH

    Raises
    ------
    SetupError
        Says how to get one.
    """
    folder = build or os.environ.get("PX4_BUILD", "")
    program = Path(folder) / "bin" / "px4" if folder else Path(shutil.which("px4") or "")
    if not (program.is_file() and os.access(program, os.X_OK)):
        place = f"{folder} holds no bin/px4. " if folder else ""
        raise SetupError(place + HOW_TO_GET)
    program = program.resolve()
    return program, program.parent.parent


def _end_with_parent() -> None:
    """Of the child: SIGTERM when the thread that started it ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Px4Sitl:
    """One instance of PX4 SITL for as long as a `with` block, or its thread.

    home : latitude and longitude in degrees, altitude in m above mean sea level
    simulator : sih, PX4's own, or gazebo, whose running world it takes
    place : (3,) metres of that world where it stands
    instance : system id − 1, and added to its ports
    """

    def __init__(self, home, *, build: str = "", simulator: str = "sih", instance: int = 0,
                 speed_factor: float = 1.0, place=(0.0, 0.0, 0.0)):
        self._program, self._root = find_px4(build)
        self.instance = instance
        self.environment = {
            "PX4_SIM_MODEL": MODELS[simulator], "PX4_SIMULATOR": {
                "sih": "sihsim", "gazebo": "gz"}[simulator],
            "PX4_HOME_LAT": repr(float(home[0])), "PX4_HOME_LON": repr(float(home[1])),
            "PX4_HOME_ALT": repr(float(home[2])), "PX4_SIM_SPEED_FACTOR": f"{speed_factor:g}",
            "PX4_PARAM_SIM_BAT_MIN_PCT": "0"}   # and the executor says how fast it gets there
        if speed_factor > 1:
            self.environment |= {f"PX4_PARAM_{name}": f"{min(s * speed_factor, MOST_PATIENCE):g}"
                                 for name, s in PATIENCE.items()}
        if simulator == "gazebo":
            self.environment["PX4_GZ_MODEL_POSE"] = ",".join(f"{v:.2f}" for v in place)
        self._process: subprocess.Popen | None = None
        self._folder: tempfile.TemporaryDirectory | None = None

    @property
    def address(self) -> str:
        """Where PX4 sends to: its onboard link."""
        return f"udpin://127.0.0.1:{PORT + self.instance}"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def __enter__(self) -> Px4Sitl:
        # Parameters and logs of its own: nothing is left of an earlier flight.
        self._folder = tempfile.TemporaryDirectory(prefix="px4-")
        command = [str(self._program), "-i", str(self.instance), "-d", str(self._root / "etc")]
        settings = self._root / "rootfs" / "gz_env.sh"      # where its models are
        if "PX4_GZ_MODEL_POSE" in self.environment and settings.is_file():
            command = ["sh", "-c", '. "$0" && exec "$@"', str(settings), *command]
        self._log = open(Path(self._folder.name) / "px4.log", "w+", encoding="utf-8",
                         errors="replace")
        # An airframe that a shell of before has chosen would come before the model.
        inherited = {k: v for k, v in os.environ.items() if k != "PX4_SYS_AUTOSTART"}
        self._process = subprocess.Popen(
            command, cwd=self._folder.name, env=inherited | self.environment,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_end_with_parent)
        time.sleep(0.3)
        if self._process.poll() is not None:
            self._log.seek(0)
            words, code = self._log.read().strip()[-1000:], self._process.returncode
            self.__exit__()
            taken = "; end that one, or take another --instance" * ("already running" in words)
            raise LinkError(f"PX4 ended at once with code {code}: {words}{taken}")
        return self

    def __exit__(self, *_) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
        if self._folder is not None:
            self._folder.cleanup()
