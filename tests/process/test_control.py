"""The command `ebpfctl` and the socket behind it, against a real supervisor."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import supervisor as package
from supervisor.config.options import PROGRAMS
from supervisor.status_table import COLUMNS
from tests.harness import CTL, SLOW, Run, supervisor, wait_for
from tests.workload import Workload

pytestmark = pytest.mark.kernel

KAT = f"kat{os.getpid()}"
NAMES = ["fd", "softirq", "disk"]


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    files = {"ebpf.d.conf": "[supervisor]\n    stopwaitsecs = 2\n"}
    with supervisor("--only", ",".join(NAMES), groups=f"kat: {KAT}\n", files=files) as run:
        all_running(run)
        yield run


@pytest.fixture
def run(running: Run) -> Iterator[Run]:
    """The shared supervisor with all its programs RUNNING, before the test and after it."""
    yield running
    if states(running) != {"RUNNING"}:
        assert running.ctl("start", "all").returncode == 0, running.stderr()
    all_running(running)
    assert "Traceback" not in running.stderr()


def states(run: Run) -> set[str]:
    return {program["state"] for program in run.status()["programs"]}


def all_running(run: Run) -> None:
    wait_for("all programs RUNNING", lambda: states(run) == {"RUNNING"})


def one_line(answer: "subprocess.CompletedProcess[str]") -> str:
    """What a failed command says: one line on stderr and nothing else."""
    assert answer.stdout == ""
    lines = answer.stderr.splitlines()
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("ebpfctl: ")
    return lines[0]


def connect(run: Run) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(run.directory / "control.sock"))
    connection.settimeout(10 * SLOW)
    return connection


def send(connection: socket.socket, data: bytes) -> None:
    """All of it, or as much as the other side takes before it hangs up."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def read_all(connection: socket.socket) -> bytes:
    """What is answered until the other side hangs up."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    return data


def stderr_of(run: Run, name: str) -> Path:
    """Where a program's worker writes to, as a library in it would."""
    return Path(f"/proc/{run.pid_of(name)}/fd/2")


def say(run: Run, name: str, text: bytes) -> None:
    write(stderr_of(run, name), text)


