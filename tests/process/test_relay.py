"""The plugin as a relay: it hands on what a supervisor serves, and outlives everything but its agent."""

import contextlib
import functools
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import PLUGIN, SLOW, Run, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="whom a relay believes takes root to try")

NOBODY: Final = 65534
DEFINITION: Final = (
    b"CHART t.c '' 'Title' 'calls/s' 'family' 't.c' line 100 1 '' 'ebpf.plugin' 'm'\n"
    b"DIMENSION d '' incremental 1 1\n"
)


def collection(value: int) -> bytes:
    return b"BEGIN t.c\nSET d = %d\nEND\n" % value


class Server:
    """In a supervisor's place: it says to each who comes what the test wants said."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._path = directory / "stream.sock"
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._path.chmod(0o666)
        self._listener.settimeout(20 * SLOW)

    def accept(self) -> socket.socket:
        return self._listener.accept()[0]

    def close(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)


class Relay:
    """The plugin as an agent starts it, by the user nobody: `run` reads what it writes."""

    def __init__(self, folder: Path, *words: str, user: int = NOBODY) -> None:
        log = folder / "relay.log"
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [str(PLUGIN), *(words or ("1",)), "--runtime-dir", str(folder / "run")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                user=user,
                group=user,
                extra_groups=(),
            )
        self.run = Run(self.process, folder / "run", log)

    def values(self) -> list[int]:
        chart = self.run.charts().get("t.c")
        return chart.values.get("d", []) if chart else []

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where everybody may go, as in /run."""
    command = ["/usr/bin/test", "-x", str(PLUGIN)]
    if subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=(), check=False).returncode:
        pytest.skip(f"the account nobody cannot come to {PLUGIN}")
    with tempfile.TemporaryDirectory(prefix="relay-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(folder / "run")
    yield server
    server.close()


@contextlib.contextmanager
def relay(folder: Path, *words: str) -> Iterator[Relay]:
    started = Relay(folder, *words)
    try:
        yield started
    finally:
        started.end()


def test_it_hands_on_whole_collections_only(folder: Path, server: Server) -> None:
    with relay(folder) as started, server.accept() as supervisor:
        supervisor.sendall(DEFINITION + collection(1) + b"BEGIN t.c\nSET d = 99")
        wait_for("the first value", lambda: started.values() == [1])
        supervisor.close()
        with server.accept() as another:
            another.sendall(DEFINITION + collection(2))
            wait_for("the second value", lambda: started.values() == [1, 2])
            assert "99" not in started.run.raw.decode()


def _ends_with(started: Relay, value: int) -> bool:
    return started.values()[-1:] == [value]


def _has_told(started: Relay, times: int) -> bool:
    return started.run.stderr().count("waiting") == times


def test_it_waits_for_a_supervisor_that_comes_back_and_says_so_once(folder: Path, server: Server) -> None:
    with relay(folder) as started:
        for value in (1, 2, 3):
            with server.accept() as supervisor:
                supervisor.sendall(DEFINITION + collection(value))
                wait_for("a value", functools.partial(_ends_with, started, value))
                server.close()
            wait_for("word of it", functools.partial(_has_told, started, value))
            server.__init__(folder / "run")  # type: ignore[misc]
        with server.accept():
            assert started.values() == [1, 2, 3]
            assert started.process.poll() is None
            assert len(started.run.stderr().splitlines()) == 3 + 2


@pytest.mark.parametrize(
    "wrong",
    [
        b"FOOBAR\nEND\n",
        b"DISABLE\nEND\n",
        b"BEGIN t.c\nSET d = 1.5\nEND\n",
        b"BEGIN t.c\nSET d = \nEND\n",
        b"# a comment\nEND\n",
        b"Traceback (most recent call last):\nEND\n",
        b"BEGIN t.c\nSET d = 1\nEND \nEND\n",
        b"\0\xff\nEND\n",
        b"x" * (17 << 20),
    ],
    ids=lambda wrong: wrong[:12].decode(errors="replace"),
)
def test_what_an_agent_would_not_forgive_is_not_handed_on(folder: Path, server: Server, wrong: bytes) -> None:
    with relay(folder) as started, server.accept() as supervisor:
        supervisor.sendall(DEFINITION + collection(1))
        wait_for("the first value", lambda: started.values() == [1])
        with contextlib.suppress(OSError):
            supervisor.sendall(wrong)
        supervisor.close()
        with server.accept() as another:
            another.sendall(DEFINITION + collection(2))
            wait_for("the second value", lambda: started.values() == [1, 2])
        assert wrong.splitlines()[0] not in started.run.raw.splitlines() or wrong.startswith(b"BEGIN")
        assert "no stream of ours" in started.run.stderr()


def test_it_does_not_believe_a_socket_of_just_anybody(folder: Path) -> None:
    directory = folder / "run"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('there', flush=True)\n"
        "while True: s.accept()[0].sendall(b'FOOBAR')\n"
    )
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", script, str(directory / "stream.sock")],
        stdout=subprocess.PIPE,
        user=NOBODY,
        group=NOBODY,
        extra_groups=(),
    ) as impostor:
        assert impostor.stdout
        impostor.stdout.readline()
        try:
            with relay(folder) as started:
                assert started.process.wait(20 * SLOW) == 0
                wait_for("DISABLE", lambda: started.run.raw == b"DISABLE\n")
                assert f"uid {NOBODY} offers it, not root" in started.run.stderr()
        finally:
            impostor.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_well_when_it_is_told_to(folder: Path, server: Server, number: signal.Signals) -> None:
    with relay(folder) as started, server.accept() as supervisor:
        supervisor.sendall(DEFINITION + collection(1))
        wait_for("the first value", lambda: started.values() == [1])
        started.process.send_signal(number)
        assert started.process.wait(10 * SLOW) == 0
        assert started.run.stderr() == ""


