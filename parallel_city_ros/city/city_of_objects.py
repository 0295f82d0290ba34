"""From city objects to a `City`: triangles of all bodies, prisms over outlines, the ground."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.city_objects import (
    KINDS,
    TERRAIN,
    CityObject,
    Model,
    is_lod,
    is_outline,
    level_of,
    lod_name,
)
from parallel_city_ros.city.local import metres_per_height_unit
from parallel_city_ros.city.model import City, HeightSource, Solid
from parallel_city_ros.city.object_heights import HIGHEST_M, LOWEST_M, Heights
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.triangulate import Faces, terrain_raster, triangulate, weld
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs


def city_of(model: Model, options: ReadOptions, frame: LocalFrame | None) -> City:
    """Put a model into a frame: triangles of all bodies, prisms over outlines, the ground.

    Raises
    ------
    CityFileError
        See `cityjson.read_cityjson`.
    """
    path, notes = model.path, list(model.notes)
    _check_lod(model, options.lod)
    source, vertical_datum = source_crs(path, options.crs, model.crs_name)
    standing = _without_outlines(model.objects, options.lod)
    owners, faces, body_of_face = _bodies(standing, model)
    n_bodies = len(owners)
    if not len(faces):
        raise CityFileError(f"{path}: holds nothing that stands and has a geometry ("
                            + (_listed(model.types) or "no objects")
                            + "); choose a file of buildings")
    used, faces.indices = np.unique(faces.indices, return_inverse=True)
    points, offsets = _metres_of_crs(model, used, source, notes)
    in_body = np.repeat(np.repeat(body_of_face < n_bodies, faces.face_rings), faces.ring_sizes)
    stands = np.zeros(len(used), bool)
    stands[faces.indices[in_body]] = True
    vertices, frame = _into_frame(path, source, points, offsets,
                                  stands if stands.any() else ~stands, frame)
    faces.indices = _distinct(vertices)[faces.indices]
    single = _without_doubles(faces, body_of_face, owners)
    faces, body_of_face = faces.subset(np.flatnonzero(single)), body_of_face[single]

    mesh = triangulate(vertices, faces)
    body = body_of_face[mesh.face]
    corners, of_body = mesh.corners, body < n_bodies
    corners[of_body], closed = weld(vertices, corners[of_body], body[of_body], n_bodies)
    kept = ~mesh.degenerate[mesh.face]
    triangles, body = vertices[corners[kept]], body[kept]
    starts = np.searchsorted(body, np.arange(n_bodies + 2))
    parts = [triangles[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
    if n := int(mesh.degenerate.sum()):
        notes.append(f"{n:,} of {len(faces):,} surfaces have no area and are left out")
    if n := int(mesh.crossing.sum()):
        notes.append(f"{n:,} of {len(faces):,} surfaces cross themselves")

    heights = Heights(standing, options, frame.altitude_m)
    found = [(owner, part, bool(shut)) for (owner, _), part, shut
             in zip(owners, parts[:-1], closed, strict=True) if len(part)]
    for owner, part, _ in found:
        heights.saw(owner, part)
    solids, outlines = [], {}
    for owner, part, shut in found:
        if heights.is_outline(owner):
            outlines.setdefault(owner.object_id, (owner, []))[1].append(part)
        else:
            solids.append(Solid(building_id=owner.object_id, triangles=part, closed=shut,
                                is_part=owner.is_part, ground_z=heights.ground(owner),
                                kind=owner.kind))
    buildings = heights.prisms(outlines.values())
    terrain = terrain_raster(parts[-1])
    if not solids and not buildings and terrain is None:
        raise CityFileError(f"{path}: holds nothing that stands: its surfaces have no area, or "
                            "are outlines of no known height; export it again")
    sources = {o.building_id: o.source for o in (*buildings, *solids)}
    counts = {s.value: 0 for s in HeightSource} | Counter(s.value for s in sources.values())
    with_body = {o.family for o in standing if o.object_id in sources}
    # A building whose parts stand needs no geometry of its own.
    lost = [o for o in standing if o.object_id not in sources
            and (o.has_faces or o.family not in with_body)]
    notes += _notes(model, buildings, solids, lost)
    return City(
        name=path.name, frame=frame, extent=_extent(buildings, solids) or terrain.extent,
        buildings=buildings, solids=tuple(solids), terrain=terrain,
        n_buildings=model.types["Building"], n_parts=model.types["BuildingPart"],
        n_skipped=len(lost), attribution=model.attribution, height_sources=counts,
        assumed_height_m=heights.assumed if counts[HeightSource.ASSUMED.value] else 0.0,
        crs=source.name, vertical_datum=vertical_datum, notes=tuple(notes))


def _bodies(standing, model: Model):
    """What is to become bodies, and the terrain after them.

    Returns the owner of each body and whether it is a solid; faces; the body of each face.
    """
    owners, numbers = [], []
    for o in standing:
        for faces in (*o.solids, o.surfaces):
            if len(faces):
                owners.append((o, faces is not o.surfaces))
                numbers.append(np.asarray(faces, np.int64))
    numbers.append(np.asarray(model.terrain, np.int64))
    body = np.repeat(np.arange(len(numbers)), [len(n) for n in numbers])
    return owners, model.faces.subset(np.concatenate(numbers)), body


def _distinct(points) -> np.ndarray:
    """(N,) for each of (N, 3) points the number of the first that is equal to it."""
    order = np.lexsort(points.T)
    new = np.r_[True, (points[order[1:]] != points[order[:-1]]).any(axis=1)]
    first = np.empty(len(points), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first


def _without_doubles(faces: Faces, body_of_face, owners) -> np.ndarray:
    """(F,) bool: without surfaces of an object that one of its solids or surfaces equals.

    Files often draw a wall as part of the building's solid and again as its boundary. Twice
    the same surface would count as a closed body without volume.
    """
    # The sum of random numbers of its corners tells a face, wherever it begins.
    mark = np.random.default_rng(0).integers(
        1 << 62, size=int(faces.indices.max(initial=0)) + 1, dtype=np.uint64)
    corner_sums = np.r_[np.zeros(1, np.uint64), np.cumsum(mark[faces.indices])]
    ends = np.cumsum(faces.ring_sizes)
    starts = ends - faces.ring_sizes
    rings = corner_sums[ends] - corner_sums[starts]
    long = np.flatnonzero(faces.ring_sizes > 1)
    last = faces.indices[ends[long] - 1]
    rings[long] -= np.where(last == faces.indices[starts[long]], mark[last], np.uint64(0))
    ring_sums = np.r_[np.zeros(1, np.uint64), np.cumsum(rings)]
    ends = np.cumsum(faces.face_rings)
    keys = ring_sums[ends] - ring_sums[ends - faces.face_rings]

    number = {id(o): n for n, (o, _) in enumerate(owners)}
    owner = np.array([*(number[id(o)] for o, _ in owners), -1])[body_of_face]
    solid = np.array([*(is_solid for _, is_solid in owners), True])[body_of_face]
    order = np.lexsort([keys, owner])       # stable: solids come before surfaces
    again = np.zeros(len(keys), bool)
    again[order[1:]] = (keys[order[1:]] == keys[order[:-1]]) \
        & (owner[order[1:]] == owner[order[:-1]])
    return ~again | solid


def _extent(buildings, solids) -> tuple[float, float, float, float] | None:
    corners = [shapely.get_coordinates(b.footprint) for b in buildings]
    corners += [s.triangles[..., :2].reshape(-1, 2) for s in solids]
    if not corners:
        return None
    corners = np.concatenate(corners)
    return *corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()


def _notes(model: Model, buildings, solids, lost) -> list[str]:
    notes = []
    if buildings:
        notes.append(f"{len(buildings):,} objects are known by their outline only")
    if n := sum(not s.closed for s in solids):
        notes.append(f"{n:,} of {len(solids):,} bodies are not closed: they are filled down to "
                     "the ground")
    if lost:
        notes.append(f"{len(lost):,} objects have no geometry of use, such as "
                     f"{lost[0].object_id}")
    if flat := Counter({k: n for k, n in model.types.items() if k not in (*KINDS, TERRAIN)}):
        notes.append(f"no obstacles, left out: {_listed(flat)}")
    return notes


def _listed(types: Counter) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in types.most_common())


def _check_lod(model: Model, wanted: str) -> None:
    if wanted and not any(is_lod(lod, lod_name(wanted)) for lod in model.lods):
        there = ", ".join(sorted(model.lods - {""}, key=level_of)) or "none"
        raise CityFileError(f"{model.path}: has no geometry of level of detail {wanted}; there "
                            f"is {there}")


def _without_outlines(objects, wanted: str) -> list[CityObject]:
    """Of a family either what has height or, if nothing has, or they are asked for, outlines."""
    asked = bool(wanted) and is_outline(lod_name(wanted))
    preferred = {o.family for o in objects if o.has_faces and is_outline(o.lod) == asked}
    return [o for o in objects if o.family not in preferred or is_outline(o.lod) == asked]


# --- reference systems -----------------------------------------------------------------------

_EPSG = re.compile(r"EPSG(?:::?|/|\.xml#)(?:[\d.]*[:/])?(\d{4,6})", re.IGNORECASE)
# Names of the German surveying authorities (AdV), horizontal*vertical: east comes first.
_GAUSS_KRUEGER = re.compile(r"DHDN_3GK([2-5])(?!\d)")
_UTM = re.compile(r"ETRS89_UTM(3[123])(?!\d)")


def source_crs(path: Path, told: str, named: str) -> tuple[SourceCrs, str]:
    """The reference system of a file and the name of its vertical datum.

    told : as the user says it, which goes before what the file names

    Raises
    ------
    CityFileError
        If the file names none, or one that is not known.
    ConfigError
        If the user's is none.
    """
    horizontal, _, vertical = named.partition("*")
    if told:
        source = SourceCrs(told)
        return source, source.vertical_datum or vertical
    if not named:
        raise CityFileError(f"{path}: names no reference system; give it with --crs, such as "
                            "--crs EPSG:7415")
    candidates = [named]
    if codes := _EPSG.findall(named):
        candidates.append("EPSG:" + "+".join(codes[:2]))
    elif match := _GAUSS_KRUEGER.search(horizontal):
        candidates = [f"EPSG:{31464 + int(match[1])}"]
    elif match := _UTM.search(horizontal):
        candidates = [f"EPSG:{25800 + int(match[1])}"]
    elif "CRS84" in named or "CRS:84" in named:
        candidates.append("OGC:CRS84")
    for candidate in candidates:
        try:
            source = SourceCrs(candidate)
        except ConfigError:
            continue
        return source, source.vertical_datum or vertical
    raise CityFileError(f"{path}: names the reference system {named!r}, which is not known; give "
                        "it with --crs, such as --crs EPSG:25832")


def _metres_of_crs(model, used, source, notes):
    """Coordinates and offsets of the used vertices as x east, y north, z in metres."""
    points = model.vertices[used]
    offsets = None if model.offsets is None else model.offsets[used]
    if offsets is not None and not source.crs.is_geographic:
        points, offsets = points + offsets, None
    finite = np.isfinite(points).all(axis=1)
    if offsets is not None:
        finite &= np.isfinite(offsets).all(axis=1)
    if not finite.all():
        raise CityFileError(f"{model.path}: has a vertex that is no number: "
                            f"{points[np.argmin(finite)].tolist()}; export it again")
    north_first, doubt = _is_north_first(source, points, model.authority_order)
    if north_first:
        points = points[:, [1, 0, 2]]
        notes.append(f"coordinates are taken as north, east, the order of {source.name}{doubt}")
    elif doubt:
        notes.append(f"coordinates are taken as east, north, not in the order of {source.name}"
                     f"{doubt}")
    unit = metres_per_height_unit(source.crs)
    if unit != 1.0:
        points = points * (1.0, 1.0, unit)
        notes.append(f"heights are taken as units of {unit:g} m, as those of {source.name}")
    z = points[:, 2]
    absurd = (z < LOWEST_M) | (z > HIGHEST_M)
    if absurd.any():
        raise CityFileError(f"{model.path}: has a vertex at a height of "
                            f"{z[np.argmax(absurd)]:g} m, where no city is; export it again")
    return points, offsets


def _is_north_first(source: SourceCrs, points, authority_order: bool) -> tuple[bool, str]:
    """Whether x and y have to be swapped, and what is to be said where that is not certain.

    Authorities put north first in many systems and files follow them or do not, whatever they
    declare. Where the coordinates fit the system's area in one order only, that is it. German
    surveyors put east first, whatever EPSG says of their systems on the datum DHDN.
    """
    lower, upper = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    x, y = [lower[0], lower[0], upper[0], upper[0]], [lower[1], upper[1], lower[1], upper[1]]
    prescribed = source.crs.axis_info[0].direction == "north" and "DHDN" not in source.crs.name
    east_fits, north_fits = _fits(source, x, y), _fits(source, y, x)
    both = prescribed and east_fits and north_fits
    return (both and authority_order if east_fits else north_fits,
            "; both orders fit: look whether it lies where it should" if both else "")


def _fits(source, x, y) -> bool:
    try:
        _check_area(source, x, y)
    except ConfigError:
        return False
    return True


def _check_area(source, x, y) -> None:
    with np.errstate(invalid="ignore"):     # what cannot be projected is infinite
        source.check_within_area_of_use(x, y)


def _into_frame(path, source, points, offsets, stands, frame):
    """Vertices in ENU metres of the frame, and the frame; stands: those that it lies around."""
    x, y, z = points.T
    try:
        _check_area(source, x, y)
    except ConfigError as error:
        raise CityFileError(f"{path}: {error}; give the right one with --crs") from error
    heights = z if offsets is None else z + offsets[:, 2]
    if frame is None:
        frame = source.frame_at(x[stands].min(), y[stands].min(), float(np.floor(heights.min())))
    vertices = source.to_enu(frame, x, y, z)
    return (vertices if offsets is None else vertices + offsets), frame
