"""A container that lives for less than a tick is counted and named: the kernel tells its path at birth."""

import os
import signal
import time

import pytest

from supervisor.aggregator.cgroup_names import Kind, chart_type
from tests.harness import Run, wait_for
from tests.kernel.conftest import KAT
from tests.kernel.test_cgroup_of_process import enter
from tests.kernel.test_scopes import GONE_S, Places, classic, in_both_versions, places
from tests.workload import Workload

__all__ = ("classic", "places")

pytestmark = pytest.mark.kernel


@in_both_versions
@pytest.mark.parametrize("opens", [1009, 503])
def test_container_that_lives_50_ms_is_counted_and_has_its_name(
    places: Places, classic: Run, opens: int
) -> None:
    path = f"/docker/{opens:x}{os.getpid():060x}".ljust(72, "0")
    chart = f"{chart_type(path, Kind.CONTAINER, distinct=False)}.file_open"
    with Workload(f"{KAT}c") as work:
        classic.wait_frames(1)
        began_s = time.monotonic()
        with places.made(path) as folder:
            enter(folder, work.pid)
            work.do("open", opens)
            os.kill(work.pid, signal.SIGKILL)
        # An emulated machine takes longer; the folder has gone before its chart is there all the same.
        lived_s = time.monotonic() - began_s
        assert chart not in classic.charts()
    wait_for(f"the chart of what lived {lived_s:.3f} s", lambda: chart in classic.charts())
    assert classic.wait_value(chart, "do_sys_open", opens) == opens
    wait_for("its chart to be obsolete", lambda: classic.charts()[chart].obsolete, GONE_S)
