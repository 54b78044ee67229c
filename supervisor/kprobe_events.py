"""Lines of kprobe_events that are ours: seen by their tag, removed, and nobody else's touched.

libbcc attaches kprobes by the kernel's kprobe PMU, which leaves nothing behind. Where there is none (before
4.17), and for a kretprobe that is to follow more calls at a time than the PMU lets it (Target.at_once), it
writes a line `r4096:kprobes/<event>_bcc_<pid> symbol`. The event's name begins with our tag, which holds a
number made from the runtime directory, so that supervisors side by side know their own.
"""

import logging
import os
import zlib
from pathlib import Path
from typing import Final

from supervisor import logs, spawn
from supervisor.kernel import namespace

PMU: Final = Path("/sys/bus/event_source/devices/kprobe")

log = logging.getLogger("cleanup")


def tag(runtime_dir: Path) -> str:
    return f"ebpfsup{zlib.crc32(bytes(runtime_dir.absolute())):08x}"


def ours(line: str, mark: str) -> bool:
    """Whether a line such as `p:kprobes/ebpfsup01234567_fd_p_close_fd_bcc_99 close_fd` bears the mark."""
    event = line.split(maxsplit=1)[0].partition(":")[2] if line.strip() else ""
    return event.rpartition("/")[2].startswith(mark + "_")


def removal(line: str) -> str:
    """What must be written to remove the line."""
    return "-:" + line.split(maxsplit=1)[0].partition(":")[2]


def remove(mark: str, events: Path) -> list[str]:
    """Removes our lines; a line in use is kept by the kernel (EBUSY) and told. Returns what went."""
    try:
        lines = events.read_text().splitlines()
    except FileNotFoundError:
        return []  # a kernel without kprobes
    gone = []
    for line in lines:
        if not ours(line, mark):
            continue
        try:
            with events.open("a") as file:
                file.write(removal(line) + "\n")
            gone.append(f"kprobe_events line {line}")
        except OSError as error:
            log.warning("kprobe_events line %s stays: %s", line, error.strerror)
    return gone


def clean(mark: str) -> list[str]:
    """Removes our lines, in a child with a tracefs of its own, and returns what went."""

    def main() -> int:
        namespace.enter()
        for line in remove(mark, namespace.TRACEFS / "kprobe_events"):
            log.info("%s", line)
        return 0

    child = spawn.spawn("cleaner", main, set(), None, "info")
    os.set_blocking(child.stderr_fd, True)
    removed = []
    with open(child.stderr_fd, closefd=False, encoding="utf-8", errors="backslashreplace") as stderr:
        for line in stderr:
            level, text = logs.parse_child_line(line.rstrip("\n"))
            if level == logging.INFO:
                removed.append(text)
            else:
                log.log(level, "%s", text)
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    child.close()
    return removed
