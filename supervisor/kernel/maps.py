"""BPF maps as numpy arrays.

An array map made with BPF_F_MMAPABLE (kernel 5.5, commit fc9702273e2e) is read by mapping its descriptor:
no bpf() call, so no privilege. The kernel rounds each element up to 8 bytes (kernel/bpf/arraymap.c).
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor import linux

U64Array = npt.NDArray[np.uint64]

# Layout of `struct task` in kernel_progs/task.bpf.c's include slots.h.
TASK: Final = np.dtype(
    [
        ("tgid", "<u4"),
        ("ppid", "<u4"),
        ("start_ns", "<u8"),
        ("exit_ns", "<u8"),
        ("freed_ns", "<u8"),
        ("cgroup_id", "<u8"),
        ("comm", "S16"),
        ("state", "<u4"),
        ("renames", "<u4"),
    ]
)
TASK_FREE: Final = 0
TASK_LIVE: Final = 1
PIDS_PER_PAGE: Final = 1024


@dataclass(frozen=True)
class MapInfo:
    """Shape of one map."""

    name: str
    entries: int
    value_bytes: int
    flags: int

    @property
    def stride_bytes(self) -> int:
        return (self.value_bytes + 7) // 8 * 8


@dataclass(frozen=True)
class KernelMap:
    """A map that this process holds a descriptor of."""

    info: MapInfo
    fd: int

    def view(self, *, writable: bool = False) -> npt.NDArray[np.uint8]:
        """Bytes [entries, stride] of the live map; what the kernel writes is seen at once.

        The mapping lasts as long as the array. It is made for each reading: the kernel counts the pages of
        a mapped map as the process's own, though they are the map's.

        Raises OSError where the kernel refuses the mapping.
        """
        size = self.info.entries * self.info.stride_bytes
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        memory = linux.map_shared(self.fd, pages, writable=writable)
        flat = np.frombuffer(memory, np.uint8, size)
        return flat.reshape(self.info.entries, self.info.stride_bytes)

    def words(self, *, writable: bool = False) -> U64Array:
        """The same as u64 [entries, stride / 8]."""
        return self.view(writable=writable).view(np.uint64)

    def records(self, dtype: np.dtype[Any], *, writable: bool = False) -> npt.NDArray[Any]:
        """The same as records [entries]; the record must fill the element."""
        return self.view(writable=writable).view(dtype).reshape(self.info.entries)


Maps = Mapping[str, KernelMap]


def kernel_bytes(fd: int) -> int:
    """Kernel memory of one map by the kernel's own account, 0 where it does not tell (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return 0
