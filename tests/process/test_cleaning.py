"""However a run ends, nothing of it is left: no process, kernel object, memory, mount, line or file."""

import contextlib
import ctypes
import os
import platform
import pty
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from supervisor import kprobe_events
from tests.harness import SLOW, SUPERVISOR, Run, descendants, supervisor, wait_for
from tests.workload import Workload

# ---- what a run can be seen by

_libc: Final = ctypes.CDLL(None, use_errno=True)
_SYS_BPF: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
# Commands of bpf(2): the next id of a kind, and what is known of a program.
_NEXT_ID: Final = {"prog": 11, "map": 12, "link": 31}
_PROG_FD_BY_ID: Final = 13
_INFO_BY_FD: Final = 15
# struct bpf_prog_info, as far as it is needed: id at 4, number and address of map ids at 52.
_PROG_INFO_BYTES: Final = 64

KernelObject = tuple[str, int]  # kind and id


def _bpf(command: int, attribute: bytearray) -> int:
    """bpf(2); -1 when the kernel says no."""
    memory = (ctypes.c_char * len(attribute)).from_buffer(attribute)
    return int(_libc.syscall(_SYS_BPF[platform.machine()], command, memory, len(attribute)))


def kernel_objects() -> set[KernelObject]:
    """Every BPF program, map and link of this machine. Ids are given in turn, so none comes back soon."""
    found: set[KernelObject] = set()
    for kind, command in _NEXT_ID.items():
        attribute = bytearray(12)
        while _bpf(command, attribute) == 0:
            identity = struct.unpack_from("I", attribute, 4)[0]
            found.add((kind, identity))
            struct.pack_into("II", attribute, 0, identity, 0)
    return found


def _maps_of_program(identity: int) -> set[int]:
    """Ids of the maps that a program uses; nothing when it has gone."""
    fd = _bpf(_PROG_FD_BY_ID, bytearray(struct.pack("III", identity, 0, 0)))
    if fd < 0:
        return set()
    try:
        numbers = (ctypes.c_uint32 * 64)()
        info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
        struct.pack_into("=IQ", info, 52, len(numbers), ctypes.addressof(numbers))
        asked = struct.pack("IIQ", fd, _PROG_INFO_BYTES, ctypes.addressof(info))
        assert _bpf(_INFO_BY_FD, bytearray(asked)) == 0
        return set(numbers[: struct.unpack_from("I", info, 52)[0]])
    finally:
        os.close(fd)


def descriptors(pid: int) -> dict[int, str]:
    """What each descriptor of a process is; nothing for a process that has gone."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
    return found


def held_objects(pid: int) -> set[KernelObject]:
    """The BPF objects of which a process has a descriptor (fdinfo says their ids)."""
    found: set[KernelObject] = set()
    for fd in descriptors(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("map_id", "prog_id", "link_id"):
                    found.add((name.removesuffix("_id"), int(value)))
    return found


def _memory(pid: int) -> set[int]:
    """Inodes of the shared memory without a name that a process holds."""
    found = set()
    for fd, link in descriptors(pid).items():
        if link.startswith("/memfd:"):
            with contextlib.suppress(OSError):
                found.add(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none for a process that has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def born(pid: int) -> str:
    """The moment of its birth, "" for a process that has gone."""
    return "".join(_stat(pid)[19:20])


def is_zombie(pid: int) -> bool:
    return _stat(pid)[:1] == ["Z"]


def lives(pid: int, since: str) -> bool:
    """Whether this process, and not a later one of the same id, has not ended."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX" and fields[19] == since


@dataclass(frozen=True)
class Footprint:
    """All of a run that can outlast it."""

    processes: frozenset[tuple[int, str]]  # id and moment of birth
    objects: frozenset[KernelObject]
    memory: frozenset[int]

    def living(self) -> list[str]:
        """Its processes, and whoever else holds its memory."""
        there = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [
            *(f"process {pid}" for pid, born in self.processes if lives(pid, born)),
            *(f"process {pid} holds its memory" for pid in there if self.memory & _memory(pid)),
        ]

    def left(self) -> list[str]:
        """All that is still there, in words."""
        objects = sorted(self.objects & kernel_objects())
        return [*self.living(), *(f"BPF {kind} {identity}" for kind, identity in objects)]


def footprint(run: Run) -> Footprint:
    """What a run has now."""
    pids = [run.process.pid, *run.children()]
    held = set[KernelObject]().union(*map(held_objects, pids))
    maps = {identity for kind, identity in held if kind == "map"}
    programs = {("prog", i) for kind, i in kernel_objects() if kind == "prog" and _maps_of_program(i) & maps}
    return Footprint(
        frozenset((pid, moment) for pid in pids if (moment := born(pid))),
        frozenset(held | programs),
        frozenset(set[int]().union(*map(_memory, pids))),
    )


