"""The honest comparison of planners: same start, same evaluations, processor time beside them.

One line of JSON a run, so that a comparison can be broken off and taken up again. A plan counts
as feasible if the independent checker says so. Comparisons are paired by city, task and seed:
Wilcoxon's signed-rank test with Holm's correction.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.files import write_atomically
from parallel_city_ros.planning.made_cities import MadeCity, task_over

REFERENCE = "de_aco"
RESULTS = "runs.jsonl"


@dataclass(frozen=True)
class Run:
    """city : kind-seed of a made city, or helsinki"""

    planner: str
    city: str
    seed: int
    budget: int
    track_points: int
    resolution: float


def planners() -> dict[str, tuple]:
    """Name → (planner_id, algorithm or None, config or None): planners, libraries, ablations."""
    from parallel_city_ros.planning.de_aco import DeAcoConfig
    from parallel_city_ros.planning.libraries import LIBRARIES, LibraryConfig, SeededDe
    from parallel_city_ros.planning.planner import PLANNERS
    known = {name: (name, None, None) for name in PLANNERS}
    known |= {name: ("de", library, LibraryConfig()) for name, library in LIBRARIES.items()}
    return known | {
        "de_aco without graph": ("de_aco", None, DeAcoConfig(use_graph=False)),
        "de_aco without evolution": ("de_aco", None, DeAcoConfig(evolution_share=0.0)),
        "de_aco without pheromone": ("de_aco", None, DeAcoConfig(use_pheromone=False)),
        "de_aco without annealing": ("de_aco", None, DeAcoConfig(evolution_share=1.0)),
        "de with the seeds of de_aco": ("de", SeededDe, None)}


def cities(kinds: Iterable[str], seeds: Iterable[int]) -> list[str]:
    return [MadeCity(kind, seed).name for kind in kinds for seed in seeds]


def make(run: Run) -> dict:
    """Do one run: everything that is worth keeping of it."""
    from parallel_city_ros.planning.planner import PlanRequest, plan, warm_up
    if run.planner not in planners():
        raise ConfigError(f"no planner {run.planner!r}; there are {', '.join(planners())}")
    planner_id, algorithm, config = planners()[run.planner]
    grid = _grid(run.city, run.resolution)
    task = task_over(grid, run.track_points)
    warm_up()
    request = PlanRequest(task=task, planner_id=planner_id, seed=run.seed,
                          evaluation_budget=run.budget, time_budget_s=1e6)
    began, times = time.thread_time(), []
    outcome = plan(grid, request, config=config, algorithm=algorithm,
                   on_progress=lambda p: times.append(time.thread_time() - began))
    found = outcome.plan
    course = [(p.evaluations, round(t, 3), p.objectives.fitness if p.feasible else None)
              for p, t in zip(outcome.history, times, strict=True)]
    told = asdict(run) | {
        "feasible": found is not None and found.certificate.valid,
        "fitness": found.objectives.fitness if found else None,
        "evaluations": outcome.history[-1].evaluations if outcome.history else 0,
        "cpu_s": round(outcome.cpu_s, 3), "cells": int(grid.surface.size),
        "first_feasible_s": next((t for _, t, f in course if f is not None), None),
        # only where it got better
        "course": [c for k, c in enumerate(course) if k == 0 or c[2] != course[k - 1][2]]}
    if found:
        told |= {k: asdict(found.objectives)[k] for k in ("coverage_km2", "carbon", "noise_m")}
    return told


def _grid(city: str, resolution: float):
    if city == "helsinki":
        from parallel_city_ros.city.osm import helsinki_file, read_osm
        from parallel_city_ros.city.voxels import voxelise
        return voxelise(read_osm(helsinki_file()), resolution)
    kind, _, seed = city.rpartition("-")
    return MadeCity(kind, int(seed)).grid(resolution)


def compare(runs: Sequence[Run], folder: str | Path, jobs: int = 1, on_done=lambda told: None
            ) -> list[dict]:
    """Do the runs that the folder does not hold yet; all results, in the order of the runs.

    jobs : processes; joblib's backends take the work to more machines
    """
    from joblib import Parallel, delayed
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = load(folder)
    missing = [run for run in runs if run not in done]
    results = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(make)(run) for run in missing)
    with open(folder / RESULTS, "a", encoding="utf-8") as file:
        for told in results:
            file.write(json.dumps(told) + "\n")
            file.flush()
            os.fsync(file.fileno())
            on_done(told)
    done = load(folder)
    return [done[run] for run in runs]


def load(folder: str | Path) -> dict[Run, dict]:
    """Results by run; a line that was cut off is passed over."""
    file = Path(folder) / RESULTS
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            told = json.loads(line)
            found[Run(**{k: told[k] for k in Run.__dataclass_fields__})] = told
        except (json.JSONDecodeError, KeyError):
            continue
    return found


def summary(results: Sequence[dict]) -> dict:
    """By planner: F relative to the best known, feasibility, times, and the test against
    REFERENCE."""
    best: dict[tuple, float] = {}
    for told in results:
        if told["feasible"]:
            key = _problem(told)
            best[key] = min(best.get(key, np.inf), told["fitness"])
    names = list(dict.fromkeys(told["planner"] for told in results))
    table = {}
    for name in names:
        mine = [told for told in results if told["planner"] == name]
        good = [told for told in mine if told["feasible"]]
        gaps = 100 * np.array([told["fitness"] / best[_problem(told)] - 1 for told in good])
        spread = [100 * np.std(f) / np.mean(f) for f in _by_problem(good).values() if len(f) > 1]
        reached = {share: _time_to(mine, best, share) for share in (0.01, 0.05)}
        table[name] = {
            "runs": len(mine), "feasible": len(good),
            "mean_gap_percent": float(gaps.mean()) if len(gaps) else None,
            "quartiles_percent": np.percentile(gaps, (25, 50, 75)).tolist() if len(gaps) else None,
            "worst_gap_percent": float(gaps.max()) if len(gaps) else None,
            "sd_percent": float(np.mean(spread)) if spread else None,
            "cpu_s": float(np.mean([told["cpu_s"] for told in mine])),
            "first_feasible_s": _median([told["first_feasible_s"] for told in mine]),
            "within_1_percent": reached[0.01], "within_5_percent": reached[0.05],
            "equal_cpu_gap_percent": _equal_cpu(mine, results, best),
            "worse_than_reference_percent": None, "p_holm": None}
    _test(table, results)
    return table


def _problem(told) -> tuple:
    return told["city"], told["budget"], told["track_points"], told["resolution"]


def _by_problem(results) -> dict[tuple, list[float]]:
    found: dict[tuple, list[float]] = {}
    for told in results:
        found.setdefault(_problem(told), []).append(told["fitness"])
    return found


def _median(values):
    values = [v for v in values if v is not None]
    return float(np.median(values)) if values else None


def _time_to(results, best, share):
    """Share of the runs that came within a share of the best known, and their median time."""
    times = []
    for told in results:
        goal = best.get(_problem(told), -np.inf) * (1 + share)
        times.append(next((t for _, t, f in told["course"] if f is not None and f <= goal), None))
    reached = [t for t in times if t is not None]
    return {"share": len(reached) / max(len(times), 1), "median_cpu_s": _median(times)}


def _equal_cpu(mine, results, best):
    """Mean gap at the time at which the reference ended, or of the whole run if that was less."""
    ended = {(_problem(r), r["seed"]): r["cpu_s"] for r in results if r["planner"] == REFERENCE}
    gaps = []
    for told in mine:
        limit = ended.get((_problem(told), told["seed"]))
        values = [f for _, t, f in told["course"] if f is not None and limit and t <= limit]
        if values:
            gaps.append(100 * (min(values) / best[_problem(told)] - 1))
    return float(np.mean(gaps)) if gaps else None


def _test(table, results):
    from scipy.stats import wilcoxon
    by_key = {(told["planner"], _problem(told), told["seed"]): told["fitness"]
              for told in results if told["feasible"]}
    ps = {}
    for name in table:
        if name == REFERENCE:
            continue
        pairs = [(f, by_key[(REFERENCE, *key[1:])]) for key, f in by_key.items()
                 if key[0] == name and (REFERENCE, *key[1:]) in by_key]
        if len(pairs) < 2:
            continue
        a, b = np.array(pairs).T
        table[name]["worse_than_reference_percent"] = float(100 * (1 - (b / a).mean()))
        if (a != b).any():
            ps[name] = float(wilcoxon(np.log(a), np.log(b)).pvalue)
    highest = 0.0
    for rank, name in enumerate(sorted(ps, key=ps.get)):        # Holm (1979)
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[name]))
        table[name]["p_holm"] = highest


def write(results: Sequence[dict], folder: str | Path) -> str:
    """runs.csv, summary.json, summary.md and gaps.png in the folder; the table as Markdown."""
    import csv
    import io
    folder = Path(folder)
    table = summary(results)
    columns = [k for k in results[0] if k != "course"]
    columns += [k for k in ("coverage_km2", "carbon", "noise_m") if k not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(results)
    write_atomically(folder / "runs.csv", text.getvalue())
    write_atomically(folder / "summary.json", json.dumps(table, indent=1) + "\n")
    told = markdown(table)
    write_atomically(folder / "summary.md", told)
    _draw(results, folder / "gaps.png")
    return told


def markdown(table: dict) -> str:
    def say(value, form="{:.1f}"):
        return "–" if value is None else form.format(value)
    lines = ["| planner | feasible | mean gap % | median (quartiles) | worst | sd % | CPU s | "
             "gap at equal CPU % | within 1 % | within 5 % | de_aco is lower by % | p (Holm) |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, row in sorted(table.items(), key=lambda item: item[1]["mean_gap_percent"] or 1e9):
        quartiles = row["quartiles_percent"]
        middle = "–" if quartiles is None else "{1:.1f} ({0:.1f}–{2:.1f})".format(*quartiles)
        lines.append(
            f"| `{name}` | {row['feasible']}/{row['runs']} | {say(row['mean_gap_percent'])} | "
            f"{middle} | {say(row['worst_gap_percent'])} | {say(row['sd_percent'], '{:.2f}')} | "
            f"{row['cpu_s']:.1f} | {say(row['equal_cpu_gap_percent'])} | "
            f"{100 * row['within_1_percent']['share']:.0f} % | "
            f"{100 * row['within_5_percent']['share']:.0f} % | "
            f"{say(row['worse_than_reference_percent'])} | {say(row['p_holm'], '{:.2g}')} |")
    return "\n".join(lines) + "\n"


def _draw(results, file) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    best = {k: min(v) for k, v in _by_problem([r for r in results if r["feasible"]]).items()}
    names = list(dict.fromkeys(told["planner"] for told in results))
    gaps = [[100 * (r["fitness"] / best[_problem(r)] - 1) for r in results
             if r["planner"] == name and r["feasible"]] for name in names]
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(names) + 1.2), layout="constrained")
    axes.boxplot(gaps, orientation="horizontal")
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.invert_yaxis()
    axes.set_xlabel("F above the best known, %")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
