"""The core program `task.bpf.c`: it gives slots to processes as they are born. Here: its hooks, its free
slots, and the one pass over /proc that gives slots to the processes that were there before it.
"""

import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from supervisor.kernel.loader import Tables
from supervisor.kernel.maps import PIDS_PER_PAGE, TASK, TASK_FREE, TASK_LIVE
from supervisor.kernel.plans import Hook, Plan, task_plans, tracepoint_plan

SOURCE: Final = "task.bpf.c"

# Words of the core program's small table (enum word in task.bpf.c).
SETTLED_NS: Final = 0
BIRTHS_WITHOUT_SLOT: Final = 1


def _hook(name: str, *plans: Plan) -> Hook:
    return Hook(name, plans, plans)


# The fork hook stands last: when it sees births, the others see what becomes of them.
HOOKS: Final = (
    _hook("exec", tracepoint_plan("on_exec", "", "sched:sched_process_exec")),
    _hook("exit", tracepoint_plan("on_exit", "", "sched:sched_process_exit")),
    _hook("free", *task_plans("on_free", "sched:sched_process_free")),
    _hook(
        "rename",
        *(
            tracepoint_plan("on_rename", f"args->pid, {name}", "task:task_rename")
            for name in ("args->newcomm", "(const char *)args + (args->data_loc_newcomm & 0xffff)")
        ),
    ),
    _hook("newtask", tracepoint_plan("on_newtask", "args->pid, args->clone_flags", "task:task_newtask")),
)


def defines(slots: int, pins: str, cpus: int) -> dict[str, str | int]:
    """Constants for every C source. pid_max is read from the kernel (proc_sys_kernel(5))."""
    with open("/proc/sys/kernel/pid_max") as file:
        pid_max = int(file.read())
    return {
        "SLOTS": slots,
        "SLOT_TYPE": "u16" if slots <= 1 << 16 else "u32",
        "PID_PAGES": (pid_max + PIDS_PER_PAGE) // PIDS_PER_PAGE,
        "PINS": f'"{pins}"',
        "CPUS": cpus,
        "PAGE_SHIFT": mmap.PAGESIZE.bit_length() - 1,
    }


@dataclass(frozen=True)
class ProcStat:
    """The fields of /proc/PID/stat that an identity needs (proc_pid_stat(5))."""

    pid: int
    comm: bytes
    state: bytes
    ppid: int
    threads: int
    start_ticks: int


def read_stat(pid: int) -> ProcStat | None:
    """None when there is no such process. comm can hold anything, spaces and parentheses too: it ends
    at the last parenthesis."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    comm = text[text.index(b"(") + 1 : text.rindex(b")")]
    return ProcStat(pid, comm, fields[0], int(fields[1]), int(fields[17]), int(fields[19]))


def processes() -> list[int]:
    """Ids of all thread groups."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


class Seeding:
    """Fills the queue of free slots before the hooks are attached, and seeds afterwards.

    Low slots are kept out of the queue for the processes that are there; those left over follow.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._reserved = min(slots // 2, len(processes()) + 256)

    def prepare(self, tables: Tables) -> None:
        for slot in range(self._reserved, self._slots):
            tables.push("free_slots", slot)

    def finish(self, tables: Tables) -> None:
        reserve = iter(range(1, self._reserved))
        writer = _Writer(tables)
        # Parents come before their children, so that slots are in the order of birth.
        there = sorted(
            filter(None, map(read_stat, processes())), key=lambda stat: (stat.start_ticks, stat.pid)
        )
        for stat in there:
            if not writer.slot_of(stat.pid) and not writer.seed(stat, reserve):
                break
        for slot in reserve:
            tables.push("free_slots", slot)


class _Writer:
    """Writes identities while the hooks are writing theirs."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._task = tables.maps["task"].records(TASK, writable=True)
        pages = tables.maps["slot_of_pid"]
        entry_bytes = pages.info.value_bytes // PIDS_PER_PAGE
        kind = np.dtype(f"<u{entry_bytes}")
        self._slot_of_pid = pages.view(writable=True).view(kind).reshape(-1)

    def slot_of(self, pid: int) -> int:
        return int(self._slot_of_pid[pid])

    def seed(self, stat: ProcStat, reserve: Iterator[int]) -> bool:
        """Gives the process the next reserved slot; False when none is left."""
        slot = next(reserve, None)
        if slot is None:
            return False
        row = self._task[slot : slot + 1]
        row["tgid"], row["ppid"], row["comm"] = stat.pid, stat.ppid, stat.comm
        row["start_ns"] = stat.start_ticks * (1_000_000_000 // os.sysconf("SC_CLK_TCK")) + 1
        row["exit_ns"] = time.monotonic_ns() if stat.state in b"ZX" else 0
        row["state"] = TASK_LIVE
        self._map(stat, slot)
        self._look_again(stat, slot)
        return True

    def _map(self, stat: ProcStat, slot: int) -> None:
        self._slot_of_pid[stat.pid] = slot
        if stat.threads > 1:
            for tid in _threads(stat.pid):
                if not self._slot_of_pid[tid]:
                    self._slot_of_pid[tid] = slot

    def _look_again(self, stat: ProcStat, slot: int) -> None:
        """An exit before the slot was mapped went unseen; one after it did not."""
        row = self._task[slot : slot + 1]
        now = read_stat(stat.pid)
        if now is not None and now.start_ticks == stat.start_ticks:
            if now.state in b"ZX" and not row["exit_ns"][0]:
                row["exit_ns"] = time.monotonic_ns()
        elif row["state"][0] == TASK_LIVE and self.slot_of(stat.pid) == slot:
            row["freed_ns"] = time.monotonic_ns()
            row["state"] = TASK_FREE
            self._tables.push("free_slots", slot)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []
