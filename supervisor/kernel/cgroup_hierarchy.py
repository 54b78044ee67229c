"""Which hierarchy of cgroups processes are told apart by, where it is mounted, and the id of a process's
cgroup.

Version 2 has one hierarchy. Version 1 has one for each mounted set of controllers: of cpuset, blkio, memory
and devices the first that processes are in is taken. Where both versions are mounted (systemd's hybrid mode),
version 2 goes first when processes are in it.

A cgroup's id is the inode number of its folder (since 5.5: kernel commit 40430452fd5d).
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CONTROLLERS: Final = ("cpuset", "blkio", "memory", "devices")
_PROC: Final = Path("/proc")
_REMOVED: Final = " (deleted)"  # behind the path of a cgroup that only zombies are still in
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")  # a byte in octal (proc_pid_mountinfo(5))


@dataclass(frozen=True)
class Hierarchy:
    """version: 2 or 1. number: the kernel's (hierarchy_id; 0 for version 2), as in /proc/PID/cgroup.
    mount_point: where its folders are. root: the cgroup that is shown there, "/" but for bind mounts."""

    version: int
    number: int
    mount_point: Path
    root: str

    def path_of(self, pid: int, proc: Path = _PROC) -> str | None:
        """The cgroup that the process is in, None when there is no such process, or the cgroup has been
        removed or is outside of the caller's cgroup namespace."""
        try:
            lines = (proc / str(pid) / "cgroup").read_bytes().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return None
        path = _path_in(lines, self.number)
        return None if path is None or path.startswith("/..") or path.endswith(_REMOVED) else path

    def id_of(self, pid: int, proc: Path = _PROC) -> int:
        """The kernel's id of that cgroup, 0 = unknown."""
        path = self.path_of(pid, proc)
        return _inode(self.mount_point, self.root, path) if path else 0


def find(proc: Path = _PROC) -> Hierarchy | None:
    """The hierarchy to use, None when none is mounted."""
    numbers = _numbers(proc)
    mounted = _mounted(proc, numbers)
    second = [mounted[0]] if 0 in mounted else []
    wanted = dict.fromkeys(numbers.get(name, -1) for name in _CONTROLLERS)
    first = [mounted[number] for number in wanted if number in mounted]
    used = (found for found in (*second, *first) if _is_used(found, proc))
    return next(used, None) or next(iter((*first, *second)), None)


def _is_used(hierarchy: Hierarchy, proc: Path) -> bool:
    """Whether any process is in a cgroup of it that is not its root."""
    pids = (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    return any(hierarchy.path_of(pid, proc) not in (None, "/") for pid in pids)


def _numbers(proc: Path) -> dict[str, int]:
    """The hierarchy of each controller that is in one of version 1. Lines are `4:memory:/path`."""
    found = {}
    for line in (proc / "self/cgroup").read_text(errors="surrogateescape").splitlines():
        number, names, _ = line.split(":", 2)
        found.update(dict.fromkeys(filter(None, names.split(",")), int(number)))
    return found


def _mounted(proc: Path, numbers: Mapping[str, int]) -> dict[int, Hierarchy]:
    """Every mounted hierarchy by number; of its mounts the one that shows most of it."""
    lines = (proc / "self/mountinfo").read_bytes().splitlines()
    mounts = [mount for line in lines if (mount := _mount(line, numbers))]
    mounts.sort(key=lambda mount: len(mount.root), reverse=True)
    return {mount.number: mount for mount in mounts}


def _mount(line: bytes, numbers: Mapping[str, int]) -> Hierarchy | None:
    """Of a line such as `35 24 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory`."""
    place, _, kind = line.partition(b" - ")
    root, mount_point = map(_text, place.split()[3:5])
    fstype, _, options = map(_text, kind.split(b" ", 2))
    if fstype == "cgroup2":
        return Hierarchy(2, 0, Path(mount_point), root)
    number = next((numbers[name] for name in options.split(",") if name in numbers), None)
    if fstype != "cgroup" or number is None:
        return None
    return Hierarchy(1, number, Path(mount_point), root)


def _text(word: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), word))


def _path_in(lines: Iterable[bytes], number: int) -> str | None:
    for line in lines:
        if line.startswith(b"%d:" % number):
            return os.fsdecode(line.split(b":", 2)[2])
    return None


def _inode(mount_point: Path, root: str, path: str) -> int:
    """0 for a cgroup that is not below the mounted one, or has been removed."""
    top, place = (f"{text.rstrip('/')}/" for text in (root, path))
    if not place.startswith(top):
        return 0
    try:
        return os.stat(f"{mount_point}/{place.removeprefix(top)}").st_ino
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return 0
