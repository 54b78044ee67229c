"""Real file systems, swap space and control groups for the time of a test; nothing of them stays."""

import contextlib
import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# xfs wants 300 MB.
_IMAGE_BYTES: Final = 320 << 20
# What older kernels do not know is left out, and what a new file system would do behind one's back.
_MAKE: Final = {
    "ext4": (
        *("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^orphan_file,^metadata_csum_seed"),
        *("-E", "lazy_itable_init=0,lazy_journal_init=0"),
    ),
    "xfs": ("mkfs.xfs", "-q"),
    "swap": ("mkswap",),
}
_PATH: Final = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def _do(*words: str | Path) -> str:
    done = subprocess.run(words, env=_PATH, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


@contextlib.contextmanager
def _disk(kind: str, folder: Path) -> Iterator[str]:
    """A loop device over a file, formatted."""
    subprocess.run(["modprobe", "loop"], env=_PATH, capture_output=True, check=False)  # it can be built in
    image = folder / f"{kind}.image"
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    _do(*_MAKE[kind], image)
    device = _do("losetup", "--find", "--show", image)
    try:
        yield device
    finally:
        _do("losetup", "--detach", device)
        image.unlink()


@contextlib.contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """A file system of this kind, empty; `tmpfs` needs no disk."""
    point = folder / kind
    point.mkdir()
    with contextlib.ExitStack() as stack:
        source = "tmpfs" if kind == "tmpfs" else stack.enter_context(_disk(kind, folder))
        _do("mount", "-t", kind, source, point)
        stack.callback(_do, "umount", point)
        yield point


@contextlib.contextmanager
def swap_space(folder: Path) -> Iterator[None]:
    """The only swap space of the machine; what is wanted back from it is read page by page."""
    cluster = Path("/proc/sys/vm/page-cluster")
    before = cluster.read_text()
    with _disk("swap", folder) as device:
        _do("swapon", device)
        cluster.write_text("0")
        try:
            yield
        finally:
            cluster.write_text(before)
            _do("swapoff", device)


@contextlib.contextmanager
def small_cgroup(name: str, limit_bytes: int) -> Iterator[Path]:
    """A control group with little memory and no swap, of whichever version the machine has."""
    first = Path("/sys/fs/cgroup/memory")
    if first.is_dir():
        folder, limit, value = first / name, "memory.limit_in_bytes", str(limit_bytes)
    else:
        root = Path("/sys/fs/cgroup")
        (root / "cgroup.subtree_control").write_text("+memory")
        folder, limit, value = root / name, "memory.max", str(limit_bytes)
    folder.mkdir()
    try:
        (folder / limit).write_text(value)
        yield folder
    finally:
        folder.rmdir()


def killed_in(cgroup: Path) -> int:
    """How many processes of it the kernel has killed, by its own account."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(FileNotFoundError):
            words = (cgroup / name).read_text().split()
            return int(words[words.index("oom_kill") + 1])
    raise AssertionError(f"{cgroup} tells no kills")


def cached_pages(path: Path) -> int:
    """How many pages of the file are in the page cache (mincore(2))."""
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as memory:
        there = (ctypes.c_ubyte * ((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE))()
        view = ctypes.c_char.from_buffer(memory)
        assert not ctypes.CDLL(None).mincore(ctypes.byref(view), ctypes.c_size_t(size), there)
        del view
        return sum(flags & 1 for flags in there)


@contextlib.contextmanager
def held_in_cache(path: Path) -> Iterator[None]:
    """All of the file is in the page cache, and none of it is taken back for want of memory (mlock(2))."""
    size = path.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as memory:
        view = ctypes.c_char.from_buffer(memory)
        try:
            failed = libc.mlock(ctypes.byref(view), ctypes.c_size_t(size))
            assert not failed, f"mlock of {path}: {os.strerror(ctypes.get_errno())}"
            yield
        finally:
            del view  # a mapping that something points at cannot be closed


def vmstat(name: str) -> int:
    """A number of /proc/vmstat."""
    words = Path("/proc/vmstat").read_text().split()
    return int(words[words.index(name) + 1])
