"""The loop's memory: what every drone was to fly, flew and saw, and what that is worth next."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.city.zones import Zone, ground_weights, read_zones
from parallel_city_ros.cpss.comparison import Comparison, compare, patrol_part, waypoints_passed
from parallel_city_ros.cpss.ledger import WEIGHT_STEPS, CoverageLedger, LedgerConfig
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.files import finite
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.plan import PatrolPlan, weights_hash
from parallel_city_ros.settings import check, setting

VERSIONS_KEPT = 8       # of the map and of the weights, for plans made on older ones
PASSED_M = 10.0         # a waypoint counts as passed within this distance


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    drones: str = setting("drone_1", "namespaces of the drones, separated by commas")
    history_folder: str = setting("", "folder of history.jsonl and the ledger; '': not kept")
    zones_file: str = setting("", "zones of privacy, which are worth nothing to see, and of "
                                  "priority: ED-269, GeoJSON or OpenStreetMap, several separated "
                                  "by commas; '': none")
    least_confidence: float = setting(0.5, "of a report that is passed on to the map",
                                      low=0, high=1)
    state_period_s: float = setting(1.0, "s of wall time between two states", above=0)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)

    def __post_init__(self):
        check(self)

    @property
    def namespaces(self) -> tuple[str, ...]:
        return tuple(name.strip().strip("/") for name in self.drones.split(",") if name.strip())


@dataclass
class Patrol:
    """What is known of one drone's newest patrol. track : (N, 4) vehicle time in s and ENU m"""

    plan: PatrolPlan | None = None
    phase: str = ""
    track: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    sortie: int = 0
    closed: bool = True
    flight_id: str = ""
    comparison: Comparison | None = None
    evaluator: Evaluator | None = None      # on the plan's map, with its weights


