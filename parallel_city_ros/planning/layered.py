"""Layered graph between start and goal, as ants walk it, and dynamic programming over it.

Layer k lies across the line from start to goal, or across a path; its nodes are offsets to the
side and heights. Moves go to the next layer by so few nodes to the side that the course stays
within half the largest turn of the line's: any two of them then keep the turn. Climb, speed,
clearance and map are checked for every edge.
"""

from __future__ import annotations

from collections.abc import Callable
from math import radians, tan

import numpy as np
from numba import njit

from parallel_city_ros.patrol.evaluator import Evaluator
from parallel_city_ros.patrol.kernels import layer_edges, popcount, views
from parallel_city_ros.patrol.scene import tallest_over
from parallel_city_ros.patrol.table import bit_planes, record_words
from parallel_city_ros.patrol.task import PatrolTask

LATERAL_M = 8.0         # between two nodes of a layer
RISE_M = 5.0
WIDEST_M = 360.0        # to either side
SHORTEST_M = 20.0       # between two layers: shorter legs could hardly turn
VIEW_CELL_M = 4.0       # of the coarse map on which gains are counted
VIEW_CELLS = 30         # that the camera reaches on it at most
MOST_NODES = 250_000
CLIMB_SHARE = 0.98
WIDEST_TURN_DEG = 120   # that the graph makes use of
TUBE_SIDE, TUBE_UP = 6, 4   # nodes of a tube to either side, up and down
TUBE_MOVE = 4           # nodes that a move in it goes aside, up or down


