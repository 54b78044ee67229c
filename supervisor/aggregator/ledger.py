"""The ledger as the aggregator has it, which alone writes to it (supervisor/pipeline/ledger.py).

A commit changes baseline and totals, or neither, whatever instruction the aggregator is killed at:

    1. the new values are written into the journal      killed here: not valid, so nothing happened
    2. the journal is marked valid                      ── the moment of the commit
    3. the values are copied from it, all absolute      killed here: the next aggregator copies them again
    4. the journal is marked empty
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from supervisor.kernel import arrays
from supervisor.kernel.arrays import U32Array, U64Array
from supervisor.pipeline.ledger import GENERATION, HEAD_WORDS, HEARD, SAMPLED_NS, SEQUENCE, Shape

_STATE, _COUNT, _ENTITIES = 0, 1, 2
_EMPTY: Final = 0
_VALID: Final = 1

T = TypeVar("T")


def settled(
    at: Mapping[str, npt.NDArray[Any]], read: Callable[[Mapping[str, npt.NDArray[Any]]], T], tries: int
) -> T:
    """What `read` makes of a ledger that another process writes to, `at` being its fields: of no commit's
    middle, as far as it is found at rest in so many tries."""
    while True:
        sequence, resting = int(at["head"][SEQUENCE]), int(at["journal"][_STATE]) == _EMPTY
        found = read(at)
        tries -= 1
        if tries <= 0 or (resting and int(at["head"][SEQUENCE]) == sequence):
            return found


def runs(sorted_values: npt.NDArray[Any]) -> npt.NDArray[np.int_]:
    """Where in a sorted array each new value begins. (np.diff does the same by ten calls of Python.)"""
    begins = np.ones(len(sorted_values), np.bool_)
    np.not_equal(sorted_values[1:], sorted_values[:-1], out=begins[1:])
    return begins.nonzero()[0]


class Ledger:
    """version: another one whenever totals may have changed."""

    def __init__(self, fd: int, shape: Shape) -> None:
        self._words = shape.words
        self.version = 0
        self._at: dict[str, npt.NDArray[Any]] = arrays.views(fd, shape.fields(), writable=True)
        self._at["head"][HEARD] = 0
        if int(self._at["journal"][_STATE]) == _VALID:
            self._apply()

    @property
    def generation(self) -> int:
        return int(self._at["head"][GENERATION])

    @property
    def sequence(self) -> int:
        return int(self._at["head"][SEQUENCE])

    @property
    def sampled_ns(self) -> int:
        return int(self._at["head"][SAMPLED_NS])

    @property
    def totals(self) -> U64Array:
        """u64 [entities, totals]"""
        return self._at["totals"]

    def baseline(self, row: int) -> U64Array:
        """What was last taken of a row: u64 [words]."""
        taken: U64Array = self._at["baseline"][row]
        return taken

    @property
    def baselines(self) -> U64Array:
        """What was last taken of all rows: u64 [rows, words]."""
        return self._at["baseline"]

    @property
    def announced(self) -> npt.NDArray[np.uint8]:
        """Which entities have stood in a frame; the caller writes it. Entity 0 is the host,
        but for a program of devices: it says that the program has stood in one."""
        return self._at["announced"]

    def start_generation(self, generation: int) -> None:
        """The kernel's counters were made anew and start at 0; the totals stay."""
        if self.generation:  # else nothing has been taken yet, and what is not touched takes no memory
            self._at["baseline"][:] = 0
        self._at["head"][GENERATION] = generation

    def changed(self, numbers: U32Array, blocks: U64Array) -> tuple[U32Array, U64Array]:
        """Numbers and values, u64 [rows, words], of those rows of a table's blocks that are not what was last
        taken of them; copied from memory that may change meanwhile."""
        if not len(numbers):
            return numbers, blocks.reshape(-1, self._words)
        rows_in_block = blocks.shape[1] // self._words
        baseline = self._at["baseline"].reshape(-1, blocks.shape[1])
        # Most often nearly all blocks have changed, or few.
        first, last = int(numbers[0]), int(numbers[-1])
        taken = baseline[first : last + 1] if last - first + 1 == len(numbers) else baseline[numbers]
        places = np.flatnonzero(blocks != taken) // self._words
        places = places[runs(places)]
        rows = numbers[places // rows_in_block] * rows_in_block + places % rows_in_block
        return rows.astype(np.uint32), blocks.reshape(-1, self._words)[places]

    def deltas(self, numbers: U32Array, values: U64Array) -> U64Array:
        """What was counted in these rows since they were last taken."""
        baseline: U64Array = self._at["baseline"]
        return values - baseline[numbers]

    def clear(self, entity: int) -> None:
        """Makes an entity's place ready for another one. Nothing may be added to it at the time."""
        self.version += 1
        self._at["announced"][entity] = 0
        self._at["totals"][entity] = 0

    def commit(
        self,
        sequence: int,
        sampled_ns: int,
        numbers: U32Array,
        values: U64Array,
        entities: U32Array,
        totals: U64Array,
    ) -> None:
        """Takes rows with their values, and the new totals, u64 [len(entities), totals]."""
        self.version += 1
        count = len(numbers)
        self._at["journal_head"][:] = (self.generation, sequence, sampled_ns)
        self._at["journal_numbers"][:count] = numbers
        self._at["journal_values"][:count] = values
        self._at["journal_entities"][: len(entities)] = entities
        self._at["journal_totals"][: len(entities)] = totals
        self._at["journal"][_COUNT] = count
        self._at["journal"][_ENTITIES] = len(entities)
        self._at["journal"][_STATE] = _VALID
        self._apply()

    def hear(self, sequence: int) -> None:
        """Tells the worker that it need not say the same again."""
        self._at["head"][HEARD] = sequence

    def commit_nothing(self, sequence: int, sampled_ns: int) -> None:
        """Takes a sample in which no row is another than it was. Killed between the two, the next aggregator
        takes it once more."""
        self._at["head"][SAMPLED_NS] = sampled_ns
        self._at["head"][SEQUENCE] = sequence

    def _apply(self) -> None:
        count = int(self._at["journal"][_COUNT])
        numbers = self._at["journal_numbers"][:count]
        self._at["baseline"][numbers] = self._at["journal_values"][:count]
        changed = int(self._at["journal"][_ENTITIES])
        entities = self._at["journal_entities"][:changed]
        self._at["totals"][entities] = self._at["journal_totals"][:changed]
        self._at["head"][:HEAD_WORDS] = self._at["journal_head"]
        self._at["journal"][_STATE] = _EMPTY
