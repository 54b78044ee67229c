"""What frames say of a program, and what an agent makes of it: sums that are exact, charts that exist."""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from supervisor.aggregator import storage
from supervisor.aggregator.account import Account
from supervisor.aggregator.charts import ChartWriter, Group, Groups
from supervisor.aggregator.stream import Frame
from supervisor.kernel.arrays import U64Array
from supervisor.pipeline import table
from supervisor.pipeline.sample import Sample
from tests.harness import Stream
from workers.declaration import Chart, Column, Dimension, Naming, Program, Ratio, Scope

GROUPS = ["web", "db", "other"]
WEB, DB, OTHER = range(3)
ROWS = 8


def chart(scope: Scope, identity: str, *dimensions: Dimension, naming: Naming = "both") -> Chart:
    family = "{group}" if scope == "device" else "family"
    return Chart(
        scope, "", naming, identity, "Title", "calls/s", family, "a.b", "line", 1, False, "module", dimensions
    )


def running(identity: str, *sources: str, over: int = 1) -> Dimension:
    return Dimension(identity, "", sources, over=over)


SLOTS = Program(
    "slots",
    "",
    (),
    (Column("call", "call"), Column("error", "call", return_mode_only=True), Column("time", "call")),
    ratios={"failed": Ratio(("error",), ("call",), empty=100)},
)
SLOT_CHARTS = (
    chart("system", "t.calls", running("call", "call"), running("error", "error")),
    chart("system", "t.errors", running("error", "error")),
    chart("system", "t.both", running("sum", "call", "time")),
    chart("system", "t.time", running("ms", "time", over=1000)),
    chart("system", "t.now", Dimension("living", "", ("living",))),
    chart("apps", "apps.call", running("{group}", "call")),
    chart("apps", "apps.error", running("{group}", "error")),
    chart("apps", "app.{group}_call", running("calls", "call")),
    chart("apps", "app.{group}_failed", Dimension("percentage", "", ("failed",))),
)
DEVICES = Program(
    "devices", "", (), (Column("low", "done"), Column("high", "done")), kind="device", rows=ROWS
)
DEVICE_CHARTS = (chart("device", "latency.{group}", running("low", "low"), running("high", "high")),)


class Rig:
    """One program's account and chart writer, a worker's side to feed them, and an agent that listens."""

    def __init__(self, program: Program, charts: Sequence[Chart]) -> None:
        self.program, self.charts = program, charts
        self.storage = storage.create(program, ROWS, len(GROUPS), shards=1, cpus=1)
        self.worker = table.Writer(self.storage.table_fd, self.storage.table_shape.layout())
        self.rows: U64Array = np.zeros((self.storage.ledger_shape.rows, len(program.columns)), np.uint64)
        self.entity_of_slot = np.array([-1, WEB, WEB, DB, OTHER, -1, -1, -1], np.int32)
        self.entity_of_slot[1:5] += 1
        self.exposed = np.zeros(len(GROUPS), np.bool_)
        self.agent = Stream()
        self.absent: set[int] = set()
        self.gauges: Mapping[str, int] = {"living": 5}
        self.names: Mapping[int, str] = {}
        self.restart()

    def restart(self) -> None:
        """Another aggregator process takes over."""
        self.account = Account(self.program, self.storage)
        self.writer = ChartWriter(self.account, self.charts, 1, modern=True)

    def count(self, row: int, *amounts: int) -> None:
        self.rows[row, : len(amounts)] += np.array(amounts, np.uint64)

    def frame(self, written: bool = True) -> str:
        """One cycle; its text, which the agent reads when it is written."""
        sequence = self.worker.sequence + 1
        self.worker.write(sequence, range(self.storage.table_shape.blocks), self.rows.data.cast("B"))
        columns = tuple(column for column in range(self.rows.shape[1]) if column not in self.absent)
        self.account.announce(
            Sample(self.program.name, 1, sequence, sequence, 1, ROWS, columns, self.gauges, self.names, 0)
        )
        assert self.account.take([self.entity_of_slot])
        frame = Frame()
        self.writer.write(frame, {"apps": self.groups()})
        return self.deliver(frame, written)

    def groups(self) -> Groups:
        return tuple(
            Group(g + 1, GROUPS[g], GROUPS[g], GROUPS[g]) for g in np.flatnonzero(self.exposed).tolist()
        )

    def deliver(self, frame: Frame, written: bool = True) -> str:
        text = b"".join(frame.blocks).decode()
        if written:
            self.writer.sent()
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
    rig = Rig(SLOTS, SLOT_CHARTS)
    yield rig
    rig.close()


@pytest.fixture
def devices() -> Iterator[Rig]:
    rig = Rig(DEVICES, DEVICE_CHARTS)
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
    assert set(devices.agent.charts) == {"latency.vda", "latency.cciss_c0d0", "latency.idle"}
    assert devices.agent.charts["latency.vda"].last("high") == 2
    assert devices.agent.charts["latency.cciss_c0d0"].words[4:6] == ["cciss!c0d0", "a.b"]


