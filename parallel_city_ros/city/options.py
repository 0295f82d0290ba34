"""What a city file does not say by itself, and its reader has to be told."""

from __future__ import annotations

from dataclasses import dataclass

from parallel_city_ros.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    crs: str = setting("", "reference system of the file, such as EPSG:25833; '': as it says")
    height_attribute: str = setting("", "attribute that holds heights; '': the usual names")
    height_unit: str = setting("", "m or ft, of attributes and rasters that name no unit; '': m, "
                               "of rasters that of their system", choices=("", "m", "ft"))
    layer: str = setting("", "layer of a file that has several; '': the only one")
    lod: str = setting("", "level of detail of 3-D city models, such as 2.2; '': the highest")
    origin: str = setting("", "latitude,longitude[,altitude] of the zero of local metres")
    kind: str = setting("", "of a raster or cloud: terrain, building, tree; '': by its content")

    def __post_init__(self):
        check(self)


UNTOLD = ReadOptions()
