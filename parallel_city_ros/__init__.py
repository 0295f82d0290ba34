"""Drone patrols of a city: planned in its twin, flown, and judged by what they saw."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("parallel_city_ros")
except PackageNotFoundError:  # read from a checkout that was not set up
    __version__ = "unknown"
