"""How long the aggregator needs for one frame of every chart, with many groups and cgroups."""

import os
import platform
import statistics
import time
from collections.abc import Mapping
from typing import Final

import numpy as np

from supervisor.aggregator import storage
from supervisor.aggregator.account import Account
from supervisor.aggregator.charts import ChartWriter, Group, Groups, shown
from supervisor.aggregator.storage import FIRST_GROUP
from supervisor.aggregator.stream import Frame
from supervisor.pipeline import table
from supervisor.pipeline.sample import Sample
from tests.benchmarks.figures import Benchmark, Section, Table, at_most
from workers.declaration import Program, Scope
from workers.registry import all_programs

TITLE: Final = "Frames"
GROUPS: Final = 100
SERVICES: Final = 25
CONTAINERS: Final = 25
_SLOTS: Final = 4096
_CHANGED: Final = 500
_FRAMES: Final = 50
_AGENT: Final = (1, 43)

_MEANING: Final = f"""\
CPU time of the aggregator for one tick of all programs, in modern naming: {_CHANGED} rows of processes
have changed in each, {GROUPS} app groups, {SERVICES} services and {CONTAINERS} containers have every
chart. *Take* is adding up and committing what changed, *write* is making the text; medians of {_FRAMES}
frames."""


class _Work:
    """One program's account with a worker's hand, and its writer."""

    def __init__(self, program: Program) -> None:
        kept = storage.create(program, _SLOTS, GROUPS, shards=1, cpus=1)
        self.account = Account(program, kept)
        self.writer = ChartWriter(
            self.account, [c for c in program.charts if shown(c.naming, True, _AGENT)], 1, True
        )
        self._worker = table.Writer(kept.table_fd, kept.table_shape.layout())
        for fd in (kept.table_fd, kept.ledger_fd):
            os.close(fd)
        self._program = program
        rows = kept.ledger_shape.rows
        changed = min(rows, _CHANGED)
        block_rows = rows // kept.table_shape.blocks
        self._blocks = range(-(-changed // block_rows))
        self._values = np.zeros((rows, program.words), np.uint64)
        self._changed = self._values[:changed]
        self._gauges = {
            source: 1
            for chart in program.charts
            for dimension in chart.dimensions
            for source in dimension.sources
            if source not in program.totals and source not in program.ratios
        }
        self._names = {row: f"device{row}" for row in range(2)} if program.kind == "device" else {}

    def count(self) -> None:
        """The worker's tick."""
        self._changed += np.uint64(1009)
        number = self._worker.sequence + 1
        self._worker.write(number, self._blocks, self._values.data.cast("B"))
        columns = tuple(range(len(self._program.columns)))
        self.account.announce(
            Sample(
                self._program.name,
                1,
                number,
                number,
                number,
                len(self._blocks),
                columns,
                self._gauges,
                self._names,
                0,
            )
        )


def run(guest: bool) -> Section:
    work = [_Work(program) for program in all_programs().values()]
    groups = _groups()
    slots = np.arange(_SLOTS)
    groupings = [
        (FIRST_GROUP + slots % GROUPS).astype(np.int32),
        (FIRST_GROUP + GROUPS + slots % (SERVICES + CONTAINERS)).astype(np.int32),
    ]
    take_s, write_s, size_bytes, lines = [], [], 0, 0
    for _ in range(_FRAMES):
        for each in work:
            each.count()
        began_s = time.process_time()
        for each in work:
            each.account.take(groupings)
        taken_s = time.process_time()
        frame = Frame()
        for each in work:
            each.writer.write(frame, groups)
            each.writer.sent()
        written_s = time.process_time()
        take_s.append(taken_s - began_s)
        write_s.append(written_s - taken_s)
        text = b"".join(frame.blocks)
        size_bytes, lines = len(text), text.count(b"\n")
    both_ms = 1000 * (statistics.median(take_s) + statistics.median(write_s))
    rows = [
        ("take", f"{1000 * statistics.median(take_s):.1f} ms"),
        ("write", f"{1000 * statistics.median(write_s):.1f} ms"),
        ("first frame, with its definitions", f"{1000 * write_s[0]:.0f} ms"),
        ("size", f"{size_bytes / 1e6:.2f} MB, {lines:,} lines"),
    ]
    goals = [at_most("take and write", both_ms, 20, "{:.1f} ms")]
    kernels = (f"kernel {platform.release()}",)
    return Section(TITLE, _MEANING, kernels, goals, (Table(("one frame", "CPU time"), rows),))


def _groups() -> Mapping[Scope, Groups]:
    def made(scope: str, first: int, count: int) -> Groups:
        names = [f"{scope}{number}" for number in range(count)]
        return tuple(Group(FIRST_GROUP + first + n, name, name, name) for n, name in enumerate(names))

    return {
        "apps": made("app", 0, GROUPS),
        "services": made("systemd_", GROUPS, SERVICES),
        "cgroup": made("cgroup_", GROUPS + SERVICES, CONTAINERS),
    }


BENCHMARK: Final = Benchmark("frames", "time for a frame with many groups and cgroups", run)

if __name__ == "__main__":
    print(run(False))
