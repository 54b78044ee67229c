"""Stopping units and starting them again: what is to come then waits until all of them have stopped."""

import signal
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from supervisor.loop import Loop
from supervisor.states import State
from supervisor.unit import Unit
from supervisor.units.template import TemplateUnit

# How often is looked whether what was told to stop has stopped.
_POLL_S: Final = 0.02


class Arbiter(Protocol):
    """What a restart needs of it."""

    loop: Loop
    ending: bool


def restart(arbiter: Arbiter, units: Sequence[Unit], then: Callable[[], None]) -> None:
    """Stops those that run, starts them again, and goes on."""
    again = [unit for unit in units if unit.state is not State.STOPPED]
    for unit in again:
        # The template holds nothing, and waits for SIGTERM no more than its copies before they begin.
        unit.stop(signal.SIGKILL if isinstance(unit, TemplateUnit) else signal.SIGTERM)

    def start() -> None:
        if not arbiter.ending:
            for unit in again:
                unit.start()
            then()

    when_stopped(arbiter.loop, again, start)


def when_stopped(loop: Loop, units: Sequence[Unit], call: Callable[[], None]) -> None:
    if any(unit.state is State.STOPPING for unit in units):
        loop.after(_POLL_S, lambda: when_stopped(loop, units, call))
    else:
        call()
