"""The shared table: where a worker puts what changed, and the aggregator takes it from
(supervisor/aggregator/table_reader.py).

    head:  sequence number of the last sample that was written · moment of the last one at all · tick and
           moment of the last one that said the same as the one before
    half:  number of the sample it holds, 0 while it is written · block count · block numbers · blocks

What has changed is told by blocks of some rows. A sample is written into half `sequence % 2` and then
announced by a message. No lock: the reader copies and looks at the half's number before and after; a worker
that has overrun the reader is seen by that, and its next sample says the same and more.

A sample that says what the reader knows already is neither written nor announced: the head tells of it.
"""

import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from supervisor import linux
from supervisor.pipeline import memory

_HEAD: Final = struct.Struct("<QQ")
_SEQUENCE, _PUBLISHED_NS = 0, 1
REPEATED_TICK, REPEATED_NS = 2, 3
_HEAD_WORDS: Final = 4
HOLDS, COUNT = 0, 1
_WORD_BYTES: Final = 8
_NUMBER_BYTES: Final = 4
# Smaller blocks would save copying, and take more looks. A map's page has 256 rows.
_BLOCK_BYTES: Final = 16384
_MOST_ROWS: Final = 256
# So much the C library copies by vectors, whose words are read whole: a counter that is being added to is
# copied as it was before or after.
_PIECE_BYTES: Final = 2048


class Shape(NamedTuple):
    """blocks: how many. words: u64 of one."""

    blocks: int
    words: int

    @property
    def block_bytes(self) -> int:
        return self.words * _WORD_BYTES

    def layout(self) -> "Layout":
        """For the worker."""
        at = dict(zip(self.fields(), memory.offsets(self.fields()), strict=True))
        halves = tuple((at[f"half{n}"], at[f"numbers{n}"], at[f"values{n}"]) for n in (0, 1))
        return Layout(memory.size_of(self.fields()), self.blocks, self.block_bytes, at["head"], halves)

    def fields(self) -> dict[str, memory.Field]:
        half: dict[str, memory.Field] = {}
        for number in (0, 1):
            half[f"half{number}"] = ("Q", (8,))
            half[f"numbers{number}"] = ("I", (self.blocks,))
            half[f"values{number}"] = ("Q", (self.blocks, self.words))
        return {"head": ("Q", (8,)), **half}


class Layout(NamedTuple):
    """Where all of it is, worked out: a worker would have the pages for that for itself.

    halves: where each has its own head, the numbers and the values.
    """

    size_bytes: int
    blocks: int
    block_bytes: int
    head: int
    halves: tuple[tuple[int, int, int], ...]


def shape_for(rows: int, row_words: int) -> Shape:
    """Blocks are as many rows as fit, a power of two."""
    fit = max(1, _BLOCK_BYTES // (row_words * _WORD_BYTES))
    in_block = min(_MOST_ROWS, 1 << fit.bit_length() - 1)
    return Shape(-(-rows // in_block), in_block * row_words)


@dataclass(frozen=True)
class Heartbeat:
    """What the supervisor sees of a worker: number of the last sample that it wrote, and moment (monotonic)
    of the last one at all."""

    sequence: int
    published_ns: int


def create(program: str, shape: Shape) -> int:
    return memory.create(f"table:{program}", memory.size_of(shape.fields()))


def heartbeat(fd: int) -> Heartbeat:
    """Reads the head without mapping the memory."""
    return Heartbeat(*_HEAD.unpack(os.pread(fd, _HEAD.size, 0)))


class Writer:
    """The worker's side."""

    def __init__(self, fd: int, layout: Layout) -> None:
        size_bytes, blocks, self._block_bytes, head, halves = layout
        self._memory = linux.SharedMemory(fd, size_bytes, writable=True)
        everything = self._memory.bytes()
        self._head = everything[head : head + _HEAD_WORDS * _WORD_BYTES].cast("Q")
        self._halves = [
            (
                everything[half : half + _HEAD.size].cast("Q"),
                everything[numbers : numbers + blocks * _NUMBER_BYTES].cast("I"),
                everything[values : values + blocks * self._block_bytes],
            )
            for half, numbers, values in halves
        ]

    @property
    def sequence(self) -> int:
        """Number of the last sample, this worker's or its predecessor's."""
        return int(self._head[_SEQUENCE])

    def repeat(self, tick: int, sampled_ns: int) -> None:
        """A sample that says the same as the last one written. A reader may see the tick of one such and the
        moment of the next: that is true as well."""
        self._head[REPEATED_NS] = sampled_ns
        self._head[REPEATED_TICK] = tick
        self._head[_PUBLISHED_NS] = time.monotonic_ns()

    def write(self, sequence: int, numbers: Sequence[int], live: memoryview) -> None:
        """live: the bytes of all blocks; the last one may be shorter than the others."""
        half, listed, values = self._halves[sequence % 2]
        size = self._block_bytes
        half[HOLDS] = 0
        for place, number in enumerate(numbers):
            listed[place] = number
            source, moved = number * size, (place - number) * size
            end = min(source + size, len(live))
            for begin in range(source, end, _PIECE_BYTES):
                piece_end = min(begin + _PIECE_BYTES, end)
                values[begin + moved : piece_end + moved] = live[begin:piece_end]
        half[COUNT] = len(numbers)
        half[HOLDS] = sequence
        self._head[_PUBLISHED_NS] = time.monotonic_ns()
        self._head[_SEQUENCE] = sequence
