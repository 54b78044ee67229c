"""Known numbers of real events, and exactly these numbers in the stream, at the process that made them."""

import pytest

from supervisor.kernel import identities
from tests.harness import SLOW, Run, wait_for
from tests.kernel.conftest import CHURN, KAT, in_interrupts
from tests.kernel.counting import Growth, grows
from tests.kernel.coverage import covered
from tests.workload import Workload

pytestmark = pytest.mark.kernel

# In a guest nobody else ends meanwhile.
OTHERS_ENDING = 0 if SLOW > 1 else 20

OPENS = ("apps.file_open", "kat")
CLOSES = ("apps.file_closed", "kat")
HOST_OPENS = ("filesystem.file_descriptor", "do_sys_open")
HOST_CLOSES = ("filesystem.file_descriptor", "__close_fd")


def test_opens_and_closes_are_counted_exactly_at_the_process_that_made_them(counting: Run) -> None:
    expected = {OPENS: 10007, CLOSES: 10007}
    with Workload(KAT) as work, grows(counting, expected) as growth:
        work.do("open", 10007)
        assert growth.settle(expected) == expected
    covered(counting, "fd", "open", "close")


def test_host_chart_grows_by_exactly_what_all_groups_grow_by(counting: Run) -> None:
    """The host's total is the groups' sum, event for event; what has no slot would be the difference."""
    wait_for("the groups' chart", lambda: "apps.file_open" in counting.charts())
    groups = [("apps.file_open", name) for name in counting.charts()["apps.file_open"].dimensions]
    with Workload(KAT) as work, Growth(counting, HOST_OPENS, OPENS, *groups) as growth:
        work.do("open", 5003)
        growth.settle({OPENS: 5003})
        host, parts = growth.by(*HOST_OPENS), sum(growth.by(*pair) for pair in set(groups) | {OPENS})
        assert host == parts >= 5003


def test_processes_that_live_milliseconds_are_all_counted_under_their_group(counting: Run) -> None:
    expected = {("apps.file_open", "churn"): 1009 * 7, ("apps.file_closed", "churn"): 1009 * 7}
    with Workload(CHURN) as work, grows(counting, expected) as growth:
        work.do("churn", 1009, 7)
        assert growth.settle(expected, 30) == expected


def has(run: Run, chart: str) -> bool:
    return chart in run.charts()


def tells_processes_from_threads(run: Run) -> None:
    expected = {
        ("apps.process_create", "churn"): 101,
        ("apps.thread_create", "churn"): 53,
        ("apps.task_exit", "churn"): 154,
    }
    if has(run, "apps.task_close"):  # only a tracepoint tells who was released
        expected[("apps.task_close", "churn")] = 154
    with Workload(f"{CHURN}y") as work, grows(run, expected) as growth:
        work.do("churn", 101, 0)
        work.do("threads", 53)
        assert growth.settle(expected, 30) == expected  # what has ended is freed when RCU gets round to it
    covered(run, "process", "process", "thread", "exit")
    if has(run, "apps.task_close"):
        covered(run, "process", "release")


def processes() -> list[identities.ProcStat]:
    """Of all that there are now (proc_pid_stat(5))."""
    return list(filter(None, (identities.read_stat(pid) for pid in identities.processes())))


def zombies(parent: int | None = None) -> int:
    """Processes that have ended and nobody has waited for, of all or of one parent."""
    return sum(stat.state == b"Z" and parent in (None, stat.ppid) for stat in processes())


def alive() -> int:
    return sum(not stat.exited for stat in processes())


