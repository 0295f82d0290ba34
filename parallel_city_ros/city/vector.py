"""Building footprints of vector files through GDAL: GeoPackage, Shapefile, SQLite, FlatGeobuf."""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import shapely

from parallel_city_ros.city.local import metres_per_height_unit
from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import (
    MAX_HEIGHT_M,
    MAX_LEVELS,
    METRES_PER_LEVEL,
    MIN_ASSUMED_HEIGHT_M,
    mend,
    parse_length_m,
    parse_levels,
    require_file,
)
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

# What publishers call it, compared without case, blanks and underscores; the first that a file
# has counts.
HEIGHTS = ("height", "hauteur", "buildingheight", "bldgheight", "bldheight", "measuredheight",
           "heightm", "hoogte", "hoehe", "höhe", "gebaeudehoehe", "gebäudehöhe", "altura",
           "altezza", "wysokosc", "hojd", "relheight", "relhmax", "maxheight", "meanheight",
           "heightroof", "roofheight", "hgt", "h")
LEVELS = ("levels", "buildinglevels", "nbetages", "numfloors", "numberoffloors",
          "numberoffloorsaboveground", "floors", "storeys", "storeysaboveground", "stories",
          "numstories", "geschosse", "geschosszahl", "anzahlgeschosse", "plantas", "bouwlagen")
GROUNDS = ("zminsol", "hmaaiveld", "b3hmaaiveld", "groundz", "groundelevation", "groundelev",
           "groundheight", "groundlevel", "zground", "elevationground", "abshmin", "ground")
# Altitudes of the roof, in the datum of the ground's
ROOFS = ("zmaxtoit", "hdakmax", "b3hdakmax", "hdak70p", "b3hdak70p", "roofz", "zroof", "abshmax")
IDS = ("id", "cleabs", "gmlid", "identificatie", "osmid", "buildingid", "fid")
LOWEST_GROUND_M, HIGHEST_GROUND_M = -500.0, 9000.0      # on earth

METRES = {"m": 1.0, "ft": 0.3048}       # of options.height_unit

SQLITE, SHAPE, FLATGEOBUF = b"SQLite format 3\0", b"\x00\x00\x27\x0a", b"fgb\x03"
ZIP = b"PK\x03\x04"
PACKED = (".shp", ".gpkg", ".sqlite", ".fgb")       # what is looked for in a .zip
BYTES = "ISO-8859-1"        # each byte is a letter: reads any name
POINT, LINE, POLYGON, COLLECTION, TRIANGLE = 1, 2, 3, 7, 17     # in well-known binary
PLAIN = {15: 6, 16: 6, TRIANGLE: POLYGON}   # polyhedral surface, TIN: as multipolygon
WALL = 2.0          # units of Z between the corners of a wall: less may be a kerb
DBF_NAME = 10       # bytes that a Shapefile keeps of an attribute's name


def is_vector(path: str | Path, head: bytes) -> bool:
    """GeoPackage and SQLite, Shapefile, FlatGeobuf by their first bytes, or a zip of them."""
    if head.startswith((SQLITE, SHAPE, FLATGEOBUF)):
        return True
    if not head.startswith(ZIP):
        return False
    try:
        return bool(_members(path))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        # cut off: the name of the first file stands at its beginning
        return any(ending in head[30:30 + int.from_bytes(head[26:28], "little")].decode(
            "utf-8", "replace").lower() for ending in PACKED)


def _members(path) -> list[str]:
    with zipfile.ZipFile(path) as packed:
        return [name for name in packed.namelist()
                if name.lower().endswith(PACKED) and not Path(name).name.startswith("._")]


