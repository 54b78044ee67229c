"""vfs, sync, mount and shm: known numbers of calls, and exactly these in the stream.

One supervisor for each kind of plan and each mode serves all tests. The numbers stand in tests/workload.py,
each a prime, beside the calls that they are of; here they are put together.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import Run, supervisor
from tests.kernel.conftest import GROUPS, KAT, PLANS
from tests.kernel.counting import Growth
from tests.kernel.coverage import covered
from tests.workload import Workload

pytestmark = pytest.mark.kernel

PROGRAMS = "vfs,sync,mount,shm"
CASES = [(plan, mode) for plan in PLANS for mode in ("entry", "return")]
# In a guest nobody else makes these calls; on the host others may.
ALONE = "EBPF_TEST_ATTACH" in os.environ

Counts = dict[tuple[str, str], int]


@dataclass(frozen=True)
class Counted:
    """A run, and what its stream has grown by since the orders were given."""

    run: Run
    grown: Counts

    def check(self, exact: Counts, at_least: Counts) -> None:
        assert {pair: self.grown[pair] for pair in exact} == exact
        assert not {pair: self.grown[pair] for pair, count in at_least.items() if self.grown[pair] < count}


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    plan, mode = request.param
    options = ("--only", PROGRAMS, "--attach", plan, "--load-mode", mode)
    with supervisor(*options, groups=GROUPS) as running:
        for program in PROGRAMS.split(","):
            running.pid_of(program)
        running.wait_frames(2)
        yield running
    events = Path("/sys/kernel/tracing/kprobe_events")
    assert not events.exists() or "ebpfsup" not in events.read_text(), "a line of ours is left"


@pytest.fixture(scope="module")
def counted(run: Run) -> Counted:
    """All orders, one after the other, while many of the group's processes wait in read(2)."""
    of_files, of_host = files_of_process(run), files_of_host(run)
    expected = {**of_files, **of_host, **shared_memory_of_process(), **SHARED_MEMORY, **SYNC, **mounts(run)}
    with Workload(KAT) as work:
        work.do("waiting_readers", 53)
        with Growth(run, *expected) as growth:
            for order in ("files", "shared_memory", "sync_calls", "mounts"):
                work.do(order)
            return Counted(run, growth.settle(expected))


def mode_of(run: Run) -> str:
    words = run.process.args
    assert isinstance(words, list)
    return str(words[words.index("--load-mode") + 1])


def plan_of(run: Run, program: str, hook: str) -> str:
    """The kind of plan that the hook has, the last of its targets' where they differ."""
    plans = [h["plan"] for h in run.program(program)["hooks"] if h["hook"] == hook and h["attached"]]
    assert plans, f"{hook} is not attached"
    return str(plans[-1])


# Apps chart and host's dimension of each column of vfs.
VFS = {
    "unlink": ("apps.file_deleted", ("filesystem.vfs_deleted_objects", "vfs_unlink")),
    "read": ("apps.vfs_read_call", ("filesystem.vfs_io", "vfs_read")),
    "read_error": ("apps.vfs_read_error", ("filesystem.vfs_io_error", "vfs_read")),
    "read_bytes": ("apps.vfs_read_bytes", ("filesystem.vfs_io_bytes", "vfs_read")),
    "read_asked": ("apps.vfs_read_bytes", ("filesystem.vfs_io_bytes", "vfs_read")),
    "write": ("apps.vfs_write_call", ("filesystem.vfs_io", "vfs_write")),
    "write_error": ("apps.vfs_write_error", ("filesystem.vfs_io_error", "vfs_write")),
    "write_bytes": ("apps.vfs_write_bytes", ("filesystem.vfs_io_bytes", "vfs_write")),
    "write_asked": ("apps.vfs_write_bytes", ("filesystem.vfs_io_bytes", "vfs_write")),
    "fsync": ("apps.vfs_fsync", ("filesystem.vfs_fsync", "vfs_fsync")),
    "fsync_error": ("apps.vfs_fsync_error", ("filesystem.vfs_fsync_error", "vfs_fsync")),
    "open": ("apps.vfs_open", ("filesystem.vfs_open", "vfs_open")),
    "open_error": ("apps.vfs_open_error", ("filesystem.vfs_open_error", "vfs_open")),
    "create": ("apps.vfs_create", ("filesystem.vfs_create", "vfs_create")),
    "create_error": ("apps.vfs_create_error", ("filesystem.vfs_create_error", "vfs_create")),
}
# Of the order "files"; "sync_calls" makes more of them.
FSYNCS, FDATASYNCS = 41 + 47, 43
PIECES = 211 + 103 + 53 + 307  # reads of a file of 64 bytes


def files(run: Run) -> dict[str, int]:
    """What the orders must come to, by column."""
    expected = {
        "unlink": 1 + 1 + 61 + 67,
        "read": 1009 + PIECES + 503,
        "read_error": 503,
        "write": 1 + 1013 + 223 + 313 + 107 + 59 + 509 + 1,
        "write_error": 509,
        "fsync": FSYNCS + FDATASYNCS + 17 + 19,
        "fsync_error": 47,
        "open": 4 + 1 + 1 + 401 + 131 + 61 + 71,
        "open_error": 131,
        "create": 1 + 61 + 67 + 73,
        "create_error": 73,
    }
    if plan_of(run, "vfs", "read") == "kprobe":
        expected["read_asked"] = 1009 + 211 * 4096 + (PIECES - 211) * 4106 + 503
    else:
        expected["read_bytes"] = 1009 + PIECES * 64
    written = 64 + 1013 * 2 + 223 * 3 + 313 * 3 + 107 * 5 + 59 * 7
    if plan_of(run, "vfs", "write") == "kprobe":
        expected["write_asked"] = written + 509 * 2 + 100_000
    else:
        expected["write_bytes"] = written + 65536
    if plan_of(run, "vfs", "create") == "tracepoint":
        expected["create"] += 71  # a call does not tell that the file was there
    if mode_of(run) == "entry":
        return {column: count for column, count in expected.items() if not column.endswith("_error")}
    return expected


