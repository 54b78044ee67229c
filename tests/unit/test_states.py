"""The table of states says something about every state, and leads out of each."""

from collections.abc import Iterable

import pytest

from supervisor import ctl
from supervisor.states import ALLOWED, HAS_PROCESS, SETTLED, WELL, State


def reachable(start: State) -> set[State]:
    """Every state that some way leads to."""
    found: set[State] = set()
    queue: list[State] = [start]
    while queue:
        new: Iterable[State] = ALLOWED[queue.pop()] - found
        found |= set(new)
        queue += new
    return found


def test_the_table_is_closed() -> None:
    assert set(ALLOWED) == set(State)
    assert set().union(*ALLOWED.values()) == set(State)


def test_the_names_are_those_that_users_are_told() -> None:
    names = "STOPPED STARTING RUNNING BACKOFF STOPPING EXITED FATAL UNAVAILABLE"
    assert {state.value for state in State} == set(names.split())


@pytest.mark.parametrize("state", State)
def test_nothing_leads_to_itself(state: State) -> None:
    assert state not in ALLOWED[state]


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_left_for_stopped_and_for_running(state: State) -> None:
    assert {State.STOPPED, State.RUNNING} <= reachable(state)


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING])
def test_a_living_process_can_be_asked_to_stop(state: State) -> None:
    assert State.STOPPING in ALLOWED[state]


@pytest.mark.parametrize("state", [s for s in State if s not in HAS_PROCESS])
def test_what_has_no_process_can_be_started(state: State) -> None:
    assert State.STARTING in ALLOWED[state]


def test_only_a_start_leads_to_running() -> None:
    assert {state for state in State if State.RUNNING in ALLOWED[state]} == {State.STARTING}


def test_what_a_start_can_end_in_is_not_a_state_on_the_way() -> None:
    assert SETTLED.isdisjoint({State.STARTING, State.STOPPING, State.EXITED})
    assert WELL <= SETTLED


def test_the_command_and_the_supervisor_agree_on_what_is_well() -> None:
    assert {state.value for state in WELL} == ctl.WELL
