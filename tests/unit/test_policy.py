"""What becomes of a process that has ended: nights of crashes, walked through without a clock."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from supervisor.config.model import Supervision
from supervisor.policy import JITTER_SHARE, Step, after_exit
from supervisor.states import ALLOWED, State

SETTINGS = Supervision(
    startsecs=1.0,
    startretries=3,
    stopwaitsecs=5.0,
    backoff_initial_secs=0.5,
    backoff_max_secs=60.0,
    fatal_retry_secs=300.0,
    loader_timeout_secs=60.0,
    hung_after_ticks=4,
    loglevel="info",
)
NIGHT_S = 8 * 3600.0


@dataclass(frozen=True)
class Crash:
    """One end of the process, and what was decided."""

    at_s: float
    step: Step


def night(ran_s: float | None, settings: Supervision = SETTINGS, jitter: float = 0.0) -> Iterator[Crash]:
    """A process that lives `ran_s` each time it is started (None: it never gets ready), until morning."""
    now_s, failures = 0.0, 0
    while now_s < NIGHT_S:
        now_s += ran_s or 0.1
        step = after_exit(ran_s, failures, settings, jitter)
        yield Crash(now_s, step)
        failures = step.failures
        now_s += step.delay_s


@pytest.mark.parametrize("ran_s", [None, 0.0, 0.999])
def test_one_that_ends_too_soon_waits_twice_as_long_each_time_and_is_then_fatal(ran_s: float | None) -> None:
    steps = [crash.step for crash in night(ran_s)]
    assert [step.delay_s for step in steps[:3]] == [0.5, 1.0, 2.0]
    assert [step.state for step in steps[:3]] == [State.BACKOFF] * 3
    assert {(step.state, step.delay_s) for step in steps[3:]} == {(State.FATAL, 300.0)}


def test_a_fatal_one_is_tried_again_all_night_but_rarely() -> None:
    tries = list(night(None))
    assert NIGHT_S / 300 - 1 <= len(tries) <= NIGHT_S / 300 + 5


def test_no_pause_is_longer_than_the_longest() -> None:
    steps = [crash.step for crash in night(None, replace(SETTINGS, startretries=20))]
    delays = [step.delay_s for step in steps if step.state is State.BACKOFF]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *[60.0] * 13]


@pytest.mark.parametrize("ran_s", [1.0, 1.001, 3600.0])
def test_one_that_ran_for_startsecs_is_started_again_at_once(ran_s: float) -> None:
    assert after_exit(ran_s, 3, SETTINGS, 1.0) == Step(State.EXITED, 0.0, 0)


def test_a_run_of_startsecs_wipes_out_the_failures_before_it() -> None:
    failures = 0
    for ran_s in [0.1, 0.1, 0.1, 1.0, 0.1]:
        step = after_exit(ran_s, failures, SETTINGS, 0.0)
        failures = step.failures
    assert step == Step(State.BACKOFF, 0.5, 1)


def test_a_fatal_one_that_at_last_runs_is_no_longer_fatal() -> None:
    fatal = after_exit(None, 3, SETTINGS, 0.0)
    assert fatal.state is State.FATAL
    assert after_exit(2.0, fatal.failures, SETTINGS, 0.0) == Step(State.EXITED, 0.0, 0)


def test_one_that_never_got_ready_has_not_run_even_where_startsecs_is_0() -> None:
    assert after_exit(None, 0, replace(SETTINGS, startsecs=0.0), 0.0).state is State.BACKOFF


def test_without_retries_the_first_failure_is_fatal() -> None:
    assert after_exit(None, 0, replace(SETTINGS, startretries=0), 0.0).state is State.FATAL


@pytest.mark.parametrize("failures", range(6))
@pytest.mark.parametrize("jitter", [0.0, 0.3, 1.0])
def test_jitter_adds_at_most_its_share_and_takes_nothing_away(failures: int, jitter: float) -> None:
    plain = after_exit(None, failures, SETTINGS, 0.0)
    spread = after_exit(None, failures, SETTINGS, jitter)
    assert (spread.state, spread.failures) == (plain.state, plain.failures)
    assert plain.delay_s <= spread.delay_s <= plain.delay_s * (1 + JITTER_SHARE)


def test_programs_that_fail_together_do_not_come_back_together() -> None:
    delays = {after_exit(None, 0, SETTINGS, number / 16).delay_s for number in range(16)}
    assert len(delays) == 16


def test_the_widest_settings_that_a_file_may_hold_can_be_reckoned_with() -> None:
    settings = replace(SETTINGS, startretries=1000, backoff_initial_secs=3600.0, backoff_max_secs=86400.0)
    assert after_exit(None, 999, settings, 1.0).delay_s == 86400.0 * (1 + JITTER_SHARE)


@pytest.mark.parametrize("failures", range(5))
@pytest.mark.parametrize(
    ("came_from", "ran_s"), [(State.STARTING, None), (State.RUNNING, 0.5), (State.RUNNING, 9.0)]
)
def test_every_decision_is_a_transition_that_exists(
    came_from: State, ran_s: float | None, failures: int
) -> None:
    step = after_exit(ran_s, failures, SETTINGS, 0.5)
    assert step.state in ALLOWED[came_from]
    assert State.STARTING in ALLOWED[step.state]