def footprint_while_loading(run: Run) -> Footprint:
    """Of a run whose loaders have got as far as maps and programs in the kernel, and are not done."""
    while True:
        seen = wait_for("loaders", lambda: footprint(run) if with_title(run, "loader") else None)
        if seen and {kind for kind, _ in seen.objects} >= {"map", "prog"}:
            return seen


def wait_gone(seen: Footprint) -> None:
    """The kernel frees programs and their maps a moment after the last descriptor was closed."""
    assert {kind for kind, _ in seen.objects} >= {"map", "prog"}
    try:
        wait_for("its end", lambda: not seen.left(), 2)
    except AssertionError:
        assert seen.left() == []


def with_title(run: Run, words: str) -> list[int]:
    """Processes of the run whose title has these words."""
    found = []
    for pid in descendants(run.process.pid):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
            if title.startswith(f"ebpf-supervisor: {words}"):
                found.append(pid)
    return found


@pytest.fixture(autouse=True)
def machine() -> Iterator[None]:
    """The machine's mounts and kprobe_events are afterwards what they were before."""

    def mounts() -> set[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return {line for line in lines if "/pytest-of-" not in line}  # other tests' own

    def kprobes() -> str:
        events = Path("/sys/kernel/tracing/kprobe_events")
        return events.read_text() if events.exists() else ""

    mounts_before, kprobes_before = mounts(), kprobes()
    yield
    assert mounts() == mounts_before
    assert kprobes() == kprobes_before


# ---- an orderly end


def _signal(number: signal.Signals) -> Callable[[Run], None]:
    return lambda run: run.process.send_signal(number)


def _shutdown(run: Run) -> None:
    answer = run.ctl("shutdown")
    assert answer.returncode == 0, answer.stderr


ENDS: Final[dict[str, Callable[[Run], None]]] = {
    "SIGINT": _signal(signal.SIGINT),
    "SIGTERM": _signal(signal.SIGTERM),
    "ebpfctl shutdown": _shutdown,
}


def _ends_well(run: Run, seen: Footprint) -> None:
    assert run.process.wait(15 * SLOW) == 0, run.stderr()
    assert seen.living() == []
    assert not run.directory.exists()
    assert "Traceback" not in run.stderr()
    wait_gone(seen)


@pytest.mark.kernel
@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_after(how: str) -> None:
    with supervisor("--only", "fd") as run:
        seen = footprint(run)
        ENDS[how](run)
        _ends_well(run, seen)


@pytest.mark.kernel
def test_nothing_is_left_after_ctrl_c_at_a_terminal() -> None:
    """The terminal sends SIGINT to its whole foreground group."""
    keyboard, terminal = pty.openpty()
    try:
        script = f'exec "$0" "$@" < {os.ttyname(terminal)}'
        # The leader of a new session gets the terminal that it opens first.
        command = ["setsid", "sh", "-c", script, str(SUPERVISOR), "run"]
        with supervisor("--only", "fd", command=command) as run:
            seen = footprint(run)
            os.write(keyboard, b"\x03")
            _ends_well(run, seen)
            assert "stopping: SIGINT" in run.stderr()
    finally:
        os.close(keyboard)
        os.close(terminal)


@pytest.mark.kernel
def test_nothing_is_left_after_the_end_of_stdin(tmp_path: Path) -> None:
    """An agent ends its plugins so."""
    os.mkfifo(tmp_path / "stdin")
    # Open at both ends, so that nobody waits for the other.
    agent = os.open(tmp_path / "stdin", os.O_RDWR)
    command = ["sh", "-c", f'exec "$0" "$@" < {tmp_path}/stdin', str(SUPERVISOR), "run"]
    with contextlib.ExitStack() as stack:
        closing = stack.enter_context(contextlib.ExitStack())
        closing.callback(os.close, agent)
        run = stack.enter_context(supervisor("--only", "fd", command=command))
        seen = footprint(run)
        run.wait_frames(1)
        closing.close()
        _ends_well(run, seen)


@pytest.mark.kernel
def test_nothing_is_left_after_its_reader_has_gone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stdout")
    command = ["sh", "-c", f'exec "$0" "$@" > {tmp_path}/stdout', str(SUPERVISOR), "run"]
    with supervisor("--only", "fd", command=command, wait=False) as run:
        with open(tmp_path / "stdout", "rb") as stdout:
            assert stdout.readline().startswith(b"CHART ")
            assert run.pid_of("fd")
            seen = footprint(run)
        _ends_well(run, seen)


@pytest.mark.kernel
def test_nothing_is_left_after_the_last_frame_asked_for() -> None:
    with supervisor("--only", "fd", "--ticks", "3") as run:
        assert run.pid_of("fd")
        seen = footprint(run)
        _ends_well(run, seen)
        wait_for("the last frame", lambda: run.frames() >= 3)
        assert run.frames() == 3


@pytest.mark.kernel
def test_nothing_is_left_when_it_is_ended_while_it_loads() -> None:
    """Loaders that compile are ended too, and what they have made goes with them."""
    with supervisor("--only", "fd,softirq", wait=False) as run:
        seen = footprint_while_loading(run)
        run.process.send_signal(signal.SIGTERM)
        _ends_well(run, seen)


@pytest.mark.kernel
def test_what_a_stranger_puts_into_the_samples_folder_goes_too() -> None:
    """The folder belongs to an account that others may have too; what they do there stops nothing."""
    with supervisor("--only", "fd") as run:
        seen = footprint(run)
        (run.directory / "samples" / "folder").mkdir()
        (run.directory / "samples" / "folder" / "file").write_text("")
        run.process.send_signal(signal.SIGINT)
        _ends_well(run, seen)


@pytest.mark.kernel
def test_no_zombie_stays_while_it_runs() -> None:
    """What the start forked has been waited for."""
    with supervisor("--only", "fd") as run:
        assert run.pid_of("fd")
        children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
        assert [pid for pid in children if is_zombie(int(pid))] == []


# ---- two at the same place, and one that was killed


def _command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(SUPERVISOR), *words], capture_output=True, text=True, timeout=60 * SLOW, check=False
    )


