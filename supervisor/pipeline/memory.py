"""Shared memory without a name: a memfd, sealed at its size, that children inherit."""

import fcntl
import math
import mmap
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor import linux

# A child that could cut the file short would kill every other one that has mapped it (SIGBUS).
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ALIGNMENT: Final = 64

Field = tuple[Any, tuple[int, ...]]  # element type, shape


def create(name: str, size_bytes: int) -> int:
    """A descriptor of new zeroed memory; pages that nobody touches take no memory (memfd_create(2))."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def size_of(fields: Mapping[str, Field]) -> int:
    """Bytes that `fields` take, laid out one after the other at 64-byte boundaries."""
    return max(mmap.PAGESIZE, sum(_padded(field) for field in fields.values()))


def views(fd: int, fields: Mapping[str, Field], *, writable: bool) -> dict[str, npt.NDArray[Any]]:
    """The fields as arrays over the memory."""
    memory = np.asarray(linux.SharedMemory(fd, size_of(fields), writable=writable))
    found, offset = {}, 0
    for name, field in fields.items():
        kind, shape = field
        found[name] = np.ndarray(shape, kind, memory, offset)
        offset += _padded(field)
    return found


def _bytes(field: Field) -> int:
    kind, shape = field
    return math.prod(shape) * np.dtype(kind).itemsize


def _padded(field: Field) -> int:
    return (_bytes(field) + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
