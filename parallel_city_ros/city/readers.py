"""One entrance for every city file, chosen by what the file holds, not by its name."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parallel_city_ros.city.combine import combine, moved, together
from parallel_city_ros.city.lidar import Roof
from parallel_city_ros.city.local import LOCAL
from parallel_city_ros.city.model import City
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.packed import (
    BZIP2,
    GZIP,
    LOOK_BYTES,
    head_of_packed,
    open_unpacked,
)
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

LOOK_BYTES_XML = 1 << 20        # licences stand before the first element
KNOWN = ("neither OpenStreetMap (.osm, .osm.pbf) nor GeoJSON, CityJSON, CityJSONSeq, CityGML, "
         "GeoPackage, Shapefile, SQLite, FlatGeobuf, GeoTIFF, an ESRI ASCII grid, LiDAR (LAS, "
         "LAZ), a mesh (PLY, OBJ, STL, glTF, OFF), a point cloud (PCD, PLY, XYZ) or OctoMap "
         "(.bt, .ot)")
PARTS_OF_SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg", ".sbn", ".sbx", ".qix")
OSM_ROOTS = ("osm", "osmChange")
OTHER_XML = {"html": "it is a web page, download the file again",
             "collada": "convert it to OBJ or glTF", "x3d": "convert it to OBJ or glTF"}
ZIP = b"PK\x03\x04"

Reader = Callable[[Path, ReadOptions, LocalFrame | None], City]


def read_city(paths: str | Path | Sequence[str | Path], options: ReadOptions = UNTOLD,
              frame: LocalFrame | None = None, terrain: str | Path | None = None,
              canopy: str | Path | None = None) -> City:
    """Read a city from one file or from several that complete each other.

    What a file says itself counts; options are for what it does not say. So options.crs is the
    reference system of those files that name none, and no other's.

    Several files are read into the frame of the first, and combined (see `combine`): LiDAR gives
    the other files' buildings their heights where they were assumed or made of storeys.

    Parameters
    ----------
    frame : frame to read into; None: made from the first file
    terrain : file of the ground alone, whatever the others say of it
    canopy : file of the trees' heights

    Raises
    ------
    CityFileError
        If a file is missing, of no kind that is read, broken or empty, or does not fit the
        others.
    ConfigError
        If an option is none.
    """
    paths = [Path(p) for p in ([paths] if isinstance(paths, str | Path) else paths)]
    if not paths:
        raise CityFileError("no city file is given; give at least one")
    sources = [_Source(path, reader_of(path), options) for path in paths]
    if terrain is not None:
        sources.append(_Source.of(terrain, replace(options, kind="terrain")))
    if canopy is not None:
        sources.append(_Source.of(canopy, replace(options, kind="tree")))
    if len(sources) == 1:
        return combine([sources[0].read(frame)])
    if frame is None and sources[0].is_lidar:
        from parallel_city_ros.city.lidar import frame_of
        frame = frame_of(paths[0], options)

    cities: dict[int, City] = {}        # by their place among the sources
    for k, source in enumerate(sources):
        if not source.is_lidar:         # which is read when the others' buildings are known
            cities[k] = source.read(frame)
            frame = frame or _frame_for_others(sources, cities[k])
    buildings, _ = together(list(cities.values()))
    roofs: dict[str, Roof] = {}
    for k, source in enumerate(sources):
        if source.is_lidar:
            cities[k], seen = source.survey(frame, buildings)
            for name, roof in seen.items():     # one at the edge of two files is in both
                if name not in roofs or roof.points > roofs[name].points:
                    roofs[name] = roof
    if terrain is not None:
        k = len(paths)
        if cities[k].terrain is None:
            raise CityFileError(f"{terrain}: holds no terrain; give a raster or LiDAR of the "
                                "ground's height")
        alone = replace(cities[k], buildings=(), solids=(), surfaces=(), boxes=())
        cities = {j: alone if j == k else replace(c, terrain=None) for j, c in cities.items()}
    return combine([_naming_itself(cities[k]) for k in range(len(sources))], roofs)


def _naming_itself(city: City) -> City:
    """With the file's name before each of its notes."""
    return replace(city, notes=tuple(f"{city.name}: {note}" for note in city.notes))


@dataclass(frozen=True)
class _Source:
    """A file, how it is read, and what it does not say itself."""

    path: Path
    reader: Reader
    options: ReadOptions

    @classmethod
    def of(cls, path, options) -> _Source:
        return cls(Path(path), reader_of(path), options)

    @property
    def is_lidar(self) -> bool:
        return self.reader is _lidar

    def read(self, frame: LocalFrame | None) -> City:
        return self.reader(self.path, self.options, frame)

    def survey(self, frame, buildings) -> tuple[City, dict[str, Roof]]:
        from parallel_city_ros.city.lidar import survey
        return survey(self.path, self.options, frame, buildings)


def _frame_for_others(sources: list[_Source], first: City) -> LocalFrame:
    """The frame of the first file, unless that is nowhere and another is somewhere."""
    if first.crs == LOCAL:
        for other in sources[1:]:
            if other.is_lidar or other.read(None).crs != LOCAL:
                raise CityFileError(
                    f"{sources[0].path}: has local metres and {other.path.name} a place on earth; "
                    "say where the zero of the first is with --origin, or name the other first, "
                    "if the metres are of its map frame")
    return first.frame


