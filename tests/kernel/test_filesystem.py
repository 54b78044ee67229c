"""filesystem: calls of real file systems, each in the histogram of its type once, and where it belongs."""

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import PLANS
from tests.kernel.coverage import covered, wait_unavailable
from tests.storage import (
    SIZES_MB,
    SlowDisk,
    command,
    load_modules,
    loop_device,
    make_file_system,
    mounted,
    nfs_server,
    read_directly,
)
from workers.declaration import LABELS

# Setting up takes minutes in an emulated guest.
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

KPROBES = Path("/sys/bus/event_source/devices/kprobe").exists()
VERSION = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
# Debian has these file systems as modules, whose types are described since 5.11.
SEEING = [
    plan
    for plan in PLANS
    if (plan in ("kprobe", "auto") and KPROBES) or (plan == "fentry" and KPROBES and VERSION >= (5, 11))
]
BLIND = [*(plan for plan in PLANS if plan not in (*SEEING, "tracepoint")), "tracepoint"]

KINDS = ("ext4", "xfs", "btrfs")
LAST_CALL = {"nfs": "attribute"}
OPENS, READS, WRITES, LASTS = 101, 103, 107, 53


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Path]]:
    """A device with a file system of each type, not mounted."""
    folder = tmp_path_factory.mktemp("images")
    with contextlib.ExitStack() as stack:
        found = {}
        for kind in KINDS:
            found[kind] = stack.enter_context(loop_device(folder / kind, SIZES_MB[kind]))
            make_file_system(kind, found[kind])
        yield found


@pytest.mark.parametrize("plan", SEEING[:1])
def test_program_with_nothing_to_watch_starts_when_a_file_system_is_mounted(
    plan: str, devices: Mapping[str, Path], tmp_path: Path
) -> None:
    with supervisor("--only", "filesystem", "--attach", plan, wait=False) as run:
        wait_for("the program to wait", lambda: "starts when there is" in run.stderr(), 30)
        with mounted("ext4", devices["ext4"], tmp_path / "ext4") as point:
            (point / "file").touch()
            wait_for("ext4's charts", lambda: "filesystem.ext4_open_latency" in run.charts(), 60)
            before = settled(run, "ext4")
            make_calls(point / "file", "sync")
            assert grown(run, "ext4", before) == expected("sync")
        wait_for("no ext4", lambda: run.charts()["filesystem.ext4_open_latency"].obsolete, 30)


@pytest.fixture(scope="module")
def points(
    devices: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Path]]:
    """All types mounted, with an empty `file` in each; NFS by version 3 and by version 4."""
    folder = tmp_path_factory.mktemp("points")
    served = folder / "served"
    served.mkdir()
    load_modules("nfs", "nfsv3", "nfsv4")
    with contextlib.ExitStack() as stack:
        found = {kind: stack.enter_context(mounted(kind, devices[kind], folder / kind)) for kind in KINDS}
        # A file system in memory: what the server does shall not be counted as another type's.
        stack.enter_context(mounted("tmpfs", "tmpfs", served))
        root = stack.enter_context(nfs_server(served))
        found["nfs4"] = stack.enter_context(mounted("nfs4", root, folder / "nfs4", "vers=4.2"))
        found["nfs3"] = stack.enter_context(
            mounted("nfs", f"127.0.0.1:{served}", folder / "nfs3", "vers=3,nolock")
        )
        for name, point in found.items():
            (point / f"file{name}").touch()
        yield found


@pytest.fixture(scope="module", params=SEEING)
def run(request: pytest.FixtureRequest, points: Mapping[str, Path]) -> Iterator[Run]:
    with supervisor("--only", "filesystem", "--attach", request.param) as running:
        wait_for("every type's charts", lambda: shown(running).issuperset((*KINDS, "nfs")), 60)
        yield running


def shown(run: Run) -> set[str]:
    """Types that have a chart."""
    return {name.split(".")[1].split("_")[0] for name in run.charts() if name.startswith("filesystem.")}


def make_calls(file: Path, last: str) -> None:
    """Known numbers of each call of this file, and no other of its file system."""
    for _ in range(OPENS - 1):
        os.close(os.open(file, os.O_RDONLY))
    fd = os.open(file, os.O_RDWR)
    for _ in range(WRITES):
        os.pwrite(fd, b"x", 0)
    for _ in range(READS):
        os.pread(fd, 1, 0)
    for _ in range(LASTS):
        os.fsync(fd) if last == "sync" else os.fstat(fd)
    os.close(fd)


def expected(last: str, times: int = 1) -> dict[str, int]:
    counts = {"open": OPENS, "read": READS, "write": WRITES, last: LASTS}
    return {call: count * times for call, count in counts.items()}


