"""What frames say of a program, and what an agent makes of it: sums that are exact, charts that exist."""

import os
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from supervisor.aggregator import account
from supervisor.aggregator.account import Account, Storage
from supervisor.aggregator.charts import ChartWriter
from supervisor.aggregator.stream import Frame
from supervisor.kernel.maps import U64Array
from supervisor.pipeline import ledger, table
from supervisor.pipeline.sample import Sample
from tests.harness import Stream
from workers.declaration import Chart, Column, Dimension, Program, counted, momentary, slot_charts

GROUPS = ["web", "db", "other"]
WEB, DB, OTHER = range(3)
ROWS = 8


def chart(identity: str, *dimensions: Dimension) -> Chart:
    return Chart("system", "t", identity, "Title", "calls/s", "family", "line", 1, "module", dimensions)


SLOTS = Program(
    "slots",
    "",
    (),
    (Column("call", "call"), Column("error", "call", return_mode_only=True), Column("time", "call")),
    (
        chart("calls", counted("call", "", "call"), counted("error", "", "error")),
        chart("errors", counted("error", "", "error")),
        chart("both", counted("sum", "", "call", "time")),
        chart("time", Dimension("ms", "", ("time",), unit=1000)),
        chart("now", momentary("living")),
        *slot_charts(
            {("call",): ("call", "Calls", 1), ("error",): ("error", "Errors", 2)}, family="f", module="m"
        ),
    ),
)
DEVICES = Program(
    "devices",
    "",
    (),
    (Column("low", "done"), Column("high", "done")),
    (
        Chart(
            "device",
            "latency",
            "",
            "Latency",
            "calls/s",
            "",
            "stacked",
            1,
            "disk",
            (counted("low", "", "low"), counted("high", "", "high")),
            context="disk.latency",
        ),
    ),
    kind="device",
    rows=ROWS,
)


class Rig:
    """One program's account and chart writer, a worker's side to feed them, and an agent that listens."""

    def __init__(self, program: Program, apps: bool = True) -> None:
        self.program, self.apps = program, apps
        columns = len(program.columns)
        shapes = (
            table.Shape(ROWS, columns),
            ledger.Shape(ROWS, columns, account.entities(program, len(GROUPS))),
        )
        self.storage = Storage(
            table.create("t", shapes[0]), shapes[0], ledger.create("l", shapes[1]), shapes[1]
        )
        self.worker = table.Writer(self.storage.table_fd, shapes[0])
        self.rows: U64Array = np.zeros((ROWS, columns), np.uint64)
        self.group_of_slot = np.array([-1, WEB, WEB, DB, OTHER, -1, -1, -1], np.int32)
        self.exposed = np.zeros(len(GROUPS), np.bool_)
        self.agent = Stream()
        self.absent: set[int] = set()
        self.gauges: Mapping[str, int] = {"living": 5}
        self.names: Mapping[int, str] = {}
        self.restart()

    def restart(self) -> None:
        """Another aggregator process takes over."""
        self.account = Account(self.program, self.storage)
        self.writer = ChartWriter(self.account, GROUPS, 1, self.apps)

    def count(self, row: int, *amounts: int) -> None:
        self.rows[row, : len(amounts)] += np.array(amounts, np.uint64)

    def frame(self, written: bool = True) -> str:
        """One cycle; its text, which the agent reads when it is written."""
        sequence = self.worker.sequence + 1
        self.worker.write(sequence, np.arange(ROWS, dtype=np.uint32), self.rows)
        host = tuple(
            None if column in self.absent else int(total)
            for column, total in enumerate(self.rows.sum(axis=0))
        )
        self.account.announce(
            Sample(self.program.name, 1, sequence, sequence, 1, ROWS, host, self.gauges, self.names, 0)
        )
        assert self.account.take(self.group_of_slot if self.program.kind == "slot" else None)
        frame = Frame()
        self.writer.write(frame, self.exposed)
        text = b"".join(frame.blocks).decode()
        if written:
            self.writer.sent(frame, self.exposed)
            for line in text.splitlines():
                self.agent.feed(line)
        return text

    def values(self, chart: str, dimension: str) -> list[int]:
        return self.agent.charts[chart].values.get(dimension, [])

    def close(self) -> None:
        os.close(self.storage.table_fd)
        os.close(self.storage.ledger_fd)


