"""The account of one program: takes its samples and adds what they say to the totals in its ledger."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.ledger import Ledger, runs
from supervisor.aggregator.storage import HOST, Storage
from supervisor.aggregator.table_reader import Reader
from supervisor.kernel.arrays import U32Array, U64Array
from supervisor.pipeline.sample import Sample
from workers.declaration import Program

IndexArray = npt.NDArray[np.int32]
_NOWHERE: Final[IndexArray] = np.zeros(0, np.int32)
_ONLY_HOST: Final[U32Array] = np.array([HOST], np.uint32)


class Account:
    """Takes samples in; `latest` is the last one taken, `fresh` whether it came since the last frame.

    taken, lost: samples so far, a former aggregator's included.
    """

    def __init__(self, program: Program, storage: Storage, taken: int = 0, lost: int = 0) -> None:
        self.program = program
        self.ledger = Ledger(storage.ledger_fd, storage.ledger_shape)
        self._reader = Reader(storage.table_fd, storage.table_shape)
        self._shards = storage.shards
        self._columns = slice(program.first_column, program.first_column + len(program.columns))
        self.latest: Sample | None = None
        self.fresh = False
        self.taken = taken
        self.lost = lost
        self._pending: Sample | None = None
        self._devices: dict[int, str] = {}  # whose each row has been last
        self._events = -1, 0  # at which version of the ledger, how many

    @property
    def events(self) -> int:
        """Of the host, so far."""
        version = self.ledger.version
        if self._events[0] != version:
            self._events = version, self.events_of(HOST)
        return self._events[1]

    def events_of(self, entity: int) -> int:
        """Events counted so far at the entity of a program that counts by slot, at all else. A program that
        adds up time counts none, and bytes are no events."""
        if self.program.of_time:
            return 0
        totals, columns = self.ledger.totals, self.program.of_events
        counted = totals[entity, columns] if self.program.kind == "slot" else totals[:, columns]
        return int(counted.sum(dtype=np.uint64))

    @property
    def seen_tick(self) -> int:
        """Tick of the newest sample there is, -1 before the first."""
        newest = self._pending or self._repeated() or self.latest
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
            return self._take_repeated()
        if sample.generation != self.ledger.generation:
            self.ledger.start_generation(sample.generation)
        rows = self._reader.take(sample.sequence, self.ledger.changed)
        if rows is None:
            self.lost += 1
            return False
        self._begin_anew(sample.names)
        self._commit(sample, *self.ready(*rows), groupings)
        self.ledger.hear(sample.sequence)
        self.latest, self.fresh = sample, True
        self.taken += 1
        return True

    def _repeated(self) -> Sample | None:
        """A sample that says the same as the last one taken, if there is one. Its moment is checked: slots
        are given again by it, the worker could write anything, and the ticks of a former one may have had
        another length."""
        if not self.latest:
            return None
        tick, sampled_ns = self._reader.repeated()
        if tick <= self.latest.tick or not self.ledger.sampled_ns <= sampled_ns <= time.monotonic_ns():
            return None
        return self.latest._replace(tick=tick, sampled_ns=sampled_ns)

    def _take_repeated(self) -> bool:
        sample = self._repeated()
        if sample is None:
            return False
        self.ledger.commit_nothing(sample.sequence, sample.sampled_ns)
        self.latest, self.fresh = sample, True
        self.taken += 1
        return True

    def _commit(
        self, sample: Sample, numbers: U32Array, values: U64Array, groupings: Sequence[IndexArray]
    ) -> None:
        if not len(numbers):
            self.ledger.commit_nothing(sample.sequence, sample.sampled_ns)
            return
        deltas = self.ledger.deltas(numbers, values)[:, self._columns]
        entities, added = self.added(numbers, deltas, groupings)
        if self.program.derived:
            added = np.hstack([added, self.program.derived.work_out(added)])
        totals = self.ledger.totals[entities] + added
        self.ledger.commit(sample.sequence, sample.sampled_ns, numbers, values, entities, totals)

    def ready(self, numbers: U32Array, values: U64Array) -> tuple[U32Array, U64Array]:
        """Those rows of a sample that can be counted now; a later sample has the others again."""
        return numbers, values

    def _begin_anew(self, names: Mapping[int, str]) -> None:
        """The row of a device that has gone may be another one's now, which has counted nothing before."""
        for row, name in names.items():
            if self._devices.get(row, name) != name and row < self.program.rows:
                self.ledger.clear(row)
        self._devices.update(names)

    def added(
        self, numbers: U32Array, deltas: U64Array, groupings: Sequence[IndexArray]
    ) -> tuple[U32Array, U64Array]:
        """What the rows add to which entities: numbers, u64 [len(numbers), columns]."""
        if self.program.kind == "device":
            there = numbers < self.program.rows
            return numbers[there], deltas[there]
        host = deltas.sum(axis=0, dtype=np.uint64, keepdims=True)
        if self.program.kind == "host":
            return _ONLY_HOST, host
        slots = numbers // self._shards
        entity = np.concatenate([_NOWHERE, *(entity_of_slot[slots] for entity_of_slot in groupings)])
        # Each row's place among the rows, once for each grouping, in the order of the entities.
        order = np.argsort(entity, kind="stable")
        order = order[np.searchsorted(entity[order], 0) :]
        entity, places = entity[order], order % len(numbers)
        first = runs(entity)
        changed = np.concatenate(([HOST], entity[first])).astype(np.uint32)
        if not len(first):
            return changed, host
        return changed, np.vstack([host, np.add.reduceat(deltas[places], first, axis=0)])
