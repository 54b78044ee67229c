"""Writing to a real pipe: whole pieces or nothing, and never a wait."""

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

from supervisor.aggregator.output import PIPE_BYTES, Output, ReaderGone, reader_gone, widen

PAGE = 4096


class Pipe:
    """Both ends; the reading one does not wait."""

    def __init__(self, size: int = 65536) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.size = fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, size)
        self.output = Output(self.writing)

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                piece = os.read(self.reading, 1 << 20)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece

    def close(self) -> None:
        for fd in (self.reading, self.writing):
            try:
                os.close(fd)
            except OSError:
                continue


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def tiny() -> Iterator[Pipe]:
    """Two pages, which is what the kernel gives a user who has many pipes."""
    made = Pipe(2 * PAGE)
    yield made
    made.close()


def test_a_frame_arrives_whole(pipe: Pipe) -> None:
    assert pipe.output.write([b"CHART\n", b"BEGIN\nEND\n"])
    assert pipe.read() == b"CHART\nBEGIN\nEND\n"


def test_a_frame_is_one_write(pipe: Pipe) -> None:
    """A pipe in packet mode gives one write at a time (pipe(2))."""
    reading, writing = os.pipe2(os.O_DIRECT)
    try:
        assert Output(writing).write([b"CHART\n", b"BEGIN\nEND\n"])
        assert os.read(reading, PAGE) == b"CHART\nBEGIN\nEND\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_nothing_is_written_for_a_frame_without_blocks(pipe: Pipe) -> None:
    assert pipe.output.write([])
    assert pipe.read() == b""


def test_a_frame_that_finds_no_room_is_not_begun(pipe: Pipe) -> None:
    frame = b"x" * 9999 + b"\n"
    written = 0
    while pipe.output.write([frame]):
        written += 1
        assert written < 7, "more than a pipe holds"
    assert written >= 3, "half of the pipe can be used"
    assert pipe.output.write([frame]) is False
    assert pipe.read() == frame * written
    assert pipe.output.write([frame])


def test_small_frames_that_waste_pages_never_make_a_write_wait(pipe: Pipe) -> None:
    """Pieces a little larger than half a page take a page each."""
    frame = b"x" * (PAGE // 2) + b"\n"
    for _ in range(200):
        if not pipe.output.write([frame]):
            break
    else:
        pytest.fail("a full pipe took more")
    assert select.select([], [pipe.writing], [], 0)[1] or pipe.read()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_sizes_and_the_reader_do_every_frame_is_there_whole_or_not_at_all(seed: int) -> None:
    import random

    chance = random.Random(seed)
    pipe = Pipe(chance.choice([2, 4, 16]) * PAGE)
    taken, sent = b"", b""
    for number in range(400):
        frame = (
            f"BEGIN {number} ".encode()
            + b"x" * chance.choice([1, 50, 2047, 2048, 2049, 4000, 4090, 9000])
            + b"\n"
        )
        if pipe.output.write([frame]):
            sent += frame
        if chance.random() < 0.4:
            try:
                taken += os.read(pipe.reading, chance.choice([1, 100, 4095, 4096, 65536]))
            except BlockingIOError:
                continue
    assert taken + pipe.read() == sent
    pipe.close()


def test_a_frame_larger_than_the_pipe_goes_out_block_by_block(tiny: Pipe) -> None:
    blocks = [bytes([letter]) * 1500 + b"\n" for letter in b"abcdefgh"]
    assert tiny.output.write(blocks) is False
    first = tiny.read()
    assert first == b"".join(blocks)[: len(first)]
    assert first.endswith(b"\n"), "no block is cut"
    assert len(first) >= 1501


def test_the_part_of_a_large_frame_that_found_room_is_whole_blocks_in_order(pipe: Pipe) -> None:
    blocks = [b"%05d" % number + b"x" * 994 + b"\n" for number in range(100)]
    assert pipe.output.write(blocks) is False
    lines = pipe.read().splitlines()
    assert lines == [block.rstrip() for block in blocks[: len(lines)]]
    assert len(lines) >= 30


def test_a_pipe_of_one_page_still_takes_a_block_that_fits() -> None:
    """That is all a user beyond the pipe limit gets from kernels before 5.14 (pipe(7))."""
    pipe = Pipe(PAGE)
    assert pipe.size == PAGE
    assert pipe.output.write([b"x" * 1000 + b"\n"])
    assert pipe.read() == b"x" * 1000 + b"\n"
    pipe.close()


def test_a_closed_pipe_says_that_the_reader_has_gone(pipe: Pipe) -> None:
    assert not reader_gone(pipe.writing)
    os.close(pipe.reading)
    assert reader_gone(pipe.writing)
    with pytest.raises(ReaderGone):
        pipe.output.write([b"BEGIN\n"])


def test_a_full_pipe_is_not_taken_for_a_closed_one(pipe: Pipe) -> None:
    while pipe.output.write([b"x" * PAGE]):
        pass
    assert not reader_gone(pipe.writing)


def test_the_pipe_is_not_made_non_blocking_for_everybody(pipe: Pipe) -> None:
    other = os.dup(pipe.writing)
    while pipe.output.write([b"x" * PAGE]):
        pass
    assert os.get_blocking(pipe.writing)
    assert os.get_blocking(other)
    os.close(other)


def test_a_pipe_that_somebody_made_non_blocking_is_written_to_all_the_same(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    while pipe.output.write([b"x" * PAGE]):
        pass
    assert set(pipe.read()) == {ord("x")}


def test_widen_makes_room_for_a_frame_and_never_takes_any_away() -> None:
    pipe = Pipe(PAGE)
    widen(pipe.writing)
    assert fcntl.fcntl(pipe.writing, fcntl.F_GETPIPE_SZ) >= PIPE_BYTES
    pipe.close()
    large = Pipe(PIPE_BYTES)
    widen(large.writing)
    assert fcntl.fcntl(large.writing, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
    large.close()


def test_what_is_no_pipe_is_written_to_as_well(tmp_path: "os.PathLike[str]") -> None:
    fd = os.open(os.path.join(tmp_path, "stream"), os.O_RDWR | os.O_CREAT)
    widen(fd)
    assert not reader_gone(fd)
    assert Output(fd).write([b"a\n", b"b\n" * 100000])
    assert os.pread(fd, 10, 0) == b"a\nb\nb\nb\nb\n"
    os.close(fd)