@pytest.fixture
def slots() -> Iterator[Rig]:
    rig = Rig(SLOTS)
    yield rig
    rig.close()


@pytest.fixture
def devices() -> Iterator[Rig]:
    rig = Rig(DEVICES)
    yield rig
    rig.close()


def test_totals_are_the_hosts_and_the_groups_running_sums(slots: Rig) -> None:
    slots.exposed[[WEB, DB]] = True
    for _ in range(3):
        slots.count(0, 1)  # nobody's
        slots.count(1, 10)
        slots.count(2, 100)
        slots.count(3, 1000)
        slots.frame()
    assert slots.values("t.calls", "call") == [1111, 2222, 3333]
    assert slots.values("apps.call", "web") == [110, 220, 330]
    assert slots.values("apps.call", "db") == [1000, 2000, 3000]


def test_a_dimension_can_be_several_columns_or_another_unit(slots: Rig) -> None:
    slots.count(1, 3, 0, 1999)
    slots.count(3, 4, 0, 2500)
    slots.frame()
    assert slots.values("t.both", "sum") == [4506]
    assert slots.values("t.time", "ms") == [4]


def test_a_group_that_appears_later_begins_at_0_and_then_has_all_its_counts(slots: Rig) -> None:
    slots.exposed[WEB] = True
    slots.frame()
    slots.count(3, 7)
    slots.exposed[DB] = True
    slots.frame()
    slots.count(3, 1)
    slots.frame()
    assert slots.values("apps.call", "db") == [0, 8]


def test_the_groups_of_the_first_frame_begin_with_what_they_have(slots: Rig) -> None:
    slots.count(1, 5)
    slots.exposed[WEB] = True
    slots.frame()
    assert slots.values("apps.call", "web") == [5]


def test_charts_are_defined_once_and_again_when_a_group_appears(slots: Rig) -> None:
    slots.exposed[WEB] = True
    assert slots.frame().count("CHART apps.call ") == 1
    assert "CHART" not in slots.frame()
    slots.exposed[DB] = True
    text = slots.frame()
    assert text.count("CHART apps.call ") == 1
    assert "CHART t." not in text
    assert list(slots.agent.charts["apps.call"].dimensions) == ["web", "db"]


def test_a_frame_that_was_not_written_is_as_if_it_had_never_been(slots: Rig) -> None:
    slots.exposed[WEB] = True
    slots.frame()
    slots.exposed[DB] = True
    slots.count(3, 7)
    for _ in range(3):
        lost = slots.frame(written=False)
        assert "CHART apps.call " in lost
        assert "SET db = 0" in lost
    assert slots.frame() == lost
    slots.frame()
    assert slots.values("apps.call", "db") == [0, 7]


def test_the_first_frame_is_defined_again_until_it_is_written(slots: Rig) -> None:
    slots.exposed[WEB] = True
    assert slots.frame(written=False) == slots.frame(written=False) == slots.frame()


def test_another_aggregator_defines_all_again_and_no_counter_falls(slots: Rig) -> None:
    slots.exposed[WEB] = True
    slots.count(1, 9)
    slots.frame()
    slots.restart()
    slots.count(1, 1)
    assert "CHART apps.call " in slots.frame()
    assert slots.values("apps.call", "web") == [9, 10]
    assert slots.values("t.calls", "call") == [9, 10]


def test_a_group_that_appears_after_a_restart_begins_at_0_too(slots: Rig) -> None:
    slots.exposed[WEB] = True
    slots.frame()
    slots.restart()
    slots.exposed[DB] = True
    slots.count(3, 4)
    slots.frame()
    slots.frame()
    assert slots.values("apps.call", "db") == [0, 4]


