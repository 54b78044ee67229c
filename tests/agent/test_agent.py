"""What a real Netdata agent makes of our plugin: its charts, its sums, its patience, its end.

The agent interpolates between collections, so an event is spread over two of its points, but the sum over all
points is kept: it is compared rounded to whole events, since a point is printed with seven digits.
"""

import contextlib
import itertools
import mmap
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.agent.agent import NETDATA, Agent, agent
from tests.harness import PLUGIN, wait_for
from tests.workload import Workload

pytestmark = [
    pytest.mark.agent,
    pytest.mark.kernel,
    pytest.mark.skipif(not NETDATA.exists(), reason=f"{NETDATA} is not there (Debian: netdata-core)"),
]

PROGRAMS: Final = ("--only", "process,fd,softirq,disk")
# Nobody else's: other tests may run on this machine at the same time.
OWN: Final = f"own{os.getpid()}"
CHURN: Final = f"churn{os.getpid()}"
GROUPS: Final = f"{OWN}: {OWN}\n{CHURN}: {CHURN}\n"

# Points after which an interval's events are shown whole: the one they happened in, that they are sent in,
# the one that interpolation gives a part of them to, and one to spare.
SETTLED_POINTS: Final = 4


class Facts(NamedTuple):
    """A chart as the agent tells of it. `dimensions`: names by id, None for those of the app groups."""

    title: str
    units: str
    family: str
    kind: str
    priority: int
    module: str
    dimensions: dict[str, str] | None


FORK: Final = {"_do_fork": "process", "sys_clone": "thread"}
FILES: Final = {"do_sys_open": "open", "__close_fd": "close"}
VECTORS: Final = (
    "HI",
    "TIMER",
    "NET_TX",
    "NET_RX",
    "BLOCK",
    "IRQ_POLL",
    "TASKLET",
    "SCHED",
    "HRTIMER",
    "RCU",
)
BINS: Final = (
    *("0us->1us", "1us->2us", "2us->4us", "4us->8us", "8us->16us", "16us->32us", "32us->64us", "64us->128us"),
    *("128us->256us", "256us->512us", "512us->1ms", "1ms->2ms", "2ms->4ms", "4ms->8ms", "8ms->16ms"),
    *("16ms->32ms", "32ms->65ms", "65ms->131ms", "131ms->262ms", "262ms->524ms", "524ms->1s", "1s->2s"),
    *("2s->4s", "4s->+Inf"),
)


def _process(title: str, priority: int, dimensions: dict[str, str], units: str = "calls/s") -> Facts:
    return Facts(title, units, "processes", "line", priority, "process", dimensions)


def _apps_process(title: str, priority: int) -> Facts:
    return Facts(title, "calls/s", "processes", "stacked", priority, "process", None)


def _files(title: str, priority: int) -> Facts:
    return Facts(title, "calls/s", "file_access", "line", priority, "filedescriptor", FILES)


def _apps_files(title: str, priority: int) -> Facts:
    return Facts(title, "calls/s", "file_access", "stacked", priority, "filedescriptor", None)


# By id, which is the context too.
CHARTS: Final = {
    "system.process_thread": _process("Start process", 21002, FORK),
    "system.exit": _process("Exit process", 21003, {"do_exit": "process", "release_task": "task"}),
    "system.process_status": _process(
        "Process not closed", 21004, {"process": "process", "zombie": "zombie"}, "difference"
    ),
    "apps.process_create": _apps_process("Process started", 20065),
    "apps.thread_create": _apps_process("Threads started", 20066),
    "apps.task_exit": _apps_process("Tasks starts exit process.", 20067),
    "apps.task_close": _apps_process("Tasks closed", 20068),
    "filesystem.file_descriptor": _files("Open and close calls", 2195),
    "apps.file_open": _apps_files("Number of open files", 20061),
    "apps.file_closed": _apps_files("Files closed", 20063),
    "system.softirq_latency": Facts(
        "Software IRQ latency",
        "milliseconds",
        "softirqs",
        "stacked",
        951,
        "softirq",
        dict(zip(VECTORS, VECTORS, strict=True)),
    ),
}
RETURN_MODE_CHARTS: Final = {
    "system.task_error": _process("Fails to create process", 21005, FORK),
    "apps.task_error": _apps_process("Errors to create process or threads.", 20069),
    "filesystem.file_error": _files("Open fails", 2196),
    "apps.file_open_error": _apps_files("Fails to open files", 20062),
    "apps.file_close_error": _apps_files("Fails to close files", 20064),
}
DISK: Final = Facts(
    "Disk latency", "calls/s", "", "stacked", 2095, "disk", dict(zip(BINS, BINS, strict=True))
)

