"""Fly many patrols one after the other in one process: no crash, no leak, no collision.

Each flight has a city, a plan, gusts and GPS noise of its own, made from its number. The drone
flies in that city as ground truth, in time that waits for the executor where the machine is
loaded, and its true track is looked at again, point by point, against the voxels. What was flown
is kept in a file of JSON lines: started again, it goes on after it.

python benchmarks/soak.py --flights 100
python benchmarks/soak.py --flights 20 --px4 --speed-factor 8 --file out/px4.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parallel_city_ros.cpss.comparison import deviation, patrol_part
from parallel_city_ros.flight.autopilot import Autopilot
from parallel_city_ros.flight.config import FlightConfig
from parallel_city_ros.flight.executor import PatrolFlight
from parallel_city_ros.flight.guard import Guard, GuardWatch
from parallel_city_ros.flight.outcome import FlightStatus
from parallel_city_ros.flight.px4 import Px4Sitl
from parallel_city_ros.flight.simulator.parameters import DEFAULTS
from parallel_city_ros.flight.simulator.process import SimulatedAutopilot
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.planning.made_cities import KINDS, MadeCity, task_over
from parallel_city_ros.planning.planner import PLANNERS, PlanRequest, plan

SIZE = (420.0, 320.0)       # m, of the cities
EVALUATIONS = 600           # of the planner: any certified plan will do
SPACING = 0.2               # m, at which the true track is looked at
LEAK_MB = 0.1               # a flight, from which on memory is not flat
PX4_STARTS_S = 30.0
SETTLED = 20                # flights in which caches fill, of each process
# A machine may be loaded; time waits for each report.
CONFIG = FlightConfig(link_timeout_s=20.0, progress_period_s=0.05)


@dataclass(frozen=True)
class Sortie:
    """What flight `number` is about."""

    number: int
    city: MadeCity
    planner_id: str

    @classmethod
    def of(cls, number: int, flat: bool = False) -> Sortie:
        """flat : on flat ground, as PX4's own simulation has it"""
        kinds = [kind for kind in KINDS if not (flat and kind == "hill")]
        rng = np.random.default_rng(number)
        planners = [name for name in PLANNERS if name != "de_aco_paper"]    # seldom feasible
        return cls(number, MadeCity(str(rng.choice(kinds)), 1000 + number, SIZE),
                   str(rng.choice(planners)))


def make_plan(sortie: Sortie):
    """(grid, plan) of a sortie; a plan of the default planner where its own finds none."""
    grid = sortie.city.grid()
    task = task_over(grid, track_points=16, max_altitude=150.0)
    for planner_id, evaluations in ((sortie.planner_id, EVALUATIONS), ("de_aco", 5 * EVALUATIONS)):
        outcome = plan(grid, PlanRequest(task=task, planner_id=planner_id, seed=sortie.number,
                                         evaluation_budget=evaluations))
        if outcome.plan is not None:
            return grid, outcome.plan
    raise SystemExit(f"flight {sortie.number}: no plan for {sortie.city.name}: {outcome.message}")


def fly(sortie: Sortie, speed_factor: float, px4: bool = False) -> dict:
    """One flight, and all that is to be judged about it.

    px4 : with PX4 SITL, of which only its telemetry is known and whose ground is flat
    """
    grid, patrol = make_plan(sortie)
    lat, lon, _ = grid.frame.to_wgs84((*patrol.path[0, :2], 0.0)).tolist()
    home = LocalFrame(lat, lon, 17.0)
    began, seen = time.monotonic(), [math.inf]
    with ExitStack() as stack:
        if px4:
            drone = stack.enter_context(Px4Sitl((lat, lon, home.altitude_m),
                                                speed_factor=speed_factor))
        else:
            drone = stack.enter_context(SimulatedAutopilot(
                (lat, lon, home.altitude_m), speed_factor=speed_factor, seed=sortie.number,
                city=grid, options=("--lockstep", "--gust=1.5", "--gps-noise=0.3",
                                    "--param=COM_DISARM_PRFLT=60")))
            stack.enter_context(drone.paced(lambda: seen[0]))
        autopilot = stack.enter_context(Autopilot())
        autopilot.connect(drone.address, PX4_STARTS_S if px4 else CONFIG.connect_timeout_s)
        before = parameters(autopilot) if px4 else DEFAULTS
        guard = GuardWatch(Guard(patrol, grid, CONFIG), autopilot, CONFIG)
        with guard:
            outcome = PatrolFlight(patrol, grid, autopilot, CONFIG, lambda: guard.reason,
                                   guard.update_route).run(
                lambda progress: seen.__setitem__(0, progress.vehicle_time_s))
        seen[0] = math.inf
        if px4:
            t, track = autopilot.snapshot, outcome.flown[:, 1:]
            truth = {"landed": t.landed_state == "ON_GROUND", "armed": t.armed, "collided": False}
        else:
            truth = json.loads(drone.inject("truth"))[0]
            track = from_home(grid, home, np.array(json.loads(drone.inject("track"))[0]))
        changed = parameters(autopilot)
    return {
        "number": sortie.number, "city": sortie.city.name, "planner": patrol.planner_id,
        "status": outcome.status.value, "message": outcome.message,
        "landed": truth["landed"] and not truth["armed"],
        "collided": truth["collided"] or len(track) > 0 and touches(grid, track),
        "parameters_kept": all(math.isclose(v, before[k], rel_tol=1e-6)
                               for k, v in changed.items()),
        "off_plan_m": round(off_plan(track, patrol.path), 2),
        "distance_m": round(outcome.distance_m, 1), "flight_s": round(outcome.duration_s, 1),
        "wall_s": round(time.monotonic() - began, 1), "rss_mb": round(resident_mb(), 2),
        "threads": len(os.listdir("/proc/self/task")), "process": os.getpid()}


