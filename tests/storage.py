"""Storage of a test's own: loop devices over files, file systems on them, NFS over loopback, arrays of disks,
slow disks. All of it is gone at the end of its `with` block."""

import contextlib
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.harness import wait_for

BLOCK_BYTES: Final = 4096
_SECTOR_BYTES: Final = 512
_MKFS: Final = {
    # What older kernels do not know is left out, and what a new file system would do behind one's back.
    "ext4": ("mkfs.ext4", "-q", "-F", "-O", "^orphan_file", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
# The least that each takes.
SIZES_MB: Final = {"ext4": 64, "xfs": 300, "btrfs": 128}


def command(*words: str | Path, env: dict[str, str] | None = None) -> str:
    """Runs it to its end and gives its output; its errors are in the AssertionError."""
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout.strip()


def load_modules(*names: str) -> bool:
    """Whether they are there: built in, or loaded now."""
    return all(subprocess.run(["modprobe", "--quiet", name], check=False).returncode == 0 for name in names)


@contextlib.contextmanager
def loop_device(image: Path, size_mb: int) -> Iterator[Path]:
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    load_modules("loop")
    device = Path(command("losetup", "--find", "--show", image))
    try:
        yield device
    finally:
        command("losetup", "--detach", device)
        image.unlink()


def make_file_system(kind: str, device: Path) -> None:
    load_modules(kind)
    command(*_MKFS[kind], device)


@contextlib.contextmanager
def mounted(kind: str, source: str | Path, point: Path, options: str = "") -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    command("mount", "-t", kind, *(("-o", options) if options else ()), source, point)
    try:
        yield point
    finally:
        command("umount", point)


@contextlib.contextmanager
def nfs_server(folder: Path) -> Iterator[str]:
    """This kernel serves the folder, at 127.0.0.1:/ for version 4 and under its own path for version 3."""
    load_modules("nfsd")
    command("ip", "link", "set", "lo", "up")
    Path("/var/lib/nfs/rpc_pipefs").mkdir(parents=True, exist_ok=True)
    Path("/run/rpcbind").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mounted("nfsd", "nfsd", Path("/proc/fs/nfsd")))
        portmapper = subprocess.Popen(["rpcbind", "-f"])
        stack.callback(portmapper.wait)
        stack.callback(portmapper.terminate)
        wait_for("the port mapper", lambda: Path("/run/rpcbind.sock").exists())
        command("exportfs", "-o", "rw,fsid=0,no_root_squash,insecure,no_subtree_check", f"*:{folder}")
        stack.callback(command, "exportfs", "-ua")
        mountd = subprocess.Popen(["rpc.mountd", "--foreground"])
        stack.callback(mountd.wait)
        stack.callback(mountd.terminate)
        command("rpc.nfsd", "-G", "10", "-L", "10", "2")
        stack.callback(command, "rpc.nfsd", "0")
        # Nobody has anything to claim again after the server's start.
        end = Path("/proc/fs/nfsd/v4_end_grace")
        if end.exists():
            with contextlib.suppress(OSError):  # EBUSY where nothing tracks clients: it ends by itself
                end.write_text("Y")
        yield "127.0.0.1:/"


@contextlib.contextmanager
def mirror(number: int, *members: Path) -> Iterator[Path]:
    """An md array of level 1."""
    device = Path(f"/dev/md{number}")
    start_mirror(number, *members)
    try:
        yield device
    finally:
        if device.exists():
            stop_array(device)


def start_mirror(number: int, *members: Path) -> None:
    load_modules("md_mod", "raid1")
    options = ("--run", "--level=1", f"--raid-devices={len(members)}", "--assume-clean", "--homehost=any")
    command("mdadm", "--create", f"/dev/md{number}", *options, *members, env={"MDADM_NO_UDEV": "1"})


def stop_array(device: Path) -> None:
    command("mdadm", "--stop", device, env={"MDADM_NO_UDEV": "1"})


class SlowDisk:
    """A device before another one, each of whose reads and writes begins so late (dm-delay)."""

    def __init__(self, name: str, below: Path) -> None:
        load_modules("dm_mod", "dm_delay")
        self._name = name
        self._below = below
        self._sectors = int(command("blockdev", "--getsz", below))
        command("dmsetup", "create", "--noudevsync", name, "--table", self._table(0))
        self.device = Path("/dev/mapper") / name
        command("dmsetup", "mknodes", "--noudevsync", name)

    def _table(self, delay_ms: int) -> str:
        return f"0 {self._sectors} delay {self._below} 0 {delay_ms}"

    def delay(self, delay_ms: int) -> None:
        command("dmsetup", "reload", self._name, "--table", self._table(delay_ms))
        command("dmsetup", "resume", "--noudevsync", self._name)

    def remove(self) -> None:
        command("dmsetup", "remove", "--noudevsync", self._name)


def read_directly(path: Path, count: int, blocks: int) -> None:
    """So many reads of 4 KiB past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, BLOCK_BYTES)
        for number in range(count):
            os.preadv(fd, [buffer], number % blocks * BLOCK_BYTES)
    finally:
        os.close(fd)
