"""Which groups of processes have charts now: app groups with processes, or that had one a moment ago;
services and containers that are there."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.cgroup_names import Kind
from supervisor.aggregator.cgroups import NO_ENTITY, Cgroup, Cgroups
from supervisor.aggregator.charts import Group, Groups
from supervisor.aggregator.stream import clean_id, clean_names, different

# A group without processes keeps its charts for so long: what runs each few seconds does not come and go.
GRACE_S: Final = 10.0


class AppCharts:
    """`groups`: those to be shown, in the order of the file; the same tuple as long as nothing changes."""

    def __init__(
        self, names: Sequence[str], first_entity: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        chart_ids = different([clean_id(name.replace(".", "_")) for name in names])
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


class CgroupCharts:
    """services, containers: those to be shown; the same tuples as long as nothing changes.

    entity_of_slot: int32 [slots], where each slot's events are counted, -1 = in no cgroup that has charts.
    """

    def __init__(self, cgroups: Cgroups, first_entity: int, slots: int) -> None:
        self._cgroups = cgroups
        self._first = first_entity
        self._live: list[Cgroup] = []
        self._slots: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._id_of: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._ids: list[int] = []
        self._place: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self.entity_of_slot: npt.NDArray[np.int32] = np.full(slots, -1, np.int32)
        self.services: Groups = ()
        self.containers: Groups = ()

    def update(self, id_of_slot: npt.NDArray[np.uint64], owned: npt.NDArray[np.bool_]) -> None:
        """id_of_slot: u64 [slots], the kernel's id of the cgroup that each slot's owner is in."""
        self._look(np.flatnonzero(owned), id_of_slot)
        self._cgroups.refresh(self._ids)
        found = [self._cgroups.entity_of.get(identity, NO_ENTITY) for identity in self._ids]
        entities = np.array([e + self._first if e != NO_ENTITY else -1 for e in found], np.int32)
        self.entity_of_slot[self._slots] = entities[self._place]
        live = self._cgroups.live()
        if live is not self._live and live != self._live:
            self._live = live
            self.services = self._groups(Kind.SERVICE, "systemd_")
            self.containers = self._groups(Kind.CONTAINER, "cgroup_")

    def _look(self, slots: npt.NDArray[np.intp], id_of_slot: npt.NDArray[np.uint64]) -> None:
        """Which ids there are and which of them each slot has; sorted anew only when something changed."""
        id_of = id_of_slot[slots]
        if np.array_equal(slots, self._slots) and np.array_equal(id_of, self._id_of):
            return
        self._slots, self._id_of = slots, id_of
        ids, self._place = np.unique(id_of, return_inverse=True)
        self._ids = ids.tolist()

    def gone(self) -> list[int]:
        """Entities whose charts are obsolete with the next frame; their totals can be cleared after it."""
        return [self._first + entity for entity in self._cgroups.gone()]

    def release(self, entity: int) -> None:
        self._cgroups.release(entity - self._first)

    def _groups(self, kind: Kind, prefix: str) -> Groups:
        return tuple(
            Group(self._first + c.entity, c.name, c.chart_type.removeprefix(prefix), c.chart_type)
            for c in self._live
            if c.kind is kind
        )