def files_of_process(run: Run) -> Counts:
    return {(VFS[column][0], "kat"): count for column, count in files(run).items()}


def files_of_host(run: Run) -> Counts:
    return {VFS[column][1]: count for column, count in files(run).items()}


def test_what_a_process_does_with_files_is_counted_exactly_while_many_wait_in_read(counted: Counted) -> None:
    counted.check(files_of_process(counted.run), files_of_host(counted.run))
    covered(counted.run, "vfs", *files(counted.run))


def test_entry_mode_has_no_error_charts(run: Run) -> None:
    there = {name for name in run.charts() if "error" in name}
    assert bool(there) == (mode_of(run) == "return"), there


def test_only_kprobes_of_entry_mode_show_the_size_asked_for_and_the_charts_say_so(run: Run) -> None:
    asked = plan_of(run, "vfs", "read") == "kprobe"
    titles = [run.charts()[name].words[2] for name in ("filesystem.vfs_io_bytes", "apps.vfs_read_bytes")]
    assert ["asked for" in title for title in titles] == [asked, asked]


SHARED_MEMORY: Counts = {
    ("system.shared_memory_calls", "get"): 17,
    ("system.shared_memory_calls", "at"): 13,
    ("system.shared_memory_calls", "dt"): 13 + 10,
    ("system.shared_memory_calls", "ctl"): 17 + 2,
}
SYNC: Counts = {
    ("mem.sync", "sync"): 3,
    ("mem.sync", "syncfs"): 11,
    ("mem.memory_map", "msync"): 13,
    ("mem.file_sync", "fsync"): FSYNCS + 17,
    ("mem.file_sync", "fdatasync"): FDATASYNCS + 19,
    ("mem.file_segment", "sync_file_range"): 23,
}


def shared_memory_of_process() -> Counts:
    return {(f"apps.shm{call}_call", "kat"): count for (_, call), count in SHARED_MEMORY.items()}


def mounts(run: Run) -> Counts:
    call, error = "mount_points.call", "mount_points.error"
    calls = {(call, "mount"): 23 + 29, (call, "umount"): 22 + 31}
    return calls if mode_of(run) == "entry" else {**calls, (error, "mount"): 29, (error, "umount"): 31}


def test_calls_about_shared_memory_are_counted_exactly(counted: Counted) -> None:
    of_process = shared_memory_of_process()
    counted.check(of_process | (SHARED_MEMORY if ALONE else {}), SHARED_MEMORY)
    covered(counted.run, "shm", *(call for _, call in SHARED_MEMORY))


def test_calls_to_synchronize_are_counted(counted: Counted) -> None:
    """Exactly where nobody else makes them."""
    counted.check(SYNC if ALONE else {}, SYNC)
    covered(counted.run, "sync", *(call for _, call in SYNC))


def test_mounts_and_unmounts_are_counted(counted: Counted) -> None:
    """Exactly where nobody else makes them."""
    expected = mounts(counted.run)
    counted.check(expected if ALONE else {}, expected)
    columns = {"mount_points.call": "", "mount_points.error": "_error"}
    covered(counted.run, "mount", *(f"{call}{columns[chart]}" for chart, call in expected))


def test_plan_that_was_asked_for_is_the_one_in_use(run: Run, request: pytest.FixtureRequest) -> None:
    wanted, _ = request.node.callspec.params["run"]
    families = {
        "fentry": {"fentry", "fexit"},
        "kprobe": {"kprobe", "kretprobe"},
        "tracepoint": {"tracepoint"},
    }
    for program in PROGRAMS.split(","):
        hooks = run.program(program)["hooks"]
        used = {hook["plan"] for hook in hooks if hook["attached"]}
        assert used
        assert used <= families.get(wanted, used)
        names = {hook["hook"] for hook in hooks}
        assert {hook["hook"] for hook in hooks if hook["attached"]} == names, hooks


def test_calls_that_the_configuration_switches_off_are_absent_and_status_says_why() -> None:
    files = {
        "ebpf.d/sync.conf": "[syscalls]\nmsync = no\nfdatasync = no\n",
        "ebpf.d/shm.conf": "[syscalls]\nshmget = no\nshmat = no\nshmdt = no\nshmctl = no\n",
    }
    with supervisor("--only", "sync,shm", files=files) as run:
        run.pid_of("sync")
        run.wait_frames(2)
        charts = run.charts()
        assert list(charts["mem.file_sync"].dimensions) == ["fsync"]
        assert "mem.memory_map" not in charts
        assert "system.shared_memory_calls" not in charts
        hooks = {hook["hook"]: hook for hook in run.program("sync")["hooks"]}
        assert not hooks["msync"]["attached"]
        assert hooks["msync"]["reason"] == "the configuration switches it off"
        assert hooks["syncfs"]["attached"]
        assert run.program("shm")["state"] == "UNAVAILABLE"
        assert "switches all of its hooks off" in run.program("shm")["description"]