def reader_of(path: str | Path) -> Reader:
    """The reader of a file, by its content.

    Raises
    ------
    CityFileError
        If the file is missing, a folder, empty, or of no kind that is read.
    """
    path = Path(path)
    head = _head(path)
    reader = _binary(path, head) or _json(path, head) or _text(path, head)
    if reader is None:
        raise CityFileError(f"{path}: is {KNOWN}{_hint(path, head)}")
    return reader


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise CityFileError(f"{path}: is a folder; give the files in it")
    try:
        with open(path, "rb") as file:
            return file.read(LOOK_BYTES)
    except FileNotFoundError as error:
        raise CityFileError(f"{path}: no such file; give a city file, such as OpenStreetMap "
                            "(.osm, .osm.pbf), GeoJSON or CityJSON") from error
    except (OSError, ValueError) as error:
        raise CityFileError(f"{path}: cannot be read ({error}); check its name and that you may "
                            "read it") from error


def _hint(path: Path, head: bytes) -> str:
    if not head:
        return "; it is empty"
    if path.suffix.lower() in PARTS_OF_SHAPEFILE and path.with_suffix(".shp").exists():
        return f"; give {path.with_suffix('.shp').name}, of which it is a part"
    if head.startswith((GZIP, BZIP2, ZIP)):
        return "; unpack it first"
    return ""


def _binary(path: Path, head: bytes) -> Reader | None:
    from parallel_city_ros.city.las import is_lidar
    from parallel_city_ros.city.octomap import is_octomap
    from parallel_city_ros.city.osm import is_pbf
    from parallel_city_ros.city.raster import is_raster
    from parallel_city_ros.city.vector import is_vector

    for holds, reader in ((is_raster(head), _raster), (is_lidar(head), _lidar),
                          (is_octomap(head), _octomap), (is_vector(path, head), _vector),
                          (is_pbf(head), _osm)):
        if holds:
            return reader
    return None


def _json(path: Path, head: bytes) -> Reader | None:
    from parallel_city_ros.city.cityjson import is_cityjson
    from parallel_city_ros.city.mesh_files import mesh_format

    if is_cityjson(head):       # gzipped too
        return _cityjson
    # RFC 8142 begins each text with a record separator
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x1e").startswith((b"{", b"[")):
        return None
    if mesh_format(path, head) == "gltf":
        return _mesh
    if b'"Feature' in head:
        return _geojson
    try:        # what tells may stand further on
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
        if isinstance(document, dict):
            return _cityjson if document.get("type") == "CityJSON" else \
                _mesh if "asset" in document else _geojson
    except (OSError, ValueError, RecursionError):
        pass
    return _geojson             # which says what is wrong


def _text(path: Path, head: bytes) -> Reader | None:
    from parallel_city_ros.city.citygml import is_citygml
    from parallel_city_ros.city.mesh_files import cloud_format, mesh_format
    from parallel_city_ros.city.osm import is_pbf, is_xml

    unpacked = head_of_packed(path, head)
    if is_citygml(head):        # of UTF-16 too
        return _citygml
    if is_xml(unpacked):
        return _xml(path)
    for holds, reader in ((is_pbf(unpacked), _osm), (mesh_format(path, head), _mesh),
                          (cloud_format(path, head), _cloud)):
        if holds:
            return reader
    return None


def _xml(path: Path) -> Reader:
    """By the first element, however long the comments before it."""
    from parallel_city_ros.city.citygml import from_root, is_citygml

    try:
        with open_unpacked(path) as file:
            text = from_root(file.read(LOOK_BYTES_XML))[:LOOK_BYTES]
    except (OSError, EOFError, zlib.error):
        return _osm             # packed, and cut off: it says so
    if is_citygml(text):
        return _citygml
    root = re.match(rb"<(?:[\w.-]+:)?([\w.-]+)", text)
    name = root[1].decode("latin-1") if root else ""
    if name and name not in OSM_ROOTS:
        raise CityFileError(
            f"{path}: is XML, but neither OpenStreetMap nor CityGML: its first element is "
            f"<{name}>; " + OTHER_XML.get(name.lower(), "convert it to GeoJSON or GeoPackage, as "
                                                        "with ogr2ogr"))
    return _osm                 # which says what is wrong


# --- readers, each loaded when it is needed ---------------------------------------------------


def _osm(path, options, frame) -> City:
    from parallel_city_ros.city.osm import read_osm
    city = read_osm(path, options)
    return city if frame is None else moved(city, frame)


def _geojson(path, options, frame) -> City:
    from parallel_city_ros.city.geojson import read_geojson
    city = read_geojson(path, options)
    return city if frame is None else moved(city, frame)


def _cityjson(path, options, frame) -> City:
    from parallel_city_ros.city.cityjson import read_cityjson
    return read_cityjson(path, options, frame)


def _citygml(path, options, frame) -> City:
    from parallel_city_ros.city.citygml import read_citygml
    return read_citygml(path, options, frame)


def _vector(path, options, frame) -> City:
    from parallel_city_ros.city.vector import read_vector
    return read_vector(path, options, frame)


def _raster(path, options, frame) -> City:
    from parallel_city_ros.city.raster import read_raster
    return read_raster(path, options, frame)


def _lidar(path, options, frame) -> City:
    from parallel_city_ros.city.lidar import read_lidar
    return read_lidar(path, options, frame)


def _mesh(path, options, frame) -> City:
    from parallel_city_ros.city.mesh import read_mesh
    return read_mesh(path, options, frame)


def _cloud(path, options, frame) -> City:
    from parallel_city_ros.city.mesh import read_cloud
    return read_cloud(path, options, frame)


def _octomap(path, options, frame) -> City:
    from parallel_city_ros.city.octomap import read_octomap
    return read_octomap(path, options, frame)
