"""`parallel-city city`: what a city file holds."""

from __future__ import annotations

import click

from parallel_city_ros.cli import options


@click.group()
def city():
    """The artificial city: look at a city file."""


@city.command()
@click.argument("file", type=click.Path())
@click.option("--resolution", default=2.0, show_default=True, help="Edge of a voxel, metres.")
@options.json_option
def info(file, resolution, as_json):
    """What a city FILE (.osm, .osm.pbf, GeoJSON) holds, and what is only assumed."""
    from parallel_city_ros.city.readers import read_city
    from parallel_city_ros.city.voxels import voxelise
    found = read_city(file)
    grid = voxelise(found, resolution)
    frame, heights = found.frame, found.height_sources
    if as_json:
        options.print_json({
            "file": str(file), "buildings": found.n_buildings, "parts": found.n_parts,
            "skipped": found.n_skipped, "heights": heights,
            "built_area_m2": found.built_area_by_source(),
            "assumed_height_m": found.assumed_height_m, "extent_m": found.extent,
            "origin": {"latitude_deg": frame.latitude_deg, "longitude_deg": frame.longitude_deg,
                       "altitude_m": frame.altitude_m},
            "resolution_m": resolution, "shape": grid.shape, "map_hash": grid.map_hash,
            "crs": frame.proj, "attribution": found.attribution})
        return
    east, north = found.extent[2] - found.extent[0], found.extent[3] - found.extent[1]
    click.echo(f"{file}: {found.n_buildings} buildings, {found.n_parts} parts, "
               f"{east:.0f} x {north:.0f} m")
    click.echo(f"heights: {heights['measured']} measured, {heights['levels']} from levels, "
               f"{heights['assumed']} assumed ({found.assumed_height_m:g} m)")
    nx, ny, nz = grid.shape
    click.echo(f"twin: {nx} x {ny} x {nz} voxels of {resolution:g} m, hash {grid.map_hash}")
    click.echo(f"origin: {frame.latitude_deg:.7f}, {frame.longitude_deg:.7f} (WGS84)")
    if found.attribution:
        click.echo(found.attribution)
