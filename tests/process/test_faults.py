"""One fault costs one program, and no counts: whatever is killed, stopped or asleep, numbers are exact."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path
from typing import Any, Final

import pytest

from tests import faults
from tests.harness import CTL, SLOW, Run, Stream, supervisor, wait_for
from tests.process.test_cleaning import Footprint, footprint, footprint_while_loading, wait_gone, with_title
from tests.workload import Workload

pytestmark = pytest.mark.kernel

AGGREGATOR: Final = "aggregator"
OPENS: Final = 100_003
# A group of this run's own: others who test on this machine count their processes under other names.
GROUP: Final = f"kat{os.getpid()}"
GROUPS: Final = f"{GROUP}: {GROUP}\n"
# How long a reader sleeps at the end; before, a third of it.
SLEPT_SAMPLES: Final = 21 if faults.ALL else 6
# When after the beginning of a second the aggregator is killed: it waits for samples, commits, writes.
DELAYS_MS: Final = (0.5, 1, 2, 4, 8)
# Kills that follow fast on each other should not make a program FATAL, nor a hung one be waited for long.
SETTINGS: Final = """\
[supervisor]
    startretries = 1000
    backoff_initial_secs = 0.1
    backoff_max_secs = 0.2
    hung_after_ticks = 3
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Everything that this kernel can do, and a group that has nothing but the test's own process."""
    with supervisor(groups=GROUPS, files={"ebpf.d.conf": SETTINGS}) as run:
        wait_for("all programs RUNNING", lambda: run.ctl("status").returncode == 0, 60)
        yield run


@pytest.fixture
def work(run: Run) -> Iterator[Workload]:
    with Workload(GROUP) as work:
        run.wait_frames(3)
        yield work


# ---- what a run shows


def unit(run: Run, name: str) -> dict[str, Any]:
    """What `status` says of a program or the aggregator."""
    found: dict[str, Any] = run.status()[AGGREGATOR] if name == AGGREGATOR else run.program(name)
    return found


def units(run: Run) -> dict[str, int]:
    """All that have a process, with its id."""
    status = run.status()
    rows = [*status["programs"], {**status[AGGREGATOR], "name": AGGREGATOR}]
    return {row["name"]: int(row["pid"]) for row in rows if row["state"] == "RUNNING"}


def wait_replaced(run: Run, name: str, pid: int) -> None:
    """Until it is RUNNING with another process."""

    def replaced() -> bool:
        now = unit(run, name)
        return bool(now["state"] == "RUNNING" and now["pid"] != pid)

    wait_for(f"{name} RUNNING again", replaced)


def opens(run: Run) -> int:
    return run.value("apps.file_open", GROUP)


def unattributed(run: Run) -> int:
    """Opens of the host that no group has, in the last whole frame."""
    stream, shares = Stream(), [0]
    for line in bytes(run.raw).decode().split("\n")[:-1]:
        stream.feed(line)
        if line.startswith("BEGIN apps.file_closed"):  # in the frame, the two charts stand before it
            host = stream.charts["filesystem.file_descriptor"].last("do_sys_open")
            groups = stream.charts["apps.file_open"].values.values()
            shares.append(host - sum(values[-1] for values in groups))
    return shares[-1]


def falls(run: Run) -> list[str]:
    """Every counter that was ever less than before."""
    return [
        f"{name} {dimension}: {before} -> {after}"
        for name, chart in run.charts().items()
        for dimension, values in chart.values.items()
        if chart.dimensions[dimension][2] == "incremental"
        for before, after in itertools.pairwise(list(values))
        if after < before
    ]


def resident_bytes(pids: list[int]) -> dict[int, int]:
    return {pid: sum(own_and_file_bytes(pid)) for pid in pids}


def own_and_file_bytes(pid: int) -> tuple[int, int]:
    """What is resident: anonymous memory, and that of files and shared memory (statm of proc(5))."""
    page = os.sysconf("SC_PAGE_SIZE")
    _, resident, of_files, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    return (resident - of_files) * page, of_files * page


