"""What the machine can do to it: full disks, no descriptors, refusals of the kernel, sockets and file systems
that vanish, floods. After each: every counter exact, or the loss counted and shown; nothing left behind; no
traceback; recovery within five seconds. Killed and stopped processes are in test_faults.py."""

import ast
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import zmq

from supervisor.pipeline.sample import Sample, pack
from tests import faults
from tests.harness import ROOT, SLOW, SUPERVISOR, Run, Stream, supervisor, wait_for
from tests.process.test_bad_input import messages
from tests.process.test_cleaning import (
    KernelObject,
    _stat,
    descriptors,
    held_objects,
    is_zombie,
    kernel_objects,
    with_title,
)
from tests.process.test_faults import Counted, resident_bytes, unit, units, wait_replaced
from tests.workload import Workload

pytestmark = pytest.mark.kernel

GROUP: Final = f"kat{os.getpid()}"
GROUPS: Final = f"{GROUP}: {GROUP}\n"
SETTINGS: Final = """\
[supervisor]
    startretries = 1000
    backoff_initial_secs = 0.1
    backoff_max_secs = 0.2
"""
FILES: Final = {"ebpf.d.conf": SETTINGS}
# Within so long all is as it was.
RECOVERY_S: Final = 5.0


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    """Three programs; what is done to it is undone by the supervisor or by the test."""
    with supervisor("--only", "fd,process,softirq", groups=GROUPS, files=FILES) as run:
        wait_for("all to run", lambda: well(run))
        yield run
        messages(run.stderr())


@pytest.fixture
def run(running: Run) -> Iterator[Run]:
    yield running
    recovers(running)


@pytest.fixture
def work(run: Run) -> Iterator[Workload]:
    with Workload(GROUP) as work:
        run.wait_frames(3)
        yield work


def recovers(run: Run) -> None:
    wait_for("all to run again", lambda: well(run), RECOVERY_S)
    run.wait_frames(2, RECOVERY_S)


def well(run: Run) -> bool:
    status = run.status()
    return all(p["state"] == "RUNNING" for p in [*status["programs"], status["aggregator"]])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- a full disk


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_that_is_full_costs_frames_and_neither_counts_nor_half_lines(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "256k") as disk:
        out, log = disk / "stream", disk / "log"
        words = [str(SUPERVISOR), "run", "--only", "fd", "--runtime-dir", str(tmp_path / "run")]
        with out.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        try:
            wait_for("a frame", lambda: b"END" in out.read_bytes(), 30)
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()
            size = wait_for("the file to grow no more", lambda: settled_size(out), 30)
            filler.unlink()
            wait_for("frames again", lambda: out.stat().st_size > size, RECOVERY_S)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20 * SLOW) == 0
        stream = Stream()
        for line in out.read_text().splitlines():
            stream.feed(line)
        opens = stream.charts["filesystem.file_descriptor"].values["do_sys_open"]
        assert opens == sorted(opens)
        assert out.read_bytes().endswith(b"\n")


def settled_size(path: Path) -> int:
    """Its size once it stays the same for two seconds and a half."""
    before = path.stat().st_size
    time.sleep(2.5)
    return before if path.stat().st_size == before else 0


# ---- no descriptors


def test_without_a_descriptor_nothing_is_started_and_nothing_is_lost(run: Run, work: Workload) -> None:
    before, pid, open_now = Counted(run), run.pid_of("fd"), len(descriptors(run.process.pid))
    with faults.descriptors_left(run.process.pid, 0):
        os.kill(pid, signal.SIGKILL)
        work.do("open", 1009)
        wait_for("the refusal", lambda: "fd: BACKOFF: cannot be started: Too many open files" in run.stderr())
        used_s = cpu_s(run.process.pid)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(run.directory / "control.sock"))  # cannot be accepted
            client.recv(1)
        assert cpu_s(run.process.pid) - used_s < 0.5
    wait_replaced(run, "fd", pid)
    recovers(run)
    before.exactly(1009)
    assert zombies(run) == []
    wait_for("no more descriptors", lambda: len(descriptors(run.process.pid)) <= open_now + 1, RECOVERY_S)


def zombies(run: Run) -> list[int]:
    """Children of the supervisor that it has not taken notice of."""
    parent = str(run.process.pid)
    there = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in there if is_zombie(pid) and _stat(pid)[1] == parent]


