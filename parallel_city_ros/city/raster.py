"""GeoTIFF, ESRI ASCII grids, points on a grid: terrain, or heights of buildings or trees on it."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from scipy.ndimage import binary_dilation, label

from parallel_city_ros.city.local import metres_per_height_unit
from parallel_city_ros.city.model import City, HeightRaster, HeightSource
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import MAX_HEIGHT_M, require_file
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

HIGHEST_M, LOWEST_M = 9000.0, -500.0    # ground on earth
DEEPEST_M = -30.0       # a thing's height where its ground is badly known; nothing stands there
FLAT_SHARE = 0.1        # of pixels at 0 or unknown: fewer, and it can only be terrain
STEP_M = 1.5            # what stands on the ground rises from it by more
PIECE = 200             # pixels: terrain does not fall into pieces that are smaller on average
MOST_CELLS = 400_000_000
KINDS = ("terrain", "building", "tree")
UNITS = {"m": 1.0, "metre": 1.0, "meter": 1.0, "metres": 1.0, "meters": 1.0, "ft": 0.3048,
         "foot": 0.3048, "feet": 0.3048, "us survey foot": 1200 / 3937, "cm": 0.01}
# What the first band of a picture says of itself. GDAL's names
COLOURS = ("red", "green", "blue", "palette", "hue", "saturation", "lightness", "cyan", "magenta",
           "yellow", "black", "Y", "Cb", "Cr")
OFF_GRID = 0.05         # of a step, by which points may lie beside the places of a grid
LEAST_SHARE = 0.25      # of a grid's places that have a point
LATTICE = 32            # cells between places whose pixel is reckoned; between them bilinear
MAX_PIXEL_ERROR = 0.02  # of a pixel, by which those places may err


def is_raster(head: bytes) -> bool:
    """TIFF and BigTIFF by their first bytes; ESRI ASCII grids too, which GDAL reads alike."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or bool(
        re.match(rb"\s*(ncols|nrows)\s+\d+\s+(ncols|nrows)\s", head, re.IGNORECASE))


def read_raster(path: str | Path, options: ReadOptions = UNTOLD,
                frame: LocalFrame | None = None) -> City:
    """Read the first band of a raster as terrain, or as things that stand on the ground.

    options.kind says which; else islands among pixels at 0 or unknown that rise abruptly or are
    small are buildings, and anything else is terrain. Terrain is resampled between its pixels,
    things on the ground so that a cell has the highest of all pixels that it may touch: nothing
    gets lost.

    frame : local frame to read into; None: its origin is the south-west corner of the raster,
        its altitude the lowest ground in whole metres, 0 for things on the ground

    Raises
    ------
    CityFileError
        If the file is missing, broken, empty, a picture, has no CRS or not the one that it names,
        or heights that are none.
    """
    path = require_file(path)
    return _city(path, _read(path), options, frame)


def terrain_of_points(path: Path, points, options: ReadOptions, frame: LocalFrame | None) -> City:
    """Terrain of (N, 3) points of options.crs that lie on a regular grid, which may have holes.

    Raises
    ------
    CityFileError
        If they do not, or see `read_raster`.
    """
    from rasterio.transform import from_origin
    grid = grid_of(points)
    if grid is None:
        raise CityFileError(f"{path}: its points lie on no regular grid, which terrain "
                            "needs; convert it to GeoTIFF, a grid with gdal_translate, other "
                            "points with gdal_grid")
    values, corner_and_steps = grid
    band = _Band(values, from_origin(*corner_and_steps), "", "", 1)
    return _city(path, band, options, frame)


