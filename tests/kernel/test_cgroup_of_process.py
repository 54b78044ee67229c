"""Each process's cgroup, in the kernel's own identities: before the start, at birth, moved, and put there by
clone3, in a hierarchy of version 1 and of version 2."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.kernel import cgroup_hierarchy
from supervisor.kernel.maps import KernelMap
from tests.harness import supervisor, wait_for
from tests.kernel.conftest import KAT
from tests.kernel.kernel_maps import identity_map, identity_of
from tests.workload import Workload

pytestmark = pytest.mark.kernel

MOVES = 11


@dataclass(frozen=True)
class Place:
    """A hierarchy that a supervisor follows. first, second: two cgroups of this test in it."""

    version: int
    first: Path
    second: Path
    resident: int  # a process in `first` since before the start
    identities: KernelMap

    def id_of(self, pid: int) -> int:
        row = identity_of(self.identities, pid)
        return int(row["cgroup_id"]) if row is not None else 0


def mounted(version: int, scratch: Path) -> Path:
    """Where a hierarchy of this version is mounted; one is, where there is none."""
    kind = {1: "cgroup", 2: "cgroup2"}[version]
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    controllers = ("cpuset", "blkio", "memory", "devices") if version == 1 else ("",)
    for name in controllers:
        for _, point, found, options, *_ in lines:
            if found == kind and (not name or name in options.split(",")):
                return Path(point)
    for name in controllers:
        command = ["mount", "-t", kind, *(["-o", name] if name else []), "test", str(scratch)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return scratch
    pytest.skip(f"no {kind} file system can be had")


@contextlib.contextmanager
def cgroups(mount_point: Path) -> Iterator[tuple[Path, Path]]:
    made = mount_point / f"test{os.getpid()}a", mount_point / f"test{os.getpid()}b"
    for folder in made:
        folder.mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists() and (mount_point / "cgroup.clone_children").exists():
                (folder / name).write_text((mount_point / name).read_text())
    try:
        yield made
    finally:
        for folder in made:
            remove(folder)


def remove(folder: Path) -> None:
    """Once those that were killed in it have gone."""
    wait_for(f"{folder} to be empty", lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def enter(folder: Path, pid: int) -> None:
    (folder / "cgroup.procs").write_text(f"{pid}\n")


@pytest.fixture(scope="module", params=[2, 1])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    scratch = tmp_path_factory.mktemp("cgroup")
    point = mounted(request.param, scratch)
    with cgroups(point) as (first, second), Workload(f"{KAT}r") as resident:
        enter(first, resident.pid)
        found = cgroup_hierarchy.find()
        if found is None or found.mount_point != point:
            pytest.skip(f"processes are in {found}, which goes before {point}")
        with supervisor("--only", "fd") as run, identity_map(run) as held:
            yield Place(request.param, first, second, resident.pid, held)
    if point == scratch:
        subprocess.run(["umount", str(scratch)], check=True)


def test_who_was_there_before_the_start_has_its_cgroup(place: Place) -> None:
    assert place.id_of(place.resident) == place.first.stat().st_ino


def test_who_is_in_no_cgroup_has_the_root(place: Place) -> None:
    found = cgroup_hierarchy.find()
    assert found
    assert place.id_of(1) == found.id_of(1) != 0


def test_process_that_is_moved_has_its_new_cgroup_and_the_move_is_noted(place: Place) -> None:
    with Workload(KAT) as work:
        work.do("rest_threads", 3)
        before = identity_of(place.identities, work.pid)["moves"]
        for number in range(MOVES):
            folder = (place.first, place.second)[number % 2]
            enter(folder, work.pid)
            assert place.id_of(work.pid) == folder.stat().st_ino
        assert identity_of(place.identities, work.pid)["moves"] - before == MOVES


def test_children_are_born_into_the_cgroup_of_their_parent(place: Place) -> None:
    with Workload(KAT) as work:
        enter(place.second, work.pid)
        work.do("sleepers", 7)
        children = Path(f"/proc/{work.pid}/task/{work.pid}/children").read_text().split()
        assert len(children) == 7
        assert {place.id_of(int(pid)) for pid in children} == {place.second.stat().st_ino}


class CloneArguments(ctypes.Structure):
    """struct clone_args (clone3(2))."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def clone_into(folder: Path) -> int:
    """A child that is made in the cgroup, and then runs `sleep`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    given = CloneArguments(flags=0x200000000, exit_signal=signal.SIGCHLD, cgroup=fd)  # CLONE_INTO_CGROUP
    pid = ctypes.CDLL(None, use_errno=True).syscall(435, ctypes.byref(given), ctypes.sizeof(given))
    if pid == 0:
        os.execv("/bin/sleep", ["sleep", "60"])
    os.close(fd)
    assert pid > 0, os.strerror(ctypes.get_errno())
    return int(pid)


def test_process_that_clone3_puts_into_a_cgroup_has_it_once_it_runs_its_program(place: Place) -> None:
    if place.version == 1:
        pytest.skip("clone3 puts processes into cgroups of version 2 only")
    pid = clone_into(place.second)
    try:
        wait_for("its program", lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        assert place.id_of(pid) == place.second.stat().st_ino
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_move_in_another_hierarchy_changes_nothing(place: Place) -> None:
    other = {1: "cgroup2", 2: "cgroup"}[place.version]
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    points = [Path(words[1]) for words in lines if words[2] == other and "cpuset" not in words[3]]
    if not points:
        pytest.skip(f"no {other} file system is mounted")
    elsewhere = points[-1] / f"test{os.getpid()}c"
    elsewhere.mkdir()
    with Workload(KAT) as work:
        enter(place.first, work.pid)
        enter(elsewhere, work.pid)
        assert place.id_of(work.pid) == place.first.stat().st_ino
    remove(elsewhere)
