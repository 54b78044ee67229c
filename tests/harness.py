"""What many tests need: a real supervisor in a folder of its own, its stream as values, waiting in time."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from supervisor.ctl import Unreachable, ask

ROOT: Final = Path(__file__).resolve().parents[1]
BIN: Final = Path(sys.executable).parent
SUPERVISOR: Final = BIN / "ebpf-supervisor"
CTL: Final = BIN / "ebpfctl"
PLUGIN: Final = BIN / "ebpf-supervisor.plugin"

# Emulated guests are some twenty times slower than the host.
SLOW: Final = float(os.environ.get("EBPF_TEST_SLOW", "1"))
# How every supervisor under test reads maps (`map reading`), "" = as its test says.
READING: Final = os.environ.get("EBPF_TEST_MAP_READING", "")

T = TypeVar("T")


def wait_for(what: str, probe: Callable[[], T], timeout_s: float = 15.0) -> T:
    """The first true value of `probe`; fails with `what` when there is none in time."""
    deadline = time.monotonic() + timeout_s * SLOW
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s * SLOW:.0f} s for {what}; the last answer was {value!r}")
        time.sleep(0.02 * SLOW)


@dataclass
class Chart:
    """One chart of a stream: its definition's words, its dimensions, and every value that was set."""

    words: list[str]
    dimensions: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    collections: int = 0
    values: dict[str, list[int]] = field(default_factory=dict)

    @property
    def obsolete(self) -> bool:
        return self.words[9] == "obsolete"

    def last(self, dimension: str) -> int:
        return self.values[dimension][-1]


class BadStream(AssertionError):
    """A line that a Netdata agent would not take."""


def _words(line: str) -> list[str]:
    text = line.replace("=", " ")
    if not any(mark in line for mark in "'\"\\#"):
        return text.split()  # shlex takes thirty times as long
    try:
        return shlex.split(text, posix=True)
    except ValueError as error:
        raise BadStream(f"{line!r}: {error}") from error


class Stream:
    """Reads plugin protocol as an agent does, and is stricter: anything odd is a BadStream."""

    def __init__(self) -> None:
        self.charts: dict[str, Chart] = {}
        self.lines = 0
        self.disabled = False
        self._defining: Chart | None = None
        self._open: Chart | None = None
        self._set: set[str] = set()
        self._labels: dict[str, str] = {}

    def feed(self, line: str) -> None:
        self.lines += 1
        words = _words(line)
        if words:
            self._take(line, words)

    def _take(self, line: str, words: list[str]) -> None:
        keyword, *rest = words
        if keyword == "CHART":
            self._defining = self.charts.setdefault(rest[0], Chart(rest))
            self._defining.words = rest
        elif keyword == "DIMENSION" and self._defining:
            self._defining.dimensions[rest[0]] = rest
        elif keyword == "CLABEL" and self._defining and len(rest) == 3:
            self._labels[rest[0]] = rest[1]
        elif keyword == "CLABEL_COMMIT" and self._defining and self._labels:
            self._defining.labels, self._labels = self._labels, {}
        elif keyword == "BEGIN" and self._open is None and rest[0] in self.charts:
            self._open, self._set = self.charts[rest[0]], set()
        elif (
            keyword == "SET" and self._open and rest[0] in self._open.dimensions and rest[0] not in self._set
        ):
            self._set.add(rest[0])
            self._open.values.setdefault(rest[0], []).append(int(rest[1]))
        elif keyword == "END" and self._open:
            self._open.collections += 1
            self._open = None
        elif keyword == "DISABLE":
            self.disabled = True
        else:
            raise BadStream(repr(line))


# What is to be noted of a run before it ends (tests/kernel/coverage.py).
before_end: "list[Callable[[Run], None]]" = []


