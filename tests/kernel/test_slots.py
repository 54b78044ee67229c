"""Slots: given, taken back and given again; and what happens when there are not enough of them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness import supervisor
from tests.kernel.conftest import KAT
from tests.kernel.counting import Growth, grows
from tests.workload import Workload

pytestmark = pytest.mark.kernel

GROUPS = f"kat: {KAT}\n"
OPENS = ("apps.file_open", "kat")
CREATED = ("apps.process_create", "kat")
HOST_OPENS = ("filesystem.file_descriptor", "do_sys_open")


def table_of(slots: int) -> dict[str, str]:
    return {"ebpf.d.conf": f"[global]\n    pid table size = {slots}\n"}


def test_slots_are_given_again_without_one_count_under_a_wrong_name() -> None:
    """Twice as many processes as there are slots, one after the other."""
    expected = {OPENS: 1031 * 3, CREATED: 1031}
    with (
        supervisor("--only", "process,fd", groups=GROUPS, files=table_of(512)) as run,
        Workload(KAT) as work,
        grows(run, expected) as growth,
    ):
        for _ in range(10):
            work.do("churn", 103, 3)
            run.wait_frames(2)
        work.do("churn", 1, 3)
        assert growth.settle(expected) == expected


def test_hosts_total_is_exact_when_slots_have_run_out() -> None:
    """What has no slot is not attributed, and not lost."""
    with (
        supervisor("--only", "process,fd", groups=GROUPS, files=table_of(64)) as run,
        Workload(KAT) as crowd,
        Workload(KAT) as work,
        Growth(run, HOST_OPENS, OPENS) as growth,
    ):
        crowd.do("sleepers", 257)  # more than the 256 that a table has at least
        work.do("churn", 1009, 7)
        growth.settle({HOST_OPENS: 7063}, 30)
        assert growth.by(*OPENS) < 7063 <= growth.by(*HOST_OPENS)


def test_name_that_exec_cuts_is_the_one_that_groups_go_by(tmp_path: Path) -> None:
    """A file's name can be longer than the 15 bytes of a process's."""
    program = tmp_path / f"{KAT}-{'long' * 5}"
    program.symlink_to(os.path.realpath("/bin/sleep"))
    groups = f"cut: {program.name[:15]}\n"
    with (
        supervisor("--only", "fd", groups=groups) as run,
        Growth(run, ("apps.file_open", "cut")) as growth,
        subprocess.Popen([program, "60"]) as process,
    ):
        growth.settle({("apps.file_open", "cut"): 1})  # the loader's: the C library
        process.kill()
