"""The tables that `ebpfctl status` and `check` print."""

import re
from typing import Any

import pytest

from supervisor.status_table import COLUMNS, duration, hooks_table, size, table

RUNNING: dict[str, Any] = {
    "name": "fd",
    "state": "RUNNING",
    "pid": 4711,
    "uptime_s": 100.0,
    "restarts": 2,
    "rss_bytes": 23_456_789,
    "cpu_s": 1.5,
    "kernel_bytes": 2_100_000,
    "samples": 99,
    "dropped": 0,
    "rate": 1234.5,
    "description": "5 hooks (tracepoint)",
    "hooks": [
        {"hook": "open", "plan": "fexit", "target": "do_sys_openat2", "attached": False, "reason": "EPERM"},
        {"hook": "open", "plan": "tracepoint", "target": "syscalls:x", "attached": True, "reason": ""},
    ],
}
STOPPED: dict[str, Any] = {
    **RUNNING,
    "name": "cachestat",
    "state": "STOPPED",
    "pid": None,
    "uptime_s": 0.0,
    "restarts": 0,
    "rss_bytes": 0,
    "cpu_s": 0.0,
    "kernel_bytes": 0,
    "rate": 0.0,
    "description": "stopped",
    "hooks": [],
}


OVERALL: dict[str, Any] = {
    "version": "0.1.0",
    "kernel": "6.18.44",
    "uptime_s": 100.0,
    "frames": 12,
    "kernel_bytes": 23_000_000,
    "supervisor": {"pid": 1, "rss_bytes": 24_000_000, "cpu_s": 0.0},
    "aggregator": {"state": "RUNNING", "pid": 2, "restarts": 1, "rss_bytes": 40_000_000, "cpu_s": 0.0},
}


def lines_of(*programs: dict[str, Any], verbose: bool = False) -> list[str]:
    return table({**OVERALL, "programs": programs}, verbose).splitlines()


def test_the_columns_are_those_of_the_manual() -> None:
    names = ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "RATE", "CPU%", "RSS", "KERNEL", "DESCRIPTION"]
    assert list(COLUMNS) == names
    assert lines_of(RUNNING)[0].split() == names


def test_a_running_program_shows_all_of_itself() -> None:
    line = lines_of(RUNNING)[1]
    assert line.split(maxsplit=9) == [
        *["fd", "RUNNING", "4711", "0:01:40", "2", "1234/s", "1.5", "23MB", "2.1MB"],
        "5 hooks (tracepoint)",
    ]


def test_what_a_stopped_program_does_not_have_is_a_dash() -> None:
    line = lines_of(STOPPED)[1]
    assert line.split() == ["cachestat", "STOPPED", "-", "-", "0", "-", "-", "-", "-", "stopped"]


def test_columns_stand_below_one_another_and_nothing_trails() -> None:
    head, *rows = lines_of(RUNNING, STOPPED)
    for name, value in [("STATE", "RUNNING"), ("DESCRIPTION", "5 hooks")]:
        assert rows[0].index(value) == head.index(name)
    assert rows[1].index("stopped") == head.index("DESCRIPTION")
    assert all(line == line.rstrip() for line in [head, *rows])


def test_programs_stand_in_the_order_of_the_answer() -> None:
    assert [line.split()[0] for line in lines_of(STOPPED, RUNNING)[1:]] == ["cachestat", "fd"]


def test_a_long_description_is_cut_to_the_screen_and_whole_when_verbose() -> None:
    program = {**STOPPED, "description": "not " * 50}
    line = lines_of(program)[1]
    assert len(line) == 120
    assert line.endswith("…")
    verbose = "\n".join(lines_of(program, verbose=True))
    assert verbose[verbose.index("\ncachestat: STOPPED") :].count("not") == 50


def test_no_program_at_all_is_a_head_alone() -> None:
    assert len(lines_of()) == 1


