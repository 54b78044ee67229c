"""`ebpf-supervisor serve` with real readers: nothing that one does, and no restart, costs anybody a count."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import PLUGIN, SLOW, SUPERVISOR, Run, supervisor, wait_for
from tests.process.test_faults import GROUP, GROUPS
from tests.workload import Workload

pytestmark = pytest.mark.kernel

CHART: Final = "apps.file_open"
OPENS: Final = 10_007
NOBODY: Final = 65534


@contextlib.contextmanager
def serving(*options: str, files: dict[str, str] | None = None) -> Iterator[Run]:
    with supervisor(
        "--only",
        "process,fd",
        *options,
        groups=GROUPS,
        files=files,
        command=[str(SUPERVISOR), "serve"],
        wait=False,
    ) as run:
        run.directory.parent.chmod(0o755)
        wait_for("the first frame", lambda: run.process.poll() is not None or _frames(run) > 0, 30)
        yield run


def _frames(run: Run) -> int:
    return int(run.status()["frames"]) if (run.directory / "control.sock").exists() else 0


@contextlib.contextmanager
def reading(run: Run) -> Iterator[Run]:
    """A relay, and what it writes."""
    log = run.directory.parent / "relay.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [str(PLUGIN), "1", "--runtime-dir", str(run.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    reader = Run(process, run.directory, log)
    try:
        yield reader
        if reader.error:
            raise reader.error
    finally:
        reader.go_on_reading()
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(10 * SLOW) == 0


def test_readers_come_at_any_time_and_each_sees_all_counts_of_its_time() -> None:
    with serving() as run, Workload(GROUP) as work, reading(run) as early:
        early.wait_frames(2)
        before = early.value(CHART, GROUP)
        work.do("open", OPENS)
        assert early.wait_value(CHART, GROUP, before + OPENS) - before >= OPENS
        with reading(run) as late:
            late.wait_frames(2)
            assert late.charts().keys() == early.charts().keys()
            assert late.value(CHART, GROUP) >= before + OPENS


def test_a_stopped_reader_holds_up_nobody_and_then_sees_all() -> None:
    with serving() as run, Workload(GROUP) as work, reading(run) as stopped, reading(run) as lively:
        stopped.wait_frames(2)
        lively.wait_frames(2)
        stopped.process.send_signal(signal.SIGSTOP)
        before = lively.value(CHART, GROUP)
        work.do("open", OPENS)
        lively.wait_value(CHART, GROUP, before + OPENS)
        lively.wait_frames(3)
        assert run.status()["aggregator"]["restarts"] == 0
        stopped.process.send_signal(signal.SIGCONT)
        assert stopped.wait_value(CHART, GROUP, before + OPENS) >= before + OPENS


def test_an_aggregator_that_is_killed_costs_readers_no_count_and_no_counter_falls() -> None:
    with serving() as run, Workload(GROUP) as work, reading(run) as reader:
        reader.wait_frames(2)
        before = reader.value(CHART, GROUP)
        for _ in range(3):
            os.kill(run.pid_of("aggregator"), signal.SIGKILL)
            work.do("open", OPENS)
            reader.wait_frames(2)
        assert reader.wait_value(CHART, GROUP, before + 3 * OPENS) >= before + 3 * OPENS
        for dimension, values in reader.charts()[CHART].values.items():
            assert values == sorted(values), dimension


def test_it_goes_on_without_readers_and_stops_after_its_last_frame() -> None:
    with serving("--ticks", "4") as run:
        assert run.process.wait(30 * SLOW) == 0
        assert not run.directory.exists()


def test_who_may_read_the_stream_is_who_the_configuration_says() -> None:
    for files, gid in (({}, None), ({"ebpf.d.conf": "[supervisor]\n    stream group = nogroup\n"}, NOBODY)):
        with serving(files=files) as run:
            path = run.directory / "stream.sock"
            about = path.stat()
            assert stat.S_IMODE(about.st_mode) == (0o600 if about.st_gid == 0 else 0o660)
            assert about.st_uid == 0
            if gid is not None:
                assert about.st_gid == gid
            assert _may_connect(path, NOBODY) is (gid == NOBODY)


def _may_connect(path: Path, uid: int) -> bool:
    """Whether a process of this user and its own group may."""
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            socket.socket(socket.AF_UNIX).connect(str(path))
            status = 0
        except PermissionError:
            status = 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 1)
    return status == 0


def test_a_killed_supervisor_leaves_a_socket_that_the_next_one_replaces() -> None:
    with serving() as run, reading(run) as reader:
        reader.wait_frames(1)
        run.process.kill()
        run.process.wait()
        wait_for("word of it", lambda: "waiting for it" in reader.stderr())
        again = subprocess.Popen(
            [str(SUPERVISOR), "serve", "--only", "fd", "--runtime-dir", str(run.directory)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            reader.wait_frames(2, 30)
        finally:
            again.terminate()
            assert again.wait(20 * SLOW) == 0
        assert not run.directory.exists()


def test_systemd_is_told_ready_with_the_first_frame_and_fed_by_progress_alone(tmp_path: Path) -> None:
    """Its side of sd_notify(3) is played here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60 * SLOW)
        words: list[str] = []

        def hear(until: str) -> None:
            while until not in words:
                words.extend(systemd.recv(4096).decode().splitlines())

        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "6000000"}
        with supervisor("--only", "fd", command=[str(SUPERVISOR), "serve"], env=env, wait=False) as run:
            hear("READY=1")
            assert "WATCHDOG=1" not in words  # systemd would begin to wait for more
            assert run.status()["frames"] > 0
            hear("WATCHDOG=1")
            aggregator = run.pid_of("aggregator")
            os.kill(aggregator, signal.SIGSTOP)
            # The last word of progress can be of just before; then there is none until it gets on.
            words.clear()
            wait_for("the hung one to be replaced", lambda: run.pid_of("aggregator") != aggregator, 30)
            hear("WATCHDOG=1")
            assert words.count("WATCHDOG=1") <= 2
            run.end()
            hear("STOPPING=1")
