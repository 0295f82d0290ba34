"""Building footprints of vector files through GDAL: GeoPackage, Shapefile, SQLite, FlatGeobuf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import shapely

from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import (
    MAX_HEIGHT_M,
    METRES_PER_LEVEL,
    MIN_ASSUMED_HEIGHT_M,
    parse_length_m,
    parse_levels,
    require_file,
)
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

# What publishers call it, compared without case, blanks and underscores; the first that a file
# has counts.
HEIGHTS = ("height", "hauteur", "buildingheight", "measuredheight", "heightm", "hoogte", "hoehe",
           "altura", "altezza", "relheight", "roofheight", "hgt", "h")
LEVELS = ("levels", "buildinglevels", "nbetages", "numfloors", "floors", "storeys",
          "storeysaboveground", "stories", "plantas", "bouwlagen")
GROUNDS = ("zminsol", "hmaaiveld", "groundz", "groundelevation", "groundheight", "zground",
           "elevationground")
IDS = ("id", "cleabs", "gmlid", "identificatie", "osmid", "buildingid", "fid")

SQLITE, SHAPE, FLATGEOBUF = b"SQLite format 3\0", b"\x00\x00\x27\x0a", b"fgb\x03"


def is_vector(path: str | Path, head: bytes) -> bool:
    """GeoPackage and SQLite, Shapefile, FlatGeobuf by their first bytes, or a zipped Shapefile."""
    return head.startswith((SQLITE, SHAPE, FLATGEOBUF)) or (
        head.startswith(b"PK\x03\x04") and b".shp" in Path(path).read_bytes())


def read_vector(path: str | Path, options: ReadOptions = UNTOLD,
                frame: LocalFrame | None = None) -> City:
    """Read the polygons of a vector file as buildings.

    Heights come from options.height_attribute or an attribute of a usual name (`HEIGHTS`), else
    from storeys (`LEVELS`), else they are assumed: the median of the known ones, at least 12 m.
    The ground of a building is taken from an attribute as in `GROUNDS`.

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
    geometry, notes = _polygons(layer.geometry)
    kept = np.flatnonzero([g is not None for g in geometry])
    if not len(kept):
        raise CityFileError(f"{path}: holds no buildings (no polygons); choose a file of building "
                            "outlines")
    geometry = geometry[kept]
    kept, geometry, doubled = _without_doubles(kept, geometry)
    if doubled:
        notes.append(f"{doubled} outlines are there twice: one of each stands")
    x0, y0, x1, y1 = shapely.total_bounds(geometry)
    try:
        source.check_within_area_of_use([x0, x1, x0, x1], [y0, y0, y1, y1])
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}; give the right one with --crs") from error

    columns = {name: values[kept] for name, values in layer.columns.items()}
    height, origin = _heights(path, columns, options, notes)
    ground = _numbers(columns, GROUNDS, 9000.0, low=-500.0)
    if frame is None:
        lowest = np.nanmin(ground) if np.isfinite(ground).any() else 0.0
        frame = source.frame_at(x0, y0, float(np.floor(lowest)))
    outlines = shapely.transform(geometry, lambda c: source.to_enu(
        frame, c[:, 0], c[:, 1])[:, :2])
    known = height[np.isfinite(height)]
    assumed = max(MIN_ASSUMED_HEIGHT_M, round(median(known), 1) if len(known) else 0.0)
    if not len(known):
        notes.append(f"no attribute holds heights: all are assumed, {assumed:g} m; name one with "
                     "--height-attribute if there is one of another name")
    names = _names(columns, kept)
    buildings = tuple(
        Building(building_id=names[n], footprint=outlines[n], base_z=0.0,
                 top_z=float(height[n]) if np.isfinite(height[n]) else assumed,
                 source=origin if np.isfinite(height[n]) else HeightSource.ASSUMED,
                 ground_z=float(ground[n] - frame.altitude_m) if np.isfinite(ground[n]) else None)
        for n in range(len(kept)))
    counts = {s.value: 0 for s in HeightSource}
    for building in buildings:
        counts[building.source.value] += 1
    bounds = shapely.total_bounds(outlines)
    return City(
        name=path.name, frame=frame, extent=tuple(float(v) for v in bounds), buildings=buildings,
        n_buildings=len(buildings), n_skipped=len(layer.geometry) - len(kept),
        assumed_height_m=assumed, height_sources=counts, crs=source.name,
        vertical_datum=source.vertical_datum, notes=tuple(notes))


@dataclass
class _Layer:
    geometry: np.ndarray        # (N,) WKB or None
    columns: dict[str, np.ndarray]
    crs: str | None


def _read(path: Path, options: ReadOptions) -> _Layer:
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError
    try:
        layers = pyogrio.list_layers(path)
        name = _layer(path, layers, options)
        meta, _, geometry, columns = pyogrio.raw.read(path, layer=name, force_2d=True)
    except (DataSourceError, DataLayerError, UnicodeDecodeError, RuntimeError) as error:
        raise CityFileError(f"{path}: cannot be read ({error}); the file is cut off or of another "
                            "kind, export it again") from error
    return _Layer(geometry, dict(zip(meta["fields"], columns, strict=True)), meta["crs"])


