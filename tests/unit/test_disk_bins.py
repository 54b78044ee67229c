"""A request of n microseconds is counted under the label that contains n."""

import re
from itertools import pairwise

import pytest

from tests.harness import ROOT
from workers.declaration import LABELS
from workers.disk import PROGRAM

BINS = 24
# Netdata's texts.
DOCUMENTED = """
    0us->1us 1us->2us 2us->4us 4us->8us 8us->16us 16us->32us 32us->64us 64us->128us 128us->256us 256us->512us
    512us->1ms 1ms->2ms 2ms->4ms 4ms->8ms 8ms->16ms 16ms->32ms 32ms->65ms 65ms->131ms 131ms->262ms
    262ms->524ms 524ms->1s 1s->2s 2s->4s 4s->+Inf
""".split()  # noqa: SIM905
UNIT_US = {"us": 1, "ms": 1000, "s": 1_000_000}


def bin_of(us: int) -> int:
    """As histogram.h has it: one for each power of two, from 2^0 on, that the time has reached."""
    return sum(us >= 1 << n for n in range(BINS - 1))


def edge(text: str) -> tuple[int, int] | None:
    """An edge as number and unit in us, None for +Inf."""
    found = re.fullmatch(r"(\d+)(us|ms|s)", text)
    return (int(found[1]), UNIT_US[found[2]]) if found else None


def contains(label: str, us: int) -> bool:
    """Whether the label has this time between its edges. An edge's text is cut to whole units."""
    low, high = (edge(text) for text in label.split("->"))
    assert low
    beyond = high is not None and us >= (high[0] + 1) * high[1]
    return us // low[1] >= low[0] and not beyond


def test_the_labels_are_netdatas() -> None:
    assert list(LABELS) == DOCUMENTED
    assert len(LABELS) == BINS


def test_the_source_has_as_many_bins_and_counts_them_so() -> None:
    text = (ROOT / "kernel_progs" / "include" / "histogram.h").read_text()
    assert f"#define BINS {BINS}\n" in text
    assert "n < BINS - 1; n++" in text
    assert "bin += us >= 1ULL << n;" in text


def test_labels_follow_one_another() -> None:
    for label, following in pairwise(LABELS):
        assert label.split("->")[1] == following.split("->")[0]


@pytest.mark.parametrize("us", sorted({0, *(max(0, (1 << n) + by) for n in range(40) for by in (-1, 0, 1))}))
def test_a_time_at_the_edge_of_a_bin_is_under_its_own_label(us: int) -> None:
    assert contains(LABELS[bin_of(us)], us)


@pytest.mark.parametrize(
    ("us", "label"),
    [
        (0, "0us->1us"),
        (1, "1us->2us"),
        (2, "2us->4us"),
        (3, "2us->4us"),
        (700, "512us->1ms"),
        (1024, "1ms->2ms"),
        (5_000, "4ms->8ms"),
        (40_000, "32ms->65ms"),
        (600_000, "524ms->1s"),
        (3_000_000, "2s->4s"),
        (4_194_304, "4s->+Inf"),
        (3_600_000_000, "4s->+Inf"),
    ],
)
def test_well_known_times_are_where_a_reader_looks_for_them(us: int, label: str) -> None:
    assert LABELS[bin_of(us)] == label


def test_each_bin_is_a_dimension_of_its_label() -> None:
    (chart,) = PROGRAM.charts
    assert [dimension.id for dimension in chart.dimensions] == DOCUMENTED
    assert [dimension.sources for dimension in chart.dimensions] == [
        (f"latency {label}",) for label in DOCUMENTED
    ]
    assert [column.name for column in PROGRAM.columns] == [f"latency {label}" for label in DOCUMENTED]
