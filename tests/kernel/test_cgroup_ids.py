"""The id of a cgroup is its folder's inode number: seen on a real hierarchy of this kernel."""

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.aggregator import cgroups, storage
from supervisor.aggregator.cgroup_tree import walk
from supervisor.aggregator.cgroups import Cgroups

AT_FDCWD = -100
FILEID_KERNFS = 0xFE
CHILDREN = 23


def mounts(kind: str) -> list[Path]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(words[1]) for words in map(str.split, lines) if words[2] == kind]


@pytest.fixture(params=["cgroup2", "cgroup"])
def folder(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Path]]:
    """Mount point, and a cgroup of this test's own in it."""
    found = mounts(request.param)
    if os.geteuid() != 0 or not found:
        pytest.skip(f"needs root and a {request.param} file system; mounted: {found}")
    made = found[0] / f"test{os.getpid()}"
    made.mkdir()
    yield found[0], made
    for below in sorted(made.rglob("*/"), reverse=True):
        below.rmdir()
    made.rmdir()


def handle(path: Path) -> int:
    """The id that the kernel itself gives for the folder (name_to_handle_at(2)): kernfs's node id."""
    buffer = ctypes.create_string_buffer(struct.pack("<Ii", 8, 0) + bytes(8))
    mount_id = ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount_id), 0)
    assert result == 0, os.strerror(ctypes.get_errno())
    size, kind, identity = struct.unpack("<IiQ", buffer.raw[:16])
    assert (size, kind) == (8, FILEID_KERNFS)
    return int(identity)


def test_the_walk_finds_every_cgroup_by_the_kernels_own_id(folder: tuple[Path, Path]) -> None:
    root, made = folder
    for number in range(CHILDREN):
        (made / f"c{number}").mkdir()
    # Names can hold anything but a newline, which the kernel refuses (cgroup_mkdir).
    hostile = made / "c1" / "it's =\"\\ \udcff"
    hostile.mkdir()
    found = walk(str(root))
    assert found.error is None
    for path in (root, made, *made.glob("c[0-9]*"), hostile):
        assert found.path_of_id[handle(path)] == "/" + str(path.relative_to(root)).removeprefix(".")


def test_a_cgroup_is_live_until_its_folder_goes(folder: tuple[Path, Path]) -> None:
    root, made = folder
    (made / "a.scope").mkdir()
    identity = handle(made / "a.scope")
    memory_fd, now_s = storage.create_cgroups(), [0.0]
    watched = Cgroups(root, memory_fd, lambda: now_s[0])
    watched.refresh([identity])
    (scope,) = watched.live()
    assert scope.path == f"/{made.name}/a.scope"
    watched.refresh([])
    assert watched.live() == [scope]
    (made / "a.scope").rmdir()
    watched.refresh([])
    now_s[0] += cgroups.REMEMBERED_S
    watched.refresh([])
    assert watched.gone() == {scope.entity: scope}
    os.close(memory_fd)
