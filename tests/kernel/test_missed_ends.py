"""What the kernel did not tell of a process, its birth or its release, does no harm for long.

A loader leaves the mount namespace that it was in, so each test loads the identities in a child of its own.
"""

import contextlib
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from supervisor import spawn
from supervisor.kernel import cpus, identities, loader, reading
from supervisor.kernel.handover import Loaded
from supervisor.kernel.maps import KernelMap, Words
from supervisor.kernel.plans import Preference
from tests.harness import wait_for
from tests.kernel.kernel_maps import identity_of

pytestmark = pytest.mark.kernel

SLOTS: Final = 4096
LAST_PID: Final = Path("/proc/sys/kernel/ns_last_pid")
SPARE: Final = SLOTS - 1  # the last one that anybody would be given


def in_a_child(work: Callable[[], None]) -> None:
    """Runs it there, and fails as it fails."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, "see what the child has printed"


@contextlib.contextmanager
def loaded() -> Iterator[Loaded]:
    """The identities, without any process of a supervisor."""
    found, _ = reading.find("auto", spawn.find_account(None))
    defines = identities.defines(SLOTS, str(loader.PINS), cpus.possible(), found.map_flags)
    made = loader.load(identities.request(SLOTS, None, defines, Preference(), "ends"))
    try:
        assert not made.error
        yield made
    finally:
        made.close()


def ended(held: KernelMap, pid: int) -> bool:
    row = identity_of(held, pid)
    return row is not None and bool(row["exit_ns"])


@contextlib.contextmanager
def about_to_execute() -> Iterator[tuple[int, Callable[[], object]]]:
    """A child that executes a program once it is told to: its id, and how it is told."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        os.execv("/bin/busybox", ["busybox", "sleep", "60"])
    try:
        yield child, lambda: os.write(tell, b"x")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


@pytest.fixture
def nobody() -> int:
    """The id of no process, which is not given to one soon."""
    largest = int(Path("/proc/sys/kernel/pid_max").read_text()) - 3
    return next(pid for pid in range(largest, 0, -1) if not os.path.exists(f"/proc/{pid}"))


def test_a_slot_whose_owner_has_gone_unseen_is_given_back_and_a_zombie_keeps_its_own(nobody: int) -> None:
    def give_back() -> None:
        with loaded() as made:
            held = made.maps["task"]
            zombie = os.fork()
            if zombie == 0:
                os._exit(0)
            with identities.Orders(made.maps) as orders:
                orders.give(identities.PLANT, SPARE, nobody, ppid=1, start_ns=1, exited=1, comm=b"gone")
            wait_for("both to have ended", lambda: ended(held, nobody) and ended(held, zombie))
            assert identities.give_back_the_gone(made.maps, late_s=3600) == 0
            assert ended(held, nobody)

            def given_back() -> bool:
                return identities.give_back_the_gone(made.maps, late_s=0.001) > 0

            wait_for("it to be late", given_back)
            assert identity_of(held, nobody) is None
            assert ended(held, zombie)
            os.waitpid(zombie, 0)

    in_a_child(give_back)


def test_a_slot_whose_owner_has_gone_unseen_is_given_back_when_a_thread_takes_the_id(nobody: int) -> None:
    def take() -> None:
        with loaded() as made:
            with identities.Orders(made.maps) as orders:
                orders.give(identities.PLANT, SPARE, nobody, ppid=1, start_ns=1, exited=1, comm=b"gone")
            end = threading.Event()
            thread = threading.Thread(target=end.wait)
            LAST_PID.write_text(str(nobody - 1))
            thread.start()
            taken = thread.native_id
            wait_for("nobody's slot to be free", lambda: identity_of(made.maps["task"], nobody) is None)
            end.set()
            assert taken == nobody, "somebody else has taken the id"

    in_a_child(take)


def test_a_process_whose_birth_was_missed_is_nobody_once_it_executes_a_program() -> None:
    """Its id may have been that of a thread, or of a process, which it would be counted as."""

    def execute() -> None:
        with loaded() as made, about_to_execute() as (child, go), identities.Orders(made.maps) as orders:
            # Its id still leads to a slot that it no longer owns, as the id of one that has gone does.
            mine = orders.give(identities.MAP, 0, child)
            orders.give(identities.GONE, mine, child)
            assert orders.give(identities.MAP, 0, child) == mine
            go()
            wait_for("its slot to be nobody's", lambda: orders.give(identities.MAP, 0, child) == 0)

    in_a_child(execute)


def test_a_process_that_has_the_id_of_one_that_has_gone_unseen_is_nobody_once_it_executes_a_program() -> None:
    """A leader that has exited executes nothing, so that this is another one, whose birth was missed."""

    def execute() -> None:
        with loaded() as made, about_to_execute() as (child, go), identities.Orders(made.maps) as orders:
            mine = orders.give(identities.MAP, 0, child)
            orders.give(identities.EXITED, mine, child)
            assert ended(made.maps["task"], child)
            go()
            wait_for("its slot to be nobody's", lambda: orders.give(identities.MAP, 0, child) == 0)
            assert identity_of(made.maps["task"], child) is None, "the slot is not given back"

    in_a_child(execute)


def test_an_id_does_not_lead_to_the_slot_of_its_last_owner_for_long(nobody: int) -> None:
    """Who has it next and is not seen as it is born would be counted there."""

    def forget() -> None:
        with loaded() as made, identities.Orders(made.maps) as orders:
            orders.give(identities.PLANT, SPARE, nobody, ppid=1, start_ns=1, exited=1, comm=b"gone")
            orders.give(identities.GONE, SPARE, nobody)

            settled = Words(made.maps["words"])

            def forgotten() -> bool:
                settled.set(identities.SETTLED_NS, time.monotonic_ns())
                child = os.fork()
                if child == 0:
                    os._exit(0)
                os.waitpid(child, 0)
                return orders.give(identities.MAP, 0, nobody) == 0

            assert orders.give(identities.MAP, 0, nobody) == SPARE
            wait_for("its id to lead nowhere", forgotten)

    in_a_child(forget)
