"""The city as a Gazebo world: what the camera of a simulated drone sees is the twin's city."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import shapely

from parallel_city_ros.city.model import Building, City, HeightSource
from parallel_city_ros.files import write_atomically

GROUND_MARGIN_M = 200.0     # of the visible ground around the city; the plane itself is endless
COLOURS = {                 # of a building, by how well its height is known
    HeightSource.MEASURED: "0.76 0.72 0.66 1",
    HeightSource.LEVELS: "0.66 0.68 0.72 1",
    HeightSource.ASSUMED: "0.72 0.58 0.52 1",
}
GROUND_COLOUR = "0.42 0.44 0.42 1"


def write_world(city: City, path: str | Path) -> None:
    """Write a city as a self-contained Gazebo world, SDF 1.9.

    World frame and map frame are the same: ENU metres around the city's origin. Each
    building is a static model, its footprint extruded; courtyards stay open. Plugins are
    left to the server's configuration, which PX4 brings along. The same city gives the
    same bytes.
    """
    sdf = ElementTree.Element("sdf", version="1.9")
    world = ElementTree.SubElement(sdf, "world", name=_name(Path(city.name).stem))
    _tree(world, {
        "physics": ({"name": "steps of 4 ms", "type": "ode"}, {
            "max_step_size": "0.004", "real_time_factor": "1", "real_time_update_rate": "250"}),
        "gravity": "0 0 -9.8",
        "magnetic_field": "6e-06 2.3e-05 -4.2e-05",     # of central Europe, as in PX4's worlds
        "atmosphere": ({"type": "adiabatic"}, {}),
        "scene": {"ambient": "0.5 0.5 0.5 1", "background": "0.7 0.8 0.9 1", "shadows": "true"},
        "spherical_coordinates": {
            "surface_model": "EARTH_WGS84", "world_frame_orientation": "ENU",
            "latitude_deg": repr(city.frame.latitude_deg),
            "longitude_deg": repr(city.frame.longitude_deg),
            "elevation": repr(city.frame.altitude_m), "heading_deg": "0"},
        "light": ({"name": "sun", "type": "directional"}, {
            "pose": "0 0 500 0 0 0", "cast_shadows": "true", "intensity": "1",
            "direction": "0.4 0.6 -0.9", "diffuse": "0.9 0.9 0.9 1",
            "specular": "0.3 0.3 0.3 1"}),
    })
    _add_ground(world, city.extent)
    taken = {"ground_plane"}
    for building in city.buildings:
        _add_building(world, building, taken)
    comment = f"{city.name}: {len(city.buildings)} prisms. {city.attribution}".strip()
    sdf.insert(0, ElementTree.Comment(f" {comment.replace('--', '-')} "))
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


def _add_ground(world, extent) -> None:
    x0, y0, x1, y1 = extent
    size = f"{x1 - x0 + 2 * GROUND_MARGIN_M:.0f} {y1 - y0 + 2 * GROUND_MARGIN_M:.0f}"
    plane = {"plane": {"normal": "0 0 1", "size": size}}
    _tree(world, {"model": ({"name": "ground_plane"}, {
        "static": "true", "pose": f"{round((x0 + x1) / 2)} {round((y0 + y1) / 2)} 0 0 0 0",
        "link": ({"name": "link"}, {
            "collision": ({"name": "collision"}, {"geometry": plane}),
            "visual": ({"name": "visual"}, {
                "geometry": plane, "material": _material(GROUND_COLOUR)})})})})


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