def grid_of(points) -> tuple[np.ndarray, tuple[float, float, float, float]] | None:
    """Points on a grid as a raster; None for other points.

    Returns
    -------
    (rows, columns) float : z, NaN where no point is; from the north
    (west, north, step east, step south) : of the corner of the first pixel
    """
    places, steps = [], []
    for axis in range(2):
        values = np.unique(np.round(points[:, axis], 9))
        if len(values) < 2:
            return None
        gaps = np.diff(values)
        one = gaps[np.abs(gaps / np.median(gaps) - 1) < 0.5]    # others go over a hole
        span = values[-1] - values[0]
        step = span / round(span / one.mean())      # the mean, as degrees are rounded
        place = (points[:, axis] - values[0]) / step
        if np.abs(place - np.round(place)).max() > OFF_GRID:
            return None
        places.append(np.round(place).astype(np.int64))
        steps.append(step)
    column, row = places[0], places[1].max() - places[1]        # rows from the north
    shape = int(row.max()) + 1, int(column.max()) + 1
    if shape[0] * shape[1] > min(MOST_CELLS, len(points) / LEAST_SHARE):
        return None
    values = np.full(shape, np.nan)
    values[row, column] = points[:, 2]
    if (values[row, column] != points[:, 2]).any():     # two heights at one place
        return None
    west, north = points[:, 0].min() - steps[0] / 2, points[:, 1].max() + steps[1] / 2
    return values, (west, north, *steps)


def _city(path, band: _Band, options: ReadOptions, frame: LocalFrame | None) -> City:
    text = band.crs or options.crs
    if not text:
        raise CityFileError(f"{path}: names no coordinate reference system; give it with --crs, "
                            "such as --crs EPSG:25833")
    if band.transform.is_identity:
        raise CityFileError(f"{path}: does not say where it lies (no geotransform); export it "
                            "again with its place")
    notes = [] if band.bands == 1 else [f"{band.bands} bands: the first one is read"]
    if not np.isfinite(band.values).any():
        raise CityFileError(f"{path}: holds no heights (every pixel is unknown)")
    try:
        source = SourceCrs(text)
        rows, columns = band.values.shape
        corners = _apply(band.transform, [0, columns, 0, columns], [0, 0, rows, rows])
        source.check_within_area_of_use(*corners)
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}; " + (
            "the file names a wrong one: correct it there" if band.crs
            else "give the right one with --crs")) from error
    unit = UNITS.get(band.unit.lower() or options.height_unit, metres_per_height_unit(source.crs))
    if unit != 1.0:
        notes.append(f"heights are taken as units of {unit:g} m")
    values = band.values * unit
    kind = _kind(path, values, options, notes)
    _check(path, values, kind)
    if frame is None:
        lowest = float(np.floor(np.nanmin(values))) if kind == "terrain" else 0.0
        frame = source.frame_at(corners[0].min(), corners[1].min(), lowest)
    raster = _resampled(path, values, band.transform, source, frame, kind)
    # of the file: on the map's cells, which overlap several pixels, neighbours grow together
    things = int(label(np.nan_to_num(values) > 0)[1]) if kind == "building" else 0
    if things:
        notes.append("buildings are counted as groups of pixels that touch at an edge")
    counts = {s.value: 0 for s in HeightSource} | {HeightSource.MEASURED.value: things}
    return City(
        name=path.name, frame=frame, extent=tuple(float(v) for v in raster.extent),
        surfaces=() if kind == "terrain" else (raster,),
        terrain=raster if kind == "terrain" else None, n_buildings=things,
        height_sources=counts, crs=source.name, vertical_datum=source.vertical_datum,
        notes=tuple(notes))


@dataclass(frozen=True)
class _Band:
    """values : (rows, columns) float, NaN where unknown, in `unit`; crs, unit : "" if not said"""

    values: np.ndarray
    transform: object       # affine.Affine: column, row → x, y
    crs: str
    unit: str
    bands: int


