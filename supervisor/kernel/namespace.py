"""A mount namespace of one's own, with the file systems that eBPF needs mounted out of everybody's sight:
they are gone with the process, however it ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from supervisor import linux

KALLSYMS: Final = Path("/proc/kallsyms")
TRACEFS: Final = Path("/sys/kernel/tracing")
BPFFS: Final = Path("/sys/fs/bpf")

_FLAGS: Final = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
_MOUNT_POINT: Final = 4  # field of /proc/self/mountinfo (proc_pid_mountinfo(5))


def enter() -> None:
    """Leaves the mount namespace for a copy of it, which has a tracefs and an empty bpffs.
    Raises OSError where it may not."""
    linux.unshare(linux.CLONE_NEWNS)
    # What is mounted on a shared mount would appear in the host's namespace too. In a chroot "/" itself may
    # be no mount point.
    for point in _mount_points():
        if any(place.is_relative_to(point) for place in (TRACEFS, BPFFS, KALLSYMS)):
            linux.mount("none", str(point), None, linux.MS_PRIVATE)
    if not (TRACEFS / "events").is_dir():
        linux.mount("tracefs", str(TRACEFS), "tracefs", _FLAGS)
    linux.mount("bpf", str(BPFFS), "bpf", _FLAGS)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder in memory that nobody else sees, in the bpffs's place for as long as it is needed.
    Raises OSError where that may not be."""
    linux.mount("tmpfs", str(BPFFS), "tmpfs", _FLAGS)
    try:
        yield BPFFS
    finally:
        linux.unmount(str(BPFFS), linux.MNT_DETACH)


def cover(path: Path, content: str) -> None:
    """Whoever opens the file in this namespace finds `content`. Raises OSError where that may not be."""
    with scratch() as folder:  # the file that is mounted keeps what it is in
        ours = folder / path.name
        ours.write_text(content)
        linux.mount(str(ours), str(path), None, linux.MS_BIND)


def _mount_points() -> list[Path]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [Path(line.split()[_MOUNT_POINT]) for line in file]
