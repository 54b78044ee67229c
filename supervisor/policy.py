"""What to do with a process that has ended unasked. Pure: the clock and the jitter come in as arguments."""

from dataclasses import dataclass
from typing import Final

from supervisor.config.model import Supervision
from supervisor.states import State

# Programs that fail together should not come back together.
JITTER_SHARE: Final = 0.25


@dataclass(frozen=True)
class Step:
    """The state to go to, when to start again, and how many starts in a row have failed."""

    state: State
    delay_s: float
    failures: int


def after_exit(ran_s: float | None, failures: int, settings: Supervision, jitter: float) -> Step:
    """Decide about a process that has ended.

    ran_s: how long it was RUNNING, None when it never was. jitter: from 0 to 1.
    A run of `startsecs` and more wipes out the failures before it: it is started again at once. Else the
    delay is min(backoff_max, backoff_initial * 2 ** (failures - 1)), and up to a quarter more.
    """
    if ran_s is not None and ran_s >= settings.startsecs:
        return Step(State.EXITED, 0.0, 0)
    failures += 1
    spread = 1 + JITTER_SHARE * jitter
    if failures > settings.startretries:
        return Step(State.FATAL, settings.fatal_retry_secs * spread, failures)
    delay_s = min(settings.backoff_max_secs, settings.backoff_initial_secs * 2 ** (failures - 1))
    return Step(State.BACKOFF, delay_s * spread, failures)
