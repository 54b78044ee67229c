"""The account of one program: takes its samples and adds what they say to the totals in its ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from supervisor.kernel.maps import U64Array
from supervisor.pipeline import ledger, table
from supervisor.pipeline.sample import Sample
from workers.declaration import Program

# The entity that stands for all of a slot program's rows; app group g is entity g + 1, the cgroups follow.
HOST: Final = 0

# How many cgroups a program's totals are kept for at a time; Netdata's cgroups.plugin follows as many.
MAX_CGROUPS: Final = 1000

IndexArray = npt.NDArray[np.int32]
_NOWHERE: Final[IndexArray] = np.zeros(0, np.int32)


def entities(program: Program, groups: int, cgroups: int) -> int:
    """How many rows of totals the program has: one for the host, each app group and each cgroup, or one for
    each of its own rows."""
    return 1 + groups + cgroups if program.kind == "slot" else program.rows


@dataclass(frozen=True)
class Storage:
    """The shared memory of one program, as descriptors and shapes."""

    table_fd: int
    table_shape: table.Shape
    ledger_fd: int
    ledger_shape: ledger.Shape


class Account:
    """Takes samples in; `latest` is the last one taken, `fresh` whether it came since the last frame.

    taken, lost: samples so far, a former aggregator's included.
    """

    def __init__(self, program: Program, storage: Storage, taken: int = 0, lost: int = 0) -> None:
        self.program = program
        self.ledger = ledger.Ledger(storage.ledger_fd, storage.ledger_shape)
        self._reader = table.Reader(storage.table_fd, storage.table_shape)
        self.latest: Sample | None = None
        self.fresh = False
        self.taken = taken
        self.lost = lost
        self._pending: Sample | None = None
        self._devices: dict[int, str] = {}  # whose each row has been last

    @property
    def seen_tick(self) -> int:
        """Tick of the newest sample announced, -1 before the first."""
        newest = self._pending or self.latest
        return newest.tick if newest else -1

    def announce(self, sample: Sample) -> None:
        """Notes a sample; a newer one replaces it before it was taken."""
        if sample.generation < self.ledger.generation or sample.sequence <= self.ledger.sequence:
            return
        if self._pending is None or sample.sequence > self._pending.sequence:
            self._pending = sample

    def must_take_before(self, sample: Sample) -> bool:
        """Whether one is pending whose counts no later sample repeats: it belongs to kernel objects that
        have been let go since."""
        return self._pending is not None and self._pending.generation != sample.generation

    def take(self, groupings: Sequence[IndexArray]) -> bool:
        """Commits the sample that was announced; False when there is none, or its rows have been
        overwritten by a newer one that will be announced next.

        groupings: each says for every slot in which entity it is counted besides the host's, -1 = in none.
        """
        sample, self._pending = self._pending, None
        if sample is None:
            return False
        rows = self._reader.take(sample.sequence)
        if rows is None:
            self.lost += 1
            return False
        numbers, values = self.ready(*rows)
        if sample.generation != self.ledger.generation:
            self.ledger.start_generation(sample.generation)
        self._begin_anew(sample.names)
        entities, added = self.added(numbers, self.ledger.deltas(numbers, values), groupings)
        if self.program.derived:
            added = np.hstack([added, self.program.derived.work_out(added)])
        totals = self.ledger.totals[entities] + added
        self.ledger.commit(sample.sequence, sample.sampled_ns, numbers, values, entities, totals)
        self.latest, self.fresh = sample, True
        self.taken += 1
        return True

    def ready(self, numbers: table.U32Array, values: U64Array) -> tuple[table.U32Array, U64Array]:
        """Those rows of a sample that can be counted now; a later sample has the others again."""
        return numbers, values

    def _begin_anew(self, names: Mapping[int, str]) -> None:
        """The row of a device that has gone may be another one's now, which has counted nothing before."""
        for row, name in names.items():
            if self._devices.get(row, name) != name and row < self.program.rows:
                self.ledger.clear(row)
        self._devices.update(names)

    def added(
        self, numbers: table.U32Array, deltas: U64Array, groupings: Sequence[IndexArray]
    ) -> tuple[table.U32Array, U64Array]:
        """What the rows add to which entities: numbers, u64 [len(numbers), columns]."""
        if self.program.kind != "slot" or not len(numbers):
            return numbers, deltas
        entity = np.concatenate([_NOWHERE, *(entity_of_slot[numbers] for entity_of_slot in groupings)])
        # Each row's place among the rows, once for each grouping, in the order of the entities.
        order = np.argsort(entity, kind="stable")
        order = order[np.searchsorted(entity[order], 0) :]
        entity, places = entity[order], order % len(numbers)
        first = np.flatnonzero(np.diff(entity, prepend=-1))
        changed = np.concatenate(([HOST], entity[first])).astype(np.uint32)
        host = deltas.sum(axis=0, dtype=np.uint64, keepdims=True)
        if not len(first):
            return changed, host
        return changed, np.vstack([host, np.add.reduceat(deltas[places], first, axis=0)])
