"""What an event costs in the kernel, program by program: the time that each one's kernel half runs, as the
kernel itself takes it (kernel.bpf_stats_enabled, since 5.1).

As a module it is what runs in the guest: `python -m tests.benchmarks.events FAMILY`.
"""

import contextlib
import os
import platform
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from supervisor.config.options import PROGRAMS
from tests.benchmarks import guest as guests
from tests.benchmarks.cpu import settled
from tests.benchmarks.figures import Benchmark, Section, Table
from tests.harness import Run, supervisor
from tests.kernel.disks import small_cgroup, swap_space
from tests.storage import load_modules, loop_device, make_file_system, mirror, mounted
from tests.workload import Workload

TITLE: Final = "Cost of each program's events"
_GUEST_S: Final = 1800.0
_SWITCH: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
_PACKETS: Final = 1009

_MEANING: Final = f"""\
Mean time of one run of a program's kernel half, as the kernel takes it (kernel.bpf_stats_enabled), all
programs on at once, while processes open, read, write and remove files, fork, mount, synchronize, talk over
TCP and UDP, use shared memory and swap, write to ext4 and to an md array, and are killed for want of memory.
One event is one run; a call whose time is taken (filesystem, disk, interrupts) is two. A program that counts
system calls by tracepoints runs for the others too and leaves them at once; that is in its mean. The kernel's
reading of its clock is in it, getting to the program is not (see the sections above). In the guest
{guests.MODE}. *–*: no such plan, or links that the kernel tells nothing of: plain tracepoints, and
kretprobes that follow many calls at once."""

# What a process does (tests/workload.py).
_ORDERS: Final[tuple[tuple[Any, ...], ...]] = (
    ("open", 1009),
    ("churn", 53, 7),
    ("threads", 53),
    ("stat", 503),
    ("remove_missing", 503),
    ("write_file", 1, 1009),
    ("forget_file", 1),
    ("read_file", 1, 16),
    ("rewrite_file", 1, 101),
    ("files",),
    ("shared_memory",),
    ("sync_calls",),
    ("mounts",),
)

# Mean nanoseconds of a run, and the number of runs, by program.
Costs = dict[str, tuple[float, int]]


def run(guest: bool) -> Section:
    found: dict[str, Costs] = {"host, tracepoint": measure("tracepoint")}
    kernels = [f"kernel {platform.release()}"]
    left_out: tuple[str, ...] = ("the guest",)
    if guest:
        for family in ("fentry", "kprobe"):
            answer = guests.ask("tests.benchmarks.events", family, timeout_s=_GUEST_S)
            found[f"guest, {family}"] = {name: (ns, runs) for name, (ns, runs) in answer.items()}
        kernels, left_out = [*kernels, guests.label()], ()
    return Section(TITLE, _MEANING, tuple(kernels), (), (_table(found),), left_out)


def _table(found: Mapping[str, Costs]) -> Table:
    rows = [(name, *(_cell(costs.get(name)) for costs in found.values())) for name in PROGRAMS]
    return Table(("program", *found), rows)


def _cell(cost: tuple[float, int] | None) -> str:
    return f"{cost[0]:,.0f} ns" if cost else "–"


def measure(family: str) -> Costs:
    """Of this machine, by one family of plans."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        disk = _disk(folder, stack)
        array = stack.enter_context(_array(folder))
        with _statistics(), supervisor("--attach", family) as running:
            settled(running)
            before = _runs(running)
            _be_busy(folder, disk, array, stack)
            running.wait_frames(2)
            return _costs(before, _runs(running))


def _costs(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> Costs:
    costs: Costs = {}
    for name, (runs, run_ns) in after.items():
        more = runs - before[name][0]
        if more:
            costs[name] = ((run_ns - before[name][1]) / more, more)
    return costs


def _runs(running: Run) -> dict[str, tuple[int, int]]:
    """Runs and their time, of all kernel programs of each program, each once."""
    found = {}
    for program in running.status()["programs"]:
        told: list[dict[str, Any]] = [hook for hook in program["hooks"] if hook["runs"] is not None]
        each = {hook["program_id"]: hook for hook in told}
        found[program["name"]] = (
            sum(hook["runs"] for hook in each.values()),
            sum(hook["run_ns"] for hook in each.values()),
        )
    return found


@contextlib.contextmanager
def _statistics() -> Iterator[None]:
    """The kernel takes the time of every BPF program, which costs each of them some."""
    before = _SWITCH.read_text()
    _SWITCH.write_text("1")
    try:
        yield
    finally:
        _SWITCH.write_text(before)


def _disk(folder: Path, stack: contextlib.ExitStack) -> Path:
    device = stack.enter_context(loop_device(folder / "image", 64))
    make_file_system("ext4", device)
    return stack.enter_context(mounted("ext4", device, folder / "ext4"))


@contextlib.contextmanager
def _array(folder: Path) -> Iterator[Path | None]:
    """Of two disks; None where the kernel has no md."""
    if not load_modules("md_mod", "raid1"):
        yield None
        return
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(loop_device(folder / f"member{n}", 8)) for n in range(2)]
        yield stack.enter_context(mirror(7, *members))


def _be_busy(folder: Path, disk: Path, array: Path | None, stack: contextlib.ExitStack) -> None:
    (disk / "a/b/c/d/e/f/g").mkdir(parents=True)
    work = stack.enter_context(Workload("busy", disk))
    for order, *numbers in _ORDERS:
        work.do(order, *numbers)
    _talk()
    if array:
        _flush(array)
    with swap_space(folder):
        work.do("page_out", 101)
        work.do("page_in", 101)
    with small_cgroup("busy", 24 << 20) as cgroup, Workload("eats", cgroup) as eater:
        eater.do("overeat", 3)


def _flush(array: Path) -> None:
    fd = os.open(array, os.O_RDWR)
    for _ in range(101):
        os.fsync(fd)
    os.close(fd)


def _talk() -> None:
    """Over loopback, by both protocols."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        for _ in range(_PACKETS):
            client.send(b"x" * 100)
            server.recv(100)
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        for _ in range(_PACKETS):
            sender.sendto(b"x" * 100, receiver.getsockname())
            receiver.recv(100)


BENCHMARK: Final = Benchmark("events", "time of each program's kernel half, by event", run)

if __name__ == "__main__":
    guests.answer(measure(*guests.words()))