@pytest.mark.parametrize("spare", range(1, faults.of(4, 12)))
def test_with_a_few_descriptors_a_program_is_restarted_or_refused_and_none_leaks(
    run: Run, spare: int
) -> None:
    """However far a start comes before the last one is gone."""
    open_now = len(descriptors(run.process.pid))
    with faults.descriptors_left(run.process.pid, spare):
        run.ctl_later("restart", "softirq")
        time.sleep(0.7)  # several tries
    recovers(run)
    wait_for("no more descriptors", lambda: len(descriptors(run.process.pid)) <= open_now + 2, RECOVERY_S)
    assert zombies(run) == []


# ---- the kernel refuses

REFUSED: Final = [
    (command, error) for error in ("EPERM", "ENOMEM") for command in [*faults.BPF, "perf_event_open"]
]
SHORT: Final = [
    *(("PROG_LOAD", "EPERM"), ("MAP_CREATE", "ENOMEM"), ("LINK_CREATE", "ENOMEM")),
    *(("MAP_UPDATE_ELEM", "EPERM"), ("MAP_UPDATE_ELEM", "ENOMEM")),
]


@pytest.mark.skipif(not faults.can_refuse(), reason="the numbers of system calls are not known here")
@pytest.mark.parametrize(("command", "error"), REFUSED if faults.ALL else SHORT)
def test_what_the_kernel_refuses_is_told_and_leaves_nothing(command: str, error: str) -> None:
    """Either it runs by other means, or it says why and ends as the interface has it."""
    words = faults.refused(command, error)
    with supervisor("--only", "fd,softirq,sync", "--ticks", "3", command=words, wait=False) as run:
        held: set[KernelObject] = set()

        def ended() -> bool:
            for pid in (run.process.pid, *run.children()):
                held.update(held_objects(pid))
            return run.process.poll() is not None

        wait_for("its end", ended, 60)
        status = run.process.returncode
        assert status in (0, 1), run.stderr()
        messages(run.stderr())
        wait_for("the end of the stream", lambda: run.stream.disabled or run.frames() or status == 0)
        assert run.stream.disabled == (status == 1), run.stderr()
        assert not run.directory.exists()
        wait_for("its kernel objects to be gone", lambda: not held & kernel_objects(), RECOVERY_S)


# ---- loaders, at every step


def test_a_loader_may_be_killed_at_any_step(run: Run, work: Workload) -> None:
    """fd is restarted again and again, and its loader killed a bit later each time."""
    run.ctl("restart", "fd")
    objects, open_now = len(held_objects(run.process.pid)), len(descriptors(run.process.pid))
    steps = faults.of(8, 60)
    for step in range(steps):
        run.ctl_later("restart", "fd")
        loader = wait_for("a loader", lambda: with_title(run, "loader fd"))[0]
        time.sleep(0.4 * step / steps)
        with contextlib.suppress(ProcessLookupError):
            os.kill(loader, signal.SIGKILL)
        run.pid_of("fd")
    recovers(run)
    wait_for("as many objects as before", lambda: len(held_objects(run.process.pid)) <= objects, RECOVERY_S)
    wait_for("as many descriptors", lambda: len(descriptors(run.process.pid)) <= open_now + 1, RECOVERY_S)
    before = Counted(run)
    work.do("open", 1009)
    before.exactly(1009)


# ---- sockets and folders that vanish


def test_the_samples_socket_may_be_removed(run: Run, work: Workload) -> None:
    """Who is connected goes on; a new worker needs it, and finds it."""
    before = Counted(run)
    (run.directory / "samples" / "samples.sock").unlink()
    work.do("open", 1009)
    wait_for("another socket", (run.directory / "samples" / "samples.sock").exists, RECOVERY_S)
    pid = run.pid_of("fd")
    os.kill(pid, signal.SIGKILL)
    work.do("open", 1013)
    wait_replaced(run, "fd", pid)
    before.exactly(1009 + 1013)


@pytest.mark.parametrize("what", ["samples", "control.sock", "lock", ""])
def test_anything_of_the_runtime_directory_may_be_removed(run: Run, work: Workload, what: str) -> None:
    before, pids = Counted(run), units(run)
    victim = run.directory / what
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    work.do("open", 1009)
    wait_for("all of it to be there again", lambda: complete(run.directory), RECOVERY_S)
    recovers(run)
    os.kill(
        pids["softirq"] if well(run) and units(run)["softirq"] == pids["softirq"] else run.pid_of("softirq"),
        9,
    )
    work.do("open", 1013)
    recovers(run)
    before.exactly(1009 + 1013)
    second = subprocess.run(
        [str(SUPERVISOR), "run", "--only", "softirq", "--runtime-dir", str(run.directory)],
        capture_output=True,
        text=True,
        timeout=60 * SLOW,
        check=False,
    )
    assert (second.returncode, "a supervisor runs there already" in second.stderr) == (1, True), second.stderr
    assert complete(run.directory)