class Counted:
    """What was counted until now; `exactly` says that so much and nothing else came to it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._opens = opens(run)
        self._host = run.value("filesystem.file_descriptor", "do_sys_open")
        self._unattributed = unattributed(run)

    def exactly(self, count: int) -> None:
        expected = self._opens + count
        assert self._run.wait_value("apps.file_open", GROUP, expected) == expected
        assert self._run.value("filesystem.file_descriptor", "do_sys_open") >= self._host + count
        assert unattributed(self._run) == self._unattributed
        assert falls(self._run) == []


# ---- killed


def shares_of(total: int, rounds: int) -> list[int]:
    """`rounds` numbers that add up to `total`."""
    return [total // rounds + (number < total % rounds) for number in range(rounds)]


def test_no_open_is_lost_or_doubled_when_each_process_is_killed_in_turn(run: Run, work: Workload) -> None:
    """Each while the events come in, and at last all of them at once."""
    before = Counted(run)
    names = list(units(run))
    kills = [*([name] for name in names), names, names]
    for victims, count in zip(kills, shares_of(OPENS, len(kills)), strict=True):
        there = units(run)
        work.order("open", count)
        for name in victims:
            os.kill(there[name], signal.SIGKILL)
        for name in victims:
            wait_replaced(run, name, there[name])
        work.done()
    before.exactly(OPENS)


def test_no_open_is_lost_or_doubled_when_the_aggregator_is_killed_at_its_work(
    run: Run, work: Workload
) -> None:
    """It works at the beginning of each second: that is where these kills aim at, each a bit later."""
    before = Counted(run)
    count = 1009
    for delay_ms in DELAYS_MS:
        pid = run.pid_of(AGGREGATOR)
        work.do("open", count)
        now_s = time.monotonic()
        time.sleep(1 - now_s % 1 + delay_ms / 1000)
        os.kill(pid, signal.SIGKILL)
        wait_replaced(run, AGGREGATOR, pid)
    before.exactly(count * len(DELAYS_MS))


# ---- stopped


@pytest.mark.parametrize("name", ["fd", AGGREGATOR])
def test_a_process_that_hangs_is_replaced_and_nothing_is_lost(run: Run, work: Workload, name: str) -> None:
    before, status, told = Counted(run), unit(run, name), len(run.stderr())
    os.kill(status["pid"], signal.SIGSTOP)
    work.do("open", 10_007)
    wait_replaced(run, name, status["pid"])
    assert unit(run, name)["restarts"] == status["restarts"] + 1
    assert f"{name}: hung: no " in run.stderr()[told:]
    before.exactly(10_007)


# ---- the template


def template_of(run: Run) -> int:
    """The process that workers are copies of, once there is one."""
    return wait_for("a template", lambda: with_title(run, "template"))[0]


def test_a_template_that_is_killed_costs_nothing_and_the_next_worker_finds_another(
    run: Run, work: Workload
) -> None:
    before, there, template = Counted(run), units(run), template_of(run)
    os.kill(template, signal.SIGKILL)
    wait_for("another template", lambda: template_of(run) != template)
    work.do("open", 1009)
    assert units(run) == there
    os.kill(there["fd"], signal.SIGKILL)
    work.do("open", 1013)
    wait_replaced(run, "fd", there["fd"])
    assert {**units(run), "fd": 0} == {**there, "fd": 0}
    before.exactly(1009 + 1013)


def test_a_template_that_hangs_is_replaced_when_a_worker_is_asked_of_it(run: Run, work: Workload) -> None:
    before, there, template = Counted(run), units(run), template_of(run)
    os.kill(template, signal.SIGSTOP)
    os.kill(there["fd"], signal.SIGKILL)
    work.do("open", 1009)
    wait_replaced(run, "fd", there["fd"])
    assert template_of(run) != template
    assert {**units(run), "fd": 0} == {**there, "fd": 0}
    before.exactly(1009)


def test_a_worker_is_a_child_of_the_supervisor_and_in_a_session_of_its_own(run: Run) -> None:
    """Though it is a copy of the template: so a signal to anybody's group leaves it alone."""
    fd = units(run)["fd"]
    fields = Path(f"/proc/{fd}/stat").read_text().rpartition(")")[2].split()
    assert (int(fields[1]), int(fields[3])) == (run.process.pid, fd)


