"""Seeds that see more than the way from start to goal: loops, waves, and rounds of places."""

from __future__ import annotations

import numpy as np

from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.planning.search import resample, smooth

DENSE = 8               # points of a curve for each track point
LENGTH_SHARE = 0.95     # of the longest path by speed and time
CLIMB_SHARE = 0.85      # of the steepest climb
LEG_SAMPLES = 16
HARMONICS = 4
ROUND_SMOOTHING = (0, 2, 5, 12)


def wandering_paths(evaluator: Evaluator, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, B + 2, 3) random smooth curves at constant height, lifted over what is near.

    From start to goal, or round from the start if that is the goal: half of an ellipse with
    waves of the first harmonics on it, as long as the speed allows at most.
    """
    task = evaluator.task
    n, longest = task.track_points + 2, LENGTH_SHARE * (
        task.track_points + 1) * task.drone.max_speed * task.time_step_s
    start, goal = np.array(task.start, float), np.array(task.goal, float)
    line, u = (goal - start)[:2], np.linspace(0, 1, DENSE * n)
    distance = float(np.hypot(*line))
    size = np.array(evaluator.grid.surface.shape) * evaluator.grid.resolution
    lower = evaluator.grid.origin[:2]
    reach = min(float(size.max()), longest / 2)
    paths = np.empty((count, n, 3))
    for q in range(count):
        turn = rng.uniform(0, 2 * np.pi)
        axis = line / distance if distance > 0 else np.array([np.cos(turn), np.sin(turn)])
        beside = np.array([-axis[1], axis[0]]) * rng.choice((-1, 1))
        wide = reach * rng.beta(1.2, 2.5)
        curve = start[:2] + u[:, None] * line
        if task.closed:
            far = reach * rng.beta(1.2, 2.5)
            curve = curve + far * (1 - np.cos(2 * np.pi * u))[:, None] / 2 * axis
            curve = curve + wide / 2 * np.sin(2 * np.pi * u)[:, None] * beside
        else:
            curve = curve + wide * rng.normal() / 2 * np.sin(np.pi * u)[:, None] * beside
        for k in range(2, 2 + HARMONICS):
            for way in (axis, beside):
                swing = wide * rng.normal() * rng.choice((0.0, 0.0, 0.5)) / k
                curve = curve + swing * np.sin(np.pi * k * u)[:, None] * way
        straight = start[:2] + u[:, None] * line
        for _ in range(4):
            length = np.linalg.norm(np.diff(curve, axis=0), axis=1).sum()
            if length <= longest:
                break
            curve = straight + (curve - straight) * 0.95 * max(
                longest - distance, 0.0) / max(length - distance, 1e-9)
        curve = np.clip(curve, lower + 2 * evaluator.grid.resolution,
                        lower + size - 2 * evaluator.grid.resolution)
        flat = resample(np.column_stack([curve, np.zeros(len(u))]), n)
        height = rng.uniform(task.min_altitude, task.max_altitude)
        paths[q] = flat
        paths[q, :, 2] = evaluator.band(flat)[0] - task.min_altitude + height
    return lift(paths, evaluator)


def round_paths(evaluator: Evaluator) -> np.ndarray:
    """(S, B + 2, 3) polylines through all places to visit, more or less smoothed.

    In the order of the nearest next, improved by turning parts around (2-opt, Croes 1958).
    """
    task, n = evaluator.task, evaluator.task.track_points + 2
    places = np.array([task.start, *task.must_visit, task.goal], float)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
    order, left = [0], set(range(1, len(places) - 1))
    while left:
        order.append(min(left, key=lambda k: gaps[order[-1], k]))
        left.remove(order[-1])
    order = np.array([*order, len(places) - 1])
    for _ in range(20):
        improved = False
        for i in range(1, len(order) - 2):
            for j in range(i + 1, len(order) - 1):
                a, b, c, d = order[i - 1], order[i], order[j], order[j + 1]
                if gaps[a, c] + gaps[b, d] < gaps[a, b] + gaps[c, d] - 1e-9:
                    order[i:j + 1] = order[i:j + 1][::-1]
                    improved = True
        if not improved:
            break
    dense = resample(places[order], max(3 * n, n + 1))
    paths = np.array([resample(smooth(dense, passes), n) for passes in ROUND_SMOOTHING])
    return np.concatenate([paths, lift(paths.copy(), evaluator)])


def lift(paths: np.ndarray, evaluator: Evaluator) -> np.ndarray:
    """The (Q, N, 3) paths raised over what they lack clearance of, no steeper than they may climb.

    The ends stay where they are, and the band's upper end is kept.
    """
    task, scene, grid = evaluator.task, evaluator.scene, evaluator.grid
    share = np.linspace(0, 1, LEG_SAMPLES)[:, None]
    samples = (paths[:, :-1, None, :2] * (1 - share) + paths[:, 1:, None, :2] * share)
    cell = np.clip(np.floor((samples - grid.origin[:2]) / grid.resolution), 0,
                   np.array(scene.clear.shape) - 1).astype(int)
    lowest = np.maximum(scene.clear, scene.ground + task.min_altitude)
    over_leg = lowest[cell[..., 0], cell[..., 1]].max(axis=2) + 0.1
    z = paths[:, :, 2]
    z[:, :-1] = np.maximum(z[:, :-1], over_leg)
    z[:, 1:] = np.maximum(z[:, 1:], over_leg)
    level = np.linalg.norm(np.diff(paths[..., :2], axis=1), axis=2)
    rise = CLIMB_SHARE * scene.limits.tan_climb * level
    for b in range(1, z.shape[1]):      # as high as the climb to what is higher needs
        z[:, b] = np.maximum(z[:, b], z[:, b - 1] - rise[:, b - 1])
    for b in range(z.shape[1] - 2, -1, -1):
        z[:, b] = np.maximum(z[:, b], z[:, b + 1] - rise[:, b])
    z[:, 0], z[:, -1] = task.start[2], task.goal[2]
    for b in range(1, z.shape[1]):      # and no higher than the climb from the ends allows
        z[:, b] = np.minimum(z[:, b], z[:, b - 1] + rise[:, b - 1])
    for b in range(z.shape[1] - 2, -1, -1):
        z[:, b] = np.minimum(z[:, b], z[:, b + 1] + rise[:, b])
    z[:] = np.clip(z, *evaluator.band(paths))
    paths[:, 0], paths[:, -1] = task.start, task.goal
    return paths
