"""`parallel-city plan --sorties N`: a round that needs several batteries, a plan for each."""

from __future__ import annotations

from pathlib import Path

import click

from parallel_city_ros.cli import options
from parallel_city_ros.planning.sorties import plan_sorties


def plan_all(grid, request, most, output, city_file, cancelled, as_json) -> None:
    """Plan, write PLAN-1.json, PLAN-2.json and so on, and end with the exit code."""
    outcome = plan_sorties(grid, request, most, city_file=city_file, cancelled=cancelled,
                           on_progress=options.note)
    file = Path(output)
    names = [str(file.with_name(f"{file.stem}-{k}{file.suffix}"))
             for k in range(1, len(outcome.plans) + 1)]
    for name, found in zip(names, outcome.plans, strict=True):
        found.save(name)
    if as_json:
        options.print_json({
            "status": outcome.status.value, "message": outcome.message, "plan_files": names,
            "coverage_km2": outcome.coverage_km2,
            "plans": [found.to_dict() for found in outcome.plans]})
    elif outcome.plans:
        click.echo(f"{outcome.status.value}: {outcome.message}; together they see "
                   f"{outcome.coverage_km2:.4f} km²")
        for name, found in zip(names, outcome.plans, strict=True):
            seconds = next(c for c in found.certificate.checks if c.constraint == "duration")
            click.echo(f"{name}: {found.length_m:.0f} m, {seconds.value:.0f} s of the "
                       f"{seconds.bound:.0f} s that the battery lasts")
    else:
        options.note(f"{outcome.status.value}: {outcome.message}")
    raise SystemExit(0 if outcome.plans else 1)
