"""Surfaces of 3-D city models as triangles: polygons with holes, closedness, terrain.

A model's faces are planar polygons, as its maker believed; measured ones are a little bent,
repeat corners, have corners on straight edges, or cross themselves. Whatever they are, the
triangles use the polygon's own corners and keep each of its edges, so that two faces that
met before meet afterwards.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely

from parallel_city_ros.city.model import HeightRaster

MIN_FACE_AREA_M2 = 1e-6     # below it a face is a line: mm coordinates make none smaller
MERGE_DISTANCE_M = 1e-3     # corners nearer than that are one
_FLAT_M2 = 1e-9             # rounding errors of a triangle's area
_MAX_CELLS = 10_000_000     # of a terrain: 40 MB
_CHUNK = 2_000_000          # cells looked at in one go


class Faces:
    """Polygons in space as numbers of vertices: flat lists that grow as a file is read.

    indices : vertex of every corner, ring after ring; a ring may repeat its first at its end
    ring_sizes : corners of each ring
    face_rings : rings of each face: its outline, then its holes
    """

    def __init__(self):
        self.indices, self.ring_sizes, self.face_rings = array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self.face_rings)

    def subset(self, numbers: np.ndarray) -> Faces:
        """The faces of these numbers, in their order; one may be there twice."""
        indices, sizes, rings = (
            np.array(v, np.int64) for v in (self.indices, self.ring_sizes, self.face_rings))
        wanted = _spans(np.cumsum(rings) - rings, rings, numbers)
        chosen = Faces()
        chosen.indices = indices[_spans(np.cumsum(sizes) - sizes, sizes, wanted)]
        chosen.ring_sizes, chosen.face_rings = sizes[wanted], rings[numbers]
        return chosen

    def add(self, rings: Iterable) -> None:
        """Append a face.

        Raises
        ------
        TypeError, OverflowError
            If a corner is no whole number; the face is then half there.
        """
        count = 0
        for ring in rings:
            self.indices.extend(ring)
            self.ring_sizes.append(len(ring))
            count += 1
        self.face_rings.append(count)


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles of faces, in the order of the faces.

    corners : (T, 3) int, vertex numbers, turning as the face does
    face : (T,) int, ascending
    degenerate : (F,) bool, faces without area; their triangles are there, and as thin as they
    crossing : (F,) bool, faces that cross themselves. Their triangles overlap: a place is in
        the face where an odd number of them covers it
    """

    corners: np.ndarray
    face: np.ndarray
    degenerate: np.ndarray
    crossing: np.ndarray


