"""Pictures of what a planner decided between: the Pareto front, and what binds each leg."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.patrol.explain import LOOK_M, Leg
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.planning.front import Front
from parallel_city_ros.viz.style import (
    HALO,
    INK,
    SOFT_INK,
    SORTIE_COLOURS,
    new_figure,
    number,
    plain_axes,
    save,
)

MARGIN_M = 50.0     # of the map around the route
LEG_COLOURS = (*SORTIE_COLOURS, "#D55E00", "#000000", "#59616b")    # constraints of a leg
# Preference of Front.choose → words, marker and colour.
MARKS = {"fitness": ("least F", "P", "#000000"), "knee": ("knee", "*", "#D55E00"),
         "coverage": ("sees most", "^", SORTIE_COLOURS[0]),
         "carbon": ("least carbon", "s", SORTIE_COLOURS[2]),
         "noise": ("least noise", "D", SORTIE_COLOURS[3])}


def draw_front(path: str | Path, front: Front, units: dict[str, str], prefer: str = "fitness",
               attribution: str = "") -> Path:
    """The front, two objectives at a time.

    units : of coverage_km2, carbon and noise_m, as PatrolTask.units has them
    prefer : the path that became the plan, which is ringed
    """
    height_in = 4.4
    figure = new_figure(
        f"What can be had: {len(front)} patrols of which none is better in everything",
        "Each dot is a patrol. Seen: more is better. Carbon and noise: less is better. The ring "
        "is the plan. Below: f1 · f2 · f3.", attribution, height_in)
    labels = [f"{name}, {units[key]}" for name, key in (
        ("Seen (f1)", "coverage_km2"), ("Carbon (f2)", "carbon"), ("Noise (f3)", "noise_m"))]
    places = {preference: front.choose(preference) for preference in MARKS}
    for n, (x, y) in enumerate(combinations(range(3), 2)):
        axes = figure.add_axes((0.065 + 0.325 * n, 0.27, 0.262, 0.52))
        values = front.objectives[:, [x, y]]
        axes.plot(*values.T, "o", color=SOFT_INK, markersize=4, alpha=0.45, markeredgewidth=0)
        for preference, (_, marker, ink) in MARKS.items():
            axes.plot(*values[places[preference]], marker, color=ink, markeredgecolor="white",
                      markersize=15 if marker == "*" else 9, zorder=3)
        axes.plot(*values[places[prefer]], "o", markersize=19, fillstyle="none", color=INK,
                  zorder=4)
        plain_axes(axes, labels[x], labels[y])
        axes.margins(0.12)
    figure.legend(
        handles=[Line2D([], [], linestyle="none", marker=marker, color=ink, markersize=9,
                        label=f"{words}: {_told(front.objectives[places[preference]])}")
                 for preference, (words, marker, ink) in MARKS.items()],
        loc="lower left", bbox_to_anchor=(0.02, 0.02), ncols=3, frameon=False, fontsize=8.5,
        columnspacing=1.2)
    return save(figure, path)


def _told(objectives) -> str:
    return " · ".join(number(value, 4 if k == 0 else 2 if k == 1 else 0)
                      for k, value in enumerate(objectives[:3]))


def draw_legs(path: str | Path, grid: VoxelGrid, plan: PatrolPlan, legs: Sequence[Leg]) -> Path:
    """The route from above, each leg in the colour of the constraint that binds it, and below
    how near each leg comes to something."""
    kinds = [kind for kind, _ in Counter(leg.binding for leg in legs).most_common()]
    inks = [LEG_COLOURS[kinds.index(leg.binding)] for leg in legs]
    lower, upper = plan.path[:, :2].min(axis=0) - MARGIN_M, plan.path[:, :2].max(axis=0) + MARGIN_M
    width, depth = upper - lower
    wide, strip = 9.6, 2.5
    map_in = float(np.clip(wide * depth / width, 3.0, 7.0))
    height_in = 0.75 + map_in + strip
    figure = new_figure(
        "What binds each leg", "Colour: the constraint that has least to spare. Bars: distance to "
        f"the nearest building, ground or edge; {LOOK_M:g} m: nothing is nearer.",
        grid.attribution, height_in)
    axes = figure.add_axes((0.02, strip / height_in, 0.96, map_in / height_in))
    (x, y), (nx, ny) = grid.origin[:2], grid.surface.shape
    axes.imshow(np.where(grid.built, grid.surface - grid.ground, np.nan).T, origin="lower",
                cmap="Greys", vmin=0, alpha=0.6, interpolation="nearest",
                extent=(x, x + nx * grid.resolution, y, y + ny * grid.resolution))
    route = np.stack([plan.path[:-1, :2], plan.path[1:, :2]], axis=1)
    axes.add_collection(LineCollection(route, colors="white", linewidths=6.5))
    axes.add_collection(LineCollection(route, colors=inks, linewidths=4.0))
    for k in _tightest(legs):
        middle = route[k].mean(axis=0)
        axes.annotate(f"leg {legs[k].number}: {legs[k].clearance_m:.1f} m"
                      + (f"\n{legs[k].building}" if legs[k].building else ""), middle, (0, 26),
                      textcoords="offset points", ha="center", size=8.5, color=INK, bbox=HALO,
                      arrowprops=dict(arrowstyle="-", color=INK, linewidth=0.9))
    axes.set_xlim(lower[0], upper[0])
    axes.set_ylim(lower[1], upper[1])
    axes.set_aspect("equal")
    axes.set_axis_off()
    bars = figure.add_axes((0.06, 0.85 / height_in, 0.92, (strip - 1.1) / height_in))
    bars.bar([leg.number for leg in legs], [leg.clearance_m for leg in legs], color=inks)
    plain_axes(bars, "Leg", "Metres to the nearest")
    bars.set_xlim(0.2, len(legs) + 0.8)
    figure.legend(handles=[Line2D([], [], color=LEG_COLOURS[n], linewidth=4, label=kind)
                           for n, kind in enumerate(kinds)], loc="lower left",
                  bbox_to_anchor=(0.02, 0.02), ncols=4, frameon=False, fontsize=9)
    return save(figure, path)


def _tightest(legs: Sequence[Leg], count: int = 3, apart: int = 3) -> list[int]:
    """Indices of the legs that come nearest to something, not beside each other."""
    found: list[int] = []
    for k in sorted(range(len(legs)), key=lambda k: legs[k].clearance_m):
        if len(found) < count and legs[k].clearance_m < LOOK_M and all(
                abs(k - other) >= apart for other in found):
            found.append(k)
    return found
