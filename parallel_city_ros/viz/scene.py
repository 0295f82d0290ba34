"""Ray casting of the voxel city: sun, shadows, daylight, and what hides what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import open3d as o3d
import shapely
from open3d.core import Tensor
from scipy.ndimage import gaussian_filter

from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.city.voxels import VoxelGrid

SLAB_M = 14.0               # thickness of the ground plate that the model stands on
MOST_NODES = 500            # of the relief of the ground, along one side
DAYLIGHT_REACH_M = 70.0     # farther walls do not darken a street
SUPERSAMPLING = 2
DAYLIGHT_RAYS = 3           # for each of the SUPERSAMPLING² samples of a pixel
_FAR = np.float32(1e4)

# Linear reflectances of the clay model.
_BUILDING = np.array([0.86, 0.85, 0.82])
_GROUND = np.array([0.63, 0.66, 0.67])
_SUN = np.array([1.0, 0.96, 0.88]) * 0.68
_SKY = np.array([0.86, 0.93, 1.0]) * 0.48


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: pixel (0, 0) is the upper left corner.

    eye : (3,) ENU metres; axes : (3, 3) rows right, up, forward
    """

    eye: np.ndarray
    axes: np.ndarray
    width: int
    height: int
    half_width: float       # tangent of half the horizontal field of view

    def project(self, points) -> np.ndarray:
        """(N, 3) ENU metres → (N, 2) pixels."""
        x, y, depth = self.axes @ (np.asarray(points, float) - self.eye).T
        scale = self.width / 2 / self.half_width
        return np.stack([self.width / 2 + scale * x / depth,
                         self.height / 2 - scale * y / depth], axis=1)

    def rays(self, rows: range, finer: int) -> np.ndarray:
        """(len(rows), width * finer, 3) unit directions; rows count in finer pixels."""
        right, up, forward = self.axes
        pixel = 2 * self.half_width / (self.width * finer)
        x = (np.arange(self.width * finer) + 0.5 - self.width * finer / 2) * pixel
        y = (self.height * finer / 2 - np.asarray(rows) - 0.5) * pixel
        d = forward + x[None, :, None] * right + y[:, None, None] * up
        return d / np.linalg.norm(d, axis=2, keepdims=True)

    @classmethod
    def looking_at(cls, points, azimuth: float, elevation: float, width: int, height: int,
                   margin: float = 0.07, half_width: float = 0.30) -> Camera:
        """The nearest camera of this orientation that has all points in the picture.

        azimuth : direction of view, radians from east; elevation : radians above the horizon
        margin : share of width and height kept free at each edge
        """
        ca, sa, ce, se = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
        forward = np.array([ca * ce, sa * ce, -se])
        axes = np.array([(sa, -ca, 0.0), (ca * se, sa * se, ce), forward])
        points = np.asarray(points, float)
        target, distance = points.mean(axis=0), 4 * np.ptp(points, axis=0).max() + 10.0
        size = np.array([width, height])
        for _ in range(30):
            camera = cls(target - forward * distance, axes, width, height, half_width)
            pixels = camera.project(points)
            middle = (pixels.min(axis=0) + pixels.max(axis=0)) / 2 - size / 2
            metres = 2 * half_width * distance / width
            target = target + metres * (middle[0] * axes[0] - middle[1] * axes[1])
            distance *= float((np.ptp(pixels, axis=0) / (size * (1 - 2 * margin))).max())
        return camera


def _mesh(vertices, triangles):
    return Tensor(np.ascontiguousarray(vertices, np.float32)), Tensor(
        np.ascontiguousarray(triangles, np.uint32))


