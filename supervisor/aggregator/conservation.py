"""Nothing is lost between the kernel's rows and the charts: at every frame each counter of each program that
counts by process has app groups that add up, with what is nobody's, to the host's total.

It follows from how samples are taken (account.py). That it is so is looked at all the same: a group's chart
that leaves something out looks like any other.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from supervisor.aggregator.account import Account
from supervisor.aggregator.storage import FIRST_GROUP, HOST, NOBODY
from supervisor.kernel.arrays import U64Array

_REPEAT_S: Final = 60.0

log = logging.getLogger("aggregator")


@dataclass(frozen=True)
class Apart:
    """A counter whose parts are not its whole. parts: the groups' and nobody's."""

    program: str
    counter: str
    host: int
    parts: int

    def __str__(self) -> str:
        return f"{self.program} {self.counter}: host {self.host}, groups and nobody {self.parts}"


def apart(account: Account, groups: int) -> list[Apart]:
    """The counters of a program that do not add up; groups: how many app groups there can be. Totals that are
    worked out from several counters need not add up and are not looked at."""
    if account.program.kind != "slot":
        return []
    columns = account.program.columns
    totals = account.ledger.totals[:, : len(columns)]
    parts: U64Array = totals[NOBODY : FIRST_GROUP + groups].sum(axis=0, dtype=np.uint64)
    return [
        Apart(account.program.name, columns[n].name, int(totals[HOST, n]), int(parts[n]))
        for n in np.flatnonzero(parts != totals[HOST]).tolist()
    ]


class Conservation:
    """Looks at every frame, and says what it finds: once, and then at most once a minute."""

    def __init__(
        self, accounts: Sequence[Account], groups: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._accounts = accounts
        self._groups = groups
        self._clock = clock
        self._looked_at: list[tuple[int, list[Apart]]] = [(-1, []) for _ in accounts]
        self._frames = 0
        self._told_s = -_REPEAT_S

    def look(self) -> list[int]:
        """How many counters of each program are apart. Totals that have not changed are not summed again."""
        for n, account in enumerate(self._accounts):
            version = account.ledger.version
            if self._looked_at[n][0] != version:
                self._looked_at[n] = version, apart(account, self._groups)
        found = [apart_now for _, apart_now in self._looked_at]
        told = [one for of_program in found for one in of_program]
        if told:
            self._tell(told)
        return [len(of_program) for of_program in found]

    def _tell(self, found: list[Apart]) -> None:
        self._frames += 1
        now_s = self._clock()
        if now_s - self._told_s < _REPEAT_S:
            return
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        log.error(
            "groups do not add up to the host's total: %s%s; in %d frames since it was last told; "
            "the charts of groups are wrong by as much, which is a defect of ours: please report it",
            found[0],
            more,
            self._frames,
        )
        self._frames, self._told_s = 0, now_s
