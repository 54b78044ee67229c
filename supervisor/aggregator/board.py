"""The board: a few words of shared memory by which supervisor and aggregator know of each other.

supervisor writes  attached  generation of the kernel objects it holds, 0 = none
                   running, left_s, method, kernel_bytes, maps, entries, per_core: for the charts about us
aggregator writes  taken, lost, events, apart (conservation.py)
each for every program; the last place of kernel_bytes and maps is the identity program's. In `progress` are
frames, the moment of the last cycle (monotonic ns), births and ends of processes, all by the aggregator, and
the CPU time of all, by the supervisor.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor.pipeline import memory

FRAMES: Final = 0
CYCLE_NS: Final = 1
CPU_MS: Final = 2
BIRTHS: Final = 3
ENDS: Final = 4

# How a program was loaded, in Netdata's words: co-re by trampolines, which need the kernel's own types.
METHODS: Final[Mapping[int, str]] = {1: "legacy", 2: "co-re"}

_OF_PROGRAMS: Final = (
    "attached",
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
)
_OF_CORE_TOO: Final = frozenset({"kernel_bytes", "maps"})

Words = npt.NDArray[np.uint64]


def _fields(programs: int) -> dict[str, memory.Field]:
    places = {name: programs + (name in _OF_CORE_TOO) for name in _OF_PROGRAMS}
    return {"progress": (np.uint64, (8,)), **{name: (np.uint64, (n,)) for name, n in places.items()}}


def create(programs: int) -> int:
    return memory.create("board", memory.size_of(_fields(programs)))


class Board:
    def __init__(self, fd: int, programs: int) -> None:
        at: dict[str, npt.NDArray[Any]] = memory.views(fd, _fields(programs), writable=True)
        self.progress: Words = at["progress"]
        self.attached: Words = at["attached"]
        self.taken: Words = at["taken"]
        self.lost: Words = at["lost"]
        self.events: Words = at["events"]
        self.apart: Words = at["apart"]
        self.running: Words = at["running"]
        self.left_s: Words = at["left_s"]
        self.method: Words = at["method"]
        self.kernel_bytes: Words = at["kernel_bytes"]
        self.maps: Words = at["maps"]
        self.entries: Words = at["entries"]
        self.per_core: Words = at["per_core"]
