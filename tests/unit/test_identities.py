"""Whose each slot is, as an aggregator finds it in the kernel's table, a restarted one too."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from supervisor import linux
from supervisor.aggregator.apps_groups import parse
from supervisor.aggregator.identities import Identities
from supervisor.aggregator.storage import slot_fields
from supervisor.kernel import identities as kernel
from supervisor.kernel.arrays import TASK
from supervisor.kernel.maps import ROWS_PER_PAGE, TASK_LIVE, USED_PAGES, KernelMap, MapInfo
from supervisor.pipeline import memory

GROUPS = parse("web: nginx\ndb: postgres")
LATER_NS = 10**9


class Table:
    """The kernel's, without a kernel: one page of it."""

    def __init__(self) -> None:
        self.rows = np.zeros(ROWS_PER_PAGE, TASK)
        size = self.rows.nbytes
        self.task = KernelMap(MapInfo("task", 1, size, linux.BPF_F_MMAPABLE), memory.create("t", size))
        self.used = KernelMap(MapInfo(USED_PAGES, 1, 8, linux.BPF_F_MMAPABLE), memory.create("u", 8))
        self.memory_fd = memory.create("m", memory.size_of(slot_fields(ROWS_PER_PAGE)))
        os.pwrite(self.used.fd, (1).to_bytes(8, "little"), 0)

    def has(self, slot: int, line: str, born_ns: int, freed_ns: int = 0) -> None:
        """A process given as `pid ppid comm`."""
        pid, ppid, comm = line.split()
        row = self.rows[slot]
        row["tgid"], row["ppid"], row["comm"] = int(pid), int(ppid), comm.encode()
        row["start_ns"], row["freed_ns"], row["state"] = born_ns, freed_ns, 0 if freed_ns else TASK_LIVE
        os.pwrite(self.task.fd, self.rows.tobytes(), 0)

    def aggregator(self) -> Identities:
        return Identities({"task": self.task, USED_PAGES: self.used}, GROUPS, self.memory_fd)

    def close(self) -> None:
        for fd in (self.task.fd, self.used.fd, self.memory_fd):
            os.close(fd)


@pytest.fixture
def table() -> Iterator[Table]:
    made = Table()
    yield made
    made.close()


def group(found: Identities, slot: int) -> str:
    return GROUPS.names[int(found.group_of_slot[slot])]


def test_children_have_the_group_of_their_parent(table: Table) -> None:
    table.has(3, "100 1 nginx", 10)
    table.has(1, "101 100 sh", 20)
    found = table.aggregator()
    found.refresh(0)
    assert [group(found, slot) for slot in (3, 1)] == ["web", "web"]


def test_process_whose_parents_id_once_was_another_ones_is_not_counted_there(table: Table) -> None:
    """The parent's own birth was not seen: process 1 of a sandbox makes such ones."""
    table.has(3, "100 1 nginx", 10, freed_ns=20)
    table.has(4, "101 100 sh", 30)
    found = table.aggregator()
    found.refresh(0)
    assert group(found, 4) == "other"


def test_process_born_before_its_parent_has_gone_has_the_parents_group(table: Table) -> None:
    table.has(3, "100 1 nginx", 10, freed_ns=20)
    table.has(4, "101 100 sh", 15)
    found = table.aggregator()
    found.refresh(0)
    assert group(found, 4) == "web"


def test_new_aggregator_does_not_take_an_older_owner_of_an_id_for_the_parent(table: Table) -> None:
    """The parent has gone, and its slot is another one's; who had its id before still has a free one."""
    table.has(3, "100 1 nginx", 10, freed_ns=20)
    table.has(5, "100 1 postgres", 30)
    table.has(4, "101 100 sh", 40)
    first = table.aggregator()
    first.refresh(0)
    assert group(first, 4) == "db"
    table.has(5, "102 1 foo", 50)
    second = table.aggregator()
    second.refresh(LATER_NS)
    assert group(second, 4) == "db"
    second.refresh(LATER_NS)
    assert group(second, 4) == "db"
    assert second.processes.tolist() == [1 if name in ("db", "other") else 0 for name in GROUPS.names]


def test_processes_of_before_a_suspended_machine_woke_are_not_younger_than_their_children() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    assert kernel.birth_ns(7 * ticks, latest_ns=9 * 10**9) == 7 * 10**9 + 1
    assert kernel.birth_ns(3600 * ticks, latest_ns=9 * 10**9) == 9 * 10**9
