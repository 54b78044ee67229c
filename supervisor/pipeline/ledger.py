"""The ledger: what was taken of a program's counters, and what it adds up to.

It is memory that the supervisor owns, so it outlives the aggregator. For each row it has the value last
taken (the baseline), for each entity (host, app group, device) the total. The aggregator commits both at once
(supervisor/aggregator/ledger.py); a worker reads the baseline to tell what has changed.
"""

from typing import Final, NamedTuple

from supervisor import linux
from supervisor.pipeline import memory

# Words of the head, and of the journal's head behind its state and count.
GENERATION: Final = 0  # which making of the kernel objects the baseline belongs to
SEQUENCE: Final = 1  # last sample taken
SAMPLED_NS: Final = 2  # when that was read from the kernel
HEAD_WORDS: Final = 3
# Not in the journal's head: the last sample that the aggregator which runs now has taken, 0 = none.
HEARD: Final = 3
_WORD_BYTES: Final = 8


class Shape(NamedTuple):
    """rows, words: of the kernel's table, with the words of a row that count nothing; entities: how many rows
    of totals there are; totals: how many each of them has."""

    rows: int
    words: int
    entities: int
    totals: int

    def layout(self, block_bytes: int) -> "Layout":
        """For the worker whose blocks are so large."""
        at = dict(zip(self.fields(), memory.offsets(self.fields()), strict=True))
        rows_bytes = self.rows * self.words * _WORD_BYTES
        return Layout(memory.size_of(self.fields()), at["head"], at["baseline"], rows_bytes, block_bytes)

    def fields(self) -> dict[str, memory.Field]:
        return {
            "head": ("Q", (8,)),
            "journal": ("Q", (8,)),
            "journal_head": ("Q", (HEAD_WORDS,)),
            "announced": ("B", (self.entities,)),
            "totals": ("Q", (self.entities, self.totals)),
            "journal_entities": ("I", (self.entities,)),
            "journal_totals": ("Q", (self.entities, self.totals)),
            "baseline": ("Q", (self.rows, self.words)),
            "journal_numbers": ("I", (self.rows,)),
            "journal_values": ("Q", (self.rows, self.words)),
        }


class Layout(NamedTuple):
    """What a worker needs to know. head, baseline: where they are. rows_bytes: of all rows."""

    size_bytes: int
    head: int
    baseline: int
    rows_bytes: int
    block_bytes: int


def create(program: str, shape: Shape) -> int:
    return memory.create(f"ledger:{program}", memory.size_of(shape.fields()))


class Baseline:
    """The worker's view: what the aggregator has taken already.

    What the worker does not compare is never touched, because memory that nobody has touched takes none.
    """

    def __init__(self, fd: int, layout: Layout) -> None:
        size_bytes, head, baseline, _, self._block_bytes = layout
        self._memory = linux.SharedMemory(fd, size_bytes, writable=False)
        self._head = self._memory.bytes()[head : head + (HEARD + 1) * _WORD_BYTES].cast("Q")
        self._address = self._memory.address + baseline

    @property
    def heard(self) -> int:
        """Number of the last sample that the aggregator has taken, 0 for a new aggregator."""
        return int(self._head[HEARD])

    def changed(self, generation: int, address: int, size_bytes: int) -> list[int]:
        """Numbers of the blocks whose rows are not those last taken; address, size_bytes: of the live rows,
        all of them or the first. Of kernel objects made anew everything is."""
        size, live, taken = self._block_bytes, address, self._address
        blocks = range(-(-size_bytes // size))
        if self._head[GENERATION] != generation:
            return list(blocks)
        if not linux.differ(live, taken, size_bytes):
            return []
        differ = linux.differ
        *whole, last = blocks
        changed = [n for n in whole if differ(live + n * size, taken + n * size, size)]
        if differ(live + last * size, taken + last * size, size_bytes - last * size):
            changed.append(last)
        return changed
