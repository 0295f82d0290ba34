"""The command `parallel-city`."""

from __future__ import annotations

import json
import sys

import click

from parallel_city_ros import __version__
from parallel_city_ros.errors import ParallelCityError


class _Group(click.Group):
    """Turns our errors into one line on stderr and exit code 2, as bad usage does."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except ParallelCityError as error:
            click.echo(f"parallel-city: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Drones that patrol a city: its digital twin, routes over it, flight, feedback."""


@main.group()
def city():
    """The artificial city: look at a city file."""


@city.command()
@click.argument("file", type=click.Path())
@click.option("--resolution", default=2.0, show_default=True, help="Edge of a voxel, metres.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def info(file, resolution, as_json):
    """What an OpenStreetMap FILE (.osm, .osm.pbf) holds, and what is only assumed."""
    from parallel_city_ros.city.osm import read_osm
    from parallel_city_ros.city.voxels import voxelise
    found = read_osm(file)
    grid = voxelise(found, resolution)
    east, north = found.extent[2] - found.extent[0], found.extent[3] - found.extent[1]
    if as_json:
        json.dump({
            "file": str(file), "buildings": found.n_buildings, "parts": found.n_parts,
            "skipped": found.n_skipped, "heights": found.height_sources,
            "built_area_m2": found.built_area_by_source(),
            "assumed_height_m": found.assumed_height_m, "extent_m": found.extent,
            "origin": {"latitude_deg": found.frame.latitude_deg,
                       "longitude_deg": found.frame.longitude_deg,
                       "altitude_m": found.frame.altitude_m},
            "resolution_m": resolution, "shape": grid.occupied.shape,
            "map_hash": grid.map_hash,
            "crs": found.frame.proj, "attribution": found.attribution,
        }, sys.stdout)
        click.echo()
        return
    heights = found.height_sources
    click.echo(f"{file}: {found.n_buildings} buildings, {found.n_parts} parts, "
               f"{east:.0f} x {north:.0f} m")
    click.echo(f"heights: {heights['measured']} measured, {heights['levels']} from levels, "
               f"{heights['assumed']} assumed ({found.assumed_height_m:g} m)")
    nx, ny, nz = grid.occupied.shape
    click.echo(f"twin: {nx} x {ny} x {nz} voxels of {resolution:g} m, hash {grid.map_hash}")
    click.echo(f"origin: {found.frame.latitude_deg:.7f}, {found.frame.longitude_deg:.7f} (WGS84)")
    click.echo(found.attribution)
