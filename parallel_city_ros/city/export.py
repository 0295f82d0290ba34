"""The twin for other tools: meshes (PLY, GLB), OctoMap (.bt), buildings as GeoJSON, Gazebo.

What is written is read again by `read_city`; `Export.lost` says what a format has no place for.
Voxels are written from lists of those that are occupied, so that free sky costs nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.gazebo import is_plain, write_world, write_world_of_grid
from parallel_city_ros.city.local import LOCAL
from parallel_city_ros.city.model import Building, City, HeightSource, Solid
from parallel_city_ros.city.octomap import write_bt
from parallel_city_ros.city.osm import (
    METRES_PER_LEVEL,
    OBSTACLE_OF_KIND,
    OBSTACLES,
    SOURCE_TAG,
)
from parallel_city_ros.city.terrain import Ground, ground_of
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.files import write_atomically

DEGREE_DIGITS = 10      # 0.01 mm: less than what decides whether a voxel is touched
LEAST_M = 0.001         # of a height that is written
EXACT_FLOAT32 = 1 << 24     # whole numbers up to it are exact
# Of what is no building. A tree is not `natural`: that is flat to readers who know only buildings.
KIND_TAGS = {o.kind: {key: value} for (key, value), o in OBSTACLES.items()} | {
    "tree": {"building": "tree"}}
CONCRETE = (0.76, 0.72, 0.66, 1.0)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written, how much of it, and what the format could not hold."""

    files: tuple[Path, ...]
    counts: dict[str, int]
    lost: tuple[str, ...] = ()


def export(city: City, grid: VoxelGrid | None, path: str | Path) -> Export:
    """Write a city or its twin in the format that the file's name ends in.

    .sdf of prisms on flat ground, and .geojson, are written from the city; .ply, .glb, .bt and
    other .sdf are the voxels of the grid. Nothing is half written.

    grid : the city voxelised; None will do where `takes_voxels` says so

    Raises
    ------
    ConfigError
        If the ending is none of FORMATS, or the grid does not fit the format.
    CityFileError
        If the city has nothing that the format can hold, or the file cannot be written.
    """
    path = Path(path)
    write = FORMATS[ending_of(path, FORMATS)]
    with writing(path):
        return write(city, grid, path)


@contextmanager
def writing(path: str | Path):
    """Within it, what the system says against writing a file becomes a CityFileError."""
    try:
        yield
    except OSError as error:
        raise CityFileError(f"{path}: cannot be written ({error.strerror}); make its folder, or "
                            "name another file") from error


def takes_voxels(city: City, ending: str) -> bool:
    """Whether `export` of a city in this format writes voxels."""
    return ending != ".geojson" and not (ending == ".sdf" and is_plain(city))


def difference(grid: VoxelGrid, again: VoxelGrid) -> tuple[int, int]:
    """How many voxels a grid of the same frame and resolution lacks, and has besides."""
    shift = np.round((grid.origin - again.origin) / grid.resolution).astype(np.int64)
    return (int(np.count_nonzero(~again.holds(grid.voxels() + shift))),
            int(np.count_nonzero(~grid.holds(again.voxels() - shift))))


def ending_of(path: str | Path, known) -> str:
    """The ending of a file's name, in lower case.

    Raises
    ------
    ConfigError
        If it is not among the known ones.
    """
    ending = Path(path).suffix.lower()
    if ending not in known:
        raise ConfigError(f"{path}: its ending {ending or '(none)'} names no format that can be "
                          f"written here; there are {', '.join(known)}")
    return ending


# --- meshes -----------------------------------------------------------------------------------