def counts(run: Run, kind: str) -> dict[str, int]:
    """Calls by kind of call: the sum of each histogram's bins."""
    return {
        call: sum(values[-1] for values in charts.values.values())
        for call in ("open", "read", "write", LAST_CALL.get(kind, "sync"))
        if (charts := run.charts().get(f"filesystem.{kind}_{call}_latency"))
    }


def settled(run: Run, kind: str) -> dict[str, int]:
    run.wait_frames(3)
    return counts(run, kind)


def grown(run: Run, kind: str, before: Mapping[str, int]) -> dict[str, int]:
    """What has been added since, two frames later: what is too much would show."""
    run.wait_frames(3)
    return {call: count - before[call] for call, count in counts(run, kind).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_of_a_file_system_is_in_its_histogram_once(
    run: Run, points: Mapping[str, Path], kind: str
) -> None:
    others = [other for other in KINDS if other != kind]
    before, before_others = settled(run, kind), [counts(run, other) for other in others]
    make_calls(points[kind] / f"file{kind}", "sync")
    assert grown(run, kind, before) == expected("sync")
    assert [counts(run, other) for other in others] == before_others
    covered(run, "filesystem", *(f"{call} {label}" for call in expected("sync") for label in LABELS))


def test_every_call_of_nfs_is_in_its_histogram_once_whatever_the_version(
    run: Run, points: Mapping[str, Path]
) -> None:
    before = settled(run, "nfs")
    make_calls(points["nfs3"] / "filenfs3", "attribute")
    make_calls(points["nfs4"] / "filenfs4", "attribute")
    assert grown(run, "nfs", before) == expected("attribute", 2)
    covered(run, "filesystem", *(f"{call} {label}" for call in expected("attribute") for label in LABELS))


def test_charts_go_with_the_last_mount_of_their_type_and_come_back_with_the_next(
    run: Run, devices: Mapping[str, Path], points: Mapping[str, Path]
) -> None:
    before, ext4 = settled(run, "xfs"), counts(run, "ext4")
    command("umount", points["xfs"])
    wait_for("no xfs", lambda: run.charts()["filesystem.xfs_read_latency"].obsolete, 30)
    make_calls(points["ext4"] / "fileext4", "sync")
    assert grown(run, "ext4", ext4) == expected("sync")
    command("mount", "-t", "xfs", devices["xfs"], points["xfs"])
    wait_for("xfs again", lambda: not run.charts()["filesystem.xfs_read_latency"].obsolete, 60)
    again = settled(run, "xfs")
    assert all(again[call] >= count for call, count in before.items()), "it goes on from where it was"
    make_calls(points["xfs"] / "filexfs", "sync")
    assert grown(run, "xfs", again) == expected("sync")


def test_a_slow_read_is_in_the_bin_of_its_time(run: Run, tmp_path: Path) -> None:
    """A read of 300 ms and more, and not longer than its caller saw."""
    delay_ms, reads = 300, 7
    with loop_device(tmp_path / "image", SIZES_MB["ext4"]) as below:
        make_file_system("ext4", below)
        slow = SlowDisk(f"slow{os.getpid()}", below)
        try:
            with mounted("ext4", slow.device, tmp_path / "slow") as point:
                (point / "file").write_bytes(bytes(4096))
                os.sync()
                slow.delay(delay_ms)
                before = bins(run)
                began_s = time.monotonic()
                read_directly(point / "file", reads, 1)
                took_ms = (time.monotonic() - began_s) * 1000
                slow.delay(0)
                run.wait_frames(3)
                added = [now - then for now, then in zip(bins(run), before, strict=True)]
        finally:
            slow.remove()
    lowest = LABELS.index("262ms->524ms")
    longest_ms = took_ms - (reads - 1) * delay_ms
    highest = next((n for n in range(lowest, 24) if longest_ms < 1 << n - 10), 23)
    assert sum(added) == reads == sum(added[lowest : highest + 1])


def bins(run: Run) -> list[int]:
    run.wait_frames(3)
    values = run.charts()["filesystem.ext4_read_latency"].values
    return [values[label][-1] for label in LABELS]


@pytest.mark.parametrize("mode", ["entry", "return"])
@pytest.mark.parametrize("plan", BLIND)
def test_where_functions_cannot_be_seen_the_program_says_so_and_sends_no_chart(
    plan: str, mode: str, devices: Mapping[str, Path], tmp_path: Path
) -> None:
    with (
        mounted("ext4", devices["ext4"], tmp_path / "ext4"),
        supervisor("--only", "filesystem", "--attach", plan, "--load-mode", mode, wait=False) as run,
    ):
        wait_unavailable(run, "filesystem")
        assert "filesystem.ext4_read_latency" not in run.charts()
