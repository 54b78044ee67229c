"""What `status` tells, as plain values."""

import os
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from supervisor.kernel import attach
from supervisor.unit import Unit
from supervisor.units.core import CoreUnit
from supervisor.units.loading import LoadingUnit
from supervisor.units.program import ProgramUnit

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Of one process: resident memory, and CPU time since it began (proc_pid_stat(5))."""

    rss_bytes: int = 0
    cpu_s: float = 0.0


def usage(pid: int | None) -> Usage:
    """Nothing of a process that there is not, nor while there is no descriptor to read it with."""
    if pid is None:
        return Usage()
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return Usage()
    return Usage(int(fields[21]) * _PAGE_BYTES, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def of_unit(unit: Unit) -> dict[str, Any]:
    """What programs and the aggregator have in common."""
    pid = unit.child.pid if unit.child else None
    return {
        "state": unit.state.value,
        "pid": pid,
        "uptime_s": round(unit.uptime_s, 1),
        "restarts": unit.restarts,
        **asdict(usage(pid)),
    }


@dataclass(frozen=True)
class Counts:
    """Of one program, from the aggregator: samples taken and lost, events per second."""

    samples: int
    dropped: int
    rate: float


def of_program(unit: ProgramUnit, counts: Counts) -> dict[str, Any]:
    return {
        "name": unit.name,
        **of_unit(unit),
        "kernel_bytes": unit.kernel_bytes,
        "samples": counts.samples,
        "dropped": counts.dropped,
        "rate": round(counts.rate, 1),
        "description": unit.description,
        "hooks": _hooks(unit),
    }


def of_identities(unit: CoreUnit) -> dict[str, Any]:
    """Of the program that no worker belongs to."""
    return {
        "name": unit.name,
        "state": unit.state.value,
        "restarts": unit.restarts,
        "kernel_bytes": unit.kernel_bytes,
        "description": unit.description,
        "hooks": _hooks(unit),
    }


def _hooks(unit: LoadingUnit) -> list[dict[str, Any]]:
    return [{**hook.told(), **asdict(attach.use_of(hook.link))} for hook in unit.hooks]


def overall(version: str, started_s: float, frames: int, core_bytes: int) -> dict[str, Any]:
    return {
        "version": version,
        "kernel": os.uname().release,
        "uptime_s": round(time.monotonic() - started_s, 1),
        "frames": frames,
        "kernel_bytes": core_bytes,
        "supervisor": {"pid": os.getpid(), **asdict(usage(os.getpid()))},
    }
