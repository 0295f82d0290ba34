"""Initial paths: rapidly-exploring random trees (LaValle 1998) that keep turn and climb."""

from __future__ import annotations

from math import cos, radians, tan

import numpy as np
from numba import njit

from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.planning.search import resample, smooth

STEP_SHARE = 0.7          # of the longest leg: resampling at corners must not lengthen legs
GOAL_BIAS = 0.1           # share of samples that are the goal itself
CLIMB_SHARE = 0.8         # of the steepest climb, so that resampling keeps it
MAX_NODES = 6000
BUCKETS = 32              # along each side of the map, in which near nodes are looked for
SMOOTHING = (0, 3, 10, 30)  # passes of a 1-2-1 filter, the first that is feasible is kept


def rrt_paths(evaluator: Evaluator, count: int, rng: np.random.Generator,
              cancelled=lambda: False, warm_start=(), attempts: int = 4) -> np.ndarray:
    """(count, B + 2, 3) paths in ENU metres, one tree for each; some may be infeasible.

    Trees grow in bands of altitude of their own, so that the population differs in height. They
    are seeding: what is evaluated here is not counted.

    warm_start : (W, B + 2, 3) paths that take the places of as many trees
    """
    task, grid = evaluator.task, evaluator.grid
    counted, scene = evaluator.evaluations, evaluator.scene
    bounds = np.array([[*grid.origin[:2], scene.ground.min() + task.min_altitude],
                       [*(grid.origin[:2] + np.array(grid.surface.shape) * grid.resolution),
                        scene.ground.max() + task.max_altitude]])
    # the band of altitude as a floor and a ceiling over each column
    floor = np.maximum(scene.clear, scene.ground + task.min_altitude)
    ceiling = scene.ground + task.max_altitude
    if scene.limits.uneven:
        floor = np.maximum(floor, scene.lowest_z)
        ceiling = scene.highest_z
    leg = STEP_SHARE * task.drone.max_speed * task.time_step_s
    start, goal = np.array(task.start, float), np.array(task.goal, float)
    paths = np.empty((count, task.track_points + 2, 3))
    given = min(len(warm_start), count)
    if given:
        paths[:given] = warm_start[:given]
    for q in range(given, count):
        middle = bounds[0, 2] + (q + rng.random()) / count * (bounds[1, 2] - bounds[0, 2])
        band = np.clip((middle - 10.0, middle + 10.0), bounds[0, 2], bounds[1, 2])
        best, best_cost = evaluator.straight(), np.inf
        for _ in range(attempts):
            if cancelled():
                break
            tree = _grow(int(rng.integers(2**31)), start, goal, floor, ceiling,
                         grid.resolution, bounds, band, leg,
                         CLIMB_SHARE * tan(radians(task.drone.max_climb_deg)),
                         cos(radians(task.drone.max_turn_deg)), GOAL_BIAS, MAX_NODES)
            if not len(tree):
                continue
            dense = resample(tree, 3 * len(best))
            candidates = np.array([resample(smooth(dense, n), len(best)) for n in SMOOTHING])
            cost = evaluator(candidates).cost
            k = int(np.argmin(cost))
            if cost[k] < best_cost:
                best, best_cost = candidates[k], cost[k]
            if best_cost < 1.0:
                break
        paths[q] = best
    paths[:, 0], paths[:, -1] = start, goal
    evaluator.evaluations = counted
    return paths


@njit(cache=True, nogil=True)
def _is_free(a, b, floor, ceiling, cell, bounds):
    nx, ny = floor.shape
    dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    n = int(np.sqrt(dx * dx + dy * dy + dz * dz) / cell) + 1
    for s in range(n + 1):
        x, y, z = a[0] + dx * (s / n), a[1] + dy * (s / n), a[2] + dz * (s / n)
        i, j = int(np.floor((x - bounds[0, 0]) / cell)), int(np.floor((y - bounds[0, 1]) / cell))
        if i < 0 or j < 0 or i >= nx or j >= ny or z < floor[i, j] or z > ceiling[i, j]:
            return False
    return True


