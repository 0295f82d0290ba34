"""The routes of a fleet from above."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.planning.fleet import FleetPlan
from parallel_city_ros.viz import pictures
from parallel_city_ros.viz.sortie import resample
from parallel_city_ros.viz.style import HALO, INK, colour, new_figure, save

MARGIN_M = 70.0
LINES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))   # after as many drones as there are colours


def draw_fleet(path: str | Path, grid: VoxelGrid, fleet: FleetPlan) -> Path:
    """Every route over building heights; the two that come nearest are marked where they do."""
    plans = list(fleet.plans.values())
    points = np.concatenate([p.path[:, :2] for p in plans])
    lower = np.maximum(points.min(axis=0) - MARGIN_M, grid.origin[:2])
    upper = np.minimum(points.max(axis=0) + MARGIN_M, grid.origin[:2] + np.array(
        grid.surface.shape) * grid.resolution)
    window = (lower[0], upper[0], lower[1], upper[1])
    side, head, foot = 2.6, 0.78, 0.32
    wide = 10.0 - side - 0.3
    tall = (window[3] - window[2]) / (window[1] - window[0])
    height = float(np.clip(wide * tall + head + foot, 5.0, 10.5))
    pair = min(fleet.separation.pairs, key=lambda p: p.gap_m, default=None)
    figure = new_figure(
        f"{len(plans)} drones see {fleet.coverage_km2:.2f} km² together"
        + (f" and keep {pair.gap_m:.0f} m apart" if pair else ""),
        "Each route once, from above; circles: where a drone starts, squares: where it lands.",
        grid.attribution, height)
    axes = figure.add_axes((0.02, foot / height, wide / 10, 1 - (head + foot) / height),
                           anchor="W")
    image = pictures.show_buildings(axes, grid, window)
    handles = []
    for number, (name, found) in enumerate(fleet.plans.items(), 1):
        ink, line = colour(number), LINES[(number - 1) // 5 % len(LINES)]
        late = fleet.start_after_s[name]
        axes.plot(*found.path[:, :2].T, color="white", linewidth=4.2, zorder=4)
        axes.plot(*found.path[:, :2].T, color=ink, linewidth=2.2, linestyle=line, zorder=5)
        pictures.arrows(axes, found.path[:, :2], ink, 0.25 * (window[1] - window[0]), 15)
        for place, mark in ((found.path[0], "o"), (found.path[-1], "s")):
            axes.plot(*place[:2], mark, markersize=9 if mark == "o" else 5, color="white",
                      markeredgecolor=ink, markeredgewidth=2, zorder=7)
        middle = resample(found.path, 5.0)[1]
        axes.annotate(str(number), middle[len(middle) // 2, :2], size=9, weight="bold", color=ink,
                      bbox=HALO, ha="center", va="center", zorder=9)
        handles.append(Line2D([], [], color=ink, linewidth=2.4, linestyle=line, label=(
            f"{number}  {found.length_m:.0f} m" + (f", {late:.0f} s later" if late else ""))))
    if pair and np.isfinite(pair.where).all():
        axes.plot(*pair.where[:2], "x", color=INK, markersize=9, markeredgewidth=2, zorder=8)
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="none",
                              markeredgewidth=2, label="Nearest to another"))
    pictures.explain_beside(figure, axes, image, window, handles=handles, labelspacing=0.6,
                            handlelength=2.6)
    return save(figure, path)
