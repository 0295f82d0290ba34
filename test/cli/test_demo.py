"""The demo: one whole run, what it leaves when it is interrupted, and two at once."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from domain_coordinator import domain_id

from parallel_city_ros.nodes.client import CityClient

PICTURES = ("city_3d.png", "map.png", "coverage.png", "altitude.png", "convergence.png",
            "front.png")
NODES = {("twin_map_server", "/"), ("planner_server", "/"), ("cpss_monitor", "/"),
         ("perception", "/"), ("depth_sensor", "/drone_1"),
         ("mission_executor", "/drone_1")}
TOPICS = {"/city_map/voxels", "/city_map/updates", "/city_map/points", "/city_map/slice", "/plan",
          "/cpss/state", "/cpss/coverage", "/diagnostics", "/city_events", "/drone_1/odom",
          "/drone_1/fix", "/drone_1/battery_state", "/drone_1/flown_path",
          "/drone_1/depth/points", "/city_reports", "/perception/vanished"}
SERVICES = {"/city_map/region", "/city_map/check_path", "/city_map/add_event", "/drone_1/pause",
            "/drone_1/resume", "/drone_1/return", "/drone_1/land",
            "/plan_patrol/_action/send_goal", "/drone_1/fly_patrol/_action/send_goal"}


class Demo:
    """A demo in a process of its own, whose descendants are known by a mark."""

    def __init__(self, output, domain, *options):
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from parallel_city_ros.cli.main import main; main()", "demo",
             "--json", "--budget", "400", "--speed-factor", "20", "--resolution", "4",
             "--prefer", "coverage", "--output", str(output), *options],
            env=os.environ | {"ROS_DOMAIN_ID": str(domain), "DEMO_MARK": self.mark},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def descendants(self):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def what_is_left(self, seconds=40.0):
        """Command lines of descendants that have not ended by then."""
        deadline = time.monotonic() + seconds
        while (left := self.descendants()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]


@pytest.fixture
def domain():
    with domain_id() as number:
        yield number


def test_the_whole_loop(tmp_path, domain, monkeypatch):
    output = tmp_path / "demo"
    demo = Demo(output, domain)
    assert "ROS domain" in demo.process.stderr.readline()      # it has what it needs for itself
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    beside = Demo(output, domain + 1 if domain < 100 else domain - 1)
    words = beside.process.communicate(timeout=30)
    assert beside.process.returncode == 2 and "another demo writes to" in words[1]
    same_domain = Demo(tmp_path / "other", domain)
    words = same_domain.process.communicate(timeout=30)
    assert same_domain.process.returncode == 2 and "ROS domain" in words[1]

    with CityClient(name="onlooker") as onlooker:
        wanted, seen = (NODES, TOPICS, SERVICES), (set(), set(), set())
        while demo.process.poll() is None and not all(w <= s for w, s in zip(
                wanted, seen, strict=True)):
            seen[0].update(onlooker.node.get_node_names_and_namespaces())
            seen[1].update(n for n, _ in onlooker.node.get_topic_names_and_types())
            seen[2].update(n for n, _ in onlooker.node.get_service_names_and_types())
            time.sleep(0.2)
        for expected, found in zip(wanted, seen, strict=True):
            assert expected <= found, expected - found

    out, err = demo.process.communicate(timeout=170)
    assert demo.process.returncode == 0, err
    result = json.loads(out)
    assert result == json.loads((output / "result.json").read_text())
    assert all(result["checks"].values()) and result["success"]
    first, second = result["sorties"]
    for sortie in (first, second):
        for side in ("planned", "flown"):
            assert all(sortie[side][k] > 0 for k in (
                "f1_coverage_km2", "f2_carbon", "f3_noise_m", "F", "distance_m"))
        assert sortie["certificate"]["valid"]
        assert sortie["flown"]["distance_m"] == pytest.approx(
            sortie["planned"]["distance_m"], rel=0.05)
    assert first["map_hash"] == second["map_hash"]
    assert first["map_update"] == 0 and second["map_update"] >= 2    # the crane, and the mast
    found, (mast,) = result["discovered"], result["ground_truth"]
    assert found["event_id"] in [e["event_id"] for e in result["events"]]
    assert found["when"]["sortie"] == 1 and 0.8 <= found["confidence"] <= 1
    assert 0 < found["when"]["flown_m"] <= first["flown"]["distance_m"]
    assert found["covered_share_of_true"] > 0.9 and found["distance_to_true_m"] < 6.0
    assert found["upper_z"] >= mast["upper_z"] and found["distance_of_second_route_m"] > 4.0
    assert first["weights_hash"] != second["weights_hash"]
    assert first["distance_to_crane_m"] == 0 < second["distance_to_crane_m"]
    assert second["planned"]["f1_coverage_km2"] >= second["coverage_floor_km2"]
    front = result["front"]
    assert front["prefer"] == "coverage" and len(front["objectives"]) > 1
    most = front["objectives"][front["chosen_by"]["coverage"]]["coverage_km2"]
    assert first["planned"]["f1_coverage_km2"] == pytest.approx(most)
    assert most == max(o["coverage_km2"] for o in front["objectives"])
    report = (output / "report.html").read_text()
    assert "OpenStreetMap contributors" in report and "https://" not in report
    for name in PICTURES:
        assert (output / name).read_bytes().startswith(b"\x89PNG"), name
    assert demo.what_is_left() == []


@pytest.mark.parametrize("number, after_s", [
    (signal.SIGINT, 0.7), (signal.SIGINT, 6.0), (signal.SIGTERM, 12.0), (signal.SIGKILL, 9.0)])
def test_nothing_is_left_when_it_is_ended(tmp_path, domain, number, after_s):
    output = tmp_path / "demo"
    demo = Demo(output, domain)
    try:
        demo.process.wait(after_s)
    except subprocess.TimeoutExpired:
        pass
    demo.process.send_signal(number)
    _, err = demo.process.communicate(timeout=30)
    assert demo.process.returncode in (130, -signal.SIGKILL), err
    assert "Traceback" not in err
    assert demo.what_is_left() == []
    assert not (output / "result.json").exists()
    assert not list(output.glob("*.part"))