def _read(path: Path) -> _Band:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                if file.width * file.height > MOST_CELLS:
                    raise CityFileError(f"{path}: {file.width} x {file.height} pixels are more "
                                        f"than {MOST_CELLS:,}; cut it to the city")
                _require_heights(path, file)
                band = file.read(1, masked=True)
                values = np.where(np.ma.getmaskarray(band), np.nan, band.data.astype(float))
                values = values * file.scales[0] + file.offsets[0]
                # by its code, as only the registry tells where a CRS is of use
                authority = file.crs.to_authority() if file.crs else None
                crs = ":".join(authority) if authority else \
                    file.crs.to_wkt() if file.crs else ""
                return _Band(np.where(np.isfinite(values), values, np.nan), file.transform, crs,
                             file.units[0] or "", file.count)
    except (RasterioError, OSError, ValueError) as error:
        raise CityFileError(f"{path}: cannot be read as a raster ({error}); the file is cut off "
                            "or of another kind, export it again") from error


def _require_heights(path, file) -> None:
    """Refuse pictures, whose bands look like heights of 0 to 255 m, and complex numbers."""
    colour, dtypes = file.colorinterp[0].name, file.dtypes
    if colour in COLOURS or dtypes.count("uint8") > 1:
        raise CityFileError(f"{path}: is a picture, not heights (the first of {file.count} bands "
                            f"is {colour}, {dtypes[0]}); give the DSM or DTM")
    if "complex" in dtypes[0]:
        raise CityFileError(f"{path}: holds complex numbers ({dtypes[0]}), not heights; give the "
                            "DSM or DTM, or export it again as float32")


def _kind(path, values, options, notes) -> str:
    if options.kind:
        if options.kind not in KINDS:
            raise CityFileError(f"{path}: kind {options.kind!r} is none of {', '.join(KINDS)}")
        return options.kind
    flat = ~(np.abs(values) > 0)
    shore = ~flat & binary_dilation(flat)
    islands = int(label(~flat)[1])
    rise = float(np.median(values[shore])) if shore.any() else 0.0
    scattered = islands * PIECE > (~flat).sum()
    abrupt = rise > STEP_M and (islands > 1 or (values == 0).mean() > FLAT_SHARE)
    things = flat.mean() > FLAT_SHARE and (scattered or abrupt)
    kind = "building" if things else "terrain"
    notes.append(f"taken as {kind}: {flat.mean():.0%} of its pixels are 0 or unknown, and the "
                 f"rest, in {islands} pieces, rises from them by {rise:.1f} m; if it is not, say "
                 "so with --kind")
    return kind


def _check(path, values, kind) -> None:
    low, high = (LOWEST_M, HIGHEST_M) if kind == "terrain" else (DEEPEST_M, MAX_HEIGHT_M)
    bad = (values < low) | (values > high)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise CityFileError(
            f"{path}: {values[row, column]:g} m at row {row}, column {column} is no height of "
            f"{kind} ({low:g} to {high:g} m); name the value for unknown pixels in the file, or "
            "another --kind")