# ---- a reader that sleeps


def test_a_reader_that_sleeps_costs_nothing(run: Run, work: Workload) -> None:
    """Sampling goes on, nothing piles up, and all that was counted comes with the first frames after."""
    assert run.process.stdout
    fcntl(run.process.stdout, F_SETPIPE_SZ, 16384)  # so that it is full soon
    before, pids = Counted(run), [run.process.pid, *run.children()]
    run.stop_reading()
    work.do("open", 10_007)
    wait_samples(run, SLEPT_SAMPLES // 3)
    frames, memory = run.status()["frames"], resident_bytes(pids)
    work.do("open", 10_009)
    wait_samples(run, SLEPT_SAMPLES)
    assert run.status()["frames"] == frames
    grown = {pid: size - memory[pid] for pid, size in resident_bytes(pids).items()}
    assert max(grown.values()) < 2 << 20, grown
    run.go_on_reading()
    before.exactly(20_016)
    assert sorted(run.children()) == sorted(pids[1:])
    fcntl(run.process.stdout, F_SETPIPE_SZ, 1 << 20)


def wait_samples(run: Run, count: int) -> None:
    """Until so many more were taken from a worker."""
    target = unit(run, "fd")["samples"] + count
    wait_for(f"{count} samples", lambda: unit(run, "fd")["samples"] >= target, 15 + 2 * count)


# ---- loaders


def test_a_loader_that_is_killed_costs_its_own_program_a_moment(run: Run, work: Workload) -> None:
    before, others = Counted(run), units(run)
    restart = subprocess.Popen(
        [str(CTL), "--runtime-dir", str(run.directory), "restart", "fd"], stdout=subprocess.DEVNULL
    )
    loader = wait_for("the loader", lambda: with_title(run, "loader fd"))[0]
    os.kill(loader, signal.SIGKILL)
    restart.wait(60 * SLOW)
    run.pid_of("fd")
    assert "the loader ended with killed by SIGKILL" in run.stderr()
    assert {**units(run), "fd": 0} == {**others, "fd": 0}
    run.wait_frames(2)
    work.do("open", 1009)
    before.exactly(1009)


def test_the_first_loader_of_all_may_be_killed_too() -> None:
    """Nobody can be counted before the identities are there; so all wait for its second try."""
    with supervisor("--only", "fd", groups=GROUPS, wait=False) as run:
        os.kill(wait_for("the loader", lambda: with_title(run, "loader task"))[0], signal.SIGKILL)
        assert run.pid_of("fd")
        assert "task: BACKOFF: the loader ended with killed by SIGKILL" in run.stderr()
        with Workload(GROUP) as work:
            run.wait_frames(3)
            before = Counted(run)
            work.do("open", 1009)
            before.exactly(1009)


# ---- the supervisor itself


def killed(run: Run, seen: Footprint) -> None:
    """By SIGKILL; within two seconds nothing of it lives, in the kernel neither."""
    run.process.kill()
    run.process.wait()
    wait_gone(seen)


def test_nothing_outlives_a_killed_supervisor() -> None:
    """Not even a worker that is stopped."""
    with supervisor("--only", "fd,softirq") as run:
        seen = footprint(run)
        os.kill(run.pid_of("softirq"), signal.SIGSTOP)
        killed(run, seen)


def test_nothing_outlives_a_supervisor_that_is_killed_while_it_loads() -> None:
    with supervisor("--only", "fd,softirq", wait=False) as run:
        killed(run, footprint_while_loading(run))
