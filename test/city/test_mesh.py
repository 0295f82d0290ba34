"""Meshes and clouds: what is read is what was drawn, and a file that is cut off is refused."""

import base64
import json
import struct
from urllib.parse import quote

import numpy as np
import pytest
import shapely

from parallel_city_ros.city.local import LOCAL
from parallel_city_ros.city.mesh import read_cloud, read_mesh
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame, SourceCrs

CORNERS = np.array([[x, y, z] for x in (0, 6) for y in (0, 4) for z in (0, 9)], float)
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
TRIANGLES = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))])
RD = ReadOptions(crs="EPSG:7415")
DELFT = np.array([85_000.25, 447_500.5, 1.5])


def obj(corners=CORNERS, faces=QUADS) -> str:
    return "# a house\nmtllib x.mtl\no house\n" + "".join(
        f"v {x!r} {y!r} {z!r}\n" for x, y, z in corners.tolist()) + "vt 0 0\nusemtl x\n" + \
        "".join("f " + " ".join(f"{c + 1}/1" for c in face) + "\n" for face in faces)


def off(corners=CORNERS, faces=QUADS) -> str:
    return f"OFF # a house\n{len(corners)} {len(faces)} 0\n" + "".join(
        "{!r} {!r} {!r}\n".format(*c) for c in corners.tolist()) + "".join(
        f"{len(f)} {' '.join(map(str, f))} 255 0 0\n" for f in faces)


def stl_ascii(corners=CORNERS, faces=TRIANGLES) -> str:
    return "solid house\n" + "".join(
        "facet normal 0 0 0\n outer loop\n" + "".join(
            "  vertex {!r} {!r} {!r}\n".format(*c) for c in corners[face].tolist())
        + " endloop\nendfacet\n" for face in faces) + "endsolid house\n"


def stl(corners=CORNERS, faces=TRIANGLES) -> bytes:
    return b"solid".ljust(80) + struct.pack("<I", len(faces)) + b"".join(
        struct.pack("<12fH", 0, 0, 0, *corners[face].ravel(), 0) for face in faces)


def ply(corners=CORNERS, faces=QUADS, binary=True) -> bytes:
    header = (f"ply\nformat {'binary_little_endian' if binary else 'ascii'} 1.0\ncomment drawn\n"
              f"element vertex {len(corners)}\n"
              + "".join(f"property double {axis}\n" for axis in "xyz")
              + f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n")
    if binary:
        return header.encode() + corners.astype("<f8").tobytes() + b"".join(
            struct.pack(f"<B{len(f)}i", len(f), *f) for f in faces)
    return (header + "".join("{!r} {!r} {!r}\n".format(*c) for c in corners.tolist())
            + "".join(f"{len(f)} {' '.join(map(str, f))}\n" for f in faces)).encode()


def gltf(corners=CORNERS, faces=TRIANGLES, uri=None, nodes=({"mesh": 0},)):
    """A document and its buffer; x east, y up, z south, as glTF has it."""
    turned = (corners[:, [0, 2, 1]] * (1, 1, -1)).astype("<f4")
    buffer = turned.tobytes() + np.asarray(faces).astype("<u2").tobytes()
    source = {} if uri is None else {
        "uri": uri or "data:application/octet-stream;base64," + base64.b64encode(buffer).decode()}
    return {
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(corners), "type": "VEC3",
             "min": turned.min(axis=0).tolist(), "max": turned.max(axis=0).tolist()},
            {"bufferView": 1, "componentType": 5123, "count": 3 * len(faces), "type": "SCALAR"}],
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": list(nodes),
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "buffers": [{"byteLength": len(buffer), **source}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": turned.nbytes},
            {"buffer": 0, "byteOffset": turned.nbytes, "byteLength": 6 * len(faces)}]}, buffer


def glb(**arguments) -> bytes:
    return packed(*gltf(**arguments))


