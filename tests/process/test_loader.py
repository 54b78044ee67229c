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


def test_what_needs_no_identities_goes_on_without_them_and_the_rest_comes_when_they_do() -> None:
    """Their loader is killed until it is given up."""
    files = {
        "ebpf.d.conf": "[supervisor]\n    startretries = 1\n    backoff_initial_secs = 0.1\n"
        "    backoff_max_secs = 0.1\n    fatal_retry_secs = 3\n"
    }
    with supervisor("--only", "fd,softirq", files=files, wait=False) as run:

        def given_up() -> bool:
            for pid in with_title(run, "loader task"):
                os.kill(pid, signal.SIGKILL)
            return "task: FATAL" in run.stderr()

        wait_for("the end of tries", given_up)
        wait_for("frames of softirq", lambda: "system.softirq_latency" in run.charts())
        assert "filesystem.file_descriptor" not in run.charts()
        assert run.program("fd")["state"] in ("FATAL", "STARTING")
        assert run.pid_of("fd")
        wait_for("charts of fd", lambda: "filesystem.file_descriptor" in run.charts())
        wait_for("groups", lambda: "apps.file_open" in run.charts())


def test_program_that_the_kernel_refuses_is_unavailable_and_says_why_for_each_hook() -> None:
    """softirq has tracepoints only: asked for kprobes, it cannot be had, and disk neither."""
    with supervisor("--attach", "kprobe", "--only", "softirq,disk", wait=False) as run:
        assert run.process.wait(20) == 1
        assert "UNAVAILABLE: no hook: this hook has no kprobe plan" in run.stderr()
        wait_for("DISABLE", lambda: run.stream.disabled)


def test_plan_that_needs_a_types_layout_is_left_out_where_btf_path_has_no_types() -> None:
    nowhere = {"ebpf.d.conf": "[global]\n    btf path = /nowhere\n"}
    with supervisor("--only", "process", "--attach", "tracepoint", files=nowhere) as run:
        run.pid_of("process")
        release = [hook for hook in run.program("process")["hooks"] if hook["hook"] == "release"]
        reasons = {hook["reason"] for hook in release if not hook["attached"]}
        assert reasons == {"the kernel's types (/nowhere/vmlinux) do not tell of task_struct.pid"}
        assert [hook["target"] for hook in release if hook["attached"]] == ["sched:sched_process_free"]


def test_plan_that_needs_a_types_layout_is_taken_where_btf_path_has_the_types() -> None:
    with supervisor("--only", "process", "--attach", "tracepoint") as run:
        run.pid_of("process")
        release = [hook for hook in run.program("process")["hooks"] if hook["hook"] == "release"]
        assert [hook["attached"] for hook in release] == [True]
