"""Zones that hold at some times: what they close during a flight and when it may begin; where
people are to be spared its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, time, timedelta

import numpy as np

from parallel_city_ros.city.voxels import VoxelGrid
from parallel_city_ros.city.zones import Zone, ZoneKind, closures, noise_weights
from parallel_city_ros.patrol.certificate import certify
from parallel_city_ros.patrol.departure import departure_checks
from parallel_city_ros.patrol.task import PatrolTask
from parallel_city_ros.planning.planner import (
    HEIGHT,
    PlanOutcome,
    PlanRequest,
    PlanStatus,
    plan,
)

MARGIN_S = 300.0        # that a flight may begin earlier or end later than planned
LONGER = 1.25           # than its time steps say that a flight takes, at first
LOOK_AROUND = timedelta(days=1)     # a window of departure reaches no farther


def holds(zone: Zone, begin: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """The spans between two moments in which a zone holds; it changes only where a window begins
    or ends, or its hours or a day do."""
    changes = {begin, end}
    for window in zone.windows:
        changes |= {m for m in (window.start, window.end) if m is not None}
        clocks = {time(0), *(window.hours or ())}
        day = begin.astimezone(window.zone).date() - timedelta(days=1)
        while day <= end.astimezone(window.zone).date():
            changes |= {datetime.combine(day, clock, window.zone) for clock in clocks}
            day += timedelta(days=1)
    moments = sorted(m for m in changes if begin <= m <= end)
    spans: list[tuple[datetime, datetime]] = []
    for a, b in zip(moments[:-1], moments[1:], strict=True):
        if zone.active(a):
            spans.append((spans.pop()[0], b) if spans and spans[-1][1] == a else (a, b))
    if not spans and zone.active(end):
        spans.append((end, end))
    return spans


def closed_twin(grid: VoxelGrid, zones: Sequence[tuple[Zone, datetime]],
                top: float) -> VoxelGrid | None:
    """The twin with the air of no-fly zones closed; None if there is none.

    zones : with a moment at which each holds; top : z up to which anybody flies, metres
    """
    upper = grid.origin[:2] + grid.resolution * np.array(grid.surface.shape)
    events = [event for zone, at in zones
              for event in closures([zone], (*grid.origin[:2], *upper), grid.terrain, at)]
    prisms = [(e.polygon, e.lower_z, min(e.upper_z, top)) for e in events if e.lower_z < top]
    return grid.with_prisms(prisms) if prisms else None


def noise_at(grid: VoxelGrid, task: PatrolTask, zones: Sequence[Zone], departure: datetime,
             late_s: float = 0.0) -> np.ndarray | None:
    """(nx, ny) noise weights of `plan`: of the noise-sensitive zones that hold at some time from
    the departure to the end of the endurance of the latest; None if there is none."""
    lands = departure + timedelta(seconds=task.endurance_s + late_s)
    spared = [replace(z, windows=()) for z in zones
              if z.kind is ZoneKind.NOISE_SENSITIVE and holds(z, departure, lands)]
    return noise_weights(grid, spared, departure) if spared else None


def plan_at(grid: VoxelGrid, request: PlanRequest, zones: Sequence[Zone], departure: datetime,
            late_s: float = 0.0, air: VoxelGrid | None = None, **more) -> PlanOutcome:
    """Plan a patrol for a departure: no-fly zones that hold at some time of the flight are closed,
    and noise-sensitive ones weigh what is heard in them.

    What is above or below a zone's limits: from the ground up to its upper limit counts as closed.
    The certificate says when else the plan may take off, at most a day from the departure: as
    long as no zone that it passes holds MARGIN_S before until MARGIN_S after the flight.

    late_s : by which it may depart later
    air, more : of `plan`
    """
    task, margin = request.task, timedelta(seconds=MARGIN_S)
    if "noise_weights" not in more:
        more["noise_weights"] = noise_at(grid, task, zones, departure, late_s)
    zones = [z for z in zones if z.kind is ZoneKind.NO_FLY]
    steps = min(task.endurance_s, LONGER * (task.track_points + 1) * task.time_step_s)
    top = float(grid.ground.max()) + task.max_altitude + grid.resolution
    outcome = None
    for seconds in (steps, task.endurance_s):
        lands = departure + timedelta(seconds=seconds + late_s)
        closed = [(z, spans[0][0]) for z in zones
                  if (spans := holds(z, departure - margin, lands + margin))]
        around = grid if air is None else air
        outcome = plan(grid, request, air=closed_twin(around, closed, top) or air, **more)
        if outcome.plan is None:
            break
        met = [z for z in zones if z not in [c for c, _ in closed]
               and _met(grid, task, z, outcome.plan.path, top, departure)]
        window = _window(met, departure, outcome.plan.certificate, margin)
        certificate = outcome.plan.certificate
        certificate = replace(certificate, checks=(*certificate.checks, *departure_checks(
            window[0], departure, window[1], outcome.plan.path[0])))
        if certificate.valid:
            return replace(outcome, plan=replace(outcome.plan, certificate=certificate))
        outcome = replace(outcome, plan=None, status=PlanStatus.NO_VALID_PATH, message=(
            "a zone that the patrol passes closes before it ends: "
            + ", ".join(z.name or z.zone_id for z in met)))
    return outcome


def _met(grid, task, zone, path, top, departure) -> bool:
    """Whether a path passes a zone that is open then."""
    always = replace(zone, windows=())
    twin = closed_twin(grid, [(always, departure)], top)
    return twin is not None and any(
        c.constraint == HEIGHT for c in certify(twin, task, path).broken)


def _window(zones, departure, certificate, margin):
    duration = next(c.value for c in certificate.checks if c.constraint == "duration")
    earliest, latest = departure - LOOK_AROUND, departure + LOOK_AROUND
    takes = timedelta(seconds=duration) + margin
    for zone in zones:
        for begin, end in holds(zone, earliest - margin, latest + takes):
            if end <= departure:
                earliest = max(earliest, end + margin)
            else:
                latest = min(latest, begin - takes)
    return earliest, latest
