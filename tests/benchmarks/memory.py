"""Memory of each process and of the kernel's maps, with the default table and all programs."""

import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.kernel.maps import PIDS_PER_PAGE
from tests.benchmarks import guest as guests
from tests.benchmarks import processes
from tests.benchmarks.cpu import settled
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

_GUEST_S: Final = 1500.0
_GUEST_MB: Final = 4096
_POSSIBLE_CPUS: Final = 64

_MEANING: Final = f"""\
Private memory is what a process alone has (`Private_*` of smaps_rollup), PSS adds its share of what it has
in common with others; medians of {_LOOKS} looks, {_SETTLE_S:.0f} s after the first frame, all programs on,
with {SLEEPERS:,} processes on the machine. The kernel's memory is what it says of each map (`memlock` of
fdinfo), with the default table. In the guest all sixteen programs run, with an ext4 file system and an md
array for those that want one, and the largest `pid_max`, {LARGEST_PID_MAX:,}: the map that finds a process by
its id is as long as that. The host cannot run all; there `pid_max` is
{int(Path("/proc/sys/kernel/pid_max").read_text()):,}, and for the largest one the sum is computed."""


@dataclass(frozen=True)
class Found:
    """Memory of each process; bytes of kernel memory by program, and in all."""

    processes: Mapping[str, Memory]
    maps: Mapping[str, int]
    kernel_bytes: int


def run(guest: bool) -> Section:
    host = measure(SLEEPERS)
    goals = _goals("host", host)
    more = host.kernel_bytes + _more_pids()
    goals.append(
        at_most(f"host, kernel memory with pid_max {LARGEST_PID_MAX:,}", more / _MB, 32, "{:.1f} MB")
    )
    tables = [_processes("host", host), _maps({"host": host})]
    if guest:
        all_on, wide = _ask(SLEEPERS), _ask(0, _POSSIBLE_CPUS)
        goals = [*_goals("guest", all_on), _of_maps(f"guest, {_POSSIBLE_CPUS} possible CPUs", wide), *goals]
        tables = [
            _processes("guest", all_on),
            _processes("host", host),
            _maps({"guest": all_on, f"guest, {_POSSIBLE_CPUS} possible CPUs": wide, "host": host}),
        ]
    kernels = [f"kernel {platform.release()}", *([guests.label()] if guest else [])]
    return Section(TITLE, _MEANING, tuple(kernels), goals, tables, () if guest else ("the guest",))


def _ask(sleepers: int, possible_cpus: int = 0) -> Found:
    processes_, maps, kernel_bytes = guests.ask(
        "tests.benchmarks.memory",
        str(sleepers),
        timeout_s=_GUEST_S,
        memory_mb=_GUEST_MB,
        icount=False,
        possible_cpus=possible_cpus,
    )
    return Found({name: Memory(*sizes) for name, sizes in processes_.items()}, maps, kernel_bytes)


def measure(sleepers: int) -> Found:
    with Load(sleepers), supervisor() as run:
        settled(run)
        time.sleep(_SETTLE_S)
        tree = processes.tree(run.process.pid)
        memories = {name: _median(pid) for name, pid in tree.items()}
        status = run.status()
    programs = {program["name"]: program["kernel_bytes"] for program in status["programs"]}
    identities_bytes = status["kernel_bytes"] - sum(programs.values())
    return Found(memories, {"identities": identities_bytes, **programs}, status["kernel_bytes"])


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


def _goals(where: str, found: Found) -> list[Goal]:
    workers = [memory for name, memory in found.processes.items() if name.startswith("worker ")]
    private = max(memory.private_bytes for memory in workers)
    pss = sum(memory.pss_bytes for memory in found.processes.values())
    return [
        at_most(f"{where}, private memory of the largest worker", private / _MB, 3, "{:.1f} MB"),
        at_most(f"{where}, PSS of the tree with {len(workers)} workers", pss / _MB, 60, "{:.0f} MB"),
        _of_maps(where, found),
    ]


def _of_maps(where: str, found: Found) -> Goal:
    return at_most(f"{where}, kernel memory, all maps", found.kernel_bytes / _MB, 32, "{:.1f} MB")


def _processes(where: str, found: Found) -> Table:
    rows = [
        (name, f"{memory.private_bytes / _MB:.1f} MB", f"{memory.pss_bytes / _MB:.1f} MB")
        for name, memory in found.processes.items()
    ]
    return Table((f"{where}, process", "private", "PSS"), rows)


def _maps(by_place: Mapping[str, Found]) -> Table:
    names = next(iter(by_place.values())).maps
    rows = [(name, *(f"{found.maps[name] / _MB:.2f} MB" for found in by_place.values())) for name in names]
    return Table(("maps of", *by_place), rows)


BENCHMARK: Final = Benchmark("memory", "memory of each process and of the kernel's maps", run)

if __name__ == "__main__":
    Path("/proc/sys/kernel/pid_max").write_text(str(LARGEST_PID_MAX))
    with guests.everything_to_watch():
        seen = measure(int(guests.words()[0]))
    sizes = {name: (memory.private_bytes, memory.pss_bytes) for name, memory in seen.processes.items()}
    guests.answer((sizes, seen.maps, seen.kernel_bytes))
