"""Triangles cover their faces, keep their edges, close their bodies and make the ground."""

from collections import Counter

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from parallel_city_ros.city.triangulate import Faces, terrain_raster, triangulate, weld


def faces_of(*faces) -> Faces:
    found = Faces()
    for face in faces:
        found.add(face)
    return found


def star(rng, n, inner, outer):
    """(n, 2) corners of a polygon that its middle (0, 0) sees, between two radii."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    # no gap of half a turn, or the middle would be outside
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False) * 0.7 + angle * 0.3
    return rng.uniform(inner, outer, n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def rotation(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def areas(triangles):
    return np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0],
                                   triangles[:, 2] - triangles[:, 0]), axis=1) / 2


def odd_edges(corners):
    """Edges that an odd number of triangles has: the border of what they cover."""
    count = Counter(frozenset((int(t[k]), int(t[k - 1]))) for t in corners for k in range(3)
                    if t[k] != t[k - 1])
    return {edge for edge, n in count.items() if n % 2}


@st.composite
def polygons_in_space(draw):
    """Vertices, rings of one face, its area: at any angle, with holes, with corners on edges."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rings = [star(rng, draw(st.integers(3, 30)), 5.0, 50.0)]
    if draw(st.booleans()):
        for k in range(draw(st.integers(1, 3))):    # side by side around the middle
            hole = star(rng, draw(st.integers(3, 8)), 0.2, 0.4)[::-1]
            rings.append(hole + (1.2 * (k - 1), 0.3))
    polygon = shapely.Polygon(rings[0], rings[1:])
    assume(polygon.is_valid)    # no hole reaches beyond a thin star
    if draw(st.booleans()):
        polygon = shapely.segmentize(polygon, 9.0)
        rings = [np.array(r.coords)[:-1] for r in (polygon.exterior, *polygon.interiors)]
    flat = np.concatenate(rings)
    points = np.c_[flat, np.zeros(len(flat))] @ rotation(rng).T + rng.uniform(-1e4, 1e4, 3)
    ends = np.cumsum([len(r) for r in rings])
    return points, [list(range(e - len(r), e)) for e, r in zip(ends, rings, strict=True)], \
        polygon.area


@given(polygons_in_space())
def test_triangles_cover_the_face_and_keep_its_edges(face):
    points, rings, area = face
    mesh = triangulate(points, faces_of(rings))
    triangles = points[mesh.corners]
    assert not mesh.crossing.any() and not mesh.degenerate.any()
    assert areas(triangles).sum() == pytest.approx(area, rel=1e-6)
    border = {frozenset((r[k], r[k - 1])) for r in rings for k in range(len(r))}
    assert odd_edges(mesh.corners) == border


@given(polygons_in_space())
def test_triangles_turn_as_their_face(face):
    points, rings, _ = face
    mesh = triangulate(points, faces_of(rings))
    t = points[mesh.corners]
    normals = np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0])
    ring = points[rings[0]] - points[rings[0][0]]
    outward = np.cross(ring, np.roll(ring, -1, axis=0)).sum(axis=0)
    assert (normals @ outward > -1e-6 * np.linalg.norm(outward)).all()


