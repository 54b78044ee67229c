"""What options do to a running supervisor; tests/unit/test_options_are_tested.py lists all of them."""

import os
import re
import signal
from collections.abc import Mapping

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import KAT
from tests.kernel.counting import grows
from tests.network import Peer
from tests.workload import Workload

pytestmark = pytest.mark.kernel

GROUPS = f"kat: {KAT}\n"
OPENS = ("apps.file_open", "kat")


def main_file(section: str, *lines: str) -> dict[str, str]:
    return {"ebpf.d.conf": "\n".join((f"[{section}]", *lines, ""))}


def of_fd(*lines: str) -> dict[str, str]:
    return {"ebpf.d/fd.conf": "\n".join(("[global]", *lines, ""))}


def attempts(run: Run, hook: str) -> list[str]:
    """The kinds of plans of a hook whose places there are, in the order in which they were tried."""
    reports = [each for each in run.program("fd")["hooks"] if each["hook"] == hook]
    return list(dict.fromkeys(report["plan"] for report in reports))


def scopes(run: Run) -> set[str]:
    """Which charts of `fd` there are besides the host's: those of apps, of cgroups and services."""
    run.wait_frames(3)
    contexts = {chart.words[5] for chart in run.charts().values()}
    return {context.partition(".")[0] for context in contexts}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {"apps", "cgroup"}),
        (main_file("global", "apps = no"), {"cgroup"}),
        (main_file("global", "disable apps = yes"), {"cgroup"}),
        (main_file("global", "cgroups = no"), {"apps"}),
        (of_fd("apps = no"), {"cgroup"}),
        (of_fd("cgroups = no", "apps = no"), set()),
    ],
    ids=["default", "apps", "disable apps", "cgroups", "its own apps", "its own both"],
)
def test_groups_that_are_not_wanted_have_no_charts(files: Mapping[str, str], expected: set[str]) -> None:
    with supervisor("--only", "fd", files=files) as run:
        found = scopes(run) & {"apps", "cgroup"}
        assert found <= expected
        assert "apps" in found or "apps" not in expected


@pytest.mark.parametrize(
    "files", [main_file("global", "update every = 2"), of_fd("update every = 2")], ids=["all", "its own"]
)
def test_a_program_is_sampled_as_seldom_as_the_file_says(files: Mapping[str, str]) -> None:
    with supervisor("--only", "fd", files=files) as run:
        samples = run.program("fd")["samples"]
        uptime_s = run.program("fd")["uptime_s"]
        run.wait_frames(3)
        now = run.program("fd")
        assert run.charts()["filesystem.file_descriptor"].words[8] == "2"
        assert now["samples"] - samples <= (now["uptime_s"] - uptime_s) / 2 + 1


@pytest.mark.parametrize(
    "files",
    [
        main_file("global", "ebpf load mode = return"),
        main_file("global", "load = return"),
        of_fd("ebpf load mode = return"),
    ],
    ids=["all", "its old name", "its own"],
)
def test_return_mode_has_a_chart_of_errors(files: Mapping[str, str]) -> None:
    with supervisor("--only", "fd", files=files) as run:
        wait_for("the chart of errors", lambda: "filesystem.file_error" in run.charts())


def test_kinds_of_hooks_are_tried_in_the_order_of_the_file() -> None:
    tried = {}
    for line in (
        "ebpf co-re tracing = trampoline",
        "ebpf co-re tracing = probe",
        "ebpf co-re tracing = tracepoint",
        "ebpf type format = legacy",
    ):
        with supervisor("--only", "fd", files=of_fd(line)) as run:
            run.pid_of("fd")
            tried[line] = [plan for plan in attempts(run, "open") if not plan.startswith("kret")]
    trampoline, probe, tracepoint, legacy = tried.values()
    assert re.match("fentry|fexit", trampoline[0])
    assert probe[0] == "kprobe"
    assert tracepoint[0] == "tracepoint"
    assert not {"fentry", "fexit"} & set(legacy)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor has nothing to spread counters over")
def test_counters_that_are_spread_over_processors_take_more_memory_and_count_the_same() -> None:
    held = {}
    for word in ("no", "yes"):
        with (
            supervisor("--only", "fd", groups=GROUPS, files=of_fd(f"maps per core = {word}")) as run,
            Workload(KAT) as work,
            grows(run, {OPENS: 1009}) as growth,
        ):
            work.do("open", 1009)
            assert growth.settle({OPENS: 1009}) == {OPENS: 1009}
            held[word] = run.program("fd")["kernel_bytes"]
    assert held["yes"] > 1.5 * held["no"]


def test_a_program_that_is_switched_off_does_not_run() -> None:
    files = main_file("ebpf programs", *(f"{name} = no" for name in ("socket", "fd", "vfs", "disk", "sync")))
    with supervisor("--only", "fd,mount", files=files) as run:
        assert run.program("mount")["state"] in ("STARTING", "RUNNING")
    with supervisor(files=files) as run:
        names = {program["name"] for program in run.status()["programs"]}
        assert not {"socket", "fd", "vfs", "disk", "sync"} & names
        assert "mount" in names


def test_services_are_called_by_the_names_of_the_systems_list() -> None:
    files = {"ebpf.d/network.conf": "[network connections]\nresolve service names = yes\n"}
    with supervisor("--only", "socket", files=files) as run, Peer("asks") as client:
        if not any(h["hook"] == "connections" and h["attached"] for h in run.program("socket")["hooks"]):
            pytest.skip("connections cannot be told apart here")
        client.do("isolate")
        expected = {("ebpf.outbound_packets", "ntp:UDP:127.0.0.1_sent"): 53}
        with grows(run, expected) as growth:
            client.do("datagrams", 4, 123, 53, 125)
            assert growth.settle(expected) == expected


def test_a_worker_that_keeps_dying_is_given_up_and_tried_again_as_the_file_says() -> None:
    """startsecs: it never counts as started here. Two tries in a row, and a rest of a second."""
    files = main_file(
        "supervisor",
        "startsecs = 3600",
        "startretries = 2",
        "backoff_initial_secs = 0.1",
        "backoff_max_secs = 0.15",
        "fatal_retry_secs = 1",
        "loglevel = debug",
    )
    with supervisor("--only", "mount", files=files) as run:
        killed: set[int] = set()

        def kill() -> bool:
            pid = run.program("mount")["pid"]
            if pid and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            return "FATAL" in run.stderr()

        wait_for("FATAL", kill)
        assert len(killed) == 3
        fatal = run.stderr().index("FATAL")
        wait_for("it to be tried again", lambda: run.program("mount")["pid"] not in (0, None, *killed))
        assert "STARTING" in run.stderr()[fatal:]