def triangulate(vertices: np.ndarray, faces: Faces) -> Mesh:
    """Triangles of all faces at once.

    Most faces of a city are walls and gables, which a fan around a corner covers; the others
    go through GEOS' constrained Delaunay triangulation, projected along the main axis of
    their normal.

    vertices : (V, 3) float array, finite, in metres
    """
    face_rings = np.array(faces.face_rings, np.int64)
    n_faces = len(face_rings)
    if not len(faces.indices):
        return Mesh(np.empty((0, 3), np.int64), np.empty(0, np.int64),
                    np.ones(n_faces, bool), np.zeros(n_faces, bool))
    indices, ring, n_rings = _without_repetitions(vertices, faces)
    sizes = np.bincount(ring, minlength=n_rings)
    starts = np.cumsum(sizes) - sizes
    normals = _ring_normals(vertices[indices], ring, starts, sizes)
    areas = np.linalg.norm(normals, axis=1)

    face_of_ring = np.repeat(np.arange(n_faces), face_rings)
    is_outline = np.zeros(n_rings, bool)
    is_outline[(np.cumsum(face_rings) - face_rings)[face_rings > 0]] = True
    outline = np.full(n_faces, -1)
    outline[face_of_ring[is_outline]] = np.flatnonzero(is_outline)
    degenerate = (outline < 0) | (areas[outline] < MIN_FACE_AREA_M2)
    used = is_outline | (areas >= MIN_FACE_AREA_M2)     # a hole without area is none
    holes = np.bincount(face_of_ring[used & ~is_outline], minlength=n_faces)

    pieces = []     # (corners, face) of each way to make triangles
    waiting = ~degenerate & (holes == 0)
    for shift in (0, 1):    # of a simple quadrangle one of both is right
        chosen = np.flatnonzero(waiting)
        triangles, owner = _fans(indices, starts, sizes, outline[chosen], shift)
        owner = chosen[owner]
        turn = _areas_along(vertices[triangles], normals[outline[owner]])
        wrong = np.zeros(n_faces, bool)
        wrong[owner[turn < -_FLAT_M2]] = True
        waiting &= wrong
        right = ~wrong[owner]
        pieces.append((triangles[right], owner[right]))

    hard = np.flatnonzero(waiting | (~degenerate & (holes > 0)))
    rings = np.flatnonzero(used & np.isin(face_of_ring, hard))
    triangles, owner, crossing = _delaunay(
        vertices, indices, starts, sizes, rings, face_of_ring, areas, normals, outline, n_faces)
    pieces.append((triangles, owner))

    # Parity is what fans keep even of a polygon that crosses itself.
    rings = np.flatnonzero(used & (crossing | degenerate)[face_of_ring])
    triangles, owner = _fans(indices, starts, sizes, rings, 0)
    pieces.append((triangles, face_of_ring[rings][owner]))

    corners = np.concatenate([p[0] for p in pieces])
    face = np.concatenate([p[1] for p in pieces])
    order = np.argsort(face, kind="stable")
    return Mesh(corners[order], face[order], degenerate, crossing)


def _spans(starts, sizes, chosen) -> np.ndarray:
    """Every place of the chosen spans, span after span."""
    counts = sizes[chosen]
    return np.repeat(starts[chosen] - (np.cumsum(counts) - counts), counts) \
        + np.arange(counts.sum())


def _without_repetitions(vertices, faces):
    """Corners that differ from the one before them, the ring of each, the number of rings."""
    indices, sizes = np.array(faces.indices, np.int64), np.array(faces.ring_sizes, np.int64)
    ring = np.repeat(np.arange(len(sizes)), sizes)
    previous = np.arange(-1, len(indices) - 1)
    filled = sizes > 0
    previous[(np.cumsum(sizes) - sizes)[filled]] = np.cumsum(sizes)[filled] - 1
    keep = (vertices[indices] != vertices[indices[previous]]).any(axis=1)
    return indices[keep], ring[keep], len(sizes)


def _ring_normals(points, ring, starts, sizes) -> np.ndarray:
    """(R, 3) Newell normals, as long as the ring's area."""
    following = np.arange(1, len(points) + 1)
    filled = sizes > 0
    following[(starts + sizes - 1)[filled]] = starts[filled]
    origin = points[starts[ring]]   # sums of small numbers lose less
    cross = np.cross(points - origin, points[following] - origin)
    return np.stack([np.bincount(ring, cross[:, k], len(sizes)) for k in range(3)], axis=1) / 2


def _fans(indices, starts, sizes, rings, shift):
    """Triangles around one corner of each ring → (T, 3) vertex numbers, (T,) place in rings."""
    count = np.maximum(sizes[rings] - 2, 0)
    owner = np.repeat(np.arange(len(rings)), count)
    step = _spans(np.zeros(len(rings), int), count, np.arange(len(rings)))
    start, size = starts[rings][owner], sizes[rings][owner]
    places = (shift + np.stack([np.zeros_like(step), step + 1, step + 2], axis=1)) \
        % size[:, None]
    return indices[start[:, None] + places], owner


def _areas_along(triangles, normals) -> np.ndarray:
    """(T,) areas of (T, 3, 3) triangles, negative where they turn against the normals."""
    cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(normals, axis=1)
    return np.einsum("ij,ij->i", cross, normals) / np.maximum(length, 1e-300) / 2