def _layer(path: Path, layers, options: ReadOptions) -> str:
    """The layer asked for, or the only one of polygons."""
    names = [str(name) for name, _ in layers]
    if options.layer:
        if options.layer not in names:
            raise CityFileError(f"{path}: has no layer {options.layer!r}; it has "
                                + ", ".join(names))
        return options.layer
    flat = [str(name) for name, kind in layers
            if kind is not None and ("Polygon" in kind or "Surface" in kind or kind == "Unknown")]
    if len(flat) > 1:
        raise CityFileError(f"{path}: has several layers of polygons: {', '.join(flat)}; say "
                            "which with --layer")
    if not flat:
        raise CityFileError(f"{path}: holds no buildings (no layer of polygons"
                            + (f"; layers: {', '.join(names)}" if names else "") + "); choose a "
                            "file of building outlines")
    return flat[0]


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


def _polygons(wkb) -> tuple[np.ndarray, list[str]]:
    """(N,) valid polygons, None where there is none that stands; what was done, in words."""
    geometry = shapely.from_wkb(wkb, on_invalid="ignore")
    notes = []
    curved = np.array([g is not None and not isinstance(g, shapely.Polygon | shapely.MultiPolygon)
                       for g in geometry])
    if curved.any():
        geometry[curved] = None
        notes.append(f"{int(curved.sum())} objects are no polygons: left out")
    bounds = shapely.bounds(geometry)
    endless = ~np.isfinite(bounds).all(axis=1) & ~shapely.is_missing(geometry)
    coordinates, owner = shapely.get_coordinates(geometry, return_index=True)
    endless[owner[~np.isfinite(coordinates).all(axis=1)]] = True
    if endless.any():
        geometry[endless] = None
        notes.append(f"{int(endless.sum())} outlines have coordinates that are no numbers, or "
                     "none: left out")
    there = ~shapely.is_missing(geometry)
    bad = there.copy()
    bad[there] = ~shapely.is_valid(geometry[there])
    if bad.any():
        geometry[bad] = shapely.make_valid(geometry[bad], method="structure",
                                           keep_collapsed=False)
        notes.append(f"{int(bad.sum())} outlines cross themselves: mended")
    flat = there & ~(shapely.area(geometry) > 0)
    if flat.any():
        geometry[flat] = None
        notes.append(f"{int(flat.sum())} outlines have no area: left out")
    return geometry, notes


def _without_doubles(kept, geometry):
    """Of outlines that are the same, the first."""
    seen, first = set(), []
    for n, key in enumerate(shapely.to_wkb(shapely.normalize(geometry))):
        if key not in seen:
            seen.add(key)
            first.append(n)
    return kept[first], geometry[first], len(kept) - len(first)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _column(columns, usual) -> str | None:
    plain = {_plain(name): name for name in reversed(list(columns))}
    return next((plain[u] for u in usual if u in plain), None)


def _number_of(values, parse, most, low=0.0) -> np.ndarray:
    """(N,) floats, NaN for what is no number between low and most."""
    if values.dtype.kind in "iuf":
        numbers = values.astype(float)
    else:
        numbers = np.array([np.nan if v is None or (found := parse(str(v))) is None else found
                            for v in values], float)
    return np.where((numbers >= low) & (numbers <= most), numbers, np.nan)


def _numbers(columns, usual, most, low=0.0) -> np.ndarray:
    name = _column(columns, usual)
    if name is None:
        return np.full(len(next(iter(columns.values()), ())) or 0, np.nan)
    return _number_of(columns[name], _float, most, low)


def _float(text: str) -> float | None:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None


def _heights(path, columns, options, notes) -> tuple[np.ndarray, HeightSource]:
    """(N,) metres, NaN where not known, and where those that are known come from."""
    n = len(next(iter(columns.values()), ()))
    name, source = options.height_attribute, HeightSource.MEASURED
    if name and name not in columns:
        raise CityFileError(f"{path}: has no attribute {name!r}; it has "
                            + (", ".join(columns) or "none"))
    if not name:
        name = _column(columns, HEIGHTS)
        if name is None and (name := _column(columns, LEVELS)) is not None:
            source = HeightSource.LEVELS
    if name is None:
        return np.full(n, np.nan), source
    values = columns[name]
    if source is HeightSource.LEVELS:
        heights = METRES_PER_LEVEL * _number_of(values, parse_levels, 250.0)
    else:
        heights = _number_of(values, parse_length_m, MAX_HEIGHT_M)
    heights = np.where(heights > 0, heights, np.nan)
    said = np.array([v is not None and v == v and v != "" for v in values])
    absurd = int((said & ~np.isfinite(heights)).sum())
    if absurd:
        first = values[np.flatnonzero(said & ~np.isfinite(heights))[0]]
        notes.append(f"{absurd} values of {name} are no heights (the first is {first!r}): assumed")
    return heights, source


def _names(columns, kept) -> list[str]:
    name = _column(columns, IDS)
    if name is None:
        return [f"feature/{k}" for k in kept]
    return [f"feature/{k}" if value is None else str(value)
            for k, value in zip(kept, columns[name], strict=True)]
