"""Memory of each process and of the kernel's maps, with the default table and all programs."""

import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from supervisor.kernel.maps import PIDS_PER_PAGE
from tests.benchmarks import processes
from tests.benchmarks.figures import Benchmark, Goal, Section, Table, at_most
from tests.benchmarks.load import Load
from tests.benchmarks.processes import Memory
from tests.harness import supervisor

TITLE: Final = "Memory"
SLEEPERS: Final = 2000
_SETTLE_S: Final = 12.0
_LOOKS: Final = 9
_MB: Final = 1_000_000

# What 64-bit systems set pid_max to (systemd's sysctl.d); the kernel's own default is 32,768.
LARGEST_PID_MAX: Final = 4_194_304
# Of one entry of slot_of_pid with the default table, whose slot numbers fit into two bytes.
_SLOT_BYTES: Final = 2

_MEANING: Final = f"""\
Private memory is what a process alone has (`Private_*` of smaps_rollup), PSS adds its share of what it has
in common with others; medians of {_LOOKS} looks, {_SETTLE_S:.0f} s after the first frame, all programs on,
with {SLEEPERS:,} processes on the machine. The kernel's memory is what it says of each map (`memlock` of
fdinfo), with the default table. The map that finds a process by its id is as long as `pid_max`, which is
{int(Path("/proc/sys/kernel/pid_max").read_text()):,} here; for {LARGEST_PID_MAX:,} it is computed."""


def run(guest: bool) -> Section:
    with Load(SLEEPERS), supervisor() as run:
        time.sleep(_SETTLE_S)
        tree = processes.tree(run.process.pid)
        memories = {name: _median(pid) for name, pid in tree.items()}
        status = run.status()
    kernel, largest = status["kernel_bytes"], status["kernel_bytes"] + _more_pids()
    return Section(
        TITLE,
        _MEANING,
        (f"kernel {platform.release()}",),
        _goals(memories, kernel, largest),
        (_processes(memories), _maps(status)),
    )


def _median(pid: int) -> Memory:
    """A worker maps its kernel's counters for the moment of reading them: a look can hit that."""
    looks = []
    for _ in range(_LOOKS):
        looks.append(processes.memory(pid))
        time.sleep(0.13)
    return Memory(
        round(statistics.median(look.private_bytes for look in looks)),
        round(statistics.median(look.pss_bytes for look in looks)),
    )


def _more_pids() -> int:
    """What the map by process id takes more where `pid_max` is the largest that there is."""
    now = int(Path("/proc/sys/kernel/pid_max").read_text())
    return (LARGEST_PID_MAX - now) // PIDS_PER_PAGE * PIDS_PER_PAGE * _SLOT_BYTES


def _goals(memories: Mapping[str, Memory], kernel: int, largest: int) -> list[Goal]:
    workers = {name: memory for name, memory in memories.items() if name.startswith("worker ")}
    private = max(memory.private_bytes for memory in workers.values())
    pss = sum(memory.pss_bytes for memory in memories.values())
    return [
        at_most("private memory of the largest worker", private / _MB, 3, "{:.1f} MB"),
        at_most(f"PSS of all {len(memories)} processes", pss / _MB, 60, "{:.0f} MB"),
        at_most("kernel memory, all maps", kernel / _MB, 32, "{:.1f} MB"),
        at_most(f"the same with pid_max {LARGEST_PID_MAX:,}", largest / _MB, 32, "{:.1f} MB"),
    ]


def _processes(memories: Mapping[str, Memory]) -> Table:
    rows = [
        (name, f"{memory.private_bytes / _MB:.1f} MB", f"{memory.pss_bytes / _MB:.1f} MB")
        for name, memory in memories.items()
    ]
    return Table(("process", "private", "PSS"), rows)


def _maps(status: Mapping[str, Any]) -> Table:
    programs = {program["name"]: program["kernel_bytes"] for program in status["programs"]}
    identities_bytes = status["kernel_bytes"] - sum(programs.values())
    rows = [(name, f"{size / _MB:.2f} MB") for name, size in programs.items()]
    return Table(("maps of", "kernel memory"), [("identities", f"{identities_bytes / _MB:.2f} MB"), *rows])


BENCHMARK: Final = Benchmark("memory", "memory of each process and of the kernel's maps", run)