def _delaunay(vertices, indices, starts, sizes, rings, face_of_ring, areas, normals, outline,
              n_faces):
    """Constrained Delaunay triangles of the faces of these rings, and which faces have none.

    Returns (T, 3) vertex numbers, (T,) face, (F,) bool.
    """
    crossing = np.zeros(n_faces, bool)
    if not len(rings):
        return np.empty((0, 3), np.int64), np.empty(0, np.int64), crossing
    faces, polygon = np.unique(face_of_ring[rings], return_inverse=True)
    axis = np.argmax(np.abs(normals[outline[faces]]), axis=1)
    corner_ring = np.repeat(np.arange(len(rings)), sizes[rings])
    corner = indices[_spans(starts, sizes, rings)]
    along = axis[polygon[corner_ring]]
    points = vertices[corner]
    row = np.arange(len(corner))
    # GEOS carries z along untouched: there it takes the vertex's number with it.
    flat = np.stack([points[row, (along + 1) % 3], points[row, (along + 2) % 3],
                     corner.astype(float)], axis=1)
    outlines = shapely.polygons(shapely.linearrings(flat, indices=corner_ring), indices=polygon)
    pieces, owner = shapely.get_parts(_triangles_of(outlines), return_index=True)
    found = shapely.get_coordinates(pieces, include_z=True).reshape(-1, 4, 3)[:, :3, 2]
    triangles = found.astype(np.int64)

    # Faces that cross themselves show: too few triangles, or another area than the rings'.
    n_holes = np.bincount(polygon) - 1
    expected = np.bincount(polygon, sizes[rings]).astype(int) + 2 * n_holes - 2
    signed = _areas_along(vertices[triangles], normals[outline[faces[owner]]])
    covered = np.bincount(owner, np.abs(signed), len(faces))
    area = areas[outline[faces]]
    area = 2 * area - np.bincount(polygon, areas[rings], len(faces))
    good = (np.bincount(owner, minlength=len(faces)) == expected) \
        & (np.abs(covered - area) <= 1e-3 * np.abs(area) + _FLAT_M2)
    crossing[faces[~good]] = True
    right = good[owner]
    triangles, owner, signed = triangles[right], owner[right], signed[right]
    triangles[signed < 0] = triangles[signed < 0][:, ::-1]
    return triangles, faces[owner], crossing


def _triangles_of(polygons) -> np.ndarray:
    try:
        return shapely.constrained_delaunay_triangles(polygons)
    except shapely.errors.GEOSException:    # of one of them: the others are to have theirs
        found = []
        for polygon in polygons:
            try:
                found.append(shapely.constrained_delaunay_triangles(polygon))
            except shapely.errors.GEOSException:
                found.append(shapely.GeometryCollection())
        return np.array(found, object)


def weld(vertices: np.ndarray, corners: np.ndarray, body: np.ndarray,
         n_bodies: int) -> tuple[np.ndarray, np.ndarray]:
    """Which bodies enclose a volume, once their corners nearer than a millimetre are one.

    They do if an even number of triangles meets at every edge. An edge that ends within
    another is a gap, though nothing may be seen through it.

    vertices : (V, 3) metres; corners : (T, 3) vertex numbers; body : (T,) number of the body

    Returns (T, 3) corners, those that were near each other with one number, and (n_bodies,)
    bool.
    """
    closed = np.bincount(body, minlength=n_bodies) > 0
    closed[_bodies_with_odd_edges(corners, body)] = False
    doubtful = ~closed[body]
    if doubtful.any():      # perhaps only because equal corners are written differently
        corners = corners.copy()
        corners[doubtful] = _merge(vertices, corners[doubtful], body[doubtful])
        closed[body[doubtful]] = True
        closed[_bodies_with_odd_edges(corners[doubtful], body[doubtful])] = False
    return corners, closed


