"""make bench: the artificial city: time, memory, and what the alternatives take in the same run.

Medians of several repeats in one process, after compilation, in seconds of its processor, which
on an idle machine are those of the clock: what else runs does not count. Between processes the
clock counts. Compare ratios of one run, not seconds of two. Where a number has a goal, it stands
beside it. --json writes one object to stdout. --data FOLDER adds the city files of that folder:
Nantes and Den Haag, if there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import open3d as o3d
import shapely

from parallel_city_ros.city.distance import DistanceField
from parallel_city_ros.city.facades import Facades
from parallel_city_ros.city.model import Building, City, HeightSource, Solid
from parallel_city_ros.city.osm import helsinki_file, read_osm
from parallel_city_ros.city.twin import CityEvent, Twin
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.geo import LocalFrame

POINTS = 1_000_000


def median_s(work, repeats: int) -> float:
    """Median seconds of the processor, of all threads, of one call."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def extruded(building: Building) -> Solid:
    """The prism as a closed body of triangles."""
    triangles = []
    for polygon in shapely.get_parts(building.footprint):
        if polygon.geom_type != "Polygon":
            continue
        for ring in (polygon.exterior, *polygon.interiors):
            points = np.array(ring.coords)
            for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
                a, b = (x0, y0, building.base_z), (x1, y1, building.base_z)
                c, d = (x1, y1, building.top_z), (x0, y0, building.top_z)
                triangles += [(a, b, c), (a, c, d)]
        for triangle in shapely.constrained_delaunay_triangles(polygon).geoms:
            flat = np.array(triangle.exterior.coords)[:3]
            triangles += [np.column_stack([flat, np.full(3, z)])
                          for z in (building.base_z, building.top_z)]
    return Solid(building_id=building.building_id, triangles=np.array(triangles, float))


def made_city(side: float, spacing: float, seed: int = 0) -> City:
    """Blocks of all heights on a side x side plane, one every spacing metres."""
    rng = np.random.default_rng(seed)
    buildings = []
    for n, (x, y) in enumerate(np.stack(np.meshgrid(*[np.arange(0, side, spacing)] * 2),
                                        axis=-1).reshape(-1, 2)):
        w, d = rng.uniform(0.3, 0.7, 2) * min(spacing, 60)
        top = min(200.0, 6 + rng.exponential(18.0)) if n else 199.0
        buildings.append(Building(building_id=str(n), footprint=shapely.box(x, y, x + w, y + d),
                                  base_z=0.0, top_z=top, source=HeightSource.MEASURED))
    return City(name="made", frame=LocalFrame(60.0, 25.0), extent=(0.0, 0.0, side, side),
                buildings=tuple(buildings), n_buildings=len(buildings))


def solids_against_others(solids, extent, resolution, repeats, label):
    """Our voxeliser of solids beside open3d's and trimesh's, on one mesh, and do they agree?"""
    # of the mesh alone: nobody else is told the ground that bodies stand on
    city = City(name="solids", frame=LocalFrame(60.0, 25.0), extent=extent,
                n_buildings=len(solids), solids=tuple(replace(s, ground_z=None) for s in solids))
    grid = voxelise(city, resolution)
    ours = median_s(lambda: voxelise(city, resolution), repeats)
    triangles = np.concatenate([s.triangles for s in solids])
    vertices = triangles.reshape(-1, 3)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    count = f"{label}, {len(triangles)} triangles"
    yield f"{count}: solid voxels, ours", ours, "s", None

    nx, ny, nz = grid.shape
    axes = [grid.origin[d] + (np.arange(n) + 0.5) * resolution
            for d, n in enumerate((nx, ny, nz))]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
    filled = np.zeros(grid.shape, bool)

    def open3d_solid():
        # one body after the other, or parity takes away what two share
        for solid in solids:
            scene = o3d.t.geometry.RaycastingScene(nthreads=1)
            flat = solid.triangles.reshape(-1, 3).astype(np.float32)
            scene.add_triangles(flat, np.arange(len(flat), dtype=np.uint32).reshape(-1, 3))
            low, high = ((f(axis=0) - grid.origin) / resolution for f in (flat.min, flat.max))
            low, high = np.maximum(np.floor(low), 0).astype(int), np.ceil(high).astype(int)
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            inside = scene.compute_occupancy(np.ascontiguousarray(centres[box]), nthreads=1)
            filled[box] |= inside.numpy().astype(bool)

    def open3d_whole():
        scene = o3d.t.geometry.RaycastingScene(nthreads=1)
        scene.add_triangles(triangles.reshape(-1, 3).astype(np.float32),
                            np.arange(3 * len(triangles), dtype=np.uint32).reshape(-1, 3))
        scene.compute_occupancy(centres, nthreads=1)

    theirs = median_s(open3d_whole, 1)
    yield f"{count}: open3d, occupancy of all centres", theirs, "s", None
    yield "  ratio to ours", theirs / ours, "times", "at least 20"
    theirs = median_s(open3d_solid, 1)
    yield "  open3d, body by body, so that what two share stays", theirs, "s", None
    yield "  ratio to ours (no surface, which we have)", theirs / ours, "times", None
    mine = grid.occupied
    # Every cube whose centre is inside must be there; what is there beyond is within a voxel.
    missing = int((filled & ~mine).sum())
    yield "  centres inside that we miss (open3d may err on open bodies)", missing, "voxels", "0"
    yield "  of our voxels, centres inside", float(filled[mine].mean() * 100), "%", None
    mesh = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(vertices),
                                     o3d.utility.Vector3iVector(faces))
    surface = median_s(lambda: o3d.geometry.VoxelGrid.create_from_triangle_mesh(
        mesh, voxel_size=resolution), 1)
    yield f"{count}: open3d, surface only", surface, "s", None
    try:
        import trimesh
    except ImportError:
        print("trimesh is not installed: left out (pip install trimesh)", file=sys.stderr)
        return
    body = trimesh.Trimesh(vertices, faces, process=False)
    theirs = median_s(lambda: body.voxelized(resolution), 1)
    yield f"{count}: trimesh voxelized", theirs, "s", None
    yield "  ratio to ours", theirs / ours, "times", "at least 500"


