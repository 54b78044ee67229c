"""`ebpfctl reload` and SIGHUP: what has changed in the files is applied, and nobody else notices."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.config.options import PROGRAMS
from tests.harness import ROOT, Run, supervisor, wait_for
from tests.kernel.counting import Growth, grows
from tests.workload import Workload

pytestmark = pytest.mark.kernel

KAT = f"kat{os.getpid()}"
GROUPS = f"kat: {KAT}\n"
OPENS = ("apps.file_open", "kat")
NAMES = ("process", "fd", "vfs", "sync", "shm", "softirq")
OFF = "".join(f"    {name} = no\n" for name in PROGRAMS if name not in NAMES)
MAIN = f"[ebpf programs]\n{OFF}"


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    """Six programs in entry mode."""
    with supervisor(groups=GROUPS, files={"ebpf.d.conf": MAIN}) as run:
        yield run


@pytest.fixture
def run(running: Run) -> Iterator[Run]:
    """The shared supervisor as it began: its files, and all of its programs RUNNING."""
    conf = running.directory.parent / "conf"
    shutil.copytree(ROOT / "conf", conf, dirs_exist_ok=True)
    write(running, "ebpf.d.conf", MAIN)
    write(running, "apps_groups.conf", GROUPS)
    reload(running)
    wait_for("all programs RUNNING", lambda: running.ctl("status").returncode == 0)
    assert set(pids(running)) == set(NAMES)
    yield running
    assert "Traceback" not in running.stderr()


def write(run: Run, name: str, text: str) -> None:
    (run.directory.parent / "conf" / name).write_text(text)


def switched(run: Run, text: str) -> None:
    """The main file with this in addition."""
    write(run, "ebpf.d.conf", MAIN + text)


def reload(run: Run) -> dict[str, Any]:
    answer = run.ctl("--json", "reload")
    assert answer.returncode == 0, answer.stderr
    told: dict[str, Any] = json.loads(answer.stdout)
    return told


def changes(told: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    return {(c["programs"], c["key"], c["from"], c["to"]) for c in told["changes"]}


def effects(told: dict[str, Any]) -> set[str]:
    return {change["effect"] for change in told["changes"]}


def pids(run: Run) -> dict[str, int]:
    return {program["name"]: program["pid"] for program in run.status()["programs"]}


def charts_now(run: Run) -> set[str]:
    return {name for name, chart in run.charts().items() if not chart.obsolete}


def test_a_program_is_switched_off_and_on_and_no_other_notices(run: Run) -> None:
    before = pids(run)
    expected = {OPENS: 3 * 1009}
    with Workload(KAT) as work, grows(run, expected) as growth:
        work.do("open", 1009)
        switched(run, "    vfs = no\n    softirq = no\n")
        told = reload(run)
        assert changes(told) == {
            ("vfs", "[ebpf programs] vfs", "yes", "no"),
            ("softirq", "[ebpf programs] softirq", "yes", "no"),
        }
        assert pids(run) == {name: pid for name, pid in before.items() if name not in ("vfs", "softirq")}
        work.do("open", 1009)
        wait_for("vfs' charts to go", lambda: "filesystem.vfs_io" not in charts_now(run))
        switched(run, "    softirq = no\n")
        assert changes(reload(run)) == {("vfs", "[ebpf programs] vfs", "no", "yes")}
        work.do("open", 1009)
        assert growth.settle(expected) == expected
    after = pids(run)
    assert {name: pid for name, pid in after.items() if name != "vfs"} == {
        name: pid for name, pid in before.items() if name not in ("vfs", "softirq")
    }
    assert after["vfs"] != before["vfs"]


def test_a_program_that_is_loaded_differently_is_loaded_anew_alone(run: Run) -> None:
    before = pids(run)
    expected = {OPENS: 2 * 1009}
    with Workload(KAT) as work, grows(run, expected) as growth:
        work.do("open", 1009)
        write(run, "ebpf.d/vfs.conf", "[global]\n    ebpf load mode = return\n")
        write(run, "ebpf.d/sync.conf", "[syscalls]\n    msync = no\n")
        told = reload(run)
        assert changes(told) == {
            ("vfs", "ebpf load mode", "entry", "return"),
            ("sync", "[syscalls] msync", "yes", "no"),
        }
        assert effects(told) == {"loaded anew"}
        assert {p["name"]: p["state"] for p in told["programs"]} == {"vfs": "RUNNING", "sync": "RUNNING"}
        work.do("open", 1009)
        assert growth.settle(expected) == expected
    after = pids(run)
    assert {name for name in NAMES if after[name] != before[name]} == {"vfs", "sync"}
    wait_for("vfs' charts of errors", lambda: "filesystem.vfs_io_error" in charts_now(run))
    reasons = {hook["hook"]: hook["reason"] for hook in run.program("sync")["hooks"]}
    assert reasons["msync"] == "the configuration switches it off"


def test_what_only_the_aggregator_shows_differently_restarts_no_worker(run: Run) -> None:
    before = pids(run)
    wait_for("the groups' charts", lambda: "apps.file_open" in charts_now(run))
    host = ("filesystem.file_descriptor", "do_sys_open")
    with Workload(KAT) as work, Growth(run, host) as growth:
        work.do("open", 5003)
        write(run, "ebpf.d/fd.conf", "[global]\n    apps = no\n")
        told = reload(run)
        assert changes(told) == {("fd", "apps", "yes", "no")}
        work.do("open", 5003)
        growth.settle({host: 10006})
    wait_for("fd's charts of groups to go", lambda: "apps.file_open" not in charts_now(run))
    assert "apps.vfs_open" in charts_now(run) or "apps.file_deleted" in charts_now(run)
    assert pids(run) == before


def test_other_groups_take_processes_over_and_no_event_is_lost(run: Run) -> None:
    """What a group has counted stays its own, though the file has it no more and then has it again."""
    before = pids(run)
    expected: dict[tuple[str, str], int] = {OPENS: 1009, ("apps.file_open", "cat"): 2003}
    with Workload(KAT) as work, grows(run, expected) as growth:
        work.do("open", 1009)
        growth.settle({OPENS: 1009})
        write(run, "apps_groups.conf", f"cat: {KAT}\n")
        told = reload(run)
        assert changes(told) == {("all", "apps_groups.conf", "1 words, 2 groups", "1 words, 2 groups")}
        run.wait_frames(2)
        work.do("open", 2003)
        assert growth.settle(expected) == expected
        write(run, "apps_groups.conf", GROUPS)
        reload(run)
        run.wait_frames(2)
        work.do("open", 1013)
        expected[OPENS] += 1013
        assert growth.settle(expected) == expected
    assert pids(run) == before


def test_another_interval_reaches_worker_and_charts_and_loses_nothing(run: Run) -> None:
    before = pids(run)
    expected = {OPENS: 2 * 1009}
    with Workload(KAT) as work, grows(run, expected) as growth:
        work.do("open", 1009)
        write(run, "ebpf.d/fd.conf", "[global]\n    update every = 2\n")
        told = reload(run)
        assert changes(told) == {("fd", "update every", "1", "2")}
        assert effects(told) == {"sampled by a new worker"}
        work.do("open", 1009)
        assert growth.settle(expected) == expected
    wait_for("the chart's interval", lambda: run.charts()["apps.file_open"].words[8] == "2")
    assert {name for name in NAMES if pids(run)[name] != before[name]} == {"fd"}


def test_what_needs_a_restart_of_the_supervisor_is_said_each_time_and_not_done(run: Run) -> None:
    before, files = pids(run), {"pid": "    pid table size = 65536\n"}
    switched(
        run, f"[global]\n{files['pid']}    btf path = /nonexistent\n[supervisor]\n    map reading = lookup\n"
    )
    for _ in range(2):
        told = reload(run)
        assert changes(told) >= {
            ("all", "btf path", "/sys/kernel/btf", "/nonexistent"),
            ("all", "map reading", "auto", "lookup"),
        }
        assert {c["to"] for c in told["changes"] if c["key"] == "pid table size"} == {"65536"}
        assert effects(told) == {"not applied: restart the supervisor"}
        assert pids(run) == before
    switched(run, "")
    assert changes(reload(run)) == set()


def test_supervision_is_changed_while_all_goes_on(run: Run) -> None:
    before = pids(run)
    switched(run, "[supervisor]\n    stopwaitsecs = 0.5\n    loglevel = debug\n")
    told = reload(run)
    assert changes(told) == {
        ("all", "[supervisor] stopwaitsecs", "5", "0.5"),
        ("all", "[supervisor] loglevel", "info", "debug"),
    }
    assert pids(run) == before
    os.kill(run.pid_of("fd"), signal.SIGSTOP)
    began_s = time.monotonic()
    run.ctl("restart", "fd")
    assert time.monotonic() - began_s < 5
    assert "fd: did not stop within 0.5 s" in run.stderr()


def test_a_configuration_with_errors_changes_nothing_and_tells_all_of_them(run: Run) -> None:
    before = pids(run)
    switched(run, "    vfs = no\n[global]\n    update every = many\n")
    write(run, "ebpf.d/fd.conf", "[global]\n    apps = perhaps\n    updte every = 5\n")
    answer = run.ctl("reload")
    assert answer.returncode == 78
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 4, answer.stderr
    for words in ('expected a whole number from 1 to 86400; found "many"', 'found "perhaps"', "updte every"):
        assert words in answer.stderr
    assert answer.stderr.endswith("ebpfctl: the configuration has errors; nothing has changed\n")
    assert pids(run) == before
    in_json = json.loads(run.ctl("--json", "reload").stdout)
    assert len(in_json["problems"]) == 3


def test_an_unknown_key_is_told_and_hinders_nothing(run: Run) -> None:
    write(run, "ebpf.d/fd.conf", "[global]\n    updte every = 5\n    cgroups = no\n")
    told = reload(run)
    assert changes(told) == {("fd", "cgroups", "yes", "no")}
    assert len(told["warnings"]) == 1
    assert 'did you mean "update every"?' in told["warnings"][0]


def test_a_folder_that_has_gone_changes_nothing(run: Run) -> None:
    conf = run.directory.parent / "conf"
    conf.rename(conf.with_name("elsewhere"))
    answer = run.ctl("reload")
    assert answer.returncode == 78
    assert "No such file or directory" in answer.stderr
    conf.with_name("elsewhere").rename(conf)
    assert run.ctl("reload").stdout == "nothing has changed\n"


def test_hang_up_reloads_and_the_log_has_the_outcome(run: Run) -> None:
    before = pids(run)
    switched(run, "    softirq = no\n")
    run.process.send_signal(signal.SIGHUP)
    wait_for("softirq to stop", lambda: "softirq" not in pids(run))
    assert "reload: softirq: [ebpf programs] softirq: yes -> no: stopped" in run.stderr()
    write(run, "ebpf.d.conf", "[global]\n    apps = perhaps\n")
    run.process.send_signal(signal.SIGHUP)
    wait_for("the refusal", lambda: "reload: the configuration has errors" in run.stderr())
    assert {**before, "softirq": 0} == {**pids(run), "softirq": 0}


def test_what_somebody_has_started_by_hand_is_loaded_anew_too(run: Run) -> None:
    run.ctl("start", "mount")
    pid = run.pid_of("mount")
    write(run, "ebpf.d/mount.conf", "[global]\n    ebpf load mode = return\n")
    reload(run)
    assert run.pid_of("mount") != pid
    assert run.ctl("stop", "mount").returncode == 0
    write(run, "ebpf.d/mount.conf", "")
    reload(run)
    assert "mount" not in pids(run)


def test_the_table_has_a_line_for_each_change(run: Run) -> None:
    switched(run, "    softirq = no\n[supervisor]\n    chart naming = modern\n")
    answer = run.ctl("reload")
    assert answer.returncode == 0
    assert [re.split(r"  +", line) for line in answer.stdout.splitlines()] == [
        ["PROGRAMS", "KEY", "FROM", "TO", "EFFECT"],
        ["softirq", "[ebpf programs] softirq", "yes", "no", "stopped"],
        ["all", "chart naming", "classic", "modern", "shown from the next frame on"],
    ]
    wait_for("modern charts", lambda: any(name.startswith("app.") for name in charts_now(run)))
    assert not {name for name in charts_now(run) if name.startswith("apps.file")}


def test_ten_reloads_leave_no_descriptor_behind(run: Run) -> None:
    def flip(number: int) -> None:
        switched(run, f"    vfs = {'no' if number % 2 else 'yes'}\n[global]\n    cgroups = no\n")
        reload(run)

    flip(0)
    before = len(list(Path(f"/proc/{run.process.pid}/fd").iterdir()))
    for number in range(1, 11):
        flip(number)
    wait_for(
        "no more descriptors than before",
        lambda: len(list(Path(f"/proc/{run.process.pid}/fd").iterdir())) <= before,
    )
