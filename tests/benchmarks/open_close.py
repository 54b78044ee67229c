"""open() and close() with `process` and `fd` on, against off.

As a module it is what runs in the guest: `python -m tests.benchmarks.open_close`.
"""

import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.benchmarks import calls, processes
from tests.benchmarks import guest as guests
from tests.benchmarks.figures import Benchmark, Goal, MeasurementFailed, Section, Table, at_most
from tests.harness import Run, supervisor

TITLE: Final = "Overhead of open() and close()"
_ONLY: Final = ("--only", "process,fd")
_GUEST_S: Final = 900.0

# Turns of on and off, host only: a guest that counts instructions repeats itself.
_TURNS: Final = 12
_TRIES: Final = 40
_FEWEST: Final = 4
_HOST_LOOP: Final = (500, 400)
_GUEST_LOOP: Final = (20, 400)


@dataclass(frozen=True)
class Way:
    """One way to attach. goal: what open and close may take on, as a multiple of off; 0 for none set."""

    name: str
    options: tuple[str, ...]
    goal: float = 0


GUEST_WAYS: Final = (
    Way("fentry", ("--attach", "fentry"), 1.10),
    Way("fexit", ("--attach", "fentry", "--load-mode", "return"), 1.12),
    Way("kprobe", ("--attach", "kprobe"), 1.20),
    Way("kretprobe", ("--attach", "kprobe", "--load-mode", "return")),
    Way("tracepoint, entry", ("--attach", "tracepoint")),
    Way("tracepoint, return", ("--attach", "tracepoint", "--load-mode", "return")),
)
HOST_WAYS: Final = GUEST_WAYS[-2:]

_MEANING: Final = f"""\
open(2) and close(2) of a file on tmpfs in a loop of machine code, with the programs `process` and `fd`
counting and without. In the guest {guests.MODE}, and what a goal is set for is measured
there; the model took 1.36 to 1.76 times off in the same kernel and mode, with its own set of programs. On the
host, which has tracepoints only, both are stopped and started {_TURNS} times: medians, the ratio of pairs."""


@dataclass(frozen=True)
class Cost:
    """Nanoseconds of one open and close, with nothing attached and with our programs on; pair by pair."""

    way: str
    off_ns: Sequence[float]
    on_ns: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median over the pairs: the machine's speed may change between them."""
        return statistics.median(on / off for off, on in zip(self.off_ns, self.on_ns, strict=True))


def run(guest: bool) -> Section:
    if reason := calls.unavailable():
        return Section(TITLE, _MEANING, (), (), (), (reason,))
    kernels = [f"kernel {platform.release()}"]
    tables, goals, left_out = [], [], ["the guest"]
    if guest:
        answer = guests.ask("tests.benchmarks.open_close", timeout_s=_GUEST_S)
        found = [Cost(*words) for words in answer]
        kernels.append(guests.label())
        tables.append(_table("guest", found))
        goals, left_out = _goals(found), []
    host = [cost for way in HOST_WAYS if len((cost := _on_host(way)).off_ns) >= _FEWEST]
    if host:
        tables.append(_table("host", host))
    if len(host) < len(HOST_WAYS):
        left_out.append("what other supervisors on the machine disturbed: their programs count too")
    return Section(TITLE, _MEANING, tuple(kernels), goals, tables, tuple(left_out))


def _goals(costs: Sequence[Cost]) -> list[Goal]:
    limits = {way.name: way.goal for way in GUEST_WAYS if way.goal}
    return [
        at_most(f"on by off, {cost.way}", cost.ratio, limits[cost.way], "{:.2f} times")
        for cost in costs
        if cost.way in limits
    ]


def _table(where: str, costs: Sequence[Cost]) -> Table:
    rows = []
    for cost in costs:
        off, on = statistics.median(cost.off_ns), statistics.median(cost.on_ns)
        rows.append(
            (
                cost.way,
                f"{off:,.0f} ns",
                f"{on:,.0f} ns",
                f"{off * (cost.ratio - 1):,.0f} ns",
                f"{cost.ratio:.2f}",
            )
        )
    return Table((where, "off", "on", "difference", "on by off"), rows)


@contextmanager
def _loop() -> Iterator[calls.Loop]:
    """Of a file in /dev/shm."""
    with tempfile.NamedTemporaryFile(prefix="bench-", dir="/dev/shm") as file:
        yield calls.open_close(file.name)


def _on_host(way: Way) -> Cost:
    """Turns of on and off of one supervisor; those in which another one ran too do not count."""
    off: list[float] = []
    on: list[float] = []
    with _loop() as loop, supervisor(*_ONLY, *way.options) as run:
        for _ in range(_TRIES):
            alone = processes.others(run.process.pid) == 0
            _change(run, "stop")
            off_ns = loop.ns_per_call(*_HOST_LOOP)
            _change(run, "start")
            on_ns = loop.ns_per_call(*_HOST_LOOP)
            if alone and processes.others(run.process.pid) == 0:
                off.append(off_ns)
                on.append(on_ns)
            if len(off) == _TURNS:
                break
    return Cost(way.name, off, on)


def _change(run: Run, command: str) -> None:
    answer = run.ctl(command, "all")
    if answer.returncode != 0:
        raise MeasurementFailed(f"{command} all: {answer.stdout}{answer.stderr}")
    # It says STOPPED and detaches then; the next question is answered when that is done.
    run.status()


def _in_guest() -> list[Cost]:
    with _loop() as loop:
        off = loop.ns_per_call(*_GUEST_LOOP)
        found = []
        for way in GUEST_WAYS:
            with supervisor(*_ONLY, *way.options) as run:
                _check(run, way)
                found.append(Cost(way.name, [off], [loop.ns_per_call(*_GUEST_LOOP)]))
    return found


def _check(run: Run, way: Way) -> None:
    """That it is the plan that was asked for, so that nothing else is measured."""
    run.pid_of("fd")
    plans = {hook["plan"] for hook in run.program("fd")["hooks"] if hook["attached"]}
    wanted = way.name.partition(",")[0]
    if plans != {wanted}:
        raise MeasurementFailed(f"{wanted} was asked for, {', '.join(sorted(plans))} is attached")


BENCHMARK: Final = Benchmark("open", "open() and close() with our programs on against off", run)

if __name__ == "__main__":
    guests.answer([(cost.way, cost.off_ns, cost.on_ns) for cost in _in_guest()])
