"""CPU time of the whole tree while it runs, with few and with many processes on the machine."""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks import guest as guests
from tests.benchmarks import processes
from tests.benchmarks.figures import Benchmark, Goal, Section, Table, at_most
from tests.benchmarks.load import Load
from tests.harness import supervisor

TITLE: Final = "CPU"
COUNTS: Final = (100, 2000)
_WARM_UP_S: Final = 10.0
_MEASURED_S: Final = 30.0
_GUEST_S: Final = 600.0
# 2,000 sleepers with a heap of their own each.
_GUEST_MB: Final = 6144

# From few processes to many, how much more still counts as flat.
_FLAT: Final = 1.25

_MEANING: Final = f"""\
CPU time of the supervisor, its workers and the aggregator, all threads (schedstat), over
{_MEASURED_S:.0f} s after {_WARM_UP_S:.0f} s of warm-up, with all programs at one second. The load: N sleeping
processes of 16 names, each waking every 10 s to open, read, write and close. In the guest {guests.MODE},
so that 1 % is 5 M instructions a second, of which a real processor does some ten times as many; the goal
is for the host. The model takes 11.6 % in the guest with N = 2,000 at one second, all of its programs on."""


@dataclass(frozen=True)
class Usage:
    """Seconds of CPU per second, by process."""

    sleepers: int
    by_process: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.by_process.values())


def run(guest: bool) -> Section:
    host = measure(COUNTS)
    emulated: list[Usage] = []
    if guest:
        words = [str(count) for count in COUNTS]
        answer = guests.ask("tests.benchmarks.cpu", *words, timeout_s=_GUEST_S, memory_mb=_GUEST_MB)
        emulated = [Usage(int(sleepers), shares) for sleepers, shares in answer]
    kernels = [f"kernel {platform.release()}", *([guests.label()] if guest else [])]
    tables = [_table("host", host), *([_table("guest", emulated)] if guest else [])]
    return Section(TITLE, _MEANING, tuple(kernels), _goals(host), tables, () if guest else ("the guest",))


def measure(counts: Sequence[int]) -> list[Usage]:
    return [_measure(count) for count in counts]


def _measure(sleepers: int) -> Usage:
    with Load(sleepers), supervisor() as run:
        time.sleep(_WARM_UP_S)
        tree = processes.tree(run.process.pid)
        began_s, before = time.monotonic(), _used(tree)
        time.sleep(_MEASURED_S)
        after, took_s = _used(tree), time.monotonic() - began_s
    return Usage(sleepers, {name: (after[name] - before[name]) / 1e9 / took_s for name in tree})


def _used(tree: Mapping[str, int]) -> dict[str, int]:
    return {name: processes.cpu_ns([pid]) for name, pid in tree.items()}


def _n(usage: Usage) -> str:
    return f"N = {usage.sleepers:,}"


def _goals(usages: Sequence[Usage]) -> list[Goal]:
    few, many = usages[0], usages[-1]
    goals = [at_most(f"host, {_n(usage)}", usage.total * 100, 1, "{:.2f} % of a core") for usage in usages]
    growth = f"host, {_n(many)} by {_n(few)}"
    return [*goals, at_most(growth, many.total / few.total, _FLAT, "{:.2f} times")]


def _table(where: str, usages: Sequence[Usage]) -> Table:
    names = list(usages[0].by_process)
    rows = [
        (_n(usage), f"{usage.total:.2%}", *(f"{usage.by_process[name]:.2%}" for name in names))
        for usage in usages
    ]
    return Table((f"{where}, share of a core", "all", *names), rows)


BENCHMARK: Final = Benchmark("cpu", "CPU time with 100 and 2,000 processes", run)

if __name__ == "__main__":
    guests.answer([(usage.sleepers, usage.by_process) for usage in measure([int(w) for w in guests.words()])])