def parameters(autopilot) -> dict:
    return {name: autopilot.get_parameter(name, type(value)) for name, value in DEFAULTS.items()
            if name not in ("MAV_SYS_ID", "COM_DISARM_PRFLT")}


def from_home(grid, home: LocalFrame, track):
    """(N, 3) ENU metres of a true track of rows of seconds and metres from home."""
    track = track.reshape(-1, 5)[:, 1:4]
    to_wgs84 = home.to_wgs84(track)
    points = grid.frame.to_enu(to_wgs84[:, 0], to_wgs84[:, 1])
    points[:, 2] = track[:, 2] + (float(grid.ground_at(points[0])) if len(points) else 0.0)
    return points


def off_plan(track, path) -> float:
    """Metres from a patrol's legs, RMS, between its first point and its last."""
    if not len(track):
        return math.nan
    patrol, _ = patrol_part(path, track)
    return float(np.sqrt(np.mean(deviation(path, patrol) ** 2)))


def touches(grid, points) -> bool:
    """Whether a track, (N, 3) ENU metres, goes through something that stands."""
    steps = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    at = np.arange(0.0, steps[-1], SPACING)
    dense = np.column_stack([np.interp(at, steps, points[:, k]) for k in range(3)])
    return bool(grid.holds(grid.index(dense)).any())


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def leak_mb(flights: list[dict]) -> float:
    """Slope of memory over flights, MB a flight, each process for itself after it has settled;
    NaN if too few were flown in one."""
    rows = []
    for process in {f["process"] for f in flights}:
        mine = [f["rss_mb"] for f in flights if f["process"] == process][SETTLED:]
        if len(mine) > SETTLED:
            x = np.arange(len(mine)) - (len(mine) - 1) / 2
            rows.append((float(x @ np.array(mine)), float(x @ x)))
    return sum(a for a, _ in rows) / sum(b for _, b in rows) if rows else math.nan


def judge(flights: list[dict]) -> dict[str, str]:
    """Check → what is wrong, "" if nothing."""
    def list_of(bad, words):
        return ", ".join(f"flight {f['number']}: {words(f)}" for f in flights if bad(f))
    leak = leak_mb(flights)
    return {
        "every patrol was flown to its end": list_of(
            lambda f: f["status"] != FlightStatus.COMPLETED.value, lambda f: f["message"]),
        "all drones landed and disarmed": list_of(lambda f: not f["landed"], lambda f: "not"),
        "no collision with ground truth": list_of(lambda f: f["collided"], lambda f: f["city"]),
        "parameters are what they were": list_of(lambda f: not f["parameters_kept"],
                                                 lambda f: "not"),
        f"memory is flat, below {LEAK_MB} MB a flight":
            f"{leak:+.3f} MB a flight" if leak > LEAK_MB else ""}


def read(file: Path) -> list[dict]:
    """Flights of an earlier run; a last line that was cut off is flown again."""
    flights = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            flights.append(json.loads(line))
        except ValueError:
            break
    return flights


def soak(count: int, file: Path, speed_factor: float, tell=lambda flight: None, px4: bool = False
         ) -> list[dict]:
    """Fly what is missing of flights 0 to count - 1 and keep each in the file."""
    flights = read(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(f) + "\n" for f in flights))
    flown = {f["number"] for f in flights}
    with open(file, "a", encoding="utf-8", buffering=1) as lines:
        for number in range(count):
            if number not in flown:
                flights.append(fly(Sortie.of(number, flat=px4), speed_factor, px4))
                lines.write(json.dumps(flights[-1]) + "\n")
                tell(flights[-1])
    return [f for f in flights if f["number"] < count]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flights", type=int, default=100)
    parser.add_argument("--file", type=Path, default=Path("out/soak.jsonl"))
    parser.add_argument("--speed-factor", type=float, default=20.0,
                        help="at most")
    parser.add_argument("--px4", action="store_true", help="fly PX4 SITL, as it is installed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def tell(f):
        print(f"{f['number']:4} {f['city']:13} {f['planner']:8} {f['status']:12} "
              f"{f['distance_m']:6.0f} m {f['off_plan_m']:4.2f} m off {f['wall_s']:5.1f} s "
              f"{f['rss_mb']:7.1f} MB  "
              f"{'COLLIDED ' * f['collided']}{f['message'] * (f['status'] != 'completed')}",
              file=sys.stderr, flush=True)

    flights = soak(arguments.flights, arguments.file, arguments.speed_factor, tell,
                   arguments.px4)
    found = judge(flights)
    if arguments.json:
        print(json.dumps({"flights": len(flights), "leak_mb_per_flight": leak_mb(flights),
                          "off_plan_m": max(f["off_plan_m"] for f in flights),
                          "distance_m": sum(f["distance_m"] for f in flights),
                          "checks": found}, indent=1))
    else:
        print(f"{len(flights)} flights, {sum(f['distance_m'] for f in flights) / 1000:.1f} km, "
              f"{leak_mb(flights):+.3f} MB a flight, at most "
              f"{max(f['off_plan_m'] for f in flights):.2f} m RMS from the plan")
        for name, wrong in found.items():
            print(f"{'NOT TRUE' if wrong else 'holds   '}  {name}{f': {wrong}' * bool(wrong)}")
    sys.stdout.flush()
    # A call into MAVSDK's native library may never return once the drone is gone.
    os._exit(any(found.values()))


if __name__ == "__main__":
    main()
