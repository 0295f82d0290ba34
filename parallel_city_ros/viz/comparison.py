"""Pictures of a comparison of planners: gaps, and the figures of the paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from parallel_city_ros.planning.benchmark import problem
from parallel_city_ros.planning.standings import best_known, gap, names_of
from parallel_city_ros.viz.style import (
    INK,
    PALE_GREYS,
    SOFT_INK,
    colour,
    new_figure,
    plain_axes,
    save,
)

STEPS = 200         # of the courses that are drawn
CURVES = (("fig5", "Fig. 5: the best run's fitness", np.min),
          ("fig6", "Fig. 6: the worst run's fitness", np.max),
          ("fig7", "Fig. 7: the mean of the runs' fitness", np.mean))


def draw_gaps(results: Sequence[dict], known: Iterable[dict], file: str | Path) -> Path:
    """How far each planner ends above the best known, over all its runs.

    known : more runs that the best may come from
    """
    best, names = best_known([*results, *known]), names_of(results)
    gaps = [[gap(told, best) for told in results if told["planner"] == name and told["feasible"]]
            for name in names]
    order = np.argsort([np.median(g) if g else np.inf for g in gaps], kind="stable")
    height = 0.32 * len(names) + 1.6
    figure = new_figure("F above the best known", f"{len(results)} runs; boxes are quartiles, "
                        "dots are single runs", "", height)
    axes = figure.add_axes((0.26, 0.6 / height, 0.71, 1 - 1.4 / height))
    axes.boxplot([gaps[k] for k in order], orientation="horizontal", widths=0.6,
                 medianprops={"color": colour(1)}, flierprops={"marker": ".", "alpha": 0.5})
    axes.set_yticks(range(1, len(names) + 1), [names[k] for k in order])
    axes.invert_yaxis()
    plain_axes(axes, "%", "")
    return save(figure, file)


def draw_paper_figures(results: Sequence[dict], folder: str | Path) -> list[Path]:
    """The paper's Figs 5 to 8 for each setting among the results."""
    files = []
    for setting in dict.fromkeys(told["city"] for told in results):
        here = [told for told in results if told["city"] == setting]
        files += [_draw_courses(here, title, of, Path(folder) / f"{setting}-{name}.png")
                  for name, title, of in CURVES]
        files.append(_draw_path(here, Path(folder) / f"{setting}-fig8.png"))
    return files


def _draw_courses(results, title, of, file) -> Path:
    budget = results[0]["budget"]
    at = np.linspace(0, budget, STEPS)
    figure = new_figure(title, f"{results[0]['city']}, after each number of evaluations", "", 4.6)
    axes = figure.add_axes((0.09, 0.12, 0.88, 0.70))
    for number, name in enumerate(names_of(results), 1):
        runs = np.array([_course(told, at) for told in results
                         if told["planner"] == name and told["feasible"]])
        if len(runs) == 0:
            continue
        known = np.isfinite(runs).all(axis=0)       # from where on every run has a feasible path
        axes.plot(at[known], of(runs[:, known], axis=0), color=colour(number), linewidth=1.8,
                  label=f"{name}, {len(runs)} runs")
    plain_axes(axes, "evaluations", "F")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8.5)
    return save(figure, file)


def _course(told, at) -> np.ndarray:
    """F of the best feasible path after each number of evaluations; NaN before there is one."""
    evaluations = np.array([n for n, _, f in told["course"] if f is not None])
    fitness = np.array([f for _, _, f in told["course"] if f is not None])
    k = np.searchsorted(evaluations, at, side="right") - 1
    return np.where(k >= 0, fitness[np.maximum(k, 0)], np.nan)


def _draw_path(results, file) -> Path:
    """One run's path over the city: that of the first algorithm and seed."""
    told = next(told for told in results if told["feasible"])
    grid, task = problem(told["city"], told["track_points"], told["resolution"])
    path = np.array(told["path"])
    figure = new_figure("Fig. 8: a path", f"{told['planner']}, {told['city']}, seed "
                        f"{told['seed']}; below: height of the path and of what is under it, m",
                        "", 8.4)
    size = np.array(grid.surface.shape) * grid.resolution
    axes = figure.add_axes((0.08, 0.30, 0.88, 0.60))
    x0, y0 = grid.origin[:2]
    greys = LinearSegmentedColormap.from_list("heights", ("#ffffff", *PALE_GREYS))
    axes.imshow(grid.surface.T, origin="lower", cmap=greys,
                extent=(x0, x0 + size[0], y0, y0 + size[1]))
    axes.plot(path[:, 0], path[:, 1], "-o", color=colour(1), markersize=3)
    plain_axes(axes, "east, m", "north, m")
    axes.grid(False)
    below = figure.add_axes((0.08, 0.06, 0.88, 0.15))
    travelled = np.r_[0.0, np.cumsum(np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1))]
    dense = np.linspace(0, travelled[-1], 600)
    along = np.stack([np.interp(dense, travelled, path[:, d]) for d in (0, 1, 2)], axis=1)
    cell = grid.index(along)
    below.fill_between(dense, grid.surface[cell[:, 0], cell[:, 1]], color=PALE_GREYS[1],
                       step="mid")
    below.plot(dense, along[:, 2], color=colour(1))
    below.axhline(task.noise_altitude, color=SOFT_INK, linewidth=0.8, linestyle=":")
    below.annotate("not heard above", (dense[-1], task.noise_altitude), ha="right", va="bottom",
                   size=8, color=INK)
    plain_axes(below, "m along the path", "")
    return save(figure, file)
