"""Groups and nobody add up to the host, and it is told when they do not."""

import logging
import os
from collections.abc import Iterator

import numpy as np
import pytest

from supervisor.aggregator import storage
from supervisor.aggregator.account import Account
from supervisor.aggregator.conservation import Apart, Conservation, apart
from supervisor.aggregator.storage import FIRST_GROUP, HOST, NOBODY, Storage
from supervisor.kernel.arrays import U64Array
from supervisor.pipeline import table
from supervisor.pipeline.sample import Sample
from workers.declaration import Column, Program

ROWS, GROUPS = 512, 5
OPENS, CLOSES = 0, 1


@pytest.fixture
def account() -> Iterator[Account]:
    """Of a program with two counters; each row has counted, row 0 is nobody's."""
    program = Program("fd", "", (), (Column("opens", "h"), Column("closes", "h")))
    kept = storage.create(program, ROWS, GROUPS, shards=1, cpus=1)
    made = Account(program, kept)
    count(made, kept, 1, np.arange(2 * ROWS, dtype=np.uint64).reshape(ROWS, 2) + np.uint64(7))
    yield made
    os.close(kept.table_fd)
    os.close(kept.ledger_fd)


def count(account: Account, kept: Storage, sequence: int, values: U64Array) -> None:
    """The rows' running values, taken by the aggregator."""
    blocks = range(kept.table_shape.blocks)
    table.Writer(kept.table_fd, kept.table_shape.layout()).write(sequence, blocks, values.data.cast("B"))
    account.announce(Sample("fd", 1, sequence, sequence, sequence, len(blocks), (0, 1), {}, {}, 0))
    group_of_slot = np.arange(ROWS, dtype=np.int32) % GROUPS
    group_of_slot[0] = NOBODY - FIRST_GROUP
    in_a_cgroup = np.where(group_of_slot == 1, FIRST_GROUP + GROUPS, -1).astype(np.int32)
    assert account.take([group_of_slot + np.int32(FIRST_GROUP), in_a_cgroup])


def test_groups_and_nobody_add_up_to_the_host(account: Account) -> None:
    totals = account.ledger.totals
    assert totals[NOBODY].tolist() == [7, 8]
    assert totals[HOST].tolist() == [ROWS * 7 + 2 * sum(range(ROWS)), ROWS * 8 + 2 * sum(range(ROWS))]
    assert apart(account, GROUPS) == []
    assert Conservation([account], GROUPS).look() == [0]


@pytest.mark.parametrize("entity", [HOST, NOBODY, FIRST_GROUP, FIRST_GROUP + GROUPS - 1])
def test_a_total_that_is_wrong_by_one_is_found(account: Account, entity: int) -> None:
    host = int(account.ledger.totals[HOST, CLOSES])
    account.ledger.totals[entity, CLOSES] += np.uint64(1)
    differs = (host + 1, host) if entity == HOST else (host, host + 1)
    assert apart(account, GROUPS) == [Apart("fd", "closes", *differs)]


def test_what_a_cgroup_has_counted_is_no_part_of_the_sum(account: Account) -> None:
    account.ledger.totals[FIRST_GROUP + GROUPS, OPENS] += np.uint64(1)
    assert apart(account, GROUPS) == []


def test_totals_that_have_wrapped_around_add_up(account: Account) -> None:
    for entity in (HOST, FIRST_GROUP + 2):
        account.ledger.totals[entity] -= np.uint64(10_000)
    assert apart(account, GROUPS) == []


def test_a_program_without_processes_has_nothing_to_add_up() -> None:
    program = Program("disk", "", (), (Column("a", "h"),), kind="device", rows=4)
    kept = storage.create(program, ROWS, GROUPS, shards=1, cpus=1)
    made = Account(program, kept)
    made.ledger.totals[:] = 5
    assert apart(made, GROUPS) == []
    os.close(kept.table_fd)
    os.close(kept.ledger_fd)


def test_it_is_told_once_and_then_summed_up(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    now_s = [100.0]
    watching = Conservation([account], GROUPS, lambda: now_s[0])
    account.ledger.totals[FIRST_GROUP] += np.uint64(3)
    with caplog.at_level(logging.ERROR):
        for _ in range(50):
            assert watching.look() == [2]
            now_s[0] += 1
        (first,) = caplog.messages
        assert "fd opens: host" in first
        assert "and 1 more; in 1 frames" in first
        for _ in range(50):
            watching.look()
            now_s[0] += 1
    assert len(caplog.messages) == 2
    assert "in 60 frames" in caplog.messages[1]
