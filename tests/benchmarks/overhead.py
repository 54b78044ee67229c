"""What system calls cost more with every program on: read() of one byte, and open() with close().

As a module it is what runs in the guest: `python -m tests.benchmarks.overhead`.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.benchmarks import calls
from tests.benchmarks import guest as guests
from tests.benchmarks.cpu import settled
from tests.benchmarks.figures import Benchmark, Goal, Section, Table, at_most
from tests.harness import supervisor

TITLE: Final = "Overhead with all programs"
_GUEST_S: Final = 1500.0
# Slices of some microseconds each: the median is one that was not interrupted.
_SLICES: Final = 400
_READS: Final = 50
_OPENS: Final = 10


@dataclass(frozen=True)
class Way:
    """One way to attach. goal: what read() may take, as a multiple of off."""

    name: str
    options: tuple[str, ...]
    goal: float


WAYS: Final = (
    Way("fentry", ("--attach", "fentry"), 1.30),
    Way("fexit", ("--attach", "fentry", "--load-mode", "return"), 1.40),
    Way("kprobe", ("--attach", "kprobe"), 1.65),
)

# Of the model: off and on of read(), off and on of open() with close(), in ns.
_MODEL: Final = (
    ("all programs, default", 1336, 4068, 20504, 36063),
    ("`pid all`", 1336, 3308, 20504, 32642),
    ("kprobes", 1336, 5114, 20504, 33606),
    ("without applications", 1336, 2493, 20504, 29034),
)

_MEANING: Final = f"""\
read(2) of one byte of /dev/zero, and open(2) with close(2) of a file on tmpfs, in loops of machine code, with
every program on and with nothing; one virtual CPU, {guests.MODE}. Bytes are what read() has returned, so that
trampolines see it at its exit in entry mode too: both modes cost the same, and the goal of an entry alone is
not to be had with true bytes. *Model*: Netdata's ebpf.plugin 2.10.4 in the same guest and mode, which
attaches to entries and exits in every mode."""


@dataclass(frozen=True)
class Costs:
    """Nanoseconds of one call, and of one pair."""

    way: str
    read_ns: float
    open_close_ns: float


def run(guest: bool) -> Section:
    if reason := calls.unavailable():
        return Section(TITLE, _MEANING, (), (), (), (reason,))
    if not guest:
        return Section(TITLE, _MEANING, (), (), (), ("the guest",))
    off, *ways = [Costs(*words) for words in guests.ask("tests.benchmarks.overhead", timeout_s=_GUEST_S)]
    return Section(TITLE, _MEANING, (guests.label(),), _goals(off, ways), (_table(off, ways), _model()))


def _goals(off: Costs, ways: Sequence[Costs]) -> list[Goal]:
    limits = {way.name: way.goal for way in WAYS}
    return [
        at_most(f"read(), on by off, {on.way}", on.read_ns / off.read_ns, limits[on.way], "{:.2f} times")
        for on in ways
    ]


def _table(off: Costs, ways: Sequence[Costs]) -> Table:
    rows = [
        (
            costs.way,
            f"{costs.read_ns:,.0f} ns",
            f"{costs.read_ns / off.read_ns:.2f}",
            f"{costs.open_close_ns:,.0f} ns",
            f"{costs.open_close_ns / off.open_close_ns:.2f}",
        )
        for costs in (off, *ways)
    ]
    return Table(("guest", "read()", "by off", "open() + close()", "by off"), rows)


def _model() -> Table:
    rows = [
        (name, f"{read:,} ns", f"{read / off:.2f}", f"{both:,} ns", f"{both / off_both:.2f}")
        for name, off, read, off_both, both in _MODEL
    ]
    return Table(("model", "read()", "by off", "open() + close()", "by off"), rows)


def measure() -> list[Costs]:
    """Of this machine: with nothing on, then each way."""
    found = [_costs("off")]
    for way in WAYS:
        with supervisor(*way.options) as run:
            settled(run)
            found.append(_costs(way.name))
    return found


def _costs(way: str) -> Costs:
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        with tempfile.NamedTemporaryFile(prefix="bench-", dir="/dev/shm") as file:
            read_ns = calls.read(fd).ns_per_call(_READS, _SLICES)
            return Costs(way, read_ns, calls.open_close(file.name).ns_per_call(_OPENS, _SLICES))
    finally:
        os.close(fd)


BENCHMARK: Final = Benchmark("overhead", "read(), open() and close() with every program on against off", run)

if __name__ == "__main__":
    guests.answer([(costs.way, costs.read_ns, costs.open_close_ns) for costs in measure()])
