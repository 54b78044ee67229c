"""Reading the kernel's arrays by look-ups, as kernels before 5.5 need it: the same numbers, and no privilege
that this kernel does not ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import linux
from supervisor.kernel import reading
from supervisor.spawn import find_account
from tests.harness import Run, supervisor
from tests.kernel.conftest import CHURN, GROUPS, KAT, in_interrupts
from tests.kernel.counting import Growth, grows
from tests.process.test_cleaning import with_title
from tests.workload import Workload

pytestmark = pytest.mark.kernel

PROGRAMS = ("process", "fd", "softirq", "disk")
LOOKUP = "[supervisor]\n    map reading = lookup\n"
OPENS = ("apps.file_open", "kat")
RELEASES = ("apps.task_close", "kat")


@pytest.fixture(scope="module")
def looking_up() -> Iterator[Run]:
    options = ("--only", ",".join(PROGRAMS), "--attach", "auto")
    with supervisor(*options, groups=GROUPS, files={"ebpf.d.conf": LOOKUP}) as run:
        yield run


def test_events_are_counted_exactly_when_maps_are_read_by_look_ups(looking_up: Run) -> None:
    expected = {
        OPENS: 10007,
        ("apps.file_open", "churn"): 101 * 7,
        ("apps.process_create", "churn"): 101,
        ("apps.task_exit", "churn"): 101,
    }
    with Workload(KAT) as work, Workload(CHURN) as churn, grows(looking_up, expected) as growth:
        work.do("open", 10007)
        churn.do("churn", 101, 7)
        assert growth.settle(expected) == expected


@in_interrupts
def test_zombies_are_counted_when_the_identities_are_read_by_look_ups(looking_up: Run) -> None:
    zombies = ("system.process_status", "zombie")
    with Growth(looking_up, zombies) as growth, Workload(KAT) as work:
        work.do("zombies", 53)
        assert growth.settle({zombies: 53}) == {zombies: 53}


def test_softirq_time_is_there_when_maps_are_read_by_look_ups(looking_up: Run) -> None:
    timer = ("system.softirq_latency", "TIMER")
    with Growth(looking_up, timer) as growth:
        growth.settle({timer: 1}, 30)


def test_slots_are_given_again_when_the_settled_moment_is_told_by_a_system_call() -> None:
    expected = {OPENS: 601 * 3}
    files = {"ebpf.d.conf": f"[global]\n    pid table size = 512\n{LOOKUP}"}
    with (
        supervisor("--only", "process,fd", groups=GROUPS, files=files) as run,
        Workload(KAT) as work,
        grows(run, expected) as growth,
    ):
        for _ in range(6):
            work.do("churn", 100, 3)
            run.wait_frames(2)
        work.do("churn", 1, 3)
        assert growth.settle(expected) == expected


def test_workers_keep_the_one_capability_that_this_kernel_asks_for_and_no_other(looking_up: Run) -> None:
    found, complaint = reading.find("lookup", find_account(None))
    assert complaint == ""
    assert found.capability in (None, linux.CAP_BPF, linux.CAP_SYS_ADMIN)
    kept = 0 if found.capability is None else 1 << found.capability
    for role in (*(f"worker {name}" for name in PROGRAMS), "aggregator"):
        (pid,) = with_title(looking_up, role)
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        held = {name: int(value, 16) for name, _, value in (x.partition(":") for x in lines) if "Cap" in name}
        assert held == {"CapInh": 0, "CapPrm": kept, "CapEff": kept, "CapBnd": 0, "CapAmb": 0}


@in_interrupts
def test_who_was_there_before_the_start_is_counted_with_all_threads() -> None:
    """Nobody sees them born: they are found in /proc."""
    with Workload(KAT) as work:
        work.do("rest_threads", 7)
        with supervisor("--only", "process,fd", groups=GROUPS, files={"ebpf.d.conf": LOOKUP}) as run:
            expected = {OPENS: 307, RELEASES: 7}
            with grows(run, expected) as growth:
                work.do("open", 307)
                work.do("end_threads")
                assert growth.settle(expected) == expected