@pytest.mark.kernel
@pytest.mark.parametrize("command", ["run", "cleanup"])
def test_a_runtime_dir_in_use_is_refused_to(command: str) -> None:
    """In one line that names the process that has it, which goes on."""
    with supervisor("--only", "fd") as run:
        second = _command(command, "--runtime-dir", str(run.directory))
        assert second.returncode == 1
        assert second.stdout == ""
        assert len(second.stderr.splitlines()) == 1
        assert f"pid {run.process.pid}" in second.stderr
        run.wait_frames(2)
        assert run.ctl("status").returncode == 0


def _killed(run: Run) -> None:
    seen = footprint(run)
    run.process.kill()
    run.process.wait()
    wait_gone(seen)


@pytest.mark.kernel
def test_cleanup_says_what_a_killed_run_left_and_then_that_nothing_was() -> None:
    with supervisor("--only", "fd") as run:
        _killed(run)
        first = _command("cleanup", "--runtime-dir", str(run.directory))
        assert first.returncode == 0, first.stderr
        told = first.stdout.splitlines()
        for name in ("control.sock", "samples/samples.sock", "lock"):
            assert any(line.startswith("removed ") and line.endswith(f"/{name}") for line in told), told
        assert not run.directory.exists()
        second = _command("cleanup", "--runtime-dir", str(run.directory))
        assert (second.returncode, second.stdout) == (0, "nothing was left behind\n")


@pytest.mark.kernel
def test_the_run_after_a_killed_one_says_what_it_removed_and_leaves_nothing_itself() -> None:
    group = f"kat{os.getpid()}"
    with supervisor("--only", "fd") as killed:
        _killed(killed)
        # The last of two options counts, over the harness's own.
        again = ["--only", "fd", "--runtime-dir", str(killed.directory)]
        with supervisor(*again, groups=f"{group}: {group}\n") as run, Workload(group) as work:
            assert f"removed socket {killed.directory}/control.sock" in run.stderr()
            assert f"removed socket {killed.directory}/samples/samples.sock" in run.stderr()
            run.wait_frames(2)
            before = run.value("apps.file_open", group)
            work.do("open", 1009)
            assert run.wait_value("apps.file_open", group, before + 1009) == before + 1009
            assert run.end() == 0
        assert not killed.directory.exists()


