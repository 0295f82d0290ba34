"""OctoMap files: what is written comes back, as OctoMap's own library sees it too."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parallel_city_ros.city.local import LOCAL
from parallel_city_ros.city.octomap import CENTRE, is_octomap, read_leaves, read_octomap, write_bt
from parallel_city_ros.city.options import ReadOptions
from parallel_city_ros.errors import CityFileError, ConfigError
from parallel_city_ros.geo import LocalFrame

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
OPTIONS = ReadOptions(origin="52.0,4.37,3.5")

# Any voxels, and whole blocks of them, whose octants are pruned
scattered = arrays(np.int64, st.tuples(st.integers(1, 60), st.just(3)),
                   elements=st.integers(-CENTRE, CENTRE - 1))
near = arrays(np.int64, st.tuples(st.integers(1, 200), st.just(3)),
              elements=st.integers(-4, 4))
blocks = st.tuples(*[st.integers(-20, 20)] * 3, *[st.integers(1, 9)] * 3).map(
    lambda b: np.argwhere(np.ones(b[3:])).astype(np.int64) + b[:3])


def voxels_of(path) -> set:
    keys, depths, _ = read_leaves(path)
    found = [np.argwhere(np.ones([1 << (16 - depth)] * 3)) + key.astype(int) - CENTRE
             for key, depth in zip(keys, depths, strict=True)]
    assert sum(map(len, found)) == len(np.unique(np.concatenate(found), axis=0))    # no overlap
    return set(map(tuple, np.concatenate(found).tolist()))


def full_node(log_odds, children=0, colour=b"") -> bytes:
    return np.float32(log_odds).tobytes() + colour + bytes([children])


def ot(*nodes, kind="OcTree", res="0.5", size=None, first="# Octomap OcTree file"):
    return (f"{first}\n# comment\nid {kind}\nsize {len(nodes) if size is None else size}\n"
            f"res {res}\ndata\n").encode() + b"".join(nodes)


@settings(max_examples=60, deadline=None)
@given(voxels=st.one_of(scattered, near, blocks, st.tuples(near, blocks).map(np.concatenate)))
def test_written_voxels_come_back(tmp_path_factory, voxels):
    path = tmp_path_factory.mktemp("octomap") / "round.bt"
    write_bt(path, voxels, 0.25)
    assert voxels_of(path) == set(map(tuple, voxels.tolist()))


def test_library_of_octomap_reads_what_is_written(tmp_path):
    library = pytest.importorskip("pyoctomap")
    rng = np.random.default_rng(4)
    voxels = np.concatenate([rng.integers(-50, 50, (500, 3)),
                             np.argwhere(np.ones((16, 8, 9))) + (8, -8, 0)])
    path = tmp_path / "city.bt"
    write_bt(path, voxels, 0.5)
    tree = library.OcTree(str(path).encode())
    theirs = {(tuple(np.round(np.array(leaf.getCoordinate()) - leaf.getSize() / 2, 6).tolist()),
               leaf.getSize()) for leaf in tree.begin_leafs() if tree.isNodeOccupied(leaf)}
    keys, depths, _ = read_leaves(path)
    ours = {(tuple(((key.astype(int) - CENTRE) * 0.5).tolist()), 0.5 * 2.0**(16 - depth))
            for key, depth in zip(keys, depths.astype(int), strict=True)}
    assert theirs == ours and {size for _, size in ours} >= {0.5, 4.0}
    tree.write(str(tmp_path / "city.ot"))
    assert voxels_of(tmp_path / "city.ot") == set(map(tuple, voxels.tolist()))


def test_full_octants_are_one_leaf(tmp_path):
    path = tmp_path / "block.bt"
    write_bt(path, np.argwhere(np.ones((8, 8, 8))), 1.0)
    keys, depths, resolution = read_leaves(path)
    assert (keys.tolist(), depths.tolist(), resolution) == ([[CENTRE] * 3], [13], 1.0)


def test_origin_shifts_the_voxels(tmp_path):
    path = tmp_path / "shifted.bt"
    write_bt(path, [[0, 0, 0], [3, 0, 1]], 2.0, origin=(-20.0, 6.0, 2.0))
    (boxes,) = read_octomap(path).boxes
    assert {tuple(p) for p in boxes.lower.tolist()} == {(-20.0, 6.0, 2.0), (-14.0, 6.0, 4.0)}
    assert (boxes.upper - boxes.lower == 2.0).all()


def test_nothing_occupied_is_written_and_refused_as_a_city(tmp_path):
    path = tmp_path / "empty.bt"
    write_bt(path, np.empty((0, 3), int), 1.0)
    assert len(read_leaves(path)[0]) == 0
    with pytest.raises(CityFileError, match="empty.bt: no voxel of it is occupied"):
        read_octomap(path)


@pytest.mark.parametrize("voxels, resolution, origin, words", [
    ([[0, 0, 0]], 0.0, (0, 0, 0), "resolution"), ([[0, 0, 0]], np.nan, (0, 0, 0), "resolution"),
    ([[0.5, 0, 0]], 1.0, (0, 0, 0), "whole numbers"),
    ([[0, 0, 0]], 2.0, (1.0, 0, 0), "multiple"), ([[CENTRE, 0, 0]], 1.0, (0, 0, 0), "coarser"),
    ([[0, 0, 0]], 1.0, (0, 0, -CENTRE - 1.0), "coarser")])
def test_what_does_not_fit_the_grid_is_refused(tmp_path, voxels, resolution, origin, words):
    with pytest.raises(ConfigError, match=words):
        write_bt(tmp_path / "no.bt", voxels, resolution, origin)
    assert not (tmp_path / "no.bt").exists()


def test_ot_occupied_is_one_half_or_more(tmp_path):
    path = tmp_path / "full.ot"
    # a root with children 0 (a leaf), 1 and 7; child 1 has children 0, 2, 6
    path.write_bytes(ot(
        full_node(2.0, 0b10000011), full_node(-0.0), full_node(3.5, 0b01000101), full_node(-0.1),
        full_node(0.0), full_node(float("nan")), full_node(float("inf"))))
    keys, depths, resolution = read_leaves(path)
    found = dict(zip(map(tuple, keys.tolist()), depths.tolist(), strict=True))
    assert resolution == 0.5
    assert found == {(0, 0, 0): 1, (CENTRE, CENTRE // 2, 0): 2, (CENTRE,) * 3: 1}


def test_colours_of_ot_are_passed_over(tmp_path):
    path = tmp_path / "colour.ot"
    path.write_bytes(ot(full_node(1.0, 0b101, b"\x00\x00\x80"), full_node(0.5, 0, b"abc"),
                        full_node(-3.0, 0, b"\xff" * 3), kind="ColorOcTree"))
    keys, depths, _ = read_leaves(path)
    assert (keys.tolist(), depths.tolist()) == ([[0, 0, 0]], [1])


def test_boxes_stand_around_the_origin_that_is_given(tmp_path):
    path = tmp_path / "here.bt"
    write_bt(path, [[0, 0, 0], [10, 4, 2]], 0.5)
    lost = read_octomap(path)
    assert lost.crs == LOCAL and any("no georeference" in note for note in lost.notes)
    city = read_octomap(path, OPTIONS)
    assert city.frame == LocalFrame(52.0, 4.37, 3.5) and not city.notes[1:]
    elsewhere = LocalFrame(52.001, 4.371, 0.5)
    (there,) = read_octomap(path, OPTIONS, elsewhere).boxes
    (boxes,) = city.boxes
    for mine, moved in ((boxes.lower, there.lower), (boxes.upper, there.upper)):
        assert np.allclose(elsewhere.to_wgs84(moved), city.frame.to_wgs84(mine), atol=2e-8)
        assert np.allclose(moved[:, 2], mine[:, 2] + 3.0)
    (as_is,) = read_octomap(path, frame=elsewhere).boxes
    assert np.array_equal(as_is.lower, boxes.lower)


@pytest.mark.parametrize("content, words", [
    (b"", "no OctoMap"), (b"# Octomap OcTree binary file\nid OcTree\n", "no OctoMap"),
    (ot(full_node(1), kind="CountingOcTree"), "CountingOcTree"),
    (ot(full_node(1), res="-1"), "res -1"), (ot(full_node(1), res="x"), "res x"),
    (ot(full_node(1), size=-1), "size -1"), (ot(full_node(1), size=7), "7 nodes, 1 are there"),
    (ot(full_node(1, 1), full_node(1), size=1), "cut off or damaged"),
    (ot(*[full_node(1, 1)] * 18), "deeper than 16"),
    (ot(b"\x03\x00" * 17, size=18, first="# Octomap OcTree binary file"), "deeper than 16"),
    (ot(b"\xff" * 4000, size=10**9, first="# Octomap OcTree binary file"), "deeper|cut off")])
def test_broken_files_say_what_is_wrong(tmp_path, content, words):
    path = tmp_path / "broken.bt"
    path.write_bytes(content)
    with pytest.raises(CityFileError, match=rf"broken\.bt: .*({words})"):
        read_leaves(path)


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("octomap")
    write_bt(folder / "whole.bt", np.argwhere(np.ones((5, 7, 3))), 1.0)
    content = (folder / "whole.bt").read_bytes()
    (folder / "cut.bt").write_bytes(content[:int(len(content) * share)])
    with pytest.raises(CityFileError, match="cut.bt"):
        read_leaves(folder / "cut.bt")


def test_absurd_resolution_is_refused_as_a_city(tmp_path):
    write_bt(tmp_path / "huge.bt", [[20_000, 0, 0]], 50.0)
    with pytest.raises(CityFileError, match="from its zero"):
        read_octomap(tmp_path / "huge.bt")


def test_missing_file(tmp_path):
    with pytest.raises(CityFileError, match="nowhere.bt"):
        read_octomap(tmp_path / "nowhere.bt")


@pytest.mark.skipif(not DATA.is_dir(), reason="no folder shared/data beside the project")
def test_a_recorded_map_has_the_leaves_that_octomap_counts():
    path = DATA / "geb079.bt"
    assert is_octomap(path.read_bytes()[:100])
    keys, depths, resolution = read_leaves(path)
    # counted with octomap's own iterator over the same file
    assert dict(zip(*(v.tolist() for v in np.unique(depths, return_counts=True)),
                    strict=True)) == {16: 137745, 15: 5983, 14: 1}
    assert resolution == 0.08
    city = read_octomap(path)
    x0, y0, x1, y1 = city.extent
    assert (x1 - x0, y1 - y0) == pytest.approx((38.96, 14.96))
