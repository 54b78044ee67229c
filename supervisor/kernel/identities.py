"""The core program `task.bpf.c`: it gives slots to processes as they are born. Here: its hooks, its free
slots, and the one pass over /proc by which the processes that were there before it get theirs.
"""

import collections
import ctypes
import mmap
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from supervisor import linux
from supervisor.config.model import CollectPid
from supervisor.errors import Unavailable
from supervisor.kernel.cgroup_hierarchy import Hierarchy
from supervisor.kernel.maps import (
    PIDS_PER_PAGE,
    ROWS_PER_PAGE,
    TASK,
    TASK_LIVE,
    TASK_MEMBERS,
    Maps,
    Words,
    task_column,
    used_pages,
)
from supervisor.kernel.plans import (
    Hook,
    Plan,
    Preference,
    in_task_plans,
    raw_tracepoint_plan,
    task_plans,
    tracepoint_plan,
)
from supervisor.kernel.request import Request, Tables

SOURCE: Final = "task.bpf.c"

# Words that user space writes (enum word in task.bpf.c).
SETTLED_NS: Final = 0
_LOADER: Final = 1

# Words of `tallies`, which the kernel writes (enum tally).
BIRTHS_WITHOUT_SLOT: Final = 0
CGROUPS_MADE: Final = 1

# How many paths of new cgroups are kept: more than are made in a tick, half a kilobyte each.
CGROUP_PATHS: Final = 512

# `collect pid` in the words of counters.h.
COLLECT: Final[Mapping[CollectPid, int]] = {"real parent": 0, "parent": 1, "all": 2}

_CLOCK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def _hook(name: str, *plans: Plan) -> Hook:
    return Hook(name, plans, plans)


# The fork hook stands last: when it sees births, the others see what becomes of them.
HOOKS: Final = (
    _hook(
        "exec",
        *in_task_plans(
            raw_tracepoint_plan("on_exec", "args[1]", "sched:sched_process_exec"),
            tracepoint_plan("on_exec", "args->old_pid", "sched:sched_process_exec"),
        ),
    ),
    _hook(
        "exit",
        *in_task_plans(
            raw_tracepoint_plan("on_exit", "", "sched:sched_process_exit"),
            tracepoint_plan("on_exit", "", "sched:sched_process_exit"),
        ),
    ),
    _hook("free", *task_plans("on_free", "sched:sched_process_free")),
    _hook(
        "rename",
        *in_task_plans(
            raw_tracepoint_plan(
                "on_rename",
                "pid_of_task(args[0]), (const char *)args[1]",
                "task:task_rename",
                field="task_struct.pid",
            ),
            *(
                tracepoint_plan("on_rename", f"args->pid, {name}", "task:task_rename")
                for name in ("args->newcomm", "(const char *)args + (args->data_loc_newcomm & 0xffff)")
            ),
        ),
    ),
    _hook(
        "newtask",
        *in_task_plans(
            raw_tracepoint_plan(
                "on_newtask", "pid_of_task(args[0]), args[1]", "task:task_newtask", field="task_struct.pid"
            ),
            tracepoint_plan("on_newtask", "args->pid, args->clone_flags", "task:task_newtask"),
        ),
    ),
)


# A process that is moved to another cgroup. Not raw: that would give pointers to structures only.
CGROUP: Final = _hook(
    "cgroup",
    tracepoint_plan("on_attach", "args->pid, args->dst_root, args->dst_id", "cgroup:cgroup_attach_task"),
)
# A new cgroup. Not asked for: a cgroup that lasts has a folder to be found by.
CGROUP_MADE: Final = _hook(
    "cgroup_made",
    tracepoint_plan(
        "on_cgroup",
        "args->root, args->id, (const char *)args + (args->data_loc_path & 0xffff)",
        "cgroup:cgroup_mkdir",
    ),
)


def request(
    slots: int,
    hierarchy: Hierarchy | None,
    defines: Mapping[str, str | int],
    preference: Preference,
    tag: str,
) -> Request:
    """What to load. hierarchy: whose cgroups processes are in; without one they have none."""
    seeding = Seeding(slots, hierarchy, thread_slots=bool(defines["THREAD_SLOTS"]))
    own = {
        "CGROUP_VERSION": hierarchy.version if hierarchy else 0,
        "CGROUP_HIERARCHY": hierarchy.number if hierarchy else -1,
        "CGROUP_PATHS": CGROUP_PATHS,
    }
    return Request(
        SOURCE,
        (*([CGROUP, CGROUP_MADE] if hierarchy else []), *HOOKS),
        "entry",
        preference,
        {**defines, **own},
        {},
        tag,
        seeding.prepare,
        seeding.finish,
    )


