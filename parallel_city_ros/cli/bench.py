"""`parallel-city bench`: how good the planners are, measured so that it can be believed."""

from __future__ import annotations

import click

from parallel_city_ros.cli import options

SHORT = {"kinds": ("grid", "organic"), "city_seeds": 1, "seeds": 2, "budget": 1000,
         "planners": ("de_aco", "de_aco_paper", "de", "iaco", "igso")}


@click.group()
def bench():
    """Measure the planners against each other and against libraries."""


@bench.command()
@click.option("--planners", default="", help="Names, separated by commas; all by default.")
@click.option("--kinds", default="grid,organic,towers,open", show_default=True,
              help="Kinds of made cities: grid, organic, towers, open, hill.")
@click.option("--city-seeds", type=click.IntRange(1, 50), default=2, show_default=True,
              help="Cities of each kind; none of them was tuned on.")
@click.option("--helsinki", is_flag=True, help="Central Helsinki too.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=10, show_default=True,
              help="Runs of each planner on each city.")
@click.option("--budget", type=click.IntRange(min=50), default=20_000, show_default=True,
              help="Evaluations of a run.")
@click.option("--track-points", type=click.IntRange(4, 1000), default=40, show_default=True)
@click.option("--resolution", type=click.FloatRange(0.2, 20), default=2.0, show_default=True,
              help="Edge of a voxel, metres.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True,
              help="Processes; more than cores spoil the times.")
@click.option("--output", "-o", type=click.Path(file_okay=False), default="bench",
              show_default=True, help="Folder; what it holds already is not run again.")
@click.option("--short", is_flag=True, help="A few small runs, to see that everything works.")
@options.json_option
def planner(planners, kinds, city_seeds, helsinki, seeds, budget, track_points, resolution, jobs,
            output, short, as_json):
    """Compare planners: same start, same evaluations, processor time beside them.

    Writes runs.jsonl, runs.csv, summary.json, summary.md and gaps.png. Broken off, it goes on
    where it was.

    \b
    parallel-city bench planner --helsinki --output doc/bench
    """
    from parallel_city_ros.errors import ConfigError
    from parallel_city_ros.planning import benchmark
    from parallel_city_ros.planning.made_cities import KINDS

    names = _listed(planners) or tuple(benchmark.planners())
    kinds = _listed(kinds)
    if short:
        kinds, city_seeds, seeds, budget = (
            SHORT[k] for k in ("kinds", "city_seeds", "seeds", "budget"))
        names = _listed(planners) or SHORT["planners"]
    for name, known in [(n, benchmark.planners()) for n in names] + [(k, KINDS) for k in kinds]:
        if name not in known:
            raise ConfigError(f"there is no {name!r}; there are {', '.join(known)}")
    places = benchmark.cities(kinds, range(1, city_seeds + 1)) + ["helsinki"] * helsinki
    runs = [benchmark.Run(name, city, seed, budget, track_points, resolution)
            for seed in range(seeds) for city in places for name in names]
    with options.progress("measuring", len(runs)) as bar:
        done = []

        def tell(told):
            done.append(told)
            bar.update(len(done), f"{told['planner']} on {told['city']}")
        results = benchmark.compare(runs, output, jobs, tell)
    text = benchmark.write(results, output)
    if as_json:
        options.print_json({"folder": output, "summary": benchmark.summary(results)})
    else:
        click.echo(text)


def _listed(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())
