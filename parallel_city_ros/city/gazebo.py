"""The city as a Gazebo world: what the camera of a simulated drone sees is the twin's city.

A city of prisms on flat ground is written as such, which is nicest to look at. Any other is
written as the twin has it: its voxels, merged into boxes, on its ground.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.city.terrain import Ground
from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.files import write_atomically
from parallel_city_ros.geo import LocalFrame

GROUND_MARGIN_M = 200.0     # of the visible ground around the city; the plane itself is endless
COLOURS = {                 # of a building, by how well its height is known
    HeightSource.MEASURED: "0.76 0.72 0.66 1",
    HeightSource.LEVELS: "0.66 0.68 0.72 1",
    HeightSource.ASSUMED: "0.72 0.58 0.52 1",
}
GROUND_COLOUR = "0.42 0.44 0.42 1"
BOX_COLOUR = COLOURS[HeightSource.MEASURED]
MOST_GROUND_NODES = 250_000     # of the ground's mesh; one of more is drawn coarser
TILE_M = 256.0              # boxes of one such square are one model


def is_plain(city: City) -> bool:
    """Whether it is prisms on flat ground at z = 0 and nothing else: `write_world` takes those."""
    return city.terrain is None and not (city.solids or city.surfaces or city.boxes) \
        and all(b.ground_z is None for b in city.buildings)


def write_world(city: City, path: str | Path) -> None:
    """Write a city of prisms on flat ground as a self-contained Gazebo world, SDF 1.9.

    World frame and map frame are the same: ENU metres around the city's origin. Each
    building is a static model, its footprint extruded; courtyards stay open. Plugins are
    left to the server's configuration, which PX4 brings along. The same city gives the
    same bytes. What is not `is_plain` is missing: see `write_world_of_grid`.
    """
    sdf, world = _world(city.name, city.frame)
    _add_ground(world, city.extent, 0.0)
    taken = {"ground_plane"}
    for building in city.buildings:
        _add_building(world, building, taken)
    _write(sdf, path, f"{city.name}: {len(city.buildings)} prisms. {city.attribution}")


def write_world_of_grid(grid: VoxelGrid, path: str | Path, name: str = "city") -> tuple[int, int]:
    """Write the twin as a Gazebo world, SDF 1.9: exactly its voxels, merged into boxes.

    Frame and plugins as of `write_world`. Flat ground is a plane; other ground is a mesh in a
    file of its own, `<world>_ground.obj` beside it, which the world names relatively.

    Returns
    -------
    Numbers of voxels and of boxes.
    """
    path = Path(path)
    lower, upper = merged_boxes(grid)
    voxels = int(np.prod(upper - lower, axis=1, dtype=np.int64).sum())
    sdf, world = _world(name, grid.frame)
    first = grid.origin[:2]
    extent = (*first.tolist(), *(first + np.array(grid.shape[:2]) * grid.resolution).tolist())
    if grid.terrain.is_flat:
        _add_ground(world, extent, float(grid.terrain.heights[0, 0]))
    else:
        mesh = path.with_name(f"{path.stem}_ground.obj")
        write_atomically(mesh, _ground_mesh(grid.terrain, extent))
        _add_model(world, "ground", {"mesh": {"uri": mesh.name}}, GROUND_COLOUR)
    _add_boxes(world, grid, lower, upper)
    _write(sdf, path, f"{name}: {voxels} voxels of {grid.resolution:g} m in {len(lower)} boxes. "
           f"{grid.attribution}")
    return voxels, len(lower)


def merged_boxes(grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """The occupied voxels as few boxes that do not overlap, by joining neighbours along an axis.

    Returns
    -------
    lower, upper : (N, 3) int32 arrays, voxel indices; upper is exclusive
    """
    voxels = grid.voxels()
    columns = _joined(np.hstack([voxels, voxels + 1]), 2)
    found = []
    for order in ((1, 0, 2), (0, 1, 2)):
        boxes, before = columns, -1
        while len(boxes) != before:
            before = len(boxes)
            for axis in order:
                boxes = _joined(boxes, axis)
        found.append(boxes)
    best = min(found, key=len)
    return best[:, :3], best[:, 3:]


def _joined(boxes: np.ndarray, axis: int) -> np.ndarray:
    """(N, 6) lower and upper corners; those that meet along an axis with equal faces are one."""
    if not len(boxes):
        return boxes
    others = [column for column in range(6) if column % 3 != axis]
    boxes = boxes[np.lexsort((boxes[:, axis], *boxes[:, others].T))]
    apart = (boxes[1:, axis] != boxes[:-1, 3 + axis]) \
        | (boxes[1:, others] != boxes[:-1, others]).any(axis=1)
    first = np.flatnonzero(np.r_[True, apart])
    last = np.r_[first[1:], len(boxes)] - 1
    out = boxes[first]
    out[:, 3 + axis] = boxes[last, 3 + axis]
    return out


def _world(name: str, frame: LocalFrame):
    """The document and its world, empty, at its place on earth, with light, weather and steps."""
    sdf = ElementTree.Element("sdf", version="1.9")
    world = ElementTree.SubElement(sdf, "world", name=_name(Path(name).stem))
    _tree(world, {
        "physics": ({"name": "steps of 4 ms", "type": "ode"}, {
            "max_step_size": "0.004", "real_time_factor": "1", "real_time_update_rate": "250"}),
        "gravity": "0 0 -9.8",
        "magnetic_field": "6e-06 2.3e-05 -4.2e-05",     # of central Europe, as in PX4's worlds
        "atmosphere": ({"type": "adiabatic"}, {}),
        "scene": {"ambient": "0.5 0.5 0.5 1", "background": "0.7 0.8 0.9 1", "shadows": "true"},
        "spherical_coordinates": {
            "surface_model": "EARTH_WGS84", "world_frame_orientation": "ENU",
            "latitude_deg": repr(frame.latitude_deg), "longitude_deg": repr(frame.longitude_deg),
            "elevation": repr(frame.altitude_m), "heading_deg": "0"},
        "light": ({"name": "sun", "type": "directional"}, {
            "pose": "0 0 500 0 0 0", "cast_shadows": "true", "intensity": "1",
            "direction": "0.4 0.6 -0.9", "diffuse": "0.9 0.9 0.9 1",
            "specular": "0.3 0.3 0.3 1"}),
    })
    return sdf, world


def _write(sdf, path, comment: str) -> None:
    sdf.insert(0, ElementTree.Comment(f" {comment.strip().replace('--', '-')} "))
    ElementTree.indent(sdf)
    write_atomically(path, '<?xml version="1.0"?>\n'
                     + ElementTree.tostring(sdf, encoding="unicode") + "\n")


def _tree(parent, children: dict) -> None:
    """Sub-elements from a dictionary; a tuple holds attributes and the rest."""
    for tag, content in children.items():
        attributes, content = content if isinstance(content, tuple) else ({}, content)
        element = ElementTree.SubElement(parent, tag, attributes)
        if isinstance(content, dict):
            _tree(element, content)
        else:
            element.text = content


def _add_ground(world, extent, z: float) -> None:
    x0, y0, x1, y1 = extent
    size = f"{x1 - x0 + 2 * GROUND_MARGIN_M:.0f} {y1 - y0 + 2 * GROUND_MARGIN_M:.0f}"
    _add_model(world, "ground_plane", {"plane": {"normal": "0 0 1", "size": size}}, GROUND_COLOUR,
               f"{round((x0 + x1) / 2)} {round((y0 + y1) / 2)} {z:g} 0 0 0")


def _add_model(world, name: str, geometry: dict, colour: str, pose: str = "0 0 0 0 0 0") -> None:
    _tree(world, {"model": ({"name": name}, {
        "static": "true", "pose": pose,
        "link": ({"name": "link"}, {
            "collision": ({"name": "collision"}, {"geometry": geometry}),
            "visual": ({"name": "visual"}, {
                "geometry": geometry, "material": _material(colour)})})})})


def _ground_mesh(ground: Ground, extent) -> str:
    """Triangles between the ground's nodes as Wavefront OBJ, z up, `GROUND_MARGIN_M` around."""
    lower, upper = (np.array(extent[k:k + 2]) + side * GROUND_MARGIN_M
                    for k, side in ((0, -1), (2, 1)))
    cell = ground.cell
    while np.prod((upper - lower) / cell + 3) > MOST_GROUND_NODES:
        cell *= 2
    # on the ground's own nodes, so that the mesh has its heights and not only something between
    first = np.floor((lower - ground.origin) / cell).astype(int)
    last = np.ceil((upper - ground.origin) / cell).astype(int)
    x, y = (ground.origin[d] + np.arange(first[d], last[d] + 1) * cell for d in range(2))
    nodes = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    points = np.dstack([nodes, ground.at(nodes)]).reshape(-1, 3)
    a = (np.arange(len(x) - 1)[:, None] * len(y) + np.arange(len(y) - 1) + 1).reshape(-1, 1)
    faces = np.hstack([a, a + len(y), a + len(y) + 1, a, a + len(y) + 1, a + 1]).reshape(-1, 3)
    lines = ["# ground: metres east, north, up in the map frame"]
    lines += [f"v {x:.3f} {y:.3f} {z:.2f}" for x, y, z in points.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in faces.tolist()]
    return "\n".join(lines) + "\n"


