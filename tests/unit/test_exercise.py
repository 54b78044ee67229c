"""The event that the start makes to see whether a plan counts."""

import os
from collections.abc import Iterator

import pytest

from supervisor import linux
from supervisor.kernel.hooks import fires
from supervisor.kernel.maps import KernelMap, MapInfo
from supervisor.kernel.plans import Hook
from supervisor.kernel.request import Tables
from supervisor.pipeline import memory

ROW_BYTES = 64
COLUMN = 3


class Rows:
    """Counters of two processes."""

    def __init__(self) -> None:
        self.fd = memory.create("counters", 2 * ROW_BYTES)

    def count(self) -> None:
        place = ROW_BYTES + 8 * COLUMN
        os.pwrite(self.fd, bytes([os.pread(self.fd, 1, place)[0] + 1]), place)


@pytest.fixture
def rows() -> Iterator[Rows]:
    made = Rows()
    yield made
    os.close(made.fd)


def refused() -> None:
    raise OSError("no IPv6 here")


def tables(rows: Rows) -> Tables:
    return Tables({"rows": KernelMap(MapInfo("counters", 2, ROW_BYTES, linux.BPF_F_MMAPABLE), rows.fd)})


def test_a_plan_that_counts_the_event_fires(rows: Rows) -> None:
    assert fires(Hook("open", (), (), rows.count, COLUMN), tables(rows))


def test_a_plan_that_counts_nothing_does_not_fire(rows: Rows) -> None:
    assert not fires(Hook("open", (), (), lambda: None, COLUMN), tables(rows))


def test_a_plan_is_trusted_where_the_event_cannot_be_made(rows: Rows) -> None:
    """A host without IPv6 can make no connection by it; its guests and containers can."""
    assert fires(Hook("connect v6", (), (), refused, COLUMN), tables(rows))
