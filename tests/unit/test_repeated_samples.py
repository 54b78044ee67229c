"""A sample that says nothing new is not announced: the shared table tells of it."""

import os
import time

import numpy as np
import pytest

from supervisor.aggregator.account import Account
from supervisor.aggregator.storage import Storage
from supervisor.kernel.maps import ROWS_PER_PAGE, USED_PAGES, WORD_BYTES, KernelMap, MapInfo
from supervisor.linux import BPF_F_MMAPABLE
from supervisor.pipeline import ledger, memory, table
from supervisor.pipeline.sample import unpack
from tests.harness import wait_for
from workers.base import Assignment, _Worker
from workers.declaration import Column, Program

NS = 1_000_000_000
WORDS = 4
TABLE = table.shape_for(ROWS_PER_PAGE, WORDS)
LEDGER = ledger.Shape(ROWS_PER_PAGE, WORDS, entities=1, totals=WORDS)


class House:
    """A worker, what stands for its kernel map, and one aggregator's account after another."""

    def __init__(self) -> None:
        self.gauge = 7
        self.program = Program(
            "t",
            "",
            (),
            tuple(Column(f"c{n}", "") for n in range(WORDS)),
            row_words=WORDS,
            gauges=lambda maps: {"living": self.gauge},
        )
        rows = MapInfo("rows", 1, ROWS_PER_PAGE * WORDS * WORD_BYTES, BPF_F_MMAPABLE)
        used = MapInfo(USED_PAGES, 1, WORD_BYTES, BPF_F_MMAPABLE)
        self.rows_fd = memory.create("rows", rows.stride_bytes)
        used_fd = memory.create(USED_PAGES, used.stride_bytes)
        os.pwrite(used_fd, (1).to_bytes(8, "little"), 0)
        self.storage = Storage(table.create("t", TABLE), TABLE, ledger.create("t", LEDGER), LEDGER)
        self.announced: list[bytes] = []
        self.given = Assignment(
            program=self.program,
            generation=1,
            columns=frozenset(range(WORDS)),
            hooks=frozenset(),
            maps={"rows": KernelMap(rows, self.rows_fd), USED_PAGES: KernelMap(used, used_fd)},
            table_fd=self.storage.table_fd,
            table_layout=TABLE.layout(),
            ledger_fd=self.storage.ledger_fd,
            ledger_layout=LEDGER.layout(TABLE.block_bytes),
            samples_path="",
            update_every_s=1,
            ready_fd=-1,
        )
        self.another_worker()
        self.another_aggregator()

    def another_worker(self) -> None:
        self.worker = _Worker(self.given, self._send)

    def _send(self, message: bytes) -> bool:
        self.announced.append(message)
        return True

    def another_aggregator(self) -> None:
        self.account = Account(self.program, self.storage)

    def count(self, value: int) -> None:
        os.pwrite(self.rows_fd, value.to_bytes(8, "little"), 0)

    def tick(self) -> list[str]:
        """One tick of both; what was announced."""
        self.announced.clear()
        self.worker.sample()
        return self.hear()

    def hear(self) -> list[str]:
        for message in self.announced:
            self.account.announce(unpack(message))
        self.account.fresh = False
        self.account.take([])
        return [unpack(message).program for message in self.announced]


@pytest.fixture
def house() -> House:
    made = House()
    made.tick()
    return made


def test_a_sample_without_news_is_not_announced_and_counts_as_taken(house: House) -> None:
    taken, sampled_ns = house.account.taken, house.account.ledger.sampled_ns
    before = house.account.seen_tick
    wait_for("another tick", lambda: time.monotonic_ns() // NS > before)
    assert house.tick() == []
    assert house.account.fresh
    assert house.account.taken == taken + 1
    assert house.account.ledger.sampled_ns > sampled_ns
    assert house.account.seen_tick > before


def test_what_is_new_is_announced(house: House) -> None:
    house.count(101)
    assert house.tick() == ["t"]
    assert int(house.account.ledger.totals[0, 0]) == 101
    assert house.tick() == []


def test_a_gauge_that_changes_is_announced(house: House) -> None:
    house.gauge = 8
    assert house.tick() == ["t"]
    assert house.account.latest
    assert house.account.latest.gauges == {"living": 8}


def test_a_new_aggregator_is_told_all_of_it(house: House) -> None:
    house.another_aggregator()
    assert house.account.latest is None
    assert house.tick() == ["t"]
    assert house.account.latest is not None
    assert house.tick() == []


def test_a_new_worker_announces_its_first_sample(house: House) -> None:
    house.another_worker()
    assert house.tick() == ["t"]


def test_a_message_that_was_lost_is_said_again(house: House) -> None:
    house.gauge = 8
    house.worker.sample()
    house.announced.clear()
    assert house.tick() == ["t"]


def test_a_tick_of_a_former_worker_at_a_shorter_interval_is_not_taken_for_a_newer_one(house: House) -> None:
    """Else nobody would wait for the samples that come."""
    writer = table.Writer(house.storage.table_fd, TABLE.layout())
    writer.repeat(2 * house.account.seen_tick, house.account.ledger.sampled_ns - 1)
    assert house.account.latest
    assert house.account.seen_tick == house.account.latest.tick


@pytest.mark.parametrize("sampled_ns", [0, 1, (1 << 64) - 1])
def test_a_moment_that_cannot_be_is_not_taken(house: House, sampled_ns: int) -> None:
    """Slots are given again up to it."""
    before = house.account.ledger.sampled_ns
    assert house.account.latest
    table.Writer(house.storage.table_fd, TABLE.layout()).repeat(house.account.latest.tick + 1, sampled_ns)
    assert not house.account.take([])
    assert house.account.ledger.sampled_ns == before


def test_a_sample_that_only_repeats_is_a_sign_of_life(house: House) -> None:
    published_ns = table.heartbeat(house.storage.table_fd).published_ns
    assert house.tick() == []
    assert table.heartbeat(house.storage.table_fd).published_ns > published_ns
    assert np.all(house.account.ledger.totals == 0)
