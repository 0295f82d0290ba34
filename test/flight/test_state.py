"""Whatever happens in whatever order, the state machine ends on the ground or says failed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_city_ros.flight.state import (
    AIRBORNE,
    TERMINAL,
    TRANSITIONS,
    FlightEvent,
    FlightState,
    after,
    allows,
)

S, E = FlightState, FlightEvent


@given(st.lists(st.sampled_from(E), max_size=40))
def test_no_flight_without_preparation_and_arming(events):
    state, seen = S.DISCONNECTED, []
    for event in events:
        if allows(state, event):
            state = after(state, event)
            seen.append(event)
        else:
            with pytest.raises(ValueError, match=event.value):
                after(state, event)
    if state in AIRBORNE:
        assert seen[:1] == [E.FOUND] or seen[:3] == [E.PREPARED, E.ARM, E.STARTED]
    if state is S.ON_PATROL:
        assert not {E.RETURNING, E.LANDING, E.DISARMED} & set(seen), "who turned back stays so"


@pytest.mark.parametrize("state", S)
def test_every_state_ends(state):
    reached, todo = {state}, [state]
    while todo:
        current = todo.pop()
        new = {n for (s, _), n in TRANSITIONS.items() if s is current} - reached
        reached |= new
        todo += new
    assert reached & TERMINAL
    assert (state in TERMINAL) == (reached == {state})


@pytest.mark.parametrize("state", sorted(AIRBORNE, key=lambda s: s.value))
def test_in_the_air_it_can_always_come_down(state):
    assert allows(state, E.DISARMED) and allows(state, E.FAILED)
    assert state in (S.RETURNING, S.LANDING) or (
        allows(state, E.RETURNING) and allows(state, E.LANDING))
