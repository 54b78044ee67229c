"""A machine with work on it: sleeping processes that wake now and then and touch files.

As in the measurement of the model: N forked sleepers with 16 different names, each waking every 10 s (20 s
where there are thousands) for open/read/close, open/write/close and one stat() that fails. Three quarters of
them are in four cgroups, where version 2 is mounted.

    with Load(2000):
        ...

With `containers` they are in so many cgroups instead, which are called as docker's are.
"""

import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_NAMES: Final = 16
_PERIOD_S: Final = 10.0
_GONE_S: Final = 20.0
_MANY: Final = 8000  # from so many on they wake half as often
_C: Final = ctypes.CDLL(None)
_CGROUPS: Final = Path("/sys/fs/cgroup")


class Load:
    """The benchmark's side: a process whose children are the sleepers. names: how many there are.
    containers: so many cgroups are made for them in `hierarchy`, the folder where one is mounted."""

    def __init__(
        self, count: int, names: int = _NAMES, containers: int = 0, hierarchy: Path = _CGROUPS
    ) -> None:
        self._arguments = str(count), str(names), str(containers), str(hierarchy)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__)), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the sleepers could not be made")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The children get SIGKILL when their parent has gone; the folders can be removed when they are."""
        self._process.communicate()
        _, _, containers, hierarchy = self._arguments
        for folder in cgroups(self._process.pid, int(containers), Path(hierarchy)):
            deadline_s = time.monotonic() + _GONE_S
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.05)


def cgroups(pid: int, containers: int, hierarchy: Path) -> list[Path]:
    """Those that a load with this process id makes, inner ones first; without containers none but in version
    2."""
    if containers:
        folder = hierarchy / "docker"
        return [*(folder / f"{pid:032x}{number:032x}" for number in range(containers)), folder]
    there = (_CGROUPS / "cgroup.procs").exists()
    return [_CGROUPS / f"bench-{pid}-{number}" for number in range(4)] if there else []


def _sleep(number: int, name: str, scratch: str, period_s: float, folder: Path | None) -> None:
    """One sleeper; the first waking is spread over the period."""
    if folder:
        (folder / "cgroup.procs").write_text("0")
    _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _C.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()), 0, 0, 0)
    delay_s = random.Random(number).uniform(0, period_s)
    while True:
        time.sleep(delay_s)
        delay_s = period_s
        _touch_files(scratch)


def _folder(number: int, folders: list[Path]) -> Path | None:
    """One of four sleepers is in none; the others take the folders in turn."""
    return folders[(number - number // 4) % len(folders)] if folders and number % 4 else None


def _touch_files(scratch: str) -> None:
    fd = os.open("/etc/hostname", os.O_RDONLY)
    os.read(fd, 64)
    os.close(fd)
    fd = os.open(scratch, os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)
    try:
        os.stat("/etc/hostname/missing")
    except OSError:
        return


def main() -> None:
    """The parent's side: makes them, and lives until its stdin is closed."""
    count, names, containers = map(int, sys.argv[1:4])
    period_s = _PERIOD_S * (2 if count >= _MANY else 1)
    folders = cgroups(os.getpid(), containers, Path(sys.argv[4]))
    for folder in reversed(folders):
        folder.mkdir(exist_ok=True)
    if containers:
        del folders[-1]  # the one that they are in
    with tempfile.NamedTemporaryFile(prefix="load-") as scratch:
        for number in range(count):
            if os.fork() == 0:
                try:
                    name = f"sleeper{number % names}"
                    _sleep(number, name, scratch.name, period_s, _folder(number, folders))
                finally:
                    os._exit(1)
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
