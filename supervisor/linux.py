"""System calls that Python's os module lacks, each a thin typed wrapper that raises OSError."""

import ctypes
import mmap
import os
import signal
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Keeps the interpreter's lock during a call.
_locked: Final = ctypes.PyDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_locked.malloc.argtypes, _locked.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
_locked.sbrk.argtypes, _locked.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
_locked.free.argtypes = [ctypes.c_void_p]
_locked.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memory_view: Final = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.argtypes, _memory_view.restype = (
    [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int],
    ctypes.py_object,
)
_PYBUF_READ: Final = 0x100
_PYBUF_WRITE: Final = 0x200
# Options of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_READ_ONLY: Final = mmap.PROT_READ
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE

CLONE_PARENT: Final = 0x00008000
CLONE_NEWNS: Final = 0x00020000
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 1 << 12
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

PR_SET_PDEATHSIG: Final = 1
PR_SET_KEEPCAPS: Final = 8
PR_SET_NAME: Final = 15
PR_GET_NAME: Final = 16
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_THP_DISABLE: Final = 41

_MACHINE: Final = os.uname().machine
_SYS_CLONE: Final = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120, "s390x": 120}
# On s390x the stack comes before the flags (clone(2)).
_CLONE_FIRST: Final = (CLONE_PARENT | signal.SIGCHLD, 0)
_CLONE_ARGUMENTS: Final = tuple(
    map(ctypes.c_long, (*(_CLONE_FIRST if _MACHINE != "s390x" else _CLONE_FIRST[::-1]), 0, 0, 0))
)
_SYS_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_BPF_MAP_CREATE: Final = 0
_BPF_MAP_LOOKUP_ELEM: Final = 1
_BPF_MAP_UPDATE_ELEM: Final = 2
_BPF_OBJ_PIN: Final = 6
_BPF_MAP_TYPE_ARRAY: Final = 2
BPF_F_MMAPABLE: Final = 1 << 10
_SYS_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_BPF_PROG_GET_FD_BY_ID: Final = 13
_BPF_OBJ_GET_INFO_BY_FD: Final = 15
_BPF_LINK_CREATE: Final = 28
_PERF_FLAG_FD_CLOEXEC: Final = 8

# M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX of glibc's malloc.h.
_SPARINGLY: Final = ((-3, 32768), (-1, 32768), (-8, 1))

_LARGEST_GAP_BYTES: Final = 8192
# Python's own allocator: sizes of a pool and of the largest block; how many are taken before one looks, and
# how often at most. An object of type bytes has 33 bytes besides, an int beyond 30 bits takes 32.
_POOL_BYTES: Final = 1 << 14
_POOL_HEAD_BYTES: Final = 48
_LARGEST_BLOCK_BYTES: Final = 512
_AT_ONCE: Final = 4
_MOST_TAKEN: Final = 5000
_BYTES_HEAD: Final = bytes.__basicsize__
_LARGE_INTEGER: Final = 1 << 40
_LARGE_INTEGER_BYTES: Final = 32
_gaps: Final[list[object]] = []

_CAP_VERSION_3: Final = 0x20080522
CAP_SYS_ADMIN: Final = 21
CAP_BPF: Final = 39  # kernel 5.8


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """mount(2) without data."""
    encoded = None if kind is None else kind.encode()
    _check(
        _libc.mount(source.encode(), target.encode(), encoded, ctypes.c_ulong(flags), None),
        f"mount {target}",
    )


def unmount(target: str, flags: int) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), flags), f"unmount {target}")


def prctl(option: int, value: int = 0) -> int:
    """prctl(2) with one argument; the unused ones must be 0."""
    zero = ctypes.c_ulong(0)
    return _check(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def clone_sibling() -> int:
    """A copy of this process that is its parent's child, not its own (clone(2), CLONE_PARENT): 0 in the copy.

    Only for a process with one thread that has never had another. Python's own fork would write to every lock
    and hook that modules have registered, which are half a megabyte of pages; a copy of one thread that
    holds the interpreter's lock has nothing to put right. (glibc keeps the thread's old id in the copy; it
    compares it with itself only.)
    """
    return _check(_locked.syscall(_SYS_CLONE[_MACHINE], *_CLONE_ARGUMENTS), "clone")


def use_memory_sparingly() -> None:
    """Large blocks of memory go back to the system as soon as they are free, and threads share one heap
    (mallopt(3)); another C library goes without. This process and its children get no huge pages (prctl(2)):
    Debian's kernels hand them out unasked, and after some minutes each worker had 2 MB more for itself."""
    prctl(PR_SET_THP_DISABLE, 1)
    if hasattr(_libc, "mallopt"):
        for option, value in _SPARINGLY:
            _libc.mallopt(option, value)


def close_gaps() -> None:
    """Fills the gaps that freed blocks have left in the heaps of the C library and of Python, for good. What
    this process and its copies allocate from now on then lies together at the heaps' ends, and not in gaps of
    hundreds of pages, each of which everyone would have for itself."""
    _close_gaps_of_python()
    if hasattr(_libc, "mallopt"):
        _close_gaps_of_c()


def _close_gaps_of_c() -> None:
    first_end = end = _locked.sbrk(0)
    while end == first_end:
        last = _locked.malloc(_LARGEST_GAP_BYTES)
        end = _locked.sbrk(0)
    for size_bytes in range(_LARGEST_GAP_BYTES, 8, -16):
        while (block := _locked.malloc(size_bytes)) < last:
            pass
        _locked.free(block)


def _close_gaps_of_python() -> None:
    """Python takes blocks of one size from pools of 16 KB, and from a new one when no other has a free block
    (Objects/obmalloc.c): blocks are taken until they are the first of a pool."""
    for size_bytes in range(_LARGEST_BLOCK_BYTES, 0, -16):
        for _ in range(_MOST_TAKEN):
            taken = [_block(size_bytes) for _ in range(_AT_ONCE)]
            _gaps.append(taken)
            if all(
                id(block) % _POOL_BYTES < _POOL_HEAD_BYTES + 2 * _AT_ONCE * size_bytes for block in taken[1:]
            ):
                break


def _block(size_bytes: int) -> object:
    """An object that takes a block of this size."""
    if size_bytes > _LARGE_INTEGER_BYTES:
        return bytes(size_bytes - _BYTES_HEAD)
    return _LARGE_INTEGER + 1 if size_bytes == _LARGE_INTEGER_BYTES else object()


def keep_freed_memory(size_bytes: int) -> None:
    """Has up to so much of what this process frees wait for what it asks for next (mallopt(3)). What goes
    back to the kernel each tick instead is had again page by page, with a fault for each."""
    for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        _libc.mallopt(option, size_bytes)


def let_go_of_freed_memory() -> None:
    """Gives it back to the kernel now (malloc_trim(3))."""
    _libc.malloc_trim(0)


def let_go_of_files() -> None:
    """Unmaps what this process has touched of the files that it maps and never wrote to (madvise(2)): the
    code of its libraries, most of which was needed once, at import. What is needed again comes from the
    page cache."""
    mapping = (0, 0)
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            first, last = (int(address, 16) for address in words[0].split("-"))
            of_a_file = len(words) > 5 and words[5].startswith("/") and words[1] in ("r-xp", "r--p")
            mapping = (first, last - first) if of_a_file else (0, 0)
        elif words[:2] == ["Anonymous:", "0"] and mapping != (0, 0):
            address, size_bytes = mapping
            _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes), mmap.MADV_DONTNEED)


def read_small(path: str) -> bytes:
    """A file of at most 4 KB. Python's own open() takes a copied process half a megabyte of pages.
    Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


class SharedMemory:
    """MAP_SHARED memory of a descriptor, for numpy too (np.asarray); unmapped by `close`, or when nothing
    refers to it any more. Raises OSError where the kernel refuses the mapping.

    Python's own mmap duplicates the descriptor and closes the copy: a process that maps each second would be
    counted with a close call each second by the very program that counts them. An array type of ctypes would
    be made and forgotten each second, which touches a hundred pages of Python's.
    """

    def __init__(self, fd: int, size_bytes: int, *, writable: bool) -> None:
        self.size_bytes = 0
        address = _libc.mmap(
            None, size_bytes, _READ_WRITE if writable else _READ_ONLY, mmap.MAP_SHARED, fd, 0
        )
        if address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, f"mmap: {os.strerror(number)}")
        self.address: int = address
        self.size_bytes = size_bytes
        self._writable = writable

    @property
    def __array_interface__(self) -> dict[str, object]:
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self.size_bytes,),
            "data": (self.address, not self._writable),
        }

    def bytes(self, size_bytes: int = 0) -> memoryview:
        """The first so many bytes, 0 = all. To be used no longer than the memory is mapped."""
        flags = _PYBUF_WRITE if self._writable else _PYBUF_READ
        view: memoryview = _memory_view(self.address, size_bytes or self.size_bytes, flags)
        return view

    def close(self) -> None:
        if self.size_bytes:
            _libc.munmap(self.address, self.size_bytes)
            self.size_bytes = 0

    def __del__(self) -> None:
        self.close()


def differ(address: int, other: int, size_bytes: int) -> bool:
    """Whether two pieces of memory hold different bytes (memcmp(3))."""
    return bool(_locked.memcmp(address, other, size_bytes))


def keep_capability(capability: int | None) -> None:
    """Leaves the permitted and effective sets with this one, or with none, and empties the inheritable set
    (capset(2)); the ambient set goes with them."""
    header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the first 32, then of the others
    if capability is not None:
        word, bit = divmod(capability, 32)
        sets[3 * word] = sets[3 * word + 1] = 1 << bit
    _check(_libc.capset(header, sets), "capset")


def task_name() -> bytes:
    """The calling thread's name, 16 bytes at most (PR_GET_NAME)."""
    name = ctypes.create_string_buffer(16)
    prctl(PR_GET_NAME, ctypes.addressof(name))
    return name.value


def set_task_name(name: bytes) -> None:
    """PR_SET_NAME."""
    text = ctypes.create_string_buffer(name)
    prctl(PR_SET_NAME, ctypes.addressof(text))


def drop_bounding_set() -> None:
    """Removes every capability this kernel knows from the bounding set; needs CAP_SETPCAP."""
    capability = 0
    while _libc.prctl(PR_CAPBSET_READ, ctypes.c_ulong(capability), 0, 0, 0) >= 0:
        prctl(PR_CAPBSET_DROP, capability)
        capability += 1


def close_all_but(keep: set[int]) -> None:
    """Closes every descriptor that is not in `keep`."""
    first = 0
    for descriptor in sorted(keep):
        if first < descriptor:
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


class _CreateAttribute(ctypes.Structure):
    """The members of union bpf_attr that BPF_MAP_CREATE needs (bpf(2))."""

    _fields_ = tuple(
        (name, ctypes.c_uint32) for name in ("map_type", "key_size", "value_size", "max_entries", "map_flags")
    )


class _ElementAttribute(ctypes.Structure):
    """The members that the commands about one element read; key and value are addresses."""

    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class _PinAttribute(ctypes.Structure):
    """The members of union bpf_attr that BPF_OBJ_PIN reads (bpf(2))."""

    _fields_ = (("pathname", ctypes.c_uint64), ("bpf_fd", ctypes.c_uint32), ("file_flags", ctypes.c_uint32))


class _InfoAttribute(ctypes.Structure):
    """The members of union bpf_attr that BPF_OBJ_GET_INFO_BY_FD reads, and info_len, which it writes."""

    _fields_ = (("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64))


class _IdAttribute(ctypes.Structure):
    """The members of union bpf_attr that BPF_PROG_GET_FD_BY_ID reads."""

    _fields_ = (("id", ctypes.c_uint32), ("next_id", ctypes.c_uint32), ("open_flags", ctypes.c_uint32))


def _bpf(command: int, attribute: ctypes.Structure, what: str) -> int:
    number = _SYS_BPF[_MACHINE]
    size = ctypes.sizeof(attribute)
    return _check(_libc.syscall(number, command, ctypes.byref(attribute), size), what)


def bpf_pin(fd: int, path: str) -> None:
    """Gives a BPF object a name in a bpffs."""
    name = ctypes.create_string_buffer(path.encode())
    _bpf(_BPF_OBJ_PIN, _PinAttribute(ctypes.addressof(name), fd, 0), f"pin {path}")


def bpf_create_array(entries: int, value_bytes: int, flags: int) -> int:
    """Descriptor of a new array map."""
    attribute = _CreateAttribute(_BPF_MAP_TYPE_ARRAY, 4, value_bytes, entries, flags)
    return _bpf(_BPF_MAP_CREATE, attribute, "create an array map")


def bpf_read_array(fd: int, entries: int, stride_bytes: int, address: int) -> None:
    """Copies all elements of an array map, one look-up each, to where they begin `stride_bytes` apart."""
    key = ctypes.c_uint32(0)
    attribute = _ElementAttribute(fd, ctypes.addressof(key), address, 0)
    for index in range(entries):
        key.value = index
        _bpf(_BPF_MAP_LOOKUP_ELEM, attribute, "look up in a map")
        attribute.value += stride_bytes


def bpf_update_array(fd: int, index: int, address: int) -> None:
    """Sets an element of an array map to what is at the address."""
    key = ctypes.c_uint32(index)
    _bpf(_BPF_MAP_UPDATE_ELEM, _ElementAttribute(fd, ctypes.addressof(key), address, 0), "update a map")


def bpf_link_create(attribute: ctypes.Structure) -> int:
    """A link between a program and what it is attached to (kernel 5.7 on; to perf events 5.15 on)."""
    return _bpf(_BPF_LINK_CREATE, attribute, "BPF_LINK_CREATE")


def bpf_info(fd: int, info: ctypes.Structure) -> int:
    """Fills in what the kernel tells of a BPF object, and gives how many bytes of it this kernel knows."""
    attribute = _InfoAttribute(fd, ctypes.sizeof(info), ctypes.addressof(info))
    _bpf(_BPF_OBJ_GET_INFO_BY_FD, attribute, "BPF_OBJ_GET_INFO_BY_FD")
    return int(attribute.info_len)


def bpf_program_by_id(program_id: int) -> int:
    """A new descriptor of a loaded program."""
    return _bpf(_BPF_PROG_GET_FD_BY_ID, _IdAttribute(program_id), f"BPF program {program_id}")


def perf_event_open(attribute: ctypes.Structure, *, pid: int, cpu: int) -> int:
    """perf_event_open(2) without a group."""
    number = _SYS_PERF_EVENT_OPEN[_MACHINE]
    found = _libc.syscall(
        number, ctypes.byref(attribute), pid, cpu, -1, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC)
    )
    return _check(found, "perf_event_open")
