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
        x, y = np.asarray(x, float), np.asarray(y, float)
        if x.size == 1:     # pyproj warns of arrays that hold one number
            u, v = self._from_wgs84.transform(x.item(), y.item(), direction=direction)
            return np.full(x.shape, u), np.full(y.shape, v)
        return self._from_wgs84.transform(x, y, direction=direction)


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