@given(st.integers(0, 2**32), st.integers(3, 12), st.booleans())
def test_a_prism_is_closed_until_a_face_is_gone(seed, n, with_yard):
    rng = np.random.default_rng(seed)
    rings = [star(rng, n, 10.0, 30.0)] + ([star(rng, n, 1.0, 4.0)[::-1]] if with_yard else [])
    polygon = shapely.Polygon(rings[0], rings[1:])
    assume(polygon.is_valid)
    flat, height = np.concatenate(rings), 7.5
    points = np.r_[np.c_[flat, np.zeros(len(flat))], np.c_[flat, np.full(len(flat), height)]]
    points = points @ rotation(rng).T
    starts = np.cumsum([0] + [len(r) for r in rings])
    loops = [list(range(a, b)) for a, b in zip(starts[:-1], starts[1:], strict=True)]
    walls = [[[loop[k - 1], loop[k], loop[k] + len(flat), loop[k - 1] + len(flat)]]
             for loop in loops for k in range(len(loop))]
    faces = [[loop[::-1] for loop in loops], [[v + len(flat) for v in loop] for loop in loops],
             *walls]
    mesh = triangulate(points, faces_of(*faces))
    one = np.zeros(len(mesh.face), int)
    assert weld(points, mesh.corners, one, 1)[1].all()
    t = points[mesh.corners]
    volume = np.einsum("ij,ij->i", t[:, 0], np.cross(t[:, 1], t[:, 2])).sum() / 6
    assert volume == pytest.approx(polygon.area * height, rel=1e-6)
    rest = mesh.face != rng.integers(len(faces))
    assert not weld(points, mesh.corners[rest], one[rest], 1)[1].any()


def test_corners_nearer_than_a_millimetre_are_one():
    points = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4]], float)
    sides = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)]
    soup = np.concatenate([points[list(side)] for side in sides])
    numbers = np.arange(12).reshape(4, 3)
    bodies = np.zeros(4, int)
    near = soup + np.random.default_rng(3).uniform(-2e-4, 2e-4, soup.shape)
    corners, closed = weld(near, numbers, bodies, 1)
    assert closed.all() and len(np.unique(corners)) == 4 and not odd_edges(corners)
    assert np.abs(near[corners] - near[numbers]).max() < 1e-3
    far = soup + np.random.default_rng(3).uniform(-2e-2, 2e-2, soup.shape)
    assert not weld(far, numbers, bodies, 1)[1].any()


def test_bodies_that_touch_are_not_welded_to_each_other():
    points = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4]], float)
    sides = np.array([(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)])
    open_and_lid = np.r_[sides[:3], sides[3:]]
    assert weld(points, open_and_lid, np.array([0, 0, 0, 0]), 1)[1].tolist() == [True]
    assert weld(points, open_and_lid, np.array([0, 0, 0, 1]), 3)[1].tolist() == [False] * 3


@pytest.mark.parametrize("turn", range(4))
def test_an_arrowhead_is_split_inside_itself(turn):
    ring = [0, 1, 2, 3]
    points = np.array([[0, 0, 0], [4, 0, 3], [1, 0, 0], [4, 0, -3]], float)     # concave at 2
    ring = ring[turn:] + ring[:turn]
    mesh = triangulate(points, faces_of([ring]))
    assert areas(points[mesh.corners]).sum() == pytest.approx(3.0)


@pytest.mark.parametrize("n_faces", [1, 40])     # alone, and in the company of good ones
def test_a_face_that_crosses_itself_is_told_and_keeps_its_parity(n_faces):
    bow = np.array([[0, 0, 1], [4, 4, 1], [4, 0, 1], [1, 5, 1], [-1, 3, 1]], float)
    good = star(np.random.default_rng(1), 9, 3.0, 9.0)[::-1]
    points = np.r_[bow, np.c_[good, np.zeros(9)]]
    hole = [5 + k for k in range(9)]
    mesh = triangulate(points, faces_of([[0, 1, 2, 3, 4]], *[[hole]] * (n_faces - 1)))
    assert mesh.crossing.tolist() == [True] + [False] * (n_faces - 1)
    ring = bow[:, :2]
    triangles = shapely.polygons(points[mesh.corners[mesh.face == 0]][..., :2])
    for x, y in np.random.default_rng(2).uniform(-1, 5, (200, 2)):
        crossings = sum(
            (a[1] <= y) != (b[1] <= y) and x < a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
            for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True))
        covered = shapely.contains_xy(triangles, x, y).sum()
        assert covered % 2 == crossings % 2