def _add_boxes(world, grid: VoxelGrid, lower, upper) -> None:
    """One model for each tile of the map: a scene that can be searched, and few bodies."""
    sizes = (upper - lower) * grid.resolution
    centres = grid.origin + (lower + upper) / 2 * grid.resolution
    tiles = np.floor((centres[:, :2] - grid.origin[:2]) / TILE_M).astype(int)
    order = np.lexsort((np.arange(len(lower)), tiles[:, 1], tiles[:, 0]))
    links = {}
    for n in order.tolist():
        tile = tuple(tiles[n].tolist())
        if tile not in links:
            model = ElementTree.SubElement(world, "model", name=f"tile_{tile[0]}_{tile[1]}")
            _tree(model, {"static": "true", "pose": "0 0 0 0 0 0"})
            links[tile] = ElementTree.SubElement(model, "link", name="link")
        shape = {"box": {"size": " ".join(f"{v:.9g}" for v in sizes[n])}}
        pose = " ".join(f"{v:.9g}" for v in centres[n]) + " 0 0 0"
        _tree(links[tile], {
            "collision": ({"name": f"collision_{n}"}, {"pose": pose, "geometry": shape}),
            "visual": ({"name": f"visual_{n}"}, {
                "pose": pose, "geometry": shape, "material": _material(BOX_COLOUR)})})


