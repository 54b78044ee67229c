"""What one counted event costs: a slot array beside a per-CPU hash, each net of an empty program.

As a module it is one process of measurements: `python -m tests.benchmarks.event_cost MECHANISM`.
"""

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from supervisor import linux
from supervisor.kernel import cpus, identities, loader
from supervisor.kernel.maps import PIDS_PER_PAGE
from supervisor.kernel.plans import FAMILY, Hook, Mechanism, Plan, Preference, function_plan, tracepoint_plan
from supervisor.kernel.request import Request, Tables
from tests.benchmarks import calls
from tests.benchmarks import guest as guests
from tests.benchmarks.figures import Benchmark, Goal, MeasurementFailed, Section, Table, at_least
from tests.harness import ROOT

TITLE: Final = "Cost of an event"
KINDS: Final = ("off", "empty", "slots", "hash")
_SOURCE: Final = Path(__file__).with_name("event_cost.bpf.c")
_SLOTS: Final = 32768
_GOAL: Final = 3.0
_GUEST_S: Final = 300.0

# A tracepoint of the call itself for the host; for fentry what getppid(2) calls, once.
_CATEGORY, _EVENT = "syscalls", "sys_enter_getppid"
_FUNCTION: Final = "__task_pid_nr_ns"

# Processes that measure, and turns of all kinds in each. Where instructions are counted, one says it all.
_PROCESSES: Final = 3
_TURNS: Final = {"tracepoint": 40, "fentry": 1}
# Calls in a slice and slices in a turn. Slices are short beside a timer tick: most are not interrupted.
_LOOP: Final = {"tracepoint": (2000, 25), "fentry": (200, 400)}

_MEANING: Final = f"""\
getppid(2) in a loop of machine code, with a program on it that counts the call for the process: in a row
of the slot array (`slots.h`, `counters.h`), in a per-CPU hash of {_SLOTS:,} entries by process id, and not
at all. *Net* is what is left when the empty program is taken away: the counting itself. On the host the
hook is the tracepoint `{_CATEGORY}:{_EVENT}`; {_PROCESSES} processes measure, each
{_TURNS["tracepoint"]} times all kinds in turn, and the figures are medians. In the guest it is fentry on
`{_FUNCTION}`, where {guests.MODE}: that says nothing of what memory costs. One process
makes all the calls, so what it touches is in the processor's caches, the hash's entry too."""

Costs = Mapping[str, float]


def run(guest: bool) -> Section:
    if reason := calls.unavailable():
        return Section(TITLE, _MEANING, (), (), (), (reason,))
    kernels = [f"kernel {platform.release()}"]
    answers = {"host, tracepoint": _medians([_in_a_process("tracepoint") for _ in range(_PROCESSES)])}
    if guest:
        kernels.append(guests.label())
        answers["guest, fentry"] = guests.ask("tests.benchmarks.event_cost", "fentry", timeout_s=_GUEST_S)
    goals = [_goal(where, costs) for where, costs in answers.items()]
    tables = [_table(where, costs) for where, costs in answers.items()]
    return Section(TITLE, _MEANING, tuple(kernels), goals, tables, () if guest else ("the guest",))


def _goal(where: str, costs: Costs) -> Goal:
    slots, by_hash = costs["slots"] - costs["empty"], costs["hash"] - costs["empty"]
    return at_least(f"hash by slot array, net, {where}", by_hash / slots, _GOAL, "{:.1f} times")


def _table(where: str, costs: Costs) -> Table:
    names = {"off": "no program", "empty": "empty program", "slots": "slot array", "hash": "per-CPU hash"}
    rows = [
        (
            names[kind],
            f"{costs[kind]:.1f}",
            f"{costs[kind] - costs['empty']:.1f}" if kind in ("slots", "hash") else "",
        )
        for kind in KINDS
    ]
    return Table((where, "ns per call", "net"), rows)


