"""Readers of a served stream: what each is given, and that none is in the way of another."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.aggregator import readers
from supervisor.aggregator.readers import MOST_READERS, Readers
from supervisor.aggregator.stream import ChartLine, DimensionLine, Frame, skeleton
from tests.harness import Stream


def chart(name: str, *dimensions: str) -> ChartLine:
    lines = tuple(DimensionLine(word, "", "incremental") for word in dimensions or ("d",))
    return ChartLine("t", name, "Title", "units/s", "family", "context", "line", 1, 1, "module", lines)


def frame(value: int, *charts: ChartLine, new: bool = False, gone: tuple[ChartLine, ...] = ()) -> Frame:
    """All dimensions of the charts at one value."""
    made = Frame()
    for line in gone:
        made.withdraw(line)
    for line in charts:
        if new:
            made.define(line)
        made.set(skeleton((line,)), [value] * len(line.dimensions))
    return made


class House:
    """Readers, and the door by which they come."""

    def __init__(self, folder: str) -> None:
        self.path = str(Path(folder) / "stream.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(self.path)
        listener.listen(2 * MOST_READERS)
        self.readers = Readers(listener.detach())

    def visit(self) -> socket.socket:
        visitor = socket.socket(socket.AF_UNIX)
        visitor.connect(self.path)
        visitor.setblocking(False)
        return visitor


@pytest.fixture
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder:
        yield House(folder)


def read(visitor: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            piece = visitor.recv(1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def parsed(data: bytes) -> Stream:
    """Read as an agent reads it: anything wrong in it raises."""
    stream = Stream()
    for line in data.decode().splitlines():
        stream.feed(line)
    return stream


def test_who_comes_late_is_told_every_chart_that_there_is_and_none_that_has_gone(house: House) -> None:
    old, kept, new = chart("old"), chart("kept", "a", "b"), chart("new")
    house.readers.send(frame(1, old, kept, new=True))
    house.readers.send(frame(2, kept, gone=(old,)))
    visitor = house.visit()
    house.readers.send(frame(3, new, new=True))
    house.readers.send(frame(4, kept, new))
    stream = parsed(read(visitor))
    assert stream.charts.keys() == {"t.kept", "t.new"}
    assert stream.charts["t.kept"].values == {"a": [4], "b": [4]}
    assert stream.charts["t.new"].values == {"d": [3, 4]}


def test_several_readers_have_the_same_frames(house: House) -> None:
    house.readers.send(frame(1, chart("c"), new=True))
    visitors = [house.visit() for _ in range(3)]
    for value in range(2, 7):
        house.readers.send(frame(value, chart("c")))
    assert len({read(visitor) for visitor in visitors}) == 1


def test_a_frame_without_readers_is_no_trouble_and_counts_as_sent(house: House) -> None:
    assert house.readers.send(frame(1, chart("c"), new=True))
    visitor = house.visit()
    house.readers.send(frame(2, chart("c")))
    visitor.close()
    assert house.readers.send(frame(3, chart("c")))
    assert house.readers.blocked() == []


def wide() -> ChartLine:
    """A chart of which a hundred frames fill what the kernel keeps for a reader."""
    return chart("wide", *(f"dimension_{number}" for number in range(400)))


def test_a_reader_that_stops_gets_merged_frames_and_holds_up_nobody(house: House) -> None:
    house.readers.send(frame(1, wide(), new=True))
    stopped, lively = house.visit(), house.visit()
    seen = b""
    for value in range(2, 200):
        house.readers.send(frame(value, wide()))
        seen += read(lively)
    assert parsed(seen).charts["t.wide"].values["dimension_0"] == list(range(2, 200))
    assert len(house.readers.blocked()) == 1

    late = read(stopped)
    house.readers.go_on()
    house.readers.send(frame(200, wide()))
    values = parsed(late + read(stopped)).charts["t.wide"].values["dimension_399"]
    assert values == sorted(values)
    assert values[-1] == 200
    assert len(values) < 199


def test_a_reader_that_stops_misses_no_change_of_definitions(house: House) -> None:
    """The first value of a dimension is the agent's base: without it what was counted since would be lost."""
    gone = chart("gone")
    house.readers.send(frame(1, wide(), gone, new=True))
    stopped = house.visit()
    for value in range(2, 100):
        house.readers.send(frame(value, wide()))
    house.readers.send(frame(0, chart("appears"), new=True, gone=(gone,)))
    for value in range(100, 200):
        house.readers.send(frame(value, wide(), chart("appears")))
    data = read(stopped)
    house.readers.go_on()
    house.readers.send(frame(200, wide(), chart("appears")))
    stream = parsed(data + read(stopped))
    assert stream.charts["t.appears"].values["d"] == [0, 200]
    assert stream.charts["t.gone"].obsolete


def test_a_reader_that_lets_too_much_pile_up_is_let_go_of(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MOST_OWED_BYTES", 1 << 16)
    house.readers.send(frame(1, wide(), new=True))
    stopped = house.visit()
    for value in range(2, 200):
        house.readers.send(frame(value, wide(), new=True))
    assert house.readers.blocked() == []
    read(stopped)
    assert stopped.recv(1) == b""
    again = house.visit()
    house.readers.send(frame(200, wide()))
    assert parsed(read(again)).charts["t.wide"].values["dimension_0"] == [200]


def test_no_more_readers_are_let_in_than_there_is_room_for(house: House) -> None:
    visitors = [house.visit() for _ in range(MOST_READERS + 1)]
    house.readers.send(frame(1, chart("c"), new=True))
    assert [bool(read(visitor)) for visitor in visitors] == [True] * MOST_READERS + [False]


def test_what_a_reader_says_goes_nowhere(house: House) -> None:
    visitor = house.visit()
    house.readers.send(frame(1, chart("c"), new=True))
    with pytest.raises(BrokenPipeError):
        visitor.send(b"DISABLE\n")
    house.readers.send(frame(2, chart("c")))
    assert parsed(read(visitor)).charts["t.c"].values["d"] == [1, 2]
