"""The shared table: where a worker puts the rows that changed, and the aggregator takes them from.

    head:  published sequence number · moment of it
    half:  number of the sample it holds, 0 while it is written · row count · row numbers · values

A sample is written into half `sequence % 2` and then announced by a message. No lock: the reader copies
and looks at the half's number before and after; a worker that has overrun the reader is seen by that, and
its next sample says the same and more.
"""

import os
import struct
import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from supervisor.kernel.maps import U64Array
from supervisor.pipeline import memory

U32Array = npt.NDArray[np.uint32]

_HEAD: Final = struct.Struct("<QQ")
_SEQUENCE, _PUBLISHED_NS = 0, 1
_HOLDS, _COUNT = 0, 1


class Shape(NamedTuple):
    """rows and columns of a program's table."""

    rows: int
    columns: int

    def fields(self) -> dict[str, memory.Field]:
        half: dict[str, memory.Field] = {}
        for number in (0, 1):
            half[f"half{number}"] = (np.uint64, (8,))
            half[f"numbers{number}"] = (np.uint32, (self.rows,))
            half[f"values{number}"] = (np.uint64, (self.rows, self.columns))
        return {"head": (np.uint64, (8,)), **half}


@dataclass(frozen=True)
class Heartbeat:
    """What the supervisor sees of a worker: number and moment (monotonic) of its last sample."""

    sequence: int
    published_ns: int


def create(program: str, shape: Shape) -> int:
    return memory.create(f"table:{program}", memory.size_of(shape.fields()))


def heartbeat(fd: int) -> Heartbeat:
    """Reads the head without mapping the memory."""
    return Heartbeat(*_HEAD.unpack(os.pread(fd, _HEAD.size, 0)))


class Writer:
    """The worker's side."""

    def __init__(self, fd: int, shape: Shape) -> None:
        self._at: dict[str, npt.NDArray[Any]] = memory.views(fd, shape.fields(), writable=True)

    @property
    def sequence(self) -> int:
        """Number of the last sample, this worker's or its predecessor's."""
        return int(self._at["head"][_SEQUENCE])

    def write(self, sequence: int, numbers: U32Array, values: U64Array) -> None:
        half, count = sequence % 2, len(numbers)
        self._at[f"half{half}"][_HOLDS] = 0
        self._at[f"numbers{half}"][:count] = numbers
        self._at[f"values{half}"][:count] = values
        self._at[f"half{half}"][_COUNT] = count
        self._at[f"half{half}"][_HOLDS] = sequence
        self._at["head"][_PUBLISHED_NS] = time.monotonic_ns()
        self._at["head"][_SEQUENCE] = sequence


class Reader:
    """The aggregator's side."""

    def __init__(self, fd: int, shape: Shape) -> None:
        self._shape = shape
        self._at: dict[str, npt.NDArray[Any]] = memory.views(fd, shape.fields(), writable=False)

    def take(self, sequence: int) -> tuple[U32Array, U64Array] | None:
        """Row numbers and values of that sample, None when the half holds another one by now, or what
        it holds cannot be."""
        half = sequence % 2
        head = self._at[f"half{half}"]
        if int(head[_HOLDS]) != sequence:
            return None
        count = int(head[_COUNT])
        if count > self._shape.rows:
            return None
        numbers = self._at[f"numbers{half}"][:count].copy()
        values = self._at[f"values{half}"][:count].copy()
        if int(head[_HOLDS]) != sequence or (count and int(numbers.max()) >= self._shape.rows):
            return None
        return numbers, values