def surface(grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """The faces between occupied and free voxels, as a closed mesh that looks outwards.

    A cavity's faces are tied to the outer ones by a wall without thickness: a reader that takes
    each part that hangs together for a body would fill the cavity.

    Returns
    -------
    corners : (V, 3) int32 array, in voxels from the grid's origin
    quads : (F, 4) int64 array, numbers of corners
    """
    shell = grid.shell()
    faces, free = [], []
    for axis in range(3):
        for side in (0, 1):
            step = np.zeros(3, np.int32)
            step[axis] = 2 * side - 1
            outer = shell[~grid.holds(shell + step)]
            faces.append(_quads(outer, axis, side))
            free.append(np.full(len(outer), 2 * axis + side))
    corners, quads = _numbered(np.concatenate(faces))
    ties = _ties(grid, corners, quads, np.concatenate(free))
    if len(ties):
        corners, quads = _numbered(np.concatenate([corners[quads], ties]))
    return corners, quads


def _quads(voxels, axis: int, side: int) -> np.ndarray:
    """(N, 4, 3) corners of one face of each voxel, counter-clockwise from outside."""
    u, v = (np.roll((1, 0, 0), axis + turn).astype(np.int32) for turn in (1, 2))
    lower = voxels + side * np.roll((1, 0, 0), axis).astype(np.int32)
    around = (0 * u, u, u + v, v) if side else (0 * u, v, u + v, u)
    return np.stack([lower + corner for corner in around], axis=1)


def _numbered(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F, 4, 3) corners → the different ones, and each face as four of their numbers."""
    points = quads.reshape(-1, 3).astype(np.int64)
    if not len(points):
        return np.empty((0, 3), np.int32), np.empty((0, 4), np.int64)
    lower = points.min(axis=0)
    size = points.max(axis=0) - lower + 1
    keys, numbers = np.unique(np.ravel_multi_index((points - lower).T, size), return_inverse=True)
    corners = np.stack(np.unravel_index(keys, size), axis=1) + lower
    return corners.astype(np.int32), numbers.reshape(-1, 4)


def _ties(grid, corners, quads, free) -> np.ndarray:
    """(N, 4, 3) faces, each there and back, from every cavity eastwards to the next free voxel.

    free : (F,) 2 * axis + side of each quad, the direction in which it looks
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    if not len(quads):
        return np.empty((0, 4, 3), np.int32)
    a, b, c, d = quads.T
    links = coo_array((np.ones(3 * len(a), np.int8), (np.r_[a, b, c], np.r_[b, c, d])),
                      shape=(len(corners),) * 2)
    count, part = connected_components(links, directed=False)
    part, x = part[a], corners[a, 0]
    # Divergence theorem: faces that look east or west, times where they are, sum to the volume.
    east, west = free == 1, free == 0
    volume = np.bincount(part[east], x[east], count) - np.bincount(part[west], x[west], count)
    ties = []
    for cavity in np.flatnonzero(volume < 0):
        walls = np.flatnonzero(west & (part == cavity))
        voxel = corners[quads[walls[np.argmax(x[walls])]]].min(axis=0)
        while grid.holds(voxel[None])[0]:
            there = _quads(voxel[None], 1, 0)
            ties += [there, there[:, ::-1]]
            voxel = voxel + np.array([1, 0, 0], np.int32)
    return np.concatenate(ties) if ties else np.empty((0, 4, 3), np.int32)


def _triangles(quads) -> np.ndarray:
    return quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)


def write_ply(grid: VoxelGrid, path: str | Path) -> dict[str, int]:
    """The twin's surface as binary PLY: ENU metres in double precision. Returns counts."""
    corners, quads = surface(grid)
    triangles = _triangles(quads)
    header = "\n".join([
        "ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in _about(grid)),
        f"element vertex {len(corners)}", *(f"property double {axis}" for axis in "xyz"),
        f"element face {len(triangles)}", "property list uchar int vertex_indices",
        "end_header\n"])
    rows = np.empty(len(triangles), [("count", "u1"), ("corners", "<i4", 3)])
    rows["count"], rows["corners"] = 3, triangles
    points = (corners * grid.resolution + grid.origin).astype("<f8")
    write_atomically(path, header.encode() + points.tobytes() + rows.tobytes())
    return {"vertices": len(corners), "triangles": len(triangles)}