class LoopMonitor:
    """Compares flown with planned, keeps the ledger, and says when to plan anew."""

    def __init__(self, config: MonitorConfig):
        self._config = config
        self.patrols = {name: Patrol() for name in config.namespaces}
        self.ledger: CoverageLedger | None = None
        self.grid: VoxelGrid | None = None
        self._grids: OrderedDict[int, VoxelGrid] = OrderedDict()
        self._weights: OrderedDict[str, np.ndarray | None] = OrderedDict({"": None})
        self._folder = Path(config.history_folder) if config.history_folder else None
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"history_folder {self._folder} cannot be made ({error})"
                                  ) from error
        self._kept = self._flights_kept()
        self._zones: list[Zone] = []
        self._zone_worth: tuple | None = None    # the zones that it is of, (nx, ny)

    def _flights_kept(self) -> set[str]:
        """Ids of the flights in the history; a line that was cut off is passed over."""
        file = self._folder / "history.jsonl" if self._folder is not None else None
        if file is None or not file.exists():
            return set()
        found = set()
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                found.add(json.loads(line).get("flight_id", ""))
            except json.JSONDecodeError:
                continue
        return found

    # what comes in

    def on_map(self, grid: VoxelGrid) -> None:
        """A new version of the map. A new base begins a new ledger."""
        if self.grid is None or grid.map_hash != self.grid.map_hash:
            self._grids.clear()
            for patrol in self.patrols.values():    # of another city: not to be judged on this
                patrol.closed, patrol.comparison, patrol.evaluator = True, None, None
            self._zones = [zone for name in self._config.zones_file.split(",") if name.strip()
                           for zone in read_zones(name.strip(), grid.frame)]
            self._zone_worth = None
            self.ledger = CoverageLedger(grid.surface.shape, self._config.ledger)
            if self._folder is not None and self._ledger_file(grid).exists():
                self.ledger.load(self._ledger_file(grid))
        self.grid = grid
        self._grids[grid.map_update] = grid
        while len(self._grids) > VERSIONS_KEPT:
            self._grids.popitem(last=False)

    def weights(self, now_s: float) -> np.ndarray:
        """(nx, ny) worth of the ground now; remembered, to judge plans that are made for it."""
        weights = self._zoned(self.ledger.weights(now_s), now_s)
        self._weights[weights_hash(weights)] = weights
        while len(self._weights) > VERSIONS_KEPT + 1:
            self._weights.popitem(last=False)
            self._weights[""] = None
        return weights

    def _zoned(self, weights, now_s: float) -> np.ndarray:
        """Nothing where nobody is to be filmed, less outside areas that have priority."""
        at = datetime.fromtimestamp(now_s, timezone.utc)
        active = tuple(zone for zone in self._zones if zone.active(at))
        if not active:
            return weights
        if self._zone_worth is None or self._zone_worth[0] != active:
            worth = ground_weights(self.grid, active, at)
            self._zone_worth = active, worth / max(1.0, worth.max())     # 1 is the most
        return np.rint(weights * self._zone_worth[1] * WEIGHT_STEPS) / WEIGHT_STEPS

    def on_plan(self, drone: str, plan: PatrolPlan, flight_id: str = "") -> None:
        """A drone begins to fly a plan.

        flight_id : one that the history holds already is not counted again, as when this
            process was restarted after the landing
        """
        patrol = self.patrols[drone]
        patrol.flight_id = flight_id
        patrol.plan, patrol.track, patrol.comparison = plan, np.empty((0, 4)), None
        patrol.evaluator = None
        if flight_id and flight_id in self._kept:
            patrol.closed = True
            return
        patrol.sortie += 1
        patrol.closed = False

    def on_track(self, drone: str, track: np.ndarray) -> None:
        """The whole track of the patrol so far, (N, 4) vehicle time in s and ENU metres."""
        patrol = self.patrols[drone]
        if patrol.plan is None or patrol.closed:
            return
        patrol.track = track
        passed = waypoints_passed(patrol.plan.path, track[:, 1:], PASSED_M)
        if passed >= 2 and len(track) >= 2:
            patrol.comparison = self._compare(patrol, passed)

    def close(self, drone: str, now_s: float) -> Comparison | None:
        """The drone has landed: the sortie goes into ledger and history, once.

        None if there was no patrol to speak of.
        """
        patrol = self.patrols[drone]
        if patrol.closed or self.grid is None:
            return None
        patrol.closed = True
        if patrol.comparison is None:
            return None
        passed = waypoints_passed(patrol.plan.path, patrol.track[:, 1:], PASSED_M)
        photographs = patrol_part(patrol.plan.path[:passed], patrol.track[:, 1:])[1]
        self.ledger.record(self._evaluator(patrol).seen(photographs), now_s)
        if self._folder is not None:
            self.ledger.save(self._ledger_file(self.grid))
            line = {"time_s": now_s, "drone": drone, "flight_id": patrol.flight_id,
                    "sortie": patrol.sortie,
                    "phase": patrol.phase, "waypoints_passed": passed,
                    "plan": patrol.plan.to_dict(), "track": np.round(patrol.track, 3).tolist(),
                    "comparison": patrol.comparison.to_dict()}
            with open(self._folder / "history.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(finite(line)) + "\n")
        return patrol.comparison

    # what is concluded

    def why_replan(self, drone: str) -> str:
        """Why that drone's next or present patrol should be planned anew; "" if not."""
        patrol = self.patrols[drone]
        if patrol.plan is None or self.grid is None:
            return ""
        if self.grid.map_hash != patrol.plan.map_hash:
            return "the map is another one"
        reasons = []
        if patrol.closed and patrol.comparison is not None:
            reasons.append("what was seen is worth less now")
        if self.grid.map_update != patrol.plan.map_update:
            broken = certify(self.grid, patrol.plan.task, patrol.plan.path).broken
            if broken:
                reasons.append(f"map update {self.grid.map_update} breaks: "
                               + ", ".join(c.constraint for c in broken))
        return "; ".join(reasons)

    def _ledger_file(self, grid: VoxelGrid) -> Path:
        return self._folder / f"ledger-{grid.map_hash[:16]}.npz"

    def _evaluator(self, patrol: Patrol) -> Evaluator:
        """On the map and for the weights that the plan was made with, if they are known."""
        if patrol.evaluator is None:
            plan = patrol.plan
            patrol.evaluator = Evaluator(
                self._grids.get(plan.map_update, self.grid), plan.task,
                self._weights.get(plan.weights_hash), coverage_floor_km2=plan.coverage_floor_km2)
        return patrol.evaluator

    def _compare(self, patrol: Patrol, passed: int) -> Comparison:
        return compare(patrol.plan, patrol.track[:, 1:], self._evaluator(patrol), passed=passed)
