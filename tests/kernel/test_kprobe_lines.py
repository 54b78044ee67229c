"""Kprobes attached by lines of kprobe_events, as on kernels before 4.17 and on request: they count right, and
however what uses them ends, no line of ours stays and none of anybody else's goes."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from supervisor import kprobe_events
from supervisor.kernel import attach
from tests.harness import SLOW, SUPERVISOR, Run, supervisor, wait_for
from tests.kernel.conftest import GROUPS, KAT
from tests.kernel.counting import grows
from tests.process.test_cleaning import with_title
from tests.workload import Workload

TRACEFS: Final = Path("/sys/kernel/tracing")
EVENTS: Final = TRACEFS / "kprobe_events"
# Both limits at their defaults, so that the harness makes them longer in a guest: it is slow, and not hung.
SETTINGS: Final = {
    "ebpf.d.conf": "[supervisor]\n    kprobe attach = kprobe_events\n    loader_timeout_secs = 60\n"
    "    hung_after_ticks = 4\n"
}
OPTIONS: Final = ("--only", "fd,sync", "--attach", "kprobe")
FOREIGN: Final = ("p:kprobes/ebpfsup_not_ours do_exit", "p:mine/ebpfsup01234567_fd_1_p0 do_exit")
OPENS: Final = ("apps.file_open", "kat")
CLOSES: Final = ("apps.file_closed", "kat")

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not attach.PMU.exists(), reason="this kernel has no kprobes"),
]


@pytest.fixture(scope="module", autouse=True)
def foreign() -> Iterator[None]:
    """Lines of somebody else, with names like ours: they are there before and after."""
    for line in FOREIGN:
        tell(line)
    yield
    there = EVENTS.read_text().splitlines()
    for line in FOREIGN:
        assert line in there
        tell(kprobe_events.removal(line))


def tell(command: str) -> None:
    fd = os.open(EVENTS, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{command}\n".encode())
    os.close(fd)


def lines(run: Run, program: str = "") -> list[str]:
    """Those of a run, or of one of its programs."""
    mark = "_".join(filter(None, (kprobe_events.tag(run.directory), program)))
    return [line for line in EVENTS.read_text().splitlines() if kprobe_events.ours(line, mark)]


@contextlib.contextmanager
def run_with_lines() -> Iterator[Run]:
    with supervisor(*OPTIONS, groups=GROUPS, files=SETTINGS) as run:
        yield run
    assert lines(run) == []


def counts_exactly(run: Run, count: int) -> None:
    expected = {OPENS: count, CLOSES: count}
    with Workload(KAT) as work, grows(run, expected) as growth:
        work.do("open", count)
        assert growth.settle(expected) == expected


def test_lines_count_right_outlive_a_worker_and_go_with_their_program() -> None:
    with run_with_lines() as run:
        plans = {h["plan"] for h in run.program("fd")["hooks"] if h["attached"]}
        assert plans == {"kprobe"}
        of_fd, of_sync = lines(run, "fd"), lines(run, "sync")
        assert of_fd
        assert of_sync
        counts_exactly(run, 1009)
        pid = run.pid_of("fd")
        os.kill(pid, signal.SIGKILL)
        wait_for("another worker", lambda: run.pid_of("fd") != pid)
        assert lines(run, "fd") == of_fd
        counts_exactly(run, 1013)
        run.ctl("stop", "fd")
        wait_for("the lines to go", lambda: lines(run, "fd") == [])
        assert lines(run, "sync") == of_sync
        run.ctl("start", "fd")
        assert len(lines(run, "fd")) == len(of_fd)
        assert not set(lines(run, "fd")) & set(of_fd)
        counts_exactly(run, 1019)


def test_a_line_in_use_is_reported_tried_again_and_removed() -> None:
    """Somebody else has switched one of our events on: the kernel keeps its line until that ends."""
    with run_with_lines() as run:
        event = lines(run, "fd")[0].split()[0].partition(":")[2]
        switch = TRACEFS / "events" / event / "enable"
        switch.write_text("1")
        run.ctl("stop", "fd")
        wait_for("the report", lambda: "it is in use, and tried again" in run.stderr())
        assert len(lines(run, "fd")) == 1
        switch.write_text("0")
        wait_for("the line to go", lambda: lines(run, "fd") == [], 30)
        assert f"removed kprobe_events line p:{event}" in run.stderr()


def test_a_loader_that_is_killed_leaves_no_line() -> None:
    with run_with_lines() as run:
        run.ctl("stop", "sync")
        run.ctl_later("start", "sync")
        wait_for("a line", lambda: lines(run, "sync"))
        for loader in with_title(run, "loader sync"):
            os.kill(loader, signal.SIGKILL)
        run.pid_of("sync")
        in_use = sum(h["attached"] for h in run.program("sync")["hooks"])
        wait_for("as many lines as hooks", lambda: len(lines(run, "sync")) == in_use)


@pytest.mark.parametrize("how", ["cleanup", "the next start"])
def test_lines_of_a_killed_run_are_removed(how: str) -> None:
    with supervisor(*OPTIONS, groups=GROUPS, files=SETTINGS) as run:
        before = lines(run)
        assert before
        run.process.kill()
        run.process.wait()
        words = ["cleanup"] if how == "cleanup" else ["run", "--only", "softirq", "--ticks", "1"]
        command = [str(SUPERVISOR), *words, "--runtime-dir", str(run.directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=True)
        told = done.stdout if how == "cleanup" else done.stderr
        for line in before:
            assert f"removed kprobe_events line {line}" in told
        assert lines(run) == []


def test_a_plan_that_sees_nothing_leaves_no_line() -> None:
    """ftrace is off: a kprobe at the beginning of a function is attached and never fires."""
    switch = Path("/proc/sys/kernel/ftrace_enabled")
    before = switch.read_text()
    switch.write_text("0")
    try:
        with supervisor("--only", "fd", "--attach", "kprobe", files=SETTINGS, wait=False) as run:
            assert run.process.wait(60 * SLOW) == 1
            assert lines(run) == []
    finally:
        switch.write_text(before)
