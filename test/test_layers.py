"""The core works without ROS, and imports go one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parallel_city_ros

PACKAGE = Path(parallel_city_ros.__file__).parent
LAYERS = [("errors", "settings", "files", "geo", "memory"), ("city",), ("patrol",), ("planning",),
          ("flight", "cpss"), ("viz",), ("nodes",), ("cli",)]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__") and not parts[0].startswith("_"):
            yield path, parts


CORE = [".".join(("parallel_city_ros", *parts)) for _, parts in modules()
        if parts[0] not in ("nodes", "cli")]


def test_core_imports_without_ros():
    code = ("import sys; sys.modules['rclpy'] = None; sys.modules['parallel_city_interfaces'] = "
            f"None\nfor name in {CORE}: __import__(name)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("path, parts", list(modules()), ids=lambda v: "/".join(v) if isinstance(
    v, tuple) else "")
def test_imports_go_one_way(path, parts):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else \
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "parallel_city_ros" and len(pieces) > 1 and pieces[1] in RANK:
                assert RANK[pieces[1]] <= RANK[parts[0]], f"{'.'.join(parts)} imports {name}"
            assert not (pieces[0] == "rclpy" and parts[0] not in ("nodes",)), path
