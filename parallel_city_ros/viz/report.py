"""The report of a run: one HTML file that needs nothing else, for a city official first."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.files import write_atomically
from parallel_city_ros.patrol.certificate import STEP_M
from parallel_city_ros.viz.sortie import Sortie, gap_to_event, kind_of, known_to, new_share
from parallel_city_ros.viz.style import number, percent
from parallel_city_ros.viz.table import measures

_STYLE = Path(__file__).with_name("report.css")

_WORDS = (
    ("Ground seen", "area of streets, yards and roofs that were in the camera's view and not "
     "hidden behind a building"),
    ("Worth of it (f1)", "the same area, but ground that an earlier sortie has just seen counts "
     "less; the planner makes this large"),
    ("Carbon (f2)", "grows with the distance flown, in units of the drone's consumption per km; "
     "the planner makes it small"),
    ("Noise (f3)", "metres that the drone is below the altitude from which it is no longer heard, "
     "added up over the points where it takes pictures; the planner makes it small"),
    ("Fitness (F)", "carbon times noise for each km² of worth: one number for the three aims, "
     "less is better"),
    ("Certificate", f"every rule of safe flight, checked every {STEP_M:g} m along the route by a "
     "program that shares nothing with the planner"),
    ("Certified corridor", "the distance that the drone may leave its line by and still keep "
     "every clearance"),
)


def write_report(path: str | Path, title: str, result: dict, sorties: Sequence[Sortie],
                 pictures: Sequence[tuple[Path, str]],
                 events: Sequence[CityEvent] = ()) -> Path:
    """Write the report; the file is complete or absent.

    result : what result.json holds, shown as it is at the end
    pictures : PNG files and their captions, which also are their alternative texts
    """
    body = [
        f"<header><h1>{escape(title)}</h1>",
        "".join(f"<p class='lead'>{escape(s)}</p>" for s in summary(sorties, events)),
        _highlights(sorties), "</header>",
        *(_figure(Path(file), caption) for file, caption in pictures),
        _comparison(sorties),
        "<section><h2>Was it safe?</h2><p>Every rule that a route must keep, and the place where "
        "it came closest to breaking it. A margin below zero would mean that the rule is broken; "
        "such a route is not flown.</p>",
        *(_certificate(s) for s in sorties), "</section>",
        _origin(sorties),
        "<section><h2>What the words mean</h2><dl>",
        *(f"<dt>{escape(w)}</dt><dd>{escape(m)}</dd>" for w, m in _WORDS), "</dl></section>",
        "<section><h2>Every number</h2><details><summary>The content of result.json</summary>"
        f"<pre>{escape(json.dumps(result, indent=1, ensure_ascii=False, default=str))}</pre>"
        "</details></section>",
        f"<footer>{escape(_attribution(sorties))}</footer>",
    ]
    document = "".join([
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'/>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'/>",
        f"<title>{escape(title)}</title><link rel='icon' href='data:,'/>",
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head><body><main>",
        "\n".join(body), "</main></body></html>\n"])
    write_atomically(path, document)
    return Path(path)


# --- in words -------------------------------------------------------------------------------

def summary(sorties: Sequence[Sortie], events: Sequence[CityEvent]) -> list[str]:
    """What happened, a sentence for each sortie and each event."""
    first, *later = sorties
    return [_flight(first, sorties, events),
            *(_appearance(e, first) for e in events if not known_to(first, e)),
            *(_flight(s, sorties, events) for s in later)]


def _flight(s: Sortie, sorties, events) -> str:
    c, fresh = s.comparison, new_share(sorties, s)
    known = [e for e in events if known_to(s, e)]
    did = [f"flew {number(c.flown_length_m)} m",
           *(_passing(kind_of(e), gap_to_event(s.flown_along[1], e)) for e in known),
           f"saw {number(s.seen_km2(s.flown_seen), 3)} km² of ground"]
    later = s is not sorties[0]
    again = f", planned anew{' on the changed map' if known else ''}," if later else ""
    new = f", {percent(fresh)} of it not seen before" if later and np.isfinite(fresh) else ""
    corridor = f"{number(c.tube_radius_m, 1)} m"
    corridor = f"within its certified corridor of {corridor}" if c.within_tube \
        else f"more than the {corridor} that are certified"
    return (f"Sortie {s.number}{again} {', '.join(did[:-1])} and {did[-1]}{new}; it left its "
            f"planned line by at most {number(c.max_deviation_m, 1)} m, {corridor}.")


def _passing(kind: str, gap: float) -> str:
    if not np.isfinite(gap):
        return f"passed the {kind} at a distance that was not recorded"
    return f"kept {number(gap)} m or more away from the {kind}" if gap > 0 \
        else f"went through the block that the {kind} closes"


def _appearance(event: CityEvent, first: Sortie) -> str:
    centre = event.polygon.centroid
    latitude, longitude, _ = first.grid.frame.to_wgs84([centre.x, centre.y, 0.0])
    gap = gap_to_event(first.plan.path, event)
    where = "right on the route" if gap == 0 else f"{number(gap)} m from the route"
    kind = kind_of(event)
    article = "an" if kind[0] in "aeiou" else "a"
    return (f"Meanwhile {article} {kind} appeared {where} of sortie {first.number}: it closes a "
            f"block at {_degrees(latitude, 'N', 'S')}, {_degrees(longitude, 'E', 'W')} up to "
            f"{number(event.upper_z)} m, and the twin of the city was changed.")


def _degrees(value: float, positive: str, negative: str) -> str:
    return f"{abs(value):.5f}° {positive if value >= 0 else negative}"


def _attribution(sorties) -> str:
    names = dict.fromkeys(s.grid.attribution for s in sorties if s.grid.attribution)
    return f"Map data: {'; '.join(names)}" if names else ""


# --- in parts -------------------------------------------------------------------------------

def _highlights(sorties) -> str:
    """The four numbers that one remembers."""
    seen = np.any([s.flown_seen for s in sorties], axis=0)
    flown = sum(s.comparison.flown_length_m for s in sorties) / 1000
    last = sorties[-1]
    kept = sum(s.comparison.within_tube for s in sorties)
    facts = [(f"{number(flown, 2)} km", "flown"),
             (f"{number(last.seen_km2(seen), 3)} km²", "of ground seen"),
             (f"{kept} of {len(sorties)}", "flights within the certified corridor")]
    if len(sorties) > 1:
        facts.insert(2, (percent(new_share(sorties, last)),
                         f"of sortie {last.number}'s view was new"))
    return "<ul class='facts'>" + "".join(
        f"<li><strong>{escape(value)}</strong> {escape(what)}</li>" for value, what in facts
    ) + "</ul>"


def _figure(file: Path, caption: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return (f"<figure><img src='data:image/png;base64,{data}' alt='{escape(caption)}'/>"
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the row; every text is escaped here."""
    cells = "".join(
        f"<tr><th scope='row'>{escape(first)}</th>"
        + "".join(f"<td>{escape(text)}</td>" for text in rest) + "</tr>"
        for first, *rest in rows)
    return (f"<div class='wide' tabindex='0' role='region' aria-label='{escape(caption)}'>"
            f"<table><caption>{escape(caption)}</caption><thead><tr>"
            + "".join(f"<th scope='col'>{escape(h)}</th>" for h in head)
            + f"</tr></thead><tbody>{cells}</tbody></table></div>")