def test_it_ends_when_its_agent_closes_stdin_or_says_quit(folder: Path, server: Server) -> None:
    for last_word in (b"", b"QUIT\n"):
        with relay(folder) as started, server.accept() as supervisor:
            supervisor.sendall(DEFINITION + collection(1))
            wait_for("the first value", lambda: started.values() == [1])
            assert started.process.stdin
            started.process.stdin.write(last_word)
            started.process.stdin.flush()
            if not last_word:
                started.process.stdin.close()
            assert started.process.wait(10 * SLOW) == 0


def test_it_ends_when_nobody_reads_it_also_while_it_waits(folder: Path, server: Server) -> None:
    for served in (True, False):
        reading, writing = os.pipe()
        with subprocess.Popen(
            [str(PLUGIN), "1", "--runtime-dir", str(folder / "run")],
            stdin=subprocess.PIPE,
            stdout=writing,
            stderr=subprocess.PIPE,
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
        ) as process:
            os.close(writing)
            with server.accept() as supervisor:
                supervisor.sendall(DEFINITION + collection(1))
                assert os.read(reading, 5) == b"CHART"
                if not served:
                    server.close()
            os.close(reading)
            assert process.wait(10 * SLOW) == 0
            assert process.stderr
            assert b"Traceback" not in process.stderr.read()


def test_an_agent_that_does_not_read_gets_all_of_it_later(folder: Path, server: Server) -> None:
    count = 20_000
    data = DEFINITION + b"".join(map(collection, range(count)))
    with relay(folder) as started, server.accept() as supervisor:
        started.run.stop_reading()
        sender = threading.Thread(target=supervisor.sendall, args=(data,))
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()  # the relay takes no more than its agent does
        started.run.go_on_reading()
        wait_for("the last value", lambda: started.values()[-1:] == [count - 1])
        sender.join()
        assert bytes(started.run.raw) == data


def test_without_stream_or_root_it_explains_itself_and_is_not_started_again(folder: Path) -> None:
    with relay(folder) as started:
        assert started.process.wait(10 * SLOW) == 0
        wait_for("DISABLE", lambda: started.run.raw == b"DISABLE\n")
        (line,) = started.run.stderr().splitlines()
        assert line.startswith("ebpf-supervisor.plugin: no stream is served")
        assert f"needs root, not uid {NOBODY}" in line


def test_a_relay_imports_nothing_heavy() -> None:
    code = "import sys, supervisor.plugin; print(*sorted(sys.modules))"
    answer = subprocess.run(
        [str(PLUGIN.with_name("python")), "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"numpy", "zmq", "bcc", "msgpack", "logging", "argparse", "dataclasses", "supervisor.cli"}
    assert not heavy & set(answer.stdout.split())
