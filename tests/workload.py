"""A process of a chosen name that makes exactly the events it is told to, and nothing else meanwhile.

    with Workload("kat") as work:
        work.do("open", 10007)

The process waits for orders on a socket, by recv(2) and not by read(2). Between two orders it opens, reads,
writes and forks nothing: what a group of its own counts is what was ordered.
"""

import ctypes
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PR_SET_NAME: Final = 15
# sched.h, sys/mount.h and sys/ipc.h
_CLONE_NEWNS: Final = 0x20000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_IPC_PRIVATE: Final = 0
_IPC_RMID: Final = 0
_MISSING: Final = "/dev/null/missing"


class Workload:
    """The test's side. folder: where the process works, if that matters."""

    SCRIPT = Path(__file__)

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name = name
        self._socket, theirs = socket.socketpair()
        self._answers = self._socket.makefile("r", encoding="utf-8")
        with theirs:
            command = [sys.executable, "-I", "-S", str(self.SCRIPT), name]
            # With more than eight arenas malloc asks how many processors there are, by opening a file.
            env = {**os.environ, "MALLOC_ARENA_MAX": "1"}
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), cwd=folder, env=env)
        self.pid = self._process.pid
        assert self._answer() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        self._socket.close()

    def order(self, what: str, *numbers: int) -> None:
        """Begins it, without waiting for the end."""
        self._send(" ".join([what, *map(str, numbers)]))

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
        self._send(f"name {name}")
        self.done()

    def _send(self, line: str) -> None:
        self._socket.sendall(os.fsencode(line) + b"\n")

    def _answer(self) -> str:
        return self._answers.readline().strip()


def set_name(name: bytes) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)


def open_files(count: int) -> None:
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
            open_files(opens)
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


def _rest_openers(count: int, opens: int) -> None:
    """The same; these have the process's name with a `t` behind it, and open so many files at their end."""
    ready = threading.Barrier(count + 1)

    def work() -> None:
        set_name(os.fsencode(f"{sys.argv[1]}t"))
        ready.wait()
        _rest.wait()
        open_files(opens)

    for _ in range(count):
        thread = threading.Thread(target=work)
        thread.start()
        _resting.append(thread)
    ready.wait()


def _kids(count: int, opens: int) -> None:
    """Children that have the process's name with a `k` behind it, one after the other."""
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            set_name(os.fsencode(f"{sys.argv[1]}k"))
            open_files(opens)
            os._exit(0)
        os.waitpid(pid, 0)


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


def _waiting_readers(count: int) -> None:
    """Children that wait in read(2) until this process ends."""
    outlet, _ = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
            os.read(outlet, 1)


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


def _refused(call: Callable[[], object]) -> None:
    """A call that must fail."""
    try:
        call()
    except OSError:
        return
    raise AssertionError("a call that should fail has not failed")


def _files() -> None:
    """What test_vfs.py counts, in a folder of its own on a plain file system."""
    folder = f"/tmp/{os.getpid()}.files"
    os.mkdir(folder, 0o755)
    _read_and_write(folder)
    _synchronize()
    _open_and_create(folder)
    os.rmdir(folder)


def _read_and_write(folder: str) -> None:
    zero, null = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
    file, directory = os.open(f"{folder}/file", os.O_RDWR | os.O_CREAT), os.open(folder, os.O_RDONLY)
    for _ in range(1009):
        os.read(zero, 1)
    os.pwrite(file, bytes(64), 0)
    for _ in range(211):
        assert len(os.pread(file, 4096, 0)) == 64
    buffers = [bytearray(10), bytearray(4096)]
    for _ in range(103):
        assert os.preadv(file, buffers, 0) == 64
    for _ in range(53):
        assert os.preadv(file, buffers, 0, os.RWF_HIPRI) == 64
    for _ in range(307):
        os.lseek(file, 0, os.SEEK_SET)
        assert os.readv(file, buffers) == 64
    for _ in range(503):
        _refused(lambda: os.read(directory, 1))
    for _ in range(17):
        assert os.sendfile(null, file, 0, 64) == 64  # neither a read nor a write

    for _ in range(1013):
        os.write(null, b"ab")
    for _ in range(223):
        os.pwrite(file, b"abc", 0)
    for _ in range(313):
        os.writev(null, [b"ab", b"c"])
    for _ in range(107):
        os.pwritev(file, [b"ab", b"cde"], 0)
    for _ in range(59):
        os.pwritev(file, [b"ab", b"cdefg"], 0, os.RWF_DSYNC)
    for _ in range(509):
        _refused(lambda: os.write(zero, b"ab"))
    outlet, inlet = os.pipe2(os.O_NONBLOCK)
    assert os.write(inlet, bytes(100_000)) == 65536  # all that a pipe holds (pipe(7))
    for fd in (zero, null, file, directory, outlet, inlet):
        os.close(fd)
    os.unlink(f"{folder}/file")


def _synchronize() -> None:
    file, null = os.memfd_create("file"), os.open("/dev/null", os.O_WRONLY)
    for _ in range(41):
        os.fsync(file)
    for _ in range(43):
        os.fdatasync(file)
    for _ in range(47):
        _refused(lambda: os.fsync(null))
    os.close(file)
    os.close(null)


