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
from tests.harness import Run, supervisor, wait_for

TITLE: Final = "CPU"
COUNTS: Final = (100, 2000)
GUEST_COUNTS: Final = (2000, 8000)
_WARM_UP_S: Final = 30.0
_MEASURED_S: Final = 40.0
_GUEST_S: Final = 3600.0
# 8,000 sleepers with a heap of their own each.
_GUEST_MB: Final = 15360
# CPU s per s of the model, by N: all its programs, one row per task; every ten seconds, and every second.
_MODEL_10_S: Final[Mapping[int, float]] = {2000: 0.0331, 8000: 0.127}
_MODEL_1_S: Final[Mapping[int, float]] = {2000: 0.116, 8000: 0.391}

# From few processes to many, how much more still counts as flat.
_FLAT: Final = 1.25

_MEANING: Final = f"""\
CPU time of the supervisor, its workers and the aggregator, all threads (schedstat), over
{_MEASURED_S:.0f} s after {_WARM_UP_S:.0f} s of warm-up, with all programs at one second. The load: N
sleeping processes of 16 names, each waking every 10 s (20 s with 8,000) to open, read, write and close,
and for a stat() that fails; three quarters of them in four cgroups. In the guest, one virtual CPU,
{guests.MODE}, so that 1 % is 5 M instructions a second, of which a real processor does some ten times as
many. *Model*: Netdata's ebpf.plugin 2.10.4 with all of its programs in the same guest, mode and load; the
goal is that ours takes no more every second than it takes every ten."""


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
        words = [str(count) for count in GUEST_COUNTS]
        answer = guests.ask("tests.benchmarks.cpu", *words, timeout_s=_GUEST_S, memory_mb=_GUEST_MB)
        emulated = [Usage(int(sleepers), shares) for sleepers, shares in answer]
    kernels = [f"kernel {platform.release()}", *([guests.label()] if guest else [])]
    tables = [_table("host", host), *([_model(emulated), _table("guest", emulated)] if guest else [])]
    goals = [*_guest_goals(emulated), *_goals(host)]
    return Section(TITLE, _MEANING, tuple(kernels), goals, tables, () if guest else ("the guest",))


def measure(counts: Sequence[int]) -> list[Usage]:
    return [_measure(count) for count in counts]


def _measure(sleepers: int) -> Usage:
    with Load(sleepers), supervisor() as run:
        return usage_of(run, sleepers)


def usage_of(run: Run, sleepers: int) -> Usage:
    """Of a supervisor that has been started, once it has settled down."""
    settled(run)
    time.sleep(_WARM_UP_S)
    tree = processes.tree(run.process.pid)
    began_s, before = time.monotonic(), _used(tree)
    time.sleep(_MEASURED_S)
    after, took_s = _used(tree), time.monotonic() - began_s
    return Usage(sleepers, {name: (after[name] - before[name]) / 1e9 / took_s for name in tree})


def settled(run: Run) -> None:
    """Waits until every program runs, or is known not to be available here."""

    def all_known() -> bool:
        return all(p["state"] in ("RUNNING", "UNAVAILABLE", "STOPPED") for p in run.status()["programs"])

    wait_for("every program to run", all_known, 60)


def _used(tree: Mapping[str, int]) -> dict[str, int]:
    return {name: processes.cpu_ns([pid]) for name, pid in tree.items()}


def _n(usage: Usage) -> str:
    return f"N = {usage.sleepers:,}"


def _guest_goals(usages: Sequence[Usage]) -> list[Goal]:
    form = "{:.4f} CPU s per s"
    return [at_most(f"guest, {_n(u)}", u.total, _MODEL_10_S[u.sleepers], form) for u in usages]


def _goals(usages: Sequence[Usage]) -> list[Goal]:
    few, many = usages[0], usages[-1]
    growth = f"host, {_n(many)} by {_n(few)}"
    return [at_most(growth, many.total / few.total, _FLAT, "{:.2f} times")]


def _model(usages: Sequence[Usage]) -> Table:
    rows = [
        (_n(u), f"{u.total:.4f}", f"{_MODEL_1_S[u.sleepers]:.4f}", f"{_MODEL_10_S[u.sleepers]:.4f}")
        for u in usages
    ]
    return Table(("guest, CPU s per s", "ours, 1 s", "model, 1 s", "model, 10 s"), rows)


def _table(where: str, usages: Sequence[Usage]) -> Table:
    names = list(usages[0].by_process)
    rows = [
        (_n(usage), f"{usage.total:.2%}", *(f"{usage.by_process[name]:.2%}" for name in names))
        for usage in usages
    ]
    return Table((f"{where}, share of a core", "all", *names), rows)


BENCHMARK: Final = Benchmark("cpu", "CPU time with 100, 2,000 and 8,000 processes", run)

if __name__ == "__main__":
    with guests.everything_to_watch():
        usages = measure([int(word) for word in guests.words()])
    guests.answer([(usage.sleepers, usage.by_process) for usage in usages])
