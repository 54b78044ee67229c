"""BPF maps as memory.

An array map made with BPF_F_MMAPABLE (kernel 5.5, commit fc9702273e2e) is read by mapping its descriptor:
no bpf() call, so no privilege. Any other is copied by look-ups, one for each element; arrays of rows have
few and large elements for this, pages of ROWS_PER_PAGE rows (kernel_progs/include/slots.h). The memory is the
same either way. The kernel rounds each element up to 8 bytes (kernel/bpf/arraymap.c).

Workers and the supervisor do without numpy, which would be 15 MB of their memory; what it makes of a map is
in arrays.py.
"""

import ctypes
import itertools
import mmap
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, cast

from supervisor import linux

# `struct task` of kernel_progs/include/task.h: its members, and what they are to the module struct.
TASK_MEMBERS: Final[Mapping[str, str]] = {
    "tgid": "I",
    "ppid": "I",
    "start_ns": "Q",
    "exit_ns": "Q",
    "freed_ns": "Q",
    "cgroup_id": "Q",
    "comm": "16s",
    "state": "H",
    "moves": "H",
    "renames": "I",
}
TASK: Final = struct.Struct("=" + "".join(TASK_MEMBERS.values()))
# What a state is made of.
TASK_LIVE: Final = 1
TASK_THREAD: Final = 2
PIDS_PER_PAGE: Final = 1024
ROWS_PER_PAGE: Final = 256
_PAGED: Final = frozenset({"rows", "task", "connections"})
WORD_BYTES: Final = 8


def _place(member: str) -> tuple[Literal["H", "I", "Q"], int, int]:
    """Its code, and where it is in an array of such integers: the first, and from one to the next."""
    code = cast(Literal["H", "I", "Q"], TASK_MEMBERS[member])
    before = itertools.takewhile(lambda name: name != member, TASK_MEMBERS)
    size_bytes = struct.calcsize(code)
    first = struct.calcsize("=" + "".join(TASK_MEMBERS[name] for name in before)) // size_bytes
    return code, first, TASK.size // size_bytes


_TASK_COLUMNS: Final = {member: _place(member) for member in ("tgid", "exit_ns", "state")}


def task_column(tasks: memoryview, member: str) -> list[int]:
    """One member of each `struct task`."""
    code, first, step = _TASK_COLUMNS[member]
    column: list[int] = tasks.cast(code)[first::step].tolist()
    return column


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

    def open(self, entries: int = 0) -> "Content":
        """The first entries, 0 = all, for a moment. Raises OSError where the kernel refuses it."""
        return Content(self, entries or self.info.entries)

    def writable(self) -> linux.SharedMemory:
        """The live map, to be changed; of a map that is mapped."""
        return linux.SharedMemory(
            self.fd, _whole_pages(self.info.entries * self.info.stride_bytes), writable=True
        )

    def words(self) -> list[int]:
        """All of it as u64."""
        with self.open() as content:
            return content.words.tolist()


class Content:
    """Elements of a map, a context manager: the live map's, so that what the kernel writes is seen at once,
    or copied from it now.

    A mapping lasts no longer than a reading: the kernel counts the pages of a mapped map as the process's
    own, though they are the map's.

    address, size_bytes: where they are. bytes: the same, to be used no longer than it is open. memory: whose
    beginning they are.
    """

    def __init__(self, held: KernelMap, entries: int) -> None:
        self.size_bytes = entries * held.info.stride_bytes
        self.memory: linux.SharedMemory | bytearray
        if held.mapped:
            self.memory = linux.SharedMemory(held.fd, _whole_pages(self.size_bytes), writable=False)
            self.address = self.memory.address
            self.bytes = self.memory.bytes(self.size_bytes)
        else:
            self.memory = bytearray(self.size_bytes)
            self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
            self.bytes = memoryview(self.memory)
            linux.bpf_read_array(held.fd, entries, held.info.stride_bytes, self.address)

    @property
    def words(self) -> memoryview:
        """As u64."""
        return self.bytes.cast("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.bytes
        if isinstance(self.memory, linux.SharedMemory):
            self.memory.close()


class Words:
    """The u64 words of an array that user space writes."""

    def __init__(self, held: KernelMap) -> None:
        self._fd = held.fd
        self._mapped: memoryview | None = None
        if held.mapped:
            size = held.info.entries * held.info.stride_bytes
            self._mapping = linux.SharedMemory(held.fd, _whole_pages(size), writable=True)
            self._mapped = self._mapping.bytes(size).cast("Q")

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
    with maps[USED_PAGES].open() as content:
        used = bytes(content.bytes).rstrip(b"\0")
    # Page 0 has slot 0, which no process has and which always counts.
    return max(1, (len(used) + WORD_BYTES - 1) // WORD_BYTES)


def kernel_bytes(fd: int) -> int:
    """Kernel memory of one map by the kernel's own account, 0 where it does not tell (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        for line in file:
            if line.startswith("memlock:"):
                return int(line.split()[1])
    return 0