def _add_building(world, building: Building, taken: set[str]) -> None:
    name = _name(building.building_id)
    if name in taken:   # what the standard forbids in names may have told two apart
        name = next(f"{name}_{n}" for n in range(2, len(taken) + 3) if f"{name}_{n}" not in taken)
    taken.add(name)
    model = ElementTree.SubElement(world, "model", name=name)
    # Points are relative to a whole metre near by: short numbers that a reader can check.
    anchor = [math.floor(v) for v in building.footprint.bounds[:2]]
    _tree(model, {"static": "true",
                  "pose": f"{anchor[0]} {anchor[1]} {building.base_z:g} 0 0 0"})
    link = ElementTree.SubElement(model, "link", name="link")
    for number, polygon in enumerate(_polygons(building.footprint)):
        for kind in ("collision", "visual"):
            element = ElementTree.SubElement(link, kind, name=f"{kind}_{number}")
            geometry = ElementTree.SubElement(element, "geometry")
            for ring in (polygon.exterior, *polygon.interiors):
                _add_polyline(geometry, np.array(ring.coords)[:-1] - anchor,
                              building.top_z - building.base_z)
            if kind == "visual":
                _tree(element, {"material": _material(COLOURS[building.source])})


def _add_polyline(geometry, points, height: float) -> None:
    """One closed line; the second and later ones of a geometry are holes of the first.

    Micrometres, because a voxel is occupied as soon as a wall touches it.
    """
    polyline = ElementTree.SubElement(geometry, "polyline")
    for x, y in points:
        ElementTree.SubElement(polyline, "point").text = f"{x:.6f} {y:.6f}"
    ElementTree.SubElement(polyline, "height").text = f"{height:.6g}"


def _material(colour: str) -> dict:
    return {"ambient": colour, "diffuse": colour, "specular": "0.1 0.1 0.1 1"}


def _polygons(footprint) -> list[shapely.Polygon]:
    """Its polygons; lines and points that cutting left have no walls."""
    parts = shapely.get_parts(footprint)
    if any(p.geom_type.startswith(("Multi", "Geometry")) for p in parts):
        parts = shapely.get_parts(parts)
    return [p for p in parts if p.geom_type == "Polygon" and not p.is_empty]


def _name(text: str) -> str:
    """A name that Gazebo takes: no ::, no / or blank."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text) or "city"
