"""A real agent as user netdata, the relay as its plugin, and a unit that comes and goes under it.

EBPF_TEST_RESTARTS says how often; `make test` has a short form.
"""

import contextlib
import functools
import itertools
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.agent.agent import NETDATA, Agent, agent
from tests.agent.test_agent import assert_content
from tests.harness import PLUGIN, SLOW, SUPERVISOR, wait_for
from tests.workload import Workload

RESTARTS: Final = int(os.environ.get("EBPF_TEST_RESTARTS", "3"))
CHART: Final = "filesystem.file_descriptor"
# A machine that also emulates guests takes its time to compile.
START_S: Final = 240.0
# Points that an agent leaves out beside those for which there was nothing: the first value after a pause is
# a base, and what is between two collections is spread over whole seconds.
MARGIN: Final = 3


def _closed_to_netdata() -> bool:
    command = ["/usr/bin/test", "-x", str(PLUGIN)]
    return bool(
        subprocess.run(command, user="netdata", group="netdata", extra_groups=(), check=False).returncode
    )


pytestmark = [
    pytest.mark.agent,
    pytest.mark.kernel,
    pytest.mark.skipif(not NETDATA.exists(), reason=f"{NETDATA} is not there (Debian: netdata-core)"),
]


class Unit:
    """`serve` as the systemd unit runs it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """As `Restart=on-failure` does: again, when what a kill has left was still in the way."""
        self._start()
        wait_for("a unit that starts", self._is_up, START_S)

    def _is_up(self) -> bool:
        if self._process and self._process.poll() is not None:
            self._start()
        return (self._directory / "control.sock").exists()

    def _start(self) -> None:
        with (self._directory.parent / "unit.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(SUPERVISOR), "serve", "--only", "fd,process", "--runtime-dir", str(self._directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(20 * SLOW)


@contextlib.contextmanager
def unit() -> Iterator[tuple[Unit, Path]]:
    with tempfile.TemporaryDirectory(prefix="unit-") as name:
        Path(name).chmod(0o755)
        directory = Path(name) / "run"
        made = Unit(directory)
        made.start()
        try:
            wait_for("the socket", (directory / "stream.sock").exists, 30)
            yield made, directory
        except BaseException:
            print((Path(name) / "unit.log").read_text()[-6000:])
            raise
        finally:
            made.stop(signal.SIGTERM)


def last_value_at(netdata: Agent) -> float:
    """When the newest point that has a value is from, 0 when there is none."""
    with contextlib.suppress(OSError):
        times = [point["time"] for point in netdata.points(CHART) if len(point) > 1]
        return times[-1] if times else 0.0
    return 0.0


def has_value_after(netdata: Agent, second: float) -> bool:
    return last_value_at(netdata) > second


def longest_gap(netdata: Agent) -> int:
    """Points in a row that have no value, between those that have one."""
    empty = [len(point) == 1 for point in netdata.points(CHART)]
    runs = [(is_empty, len(list(run))) for is_empty, run in itertools.groupby(empty)]
    return max((length for is_empty, length in runs[1:-1] if is_empty), default=0)


def test_an_agent_as_netdata_outlives_restarts_of_the_unit_and_misses_no_more_than_they_took() -> None:
    if _closed_to_netdata():
        pytest.skip(f"the account netdata cannot come to {PLUGIN}")
    with unit() as (served, directory), agent("--runtime-dir", str(directory), user="netdata") as netdata:
        netdata.wait_chart(CHART)
        longest_s = 0.0
        for number in range(RESTARTS):
            began_s = time.monotonic()
            # Every third time as the kernel or a watchdog would end it.
            served.stop(signal.SIGKILL if number % 3 == 2 else signal.SIGTERM)
            before = last_value_at(netdata)
            served.start()
            wait_for("values again", functools.partial(has_value_after, netdata, before + 2), START_S)
            longest_s = max(longest_s, time.monotonic() - began_s)
        history = netdata.history()
        assert (history.disabled, history.hung_up, history.exits) == (False, [], {})
        assert len(history.starts) == 1
        assert longest_gap(netdata) <= math.ceil(longest_s) + MARGIN
        told = [line for line in history.stderr if line.startswith("ebpf-supervisor.plugin")]
        assert len(told) <= 2 * RESTARTS + 1
        assert_content(netdata)


def test_two_agents_show_the_same_counts() -> None:
    if _closed_to_netdata():
        pytest.skip(f"the account netdata cannot come to {PLUGIN}")
    with unit() as (_, directory), contextlib.ExitStack() as stack:
        words = ("--runtime-dir", str(directory))
        both = [stack.enter_context(agent(*words, user="netdata")) for _ in range(2)]
        for netdata in both:
            netdata.wait_chart(CHART)
        before = [netdata.total(CHART, "open") for netdata in both]
        with Workload("relayed") as work:
            work.do("open", 10_007)
            for netdata in both:
                netdata.wait_points(CHART, 4)
        assert all(
            netdata.total(CHART, "open") - base >= 10_007 for netdata, base in zip(both, before, strict=True)
        )
        for netdata in both:
            assert_content(netdata)
