"""Hits that the kernel has kept from our programs: asked for now and then, shown in a chart, told in the log.

The kernel runs no program inside itself: while one runs on a CPU, its next hit there passes it by. On a
kernel that can take the CPU from a program (full or lazy preemption), those are the hits of other tasks too.
"""

import logging
import time
from collections.abc import Sequence
from typing import Final

from supervisor.aggregator.board import Board
from supervisor.kernel import attach
from supervisor.units.loading import LoadingUnit

# Some hundred system calls each time.
_EVERY_S: Final = 30.0
_TELL_EVERY_S: Final = 3600.0

log = logging.getLogger("ebpf-supervisor")


class Misses:
    """units: in the order of the board's places."""

    def __init__(self, board: Board, units: Sequence[LoadingUnit]) -> None:
        self._board = board
        self._units = units
        self._before = [0] * len(units)
        self._told_s = [-_TELL_EVERY_S] * len(units)
        self._due_s = time.monotonic() + _EVERY_S

    def look(self) -> None:
        """Called once a second."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S
        for place, unit in enumerate(self._units):
            missed = attach.missed_by(hook.link for hook in unit.hooks)
            # Kernel objects that have been made anew begin at 0.
            more = max(0, missed - self._before[place])
            self._before[place] = missed
            self._board.missed[place] += more
            if more and now_s - self._told_s[place] >= _TELL_EVERY_S:
                self._told_s[place] = now_s
                log.warning(
                    "%s: the kernel has kept %d hits from it, its counts can be too low by so much; "
                    "`ebpfctl status -v` and netdata.ebpf_missed_hits tell more",
                    unit.name,
                    missed,
                )
