"""What the runs of a comparison say: gaps, spread, times, tests, fronts.

Pairs are of the same city, task and seed: Wilcoxon's signed-rank test with Holm's correction.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from parallel_city_ros.files import write_atomically
from parallel_city_ros.planning.benchmark import load

REFERENCE = "de_aco"
WORSE_PERCENT, SIGNIFICANT = 1.0, 0.05      # when the reference counts as beaten in a city
HV_REFERENCE = 1.1      # where 0 is the best and 1 the worst of the best front known
LONG = ("course", "path", "front")          # left out of runs.csv


def summary(results: Sequence[dict], known: Iterable[dict] = ()) -> dict:
    """By planner: F relative to the best known, feasibility, times, and the test against
    REFERENCE.

    known : more runs that the best may come from, such as longer ones
    """
    best = best_known([*results, *known])
    limits = {(problem_of(r), r["seed"]): r["cpu_s"] for r in results
              if r["planner"] == REFERENCE}

    def at_equal_cpu(told):
        """F when the reference ended, or of the whole run if that took less."""
        limit = limits.get((problem_of(told), told["seed"]))
        values = [f for _, t, f in told["course"] if f is not None and limit and t <= limit]
        return min(values, default=None)

    table = {}
    for name in names_of(results):
        mine = [told for told in results if told["planner"] == name]
        good = [told for told in mine if told["feasible"]]
        gaps = np.array([gap(told, best) for told in good])
        spread = [100 * np.std(f) / np.mean(f) for f in _by_problem(good).values() if len(f) > 1]
        reached = {share: _time_to(mine, best, share) for share in (0.01, 0.05)}
        equal = [100 * (f / best[_track(told)] - 1) for told in good
                 if (f := at_equal_cpu(told)) is not None]
        table[name] = {
            "runs": len(mine), "feasible": len(good),
            "mean_gap_percent": float(gaps.mean()) if len(gaps) else None,
            "quartiles_percent": np.percentile(gaps, (25, 50, 75)).tolist() if len(gaps) else None,
            "worst_gap_percent": float(gaps.max()) if len(gaps) else None,
            "sd_percent": float(np.mean(spread)) if spread else None,
            "cpu_s": float(np.mean([told["cpu_s"] for told in mine])),
            "first_feasible_s": _median([told["first_feasible_s"] for told in mine]),
            "within_1_percent": reached[0.01], "within_5_percent": reached[0.05],
            "equal_cpu_gap_percent": float(np.mean(equal)) if equal else None}
        if name != REFERENCE:
            table[name] |= _against_reference(name, results, lambda told: told["fitness"])
            lower = _against_reference(name, results, at_equal_cpu)
            table[name]["worse_at_equal_cpu_percent"] = lower["worse_than_reference_percent"]
    _holm(table, "p")
    _where_the_reference_loses(table, results)
    for name, volume in hypervolumes(results).items():
        table[name]["hypervolume"] = volume
    return table


def names_of(results) -> list[str]:
    return list(dict.fromkeys(told["planner"] for told in results))


def problem_of(told) -> tuple:
    return told["city"], told["budget"], told["track_points"], told["resolution"]


def best_known(results) -> dict[tuple, float]:
    """Least F by city and track, whatever the number of evaluations."""
    best: dict[tuple, float] = {}
    for told in results:
        if told["feasible"]:
            best[_track(told)] = min(told["fitness"], best.get(_track(told), np.inf))
    return best


def _track(told) -> tuple:
    return told["city"], told["track_points"], told["resolution"]


def gap(told: dict, best: dict[tuple, float]) -> float:
    """% of F above the best known."""
    return 100 * (told["fitness"] / best[_track(told)] - 1)


def _by_problem(results) -> dict[tuple, list[float]]:
    found: dict[tuple, list[float]] = {}
    for told in results:
        found.setdefault(problem_of(told), []).append(told["fitness"])
    return found


def _median(values):
    values = [v for v in values if v is not None]
    return float(np.median(values)) if values else None


def _time_to(results, best, share):
    """Share of the runs that came within a share of the best known, and their median time."""
    times = []
    for told in results:
        goal = best.get(_track(told), -np.inf) * (1 + share)
        times.append(next((t for _, t, f in told["course"] if f is not None and f <= goal), None))
    reached = [t for t in times if t is not None]
    return {"share": len(reached) / max(len(times), 1), "median_cpu_s": _median(times)}


def _against_reference(name: str, results, value: Callable[[dict], float | None]) -> dict:
    """By how many per cent the reference is lower in the mean of the pairs, and p."""
    from scipy.stats import wilcoxon
    values = {(told["planner"], problem_of(told), told["seed"]): f for told in results
              if told["feasible"] and (f := value(told)) is not None}
    pairs = [(f, values[(REFERENCE, *key[1:])]) for key, f in values.items()
             if key[0] == name and (REFERENCE, *key[1:]) in values]
    if len(pairs) < 2:
        return {"worse_than_reference_percent": None, "p": None}
    a, b = np.array(pairs).T
    return {"worse_than_reference_percent": float(100 * (1 - (b / a).mean())),
            "p": float(wilcoxon(np.log(a), np.log(b)).pvalue) if (a != b).any() else None}


def _holm(rows: dict, key: str) -> None:
    """p_holm from p (Holm 1979)."""
    ps = {name: row[key] for name, row in rows.items() if row.get(key) is not None}
    highest = 0.0
    for row in rows.values():
        row["p_holm"] = None
    for rank, name in enumerate(sorted(ps, key=ps.get)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[name]))
        rows[name]["p_holm"] = highest


def _where_the_reference_loses(table, results) -> None:
    """The cities where a planner is better than the reference, by more than WORSE_PERCENT and
    not by chance; tests of all planners and cities corrected together."""
    rows = {}
    for where in _by_problem(results):
        here = [told for told in results if problem_of(told) == where]
        for name in table:
            if name != REFERENCE:
                rows[name, where[0]] = _against_reference(name, here, lambda t: t["fitness"])
    _holm(rows, "p")
    for name in table:
        table[name]["reference_loses_in"] = [
            city for (other, city), row in rows.items() if other == name
            and (row["worse_than_reference_percent"] or 0) < -WORSE_PERCENT
            and row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT]


def hypervolumes(results) -> dict[str, dict]:
    """Of runs with a front, by planner: mean and spread of the hypervolume, and how much more
    the first has, paired, in per cent.

    In each city 0 is the best and 1 the worst of each objective among what no run dominates;
    the reference point is HV_REFERENCE (Zitzler & Thiele 1998).
    """
    from pymoo.indicators.hv import HV

    from parallel_city_ros.planning.front import not_dominated
    volumes: dict[str, dict[tuple, float]] = {}
    for where in _by_problem(results):
        here = {(told["planner"], told["seed"]): np.array(told["front"]) * (-1, 1, 1)
                for told in results if problem_of(told) == where and told.get("front")}
        if not here:
            continue
        every = np.concatenate(list(here.values()))
        every = every[not_dominated(every)]
        low, span = every.min(axis=0), np.maximum(np.ptp(every, axis=0), 1e-12)
        for (name, seed), front in here.items():
            volumes.setdefault(name, {})[where, seed] = float(
                HV(ref_point=np.full(3, HV_REFERENCE))((front - low) / span))
    first = next(iter(volumes.values()), {})
    told = {}
    for name, mine in volumes.items():
        pairs = [(first[k], v) for k, v in mine.items() if k in first and v > 0]
        told[name] = {"mean": float(np.mean(list(mine.values()))),
                      "sd": float(np.std(list(mine.values()))), "runs": len(mine),
                      "first_is_larger_percent":
                          float(100 * np.mean([a / b - 1 for a, b in pairs])) if pairs else None}
    return told


def write(results: Sequence[dict], folder: str | Path) -> tuple[dict, str]:
    """runs.csv, summary.json and summary.md in the folder; the summary, and as Markdown.

    The best known is that of all runs in the folder.
    """
    folder = Path(folder)
    table = summary(results, load(folder).values())
    columns = list(dict.fromkeys(k for told in results for k in told if k not in LONG))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(results)
    write_atomically(folder / "runs.csv", text.getvalue())
    write_atomically(folder / "summary.json", json.dumps(table, indent=1) + "\n")
    told = markdown(table)
    write_atomically(folder / "summary.md", told)
    return table, told


def markdown(table: dict) -> str:
    def say(value, form="{:.1f}"):
        return "–" if value is None else form.format(value)
    lines = ["| planner | feasible | mean gap % | median (quartiles) | worst | sd % | CPU s | "
             "gap at equal CPU % | within 1 % | within 5 % | de_aco is lower by % | "
             "at equal CPU % | p (Holm) | de_aco loses in |",
             "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for name, row in sorted(table.items(), key=lambda item: item[1]["mean_gap_percent"] or 1e9):
        quartiles = row["quartiles_percent"]
        middle = "–" if quartiles is None else "{1:.1f} ({0:.1f}–{2:.1f})".format(*quartiles)
        lines.append(
            f"| `{name}` | {row['feasible']}/{row['runs']} | {say(row['mean_gap_percent'])} | "
            f"{middle} | {say(row['worst_gap_percent'])} | {say(row['sd_percent'], '{:.2f}')} | "
            f"{row['cpu_s']:.1f} | {say(row['equal_cpu_gap_percent'])} | "
            f"{100 * row['within_1_percent']['share']:.0f} % | "
            f"{100 * row['within_5_percent']['share']:.0f} % | "
            f"{say(row.get('worse_than_reference_percent'))} | "
            f"{say(row.get('worse_at_equal_cpu_percent'))} | {say(row['p_holm'], '{:.2g}')} | "
            f"{', '.join(row['reference_loses_in']) or '–'} |")
    fronts = {name: row["hypervolume"] for name, row in table.items() if "hypervolume" in row}
    if fronts:
        lines += ["", f"| front of | runs | hypervolume | sd | {next(iter(fronts))} has more by % "
                  "|", "|---|---|---|---|---|"]
        lines += [f"| `{name}` | {row['runs']} | {row['mean']:.3f} | {row['sd']:.3f} | "
                  f"{say(row['first_is_larger_percent'])} |" for name, row in fronts.items()]
    return "\n".join(lines) + "\n"