def complete(directory: Path) -> bool:
    names = ("lock", "control.sock", "samples", "samples/samples.sock")
    return all((directory / name).exists() for name in names)


# ---- floods and garbage


def connect(run: Run) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10 * SLOW)
    connection.connect(str(run.directory / "control.sock"))
    return connection


def test_200_clients_at_once_keep_nobody_out(run: Run, work: Workload) -> None:
    """Half of them ask and do not read, the others say nothing."""
    before, open_now = Counted(run), len(descriptors(run.process.pid))
    held = []
    try:
        for number in range(200):
            with contextlib.suppress(OSError):
                client = connect(run)
                held.append(client)
                if number % 2:
                    client.sendall(b'{"command": "status"}\n')
        work.do("open", 1009)
        assert run.ctl("status").returncode == 0
        assert len(descriptors(run.process.pid)) < open_now + 64
    finally:
        for client in held:
            client.close()
    recovers(run)
    before.exactly(1009)
    wait_for("their descriptors to go", lambda: len(descriptors(run.process.pid)) <= open_now, RECOVERY_S)


WORDS: Final = (
    "status",
    "tail",
    "version",
    "start",
    "stop",
    "restart",
    "reload",
    "names",
    "command",
    "follow",
)


def fuzzed(source: random.Random) -> bytes:
    """Something like a request, or nothing like one. It never asks for anything that changes a state."""
    kind = source.randrange(5)
    if kind == 0:
        return source.randbytes(source.randrange(1, 300)).replace(b"\n", b"") + b"\n"
    if kind == 1:
        return b"{" * source.randrange(1, 4000) + b"\n"
    names: Any = source.choice([[], ["fd"], ["no such"], "fd", None, 7, [None], ["x" * 1000], {"a": 1}])
    request: Any = {
        "command": source.choice(["status", "version", "no such", "", None, 5, []]),
        "names": names,
    }
    if kind == 2:
        request = source.choice([request, [request], request["command"], names])
    text = json.dumps(request).encode()
    if kind == 3:
        at = source.randrange(len(text))
        text = text[:at] + source.randbytes(1).replace(b"\n", b" ") + text[at + 1 :]
    return text + b"\n" if source.randrange(10) else text[: source.randrange(len(text))]


def test_fuzzed_messages_are_answered_or_dropped_and_do_no_harm(run: Run, work: Workload) -> None:
    before, source = Counted(run), random.Random(4)
    pids, memory = units(run), resident_bytes([run.process.pid])[run.process.pid]
    open_now = len(descriptors(run.process.pid))
    for _ in range(faults.of(2_000, 100_000)):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError), connect(run) as client:
            client.sendall(fuzzed(source))
            if source.randrange(2):
                client.shutdown(socket.SHUT_WR)
                client.recv(65536)
    work.do("open", 1009)
    recovers(run)
    before.exactly(1009)
    assert units(run) == pids
    assert resident_bytes([run.process.pid])[run.process.pid] < memory + (2 << 20)
    wait_for("their descriptors to go", lambda: len(descriptors(run.process.pid)) <= open_now, RECOVERY_S)


GARBAGE: Final = [
    b"",
    b"\x00",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",  # an array of four billion
    b"\xc6\xff\xff\xff\xff",
    bytes(100_000),
    pack(Sample("no such", 1, 1, 1, 1, 1, (), {}, {}, 0)),
    pack(Sample("fd", 1, 1, 1, 1, 1, (10_000,), {}, {}, 0)),
    pack(Sample("fd", 1, 1 << 63, 1, 1, 1 << 40, (0,), {}, {}, 0)),
]


def test_garbage_at_the_samples_socket_is_dropped_told_and_does_no_harm(run: Run, work: Workload) -> None:
    before, told, pids = Counted(run), len(run.stderr()), units(run)
    path = run.directory / "samples" / "samples.sock"
    source = random.Random(4)
    context = zmq.Context()
    with context.socket(zmq.PUSH) as sender:
        sender.set(zmq.LINGER, 1000)
        sender.connect(f"ipc://{path}")
        for _ in range(faults.of(50, 1000)):
            for message in (*GARBAGE[:-1], source.randbytes(source.randrange(200))):
                sender.send(message)
    context.term()
    for _ in range(faults.of(20, 200)):  # what is no ZeroMQ at all
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.sendall(source.randbytes(1000))
    work.do("open", 1009)
    wait_for("the report", lambda: "messages on the samples' socket dropped" in run.stderr()[told:])
    recovers(run)
    before.exactly(1009)
    assert units(run) == pids
    assert run.stderr()[told:].count("messages on the samples' socket dropped") <= 2


