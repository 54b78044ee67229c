"""The ledger: what was taken of a program's counters, and what it adds up to.

It is memory that the supervisor owns, so it outlives the aggregator. For each row it has the value last
taken (the baseline), for each entity (host, app group, device) the total. A commit changes both, or
neither, whatever instruction the aggregator is killed at:

    1. the new values are written into the journal      killed here: not valid, so nothing happened
    2. the journal is marked valid                      ── the moment of the commit
    3. the values are copied from it, all absolute      killed here: the next aggregator copies them again
    4. the journal is marked empty
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from supervisor.kernel.maps import U64Array
from supervisor.pipeline import memory
from supervisor.pipeline.table import U32Array

# Words of the head, and of the journal's head behind its state and count.
GENERATION: Final = 0  # which making of the kernel objects the baseline belongs to
SEQUENCE: Final = 1  # last sample taken
SAMPLED_NS: Final = 2  # when that was read from the kernel
_HEAD_WORDS: Final = 3
_STATE, _COUNT, _ENTITIES = 0, 1, 2
_EMPTY, _VALID = 0, 1
# A worker looks at no fewer rows than these.
_FEWEST_ROWS: Final = 1024


class Shape(NamedTuple):
    """rows and columns as in the table; entities: how many rows of totals there are; derived: how many totals
    each of them has behind those of the columns."""

    rows: int
    columns: int
    entities: int
    derived: int = 0

    def fields(self) -> dict[str, memory.Field]:
        return {
            "head": (np.uint64, (8,)),
            "journal": (np.uint64, (8,)),
            "journal_head": (np.uint64, (_HEAD_WORDS,)),
            "announced": (np.uint8, (self.entities,)),
            "totals": (np.uint64, (self.entities, self.columns + self.derived)),
            "journal_entities": (np.uint32, (self.entities,)),
            "journal_totals": (np.uint64, (self.entities, self.columns + self.derived)),
            "baseline": (np.uint64, (self.rows, self.columns)),
            "journal_numbers": (np.uint32, (self.rows,)),
            "journal_values": (np.uint64, (self.rows, self.columns)),
        }


def create(program: str, shape: Shape) -> int:
    return memory.create(f"ledger:{program}", memory.size_of(shape.fields()))


class Baseline:
    """The worker's view: what the aggregator has taken already.

    used: so many rows have ever held anything. The rest of the baseline is never touched, because memory
    that nobody has touched takes none.
    """

    def __init__(self, fd: int, shape: Shape) -> None:
        at = memory.views(fd, shape.fields(), writable=False)
        self._head: U64Array = at["head"]
        self._baseline: U64Array = at["baseline"]

    def changed(self, generation: int, live: U64Array) -> U32Array:
        """Numbers of the rows whose values are not those last taken; live: all rows or the first of them.
        Column by column, because a comparison of whole rows costs three times as much."""
        known = int(self._head[GENERATION]) == generation
        differs = np.zeros(len(live), np.bool_)
        for column in range(live.shape[1]):
            differs |= live[:, column] != (self._baseline[: len(live), column] if known else 0)
        # Not np.flatnonzero: what it goes through in Python, each worker would have for itself.
        return differs.nonzero()[0].astype(np.uint32)


class Ledger:
    """The aggregator's view: it alone writes."""

    def __init__(self, fd: int, shape: Shape) -> None:
        self._at: dict[str, npt.NDArray[Any]] = memory.views(fd, shape.fields(), writable=True)
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
        """u64 [entities, columns + derived]"""
        return self._at["totals"]

    def baseline(self, row: int) -> U64Array:
        """What was last taken of a row: u64 [columns]."""
        taken: U64Array = self._at["baseline"][row]
        return taken

    @property
    def baselines(self) -> U64Array:
        """What was last taken of all rows: u64 [rows, columns]."""
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

    def deltas(self, numbers: U32Array, values: U64Array) -> U64Array:
        """What was counted in these rows since they were last taken."""
        baseline: U64Array = self._at["baseline"]
        return values - baseline[numbers]

    def clear(self, entity: int) -> None:
        """Makes an entity's place ready for another one. Nothing may be added to it at the time."""
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
        """Takes rows with their values, and the new totals, u64 [len(entities), columns + derived]."""
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

    def _apply(self) -> None:
        count = int(self._at["journal"][_COUNT])
        numbers = self._at["journal_numbers"][:count]
        self._at["baseline"][numbers] = self._at["journal_values"][:count]
        changed = int(self._at["journal"][_ENTITIES])
        entities = self._at["journal_entities"][:changed]
        self._at["totals"][entities] = self._at["journal_totals"][:changed]
        self._at["head"][:_HEAD_WORDS] = self._at["journal_head"]
        self._at["journal"][_STATE] = _EMPTY
