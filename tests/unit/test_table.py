"""The shared table: a sample is taken whole or refused, whatever its writer is doing or has suffered."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from supervisor.kernel.maps import U64Array
from supervisor.pipeline import table
from supervisor.pipeline.table import Reader, Shape, U32Array, Writer

SHAPE = Shape(rows=64, columns=3)


@pytest.fixture
def fd() -> Iterator[int]:
    made = table.create("test", SHAPE)
    yield made
    os.close(made)


def rows(*numbers: int) -> U32Array:
    return np.array(numbers, np.uint32)


def values(*of_row: int) -> U64Array:
    return np.array([[value, value + 1, value + 2] for value in of_row], np.uint64).reshape(-1, 3)


def test_what_was_written_is_taken(fd: int) -> None:
    Writer(fd, SHAPE).write(1, rows(5, 63), values(10, 20))
    taken = Reader(fd, SHAPE).take(1)
    assert taken
    assert taken[0].tolist() == [5, 63]
    assert taken[1].tolist() == [[10, 11, 12], [20, 21, 22]]


def test_a_sample_without_rows_is_a_sample(fd: int) -> None:
    Writer(fd, SHAPE).write(1, rows(), values())
    taken = Reader(fd, SHAPE).take(1)
    assert taken
    assert len(taken[0]) == len(taken[1]) == 0


def test_the_last_two_samples_are_there_and_no_other(fd: int) -> None:
    writer, reader = Writer(fd, SHAPE), Reader(fd, SHAPE)
    for sequence in range(1, 6):
        writer.write(sequence, rows(sequence), values(sequence))
    assert [reader.take(sequence) is not None for sequence in range(1, 8)] == [False] * 3 + [True] * 2 + [
        False
    ] * 2


def test_what_is_taken_does_not_change_any_more(fd: int) -> None:
    writer, reader = Writer(fd, SHAPE), Reader(fd, SHAPE)
    writer.write(1, rows(1), values(1))
    taken = reader.take(1)
    writer.write(3, rows(2), values(9))
    assert taken
    assert (taken[0].tolist(), taken[1].tolist()) == ([1], [[1, 2, 3]])


def test_the_next_worker_goes_on_from_the_number_of_the_last(fd: int) -> None:
    assert Writer(fd, SHAPE).sequence == 0
    Writer(fd, SHAPE).write(7, rows(), values())
    assert Writer(fd, SHAPE).sequence == 7


def test_the_heartbeat_is_the_last_samples(fd: int) -> None:
    assert table.heartbeat(fd) == table.Heartbeat(0, 0)
    before_ns = time.monotonic_ns()
    Writer(fd, SHAPE).write(9, rows(1), values(1))
    beat = table.heartbeat(fd)
    assert beat.sequence == 9
    assert before_ns <= beat.published_ns <= time.monotonic_ns()


class Died(BaseException):
    pass


class Counted(np.ndarray[Any, np.dtype[Any]]):
    """Memory whose writer dies at its `left`-th write, in the middle of it."""

    left: list[int] | None = None

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.left is not None:
            self.left[0] -= 1
            if self.left[0] == 0:
                part = self[key]
                if isinstance(part, np.ndarray) and part.size > 1:
                    part.reshape(-1)[: part.size // 2] = np.asarray(value).reshape(-1)[: part.size // 2]
                raise Died
        super().__setitem__(key, value)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_writer_that_dies_in_the_middle_leaves_no_torn_sample(fd: int, at: int) -> None:
    writer, reader = Writer(fd, SHAPE), Reader(fd, SHAPE)
    for sequence in (1, 2):
        writer.write(sequence, rows(*range(sequence)), values(*range(sequence)))
    left = [at]
    for name, array in writer._at.items():
        counted = array.view(Counted)
        counted.left = left
        writer._at[name] = counted
    with pytest.raises(Died):
        writer.write(3, rows(1, 2, 3, 4), values(5, 6, 7, 8))
    whole = reader.take(3)
    if whole is not None:
        assert whole[0].tolist() == [1, 2, 3, 4]
        assert whole[1].tolist() == values(5, 6, 7, 8).tolist()
    former = reader.take(1)
    assert (former is not None) == (at == 1), "the half is void from the first write on"
    other = reader.take(2)
    assert other
    assert other[1].tolist() == values(0, 1).tolist()

    successor = Writer(fd, SHAPE)
    successor.write(successor.sequence + 1, rows(9), values(9))
    taken = reader.take(successor.sequence)
    assert taken
    assert taken[1].tolist() == [[9, 10, 11]]


class Overtaking(np.ndarray[Any, np.dtype[Any]]):
    """Memory that is written to while it is being read."""

    writer: Writer | None = None

    def __getitem__(self, key: Any) -> Any:
        if self.writer is not None:
            writer, self.writer = self.writer, None
            writer.write(3, rows(1, 2), values(70, 80))
        return super().__getitem__(key)


@pytest.mark.parametrize("field", ["numbers1", "values1"])
def test_a_writer_that_overruns_the_reader_is_noticed(fd: int, field: str) -> None:
    writer, reader = Writer(fd, SHAPE), Reader(fd, SHAPE)
    writer.write(1, rows(1, 2), values(1, 2))
    watched = reader._at[field].view(Overtaking)
    watched.writer = writer
    reader._at[field] = watched
    assert reader.take(1) is None
    assert reader.take(3) is not None


def test_a_count_or_a_row_that_cannot_be_is_refused(fd: int) -> None:
    writer, reader = Writer(fd, SHAPE), Reader(fd, SHAPE)
    writer.write(1, rows(64), values(1))
    assert reader.take(1) is None
    for count in (65, 1 << 32, (1 << 64) - 1):
        writer.write(3, rows(1), values(1))
        writer._at["half1"][table._COUNT] = count
        assert reader.take(3) is None


def test_the_memory_cannot_be_cut_short_by_whoever_holds_it(fd: int) -> None:
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)


def test_a_reader_beside_a_busy_writer_only_ever_sees_whole_samples(fd: int) -> None:
    pid = os.fork()
    if pid == 0:
        writer, sequence = Writer(fd, SHAPE), 0
        everything = np.arange(64, dtype=np.uint32)
        while True:
            sequence += 1
            writer.write(
                sequence, everything[: sequence % 64], np.full((sequence % 64, 3), sequence, np.uint64)
            )
    try:
        reader, taken = Reader(fd, SHAPE), 0
        deadline_s = time.monotonic() + 20
        while taken < 2000 and time.monotonic() < deadline_s:
            sequence = table.heartbeat(fd).sequence
            found = reader.take(sequence) if sequence else None
            if found:
                taken += 1
                assert len(found[0]) == len(found[1]) == sequence % 64
                assert (found[1] == sequence).all()
        assert taken
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
