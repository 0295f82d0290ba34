"""Python package of parallel_city_ros; name and version are those of package.xml."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(HERE / "package.xml").getroot()
NAME = MANIFEST.findtext("name")
# Each node is a module of nodes/ with a main().
NODES = sorted(
    path.stem
    for path in (HERE / NAME / "nodes").glob("*.py")
    if "\ndef main(" in path.read_text(encoding="utf-8")
)


def share(folder):
    """data_files entries that put a folder, with its subfolders, below share/<package>."""
    entries = {}
    for path in sorted((HERE / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            path = path.relative_to(HERE)
            entries.setdefault(f"share/{NAME}/{path.parent}", []).append(str(path))
    return list(entries.items())


setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    description=" ".join(MANIFEST.findtext("description").split()),
    maintainer=MANIFEST.findtext("maintainer"),
    maintainer_email=MANIFEST.find("maintainer").get("email"),
    license=MANIFEST.findtext("license"),
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["**/*.html", "**/*.css", "**/*.js", "**/*.yaml", "**/*.json"]},
    python_requires=">=3.10",
    # What is needed beyond ROS stands, with pins, in requirements.txt.
    install_requires=["setuptools"],
    zip_safe=False,
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/hook", ["resource/path.dsv"]),
        *share("launch"),
        *share("config"),
        *share("worlds"),
    ],
    entry_points={
        "console_scripts": [
            f"parallel-city = {NAME}.cli.main:main",
            *(f"{node} = {NAME}.nodes.{node}:main" for node in NODES),
        ]
    },
)
