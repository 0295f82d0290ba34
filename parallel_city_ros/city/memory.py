"""Events that outlive a restart of the map server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from parallel_city_ros.city.twin import CityEvent
from parallel_city_ros.errors import ConfigError
from parallel_city_ros.files import write_atomically


class EventMemory:
    """The standing events of one base map, in a file of its own.

    An obstacle that was reported once must not be forgotten because a process ended: plans made
    afterwards would lead through it.
    """

    def __init__(self, folder: str | Path, map_hash: str):
        self.file = Path(folder).expanduser() / f"events-{map_hash[:16]}.json"
        self._map_hash = map_hash

    def load(self) -> list[CityEvent]:
        """What stood when `save` was last called; nothing if it never was.

        Raises
        ------
        ConfigError
            If the file is not one of ours: better no map than one without its obstacles.
        """
        if not self.file.exists():
            return []
        try:
            document = json.loads(self.file.read_text())
            if document["map_hash"] != self._map_hash:
                raise ValueError("it belongs to another map")
            return [CityEvent(**event | {
                "footprint": tuple(map(tuple, event["footprint"])),
                "expires_s": math.inf if event["expires_s"] is None else event["expires_s"]})
                for event in document["events"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self.file}: the events of an earlier run cannot be read "
                              f"({error}); mend the file, or move it away to begin without "
                              "them") from error

    def save(self, events: Iterable[CityEvent]) -> None:
        """Raises ConfigError if the file cannot be written."""
        document = {"map_hash": self._map_hash, "events": [
            asdict(e) | {"expires_s": e.expires_s if math.isfinite(e.expires_s) else None}
            for e in events]}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(document, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(f"{self.file}: cannot be written ({error.strerror}); events would "
                              "be forgotten at a restart: set state_folder to a folder that can "
                              "be written") from error
