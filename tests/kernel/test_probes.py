"""What can go wrong with kprobes and trampolines that are attached: hits that the kernel misses, and plans
that never see anything. On a kernel that has both; the guest tests run it there."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel import attach
from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import GROUPS, KAT
from tests.kernel.counting import grows
from tests.workload import Workload

FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
KPROBES = Path("/sys/kernel/debug/kprobes/enabled")
OPENS = ("apps.file_open", "kat")
CLOSES = ("apps.file_closed", "kat")
SILENT = "it is attached but does not see the event that the start made"

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not attach.PMU.exists(), reason="this kernel has no kprobes"),
]


@contextlib.contextmanager
def switched_off(switch: Path) -> Iterator[None]:
    before = switch.read_text()
    switch.write_text("0")
    try:
        yield
    finally:
        switch.write_text(before)


def hooks(run: Run, name: str) -> list[dict[str, Any]]:
    """What became of a hook's plans, once the program runs: the first frame may be there before it."""
    run.pid_of("fd")
    return [hook for hook in run.program("fd")["hooks"] if hook["hook"] == name]


def plans_in_use(run: Run) -> set[str]:
    return {hook["plan"] for name in ("open", "close") for hook in hooks(run, name) if hook["attached"]}


def reasons(run: Run, name: str) -> dict[str, str]:
    """Why each plan of a hook is not in use."""
    return {hook["plan"]: hook["reason"] for hook in hooks(run, name) if not hook["attached"]}


def check_opens_and_closes(run: Run) -> None:
    expected = {OPENS: 1009, CLOSES: 1009}
    with Workload(KAT) as work, grows(run, expected) as growth:
        work.do("open", 1009)
        assert growth.settle(expected) == expected


def tells_of_missed_hits() -> bool:
    """Kernel 6.7 on."""
    return tuple(int(word) for word in os.uname().release.split(".")[:2]) >= (6, 7)


@contextlib.contextmanager
def blocked_openers(fifo: Path, count: int) -> Iterator[None]:
    """Threads that are within open(2), of a FIFO that nobody writes to."""
    os.mkfifo(fifo)
    threads = [threading.Thread(target=lambda: os.close(os.open(fifo, os.O_RDONLY))) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        writer = os.open(fifo, os.O_WRONLY)
        for thread in threads:
            thread.join()
        os.close(writer)


def test_returns_that_a_kretprobe_misses_are_told_or_said_to_be_untold(tmp_path: Path) -> None:
    """A kretprobe has room for ten calls under way at once, or twice the number of CPUs."""
    openers = 211
    with supervisor("--only", "fd", "--attach", "kprobe", "--load-mode", "return") as run:
        room = max(10, 2 * (os.cpu_count() or 1))
        [before] = [hook["missed"] for hook in hooks(run, "open") if hook["attached"]]

        def missed() -> bool:
            return max(hook["missed"] or 0 for hook in hooks(run, "open")) >= openers - room

        with blocked_openers(tmp_path / "fifo", openers):
            if tells_of_missed_hits():
                assert before == 0
                wait_for("missed hits", missed)
                told = re.search(
                    r"do_sys_openat2 .* missed hits: (\d+)$", run.ctl("status", "-v").stdout, re.M
                )
                assert told
                assert int(told[1]) >= openers - room
                run.wait_value("netdata.ebpf_missed_hits", "fd", openers - room, 60)
                assert re.search(r"WARN +ebpf-supervisor: fd: the kernel has kept \d+ hits", run.stderr())
            else:
                assert before is None
                assert "missed hits: not told for such a probe here" in run.ctl("status", "-v").stdout


# The supervisor with a plan for close(2) that stands for an older kernel's in front of the right one.
OLD_NAME_FIRST = """
import dataclasses
from supervisor import cli
from workers import fd

def old_name_first(plans):
    return tuple(sorted(plans, key=lambda plan: plan.targets[0].symbol != "close_fd"))

close = dataclasses.replace(fd.CLOSE, entry=old_name_first(fd.CLOSE.entry))
fd.PROGRAM = dataclasses.replace(fd.PROGRAM, hooks=(fd.OPEN, close))
cli.main()
"""

# The supervisor whose only plan for close(2) is one that close(2) does not pass.
WRONG_NAME_ONLY = """
import dataclasses
from supervisor import cli
from supervisor.kernel.plans import function_plan
from workers import fd

plans = tuple(function_plan(kind, "ksys_sync", "on_close", "0") for kind in ("fentry", "kprobe"))
close = dataclasses.replace(fd.CLOSE, entry=plans)
fd.PROGRAM = dataclasses.replace(fd.PROGRAM, hooks=(fd.OPEN, close))
cli.main()
"""


@pytest.mark.skipif(
    " file_close_fd\n" not in Path("/proc/kallsyms").read_text(), reason="close_fd is on close(2)'s path here"
)
def test_function_that_is_no_longer_on_the_path_is_found_out_and_the_right_one_taken() -> None:
    """Since 6.6 close(2) does not come through close_fd, which still exists."""
    command = [sys.executable, "-c", OLD_NAME_FIRST, "run"]
    with supervisor("--only", "fd", command=command, groups=GROUPS) as run:
        by_target = {(hook["plan"], hook["target"]): hook for hook in hooks(run, "close")}
        assert by_target["fentry", "close_fd"]["reason"] == SILENT
        assert by_target["kprobe", "close_fd"]["reason"] == SILENT
        assert by_target["fentry", "file_close_fd"]["attached"]
        check_opens_and_closes(run)


def test_hook_that_no_plan_sees_leaves_out_its_dimension_and_no_other() -> None:
    command = [sys.executable, "-c", WRONG_NAME_ONLY, "run"]
    with supervisor("--only", "fd", command=command, groups=GROUPS) as run:
        assert reasons(run, "close") == {"fentry": SILENT, "kprobe": SILENT}
        wait_for("fd's charts", lambda: "filesystem.file_descriptor" in run.charts())
        assert list(run.charts()["filesystem.file_descriptor"].dimensions) == ["do_sys_open"]
        assert "apps.file_closed" not in run.charts()
        assert "without close" in run.program("fd")["description"]


def test_with_ftrace_off_the_next_plan_that_sees_the_event_is_taken() -> None:
    with switched_off(FTRACE), supervisor("--only", "fd", groups=GROUPS) as run:
        assert plans_in_use(run) == {"tracepoint"}
        assert reasons(run, "open") == {"fentry": SILENT, "kprobe": SILENT}
        check_opens_and_closes(run)


@pytest.mark.parametrize("family", ["fentry", "kprobe"])
def test_with_ftrace_off_a_program_of_one_silent_family_is_unavailable_and_says_why(family: str) -> None:
    with switched_off(FTRACE), supervisor("--only", "fd", "--attach", family, wait=False) as run:
        wait_for("the supervisor to give up", lambda: run.process.poll() is not None, 60)
        assert run.process.returncode == 1
        assert f"fd: UNAVAILABLE: no hook: {SILENT}" in run.stderr()
        assert not run.charts()


def test_with_kprobes_disabled_the_next_plan_that_sees_the_event_is_taken() -> None:
    legacy = {"ebpf.d.conf": "[global]\n    ebpf type format = legacy\n"}
    with switched_off(KPROBES), supervisor("--only", "fd", groups=GROUPS, files=legacy) as run:
        assert plans_in_use(run) == {"tracepoint"}
        assert reasons(run, "open")["kprobe"] == SILENT
        check_opens_and_closes(run)
