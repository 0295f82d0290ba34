"""Where on a way its track points lie: at its nodes, and what is left over where it is quiet.

Noise (9) is a sum over track points: those that a way does not need cost least where the drone is
heard least.
"""

from __future__ import annotations

import numpy as np

from parallel_city_ros.patrol.evaluator import Evaluator

AS_QUIET_M = 1.0        # of noise more than at the quietest node
APART_M = 1.0           # between the points that gather around a quiet node
LEG_SHARE = 0.45        # of a leg at either end where points gather


def filled(walk: np.ndarray, evaluator: Evaluator) -> np.ndarray:
    """(B + 2, 3) the (K, 3) nodes of a walk, K <= B + 2, and points around its quietest nodes."""
    task = evaluator.task
    left = task.track_points + 2 - len(walk)
    ground = evaluator.band(walk)[0] - task.min_altitude
    noise = np.maximum(task.noise_altitude - (walk[:, 2] - ground), 0.0)
    lengths = np.linalg.norm(np.diff(walk, axis=0), axis=1)
    # places at growing distance on both legs of each quiet node, taken in turns
    places = []
    quiet = np.flatnonzero(noise <= noise.min() + AS_QUIET_M)
    for k in range(left):
        turn, node = k // len(quiet), quiet[k % len(quiet)]
        side = -1 if (turn % 2 or node == len(walk) - 1) and node > 0 else 1
        step = APART_M / max(lengths[node - (side < 0)], 1e-9)
        places.append(node + side * min((turn // 2 + 1) * step,
                                        LEG_SHARE * (turn + 1) / (left + 1)))
    shares = np.sort(np.r_[np.arange(len(walk)), places])
    return np.stack([np.interp(shares, np.arange(len(walk)), walk[:, d]) for d in range(3)],
                    axis=1)
