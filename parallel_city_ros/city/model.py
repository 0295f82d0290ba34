"""What city files say: buildings with heights, where each height comes from, the ground."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import shapely

from parallel_city_ros.geo import LocalFrame


class HeightSource(Enum):
    MEASURED = "measured"   # a height attribute, a model, LiDAR
    LEVELS = "levels"       # number of storeys times a storey's height
    ASSUMED = "assumed"     # nothing is known: see City.assumed_height_m


@dataclass(frozen=True, kw_only=True)
class Building:
    """A prism over a footprint.

    footprint : polygon in the map frame (ENU), metres
    base_z, top_z : metres above the building's own ground (a part on pillars has base_z > 0)
    ground_z : z of that ground in the map frame, metres; None: whatever ground lies beneath
    kind : building, tree, crane, tower, ...
    """

    building_id: str
    footprint: shapely.Polygon | shapely.MultiPolygon
    base_z: float
    top_z: float
    source: HeightSource
    is_part: bool = False
    ground_z: float | None = None
    kind: str = "building"


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid:
    """A body bounded by triangles, such as a building with its roof's shape.

    triangles : (N, 3, 3) float array, ENU metres in the map frame
    closed : whether they enclose a volume; what is not closed is filled down to the ground
    ground_z : z of the ground that it stands on, metres; None: unknown
    """

    building_id: str
    triangles: np.ndarray
    source: HeightSource = HeightSource.MEASURED
    is_part: bool = False
    closed: bool = True
    ground_z: float | None = None
    kind: str = "building"


@dataclass(frozen=True, kw_only=True, eq=False)
class HeightRaster:
    """Heights on a regular grid that is aligned with the map frame.

    heights : (nx, ny) float32 array, metres, NaN where unknown. Of the terrain: z in the map
        frame at cell centres. Of objects: metres above the ground of the highest thing in the cell
    origin : east and north of the lower corner of cell (0, 0), metres; cell : its edge, metres
    kind : terrain, building, tree
    """

    heights: np.ndarray
    origin: tuple[float, float]
    cell: float
    kind: str = "terrain"

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(min east, min north, max east, max north), metres."""
        (x, y), (nx, ny) = self.origin, self.heights.shape
        return x, y, x + nx * self.cell, y + ny * self.cell


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes:
    """Obstacles that are known as boxes: leaves of an OctoMap, or points, which have no size.

    lower, upper : (N, 3) float arrays, ENU metres in the map frame
    """

    lower: np.ndarray
    upper: np.ndarray
    kind: str = "unknown"


@dataclass(frozen=True, kw_only=True)
class City:
    """All that stands, in one local frame.

    extent : (min east, min north, max east, max north), metres
    n_buildings, n_parts : objects in the files; `buildings` holds what is left of the
        outlines once their parts have replaced them, and the parts
    terrain : the ground; None: as the buildings' ground_z say, or else flat at z = 0
    surfaces : heights of objects above the ground
    crs : reference system of the file that the frame was made from, as it names it
    vertical_datum : of frame.altitude_m, as the file names it; "" where it does not say
    notes : what was repaired, left out or assumed, in words
    """

    name: str
    frame: LocalFrame
    extent: tuple[float, float, float, float]
    buildings: tuple[Building, ...] = ()
    solids: tuple[Solid, ...] = ()
    surfaces: tuple[HeightRaster, ...] = ()
    boxes: tuple[Boxes, ...] = ()
    terrain: HeightRaster | None = None
    n_buildings: int
    n_parts: int = 0
    n_skipped: int = 0
    assumed_height_m: float = 0.0
    attribution: str = ""
    height_sources: dict[str, int] = field(
        default_factory=lambda: {s.value: 0 for s in HeightSource})
    crs: str = "EPSG:4326"
    vertical_datum: str = ""
    notes: tuple[str, ...] = ()

    def built_area_by_source(self) -> dict[str, float]:
        """Footprint area in m² for each height source."""
        area = Counter({s.value: 0.0 for s in HeightSource})
        for b in self.buildings:
            area[b.source.value] += b.footprint.area
        return dict(area)

    def buildings_near(self, point, distance: float) -> list[str]:
        """Ids of the buildings within metres of an (east, north) point, the highest first."""
        place = shapely.Point(point)
        near = [(b.top_z, b.building_id) for b in self.buildings
                if b.footprint.distance(place) <= distance]
        near += [(s.triangles[..., 2].max(), s.building_id) for s in self.solids
                 if _box(s).distance(place) <= distance]
        return [name for _, name in sorted(near, reverse=True)]


def _box(solid: Solid):
    lower, upper = (f(solid.triangles[..., :2], axis=(0, 1)) for f in (np.min, np.max))
    return shapely.box(*lower, *upper)
