"""States of a program, and which may follow which. The names are Supervisor's, and UNAVAILABLE is ours."""

import enum
from collections.abc import Mapping
from typing import Final


class State(enum.Enum):
    STOPPED = "STOPPED"
    STARTING = "STARTING"  # its loader or its worker has been started
    RUNNING = "RUNNING"  # its worker has delivered a sample
    BACKOFF = "BACKOFF"  # it ended too soon and will be started again
    STOPPING = "STOPPING"
    EXITED = "EXITED"  # it ended after it had run; it is started again at once
    FATAL = "FATAL"  # it ended too soon too often; it is tried again, rarely
    UNAVAILABLE = "UNAVAILABLE"  # this kernel cannot do it


ALLOWED: Final[Mapping[State, frozenset[State]]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset(
        {State.RUNNING, State.BACKOFF, State.FATAL, State.STOPPING, State.UNAVAILABLE, State.STOPPED}
    ),
    State.RUNNING: frozenset({State.EXITED, State.BACKOFF, State.FATAL, State.STOPPING}),
    State.BACKOFF: frozenset({State.STARTING, State.STOPPED}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.EXITED: frozenset({State.STARTING, State.STOPPED}),
    State.FATAL: frozenset({State.STARTING, State.STOPPED}),
    State.UNAVAILABLE: frozenset({State.STARTING, State.STOPPED}),
}

# What `status` takes for well (exit status 0).
WELL: Final = frozenset({State.RUNNING, State.UNAVAILABLE})
# Where a start has come to its end, one way or the other.
SETTLED: Final = frozenset({State.RUNNING, State.UNAVAILABLE, State.FATAL, State.BACKOFF, State.STOPPED})
HAS_PROCESS: Final = frozenset({State.STARTING, State.RUNNING, State.STOPPING})
