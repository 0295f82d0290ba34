"""What the package says about itself agrees, wherever it says it."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import parallel_city_ros

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()
INTERFACE_FILES = sorted((ROOT / "interfaces").glob("*/*.[mas][src]*"))
NODES = {
    path.stem
    for path in (ROOT / "parallel_city_ros" / "nodes").glob("*.py")
    if "\ndef main(" in path.read_text()
}


def test_version_is_that_of_package_xml():
    number = MANIFEST.findtext("version")
    assert version("parallel_city_ros") == parallel_city_ros.__version__ == number


def test_version_stands_in_no_other_file():
    number = re.compile(rf"""["']{re.escape(MANIFEST.findtext("version"))}["']""")
    files = [ROOT / "setup.py", ROOT / "setup.cfg", ROOT / "pyproject.toml"]
    files += (ROOT / "parallel_city_ros").rglob("*.py")
    assert [str(path) for path in files if number.search(path.read_text())] == []


def test_both_packages_are_released_together():
    interfaces = ElementTree.parse(ROOT / "interfaces" / "package.xml").getroot()
    for field in ("version", "license", "maintainer"):
        assert interfaces.findtext(field) == MANIFEST.findtext(field)


def test_command_and_nodes_are_installed():
    mine = [e for e in entry_points(group="console_scripts") if e.dist.name == "parallel_city_ros"]
    targets = {entry.name: entry.value for entry in mine}
    assert targets.pop("parallel-city") == "parallel_city_ros.cli.main:main"
    assert targets == {node: f"parallel_city_ros.nodes.{node}:main" for node in NODES}


def test_ros_imports_are_declared():
    """A ROS package that the code imports is a dependency in package.xml."""
    declared = {element.text for element in MANIFEST if element.tag.endswith("depend")}
    ros = re.compile(r"\w+_(msgs|interfaces|srvs)|rclpy|tf2_ros|launch(_ros)?|ament_index_python")
    optional = {"octomap_msgs"}  # used where it exists
    providers = {"tf2_ros": "tf2_ros_py"}
    imported = set()
    for folder in ("parallel_city_ros", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module]
                else:
                    continue
                imported |= {name.split(".")[0] for name in names}
    needed = {providers.get(name, name) for name in imported if ros.fullmatch(name)}
    assert needed - optional <= declared


def test_interface_dependencies_agree_with_cmake():
    interfaces = ElementTree.parse(ROOT / "interfaces" / "package.xml").getroot()
    cmake = (ROOT / "interfaces" / "CMakeLists.txt").read_text()
    found = set(re.findall(r"find_package\((\w+)", cmake))
    declared = {e.text for e in interfaces if e.tag in ("depend", "buildtool_depend")}
    assert found == declared


def test_every_interface_file_is_generated():
    cmake = (ROOT / "interfaces" / "CMakeLists.txt").read_text()
    listed = set(re.findall(r'"(\w+/\w+\.\w+)"', cmake))
    assert listed == {f"{path.parent.name}/{path.name}" for path in INTERFACE_FILES}


@pytest.mark.parametrize("path", INTERFACE_FILES, ids=lambda path: path.name)
def test_every_field_is_commented(path):
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "---")):
            assert re.search(r"\S\s+# \S", line), f"{path.name}: no unit and frame at: {line}"


@pytest.mark.parametrize(
    "path", [p for p in INTERFACE_FILES if "Point" in p.read_text()], ids=lambda path: path.name
)
def test_every_point_names_unit_and_frame(path):
    for line in path.read_text().splitlines():
        if line.startswith("geometry_msgs/Point"):
            assert "metres" in line and "frame map (ENU)" in line, line


def test_requirements_are_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = []
    for line in filter(None, (line.split("#")[0].strip() for line in lines)):
        match = re.fullmatch(r"([\w.-]+)(\[[\w,]+\])?==[\w.]+", line)
        assert match, f"not pinned: {line}"
        names.append(match.group(1).lower())
    assert len(names) == len(set(names))


def test_missing_interfaces_say_what_to_type():
    code = """if True:
        import sys
        sys.modules["parallel_city_interfaces"] = None
        from parallel_city_ros._environment import require_interfaces
        from parallel_city_ros.errors import SetupError
        try:
            require_interfaces()
        except SetupError as error:
            print(error)
    """
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert "make setup" in shown
    source = "src/parallel_city_ros"
    assert f"colcon build --base-paths {source} {source}/interfaces" in shown


def test_license_is_apache():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert MANIFEST.find("license").get("file") == "LICENSE"
