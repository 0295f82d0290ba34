"""Plan files come back as they were, and what is wrong with one is named."""

import json

import numpy as np
import pytest

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.errors import PlanError
from parallel_city_ros.files import write_atomically
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.plan import PatrolPlan
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import PlanRequest, plan


@pytest.fixture(scope="module")
def made():
    grid = VoxelGrid.from_dense(np.zeros((200, 150, 1), bool), np.zeros(3), 2.0,
                                LocalFrame(60.0, 25.0))
    task = PatrolTask(start=(40.0, 40.0, 70.0), goal=(360.0, 260.0, 70.0), track_points=12)
    return plan(grid, PlanRequest(task=task, seed=3, evaluation_budget=200)).plan


def test_round_trip(made, tmp_path):
    made.save(tmp_path / "plan.json")
    back = PatrolPlan.load(tmp_path / "plan.json")
    assert np.array_equal(back.path, made.path)
    assert back.to_dict() == made.to_dict()
    assert back.certificate.valid and back.task == made.task
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("change, words", [
    (lambda d: d.pop("map_hash"), "map_hash"), (lambda d: d.update(format=99), "format is 99"),
    (lambda d: d.update(seed="x"), "seed must be"), (lambda d: d.update(path=[[1, 2]]), "path"),
    (lambda d: d["path"][0].__setitem__(0, float("nan")), "path"),
    (lambda d: d["objectives"].update(coverage_km2="x"), "coverage_km2"),
    (lambda d: d["certificate"]["checks"][0].update(margin="x"), "certificate"),
    (lambda d: d["path"][1].__setitem__(0, 10**400), ""),
    (lambda d: d["task"].update(speed=3), "speed"),
    (lambda d: d["task"]["drone"].update(max_speed=-1), "max_speed"),
    (lambda d: d["frame"].update(latitude_deg=99), "latitude"),
    (lambda d: d.update(resolution=float("inf")), "resolution")])
def test_a_broken_plan_names_the_file_and_the_field(made, tmp_path, change, words):
    values = json.loads(json.dumps(made.to_dict()))
    change(values)
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(values))
    with pytest.raises(PlanError, match="broken.json") as caught:
        PatrolPlan.load(file)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_what_is_no_plan(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(PlanError, match="x.json"):
        PatrolPlan.load(tmp_path / "x.json")
    with pytest.raises(PlanError, match="nowhere.json"):
        PatrolPlan.load(tmp_path / "nowhere.json")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "plan.json"
    file.write_text("old")
    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr("pathlib.Path.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, "new")
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
