"""When a certified plan may take off: the times of zones bound it like any other limit.

The certificate holds the window as two checks, in seconds since 1970 (UTC).
"""

from __future__ import annotations

from datetime import datetime, timezone

from parallel_city_ros.errors import ConfigError
from parallel_city_ros.patrol.certificate import Certificate, Check

EARLIEST, LATEST = "departure at least", "departure at most"


def moment(text: str) -> datetime:
    """ISO 8601 with a time zone, such as 2026-05-01T10:00+03:00, or Z for UTC.

    Raises
    ------
    ConfigError
        If it is not, or leaves open which time zone is meant.
    """
    try:
        at = datetime.fromisoformat(str(text).strip().replace("Z", "+00:00"))
    except ValueError as error:
        raise ConfigError(f"departure {text!r} is no time of ISO 8601, such as "
                          "2026-05-01T10:00+03:00") from error
    if at.tzinfo is None:
        raise ConfigError(f"departure {text!r} has no time zone; add +03:00, or Z for UTC")
    return at


def departure_checks(earliest: datetime, departure: datetime, latest: datetime,
                     where) -> tuple[Check, Check]:
    """where : (3,) ENU metres, the start"""
    at, where = departure.timestamp(), tuple(map(float, where))
    low, high = earliest.timestamp(), latest.timestamp()
    return (Check(EARLIEST, "s since 1970", low, at, at - low, where),
            Check(LATEST, "s since 1970", high, at, high - at, where))


def departure_window(certificate: Certificate) -> tuple[datetime, datetime] | None:
    """Earliest and latest take-off, in UTC; None if it may be at any time."""
    bounds = {c.constraint: datetime.fromtimestamp(c.bound, timezone.utc)
              for c in certificate.checks if c.constraint in (EARLIEST, LATEST)}
    return (bounds[EARLIEST], bounds[LATEST]) if len(bounds) == 2 else None


def why_not_at(certificate: Certificate, at: datetime) -> str:
    """Why the plan may not take off at a moment; "" if it may."""
    window = departure_window(certificate)
    if window is None or window[0] <= at <= window[1]:
        return ""
    first, last = (t.isoformat(timespec="seconds") for t in window)
    return (f"the plan is certified for a take-off from {first} to {last}, when the zones that it "
            f"passes are open; it is {at.astimezone(timezone.utc).isoformat(timespec='seconds')}; "
            "plan again for now")