def write_glb(grid: VoxelGrid, path: str | Path) -> dict[str, int]:
    """The twin's surface as binary glTF 2.0, y up. Returns counts.

    Corners are whole voxels, which single precision holds exactly; the node scales and moves
    them to metres.

    Raises
    ------
    ConfigError
        If the twin has nothing that stands, which glTF cannot say, or does not fit it.
    """
    corners, quads = surface(grid)
    if not len(quads):
        raise ConfigError(f"{path}: nothing stands in the twin, and glTF has no empty mesh")
    if corners.max() > EXACT_FLOAT32 or 24 * len(quads) + 12 * len(corners) >= 2**32 - 2**16:
        raise ConfigError(f"{path}: {len(quads):,} faces do not fit one glTF file of 4 GB; choose "
                          "a coarser resolution")
    points = (corners[:, [0, 2, 1]] * (1, 1, -1)).astype("<f4") + np.float32(0.0)   # no -0
    triangles = _triangles(quads).astype("<u4")
    x, y, z = (float(v) for v in grid.origin)
    document = {
        "asset": {"version": "2.0", "generator": "parallel_city_ros",
                  "copyright": grid.attribution, "extras": {"about": _about(grid)}},
        "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "city", "translation": [x, z, -y],
                   "scale": [grid.resolution] * 3}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1,
                                    "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {
            "baseColorFactor": CONCRETE, "metallicFactor": 0.0, "roughnessFactor": 0.9}}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3",
             "min": points.min(axis=0).tolist(), "max": points.max(axis=0).tolist()},
            {"bufferView": 1, "componentType": 5125, "count": triangles.size, "type": "SCALAR"}],
        "bufferViews": [
            {"buffer": 0, "byteLength": points.nbytes, "target": 34962},
            {"buffer": 0, "byteOffset": points.nbytes, "byteLength": triangles.nbytes,
             "target": 34963}],
        "buffers": [{"byteLength": points.nbytes + triangles.nbytes}]}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary = points.tobytes() + triangles.tobytes()
    write_atomically(path, b"".join((
        struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary)),
        struct.pack("<I4s", len(text), b"JSON"), text,
        struct.pack("<I4s", len(binary), b"BIN\0"), binary)))
    return {"vertices": len(points), "triangles": len(triangles)}


def _about(grid: VoxelGrid) -> list[str]:
    """Where its zero is, and who made the data: lines of plain text."""
    frame = grid.frame
    lines = [f"metres east, north, up of {frame.latitude_deg!r} {frame.longitude_deg!r} "
             f"{frame.altitude_m!r} (latitude, longitude, altitude)",
             f"voxels of {grid.resolution:g} m, map {grid.map_hash}", grid.attribution]
    return [" ".join(line.split()) for line in lines if line]


# --- GeoJSON ----------------------------------------------------------------------------------


def write_geojson(city: City, path: str | Path) -> Export:
    """The buildings as GeoJSON, RFC 7946, that `read_geojson` reads as the same prisms.

    A body with a roof's shape becomes the prism around it. Properties are those of OpenStreetMap;
    `height:source` says where a height comes from, so that none is ever taken for measured.

    Raises
    ------
    CityFileError
        If the city has no buildings, or is nowhere on earth.
    """
    if city.crs == LOCAL:
        raise CityFileError(f"{city.name}: is nowhere on earth, and GeoJSON is in degrees; say "
                            "where the zero of its metres is with --origin")
    ground = ground_of(city)
    around = [prism for solid in city.solids if (prism := _around(solid, ground)) is not None]
    prisms = [b for b in (*city.buildings, *around)
              if shapely.area(b.footprint) > 0 and b.top_z > LEAST_M]
    if all(b.kind in OBSTACLE_OF_KIND for b in prisms):
        raise CityFileError(f"{city.name}: holds no buildings with an outline, which is what "
                            "GeoJSON can say; export .bt, .ply or .glb")
    frame = city.frame
    collection = {
        "type": "FeatureCollection", "name": city.name, "attribution": city.attribution,
        "origin": [frame.longitude_deg, frame.latitude_deg, frame.altitude_m],
        "features": [_feature(b, frame) for b in prisms]}
    features = ",\n".join(json.dumps(f, ensure_ascii=False) for f in collection.pop("features"))
    head = json.dumps(collection, ensure_ascii=False)[:-1]
    write_atomically(path, f'{head}, "features": [\n{features}\n]}}\n')
    return Export(files=(Path(path),), counts={"features": len(prisms)},
                  lost=_lost_in_geojson(city, around))


def _feature(building: Building, frame) -> dict:
    tags = {"building": "yes" if building.kind == "building" else building.kind}
    properties = KIND_TAGS.get(building.kind, tags) | {
        "height": building.top_z, SOURCE_TAG: building.source.value}
    if building.is_part:
        properties["building:part"] = "yes"
    if building.source is HeightSource.LEVELS:
        properties["building:levels"] = building.top_z / METRES_PER_LEVEL
    if building.base_z > LEAST_M:
        properties["min_height"] = building.base_z
    outline = shapely.MultiPolygon(_outlines(building.footprint))
    outline = outline.geoms[0] if len(outline.geoms) == 1 else outline

    def to_degrees(xy):
        place = frame.to_wgs84(np.column_stack([xy, np.zeros(len(xy))]))
        return np.round(place[:, [1, 0]], DEGREE_DIGITS)
    outline = shapely.orient_polygons(shapely.transform(outline, to_degrees))
    return {"type": "Feature", "id": building.building_id, "properties": properties,
            "geometry": json.loads(shapely.to_geojson(outline))}


