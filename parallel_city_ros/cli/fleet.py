"""`parallel-city fly MISSION.yaml`: one process for each drone, all watched by this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import click
import numpy as np

from parallel_city_ros.cli import options
from parallel_city_ros.cli.fly import SPEED_FACTORS
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.flight import px4
from parallel_city_ros.flight.fleet import SIMULATED, FleetMission, Separation, crossings

LOOK_S = 0.1            # wall, between two looks at where the drones are
AIRBORNE = ("taking_off", "on_patrol", "paused", "returning", "landing")


class _Child:
    """A drone's own process: its newest report, its end, and orders to it."""

    def __init__(self, drone, arguments):
        self.name, self.wait_s = drone.name, drone.start_after_s
        self._arguments = arguments
        self._process = None
        self.place, self.state, self.outcome, self.words = None, "waiting", None, ""

    def start(self) -> None:
        code = "from parallel_city_ros.cli.main import main; main()"
        # A session of its own: Ctrl-C is for us, and one drone's end is nobody else's.
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, "fly", *self._arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.state = "connecting"
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._complaints, daemon=True).start()

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def ended(self) -> bool:
        return self.outcome is not None or self.started and self._process.poll() is not None

    def _read(self) -> None:
        for line in self._process.stdout:
            try:
                values = json.loads(line)
            except ValueError:
                continue
            if values.get("kind") == "progress":
                self.state = values["state"]
                if None not in values["position"]:
                    self.place = np.array(values["position"])
            elif values.get("kind") == "outcome":
                self.outcome = values

    def _complaints(self) -> None:
        for line in self._process.stderr:
            self.words = line.strip() or self.words
            options.note(f"{self.name}: {line.rstrip()}")

    def order(self, word: str) -> None:
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except (OSError, AttributeError):
            pass        # it has ended

    def result(self) -> dict:
        code = self._process.wait(10) if self.started else None
        return self.outcome or {"status": "failed" if self.started else "not_started",
                                "message": self.words or f"its process ended with code {code}"}


def fly_fleet(mission_file, speed_factor, log_name, as_json, px4_build="", simulator="sih"
              ) -> None:
    """Fly all drones of a mission; exit code 0 if all completed."""
    from parallel_city_ros.patrol.plan import PatrolPlan

    mission = FleetMission.load(mission_file)
    connections = {d.connection for d in mission.drones}
    # Of the slowest kind, as their starts are a time apart.
    speed_factor = speed_factor or min(SPEED_FACTORS.get(c, 1.0) for c in connections)
    plans = {d.name: PatrolPlan.load(d.plan_file) for d in mission.drones}
    for words in crossings(plans, mission.separation_m):
        options.note(words)
    if log_name:
        Path(log_name).mkdir(parents=True, exist_ok=True)
    sitl = ["--px4", px4_build] * bool(px4_build) + ["--simulator", simulator]
    instances = _instances(mission.drones)
    children = [_Child(d, [*_arguments(d, k, mission, speed_factor, log_name), *sitl,
                           "--instance", str(instances.get(d.name, 0))])
                for k, d in enumerate(mission.drones)]
    asked = []

    def interrupted(*_):
        asked.append(True)
        if len(asked) > 1:
            raise KeyboardInterrupt
        options.note("all drones come home; Ctrl-C again leaves them to their autopilots")
        for child in children:
            child.order("cancel")

    before = signal.signal(signal.SIGINT, interrupted)
    # Simulated drones that are quicker start earlier, as they are where they are earlier.
    pace = speed_factor if connections <= set(SIMULATED) else 1.0
    closest = _watch(children, mission, asked, pace)
    signal.signal(signal.SIGINT, before)
    results = {child.name: child.result() for child in children}
    values = {"drones": results, "closest_m": closest}
    if as_json:
        options.print_json(values)
    else:
        for name, result in results.items():
            click.echo(f"{name}: {result['status']}: {result['message']}")
        if np.isfinite(closest):
            click.echo(f"no two drones in the air came nearer than {closest:.0f} m")
    sys.stdout.flush()
    sys.exit(0 if all(r["status"] == "completed" for r in results.values()) else 1)


def _instances(drones) -> dict[str, int]:
    """PX4 SITL's instance of each drone that it is started for: its port is nobody else's."""
    named = " ".join(d.connection for d in drones)
    free = [k for k in range(px4.INSTANCES) if f":{px4.PORT + k}" not in named]
    mine = [d.name for d in drones if d.connection == "px4"]
    if len(mine) > len(free):
        raise ConfigError(f"{len(mine)} drones with connection: px4, but PX4 SITL keeps the ports "
                          f"of only {len(free)} more instances apart; connect others to sim, or "
                          "start PX4 yourself with ports of its own and name its address")
    return dict(zip(mine, free, strict=False))


def _arguments(drone, index, mission, speed_factor, log_name) -> list[str]:
    arguments = [str(drone.plan_file), "--lines", "--autopilot", drone.connection,
                 "--speed-factor", str(speed_factor), "--seed", str(index)]
    # Returns that cross do so at different heights.
    settings = {"return_margin": 5.0 + 5.0 * index} | drone.flight
    for name, value in settings.items():
        arguments += ["--" + name.replace(".", "-").replace("_", "-"), str(value)]
    if mission.city_file:
        arguments += ["--city", mission.city_file]
    if log_name:
        arguments += ["--log", os.path.join(log_name, drone.name)]
    return arguments


def _watch(children, mission, asked, pace) -> float:
    """Start each when its time has come, keep them apart; the least distance in the air, m.

    pace : of the fleet's seconds in one of ours
    """
    separation = Separation([c.name for c in children], mission.separation_m)
    by_name, closest, began = {c.name: c for c in children}, np.inf, time.monotonic()
    while not all(c.ended or (asked and not c.started) for c in children):
        now = pace * (time.monotonic() - began)
        for child in children:
            if not child.started and not asked and now >= child.wait_s:
                child.start()
        places = {c.name: (c.place, c.state) for c in children
                  if c.place is not None and c.state in AIRBORNE and not c.ended}
        flying = [place for place, _ in places.values()]
        for i, a in enumerate(flying):
            closest = min([closest, *(float(np.linalg.norm(a - b)) for b in flying[i + 1:])])
        for name, word, why in separation.look(places):
            options.note(f"{name}: {word}: {why}")
            by_name[name].order(word)
        time.sleep(LOOK_S)
    return closest
