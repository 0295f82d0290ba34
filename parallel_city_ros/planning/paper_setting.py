"""The experiment of Zhou et al. (2024), KSII TIIS 18(4), section 5, as far as it can be repeated.

The paper's city, limits and numbers of evaluations are in pictures or nowhere, so that the
settings are ours: a street grid of 800 m by 600 m with houses up to 90 m, crossed from corner to
corner by 40 track points. What the paper prints is its Tables 2 and 3 as its text quotes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parallel_city_ros.patrol.task import Drone, PatrolTask
from parallel_city_ros.planning.made_cities import MadeCity

ALGORITHMS = ("de_aco_paper", "iaco", "de", "igso")
RUNS = 30
SETTINGS = {    # by name: the band's upper end and the height of no noise, m, and the camera's
    # range, m, and the reading of the equations
    "paper-conflict": (100.0, 110.0, 70.0, "corrected"),    # what is high sees less
    "paper-calm": (80.0, 90.0, 120.0, "corrected"),
    "paper-letter": (80.0, 90.0, 120.0, "paper")}
# best, worst, mean of 30 runs: Table 2; the row of DE is printed like this, its best above its
# mean
PRINTED = {"de_aco_paper": (12230.39, 12247.23, 12233.08),
           "iaco": (12666.69, 12925.06, 12814.58),
           "de": (12878.73, 12947.51, 12820.42),
           "igso": (12833.45, 12997.65, 12878.16)}
PRINTED_MEANS = {"de_aco_paper": (0.062774, 1.392071, 551.6381)}     # Table 3: f1, f2, f3


def problem(name: str, track_points: int = 40, resolution: float = 2.0):
    """The voxels of the city and the task of a setting."""
    highest, quiet, reach, model = SETTINGS[name]
    grid = MadeCity("grid", 1, (800.0, 600.0)).grid(resolution)
    drone = Drone(max_speed=15.0, camera_range=reach)
    return grid, PatrolTask(
        start=(30.0, 30.0, 70.0), goal=(770.0, 570.0, 70.0), drone=drone, model=model,
        track_points=track_points, time_step_s=3.0 * 41 / (track_points + 1), min_altitude=20.0,
        max_altitude=highest, noise_altitude=quiet)


def tables(results: Sequence[dict]) -> str:
    """Tables 2 and 3 of each setting beside what the paper prints, as Markdown."""
    parts = []
    for setting in dict.fromkeys(told["city"] for told in results):
        rows = {name: [told for told in results if told["feasible"]
                       and (told["city"], told["planner"]) == (setting, name)]
                for name in ALGORITHMS}
        rows = {name: runs for name, runs in rows.items() if runs}
        ours = {name: np.array([told["fitness"] for told in runs]) for name, runs in rows.items()}
        parts += [f"Table 2, {setting}", "",
                  "| algorithm | runs | best | worst | mean | mean above de_aco_paper % | "
                  "paper: best | worst | mean | mean above DE-ACO % |",
                  "|---|---|---|---|---|---|---|---|---|---|"]
        for name, f in ours.items():
            printed = PRINTED[name]
            above = (100 * (f.mean() / ours["de_aco_paper"].mean() - 1)
                     if "de_aco_paper" in ours else np.nan)
            printed_above = 100 * (printed[2] / PRINTED["de_aco_paper"][2] - 1)
            parts.append(f"| `{name}` | {len(f)} | {f.min():.1f} | {f.max():.1f} | {f.mean():.1f} "
                         f"| {above:.1f} | " + " | ".join(f"{v:.2f}" for v in printed)
                         + f" | {printed_above:.1f} |")
        parts += ["", f"Table 3, {setting}: means", "",
                  "| algorithm | area km² | carbon | noise m | paper: area | carbon | noise |",
                  "|---|---|---|---|---|---|---|"]
        for name, runs in rows.items():
            means = [np.mean([told[k] for told in runs])
                     for k in ("coverage_km2", "carbon", "noise_m")]
            printed = [f"{v:g}" for v in PRINTED_MEANS.get(name, ())] or ["–"] * 3
            parts.append(f"| `{name}` | {means[0]:.4f} | {means[1]:.3f} | {means[2]:.1f} | "
                         + " | ".join(printed) + " |")
        parts.append("")
    return "\n".join(parts)
