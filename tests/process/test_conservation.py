"""A total that is spoilt in a running supervisor's memory shows in its log and in a chart of its own."""

import os
from pathlib import Path

import numpy as np

from supervisor.aggregator.storage import FIRST_GROUP, entities
from supervisor.kernel import arrays
from supervisor.pipeline import ledger
from supervisor.reload import SPARE_GROUPS
from tests.harness import supervisor, wait_for
from workers.registry import find

CHART = "netdata.ebpf_conservation"
# The charts about ourselves come each ten seconds.
SHOWN_S = 30.0
GROUPS = ("web", "other")


def ledger_of(pid: int, program: str) -> int:
    """A descriptor of the memory that the supervisor owns."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(entry).startswith(f"/memfd:ledger:{program} "):
            return os.open(entry, os.O_RDWR)
    raise AssertionError(f"no ledger of {program}")


def test_groups_that_do_not_add_up_are_told_and_charted() -> None:
    program = find("fd")
    with supervisor("--only", "fd", groups="web: nginx\n") as run:
        wait_for("the chart", lambda: CHART in run.charts() and run.charts()[CHART].values, SHOWN_S)
        assert run.value(CHART, "fd") == 0
        fd = ledger_of(run.process.pid, "fd")
        places = entities(program, len(GROUPS) + SPARE_GROUPS)
        # Totals stand before all that depends on the number of rows.
        shape = ledger.Shape(1, program.words, places, len(program.totals))
        totals = arrays.views(fd, shape.fields(), writable=True)["totals"]
        totals[FIRST_GROUP, 0] += np.uint64(1)
        wait_for("the log", lambda: "groups do not add up to the host's total: fd " in run.stderr())
        wait_for("the chart to tell", lambda: run.value(CHART, "fd") == 1, SHOWN_S)
        run.wait_frames(5)
        assert run.stderr().count("do not add up") == 1
        os.close(fd)
