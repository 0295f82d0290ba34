"""Which ground was seen when, and what it is worth to see it again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.settings import check, setting

WEIGHT_STEPS = 100      # weights are published as whole percents: all planners see the same


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    seen_weight: float = setting(0.2, "worth of ground that was just seen; never seen: 1",
                                 low=0, high=1)
    revisit_time_s: float = setting(
        3600.0, "s after which it has 63 % of what it lost in worth again", above=0)

    def __post_init__(self):
        check(self)


class CoverageLedger:
    """Last time at which each ground cell was seen.

    shape : (nx, ny) of the grid's columns; times in seconds on one clock of the caller
    """

    def __init__(self, shape: tuple[int, int], config: LedgerConfig | None = None):
        self._config = config or LedgerConfig()
        self._seen_at = np.full(shape, -np.inf)

    def record(self, seen: np.ndarray, at_s: float) -> None:
        """seen : (nx, ny) bool"""
        self._seen_at[seen] = np.maximum(self._seen_at[seen], at_s)

    def weights(self, now_s: float) -> np.ndarray:
        """(nx, ny) worth of seeing each cell now, seen_weight to 1, in whole percents."""
        age = np.maximum(now_s - self._seen_at, 0)
        config = self._config
        worth = 1 - (1 - config.seen_weight) * np.exp(-age / config.revisit_time_s)
        return np.rint(worth * WEIGHT_STEPS) / WEIGHT_STEPS

    @property
    def seen_share(self) -> float:
        """Share of all cells that were ever seen, 0..1."""
        return float(np.isfinite(self._seen_at).mean())
