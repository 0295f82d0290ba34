"""A plan: one certified patrol, what it is worth, and the map that it was made on."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from parallel_city_ros.errors import ConfigError, PlanError
from parallel_city_ros.files import write_atomically
from parallel_city_ros.geo import LocalFrame
from parallel_city_ros.patrol.certificate import Certificate, Check, Term
from parallel_city_ros.patrol.evaluator import Scores
from parallel_city_ros.patrol.task import Drone, PatrolTask

FORMAT = 1      # of the file; raised when a reader of the old one would misread the new


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What a patrol is judged by; PatrolTask.units has the units of the task's models."""

    coverage_km2: float     # f1, weighted area seen, of ground, walls or both
    carbon: float           # f2, Drone.carbon_per_km times the length, or g CO2
    noise_m: float          # f3, metres below Z_noise, or dB ha over the threshold
    fitness: float          # F, less is better
    violation: float = 0.0  # G, 0 if feasible

    @classmethod
    def of(cls, scores: Scores) -> Objectives:
        """Of the first of the paths that an Evaluator has scored."""
        return cls(**{name: float(values[0]) for name, values in vars(scores).items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class PatrolPlan:
    """Where to fly, and on what map that is certified.

    path : (B + 2, 3) ENU metres, start and goal included
    map_hash, map_update : base of the twin and number of the newest event in it
    weights_hash : of the worth of the ground that it was made for, "" for 1 everywhere
    city_file : the file that the twin was made of, "" if unknown
    ended_by : what ended the search, or hurried it: evaluations, time or cancel; "" if unknown.
        Only with evaluations is it the same plan whenever it is made again
    """

    task: PatrolTask
    path: np.ndarray
    objectives: Objectives
    certificate: Certificate
    planner_id: str
    seed: int
    evaluations: int
    coverage_floor_km2: float
    map_hash: str
    map_update: int
    frame: LocalFrame
    resolution: float
    weights_hash: str = ""
    city_file: str = ""
    attribution: str = ""
    ended_by: str = ""

    @property
    def length_m(self) -> float:
        return float(np.linalg.norm(np.diff(self.path, axis=0), axis=1).sum())

    def to_dict(self) -> dict:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {name: asdict(getattr(self, name)) for name in ("task", "objectives", "frame")}
        values["path"] = self.path.tolist()
        values["certificate"] = self.certificate.to_dict()
        return {"format": FORMAT, "length_m": self.length_m,
                "units": self.task.units} | values

    @classmethod
    def from_dict(cls, values: dict) -> PatrolPlan:
        """Inverse of to_dict.

        Raises
        ------
        PlanError
            Names the field that is missing, of another kind or out of range.
        """
        if not isinstance(values, dict):
            raise PlanError("a plan is one JSON object; make one with: parallel-city plan")
        if values.get("format") != FORMAT:
            raise PlanError(f"format is {values.get('format')!r}, this version reads {FORMAT}; "
                            "make the plan again")
        try:
            values = {"ended_by": ""} | values      # which older files do not have
            path = np.array(values["path"], float)
            task = dict(values["task"])
            plan = cls(
                task=PatrolTask(**task | {"drone": Drone(**task["drone"])}
                                | {k: tuple(task[k]) for k in ("start", "goal")}),
                path=path, objectives=Objectives(**values["objectives"]),
                certificate=Certificate(tuple(
                    Check(**check | {"where": tuple(check["where"])})
                    for check in values["certificate"]["checks"]), tuple(
                        Term(**term) for term in values["certificate"].get("objectives", ()))),
                frame=LocalFrame(**values["frame"]),
                **{f.name: _typed(f.name, values[f.name], f.type) for f in fields(cls)
                   if f.type in _SIMPLE})
            numbers = {f"objectives.{k}": v for k, v in asdict(plan.objectives).items()}
            numbers |= {f"certificate: {c.constraint}": getattr(c, k)
                        for c in plan.certificate.checks for k in ("bound", "value", "margin")}
            numbers |= {f"certificate: {t.objective}": t.value
                        for t in plan.certificate.objectives}
            for name, value in numbers.items():
                _typed(name, value, "float")
        except KeyError as error:
            raise PlanError(f"field {error} is missing; make the plan again") from error
        except (TypeError, ValueError, OverflowError, AttributeError, ConfigError) as error:
            raise PlanError(f"{error}; make the plan again") from error
        shape = path.shape
        if len(shape) != 2 or shape[1] != 3 or len(path) < 2 or not (np.abs(path) < 1e6).all():
            raise PlanError("path must be at least two points of three numbers in metres, has "
                            f"shape {shape}; make the plan again")
        return plan

    def save(self, file: str | Path) -> None:
        """Write the plan; the file is complete or was not touched."""
        write_atomically(file, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, file: str | Path) -> PatrolPlan:
        """Read a plan.

        Raises
        ------
        PlanError
            Names the file and what is wrong with it.
        """
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{file}: cannot be read ({error})") from error
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise PlanError(f"{file}: is not JSON ({error}); make the plan again") from error
        except PlanError as error:
            raise PlanError(f"{file}: {error}") from error


_SIMPLE = {"str": str, "int": int, "float": (int, float)}


def _typed(name: str, value, kind: str):
    """The value, if it is of that kind and finite."""
    wrong = not isinstance(value, _SIMPLE[kind]) or isinstance(value, bool)
    if wrong or (kind == "float" and not math.isfinite(value)):
        raise ValueError(f"{name} must be a {kind}, is {value!r}")
    return value


def weights_hash(weights: np.ndarray | None) -> str:
    """SHA-256 of the worth of the ground; "" for None, which is 1 everywhere."""
    if weights is None:
        return ""
    return hashlib.sha256(np.ascontiguousarray(weights, "<f8").tobytes()).hexdigest()
