"""A process of a chosen name that makes exactly the events it is told to, and nothing else meanwhile.

    with Workload("kat") as work:
        work.do("open", 10007)

The process waits for orders on its stdin. Between two orders it opens nothing and forks nothing, so what a
group of its own counts is what was ordered.
"""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PR_SET_NAME: Final = 15
_MISSING: Final = "/dev/null/missing"


class Workload:
    """The test's side. folder: where the process works, if that matters."""

    SCRIPT = Path(__file__)

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(self.SCRIPT), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            text=True,
        )
        self.pid = self._process.pid
        assert self._answer() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end:
                end.close()

    def order(self, what: str, *numbers: int) -> None:
        """Begins it, without waiting for the end."""
        assert self._process.stdin
        self._process.stdin.write(" ".join([what, *map(str, numbers)]) + "\n")
        self._process.stdin.flush()

    def done(self) -> int:
        """Waits for the end of what was ordered, and gives the number that it has to tell."""
        word, number = self._answer().split()
        assert word == "done"
        return int(number)

    def do(self, what: str, *numbers: int) -> None:
        self.order(what, *numbers)
        self.done()

    def ask(self, what: str, *numbers: int) -> int:
        self.order(what, *numbers)
        return self.done()

    def rename(self, name: str) -> None:
        """Gives the process another name; the byte 0x01 stands for a newline."""
        assert self._process.stdin
        self._process.stdin.write(f"name {name}\n")
        self._process.stdin.flush()
        self.done()

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


def _set_name(name: bytes) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)


def _open(count: int) -> None:
    for _ in range(count):
        os.close(os.open("/dev/null", os.O_RDONLY))


def _fail(count: int) -> None:
    """Opens that fail."""
    for _ in range(count):
        try:
            os.open(_MISSING, os.O_RDONLY)
        except OSError:
            continue


def _fail_close(count: int) -> None:
    for _ in range(count):
        try:
            os.close(9999)
        except OSError:
            continue


def _churn(processes: int, opens: int) -> None:
    """Processes that live a few milliseconds, each opening and closing so many files."""
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            _open(opens)
            os._exit(0)
        os.waitpid(pid, 0)


def _threads(count: int) -> None:
    for _ in range(count):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()


_rest: Final = threading.Event()
_resting: Final[list[threading.Thread]] = []


def _rest_threads(count: int) -> None:
    """Threads that stay until `end_threads`."""
    for _ in range(count):
        thread = threading.Thread(target=_rest.wait)
        thread.start()
        _resting.append(thread)


def _end_threads() -> None:
    _rest.set()
    for thread in _resting:
        thread.join()


def _zombies(count: int) -> None:
    """Children that have ended and are not waited for."""
    for _ in range(count):
        if os.fork() == 0:
            os._exit(0)


def _sleepers(count: int) -> None:
    """Children that stay until this process ends."""
    parent = os.getpid()
    for _ in range(count):
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == parent:  # else it has ended before we could ask for that signal
                signal.pause()
            os._exit(0)


def _fail_fork(count: int) -> None:
    """fork-family calls that fail: CLONE_SIGHAND without CLONE_VM is EINVAL (clone(2)); 56 is clone."""
    libc = ctypes.CDLL(None)
    for _ in range(count):
        libc.syscall(56, 0x800, 0, 0, 0, 0)


def _fail_thread(count: int) -> None:
    """CLONE_THREAD without CLONE_SIGHAND is EINVAL."""
    libc = ctypes.CDLL(None)
    for _ in range(count):
        libc.syscall(56, 0x10000, 0, 0, 0, 0)


# push rbx; mov eax, edi; mov ebx, esi; int 0x80; pop rbx; ret
_INT_80: Final = bytes.fromhex("53 89f8 89f3 cd80 5b c3")
# read, readlink and remap_file_pages of a 32-bit process; of a 64-bit one these are close, creat and openat.
OTHER_CALLS_IN_32_BITS: Final = (3, 85, 257)