def voxel_faces(grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """Outer faces of the occupied voxels: (4 F, 3) vertices, (2 F, 3) triangles."""
    shell = grid.shell()
    quads = []
    for axis in range(3):
        u, v = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        for side in (0, 1):
            neighbour = shell + (2 * side - 1) * np.eye(3, dtype=int)[axis]
            lower = shell[~grid.holds(neighbour)] + side * np.eye(3)[axis]
            corners = (0 * u, u, u + v, v) if side else (0 * u, v, u + v, u)
            quads.append(np.stack([lower + c for c in corners], axis=1))
    vertices = np.concatenate(quads).reshape(-1, 3) * grid.resolution + grid.origin
    first = np.arange(0, len(vertices), 4)[:, None]
    return vertices, np.concatenate([first + (0, 1, 2), first + (0, 2, 3)])


def prism_mesh(event: CityEvent):
    """An event's block as open3d mesh: walls around its footprint, and a roof."""
    ring = np.array(event.polygon.exterior.coords)
    a, b = (np.insert(ring[k], 2, 0.0, axis=1) for k in (slice(None, -1), slice(1, None)))
    low, high = (0, 0, event.lower_z), (0, 0, event.upper_z)
    walls = np.concatenate([np.stack([a + low, b + low, b + high], axis=1),
                            np.stack([a + low, b + high, a + high], axis=1)])
    caps = shapely.constrained_delaunay_triangles(event.polygon)
    roof = np.array([np.insert(np.array(t.exterior.coords)[:3, :2], 2, event.upper_z, axis=1)
                     for t in caps.geoms])
    corners = np.concatenate([walls, roof]).reshape(-1, 3)
    return _mesh(corners, np.arange(len(corners)).reshape(-1, 3))


def _plate(grid: VoxelGrid):
    """The ground on a slab; hills are a relief with walls down to the slab's bottom."""
    lower = grid.origin - (0, 0, SLAB_M)
    nx, ny, _ = grid.shape
    if grid.terrain.is_flat:
        box = o3d.t.geometry.TriangleMesh.create_box(
            nx * grid.resolution, ny * grid.resolution, SLAB_M).translate(
            Tensor(lower.astype(np.float32)))
        return _mesh(box.vertex.positions.numpy(), box.triangle.indices.numpy())
    x, y = (lower[d] + np.linspace(0, n * grid.resolution, min(n, MOST_NODES) + 1)
            for d, n in ((0, nx), (1, ny)))
    a, b = len(x), len(y)
    top = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    top = np.dstack([top, grid.ground_at(top)])
    bottom = top * (1, 1, 0) + (0, 0, lower[2])
    number = np.arange(a * b).reshape(a, b)
    quads = [np.stack([number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]],
                      axis=-1).reshape(-1, 4)]
    for rim in (number[:, 0], number[-1], number[::-1, -1], number[0, ::-1]):
        quads.append(np.stack([rim[:-1] + a * b, rim[1:] + a * b, rim[1:], rim[:-1]], axis=-1))
    quads = np.concatenate(quads)
    return _mesh(np.concatenate([top, bottom]).reshape(-1, 3),
                 np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))


