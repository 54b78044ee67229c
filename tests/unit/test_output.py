"""Writing to a real pipe: whole pieces or nothing, and never a wait."""

import contextlib
import fcntl
import functools
import itertools
import os
import select
import threading
from collections.abc import Iterator

import pytest

from supervisor.aggregator.output import PIPE_BYTES, Output, ReaderGone, reader_gone, widen
from supervisor.aggregator.stream import ChartLine, DimensionLine, Frame, skeleton
from supervisor.aggregator.unsent import MOST_PARTS, Unsent
from tests.harness import wait_for

PAGE = 4096
# Longer than any reader here takes.
PATIENCE_S = 60.0


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
        if pipe.output.under_way:
            pipe.output.go_on()
        elif pipe.output.write([frame]) or pipe.output.under_way:
            sent += frame
        if chance.random() < 0.4:
            try:
                taken += os.read(pipe.reading, chance.choice([1, 100, 4095, 4096, 65536]))
            except BlockingIOError:
                continue
    taken += pipe.read()
    while pipe.output.under_way:
        pipe.output.go_on()
        taken += pipe.read()
    assert taken == sent
    pipe.close()


def a_frame(charts: int, dimensions: int) -> list[bytes]:
    """The definitions of so many charts, and a block with a collection of each, as an aggregator makes it."""
    lines = [
        ChartLine("t", f"c{n}", "title", "u", "f", "c", "line", 1, 1, "m", dimension_lines(dimensions))
        for n in range(charts)
    ]
    frame = Frame()
    for line in lines:
        frame.define(line)
    frame.set(skeleton(lines), range(charts * dimensions))
    return frame.blocks


def dimension_lines(count: int) -> tuple[DimensionLine, ...]:
    return tuple(DimensionLine(f"dimension {n}", "", "incremental") for n in range(count))


@contextlib.contextmanager
def read_all_the_time(pipe: Pipe) -> Iterator[bytearray]:
    """A reader as an agent is one; what it has read is whole at the end."""
    taken = bytearray()

    def read() -> None:
        while piece := os.read(pipe.reading, 1 << 16):
            taken.extend(piece)

    os.set_blocking(pipe.reading, True)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield taken
    finally:
        os.close(pipe.writing)
        reader.join()
        os.close(pipe.reading)


@pytest.mark.parametrize("size", [PAGE, 2 * PAGE, 16 * PAGE])
def test_a_frame_larger_than_the_pipe_comes_whole_to_whoever_reads(size: int) -> None:
    """4 KiB is all that a user beyond the pipe limit gets from kernels before 5.14 (pipe(7))."""
    pipe = Pipe(size)
    assert pipe.size == size
    with read_all_the_time(pipe) as taken:
        frames = [a_frame(200, 5), a_frame(3, 500), a_frame(1, 1), a_frame(1000, 1)]
        for frame in frames:
            # A frame that fits into the pipe is not waited with: it is left out while there is no room.
            wait_for("room in the pipe", functools.partial(pipe.output.write, frame, PATIENCE_S))
    assert bytes(taken) == b"".join(block for frame in frames for block in frame)


def test_the_rest_of_a_large_frame_comes_before_anything_else_once_there_is_room(tiny: Pipe) -> None:
    frame = a_frame(100, 5)
    assert not tiny.output.write(frame)
    taken = tiny.read()
    assert taken.endswith(b"\n")
    with pytest.raises(ValueError, match="under way"):
        tiny.output.write([b"BEGIN\n"])
    while not tiny.output.go_on():
        taken += tiny.read()
    assert taken + tiny.read() == b"".join(frame)
    assert tiny.output.write([b"BEGIN\n"])


def test_a_reader_that_sleeps_is_waited_for_no_longer_than_is_said(tiny: Pipe) -> None:
    """What it has then are whole charts."""
    assert not tiny.output.write(a_frame(100, 5), 0.05)
    assert not tiny.output.go_on(0.05)
    taken = tiny.read()
    assert taken
    assert taken.count(b"CHART ") * 5 == taken.count(b"DIMENSION ")


def test_a_reader_that_goes_in_the_middle_of_a_large_frame_is_noticed(tiny: Pipe) -> None:
    assert not tiny.output.write(a_frame(100, 5))
    os.close(tiny.reading)
    with pytest.raises(ReaderGone):
        tiny.output.go_on(PATIENCE_S)


def test_a_frame_larger_than_the_pipe_takes_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reader takes at a time."""
    pipe = Pipe(16 * PAGE)
    frame = a_frame(3000, 1)
    size = sum(map(len, frame))
    written: list[int] = []
    really = os.writev

    def write(fd: int, parts: list[memoryview]) -> int:
        written.append(really(fd, parts))
        return written[-1]

    with read_all_the_time(pipe) as taken:
        monkeypatch.setattr(os, "writev", write)
        assert pipe.output.write(frame, PATIENCE_S)
        monkeypatch.undo()
    assert bytes(taken) == b"".join(frame)
    assert len(written) <= size // (pipe.size // 4 - PAGE) + 1


def pieces(blocks: list[bytes], size: int) -> Iterator[bytes]:
    left = Unsent(blocks)
    while left:
        piece = b"".join(left.parts(left.fitting(size)))
        yield piece
        left.sent(len(piece))
    assert left.size_bytes == 0


@pytest.mark.parametrize("size", [select.PIPE_BUF, 10_007])
def test_pieces_are_cut_where_a_chart_ends_and_fill_what_there_is(size: int) -> None:
    blocks = a_frame(400, 3)
    found = list(pieces(blocks, size))
    assert b"".join(found) == b"".join(blocks)
    assert all(len(piece) <= size for piece in found)
    assert all(len(one) + len(two) > size for one, two in itertools.pairwise(found))
    assert all(piece.startswith((b"CHART ", b"BEGIN ")) for piece in found)
    assert all(piece.count(b"BEGIN ") == piece.count(b"END\n") for piece in found)
    assert all(piece.count(b"CHART ") * 3 == piece.count(b"DIMENSION ") for piece in found)


def test_a_chart_larger_than_a_page_is_cut_at_the_end_of_a_line() -> None:
    blocks = a_frame(2, 700)
    found = list(pieces(blocks, select.PIPE_BUF))
    assert b"".join(found) == b"".join(blocks)
    assert all(len(piece) <= select.PIPE_BUF and piece.endswith(b"\n") for piece in found)


def test_a_frame_of_more_blocks_than_one_call_takes_arrives_whole(tmp_path: "os.PathLike[str]") -> None:
    blocks = [b"CHART %d\n" % number for number in range(2 * MOST_PARTS + 7)]
    fd = os.open(os.path.join(tmp_path, "stream"), os.O_RDWR | os.O_CREAT)
    assert Output(fd).write(blocks)
    assert os.pread(fd, 1 << 20, 0) == b"".join(blocks)
    os.close(fd)


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
