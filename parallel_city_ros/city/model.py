"""What a city file says: buildings with heights, and where each height comes from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

import shapely

from parallel_city_ros.geo import LocalFrame


class HeightSource(Enum):
    MEASURED = "measured"   # a height tag
    LEVELS = "levels"       # number of storeys times a storey's height
    ASSUMED = "assumed"     # nothing is known: see City.assumed_height_m


@dataclass(frozen=True, kw_only=True)
class Building:
    """A prism over a footprint.

    footprint : polygon in the map frame (ENU), metres
    base_z, top_z : metres above ground (a part on pillars has base_z > 0)
    """

    building_id: str
    footprint: shapely.Polygon | shapely.MultiPolygon
    base_z: float
    top_z: float
    source: HeightSource
    is_part: bool = False


@dataclass(frozen=True, kw_only=True)
class City:
    """All prisms that stand, in one local frame.

    extent : (min east, min north, max east, max north), metres
    n_buildings, n_parts : objects in the file; `buildings` holds what is left of the
        outlines once their parts have replaced them, and the parts
    """

    name: str
    frame: LocalFrame
    extent: tuple[float, float, float, float]
    buildings: tuple[Building, ...]
    n_buildings: int
    n_parts: int
    n_skipped: int
    assumed_height_m: float
    attribution: str
    height_sources: dict[str, int]

    def built_area_by_source(self) -> dict[str, float]:
        """Footprint area in m² for each height source."""
        area = Counter({s.value: 0.0 for s in HeightSource})
        for b in self.buildings:
            area[b.source.value] += b.footprint.area
        return dict(area)

    def buildings_near(self, point, distance: float) -> list[str]:
        """Ids of the buildings within metres of an (east, north) point, the highest first."""
        place = shapely.Point(point)
        near = [b for b in self.buildings if b.footprint.distance(place) <= distance]
        return [b.building_id for b in sorted(near, key=lambda b: -b.top_z)]
