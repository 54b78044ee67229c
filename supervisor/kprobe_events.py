"""Lines of kprobe_events that are ours: seen by their tag, removed, and nobody else's touched.

libbcc attaches kprobes by the kernel's kprobe PMU, which leaves nothing behind; where there is none (before
4.17) it writes a line `p:kprobes/<event>_bcc_<pid> symbol`. The event's name begins with our tag, which
holds a number made from the runtime directory, so that supervisors side by side know their own.
"""

import logging
import os
import zlib
from pathlib import Path
from typing import Final

from supervisor import linux, spawn

PMU: Final = Path("/sys/bus/event_source/devices/kprobe")
_TRACEFS: Final = Path("/sys/kernel/tracing")

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


def remove_in_namespace(mark: str) -> list[str]:
    """The same where no tracefs may be mounted: it is, out of sight, in a process of its own."""
    if not (_TRACEFS / "events").is_dir():
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("tracefs", str(_TRACEFS), "tracefs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    return remove(mark, _TRACEFS / "kprobe_events")


def clean(mark: str) -> list[str]:
    """Removes our lines in a child, which tells what it removed on its stderr, line by line."""

    def main() -> int:
        for line in remove_in_namespace(mark):
            log.info("%s", line)
        return 0

    child = spawn.spawn("cleaner", main, set(), None, "info")
    with open(child.stderr_fd, closefd=False) as stderr:
        os.set_blocking(child.stderr_fd, True)
        told = [line.rstrip("\n").removeprefix("<6>") for line in stderr]
    child.reap()
    child.close()
    return told
