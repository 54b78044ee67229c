"""All programs, 100 app groups and 50 containers at once, before a real Netdata agent, in both namings."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.aggregator.cgroup_names import Kind, chart_type
from supervisor.config.options import PROGRAMS
from supervisor.kernel import cgroup_hierarchy
from tests.agent.agent import NETDATA, Agent, agent
from tests.agent.test_agent import SETTLED_POINTS, assert_content
from tests.harness import CTL, wait_for
from tests.kernel.test_cgroup_of_process import enter
from tests.kernel.test_scopes import Places
from tests.workload import Workload

pytestmark = [
    pytest.mark.agent,
    pytest.mark.kernel,
    pytest.mark.skipif(not NETDATA.exists(), reason=f"{NETDATA} is not there (Debian: netdata-core)"),
]

GROUPS: Final = 100
CONTAINERS: Final = 50
# An agent makes room for an hour of each of thousands of charts.
MANY_CHARTS_S: Final = 90.0


@dataclass(frozen=True)
class Naming:
    """What charts are called. group: the chart of opens, {0} is the group; dimension: the group's in it."""

    setting: str
    group: str
    dimension: str

    def of_group(self, name: str) -> tuple[str, str]:
        return self.group.format(name), self.dimension.format(name)


NAMINGS: Final = (
    Naming("auto", "apps.file_open", "{0}"),
    Naming("modern", "app.{0}_ebpf_file_open", "calls"),
)


def word(number: int) -> str:
    """Name of a process, and of its group: nobody else's, in 15 letters."""
    return f"g{number}x{os.getpid()}"


def container(number: int) -> str:
    return f"/docker/{os.getpid():032x}{number:032x}"


def chart_of(number: int) -> str:
    return f"{chart_type(container(number), Kind.CONTAINER, distinct=False)}.file_open"


@contextlib.contextmanager
def process(folder: Path, name: str) -> Iterator[int]:
    """One that does nothing under this name; its id."""
    program = folder / name
    if not program.exists():
        program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "100000"]) as sleeper:
        try:
            yield sleeper.pid
        finally:
            sleeper.kill()


@contextlib.contextmanager
def lived_in(places: Places, folder: Path, number: int) -> Iterator[None]:
    """A container with a process in it."""
    with places.made(container(number)) as cgroup, process(folder, word(number)) as pid:
        enter(cgroup, pid)
        yield


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Places, Path]]:
    """A process of each group; of the first ones each in a container."""
    folder = tmp_path_factory.mktemp("crowd")
    hierarchy = cgroup_hierarchy.find()
    if hierarchy is None or hierarchy.root != "/":
        pytest.skip(f"no hierarchy of cgroups whose root is mounted: {hierarchy}")
    places = Places(hierarchy.mount_point)
    with contextlib.ExitStack() as stack:
        for number in range(GROUPS):
            stack.enter_context(
                lived_in(places, folder, number) if number < CONTAINERS else process(folder, word(number))
            )
        if (now := cgroup_hierarchy.find()) != hierarchy:
            pytest.skip(f"processes were in {hierarchy}, and now they are in {now}")
        yield places, folder


@pytest.mark.parametrize("naming", NAMINGS, ids=lambda naming: naming.setting)
def test_agent_takes_all_programs_with_100_groups_and_50_containers_and_has_nothing_to_say(
    crowd: tuple[Places, Path], naming: Naming
) -> None:
    places, folder = crowd
    groups = "".join(f"{word(number)}: {word(number)}\n" for number in range(GROUPS))
    files = {"ebpf.d.conf": all_programs(naming.setting)}
    with agent("--only", ",".join(PROGRAMS), groups=groups, files=files) as netdata:
        wait_for("the last group's chart", lambda: shows(netdata, *naming.of_group(word(99))), MANY_CHARTS_S)
        wait_for("the last container's chart", lambda: shows(netdata, chart_of(49)), MANY_CHARTS_S)
        shown = netdata.charts()
        for number in range(GROUPS):
            chart, dimension = naming.of_group(word(number))
            assert dimension in shown[chart]["dimensions"]
        assert {chart_of(number) for number in range(CONTAINERS)} <= shown.keys()

        # Another aggregator says all of it at once, in modern naming more than the pipe holds.
        assert ctl(netdata, "restart", "aggregator").returncode == 0
        settle(netdata, chart_of(49), naming.of_group(word(99))[0])

        counted = {chart_of(7): "open", naming.of_group(word(7))[0]: naming.of_group(word(7))[1]}
        with Workload(word(7)) as work:
            enter(places.root / container(7).lstrip("/"), work.pid)
            settle(netdata, *counted)
            before = {chart: total(netdata, chart, dimension) for chart, dimension in counted.items()}
            work.do("open", 1009)
            settle(netdata, *counted)
            grown = {c: round(total(netdata, c, d) - before[c]) for c, d in counted.items()}
            assert grown == dict.fromkeys(counted, 1009)

        with lived_in(places, folder, CONTAINERS):
            wait_for("a new container's chart", lambda: shows(netdata, chart_of(CONTAINERS)), MANY_CHARTS_S)
        gone = chart_of(CONTAINERS)
        wait_for("it to be shown no more", lambda: gone not in netdata.charts(), MANY_CHARTS_S)
        with lived_in(places, folder, CONTAINERS):
            wait_for("it to be shown again", lambda: gone in netdata.charts(), MANY_CHARTS_S)
        assert_content(netdata)


def all_programs(naming: str) -> str:
    return f"[supervisor]\n    chart naming = {naming}\n"


def ctl(netdata: Agent, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(CTL), "--runtime-dir", str(netdata.runtime_dir), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def about(netdata: Agent, chart: str) -> dict[str, Any]:
    """One chart's definition, empty when there is none: the list of all has thousands here."""
    try:
        found: dict[str, Any] = netdata.api("chart", chart=chart)
    except OSError:
        return {}
    return found


def shows(netdata: Agent, chart: str, dimension: str = "") -> bool:
    """Whether the chart has a value, and that dimension."""
    found = about(netdata, chart)
    return bool(found and found["last_entry"]) and (not dimension or dimension in found["dimensions"])


def settle(netdata: Agent, *charts: str) -> None:
    """Until all that has happened is shown."""
    due = {chart: about(netdata, chart)["last_entry"] + SETTLED_POINTS for chart in charts}
    wait_for("points", lambda: all(about(netdata, c)["last_entry"] >= due[c] for c in charts), MANY_CHARTS_S)


def total(netdata: Agent, chart: str, dimension: str) -> float:
    """Events that the rates of all points amount to."""
    found = about(netdata, chart)
    span = {"after": found["first_entry"] - 1, "before": found["last_entry"]}
    points = span["before"] - span["after"]
    answer = netdata.api("data", chart=chart, format="json", points=points, **span)
    place = answer["labels"].index(dimension)
    return float(sum(row[place] or 0.0 for row in answer["data"]))