# ---- clocks


def clock_readings(path: Path) -> Iterator[str]:
    """Where a module asks for the time of day."""
    wall = {
        ("time", "time"),
        ("time", "time_ns"),
        ("datetime", "now"),
        ("datetime", "utcnow"),
        ("date", "today"),
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = (
                node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            )
            if (owner, node.attr) in wall or node.attr == "CLOCK_REALTIME":
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {owner}.{node.attr}"


def test_the_time_of_day_decides_nothing_so_it_may_be_set() -> None:
    """Only lines of the log show it. The kernel's half counts from boot, too."""
    sources = [path for folder in ("supervisor", "workers") for path in (ROOT / folder).rglob("*.py")]
    assert [reading for path in sources for reading in clock_readings(path)] == []
    for path in (ROOT / "kernel_progs").rglob("*.[ch]"):
        assert "bpf_ktime_get_real" not in path.read_text()
        assert "bpf_ktime_get_tai" not in path.read_text()


# ---- readers


def test_a_slow_reader_gets_whole_frames_late_and_exact_counts() -> None:
    """It takes a few kilobytes a second out of the smallest pipe there is."""
    with supervisor("--only", "fd", groups=GROUPS, files=FILES) as run, Workload(GROUP) as work:
        run.wait_frames(3)
        before = Counted(run)
        for count in (1009, 1013, 1019):
            run.stop_reading()
            work.do("open", count)
            time.sleep(2)
            run.go_on_reading()
            run.wait_frames(1)
        before.exactly(1009 + 1013 + 1019)


# ---- file systems that vanish


TRACEFS: Final = "/sys/kernel/tracing"


@contextlib.contextmanager
def in_mounts_of_its_own() -> Iterator[Run]:
    """A supervisor whose mounts can be taken away without anybody else's noticing, a tracefs among them."""
    mount = "" if os.path.ismount(TRACEFS) else f"mount -t tracefs tracefs {TRACEFS} && "
    command = ["unshare", "--mount", "--propagation", "private"]
    command += ["sh", "-c", f'{mount}exec "$@"', "sh", str(SUPERVISOR), "run"]
    with supervisor("--only", "fd,softirq", groups=GROUPS, files=FILES, command=command) as run:
        wait_for("all to run", lambda: well(run))
        yield run
        messages(run.stderr())


def unmounted(run: Run, place: str) -> None:
    """Lazily, and everything that is mounted below it."""
    words = ["nsenter", f"--mount=/proc/{run.process.pid}/ns/mnt", "umount", "--lazy", "--recursive", place]
    subprocess.run(words, check=True, timeout=60)


@pytest.mark.parametrize("place", ["/sys/fs/cgroup", TRACEFS, "/sys"])
def test_a_file_system_that_is_unmounted_costs_no_count(place: str) -> None:
    if place != TRACEFS and not os.path.ismount(place):
        pytest.skip(f"nothing is mounted at {place} here")
    with in_mounts_of_its_own() as run, Workload(GROUP) as work:
        run.wait_frames(3)
        before = Counted(run)
        unmounted(run, place)
        work.do("open", 1009)
        pid = run.pid_of("fd")
        os.kill(pid, signal.SIGKILL)
        wait_replaced(run, "fd", pid)
        work.do("open", 1013)
        before.exactly(1009 + 1013)


# ---- many groups


def test_ten_thousand_groups_are_no_more_trouble_than_ten() -> None:
    groups = GROUPS + "".join(f"group{number}: name{number} other{number}*\n" for number in range(10_000))
    with supervisor("--only", "fd", groups=groups, files=FILES) as run, Workload(GROUP) as work:
        run.wait_frames(3)
        before = Counted(run)
        work.do("open", 1009)
        before.exactly(1009)
        used_s = cpu_s(run.pid_of("aggregator"))
        run.wait_frames(5)
        assert cpu_s(run.pid_of("aggregator")) - used_s < 2.5 * SLOW
        assert unit(run, "aggregator")["restarts"] == 0
