"""Several inputs into one city: footprints, LiDAR, terrain, canopy, models.

Everything that stands in one of them stands in the result: to be there twice is safe, to be
missing is not. Only what is the same building of the same file twice, as in two extracts that
overlap, is there once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import shapely

from parallel_city_ros.city.lidar import INSET_M, MIN_ROOF_M, MIN_ROOF_SEEN, Roof
from parallel_city_ros.city.model import Building, City, HeightRaster, HeightSource
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

ROOF_PERCENTILE = 95.0          # as of `lidar.Roof`
SAME_M = 0.01                   # corners of one building as two files have them
MAX_TERRAIN_CELLS = 25_000_000
UNSURE = (HeightSource.ASSUMED, HeightSource.LEVELS)


def combine(cities: Sequence[City], roofs: Mapping[str, Roof] | None = None) -> City:
    """One city of several that share a frame.

    - Name, CRS and frame are the first one's; its extent covers all.
    - Terrain is the first one's that has one; where that is unknown, the next one's.
    - Buildings whose height is assumed or made of storeys take it from the roofs, or else from
      the rasters of building heights, if those know most of the footprint: the 95th percentile
      in it. LiDAR and rasters stay, and with them what is higher.
    - Solids, surfaces and boxes of all stand beside each other. So do buildings, but for those
      of the same id and outline.
    - Counts are summed, attributions and notes joined.

    roofs : of the buildings as `together` names them, see `lidar.building_heights`

    Raises
    ------
    CityFileError
        If there is none, if frames differ, or if two have heights above different datums.
    """
    if not cities:
        raise CityFileError("no city file is given; give at least one")
    first = cities[0]
    for other in cities[1:]:
        if other.frame != first.frame:
            raise CityFileError(
                f"{other.name} is in another frame than {first.name} ({_where(other.frame)}, "
                f"{_where(first.frame)}); read it into the frame of the first")
    datum, notes = _datum(cities)
    extents = np.array([c.extent for c in cities])
    buildings, doubled = together(cities)
    counts = {s.value: sum(c.height_sources.get(s.value, 0) for c in cities)
              for s in HeightSource}
    for b in doubled:
        counts[b.source.value] -= 1
    city = replace(
        first, name=" + ".join(dict.fromkeys(c.name for c in cities)),
        extent=(*extents[:, :2].min(axis=0).tolist(), *extents[:, 2:].max(axis=0).tolist()),
        buildings=buildings, terrain=_terrain(cities),
        **{name: sum((getattr(c, name) for c in cities), ())
           for name in ("solids", "surfaces", "boxes")},
        n_buildings=sum(c.n_buildings for c in cities) - sum(not b.is_part for b in doubled),
        n_parts=sum(c.n_parts for c in cities) - sum(b.is_part for b in doubled),
        n_skipped=sum(c.n_skipped for c in cities),
        assumed_height_m=max(c.assumed_height_m for c in cities), height_sources=counts,
        attribution="; ".join(dict.fromkeys(c.attribution for c in cities if c.attribution)),
        vertical_datum=datum,
        notes=tuple(dict.fromkeys((
            *(note for c in cities for note in c.notes), *notes,
            *([f"{len(doubled):,} buildings are there twice and stand once"]
              if doubled else [])))))
    return _with_rasters(_with_roofs(city, roofs or {}))


def together(cities: Sequence[City]) -> tuple[tuple[Building, ...], list[Building]]:
    """All buildings, under ids of their own, and those that are there a second time."""
    buildings, doubled, taken = [], [], {}
    for building in (b for city in cities for b in city.buildings):
        name, number = building.building_id, 1
        while (other := taken.get(name)) is not None and not _same(other, building):
            number += 1
            name = f"{building.building_id} ({number})"
        if other is not None:
            doubled.append(building)
            continue
        taken[name] = building if number == 1 else replace(building, building_id=name)
        buildings.append(taken[name])
    return tuple(buildings), doubled


def _same(a: Building, b: Building) -> bool:
    return (a.base_z, a.top_z) == (b.base_z, b.top_z) \
        and a.footprint.equals_exact(b.footprint, SAME_M)


def _with_roofs(city: City, roofs: Mapping[str, Roof]) -> City:
    return _with_heights(city, {
        b.building_id: replace(b, top_z=roof.height, ground_z=roof.ground,
                               source=HeightSource.MEASURED)
        for b in city.buildings if b.source in UNSURE
        and (roof := roofs.get(b.building_id)) is not None and roof.height > b.base_z}, "LiDAR")


def _with_rasters(city: City) -> City:
    rasters = [r for r in city.surfaces if r.kind == "building"]
    found = {}
    if rasters:
        for b in city.buildings:
            if b.source in UNSURE and (height := _height_in(b.footprint, rasters)) > b.base_z:
                found[b.building_id] = replace(b, top_z=height, source=HeightSource.MEASURED)
    return _with_heights(city, found, "a raster of building heights")


def _with_heights(city: City, found: Mapping[str, Building], origin: str) -> City:
    if not found:
        return city
    counts = dict(city.height_sources)
    for b in city.buildings:
        if b.building_id in found:
            counts[b.source.value] -= 1
            counts[HeightSource.MEASURED.value] += 1
    return replace(
        city, buildings=tuple(found.get(b.building_id, b) for b in city.buildings),
        height_sources=counts,
        notes=(*city.notes, f"{len(found):,} of {len(city.buildings):,} buildings have their "
                            f"height from {origin}"))


def _height_in(footprint, rasters) -> float:
    """95th percentile in a footprint, of the raster that is highest there; NaN: not known."""
    inside = footprint.buffer(-INSET_M)
    inside = inside if inside.area > footprint.area / 2 else footprint
    known = [np.nan]
    for raster in rasters:
        values = _cells_in(raster, inside)
        seen = values[values >= MIN_ROOF_M]     # of zeros and NaN both: nothing stands there
        if len(values) and len(seen) / len(values) >= MIN_ROOF_SEEN:
            known.append(float(np.percentile(seen, ROOF_PERCENTILE)))
    return float(np.nanmax(known)) if len(known) > 1 else np.nan


def _cells_in(raster: HeightRaster, polygon) -> np.ndarray:
    """Values of the cells whose centre is in a polygon; of the one it is in, if it is that small.

    Cells beyond the raster count as unknown.
    """
    origin = np.array(raster.origin)
    lower, upper = np.array(polygon.bounds).reshape(2, 2)
    first, last = (np.floor((p - origin) / raster.cell).astype(int) for p in (lower, upper))
    i, j = np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)),
                       indexing="ij")
    inside = shapely.contains_xy(polygon, *(origin[d] + (c + 0.5) * raster.cell
                                            for d, c in enumerate((i, j))))
    cells = np.stack([i[inside], j[inside]], axis=1)
    if not len(cells):
        point = polygon.representative_point()
        cells = np.floor((np.array([[point.x, point.y]]) - origin) / raster.cell).astype(int)
    on = ((cells >= 0) & (cells < raster.heights.shape)).all(axis=1)
    values = np.full(len(cells), np.nan)
    values[on] = raster.heights[tuple(cells[on].T)]
    return values


def _where(frame: LocalFrame) -> str:
    return f"{frame.latitude_deg:.6f}, {frame.longitude_deg:.6f}, {frame.altitude_m:g} m"


def _has_altitudes(city: City) -> bool:
    """Whether it says how high something is, not only how high above the ground."""
    return bool(city.terrain is not None or city.solids or city.boxes
                or any(b.ground_z is not None for b in city.buildings))


def _datum(cities) -> tuple[str, list[str]]:
    """The vertical datum of all, and what is to be said about it."""
    said = {}
    for city in cities:
        if city.vertical_datum and _has_altitudes(city):
            said.setdefault(city.vertical_datum, city.name)
    if len(said) > 1:
        named = ", ".join(f"{name} above {datum}" for datum, name in said.items())
        raise CityFileError(f"heights are above different datums: {named}; export them above one, "
                            "as they may be tens of metres apart")
    datum = next(iter(said), "") or next((c.vertical_datum for c in cities if c.vertical_datum),
                                         "")
    silent = [c.name for c in cities if not c.vertical_datum and _has_altitudes(c)]
    return datum, [f"{name} does not name its vertical datum: taken for {datum}"
                   for name in silent if said]


def _terrain(cities) -> HeightRaster | None:
    """The first terrain; where it is unknown or ends, the next."""
    rasters = [c.terrain for c in cities if c.terrain is not None]
    if len(rasters) < 2:
        return rasters[0] if rasters else None
    extents = np.array([r.extent for r in rasters])
    lower, upper = extents[:, :2].min(axis=0), extents[:, 2:].max(axis=0)
    cell = max(min(r.cell for r in rasters),
               float(np.sqrt(np.prod(upper - lower) / MAX_TERRAIN_CELLS)))
    # on the first one's cells, if they are as fine: then its heights are kept as they are
    first = np.array(rasters[0].origin)
    origin = first - cell * np.ceil((first - lower) / cell - 1e-6)
    shape = np.ceil((upper - origin) / cell - 1e-6).astype(int)
    heights = np.full(tuple(shape), np.nan)
    for raster in rasters:
        _fill(heights, origin, cell, raster)
    return HeightRaster(heights=heights.astype(np.float32), origin=tuple(origin.tolist()),
                        cell=cell, kind="terrain")


def _fill(heights, origin, cell, raster) -> None:
    """Fill, in place, what is unknown from a raster: bilinear, at its edges the nearest cell."""
    from scipy.ndimage import map_coordinates

    x0, y0, x1, y1 = raster.extent
    first = np.maximum(np.ceil((np.array([x0, y0]) - origin) / cell - 0.5 - 1e-6), 0).astype(int)
    last = np.floor((np.array([x1, y1]) - origin) / cell - 0.5 + 1e-6).astype(int) + 1
    part = heights[first[0]:last[0], first[1]:last[1]]
    places = [(origin[d] + (np.arange(part.shape[d]) + first[d] + 0.5) * cell
               - raster.origin[d]) / raster.cell - 0.5 for d in range(2)]
    places = np.stack(np.meshgrid(*places, indexing="ij"))
    nearest = np.clip(np.round(places).astype(int), 0,
                      np.array(raster.heights.shape)[:, None, None] - 1)
    near = raster.heights[tuple(nearest)]
    found = map_coordinates(raster.heights.astype(float), places, order=1, mode="nearest")
    found = np.where(np.isfinite(found), found, near)   # beside what is unknown: the nearest
    found[np.isnan(near)] = np.nan
    unknown = np.isnan(part)
    part[unknown] = found[unknown]


def moved(city: City, frame: LocalFrame) -> City:
    """Prisms above a flat ground, such as of OpenStreetMap, in another frame.

    Their heights are above their own ground, wherever that is.
    """
    if city.frame == frame:
        return city

    def to_enu(xy):
        position = city.frame.to_wgs84(np.column_stack([xy, np.zeros(len(xy))]))
        return frame.to_enu(position[:, 0], position[:, 1])[:, :2]
    buildings = tuple(replace(b, footprint=shapely.transform(b.footprint, to_enu))
                      for b in city.buildings)
    x0, y0, x1, y1 = shapely.transform(shapely.box(*city.extent).segmentize(100.0), to_enu).bounds
    return replace(city, frame=frame, buildings=buildings, extent=(x0, y0, x1, y1))