def _apply(transform, column, row) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, which may be fractions, → x and y of the CRS."""
    column, row = np.asarray(column, float), np.asarray(row, float)
    return (transform.a * column + transform.b * row + transform.c,
            transform.d * column + transform.e * row + transform.f)


def _resampled(path, values, transform, source: SourceCrs, frame, kind) -> HeightRaster:
    """On a grid along the map frame, of cells about as large as the pixels."""
    rows, columns = values.shape
    pixels = _lattice(np.linspace(0, columns, 25), np.linspace(0, rows, 25))
    enu = source.to_enu(frame, *_apply(transform, pixels[..., 0], pixels[..., 1]))[..., :2]
    wide, high = (np.linalg.norm(np.diff(enu, axis=a), axis=-1).sum(axis=a).min() / n
                  for a, n in enumerate((columns, rows)))
    cell = max(0.1, round(float(min(wide, high)), 2))
    low, top = enu.min(axis=(0, 1)), enu.max(axis=(0, 1))
    shape = np.maximum(np.ceil((top - low) / cell - 1e-6), 1).astype(int)
    # Cubic polynomials are as good as the projections over a city, where an affine map is not:
    # degrees of longitude are shorter in its north.
    def terms(xy):
        return np.polynomial.polynomial.polyvander2d(
            *np.moveaxis(2 * (xy - low) / (top - low) - 1, -1, 0), (3, 3))
    factors = np.linalg.lstsq(terms(enu[::3, ::3]).reshape(-1, 16),
                              pixels[::3, ::3].reshape(-1, 2), rcond=None)[0]
    error = np.abs(terms(enu) @ factors - pixels).max()
    if error > MAX_PIXEL_ERROR:
        raise CityFileError(f"{path}: spans {(top - low).max() / 1000:,.0f} km, too much for the "
                            "frame of a city; cut it to the city")
    nodes = [low[d] + cell * LATTICE * np.arange(shape[d] // LATTICE + 2) for d in range(2)]
    to_pixel = terms(_lattice(*nodes)) @ factors
    out = np.full(tuple(shape), np.nan, np.float32)
    if kind == "terrain":
        _between(values - frame.altitude_m, to_pixel, out)
    else:
        _highest(values, to_pixel, error, out)
    return HeightRaster(heights=out, origin=(float(low[0]), float(low[1])), cell=cell, kind=kind)


def _lattice(x, y) -> np.ndarray:
    """(len(x), len(y), 2)"""
    return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)


@njit(cache=True, nogil=True)
def _pixel(to_pixel, x, y):
    """Column and row of a place in cells; to_pixel : those of every LATTICE cells."""
    a, b = int(x // LATTICE), int(y // LATTICE)
    p, q = x / LATTICE - a, y / LATTICE - b
    at = ((1 - p) * ((1 - q) * to_pixel[a, b] + q * to_pixel[a, b + 1])
          + p * ((1 - q) * to_pixel[a + 1, b] + q * to_pixel[a + 1, b + 1]))
    return at[0], at[1]


@njit(cache=True, nogil=True)
def _between(values, to_pixel, out):
    """Bilinear between the centres of pixels that are known; else the nearest of the four."""
    rows, columns = values.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            u, v = _pixel(to_pixel, i + 0.5, j + 0.5)
            u, v = u - 0.5, v - 0.5
            if not (-1.0 <= u <= columns and -1.0 <= v <= rows):
                continue
            u, v = min(max(u, 0.0), columns - 1.0), min(max(v, 0.0), rows - 1.0)
            a, b = min(int(u), max(columns - 2, 0)), min(int(v), max(rows - 2, 0))
            total, weight = 0.0, 0.0
            for s in range(2):
                for t in range(2):
                    c, r = min(a + s, columns - 1), min(b + t, rows - 1)
                    w = ((u - a) if s else (1 - u + a)) * ((v - b) if t else (1 - v + b))
                    if np.isfinite(values[r, c]):
                        total += (w + 1e-12) * values[r, c]
                        weight += w + 1e-12
            if weight > 0:
                out[i, j] = total / weight


@njit(cache=True, nogil=True)
def _highest(values, to_pixel, error, out):
    """The highest pixel that a cell may touch: of the box around its four corners."""
    rows, columns = values.shape
    slack = error - 1e-6    # a pixel that is touched along its edge only does not count
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            low_u = low_v = np.inf
            high_u = high_v = -np.inf
            for corner in range(4):
                u, v = _pixel(to_pixel, i + (corner & 1), j + (corner >> 1))
                low_u, high_u = min(low_u, u), max(high_u, u)
                low_v, high_v = min(low_v, v), max(high_v, v)
            best = np.nan
            for c in range(max(0, int(np.floor(low_u - slack))),
                           min(columns, int(np.ceil(high_u + slack)))):
                for r in range(max(0, int(np.floor(low_v - slack))),
                               min(rows, int(np.ceil(high_v + slack)))):
                    if values[r, c] > 0 and not values[r, c] <= best:
                        best = values[r, c]
            out[i, j] = best
