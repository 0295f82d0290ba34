"""The executor's rules against a drone that loses commands, refuses, and has ideas of its own."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from parallel_city_ros.flight.state import (
    AIRBORNE,
    HOLD,
    LAND,
    MISSION,
    RETURN,
    FlightEvent,
    FlightState,
    Reaction,
    Seen,
    after,
    allows,
    reaction,
)

S, E = FlightState, FlightEvent
ENDS_ON_THE_GROUND = {MISSION, RETURN, LAND}
PILOT = "POSCTL"


class Flight(RuleBasedStateMachine):
    """Rules of the drone strike in any order; `look` is what the executor does at each look.

    What is modelled of the executor is only how it carries a reaction out; which one it is,
    and what states follow, is the code under test.
    """

    def __init__(self):
        super().__init__()
        self.state, self.mode, self.in_air, self.armed = S.DISCONNECTED, HOLD, False, False
        self.item, self.link, self.obeys = 0, True, True
        self.wish = None        # of the caller

    @initialize()
    def start(self):
        for event in (E.PREPARED, E.ARM, E.STARTED):
            self.state = after(self.state, event)
        self.mode, self.in_air, self.armed = MISSION, True, True

    # the drone and its surroundings

    @rule()
    def link_goes_and_comes(self):
        self.link = not self.link

    @rule()
    def it_refuses_modes_or_obeys_again(self):
        self.obeys = not self.obeys

    @precondition(lambda self: self.in_air)
    @rule(mode=st.sampled_from([RETURN, LAND, HOLD, PILOT, MISSION]))
    def its_mode_changes_by_itself_or_by_a_pilot(self, mode):
        self.mode = mode

    @precondition(lambda self: self.in_air)
    @rule()
    def it_flies_on(self):
        if self.mode == MISSION:
            self.item += 1
        if self.mode in (RETURN, LAND) or self.item > 3:
            self.in_air = self.armed = False
            self.mode = HOLD

    @precondition(lambda self: self.in_air and self.mode == PILOT)
    @rule()
    def the_pilot_lands(self):
        self.in_air = self.armed = False

    # the caller and the guard

    @rule(wish=st.sampled_from(["pause", "resume", "return", "land", "breach"]))
    def somebody_wants(self, wish):
        self.wish = wish

    # the executor

    def command(self, mode):
        if self.link and self.obeys and self.in_air:
            self.mode = mode
        return self.mode == mode and self.link

    @rule()
    def look(self):
        if self.state not in AIRBORNE or not self.link:
            return
        what = reaction(self.state, Seen(
            mode=self.mode, armed=self.armed, on_ground=not self.in_air, climbed=self.item > 0,
            past_route=self.item >= 3))
        if what is Reaction.OUT_OF_HAND:
            self.happened(E.LANDING)
        elif what is Reaction.RETURN_AGAIN:
            self.command(RETURN)
        elif what is Reaction.LAND_AGAIN:
            self.command(LAND)
        elif what is not Reaction.NOTHING:
            self.happened(what.value)
        if self.state in AIRBORNE:
            self.serve()

    def serve(self):
        wish, self.wish = self.wish, None
        if wish == "land" and self.state is not S.LANDING:
            if self.command(LAND):
                self.happened(E.LANDING)
            elif self.state is not S.RETURNING:
                self.happened(E.RETURNING)
        elif self.state in (S.RETURNING, S.LANDING):
            return
        elif wish in ("return", "breach"):
            self.happened(E.RETURNING)
            self.command(RETURN)
        elif wish == "pause" and allows(self.state, E.PAUSED) and self.command(HOLD):
            self.happened(E.PAUSED)
        elif wish == "resume" and allows(self.state, E.RESUMED) and self.command(MISSION):
            self.happened(E.RESUMED)

    def happened(self, event):
        self.state = after(self.state, event)   # raises if the table has a hole

    @invariant()
    def somebody_or_something_brings_it_down(self):
        """Also with the executor killed now: a hold ends by the autopilot's own link loss."""
        if not self.in_air or self.mode in ENDS_ON_THE_GROUND or self.mode == PILOT:
            return
        held = reaction(self.state, Seen(mode=self.mode, climbed=True)) if self.link else None
        assert self.state in AIRBORNE, "given up while it holds"
        assert held is None or held in (Reaction.HELD, Reaction.RETURN_AGAIN,
                                        Reaction.LAND_AGAIN) or self.state is S.PAUSED

    def teardown(self):
        """Once the link holds, it obeys and a deadline passes, it comes down and that is seen."""
        if self.state is S.DISCONNECTED:
            return
        self.link = self.obeys = True
        self.wish = "breach"
        for _ in range(12):
            self.look()
            if self.in_air and self.mode == PILOT:
                self.the_pilot_lands()
            elif self.in_air:
                self.it_flies_on()
        assert not self.in_air and self.state is S.LANDED, (self.state, self.mode)


TestFlight = Flight.TestCase
TestFlight.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