def over_dds(repeats: int):
    """A live map server of Helsinki at 1 m in another process: late joiner, event to update."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from domain_coordinator import domain_id
    with domain_id() as domain, tempfile.TemporaryDirectory() as logs:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        import parallel_city_ros.nodes  # noqa: F401  prepares the environment for rclpy

        # isort: split
        from parallel_city_interfaces.srv import AddEvent

        from parallel_city_ros.cli.processes import Supervisor
        from parallel_city_ros.nodes import conversions
        from parallel_city_ros.nodes.client import CityClient
        from parallel_city_ros.nodes.map_mirror import MapMirror
        with Supervisor(Path(logs), {"ROS_DOMAIN_ID": str(domain)}) as processes:
            processes.start_node("twin_map_server", {
                "city_file": str(helsinki_file()), "resolution": 1.0})
            with CityClient() as client:
                client.wait_for_map(60.0, processes.check)
                service = client.node.create_client(AddEvent, "/city_map/add_event")
                service.wait_for_service(10.0)
                taken, joined = [], []
                for n in range(max(10, repeats)):
                    x = 100.0 + 60 * (n % 12)
                    event = CityEvent(event_id=str(n), kind="crane", lower_z=0.0, upper_z=120.0,
                                      footprint=((x, 500), (x + 30, 500), (x + 30, 520), (x, 520)))
                    number = client.map.grid.map_update + 1
                    began = time.perf_counter()
                    service.call_async(AddEvent.Request(event=conversions.event_to_ros(
                        event, conversions.time_to_ros(0.0))))
                    assert client.map.wait(10.0, at_least=number) is not None
                    taken.append(time.perf_counter() - began)
                    time.sleep(0.3)
                for _ in range(5):
                    late = MapMirror(client.node)
                    began = time.perf_counter()
                    assert late.wait(10.0) is not None
                    joined.append(time.perf_counter() - began)
                    late.destroy()
                yield ("event reported to map changed in another process, Helsinki 1 m",
                       statistics.median(taken), "s", "under 0.05")
                yield ("whole map to a late subscriber in another process",
                       statistics.median(joined), "s", "under 0.5")


def memory_of(code: str) -> tuple[float, float]:
    """Resident memory in MB of 10^6 bytes after code and at its highest, less that of imports."""
    head = ("from benchmarks.city import made_city\n"
            "def resident(of):\n"
            "    status = open('/proc/self/status').read()\n"
            "    return int(status.split(of + ':')[1].split()[0])\n"
            "from parallel_city_ros.city.voxels import voxelise\n"
            "from parallel_city_ros.city.distance import DistanceField\n"
            "DistanceField(voxelise(made_city(100, 50), 2.0))\n"
            "low = resident('VmRSS')\n")
    tail = "\nprint((resident('VmRSS') - low) * 1024e-6, (resident('VmHWM') - low) * 1024e-6)"
    done = subprocess.run([sys.executable, "-c", head + code + tail], check=True, text=True,
                          capture_output=True, cwd=Path(__file__).parents[1])
    now, highest = map(float, done.stdout.split()[-2:])
    return now, highest


def measure(repeats: int, data: Path | None):
    """name, value, unit, goal of each measurement."""
    helsinki = read_osm(helsinki_file())
    grid = voxelise(helsinki, 1.0)
    field = DistanceField(grid)
    yield ("Helsinki, 1 m: file to queryable twin", median_s(
        lambda: voxelise(read_osm(helsinki_file()), 1.0).is_occupied([9.0, 9.0, 9.0]), repeats),
        "s", "under 1.5")
    yield "  and its distance field", median_s(lambda: DistanceField(grid), repeats), "s", None
    yield "  memory of the grid", grid.nbytes / 1e6, "MB", None
    yield "  memory of its distance field", field.nbytes / 1e6, "MB", None
    yield "  content hash", median_s(lambda: voxelise(helsinki, 1.0).map_hash, repeats), "s", None
    rng = np.random.default_rng(0)
    points = grid.origin + rng.uniform(0, 1, (POINTS, 3)) * grid.shape
    yield ("one million occupancy queries", median_s(lambda: grid.is_occupied(points), repeats),
           "s", "under 0.03")
    yield ("one million bounds of distance", median_s(lambda: field.lower_bound(points), repeats),
           "s", None)
    yield ("100,000 exact clearances", median_s(lambda: field.clearance(points[:100_000]),
                                                repeats), "s", None)
    walls = Facades(grid)
    yield ("walls seen by one tilted camera, 80 m", median_s(lambda: walls.seen(
        [[400.0, 700.0, 50.0, 1.0, 0.6]], 70.0, 80.0), repeats), "s", None)
    twin, changes = Twin(grid), []
    following = DistanceField(grid)
    for n in range(20):
        x = 40.0 + 45 * n
        event = CityEvent(event_id=str(n), kind="crane", lower_z=0.0, upper_z=120.0,
                          footprint=((x, 700), (x + 30, 700), (x + 30, 720), (x, 720)))
        began = time.process_time()
        update = twin.add(event)
        following.follow(twin.grid, update.where)
        twin.grid.surface, update.packed()      # what sight is made from, and the message
        changes.append(time.process_time() - began)
    yield ("event: grid, distance field, surface, delta", statistics.median(changes), "s",
           "under 0.05")
    if data is not None and (data / "nantes_bdtopo_buildings.gpkg").exists():
        from parallel_city_ros.city.readers import read_city
        file = data / "nantes_bdtopo_buildings.gpkg"
        voxelise(read_city(file), 1.0)
        yield ("Nantes, 8,639 buildings, 1 m: file to queryable twin",
               median_s(lambda: voxelise(read_city(file), 1.0), repeats), "s", "under 3")
        nantes = voxelise(read_city(file), 1.0)
        yield ("  memory of grid and distance field",
               (nantes.nbytes + DistanceField(nantes).nbytes) / 1e6, "MB", "under 120")
    solids = [extruded(b) for b in helsinki.buildings]
    yield from solids_against_others(solids, helsinki.extent, 2.0, repeats, "Helsinki extruded")
    if data is not None and (data / "DenHaag_01.city.json").exists():
        from parallel_city_ros.city.readers import read_city
        city = read_city(data / "DenHaag_01.city.json")
        yield from solids_against_others(city.solids, city.extent, 1.0, repeats, "Den Haag")
    for name, code, goal in (
            ("2.75 x 2.75 km at 1 m, 200 m high, with distance field",
             "g = voxelise(made_city(2750, 55), 1.0); f = DistanceField(g)", "under 120"),
            ("10 x 10 km at 1 m, few buildings", "g = voxelise(made_city(10_000, 250), 1.0)",
             "under 500")):
        now, highest = memory_of(code)
        yield f"{name}: resident", now, "MB", goal
        yield "  at its highest while it was made", highest, "MB", None
    yield from over_dds(repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for name, value, unit, goal in measure(arguments.repeats, arguments.data):
        found[name.strip()] = {"value": value, "unit": unit, "goal": goal}
        if not arguments.json:
            print(f"{name:66} {value:10.4g} {unit:7}" + (f"({goal})" if goal else ""), flush=True)
    if arguments.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
