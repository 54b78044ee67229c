"""The kernel half of filesystem and mdflush on any machine: with system calls that nobody else makes in the
place of a file system's functions, and with loop devices in the place of arrays."""

import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.kernel import arrays, cpus, handover, identities, loader
from supervisor.kernel.handover import Loaded
from supervisor.kernel.maps import KernelMap
from supervisor.kernel.plans import FAMILY, Hook, Preference, entering, leaving, syscall_plan
from supervisor.kernel.request import Request
from tests.storage import loop_device
from workers.declaration import LABELS, Program
from workers.filesystem import PROGRAM
from workers.mdflush import PROGRAM as MDFLUSH

pytestmark = pytest.mark.kernel

LOOP_MAJOR = 7


def hook(call: str, arguments: str) -> Hook:
    plans = (syscall_plan(entering(call, "on_call", arguments), leaving(call, "on_return", arguments)),)
    return Hook(call, plans, plans)


def load(request: Request) -> Loaded:
    """In a process of its own, which leaves this one's mounts alone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                handover.send(theirs, loader.load(request))
            finally:
                os._exit(0)
        theirs.close()
        made = handover.receive(ours)
        os.waitpid(pid, 0)
    assert made, "the loader has failed"
    return made


@contextlib.contextmanager
def loaded(
    program: Program, *hooks: Hook, shared: Mapping[str, KernelMap] | None = None, **defines: int
) -> Iterator[Loaded]:
    constants = identities.defines(1024, str(loader.PINS), cpus.possible())
    request = Request(
        program.source,
        hooks,
        "entry",
        Preference(("tracepoint",)),
        {**constants, "SHARDS": 1, **defines},
        shared or {},
        "test",
    )
    made = load(request)
    try:
        attached = {report.hook for report in made.hooks if report.attached}
        assert attached == {hook.name for hook in hooks}, made.hooks
        yield made
    finally:
        made.close()


def histogram(maps: Mapping[str, KernelMap], row: int, call: str) -> list[int]:
    names = [column.name for column in PROGRAM.columns]
    first = names.index(f"{call} {LABELS[0]}")
    return [int(count) for count in arrays.words(maps[PROGRAM.table])[row, first : first + len(LABELS)]]


def call_quickly(count: int) -> None:
    for _ in range(count):
        os.sched_rr_get_interval(0)


class _Operation(ctypes.Structure):
    """struct sembuf (semop(2))."""

    _fields_ = (("number", ctypes.c_ushort), ("change", ctypes.c_short), ("flags", ctypes.c_short))


class _Time(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


def wait_in_vain(count: int, timeout_s: float) -> None:
    """At a semaphore of its own that nobody raises (semtimedop(2))."""
    libc = ctypes.CDLL(None)
    semaphore = libc.semget(0, 1, 0o600)
    take, time_left = _Operation(0, -1, 0), _Time(0, int(timeout_s * 1e9))
    try:
        for _ in range(count):
            assert libc.semtimedop(semaphore, ctypes.byref(take), 1, ctypes.byref(time_left)) == -1
    finally:
        libc.semctl(semaphore, 0, 0)


def test_each_call_is_in_its_own_histogram_once_and_a_slow_one_in_the_bin_of_its_time() -> None:
    hooks = (hook("sched_rr_get_interval", "XFS, READ"), hook("semtimedop", "EXT4, SYNC"))
    with loaded(PROGRAM, *hooks) as made:
        call_quickly(10007)
        began_s = time.monotonic()
        wait_in_vain(7, 0.3)
        longest_ms = (time.monotonic() - began_s) * 1000 - 6 * 300
        slow = histogram(made.maps, 0, "sync")
        assert sum(histogram(made.maps, 1, "read")) == 10007
        lowest = LABELS.index("262ms->524ms")
        highest = next(n for n in range(lowest, len(LABELS)) if longest_ms < 1 << n - 10)
        assert sum(slow) == sum(slow[lowest : highest + 1]) == 7
        assert arrays.words(made.maps[PROGRAM.table]).sum() == 10007 + 7


def test_a_call_within_a_call_does_not_end_the_outer_one() -> None:
    """A signal's handler runs within a call of the same thread, as one file system within another."""
    outer, inner = hook("semtimedop", "EXT4, READ"), hook("sched_rr_get_interval", "XFS, READ")
    before = signal.signal(signal.SIGALRM, lambda *_: call_quickly(1))
    try:
        with loaded(PROGRAM, outer, inner) as made:
            for _ in range(5):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                wait_in_vain(1, 0.1)
            assert sum(histogram(made.maps, 1, "read")) == 5
            assert sum(histogram(made.maps, 0, "read")) == 5
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_part_that_comes_later_counts_in_the_maps_of_the_first_which_goes_on() -> None:
    first, second = hook("sched_rr_get_interval", "XFS, READ"), hook("semtimedop", "EXT4, READ")
    with loaded(PROGRAM, first) as made:
        call_quickly(101)
        with loaded(PROGRAM, second, shared=made.maps) as later:
            assert not set(later.maps) & set(PROGRAM.maps), "the maps are those of the first"
            call_quickly(103)
            wait_in_vain(5, 0.001)
            assert sum(histogram(made.maps, 0, "read")) == 5
        wait_in_vain(5, 0.001)
        call_quickly(107)
        assert sum(histogram(made.maps, 0, "read")) == 5, "its links are closed"
        assert sum(histogram(made.maps, 1, "read")) == 101 + 103 + 107


@pytest.mark.parametrize(
    "plan",
    [plan for plan in MDFLUSH.hooks[0].entry if FAMILY[plan.mechanism] == "tracepoint"],
    ids=lambda plan: str(plan.mechanism),
)
def test_every_flush_of_a_device_of_the_major_number_is_counted_once(plan: object, tmp_path: Path) -> None:
    hook = replace(MDFLUSH.hooks[0], entry=(plan,))  # type: ignore[arg-type]
    with loop_device(tmp_path / "image", 16) as device:
        number = os.minor(device.stat().st_rdev)
        with loaded(MDFLUSH, hook, MD_MAJOR=LOOP_MAJOR) as made:
            before = arrays.words(made.maps[MDFLUSH.table])[0, number]
            fd = os.open(device, os.O_RDWR)
            for _ in range(1009):
                os.fsync(fd)
            os.pwrite(fd, bytes(4096), 0)
            os.fdatasync(fd)
            os.close(fd)
            assert arrays.words(made.maps[MDFLUSH.table])[0, number] - before == 1010
