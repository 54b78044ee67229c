"""The ledger under a knife: the aggregator is killed at, before, after and within every write to the shared
memory, and the totals are always those of a life without a kill."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from supervisor.aggregator.account import Account
from supervisor.aggregator.ledger import Ledger
from supervisor.aggregator.storage import Storage
from supervisor.kernel import arrays
from supervisor.kernel.arrays import U64Array
from supervisor.pipeline import ledger, table
from supervisor.pipeline.sample import Sample
from workers.declaration import Column, Program

PROGRAM = Program("p", "", (), (Column("a", "h"), Column("b", "h")))
ROWS, COLUMNS, GROUPS = 8, 2, 3
TABLE = table.Shape(ROWS, COLUMNS)  # blocks of one row
LEDGER = ledger.Shape(ROWS, COLUMNS, 1 + GROUPS, COLUMNS)
GROUP_OF_SLOT = np.array([-1, 0, 0, 1, 1, 2, 2, -1], np.int32)
ENTITY_OF_SLOT = np.where(GROUP_OF_SLOT < 0, -1, GROUP_OF_SLOT + 1).astype(np.int32)
MOMENTS = ("before", "within", "after")


class Killed(BaseException):
    """What SIGKILL would do: nothing catches it."""


class Knife:
    """Kills at the write of this number to memory of the ledger's; 0 = never."""

    def __init__(self) -> None:
        self.at, self.moment, self.writes = 0, MOMENTS[0], 0

    def set(self, at: int, moment: str = MOMENTS[0]) -> None:
        self.at, self.moment, self.writes = at, moment, 0


