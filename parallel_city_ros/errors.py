"""One exception tree.

ParallelCityError
├── ConfigError          a setting, flag or parameter is out of range
├── CityFileError        a city file is missing, broken or empty
├── OutsideMapError      a point lies outside the map
├── MapUpdateError       an update does not fit the map it is applied to
├── PlanError            a plan file is broken, or may not be flown
├── SetupError           the environment lacks something
├── InUseError           another process of ours has the folder or ROS domain
└── AutopilotError       the drone did not do as asked
    ├── LinkError        nothing (or no longer anything) is heard from it
    └── RefusedError     it answered no: arming, mission, mode, parameter

Exceptions mean misuse or broken input and output. Expected endings of a plan or
a flight (no path, time-out, cancelled) are values: `PlanStatus`, `FlightStatus`.
"""


class ParallelCityError(Exception):
    """Base of all errors; its text tells the operator what to do."""


class ConfigError(ParallelCityError, ValueError):
    pass


class CityFileError(ParallelCityError):
    pass


class OutsideMapError(ParallelCityError, ValueError):
    pass


class MapUpdateError(ParallelCityError):
    pass


class PlanError(ParallelCityError):
    pass


class SetupError(ParallelCityError):
    pass


class InUseError(ParallelCityError):
    pass


class AutopilotError(ParallelCityError):
    pass


class LinkError(AutopilotError):
    pass


class RefusedError(AutopilotError):
    pass
