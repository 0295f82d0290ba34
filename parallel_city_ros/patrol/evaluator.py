"""Objectives and violation of whole populations of patrol paths, exact, compiled.

The equations in brackets are those of Zhou et al. (2024), KSII TIIS 18(4), read as the
`corrected` model: coverage is a union, the range a slant range with occlusion, noise is
+Σθ, and what the paper says in words only (collision, band, map) counts as violation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, floor, radians, sin, sqrt, tan

import numpy as np
from numba import njit
from scipy.ndimage import maximum_filter

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.task import PatrolTask


@dataclass(frozen=True)
class Scores:
    """Scores of Q paths: (Q,) float arrays.

    coverage_km2 (f1), carbon (f2), noise_m (f3), fitness (F, inf if nothing is seen) and
    violation (G, 0 if feasible).
    """

    coverage_km2: np.ndarray
    carbon: np.ndarray
    noise_m: np.ndarray
    fitness: np.ndarray
    violation: np.ndarray

    @property
    def cost(self) -> np.ndarray:
        """(Q,) Deb's rules as one number: F/(1 + F) if feasible, else 1 + G."""
        with np.errstate(invalid="ignore"):
            share = np.where(np.isfinite(self.fitness), self.fitness / (1 + self.fitness), 1.0)
        return np.where(self.violation > 0, 1 + self.violation, share)


class Evaluator:
    """Evaluates paths over one version of the twin; not to be shared between threads.

    weights : (nx, ny) float array, worth of seeing each ground cell, 1 by default
    coverage_floor_km2 : least weighted coverage; None takes the task's share of the reachable
        worth or, if that is 0, what the straight flight sees
    """

    def __init__(self, grid: VoxelGrid, task: PatrolTask, weights=None,
                 coverage_floor_km2: float | None = None):
        self.task, self.grid = task, grid
        cell, drone = grid.resolution, task.drone
        self._surface = np.ascontiguousarray(grid.surface)
        self._ground = float(grid.origin[2])
        # Dilated so far that no point between two samples can break the clearance which the
        # independent checker measures from the edges of the voxels.
        reach = task.clearance_horizontal + task.tube_radius + 1.5 * cell
        n = int(np.ceil(reach / cell))
        dx, dy = np.mgrid[-n:n + 1, -n:n + 1] * cell
        disc = dx**2 + dy**2 <= reach**2
        rise = 0.5 * cell * tan(radians(drone.max_climb_deg))
        raised = task.clearance_vertical + task.tube_radius + rise
        self._highest_near = maximum_filter(self._surface, footprint=disc)
        self.clearance_surface = self._highest_near + raised
        self._weights = np.ascontiguousarray(
            np.ones_like(self._surface) if weights is None else weights, dtype=float)
        if self._weights.shape != self._surface.shape:
            raise ConfigError(f"weights are for {self._weights.shape} cells, the map has "
                              f"{self._surface.shape}")
        self._stamps = np.zeros(self._surface.shape, np.int64)
        self._stamp = 0
        self.evaluations = 0
        self._parameters = np.array([
            cell, grid.origin[0], grid.origin[1], self._ground,
            radians(drone.camera_aperture_deg) / 2, drone.camera_range, task.noise_altitude,
            task.min_altitude, task.max_altitude, cos(radians(drone.max_turn_deg)),
            tan(radians(drone.max_climb_deg)), drone.max_speed * task.time_step_s,
            drone.carbon_per_km, task.time_step_s, drone.endurance_s, 0.0])
        if coverage_floor_km2 is None and task.coverage_floor > 0:
            coverage_floor_km2 = task.coverage_floor * self.reachable_km2
        elif coverage_floor_km2 is None:
            coverage_floor_km2 = float(self(self.straight()[None]).coverage_km2[0])
            self.evaluations = 0
        self._parameters[-1] = self.coverage_floor_km2 = coverage_floor_km2

    def highest_near(self, i: int, j: int) -> float:
        """z of the highest column that a drone above cell (i, j) has to clear, metres."""
        return float(self._highest_near[i, j])

    @property
    def reachable_km2(self) -> float:
        """Worth of all ground above which the altitude band and the clearance leave room."""
        room = self.clearance_surface <= self._ground + self.task.max_altitude
        return float(1e-6 * self.grid.resolution**2 * self._weights[room].sum())

    def straight(self) -> np.ndarray:
        """(B + 2, 3) the direct flight."""
        return np.linspace(self.task.start, self.task.goal, self.task.track_points + 2)

    def __call__(self, paths) -> Scores:
        """paths : (Q, B + 2, 3) ENU metres, start and goal included."""
        paths = np.ascontiguousarray(paths, dtype=float)
        out = np.empty((len(paths), 5))
        _evaluate(paths, self._surface, self.clearance_surface, self._weights, self._stamps,
                  self._stamp, self._parameters, out)
        self._stamp += len(paths)
        self.evaluations += len(paths)
        return Scores(*out.T)

    def seen(self, points) -> np.ndarray:
        """(nx, ny) bool: ground cells seen from any of the (N, 3) points."""
        mask = np.zeros(self._surface.shape, np.int64)
        _mark_seen(np.ascontiguousarray(points, dtype=float), self._surface, self._weights,
                   mask, 1, self._parameters)
        return mask == 1


