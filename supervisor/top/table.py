"""A picture as lines of text, as wide as the terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from supervisor import logs
from supervisor.top import By
from supervisor.top.rates import Picture, Row

_NUMBER_WIDTH: Final = 9
_UNITS: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
# Numbers below so many of a unit are told in the next smaller one.
_FROM: Final = 10


@dataclass(frozen=True)
class _Column:
    title: str
    width: int
    text: Callable[[Row], str]
    right: bool = False

    def cell(self, text: str) -> str:
        short = text if len(text) < self.width else f"{text[: self.width - 2]}…"
        return short.rjust(self.width) if self.right else short.ljust(self.width)


def _fact(name: str) -> Callable[[Row], str]:
    return lambda row: logs.escaped(str(row.label.facts[name]))


def _name(row: Row) -> str:
    return logs.escaped(row.label.name)


_FIRST: Final[Mapping[By, tuple[_Column, ...]]] = {
    "apps": (_Column("APP", 21, _name), _Column("PROCS", 6, _fact("processes"), right=True)),
    "cgroups": (_Column("CONTAINER", 27, _name),),
    "services": (_Column("SERVICE", 27, _name),),
    "pids": (
        _Column("PID", 8, _fact("pid"), right=True),
        _Column(" NAME", 17, lambda row: f" {_name(row)}"),
        _Column("APP", 13, _fact("app")),
    ),
    "connections": (
        _Column("DIR", 4, _fact("direction")),
        _Column("PROTO", 6, _fact("protocol")),
        _Column("SERVICE", 24, _name),
    ),
}


def ordered(rows: Sequence[Row], sort: str) -> list[Row]:
    """By a field: `total`, `name`, `pid`, or a column of rates; what is equal, by name."""
    by_name = sorted(rows, key=lambda row: row.label.name)
    if sort == "name":
        return by_name
    if sort == "pid":
        return sorted(by_name, key=lambda row: int(row.label.facts.get("pid", 0)))
    if sort == "total":
        return sorted(by_name, key=lambda row: -row.total)
    return sorted(by_name, key=lambda row: -row.rates.get(sort, 0.0))


def lines(picture: Picture, by: By, sort: str, width: int, height: int | None = None) -> list[str]:
    """height: how many lines at most, None = all."""
    columns = _columns(picture, by, sort, width)
    head = [*_host(picture, width), "".join(column.cell(column.title) for column in columns)]
    rows = ordered(picture.rows, sort)
    shown = rows if height is None else rows[: max(0, height - len(head))]
    body = ["".join(column.cell(column.text(row)) for column in columns) for row in shown]
    return [line.rstrip()[:width] for line in [*head, *body]]


def _columns(picture: Picture, by: By, sort: str, width: int) -> list[_Column]:
    """Those that fit: the total, the one sorted by, the busiest; in the picture's order."""
    first = [*_FIRST[by], _Column("TOTAL", _NUMBER_WIDTH, lambda row: number(row.total), right=True)]
    room = width - sum(column.width for column in first)
    shown = set()
    for name in sorted(picture.busiest, key=lambda name: name != sort):
        if _of_rate(name).width <= room:
            room -= _of_rate(name).width
            shown.add(name)
    return first + [_of_rate(name) for name in picture.columns if name in shown]


def _of_rate(name: str) -> _Column:
    width = max(_NUMBER_WIDTH, len(name) + 1)
    return _Column(name, width, lambda row: number(row.rates[name]), right=True)


def _host(picture: Picture, width: int) -> Iterator[str]:
    """Every program's rate on the whole host, in as many lines as it takes."""
    words = [
        f"{name} {number(rate)}{'%' if name in picture.of_time else ''}"
        for name, rate in picture.host.items()
    ]
    line = "host:"
    for word in words:
        if len(line) + len(word) + 2 > width:
            yield line
            line = "     "
        line += f"  {word}"
    yield line


def number(rate: float) -> str:
    """In seven characters at most."""
    for size, letter in _UNITS:
        if rate >= _FROM * size:
            return f"{rate / size:.1f}{letter}"
    return f"{rate:.0f}" if rate >= 100 or rate == 0 else f"{rate:.1f}"
