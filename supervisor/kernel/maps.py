"""BPF maps as numpy arrays.

An array map made with BPF_F_MMAPABLE (kernel 5.5, commit fc9702273e2e) is read by mapping its descriptor:
no bpf() call, so no privilege. Any other is copied by look-ups, one for each element; arrays of rows have
few and large elements for this, pages of ROWS_PER_PAGE rows (kernel_progs/include/slots.h). The memory is the
same either way. The kernel rounds each element up to 8 bytes (kernel/bpf/arraymap.c).
"""

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from supervisor import linux

U64Array = npt.NDArray[np.uint64]

# Layout of `struct task` in kernel_progs/include/task.h.
TASK: Final = np.dtype(
    [
        ("tgid", "<u4"),
        ("ppid", "<u4"),
        ("start_ns", "<u8"),
        ("exit_ns", "<u8"),
        ("freed_ns", "<u8"),
        ("cgroup_id", "<u8"),
        ("comm", "S16"),
        ("state", "<u2"),
        ("moves", "<u2"),
        ("renames", "<u4"),
    ]
)
# What a state is made of.
TASK_LIVE: Final = 1
TASK_THREAD: Final = 2
PIDS_PER_PAGE: Final = 1024
ROWS_PER_PAGE: Final = 256
_PAGED: Final = frozenset({"rows", "task", "connections"})


class MapInfo(NamedTuple):
    """Shape of one map. entries, value_bytes: of its elements, as the kernel has them."""

    name: str
    entries: int
    value_bytes: int
    flags: int

    @property
    def rows(self) -> int:
        """Its elements, or the rows in them where they are pages."""
        return self.entries * (ROWS_PER_PAGE if self.name in _PAGED else 1)

    @property
    def stride_bytes(self) -> int:
        return (self.value_bytes + 7) // 8 * 8


class KernelMap(NamedTuple):
    """A map that this process holds a descriptor of."""

    info: MapInfo
    fd: int

    @property
    def mapped(self) -> bool:
        """Whether it is read by mapping it."""
        return bool(self.info.flags & linux.BPF_F_MMAPABLE)

    def view(self, entries: int = 0) -> npt.NDArray[np.uint8]:
        """Bytes [entries, stride] of the first entries, 0 = all: of the live map, so that what the kernel
        writes is seen at once, or copied from it now.

        A mapping lasts as long as the array. It is made for each reading: the kernel counts the pages of
        a mapped map as the process's own, though they are the map's.

        Raises OSError where the kernel refuses it.
        """
        entries = entries or self.info.entries
        size = entries * self.info.stride_bytes
        if self.mapped:
            memory = linux.SharedMemory(self.fd, _whole_pages(size), writable=False)
            flat: npt.NDArray[np.uint8] = np.asarray(memory)[:size]
        else:
            flat = np.zeros(size, np.uint8)
            linux.bpf_read_array(self.fd, entries, self.info.stride_bytes, flat.ctypes.data)
        return flat.reshape(entries, self.info.stride_bytes)

    def writable(self) -> npt.NDArray[np.uint8]:
        """Bytes of the live map, to be changed; of a map that is mapped."""
        size = self.info.entries * self.info.stride_bytes
        memory = linux.SharedMemory(self.fd, _whole_pages(size), writable=True)
        flat: npt.NDArray[np.uint8] = np.asarray(memory)[:size]
        return flat

    def words(self, pages: int = 0) -> U64Array:
        """The same as u64 [rows, words of a row]; pages: how many of a map of pages, 0 = all."""
        rows = pages * ROWS_PER_PAGE or self.info.rows
        return self.view(pages).view(np.uint64).reshape(rows, -1)

    def records(self, dtype: np.dtype[Any], pages: int = 0) -> npt.NDArray[Any]:
        """The same as records [rows]; a record must fill its row."""
        return self.view(pages).view(dtype).reshape(-1)


class Words:
    """The u64 words of an array that user space writes."""

    def __init__(self, held: KernelMap) -> None:
        self._fd = held.fd
        self._mapped: U64Array | None = None
        if held.mapped:
            size = held.info.entries * held.info.stride_bytes
            memory = linux.SharedMemory(held.fd, _whole_pages(size), writable=True)
            self._mapped = np.asarray(memory)[:size].view(np.uint64)

    def set(self, index: int, value: int) -> None:
        """Raises OSError where the kernel refuses it."""
        if self._mapped is not None:
            self._mapped[index] = value
            return
        word = ctypes.c_uint64(value)
        linux.bpf_update_array(self._fd, index, ctypes.addressof(word))


def _whole_pages(size_bytes: int) -> int:
    return (size_bytes + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


Maps = Mapping[str, KernelMap]

USED_PAGES: Final = "used_pages"
"""The map of the core program that tells which pages have ever had a process (task.bpf.c)."""


def used_pages(maps: Maps) -> int:
    """How many pages have to be read to have all slots that were ever given. What is given later belongs to
    processes that are born later."""
    used = maps[USED_PAGES].words()[0]
    # Page 0 has slot 0, which no process has and which always counts.
    return int(used.nonzero()[0].max(initial=0)) + 1


def kernel_bytes(fd: int) -> int:
    """Kernel memory of one map by the kernel's own account, 0 where it does not tell (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return 0
