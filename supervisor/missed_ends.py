"""Ends of processes that the identities have missed: looked for now and then, and made good."""

import logging
import time
from typing import Final

from supervisor.errors import Unavailable
from supervisor.kernel import identities
from supervisor.units.core import CoreUnit

_EVERY_S: Final = 10.0
# The kernel frees a process that its parent has asked for within this time: with lazy RCU in ten seconds.
_LATE_S: Final = 12.0
# After trouble, which is told each time.
_RETRY_S: Final = 600.0

log = logging.getLogger("ebpf-supervisor")


class MissedEnds:
    def __init__(self, core: CoreUnit) -> None:
        self._core = core
        self._due_s = time.monotonic() + _EVERY_S

    def look(self) -> None:
        """Called once a second."""
        if time.monotonic() < self._due_s or not self._core.loaded:
            return
        self._due_s = time.monotonic() + _EVERY_S
        try:
            given_back = identities.give_back_the_gone(self._core.loaded.maps, _LATE_S)
        except (OSError, Unavailable) as error:
            self._due_s += _RETRY_S
            log.warning(
                "slots of processes whose end was missed are not given back: %s; tried again in %d minutes",
                error,
                _RETRY_S // 60,
            )
            return
        if given_back:
            log.debug("%d processes had gone without the kernel's word", given_back)