def _calls_32(count: int) -> None:
    """32-bit system calls of a 64-bit process, which all fail for their first argument."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_INT_80)
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(
        ctypes.addressof(ctypes.c_char.from_buffer(code))
    )
    for _ in range(count):
        for number in OTHER_CALLS_IN_32_BITS:
            assert call(number, -1) < 0


_PAGE: Final = b"page" * (mmap.PAGESIZE // 4)
_MADV_PAGEOUT: Final = 21  # include/uapi/asm-generic/mman-common.h, since 5.4
_paged: list[mmap.mmap] = []


def _write_file(name: int, pages: int) -> None:
    """Page after page, from the file's beginning."""
    with open(str(name), "ab", buffering=0) as file:
        for page in range(pages):
            os.pwrite(file.fileno(), _PAGE, page * mmap.PAGESIZE)


def _rewrite_file(name: int, pages: int) -> None:
    with open(str(name), "r+b", buffering=0) as file:
        for _ in range(pages):
            file.write(_PAGE)


def _read_file(name: int, pages_at_once: int) -> None:
    """From its beginning to its end."""
    with open(str(name), "rb", buffering=0) as file:
        buffer = bytearray(pages_at_once * mmap.PAGESIZE)
        while file.readinto(buffer):
            continue


def _read_page(name: int, page: int, count: int) -> None:
    """The same page again and again, by files opened anew."""
    for _ in range(count):
        with open(str(name), "rb", buffering=0) as file:
            os.pread(file.fileno(), mmap.PAGESIZE, page * mmap.PAGESIZE)


def _forget_file(name: int) -> None:
    """Writes it to the disk and lets the page cache go of it."""
    with open(str(name), "rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _stat(count: int) -> None:
    """Seven names each."""
    for _ in range(count):
        os.stat("a/b/c/d/e/f/g")


def _remove_missing(count: int) -> None:
    for number in range(count):
        try:
            os.unlink(f"missing{number}")
        except FileNotFoundError:
            continue


def _make_again(count: int) -> None:
    """A folder that is there."""
    for _ in range(count):
        try:
            os.mkdir("a")
        except FileExistsError:
            continue


def _page_out(pages: int) -> None:
    """Memory that is in use goes to swap. It stays on one CPU: what is not yet on the list of pages that may
    be taken is on the CPU's own."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(pages):
        memory[page * mmap.PAGESIZE : page * mmap.PAGESIZE + 8] = (page + 1).to_bytes(8, "little")
    memory.madvise(_MADV_PAGEOUT)
    _paged.append(memory)


def _page_out_again(pages: int) -> None:
    """What was written to swap stays in memory until it is taken a second time: that frees it, unwritten."""
    _read_memory(_paged[-1], pages)
    _paged[-1].madvise(_MADV_PAGEOUT)


def _page_in(pages: int) -> None:
    memory = _paged.pop()
    _read_memory(memory, pages)
    memory.close()


def _read_memory(memory: mmap.mmap, pages: int) -> None:
    for page in range(pages):
        at = page * mmap.PAGESIZE
        assert int.from_bytes(memory[at : at + 8], "little") == page + 1


def _overeat(processes: int) -> None:
    """One process after the other that takes more memory than the control group has whose folder this is."""
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            with open("cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
            hoard = []
            while True:
                hoard.append(bytearray(b"x") * (1 << 20))
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL


_ORDERS: Final[dict[str, Callable[..., None]]] = {
    "open": _open,
    "fail": _fail,
    "fail_close": _fail_close,
    "churn": _churn,
    "threads": _threads,
    "rest_threads": _rest_threads,
    "end_threads": _end_threads,
    "zombies": _zombies,
    "sleepers": _sleepers,
    "fail_fork": _fail_fork,
    "fail_thread": _fail_thread,
    "calls_32": _calls_32,
    "write_file": _write_file,
    "rewrite_file": _rewrite_file,
    "read_file": _read_file,
    "read_page": _read_page,
    "forget_file": _forget_file,
    "stat": _stat,
    "remove_missing": _remove_missing,
    "make_again": _make_again,
    "page_out": _page_out,
    "page_out_again": _page_out_again,
    "page_in": _page_in,
    "overeat": _overeat,
}


def main(orders: Mapping[str, Callable[..., int | None]] = _ORDERS) -> None:
    """The process's side: orders from stdin, one a line; "done" and a number after each."""
    _set_name(os.fsencode(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        what, *words = line.split()
        if what == "name":
            _set_name(os.fsencode(line.rstrip("\n").partition(" ")[2].replace("\x01", "\n")))
            number = None
        else:
            number = orders[what](*map(int, words))
        print("done", number or 0, flush=True)


if __name__ == "__main__":
    main()