# A group's name in apps_groups.conf, and the dimension that shows it.
HOSTILE_GROUPS: Final = {
    "it's": "it_s",
    'say"so"': "say_so_",
    "'two words'": "two words",
    "'bell\x07escape\x1b[2Jtab\t.'": "bell_escape_[2Jtab_.",
    "back\\slash\\": "back_slash_",
    "a=b": "a_b",
    "a'b": "a_b_2",
    "END": "END",
    "BEGIN": "BEGIN",
    "DISABLE": "DISABLE",
    "grüße-日本語-🐝": "grüße-日本語-🐝",
    "broken\udcff\udcfe": "broken__",
    "L" * 300: "L" * 100,
    "🐝" * 300: "🐝" * 50,  # a dimension's id has 200 bytes
    "'$(reboot);`x`|&'": "$(reboot);`x`|&",
    "%s%n": "%s%n",
}
# Names of a process, with a number that other tests' processes have not, and the words that match them.
HOSTILE_NAMES: Final = (f"BEGIN x{os.getpid()}", f"nl{os.getpid()}\x01END", f"'{os.getpid()}\"'")
HOSTILE_WORDS: Final = f'"BEGIN x{os.getpid()}" nl{os.getpid()}* "\'{os.getpid()}*"'


@pytest.fixture(scope="module")
def entry() -> "Iterator[Agent]":
    with agent(*PROGRAMS, groups=GROUPS) as netdata:
        yield netdata


def assert_content(netdata: Agent) -> None:
    """The agent has started the plugin once, and has had nothing to say against it; nor has the plugin."""
    history = netdata.history()
    assert len(history.starts) == 1
    assert not history.disabled
    assert not history.hung_up
    assert not history.collections
    assert not history.exits
    assert not history.errors
    assert not [line for line in history.stderr if " ERROR " in line or "Traceback" in line]


def assert_facts(chart: str, found: dict[str, Any], expected: Facts, update_every: int = 1) -> None:
    about = {key: found[key] for key in ("units", "family", "priority", "module", "plugin", "update_every")}
    assert about == {
        "units": expected.units,
        "family": expected.family,
        "priority": expected.priority,
        "module": expected.module,
        "plugin": "ebpf.plugin",
        "update_every": update_every,
    }
    assert found["title"] == f"{expected.title} ({chart})"
    assert found["chart_type"] == expected.kind
    dimensions = [(identity, about["name"]) for identity, about in found["dimensions"].items()]
    if expected.dimensions is None:
        assert ("other", "other") in dimensions
        assert all(identity == name for identity, name in dimensions)
    else:
        assert dimensions == list(expected.dimensions.items())


def counted(netdata: Agent, chart: str, dimension: str, act: Callable[[], None]) -> int:
    """Events that the agent shows in the dimension while `act` happens, and until all is shown."""
    netdata.wait_points(chart, SETTLED_POINTS)
    before = netdata.total(chart, dimension)
    act()
    netdata.wait_points(chart, SETTLED_POINTS)
    return round(netdata.total(chart, dimension) - before)


# ---- the charts


@pytest.mark.parametrize("chart", CHARTS)
def test_chart_is_shown_as_netdatas_own_plugin_shows_it(entry: Agent, chart: str) -> None:
    found = entry.wait_chart(chart)
    assert_facts(chart, found, CHARTS[chart])
    assert found["context"] == chart


def test_no_chart_is_shown_that_is_not_in_the_table(entry: Agent) -> None:
    """Error charts belong to return mode; disks, containers and services have their own."""
    entry.wait_chart("system.softirq_latency")
    others = ("disk_latency_io.", "cgroup_", "services.", "netdata.")
    shown = {chart for chart in entry.charts() if not chart.startswith(others)}
    assert shown == set(CHARTS)


# ---- the values