class Array(np.ndarray[Any, np.dtype[Any]]):
    """Shared memory that is written to under the knife; copies and parts of it are not."""

    knife: Knife | None = None

    def __setitem__(self, key: Any, value: Any) -> None:
        knife = self.knife
        if knife is None:
            super().__setitem__(key, value)
            return
        knife.writes += 1
        if knife.writes != knife.at:
            super().__setitem__(key, value)
            return
        if knife.moment != "before":
            self._write_part(key, value, whole=knife.moment == "after")
        raise Killed

    def _write_part(self, key: Any, value: Any, *, whole: bool) -> None:
        plain = self.view(np.ndarray)
        old = plain.copy()
        plain[key] = value
        changed = np.flatnonzero(plain.reshape(-1) != old.reshape(-1))
        late = changed[len(changed) // 2 :] if not whole else changed[:0]
        plain.reshape(-1)[late] = old.reshape(-1)[late]


@pytest.fixture
def knife(monkeypatch: pytest.MonkeyPatch) -> Knife:
    made = Knife()
    views = arrays.views

    def under_the_knife(fd: int, fields: Any, *, writable: bool) -> dict[str, Any]:
        arrays = views(fd, fields, writable=writable)
        if not writable or "journal" not in fields:
            return arrays
        found = {name: array.view(Array) for name, array in arrays.items()}
        for array in found.values():
            array.knife = made
        return found

    monkeypatch.setattr(arrays, "views", under_the_knife)
    return made


class House:
    """A worker with its counters, the memory that the supervisor owns, and one aggregator after another."""

    def __init__(self, knife: Knife) -> None:
        self.knife = knife
        self.storage = Storage(table.create("t", TABLE), TABLE, ledger.create("l", LEDGER), LEDGER)
        self.worker = table.Writer(self.storage.table_fd, TABLE.layout())
        self.baseline = ledger.Baseline(self.storage.ledger_fd, LEDGER.layout(TABLE.block_bytes))
        self.live: U64Array = np.zeros((ROWS, COLUMNS), np.uint64)
        self.counted: U64Array = np.zeros((ROWS, COLUMNS), np.uint64)
        self.generation = 1
        self.account = Account(PROGRAM, self.storage)

    def count(self, row: int, a: int, b: int) -> None:
        amounts = np.array([a, b], np.uint64)
        self.live[row] += amounts
        self.counted[row] += amounts

    def load_again(self) -> None:
        """The kernel objects are made anew and count from 0."""
        self.generation += 1
        self.live[:] = 0

    def sample(self) -> Sample:
        """The worker's tick."""
        numbers = self.baseline.changed(self.generation, self.live.ctypes.data, self.live.nbytes)
        sequence = self.worker.sequence + 1
        self.worker.write(sequence, numbers, self.live.data.cast("B"))
        return Sample(
            PROGRAM.name, self.generation, sequence, sequence, sequence, len(numbers), (0, 1), {}, {}, 0
        )

    def take(self, sample: Sample) -> bool:
        self.account.announce(sample)
        return self.account.take([ENTITY_OF_SLOT])

    def another_aggregator(self) -> None:
        self.account = Account(PROGRAM, self.storage)

    def expected(self) -> list[list[int]]:
        """Totals of the host and of each group, without any machinery."""
        parts = [self.counted, *(self.counted[group == GROUP_OF_SLOT] for group in range(GROUPS))]
        return [part.sum(axis=0).tolist() for part in parts]

    def totals(self) -> list[list[int]]:
        found: list[list[int]] = self.account.ledger.totals.tolist()
        return found

    def close(self) -> None:
        os.close(self.storage.table_fd)
        os.close(self.storage.ledger_fd)


@pytest.fixture
def make(knife: Knife) -> Iterator[Callable[[], House]]:
    houses: list[House] = []

    def one() -> House:
        """With a history, and counts that have not been taken yet."""
        knife.set(0)
        house = House(knife)
        houses.append(house)
        for row in range(ROWS):
            house.count(row, 10 + row, 100 * row)
        assert house.take(house.sample())
        for row in (0, 2, 3, 6):
            house.count(row, 1, row)
        return house

    yield one
    for house in houses:
        house.close()


def writes_of(house: House) -> int:
    """How many writes to shared memory one commit makes."""
    house.knife.set(0)
    assert house.take(house.sample())
    return house.knife.writes


def kills(make: Callable[[], House], renewed: bool = False) -> list[tuple[int, str]]:
    house = make()
    if renewed:
        house.load_again()
        house.count(2, 5, 5)
    count = writes_of(house)
    assert count >= 8
    return [(at, moment) for at in range(1, count + 1) for moment in MOMENTS]


def test_an_undisturbed_ledger_adds_up(make: Callable[[], House]) -> None:
    house = make()
    for _ in range(5):
        house.count(3, 7, 1)
        assert house.take(house.sample())
        assert house.totals() == house.expected()


def test_killed_anywhere_the_same_sample_again_makes_the_totals_right(make: Callable[[], House]) -> None:
    for at, moment in kills(make):
        house = make()
        sample = house.sample()
        house.knife.set(at, moment)
        with pytest.raises(Killed):
            house.take(sample)
        house.knife.set(0)
        house.another_aggregator()
        house.take(sample)
        assert house.totals() == house.expected(), f"killed {moment} write {at}"
        assert house.account.ledger.sequence == sample.sequence


def test_killed_anywhere_a_newer_sample_makes_the_totals_right(make: Callable[[], House]) -> None:
    for at, moment in kills(make):
        house = make()
        sample = house.sample()
        house.knife.set(at, moment)
        with pytest.raises(Killed):
            house.take(sample)
        house.knife.set(0)
        house.another_aggregator()
        house.count(0, 1, 1)
        house.count(2, 1, 1)
        assert house.take(house.sample())
        assert house.totals() == house.expected(), f"killed {moment} write {at}"


def test_a_sample_that_was_written_before_the_kill_and_came_after_it_is_right_too(
    make: Callable[[], House],
) -> None:
    """The worker chose its rows by the baseline of before; the aggregator's successor has another one."""
    for at, moment in kills(make):
        house = make()
        first = house.sample()
        house.count(3, 4, 4)
        second = house.sample()
        house.knife.set(at, moment)
        with pytest.raises(Killed):
            house.take(first)
        house.knife.set(0)
        house.another_aggregator()
        assert house.take(second)
        assert house.totals() == house.expected(), f"killed {moment} write {at}"


def test_killed_again_while_it_recovers_it_still_adds_up(make: Callable[[], House]) -> None:
    for at, moment in kills(make):
        for again in range(1, 6):
            house = make()
            sample = house.sample()
            house.knife.set(at, moment)
            with pytest.raises(Killed):
                house.take(sample)
            house.knife.set(again, "within")
            try:
                house.another_aggregator()
            except Killed:
                house.knife.set(0)
                house.another_aggregator()
            house.knife.set(0)
            house.take(sample)
            assert house.totals() == house.expected(), f"killed {moment} write {at}, then {again}"


def test_killed_anywhere_as_the_kernel_counts_anew_the_totals_go_on(make: Callable[[], House]) -> None:
    for at, moment in kills(make, renewed=True):
        house = make()
        assert house.take(house.sample())
        house.load_again()
        house.count(2, 5, 5)
        house.count(3, 1, 200)
        sample = house.sample()
        house.knife.set(at, moment)
        with pytest.raises(Killed):
            house.take(sample)
        house.knife.set(0)
        house.another_aggregator()
        house.take(sample)
        assert house.totals() == house.expected(), f"killed {moment} write {at}"
        house.count(2, 1, 1)
        assert house.take(house.sample())
        assert house.totals() == house.expected(), f"killed {moment} write {at}"


def test_totals_stay_when_the_kernel_counts_anew(make: Callable[[], House]) -> None:
    house = make()
    assert house.take(house.sample())
    house.load_again()
    for row in range(ROWS):
        house.count(row, 1, 0)  # less than what was there: a difference would be below 0
    assert house.take(house.sample())
    assert house.totals() == house.expected()
    assert house.account.ledger.generation == 2


def test_a_late_sample_of_an_earlier_making_counts_nothing(make: Callable[[], House]) -> None:
    house = make()
    late = house.sample()
    house.counted[[0, 2, 3, 6]] -= np.array([[1, 0], [1, 2], [1, 3], [1, 6]], np.uint64)
    house.load_again()
    house.count(1, 1, 1)
    assert house.take(house.sample())
    assert not house.take(late)
    assert house.totals() == house.expected()


def test_a_sample_is_counted_once_however_often_it_comes(make: Callable[[], House]) -> None:
    house = make()
    sample = house.sample()
    assert house.take(sample)
    assert not house.take(sample)
    house.another_aggregator()
    assert not house.take(sample)
    assert house.totals() == house.expected()


def test_lost_samples_lose_nothing(make: Callable[[], House]) -> None:
    house = make()
    for row in (1, 4, 5):
        house.count(row, 3, 3)
        house.sample()
    assert house.take(house.sample())
    assert house.totals() == house.expected()


def test_counters_that_wrap_around_add_up(make: Callable[[], House]) -> None:
    house = make()
    assert house.take(house.sample())
    house.live[5] = np.iinfo(np.uint64).max
    assert house.take(house.sample())
    before = house.account.ledger.totals.copy()
    house.live[5] += np.uint64(4)
    assert house.take(house.sample())
    assert (house.account.ledger.totals - before)[0].tolist() == [4, 4]


def test_the_worker_writes_just_the_blocks_that_were_not_taken(make: Callable[[], House]) -> None:
    house = make()
    assert house.sample().blocks == 4
    assert house.sample().blocks == 4, "an announced sample is not a taken one"
    assert house.take(house.sample())
    assert house.sample().blocks == 0


def test_what_has_stood_in_a_frame_is_remembered(make: Callable[[], House]) -> None:
    house = make()
    house.account.ledger.announced[2] = 1
    house.another_aggregator()
    assert house.account.ledger.announced.tolist() == [0, 0, 1, 0]


def memory_bytes(fd: int) -> int:
    """What the pages of a memfd take that somebody has touched."""
    return os.fstat(fd).st_blocks * 512


def test_rows_that_no_process_ever_had_take_no_memory() -> None:
    """Of 32,768 rows for 16 counters, which would take 12 MB."""
    shape = ledger.Shape(32_768, 16, entities=1, totals=16)
    in_use = 256  # what a worker reads: the pages of rows in use
    block_rows = 16
    fd = ledger.create("l", shape)
    live: U64Array = np.zeros((in_use, shape.words), np.uint64)
    live[5] = 7
    taker, baseline = Ledger(fd, shape), ledger.Baseline(fd, shape.layout(block_rows * 8 * shape.words))
    taker.start_generation(1)
    for sequence in (1, 2):
        assert baseline.changed(1, live.ctypes.data, live.nbytes) == [0]
        blocks = live[:block_rows].reshape(1, -1)
        numbers, values = taker.changed(np.zeros(1, np.uint32), blocks)
        assert numbers.tolist() == [5]
        totals = np.zeros((1, shape.totals), np.uint64)
        taker.commit(sequence, 1, numbers, values, np.zeros(1, np.uint32), totals)
        live[5] += 1
    assert memory_bytes(fd) < 400_000
    os.close(fd)


@pytest.mark.parametrize("row", [0, 31, 32, 1023, 1024, 2047, 31_337, 32_700])
def test_a_change_in_any_row_is_found_however_far_behind_the_others(row: int) -> None:
    """In the last block too, which is shorter than the others."""
    shape, block_rows = ledger.Shape(32_768, 2, entities=1, totals=2), 32
    fd = ledger.create("l", shape)
    live: U64Array = np.zeros((32_701, shape.words), np.uint64)
    baseline = ledger.Baseline(fd, shape.layout(block_rows * 8 * shape.words))
    assert baseline.changed(0, live.ctypes.data, live.nbytes) == []
    live[row, 1] = 1
    assert baseline.changed(0, live.ctypes.data, live.nbytes) == [row // block_rows]
    os.close(fd)


def test_of_kernel_objects_made_anew_everything_is_written(make: Callable[[], House]) -> None:
    house = make()
    assert house.take(house.sample())
    house.generation += 1
    assert house.sample().blocks == ROWS


def test_just_the_rows_that_changed_are_told_of_a_block() -> None:
    shape = ledger.Shape(8, 3, entities=1, totals=3)
    fd = ledger.create("l", shape)
    blocks: U64Array = np.zeros((2, 12), np.uint64)  # of four rows each
    blocks[0, 5], blocks[1, 0], blocks[1, 11] = 1, 2, 3
    numbers, values = Ledger(fd, shape).changed(np.array([1, 0], np.uint32), blocks)
    assert numbers.tolist() == [5, 0, 3]
    assert values.tolist() == [[0, 0, 1], [2, 0, 0], [0, 0, 3]]
    os.close(fd)