def _outlines(footprint) -> list[shapely.Polygon]:
    parts = shapely.get_parts(shapely.get_parts(footprint))
    return [p for p in parts if p.geom_type == "Polygon" and p.area > 0]


def _around(solid: Solid, ground: Ground) -> Building | None:
    """The prism around a body; None if it has no area seen from above."""
    flat = solid.triangles[..., :2]
    faces = shapely.polygons(flat)
    faces = faces[shapely.area(faces) > 1e-9]
    if not len(faces):
        return None
    outline = shapely.union_all(faces)
    z = ground.at(flat.reshape(-1, 2).mean(axis=0)) if solid.ground_z is None else solid.ground_z
    low, high = solid.triangles[..., 2].min() - z, solid.triangles[..., 2].max() - z
    if high <= 0:
        return None
    base = float(low) if solid.closed and low > 0 else 0.0
    return Building(building_id=solid.building_id, footprint=outline, base_z=base,
                    top_z=float(high), source=solid.source, is_part=solid.is_part,
                    kind=solid.kind)


def _lost_in_geojson(city, around) -> tuple[str, ...]:
    under = len(city.solids) - len(around)
    others = sorted({b.kind for b in city.buildings} | {s.kind for s in city.solids})
    others = [kind for kind in others if kind != "building" and kind not in KIND_TAGS]
    raised = sum(b.ground_z is not None for b in city.buildings)
    said = (
        (around, f"{len(around):,} bodies are written as the prisms around them, without the "
                 "shapes of their roofs"),
        (under, f"{under:,} bodies have no outline above the ground and are left out"),
        (city.terrain is not None or raised or any(s.ground_z is not None for s in city.solids),
         "the ground: heights are above a flat one"),
        (city.surfaces, f"{len(city.surfaces)} rasters of "
         + " and ".join(sorted({r.kind for r in city.surfaces}))),
        (city.boxes, f"{sum(len(b.lower) for b in city.boxes):,} boxes and points"),
        (others, f"what is no building ({', '.join(others)}) will be read as one"))
    return tuple(words for there, words in said if there)


# --- the formats by their endings -------------------------------------------------------------


def _sdf(city, grid, path) -> Export:
    if is_plain(city):
        write_world(city, path)
        return Export(files=(path,), counts={"prisms": len(city.buildings)})
    voxels, boxes = write_world_of_grid(grid, path, city.name)
    mesh = path.with_name(f"{path.stem}_ground.obj")
    return Export(files=(path,) if grid.terrain.is_flat else (path, mesh),
                  counts={"voxels": voxels, "boxes": boxes}, lost=_lost_in_voxels(grid)[:1])


def _ply(city, grid, path) -> Export:
    return Export(files=(path,), counts=write_ply(grid, path), lost=_lost_in_voxels(grid))


def _glb(city, grid, path) -> Export:
    lost = _lost_in_voxels(grid)
    if float(np.float32(grid.resolution)) != grid.resolution:
        reach = np.abs(grid.origin) + np.array(grid.shape) * grid.resolution
        lost += (f"up to {1000 * float(np.spacing(np.float32(reach.max()))):.2g} mm in programs "
                 "that reckon meshes in single precision, so that a voxel's neighbour may be "
                 "touched: choose a resolution such as 0.5, 1 or 2 m",)
    return Export(files=(path,), counts=write_glb(grid, path), lost=lost)


def _bt(city, grid, path) -> Export:
    voxels = grid.voxels()
    write_bt(path, voxels, grid.resolution, grid.origin)
    return Export(files=(path,), counts={"voxels": len(voxels)}, lost=_lost_in_voxels(grid))


def _geojson(city, grid, path) -> Export:
    return write_geojson(city, path)


def _lost_in_voxels(grid: VoxelGrid) -> tuple[str, ...]:
    frame = grid.frame
    return (
        f"what is what: buildings, ids and sources of heights are voxels of {grid.resolution:g} m",
        "the ground" + ("" if grid.terrain.is_flat else ", which is not flat: give its file again "
                        "with --terrain"),
        "its place on earth: read it with --origin "
        f"{frame.latitude_deg!r},{frame.longitude_deg!r},{frame.altitude_m!r}")


FORMATS: dict[str, Callable[[City, VoxelGrid, Path], Export]] = {
    ".sdf": _sdf, ".ply": _ply, ".glb": _glb, ".bt": _bt, ".geojson": _geojson}
READABLE = tuple(ending for ending in FORMATS if ending != ".sdf")      # by `read_city`