def test_faces_without_area_are_told_and_close_what_they_closed():
    """A wall's corner on the edge of the roof, and between them a face as thin as a line."""
    points = np.array([[0, 0, 0], [2, 0, 0], [4, 0, 0], [0, 3, 0]], float)
    mesh = triangulate(points, faces_of([[0, 1, 2]], [[0, 2, 3]], [[1, 1, 1]], [[0, 3]], []))
    assert mesh.degenerate.tolist() == [True, False, True, True, True]
    assert odd_edges(mesh.corners) == {frozenset(e) for e in ((0, 1), (1, 2), (2, 3), (0, 3))}


def test_repeated_corners_are_one():
    points = np.array([[0, 0, 0], [4, 0, 0], [4, 4, 0], [0, 4, 0], [4, 0, 0]], float)
    for ring in ([0, 1, 2, 3, 0], [0, 0, 1, 4, 2, 2, 3], [3, 3, 0, 1, 2, 3]):
        mesh = triangulate(points, faces_of([ring]))
        assert len(mesh.corners) == 2 and areas(points[mesh.corners]).sum() == 16


def test_no_faces_are_no_triangles():
    mesh = triangulate(np.empty((0, 3)), Faces())
    assert mesh.corners.shape == (0, 3) and len(mesh.degenerate) == 0
    assert weld(np.empty((0, 3)), mesh.corners, mesh.face, 2)[1].tolist() == [False, False]


def test_a_subset_has_the_faces_asked_for_in_that_order():
    faces = faces_of([[0, 1, 2]], [[3, 4, 5, 6], [7, 8, 9]], [[1, 2, 0]])
    chosen = faces.subset(np.array([1, 0, 1]))
    assert chosen.indices.tolist() == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert chosen.ring_sizes.tolist() == [4, 3, 3, 4, 3]
    assert chosen.face_rings.tolist() == [2, 1, 2]
    assert len(faces.subset(np.empty(0, int))) == 0


@given(st.integers(0, 2**32), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_terrain_lies_on_its_triangles(seed, slope_x, slope_y):
    rng = np.random.default_rng(seed)
    xy = np.r_[[[0, 0], [60, 0], [60, 40], [0, 40]], rng.uniform(0, 40, (20, 2))] + (100, -300)
    points = np.c_[xy, slope_x * xy[:, 0] + slope_y * xy[:, 1]]
    parts = shapely.get_parts(shapely.delaunay_triangles(shapely.MultiPoint(points)))
    triangles = shapely.get_coordinates(parts, include_z=True).reshape(-1, 4, 3)[:, :3]
    raster = terrain_raster(triangles)
    assert raster.cell == 2.0 and raster.kind == "terrain" and raster.heights.shape == (30, 20)
    assert raster.extent == (100.0, -300.0, 160.0, -260.0)
    x = raster.origin[0] + (np.arange(30) + 0.5) * 2
    y = raster.origin[1] + (np.arange(20) + 0.5) * 2
    plane = slope_x * x[:, None] + slope_y * y
    assert np.abs(raster.heights - plane).max() < 1e-3


def test_beside_its_triangles_a_terrain_is_unknown_and_the_highest_counts():
    low = [[[0, 0, 1], [20, 0, 1], [0, 20, 1]]]
    high = [[[0, 0, 5], [8, 0, 5], [0, 8, 5]]]
    upright = [[[0, 0, 90], [20, 0, 90], [10, 0, 0]]]
    raster = terrain_raster(np.array(high + low + upright, float))
    assert raster.heights[0, 0] == 5 and raster.heights[5, 3] == 1
    assert np.isnan(raster.heights[9, 9])
    assert terrain_raster(np.array(upright, float)) is None
    assert terrain_raster(np.empty((0, 3, 3))) is None


def test_a_large_terrain_has_larger_cells():
    country = np.array([[[0, 0, 3], [1e5, 0, 3], [0, 1e5, 3]]], float)
    raster = terrain_raster(country)
    assert raster.heights.size <= 10_100_000 and raster.cell >= 16
    assert np.isfinite(raster.heights).mean() == pytest.approx(0.5, abs=0.01)
