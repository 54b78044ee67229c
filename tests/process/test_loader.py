"""A loader that crashes, hangs or is refused costs its own program, and that only for a while."""

import os
import signal

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.process.test_cleaning import with_title

pytestmark = pytest.mark.kernel

IMPATIENT = {"ebpf.d.conf": "[supervisor]\n    loader_timeout_secs = 3\n    backoff_initial_secs = 0.1\n"}


def stop_loader_of(run: Run, program: str) -> int:
    """Holds the program's loader as soon as it is there."""
    pid = wait_for(f"a loader of {program}", lambda: with_title(run, f"loader {program}"))[0]
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_loader_that_hangs_is_killed_and_its_program_comes_back_while_others_run() -> None:
    with supervisor(files=IMPATIENT) as run:
        run.pid_of("fd")
        assert run.ctl("stop", "fd").returncode == 0
        disk = run.pid_of("disk")
        run.ctl_later("start", "fd")
        held = stop_loader_of(run, "fd")
        wait_for("the loader's end", lambda: not os.path.exists(f"/proc/{held}"))
        assert run.pid_of("fd")
        assert run.pid_of("disk") == disk
        assert "the loader did not finish within 3 s" in run.stderr()


def test_program_that_the_kernel_refuses_is_unavailable_and_says_why_for_each_hook() -> None:
    """softirq has tracepoints only: asked for kprobes, it cannot be had, and disk neither."""
    with supervisor("--attach", "kprobe", "--only", "softirq,disk", wait=False) as run:
        assert run.process.wait(20) == 1
        assert "UNAVAILABLE: kprobe: this hook has no kprobe plan" in run.stderr()
        wait_for("DISABLE", lambda: run.stream.disabled)
