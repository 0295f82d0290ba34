"""The report is one well-formed file that needs nothing else and says what happened."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from parallel_city_ros.viz.pictures import draw_convergence
from parallel_city_ros.viz.report import summary, write_report
from parallel_city_ros.viz.table import measures

RESULT = {"f1": 0.123456789, "note": "a <b> & 'c'", "nested": {"noise": [1.5, 2.25]}}


@pytest.fixture
def pictures(tmp_path, base, sorties):
    return [(draw_convergence(tmp_path / f"{k}.png", base, sorties), f"Caption {k} <&>")
            for k in range(2)]


def read(path):
    text = path.read_text(encoding="utf-8")
    return text, ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def test_the_report_is_well_formed_and_complete(tmp_path, sorties, pictures, crane):
    path = write_report(tmp_path / "report.html", "Patrol <of> a city", RESULT, sorties, pictures,
                        [crane])
    text, root = read(path)
    words = "".join(root.itertext())
    assert root.get("lang") == "en"
    assert "Patrol <of> a city" in words and "<of>" not in text
    images = list(root.iter("img"))
    assert [i.get("alt") for i in images] == [caption for _, caption in pictures]
    assert all(i.get("src").startswith("data:image/png;base64,") for i in images)
    assert json.dumps(RESULT, indent=1, ensure_ascii=False) in words
    for s in sorties:
        for m in measures(sorties, s):
            assert all(value in words for value in m.text())
        for check in s.plan.certificate.checks:
            assert check.constraint in words
        assert s.plan.map_hash in words and s.plan.planner_id in words
    assert sorties[0].grid.attribution in words
    assert "small.osm" in words and "/maps/" not in words


def test_the_report_loads_nothing_and_runs_nothing(tmp_path, sorties, pictures):
    text, root = read(write_report(tmp_path / "r.html", "t", {}, sorties, pictures))
    assert not re.search(r"https?://|url\(|@import", text)
    assert not list(root.iter("script"))
    links = [e.get(a) for e in root.iter() for a in ("src", "href") if e.get(a)]
    assert all(link.startswith("data:") for link in links)


def test_the_summary_tells_the_story(sorties, crane):
    first, appeared, second = summary(sorties, [crane])
    assert first.startswith("Sortie 1 flew ")
    assert "a crane appeared right on the route of sortie 1" in appeared
    assert "° N" in appeared and "110 m" in appeared
    assert "planned anew on the changed map" in second
    assert re.search(r"kept \d+ m or more away from the crane", second)
    assert "of it not seen before" in second


def test_the_summary_hides_no_failure(sorties, crane):
    wide = replace(sorties[1].comparison, max_deviation_m=7.0)
    through = replace(sorties[1], flown=sorties[0].flown[::-1], comparison=wide)
    text = summary([sorties[0], through], [crane])[-1]
    assert "went through the block that the crane closes" in text
    assert "7.0 m, more than the 2.0 m that are certified" in text


def test_one_sortie_that_saw_and_recorded_nothing(tmp_path, sorties):
    nothing = np.zeros_like(sorties[0].flown_seen)
    lost = replace(sorties[0], flown=np.empty((0, 4)), flown_seen=nothing, planned_seen=nothing)
    _, root = read(write_report(tmp_path / "r.html", "t", {"F": float("nan")}, [lost], []))
    words = "".join(root.itertext())
    assert "–" in words and not re.search(r"\binf\b|\bnan\b", words)


def test_an_interrupted_report_leaves_nothing(tmp_path, sorties, monkeypatch):
    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path / "r.html", "t", {}, sorties, [])
    assert list(tmp_path.iterdir()) == []
