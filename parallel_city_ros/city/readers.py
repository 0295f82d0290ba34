"""One reader for every city file, chosen by what the file holds, not by its name."""

from __future__ import annotations

from pathlib import Path

from parallel_city_ros.city.geojson import read_geojson
from parallel_city_ros.city.model import City
from parallel_city_ros.city.osm import is_pbf, is_xml, read_osm, require_file
from parallel_city_ros.city.raster import is_geotiff, read_raster
from parallel_city_ros.city.vector import is_vector, read_vector
from parallel_city_ros.errors import CityFileError

LOOK_BYTES = 1024
PACKED = (b"\x1f\x8b", b"BZh")     # .osm.gz, .osm.bz2: osmium unpacks them


def read_city(path: str | Path) -> City:
    """Read a city from OpenStreetMap (.osm, .osm.pbf), GeoJSON, a vector file or GeoTIFF.

    Raises
    ------
    CityFileError
        If the file is missing, is none of these, is broken, or has no buildings.
    """
    path = require_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(LOOK_BYTES)
    except OSError as error:
        raise CityFileError(f"{path}: cannot be read ({error.strerror})") from error
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"[")):
        return read_geojson(path)
    if is_geotiff(head):
        return read_raster(path)
    if is_vector(path, head):
        return read_vector(path)
    if is_pbf(head) or is_xml(head) or head.startswith(PACKED):
        return read_osm(path)
    raise CityFileError(f"{path}: is neither OpenStreetMap (.osm, .osm.pbf) nor GeoJSON, "
                        "GeoPackage, Shapefile, SQLite, FlatGeobuf or GeoTIFF"
                        + ("" if head else "; it is empty"))