def test_a_device_that_appears_later_begins_at_0(devices: Rig) -> None:
    devices.names = {1: "vda"}
    devices.count(1, 1)
    devices.frame()
    devices.names = {1: "vda", 2: "vdb"}
    devices.count(2, 5)
    devices.frame()
    devices.frame()
    assert devices.values("latency.vdb", "low") == [0, 5]


def test_the_first_device_of_an_idle_machine_begins_at_0(devices: Rig) -> None:
    devices.frame()
    devices.names = {1: "vda"}
    devices.count(1, 5)
    devices.frame()
    devices.frame()
    assert devices.values("latency.vda", "low") == [0, 5]


def test_what_has_gone_is_obsolete_once_and_comes_back_with_all_its_counts(devices: Rig) -> None:
    devices.names = {1: "vda", 2: "vdb"}
    devices.count(1, 5)
    devices.frame()
    devices.frame()
    devices.names = {2: "vdb"}
    text = devices.frame()
    assert [line.split()[1] for line in text.splitlines() if "obsolete" in line] == ["latency.vda"]
    assert "vda" not in devices.frame()
    devices.count(1, 2)
    devices.names = {1: "vda", 2: "vdb"}
    assert "CHART latency.vda " in devices.frame()
    assert devices.values("latency.vda", "low")[-1] == 7


def test_a_withdrawal_that_was_not_written_is_made_again(devices: Rig) -> None:
    devices.names = {1: "vda"}
    devices.frame()
    devices.names = {}
    assert devices.frame(written=False).count("obsolete") == devices.frame().count("obsolete") == 1
    assert "obsolete" not in devices.frame()


def test_a_group_that_has_gone_is_an_obsolete_dimension_and_an_obsolete_chart(slots: Rig) -> None:
    slots.exposed[[WEB, DB]] = True
    slots.frame()
    slots.exposed[WEB] = False
    text = slots.frame()
    assert "DIMENSION web '' incremental 1 1 obsolete\n" in text
    assert [line.split()[1] for line in text.splitlines() if "'obsolete'" in line] == [
        "app.web_call",
        "app.web_failed",
    ]
    assert "SET web" not in text
    slots.count(1, 3)
    slots.exposed[WEB] = True
    assert "CHART app.web_call " in slots.frame()
    assert slots.values("app.web_call", "calls")[-1] == 3


def test_a_program_that_was_stopped_takes_all_its_charts_with_it(slots: Rig) -> None:
    slots.exposed[WEB] = True
    slots.frame()
    frame = Frame()
    slots.writer.withdraw(frame)
    text = slots.deliver(frame)
    gone = {line.split()[1] for line in text.splitlines()}
    assert gone == set(slots.agent.charts)
    assert not slots.writer.visible
    slots.frame()
    assert slots.writer.visible


def test_a_chart_of_one_group_is_labelled_with_its_name(slots: Rig) -> None:
    slots.exposed[WEB] = True
    text = slots.frame()
    assert text.count("CLABEL 'app_group' 'web' 1\nCLABEL_COMMIT\n") == 2


def test_a_ratio_is_of_the_interval_and_has_an_answer_for_an_empty_one(slots: Rig) -> None:
    slots.exposed[WEB] = True
    slots.count(1, 4, 1)
    slots.frame()
    slots.frame()
    slots.count(1, 10, 1)
    slots.frame()
    assert slots.values("app.web_failed", "percentage") == [25, 100, 10]


def test_a_device_in_the_row_of_one_that_has_gone_begins_at_0_and_has_nothing_of_it(devices: Rig) -> None:
    devices.names = {1: "vda"}
    devices.count(1, 101, 7)
    devices.frame()
    devices.frame()
    devices.names = {}
    devices.frame()
    devices.names = {1: "vdb"}
    devices.count(1, 5)
    devices.frame()
    devices.frame()
    assert devices.values("latency.vda", "low") == [0, 101]
    assert devices.values("latency.vdb", "low") == [0, 5]
    assert devices.values("latency.vdb", "high") == [0, 0]
    assert devices.agent.charts["latency.vda"].obsolete


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


def test_of_two_declarations_under_one_id_the_agent_is_told_the_first_that_has_anything() -> None:
    """As reads may be known by their bytes, and writes by the size asked for only."""
    both = (chart("system", "t.x", running("a", "call")), chart("system", "t.x", running("b", "error")))
    rig = Rig(SLOTS, both)
    rig.count(1, 5, 7)
    assert rig.frame().count("BEGIN t.x") == 1
    assert list(rig.agent.charts["t.x"].dimensions) == ["a"]
    rig.absent.add(0)
    rig.frame()
    assert rig.values("t.x", "b")
    rig.close()
