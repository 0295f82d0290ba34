"""The state machine of a patrol flight, and what it makes of what the drone is seen to do.

No input, no output, no clock.

disconnected → ready → arming → taking off → on patrol → landing → landed
                                     │        ↕ paused       ↕
                                     └──────→ returning ─────┘     failed: from everywhere
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MISSION, HOLD, RETURN, LAND = "MISSION", "HOLD", "RETURN_TO_LAUNCH", "LAND"     # MAVSDK's names


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
    FOUND = "found"             # in the air with this mission on board: its executor has gone
    ARM = "arm"                 # arming was asked for
    STARTED = "started"         # telemetry shows it armed and in mission mode
    CLIMBED = "climbed"         # the take-off item is done
    PAUSED = "paused"           # telemetry shows hold
    RESUMED = "resumed"         # telemetry shows mission mode again
    SKIPPED = "skipped"         # it flies to the next waypoint but one
    REPLACED = "replaced"       # it flies another plan instead of the rest of its own
    RETURNING = "returning"     # return was asked for, or the autopilot returns by itself
    LANDING = "landing"         # the landing item, a landing asked for, or the autopilot's own
    DISARMED = "disarmed"       # telemetry shows motors off on the ground
    FAILED = "failed"


S, E = FlightState, FlightEvent
TERMINAL = frozenset({S.LANDED, S.FAILED})
AIRBORNE = frozenset({S.TAKING_OFF, S.ON_PATROL, S.PAUSED, S.RETURNING, S.LANDING})
TRANSITIONS: dict[tuple[FlightState, FlightEvent], FlightState] = {
    (S.DISCONNECTED, E.PREPARED): S.READY,
    (S.DISCONNECTED, E.FOUND): S.ON_PATROL,
    (S.READY, E.ARM): S.ARMING,
    (S.ARMING, E.STARTED): S.TAKING_OFF,
    (S.ARMING, E.DISARMED): S.LANDED,
    (S.TAKING_OFF, E.CLIMBED): S.ON_PATROL,
    (S.TAKING_OFF, E.PAUSED): S.PAUSED,
    (S.ON_PATROL, E.PAUSED): S.PAUSED,
    (S.PAUSED, E.RESUMED): S.ON_PATROL,
    (S.ON_PATROL, E.SKIPPED): S.ON_PATROL,
    (S.ON_PATROL, E.REPLACED): S.ON_PATROL,
    (S.RETURNING, E.LANDING): S.LANDING,
    (S.LANDING, E.RETURNING): S.RETURNING,      # a failsafe on the last metres
    **{(state, E.RETURNING): S.RETURNING for state in (S.TAKING_OFF, S.ON_PATROL, S.PAUSED)},
    **{(state, E.LANDING): S.LANDING for state in (S.TAKING_OFF, S.ON_PATROL, S.PAUSED)},
    **{(state, E.DISARMED): S.LANDED for state in AIRBORNE},
    **{(state, E.FAILED): S.FAILED for state in S if state not in TERMINAL},
}


EXPECTED_MODE = {S.TAKING_OFF: MISSION, S.ON_PATROL: MISSION, S.PAUSED: HOLD,
                 S.RETURNING: RETURN}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What telemetry shows of a drone, as far as the state machine cares.

    mode : MAVSDK's name, "" if it was not told
    climbed : the take-off item is done; past_route : only the landing item is left
    """

    mode: str
    armed: bool = True
    on_ground: bool = False
    climbed: bool = False
    past_route: bool = False


class Reaction(Enum):
    """What follows from what is seen. Values are the event that has happened, if one has."""

    NOTHING = None
    DOWN = E.DISARMED
    CLIMBED = E.CLIMBED
    LANDS_AT_THE_GOAL = E.LANDING
    HELD = E.PAUSED             # by the autopilot, or by somebody else
    GOES_ON = E.RESUMED         # likewise
    RETURNS_BY_ITSELF = E.RETURNING
    OUT_OF_HAND = "out of hand"     # a landing of its own, or a pilot's mode: hands off
    RETURN_AGAIN = "return again"   # it was told to, and does not
    LAND_AGAIN = "land again"


def reaction(state: FlightState, seen: Seen) -> Reaction:
    """What an executor in that airborne state makes of it.

    Whatever mode is seen in the air, it either ends on the ground by itself (mission, return,
    landing), is a pilot's, is a hold that was wanted, or leads to a command.
    """
    if not seen.armed and seen.on_ground:
        return Reaction.DOWN
    if state is S.TAKING_OFF and seen.mode == MISSION and seen.climbed:
        return Reaction.CLIMBED
    if state is S.ON_PATROL and seen.mode == MISSION and seen.past_route:
        return Reaction.LANDS_AT_THE_GOAL
    if state is S.LANDING:      # at the goal in mission mode, else in land mode
        if seen.mode == RETURN:
            return Reaction.RETURNS_BY_ITSELF
        return Reaction.LAND_AGAIN if seen.mode == HOLD and not seen.on_ground \
            else Reaction.NOTHING
    if seen.mode in ("", EXPECTED_MODE.get(state)):
        return Reaction.NOTHING
    if state is S.RETURNING and seen.mode in (MISSION, HOLD):
        return Reaction.RETURN_AGAIN
    if seen.mode == RETURN:
        return Reaction.RETURNS_BY_ITSELF
    if seen.mode == HOLD:
        return Reaction.HELD
    return Reaction.GOES_ON if seen.mode == MISSION else Reaction.OUT_OF_HAND


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