def tells_the_living_from_zombies(run: Run) -> None:
    """By what /proc says at the same time: others come and go meanwhile."""
    living, ended = ("system.process_status", "process"), ("system.process_status", "zombie")

    def apart() -> int:
        """By as many as were born unseen, and by those of the last second."""
        return run.value(*living) - alive()

    def steady() -> bool:
        first = apart()
        run.wait_frames(1)
        return apart() == first

    with Workload(KAT) as work:
        wait_for("nobody to be born or to end", steady, 30)
        before, unseen = alive(), apart()
        work.do("sleepers", 101)
        work.do("zombies", 53)
        run.wait_frames(1)
        wait_for("the living", lambda: apart() == unseen, 30)
        assert alive() - before > 90
        assert zombies(work.pid) == 53
        # The kernel frees one a moment after /proc forgets it; with lazy RCU (CONFIG_RCU_LAZY), seconds.
        wait_for(
            "zombies as many as in /proc", lambda: 0 <= run.value(*ended) - zombies() <= OTHERS_ENDING, 30
        )
    how = f"/proc, but for {OTHERS_ENDING} of others that are just being freed" if OTHERS_ENDING else "exact"
    covered(run, "process", "living", "zombie", how=how)


@in_interrupts
def test_process_is_counted_as_a_process_and_a_thread_as_a_thread(counting: Run) -> None:
    tells_processes_from_threads(counting)


@in_interrupts
def test_processes_and_threads_are_told_apart_in_return_mode_too(returning: Run) -> None:
    tells_processes_from_threads(returning)


@in_interrupts
def test_living_processes_and_zombies_are_told_apart(counting: Run) -> None:
    tells_the_living_from_zombies(counting)


@in_interrupts
def test_the_living_and_zombies_are_told_apart_in_return_mode_too(returning: Run) -> None:
    tells_the_living_from_zombies(returning)


def test_opens_that_fail_are_counted_in_return_mode(returning: Run) -> None:
    expected = {OPENS: 1009, ("apps.file_open_error", "kat"): 1009}
    with Workload(KAT) as work, grows(returning, expected) as growth:
        work.do("fail", 1009)
        assert growth.settle(expected) == expected
    covered(returning, "fd", "open_error")


def test_closes_that_fail_are_counted_in_return_mode(returning: Run) -> None:
    expected = {CLOSES: 503, ("apps.file_close_error", "kat"): 503}
    with Workload(KAT) as work, grows(returning, expected) as growth:
        work.do("fail_close", 503)
        assert growth.settle(expected) == expected
    covered(returning, "fd", "close_error")


def test_calls_that_succeed_are_no_errors_in_return_mode(returning: Run) -> None:
    expected = {OPENS: 10007, CLOSES: 10007}
    errors = [("apps.file_open_error", "kat"), ("apps.file_close_error", "kat")]
    with Workload(KAT) as work, Growth(returning, *expected, *errors) as growth:
        work.do("open", 10007)
        assert growth.settle(expected) == expected
        assert [growth.by(*pair) for pair in errors] == [0, 0]
    covered(returning, "fd", "open", "close")


def test_fork_calls_that_fail_are_counted_process_and_thread_apart(returning: Run) -> None:
    expected = {
        ("system.task_error", "_do_fork"): 101,
        ("system.task_error", "sys_clone"): 103,
        ("apps.task_error", "kat"): 204,
    }
    with Workload(KAT) as work, grows(returning, expected) as growth:
        work.do("fail_fork", 101)
        work.do("fail_thread", 103)
        assert growth.settle(expected) == expected
    covered(returning, "process", "process_error", "thread_error")


def test_entry_mode_has_no_error_charts(counting: Run) -> None:
    assert not {name for name in counting.charts() if "error" in name}


def test_process_that_takes_another_name_is_counted_under_it_from_then_on(counting: Run) -> None:
    expected = {OPENS: 307, ("apps.file_open", "churn"): 211}
    with Workload(KAT) as work, grows(counting, expected) as growth:
        work.do("open", 307)
        counting.wait_frames(2)
        work.rename(f"{CHURN}d")
        work.do("open", 211)
        assert growth.settle(expected) == expected


def test_plan_that_was_asked_for_is_the_one_in_use(counting: Run, request: pytest.FixtureRequest) -> None:
    wanted = request.node.callspec.params["counting"]
    families = {
        "fentry": {"fentry", "fexit"},
        "kprobe": {"kprobe", "kretprobe"},
        "tracepoint": {"tracepoint"},
    }
    used = {hook["plan"] for hook in counting.program("fd")["hooks"] if hook["attached"]}
    assert used
    assert used <= families.get(wanted, used)