def test_verbose_adds_each_hook_with_its_plan_and_the_reason() -> None:
    lines = lines_of(RUNNING, STOPPED, verbose=True)
    assert lines[lines.index("fd: RUNNING: 5 hooks (tracepoint); 99 samples, 0 dropped") - 1 :] == [
        "",
        "fd: RUNNING: 5 hooks (tracepoint); 99 samples, 0 dropped",
        "  HOOK  PLAN        TARGET          ATTACHED  REMARK",
        "  open  fexit       do_sys_openat2  no        EPERM",
        "  open  tracepoint  syscalls:x      yes",
        "",
        "cachestat: STOPPED: stopped",
    ]


def test_verbose_tells_of_the_whole_first() -> None:
    assert " ".join(lines_of(RUNNING, verbose=True)[:2]) == (
        "ebpf-supervisor 0.1.0 on 6.18.44: up 0:01:40, 12 frames, 23MB of kernel memory; "
        "supervisor 1 (24MB); aggregator RUNNING 2 (40MB), 1 restart"
    )


@pytest.mark.parametrize("words", [1, 4, 6, 9, 30])
@pytest.mark.parametrize("width", [3, 24, 25, 40, 50])
def test_verbose_fits_100_columns_and_leaves_no_word_out(words: int, width: int) -> None:
    reason = " ".join(f"reason{number}" for number in range(words))
    hook = {"hook": "h" * 20, "plan": "kretprobe", "target": "t" * width, "attached": False, "reason": reason}
    program = {**RUNNING, "description": reason, "hooks": [hook, hook]}
    lines = lines_of(program, verbose=True)
    assert max(map(len, lines)) <= 100
    text = " ".join(lines)
    assert (
        re.findall(rf"reason{words - 1}\b", text[text.index("fd: RUNNING") :]) == [f"reason{words - 1}"] * 3
    )
    assert sum(line.strip().startswith("h" * 20) for line in lines) == 2


@pytest.mark.parametrize(
    ("plan", "missed", "remark"),
    [
        ("kretprobe", 291, "missed hits: 291"),
        ("kretprobe", 0, "missed hits: 0"),
        ("kretprobe", None, "missed hits: not told for such a probe here"),
        ("kprobe", 3, "missed hits: 3"),
        ("fentry", 0, ""),
        ("tracepoint", None, ""),
    ],
)
def test_hits_that_the_kernel_missed_stand_beside_the_hook(
    plan: str, missed: int | None, remark: str
) -> None:
    hook = {"hook": "open", "plan": plan, "target": "f", "attached": True, "reason": "", "missed": missed}
    text = hooks_table([{"name": "fd", "hooks": [hook]}])
    assert text.splitlines()[-1].split(maxsplit=4) == [
        "open",
        plan,
        "f",
        "yes",
        *filter(None, [remark]),
    ]


def test_a_hook_without_any_target_still_has_its_row() -> None:
    hook = {"hook": "open", "plan": "kprobe", "target": "", "attached": False, "reason": "no such plan"}
    text = hooks_table([{"name": "fd", "hooks": [hook]}])
    assert text.splitlines()[-1].split(maxsplit=4) == ["open", "kprobe", "-", "no", "no such plan"]


def test_a_program_that_has_just_begun_has_no_share_of_the_cpu_yet() -> None:
    line = lines_of({**RUNNING, "uptime_s": 0.0, "cpu_s": 0.5})[1]
    assert line.split()[6] == "0.0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (59.9, "0:00:59"),
        (60, "0:01:00"),
        (3599, "0:59:59"),
        (3600, "1:00:00"),
        (86399, "23:59:59"),
        (86400, "1d 0:00:00"),
        (100 * 86400 + 3661, "100d 1:01:01"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount_bytes", "text"),
    [
        (0, "0.0MB"),
        (40_000, "0.0MB"),
        (1_250_000, "1.2MB"),
        (9_940_000, "9.9MB"),
        (10_000_000, "10MB"),
        (2_147_483_648, "2147MB"),
    ],
)
def test_sizes(amount_bytes: int, text: str) -> None:
    assert size(amount_bytes) == text