class CityScene:
    """The city and its closed blocks as meshes to cast rays at.

    sun : (3,) unit vector towards the sun
    """

    def __init__(self, grid: VoxelGrid, events, sun):
        self._grid, self._sun = grid, np.asarray(sun, float)
        self._city = o3d.t.geometry.RaycastingScene()
        self._plate_id = self._city.add_triangles(*_plate(grid))
        faces = voxel_faces(grid)
        if len(faces[0]):
            self._city.add_triangles(*_mesh(*faces))
        self._blocks = o3d.t.geometry.RaycastingScene()
        for event in events:
            self._blocks.add_triangles(*prism_mesh(event))
        self._has_blocks = len(events) > 0
        # Walls of 2 m steps would glitter: their light follows the outline behind the steps.
        smooth = gaussian_filter(grid.surface, 1.5)
        self._slope = np.stack(np.gradient(smooth), axis=-1)

    def visible(self, points, eye) -> np.ndarray:
        """(N,) bool: no building stands between (N, 3) points and the eye."""
        points = np.asarray(points, float).reshape(-1, 3)
        if len(points) == 0:
            return np.zeros(0, bool)
        return ~self._occluded(self._city, points, eye - points, 1e-3, 1.0)

    def render(self, camera: Camera, block_colour) -> np.ndarray:
        """(height, width, 4) RGBA in 0..1, transparent where there is no city.

        block_colour : (3,) linear RGB of the closed blocks, which are drawn half transparent
        """
        s = SUPERSAMPLING
        rng = np.random.default_rng(0)
        image = np.empty((camera.height, camera.width, 4), np.float32)
        strip = max(1, 400_000 // (camera.width * s * s))
        for top in range(0, camera.height, strip):
            rows = min(strip, camera.height - top)
            rays = camera.rays(range(top * s, (top + rows) * s), s)
            fine = self._shade(camera.eye, rays.reshape(-1, 3), rng, block_colour)
            image[top:top + rows] = fine.reshape(rows, s, camera.width, s, 4).mean(axis=(1, 3))
        alpha = image[..., 3:]
        image[..., :3] = np.where(alpha > 0, image[..., :3] / np.maximum(alpha, 1e-6), 1)
        image[..., :3] = np.clip(image[..., :3], 0, 1) ** (1 / 2.2)
        return image

    def _shade(self, eye, directions, rng, block_colour):
        """(N, 4) linear light, alpha-weighted, along (N, 3) directions."""
        out = np.zeros((len(directions), 4), np.float32)
        hit, distance, normal, geometry = self._cast(self._city, eye, directions)
        points = eye + distance[:, None] * directions[hit]
        colour = np.where((geometry == self._plate_id)[:, None], _GROUND, _BUILDING)
        i, j = np.clip(self._grid.index(points - 1e-3 * normal)[:, :2], 0,
                       np.array(self._grid.surface.shape) - 1).T
        normal = self._smooth_walls(normal, i, j)
        out[hit, :3] = colour * self._light(points + 0.05 * normal, normal, rng)
        out[hit, 3] = 1.0
        if self._has_blocks:
            reach = np.full(len(directions), np.inf)
            reach[hit] = distance
            self._add_blocks(out, eye, directions, reach, rng, np.asarray(block_colour))
        return out

    def _add_blocks(self, out, eye, directions, reach, rng, colour):
        """Blend the nearest face of a block over what is behind it: one sees through it."""
        hit, distance, normal, _ = self._cast(self._blocks, eye, directions)
        near = distance < reach[hit]
        hit, distance, normal = hit[near], distance[near], normal[near]
        light = self._light(eye + distance[:, None] * directions[hit] + 0.05 * normal, normal, rng)
        front = np.c_[colour * (0.55 + 0.45 * light), np.ones(len(hit))]
        out[hit] = 0.72 * front + 0.28 * out[hit]

    def _smooth_walls(self, normal, i, j):
        outward = -self._slope[i, j]
        steep = np.linalg.norm(outward, axis=1)
        wall = (np.abs(normal[:, 2]) < 0.5) & (steep > 0.05)
        smooth = normal.copy()
        smooth[wall, :2] = outward[wall] / steep[wall, None]
        smooth[wall, 2] = 0.0
        return smooth

    def _light(self, points, normal, rng):
        """(N, 3) sunlight and daylight that arrives at points, which shadows take away."""
        facing = np.clip(normal @ self._sun, 0, None)
        lit = facing > 0
        dark = np.ones(len(points), bool)
        dark[lit] = self._occluded(self._city, points[lit], self._sun, 0.0, _FAR)
        if self._has_blocks:
            still = np.flatnonzero(~dark)
            dark[still] = self._occluded(self._blocks, points[still], self._sun, 0.1, _FAR)
        open_sky = np.zeros(len(points))
        # from clear of the steps that a slanting wall has as voxels, or walls would be grainy
        points = points + 0.75 * self._grid.resolution * normal
        for _ in range(DAYLIGHT_RAYS):
            # normal plus a random unit vector: cosine-weighted over the hemisphere
            d = rng.normal(size=(len(points), 3))
            d = normal + d / np.linalg.norm(d, axis=1, keepdims=True)
            d /= np.linalg.norm(d, axis=1, keepdims=True) + 1e-9
            open_sky += ~self._occluded(self._city, points, d, 0.0, DAYLIGHT_REACH_M)
        open_sky = 0.25 + 0.75 * open_sky / DAYLIGHT_RAYS   # streets get light from walls too
        return (facing * ~dark)[:, None] * _SUN + open_sky[:, None] * _SKY

    @staticmethod
    def _cast(scene, eye, directions):
        """Indices of rays that hit, distance, normal towards the eye, geometry of each."""
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = eye, directions
        answer = scene.cast_rays(Tensor(rays))
        distance = answer["t_hit"].numpy()
        hit = np.flatnonzero(np.isfinite(distance))
        normal = answer["primitive_normals"].numpy()[hit].astype(float)
        away = (normal * directions[hit]).sum(axis=1) > 0
        normal[away] *= -1
        return hit, distance[hit].astype(float), normal, answer["geometry_ids"].numpy()[hit]

    @staticmethod
    def _occluded(scene, points, directions, near, far):
        rays = np.empty((len(points), 6), np.float32)
        rays[:, :3], rays[:, 3:] = points, directions
        return scene.test_occlusions(Tensor(rays), tnear=float(near), tfar=float(far)).numpy()
