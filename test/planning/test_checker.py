"""The checker of plans in a short form; that it can find something; that it stands on its own."""

import ast
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import parallel_city_ros

ROOT = Path(parallel_city_ros.__file__).parents[1]
PLANS = 15


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("checker", ROOT / "benchmarks" / "checker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_plan_of_random_tasks_over_random_cities_breaks_anything(checker, tmp_path):
    runs = checker.check(tmp_path, PLANS - 3)
    with open(tmp_path / checker.RESULTS, "a") as file:
        file.write('{"number": 3')      # as if it had been broken off
    again = checker.check(tmp_path, PLANS)
    assert again[:len(runs)] == runs and len(again) > len(runs)
    assert [run for run in again if run["violations"]] == []
    found = checker.summary(again)
    assert found["plans"] == PLANS and len(found["plans_by_planner"]) > 3
    assert [json.loads(line) for line in (tmp_path / checker.RESULTS).open()] == again


def test_what_is_wrong_is_found(checker):
    made, grid = checker.city(0)
    assert made.kind != "hill"      # or its roofs are not looked at
    outcome = next(outcome for outcome in (
        checker.plan(grid, checker.request(n, grid)) for n in range(9)) if outcome.plan)
    good = outcome.plan
    wrong, apart = checker.violations(made, grid, good)
    assert wrong == [] and set(apart) == {"coverage_km2", "carbon", "noise_m"}
    low = good.path.copy()
    low[1:-1, 2] = grid.ground.min() + 3.0
    found = " ".join(checker.violations(made, grid, replace(good, path=low))[0])
    assert "altitude at least" in found and "height over what is near" in found
    told = replace(good.objectives, carbon=1.01 * good.objectives.carbon)
    assert [text.split(":")[0] for text in checker.violations(
        made, grid, replace(good, objectives=told))[0]] == ["carbon"]
    through = np.array([(-1.0, 40.0, 12.0), (200.0, 40.0, 12.0), (200.0, 390.0, 12.0)])
    assert checker.near_roofs(made, replace(good, path=through))


def test_the_certificate_is_not_made_by_what_it_judges():
    """No module that the certificate imports, directly or not, is one of the evaluator's own."""
    package = ROOT / "parallel_city_ros"

    def imports(name):
        file = package.parent / Path(*name.split(".")).with_suffix(".py")
        if not file.exists():
            return
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package.name):
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def closure(name):
        known, ahead = set(), [name]
        while ahead:
            new = set(imports(ahead.pop())) - known
            known |= new
            ahead += new
        return known

    patrol = f"{package.name}.patrol"
    judged = {f"{patrol}.{m}" for m in ("evaluator", "kernels", "scene", "table", "power",
                                        "noise", "walls")}
    assert judged <= closure(f"{patrol}.evaluator") | {f"{patrol}.evaluator"}
    certificate = closure(f"{patrol}.certificate")
    assert f"{patrol}.terms" in certificate     # the walk works
    assert not judged & certificate
    assert not any(m.startswith(f"{package.name}.planning") for m in certificate)
