"""Why a plan is as it is, leg by leg: what each brings and costs, and what binds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol.certificate import certify, clearance, count_seen
from parallel_city_ros.patrol.profile import speed_profile
from parallel_city_ros.patrol.task import PatrolTask

LOOK_M = 30.0       # within which buildings are looked for
_OF_THE_WHOLE = {"duration", "coverage"}


@dataclass(frozen=True)
class Leg:
    """One leg, to track point number; metres and seconds.

    gained_km2 : weighted area that is seen from its end and from no track point before
    noise_m : of the track point at its end
    binding : constraint that is tightest on it, margin by how much it holds, both in its unit
    clearance_m : to the nearest building or slope, LOOK_M if there is none; building: its name
    """

    number: int
    length_m: float
    seconds: float
    carbon: float
    gained_km2: float
    noise_m: float
    binding: str
    margin: float
    unit: str
    clearance_m: float
    building: str

    def to_dict(self) -> dict:
        return asdict(self)


def explain(grid: VoxelGrid, task: PatrolTask, path, weights=None,
            buildings_near: Callable[[tuple[float, float], float], list[str]] | None = None
            ) -> list[Leg]:
    """Explain a plan of (N, 3) points.

    buildings_near : names of the buildings within a distance of (east, north), the highest
        first; City.buildings_near
    """
    path = np.asarray(path, float)
    worth = np.ones(grid.surface.shape) if weights is None else np.asarray(weights, float)
    known = count_seen(grid, task, path[:1]) > 0
    seconds = speed_profile(path, task.drone).leg_s
    legs = []
    for k in range(1, len(path)):
        new = (count_seen(grid, task, path[k:k + 1]) > 0) & ~known
        known |= new
        length = float(np.linalg.norm(path[k] - path[k - 1]))
        # with the legs beside it, because a turn is between two
        part = path[max(0, k - 2):k + 2]
        checks = [c for c in certify(grid, task, part).checks
                  if c.unit and c.bound > 0 and c.constraint not in _OF_THE_WHOLE
                  and not c.constraint.startswith("distance from")]
        tightest = min(checks, key=lambda c: c.margin / c.bound)
        gap, where = clearance(grid, path[k - 1:k + 1], LOOK_M)
        names = []
        if buildings_near is not None and gap < LOOK_M:
            names = buildings_near(tuple(where[:2]), gap + 2 * grid.resolution)
        height = path[k, 2] - grid.ground[tuple(np.clip(
            grid.index(path[k])[:2], 0, np.array(grid.surface.shape) - 1))]
        noise = max(0.0, task.noise_altitude - height + 1) * (height <= task.noise_altitude)
        legs.append(Leg(
            number=k, length_m=length, seconds=float(seconds[k - 1]),
            carbon=task.drone.carbon_per_km * length / 1000,
            gained_km2=float(worth[new].sum() * grid.resolution**2 * 1e-6), noise_m=float(noise),
            binding=tightest.constraint, margin=tightest.margin, unit=tightest.unit,
            clearance_m=gap, building=names[0] if names else ""))
    return legs