def _comparison(sorties) -> str:
    columns = [measures(sorties, s) for s in sorties]
    head = ["", *(f"Sortie {s.number} {what}" for s in sorties for what in ("planned", "flown"))]
    rows = [[row[0].label, *(text for m in row for text in m.text())]
            for row in zip(*columns, strict=True)]
    return ("<section><h2>Planned and flown</h2>"
            + _table("What was planned, and what was flown", head, rows) + "</section>")


def _certificate(s: Sortie) -> str:
    rows = [[c.constraint, number(c.bound, 2), number(c.value, 2), number(c.margin, 2), c.unit,
             ", ".join(number(v) for v in c.where)] for c in s.plan.certificate.checks]
    broken = ", ".join(c.constraint for c in s.plan.certificate.broken)
    verdict = f"not valid, it breaks: {broken}" if broken else "every rule is kept"
    return _table(f"Certificate of sortie {s.number}: {verdict}",
                  ["Rule", "Bound", "Tightest", "Margin", "Unit", "Where (east, north, up), m"],
                  rows)


def _origin(sorties) -> str:
    plans = [s.plan for s in sorties]
    rows = [
        ["City file", *(Path(p.city_file).name or "–" for p in plans)],
        ["Map", *(p.map_hash for p in plans)],
        ["Changes in the map", *(str(p.map_update) for p in plans)],
        ["Size of a cube, m", *(number(p.resolution, 1) for p in plans)],
        ["Planner", *(p.planner_id for p in plans)],
        ["Seed", *(str(p.seed) for p in plans)],
        ["Patrols tried", *(number(p.evaluations) for p in plans)],
        ["Least worth to be seen, km²", *(number(p.coverage_floor_km2, 3) for p in plans)],
        ["Map data", *(p.attribution or "–" for p in plans)],
    ]
    return ("<section><h2>Where this comes from</h2><p>The same city file, map changes, ground "
            "seen before, planner, seed and number of tries give the same route again.</p>"
            + _table("Map and planner of each sortie", ["", *(f"Sortie {s.number}"
                                                              for s in sorties)], rows)
            + "</section>")
