"""Which ground was seen when, and what it is worth to see it again."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.files import write_atomically
from parallel_city_ros.settings import check, setting

SEEN_SHARE = 0.95       # of a view; a photograph is not taken at the very place
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

    def has_seen(self, cells: np.ndarray) -> bool:
        """Whether those (nx, ny) cells were ever seen, but for some on the edge of the view."""
        return bool(np.isfinite(self._seen_at[cells]).mean() >= SEEN_SHARE) if cells.any() \
            else True

    def weights(self, now_s: float) -> np.ndarray:
        """(nx, ny) worth of seeing each cell now, seen_weight to 1, in whole percents."""
        age = np.maximum(now_s - self._seen_at, 0)
        config = self._config
        worth = 1 - (1 - config.seen_weight) * np.exp(-age / config.revisit_time_s)
        return np.rint(worth * WEIGHT_STEPS) / WEIGHT_STEPS

    def save(self, file) -> None:
        """Keep it beyond this process; the file is complete or was not touched."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, seen_at=self._seen_at)
        write_atomically(file, buffer.getvalue())

    def load(self, file) -> None:
        """Take over what was kept.

        Raises
        ------
        ConfigError
            If the file is broken or belongs to a map of another size.
        """
        try:
            with np.load(file) as kept:
                seen_at = kept["seen_at"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{file}: is no coverage ledger ({error}); move it away to begin "
                              "a new one") from error
        if seen_at.shape != self._seen_at.shape:
            raise ConfigError(f"{file}: is of a map of {seen_at.shape} cells, this one has "
                              f"{self._seen_at.shape}; use another history folder")
        self._seen_at = seen_at

    @property
    def seen_share(self) -> float:
        """Share of all cells that were ever seen, 0..1."""
        return float(np.isfinite(self._seen_at).mean())
