"""Triangle meshes (PLY, OBJ, STL, glTF, OFF) and point clouds (PCD, PLY, XYZ)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from parallel_city_ros.city.local import place
from parallel_city_ros.city.mesh_files import (
    CLOUDS,
    MESHES,
    cloud_format,
    head_of,
    mesh_format,
    read_faces,
    read_points,
)
from parallel_city_ros.city.model import Boxes, City, HeightSource, Solid
from parallel_city_ros.city.options import UNTOLD, ReadOptions
from parallel_city_ros.city.raster import grid_of, terrain_of_points
from parallel_city_ros.city.triangulate import Faces, triangulate, weld
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame

SINGLE_PRECISION = ("stl", "gltf", "glb", "pcd")
BROKEN_M = 1e8              # no reference system has coordinates beyond; sensors write such
GRID_POINTS = 100           # fewer may lie on a grid by chance
TALLEST = 5000.0            # z of a mesh, in metres or feet
COARSE_M = 0.05             # a rounding of coordinates that is worth a note


def read_mesh(path: str | Path, options: ReadOptions = UNTOLD,
              frame: LocalFrame | None = None) -> City:
    """Read a triangle mesh: each connected part is a body.

    A body is closed if each edge has an even number of triangles once corners within a
    millimetre are one. glTF, whose y is up, is turned. Where it stands: see `local`.

    Raises
    ------
    CityFileError
        If the file is missing, damaged, no mesh or without faces, or cannot be where the options
        say.
    """
    path, head = Path(path), head_of(path)
    kind = mesh_format(path, head)
    if not kind:
        raise CityFileError(f"{path}: is no mesh with faces; {', '.join(MESHES)} are read")
    corners, faces = read_faces(path, kind)
    if not len(faces):
        raise CityFileError(f"{path}: has no faces" + (
            ", or is cut off; copy it again, a .gltf with the files that it names"
            if kind in ("stl", "gltf", "glb") else "; if it is a point cloud, save it as PCD or "
            "XYZ"))
    if kind in ("gltf", "glb"):
        corners = corners[:, [0, 2, 1]] * (1.0, -1.0, 1.0)
    faces, notes = _usable(path, corners, faces)
    used, faces.indices = np.unique(faces.indices, return_inverse=True)
    bounds = corners[used].min(axis=0), corners[used].max(axis=0)
    if (high := bounds[1][2] - bounds[0][2]) > TALLEST:
        raise CityFileError(f"{path}: spans {high:,.0f} in z, which is no city in metres; if they "
                            "are millimetres or centimetres export it in metres, if y is up with "
                            "z up")
    spot = place(path, bounds, options, frame)
    corners = spot.to_enu(corners[used])
    solids = _bodies(path, corners, faces, options.kind or "building")
    return City(
        name=path.name, frame=spot.frame, solids=solids, n_buildings=len(solids), crs=spot.crs,
        extent=_extent(corners), vertical_datum=spot.vertical_datum,
        height_sources={s.value: 0 for s in HeightSource} | {
            HeightSource.MEASURED.value: len(solids)},
        notes=(*notes, *_which_is_up(kind, corners, solids), *_rounding(path, kind, bounds),
               *spot.notes))


def read_cloud(path: str | Path, options: ReadOptions = UNTOLD,
               frame: LocalFrame | None = None) -> City:
    """Read a point cloud without classes: each point is an obstacle.

    With options.kind terrain, points on a regular grid are the ground (see `raster`). Points that
    are not finite, as sensors write for no echo, are left out and counted. Where it stands: see
    `local`.

    Raises
    ------
    CityFileError
        If the file is missing, damaged, no cloud or empty, or cannot be where the options say;
        if it is to be terrain and lies on no grid.
    """
    path, head = Path(path), head_of(path)
    kind = cloud_format(path, head)
    if not kind:
        raise CityFileError(f"{path}: is no point cloud; {', '.join(CLOUDS)} are read")
    points = read_points(path, kind)
    good = np.isfinite(points).all(axis=1) & (np.abs(points) < BROKEN_M).all(axis=1)
    notes = () if good.all() else (
        f"{int((~good).sum()):,} of {len(good):,} points are not numbers and are left out",)
    points = points[good]
    if not len(points):
        raise CityFileError(f"{path}: holds no points"
                            + ("; all are not a number" if len(good) else "; it is empty"))
    if options.kind == "terrain":
        city = terrain_of_points(path, points, options, frame)
        return replace(city, notes=(f"{len(points):,} points on a grid", *notes, *city.notes))
    if not options.kind and len(points) >= GRID_POINTS and grid_of(points) is not None:
        notes += ("the points lie on a regular grid and are taken as obstacles; if they are the "
                  "ground, say so with --kind terrain",)
    bounds = points.min(axis=0), points.max(axis=0)
    spot = place(path, bounds, options, frame)
    lower, upper = spot.boxes_to_enu(points, points)
    return City(
        name=path.name, frame=spot.frame, n_buildings=0, crs=spot.crs, extent=_extent(lower),
        boxes=(Boxes(lower=lower, upper=upper, kind=options.kind or "unknown"),),
        vertical_datum=spot.vertical_datum,
        notes=(f"{len(points):,} points", *notes, *_rounding(path, kind, bounds), *spot.notes))


def _usable(path, corners, polygons) -> tuple[Faces, tuple[str, ...]]:
    """Faces whose corners are numbers, and what is to be said of the others."""
    if isinstance(polygons, np.ndarray):
        sizes, indices = np.full(len(polygons), polygons.shape[1]), polygons.astype(np.int64)
    else:
        sizes = np.array([len(p) for p in polygons])
        indices = np.fromiter((k for p in polygons for k in p), np.int64)
    faces = Faces()
    faces.indices, faces.ring_sizes = indices.ravel(), sizes
    faces.face_rings = np.ones(len(sizes), np.int64)
    faces = faces.subset(np.flatnonzero(sizes >= 3))    # fewer corners: a line or a point
    if not len(faces):
        raise CityFileError(f"{path}: has no faces of three corners or more; export it again")
    low, high = faces.indices.min(), faces.indices.max()
    if low < 0 or high >= len(corners):
        raise CityFileError(f"{path}: a face names corner {high + 1:,} of {len(corners):,}; the "
                            "file is cut off or damaged, export it again")
    good = (np.isfinite(corners) & (np.abs(corners) < BROKEN_M)).all(axis=1)
    first = np.cumsum(faces.ring_sizes) - faces.ring_sizes
    whole = np.logical_and.reduceat(good[faces.indices], first)
    if not whole.any():
        raise CityFileError(f"{path}: no face has numbers for its corners; export it again")
    return faces.subset(np.flatnonzero(whole)), () if whole.all() else (
        f"{int((~whole).sum()):,} of {len(whole):,} faces have a corner that is not a number and "
        "are left out",)


def _bodies(path, corners, faces, kind) -> tuple[Solid, ...]:
    """The parts that hang together once near corners are one, without triangles of no area."""
    corners, same = np.unique(corners, axis=0, return_inverse=True)     # as STL repeats them
    faces.indices = same.ravel()[faces.indices]
    triangles = triangulate(corners, faces).corners
    triangles, _ = weld(corners, triangles, np.zeros(len(triangles), np.int64), 1)
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]
    if not len(triangles):
        raise CityFileError(f"{path}: no face of it has an area; its unit must be metres")
    a, b, c = triangles.T
    links = coo_array((np.ones(2 * len(a), np.int8), (np.r_[a, b], np.r_[b, c])),
                      shape=(len(corners),) * 2)
    _, part = np.unique(connected_components(links, directed=False)[1][a], return_inverse=True)
    closed = weld(corners, triangles, part, part.max() + 1)[1]
    order = np.argsort(part, kind="stable")
    parts = np.split(triangles[order], np.flatnonzero(np.diff(part[order])) + 1)
    return tuple(Solid(building_id=f"{path.stem}/{k}", triangles=corners[part], kind=kind,
                       closed=bool(closed[k])) for k, part in enumerate(parts))


def _which_is_up(kind, corners, solids) -> tuple[str, ...]:
    """A note where several bodies reach higher than they spread: y may be up, as in glTF."""
    _, wide, high = np.ptp(corners, axis=0)
    if kind in ("gltf", "glb") or len(solids) < 2 or high <= wide:
        return ()
    return (f"z is taken as up, as {kind} does not say; it spans {high:.0f} m and y {wide:.0f} m: "
            "if y is up in the file, export it with z up",)


def _rounding(path, kind, bounds) -> tuple[str, ...]:
    step = float(np.spacing(np.float32(np.abs(bounds).max())))
    if kind not in SINGLE_PRECISION or step < COARSE_M:
        return ()
    return (f"{path.name} may hold its coordinates in steps of {step:.2g} m, as {kind} is of "
            "single precision; export it around a nearer zero",)


def _extent(points) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = points[:, :2].min(axis=0).tolist(), points[:, :2].max(axis=0).tolist()
    return x0, y0, x1, y1