@pytest.mark.kernel
@pytest.mark.parametrize("command", ["run", "cleanup"])
def test_a_folder_that_is_no_supervisors_is_left_alone_by(command: str, tmp_path: Path) -> None:
    """A wrong --runtime-dir costs a line, not a file: only where a run's lock stands is anything removed."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "precious").write_text("")
    words = ["run", "--only", "softirq", "--ticks", "1"] if command == "run" else ["cleanup"]
    done = _command(*words, "--runtime-dir", str(tmp_path))
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["samples", "precious"]
    if command == "run":
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
    else:
        assert (done.returncode, done.stdout) == (0, "nothing was left behind\n")


# ---- lines of kprobe_events

MARK: Final = kprobe_events.tag(Path("/run/one"))
OTHER: Final = kprobe_events.tag(Path("/run/two"))
OURS: Final = {
    f"p:kprobes/{MARK}_fd_p_close_fd_bcc_99 close_fd": f"-:kprobes/{MARK}_fd_p_close_fd_bcc_99",
    f"r64:kprobes/{MARK}_fd_r_close_fd_bcc_99 close_fd": f"-:kprobes/{MARK}_fd_r_close_fd_bcc_99",
    f"r:kprobes/{MARK}_p_do_exit_bcc_7 do_exit": f"-:kprobes/{MARK}_p_do_exit_bcc_7",
}
FOREIGN: Final = (
    "p:kprobes/p_close_fd_bcc_99 close_fd",
    f"p:kprobes/{OTHER}_fd_p_close_fd_bcc_99 close_fd",
    f"p:kprobes/{MARK}0_fd_p_close_fd_bcc_99 close_fd",
    f"p:kprobes/x{MARK}_fd_p_close_fd_bcc_99 close_fd",
    f"p:kprobes/{MARK} close_fd",
    f"p:{MARK}_fd/mine close_fd",
    f"p:kprobes/mine {MARK}_fd",
    f"p:kprobes/mine close_fd {MARK}_fd=%ax",
    f"{MARK}_fd",
    "",
)


def test_a_tag_tells_supervisors_side_by_side_apart() -> None:
    assert MARK != OTHER
    assert kprobe_events.tag(Path("/run/one")) == MARK


@pytest.mark.parametrize("line", OURS)
def test_a_line_with_our_tag_is_ours_and_how_it_is_removed(line: str) -> None:
    assert kprobe_events.ours(line, MARK)
    assert kprobe_events.removal(line) == OURS[line]


@pytest.mark.parametrize("line", FOREIGN)
def test_a_line_of_others_is_not_ours(line: str) -> None:
    assert not kprobe_events.ours(line, MARK)


def test_only_our_lines_are_removed_and_told(tmp_path: Path) -> None:
    """A file in the place of kprobe_events shows what the kernel would be told: it is only added to."""
    events = tmp_path / "kprobe_events"
    there = "".join(f"{line}\n" for line in [*FOREIGN, *OURS, *FOREIGN])
    events.write_text(there)
    assert kprobe_events.remove(MARK, events) == (list(OURS), [])
    assert events.read_text() == there + "".join(f"{line}\n" for line in OURS.values())


def test_nothing_is_written_where_no_line_is_ours(tmp_path: Path) -> None:
    events = tmp_path / "kprobe_events"
    events.write_text("".join(f"{line}\n" for line in FOREIGN))
    events.chmod(0o400)
    before = events.stat().st_mtime_ns
    assert kprobe_events.remove(MARK, events) == ([], [])
    assert events.stat().st_mtime_ns == before


def test_a_kernel_without_kprobe_events_has_nothing_to_remove(tmp_path: Path) -> None:
    assert kprobe_events.remove(MARK, tmp_path / "kprobe_events") == ([], [])


@pytest.mark.parametrize(
    ("at_return", "at_once", "kind"), [(False, 0, "p"), (True, 0, "r"), (True, 4096, "r4096")]
)
def test_a_line_is_added_to_those_there_are(tmp_path: Path, at_return: bool, at_once: int, kind: str) -> None:
    (tmp_path / "kprobe_events").write_text("p:kprobes/foreign do_exit\n")
    event = tmp_path / "events" / "kprobes" / f"{MARK}_fd_99_p0"
    event.mkdir(parents=True)
    (event / "id").write_text("1234\n")
    number = kprobe_events.add(event.name, "close_fd", at_return=at_return, at_once=at_once, tracefs=tmp_path)
    assert number == 1234
    foreign, ours = (tmp_path / "kprobe_events").read_text().splitlines()
    assert foreign == "p:kprobes/foreign do_exit"
    assert ours == f"{kind}:kprobes/{MARK}_fd_99_p0 close_fd"
    assert kprobe_events.ours(ours, kprobe_events.mark(f"{MARK}_fd", 99))
    assert not kprobe_events.ours(ours, kprobe_events.mark(f"{MARK}_fd", 9))


def test_the_longest_name_of_a_line_is_one_that_the_kernel_takes() -> None:
    """63 bytes (MAX_EVENT_NAME_LEN), with the largest process id that there can be."""
    longest = max((f"{MARK}_filesystem_btrfs", f"{MARK}_cachestat"), key=len)
    assert len(kprobe_events.mark(longest, 1 << 22) + "_r999") <= 63
