"""The state machine of a patrol flight. No input, no output, no clock.

disconnected → ready → arming → taking off → on patrol → landing → landed
                                     │        ↕ paused       ↑
                                     └──────→ returning ─────┘     failed: from everywhere
"""

from __future__ import annotations

from enum import Enum


class FlightState(Enum):
    DISCONNECTED = "disconnected"
    READY = "ready"             # connected, checked, mission on board
    ARMING = "arming"
    TAKING_OFF = "taking_off"
    ON_PATROL = "on_patrol"
    PAUSED = "paused"
    RETURNING = "returning"
    LANDING = "landing"
    LANDED = "landed"           # on the ground, motors off
    FAILED = "failed"           # ended without being known to stand on the ground as planned


class FlightEvent(Enum):
    PREPARED = "prepared"       # mission uploaded and compared, parameters read back
    ARM = "arm"                 # arming was asked for
    STARTED = "started"         # telemetry shows it armed and in mission mode
    CLIMBED = "climbed"         # the take-off item is done
    PAUSED = "paused"           # telemetry shows hold
    RESUMED = "resumed"         # telemetry shows mission mode again
    RETURNING = "returning"     # return was asked for, or the autopilot returns by itself
    LANDING = "landing"         # the landing item, a landing asked for, or the autopilot's own
    DISARMED = "disarmed"       # telemetry shows motors off on the ground
    FAILED = "failed"


S, E = FlightState, FlightEvent
TERMINAL = frozenset({S.LANDED, S.FAILED})
AIRBORNE = frozenset({S.TAKING_OFF, S.ON_PATROL, S.PAUSED, S.RETURNING, S.LANDING})
TRANSITIONS: dict[tuple[FlightState, FlightEvent], FlightState] = {
    (S.DISCONNECTED, E.PREPARED): S.READY,
    (S.READY, E.ARM): S.ARMING,
    (S.ARMING, E.STARTED): S.TAKING_OFF,
    (S.ARMING, E.DISARMED): S.LANDED,
    (S.TAKING_OFF, E.CLIMBED): S.ON_PATROL,
    (S.TAKING_OFF, E.PAUSED): S.PAUSED,
    (S.ON_PATROL, E.PAUSED): S.PAUSED,
    (S.PAUSED, E.RESUMED): S.ON_PATROL,
    (S.RETURNING, E.LANDING): S.LANDING,
    **{(state, E.RETURNING): S.RETURNING for state in (S.TAKING_OFF, S.ON_PATROL, S.PAUSED)},
    **{(state, E.LANDING): S.LANDING for state in (S.TAKING_OFF, S.ON_PATROL, S.PAUSED)},
    **{(state, E.DISARMED): S.LANDED for state in AIRBORNE},
    **{(state, E.FAILED): S.FAILED for state in S if state not in TERMINAL},
}


def allows(state: FlightState, event: FlightEvent) -> bool:
    return (state, event) in TRANSITIONS


def after(state: FlightState, event: FlightEvent) -> FlightState:
    """The next state.

    Raises
    ------
    ValueError
        If the event cannot happen in that state: a mistake in the program.
    """
    if not allows(state, event):
        raise ValueError(f"{event.value} cannot happen when {state.value}")
    return TRANSITIONS[state, event]
