"""`parallel-city bench`: how good the planners are, measured so that it can be believed."""

from __future__ import annotations

from pathlib import Path

import click

from parallel_city_ros.cli import options

BACKENDS = ("loky", "dask")
SHORT = {"kinds": ("grid", "organic"), "city_seeds": 1, "seeds": 2, "budget": 600,
         "planners": ("de_aco", "de_aco_paper", "de", "iaco", "igso")}
SHORT_PAPER = {"seeds": 2, "budget": 600}


@click.group()
def bench():
    """Measure the planners against each other, against libraries and against the paper."""


def _running(command):
    """Decorator: how the runs of a comparison are done."""
    flags = [
        click.option("--budget", type=click.IntRange(min=50), default=20_000, show_default=True,
                     help="Evaluations of a run."),
        click.option("--track-points", type=click.IntRange(4, 1000), default=40,
                     show_default=True),
        click.option("--resolution", type=click.FloatRange(0.2, 20), default=2.0,
                     show_default=True, help="Edge of a voxel, metres."),
        click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True,
                     help="Processes on this machine; more than cores spoil the times."),
        click.option("--backend", type=click.Choice(BACKENDS), default="loky",
                     show_default=True, help="Of joblib; dask needs dask[distributed]."),
        click.option("--scheduler", help="Address of a running Dask scheduler, such as "
                     "tcp://10.0.0.1:8786; without it dask starts processes here."),
        click.option("--short", is_flag=True,
                     help="A few small runs, to see that everything works.")]
    for flag in reversed(flags):
        command = flag(command)
    return command


@bench.command()
@click.option("--planners", default="", help="Names, separated by commas; all by default.")
@click.option("--front", is_flag=True, help="Compare the Pareto fronts of nsga2 and of pymoo's "
              "NSGA-II on raw track points, unless --planners names others.")
@click.option("--kinds", default="grid,organic,towers,open", show_default=True,
              help="Kinds of made cities: grid, organic, towers, open, hill.")
@click.option("--city-seeds", type=click.IntRange(1, 50), default=2, show_default=True,
              help="Cities of each kind; none of them was tuned on.")
@click.option("--helsinki", is_flag=True, help="Central Helsinki too.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=10, show_default=True,
              help="Runs of each planner on each city.")
@click.option("--output", "-o", type=click.Path(file_okay=False), default="bench",
              show_default=True, help="Folder; what it holds already is not run again.")
@_running
@options.json_option
def planner(planners, front, kinds, city_seeds, helsinki, seeds, output, short, as_json,
            **running):
    """Compare planners: same start, same evaluations, processor time beside them.

    Writes runs.jsonl, runs.csv, summary.json, summary.md and gaps.png. Broken off, it goes on
    where it was. The best known F is the least in the folder, whatever --budget it took.

    \b
    parallel-city bench planner --helsinki --output doc/bench
    parallel-city bench planner --front
    """
    from parallel_city_ros.errors import ConfigError
    from parallel_city_ros.planning import benchmark, standings
    from parallel_city_ros.planning.made_cities import KINDS

    if short:
        kinds, city_seeds, seeds, running["budget"] = (
            ",".join(SHORT["kinds"]), SHORT["city_seeds"], SHORT["seeds"], SHORT["budget"])
    known = benchmark.entrants()
    names = _listed(planners) or (benchmark.FRONTS if front else SHORT["planners"] if short
                                  else tuple(known))
    kinds = _listed(kinds)
    for name, there in [(n, known) for n in names] + [(k, KINDS) for k in kinds]:
        if name not in there:
            raise ConfigError(f"there is no {name!r}; there are {', '.join(there)}")
    places = benchmark.cities(kinds, range(1, city_seeds + 1)) + ["helsinki"] * helsinki
    results = _run(names, places, seeds, output, **running)
    summary, text = standings.write(results, output)
    from parallel_city_ros.viz.comparison import draw_gaps
    draw_gaps(results, benchmark.load(output).values(), Path(output) / "gaps.png")
    if as_json:
        options.print_json({"folder": output, "summary": summary})
    else:
        click.echo(text)


@bench.command()
@click.option("--seeds", type=click.IntRange(1, 1000), default=30, show_default=True,
              help="Runs of each algorithm in each setting; the paper made 30.")
@click.option("--settings", default="", help="paper-conflict, paper-calm, paper-letter, "
              "separated by commas; all by default.")
@click.option("--output", "-o", type=click.Path(file_okay=False), default="bench-paper",
              show_default=True, help="Folder; what it holds already is not run again.")
@_running
@options.json_option
def paper(seeds, settings, output, short, as_json, **running):
    """The paper's experiment: its four algorithms, Tables 2 and 3, Figs 5 to 8.

    Writes runs.jsonl, runs.csv, tables.md and the figures. Broken off, it goes on where it was.

    \b
    parallel-city bench paper --settings paper-calm
    """
    from parallel_city_ros.errors import ConfigError
    from parallel_city_ros.files import write_atomically
    from parallel_city_ros.planning import paper_setting, standings

    if short:
        seeds, running["budget"] = SHORT_PAPER["seeds"], SHORT_PAPER["budget"]
    places = _listed(settings) or tuple(paper_setting.SETTINGS)
    for place in places:
        if place not in paper_setting.SETTINGS:
            raise ConfigError(f"there is no setting {place!r}; there are "
                              f"{', '.join(paper_setting.SETTINGS)}")
    results = _run(paper_setting.ALGORITHMS, places, seeds, output, **running)
    standings.write(results, output)
    text = paper_setting.tables(results)
    write_atomically(Path(output) / "tables.md", text)
    from parallel_city_ros.viz.comparison import draw_paper_figures
    figures = draw_paper_figures(results, output)
    if as_json:
        options.print_json({"folder": output, "tables": text, "figures": list(map(str, figures))})
    else:
        click.echo(text)


def _run(names, places, seeds, output, budget, track_points, resolution, jobs, backend,
         scheduler):
    """Results of every planner on every city with every seed."""
    from parallel_city_ros.planning import benchmark
    runs = [benchmark.Run(name, city, seed, budget, track_points, resolution)
            for seed in range(seeds) for city in places for name in names]
    with options.progress("measuring", len(runs)) as bar:
        done = []

        def tell(told):
            done.append(told)
            bar.update(len(done), f"{told['planner']} on {told['city']}")
        return benchmark.compare(runs, output, jobs, backend, scheduler, tell)


def _listed(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())
