"""How long it takes from the command to the first data, and from SIGINT to the end."""

import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.figures import Benchmark, MeasurementFailed, Section, Table, at_most
from tests.harness import SUPERVISOR

TITLE: Final = "Start and stop"
_RUNS: Final = 10
_SETTLE_S: Final = 1.5

_MEANING: Final = f"""\
From the start of the command to the first `BEGIN` read from its stdout, all programs on, and from SIGINT to
the end of the process; {_RUNS} runs. Frames come with the full second, so the runs are begun at {_RUNS}
moments spread evenly over one: the slowest has just missed a tick. *Last program RUNNING* is as its log
says."""


@dataclass(frozen=True)
class Times:
    """Of one run, in seconds; the first two from its start."""

    running_s: float
    first_begin_s: float
    stop_s: float


def run(guest: bool) -> Section:
    times = [_measure(number / _RUNS) for number in range(_RUNS)]
    first = [each.first_begin_s for each in times]
    stop = [each.stop_s for each in times]
    return Section(
        TITLE,
        _MEANING,
        (f"kernel {platform.release()}",),
        [
            at_most("time to the first BEGIN, median", statistics.median(first), 3, "{:.2f} s"),
            at_most("time to the first BEGIN, slowest", max(first), 3, "{:.2f} s"),
            at_most("time to stop, slowest", max(stop), 1, "{:.2f} s"),
        ],
        [
            Table(
                ("", "fastest", "median", "slowest"),
                [
                    _row("last program RUNNING", [each.running_s for each in times]),
                    _row("first BEGIN", first),
                    _row("stop", stop),
                ],
            )
        ],
    )


def _row(what: str, values: list[float]) -> tuple[str, ...]:
    return (what, *(f"{value:.2f} s" for value in (min(values), statistics.median(values), max(values))))


def _measure(phase: float) -> Times:
    """One run, begun this much of a second after a full one of the monotonic clock."""
    with tempfile.TemporaryDirectory(prefix="ebpfsup-") as folder:
        log = Path(folder) / "stderr"
        time.sleep((phase - time.monotonic()) % 1)
        with log.open("wb") as stderr:
            began_s, began_wall_s = time.monotonic(), time.time()
            process = subprocess.Popen(
                [str(SUPERVISOR), "run", "--runtime-dir", f"{folder}/run"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert process.stdout
        try:
            _read_until(process.stdout.fileno(), b"BEGIN ")
            first_s = time.monotonic() - began_s
            time.sleep(_SETTLE_S)
            stopped_s = time.monotonic()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return Times(_running(log) - began_wall_s, first_s, time.monotonic() - stopped_s)


def _read_until(fd: int, word: bytes) -> None:
    """Raises MeasurementFailed when the stream ends before it."""
    seen = b""
    while word not in seen:
        data = os.read(fd, 65536)
        if not data:
            raise MeasurementFailed(f"the stream ended without {word.decode()}")
        seen = seen[-len(word) :] + data


def _running(log: Path) -> float:
    """When the last program became RUNNING, by the log's own time."""
    lines = [line for line in log.read_text().splitlines() if " RUNNING: " in line]
    moment, _, millis = lines[-1].partition(" INFO")[0].partition(",")
    return time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M:%S")) + int(millis) / 1000


BENCHMARK: Final = Benchmark("start", "time to the first BEGIN, and to the end", run)