def packed(document, buffer) -> bytes:
    text = json.dumps(document).encode()
    text, buffer = text + b" " * (-len(text) % 4), buffer + b"\0" * (-len(buffer) % 4)
    return struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(buffer)) \
        + struct.pack("<I4s", len(text), b"JSON") + text \
        + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer


def pcd(points, data="ascii", size=4, more="", announced=None) -> bytes:
    n = len(points) if announced is None else announced
    header = (f"# .PCD v0.7\nVERSION 0.7\nFIELDS x y z{more and ' intensity'}\nSIZE {size} {size} "
              f"{size}{more and ' 4'}\nTYPE F F F{more and ' F'}\nCOUNT 1 1 1{more and ' 1'}\n"
              f"WIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n")
    points = np.asarray(points, float).reshape(-1, 3)
    body = points.astype(f"<f{size}").tobytes() if data == "binary" else "".join(
        "{!r} {!r} {!r}{}\n".format(*p, more) for p in points.tolist()).encode()
    return header.encode() + body


MESHES = {"obj": obj(), "off": off(), "stl": stl(), "ascii.stl": stl_ascii(), "ply": ply(),
          "ascii.ply": ply(binary=False), "gltf": json.dumps(gltf(uri="")[0]), "glb": glb()}
POINTS = [(1.0, 2.0, 3.0), (4.0, 5.0, 6.5), (-7.0, 8.0, 9.0)]
CLOUDS = {"pcd": pcd(POINTS), "binary.pcd": pcd(POINTS, "binary", 8),
          "intensity.pcd": pcd(POINTS, more=" 0.5"), "ply": ply(np.array(POINTS), []),
          "ascii.ply": ply(np.array(POINTS), [], binary=False),
          "xyz": "1 2 3\n4 5 6.5\n-7 8 9\n",
          "csv": "x,y,z,intensity\n1,2,3,9\n4,5,6.5,9\n-7,8,9,9\n",
          "txt": "# scan\n1;2;3\n4;5;6.5\n\n-7;8;9\n"}


@pytest.fixture
def write(tmp_path):
    def write(content, name):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path
    return write


def volume(triangles) -> float:
    a, b, c = np.moveaxis(triangles, 1, 0)
    return abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6)


@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize("name", ["house.{}", "house.dat"])
def test_every_format_holds_the_same_house(write, kind, name):
    city = read_mesh(write(MESHES[kind], name.format(kind)))
    (house,) = city.solids
    assert house.closed and house.triangles.shape == (12, 3, 3)
    assert volume(house.triangles) == pytest.approx(6 * 4 * 9)
    assert house.triangles.min(axis=(0, 1)) == pytest.approx([0, 0, 0])
    assert house.triangles.max(axis=(0, 1)) == pytest.approx([6, 4, 9])
    assert city.n_buildings == 1 and city.height_sources["measured"] == 1
    assert city.extent == pytest.approx((0, 0, 6, 4))


@pytest.mark.parametrize("kind", MESHES)
def test_a_mesh_that_is_cut_off_is_refused(write, kind):
    content = MESHES[kind] if isinstance(MESHES[kind], bytes) else MESHES[kind].encode()
    # an OBJ announces nothing: only a face that names what is not there, or half a line, tells
    ends = [content.index(b"\nv") + 5] if kind == "obj" else \
        [int(share * len(content)) for share in (0.6, 0.8, 0.9)]
    for end in ends:
        with pytest.raises(CityFileError, match=r"cut\."):
            read_mesh(write(content[:end], f"cut.{kind}"))