def whole_pages(slots: int) -> int:
    """As many slots, and those that fill their last page."""
    return -(-slots // ROWS_PER_PAGE) * ROWS_PER_PAGE


def defines(
    slots: int, pins: str, cpus: int, map_flags: str = "BPF_F_MMAPABLE", *, thread_slots: bool = False
) -> dict[str, str | int]:
    """Constants for every C source. slots: a number that fills its pages. thread_slots: threads have slots of
    their own. pid_max is read from the kernel (proc_sys_kernel(5))."""
    with open("/proc/sys/kernel/pid_max") as file:
        pid_max = int(file.read())
    return {
        "SLOTS": slots,
        "SLOT_TYPE": "u16" if slots <= 1 << 16 else "u32",
        "PID_PAGES": (pid_max + PIDS_PER_PAGE) // PIDS_PER_PAGE,
        "PINS": f'"{pins}"',
        "CPUS": cpus,
        "MAP_FLAGS": map_flags,
        "THREAD_SLOTS": int(thread_slots),
        "COLLECT": COLLECT["real parent"],
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

    @property
    def exited(self) -> bool:
        return self.state in b"ZX"


def read_stat(pid: int, tid: int = 0) -> ProcStat | None:
    """Of a process, or of the thread `tid` of it; None when there is none. comm can hold anything, spaces and
    parentheses too: it ends at the last parenthesis."""
    try:
        with open(f"/proc/{pid}/task/{tid}/stat" if tid else f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    comm = text[text.index(b"(") + 1 : text.rindex(b")")]
    return ProcStat(tid or pid, comm, fields[0], int(fields[1]), int(fields[17]), int(fields[19]))


def birth_ns(start_ticks: int, latest_ns: int) -> int:
    """When a process of /proc was born, by CLOCK_MONOTONIC as the kernel's hook has it. /proc has
    CLOCK_BOOTTIME, ahead of it by as long as the machine was suspended: parents would come after children."""
    return min(start_ticks * _CLOCK_NS + 1, latest_ns)


def processes() -> list[int]:
    """Ids of all thread groups."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _tasks() -> int:
    """How many processes and threads there are (proc_loadavg(5))."""
    with open("/proc/loadavg") as file:
        return int(file.read().split()[3].partition("/")[2])


class Seeding:
    """Fills the stack of free slots before the hooks are attached, and has the processes planted afterwards.

    The lowest slots are kept out of it for the processes that are there; those left over follow. The last one
    pushed is the first one given: lower ones come after higher ones.
    """

    def __init__(self, slots: int, hierarchy: Hierarchy | None, *, thread_slots: bool) -> None:
        self._slots = slots
        self._hierarchy = hierarchy
        self._thread_slots = thread_slots
        there = _tasks() if thread_slots else len(processes())
        self._reserved = min(slots // 2, there + 256)
        self._began_ns = 0

    def prepare(self, tables: Tables) -> None:
        self._began_ns = time.monotonic_ns()
        tables.push("free_slots", reversed(range(self._reserved, self._slots)))

    def finish(self, tables: Tables) -> None:
        """Raises Unavailable where the kernel does not follow the orders."""
        free = collections.deque(range(1, self._reserved))
        # Parents come before their children, so that slots are in the order of birth.
        there = sorted(
            filter(None, map(read_stat, processes())), key=lambda stat: (stat.start_ticks, stat.pid)
        )
        with Orders(tables.maps) as orders:
            planter = _Planter(orders, tables.maps, free, self._began_ns, thread_slots=self._thread_slots)
            for stat in there:
                planter.plant(stat)
            if self._hierarchy:
                planter.find_cgroups(self._hierarchy)
        tables.push("free_slots", reversed(free))


# Kinds of orders (enum order_kind in task.bpf.c).
PLANT, MAP, EXITED, GONE, CGROUP_OF = range(5)
_TGID, _CGROUP_ID, _STATE = map(list(TASK_MEMBERS).index, ("tgid", "cgroup_id", "state"))
# How often is looked for processes without a cgroup: each time finds the children of the time before.
_CGROUP_ROUNDS: Final = 3
_ORDER_TRIES: Final = 100


class _Order(ctypes.Structure):
    """struct order in task.bpf.c."""

    _fields_ = (
        ("number", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("slot", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("ppid", ctypes.c_uint32),
        ("start_ns", ctypes.c_uint64),
        ("exited", ctypes.c_uint32),
        ("is_thread", ctypes.c_uint32),
        ("cgroup_id", ctypes.c_uint64),
        ("comm", ctypes.c_char * 16),
    )


class Orders:
    """Has the kernel write identities, within a `with` block: each order is put into a map, and followed by
    the hook of renames as soon as this thread takes its own name once more. One such block at a time."""

    def __init__(self, maps: Maps) -> None:
        self._words = Words(maps["words"])
        self._order_fd = maps["order"].fd
        self._answer_fd = maps["answer"].fd
        self._name = linux.task_name()
        self._number = time.monotonic_ns()  # no answer to another block is taken for one to this

    def __enter__(self) -> Self:
        self._words.set(_LOADER, os.getpid())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._words.set(_LOADER, 0)

    def give(self, kind: int, slot: int, pid: int, **more: int | bytes) -> int:
        """Gives one order; the slot that `pid` has then. Raises Unavailable where the kernel does not follow
        it."""
        self._number += 1
        order = _Order(number=self._number, kind=kind, slot=slot, pid=pid, **more)
        linux.bpf_update_array(self._order_fd, 0, ctypes.addressof(order))
        answer = (ctypes.c_uint64 * 2)()
        # The kernel leaves a program out now and then (plans.in_task_plans, plans.task_plans).
        for _ in range(_ORDER_TRIES):
            linux.set_task_name(self._name)
            linux.bpf_read_array(self._answer_fd, 1, ctypes.sizeof(answer), ctypes.addressof(answer))
            if answer[0] == self._number:
                return int(answer[1])
        raise Unavailable("processes that are there already cannot be given slots: task_rename is not seen")


class _Planter:
    """Gives slots to those who were there before.

    free: slots to give, taken from as they are given. began_ns: when no hook was attached yet.
    """

    def __init__(
        self, orders: Orders, maps: Maps, free: collections.deque[int], began_ns: int, *, thread_slots: bool
    ) -> None:
        self._give = orders.give
        self._maps = maps
        self._free = free
        self._began_ns = began_ns
        self._thread_slots = thread_slots

    def plant(self, stat: ProcStat) -> None:
        """Gives a process a slot, unless none is left or the hook of forks has given it one."""
        slot = self._enter(stat, stat.ppid)
        if not slot:
            return
        for tid in _threads(stat.pid) if stat.threads > 1 else ():
            self._plant_thread(stat.pid, tid, slot)
        self._look_again(stat, slot, read_stat(stat.pid))

    def _plant_thread(self, pid: int, tid: int, slot: int) -> None:
        """Into a slot of its own, where threads have them and one is left, else its process's."""
        stat = read_stat(pid, tid) if self._thread_slots and tid != pid else None
        own = self._enter(stat, pid, is_thread=True) if stat else 0
        if own and stat:
            self._look_again(stat, own, read_stat(pid, tid))
        else:
            self._give(MAP, slot, tid, ppid=pid)

    def _enter(self, stat: ProcStat, ppid: int, *, is_thread: bool = False) -> int:
        """The slot that the task has got, 0 = none."""
        if not self._free:
            return 0
        has = self._give(
            PLANT,
            self._free[0],
            stat.pid,
            ppid=ppid,
            start_ns=birth_ns(stat.start_ticks, self._began_ns),
            exited=stat.exited,
            is_thread=is_thread,
            comm=stat.comm[:15],
        )
        return self._free.popleft() if has == self._free[0] else 0

    def _look_again(self, stat: ProcStat, slot: int, now: ProcStat | None) -> None:
        """What happened before the slot was mapped went unseen; what happened after it did not."""
        if now is None or now.start_ticks != stat.start_ticks:
            self._give(GONE, slot, stat.pid)
        elif now.exited and not stat.exited:
            self._give(EXITED, slot, stat.pid)

    def find_cgroups(self, hierarchy: Hierarchy) -> None:
        """For all that have been planted, and those born to one that had no cgroup yet to give down."""
        for _ in range(_CGROUP_ROUNDS):
            with self._maps["task"].open(used_pages(self._maps)) as content:
                without = [
                    (slot, row[_TGID])
                    for slot, row in enumerate(TASK.iter_unpack(content.bytes))
                    if row[_STATE] == TASK_LIVE and not row[_CGROUP_ID]
                ]
            for slot, pid in without:
                self._give(CGROUP_OF, slot, pid, cgroup_id=hierarchy.id_of(pid))


def give_back_the_gone(maps: Maps, late_s: float) -> int:
    """Slots of processes that ended so long ago and are not there any more: how many. Their release was
    missed, as plain tracepoints can miss it (plans.task_plans). Raises OSError and Unavailable."""
    late_ns = time.monotonic_ns() - int(late_s * 1e9)
    with maps["task"].open(used_pages(maps)) as content:
        exits = task_column(content.bytes, "exit_ns")
        ended = [slot for slot, exit_ns in enumerate(exits) if 0 < exit_ns < late_ns]
        owners = [TASK.unpack_from(content.bytes, slot * TASK.size) for slot in ended]
    gone = [
        (slot, owner[_TGID])
        for slot, owner in zip(ended, owners, strict=True)
        if owner[_STATE] & TASK_LIVE and not os.path.exists(f"/proc/{owner[_TGID]}")
    ]
    if gone:
        with Orders(maps) as orders:
            for slot, pid in gone:
                orders.give(GONE, slot, pid)
    return len(gone)


def _threads(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []
