"""Shared memory without a name: a memfd, sealed at its size, that children inherit."""

import fcntl
import itertools
import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from supervisor import linux

# A child that could cut the file short would kill every other one that has mapped it (SIGBUS).
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ALIGNMENT: Final = 64

Code = Literal["B", "H", "i", "I", "Q"]
Field = tuple[Code, tuple[int, ...]]  # element type as in the module struct, shape


def create(name: str, size_bytes: int) -> int:
    """A descriptor of new zeroed memory; pages that nobody touches take no memory (memfd_create(2))."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def size_of(fields: Mapping[str, Field]) -> int:
    """Bytes that `fields` take, laid out one after the other at 64-byte boundaries."""
    return max(mmap.PAGESIZE, sum(map(_padded, fields.values())))


def offsets(fields: Mapping[str, Field]) -> Iterator[int]:
    """Where each of them begins."""
    return itertools.accumulate(map(_padded, list(fields.values())[:-1]), initial=0)


class Mapped:
    """The fields of shared memory, without numpy: `at` has each as a flat memoryview. They last as long as
    this."""

    def __init__(self, fd: int, fields: Mapping[str, Field], *, writable: bool) -> None:
        self._memory = linux.SharedMemory(fd, size_of(fields), writable=writable)
        everything = self._memory.bytes()
        self.at: dict[str, memoryview] = {}
        for (name, field), offset in zip(fields.items(), offsets(fields), strict=True):
            self.at[name] = everything[offset : offset + _bytes(field)].cast(field[0])


def _bytes(field: Field) -> int:
    code, shape = field
    return math.prod(shape) * struct.calcsize(code)


def _padded(field: Field) -> int:
    return (_bytes(field) + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