def read_vector(path: str | Path, options: ReadOptions = UNTOLD,
                frame: LocalFrame | None = None) -> City:
    """Read the polygons of a vector file as buildings.

    Heights come from options.height_attribute or an attribute of a usual name (`HEIGHTS`), else
    from the altitudes of roof (`ROOFS`) and ground, else of a body with walls (multipatch, 3-D
    polygons) from the Z of its corners, else from storeys (`LEVELS`), else they are assumed: the
    median of the known ones, at least 12 m. The ground of a building is taken from an attribute
    as in `GROUNDS`, else from a body's lowest corner. Attributes are in options.height_unit,
    metres if it is "", whatever the unit of the coordinates.

    frame : local frame to read into; None: its origin is the south-west corner of what stands,
        its altitude the lowest known ground in whole metres

    Raises
    ------
    CityFileError
        If the file is missing, broken or has no polygons; if its layer or height attribute has
        to be named; if it has no CRS, or coordinates that are not of its CRS.
    """
    path = require_file(path)
    layer = _read(path, options)
    source = _source_crs(path, layer, options)
    geometry, z, notes = _polygons(layer.geometry, source.crs.is_geographic)
    kept = np.flatnonzero(~shapely.is_missing(geometry))
    if not len(kept):
        raise CityFileError(f"{path}: holds no buildings (no polygons); choose a file of building "
                            "outlines")
    geometry = geometry[kept]
    x0, y0, x1, y1 = shapely.total_bounds(geometry)
    try:
        source.check_within_area_of_use([x0, x1, x0, x1], [y0, y0, y1, y1])
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}; " + (
            "the file names a wrong one: correct it there" if layer.crs
            else "give the right one with --crs")) from error

    names = _names(layer, kept)
    columns = {name: values[kept] for name, values in layer.columns.items()}
    unit = _unit(layer, source, options, notes)
    ground = _ground(columns, layer.ground, unit, names, notes)
    z_unit = METRES.get(options.height_unit) or metres_per_height_unit(source.crs)
    lowest, highest = z_unit * z.lowest[kept], z_unit * z.highest[kept]
    walls = z.has_walls[kept] & (lowest >= LOWEST_GROUND_M) & (lowest <= HIGHEST_GROUND_M)
    ground = np.where(walls & np.isnan(ground), lowest, ground)
    body = np.where(walls & (highest - ground <= MAX_HEIGHT_M), highest - ground, np.nan)
    height, sources = _heights(layer, columns, ground, body, unit, names, notes)
    if HeightSource.MEASURED not in sources and (np.nan_to_num(lowest) != 0).any():
        notes.append(f"Z of the corners, {np.nanmin(lowest):g} to {np.nanmax(highest):g} m, is "
                     "not used: without walls it may be that of the ground or of roofs")
    if frame is None:
        lowest = np.nanmin(ground) if np.isfinite(ground).any() else 0.0
        frame = source.frame_at(x0, y0, float(np.floor(lowest)))
    outlines = shapely.transform(geometry, lambda c: source.to_enu(
        frame, c[:, 0], c[:, 1])[:, :2])
    once = _standing_once(outlines, height)
    if len(once) < len(outlines):
        notes.append(f"{len(outlines) - len(once):,} outlines are there twice: one of each "
                     "stands")
    known = height[once][np.isfinite(height[once])]
    assumed = max(MIN_ASSUMED_HEIGHT_M, round(median(known), 1) if len(known) else 0.0)
    if not len(known):
        notes.append(f"no attribute holds heights: all are assumed, {assumed:g} m; name one with "
                     "--height-attribute if there is one of another name")
    buildings = tuple(
        Building(building_id=names[n], footprint=outlines[n], base_z=0.0,
                 top_z=float(height[n]) if np.isfinite(height[n]) else assumed,
                 source=sources[n],
                 ground_z=float(ground[n] - frame.altitude_m) if np.isfinite(ground[n]) else None)
        for n in once)
    bounds = shapely.total_bounds(outlines)
    return City(
        name=path.name, frame=frame, extent=tuple(float(v) for v in bounds), buildings=buildings,
        n_buildings=len(buildings), n_skipped=len(layer.geometry) - len(buildings),
        assumed_height_m=assumed, crs=source.name, vertical_datum=source.vertical_datum,
        height_sources={s.value: sum(sources[n] is s for n in once) for s in HeightSource},
        notes=tuple(notes))


# --- files and layers -------------------------------------------------------------------------


@dataclass
class _Layer:
    """height, roof, levels, ground, name : the column of each; "": none"""

    geometry: np.ndarray        # (N,) WKB or None
    columns: dict[str, np.ndarray]
    crs: str | None
    height: str
    roof: str
    levels: str
    ground: str
    names: list[str]            # columns that may be ids, in order


