"""`collect pid`: an event is counted at the process that makes it, at that one's parent, or at the thread."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from supervisor.kernel import arrays
from supervisor.kernel.arrays import TASK
from supervisor.kernel.maps import TASK_LIVE, TASK_THREAD
from tests.harness import supervisor, wait_for
from tests.kernel.conftest import KAT, in_interrupts
from tests.kernel.counting import Growth, grows
from tests.kernel.kernel_maps import identity_map
from tests.workload import Workload

pytestmark = pytest.mark.kernel

GROUPS = f"kat: {KAT}\nkids: {KAT}k\nthreads: {KAT}t\n"
KAT_OPENS = ("apps.file_open", "kat")
KIDS_OPENS = ("apps.file_open", "kids")
THREADS_OPENS = ("apps.file_open", "threads")
KIDS, THREADS, OPENS = 13, 11, 101

EXEC_IN_A_THREAD = """
import os, threading, time
threading.Thread(target=lambda: os.execv("/bin/sleep", ["sleep", "60"])).start()
time.sleep(60)
"""


def collecting(word: str, program: str = "fd") -> dict[str, str]:
    return {f"ebpf.d/{program}.conf": f"[global]\n    collect pid = {word}\n"}


def test_real_parent_counts_at_the_process_that_makes_the_event_whatever_thread_it_is() -> None:
    expected = {KIDS_OPENS: KIDS * OPENS, KAT_OPENS: THREADS * OPENS + 307}
    with (
        supervisor("--only", "fd", groups=GROUPS, files=collecting("real parent")) as run,
        Workload(KAT) as work,
        Growth(run, *expected, THREADS_OPENS) as growth,
    ):
        work.do("open", 307)
        work.do("kids", KIDS, OPENS)
        work.do("rest_openers", THREADS, OPENS)
        work.do("end_threads")
        assert growth.settle(expected) == expected
        assert growth.by(*THREADS_OPENS) == 0


def test_parent_counts_at_the_parent_of_the_process_that_makes_the_event() -> None:
    expected = {KAT_OPENS: KIDS * OPENS}
    with (
        supervisor("--only", "fd", groups=GROUPS, files=collecting("parent")) as run,
        Workload(KAT) as work,
        Growth(run, *expected, KIDS_OPENS) as growth,
    ):
        work.do("open", 307)  # at this test's own process, which is in no group here
        work.do("kids", KIDS, OPENS)
        assert growth.settle(expected) == expected
        assert growth.by(*KIDS_OPENS) == 0


def test_all_counts_at_the_thread_by_its_own_name() -> None:
    expected = {KAT_OPENS: 307, THREADS_OPENS: THREADS * OPENS, KIDS_OPENS: KIDS * OPENS}
    with (
        supervisor("--only", "fd", groups=GROUPS, files=collecting("all")) as run,
        Workload(KAT) as work,
        grows(run, expected) as growth,
    ):
        work.do("open", 307)
        work.do("kids", KIDS, OPENS)
        work.do("rest_openers", THREADS, OPENS)
        work.do("end_threads")
        assert growth.settle(expected) == expected


def test_all_knows_the_threads_that_were_there_before_the_start() -> None:
    expected = {KAT_OPENS: 307, THREADS_OPENS: THREADS * OPENS}
    with Workload(KAT) as work:
        work.do("rest_openers", THREADS, OPENS)
        with (
            supervisor("--only", "fd", groups=GROUPS, files=collecting("all")) as run,
            grows(run, expected) as growth,
        ):
            work.do("open", 307)
            work.do("end_threads")
            assert growth.settle(expected) == expected


@in_interrupts
def test_program_that_counts_by_process_does_so_beside_one_that_counts_by_thread() -> None:
    """Births, ends and releases of threads are their process's, though threads have slots of their own."""
    expected = {
        ("apps.thread_create", "kat"): THREADS,
        ("apps.task_exit", "kat"): THREADS,
        ("apps.task_close", "kat"): THREADS,
        THREADS_OPENS: THREADS * OPENS,
    }
    with (
        supervisor("--only", "process,fd", groups=GROUPS, files=collecting("all")) as run,
        Workload(KAT) as work,
        grows(run, expected) as growth,
    ):
        work.do("rest_openers", THREADS, OPENS)
        work.do("end_threads")
        assert growth.settle(expected) == expected


@in_interrupts
def test_thread_that_takes_its_process_over_by_exec_leaves_no_slot_behind() -> None:
    with supervisor("--only", "fd", groups=GROUPS, files=collecting("all")) as run, identity_map(run) as held:
        process = subprocess.Popen([sys.executable, "-c", EXEC_IN_A_THREAD])
        try:
            wait_for("exec", lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
            rows = arrays.records(held, TASK)
            threads = (rows["ppid"] == process.pid) & (rows["state"] & TASK_THREAD != 0)
            assert np.count_nonzero(threads) == 1
            wait_for(
                "its slot to be free",
                lambda: not (arrays.records(held, TASK)["state"][threads] & TASK_LIVE).any(),
            )
        finally:
            process.kill()
            process.wait()
