"""`parallel-city city`: what city files hold, how it looks, and the twin for other tools."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import click

from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.cli import options
from parallel_city_ros.errors import CityFileError, ConfigError, ParallelCityError
from parallel_city_ros.settings import flatten

SETTINGS = tuple(flatten(ReadOptions))      # how files are read: flags of every command
ENDINGS = ".sdf, .ply, .glb, .bt, .geojson, .png"


@dataclass(frozen=True)
class Inputs:
    """What the commands are given: city files, and how they are read."""

    files: tuple[str, ...]
    terrain: str | None
    canopy: str | None
    options: ReadOptions
    resolution: float
    assumed_margin: float

    def read(self):
        from parallel_city_ros.city.readers import read_city
        return read_city(self.files, self.options, terrain=self.terrain, canopy=self.canopy)

    def voxelise(self, city):
        from parallel_city_ros.city.voxels import voxelise
        return voxelise(city, self.resolution, assumed_margin=self.assumed_margin)


def city_inputs(command):
    """Decorator: FILES and every flag that says how they are read; they arrive as `inputs`."""
    @functools.wraps(command)
    def called(files, terrain, canopy, resolution, assumed_margin, **others):
        given = {s.name: value for s in SETTINGS if (value := others.pop(s.name)) is not None}
        return command(inputs=Inputs(files, terrain, canopy, ReadOptions(**given), resolution,
                                     assumed_margin), **others)
    file = click.Path()
    flags = [
        click.argument("files", nargs=-1, required=True, type=file),
        click.option("--terrain", type=file, help="File of the ground alone: raster or LiDAR."),
        click.option("--canopy", type=file, help="File of the trees' heights: a raster."),
        *(click.option(s.flag, s.name, type=s.kind, default=None,
                       help=s.description[0].upper() + s.description[1:] + ".")
          for s in SETTINGS),
        options.resolution_option,
        click.option("--assumed-margin", type=click.FloatRange(min=0.0), default=0.0,
                     show_default=True,
                     help="Metres added to the top of buildings whose height is assumed."),
        options.json_option]
    for flag in reversed(flags):
        called = flag(called)
    return called


def output_option(endings: str):
    return click.option("--output", "-o", required=True, type=click.Path(dir_okay=False),
                        help=f"What is written; its ending says what: {endings}.")


@click.group()
def city():
    """The artificial city: look at city files, draw them, make one of several, export them.

    What a file holds counts, not its name; doc/cities.md lists what is read. Several FILES are
    read into the frame of the first and become one city.
    """


# --- info -------------------------------------------------------------------------------------


@city.command()
@city_inputs
def info(inputs, as_json):
    """What city FILES hold, what of it is only assumed, and the twin that they make.

    \b
    parallel-city city info buildings.gpkg --terrain dem.tif --canopy trees.tif
    parallel-city city info tile.laz --crs EPSG:7415
    """
    found = inputs.read()
    grid = inputs.voxelise(found)
    told = describe(found, grid) | {"files": list(inputs.files)}
    if as_json:
        options.print_json(told)
        return
    heights = found.height_sources
    click.echo(f"{', '.join(inputs.files)}: {_holds(told)}, {_size(told['extent_m'])} m")
    click.echo(f"heights: {heights['measured']} measured, {heights['levels']} from levels, "
               f"{heights['assumed']} assumed ({found.assumed_height_m:g} m)"
               + (f"; {found.n_skipped} skipped" if found.n_skipped else ""))
    click.echo(f"ground: {told['ground']}")
    nx, ny, nz = grid.shape
    click.echo(f"twin: {nx} x {ny} x {nz} voxels of {grid.resolution:g} m, "
               f"{told['occupied_voxels']:,} occupied, {grid.nbytes / 1e6:.1f} MB, "
               f"hash {grid.map_hash}")
    frame = found.frame
    click.echo(f"origin: {frame.latitude_deg:.7f}, {frame.longitude_deg:.7f} (WGS84), "
               f"z = 0 at {frame.altitude_m:g} m; vertical datum "
               + (found.vertical_datum or "not named"))
    click.echo(f"reference system: {found.crs}")
    for words in found.notes:
        click.echo(f"note: {words}")
    if found.attribution:
        click.echo(found.attribution)


def describe(city, grid) -> dict:
    """All that can be said about a city and its twin, for JSON."""
    frame = city.frame
    return {
        "name": city.name, "buildings": city.n_buildings, "parts": city.n_parts,
        "skipped": city.n_skipped, "prisms": len(city.buildings), "solids": len(city.solids),
        "solids_not_closed": sum(not s.closed for s in city.solids),
        "surfaces": [{"kind": s.kind, "shape": s.heights.shape, "cell_m": s.cell}
                     for s in city.surfaces],
        "boxes": sum(len(b.lower) for b in city.boxes),
        "heights": city.height_sources, "built_area_m2": city.built_area_by_source(),
        "assumed_height_m": city.assumed_height_m, "extent_m": city.extent,
        "crs": city.crs, "frame": frame.proj, "vertical_datum": city.vertical_datum,
        "origin": {"latitude_deg": frame.latitude_deg, "longitude_deg": frame.longitude_deg,
                   "altitude_m": frame.altitude_m},
        "ground": _ground(city, grid), "resolution_m": grid.resolution, "shape": grid.shape,
        "occupied_voxels": len(grid.voxels()), "memory_bytes": grid.nbytes,
        "map_hash": grid.map_hash, "notes": list(city.notes), "attribution": city.attribution}


def _ground(city, grid) -> str:
    heights = grid.terrain.heights
    if grid.terrain.is_flat:
        return f"flat at z = {float(heights[0, 0]):g} m"
    reach = f"z from {heights.min():.1f} to {heights.max():.1f} m"
    if city.terrain is not None:
        a, b = city.terrain.heights.shape
        return f"terrain of {a} x {b} cells of {city.terrain.cell:g} m, {reach}"
    known = sum(thing.ground_z is not None for thing in (*city.buildings, *city.solids))
    return f"between what {known} buildings stand on, {reach}"


def _holds(told: dict) -> str:
    """Counts in words."""
    words = [f"{told['buildings']} buildings"] if told["buildings"] else []
    words += [f"{told['parts']} parts"] if told["parts"] else []
    words += [f"{told['solids']} bodies" + (
        f" ({told['solids_not_closed']} not closed)" if told["solids_not_closed"] else "")
              ] if told["solids"] else []
    words += [f"a raster of {s['kind']} heights" for s in told["surfaces"]]
    words += [f"{told['boxes']} boxes and points"] if told["boxes"] else []
    return ", ".join(words) or "nothing that stands"


def _size(extent) -> str:
    return f"{extent[2] - extent[0]:.0f} x {extent[3] - extent[1]:.0f}"


# --- preview, export, merge -------------------------------------------------------------------


@city.command()
@city_inputs
@click.option("--zones", type=click.Path(),
              help="ED-269, GeoJSON or OpenStreetMap file of zones to draw.")
@output_option(".png")
def preview(inputs, zones, output, as_json):
    """A picture of the city from above: heights, and how well they are known.

    \b
    parallel-city city preview CITY.osm.pbf -o city.png
    """
    from parallel_city_ros.city.export import ending_of
    ending_of(output, (".png",))
    options.require_folders(output)
    found = inputs.read()
    holding = ()
    if zones:
        from parallel_city_ros.city.zones import read_zones
        holding = read_zones(zones, found.frame)
    _draw(inputs, found, output, holding)
    _tell_written([output], {}, (), as_json)


@city.command()
@city_inputs
@output_option(ENDINGS)
def export(inputs, output, as_json):
    """The city for other tools; the ending of OUTPUT says for which.

    \b
    .sdf      Gazebo world: prisms, or the voxels as boxes on the ground
    .ply .glb mesh of the voxels' outer faces
    .bt       OctoMap of the occupied voxels
    .geojson  outlines with heights and their sources
    .png      preview
    \b
    parallel-city city export CITY.osm.pbf -o city.sdf
    """
    from parallel_city_ros.city.export import FORMATS, ending_of
    ending = ending_of(output, (*FORMATS, ".png"))
    options.require_folders(output)
    found = inputs.read()
    if ending == ".png":
        _draw(inputs, found, output)
        _tell_written([output], {}, (), as_json)
        return
    written, _ = _write(inputs, found, output, ending)
    _tell_written(written.files, written.counts, written.lost, as_json)


@city.command()
@city_inputs
@output_option(".geojson, .ply, .glb, .bt")
def merge(inputs, output, as_json):
    """Several FILES as one that can be read again, and what got lost on the way.

    What was written is read back: if it lacks voxels, that is said and ends with code 1.

    \b
    parallel-city city merge buildings.gpkg tile.laz --crs EPSG:7415 -o city.geojson
    """
    from parallel_city_ros.city.export import READABLE, difference, ending_of
    from parallel_city_ros.city.gazebo import is_plain
    from parallel_city_ros.city.readers import read_city
    ending = ending_of(output, READABLE)
    options.require_folders(output)
    found = inputs.read()
    written, grid = _write(inputs, found, output, ending)
    if grid is None and is_plain(found):    # prisms must stand where they stood, too
        grid = inputs.voxelise(found)
    frame = found.frame
    origin = f"{frame.latitude_deg!r},{frame.longitude_deg!r},{frame.altitude_m!r}"
    again = read_city(output, ReadOptions(origin=origin))
    told = {"buildings": again.n_buildings, "prisms": len(again.buildings)}
    if grid is not None:
        missing, more = difference(grid, inputs.voxelise(again))
        told |= {"voxels_missing": missing, "voxels_more": more}
    _tell_written(written.files, written.counts, written.lost, as_json, read_back=told)
    if told.get("voxels_missing"):
        options.note(f"{output}: read back, it is not complete")
        raise SystemExit(1)


def _write(inputs, found, output, ending):
    """What was written, and the grid if that was made of voxels."""
    from parallel_city_ros.city.export import export as write
    from parallel_city_ros.city.export import takes_voxels
    grid = inputs.voxelise(found) if takes_voxels(found, ending) else None
    return write(found, grid, output), grid


def _draw(inputs, found, output, zones=()):
    from parallel_city_ros.city.export import writing
    from parallel_city_ros.viz.preview import draw_preview
    with writing(output):
        draw_preview(output, found, inputs.voxelise(found), zones)


def _tell_written(files, counts, lost, as_json, **more):
    files = [str(f) for f in files]
    if as_json:
        options.print_json({"files": files, "counts": counts, "lost": list(lost)} | more)
        return
    words = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    click.echo(f"written: {', '.join(files)}" + (f" ({words})" if words else ""))
    for what, values in more.items():
        click.echo(f"{what.replace('_', ' ')}: " + ", ".join(
            f"{value:,} {name.replace('_', ' ')}" for name, value in values.items()))
    for text in lost:
        options.note(f"not in it: {text}")


# --- table ------------------------------------------------------------------------------------


def _settings_by_file(command):
    for s in reversed(SETTINGS):
        command = click.option(s.flag, s.name, multiple=True, metavar="NAME=VALUE",
                               help=f"Of the file NAME: {s.description}.")(command)
    return command


@city.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@_settings_by_file
@options.resolution_option
@options.json_option
def table(folder, resolution, as_json, **settings):
    """A Markdown table of the city files in FOLDER, each read by itself.

    \b
    parallel-city city table maps --crs tile.laz=EPSG:7415 --kind dsm.tif=tree
    """
    from parallel_city_ros.city.readers import reader_of
    files = [p for p in sorted(Path(folder).iterdir(), key=lambda p: p.name.lower())
             if p.is_file() and not p.name.startswith(".")]
    chosen = _by_file(settings, {p.name for p in files})
    rows = []
    for path in files:
        try:
            reader_of(path)
        except CityFileError as error:
            options.note(f"left out: {str(error).removeprefix(f'{path}: ')[:60]}... ({path.name})")
            continue
        rows.append(_row(path, chosen.get(path.name, {}), resolution, str(Path(folder))))
    if not rows:
        raise CityFileError(f"{folder}: holds no city files")
    if as_json:
        options.print_json({"files": rows})
    else:
        click.echo("\n".join(_markdown(rows, resolution)))
    raise SystemExit(1 if any("error" in row for row in rows) else 0)


def _by_file(settings, names) -> dict[str, dict[str, str]]:
    """{'tile.laz': {'crs': 'EPSG:7415'}} from what was given as NAME=VALUE."""
    chosen: dict[str, dict[str, str]] = {}
    for setting in SETTINGS:
        for text in settings[setting.name]:
            name, equals, value = text.partition("=")
            if not equals or name not in names:
                raise ConfigError(f"{setting.flag} {text!r} is not NAME=VALUE with the name of a "
                                  f"file in the folder: {', '.join(sorted(names))}")
            chosen.setdefault(name, {})[setting.name] = value
    return chosen


def _row(path, settings, resolution, folder) -> dict:
    from parallel_city_ros.city.readers import read_city
    from parallel_city_ros.city.voxels import voxelise
    row = {"file": path.name, "settings": settings}
    try:
        found = read_city(path, ReadOptions(**settings))
        return row | describe(found, voxelise(found, resolution))
    except ParallelCityError as error:
        return row | {"error": str(error).replace(f"{folder}/", "")}


def _markdown(rows, resolution) -> list[str]:
    lines = [f"| file | holds | measured / storeys / assumed | east x north, m | reference system "
             f"| ground | occupied voxels of {resolution:g} m |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['file']} | not read: {_cell(row['error'])} | | | | | |")
            continue
        heights = row["heights"]
        system = row["crs"] + (f", {row['vertical_datum']}" if row["vertical_datum"] else "")
        cells = (row["file"], _holds(row),
                 f"{heights['measured']} / {heights['levels']} / {heights['assumed']}",
                 _size(row["extent_m"]), system, row["ground"], f"{row['occupied_voxels']:,}")
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    told = [f"- {row['file']}: {'; '.join(words)}" for row in rows
            if (words := [*(f"read with {k} {v}" for k, v in row["settings"].items()),
                          *row.get("notes", ())])]
    return [*lines, "", *told] if told else lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