@njit(cache=True, nogil=True)
def _blocked(surface, i, j, z, u, v, height):
    """Does a column stand in the line from cell (i, j) at z to (u, v, height), in cells?

    Visits every cell that the line crosses (Amanatides & Woo 1987). The line rises, so that a
    column is in the way iff it is higher than the line where that enters its cell.
    """
    dx, dy, dz = u - (i + 0.5), v - (j + 0.5), height - z
    step_x, step_y = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
    # share of the line at the next border and from border to border
    next_x = 0.5 / abs(dx) if dx != 0 else np.inf
    next_y = 0.5 / abs(dy) if dy != 0 else np.inf
    width_x, width_y = 2 * next_x, 2 * next_y
    a, b = i, j
    nx, ny = surface.shape
    while True:
        if next_x < next_y:
            share = next_x
            a += step_x
            next_x += width_x
        else:
            share = next_y
            b += step_y
            next_y += width_y
        if share >= 1.0 or a < 0 or b < 0 or a >= nx or b >= ny:
            return False
        if surface[a, b] > z + dz * share:
            return True


@njit(cache=True, nogil=True)
def _mark_seen(points, surface, weights, stamps, stamp, p):
    """Stamps the cells seen from the points; their weighted number."""
    cell, x0, y0, ground, half, slant = p[0], p[1], p[2], p[3], p[4], p[5]
    slope = tan(half)
    nx, ny = surface.shape
    total = 0.0
    for n in range(points.shape[0]):
        u, v, height = (points[n, 0] - x0) / cell, (points[n, 1] - y0) / cell, points[n, 2]
        if not (0 <= u < nx and 0 <= v < ny) or not height > ground:
            continue
        radius = min((height - ground) * slope, slant * sin(half))
        r = radius / cell
        for i in range(max(0, int(u - r)), min(nx, int(u + r) + 1)):
            for j in range(max(0, int(v - r)), min(ny, int(v + r) + 1)):
                if stamps[i, j] == stamp:
                    continue
                q = height - surface[i, j]
                square = ((i + 0.5 - u) ** 2 + (j + 0.5 - v) ** 2) * cell * cell
                if q <= 0 or square > (q * slope) ** 2 or square + q * q > slant * slant:
                    continue
                if _blocked(surface, i, j, surface[i, j], u, v, height):
                    continue
                stamps[i, j] = stamp
                total += weights[i, j]
    return total


@njit(cache=True, nogil=True)
def _evaluate(paths, surface, clear, weights, stamps, stamp, p, out):
    cell, x0, y0, ground = p[0], p[1], p[2], p[3]
    z_noise, z_min, z_max = p[6], p[7], p[8]
    cos_turn, tan_climb, longest, n_co, step_s, endurance, floor_km2 = (
        p[9], p[10], p[11], p[12], p[13], p[14], p[15])
    min_step = 0.01     # m, a shorter step has no direction
    nx, ny = surface.shape
    for q in range(paths.shape[0]):
        path = paths[q]
        n = path.shape[0]
        length, noise, violation = 0.0, 0.0, 0.0
        finite = True
        for b in range(n):
            for d in range(3):
                finite = finite and np.isfinite(path[b, d])
        if not finite:
            out[q, 0], out[q, 1], out[q, 2], out[q, 3], out[q, 4] = 0.0, 0.0, 0.0, np.inf, 1e9
            continue
        mx, my, m_before = 0.0, 0.0, 0.0
        for b in range(n):
            h = path[b, 2] - ground
            if h <= z_noise:
                noise += z_noise - h + 1.0                                   # (9)
            violation += 0.1 * (max(0.0, h - z_max - 1e-9) + max(0.0, z_min - h - 1e-9))
            if b == 0:
                continue
            dx, dy, dz = (path[b, 0] - path[b - 1, 0], path[b, 1] - path[b - 1, 1],
                          path[b, 2] - path[b - 1, 2])
            m = sqrt(dx * dx + dy * dy)
            leg = sqrt(m * m + dz * dz)
            length += leg                                                    # (7)
            if m < min_step:
                violation += 1.0
            else:
                violation += max(0.0, abs(dz) / m / tan_climb - 1.0 - 1e-9)  # (13)
                if m_before >= min_step:
                    turn = (dx * mx + dy * my) / (m * m_before)
                    violation += max(0.0, cos_turn - turn - 1e-9)            # (12)
            violation += max(0.0, leg / longest - 1.0 - 1e-9)                # (14)
            mx, my, m_before = dx, dy, m
            samples = int(leg / cell) + 1
            for s in range(samples + 1):
                share = s / samples
                i = int(floor((path[b - 1, 0] + share * dx - x0) / cell))
                j = int(floor((path[b - 1, 1] + share * dy - y0) / cell))
                if i < 0 or j < 0 or i >= nx or j >= ny:
                    violation += 0.1
                    continue
                depth = clear[i, j] - (path[b - 1, 2] + share * dz)
                if depth > 0:
                    violation += 0.02 + 0.01 * depth
        violation += max(0.0, (n - 1) * step_s / endurance - 1.0)            # (15)
        f1 = 1e-6 * cell * cell * _mark_seen(path, surface, weights, stamps, stamp + q + 1, p)
        f2 = n_co * length / 1000.0                                          # (8)
        if f1 <= 0.0:
            violation += 1.0
        elif f1 < floor_km2 * (1.0 - 1e-9):
            violation += 1.0 - f1 / floor_km2
        out[q, 0], out[q, 1], out[q, 2] = f1, f2, noise
        out[q, 3] = f2 * (noise + 1.0) / f1 if f1 > 0 else np.inf            # (11)
        out[q, 4] = violation
