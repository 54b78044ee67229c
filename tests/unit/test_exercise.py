"""The event that the start makes to see whether a plan counts."""

from typing import cast

import numpy as np

from supervisor.kernel.loader import Tables, fires
from supervisor.kernel.maps import KernelMap, U64Array
from supervisor.kernel.plans import Hook


class Rows:
    """Counters of two processes."""

    def __init__(self) -> None:
        self.counters = np.zeros((2, 8), np.uint64)

    def words(self) -> U64Array:
        return self.counters

    def count(self) -> None:
        self.counters[1, 3] += np.uint64(1)


def refused() -> None:
    raise OSError("no IPv6 here")


def tables(rows: Rows) -> Tables:
    return Tables({"rows": cast(KernelMap, rows)})


def test_a_plan_that_counts_the_event_fires() -> None:
    rows = Rows()
    assert fires(Hook("open", (), (), rows.count, 3), tables(rows))


def test_a_plan_that_counts_nothing_does_not_fire() -> None:
    assert not fires(Hook("open", (), (), lambda: None, 3), tables(Rows()))


def test_a_plan_is_trusted_where_the_event_cannot_be_made() -> None:
    """A host without IPv6 can make no connection by it; its guests and containers can."""
    assert fires(Hook("connect v6", (), (), refused, 3), tables(Rows()))
