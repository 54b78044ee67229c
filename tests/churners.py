"""Processes that come, go and change faster than anybody looks, and count on it that each order makes exactly
so many processes and opens so many files.

    with Churner("churn") as churner:
        assert churner.ask("orphans", 53, 3) == 106     # processes

Each order takes how often, and how many files are opened each time; it tells how many processes it has made.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

# Run as a program it has the interpreter's own folders only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.workload import Workload, main, open_files, set_name

_CLONE_NEWPID: Final = 0x20000000
_SYS_EXIT: Final = {"x86_64": 60, "aarch64": 93}
_LAST_PID: Final = "/proc/sys/kernel/ns_last_pid"
# Linked statically: it opens nothing of its own.
_BUSYBOX: Final = "/bin/busybox"
_libc: Final = ctypes.CDLL(None)


class Churner(Workload):
    """The test's side of one such process."""

    SCRIPT = Path(__file__)


def _child(work: Callable[[], object]) -> int:
    """A process that does this and ends."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def _storm(count: int, opens: int) -> int:
    """All at once."""
    pids = [_child(lambda: open_files(opens)) for _ in range(count)]
    for pid in pids:
        os.waitpid(pid, 0)
    return count


def _one_number(count: int, opens: int) -> int:
    """One after the other, all with the same process id: the next one is had before the last one's end is an
    event that anybody has read. Where somebody else takes the id, the next free one. (The file is opened by
    `main`, once.)"""
    wanted = 0
    for _ in range(count):
        if wanted:
            os.pwrite(_last_pid_fd, str(wanted - 1).encode(), 0)
        pid = _child(lambda: open_files(opens))
        os.waitpid(pid, 0)
        wanted = wanted or pid
    return count


def _without_leader(count: int, opens: int) -> int:
    """The first thread ends before the one that opens."""
    for _ in range(count):
        os.waitpid(_child(lambda: _leave_to_a_thread(opens)), 0)
    return count


def _leave_to_a_thread(opens: int) -> None:
    def go_on() -> NoReturn:
        open_files(opens)
        os._exit(0)

    threading.Thread(target=go_on).start()
    _libc.syscall(_SYS_EXIT[os.uname().machine], 0)


def _exec_in_thread(count: int, opens: int) -> int:
    """A thread opens, and then takes its leader's place by execve(2)."""
    for _ in range(count):
        os.waitpid(_child(lambda: _become_another_in_a_thread(opens)), 0)
    return count


def _become_another_in_a_thread(opens: int) -> None:
    def work() -> None:
        open_files(opens)
        os.execv(_BUSYBOX, ["busybox", "true"])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _orphans(count: int, opens: int) -> int:
    """Processes that open when their parent has gone, and another one has taken its place."""
    for _ in range(count):
        inlet, outlet = os.pipe()
        os.waitpid(_child(lambda: _leave_an_orphan(opens)), 0)
        os.close(outlet)
        os.read(inlet, 1)  # till the last one has closed the other end
        os.close(inlet)
    return 2 * count


def _leave_an_orphan(opens: int) -> None:
    parent = os.getpid()

    def work() -> None:
        while os.getppid() == parent:
            os.sched_yield()
        open_files(opens)

    _child(work)


def _namespaces(count: int, opens: int) -> int:
    """Processes with ids of their own, 1 and 2, again and again."""
    for _ in range(count):
        os.waitpid(_child(lambda: _be_alone(opens)), 0)
    return 3 * count


def _be_alone(opens: int) -> None:
    def second() -> None:
        open_files(opens)

    def first() -> None:
        open_files(opens)
        os.waitpid(_child(second), 0)

    if _libc.unshare(_CLONE_NEWPID):
        os._exit(1)
    os.waitpid(_child(first), 0)


def _renames(count: int, opens: int) -> int:
    """This process has another name each time."""
    for number in range(count):
        set_name(os.fsencode(f"{sys.argv[1]}{number % 10}"))
        open_files(opens)
    set_name(os.fsencode(sys.argv[1]))
    return 0


# How often files are opened, for each process that the order tells, and for each time where it makes none.
ORDERS: Final[dict[str, Callable[[int, int], int]]] = {
    "storm": _storm,
    "one_number": _one_number,
    "without_leader": _without_leader,
    "exec_in_thread": _exec_in_thread,
    "orphans": _orphans,
    "namespaces": _namespaces,
    "renames": _renames,
}
# Of each time, how many of the processes open (this one, where none is made).
OPENING: Final = {**dict.fromkeys(ORDERS, 1), "namespaces": 2}

if __name__ == "__main__":
    _last_pid_fd = os.open(_LAST_PID, os.O_RDWR)
    main(ORDERS)