def _medians(found: Sequence[Costs]) -> Costs:
    return {kind: statistics.median(costs[kind] for costs in found) for kind in KINDS}


def _in_a_process(mechanism: Mechanism) -> Costs:
    """The loader takes the process that it runs in with it into a mount namespace."""
    words = [sys.executable, "-m", "tests.benchmarks.event_cost", mechanism]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=_GUEST_S, check=False)
    if done.returncode != 0:
        raise MeasurementFailed(f"{' '.join(words[2:])}: {done.stderr[-1000:]}")
    costs: Costs = json.loads(done.stdout)
    return costs


def measure(mechanism: Mechanism) -> Costs:
    """Cost of a call of this process by kind, in nanoseconds; medians over the turns."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    programs = {kind: _load(mechanism, kind) for kind in KINDS if kind != "off"}
    loop = calls.getppid()
    turns: list[Costs] = []
    for _ in range(_TURNS[mechanism]):
        costs = {}
        for kind in KINDS:
            with _attached(mechanism, programs.get(kind)):
                costs[kind] = loop.ns_per_call(*_LOOP[mechanism])
        turns.append(costs)
    return _medians(turns)


def _load(mechanism: Mechanism, kind: str) -> int:
    """Loads the kind's program with the loader of the real ones; its descriptor, attached to nothing.

    The loader hands out what attaches a program, and keeps the program's own descriptor open.
    """
    before = _programs()
    plan = _plan(mechanism, f"on_event_{kind}")
    request = Request(
        str(_SOURCE),
        (Hook("event", (plan,), (plan,)),),
        "entry",
        Preference((FAMILY[mechanism],)),
        {**identities.defines(_SLOTS, str(loader.PINS), cpus.possible()), "SHARDS": 1},
        {},
        "bench",
        prepare=_take_a_slot,
    )
    loaded = loader.load(request)
    if not any(report.attached for report in loaded.hooks):
        raise MeasurementFailed("; ".join(report.reason for report in loaded.hooks))
    for link in loaded.links:
        os.close(link)
    (program,) = _programs() - before
    return program


def _programs() -> set[int]:
    """Descriptors of kernel programs that this process holds."""
    with os.scandir("/proc/self/fd") as entries:
        names = {int(entry.name): entry.path for entry in entries}
    return {fd for fd, path in names.items() if _link(path) == "anon_inode:bpf-prog"}


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # the listing's own descriptor
        return ""


@contextmanager
def _attached(mechanism: Mechanism, program: int | None) -> Iterator[None]:
    if program is None:
        yield
        return
    import bcc

    lib = bcc.libbcc.lib
    if mechanism == "tracepoint":
        link = lib.bpf_attach_tracepoint(program, _CATEGORY.encode(), _EVENT.encode())
    else:
        link = lib.bpf_attach_kfunc(program)
    if link < 0:
        raise MeasurementFailed(f"{mechanism}: cannot attach")
    try:
        yield
    finally:
        os.close(link)


def _plan(mechanism: Mechanism, handler: str) -> Plan:
    if mechanism == "tracepoint":
        return tracepoint_plan(handler, "", f"{_CATEGORY}:{_EVENT}")
    return function_plan(mechanism, _FUNCTION, handler)


def _take_a_slot(tables: Tables) -> None:
    """This process gets slot 1, as the program `task` would give it."""
    pid = os.getpid()
    page = (ctypes.c_uint16 * PIDS_PER_PAGE)()
    page[pid % PIDS_PER_PAGE] = 1
    linux.bpf_update_array(tables.maps["slot_of_pid"].fd, pid // PIDS_PER_PAGE, ctypes.addressof(page))


BENCHMARK: Final = Benchmark("event", "ns per event: slot array, per-CPU hash, empty program", run)

if __name__ == "__main__":
    (word,) = guests.words()
    guests.answer(measure("tracepoint" if word == "tracepoint" else "fentry"))
