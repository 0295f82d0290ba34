"""Why a plan is as it is, leg by leg: what each brings and costs, and what binds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from parallel_city_ros.city.facades import Facades
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol import terms
from parallel_city_ros.patrol.certificate import certify, clearance, count_seen, noise_of
from parallel_city_ros.patrol.profile import speed_profile
from parallel_city_ros.patrol.task import PatrolTask

LOOK_M = 30.0       # within which buildings are looked for
_OF_THE_WHOLE = {"duration", "energy", "coverage"}


@dataclass(frozen=True)
class Leg:
    """One leg, to track point number; metres and seconds, carbon as the plan has it.

    gained_km2 : weighted area that is seen from its end and from no track point before
    noise_m : f3 of the track point at its end; as level by how much f3 would be less without it
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
            buildings_near: Callable[[tuple[float, float], float], list[str]] | None = None,
            noise_weights=None) -> list[Leg]:
    """Explain a plan of (N, 3) points.

    buildings_near : names of the buildings within a distance of (east, north), the highest
        first; City.buildings_near
    """
    path = np.asarray(path, float)
    gained, noise = _gained_km2(grid, task, path, weights), _noise(grid, task, path, noise_weights)
    seconds = speed_profile(path, task.drone).leg_s
    length = np.linalg.norm(np.diff(path, axis=0), axis=1)
    carbon = task.drone.carbon_per_km * length / 1000
    if task.carbon_model == "energy":
        carbon = terms.leg_energies_wh(task, path) * task.grid_intensity / 1000
    legs = []
    for k in range(1, len(path)):
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
        legs.append(Leg(
            number=k, length_m=float(length[k - 1]), seconds=float(seconds[k - 1]),
            carbon=float(carbon[k - 1]), gained_km2=float(gained[k]), noise_m=float(noise[k]),
            binding=tightest.constraint, margin=tightest.margin, unit=tightest.unit,
            clearance_m=gap, building=names[0] if names else ""))
    return legs


def _gained_km2(grid, task, path, weights) -> np.ndarray:
    """(N,) weighted area that is seen from each point and from none before."""
    worth, gained = terms.worth_of(grid, task, weights), np.zeros(len(path))
    if task.coverage != "facades":
        known = np.zeros(worth.shape, bool)
        for k in range(len(path)):
            new = (count_seen(grid, task, path[k:k + 1]) > 0) & ~known
            known |= new
            gained[k] += worth[new].sum() * grid.resolution**2 * 1e-6
    if task.coverage != "ground":
        walls, cameras = Facades(grid), terms.cameras_along(task, path)
        known = np.zeros(len(walls.voxels), bool)
        for k in range(len(path)):
            new = terms.walls_seen(walls, task, cameras[k:k + 1]) & ~known
            known |= new
            gained[k] += terms.walls_km2(walls, worth, new)
    return gained


def _noise(grid, task, path, noise_weights) -> np.ndarray:
    """(N,) noise of each point, or by how much the exposure would be less without it."""
    if task.noise_model != "level":
        return np.array([noise_of(grid, task, path[k:k + 1]) for k in range(len(path))])
    places = terms.receptors(grid, task, noise_weights)
    powers, n = terms.powers_at(task, path, places), len(path)
    without = [terms.exposure_db_ha(task, np.maximum(
        powers - terms.powers_at(task, path[k:k + 1], places), 0), places, n) for k in range(n)]
    return terms.exposure_db_ha(task, powers, places, n) - np.array(without)