def _read(path: Path, options: ReadOptions) -> _Layer:
    import pyogrio
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)     # of names that do not conform
            files = _files(path)
            for file in files:
                _require_whole(path, file)
            layers = [(file, str(name), kind or "") for file in files
                      for name, kind in pyogrio.list_layers(file)]
            file, name = _layer(path, layers, options)
            told, encoding = _info(file, name)
            fields = {_mended(str(f), encoding): str(f) for f in told["fields"]}
            layer = _chosen(path, list(fields), told["driver"] == "ESRI Shapefile", options)
            wanted = [layer.height, layer.roof, layer.levels, layer.ground, *layer.names]
            meta, _, layer.geometry, columns = pyogrio.raw.read(
                file, layer=name, encoding=encoding,
                columns=[fields[w] for w in wanted if w])
    except (RuntimeError, ValueError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise CityFileError(f"{path}: cannot be read ({error}); the file is cut off or of another "
                            "kind, export it again") from error
    if encoding:
        columns = [np.array([_mended(v, encoding) for v in c], object) if c.dtype == object else c
                   for c in columns]
    names = (_mended(str(f), encoding) for f in meta["fields"])
    layer.columns = dict(zip(names, columns, strict=True))
    # what GeoPackage and others write where they do not know
    layer.crs = None if "undefined" in (meta["crs"] or "").lower() else meta["crs"]
    return layer


def _info(file: str, layer: str) -> tuple[dict, str | None]:
    """What GDAL says of a layer, and the encoding to read it with; None: its own."""
    import pyogrio
    try:
        return pyogrio.read_info(file, layer=layer), None
    except UnicodeDecodeError:      # a Shapefile's names may end within a letter of UTF-8
        return pyogrio.read_info(file, layer=layer, encoding=BYTES), BYTES


def _mended(text, encoding: str | None):
    """A name or value that was read byte by byte, without a letter that was cut."""
    if encoding != BYTES or not isinstance(text, str):
        return text
    return text.encode(BYTES).decode("utf-8", "ignore")


def _files(path: Path) -> list[str]:
    """What GDAL is to open: the file, or those in a zip."""
    with open(path, "rb") as file:
        head = file.read(4)
    if head == SHAPE and path.suffix.lower() != ".shp":
        raise CityFileError(f"{path}: is a Shapefile by its content; name it .shp, beside its "
                            ".shx, .dbf and .prj")
    if head != ZIP:
        return [str(path)]
    return [f"/vsizip/{{{path.resolve()}}}/{name}" for name in _members(path)]


def _require_whole(path: Path, file: str) -> None:
    """GDAL reads a Shapefile that is cut off as one of fewer buildings."""
    if not file.lower().endswith(".shp"):
        return
    for ending in (".shp", ".shx", ".dbf"):
        if (found := _head_and_size(path, file, ending)) is None:
            continue
        head, size = found
        if ending == ".dbf":
            records, start, length = struct.unpack("<IHH", head[4:12].ljust(8, b"\0"))
            whole = start + records * length
        else:
            whole = 2 * int.from_bytes(head[24:28], "big")      # in 16-bit words
        if size < whole:
            raise CityFileError(f"{path}: its {ending} is cut off ({size:,} of {whole:,} bytes); "
                                "copy or export it again")


def _head_and_size(path: Path, file: str, ending: str) -> tuple[bytes, int] | None:
    """Of one of the files that make a Shapefile; None if there is none."""
    if not file.startswith("/vsizip/"):
        for sibling in (path.with_suffix(ending), path.with_suffix(ending.upper())):
            if sibling.is_file():
                with open(sibling, "rb") as part:
                    return part.read(32), sibling.stat().st_size
        return None
    with zipfile.ZipFile(path) as packed:
        wanted = (file[:-len(".shp")] + ending).lower()
        for entry in packed.infolist():
            if wanted.endswith("}/" + entry.filename.lower()):
                with packed.open(entry) as part:
                    return part.read(32), entry.file_size
    return None


def _layer(path: Path, layers, options: ReadOptions) -> tuple[str, str]:
    """File and name of the layer asked for, or of the only one of polygons."""
    names = [name for _, name, _ in layers]
    if options.layer:
        if options.layer not in names:
            raise CityFileError(f"{path}: has no layer {options.layer!r}; it has "
                                + ", ".join(names))
        return layers[names.index(options.layer)][:2]
    flat = [(file, name) for file, name, kind in layers if any(
        word in kind for word in ("Polygon", "Surface", "TIN", "Unknown", "Collection"))]
    if len(flat) > 1:
        raise CityFileError(f"{path}: has several layers of polygons: "
                            f"{', '.join(name for _, name in flat)}; say which with --layer")
    if not flat:
        raise CityFileError(f"{path}: holds no buildings (no layer of polygons"
                            + (f"; layers: {', '.join(names)}" if names else "") + "); choose a "
                            "file of building outlines")
    return flat[0]


def _chosen(path: Path, fields: list[str], shortened: bool, options: ReadOptions) -> _Layer:
    """Which attributes say what; shortened : whether names may have lost their ends."""
    height = options.height_attribute
    if height and height not in fields:
        raise CityFileError(f"{path}: has no attribute {height!r}; it has "
                            + (", ".join(fields) or "none"))
    names = [name for usual in IDS for name in fields if plain_name(name) == usual]
    return _Layer(np.array([]), {}, None, height or usual_name(fields, HEIGHTS, shortened),
                  "" if height else usual_name(fields, ROOFS, shortened),
                  usual_name(fields, LEVELS, shortened), usual_name(fields, GROUNDS, shortened),
                  names)


def plain_name(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def usual_name(names: Iterable[str], usual: Sequence[str], shortened: bool = False) -> str:
    """The attribute that is called as one of the usual names, of which the first counts; "": none.

    shortened : names of ten bytes may have lost their ends, as those of Shapefiles
    """
    found = {}
    for name in names:
        # a letter of two bytes may be lost as a whole
        ends = shortened and len(name.encode()) + (not name.isascii()) >= DBF_NAME
        for place, word in enumerate(usual):
            if plain_name(name) == word or (ends and word.startswith(plain_name(name))):
                found.setdefault(place, name)
                break
    return found[min(found)] if found else ""


def _source_crs(path, layer: _Layer, options: ReadOptions) -> SourceCrs:
    """The CRS of the file; options.crs is for files that name none."""
    text = layer.crs or options.crs
    if not text:
        raise CityFileError(f"{path}: names no coordinate reference system; give it with --crs, "
                            "such as --crs EPSG:25833")
    try:
        return SourceCrs(text)
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}") from error


# --- outlines ---------------------------------------------------------------------------------


def _polygons(wkb, geographic: bool) -> tuple[np.ndarray, _Z, list[str]]:
    """(N,) valid polygons in two dimensions, None where there is none that stands; the Z that
    their corners had; what was done, in words."""
    geometry = shapely.from_wkb([_plain_wkb(w) for w in wkb], on_invalid="ignore")
    notes = []

    def leave_out(which, why):
        if which.any():
            geometry[which] = None
            notes.append(f"{int(which.sum()):,} {why}: left out")
    mixed = shapely.get_type_id(geometry) == shapely.GeometryType.GEOMETRYCOLLECTION
    for n in np.flatnonzero(mixed):
        parts = [p for p in shapely.get_parts(shapely.get_parts(geometry[n]))
                 if p.geom_type == "Polygon"]
        geometry[n] = shapely.MultiPolygon(parts) if parts else geometry[n]
    flat = np.isin(shapely.get_type_id(geometry), (shapely.GeometryType.POLYGON,
                                                   shapely.GeometryType.MULTIPOLYGON))
    leave_out(np.array([w is not None for w in wkb], bool) & ~flat, "objects are no polygons")
    z = _corner_z(geometry, geographic)
    geometry = shapely.force_2d(geometry)
    coordinates, owner = shapely.get_coordinates(geometry, return_index=True)
    endless = ~shapely.is_missing(geometry) & (shapely.get_num_coordinates(geometry) == 0)
    endless[owner[~np.isfinite(coordinates).all(axis=1)]] = True
    leave_out(endless, "outlines have coordinates that are no numbers, or none")
    bad = ~shapely.is_missing(geometry)
    bad[bad] = ~shapely.is_valid(geometry[bad])
    if bad.any():
        geometry[bad] = mend(geometry[bad])
    if (crossing := bad & ~z.has_walls).any():      # roof and floor of a body overlap
        notes.append(f"{int(crossing.sum()):,} outlines cross themselves: mended")
    leave_out(~shapely.is_missing(geometry) & ~(shapely.area(geometry) > 0),
              "outlines have no area")
    return geometry, z, notes


def _plain_wkb(wkb: bytes | None) -> bytes | None:
    """TINs and polyhedral surfaces, as GDAL makes of multipatches, as polygons that GEOS knows."""
    if not wkb or _wkb_kind(wkb, 0) not in (COLLECTION, *PLAIN):
        return wkb
    plain = bytearray(wkb)

    def rewrite(at: int) -> int:
        """One geometry and those in it; returns where the next begins."""
        order = "<" if plain[at] else ">"
        kind, (code, count) = _wkb_kind(plain, at), struct.unpack_from(order + "II", plain, at + 1)
        struct.pack_into(order + "I", plain, at + 1, code - kind + PLAIN.get(kind, kind))
        axes = {0: 2, 1: 3, 2: 3, 3: 4}[(code & 0xffff) // 1000] + (code >> 31) + (code >> 30 & 1)
        if kind == POINT:
            return at + 5 + 8 * axes
        at += 9
        for _ in range(count if kind != LINE else 0):
            at = at + 4 + 8 * axes * struct.unpack_from(order + "I", plain, at)[0] \
                if kind in (POLYGON, TRIANGLE) else rewrite(at)
        return at + 8 * axes * count if kind == LINE else at
    try:
        rewrite(0)
    except (struct.error, IndexError, KeyError):
        return wkb      # of which GEOS says that it is broken
    return bytes(plain)


def _wkb_kind(wkb, at: int) -> int:
    """Of a geometry, without its axes: of ISO thousands, of others the highest bits."""
    return (struct.unpack_from("<I" if wkb[at] else ">I", wkb, at + 1)[0] & 0xffff) % 1000


@dataclass
class _Z:
    """Of the corners of (N,) geometries, in the file's unit; NaN : without Z

    has_walls : whether some corners lie above others, as those of bodies do
    """

    lowest: np.ndarray
    highest: np.ndarray
    has_walls: np.ndarray


def _corner_z(geometry, geographic: bool) -> _Z:
    n = len(geometry)
    found = _Z(np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, bool))
    xyz, owner = shapely.get_coordinates(geometry, include_z=True, return_index=True)
    told = np.isfinite(xyz).all(axis=1)
    xyz, owner = xyz[told], owner[told]
    if not len(xyz):
        return found
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    found.lowest[owner[first]] = np.minimum.reduceat(xyz[:, 2], first)
    found.highest[owner[first]] = np.maximum.reduceat(xyz[:, 2], first)
    # An outline draped over a slope spans as much Z as a low house: only walls tell them apart.
    tall = (found.highest - found.lowest > WALL)[owner]
    xy, z, owner = np.round(xyz[tall, :2], 7 if geographic else 2), xyz[tall, 2], owner[tall]
    order = np.lexsort((xy[:, 1], xy[:, 0], owner))
    xy, z, owner = xy[order], z[order], owner[order]
    if len(z):
        moved = (np.diff(owner) != 0) | np.diff(xy, axis=0).any(axis=1)
        place = np.flatnonzero(np.r_[True, moved])
        span = np.maximum.reduceat(z, place) - np.minimum.reduceat(z, place)
        found.has_walls[owner[place[span > WALL]]] = True
    return found


def _standing_once(outlines, height) -> np.ndarray:
    """Of outlines that are the same, to the centimetre, the one with a height, or the highest."""
    rounded = shapely.transform(outlines, lambda c: np.round(c, 2) + 0.0)   # no -0.0
    known, first = np.nan_to_num(height), {}
    for n, key in enumerate(shapely.to_wkb(shapely.normalize(rounded))):
        if known[n] > known[first.setdefault(key, n)]:
            first[key] = n
    return np.sort(list(first.values()))


# --- attributes -------------------------------------------------------------------------------


def _unit(layer: _Layer, source: SourceCrs, options: ReadOptions, notes) -> float:
    """Metres of the heights in attributes, which is said wherever it may be another."""
    columns = " and ".join(filter(None, (layer.height, layer.roof, layer.ground)))
    unit = METRES.get(options.height_unit, 1.0)
    if not columns:
        return unit
    axis = source.crs.axis_info[0]
    if unit != 1.0:
        notes.append(f"{columns}: taken as units of {unit:g} m, as --height-unit says")
    elif source.crs.is_projected and axis.unit_conversion_factor != 1.0 \
            and not options.height_unit:
        notes.append(f"{source.name} is in units of {axis.unit_conversion_factor:g} m "
                     f"({axis.unit_name}): {columns} taken as metres all the same; if in feet say "
                     "so with --height-unit ft, else --height-unit m")
    return unit


def _numbers(values, parse, most: float, low: float = 0.0, unit: float = 1.0) -> np.ndarray:
    """(N,) floats, NaN for what is no number between low and most.

    unit : of numbers; a text may name its own
    """
    def number(text):
        bare = _float(text) if unit != 1.0 else None
        found = parse(text) if bare is None else bare * unit
        return np.nan if found is None else found
    if values.dtype.kind in "iufb":
        numbers = values.astype(float) * unit
    else:
        numbers = np.array([np.nan if v is None else number(str(v)) for v in values], float)
    return np.where((numbers >= low) & (numbers <= most), numbers, np.nan)


def _said(values) -> np.ndarray:
    return np.array([v is not None and v == v and v != "" for v in values], bool)


def _float(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None


def _ground(columns, name: str, unit, names, notes) -> np.ndarray:
    """(N,) altitudes in metres, NaN where not known."""
    if not name:
        return np.full(len(names), np.nan)
    ground = _numbers(columns[name], _float, HIGHEST_GROUND_M, LOWEST_GROUND_M, unit)
    _note_odd(columns[name], ground, name, "altitudes of ground", names, notes)
    return ground


def _heights(layer, columns, ground, body, unit, names,
             notes) -> tuple[np.ndarray, list[HeightSource]]:
    """(N,) metres, NaN where not known, and where each comes from; body : (N,) by its walls."""
    height = np.full(len(names), np.nan)
    sources = np.full(len(names), HeightSource.ASSUMED, object)

    def fill(values, source):
        new = np.isnan(height) & (values > 0)
        height[new], sources[new] = values[new], source
    if layer.height:
        values = _numbers(columns[layer.height], parse_length_m, MAX_HEIGHT_M, unit=unit)
        values[values == 0] = np.nan
        _note_odd(columns[layer.height], values, layer.height, "heights", names, notes)
        fill(values, HeightSource.MEASURED)
    if layer.roof:
        values = _numbers(columns[layer.roof], _float, HIGHEST_GROUND_M + MAX_HEIGHT_M,
                          LOWEST_GROUND_M, unit) - ground
        values[values > MAX_HEIGHT_M] = np.nan
        if (under := np.isnan(height) & (values <= 0)).any():
            notes.append(f"{int(under.sum()):,} roofs lie below their ground, such as that of "
                         f"{names[int(np.argmax(under))]}: taken as not known")
        fill(values, HeightSource.MEASURED)
    if (new := np.isnan(height) & (body > 0)).any():
        notes.append(f"{int(new.sum()):,} heights and grounds are those of walls, from the Z of "
                     "their corners")
        fill(body, HeightSource.MEASURED)
    if layer.levels:
        fill(METRES_PER_LEVEL * _numbers(columns[layer.levels], parse_levels, MAX_LEVELS),
             HeightSource.LEVELS)
    return height, list(sources)


def _note_odd(values, numbers, column, what, names, notes) -> None:
    odd = _said(values) & np.isnan(numbers)
    if odd.any():
        n = int(np.argmax(odd))
        notes.append(f"{int(odd.sum()):,} values of {column} are no {what}, such as "
                     f"{values.tolist()[n]!r} of {names[n]}: taken as not known")


def _names(layer: _Layer, kept) -> list[str]:
    """Ids by the first attribute that tells all apart, else numbers in the file."""
    for name in layer.names:
        values = layer.columns[name][kept]
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)].astype(np.int64)
        ids = [str(v) for v in values if v is not None and v != ""]
        if len(set(ids)) == len(kept):
            return ids
    return [f"feature/{k}" for k in kept]
