"""Which app groups have charts now: those with processes, and those that had one a moment ago."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.charts import Group, Groups
from supervisor.aggregator.stream import clean_id, clean_names

# A group without processes keeps its charts for so long: what runs each few seconds does not come and go.
GRACE_S: Final = 10.0


class AppCharts:
    """`groups`: those to be shown, in the order of the file; the same tuple as long as nothing changes."""

    def __init__(
        self, names: Sequence[str], first_entity: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        chart_ids = _different([clean_id(name.replace(".", "_")) for name in names])
        made = zip(names, chart_ids, clean_names(names), strict=True)
        self._all = [Group(first_entity + n, *words) for n, words in enumerate(made)]
        self._seen_s = np.full(len(names), -np.inf)
        self._shown = np.zeros(len(names), np.bool_)
        self._clock = clock
        self.groups: Groups = ()

    def update(self, processes: npt.NDArray[np.int_]) -> None:
        """processes: how many each group has."""
        now_s = self._clock()
        self._seen_s[processes > 0] = now_s
        shown = self._seen_s > now_s - GRACE_S
        if (shown != self._shown).any():
            self._shown = shown
            self.groups = tuple(self._all[number] for number in np.flatnonzero(shown))


def _different(identities: list[str]) -> list[str]:
    """The same, with a number behind those that another one before has."""
    return [f"{text}_{n}" if text in identities[:n] else text for n, text in enumerate(identities)]