def _open_and_create(folder: str) -> None:
    directory = os.open(folder, os.O_PATH)
    for _ in range(401):
        os.close(os.open("/dev/null", os.O_RDONLY))
    os.mkfifo(f"{folder}/fifo")
    for _ in range(131):
        _refused(lambda: os.open(f"{folder}/fifo", os.O_WRONLY | os.O_NONBLOCK))
    for number in range(61):
        os.close(os.open(f"{folder}/opened{number}", os.O_CREAT | os.O_WRONLY))
    for _ in range(71):
        os.close(os.open(f"{folder}/opened0", os.O_CREAT | os.O_WRONLY))
    for number in range(67):
        os.mknod(f"{folder}/made{number}", stat.S_IFREG | 0o600)
    os.seteuid(65534)
    for _ in range(73):
        _refused(lambda: os.mknod(f"{folder}/refused", stat.S_IFREG | 0o600))
    os.seteuid(0)

    for _ in range(37):
        _refused(lambda: os.unlink(f"{folder}/missing"))
    for _ in range(29):
        os.mkdir(f"{folder}/folder")
        os.rmdir("folder", dir_fd=directory)
    for name in ("fifo", *(f"opened{n}" for n in range(61)), *(f"made{n}" for n in range(67))):
        os.unlink(f"{folder}/{name}")
    os.close(directory)


def _sync_calls() -> None:
    """What test_vfs.py counts of the program sync."""
    libc = ctypes.CDLL(None)
    file = os.memfd_create("file")
    pages = mmap.mmap(-1, mmap.PAGESIZE)
    for _ in range(3):
        os.sync()
    for _ in range(11):
        libc.syncfs(file)
    for _ in range(13):
        pages.flush()
    for _ in range(17):
        os.fsync(file)
    for _ in range(19):
        os.fdatasync(file)
    for _ in range(23):
        libc.sync_file_range(file, ctypes.c_int64(0), ctypes.c_int64(0), 0)
    os.close(file)


def _mounts() -> None:
    """Mounts and unmounts in a namespace of its own."""
    libc = ctypes.CDLL(None)
    assert libc.unshare(_CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) == 0
    for _ in range(22):
        assert libc.mount(b"none", b"/mnt", b"tmpfs", ctypes.c_ulong(0), None) == 0
    for _ in range(29):
        assert libc.mount(b"none", b"/nowhere", b"tmpfs", ctypes.c_ulong(0), None) != 0
    for _ in range(22):
        assert libc.umount2(b"/mnt", 0) == 0
    for _ in range(31):
        assert libc.umount2(b"/nowhere", 0) != 0


def _shared_memory() -> None:
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    segments = [libc.shmget(_IPC_PRIVATE, ctypes.c_size_t(mmap.PAGESIZE), 0o600) for _ in range(17)]
    places = [libc.shmat(segments[0], None, 0) for _ in range(13)]
    for place in places:
        assert libc.shmdt(ctypes.c_void_p(place)) == 0
    for _ in range(10):
        assert libc.shmdt(ctypes.c_void_p(1)) != 0
    for segment in segments:
        assert libc.shmctl(segment, _IPC_RMID, None) == 0
    for segment in segments[:2]:
        assert libc.shmctl(segment, _IPC_RMID, None) != 0


_PAGE: Final = b"page" * (mmap.PAGESIZE // 4)
_MADV_PAGEOUT: Final = 21  # include/uapi/asm-generic/mman-common.h, since 5.4
_paged: list[mmap.mmap] = []


def _write_file(name: int, pages: int) -> None:
    """A new file, page after page."""
    _write(str(name), "wb", pages)


def _rewrite_file(name: int, pages: int) -> None:
    """The same over one that is there."""
    _write(str(name), "r+b", pages)


def _write(path: str, mode: str, pages: int) -> None:
    with open(path, mode, buffering=0) as file:
        for _ in range(pages):
            file.write(_PAGE)


def _read_file(name: int, pages_at_once: int) -> None:
    """All of its pages and no more: before 5.12 a read that comes upon the end adds a page there."""
    with open(str(name), "rb", buffering=0) as file:
        buffer = memoryview(bytearray(pages_at_once * mmap.PAGESIZE))
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.readinto(buffer[:left]) or left


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
    """Names that nobody has asked for: that a name is missing is cached too."""
    for number in range(count):
        try:
            os.unlink(f"missing{os.getpid()}-{number}")
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
    "open": open_files,
    "fail": _fail,
    "fail_close": _fail_close,
    "churn": _churn,
    "threads": _threads,
    "rest_threads": _rest_threads,
    "rest_openers": _rest_openers,
    "end_threads": _end_threads,
    "kids": _kids,
    "zombies": _zombies,
    "sleepers": _sleepers,
    "fail_fork": _fail_fork,
    "fail_thread": _fail_thread,
    "calls_32": _calls_32,
    "waiting_readers": _waiting_readers,
    "files": _files,
    "sync_calls": _sync_calls,
    "mounts": _mounts,
    "shared_memory": _shared_memory,
    "write_file": _write_file,
    "rewrite_file": _rewrite_file,
    "read_file": _read_file,
    "forget_file": _forget_file,
    "stat": _stat,
    "remove_missing": _remove_missing,
    "make_again": _make_again,
    "page_out": _page_out,
    "page_out_again": _page_out_again,
    "page_in": _page_in,
    "overeat": _overeat,
}


def _lines(channel: socket.socket) -> Iterator[str]:
    rest = b""
    while data := channel.recv(4096):
        *lines, rest = (rest + data).split(b"\n")
        yield from map(os.fsdecode, lines)


def main(orders: Mapping[str, Callable[..., int | None]] = _ORDERS) -> None:
    """The process's side: orders from the socket that is its stdin, one a line; "done" and a number after
    each."""
    set_name(os.fsencode(sys.argv[1]))
    channel = socket.socket(fileno=sys.stdin.fileno())
    channel.sendall(b"ready\n")
    for line in _lines(channel):
        what, *words = line.split()
        if what == "name":
            set_name(os.fsencode(line.rstrip("\n").partition(" ")[2].replace("\x01", "\n")))
            number = None
        else:
            number = orders[what](*map(int, words))
        channel.sendall(f"done {number or 0}\n".encode())


if __name__ == "__main__":
    main()
