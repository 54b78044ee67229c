"""Lines of kprobe_events that are ours: written with our tag, seen by it, removed, and nobody else's touched.

    r4096:kprobes/ebpfsup01234567_fd_4711_r0 do_sys_openat2
    │     │       └ tag, made from the runtime directory so that supervisors side by side know their own;
    │     │         program and part; the loader that wrote it; p or r, and a number
    │     └ group
    └ what it is: a probe, or a return that follows so many calls at a time

The kernel's kprobe PMU (since 4.17) attaches without a line. Lines are written where there is none, for a
kretprobe that is to follow more calls at a time than the PMU lets it (Target.at_once), and on request
(`kprobe attach`). The kernel keeps a line as long as it is in use, and a moment longer: it lets go of what a
closed descriptor held in its own time.
"""

import logging
import os
import time
import zlib
from pathlib import Path
from typing import Final

from supervisor import logs, spawn
from supervisor.kernel import attach, namespace
from supervisor.loop import Loop

PMU: Final = attach.PMU
EVENTS: Final = "kprobe_events"
_GROUP: Final = "kprobes"
# For so long a line that is in use is tried again at once, and after such a pause once more.
_PATIENCE_S: Final = 1.0
_PAUSE_S: Final = 0.02
_RETRY_S: Final = 10.0
_IN_USE: Final = 1  # exit status of the cleaner

log = logging.getLogger("cleanup")


def tag(runtime_dir: Path) -> str:
    return f"ebpfsup{zlib.crc32(bytes(runtime_dir.absolute())):08x}"


def mark(tag: str, loader: int) -> str:
    """What the names of one loader's lines begin with."""
    return f"{tag}_{loader}"


def ours(line: str, mark: str) -> bool:
    """Whether a line such as `p:kprobes/ebpfsup01234567_fd_p_close_fd_bcc_99 close_fd` bears the mark."""
    event = line.split(maxsplit=1)[0].partition(":")[2] if line.strip() else ""
    return event.rpartition("/")[2].startswith(mark + "_")


def removal(line: str) -> str:
    """What must be written to remove the line."""
    return "-:" + line.split(maxsplit=1)[0].partition(":")[2]


def add(event: str, symbol: str, *, at_return: bool, at_once: int, tracefs: Path = namespace.TRACEFS) -> int:
    """Writes a line, and gives the number that the kernel has for its event. Raises OSError."""
    kind = (f"r{at_once}" if at_once else "r") if at_return else "p"
    _tell(f"{kind}:{_GROUP}/{event} {symbol}", tracefs / EVENTS)
    return int((tracefs / "events" / _GROUP / event / "id").read_text())


def _tell(command: str, events: Path) -> None:
    """One command for the kernel. Opened to be cut short (O_TRUNC), the file would lose everybody's lines;
    and Python's own mode for adding to it asks where it ends, which the kernel does not say (EINVAL)."""
    fd = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(fd, f"{command}\n".encode())
    finally:
        os.close(fd)


def drop(event: str, tracefs: Path = namespace.TRACEFS) -> None:
    """Removes a line of ours that is not to be used after all."""
    _remove(f"-:{_GROUP}/{event}", tracefs / EVENTS)


def remove(mark: str, events: Path) -> tuple[list[str], list[str]]:
    """Removes our lines, those in use (EBUSY) again and again for a moment. Gives those that went and those
    that stay, each with the reason."""
    try:
        lines = [line for line in events.read_text().splitlines() if ours(line, mark)]
    except FileNotFoundError:
        return [], []  # a kernel without kprobes
    refused = {line: _remove(removal(line), events) for line in lines}
    gone = [line for line, why in refused.items() if not why]
    return gone, [f"{line}: {why}" for line, why in refused.items() if why]


def _remove(command: str, events: Path) -> str:
    """Why the line stays, "" when it has gone."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            _tell(command, events)
            return ""
        except FileNotFoundError:
            return ""  # somebody else was faster
        except OSError as error:
            if time.monotonic() > deadline_s:
                return error.strerror or str(error)
        time.sleep(_PAUSE_S)


def _clean_here(mark: str) -> int:
    """The cleaner's main function: it has a tracefs of its own, and tells line by line what it did."""
    namespace.enter()
    gone, stay = remove(mark, namespace.TRACEFS / EVENTS)
    for line in gone:
        log.info("%s line %s", EVENTS, line)
    for line in stay:
        log.warning("%s line %s; it is in use, and tried again", EVENTS, line)
    return _IN_USE if stay else 0


def _spawn_cleaner(mark: str) -> spawn.Child:
    return spawn.spawn("cleaner", lambda: _clean_here(mark), set(), None, "info")


def clean(mark: str) -> list[str]:
    """Removes our lines, waits for it, and returns what went. What stays is told."""
    child = _spawn_cleaner(mark)
    os.set_blocking(child.stderr_fd, True)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    removed = _told(child)
    child.reap()
    child.close()
    return removed


def _told(child: spawn.Child) -> list[str]:
    """The lines that it removed; anything else that it said is logged."""
    removed = []
    with open(child.stderr_fd, closefd=False, encoding="utf-8", errors="backslashreplace") as stderr:
        for line in stderr:
            level, text = logs.parse_child_line(line.rstrip("\n"))
            if level == logging.INFO:
                removed.append(text)
            else:
                log.log(level, "%s", text)
    return removed


class Sweeper:
    """Removes lines while the supervisor goes on; those in use are tried again until they are gone."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._under_way: dict[str, spawn.Child] = {}
        self._rests = False

    def sweep(self, mark: str) -> None:
        """Begins it. mark: what the names of the lines begin with; nothing may write such lines any more."""
        if self._rests or mark in self._under_way:
            return
        try:
            child = _spawn_cleaner(mark)
        except OSError as error:
            log.warning("lines of %s stay for now: %s", EVENTS, error.strerror)
            self._loop.after(_RETRY_S, lambda: self.sweep(mark))
            return
        self._under_way[mark] = child
        self._loop.watch(child.pidfd, lambda: self._ended(mark))

    def _ended(self, mark: str) -> None:
        child = self._under_way.pop(mark)
        self._loop.unwatch(child.pidfd)
        os.set_blocking(child.stderr_fd, True)
        for removed in _told(child):
            log.info("removed %s", removed)
        if child.reap():
            self._loop.after(_RETRY_S, lambda: self.sweep(mark))
        child.close()

    def rest(self) -> None:
        """Begins nothing any more."""
        self._rests = True

    def finish(self) -> None:
        """Waits for what is under way."""
        self.rest()
        for mark, child in list(self._under_way.items()):
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
            self._ended(mark)
