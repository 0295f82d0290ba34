"""Planned against flown as numbers: for the terminal here, for the report in report.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from parallel_city_ros.viz.sortie import Sortie, new_share
from parallel_city_ros.viz.style import number


@dataclass(frozen=True)
class Measure:
    """One row; NaN where nothing is known. digits : after the point"""

    name: str
    unit: str
    planned: float
    flown: float
    digits: int = 0

    @property
    def label(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self) -> tuple[str, str]:
        return number(self.planned, self.digits), number(self.flown, self.digits)


def measures(sorties: Sequence[Sortie], sortie: Sortie) -> list[Measure]:
    """What a sortie was planned to do, and what it did. The same rows for every sortie."""
    c, path, units = sortie.comparison, sortie.plan.path, sortie.plan.task.units
    height = path[:, 2] - sortie.grid.ground_at(path)
    heard = float(np.mean(height <= sortie.plan.task.noise_altitude))
    return [
        Measure("Distance", "m", c.planned_length_m, c.flown_length_m),
        Measure("Ground seen", "km²", sortie.seen_km2(sortie.planned_seen),
                sortie.seen_km2(sortie.flown_seen), 3),
        Measure("of it never seen before", "%",
                100 * new_share(sorties, sortie, sortie.planned_seen),
                100 * new_share(sorties, sortie), 1),
        Measure("Worth of it, f1", "km²", c.planned.coverage_km2, c.flown.coverage_km2, 3),
        Measure("Carbon, f2", units["carbon"], c.planned.carbon, c.flown.carbon, 3),
        Measure("Noise, f3", units["noise_m"], c.planned.noise_m, c.flown.noise_m),
        Measure("Fitness F", "", c.planned.fitness, c.flown.fitness),
        Measure("Lowest altitude", "m", float(height.min()), c.lowest_altitude_m, 1),
        Measure("Heard from the ground", "%", 100 * heard, 100 * c.below_noise_altitude_share),
        # what was certified stands in the column of the plan
        Measure("Off the line, at most", "m", c.tube_radius_m, c.max_deviation_m, 2),
    ]


def comparison_table(sorties: Sequence[Sortie]) -> Table:
    """Planned against flown of all sorties; two fit into 80 columns."""
    table = Table(title="Planned against flown")
    table.add_column("")
    for s in sorties:
        for what in ("planned", "flown"):
            table.add_column(f"Sortie {s.number}\n{what}", justify="right")
    columns = [measures(sorties, s) for s in sorties]
    for row in zip(*columns, strict=True):
        table.add_row(row[0].label, *(text for m in row for text in m.text()))
    return table
