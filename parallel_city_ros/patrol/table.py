"""What is seen from each place, remembered: coverage of a path in a few microseconds.

The sky is cut into boxes, flat ones, because height counts most. The bitmap of what is seen from
a box's centre is made when it is first needed; the union of a path is then OR and popcount over
the rows touched. Weights are quantised to 4 bits, one popcount for each bit plane. Off the exact
coverage by about 0.6 %, since a point takes the view of its box's centre.
"""

from __future__ import annotations

import numpy as np

from parallel_city_ros.patrol.kernels import KEY_M, KEY_UP_M, evaluate_by_table, index_keys
from parallel_city_ros.patrol.scene import Camera

BIT_PLANES = 4
_EMPTY = -1


class VisibilityTable:
    """Bitmaps by box, at most memory_mb of them; the least recently used half makes room."""

    def __init__(self, scene, memory_mb: float, least_records: int):
        nx, ny = scene.surface.shape
        self._words = record_words(scene.surface, scene.camera)
        fitting = int(memory_mb * 2**20 / (8 * self._words + 32 + 16 * 2))
        limits = scene.limits
        high = limits.max_altitude - limits.min_altitude + np.ptp(scene.ground)
        sides = nx * limits.cell / KEY_M, ny * limits.cell / KEY_M, high / KEY_UP_M
        boxes = int(np.prod([int(side) + 2 for side in sides]))
        self.capacity = max(2 * least_records, min(fitting, boxes))
        slots = 1 << int(np.ceil(np.log2(2 * self.capacity)))
        self._keys = np.full(slots, _EMPTY, np.int64)
        self._slots = np.empty(slots, np.int32)
        # Empty, not zero: the system gives the memory when a record is written.
        self._bits = np.empty((self.capacity, self._words), np.int64)
        self._heads = np.empty((self.capacity, 4), np.int32)
        self._used = np.zeros(self.capacity, np.int64)
        self._key_of = np.empty(self.capacity, np.int64)
        self._state = np.zeros(2, np.int64)     # records, clock
        stride = (ny >> 6) + 2
        self._canvas = np.zeros(nx * stride, np.int64)
        self._low, self._high = np.full(nx, stride, np.int32), np.zeros(nx, np.int32)
        self._planes, self._unit = bit_planes(scene.weights)

    @property
    def records(self) -> int:
        return int(self._state[0])

    def evaluate(self, scene, paths, out) -> None:
        """paths : (Q, N, 3); out : (Q, 5) f1, f2, f3, F, G"""
        done = 0
        while done < len(paths):
            done = evaluate_by_table(
                scene, paths, done, self._keys, self._slots, self._bits, self._heads, self._used,
                self._key_of, self._state, self._canvas, self._low, self._high, self._planes,
                self._unit, out)
            if done < len(paths):
                self._make_room()

    def _make_room(self):
        n = self.records
        keep = np.argsort(self._used[:n], kind="stable")[n // 2:]
        for array in (self._bits, self._heads, self._used, self._key_of):
            array[:len(keep)] = array[keep]
        self._state[0] = len(keep)
        self._keys[:] = _EMPTY
        index_keys(self._keys, self._slots, self._key_of[:len(keep)])


def bit_planes(weights):
    """(P, nx * words) bit planes of the weights and what the lowest bit is worth."""
    top = weights.max()
    if top <= 0:
        levels, unit, planes = np.zeros(weights.shape, int), 0.0, 1
    elif np.isin(weights, (0.0, top)).all():
        levels, unit, planes = (weights > 0).astype(int), float(top), 1
    else:
        most = 2**BIT_PLANES - 1
        levels, unit, planes = np.rint(weights / top * most).astype(int), top / most, BIT_PLANES
    nx, ny = weights.shape
    words = (ny >> 6) + 2
    bits = np.zeros((planes, nx, 64 * words), np.uint8)
    for p in range(planes):
        bits[p, :, :ny] = (levels >> p) & 1
    packed = np.packbits(bits, axis=2, bitorder="little").view(np.int64)
    return np.ascontiguousarray(packed).reshape(planes, -1), float(unit)


def record_words(surface, camera: Camera) -> int:
    """Words that the bitmap of one point may need."""
    cells = 2 * int(np.ceil(camera.reach / camera.cell)) + 2
    return min(cells, surface.shape[0]) * (cells // 64 + 2)
