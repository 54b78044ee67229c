"""Pictures of `ebpfctl top`: rates from two readings, and lines that fit a terminal."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from supervisor.top import WAYS, By, table
from supervisor.top.rates import Pace, Picture, Row
from supervisor.top.reading import Counted, Label, Reading
from workers import registry
from workers.declaration import Program

SECOND_NS = 1_000_000_000
FD, VFS, SOFTIRQ = (registry.find(name) for name in ("fd", "vfs", "softirq"))


def reading(
    seconds: Sequence[float],
    host: Sequence[int],
    counts: Sequence[Sequence[int]],
    programs: Sequence[Program] = (FD, VFS),
    labels: Mapping[int, Label] | None = None,
) -> Reading:
    """seconds: when each program was sampled."""
    named = labels if labels is not None else {place: Label(f"p{place}") for place in range(len(counts[0]))}
    sampled_ns = [round(moment * SECOND_NS) for moment in seconds]
    counted = [
        Counted(program.name, moment_ns, np.array(values, np.uint64), whole)
        for program, moment_ns, values, whole in zip(programs, sampled_ns, counts, host, strict=True)
    ]
    return Reading(programs, [True] * len(programs), sampled_ns, np.array(host, np.uint64), counted, named)


def rates(picture: Picture) -> dict[str, list[float]]:
    return {row.label.name: list(row.rates.values()) for row in picture.rows}


def test_first_picture_has_no_rates() -> None:
    picture = Pace().take(reading([1, 1], [100, 7], [[60, 40], [7, 0]]))
    assert picture.host == {"fd": 0, "vfs": 0}
    assert rates(picture) == {"p0": [0, 0], "p1": [0, 0]}


def test_each_program_has_the_time_between_its_own_samples() -> None:
    pace = Pace()
    pace.take(reading([1, 1], [100, 7], [[60, 40], [7, 0]]))
    picture = pace.take(reading([2, 3], [150, 17], [[100, 50], [7, 10]]))
    assert picture.host == {"fd": 50, "vfs": 5}
    assert rates(picture) == {"p0": [40, 0], "p1": [10, 5]}
    assert [row.total for row in picture.rows] == [40, 15]


def test_a_program_without_a_new_sample_keeps_its_rates() -> None:
    pace = Pace()
    pace.take(reading([1, 1], [100, 7], [[60, 40], [7, 0]]))
    pace.take(reading([2, 2], [150, 8], [[100, 50], [7, 1]]))
    picture = pace.take(reading([2, 3], [150, 8], [[100, 50], [7, 1]]))
    assert rates(picture) == {"p0": [40, 0], "p1": [10, 0]}


def test_a_place_with_another_owner_and_new_places_begin_at_nothing() -> None:
    pace = Pace()
    pace.take(reading([1], [100], [[60, 40]], [FD]))
    picture = pace.take(reading([2], [145], [[5, 40, 40]], [FD]))
    assert rates(picture) == {"p0": [5], "p1": [0], "p2": [40]}
    assert rates(pace.take(reading([3], [145], [[5, 41]], [FD]))) == {"p0": [0], "p1": [1]}


def test_a_program_sampled_for_the_first_time_has_no_rate_yet() -> None:
    pace = Pace()
    pace.take(reading([0], [0], [[0]], [FD]))
    assert pace.take(reading([9], [10**9], [[10**9]], [FD])).host == {"fd": 0}


def test_time_is_told_as_percent_of_a_cpu() -> None:
    pace = Pace()
    pace.take(reading([1], [0], [[0]], [SOFTIRQ]))
    picture = pace.take(reading([3], [SECOND_NS], [[0]], [SOFTIRQ]))
    assert picture.host == {"softirq": 50}
    assert table.lines(picture, "services", "total", 80)[0] == "host:  softirq 50.0%"


def test_other_programs_begin_anew() -> None:
    pace = Pace()
    pace.take(reading([1], [5], [[5]], [FD]))
    assert pace.take(reading([2, 2], [9, 9], [[9], [9]])).host == {"fd": 0, "vfs": 0}


ROWS = [
    Row(Label("b", {"pid": 3, "ppid": 1, "app": "web", "processes": 1}), 5.0, {"fd": 5.0, "vfs": 0.0}),
    Row(Label("a", {"pid": 20, "ppid": 1, "app": "db", "processes": 2}), 5.0, {"fd": 1.0, "vfs": 4.0}),
    Row(Label("c", {"pid": 1, "ppid": 0, "app": "", "processes": 0}), 9.0, {"fd": 9.0, "vfs": 0.0}),
]


@pytest.mark.parametrize(
    ("sort", "names"),
    [("total", "cab"), ("name", "abc"), ("pid", "cba"), ("fd", "cba"), ("vfs", "abc"), ("oomkill", "abc")],
)
def test_rows_are_in_the_order_asked_for_and_equal_ones_by_name(sort: str, names: str) -> None:
    assert [row.label.name for row in table.ordered(ROWS, sort)] == list(names)


NAMES = registry.all_programs()
FACTS: Mapping[str, int | str] = {
    "pid": 4194304,
    "ppid": 1,
    "app": "a" * 40,
    "processes": 32768,
    "direction": "out",
    "protocol": "TCP",
}
MANY = Picture(
    dict.fromkeys(NAMES, 1234567.0),
    ("softirq", "hardirq"),
    list(NAMES),
    list(NAMES),
    [
        Row(
            Label(name, FACTS),
            123456789.0,
            dict.fromkeys(NAMES, 1234567.0),
        )
        for name in ("n" * 100, "tab\there", "bell\x07\x1b[2J", "\udcff", "ü" * 15)
    ],
)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("width", [40, 80, 132, 400])
def test_no_line_is_wider_than_the_terminal_or_has_more_than_text(by: By, width: int) -> None:
    lines = table.lines(MANY, by, "total", width, 24)
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert len(lines) <= 24


def test_the_program_that_is_sorted_by_has_a_column_however_narrow_it_is() -> None:
    assert "oomkill" in table.lines(MANY, "pids", "oomkill", 80)[-6]
    assert "oomkill" not in table.lines(MANY, "pids", "total", 80)[-6]


def test_bytes_of_a_connection_are_no_part_of_its_total() -> None:
    def at(second: int, calls: int, size: int) -> Reading:
        moment_ns = second * SECOND_NS
        counted = [
            Counted("sent", moment_ns, np.array([0, calls], np.uint64), calls),
            Counted("sent_bytes", moment_ns, np.array([0, size], np.uint64), size, adds_up=False),
        ]
        labels = {1: Label("192.0.2.1:443", {"direction": "out", "protocol": "TCP"})}
        return Reading([], [], [], np.zeros(0, np.uint64), counted, labels)

    pace = Pace()
    pace.take(at(1, 5, 500))
    picture = pace.take(at(3, 11, 3500))
    (row,) = picture.rows
    assert (row.total, dict(row.rates)) == (3, {"sent": 3, "sent_bytes": 1500})
    *_, head, line = table.lines(picture, "connections", "total", 80)
    assert head.split() == ["DIR", "PROTO", "SERVICE", "TOTAL", "sent", "sent_bytes"]
    assert line.split() == ["out", "TCP", "192.0.2.1:443", "3.0", "3.0", "1500"]


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0"),
        (0.04, "0.0"),
        (7.25, "7.2"),
        (99.96, "100.0"),
        (123.4, "123"),
        (9999, "9999"),
        (10_000, "10.0k"),
        (999_949, "999.9k"),
        (12_345_678, "12.3M"),
        (98_765_432_100, "98.8G"),
    ],
)
def test_numbers_take_seven_characters_at_most(rate: float, text: str) -> None:
    assert table.number(rate) == text
    assert len(text) <= 7


def test_other_commands_need_no_numpy() -> None:
    script = "import sys, supervisor.ctl; supervisor.ctl._parser(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
