"""CityGML 1 and 2, in every order of axes, and files that attack or are broken."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallel_city_ros.city.citygml import is_citygml, read_citygml
from parallel_city_ros.city.model import City, HeightSource
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.city.voxels import voxelise
from parallel_city_ros.errors import CityFileError
from parallel_city_ros.geo import LocalFrame, SourceCrs

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real city files beside the project")
AT = (565000.0, 5935000.0)      # Hamburg in EPSG:25832
UTM = "urn:ogc:def:crs,crs:EPSG::25832,crs:EPSG::5783"


def document(*members, version="2.0", srs=UTM, head=""):
    modules = {"bldg": "building", "veg": "vegetation", "frn": "cityfurniture", "brid": "bridge",
               "dem": "relief", "gen": "generics", "tran": "transportation", "tun": "tunnel",
               "grp": "cityobjectgroup", "wtr": "waterbody"}
    spaces = "".join(f' xmlns:{short}="http://www.opengis.net/citygml/{name}/{version}"'
                     for short, name in modules.items())
    envelope = f'<gml:boundedBy><gml:Envelope srsName="{srs}" srsDimension="3"/></gml:boundedBy>' \
        if srs else ""
    return (f'<?xml version="1.0" encoding="UTF-8"?>{head}'
            f'<CityModel xmlns="http://www.opengis.net/citygml/{version}" '
            'xmlns:gml="http://www.opengis.net/gml" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f"{spaces}>{envelope}"
            + "".join(f"<cityObjectMember>{m}</cityObjectMember>" for m in members)
            + "</CityModel>")


def box_rings(x=0.0, y=0.0, z=0.0, size=(10.0, 6.0, 4.0), at=AT):
    """Six closed rings of (x, y, z)."""
    corner = [(at[0] + x + size[0] * (k & 1), at[1] + y + size[1] * (k >> 1 & 1),
               z + size[2] * (k >> 2)) for k in range(8)]
    return [[corner[k] for k in (*ring, ring[0])] for ring in (
        (0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (1, 3, 7, 5), (3, 2, 6, 7), (2, 0, 4, 6))]


def positions(ring, form="posList"):
    if form == "pos":
        return "".join(f"<gml:pos>{x!r} {y!r} {z!r}</gml:pos>" for x, y, z in ring)
    if form == "coordinates":
        return "<gml:coordinates>" + " ".join(
            f"{x!r},{y!r},{z!r}" for x, y, z in ring) + "</gml:coordinates>"
    return "<gml:posList>" + "  ".join(f"{x!r} {y!r}\n{z!r}" for x, y, z in ring) + \
        "</gml:posList>"


def polygon(ring, name="", holes=(), form="posList"):
    rings = [f"<gml:exterior><gml:LinearRing>{positions(ring, form)}</gml:LinearRing>"
             "</gml:exterior>"]
    rings += [f"<gml:interior><gml:LinearRing>{positions(h, form)}</gml:LinearRing>"
              "</gml:interior>" for h in holes]
    identity = f' gml:id="{name}"' if name else ""
    return f"<gml:Polygon{identity}>{''.join(rings)}</gml:Polygon>"


def members(*inner):
    return "".join(f"<gml:surfaceMember>{i}</gml:surfaceMember>" for i in inner)


def links(*names):
    return "".join(f'<gml:surfaceMember xlink:href="#{n}"/>' for n in names)


def surfaces(rings, **how):
    return f"<gml:MultiSurface>{members(*(polygon(r, **how) for r in rings))}</gml:MultiSurface>"


def solid(content):
    return ("<gml:Solid><gml:exterior><gml:CompositeSurface>" + content
            + "</gml:CompositeSurface></gml:exterior></gml:Solid>")


def whole(rings, **how):
    return solid(members(*(polygon(r, **how) for r in rings)))


def building(*content, name="b", kind="bldg:Building"):
    return f'<{kind} gml:id="{name}">' + "".join(content) + f"</{kind}>"


def prop(name, content, space="bldg"):
    return f"<{space}:{name}>{content}</{space}:{name}>"


@pytest.fixture
def read(tmp_path):
    def read(*inner, frame=None, crs="", lod="", **how):
        path = tmp_path / "city.gml"
        path.write_text(document(*inner, **how))
        return read_citygml(path, ReadOptions(crs=crs, lod=lod), frame)
    return read


def sizes(solid):
    return np.ptp(solid.triangles.reshape(-1, 3), axis=0)


# --- geometry ------------------------------------------------------------------------------

@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("lod", "1234")
@pytest.mark.parametrize("shape, form", [
    ("Solid", "posList"), ("MultiSurface", "pos"), ("Solid", "coordinates")])
def test_every_version_level_and_spelling(read, version, lod, shape, form):
    make = whole if shape == "Solid" else surfaces
    city = read(building(prop(f"lod{lod}{shape}", make(box_rings(z=3.5), form=form))),
                version=version)
    (body,) = city.solids
    assert body.closed and len(body.triangles) == 12 and body.building_id == "b"
    assert sizes(body) == pytest.approx((10, 6, 4), abs=0.3)
    assert city.frame.altitude_m == 3.0 and body.ground_z == body.triangles[..., 2].min() == 0.5
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (1, 0, 0)
    assert city.height_sources == {"measured": 1, "levels": 0, "assumed": 0}
    assert city.vertical_datum == "DHHN92 height" and city.notes == ()


def test_a_solid_refers_to_the_surfaces_that_bound_it_wherever_they_stand(read):
    rings = box_rings()
    names = [f"p{n}" for n in range(6)]
    walls = "".join(prop("boundedBy", prop("WallSurface", prop("lod2MultiSurface", surfaces(
        [r], name=n)))) for r, n in zip(rings[:3], names[:3], strict=True))
    elsewhere = "".join(prop("boundedBy", prop("RoofSurface", prop("lod2MultiSurface", surfaces(
        [r], name=n)))) for r, n in zip(rings[3:], names[3:], strict=True))
    first = building(prop("lod2Solid", solid(links(*names))), walls)
    second = building(prop("lod1Solid", whole(box_rings(x=50.0))), elsewhere, name="c")
    city = read(first, second, lod="2")
    body = next(s for s in city.solids if s.building_id == "b")
    assert body.closed and len(body.triangles) == 12
    assert city.notes[0].startswith("1 of 2 bodies are not closed")    # the other one's walls


@pytest.mark.parametrize("wrapped", ["CompositeSurface", "OrientableSurface", "lod2Solid"])
def test_references_to_what_holds_polygons(read, wrapped):
    rings = box_rings()
    named = f'<gml:CompositeSurface gml:id="shell">{members(*map(polygon, rings))}' \
        "</gml:CompositeSurface>"
    if wrapped == "CompositeSurface":
        inner = prop("lod2Solid", solid(links("shell")))
    elif wrapped == "OrientableSurface":
        inner = prop("lod2Solid", solid(members(
            '<gml:OrientableSurface orientation="-"><gml:baseSurface xlink:href="#shell"/>'
            "</gml:OrientableSurface>")))
    else:
        inner = '<bldg:lod2Solid xlink:href="#shell"/>'
    city = read(building(inner), building(prop("lod1MultiSurface", f"<gml:MultiSurface>"
                                               f"{members(named)}</gml:MultiSurface>"), name="c"))
    assert {s.building_id: (s.closed, len(s.triangles)) for s in city.solids} == {
        "b": (True, 12), "c": (True, 12)}


def test_a_reference_to_nothing_is_told(read):
    city = read(building(prop("lod2Solid", solid(
        links("gone") + members(*map(polygon, box_rings()))))))
    assert city.solids[0].closed and "references to surfaces that are not" in city.notes[0]


def test_a_solid_drawn_again_as_its_boundary_stands_once(read):
    rings = box_rings()
    bounds = "".join(prop("boundedBy", prop("WallSurface", prop(
        "lod2MultiSurface", surfaces([r])))) for r in rings)
    eaves = prop("boundedBy", prop("RoofSurface", prop("lod2MultiSurface", surfaces(
        [[(AT[0] - 1, AT[1], 4.0), (AT[0], AT[1], 4.0), (AT[0], AT[1] + 6, 4.0),
          (AT[0] - 1, AT[1], 4.0)]]))))
    (body,) = read(building(prop("lod2Solid", whole(rings)), bounds)).solids
    assert body.closed and len(body.triangles) == 12
    body, overhang = read(building(prop("lod2Solid", whole(rings)), bounds, eaves)).solids
    assert body.closed and not overhang.closed and len(overhang.triangles) == 1


def test_holes_doors_and_roofs_make_one_body_of_the_surfaces(read):
    rings = box_rings()
    (x, y) = AT
    door = [(x + 2, y, 1.0), (x + 4, y, 1.0), (x + 4, y, 3.0), (x + 2, y, 3.0), (x + 2, y, 1.0)]
    front = prop("boundedBy", "<bldg:WallSurface>" + prop(
        "lod3MultiSurface", f"<gml:MultiSurface>{members(polygon(rings[2], holes=[door]))}"
        "</gml:MultiSurface>") + prop("opening", prop("Door", prop(
            "lod3MultiSurface", surfaces([door[::-1]])))) + "</bldg:WallSurface>")
    others = "".join(prop("boundedBy", prop("WallSurface", prop(
        "lod3MultiSurface", surfaces([r])))) for r in rings[:2] + rings[3:])
    (body,) = read(building(front, others)).solids
    assert body.closed
    (gaping,) = read(building(front.replace("Door", "NoDoor"), others)).solids
    assert not gaping.closed


def test_composite_solids_are_bodies_of_their_own(read):
    shape = "".join(f"<gml:solidMember>{whole(box_rings(x=x))}</gml:solidMember>"
                    for x in (0.0, 5.0))
    city = read(building(prop("lod2Solid", f"<gml:CompositeSolid>{shape}</gml:CompositeSolid>")))
    assert [s.closed for s in city.solids] == [True, True] and city.n_buildings == 1


def test_rooms_inside_are_left_out(read):
    shape = whole(box_rings(1, 1, 1, (2, 2, 2)))
    room = prop("interiorRoom", prop("Room", prop("lod4Solid", shape)))
    city = read(building(prop("lod4Solid", whole(box_rings())), room))
    assert len(city.solids) == 1 and len(city.solids[0].triangles) == 12


# --- objects -------------------------------------------------------------------------------

def test_parts_and_installations_stand_beside_the_building(read):
    parts = "".join(
        prop("consistsOfBuildingPart", building(prop("lod2Solid", whole(box_rings(
            x=20.0 * n, z=5.0 * n))), name=f"p{n}", kind="bldg:BuildingPart")) for n in (1, 2))
    chimney = prop("outerBuildingInstallation", building(prop("lod2Geometry", whole(
        box_rings(z=4.0, size=(1, 1, 2)))), name="chimney", kind="bldg:BuildingInstallation"))
    city = read(building(prop("lod2Solid", whole(box_rings())), parts, chimney),
                building(parts.replace('"p', '"q'), name="carrier"))
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (2, 4, 0)
    grounds = {s.building_id: s.ground_z for s in city.solids}
    assert grounds == {"b": 0, "p1": 0, "p2": 0, "chimney": 0, "q1": 5, "q2": 5}
    assert {s.building_id for s in city.solids if not s.is_part} == {"b"}


@pytest.mark.parametrize("kind, space, property_, meant", [
    ("SolitaryVegetationObject", "veg", "lod2Geometry", "tree"),
    ("PlantCover", "veg", "lod1MultiSolid", "tree"),
    ("CityFurniture", "frn", "lod1Geometry", "furniture"),
    ("GenericCityObject", "gen", "lod3Geometry", "other"),
    ("Bridge", "brid", "lod2Solid", "bridge")])
def test_what_stands_has_a_kind(read, kind, space, property_, meant):
    shape = whole(box_rings())
    if property_ == "lod1MultiSolid":
        shape = f"<gml:MultiSolid><gml:solidMember>{shape}</gml:solidMember></gml:MultiSolid>"
    city = read(f"<{space}:{kind}>" + prop(property_, shape, space) + f"</{space}:{kind}>")
    assert [(s.kind, s.closed) for s in city.solids] == [(meant, True)] and city.n_buildings == 0


def test_what_is_flat_or_below_is_left_out_and_told(read):
    inner = prop("lod1MultiSurface", surfaces(box_rings()), "tran")
    city = read(building(prop("lod1Solid", whole(box_rings()))),
                f"<tran:Road>{inner}</tran:Road>", f"<tun:Tunnel>{inner}</tun:Tunnel>")
    assert len(city.solids) == 1 and "1 Road" in city.notes[0] and "1 Tunnel" in city.notes[0]


def test_members_of_a_group_stand(read):
    city = read("<grp:CityObjectGroup><grp:groupMember>" + building(
        prop("lod1Solid", whole(box_rings()))) + "</grp:groupMember></grp:CityObjectGroup>")
    assert city.n_buildings == 1


def test_an_object_of_two_tiles_stands_once(read):
    one = building(prop("lod1Solid", whole(box_rings())))
    city = read(one, one)
    assert len(city.solids) == city.n_buildings == 1 and "twice" in city.notes[0]


def implicit(point, matrix, shape):
    return ("<ImplicitGeometry><transformationMatrix>" + " ".join(map(str, np.ravel(matrix)))
            + f"</transformationMatrix><relativeGMLGeometry{shape}"
            "<referencePoint><gml:Point><gml:pos>" + " ".join(map(str, point))
            + "</gml:pos></gml:Point></referencePoint></ImplicitGeometry>")


def test_trees_are_drawn_once_and_placed_often(read):
    crown = surfaces(box_rings(size=(2.0, 1.0, 3.0), at=(0.0, 0.0))).replace(
        "<gml:MultiSurface>", '<gml:MultiSurface gml:id="crown">')
    large = np.diag([2.0, 2.0, 4.0, 1.0])
    large[:3, 3] = 10.0, 0.0, 1.0
    trees = [prop("lod2ImplicitRepresentation", implicit(
        (AT[0], AT[1], 7.0), np.eye(4), f">{crown}</relativeGMLGeometry>"), "veg"),
        prop("lod2ImplicitRepresentation", implicit(
            (AT[0], AT[1] + 20, 3.0), large, ' xlink:href="#crown"/>'), "veg")]
    city = read(*(f"<veg:SolitaryVegetationObject>{t}</veg:SolitaryVegetationObject>"
                  for t in trees))
    small, tall = city.solids
    assert small.closed and tall.closed and {small.kind, tall.kind} == {"tree"}
    assert sizes(small) == pytest.approx((2, 1, 3), abs=0.1)
    assert sizes(tall) == pytest.approx((4, 2, 12), abs=0.1)
    assert city.frame.altitude_m == 4.0 and tall.triangles[..., 2].min() == 0.0
    assert tall.triangles[..., 0].min() - small.triangles[..., 0].min() == pytest.approx(
        10.0, abs=0.5)


@pytest.mark.parametrize("change", [("1.0 0.0", "1.0"), ("<gml:pos>", "<gml:pos>x"),
                                    ("<gml:pos>", "<gml:pos>1 ")])
def test_a_tree_that_cannot_be_placed_is_named(read, change):
    tree = prop("lod2ImplicitRepresentation", implicit(
        (*AT, 7.0), np.eye(4), f">{surfaces(box_rings(at=(0, 0)), form='coordinates')}"
        "</relativeGMLGeometry>").replace(*change, 1), "veg")
    with pytest.raises(CityFileError, match="city.gml: line 1: an ImplicitGeometry"):
        read(f"<veg:PlantCover>{tree}</veg:PlantCover>")


def test_the_terrain_is_a_raster(read):
    (x, y) = AT
    corners = [(x - 20, y - 20, 1.0), (x + 60, y - 20, 9.0), (x + 60, y + 40, 9.0),
               (x - 20, y + 40, 1.0)]
    triangles = "".join(
        f"<gml:Triangle><gml:exterior><gml:LinearRing>{positions([*t, t[0]])}"
        "</gml:LinearRing></gml:exterior></gml:Triangle>"
        for t in (corners[:3], [corners[0], *corners[2:]]))
    relief = ("<dem:ReliefFeature><dem:reliefComponent><dem:TINRelief><dem:lod>2</dem:lod>"
              f"<dem:tin><gml:TriangulatedSurface><gml:trianglePatches>{triangles}</gml:trianglePatches>"
              "</gml:TriangulatedSurface></dem:tin></dem:TINRelief></dem:reliefComponent>"
              "</dem:ReliefFeature>")
    city = read(building(prop("lod1Solid", whole(box_rings(z=3.0)))), relief)
    assert city.frame.altitude_m == 1.0 and city.extent[0] == pytest.approx(0.0, abs=0.5)
    i, j = (int((0.0 - o) / 2.0) for o in city.terrain.origin)
    assert city.terrain.heights[i, j] == pytest.approx(2.0, abs=0.3)
    assert city.terrain.heights[i + 20, j] == pytest.approx(6.0, abs=0.3)
    assert read(relief).terrain is not None


# --- levels of detail and outlines ---------------------------------------------------------

def test_the_level_of_detail_is_the_highest_or_nearest_to_that_asked_for(read):
    both = building(prop("lod1Solid", whole(box_rings(size=(9, 9, 11)))),
                    prop("lod2Solid", whole(box_rings(size=(9, 9, 12)))), name="a")
    one = building(prop("lod1Solid", whole(box_rings(x=50.0, size=(9, 9, 21)))))
    for lod, heights in (("", [12, 21]), ("2", [12, 21]), ("1", [11, 21])):
        assert [round(sizes(s)[2]) for s in read(both, one, lod=lod).solids] == heights
    with pytest.raises(CityFileError, match="level of detail 4; there is 1, 2"):
        read(both, one, lod="4")


@pytest.mark.parametrize("attributes, height, source", [
    ('<bldg:measuredHeight uom="urn:adv:uom:m">15.5</bldg:measuredHeight>', 15.5, "MEASURED"),
    ('<bldg:measuredHeight uom="#ft">100</bldg:measuredHeight>', 30.48, "MEASURED"),
    ('<gen:stringAttribute name="HoeheGrund"><gen:value>2.0</gen:value></gen:stringAttribute>'
     '<gen:doubleAttribute name="HoeheDach"><gen:value>9.0</gen:value></gen:doubleAttribute>',
     7.0, "MEASURED"),
    ('<gen:genericAttributeSet name="s"><gen:measureAttribute name="height"><gen:value uom="m">8'
     "</gen:value></gen:measureAttribute></gen:genericAttributeSet>", 8.0, "MEASURED"),
    ("<bldg:measuredHeight>-1</bldg:measuredHeight>"
     "<bldg:storeysAboveGround>5</bldg:storeysAboveGround>", 16.0, "LEVELS"),
    ("", 12.0, "ASSUMED")])
def test_a_mere_outline_is_extruded(read, attributes, height, source):
    city = read(building(attributes, prop("lod0FootPrint", surfaces(box_rings(z=2.0)[:1]))))
    (found,) = city.buildings
    assert found.top_z == pytest.approx(height) and found.source is HeightSource[source]
    assert found.ground_z == 0.0 and found.footprint.area == pytest.approx(60, rel=1e-3)
    assert not city.solids and city.height_sources[found.source.value] == 1


def test_storeys_do_not_count_where_the_geometry_has_a_height(read):
    city = read(building("<bldg:storeysAboveGround>9</bldg:storeysAboveGround>",
                         prop("lod1Solid", whole(box_rings()))))
    assert city.height_sources["measured"] == 1 and sizes(city.solids[0])[2] == 4


def test_outlines_of_the_roof_hang_above_their_ground(read):
    roof = prop("lod0RoofEdge", surfaces(box_rings(z=2.0, size=(9, 9, 20))[1:2]))
    ground = prop("lod0FootPrint", surfaces(box_rings(z=2.0)[:1]))
    tall = "<bldg:measuredHeight>20</bldg:measuredHeight>"
    (both,) = read(building(roof, ground)).buildings
    assert (both.top_z, both.ground_z, both.source) == (20.0, 0.0, HeightSource.MEASURED)
    city = read(building(tall, roof))
    assert city.buildings[0].ground_z + city.frame.altitude_m == pytest.approx(2.0)
    assert city.buildings[0].top_z == 20.0


# --- reference systems and axes -------------------------------------------------------------

@pytest.mark.parametrize("name, epsg, vertical", [
    ("urn:adv:crs:DE_DHDN_3GK4*DE_DHN92_NH", 31468, "DE_DHN92_NH"),
    ("urn:adv:crs:DE_DHDN_3GK2_NW177*DE_DHHN92_NH", 31466, "DE_DHHN92_NH"),
    ("urn:adv:crs:DE_DHDN_3GK3", 31467, ""), ("urn:adv:crs:DE_DHDN_3GK5", 31469, ""),
    ("urn:adv:crs:ETRS89_UTM31", 25831, ""),
    ("urn:adv:crs:ETRS89_UTM32*DE_DHHN2016_NH", 25832, "DE_DHHN2016_NH"),
    ("urn:adv:crs:ETRS89_UTM33*DE_DHHN92_NH", 25833, "DE_DHHN92_NH"),
    ("urn:ogc:def:crs,crs:EPSG:6.12:31467,crs:EPSG:6.12:5783", 31467, "DHHN92 height"),
    ("http://www.opengis.net/gml/srs/epsg.xml#25832", 25832, ""), ("EPSG:25832", 25832, ""),
    ("urn:ogc:def:crs:EPSG::31468", 31468, ""), ("EPSG:31468", 31468, "")])
def test_german_names_with_east_first(read, name, epsg, vertical):
    """Gauss-Krüger is north first by EPSG, and east first in files, whatever they call it."""
    west, south, east, north = SourceCrs(f"EPSG:{epsg}").crs.area_of_use.bounds
    lon, lat = (west + east) / 2, 52.0 if south < 52 < north else (south + north) / 2
    at = _project(epsg, lon, lat)
    city = read(building(prop("lod1Solid", whole(box_rings(at=at)))), srs=name)
    assert city.frame.latitude_deg == pytest.approx(lat, abs=1e-4)
    assert city.frame.longitude_deg == pytest.approx(lon, abs=1e-4)
    assert city.vertical_datum == vertical


def _project(epsg, lon, lat):
    from pyproj import Transformer
    return Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True).transform(lon, lat)


@pytest.mark.parametrize("name, epsg, lon, lat, north_first", [
    ("http://www.opengis.net/def/crs/EPSG/0/6697", 6697, 139.7, 35.7, True),    # Tokyo
    ("EPSG:6697", 6697, 139.7, 35.7, True),         # only that fits
    ("EPSG:6697", 6697, 139.7, 35.7, False),
    ("urn:ogc:def:crs:EPSG::4326", 4326, 13.4, 52.5, True),
    ("EPSG:4326", 4326, 13.4, 52.5, False),         # both fit: short names are x, y
    ("urn:ogc:def:crs:EPSG::3301", 3301, 24.7, 59.4, True),     # Tallinn
    ("urn:ogc:def:crs:EPSG::3301", 3301, 24.7, 59.4, False),    # only that fits
    ("urn:ogc:def:crs:EPSG::2180", 2180, 19.0, 52.0, True),     # Poland: both fit
    ("EPSG:2180", 2180, 19.0, 52.0, False),
    ("urn:ogc:def:crs,crs:EPSG:6.12:3068,crs:EPSG:6.12:5783", 3068, 13.4, 52.5, False),  # Berlin
    ("urn:ogc:def:crs:EPSG::25832", 25832, 10.0, 53.5, False)])
def test_the_order_of_axes(read, name, epsg, lon, lat, north_first):
    x, y = (lon, lat) if epsg in (6697, 4326) else _project(epsg, lon, lat)
    step = 1e-4 if epsg in (6697, 4326) else 10.0
    rings = box_rings(size=(2 * step, step, 4.0), at=(x, y))
    if north_first:
        rings = [[(b, a, z) for a, b, z in ring] for ring in rings]
    city = read(building(prop("lod1Solid", whole(rings))), srs=name)
    assert city.frame.latitude_deg == pytest.approx(lat, abs=1e-4)
    assert city.frame.longitude_deg == pytest.approx(lon, abs=1e-4)
    width, depth, _ = sizes(city.solids[0])
    assert width > depth
    assert any("north, east" in note for note in city.notes) == north_first
    assert any("both orders fit" in note for note in city.notes) == (epsg in (4326, 2180))


@pytest.mark.parametrize("name, words", [
    ("", "names no reference system.*--crs"), ("urn:adv:crs:DE_SOLDNER_BERLIN", "SOLDNER.*--crs"),
    ("EPSG:2056", "outside the area of EPSG:2056.*--crs"), ("urn:x:9", "urn:x:9.*not known")])
def test_a_reference_system_that_is_missing_or_wrong_is_refused(read, name, words):
    one = building(prop("lod1Solid", whole(box_rings())))
    with pytest.raises(CityFileError, match=f"city.gml: .*{words}"):
        read(one, srs=name)
    assert read(one, srs=name, crs="EPSG:25832").crs == "EPSG:25832"


def test_a_geometry_names_the_reference_system_before_the_envelope(read):
    inner = whole(box_rings()).replace("<gml:Solid>", '<gml:Solid srsName="EPSG:25832">')
    assert read(building(prop("lod1Solid", inner)), srs="EPSG:2056").crs == "EPSG:25832"
    other = inner.replace("25832", "25833")
    with pytest.raises(CityFileError, match="2 reference systems"):
        read(building(prop("lod1Solid", inner)), building(prop("lod1Solid", other), name="c"))


def test_a_frame_given_is_kept(read):
    frame = LocalFrame(53.5, 9.9, 2.0)
    city = read(building(prop("lod1Solid", whole(box_rings(z=5.0)))), frame=frame)
    assert city.frame == frame and city.solids[0].triangles[..., 2].min() == 3.0
    assert city.extent[0] > 1000


# --- attacks and broken files ----------------------------------------------------------------

LAUGHS = "<!DOCTYPE CityModel [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "]>"


@pytest.mark.parametrize("head, inner", [
    (LAUGHS, "&i;"), (LAUGHS, ""),
    ('<!DOCTYPE CityModel [<!ENTITY x SYSTEM "{secret}">]>', "&x;"),
    ('<!DOCTYPE CityModel SYSTEM "{secret}">', ""),
    ('<!DOCTYPE CityModel [<!ENTITY % p SYSTEM "{secret}"> %p;]>', "")])
def test_entities_and_types_are_refused(tmp_path, head, inner):
    secret = tmp_path / "secret.txt"
    secret.write_text("565000 5935000 0")
    path = tmp_path / "attack.gml"
    path.write_text(document(
        building(f"<bldg:measuredHeight>{inner}</bldg:measuredHeight>",
                 prop("lod1Solid", whole(box_rings()))),
        head=head.replace("{secret}", secret.as_uri())))
    with pytest.raises(CityFileError, match="attack.gml: declares a document type"):
        read_citygml(path)


def test_an_entity_without_a_type_is_no_xml(read):
    with pytest.raises(CityFileError, match="cannot be read as XML.*nothing"):
        read(building("<bldg:measuredHeight>&nothing;</bldg:measuredHeight>"))


def test_references_in_a_circle_end(read):
    rings = members(*map(polygon, box_rings()))
    circle = f'<gml:CompositeSurface gml:id="a">{links("b")}{rings}</gml:CompositeSurface>'
    back = f'<gml:CompositeSurface gml:id="b">{links("a")}</gml:CompositeSurface>'
    city = read(building(prop("lod2Solid", f"<gml:Solid><gml:exterior>{circle}</gml:exterior>"
                              f"<gml:interior>{back}</gml:interior></gml:Solid>")))
    assert city.n_buildings == 1


def test_references_that_multiply_are_refused(read, monkeypatch):
    monkeypatch.setattr("parallel_city_ros.city.citygml.MOST_FACES", 1000)
    shell = f'<gml:CompositeSurface gml:id="a">{members(*map(polygon, box_rings()))}' \
        "</gml:CompositeSurface>"
    many = [building(prop("lod2Solid", solid(links("a"))), name=f"b{n}") for n in range(200)]
    with pytest.raises(CityFileError, match="more than 1,000 surfaces"):
        read(building(prop("lod2MultiSurface", f"<gml:MultiSurface>{members(shell)}"
                           "</gml:MultiSurface>"), name="c"), *many)


@pytest.mark.parametrize("text, words", [
    ("1 2 x", "line 1: could not convert string to float: 'x'"),
    ("1 2 3 4", "ring of 4 numbers"), ("1,2,3", "could not convert")])
def test_broken_numbers_are_named(read, text, words):
    ring = f"<gml:LinearRing><gml:posList>{text}</gml:posList></gml:LinearRing>"
    with pytest.raises(CityFileError, match=f"city.gml: .*{words}"):
        read(building(prop("lod1MultiSurface", "<gml:MultiSurface>" + members(
            f"<gml:Polygon><gml:exterior>{ring}</gml:exterior></gml:Polygon>")
            + "</gml:MultiSurface>")))


def test_positions_without_heights_are_refused(read):
    inner = whole(box_rings()).replace("<gml:Solid>", '<gml:Solid srsDimension="2">')
    with pytest.raises(CityFileError, match="in 2 dimensions"):
        read(building(prop("lod1Solid", inner)))


@pytest.mark.parametrize("number, words", [
    ("NaN", "no number"), ("inf", "no number"), ("1e30", "outside the area"),
    ("0", "outside the area")])
def test_absurd_coordinates_are_refused(read, number, words):
    inner = whole(box_rings()).replace(repr(AT[0]), number, 1)
    with pytest.raises(CityFileError, match=f"city.gml: .*{words}"):
        read(building(prop("lod1Solid", inner)))


@pytest.mark.parametrize("version, words", [("3.0", "is CityGML 3.0; 1.0 and 2.0 are read"),
                                            ("0.4", "is CityGML 0.4; 1.0")])
def test_other_versions_are_refused(read, version, words):
    with pytest.raises(CityFileError, match=f"city.gml: {words}"):
        read(building(prop("lod1Solid", whole(box_rings()))), version=version)


def test_an_empty_city_is_refused(read):
    with pytest.raises(CityFileError, match="nothing that stands.*no objects"):
        read()
    with pytest.raises(CityFileError, match="nothing that stands.*1 Building"):
        read(building("<bldg:measuredHeight>9</bldg:measuredHeight>"))
    line = [(*AT, 0.0), (AT[0] + 9, AT[1], 0.0), (*AT, 0.0), (*AT, 0.0)]
    with pytest.raises(CityFileError, match="no area"):
        read(building(prop("lod1MultiSurface", surfaces([line]))))


def test_objects_without_geometry_and_thin_surfaces_are_counted(read):
    line = [(*AT, 0.0), (AT[0] + 9, AT[1], 0.0), (*AT, 0.0), (*AT, 0.0)]
    city = read(building(prop("lod1Solid", whole([*box_rings(), line]))), building(name="none"))
    assert city.n_skipped == 1 and any("1 of 7 surfaces have no area" in n for n in city.notes)


@pytest.mark.parametrize("content", [
    b"", b"<", b"<a/>", b"<osm version='0.6'/>", b"{}", b"\x89PNG\r\n", b"<CityModel/>",
    b"<CityModel xmlns='http://www.opengis.net/citygml/2.0'>", b"<a><CityModel/></a>"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "photo.gml"
    path.write_bytes(content)
    with pytest.raises(CityFileError, match="photo.gml: "):
        read_citygml(path)
    with pytest.raises(CityFileError, match="no such file"):
        read_citygml(tmp_path / "nowhere.gml")


WHOLE = document(building(prop("lod2Solid", whole(box_rings())), prop(
    "consistsOfBuildingPart", building(prop("lod1MultiSurface", surfaces(box_rings(x=30.0))),
                                       name="p", kind="bldg:BuildingPart"))))


@given(st.integers(0, len(WHOLE) - 1))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)
def test_a_file_that_is_cut_off_is_told(tmp_path, cut):
    path = tmp_path / "cut.gml"
    path.write_text(WHOLE[:cut])
    with pytest.raises(CityFileError, match="cut.gml: "):
        read_citygml(path)


@given(st.integers(0, len(WHOLE) - 1), st.sampled_from(["", "<", ">", "9", "-", "e", "x", " ", "/",
                                                        "&", '"', "1e999", "<gml:pos/>"]))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture],
          deadline=None)
def test_whatever_is_broken_is_read_or_refused_by_name(tmp_path, place, junk):
    path = tmp_path / "junk.gml"
    path.write_text(WHOLE[:place] + junk + WHOLE[place + 1:])
    try:
        city = read_citygml(path)
    except CityFileError as error:
        assert "junk.gml" in str(error)
    else:
        assert isinstance(city, City)


def test_packed_and_differently_encoded_files_are_the_same(tmp_path):
    plain, packed, wide = (tmp_path / f"city.{name}" for name in ("gml", "gml.gz", "xml"))
    plain.write_text(WHOLE)
    packed.write_bytes(gzip.compress(WHOLE.encode()))
    wide.write_bytes(WHOLE.replace("UTF-8", "UTF-16").encode("utf-16"))
    cities = [read_citygml(path) for path in (plain, packed, wide)]
    for path, city in zip((plain, packed, wide), cities, strict=True):
        assert is_citygml(path.read_bytes()[:4096])
        assert np.array_equal(city.solids[1].triangles, cities[0].solids[1].triangles)
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(CityFileError, match="city.gml.gz.*cut off"):
        read_citygml(packed)


@pytest.mark.parametrize("head, told", [
    (WHOLE[:400].encode(), True), (b"\xef\xbb\xbf\n<core:CityModel", True), (b"", False),
    (b"<osm version='0.6'>", False), (b'{"type": "CityModel<"}', False)])
def test_the_content_tells(head, told):
    assert is_citygml(head) == told


# --- a real city -----------------------------------------------------------------------------

@needs_data
def test_bavaria():
    city = read_citygml(DATA / "bavaria_LOD2_4424_5482.gml")
    assert (city.n_buildings, city.n_parts, city.n_skipped) == (111, 0, 0)
    assert city.height_sources == {"measured": 111, "levels": 0, "assumed": 0}
    assert len(city.solids) == 111 and all(s.closed for s in city.solids)
    assert (city.frame.latitude_deg, city.frame.longitude_deg) == pytest.approx(
        (49.477, 10.960), abs=0.003)
    assert (city.crs, city.vertical_datum) == ("EPSG:31468", "DE_DHN92_NH")
    heights = [sizes(s)[2] for s in city.solids]
    assert min(heights) == pytest.approx(2.1, abs=0.05)
    assert max(heights) == pytest.approx(19.3, abs=0.05)
    x0, y0, x1, y1 = city.extent
    assert 190 < x1 - x0 < 210 and 190 < y1 - y0 < 210
    assert voxelise(city, 2.0).surface.max() > 18
