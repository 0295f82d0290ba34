"""GeoTIFF: terrain, or the heights of buildings or trees above it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit
from scipy.ndimage import binary_dilation, label

from parallel_city_ros.city.model import City, HeightRaster, HeightSource
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.osm import MAX_HEIGHT_M, require_file
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

HIGHEST_M, LOWEST_M = 9000.0, -500.0    # ground on earth
FLAT_SHARE = 0.1        # of pixels at 0 or unknown: fewer, and it can only be terrain
STEP_M = 1.5            # what stands on the ground rises from it by more
PIECE = 200             # pixels: terrain does not fall into pieces that are smaller on average
MOST_CELLS = 400_000_000
KINDS = ("terrain", "building", "tree")


def is_geotiff(head: bytes) -> bool:
    """TIFF and BigTIFF by their first bytes."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_raster(path: str | Path, options: ReadOptions = UNTOLD,
                frame: LocalFrame | None = None) -> City:
    """Read the first band of a GeoTIFF as terrain, or as things that stand on the ground.

    options.kind says which; else islands among pixels at 0 or unknown that rise abruptly or are
    small are buildings, and anything else is terrain. Terrain is resampled between its pixels,
    things on the ground so that a cell has the highest of all pixels that it may touch: nothing
    gets lost.

    frame : local frame to read into; None: its origin is the south-west corner of the raster,
        its altitude the lowest ground in whole metres, 0 for things on the ground

    Raises
    ------
    CityFileError
        If the file is missing, broken, empty, has no CRS or not the one that it names, or heights
        that are none.
    """
    import rasterio
    from rasterio.errors import RasterioError
    path = require_file(path)
    try:
        with rasterio.open(path) as file:
            if file.width * file.height > MOST_CELLS:
                raise CityFileError(f"{path}: {file.width} x {file.height} pixels are more than "
                                    f"{MOST_CELLS:,}; cut it to the city")
            band = file.read(1, masked=True)
            values = np.where(np.ma.getmaskarray(band), np.nan, band.data.astype(float))
            values = values * file.scales[0] + file.offsets[0]
            transform, crs, bands = file.transform, file.crs, file.count
    except (RasterioError, OSError, ValueError) as error:
        raise CityFileError(f"{path}: cannot be read as GeoTIFF ({error}); the file is cut off or "
                            "of another kind, export it again") from error
    text = crs.to_wkt() if crs else options.crs
    if not text:
        raise CityFileError(f"{path}: names no coordinate reference system; give it with --crs, "
                            "such as --crs EPSG:25833")
    values = np.where(np.isfinite(values), values, np.nan)
    notes = [] if bands == 1 else [f"{bands} bands: the first one is read"]
    if not np.isfinite(values).any():
        raise CityFileError(f"{path}: holds no heights (every pixel is unknown)")
    kind = _kind(path, values, options, notes)
    _check(path, values, kind)
    try:
        source = SourceCrs(text)
        corners = _apply(transform, [0, values.shape[1], 0, values.shape[1]],
                         [0, 0, values.shape[0], values.shape[0]])
        source.check_within_area_of_use(*corners)
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}; give the right one with --crs") from error
    if frame is None:
        lowest = float(np.floor(np.nanmin(values))) if kind == "terrain" else 0.0
        frame = source.frame_at(corners[0].min(), corners[1].min(), lowest)
    raster = _resampled(values, transform, source, frame, kind, corners)
    things = int(label(np.nan_to_num(raster.heights) > 0)[1]) if kind == "building" else 0
    if things:
        notes.append("buildings are counted as groups of cells that touch at an edge")
    counts = {s.value: 0 for s in HeightSource} | {HeightSource.MEASURED.value: things}
    return City(
        name=path.name, frame=frame, extent=tuple(float(v) for v in raster.extent),
        surfaces=() if kind == "terrain" else (raster,),
        terrain=raster if kind == "terrain" else None, n_buildings=things,
        height_sources=counts, crs=source.name, vertical_datum=source.vertical_datum,
        notes=tuple(notes))


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
    low, high = (LOWEST_M, HIGHEST_M) if kind == "terrain" else (-1.0, MAX_HEIGHT_M)
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


def _resampled(values, transform, source: SourceCrs, frame, kind, corners) -> HeightRaster:
    """On a grid along the map frame, of cells about as large as the pixels."""
    rows, columns = values.shape
    enu = source.to_enu(frame, *corners)
    wide = np.linalg.norm(enu[1] - enu[0]) / columns
    high = np.linalg.norm(enu[2] - enu[0]) / rows
    cell = max(0.1, round(float(min(wide, high)), 2))
    # What turns between the two frames is the same everywhere in a city, to a small part of a
    # pixel: one affine map from ENU to pixels, from the corners.
    pixels = np.array([[0, 0], [columns, 0], [0, rows], [columns, rows]], float)
    design = np.column_stack([enu[:, :2], np.ones(4)])
    to_pixel = np.linalg.lstsq(design, pixels, rcond=None)[0]      # (3, 2)
    low, top = enu[:, :2].min(axis=0), enu[:, :2].max(axis=0)
    shape = np.maximum(np.ceil((top - low) / cell - 1e-6), 1).astype(int)
    out = np.full(tuple(shape), np.nan, np.float32)
    if kind == "terrain":
        _between(values - frame.altitude_m, to_pixel, low[0], low[1], cell, out)
    else:
        _highest(values, to_pixel, low[0], low[1], cell, out)
    return HeightRaster(heights=out, origin=(float(low[0]), float(low[1])), cell=cell, kind=kind)


@njit(cache=True, nogil=True)
def _between(values, to_pixel, x0, y0, cell, out):
    """Bilinear between the centres of pixels that are known; else the nearest of the four."""
    rows, columns = values.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x, y = x0 + (i + 0.5) * cell, y0 + (j + 0.5) * cell
            u = x * to_pixel[0, 0] + y * to_pixel[1, 0] + to_pixel[2, 0] - 0.5
            v = x * to_pixel[0, 1] + y * to_pixel[1, 1] + to_pixel[2, 1] - 0.5
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
def _highest(values, to_pixel, x0, y0, cell, out):
    """The highest pixel that a cell may touch: of the box around its four corners."""
    rows, columns = values.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            low_u = low_v = np.inf
            high_u = high_v = -np.inf
            for corner in range(4):
                x, y = x0 + (i + (corner & 1)) * cell, y0 + (j + (corner >> 1)) * cell
                u = x * to_pixel[0, 0] + y * to_pixel[1, 0] + to_pixel[2, 0]
                v = x * to_pixel[0, 1] + y * to_pixel[1, 1] + to_pixel[2, 1]
                low_u, high_u = min(low_u, u), max(high_u, u)
                low_v, high_v = min(low_v, v), max(high_v, v)
            best = np.nan
            for c in range(max(0, int(np.floor(low_u + 1e-6))),
                           min(columns, int(np.ceil(high_u - 1e-6)))):
                for r in range(max(0, int(np.floor(low_v + 1e-6))),
                               min(rows, int(np.ceil(high_v - 1e-6)))):
                    if values[r, c] > 0 and not values[r, c] <= best:
                        best = values[r, c]
            out[i, j] = best
