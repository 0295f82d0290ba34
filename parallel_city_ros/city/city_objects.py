"""City objects as CityGML defines them, which CityJSON encodes too: what a file holds of them.

The readers `cityjson` and `citygml` make a `Model`, which `city_of_objects` puts into a frame.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from parallel_city_ros.city.triangulate import Faces

# What stands in the air's way, by the names of CityGML 1 and 2 and of CityJSON.
KINDS = {
    "Building": "building", "BuildingPart": "building", "BuildingInstallation": "building",
    "BuildingConstructiveElement": "building",
    "Bridge": "bridge", "BridgePart": "bridge", "BridgeInstallation": "bridge",
    "BridgeConstructionElement": "bridge", "BridgeConstructiveElement": "bridge",
    "OtherConstruction": "construction", "SolitaryVegetationObject": "tree",
    "PlantCover": "tree", "CityFurniture": "furniture", "GenericCityObject": "other"}
HOUSES = ("building", "construction")   # of these a mere outline stands too
TERRAIN = "TINRelief"
MOST_FACES = 20_000_000     # several GB in memory


@dataclass(eq=False)
class CityObject:
    """Something that stands, with its geometry of one level of detail.

    family : id of the object that it is a part of, else its own
    solids : face numbers of each; surfaces : of those that belong to none, or to them too
    at_roof : whether an outline lies at the top of what stands, not on the ground
    """

    object_id: str
    kind: str
    is_part: bool
    family: str
    attributes: dict
    lod: str = ""
    solids: list = field(default_factory=list)
    surfaces: list = field(default_factory=list)
    at_roof: bool = False

    @property
    def has_faces(self) -> bool:
        return bool(self.surfaces or any(len(s) for s in self.solids))


@dataclass(eq=False)
class Model:
    """What a file holds, in its own coordinates.

    vertices : (V, 3) float array; offsets : (V, 3), to be added; they are in metres where the
        coordinates are in degrees (of what is placed many times, such as a tree)
    terrain : face numbers of the ground
    crs_name : as the file says it; "" if it does not
    authority_order : whether coordinates that fit either way have the order of axes which the
        authority of the reference system prescribes, not x, y
    lods : of all that stands, chosen or not
    types : how many objects of each there are
    """

    path: Path
    vertices: np.ndarray
    faces: Faces
    objects: list[CityObject]
    terrain: list[int]
    types: Counter
    lods: set[str]
    offsets: np.ndarray | None = None
    crs_name: str = ""
    authority_order: bool = False
    attribution: str = ""
    notes: list[str] = field(default_factory=list)


def is_part(kind: str) -> bool:
    return kind.endswith(("Part", "Installation", "Element"))


# --- levels of detail ------------------------------------------------------------------------

def lod_name(lod) -> str:
    """2, 2.0 and "2.0" are one."""
    try:
        return f"{float(lod):g}"
    except (TypeError, ValueError):
        return str(lod)


def level_of(lod: str) -> float:
    try:
        return float(lod)
    except ValueError:
        return -1.0


def is_outline(lod: str) -> bool:
    return lod.split(".")[0] == "0"


def is_lod(lod: str, wanted: str) -> bool:
    """Whether it is the level asked for; 2 asks for each of 2.0 to 2.3."""
    return lod == wanted or "." not in wanted and lod.split(".")[0] == wanted


def choose_lod(lods, wanted: str) -> str:
    """The highest; or that asked for, else the next below it, else the next above."""
    lods, wanted = sorted(lods, key=level_of), wanted and lod_name(wanted)
    if not wanted:
        return lods[-1]
    exact = [lod for lod in lods if lod == wanted] or [v for v in lods if is_lod(v, wanted)]
    below = [lod for lod in lods if level_of(lod) < level_of(wanted)]
    return (exact or below or lods[:1])[-1]
