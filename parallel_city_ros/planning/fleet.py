"""Several drones that share an area: one certified plan each, apart from each other.

One after the other they are planned (prioritised planning, Erdmann & Lozano-Pérez 1987): to each
the ground and the walls that others see are worth nothing, and the air around their routes is
closed. Whoever finds no way through what is left starts later instead, by the least delay that
keeps it apart. Then each is planned again, given all others (best response), while that makes all
together better.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.ground import open_ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.files import write_atomically
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.separation import (
    SeparationCertificate,
    Timeline,
    certify_separation,
    least_delay,
    timeline,
)
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.de_aco import DeAcoConfig
from parallel_city_ros.planning.planner import PlanOutcome, PlanRequest, PlanStatus, plan
from parallel_city_ros.planning.union import Union, joint_fitness, sectors_around
from parallel_city_ros.settings import check, setting

FORMAT = 1
PAD_CELLS = 4           # by which pads are farther apart than drones: the twin's cells are coarse
LOWEST_LAYER_M = 15.0   # of the altitude band that the lowest layer has
MOST_DRONES = 30        # in one process' worth of routes; more find no air between them


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    separation_m: float = setting(20.0, "m, between any two drones, their tubes taken off",
                                  above=0, high=500)
    time_tolerance_s: float = setting(
        20.0, "s, by which one drone may be early or late against another", low=0)
    cruise_speed: float = setting(8.0, "m/s, at which the mission is flown", above=0, high=20)
    apart: str = setting(
        "space", "how routes that would meet are kept apart first: in space, over or around each "
        "other, or in time, by starting later", choices=("space", "time"))
    max_delay_s: float = setting(900.0, "s, by which a drone may start later", low=0)
    evaluation_budget: int = setting(6000, "paths that may be evaluated for each drone", low=10)
    passes: int = setting(1, "times that each route is planned again, given all others", low=0,
                          high=100)

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, eq=False)
class FleetPlan:
    """Plans by the drones' names, and what they are worth together.

    start_after_s : seconds after the start of the fleet, of each
    coverage_km2 : weighted area that all see together, each cell and each face of a wall once;
        fitness : with the sums of carbon and noise
    """

    plans: dict[str, PatrolPlan]
    start_after_s: dict[str, float]
    separation: SeparationCertificate
    config: FleetConfig
    coverage_km2: float
    fitness: float
    durations_s: dict[str, float]

    @property
    def valid(self) -> bool:
        return self.separation.valid and all(p.certificate.valid for p in self.plans.values())

    def to_dict(self) -> dict:
        return {
            "format": FORMAT, "valid": self.valid, "coverage_km2": self.coverage_km2,
            "fitness": self.fitness, "settings": asdict(self.config),
            "drones": {name: {"plan": f"{name}.json", "start_after_s": self.start_after_s[name],
                              "duration_s": self.durations_s[name],
                              "objectives": asdict(p.objectives)}
                       for name, p in self.plans.items()},
            "separation": self.separation.to_dict()}

    def save(self, folder: str | Path) -> Path:
        """Write a plan for each drone, fleet.json and the mission for parallel-city fly.

        Returns the file of the mission.
        """
        import yaml
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, found in self.plans.items():
            found.save(folder / f"{name}.json")
        write_atomically(folder / "fleet.json", json.dumps(self.to_dict(), indent=1) + "\n")
        mission = {"separation_m": self.config.separation_m, "drones": {
            name: {"plan": f"{name}.json", "connection": "sim",
                   "start_after_s": self.start_after_s[name],
                   "flight": {"cruise_speed": self.config.cruise_speed}} for name in self.plans}}
        write_atomically(folder / "mission.yaml", yaml.safe_dump(mission, sort_keys=False))
        return folder / "mission.yaml"


@dataclass(frozen=True)
class FleetOutcome:
    """fleet is None if no drone has a plan; it may have fewer than were asked for if the search
    was ended. cpu_s : processor time"""

    status: PlanStatus
    message: str
    fleet: FleetPlan | None = None
    cpu_s: float = 0.0


def rounds_from(grid: VoxelGrid, task: PatrolTask, count: int, config: FleetConfig,
                weights=None) -> tuple[list[PatrolTask], list[np.ndarray]]:
    """A task for each of several drones that start and land around one base, with a sector each.

    task : a round from the base; its coverage floor is for all drones together

    Returns
    -------
    The tasks, each with open ground of its own to start from, and (nx, ny) bool, its sector.

    Raises
    ------
    ConfigError
        If there is no room for so many.
    """
    sector, middles = sectors_around(Union(grid, task, weights), grid, task.start, count)
    pads = _pads(grid, task, middles,
                 config.separation_m + 2 * task.tube_radius + PAD_CELLS * grid.resolution)
    tasks = []
    for k, pad in enumerate(pads):
        place = (*map(float, pad), task.start[2])
        mine = tuple(p for p in task.must_visit if sector[tuple(grid.index(p)[:2])] == k)
        tasks.append(replace(task, start=place, goal=place, must_visit=mine))
    return tasks, [sector == k for k in range(count)]


def _pads(grid, task, directions, apart) -> list[np.ndarray]:
    """Centres of open cells, one towards each direction from the start, so far apart."""
    cells = np.argwhere(open_ground(grid, task.clearance_horizontal + task.tube_radius))
    centres = grid.origin[:2] + (cells + 0.5) * grid.resolution
    free = np.ones(len(centres), bool)
    count = len(directions)
    radius = apart / (2 * math.sin(math.pi / count)) if count > 1 else 0.0
    pads = []
    for angle in directions:
        if not free.any():
            raise ConfigError(
                f"the map has open ground for {len(pads)} drones that start {apart:g} m apart, "
                f"not for {count}; ask for fewer drones")
        wanted = task.start[:2] + radius * np.array([math.cos(angle), math.sin(angle)])
        far = np.linalg.norm(centres - wanted, axis=1)
        pads.append(centres[np.argmin(np.where(free, far, np.inf))])
        free &= np.linalg.norm(centres - pads[-1], axis=1) >= apart
    return pads


def plan_fleet(grid: VoxelGrid, request: PlanRequest, tasks: Sequence[PatrolTask],
               config: FleetConfig | None = None, *, sectors: Sequence[np.ndarray] = (),
               weights=None, city_file: str = "", how: Callable[..., PlanOutcome] = plan,
               on_progress: Callable[[str], None] = lambda words: None,
               cancelled: Callable[[], bool] = lambda: False) -> FleetOutcome:
    """Plan one patrol for each task, all to be flown at once.

    request : planner, seed and the time for all; its own task and evaluation budget are not used
    tasks : of drones of one kind; a coverage floor is for all together
    sectors : (nx, ny) bool of each, where it has to see what it is asked to; () : anywhere
    how : plans one drone, as `plan` does, such as windows.plan_at with zones, a departure and
        config.max_delay_s as late_s
    on_progress : gets a line for each plan that was made

    Same seed and evaluation budget, same plans, unless the time budget ends it first.

    Raises
    ------
    ConfigError
        If the tasks cannot be flown together.
    """
    search = _Fleet(grid, request, list(tasks), config or FleetConfig(), list(sectors), weights,
                    city_file, how, on_progress, cancelled)
    return search.run()


class _Fleet:
    def __init__(self, grid, request, tasks, config, sectors, weights, city_file, how, on_progress,
                 cancelled):
        self.grid, self.request, self.config, self.sectors = grid, request, config, sectors
        self.city_file, self.on_progress, self.cancelled = city_file, on_progress, cancelled
        self.how = how
        self.began, self.cpu = time.monotonic(), time.thread_time()
        self._require(tasks)
        self.names = [f"drone_{k + 1}" for k in range(len(tasks))]
        self.union = Union(grid, tasks[0], weights)
        ceilings, self.order = _layers(grid, tasks, config)
        self.tasks = [replace(t, max_altitude=c) for t, c in zip(tasks, ceilings, strict=True)]
        self.plans: dict[int, PatrolPlan] = {}
        self.times: dict[int, Timeline] = {}

    def _require(self, tasks):
        config = self.config
        if not 1 <= len(tasks) <= MOST_DRONES:
            raise ConfigError(f"a fleet has 1 to {MOST_DRONES} drones, not {len(tasks)}")
        for k, task in enumerate(tasks):
            for name in ("drone", "area", "coverage", "coverage_floor"):
                if getattr(task, name) != getattr(tasks[0], name):
                    raise ConfigError(f"drone {k + 1} has another {name} than drone 1; a fleet "
                                      "has it in common")
            if config.cruise_speed > task.drone.max_speed:
                raise ConfigError(f"cruise_speed {config.cruise_speed:g} m/s is above the "
                                  f"drones' max_speed, {task.drone.max_speed:g} m/s")
            least = config.separation_m + 2 * task.tube_radius
            for j in range(k):
                for words in ("start", "goal"):
                    gap = math.dist(getattr(task, words)[:2], getattr(tasks[j], words)[:2])
                    if gap < least:
                        raise ConfigError(
                            f"drones {j + 1} and {k + 1} stand {gap:.1f} m apart at their {words}"
                            f"s: separation and tubes need {least:g} m; move one of them")

    def run(self) -> FleetOutcome:
        for turn, k in enumerate(self.order):
            left = self.request.time_budget_s - (time.monotonic() - self.began)
            failed = self._place(k, max(left, 1e-3) / (len(self.order) - turn))
            if self.cancelled() and k not in self.plans:
                break
            if failed is not None:
                return FleetOutcome(failed.status, f"{self.names[k]}: {failed.message}",
                                    cpu_s=time.thread_time() - self.cpu)
        for turn in range(self.config.passes):
            for k in self.order:
                left = self.request.time_budget_s - (time.monotonic() - self.began)
                if self.cancelled() or left <= 0:
                    break
                self._improve(k, left, turn)
        return self._outcome()

    # one drone

    def _plan(self, k, seconds, worth, task, air, seed=0, **more):
        budget = self.config.evaluation_budget // (1 + self.config.passes)
        return self.how(self.grid, replace(
            self.request, task=task, time_budget_s=seconds, evaluation_budget=max(1, budget),
            seed=self.request.seed + k + len(self.names) * seed), weights=worth, air=air,
            city_file=self.city_file, cancelled=self.cancelled, **more)

    def _worth(self, k, sector: bool):
        worth = self.union.worth_left(k)
        if sector and self.sectors and self.union.value(worth * self.sectors[k]).any():
            worth = worth * self.sectors[k]
        return worth if self.union.value(worth).any() else self.union.worth

    def _place(self, k, seconds):
        """The first plan of a drone; returns the outcome that failed, or None."""
        worth = self._worth(k, sector=True)
        task = self.union.ask_for(self.tasks[k], k, worth, len(self.tasks))
        ways = [self._air(k), None]
        if self.config.apart == "time":
            ways.reverse()
        outcome = delay = None
        ends = time.monotonic() + seconds
        for turn, air in enumerate(ways):
            left = max(ends - time.monotonic(), 1e-3) / (len(ways) - turn)
            outcome = self._plan(k, left, worth, task, air)
            if outcome.plan is not None:
                line = self._line(k, outcome.plan.path)
                delay = self._delay(k, line)
                if delay <= self.config.max_delay_s:
                    self._take(k, outcome.plan, line.later(delay))
                    self._told(k)
                    return None
        if outcome.plan is None:
            return outcome
        words = "nothing keeps it apart from the others" if math.isinf(delay) else \
            f"it would have to start {delay:.0f} s later, max_delay_s is " \
            f"{self.config.max_delay_s:g} s"
        return replace(outcome, status=PlanStatus.NO_VALID_PATH, message=(
            f"{words}; move its start or goal, or use fewer drones"))

    def _improve(self, k, seconds, turn):
        """Plan a drone again, given all others; keep that if all together are better."""
        worth = self._worth(k, sector=False)
        task = self.union.ask_for(self.tasks[k], k, worth, len(self.tasks))
        before, line = self.plans[k], self.times[k]
        late = float(line.ends[0])
        air = self._air(k) if late == 0 else None
        config = DeAcoConfig(use_graph=False) if self.request.planner_id == "de_aco" else None
        outcome = self._plan(k, seconds, worth, task, air, turn + 1, config=config,
                             warm_start=before)
        if outcome.plan is None:
            return
        fitness = self._fitness()
        fresh = self._line(k, outcome.plan.path)
        delay = self._delay(k, fresh)
        if delay > max(late, 0.0):
            return
        self._take(k, outcome.plan, fresh.later(delay))
        if not self._fitness() < fitness or self.union.km2() < self.union.floor_km2 * (1 - 1e-9):
            self._take(k, before, line)
        else:
            self._told(k)

    def _take(self, k, found, line):
        self.plans[k], self.times[k] = found, line
        self.union.put(k, found.path)

    def _told(self, k):
        self.on_progress(f"{self.names[k]}: {self.plans[k].length_m:.0f} m, all see "
                         f"{self.union.km2():.3f} km²")

    def _fitness(self) -> float:
        return joint_fitness(list(self.plans.values()), self.union.km2())

    # apart from others

    def _line(self, k, path) -> Timeline:
        task = self.tasks[k]
        grounds = tuple(float(self.grid.ground_at(path[end])) for end in (0, -1))
        return timeline(path, task.drone, self.config.cruise_speed, grounds,
                        tube_radius=task.tube_radius)

    def _delay(self, k, line) -> float:
        return least_delay(line, [t for j, t in self.times.items() if j != k],
                           self.config.separation_m, self.config.time_tolerance_s)

    def _air(self, k) -> VoxelGrid | None:
        """The twin in which the air near the routes of others is closed, from the ground up:
        who has no room beside them flies over them. Over the places where those start and land
        it is closed altogether, or they would have no way up to their routes."""
        task, grid = self.tasks[k], self.grid
        apart = self.config.separation_m + 2 * task.tube_radius
        # what the clearance from buildings adds is taken off
        aside = max(apart - task.clearance_horizontal - task.tube_radius, grid.resolution)
        over = max(apart - task.clearance_vertical - task.tube_radius, grid.resolution)
        bottom, top = float(grid.ground.min()), float(grid.ground.max()) + task.max_altitude
        prisms = []
        for j, other in enumerate(self.tasks):
            if j == k:
                continue
            prisms += [(shapely.Point(p[:2]).buffer(aside), bottom, top)
                       for p in {other.start, other.goal}]
            path = self.plans[j].path if j in self.plans else ()
            prisms += [(shapely.LineString([a[:2], b[:2]]).buffer(aside), bottom,
                        max(a[2], b[2]) + over)
                       for a, b in zip(path[:-1], path[1:], strict=True)]
        return grid.with_prisms(prisms) if prisms else None

    # the end

    def _outcome(self) -> FleetOutcome:
        n, cpu = len(self.names), time.thread_time() - self.cpu
        status = PlanStatus.SUCCEEDED
        if self.cancelled():
            status = PlanStatus.CANCELLED
        elif time.monotonic() - self.began >= self.request.time_budget_s:
            status = PlanStatus.TIMEOUT
        if not self.plans:
            return FleetOutcome(status, "ended before a drone had a plan", cpu_s=cpu)
        chosen = sorted(self.plans)
        first = min(float(self.times[k].ends[0]) for k in chosen)
        times = {self.names[k]: self.times[k].later(-first) for k in chosen}
        config = self.config
        fleet = FleetPlan(
            plans={self.names[k]: self.plans[k] for k in chosen},
            start_after_s={name: float(line.ends[0]) for name, line in times.items()},
            separation=certify_separation(times, config.separation_m, config.time_tolerance_s),
            config=config, coverage_km2=self.union.km2(), fitness=self._fitness(),
            durations_s={name: line.duration_s for name, line in times.items()})
        if not fleet.separation.valid:
            pair = fleet.separation.broken[0]
            return FleetOutcome(PlanStatus.NO_VALID_PATH, (
                f"{pair.first} and {pair.second} come within {pair.gap_m:.1f} m at "
                f"({pair.where[0]:.0f}, {pair.where[1]:.0f}) m"), cpu_s=cpu)
        if len(chosen) == n and self.union.falls_short:
            return FleetOutcome(PlanStatus.NO_VALID_PATH, (
                f"together they see {fleet.coverage_km2:.4f} km², coverage_floor asks for "
                f"{self.union.floor_km2:.4f} km²; lower it, or raise evaluation_budget or passes"),
                cpu_s=cpu)
        late = sum(s > 0 for s in fleet.start_after_s.values())
        return FleetOutcome(status, (
            f"{len(chosen)} of {n} drones have a plan" if len(chosen) < n else
            f"{n} drones" + (f", {late} of them start later" if late else "")), fleet, cpu)


def _layers(grid, tasks, config) -> tuple[list[float], list[int]]:
    """max_altitude of each task, and the order in which to plan them.

    Drones whose straight ways cross get ceilings one separation apart, as far as their band goes:
    the lower ones come first, and the others find room over them. Greedy colouring.
    """
    step = config.separation_m + 2 * max(t.tube_radius for t in tasks) + 2 * grid.resolution
    lines = [shapely.LineString([t.start[:2], t.goal[:2]]) for t in tasks]
    layer = [0] * len(tasks)
    for k, task in enumerate(tasks if config.apart == "space" else ()):
        taken = {layer[j] for j in range(k) if lines[k].distance(lines[j]) < step}
        wanted = min(set(range(len(tasks) + 1)) - taken)
        lowest = max(task.min_altitude + LOWEST_LAYER_M, *(
            p[2] - float(grid.ground_at(p)) for p in (task.start, task.goal)))
        layer[k] = wanted if task.max_altitude - wanted * step >= lowest else 0
    return ([t.max_altitude - n * step for t, n in zip(tasks, layer, strict=True)],
            sorted(range(len(tasks)), key=lambda k: (-layer[k], k)))
