"""The command `parallel-city`."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib import import_module

import click

from parallel_city_ros import __version__
from parallel_city_ros.errors import ParallelCityError

# In the order of --help; each module is imported only when its command runs.
COMMANDS = {
    "demo": "The whole loop once: plan, fly, learn, plan again, fly again.",
    "doctor": "Check the environment; say what is missing and how to get it.",
    "city": "The artificial city: look at city files, draw, merge and export them.",
    "plan": "Plan and certify a patrol over a city file.",
    "plan-fleet": "Plan patrols of several drones that keep apart, and their mission.",
    "bench": "Measure the planners against each other and against libraries.",
    "fly": "Fly a plan, or a fleet's, with simulated or real PX4 drones.",
    "sim": "Simulated PX4 drones for QGroundControl and other tools.",
    "replay": "What happened in a flight, from its log.",
}


class _Commands(click.Group):
    """Imports a command when it is called, and turns our errors into exit code 2."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        name = name.replace("-", "_")
        return getattr(import_module(f"parallel_city_ros.cli.{name}"), name)

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx, args):
        with _told_as_json(click.UsageError):
            return super().parse_args(ctx, args)

    def invoke(self, ctx):
        try:
            with _told_as_json(ParallelCityError, click.UsageError):
                return super().invoke(ctx)
        except ParallelCityError as error:
            click.echo(f"parallel-city: {error}", err=True)
            ctx.exit(2)
        except (KeyboardInterrupt, ImportError) as error:
            # An extension module makes an ImportError of what interrupts its import, and whoever
            # imports that may make another.
            cause = error
            while not isinstance(cause, KeyboardInterrupt):
                cause = cause.__cause__ or cause.__context__
                if cause is None:
                    raise
            click.echo("parallel-city: interrupted", err=True)
            ctx.exit(130)


@contextmanager
def _told_as_json(*kinds):
    """Errors of those kinds on stdout too, where one JSON object is expected there."""
    try:
        yield
    except kinds as error:
        if "--json" in sys.argv:
            from parallel_city_ros.cli.options import print_json
            print_json({"error": error.format_message() if isinstance(
                error, click.UsageError) else str(error)})
        raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Drones that patrol a city: its digital twin, routes over it, flight, feedback."""


if __name__ == "__main__":
    main()
