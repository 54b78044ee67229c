"""Who owns each slot, from the kernel's identity table, and which app group that is."""

from collections import deque
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.apps_groups import AppsGroups
from supervisor.aggregator.process_tree import ProcessTree
from supervisor.aggregator.storage import FIRST_GROUP, NOBODY, slot_fields
from supervisor.kernel import arrays
from supervisor.kernel.arrays import TASK, U64Array
from supervisor.kernel.maps import TASK_LIVE, WORD_BYTES, Maps, used_pages

# The group of slot 0, which no process has.
NO_GROUP: Final = NOBODY - FIRST_GROUP
_CMDLINE_BYTES: Final = 16384  # apps.plugin reads as much (MAX_CMDLINE)


def read_command_line(pid: int) -> str:
    """The arguments with spaces between them, "" for kernel threads. Raises OSError when it has gone."""
    with Path(f"/proc/{pid}/cmdline").open("rb") as file:
        return file.read(_CMDLINE_BYTES).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "surrogateescape")


def _in_order(moments_ns: U64Array, slots: npt.NDArray[np.intp]) -> deque[int]:
    """The slots, sorted by the moment that each has."""
    return deque(slots[np.argsort(moments_ns[slots], kind="stable")].tolist())


class Identities:
    """Follows the identity table.

    owned: bool [slots], whether the slot has an owner whose events are not all counted yet.
    cgroup_of_slot: u64 [slots], the kernel's id of the cgroup that the owner is in.
    group_of_slot: int32 [slots], index of the group that the slot's events belong to; slot 0 has none.
    slots: how many there are. births, ends: processes taken in and forgotten;
    those that a former aggregator has taken in are not counted again.
    processes: int [groups], how many each group has now, those included that have just ended.
    """

    def __init__(self, maps: Maps, groups: AppsGroups, memory_fd: int) -> None:
        slots = maps["task"].info.rows
        self.slots = slots
        self.births = self.ends = 0
        self._seen = np.zeros((slots, TASK.itemsize // WORD_BYTES), np.uint64)  # of the kernel's table
        self._resting = False  # there are some that are freed, and not yet forgotten
        self._maps = maps
        self._groups = groups
        self._tree = ProcessTree(groups, read_command_line)
        self._start_ns = np.zeros(slots, np.uint64)
        self._renames = np.zeros(slots, np.uint32)
        self.owned = np.zeros(slots, np.bool_)
        self.cgroup_of_slot: npt.NDArray[np.uint64] = np.zeros(slots, np.uint64)
        known = arrays.views(memory_fd, slot_fields(slots), writable=True)
        self._known_start_ns: npt.NDArray[np.uint64] = known["start_ns"]
        self._own: npt.NDArray[np.uint8] = known["own"]
        self.group_of_slot: npt.NDArray[np.int32] = known["group"]
        self.group_of_slot[0] = NO_GROUP
        self.processes: npt.NDArray[np.int_] = np.zeros(len(groups.names), np.int_)

    def refresh(self, settled_ns: int) -> None:
        """Takes in what the kernel wrote since the last call.

        Call it after a tick's samples came in: their rows are not younger than the identities then.
        settled_ns: what the kernel has last been told (`words[SETTLED_NS]`): owners that were freed
        before it will not be counted any more, and are forgotten.
        """
        words = arrays.words(self._maps["task"], used_pages(self._maps))
        used = slice(len(words))  # the rest has never had an owner
        if not self._resting and (words == self._seen[used]).all():
            return
        # Before anything is taken out of it: what the kernel writes from here on is different next time.
        self._seen[used] = words
        task = words.view(TASK).reshape(-1)
        start_ns, state, freed_ns = task["start_ns"].copy(), task["state"].copy(), task["freed_ns"].copy()
        self.cgroup_of_slot[used] = task["cgroup_id"]
        freed = freed_ns != 0
        same = start_ns == self._start_ns[used]
        self._forget(np.flatnonzero(freed & (freed_ns < settled_ns) & same & self.owned[used]).tolist())
        # The kernel sets the state last, so a row with it, or one that has been freed, is complete.
        complete = ((state & TASK_LIVE) != 0) | freed
        born = _in_order(start_ns, np.flatnonzero(~same & complete))
        if born:
            just_freed = _in_order(freed_ns, np.flatnonzero(freed & (self.owned[used] | ~same)))
            for slot in born:
                self._note_freed(just_freed, freed_ns, start_ns[slot])
                self._take_in(slot, task[slot])
        renames = task["renames"].copy()
        for slot in np.flatnonzero((renames != self._renames[used]) & self.owned[used]).tolist():
            self._tree.renamed(slot, arrays.comm(task[slot]))
        self._renames[used] = renames
        for slot, group in self._tree.regrouped():
            self.group_of_slot[slot] = group
            self._own[slot] = self._tree.has_own(slot)
            self._known_start_ns[slot] = self._start_ns[slot]
        self._resting = bool((freed & self.owned[used]).any())
        groups = self.group_of_slot[used][self.owned[used]]
        self.processes = np.bincount(groups, minlength=len(self.processes))

    def _note_freed(self, slots: deque[int], freed_ns: U64Array, until_ns: np.uint64) -> None:
        """Takes those out whose owners had gone by then: they have made nobody that is born later, though
        one with the same id may have."""
        while slots and freed_ns[slots[0]] < until_ns:
            slot = slots.popleft()
            # Not so where the kernel is just writing: of a next owner the birth, and still the old end.
            if self.owned[slot]:
                self._tree.freed(slot)

    def _take_in(self, slot: int, row: Any) -> None:
        known = self._known_start_ns[slot] == row["start_ns"]
        self._tree.born(
            slot,
            int(row["tgid"]),
            int(row["ppid"]),
            arrays.comm(row),
            self._inherited(slot) if known else None,
        )
        self._known_start_ns[slot] = 0  # until its group is written
        self._start_ns[slot] = row["start_ns"]
        self._renames[slot] = row["renames"]
        self.owned[slot] = True
        self.births += not known

    def _inherited(self, slot: int) -> int | None:
        """What it had before from a parent; of a group that is in no file any more, nothing."""
        group = int(self.group_of_slot[slot])
        return None if self._own[slot] or group not in self._groups.current else group

    def _forget(self, gone: list[int]) -> None:
        for slot in gone:
            self._tree.ended(slot)
            self.owned[slot] = False
            self.ends += 1