def test_every_file_that_a_group_opens_is_shown(entry: Agent) -> None:
    with Workload(OWN) as work:
        entry.wait_chart("apps.file_open")
        entry.wait_points("apps.file_open", SETTLED_POINTS)
        opened, closed, by_host = (
            entry.total("apps.file_open", OWN),
            entry.total("apps.file_closed", OWN),
            entry.total("filesystem.file_descriptor", "open"),
        )
        work.do("open", 10007)
        entry.wait_points("apps.file_open", SETTLED_POINTS)
        assert round(entry.total("apps.file_open", OWN) - opened) == 10007
        assert round(entry.total("apps.file_closed", OWN) - closed) == 10007
        assert round(entry.total("filesystem.file_descriptor", "open") - by_host) >= 10007


def test_every_short_lived_process_of_a_group_is_shown(entry: Agent) -> None:
    with Workload(CHURN) as work:
        entry.wait_chart("apps.process_create")
        assert counted(entry, "apps.process_create", CHURN, lambda: work.do("churn", 1009, 7)) == 1009
        assert round(entry.total("apps.task_exit", CHURN)) >= 1009


def test_zombies_are_shown_as_long_as_they_are_there(entry: Agent) -> None:
    """A number of what is now: a rate would be back at 0 after an interval."""
    with Workload(OWN) as work:
        work.do("zombies", 31)
        entry.wait_points("system.process_status", SETTLED_POINTS)
        newest = entry.points("system.process_status")[-1]
        assert newest["zombie"] >= 31
        assert newest["process"] > 1


def test_time_in_software_interrupts_is_shown_under_load(entry: Agent) -> None:
    entry.wait_chart("system.softirq_latency")
    assert counted(entry, "system.softirq_latency", "NET_RX", lambda: _send_to_ourselves(50_000)) >= 1
    assert entry.total("system.softirq_latency", "TIMER") > 0


