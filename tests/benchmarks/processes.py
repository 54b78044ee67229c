"""What the kernel says of processes: CPU time and memory."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.harness import descendants

_KB = 1024


@dataclass(frozen=True)
class Memory:
    """Of one process (smaps_rollup of proc(5)): what is its own, and that with its share of the rest."""

    private_bytes: int
    pss_bytes: int


def memory(pid: int) -> Memory:
    """Raises FileNotFoundError when it has gone."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, _ = line.split()
        sizes[name] = int(size) * _KB
    return Memory(sizes["Private_Clean:"] + sizes["Private_Dirty:"], sizes["Pss:"])


def cpu_ns(pids: Iterable[int]) -> int:
    """CPU time of all threads of these processes, in nanoseconds (first field of schedstat)."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            # A thread that ends while we look takes its time along; steady processes have none.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def title(pid: int) -> str:
    """The command line: our processes give themselves titles."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


def tree(pid: int) -> dict[str, int]:
    """The process and all below it: id by name, the common beginning of their titles left out."""
    below = {title(child).removeprefix("ebpf-supervisor: "): child for child in descendants(pid)}
    return {"supervisor": pid, **below}


def others(pid: int) -> int:
    """How many processes of other supervisors there are."""
    ours = {pid, *descendants(pid)}
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in ours:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                count += title(int(entry.name)).startswith("ebpf-supervisor")
    return count
