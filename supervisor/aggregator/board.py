"""The board: a few words of shared memory by which supervisor and aggregator know of each other.

supervisor writes  attached  generation of the kernel objects it holds, 0 = none
                   leaving   which of its charts an aggregator that is told to stop withdraws (LEAVING)
                   running, left_s, method, kernel_bytes, maps, entries, per_core, missed: for charts about us
aggregator writes  taken, lost, events, apart (conservation.py)
each for every program; the last place of kernel_bytes, maps and missed is the identity program's. In
`progress` are frames, the moment of the last cycle (monotonic ns), births and ends of processes, all by the
aggregator, and the CPU time of all, by the supervisor.
"""

from collections.abc import Mapping
from typing import Final

from supervisor.pipeline import memory
from workers.declaration import Scope

FRAMES: Final = 0
CYCLE_NS: Final = 1
CPU_MS: Final = 2
BIRTHS: Final = 3
ENDS: Final = 4

# How often the charts about ourselves are written.
FACTS_EVERY_S: Final = 10

# How a program was loaded, in Netdata's words: co-re by trampolines, which need the kernel's own types.
METHODS: Final[Mapping[int, str]] = {1: "legacy", 2: "co-re"}

# Bits of `leaving`, by the scope of a chart.
LEAVING: Final[Mapping[Scope, int]] = {"system": 1, "device": 1, "apps": 2, "cgroup": 4, "services": 4}

_OF_PROGRAMS: Final = (
    "attached",
    "leaving",
    "taken",
    "lost",
    "events",
    "apart",
    "running",
    "left_s",
    "method",
    "kernel_bytes",
    "maps",
    "entries",
    "per_core",
    "missed",
)
_OF_CORE_TOO: Final = frozenset({"kernel_bytes", "maps", "missed"})


def _fields(programs: int) -> dict[str, memory.Field]:
    places = {name: programs + (name in _OF_CORE_TOO) for name in _OF_PROGRAMS}
    return {"progress": ("Q", (8,)), **{name: ("Q", (n,)) for name, n in places.items()}}


def create(programs: int) -> int:
    return memory.create("board", memory.size_of(_fields(programs)))


class Board:
    """Each a memoryview of u64."""

    def __init__(self, fd: int, programs: int) -> None:
        self._mapped = memory.Mapped(fd, _fields(programs), writable=True)
        at = self._mapped.at
        self.progress = at["progress"]
        self.attached = at["attached"]
        self.leaving = at["leaving"]
        self.taken = at["taken"]
        self.lost = at["lost"]
        self.events = at["events"]
        self.apart = at["apart"]
        self.running = at["running"]
        self.left_s = at["left_s"]
        self.method = at["method"]
        self.kernel_bytes = at["kernel_bytes"]
        self.maps = at["maps"]
        self.entries = at["entries"]
        self.per_core = at["per_core"]
        self.missed = at["missed"]
