"""The maps of a running supervisor, read by a test over its shoulder."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from supervisor.kernel import arrays
from supervisor.kernel.arrays import TASK
from supervisor.kernel.maps import ROWS_PER_PAGE, TASK_LIVE, KernelMap, MapInfo
from tests.harness import Run

_SYS_PIDFD_GETFD = 438


@contextlib.contextmanager
def identity_map(run: Run) -> Iterator[KernelMap]:
    """The map `task`, by a descriptor of our own; found by its size and the row of the supervisor itself."""
    for entry in Path(f"/proc/{run.process.pid}/fdinfo").iterdir():
        words = dict(line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line)
        if int(words.get("value_size", 0)) == TASK.itemsize * ROWS_PER_PAGE:
            info = MapInfo(
                "task", int(words["max_entries"]), int(words["value_size"]), int(words["map_flags"], 16)
            )
            held = KernelMap(info, _descriptor_of(run.process.pid, int(entry.name)))
            row = identity_of(held, run.process.pid)
            if row is not None and row["comm"].startswith(b"ebpf-supervisor"):
                yield held
                os.close(held.fd)
                return
            os.close(held.fd)
    raise AssertionError("the supervisor holds no map of identities")


def _descriptor_of(pid: int, number: int) -> int:
    pidfd = os.pidfd_open(pid)
    fd = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    os.close(pidfd)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return int(fd)


def identity_of(held: KernelMap, pid: int) -> Any:
    """The row of the process, None where it has none."""
    rows: npt.NDArray[Any] = arrays.records(held, TASK)
    found = rows[(rows["tgid"] == pid) & (rows["state"] & TASK_LIVE != 0)]
    return found[0].copy() if len(found) else None