def test_a_mixture_of_faces_in_any_order_of_bytes(write):
    faces = [*QUADS[:5], (1, 5, 7), (1, 7, 3)]
    little = ply(faces=faces)
    start = little.index(b"end_header\n") + 11
    numbers = np.frombuffer(little, "<f8", 24, start).astype(">f8").tobytes()
    big = little[:start].replace(b"little", b"big") + numbers + b"".join(
        struct.pack(f">B{len(f)}i", len(f), *f) for f in faces)
    for content in (little, big, ply(faces=faces, binary=False)):
        (house,) = read_mesh(write(content, "mixed.ply")).solids
        assert house.closed and volume(house.triangles) == pytest.approx(216.0)
        for end in range(len(content) - 3, len(content) - 60, -7):
            with pytest.raises(CityFileError, match="cut off or damaged"):
                read_mesh(write(content[:end], "cut.ply"))


def test_a_building_of_two_halves_and_one_without_a_roof(write):
    corners = np.concatenate([CORNERS, CORNERS + (20, 0, 0), CORNERS + (40, 0, 0)])
    faces = [*QUADS, *[tuple(c + 8 for c in f) for f in QUADS],
             *[tuple(c + 16 for c in f) for f in QUADS[:-1]]]
    city = read_mesh(write(obj(corners, faces), "town.obj"))
    assert [s.closed for s in city.solids] == [True, True, False]
    assert len({s.building_id for s in city.solids}) == 3


def test_corners_of_a_soup_of_triangles_are_merged(write):
    rng = np.random.default_rng(1)
    soup = CORNERS[TRIANGLES.ravel()] + rng.uniform(-1e-6, 1e-6, (36, 3)) + 0.1
    (house,) = read_mesh(write(off(soup, np.arange(36).reshape(-1, 3).tolist()), "a.off")).solids
    assert house.closed


def test_a_concave_roof_is_no_fan(write):
    """An L whose fan from its first corner would cover the yard."""
    bend = np.array([[0, 10, 5], [0, 0, 5], [10, 0, 5], [10, 2, 5], [2, 2, 5], [2, 10, 5]], float)
    for shift in range(6):
        for turn in (1, -1):
            ring = np.roll(bend, shift, axis=0)[::turn]
            (roof,) = read_mesh(write(obj(ring, [range(6)]), "l.obj")).solids
            a, b, c = np.moveaxis(roof.triangles, 1, 0)
            areas = np.cross(b - a, c - a)[:, 2] / 2
            assert np.abs(areas).sum() == pytest.approx(36.0)
            assert (np.sign(areas) == turn).all()      # wound as the face was


def test_indices_from_the_end_and_lines_that_go_on(write):
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 \\\n -2 -1\n"
    (face,) = read_mesh(write(text, "a.obj")).solids
    assert face.triangles.tolist() == [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]]


def test_nodes_of_gltf_move_their_mesh(write):
    nodes = [{"children": [1], "translation": [100, 0, 0]},
             {"mesh": 0, "translation": [0, 5, -50], "scale": [1, 2, 1]}]
    (house,) = read_mesh(write(glb(nodes=nodes), "moved.glb")).solids
    assert house.triangles.min(axis=(0, 1)) == pytest.approx([100, 50, 5])
    assert house.triangles.max(axis=(0, 1)) == pytest.approx([106, 54, 23])


def test_glb_keeps_its_digits_and_may_have_strips_and_fans(write):
    turned = {"mesh": 0, "rotation": [0, np.sqrt(0.5), 0, np.sqrt(0.5)], "scale": [0.1] * 3}
    (house,) = read_mesh(write(glb(nodes=[turned]), "turned.glb")).solids
    x, y, z = CORNERS.T     # a quarter to the left, seen from above
    expected = {tuple(p) for p in (0.1 * np.column_stack([-y, x, z])).round(12).tolist()}
    assert {tuple(p) for p in house.triangles.reshape(-1, 3).round(12).tolist()} == expected
    for mode, area in ((b"5", 36.0), (b"6", 27.0)):     # a strip; a fan, which folds over itself
        content = glb(corners=CORNERS[:4], faces=[(0, 1, 2)]).replace(
            b', "indices": 1}', b',  "mode":   ' + mode + b"}")
        (wall,) = read_mesh(write(content, "wall.glb")).solids
        seen = shapely.union_all(shapely.polygons(wall.triangles[..., 1:]))
        assert len(wall.triangles) == 2 and seen.area == pytest.approx(area)