def test_a_column_that_the_kernel_does_not_give_is_no_dimension(slots: Rig) -> None:
    slots.exposed[WEB] = True
    slots.absent = {1}
    slots.frame()
    assert list(slots.agent.charts["t.calls"].dimensions) == ["call"]
    assert "t.errors" not in slots.agent.charts
    assert "apps.error" not in slots.agent.charts


def test_a_dimension_needs_all_its_columns(slots: Rig) -> None:
    slots.absent = {2}
    slots.frame()
    assert "t.both" not in slots.agent.charts


def test_a_gauge_is_sent_as_it_is_and_is_absent_when_nobody_tells_it(slots: Rig) -> None:
    slots.frame()
    slots.gauges = {"living": 2}
    slots.frame()
    slots.gauges = {}
    slots.frame()
    assert slots.values("t.now", "living") == [5, 2]
    assert slots.agent.charts["t.now"].dimensions["living"][2] == "absolute"


def test_without_apps_there_are_no_apps_charts() -> None:
    rig = Rig(SLOTS, apps=False)
    rig.exposed[WEB] = True
    rig.frame()
    assert not [name for name in rig.agent.charts if name.startswith("apps.")]
    rig.close()


def test_a_counter_beyond_int64_stays_a_number_that_the_agent_reads(slots: Rig) -> None:
    slots.count(1, (1 << 64) - 1)
    slots.frame()
    assert slots.values("t.calls", "call") == [(1 << 63) - 1]


def test_each_device_has_a_chart_of_its_own_under_its_name(devices: Rig) -> None:
    devices.names = {1: "vda", 2: "cciss!c0d0", 3: "idle"}
    devices.count(1, 1, 2)
    devices.count(2, 3)
    devices.frame()
    devices.frame()
    assert set(devices.agent.charts) == {"latency.vda", "latency.cciss_c0d0"}
    assert devices.agent.charts["latency.vda"].last("high") == 2
    assert devices.agent.charts["latency.cciss_c0d0"].words[4:6] == ["cciss!c0d0", "disk.latency"]


def test_a_device_that_appears_later_begins_at_0(devices: Rig) -> None:
    devices.names = {1: "vda", 2: "vdb"}
    devices.count(1, 1)
    devices.frame()
    devices.count(2, 5)
    devices.frame()
    devices.frame()
    assert devices.values("latency.vdb", "low") == [0, 5]


def test_the_first_device_of_an_idle_machine_begins_at_0(devices: Rig) -> None:
    devices.names = {1: "vda"}
    devices.frame()
    devices.count(1, 5)
    devices.frame()
    devices.frame()
    assert devices.values("latency.vda", "low") == [0, 5]


def test_a_device_that_has_gone_keeps_its_chart_and_its_counts(devices: Rig) -> None:
    devices.names = {1: "vda"}
    devices.count(1, 5)
    devices.frame()
    devices.frame()
    devices.names = {}
    devices.frame()
    assert devices.values("latency.vda", "low")[1:] == [5, 5]


def test_devices_whose_names_are_alike_when_cleaned_do_not_share_a_chart(devices: Rig) -> None:
    devices.names = {1: "a!b", 2: "a/b", 3: "a_b", 4: "a_b_3"}
    for row in devices.names:
        devices.count(row, row)
    devices.frame()
    devices.frame()
    assert len(devices.agent.charts) == 4
    assert sorted(chart.last("low") for chart in devices.agent.charts.values()) == [1, 2, 3, 4]


def test_a_name_for_a_row_that_does_not_exist_does_no_harm(devices: Rig) -> None:
    devices.names = {1: "vda", ROWS: "vdb", 1 << 63: "vdc"}
    devices.count(1, 5)
    devices.frame()
    assert set(devices.agent.charts) == {"latency.vda"}
