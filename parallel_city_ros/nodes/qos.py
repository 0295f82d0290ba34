"""Named QoS profiles, one for each kind of topic."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, *, reliable: bool, latched: bool) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)


LATCHED = _profile(1, reliable=True, latched=True)     # state: a late joiner gets the newest
UPDATES = _profile(100, reliable=True, latched=False)  # numbered: gaps are asked for
EVENTS = _profile(20, reliable=True, latched=False)    # each one counts
STANDING = _profile(50, reliable=True, latched=True)    # each one counts, for late joiners too
SENSOR = _profile(5, reliable=False, latched=False)    # only the newest counts