def test_gltf_needs_its_buffer_beside_it(write):
    document, buffer = gltf(uri="house.bin")
    path = write(json.dumps(document), "house.gltf")
    with pytest.raises(CityFileError, match=r"house\.gltf: needs house\.bin"):
        read_mesh(path)
    write(buffer, "house.bin")
    assert len(read_mesh(path).solids) == 1


@pytest.mark.parametrize("there", ["my house, süd.bin", "my%20house.bin"])
def test_names_of_buffers_may_be_encoded(write, there):
    document, buffer = gltf(uri=there if "%" in there else quote(there))
    write(buffer, there)
    (house,) = read_mesh(write(json.dumps(document), "house.gltf")).solids
    assert house.closed and volume(house.triangles) == pytest.approx(216.0)


def test_a_text_gltf_keeps_its_digits_too(write):
    document, _ = gltf(uri="", nodes=[{"mesh": 0, "scale": [0.1] * 3}])
    (house,) = read_mesh(write(json.dumps(document), "house.gltf")).solids
    assert house.triangles.max(axis=(0, 1)) == pytest.approx([0.6, 0.4, 0.9], abs=1e-12)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_whole_numbers_for_coordinates(write, binary, normalised):
    """KHR_mesh_quantization: a node makes them metres again."""
    most = 32767 if normalised else 1
    document, buffer = gltf(uri=None if binary else "", nodes=[{"mesh": 0, "scale": [most] * 3}])
    turned = (CORNERS[:, [0, 2, 1]] * (1, 1, -1)).astype("<i2")
    n = document["bufferViews"][0]["byteLength"]
    padded = np.zeros((len(turned), 4), "<i2")      # rows of whole four bytes
    padded[:, :3] = turned
    buffer = padded.tobytes().ljust(n, b"\0") + buffer[n:]
    document["extensionsRequired"] = ["KHR_mesh_quantization"]
    document["accessors"][0] |= {"componentType": 5122, "normalized": normalised}
    document["bufferViews"][0]["byteStride"] = 8
    if not binary:
        document["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(buffer).decode()
    (house,) = read_mesh(write(packed(document, buffer) if binary else json.dumps(document),
                               "house.glb")).solids
    assert volume(house.triangles) == pytest.approx(216.0)


@pytest.mark.parametrize("name", ["KHR_draco_mesh_compression", "EXT_meshopt_compression"])
def test_extensions_that_are_not_read_are_named(write, name):
    document, buffer = gltf()
    document["extensionsRequired"] = [name]
    with pytest.raises(CityFileError, match=f"house.glb: needs the extension {name}"):
        read_mesh(write(packed(document, buffer), "house.glb"))
    document["extensionsRequired"] = ["KHR_mesh_quantization", "EXT_other"]
    with pytest.raises(CityFileError, match="needs the extension KHR_mesh_quantization"):
        read_mesh(write(packed(document, buffer), "house.glb"))


def test_the_first_edition_of_gltf_is_named(write):
    with pytest.raises(CityFileError, match="is glTF 1.0"):
        read_mesh(write('{"asset": {"version": "1.0"}, "buffers": {}, "accessors": {}}', "a.gltf"))


@pytest.mark.parametrize("more", [b"\n", b"\r\n", b"\0" * 40], ids=["line", "lines", "zeros"])
def test_what_follows_a_binary_stl(write, more):
    (house,) = read_mesh(write(stl() + more, "house.dat")).solids
    assert volume(house.triangles) == pytest.approx(216.0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_a_binary_stl_that_is_cut_off_says_so(write, share):
    whole = stl(faces=np.tile(TRIANGLES, (2, 1)))
    cut = whole[:int(share * len(whole))]
    with pytest.raises(CityFileError,
                       match=f"cut.stl: is cut off: {len(cut):,} of {len(whole):,} bytes"):
        read_mesh(write(cut, "cut.stl"))


@pytest.mark.parametrize("kind", ["obj", "stl", "ply", "gltf"])
def test_a_town_that_is_higher_than_wide_may_lie_on_its_side(write, kind):
    two = np.concatenate([CORNERS, CORNERS + (30, 0, 0)])
    faces = np.concatenate([TRIANGLES, TRIANGLES + 8])
    content = json.dumps(gltf(two, faces, uri="")[0]) if kind == "gltf" else \
        {"obj": obj, "stl": stl, "ply": ply}[kind](two, faces)
    said = any("z is taken as up" in n for n in read_mesh(write(content, f"a.{kind}")).notes)
    assert said == (kind != "gltf")


@pytest.mark.parametrize("kind", ["obj", "off", "ply", "ascii.ply"])
def test_coordinates_of_a_map_keep_their_millimetres(write, kind):
    writer = {"obj": obj, "off": off}.get(kind, lambda c: ply(c, binary=kind == "ply"))
    city = read_mesh(write(writer(CORNERS + DELFT), f"delft.{kind}"), RD)
    (house,) = city.solids
    assert city.frame.altitude_m == 1.0 and city.vertical_datum == "NAP height"
    assert city.crs == "EPSG:7415"
    expected = SourceCrs(RD.crs).to_enu(city.frame, *(CORNERS + DELFT).T)
    assert house.triangles.reshape(-1, 3).min(axis=0) == pytest.approx(expected.min(axis=0),
                                                                       abs=1e-3)
    assert np.abs(city.extent[:2]).max() < 0.1
    assert volume(house.triangles) == pytest.approx(216.0, rel=1e-3)
    assert not city.notes


def test_single_precision_is_noted_where_it_matters(write):
    far = np.array([600_000.0, 5_447_000.0, 300.0])
    city = read_mesh(write(stl(CORNERS + far), "far.stl"), ReadOptions(crs="EPSG:25833"))
    assert any("single precision" in note for note in city.notes)


def test_feet_become_metres(write):
    # Boston, in US survey feet
    place = np.array([774_000.0, 2_955_000.0, 100.0])
    city = read_mesh(write(obj(CORNERS + place), "boston.obj"), ReadOptions(crs="EPSG:2249"))
    (house,) = city.solids
    assert np.ptp(house.triangles[..., 2]) == pytest.approx(9 * 1200 / 3937)
    assert volume(house.triangles) == pytest.approx(216 * (1200 / 3937)**3, rel=1e-3)


def test_without_a_reference_system_metres_are_local(write):
    path = write(obj(), "house.obj")
    lost = read_mesh(path)
    assert (lost.crs, lost.frame) == (LOCAL, LocalFrame(0.0, 0.0))
    assert any("no georeference" in note and "origin" in note for note in lost.notes)
    there = LocalFrame(52.0, 4.37, -1.0)
    given = read_mesh(path, frame=there)
    assert given.frame == there and any("map frame" in note for note in given.notes)
    placed = read_mesh(path, ReadOptions(origin="52.0, 4.37, 2"), there)
    assert not placed.notes
    assert placed.solids[0].triangles == pytest.approx(given.solids[0].triangles + (0, 0, 3.0),
                                                       abs=1e-6)


def test_a_mesh_becomes_voxels(write):
    grid = voxelise(read_mesh(write(glb(), "house.glb")), resolution=1.0)
    assert grid.occupied.sum() == 6 * 4 * 9


@pytest.mark.parametrize("content, words", [
    (obj(faces=[]), "has no faces"), (off(faces=[]), "has no faces"),
    (obj(faces=[(0, 1, 99)]), "corner 100 of 8"), (obj(faces=[(0, 1)]), "broken.*face"),
    ("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n", "numbers for its corners"),
    ("v 0 0 0\nv 1 x 0\n", "is broken"), ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 2\n", "area"),
    ("v 0 0 0\nv 1e9 0 0\nv 0 1 0\nf 1 2 3\n", "numbers for its corners"),
    (obj(CORNERS + DELFT), "map projection.*crs"), (obj(CORNERS + (0, 0, 1e5)), "heights"),
    (obj(CORNERS * 1000), "spans 9,000 in z.*millimetres"),
    ("OFF\n8 12 0\n0 0 0\n", "announced"), (glb()[:40], "cannot be read as glTF.*cut off"),
    (glb(nodes=[{"children": [0]}]), "node 0 is placed twice"),
    (glb(faces=TRIANGLES + 4), "names corner 11 of 8"),
    ("hello\n", "no mesh"), ("", "no mesh"), ("{}", "no mesh"), (ply(faces=[]), "no mesh"),
    (b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "broken PLY header"),
    (b"ply\nformat ascii 1.0\nelement ver", "no end")])
def test_broken_meshes_say_what_is_wrong(write, content, words):
    with pytest.raises(CityFileError, match=rf"broken\.dat: .*{words}"):
        read_mesh(write(content, "broken.dat"))


@pytest.mark.parametrize("options, error, words", [
    (ReadOptions(crs="EPSG:25833"), CityFileError, "outside the area"),
    (ReadOptions(origin="here"), ConfigError, "latitude,longitude"),
    (ReadOptions(origin="95,4"), ConfigError, "95"), (ReadOptions(crs="no"), ConfigError, "'no'")])
def test_a_place_that_cannot_be_is_refused(write, options, error, words):
    with pytest.raises(error, match=words):
        read_mesh(write(obj(), "house.obj"), options)


@pytest.mark.parametrize("kind", CLOUDS)
@pytest.mark.parametrize("name", ["scan.{}", "scan.dat"])
def test_every_format_holds_the_same_points(write, kind, name):
    city = read_cloud(write(CLOUDS[kind], name.format(kind)))
    (boxes,) = city.boxes
    assert boxes.lower.tolist() == [list(p) for p in POINTS]
    assert np.array_equal(boxes.lower, boxes.upper) and boxes.kind == "unknown"
    assert city.extent == (-7.0, 2.0, 4.0, 8.0)


@pytest.mark.parametrize("header, columns", [
    ("id,x,y,z", "-xyz"), ("z,y,x,id", "zyx-"), ("//X,Y,Z", "xyz"), ("x y red elevation", "xy-z"),
    ('"Point","Easting [m]","Northing [m]","Height (m)"', "-xyz"), ("east\tnorth\tup", "xyz"),
    ("Nr;Rechtswert;Hochwert;Höhe", "-xyz")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_line_of_names_says_which_columns_count(write, header, columns, encoding):
    sign = next((c for c in ",;\t" if c in header), " ")
    rows = [sign.join(str(dict(zip("xyz", p, strict=True)).get(c, 77)) for c in columns)
            for p in POINTS]
    city = read_cloud(write("\n".join([header, *rows]).encode(encoding), "a.csv"))
    assert city.boxes[0].lower.tolist() == [list(p) for p in POINTS]


@pytest.mark.parametrize("header", ["id,lon,lat,height", "a,b,c,d", "x,y,intensity,class"])
def test_a_line_of_other_names_is_refused(write, header):
    path = write(f"{header}\n0,13.4,52.5,0\n1,13.401,52.5,1\n", "pts.csv")
    with pytest.raises(CityFileError, match=rf"pts.csv: its line of names, '{header}'.*x, y and "
                       "z; name them so"):
        read_cloud(path)


def test_points_that_are_no_numbers_are_left_out_and_counted(write):
    some = [*POINTS, (np.nan, 0, 0), (0, 0, np.inf), (0, 1e30, 0)]
    for name, content in (("a.pcd", pcd(some)), ("b.pcd", pcd(some, "binary")),
                          ("a.ply", ply(np.array(some), [])),
                          ("a.xyz", "".join("{} {} {}\n".format(*p) for p in some))):
        city = read_cloud(write(content, name))
        assert len(city.boxes[0].lower) == 3
        assert any(note.startswith("3 of 6 points") for note in city.notes)


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_cloud_that_is_cut_off_is_refused(write, kind):
    content = CLOUDS[kind] if isinstance(CLOUDS[kind], bytes) else CLOUDS[kind].encode()
    text = kind in ("xyz", "csv", "txt")
    cut = content.rindex(b"8") if text else len(content) - len(content.splitlines()[-1]) - 1 \
        if b"ascii" in content else len(content) - 5
    with pytest.raises(CityFileError, match=rf"cut\.{kind}"):
        read_cloud(write(content[:cut], f"cut.{kind}"))


@pytest.mark.parametrize("content, words", [
    (pcd([]), "holds no points"), (ply(np.empty((0, 3)), []), "holds no points"),
    (pcd([(np.nan,) * 3]), "all are not a number"), ("", "no point cloud"),
    ("one two three\n", "no point cloud"), (b"\0" * 99, "no point cloud"),
    (pcd(POINTS).replace(b"FIELDS x y z", b"FIELDS a b c"), "not x y z"),
    (pcd(POINTS).replace(b"POINTS 3", b"POINTS many"), "broken PCD header"),
    (pcd(POINTS)[:60], "no DATA"), (pcd([DELFT]), "map projection"),
    (pcd([(0, 0, 2e6)]), "heights")])
def test_broken_clouds_say_what_is_wrong(write, content, words):
    with pytest.raises(CityFileError, match=rf"broken\.dat: .*{words}"):
        read_cloud(write(content, "broken.dat"))


GRID = [(391000.0 + i, 5820000.0 + j, 100 + 0.5 * i) for j in range(20) for i in range(30)]


@pytest.mark.parametrize("content", [
    "\n".join("{} {} {}".format(*p) for p in GRID), ply(np.array(GRID), []),
    "x;y;z\n" + "\n".join("{};{};{}".format(*p) for p in GRID[7:])])
def test_a_grid_of_points_may_be_the_ground(write, content):
    path = write(content, "dgm1.xyz")
    city = read_cloud(path, ReadOptions(crs="EPSG:25833", kind="terrain"))
    assert not city.boxes and city.frame.altitude_m == 100.0
    assert np.nanmax(city.terrain.heights) == pytest.approx(14.5, abs=0.1)
    assert city.notes[0].endswith("points on a grid")
    with pytest.raises(CityFileError, match="names no coordinate reference system"):
        read_cloud(path, ReadOptions(kind="terrain"))
    plain = read_cloud(path, ReadOptions(crs="EPSG:25833"))
    assert plain.boxes and any("--kind terrain" in note for note in plain.notes)


def test_points_that_are_no_grid_are_no_ground(write):
    path = write("\n".join("{} {} {}".format(*p) for p in POINTS), "scan.xyz")
    with pytest.raises(CityFileError, match="scan.xyz: .*no regular grid.*gdal_translate"):
        read_cloud(path, ReadOptions(kind="terrain"))


def test_compressed_pcd(write, tmp_path):
    import open3d

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(np.array(POINTS * 50)))
    path = tmp_path / "small.pcd"
    open3d.io.write_point_cloud(str(path), cloud, compressed=True)
    assert len(read_cloud(path).boxes[0].lower) == 150
    with pytest.raises(CityFileError, match="0 of 150 points"):
        read_cloud(write(path.read_bytes()[:-9], "cut.pcd"))


def test_missing_files(tmp_path):
    for read in (read_mesh, read_cloud):
        with pytest.raises(CityFileError, match="nowhere.ply: cannot be read"):
            read(tmp_path / "nowhere.ply")