@njit(cache=True, nogil=True)
def _bucket_of(place, bounds, bucket):
    return (min(max(int((place[0] - bounds[0, 0]) / bucket), 0), BUCKETS - 1),
            min(max(int((place[1] - bounds[0, 1]) / bucket), 0), BUCKETS - 1))


@njit(cache=True, nogil=True)
def _nearest(sample, nodes, newest, before, bounds, bucket):
    """The nearest node, of equals the oldest: bucket by bucket in rings around the sample, until
    no ring can hold a nearer one."""
    u, v = _bucket_of(sample, bounds, bucket)
    nearest, least = 0, np.inf
    for ring in range(BUCKETS):
        if ring > 1 and ((ring - 1) * bucket) ** 2 > least:
            break
        for i in range(max(u - ring, 0), min(u + ring, BUCKETS - 1) + 1):
            # whole columns at both ends of the ring, otherwise its two border cells
            stride = 1 if abs(i - u) == ring else 2 * ring
            for j in range(v - ring, v + ring + 1, stride):
                if j < 0 or j >= BUCKETS:
                    continue
                k = newest[i, j]
                while k >= 0:
                    d2 = ((nodes[k, 0] - sample[0]) ** 2 + (nodes[k, 1] - sample[1]) ** 2
                          + 4 * (nodes[k, 2] - sample[2]) ** 2)     # climbing is dear
                    if d2 < least or (d2 == least and k < nearest):
                        least, nearest = d2, k
                    k = before[k]
    return nearest


@njit(cache=True, nogil=True)
def _grow(seed, start, goal, floor, ceiling, cell, bounds, band, step, climb, cos_turn, bias,
          max_nodes):
    """(K, 3) nodes from start to goal; empty if none was found."""
    np.random.seed(seed)
    nodes, parent = np.empty((max_nodes + 2, 3)), np.full(max_nodes + 2, -1)
    nodes[0], n = start, 1
    bucket = max(bounds[1, 0] - bounds[0, 0], bounds[1, 1] - bounds[0, 1]) / BUCKETS
    # each bucket is a chain from its newest node to the one before
    newest, before = np.full((BUCKETS, BUCKETS), -1), np.full(max_nodes + 2, -1)
    newest[_bucket_of(start, bounds, bucket)] = 0
    sample, new = np.empty(3), np.empty(3)
    for _ in range(max_nodes):
        if np.random.random() < bias:
            sample[:] = goal
        else:
            for d in range(2):
                sample[d] = bounds[0, d] + np.random.random() * (bounds[1, d] - bounds[0, d])
            sample[2] = band[0] + np.random.random() * (band[1] - band[0])
        nearest = _nearest(sample, nodes, newest, before, bounds, bucket)
        dx, dy = sample[0] - nodes[nearest, 0], sample[1] - nodes[nearest, 1]
        m = np.sqrt(dx * dx + dy * dy) + 1e-9
        share = min(1.0, step / m)
        dz = min(max(sample[2] - nodes[nearest, 2], -climb * m), climb * m)
        new[0], new[1] = nodes[nearest, 0] + share * dx, nodes[nearest, 1] + share * dy
        new[2] = nodes[nearest, 2] + share * dz
        if parent[nearest] >= 0:
            ax = nodes[nearest, 0] - nodes[parent[nearest], 0]
            ay = nodes[nearest, 1] - nodes[parent[nearest], 1]
            if ax * dx + ay * dy < cos_turn * m * np.sqrt(ax * ax + ay * ay):
                continue
        if not _is_free(nodes[nearest], new, floor, ceiling, cell, bounds):
            continue
        nodes[n], parent[n] = new, nearest
        here = _bucket_of(new, bounds, bucket)
        before[n], newest[here] = newest[here], n
        n += 1
        left = np.sqrt((new[0] - goal[0]) ** 2 + (new[1] - goal[1]) ** 2)
        if left < step and abs(new[2] - goal[2]) <= climb * left and _is_free(
                new, goal, floor, ceiling, cell, bounds):
            nodes[n], parent[n] = goal, n - 1
            count, k = 0, n
            while k >= 0:
                count += 1
                k = parent[k]
            path, k = np.empty((count, 3)), n
            while k >= 0:
                count -= 1
                path[count] = nodes[k]
                k = parent[k]
            return path
    return nodes[:0].copy()