class LayeredGraph:
    """Nodes, edges and what is seen from them.

    nodes : (K + 1, A, C, 3) ENU metres; start and goal are nodes (0, *first) and (K, *last)
    moves : (M, 2) steps in a and c; free : (K, A, C, M) bool, edges that keep all limits and from
        which the goal can be reached

    complete is False if it was stopped while being made.
    """

    def __init__(self, evaluator: Evaluator, nodes: np.ndarray, moves: np.ndarray, first, last,
                 stopped: Callable[[], bool] = lambda: False, stretch: float = 1.0,
                 courses: np.ndarray | None = None, bends: np.ndarray | None = None):
        task, scene, self._evaluator = evaluator.task, evaluator.scene, evaluator
        self.nodes, self.moves, self.first, self.last = nodes, moves, first, last
        nodes[0][first], nodes[-1][last] = task.start, task.goal
        self.layers = n = len(nodes) - 1
        self.free = np.zeros((n, *nodes.shape[1:3], len(moves)), bool)
        self.complete = False
        longest = scene.limits.longest_leg * max(1.0, stretch)
        wider = scene._replace(limits=scene.limits._replace(longest_leg=longest))
        for k in range(n):
            if stopped():
                return
            layer_edges(wider, nodes[k], nodes[k + 1], moves, self.free[k])
        if courses is None:
            courses = np.tile(np.subtract(task.goal, task.start)[:2], (n, 1))
            bends = np.full(n, _most_turn(task) / 2)
        _keep_course(self.free, nodes, moves, courses, np.cos(bends))
        _keep_reachable(self.free, moves, *first, *last)
        self.complete = True

    @classmethod
    def between_ends(cls, evaluator: Evaluator, stopped=lambda: False, layers: int | None = None
                     ) -> LayeredGraph:
        """Over all the map that a path from start to goal may come to.

        layers : some number of them, so that nodes can be track points; by default, for walks
            that are resampled to the task's points, as many as are SHORTEST_M apart, and legs
            that are the longer for it
        """
        task = evaluator.task
        start, goal = np.array(task.start, float), np.array(task.goal, float)
        line = (goal - start)[:2]
        distance = max(float(np.hypot(*line)), 1e-9)
        n = layers or cls.layer_counts(task, (SHORTEST_M,))[0]
        step = distance / n
        side_slope = tan(_most_turn(task) / 2)
        # the goal is reached from anywhere that half the way leads to
        widest = min(WIDEST_M, 0.5 * distance * side_slope)
        heights = np.arange(task.min_altitude, task.max_altitude + 1e-9, RISE_M)
        lateral = max(min(LATERAL_M, step * side_slope),
                      2 * widest * n * len(heights) / MOST_NODES)
        half = int(widest / lateral)
        most_side = int(step * side_slope / lateral + 1e-9)
        most_rise = max(1, int(step * evaluator.scene.limits.tan_climb * CLIMB_SHARE / RISE_M))
        along, across = line / distance, np.array([-line[1], line[0]]) / distance
        offsets = (np.arange(2 * half + 1) - half) * lateral
        nodes = np.zeros((n + 1, len(offsets), len(heights), 3))
        nodes[..., :2] = (start[:2] + np.arange(n + 1)[:, None, None] * step * along
                          + offsets[None, :, None] * across)[:, :, None, :]
        nodes[..., 2] = evaluator.band(nodes)[0] - task.min_altitude + heights
        first = half, _nearest(nodes[0, half, :, 2], start[2])
        last = half, _nearest(nodes[n, half, :, 2], goal[2])
        stretch = 1.0 if layers else 0.95 * (task.track_points + 1) / n
        return cls(evaluator, nodes, _moves(most_side, most_rise), first, last, stopped, stretch)

    @staticmethod
    def layer_counts(task: PatrolTask, steps_m) -> list[int]:
        """Numbers of layers about so far apart, without those that are the same."""
        distance = float(np.hypot(*np.subtract(task.goal, task.start)[:2]))
        return list(dict.fromkeys(
            max(2, min(task.track_points + 1, int(distance / step))) for step in steps_m))

    @classmethod
    def around(cls, evaluator: Evaluator, path: np.ndarray, lateral: float, rise: float,
               stopped=lambda: False) -> LayeredGraph:
        """In a tube around the (K + 1, 3) nodes of a path, finer; metres between nodes."""
        task = evaluator.task
        courses = np.diff(path[:, :2], axis=0)
        course = np.unwrap(np.arctan2(courses[:, 1], courses[:, 0]))
        # two legs may each use half of what their corner leaves of the largest turn
        spare = np.maximum(0.0, _most_turn(task) - np.abs(np.diff(course))) / 2
        bends = np.minimum(np.r_[_most_turn(task) / 2, spare], np.r_[spare, _most_turn(task) / 2])
        at = (np.r_[course[0], course] + np.r_[course, course[-1]]) / 2
        across = np.stack([-np.sin(at), np.cos(at)], axis=1)
        sides = (np.arange(2 * TUBE_SIDE + 1) - TUBE_SIDE) * lateral
        heights = (np.arange(2 * TUBE_UP + 1) - TUBE_UP) * rise
        nodes = np.empty((len(path), len(sides), len(heights), 3))
        nodes[:] = path[:, None, None, :]
        nodes[..., :2] += sides[None, :, None, None] * across[:, None, None, :]
        nodes[..., 2] += heights
        nodes[..., 2] = np.clip(nodes[..., 2], *evaluator.band(nodes))
        middle = TUBE_SIDE, TUBE_UP
        return cls(evaluator, nodes, _moves(TUBE_MOVE, TUBE_MOVE), middle, middle, stopped,
                   courses=courses, bends=bends)

    @property
    def connected(self) -> bool:
        return self.complete and bool(self.free[0][self.first].any())

    def path(self, a: np.ndarray, c: np.ndarray) -> np.ndarray:
        """(K + 1, 3) from nodes by layer."""
        return self.nodes[np.arange(self.layers + 1), a, c]

    def lengths(self) -> np.ndarray:
        """(K, A, C, M) metres of each edge; 0 where there is none."""
        return _lengths(self.nodes, self.moves, self.free)

    def noise(self) -> np.ndarray:
        """(K + 1, A, C) noise (9) of a track point at each node, metres."""
        ground = self._evaluator.band(self.nodes)[0] - self._evaluator.task.min_altitude
        limit = self._evaluator.task.noise_altitude
        height = self.nodes[..., 2] - ground
        return np.where(height <= limit, limit - height + 1.0, 0.0)

    def gains(self, stopped: Callable[[], bool] = lambda: False,
              view_cell: float = VIEW_CELL_M) -> np.ndarray | None:
        """(K, A, C, M) float32 worth in cells of the map of what is seen from the end of each
        edge and not from its beginning, counted on cells of about view_cell metres; None if it
        was stopped."""
        scene = self._evaluator.scene
        coarse = max(view_cell, scene.camera.reach / VIEW_CELLS)
        factor = max(1, round(coarse / scene.camera.cell))
        of = slice(factor // 2, None, factor)
        surface = np.ascontiguousarray(scene.surface[of, of])
        camera = scene.camera._replace(cell=scene.camera.cell * factor)
        tallest = tallest_over(surface, camera)
        planes, unit = bit_planes(np.ascontiguousarray(scene.weights[of, of]))
        words = record_words(surface, camera)
        worth = unit * factor**2
        stride = (surface.shape[1] >> 6) + 2
        gains = np.zeros(self.free.shape, np.float32)
        shape = (self.nodes.shape[1], self.nodes.shape[2])
        bits = [np.empty((shape[0] * shape[1], words), np.int64) for _ in range(2)]
        heads = [np.empty((shape[0] * shape[1], 4), np.int64) for _ in range(2)]
        for k in range(self.layers + 1):
            if stopped():
                return None
            now = k % 2
            views(surface, tallest, camera, self.nodes[k].reshape(-1, 3), bits[now], heads[now])
            if k:
                _gains(bits[1 - now], heads[1 - now], bits[now], heads[now], planes, stride,
                       worth, self.free[k - 1], self.moves, gains[k - 1])
        return gains


def best_walk(graph: LayeredGraph, gains, lengths, noise, per_metre: float, per_noise: float,
              per_cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (a, c) by layer of the walk that costs least: dynamic programming from the goal."""
    return _best_walk(graph.free, graph.moves, gains, lengths, noise, per_metre, per_noise,
                      per_cell, *graph.first, *graph.last)


def _most_turn(task: PatrolTask) -> float:
    """Radians between two legs that the graph makes use of."""
    return radians(min(task.drone.max_turn_deg, WIDEST_TURN_DEG))


def _moves(side: int, up: int) -> np.ndarray:
    return np.array([(a, c) for a in range(-side, side + 1) for c in range(-up, up + 1)])


def _nearest(heights, z) -> int:
    return int(np.argmin(np.abs(heights - z)))


@njit(cache=True, nogil=True)
def _keep_course(free, nodes, moves, courses, least_cos):
    """Takes away the edges that are too far off the course (east, north) of their layer."""
    n, width, height, count = free.shape
    for k in range(n):
        east, north = courses[k]
        far = np.sqrt(east * east + north * north)
        for a in range(width):
            for c in range(height):
                for m in range(count):
                    if free[k, a, c, m]:
                        b, d = a + moves[m, 0], c + moves[m, 1]
                        dx = nodes[k + 1, b, d, 0] - nodes[k, a, c, 0]
                        dy = nodes[k + 1, b, d, 1] - nodes[k, a, c, 1]
                        along = dx * east + dy * north
                        if along < (least_cos[k] - 1e-9) * np.sqrt(dx * dx + dy * dy) * far:
                            free[k, a, c, m] = False


@njit(cache=True, nogil=True)
def _keep_reachable(free, moves, a0, c0, a1, c1):
    """Takes away the edges from which the goal, or to which the start, does not lead."""
    n, width, height, count = free.shape
    leads = np.zeros((n + 1, width, height), np.bool_)
    leads[n, a1, c1] = True
    for k in range(n - 1, -1, -1):
        for a in range(width):
            for c in range(height):
                for m in range(count):
                    if free[k, a, c, m]:
                        if leads[k + 1, a + moves[m, 0], c + moves[m, 1]]:
                            leads[k, a, c] = True
                        else:
                            free[k, a, c, m] = False
    came = np.zeros((n + 1, width, height), np.bool_)
    came[0, a0, c0] = True
    for k in range(n):
        for a in range(width):
            for c in range(height):
                for m in range(count):
                    if free[k, a, c, m]:
                        if came[k, a, c]:
                            came[k + 1, a + moves[m, 0], c + moves[m, 1]] = True
                        else:
                            free[k, a, c, m] = False


@njit(cache=True, nogil=True)
def _lengths(nodes, moves, free):
    n, width, height, count = free.shape
    lengths = np.zeros(free.shape, np.float32)
    for k in range(n):
        for a in range(width):
            for c in range(height):
                for m in range(count):
                    if free[k, a, c, m]:
                        b, d = a + moves[m, 0], c + moves[m, 1]
                        square = 0.0
                        for axis in range(3):
                            square += (nodes[k + 1, b, d, axis] - nodes[k, a, c, axis]) ** 2
                        lengths[k, a, c, m] = np.sqrt(square)
    return lengths


@njit(cache=True, nogil=True)
def _gains(bits, heads, next_bits, next_heads, planes, stride, worth, free, moves, gains):
    width, height, count = free.shape
    for a in range(width):
        for c in range(height):
            old = a * height + c
            for m in range(count):
                if not free[a, c, m]:
                    continue
                new = (a + moves[m, 0]) * height + c + moves[m, 1]
                total = 0
                words = next_heads[new, 3]
                for r in range(next_heads[new, 1]):
                    i = next_heads[new, 0] + r
                    row = i - heads[old, 0]
                    for w in range(words):
                        k = next_heads[new, 2] + w
                        word = next_bits[new, r * words + w]
                        if 0 <= row < heads[old, 1] and 0 <= k - heads[old, 2] < heads[old, 3]:
                            word &= ~bits[old, row * heads[old, 3] + k - heads[old, 2]]
                        for p in range(planes.shape[0]):
                            total += popcount(word & planes[p, i * stride + k]) << p
                gains[a, c, m] = total * worth


@njit(cache=True, nogil=True)
def _best_walk(free, moves, gains, lengths, noise, per_metre, per_noise, per_cell, a0, c0, a1,
               c1):
    n, width, height, count = free.shape
    value = np.full((2, width, height), np.inf)
    choice = np.full((n, width, height), -1, np.int16)
    value[n % 2, a1, c1] = 0.0
    for k in range(n - 1, -1, -1):
        here, there = value[k % 2], value[(k + 1) % 2]
        for a in range(width):
            for c in range(height):
                least = np.inf
                for m in range(count):
                    if free[k, a, c, m]:
                        b, d = a + moves[m, 0], c + moves[m, 1]
                        cost = (there[b, d] + per_metre * lengths[k, a, c, m]
                                + per_noise * noise[k + 1, b, d] - per_cell * gains[k, a, c, m])
                        if cost < least:
                            least = cost
                            choice[k, a, c] = m
                here[a, c] = least
    walk_a, walk_c = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    walk_a[0], walk_c[0] = a0, c0
    for k in range(n):
        m = choice[k, walk_a[k], walk_c[k]]
        walk_a[k + 1], walk_c[k + 1] = walk_a[k] + moves[m, 0], walk_c[k] + moves[m, 1]
    return walk_a, walk_c
