"""Which ground was seen when, and what it is worth to see it again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parallel_city_ros.patrol.task import require


@dataclass(frozen=True, kw_only=True)
class LedgerConfig:
    seen_weight: float = 0.2      # worth of a cell that was just seen, 0..1; never seen: 1
    revisit_time_s: float = 3600.0  # after which it is worth 63 % of what it lost again

    def __post_init__(self):
        require(0 <= self.seen_weight <= 1, self, "seen_weight", "in [0, 1]")
        require(0 < self.revisit_time_s < float("inf"), self, "revisit_time_s",
                "a finite number above 0")


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
        """(nx, ny) worth of seeing each cell now, seen_weight to 1."""
        age = np.maximum(now_s - self._seen_at, 0)
        config = self._config
        return 1 - (1 - config.seen_weight) * np.exp(-age / config.revisit_time_s)

    @property
    def seen_share(self) -> float:
        """Share of all cells that were ever seen, 0..1."""
        return float(np.isfinite(self._seen_at).mean())