def _send_to_ourselves(datagrams: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        for _ in range(datagrams):
            receiver.sendto(b"x", receiver.getsockname())


def test_disk_that_is_written_to_has_its_chart_with_every_request(entry: Agent) -> None:
    folder = Path("/var/tmp")
    disk = _disk_of(folder)
    if disk is None:
        pytest.skip(f"{folder} is on no block device that can be told")
    chart = f"disk_latency_io.{disk}"
    shown = chart in entry.charts()
    before = entry.total(chart) if shown else 0
    _write_through(folder, 211)
    found = entry.wait_chart(chart)
    entry.wait_points(chart, SETTLED_POINTS)
    assert_facts(chart, found, DISK._replace(family=disk))
    assert found["context"] == "disk.latency_io"
    assert round(entry.total(chart) - before) >= 211


def _disk_of(folder: Path) -> str | None:
    """The whole disk below a folder's file system, None when it is not simply a disk or its partition."""
    number = os.stat(folder).st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not device.exists():
        return None
    device = device.resolve()
    if (device / "partition").exists():
        device = device.parent
    return device.name if (device / "device").exists() else None


def _write_through(folder: Path, requests: int) -> None:
    """So many writes, each of which has reached the disk before the next."""
    with tempfile.NamedTemporaryFile(dir=folder) as file, mmap.mmap(-1, 4096) as block:
        fd = os.open(file.name, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        try:
            for number in range(requests):
                os.pwrite(fd, block, number * len(block))
        finally:
            os.close(fd)


def test_stream_goes_on_for_20_seconds_without_a_gap_or_a_word_of_complaint(entry: Agent) -> None:
    entry.wait_chart("system.process_thread")

    def values() -> list[float | None]:
        """From the first one on; the chart begins with points that have none."""
        found = [point.get("process") for point in entry.points("system.process_thread")]
        return list(itertools.dropwhile(lambda value: value is None, found))

    wait_for("20 points", lambda: len(values()) >= 20, 40)
    assert None not in values()
    assert_content(entry)


# ---- other ways to run


def test_return_mode_shows_failed_calls_too() -> None:
    with agent(*PROGRAMS, "--load-mode", "return", groups=GROUPS) as netdata, Workload(OWN) as work:
        for chart, facts in (CHARTS | RETURN_MODE_CHARTS).items():
            assert_facts(chart, netdata.wait_chart(chart), facts)
        opened_before = netdata.total("apps.file_open", OWN)
        closed_before = netdata.total("apps.file_close_error", OWN)

        def fail() -> None:
            work.do("fail", 503)
            work.do("fail_close", 307)
            work.do("open", 101)

        assert counted(netdata, "apps.file_open_error", OWN, fail) == 503
        assert round(netdata.total("apps.file_close_error", OWN) - closed_before) == 307
        assert round(netdata.total("apps.file_open", OWN) - opened_before) >= 101
        assert_content(netdata)


def test_at_two_seconds_rates_are_still_by_the_second() -> None:
    with agent(*PROGRAMS, groups=GROUPS, update_every=2) as netdata, Workload(OWN) as work:
        for chart, facts in CHARTS.items():
            assert_facts(chart, netdata.wait_chart(chart), facts, update_every=2)
        assert counted(netdata, "apps.file_open", OWN, lambda: work.do("open", 10007)) == 10007
        assert_content(netdata)


def test_hostile_names_of_groups_and_processes_are_shown_and_do_no_harm() -> None:
    words = dict(zip(HOSTILE_GROUPS, (f"h{number}-{os.getpid()}" for number in range(99)), strict=False))
    groups = "".join(f"{group}: {word}\n" for group, word in words.items())
    groups += f"renamed: {HOSTILE_WORDS}\n"
    with agent("--only", "process,fd", groups=groups) as netdata, contextlib.ExitStack() as stack:
        works = {group: stack.enter_context(Workload(word)) for group, word in words.items()}
        renamed = stack.enter_context(Workload("unnamed"))

        def act() -> None:
            for work in works.values():
                work.do("open", 503)
            for name in HOSTILE_NAMES:
                renamed.rename(name)
                renamed.do("open", 101)

        netdata.wait_chart("apps.file_open")
        netdata.wait_points("apps.file_open", SETTLED_POINTS)
        chart = "apps.file_open"
        before = {shown: netdata.total(chart, shown) for shown in (*HOSTILE_GROUPS.values(), "renamed")}
        act()
        netdata.wait_points(chart, SETTLED_POINTS)
        grown = {shown: round(netdata.total(chart, shown) - start) for shown, start in before.items()}
        assert grown == {**dict.fromkeys(HOSTILE_GROUPS.values(), 503), "renamed": 303}
        assert_content(netdata)


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlasts_an_agent_that_ends_by(number: signal.Signals) -> None:
    with agent(*PROGRAMS) as netdata:
        netdata.wait_chart("apps.file_open")
        wait_for("plugin, aggregator and four workers", lambda: len(netdata.plugin_processes()) >= 6)
        assert netdata.runtime_dir.is_dir()
        assert netdata.end(number) == []
        assert not netdata.runtime_dir.exists()
        assert_content(netdata)


def test_unprivileged_plugin_explains_itself_in_a_line_and_is_not_started_again() -> None:
    command = ["/usr/bin/test", "-x", str(PLUGIN)]
    if subprocess.run(command, user="netdata", group="netdata", extra_groups=(), check=False).returncode:
        pytest.skip(f"the account netdata cannot come to {PLUGIN}")
    with agent(user="netdata") as netdata:
        wait_for("the end of the plugin", lambda: netdata.history().disabled)
        history = netdata.history()
        assert history.called_disable
        assert len(history.starts) == 1
        assert not history.exits
        told = [line for line in history.stderr if "ebpf-supervisor" in line]
        assert len(told) == 1
        assert "needs root" in told[0]
        assert "Traceback" not in "\n".join(history.stderr)


# ---- the test's own eyes


def test_hang_up_and_refusal_by_the_agent_would_be_seen(tmp_path: Path) -> None:
    """What the tests above find absent, made to happen by plugins that are wrong on purpose."""
    collection = "CHART t.t '' t t\\nDIMENSION d\\nBEGIN t.t\\nSET d = 1\\nEND\\n"
    with agent(plugin=_script(tmp_path / "odd", f"printf '{collection}FOOBAR\\n'; exec sleep 60")) as netdata:
        wait_for("a hang-up", lambda: netdata.history().hung_up)
        history = netdata.history()
        assert history.collections[history.hung_up[0]] == 1
        assert not history.disabled
    with agent(plugin=_script(tmp_path / "failing", "echo oops >&2; exit 3")) as netdata:
        wait_for("a refusal", lambda: netdata.history().disabled)
        history = netdata.history()
        assert history.exits == {history.starts[0]: 3}
        assert not history.hung_up
        assert not history.called_disable
        assert history.errors
        assert "oops" in history.stderr


def _script(path: Path, commands: str) -> Path:
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
    return path
