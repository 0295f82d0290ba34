"""Fault × phase: whatever fails whenever, the drone ends on the ground and the flight says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PHASES = ("taking_off", "on_patrol", "paused", "returning", "landing")
FLIGHT_S = 180.0    # wall, of one flight

# What a flight ends as in each phase when the fault does not stop it.
HARMLESS = {"taking_off": "completed", "on_patrol": "completed", "paused": "completed",
            "returning": "returned", "landing": "landed_early"}
HOME = {phase: "landed_early" if phase == "landing" else "returned" for phase in PHASES}
HERE = dict.fromkeys(PHASES, "landed_early")
GIVEN_UP = dict.fromkeys(PHASES, "failed")


def either(*tables):
    return {phase: {table[phase] for table in tables} for phase in PHASES}


# fault → (what undoes it after a while, what the flight may end as)
FAULTS = {
    "gps_loss": ("", either(HERE)),
    # The autopilot lands where it is; the guard may have seen it beside its corridor before.
    "gps_jump east=-70 north=60": ("", either(HERE, HOME)),
    # The executor may have told it to return before the autopilot told that it lands.
    "battery percent=4": ("", either(HERE, HOME)),
    "battery percent=22": ("", either(HOME)),
    # Near home it is not told from a landing there by where it lies.
    "motor_loss": ("", either(HERE, HOME)),
    "link_loss": ("", either(GIVEN_UP)),
    "link_loss s=3": ("", either(HOME, HERE)),
    "link_delay s=0.2": ("", either(HARMLESS)),
    "packet_loss share=0.1": ("", either(HARMLESS)),
    "reorder share=0.3": ("", either(HARMLESS)),
    "wind east=-5 north=2 gust=2": ("", either(HARMLESS)),
    "wind east=-17 north=-5 gust=3": ("", either(HARMLESS, HOME, HERE)),
    "refuse_mode": ("refuse_mode on=0", either(HARMLESS, HOME)),
    "lock_params": ("", either(HARMLESS)),
    "freeze": ("", either(GIVEN_UP)),
    "reboot": ("", either(HERE, HOME, GIVEN_UP)),
}
CASES = [(fault, phase) for fault in FAULTS for phase in PHASES]


@pytest.fixture(scope="module")
def flights(request):
    """(fault, phase) → how that flight ended; those that are asked for, all flown before."""
    asked = [item.callspec.params for item in request.session.items
             if item.module is request.module]
    cases = [(p["fault"], p["phase"], FAULTS[p["fault"]][0]) for p in asked]
    done = subprocess.run([sys.executable, Path(__file__).with_name("fault_flights.py")],
                          input=json.dumps(cases), capture_output=True, text=True,
                          timeout=FLIGHT_S * len(cases))
    assert done.returncode == 0, done.stderr[-2000:]
    ended = {}
    for line in done.stdout.splitlines():
        told = json.loads(line)
        ended.setdefault(tuple(told["case"]), {}).update(told)
    return ended


@pytest.mark.parametrize("fault, phase", CASES)
def test_every_fault_in_every_phase_ends_on_the_ground(flights, fault, phase):
    ended = flights[fault, phase]
    assert "error" not in ended, ended["error"]     # its process ended, and in time
    assert ended["struck"], f"the flight never was {phase}: {ended}"
    assert ended["truth"]["landed"] and not ended["truth"]["armed"], ended
    assert ended["status"] in FAULTS[fault][1][phase], ended
    assert ended["states"][-1] == ("failed" if ended["status"] == "failed" else "landed"), ended