class Run:
    """One supervisor under test; made by `supervisor()`."""

    def __init__(self, process: "subprocess.Popen[bytes]", directory: Path, log: Path) -> None:
        self.process = process
        self.directory = directory
        self.log = log
        self.stream = Stream()
        self.raw = bytearray()
        self.error: BadStream | None = None
        self._reading = threading.Event()
        self._reading.set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    # ---- the stream

    def _read(self) -> None:
        assert self.process.stdout
        rest = b""
        while True:
            self._reading.wait()
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            with self._lock:
                self.raw += data
                for line in lines:
                    try:
                        self.stream.feed(line.decode())
                    except (BadStream, UnicodeDecodeError) as error:
                        self.error = BadStream(str(error))

    def stop_reading(self) -> None:
        """Takes effect at the next data."""
        self._reading.clear()

    def go_on_reading(self) -> None:
        self._reading.set()

    def value(self, chart: str, dimension: str) -> int:
        """The last value set; 0 for a dimension that has not been seen, as for a group without events."""
        with self._lock:
            if self.error:
                raise self.error
            found = self.stream.charts.get(chart)
            return found.last(dimension) if found and found.values.get(dimension) else 0

    def charts(self) -> dict[str, Chart]:
        with self._lock:
            if self.error:
                raise self.error
            return dict(self.stream.charts)

    def wait_value(self, chart: str, dimension: str, at_least: int, timeout_s: float = 15.0) -> int:
        """The value once it is `at_least` so much, and a frame later: what came too much shows too."""

        def there() -> bool:
            return self.value(chart, dimension) >= at_least

        try:
            wait_for(f"{chart} {dimension} >= {at_least}", there, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.value(chart, dimension)}") from error
        self.wait_frames(2)
        return self.value(chart, dimension)

    def wait_frames(self, count: int, timeout_s: float = 15.0) -> None:
        """Until so many more frames have been written."""
        start = self.frames()
        wait_for(f"{count} more frames", lambda: self.frames() >= start + count, timeout_s)

    def frames(self) -> int:
        """Collections of the chart that has most."""
        with self._lock:
            return max((chart.collections for chart in self.stream.charts.values()), default=0)

    # ---- the supervisor

    def ctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [str(CTL), "--runtime-dir", str(self.directory), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=False)

    def ctl_later(self, *words: str) -> None:
        """The same without waiting for its end."""
        command = [str(CTL), "--runtime-dir", str(self.directory), *words]
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def status(self) -> dict[str, Any]:
        """What `ebpfctl --json status` prints; without a process, which a guest takes seconds to start."""
        return next(ask(self.directory, {"command": "status", "names": []}))

    def program(self, name: str) -> dict[str, Any]:
        return next(program for program in self.status()["programs"] if program["name"] == name)

    def pid_of(self, name: str) -> int:
        """Of a program's worker, or of the aggregator, once it is RUNNING."""

        def running() -> int:
            status = self.status()
            found = status["aggregator"] if name == "aggregator" else self.program(name)
            return int(found["pid"] or 0) if found["state"] == "RUNNING" else 0

        return wait_for(f"{name} RUNNING", running)

    def children(self) -> list[int]:
        """Every process below the supervisor."""
        return descendants(self.process.pid)

    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, timeout_s: float = 15.0) -> int:
        """Stops it as Ctrl-C would, and gives its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout_s * SLOW)


def descendants(pid: int) -> list[int]:
    """Ids of all processes below `pid`, zombies not counted."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def starting(run: Run) -> list[str]:
    """Programs that are still being started; none of a supervisor that has ended."""
    try:
        programs = run.status()["programs"]
    except Unreachable:
        return []
    return [program["name"] for program in programs if program["state"] == "STARTING"]


@contextlib.contextmanager
def supervisor(
    *options: str,
    groups: str | None = None,
    files: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    wait: bool = True,
) -> Iterator[Run]:
    """A running supervisor; its first frame has been written when `wait`.

    groups: text of apps_groups.conf; files: other configuration files by name; the packaged ones else.
    Ended and checked at exit: nothing of it may be left.
    """
    if READING:
        main = (files or {}).get("ebpf.d.conf", "")
        files = {**(files or {}), "ebpf.d.conf": f"{main}\n[supervisor]\n    map reading = {READING}\n"}
    with tempfile.TemporaryDirectory(prefix="ebpfsup-") as folder:
        directory = Path(folder) / "run"
        words = list(command or [str(SUPERVISOR), "run"])
        words += ["--runtime-dir", str(directory), *options]
        if groups is not None or files is not None:
            words += ["--config-dir", str(_configuration(Path(folder), groups, files or {}))]
        log = Path(folder) / "stderr"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(env or {})},
            )
        run = Run(process, directory, log)
        try:
            if wait:
                wait_for("the first frame", lambda: run.frames() > 0 or process.poll() is not None, 20)
                assert process.poll() is None, run.stderr()
            if wait and ("--attach" in options or SLOW > 1):
                # Who asks for a kind of plan counts events: every program must have its hooks by then, which
                # takes a guest seconds.
                wait_for("every program to have started", lambda: not starting(run), 60)
            yield run
            for look in before_end if process.poll() is None else ():
                look(run)
        except BaseException:
            print(run.stderr(), file=sys.stderr)
            raise
        finally:
            run.go_on_reading()
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20 * SLOW)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise
        if run.error:
            raise run.error


def _configuration(folder: Path, groups: str | None, files: Mapping[str, str]) -> Path:
    conf = folder / "conf"
    shutil.copytree(ROOT / "conf", conf)
    if groups is not None:
        (conf / "apps_groups.conf").write_text(groups, errors="surrogateescape")
    for name, text in files.items():
        (conf / name).write_text(text, errors="surrogateescape")
    if SLOW > 1:
        _be_patient(conf / "ebpf.d.conf")
    return conf


def _be_patient(main: Path) -> None:
    """A guest that shares its processors with other tests is slow, and not hung."""
    text = main.read_text(errors="surrogateescape")
    for short, long in (
        ("loader_timeout_secs = 60", "loader_timeout_secs = 600"),
        ("ticks = 4", "ticks = 60"),
    ):
        text = text.replace(short, long)
    main.write_text(text, errors="surrogateescape")