def _bodies_with_odd_edges(corners, body) -> np.ndarray:
    """Numbers of bodies at an edge of which an odd number of triangles meets."""
    n_vertices = int(corners.max(initial=0)) + 1
    # vertex numbers of each body's own, so that an edge of two fits one 64-bit number
    keys, own = np.unique(body[:, None] * n_vertices + corners, return_inverse=True)
    own = own.reshape(-1, 3)
    a, b = own.ravel(), own[:, [1, 2, 0]].ravel()
    edges = np.minimum(a, b) * len(keys) + np.maximum(a, b)
    edges, count = np.unique(edges[a != b], return_counts=True)
    return np.unique(keys[edges[count % 2 == 1] // len(keys)] // n_vertices)


def _merge(vertices, corners, body) -> np.ndarray:
    """Corners, with the same number for those of a body less than a millimetre apart."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    n_vertices = len(vertices)
    keys, own = np.unique(body[:, None] * n_vertices + corners, return_inverse=True)
    # bodies stand metres apart in a fourth dimension: their corners are not merged
    points = np.column_stack([vertices[keys % n_vertices], keys // n_vertices])
    pairs = cKDTree(points).query_pairs(MERGE_DISTANCE_M, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(len(keys), len(keys)))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return (keys[first] % n_vertices)[group][own].reshape(-1, 3)


def terrain_raster(triangles: np.ndarray, cell: float = 2.0) -> HeightRaster | None:
    """The ground's height at cell centres; of triangles above each other the highest.

    triangles : (N, 3, 3) float array, ENU metres
    cell : metres; of a large terrain it is doubled until the raster fits

    Returns None if no cell centre lies under a triangle.
    """
    if not len(triangles):
        return None
    lower, upper = triangles[..., :2].min(axis=(0, 1)), triangles[..., :2].max(axis=(0, 1))
    while np.prod(np.ceil((upper - lower) / cell) + 1) > _MAX_CELLS:
        cell *= 2
    origin = np.floor(lower / cell) * cell
    shape = np.maximum(np.ceil((upper - origin) / cell).astype(int), 1)
    heights = np.full(tuple(shape), np.nan, np.float32)

    grid = (triangles[..., :2] - origin) / cell - 0.5   # whole numbers are cell centres
    first = np.maximum(np.ceil(grid.min(axis=1) - 1e-9).astype(int), 0)
    last = np.minimum(np.floor(grid.max(axis=1) + 1e-9).astype(int), shape - 1)
    size = np.maximum(last - first + 1, 0)
    edge1, edge2 = grid[:, 1] - grid[:, 0], grid[:, 2] - grid[:, 0]
    twice = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0]
    count = size.prod(axis=1) * (np.abs(twice) > 1e-12)     # upright ones have no ground
    chunk = np.cumsum(count) // _CHUNK
    bounds = np.flatnonzero(np.diff(chunk, prepend=-1, append=chunk[-1] + 1))
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        which = np.repeat(np.arange(begin, end), count[begin:end])
        step = _spans(np.zeros(len(count), int), count, np.arange(begin, end))
        i = first[which, 0] + step // size[which, 1]
        j = first[which, 1] + step % size[which, 1]
        dx, dy = i - grid[which, 0, 0], j - grid[which, 0, 1]
        b = (dx * edge2[which, 1] - dy * edge2[which, 0]) / twice[which]
        c = (dy * edge1[which, 0] - dx * edge1[which, 1]) / twice[which]
        inside = (b >= -1e-9) & (c >= -1e-9) & (b + c <= 1 + 1e-9)
        z = triangles[which, :, 2]
        z = z[:, 0] + b * (z[:, 1] - z[:, 0]) + c * (z[:, 2] - z[:, 0])
        np.fmax.at(heights, (i[inside], j[inside]), z[inside].astype(np.float32))
    if np.isnan(heights).all():
        return None
    return HeightRaster(heights=heights, origin=(float(origin[0]), float(origin[1])),
                        cell=float(cell), kind="terrain")
