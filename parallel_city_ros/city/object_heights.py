"""Heights and grounds of city objects: from attributes, outlines, storeys, or assumed."""

from __future__ import annotations

import re
from statistics import median

import numpy as np
import shapely

from parallel_city_ros.city.city_objects import HOUSES, CityObject, is_outline
from parallel_city_ros.city.model import Building, HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.osm import (
    MAX_HEIGHT_M,
    METRES_PER_LEVEL,
    MIN_ASSUMED_HEIGHT_M,
    parse_length_m,
    parse_levels,
)
from parallel_city_ros.city.vector import GROUNDS, HEIGHTS, LEVELS

# Beyond those of vector files; compared without case, blanks and underscores.
HEIGHT_NAMES = ("measuredheight", *HEIGHTS, "relativeridgeheight", "averageheight")
GROUND_NAMES = (*GROUNDS, "b3hmaaiveld", "hoehegrund")
ROOF_NAMES = ("b3hdakmax", "hdakmax", "absoluteridgeheight", "hoehedach")

LOWEST_M, HIGHEST_M = -1000.0, 10_000.0     # of all cities; a height beyond is an error
FLAT_M = 0.1                # a body lower than that is an outline
STOREY_M = 2.0              # outlines of ground and roof are at least that far apart
GROUND_BELOW_M = 10.0       # how far below a building its ground may be said to be


class Heights:
    """What is known of the ground and height of each family of objects.

    A part has the attributes of the building that it is of, where it has none itself.
    """

    def __init__(self, objects, options: ReadOptions, altitude_m: float):
        self.attribute, self.altitude_m = options.height_attribute, altitude_m
        self.assumed = 0.0
        self._attributes: dict[str, dict] = {}
        self._said: dict[str, float] = {}
        self._low: dict[str, float] = {}
        self._high: dict[str, float] = {}
        for o in objects:
            plain = {re.sub(r"[\s_]", "", str(k)).lower(): v for k, v in o.attributes.items()}
            self._attributes[o.object_id] = plain
            ground = _first(plain, GROUND_NAMES, _number)
            if ground is not None and LOWEST_M < ground < HIGHEST_M:
                self._said.setdefault(o.family, ground - altitude_m)
        self._exact = {o.object_id: o.attributes for o in objects}

    def saw(self, owner: CityObject, triangles) -> None:
        z = triangles[..., 2]
        self._low[owner.family] = min(float(z.min()), self._low.get(owner.family, np.inf))
        self._high[owner.family] = max(float(z.max()), self._high.get(owner.family, -np.inf))

    def is_outline(self, owner: CityObject) -> bool:
        """Whether it says where something stands, but not how high it is."""
        return is_outline(owner.lod) or owner.kind in HOUSES and \
            self._high[owner.family] - self._low[owner.family] < FLAT_M

    def ground(self, owner: CityObject) -> float | None:
        """z of the ground, metres; of a bridge it is not known, for it may hang."""
        if owner.kind == "bridge":
            return None
        low = self._low[owner.family]
        said = self._said.get(owner.family)
        if said is None or not is_outline(owner.lod) and not \
                low - GROUND_BELOW_M <= said <= self._high[owner.family]:
            return low
        return said

    def prisms(self, outlines) -> tuple[Building, ...]:
        """Outlines with their heights; what is no house stands only if its height is known."""
        found = []
        for owner, parts in outlines:
            triangles = np.concatenate(parts)
            height, source = self._height(owner, np.ptp(triangles[..., 2]))
            if height is None and owner.kind not in HOUSES:
                continue
            found.append((owner, triangles, height, source))
        known = [h for _, _, h, _ in found if h is not None]
        self.assumed = max(MIN_ASSUMED_HEIGHT_M, round(median(known), 1) if known else 0.0)
        buildings = []
        for owner, triangles, height, source in found:
            flat = shapely.polygons(triangles[..., :2])
            footprint = shapely.union_all(flat[shapely.area(flat) > 0])
            if footprint.is_empty:
                continue
            height = self.assumed if height is None else height
            ground = self.ground(owner)
            if owner.at_roof and owner.family not in self._said:
                ground -= height
            buildings.append(Building(
                building_id=owner.object_id, footprint=footprint, base_z=0.0, top_z=height,
                source=source, is_part=owner.is_part, ground_z=ground, kind=owner.kind))
        return tuple(buildings)

    def _height(self, owner: CityObject, rise: float) -> tuple[float | None, HeightSource]:
        for object_id in (owner.object_id, owner.family):
            if self.attribute:
                own = self._exact.get(object_id, {}).get(self.attribute)
                height = None if own is None else parse_length_m(str(own))
            else:
                plain = self._attributes.get(object_id, {})
                height = _first(plain, HEIGHT_NAMES, lambda v: parse_length_m(str(v)))
                roof = _first(plain, ROOF_NAMES, _number)
                if not height and roof is not None and owner.family in self._said:
                    height = roof - self.altitude_m - self._said[owner.family]
            if height and 0 < height <= MAX_HEIGHT_M:
                return height, HeightSource.MEASURED
        if rise > STOREY_M:     # outlines of ground and roof
            return float(rise), HeightSource.MEASURED
        for object_id in (owner.object_id, owner.family):
            levels = _first(self._attributes.get(object_id, {}), LEVELS,
                            lambda v: parse_levels(str(v)))
            if levels:
                return levels * METRES_PER_LEVEL, HeightSource.LEVELS
        return None, HeightSource.ASSUMED


def _first(attributes: dict, names, parse) -> float | None:
    """The first of the names that is there with a value that can be read."""
    for name in names:
        value = attributes.get(name)
        if value is not None and (number := parse(value)) is not None:
            return number
    return None


def _number(value) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