def write(path: Path, text: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(text)


# ---- status


def test_status_is_a_table_with_a_line_for_each_program(run: Run) -> None:
    answer = run.ctl("status")
    head, *rows = answer.stdout.splitlines()
    assert answer.returncode == 0
    assert head.split() == list(COLUMNS)
    assert sorted(row.split()[0] for row in rows) == sorted(NAMES)
    assert all(row.split()[1] == "RUNNING" and int(row.split()[2]) > 1 for row in rows)


def test_status_as_json_has_exactly_the_keys_of_the_interface(run: Run) -> None:
    run.wait_frames(2)
    status = run.status()
    number = (int, float)
    assert kinds(status) == {
        "version": str,
        "kernel": str,
        "uptime_s": float,
        "frames": int,
        "kernel_bytes": int,
        "supervisor": dict,
        "aggregator": dict,
        "programs": list,
    }
    assert kinds(status["supervisor"]) == {"pid": int, "rss_bytes": int, "cpu_s": float}
    aggregator = kinds(status["aggregator"])
    assert set(aggregator) >= {"state", "pid", "restarts", "rss_bytes", "cpu_s"}
    assert status["version"] == package.__version__
    assert status["kernel"] == os.uname().release
    assert status["supervisor"]["pid"] == run.process.pid
    assert status["frames"] >= 2
    for program in status["programs"]:
        assert kinds(program) == {
            "name": str,
            "state": str,
            "pid": int,
            "uptime_s": float,
            "restarts": int,
            "rss_bytes": int,
            "cpu_s": float,
            "kernel_bytes": int,
            "samples": int,
            "dropped": int,
            "rate": float,
            "description": str,
            "hooks": list,
        }
        assert program["samples"] >= 2
        assert program["rss_bytes"] > 1_000_000
        assert program["kernel_bytes"] > 0
        for hook in program["hooks"]:
            assert hook.pop("missed") in (0, None)
            assert {hook.pop("runs"), hook.pop("run_ns")} <= {0, None}  # counted while the kernel is told to
            assert isinstance(hook.pop("program_id"), int | None)
            assert kinds(hook) == {"hook": str, "plan": str, "target": str, "attached": bool, "reason": str}
            assert hook["attached"] == (hook["reason"] == "")
    assert status["kernel_bytes"] >= sum(program["kernel_bytes"] for program in status["programs"])
    assert isinstance(status["uptime_s"], number)


def kinds(answer: dict[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in answer.items()}


def test_the_workers_that_status_names_are_there_and_are_not_root(run: Run) -> None:
    status = run.status()
    for pid in [status["aggregator"]["pid"], *(program["pid"] for program in status["programs"])]:
        text = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^PPid:\t(\d+)$", text, re.MULTILINE)[1] == str(run.process.pid)  # type: ignore[index]
        assert not re.search(r"^Uid:.*\b0\b", text, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", text, re.MULTILINE)


def test_status_of_some_programs_shows_just_these(run: Run) -> None:
    assert [line.split()[0] for line in run.ctl("status", "fd").stdout.splitlines()[1:]] == ["fd"]
    answer = json.loads(run.ctl("--json", "status", "disk", "fd", "fd").stdout)
    assert sorted(program["name"] for program in answer["programs"]) == ["disk", "fd"]


def test_verbose_status_shows_every_hook_and_why_others_were_not_taken(run: Run) -> None:
    text = run.ctl("status", "-v", "fd").stdout
    assert re.search(r"^fd: RUNNING: \d+ hooks", text, re.MULTILINE)
    assert re.search(r"^  open +\w+ +\S+ +yes", text, re.MULTILINE)
    assert re.search(r"^  close +\w+ +\S+ +yes", text, re.MULTILINE)
    assert not re.search(r"^(softirq|disk)\b", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100


def test_verbose_status_of_all_shows_the_hooks_of_the_identities_too(run: Run) -> None:
    assert re.search(r"^task: RUNNING: ", run.ctl("status", "-v").stdout, re.MULTILINE)
    hooks = json.loads(run.ctl("--json", "status", "-v").stdout)["identities"]["hooks"]
    assert {"newtask", "exec", "exit", "free"} <= {hook["hook"] for hook in hooks if hook["attached"]}
    assert "task" not in [program["name"] for program in run.status()["programs"]]


def on_a_terminal(run: Run, **env: str) -> bytes:
    """What `status` writes to one."""
    ours, theirs = os.openpty()
    words = [str(CTL), "--runtime-dir", str(run.directory), "status", "-v"]
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = subprocess.run(
        words, stdout=theirs, env={**environ, "TERM": "xterm", **env}, timeout=60 * SLOW, check=True
    )
    assert done.returncode == 0
    os.close(theirs)
    with open(ours, "rb", closefd=True) as screen:
        return read_screen(screen)


def read_screen(screen: Any) -> bytes:
    data = b""
    with contextlib.suppress(OSError):  # EIO: the other end has been closed
        while piece := screen.read1():
            data += piece
    return data


def test_colours_are_for_terminals_and_for_those_who_want_them(run: Run) -> None:
    assert b"\x1b[32mRUNNING\x1b[0m" in on_a_terminal(run)
    assert b"\x1b" not in on_a_terminal(run, NO_COLOR="1")
    assert b"\x1b" not in on_a_terminal(run, TERM="dumb")
    assert "\x1b" not in run.ctl("status", "-v").stdout


@pytest.mark.parametrize("name", ["vf", "aggregator", "", "../fd", "fd\nfd", "\udcff", "all "])
def test_status_of_an_unknown_program_is_4_and_one_line_with_those_there_are(run: Run, name: str) -> None:
    answer = run.ctl("status", name)
    assert answer.returncode == 4
    assert one_line(answer).endswith(f"there are {', '.join(PROGRAMS)}")


# ---- start, stop, restart


def test_a_stopped_program_is_stopped_alone_and_holds_nothing_in_the_kernel(run: Run) -> None:
    held = kernel_objects(run)
    answer = run.ctl("stop", "fd")
    assert answer.returncode == 0
    assert answer.stdout.startswith("fd: STOPPED")
    program = run.program("fd")
    assert (program["state"], program["pid"], program["kernel_bytes"]) == ("STOPPED", None, 0)
    assert (program["uptime_s"], program["rss_bytes"]) == (0, 0)
    assert kernel_objects(run) < held
    assert run.ctl("status").returncode == 3
    assert run.ctl("status", "fd").returncode == 3
    assert run.ctl("status", "disk", "softirq").returncode == 0

    answer = run.ctl("start", "fd")
    assert answer.returncode == 0
    assert answer.stdout.startswith("fd: RUNNING")
    program = run.program("fd")
    assert (program["state"], program["restarts"]) == ("RUNNING", 0)
    assert program["kernel_bytes"] > 0
    assert kernel_objects(run) == held
    assert run.ctl("status").returncode == 0


def kernel_objects(run: Run) -> int:
    """How many descriptors of maps, programs and attachments the supervisor holds."""
    links = []
    for entry in Path(f"/proc/{run.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(entry))
    return sum("bpf" in link or "perf_event" in link for link in links)


def test_a_stop_and_a_start_lose_what_came_between_and_nothing_else(run: Run) -> None:
    with Workload(KAT) as work:
        run.wait_frames(2)
        before = run.value("apps.file_open", "kat")
        work.do("open", 1009)
        wait_for("1009 opens", lambda: run.value("apps.file_open", "kat") == before + 1009)
        assert run.ctl("stop", "fd").returncode == 0
        work.do("open", 500)
        assert run.ctl("start", "fd").returncode == 0
        work.do("open", 2003)
        assert run.wait_value("apps.file_open", "kat", before + 3012) == before + 3012
    for chart in ("apps.file_open", "filesystem.file_descriptor"):
        for dimension, values in run.charts()[chart].values.items():
            assert values == sorted(values), f"{chart} {dimension} fell"


def test_the_last_counts_before_a_stop_are_in_the_stream(run: Run) -> None:
    with Workload(KAT) as work:
        run.wait_frames(2)
        before = run.value("apps.file_open", "kat")
        work.do("open", 1013)
        assert run.ctl("stop", "fd").returncode == 0
        assert run.ctl("start", "fd").returncode == 0
        assert run.wait_value("apps.file_open", "kat", before + 1013) == before + 1013


def test_restart_gives_a_new_worker(run: Run) -> None:
    pid = run.pid_of("fd")
    answer = run.ctl("restart", "fd")
    assert answer.returncode == 0
    assert answer.stdout.startswith("fd: RUNNING")
    assert run.pid_of("fd") != pid


def test_all_means_all(run: Run) -> None:
    answer = run.ctl("stop", "all")
    assert answer.returncode == 0
    assert sorted(line.split(":")[0] for line in answer.stdout.splitlines()) == sorted(NAMES)
    assert states(run) == {"STOPPED"}
    assert run.ctl("status").returncode == 3
    assert run.ctl("start", "all").returncode == 0
    assert states(run) == {"RUNNING"}
    assert run.ctl("restart", "all").returncode == 0


def test_what_is_so_already_stays_so(run: Run) -> None:
    pid = run.pid_of("fd")
    assert run.ctl("start", "fd").returncode == 0
    assert run.pid_of("fd") == pid
    for _ in range(2):
        assert run.ctl("stop", "fd").returncode == 0


def test_commands_answer_in_json_too(run: Run) -> None:
    answer = json.loads(run.ctl("--json", "restart", "disk").stdout)
    assert [(p["name"], p["state"]) for p in answer["programs"]] == [("disk", "RUNNING")]


@pytest.mark.parametrize("command", ["start", "stop", "restart", "tail"])
def test_a_command_for_an_unknown_program_changes_nothing_and_says_which_there_are(
    run: Run, command: str
) -> None:
    pid = run.pid_of("fd")
    names = ["vfs2"] if command == "tail" else ["fd", "vfs2"]
    answer = run.ctl(command, *names)
    assert answer.returncode not in (0, 3)
    assert "vfs2: no such program" in one_line(answer)
    assert run.pid_of("fd") == pid


def test_the_aggregator_can_be_restarted_and_no_counter_falls(run: Run) -> None:
    pid = run.pid_of("aggregator")
    assert run.ctl("restart", "aggregator").returncode == 0
    assert run.pid_of("aggregator") != pid
    run.wait_frames(2)
    for chart in run.charts().values():
        for dimension, values in chart.values.items():
            may_fall = chart.dimensions[dimension][2] != "incremental"
            assert may_fall or values == sorted(values), f"{chart.words[0]} {dimension}"


def test_a_start_that_comes_while_the_program_stops_starts_it(run: Run) -> None:
    pid = run.pid_of("disk")
    os.kill(pid, signal.SIGSTOP)  # it will not hear the polite request
    with connect(run) as stop, connect(run) as start:
        send(stop, b'{"command": "stop", "names": ["disk"]}\n')
        wait_for("disk STOPPING", lambda: run.program("disk")["state"] == "STOPPING")
        send(start, b'{"command": "start", "names": ["disk"]}\n')
        answer = json.loads(read_all(start))
    assert answer["programs"][0]["state"] == "RUNNING"


def test_a_stop_on_the_heels_of_a_start_stops_that_program_and_nothing_else(run: Run) -> None:
    """The new process is told to stop before it has got anywhere; both who asked are answered."""
    for _ in range(5):
        assert run.ctl("stop", "disk").returncode == 0
        os.kill(run.process.pid, signal.SIGSTOP)
        try:
            with connect(run) as start, connect(run) as stop:
                send(start, b'{"command": "start", "names": ["disk"]}\n')
                send(stop, b'{"command": "stop", "names": ["disk"]}\n')
                os.kill(run.process.pid, signal.SIGCONT)
                answers = [json.loads(read_all(connection)) for connection in (stop, start)]
        finally:
            os.kill(run.process.pid, signal.SIGCONT)
        assert [answer["programs"][0]["state"] for answer in answers] == ["STOPPED"] * 2
        assert run.process.poll() is None
    assert "stopping:" not in run.stderr()


# ---- tail, version


def test_tail_shows_the_last_lines_of_a_program(run: Run) -> None:
    say(run, "fd", b"<4>first of tail\n<3>second of tail\n")
    wait_for("the line", lambda: "second of tail" in run.ctl("tail", "fd").stdout)
    lines = run.ctl("tail", "fd").stdout.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines[-2:]] == ["first of tail", "second of tail"]
    assert "of tail" not in run.ctl("tail", "disk").stdout
    assert json.loads(run.ctl("--json", "tail", "fd").stdout)["lines"] == lines


def test_tail_that_follows_gives_a_new_line_as_it_comes(run: Run) -> None:
    say(run, "fd", b"<6>before\n")
    wait_for("the line", lambda: "before" in run.ctl("tail", "fd").stdout)
    command = [str(CTL), "--runtime-dir", str(run.directory), "tail", "-f", "fd"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout
        while "before" not in tail.stdout.readline():
            pass
        for number in range(3):
            say(run, "fd", f"<6>news {number}\n".encode())
            assert tail.stdout.readline().endswith(f" news {number}\n")
        tail.send_signal(signal.SIGINT)
        assert tail.wait(20 * SLOW) == 130


def test_control_characters_of_a_child_reach_no_terminal(run: Run) -> None:
    say(run, "disk", b"\x1b[2J\x07\r and \xff\x00 after\n")
    wait_for("the line", lambda: "after" in run.ctl("tail", "disk").stdout)
    assert all(line.isprintable() for line in run.ctl("tail", "disk").stdout.splitlines())
    assert all(line.isprintable() for line in run.stderr().splitlines())


def test_version_tells_both_ends(run: Run) -> None:
    version = package.__version__
    assert run.ctl("version").stdout == f"ebpfctl {version}, supervisor {version}\n"
    assert json.loads(run.ctl("--json", "version").stdout) == {"ebpfctl": version, "supervisor": version}


# ---- nobody there, no permission, wrong usage


def test_without_a_supervisor_every_command_is_4_and_one_line(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(dead / "control.sock"))
    for folder, hint in [(tmp_path / "none", "is the supervisor running"), (dead, "start it again")]:
        for words in (["status"], ["stop", "fd"], ["tail", "fd"], ["version"], ["shutdown"]):
            answer = ctl(folder, *words)
            assert answer.returncode == 4, words
            assert hint in one_line(answer)


def ctl(folder: Path, *words: str, user: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = [str(CTL), "--runtime-dir", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=False, user=user)


def test_a_supervisor_that_does_not_answer_soundly_is_4_too(tmp_path: Path) -> None:
    for reply in (b"", b"not json\n", b'{"ok": tr', b"[]\n", b"5\n"):
        path = tmp_path / "control.sock"
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            command = [str(CTL), "--runtime-dir", str(tmp_path), "status"]
            with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as asking:
                connection, _ = server.accept()
                connection.recv(4096)
                send(connection, reply)
                connection.close()
                out, told = asking.communicate(timeout=20 * SLOW)
            path.unlink()
        assert (asking.returncode, out, len(told.splitlines())) == (4, "", 1), f"{reply!r}: {told}"


# A command whose request comes after the other side has hung up.
LATE = """
import select, socket, sys
from supervisor import ctl
class Late(socket.socket):
    def connect(self, address):
        super().connect(address)
        poller = select.poll()
        poller.register(self, 0)
        poller.poll()
socket.socket = Late
sys.exit(ctl.run_command(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["status"], ["stop", "fd"], ["tail", "fd"], ["shutdown"]])
def test_a_supervisor_that_hangs_up_at_once_is_4_too(tmp_path: Path, words: list[str]) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "control.sock"))
        server.listen()
        command = [sys.executable, "-c", LATE, "--runtime-dir", str(tmp_path), *words]
        with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as asking:
            server.accept()[0].close()
            out, told = asking.communicate(timeout=20 * SLOW)
    assert (asking.returncode, out, len(told.splitlines())) == (4, "", 1), told


# Run as another user, with the runtime directory as its working directory: the way there is closed to it.
ASK = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect("control.sock")
except PermissionError:
    sys.exit(13)
connection.sendall(sys.argv[1].encode() + b"\\n")
print(connection.makefile().readline(), end="")
"""


def ask_as_nobody(run: Run, command: str) -> "subprocess.CompletedProcess[str]":
    request = json.dumps({"command": command, "names": ["fd"]})
    return subprocess.run(
        [os.path.realpath(sys.executable), "-I", "-S", "-c", ASK, request],
        cwd=run.directory,
        user="nobody",
        group="nogroup",
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60 * SLOW,
        check=False,
    )


def test_who_is_neither_root_nor_of_the_group_cannot_connect(run: Run) -> None:
    assert ask_as_nobody(run, "status").returncode == 13


def test_who_may_connect_and_is_not_root_may_ask_and_not_steer(run: Run) -> None:
    path = run.directory / "control.sock"
    mode = path.stat().st_mode
    path.chmod(0o666)  # as if nobody were of the group
    try:
        assert json.loads(ask_as_nobody(run, "status").stdout)["ok"] is True
        for command in ("stop", "start", "restart", "shutdown", "reload", "tail"):
            assert json.loads(ask_as_nobody(run, command).stdout)["ok"] is False, command
    finally:
        path.chmod(mode)
    assert run.program("fd")["state"] == "RUNNING"


@pytest.mark.parametrize(
    "words", [[], ["dance"], ["start"], ["tail"], ["tail", "a", "b"], ["--nonsense"], ["a\nb"]]
)
def test_wrong_usage_is_2_and_one_line(tmp_path: Path, words: list[str]) -> None:
    answer = ctl(tmp_path, *words)
    assert answer.returncode == 2
    one_line(answer)


def test_a_full_disk_or_a_closed_pipe_is_no_traceback(run: Run) -> None:
    command = [str(CTL), "--runtime-dir", str(run.directory), "status"]
    with open("/dev/full", "w") as full:
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert answer.returncode != 0
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    reading, writing = os.pipe()
    os.close(reading)
    answer = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert answer.stderr == ""


# ---- whoever else comes to the socket

DEEP = b"[" * 3000
MALFORMED = {
    "garbage": b"\x00\xff\xfe garbage\n",
    "empty line": b"\n",
    "nul": b'{"command": "sta\0tus"}\n',
    "nuls": b"\0" * 1000 + b"\n",
    "not an object": b"[1, 2]\n",
    "a text": b'"status"\n',
    "a number": b"5\n",
    "null": b"null\n",
    "no command": b'{"names": ["fd"]}\n',
    "command of another type": b'{"command": ["status"]}\n',
    "command as an object": b'{"command": {"status": 1}}\n',
    "unknown command": b'{"command": "dance"}\n',
    "private name": b'{"command": "__init__"}\n',
    "names as a text": b'{"command": "status", "names": "fd"}\n',
    "names of numbers": b'{"command": "status", "names": [1, null]}\n',
    "names as null": b'{"command": "status", "names": null}\n',
    "names with surrogates": b'{"command": "status", "names": ["\\ud800"]}\n',
    "no names": b'{"command": "stop"}\n',
    "deep": DEEP + b"\n",
    "deep names": b'{"command": "status", "names": ' + DEEP + b"]" * 3000 + b"}\n",
    "huge number": b'{"command": "status", "names": [' + b"9" * 3900 + b"]}\n",
    "infinity": b'{"command": Infinity}\n',
    "utf-16": '{"command": "dance"}\n'.encode("utf-16"),
    "10 MB": b"x" * 10_000_000,
    "10 MB and a line": b'{"command": "status", "names": ["' + b"x" * 10_000_000 + b'"]}\n',
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_refused_and_does_no_harm(run: Run, request_: bytes) -> None:
    with connect(run) as connection:
        send(connection, request_)
        answer = read_all(connection)
    assert not answer or json.loads(answer)["ok"] is False
    assert answer.count(b"\n") <= 1
    assert run.program("fd")["state"] == "RUNNING"


def test_a_request_may_come_in_pieces(run: Run) -> None:
    with connect(run) as connection:
        for byte in b'{"command": "version"}\n':
            send(connection, bytes([byte]))
        assert json.loads(read_all(connection)) == {"ok": True, "version": package.__version__}


def test_one_who_hangs_up_before_or_after_asking_does_no_harm(run: Run) -> None:
    for words in (
        b"",
        b'{"command"',
        b'{"command": "status"}\n',
        b'{"command": "restart", "names": ["disk"]}\n',
    ):
        with connect(run) as connection:
            send(connection, words)
    all_running(run)


def test_a_connection_is_for_one_request(run: Run) -> None:
    """What comes after it is not taken for the request come again."""
    say(run, "fd", b"<6>once\n")
    wait_for("the line", lambda: "once" in run.ctl("tail", "fd").stdout)
    pid = run.pid_of("disk")
    with connect(run) as connection:
        send(connection, b'{"command": "restart", "names": ["disk"]}\n')
        for _ in range(5):
            send(connection, b"and more\n")
        answer = read_all(connection)
    assert answer.count(b"\n") == 1
    assert json.loads(answer)["ok"] is True
    assert run.pid_of("disk") != pid
    starts = run.stderr().count("disk: STARTING")
    run.wait_frames(1)
    assert run.stderr().count("disk: STARTING") == starts


def test_a_follower_that_talks_is_told_each_line_once(run: Run) -> None:
    assert run.ctl("restart", "softirq").returncode == 0
    with connect(run) as connection:
        send(connection, b'{"command": "tail", "names": ["softirq"], "follow": true}\n')
        for _ in range(3):
            run.ctl("version")  # the loop has been round
            send(connection, b"more\n")
        run.ctl("version")
        say(run, "softirq", b"<6>told once\n<6>the end\n")
        lines = b""
        while b"the end" not in lines:
            lines += connection.recv(65536)
    assert lines.count(b"told once") == 1


def test_50_idle_clients_do_not_keep_anybody_out(run: Run) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(run))
        for _ in range(3):
            answer = run.ctl("status", "fd")
            assert (answer.returncode, answer.stderr) == (0, "")
            assert "RUNNING" in answer.stdout
        assert run.ctl("restart", "disk").returncode == 0


def test_one_that_asks_and_never_reads_is_dropped_and_holds_nobody_up(run: Run) -> None:
    with connect(run) as deaf:
        send(deaf, b'{"command": "tail", "names": ["softirq"], "follow": true}\n')
        run.ctl("version")
        stderr, line = stderr_of(run, "softirq"), b"<7>" + b"x" * 4000 + b"\n"
        for _ in range(30):
            write(stderr, line * 20)
        assert run.ctl("version").returncode == 0
        assert len(read_all(deaf)) < 2_000_000
    all_running(run)


def test_shutdown_ends_the_supervisor_and_leaves_nothing() -> None:
    with supervisor("--only", "softirq") as run:
        assert run.ctl("shutdown").returncode == 0
        assert run.process.wait(20 * SLOW) == 0
        assert not run.directory.exists()
        assert run.ctl("status").returncode == 4
