"""The board: a few words of shared memory by which supervisor and aggregator know of each other.

supervisor writes  attached[program]   generation of the kernel objects it holds, 0 = none
aggregator writes  progress            frames · moment of the last cycle (monotonic ns)
                   taken[program], lost[program], events[program]
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor.pipeline import memory

FRAMES: Final = 0
CYCLE_NS: Final = 1


def _fields(programs: int) -> dict[str, memory.Field]:
    names = ("attached", "taken", "lost", "events")
    return {"progress": (np.uint64, (8,)), **dict.fromkeys(names, (np.uint64, (programs,)))}


def create(programs: int) -> int:
    return memory.create("board", memory.size_of(_fields(programs)))


class Board:
    def __init__(self, fd: int, programs: int) -> None:
        at: dict[str, npt.NDArray[Any]] = memory.views(fd, _fields(programs), writable=True)
        self.progress = at["progress"]
        self.attached = at["attached"]
        self.taken = at["taken"]
        self.lost = at["lost"]
        self.events = at["events"]
