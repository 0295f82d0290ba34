"""Where a file without a reference system of its own stands: meshes, clouds, OctoMaps.

Their coordinates are one of three, in this order:

1. metres around `options.origin` (latitude, longitude, altitude): x east, y north, z up;
2. coordinates of `options.crs`, and z a height;
3. metres of the map frame they are read into, or, if there is none yet, of a frame that is
   nowhere on earth. A city in that frame can be looked at and planned in, but not flown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyproj import CRS

from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

LOCAL = "local"             # City.crs of a city that is nowhere on earth
NOWHERE = LocalFrame(0.0, 0.0)
NO_GEOREFERENCE = ("no georeference: local metres; fly-able only after giving an origin: "
                   "--origin latitude,longitude,altitude of its zero")
REACH_M = 100_000.0         # local coordinates beyond are those of a map projection, or broken
MAX_ALTITUDE_M = 12_000.0   # the ocean's depth, and more than a mountain's height


@dataclass(frozen=True)
class Placement:
    """How a file's coordinates become ENU metres of a frame.

    to_enu : (..., 3) coordinates as in the file → (..., 3) ENU metres
    """

    frame: LocalFrame
    crs: str
    vertical_datum: str
    to_enu: Callable[[np.ndarray], np.ndarray]
    notes: tuple[str, ...] = ()

    def boxes_to_enu(self, lower, upper) -> tuple[np.ndarray, np.ndarray]:
        """Boxes around the boxes of the file, whose axes may point elsewhere a little."""
        if lower is upper:
            points = self.to_enu(lower)
            return points, points
        low, high = np.full(lower.shape, np.inf), np.full(upper.shape, -np.inf)
        for corner in range(8):
            upper_side = [bool(corner >> axis & 1) for axis in range(3)]
            moved = self.to_enu(np.where(upper_side, upper, lower))
            np.minimum(low, moved, out=low)
            np.maximum(high, moved, out=high)
        return low, high


def place(path: Path, bounds, options: ReadOptions, frame: LocalFrame | None) -> Placement:
    """Where a file stands whose coordinates lie within bounds.

    bounds : (2, 3) float, lowest and highest coordinates in the file

    Raises
    ------
    CityFileError
        If the coordinates cannot be what the options say.
    ConfigError
        If options.origin or options.crs is none.
    """
    bounds = np.asarray(bounds, float)
    if options.origin or not options.crs:
        beyond = np.abs(bounds[:, :2]).max()
        if beyond > REACH_M:
            raise CityFileError(
                f"{path}: has a coordinate {beyond:,.0f} m from its zero, which are no local "
                "metres; if they are of a map projection name it with --crs, such as --crs "
                "EPSG:25833")
        _check_heights(path, bounds[:, 2])
    if options.origin:
        return _around_origin(parse_origin(options.origin), frame)
    if options.crs:
        return _of_crs(path, bounds, SourceCrs(options.crs), frame)
    if frame is not None:
        return Placement(frame, LOCAL, "", lambda p: np.asarray(p, float), notes=(
            f"{path.name} names no reference system: its coordinates are taken for metres of the "
            "map frame",))
    return Placement(NOWHERE, LOCAL, "", lambda p: np.asarray(p, float), notes=(NO_GEOREFERENCE,))


def parse_origin(text: str) -> LocalFrame:
    """'60.17,24.94' or '60.17,24.94,12' → the frame with its zero there.

    Raises
    ------
    ConfigError
        If it is no latitude and longitude in degrees.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
        if len(numbers) not in (2, 3) or not np.isfinite(numbers).all():
            raise ValueError(text)
    except ValueError:
        raise ConfigError(f"origin {text!r} is not latitude,longitude or latitude,longitude,"
                          "altitude in degrees and metres, such as 60.17,24.94,12") from None
    return LocalFrame(*numbers)


def metres_per_height_unit(crs: CRS) -> float:
    """Of z in a file of this reference system.

    Where the system has no vertical part, a file in feet has its heights in feet too; with
    degrees they are metres.
    """
    axes = crs.axis_info
    if len(axes) > 2:
        return axes[2].unit_conversion_factor
    return axes[0].unit_conversion_factor if crs.is_projected else 1.0


def inside_area_of_use(path: Path, source: SourceCrs, bounds) -> None:
    """Raises CityFileError if a corner of the bounds cannot be of this reference system."""
    bounds = np.asarray(bounds, float)
    try:
        source.check_within_area_of_use(bounds[[0, 0, 1, 1], 0], bounds[[0, 1, 0, 1], 1])
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}") from error
    _check_heights(path, bounds[:, 2] * metres_per_height_unit(source.crs))


def _check_heights(path, heights) -> None:
    if np.abs(heights).max() > MAX_ALTITUDE_M:
        raise CityFileError(f"{path}: has heights from {heights.min():,.0f} to "
                            f"{heights.max():,.0f} m, which is nowhere on earth; export it again")


def _around_origin(home: LocalFrame, frame: LocalFrame | None) -> Placement:
    crs = f"{LOCAL}, zero at {home.latitude_deg!r}, {home.longitude_deg!r}"
    if frame is None or frame == home:
        return Placement(home, crs, "", lambda p: np.asarray(p, float))

    def to_enu(points):
        position = home.to_wgs84(points)
        return frame.to_enu(position[..., 0], position[..., 1], position[..., 2])
    return Placement(frame, crs, "", to_enu)


def _of_crs(path, bounds, source: SourceCrs, frame: LocalFrame | None) -> Placement:
    inside_area_of_use(path, source, bounds)
    unit = metres_per_height_unit(source.crs)
    if frame is None:
        (x, y, z), _ = bounds
        frame = source.frame_at(x, y, float(np.floor(z * unit)))

    def to_enu(points):
        points = np.asarray(points, float)
        return source.to_enu(frame, points[..., 0], points[..., 1], points[..., 2] * unit)
    return Placement(frame, source.name, source.vertical_datum, to_enu)
