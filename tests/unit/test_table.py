"""The shared table: a sample is taken whole or refused, whatever its writer is doing or has suffered."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from supervisor.aggregator.table_reader import Reader
from supervisor.kernel.arrays import U32Array, U64Array
from supervisor.kernel.maps import ROWS_PER_PAGE
from supervisor.pipeline import table
from supervisor.pipeline.table import Shape, Writer

SHAPE = Shape(blocks=64, words=3)


@pytest.fixture
def fd() -> Iterator[int]:
    made = table.create("test", SHAPE)
    yield made
    os.close(made)


def values(*of_block: int) -> U64Array:
    return np.array([[value, value + 1, value + 2] for value in of_block], np.uint64).reshape(-1, 3)


def copied(numbers: U32Array, blocks: U64Array) -> tuple[U32Array, U64Array]:
    return numbers.copy(), blocks.copy()


def write(writer: Writer, sequence: int, of_block: Mapping[int, int]) -> None:
    """Blocks with these numbers, whose first words are given."""
    live = np.zeros((SHAPE.blocks + 1, SHAPE.words), np.uint64)
    live[list(of_block)] = values(*of_block.values())
    writer.write(sequence, list(of_block), live.data.cast("B"))


def test_what_was_written_is_taken(fd: int) -> None:
    write(Writer(fd, SHAPE.layout()), 1, {5: 10, 63: 20})
    taken = Reader(fd, SHAPE).take(1, copied)
    assert taken
    assert taken[0].tolist() == [5, 63]
    assert taken[1].tolist() == [[10, 11, 12], [20, 21, 22]]


def test_a_sample_without_blocks_is_a_sample(fd: int) -> None:
    write(Writer(fd, SHAPE.layout()), 1, {})
    taken = Reader(fd, SHAPE).take(1, copied)
    assert taken
    assert len(taken[0]) == len(taken[1]) == 0


def test_the_last_block_may_be_shorter_than_the_others(fd: int) -> None:
    live = values(*range(64)).reshape(-1)[:-2]
    Writer(fd, SHAPE.layout()).write(1, [0, 63], live.data.cast("B"))
    taken = Reader(fd, SHAPE).take(1, copied)
    assert taken
    assert taken[0].tolist() == [0, 63]
    assert taken[1].tolist() == [[0, 1, 2], [63, 0, 0]]


def test_large_blocks_are_copied_whole(fd: int) -> None:
    shape = Shape(3, 1000)
    large = table.create("large", shape)
    live = np.arange(3000, dtype=np.uint64)
    Writer(large, shape.layout()).write(1, [0, 2], live.data.cast("B"))
    taken = Reader(large, shape).take(1, copied)
    assert taken
    assert (taken[1] == live.reshape(3, 1000)[[0, 2]]).all()
    os.close(large)


def test_the_last_two_samples_are_there_and_no_other(fd: int) -> None:
    writer, reader = Writer(fd, SHAPE.layout()), Reader(fd, SHAPE)
    for sequence in range(1, 6):
        write(writer, sequence, {sequence: sequence})
    assert [reader.take(sequence, copied) is not None for sequence in range(1, 8)] == [False] * 3 + [
        True
    ] * 2 + [False] * 2


def test_what_is_taken_does_not_change_any_more(fd: int) -> None:
    writer, reader = Writer(fd, SHAPE.layout()), Reader(fd, SHAPE)
    write(writer, 1, {1: 1})
    taken = reader.take(1, copied)
    write(writer, 3, {2: 9})
    assert taken
    assert (taken[0].tolist(), taken[1].tolist()) == ([1], [[1, 2, 3]])


def test_the_next_worker_goes_on_from_the_number_of_the_last(fd: int) -> None:
    assert Writer(fd, SHAPE.layout()).sequence == 0
    write(Writer(fd, SHAPE.layout()), 7, {})
    assert Writer(fd, SHAPE.layout()).sequence == 7


def test_the_heartbeat_is_the_last_samples(fd: int) -> None:
    assert table.heartbeat(fd) == table.Heartbeat(0, 0)
    before_ns = time.monotonic_ns()
    write(Writer(fd, SHAPE.layout()), 9, {1: 1})
    beat = table.heartbeat(fd)
    assert beat.sequence == 9
    assert before_ns <= beat.published_ns <= time.monotonic_ns()


def test_a_block_is_of_rows_of_one_page_of_a_map() -> None:
    for row_words in (1, 2, 4, 8, 16, 18, 24, 26, 120):
        shape = table.shape_for(1000, row_words)
        rows, rest = divmod(shape.words, row_words)
        assert rest == 0
        assert ROWS_PER_PAGE % rows == 0
        assert shape.block_bytes <= 16384
        assert shape.blocks * rows >= 1000


class Died(BaseException):
    pass


class Counted:
    """Memory whose writer dies at its `left`-th write, in the middle of it."""

    def __init__(self, memory: memoryview, left: list[int]) -> None:
        self.memory, self.left = memory, left

    def __getitem__(self, key: Any) -> Any:
        return self.memory[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.left[0] -= 1
        if self.left[0] == 0:
            if isinstance(key, slice):
                half = (key.stop - key.start) // 2
                self.memory[key.start : key.start + half] = value[:half]
            raise Died
        self.memory[key] = value


@pytest.mark.parametrize("at", range(1, 14))
def test_a_writer_that_dies_in_the_middle_leaves_no_torn_sample(fd: int, at: int) -> None:
    writer, reader = Writer(fd, SHAPE.layout()), Reader(fd, SHAPE)
    write(writer, 1, {0: 0})
    write(writer, 2, {0: 0, 1: 1})
    left = [at]
    writer._halves = [tuple(Counted(part, left) for part in half) for half in writer._halves]  # type: ignore[misc]
    writer._head = Counted(writer._head, left)  # type: ignore[assignment]
    with pytest.raises(Died):
        write(writer, 3, {1: 5, 2: 6, 3: 7, 4: 8})
    whole = reader.take(3, copied)
    if whole is not None:
        assert whole[0].tolist() == [1, 2, 3, 4]
        assert whole[1].tolist() == values(5, 6, 7, 8).tolist()
    former = reader.take(1, copied)
    assert (former is not None) == (at == 1), "the half is void from the first write on"
    other = reader.take(2, copied)
    assert other
    assert other[1].tolist() == values(0, 1).tolist()

    successor = Writer(fd, SHAPE.layout())
    write(successor, successor.sequence + 1, {9: 9})
    taken = reader.take(successor.sequence, copied)
    assert taken
    assert taken[1].tolist() == [[9, 10, 11]]


class Overtaking(np.ndarray[Any, np.dtype[Any]]):
    """Memory that is written to while it is being read."""

    writer: Writer | None = None

    def __getitem__(self, key: Any) -> Any:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            write(writer, 3, {1: 70, 2: 80})
        return super().__getitem__(key)


@pytest.mark.parametrize("field", ["numbers1", "values1"])
def test_a_writer_that_overruns_the_reader_is_noticed(fd: int, field: str) -> None:
    writer, reader = Writer(fd, SHAPE.layout()), Reader(fd, SHAPE)
    write(writer, 1, {1: 1, 2: 2})
    watched = reader._at[field].view(Overtaking)
    watched.writer = writer
    reader._at[field] = watched
    assert reader.take(1, copied) is None
    assert reader.take(3, copied) is not None


def test_a_count_or_a_block_that_cannot_be_is_refused(fd: int) -> None:
    writer, reader = Writer(fd, SHAPE.layout()), Reader(fd, SHAPE)
    write(writer, 1, {64: 1})
    assert reader.take(1, copied) is None
    for count in (65, 1 << 32, (1 << 64) - 1):
        write(writer, 3, {1: 1})
        writer._halves[1][0][table.COUNT] = count
        assert reader.take(3, copied) is None


def test_the_memory_cannot_be_cut_short_by_whoever_holds_it(fd: int) -> None:
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)


def test_a_reader_beside_a_busy_writer_only_ever_sees_whole_samples(fd: int) -> None:
    pid = os.fork()
    if pid == 0:
        writer, sequence = Writer(fd, SHAPE.layout()), 0
        while True:
            sequence += 1
            live = np.full((SHAPE.blocks, SHAPE.words), sequence, np.uint64)
            writer.write(sequence, range(sequence % 64), live.data.cast("B"))
    try:
        reader, taken = Reader(fd, SHAPE), 0
        deadline_s = time.monotonic() + 20
        while taken < 2000 and time.monotonic() < deadline_s:
            sequence = table.heartbeat(fd).sequence
            found = reader.take(sequence, copied) if sequence else None
            if found:
                taken += 1
                assert len(found[0]) == len(found[1]) == sequence % 64
                assert (found[1] == sequence).all()
        assert taken
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
