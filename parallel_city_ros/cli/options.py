"""What all commands share: flags from settings, points, progress, one JSON object on stdout."""

from __future__ import annotations

import json
import math
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.files import finite
from parallel_city_ros.settings import Setting, flatten

if TYPE_CHECKING:
    from parallel_city_ros.city.voxels import VoxelGrid
    from parallel_city_ros.city.zones import Zone
    from parallel_city_ros.patrol.task import PatrolTask

json_option = click.option("--json", "as_json", is_flag=True,
                           help="One JSON object on stdout; everything else goes to stderr.")


def _help(setting: Setting) -> str:
    meta = setting.metadata
    words = [setting.description]
    bounds = [f"{sign} {meta[key]:g}" for key, sign in (("above", ">"), ("low", ">="),
                                                        ("high", "<=")) if meta[key] is not None]
    if bounds:
        words.append(", ".join(bounds))
    return f"{'; '.join(words)}.  [default: {setting.default}]"


def settings_flags(config: type, aliases: dict[str, str] | None = None, skip=(), strip: str = ""):
    """Decorator: a flag for every setting of a dataclass. Only those that are given arrive.

    aliases : short flag by the setting's dotted name, put in place of its own
    strip : prefix that the flags leave away
    """
    aliases = aliases or {}

    def decorate(command):
        for setting in reversed(list(flatten(config))):
            if setting.name in skip:
                continue
            flag = aliases.get(setting.name) or Setting(
                setting.name.removeprefix(strip), setting.kind, None, {}).flag
            choices = setting.metadata["choices"]
            kind = click.Choice(list(choices)) if choices else setting.kind
            command = click.option(flag, setting.name.replace(".", "__"), type=kind, default=None,
                                   help=_help(setting))(command)
        return command
    return decorate


def reading_flags(command):
    """Decorator: how city files are read. Take them out of the arguments with `take_reading`."""
    path = click.Path()
    flags = [
        click.option("--terrain", type=path, help="File of the ground alone: raster or LiDAR."),
        click.option("--canopy", type=path, help="File of the trees' heights: a raster."),
        click.option("--assumed-margin", type=click.FloatRange(min=0.0), default=0.0,
                     show_default=True,
                     help="Metres added to the top of buildings whose height is assumed."),
        settings_flags(ReadOptions)]
    for flag in reversed(flags):
        command = flag(command)
    return command


def take_reading(arguments: dict):
    """(read, voxelise) as the flags of `reading_flags` say, which leave the arguments.

    read : files → City; voxelise : (City, resolution in metres) → VoxelGrid
    """
    terrain, canopy = arguments.pop("terrain"), arguments.pop("canopy")
    margin = arguments.pop("assumed_margin")
    reading = ReadOptions(**given({s.name: arguments.pop(s.name) for s in flatten(ReadOptions)}))

    def read(files):
        from parallel_city_ros.city.readers import read_city
        return read_city(files, reading, terrain=terrain, canopy=canopy)

    def voxelise(city, resolution):
        from parallel_city_ros.city import voxels
        return voxels.voxelise(city, resolution, assumed_margin=margin)
    return read, voxelise


def given(arguments: dict) -> dict:
    """The settings among a command's arguments that were given, by dotted name."""
    return {name.replace("__", "."): value for name, value in arguments.items()
            if value is not None}


class Point(click.ParamType):
    """E,N,U in metres of the map frame."""

    name = "E,N,U"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            point = tuple(float(part) for part in value.split(","))
        except ValueError:
            point = ()
        if len(point) != 3 or not all(map(math.isfinite, point)):
            self.fail(f"{value!r} is not three numbers, metres east, north and up in the city's "
                      "own frame, such as 100,300,60", param, ctx)
        return point


class Corners(click.ParamType):
    """E,N;E,N;E,N in metres of the map frame."""

    name = "E,N;..."

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            corners = tuple(tuple(float(part) for part in corner.split(","))
                            for corner in value.split(";"))
        except ValueError:
            corners = ()
        if len(corners) < 3 or any(len(corner) != 2 for corner in corners):
            self.fail(f"{value!r} is not three or more corners, metres east and north, such as "
                      "'0,0;500,0;500,400'", param, ctx)
        return corners


resolution_option = click.option("--resolution", type=float, default=2.0, show_default=True,
                                 help="Edge of a voxel, metres.")
area_option = click.option("--area", type=Corners(), default=(),
                           help="Corners of the polygon in which the ground is worth seeing: "
                                "E,N;E,N;E,N in metres.")


def zones_options(command):
    """--zones and --departure, of `take_zones`."""
    command = click.option(
        "--departure", metavar="TIME",
        help="Of the take-off, ISO 8601 with its time zone, or now: no-fly zones that hold "
             "during the flight are closed, in noise-sensitive ones noise weighs more.")(command)
    return click.option(
        "--zones", type=click.Path(dir_okay=False),
        help="ED-269, GeoJSON or OpenStreetMap file of no-fly and, with --noise-model level, of "
             "noise-sensitive zones; with --departure.")(command)


def take_departure(zones: str | None, departure: str | None) -> datetime | None:
    """Before long work. Raises ConfigError unless both or none of --zones, --departure are given,
    or for a time that is none."""
    from parallel_city_ros.patrol.departure import moment
    if bool(zones) != bool(departure):
        raise ConfigError("--zones and --departure belong together: zones have their times")
    if departure == "now":
        return datetime.now(timezone.utc)
    return moment(departure) if departure else None


def take_zones(zones: str, grid: VoxelGrid, task: PatrolTask) -> list[Zone]:
    """The zones of the file; says so if some of them have no say in the task."""
    from parallel_city_ros.city.zones import ZoneKind, read_zones
    held = read_zones(zones, grid.frame)
    if task.noise_model != "level" and any(z.kind is ZoneKind.NOISE_SENSITIVE for z in held):
        note("the noise-sensitive zones have no say: by altitude noise is the same everywhere; "
             "--noise-model level knows who hears it")
    return held


def print_json(values: dict) -> None:
    click.echo(json.dumps(finite(values), indent=1))


def require_folders(*files: str | None) -> None:
    """Before long work: raises ConfigError for a file that could not be written at its end."""
    for file in files:
        if file and not os.access(Path(file).resolve().parent, os.W_OK):
            raise ConfigError(f"{file}: cannot be written; make its folder, or name another file")


def note(text: str) -> None:
    """A line for the operator, on stderr."""
    click.echo(text, err=True)


def found_so_far(progress) -> str:
    """Beside the bar of a search; progress : of planning.planner"""
    if not progress.feasible:
        return "not feasible yet"
    volume = progress.hypervolume
    return f"F {progress.objectives.fitness:.0f}" + (
        "" if volume is None else f", hypervolume {volume:.4f}")


def progress(description: str, total: float):
    """A progress bar on stderr if that is a terminal; else nothing is drawn.

    A context manager with update(completed, text).
    """
    return _Progress(description, total)


class _Progress:
    def __init__(self, description, total):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
            TextColumn("{task.fields[words]}"), console=console, transient=True,
            disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(description, total=total, words="")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def update(self, completed, words=""):
        self._bar.update(self._task, completed=completed, words=words)
