"""filesystem: how long reads, writes, opens and syncs take, a histogram for each type of file system.

Only the types that are mounted are attached: each type is a part of its own.
"""

import contextlib
import functools
import itertools
import os
import re
import select
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from supervisor.kernel.maps import Maps
from supervisor.kernel.plans import Hook, call_plans
from workers.declaration import LABELS, Column, Program, histogram

# The functions of each part, by kind of call. A part is a type of file system, but that NFS version 4 has one
# of its own: its open is in a module that is loaded by the first such mount.
_NFS: Final = {"read": "nfs_file_read", "write": "nfs_file_write", "attribute": "nfs_getattr"}
_FUNCTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "ext4": {
        "read": "ext4_file_read_iter",
        "write": "ext4_file_write_iter",
        "open": "ext4_file_open",
        "sync": "ext4_sync_file",
    },
    "xfs": {
        "read": "xfs_file_read_iter",
        "write": "xfs_file_write_iter",
        "open": "xfs_file_open",
        "sync": "xfs_file_fsync",
    },
    "btrfs": {
        "read": "btrfs_file_read_iter",
        "write": "btrfs_file_write_iter",
        "open": "btrfs_file_open",
        "sync": "btrfs_sync_file",
    },
    "nfs": {**_NFS, "open": "nfs_file_open"},
    "nfs4": {**_NFS, "open": "nfs_file_open nfs4_file_open"},
    "zfs": {"read": "zpl_iter_read", "write": "zpl_iter_write", "open": "zpl_open", "sync": "zpl_fsync"},
}
_LOCAL: Final = frozenset({"ext4", "xfs", "btrfs"})
_LOOKED_AT: Final = 100  # entries of a folder
# In the order of the source.
_ROWS: Final = ("ext4", "xfs", "btrfs", "nfs", "zfs")
_ROW_OF_PART: Final = {**{name: name for name in _ROWS}, "nfs4": "nfs"}
_CALLS: Final = ("read", "write", "open", "sync", "attribute")

# Calls of one function that kprobes follow at a time: many threads can wait for a slow disk.
_AT_ONCE: Final = 1024

_MOUNTS: Final = ("/proc/1/mountinfo", "/proc/self/mountinfo")


def _hook(part: str, call: str, functions: str) -> Hook:
    """Both ends of the functions, whatever the mode."""
    arguments = f"{_ROW_OF_PART[part].upper()}, {call.upper()}"
    plans = call_plans(functions.split(), "on_call", "on_return", arguments, _AT_ONCE)
    return Hook(
        f"{part} {call}",
        plans,
        plans,
        # A write or a sync is not harmless, and a server may not answer.
        exercise=functools.partial(_read_a_byte, part)
        if part in _LOCAL and call in ("open", "read")
        else None,
        column=_CALLS.index(call) * len(LABELS),
        part=part,
        map="types",
        width=len(LABELS),
    )


def _read_a_byte(kind: str) -> None:
    """Opens a file of a file system of this type, and reads from it. Raises FileNotFoundError where there is
    none at hand."""
    for point in points_of(kind, Path("/proc/self/mountinfo").read_text(errors="surrogateescape")):
        for path in _some_files(point):
            fd = os.open(path, os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.pread(fd, 1, 0)
            finally:
                os.close(fd)
            return
    raise FileNotFoundError(f"no file of type {kind} at hand")


def _some_files(point: str) -> Iterator[str]:
    """Plain files in a folder and in the folders in it that are of the same file system."""
    device = os.stat(point).st_dev
    folders = [point]
    for depth in range(2):
        below = []
        for folder in folders:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in itertools.islice(entries, _LOOKED_AT):
                    if entry.stat(follow_symlinks=False).st_dev != device:
                        continue
                    if entry.is_file(follow_symlinks=False):
                        yield entry.path
                    elif depth == 0 and entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
        folders = below


def parts_of(types: frozenset[str]) -> frozenset[str]:
    """The parts for the types that are mounted; version 4 of NFS has all that its others need."""
    known = types & _FUNCTIONS.keys()
    return known - {"nfs"} if "nfs4" in known else known


def types_in(mountinfo: str) -> frozenset[str]:
    """Types of the mounts (proc_pid_mountinfo(5)): what follows the first " - " of a line."""
    lines = (line.partition(" - ")[2].split() for line in mountinfo.splitlines())
    return frozenset(words[0] for words in lines if words)


def points_of(kind: str, mountinfo: str) -> list[str]:
    """Where file systems of this type are mounted; the kernel writes a blank in a path as \\040."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.split()[:1] == [kind]:
            found.append(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4]))
    return found


class Mounts:
    """The mounts of the whole host: those that process 1 sees. They are read again when they have changed,
    which poll(2) tells of that file."""

    def __init__(self) -> None:
        self._file: int | None = None
        self._types: frozenset[str] = frozenset()
        self._changes = select.poll()

    def types(self) -> frozenset[str]:
        if self._file is None:
            self._open()
        elif not self._changes.poll(0):
            return self._types
        self._types = types_in(self._read())
        return self._types

    def _open(self) -> None:
        """Process 1 may be out of sight: in a container that shares its network only, say."""
        for path in _MOUNTS:
            try:
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except PermissionError:
                continue
            self._changes.register(self._file, select.POLLPRI)
            return
        raise FileNotFoundError(f"none of {', '.join(_MOUNTS)} can be read; is /proc mounted?")

    def _read(self) -> str:
        assert self._file is not None
        pieces = []
        offset = 0
        while piece := os.pread(self._file, 1 << 16, offset):
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces).decode(errors="surrogateescape")


@functools.cache
def _mounts() -> Mounts:
    return Mounts()


def _parts() -> frozenset[str]:
    return parts_of(_mounts().types())


def _names(_maps: Maps, hooks: frozenset[str]) -> Mapping[int, str]:
    """The types all of whose calls are seen: another one's charts would show 0 for what is not."""
    return {
        _ROWS.index(_ROW_OF_PART[part]): _ROW_OF_PART[part]
        for part, functions in _FUNCTIONS.items()
        if hooks.issuperset(f"{part} {call}" for call in functions)
    }


def _columns() -> tuple[Column, ...]:
    return tuple(column for call in _CALLS for column in histogram(call, call))


PROGRAM = Program(
    name="filesystem",
    source="filesystem.bpf.c",
    hooks=tuple(
        _hook(part, call, functions)
        for part, calls in _FUNCTIONS.items()
        for call, functions in calls.items()
    ),
    columns=_columns(),
    kind="device",
    rows=len(_ROWS),
    row_words=len(_CALLS) * len(LABELS),
    table="types",
    maps=("types",),
    names=_names,
    parts=_parts,
)
