"""Frames: WGS84, the city's local ENU frame, PX4's NED. The only place that converts.

The map frame is an azimuthal equidistant projection around the city's origin, as in
PX4's own `MapProjection`: x east, y north, z up, metres. At the edge of a 10 km city
it differs from a plane tangent to the earth by less than a millimetre per metre, and
unlike that plane it keeps z a height, so that a flat street stays flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from parallel_city_ros.errors import ConfigError


@dataclass(frozen=True)
class LocalFrame:
    """Local ENU frame of a city (REP 103, frame `map` of REP 105).

    Parameters
    ----------
    latitude_deg, longitude_deg : float
        WGS84 position of the origin, degrees.
    altitude_m : float
        Altitude of z = 0 in the city file's own vertical datum, metres. It is passed
        through, never converted: that needs a geoid grid.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0

    def __post_init__(self):
        if not (abs(self.latitude_deg) <= 90 and abs(self.longitude_deg) <= 180):
            raise ConfigError(
                f"origin ({self.latitude_deg}, {self.longitude_deg}) is not a latitude and "
                "longitude in degrees")

    @cached_property
    def proj(self) -> str:
        """The frame's projection as a PROJ string."""
        return (f"+proj=aeqd +lat_0={self.latitude_deg!r} +lon_0={self.longitude_deg!r} "
                "+x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs")

    @cached_property
    def crs(self) -> CRS:
        return CRS.from_proj4(self.proj)

    @cached_property
    def _from_wgs84(self) -> Transformer:
        return Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)

    def to_enu(self, latitude_deg, longitude_deg, altitude_m=0.0) -> np.ndarray:
        """WGS84 degrees and metres → (..., 3) ENU metres."""
        x, y = self._project(longitude_deg, latitude_deg, "FORWARD")
        z = np.broadcast_to(np.asarray(altitude_m, float) - self.altitude_m, np.shape(x))
        return np.stack([x, y, z], axis=-1)

    def to_wgs84(self, enu) -> np.ndarray:
        """(..., 3) ENU metres → (..., 3) latitude and longitude in degrees, altitude in m."""
        enu = np.asarray(enu, float)
        lon, lat = self._project(enu[..., 0], enu[..., 1], "INVERSE")
        return np.stack([lat, lon, enu[..., 2] + self.altitude_m], axis=-1)

    def _project(self, x, y, direction: str):
        return _transform(self._from_wgs84, x, y, direction)


def _transform(transformer: Transformer, x, y, direction: str = "FORWARD"):
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.size == 1:     # pyproj warns of arrays that hold one number
        u, v = transformer.transform(x.item(), y.item(), direction=direction)
        return np.full(x.shape, u), np.full(y.shape, v)
    return transformer.transform(x, y, direction=direction)


def parse_crs(text: str) -> CRS:
    """A coordinate reference system from an EPSG code, WKT or PROJ text.

    Raises
    ------
    ConfigError
        If it names none, or one of no use for a map (geocentric, engineering).
    """
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError(f"{text!r} names no coordinate reference system ({error}); give one "
                          "such as EPSG:25833") from error
    flat = crs.sub_crs_list[0] if crs.is_compound else crs
    if not (flat.is_projected or flat.is_geographic):
        raise ConfigError(f"{text!r} is neither a projected nor a geographic reference system")
    return crs


class SourceCrs:
    """The reference system of a city file, and the way from it to a city's local frame.

    Coordinates are (x, y) = (east, north) or (longitude, latitude), whatever order of axes the
    authority prescribes; readers swap where a format follows the authority. Heights stay in
    the file's vertical datum: to convert them a geoid grid would be needed.
    """

    def __init__(self, crs: CRS | str):
        self.crs = crs if isinstance(crs, CRS) else parse_crs(crs)
        self._flat = CRS(self.crs).to_2d() if not self.crs.is_compound \
            else self.crs.sub_crs_list[0]
        self._to_wgs84 = Transformer.from_crs(self._flat, "EPSG:4326", always_xy=True)

    @property
    def name(self) -> str:
        """As authority and code where it has them, else its name."""
        authority = self.crs.to_authority()
        return ":".join(authority) if authority else self.crs.name

    @property
    def vertical_datum(self) -> str:
        """Name of the vertical part, such as "NAP height"; "" if the CRS has none."""
        return self.crs.sub_crs_list[1].name if self.crs.is_compound else ""

    def frame_at(self, x: float, y: float, altitude_m: float = 0.0) -> LocalFrame:
        """The local frame with its origin at a point of this CRS."""
        lon, lat = self._to_wgs84.transform(float(x), float(y))
        return LocalFrame(float(lat), float(lon), altitude_m)

    def check_within_area_of_use(self, x, y) -> None:
        """Refuse coordinates that cannot be of this CRS.

        Raises
        ------
        ConfigError
            If a coordinate lies outside the area that the CRS is made for.
        """
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        lon, lat = _transform(self._to_wgs84, x, y)
        area = self._flat.area_of_use
        west, south, east, north = area.bounds if area else (-180, -90, 180, 90)
        # Degrees: authorities draw their boxes tight, and states keep one zone of a transverse
        # Mercator system far beyond its own: all of Bavaria is in UTM zone 32.
        operation = self._flat.coordinate_operation
        zoned = operation is not None and operation.method_name == "Transverse Mercator"
        slack = 3.5 if zoned else 0.5
        with np.errstate(invalid="ignore"):     # of places that are not on earth at all
            across = (lon - (west - slack)) % 360 <= (east - west) % 360.000001 + 2 * slack
        inside = np.isfinite(lon) & np.isfinite(lat) & across \
            & (lat >= south - slack) & (lat <= north + slack)
        if not inside.all():
            k = int(np.argmin(inside))
            raise ConfigError(
                f"coordinate ({x[k]:g}, {y[k]:g}) is outside the area of {self.name}"
                + (f" ({area.name})" if area else "") + "; this is not its reference system")

    def to_enu(self, frame: LocalFrame, x, y, z=None) -> np.ndarray:
        """Coordinates of this CRS → (..., 3) ENU metres of a local frame.

        z : heights in metres, in the datum of frame.altitude_m; None: they are on z = 0
        """
        lon, lat = _transform(self._to_wgs84, x, y)
        return frame.to_enu(lat, lon, frame.altitude_m if z is None else z)


def ned_to_enu(ned) -> np.ndarray:
    """(..., 3) north, east, down → east, north, up. Its own inverse."""
    ned = np.asarray(ned, float)
    return np.stack([ned[..., 1], ned[..., 0], -ned[..., 2]], axis=-1)


enu_to_ned = ned_to_enu


def yaw_enu_to_heading_deg(yaw: float) -> float:
    """ENU yaw (radians, counter-clockwise from east) → compass heading in [0, 360) degrees."""
    return float((90.0 - np.degrees(yaw)) % 360.0)


def heading_deg_to_yaw_enu(heading_deg: float) -> float:
    """Compass heading in degrees → ENU yaw in (-pi, pi] radians."""
    yaw = np.radians(90.0 - heading_deg)
    return float(np.arctan2(np.sin(yaw), np.cos(yaw)))
