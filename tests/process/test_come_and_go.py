"""Programs that are started and stopped while others run: their counts, their charts, their lifetime; and the
charts of the plugin itself."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from supervisor.aggregator.internal import CHARTS as INTERNAL_CHARTS
from supervisor.config.options import PROGRAMS
from tests.harness import Run, supervisor, wait_for
from tests.workload import Workload

pytestmark = pytest.mark.kernel

# Nobody else's: other tests may run on this machine at the same time.
OWN = f"own{os.getpid()}"
GROUPS = f"{OWN}: {OWN}\n"
FD_CHARTS = ("filesystem.file_descriptor", "apps.file_open", "apps.file_closed")
VFS_OPEN = ("apps.vfs_open", OWN)
FD_OPEN = ("apps.file_open", OWN)
# Internal charts come every ten seconds.
TWICE_S = 40.0
LIFETIME_S = 12


def listed(run: Run) -> dict[str, str]:
    return {program["name"]: program["state"] for program in run.status()["programs"]}


def grown(run: Run, value: tuple[str, str], act: Callable[[], None], by: int) -> int:
    """How much it has grown two frames after it has grown so much."""
    before = run.value(*value)
    act()
    return run.wait_value(*value, before + by) - before


def announced(run: Run, work: Workload) -> None:
    """The group is known to the agent: its first value, which is a base, has been sent."""
    work.do("open", 1)
    wait_for("the group", lambda: run.charts().get(FD_OPEN[0]) and OWN in run.charts()[FD_OPEN[0]].values)
    run.wait_frames(2)


# ---- a program that the configuration does not run


def test_started_program_counts_is_listed_and_is_stopped_after_its_lifetime() -> None:
    files = {"ebpf.d.conf": f"[global]\n    lifetime = {LIFETIME_S}\n"}
    with supervisor("--only", "fd", groups=GROUPS, files=files) as run, Workload(OWN) as work:
        announced(run, work)
        assert listed(run) == {"fd": "RUNNING"}
        assert run.ctl("start", "vfs").returncode == 0
        assert listed(run) == {"fd": "RUNNING", "vfs": "RUNNING"}
        assert grown(run, VFS_OPEN, lambda: work.do("open", 1009), 1009) == 1009
        wait_for("the end of its lifetime", lambda: listed(run) == {"fd": "RUNNING"}, 2 * LIFETIME_S)
        wait_for("its charts to go", lambda: obsolete(run, "vfs") == {True})
        assert run.program("fd")["state"] == "RUNNING"
        assert obsolete(run, "filedescriptor") == {False}
        assert run.ctl("status").returncode == 0


def obsolete(run: Run, module: str) -> set[bool]:
    """Whether the charts of a module are; True and False when it differs."""
    return {chart.obsolete for chart in run.charts().values() if chart.words[11] == module}


def test_program_that_is_started_again_lives_no_longer_than_its_first_start_gave_it() -> None:
    """A worker that is killed and comes back, and a second `start`, change nothing about its end."""
    files = {"ebpf.d.conf": f"[global]\n    lifetime = {LIFETIME_S}\n"}
    with supervisor("--only", "fd", files=files) as run:
        assert run.ctl("start", "softirq").returncode == 0
        os.kill(run.pid_of("softirq"), 9)
        wait_for("its new worker", lambda: run.program("softirq")["restarts"] == 1)
        run.ctl("start", "softirq")
        wait_for("the end of its lifetime", lambda: listed(run) == {"fd": "RUNNING"}, 2 * LIFETIME_S)
        assert run.stderr().count("softirq: STOPPED: ") == 1


def test_program_of_the_configuration_has_no_lifetime() -> None:
    files = {"ebpf.d.conf": "[global]\n    lifetime = 1\n"}
    with supervisor("--only", "fd,softirq", files=files) as run:
        assert run.ctl("restart", "softirq").returncode == 0
        run.wait_frames(5)
        assert listed(run) == {"fd": "RUNNING", "softirq": "RUNNING"}


# ---- charts of a program that is stopped


def test_charts_of_a_stopped_program_are_obsolete_and_go_on_where_they_were_when_it_is_started() -> None:
    with supervisor("--only", "fd,softirq", groups=GROUPS) as run, Workload(OWN) as work:
        announced(run, work)
        assert grown(run, FD_OPEN, lambda: work.do("open", 1009), 1009) == 1009
        before = run.value(*FD_OPEN)
        for _ in range(2):
            assert run.ctl("stop", "fd").returncode == 0
            wait_for("its charts to go", lambda: all(run.charts()[chart].obsolete for chart in FD_CHARTS))
            assert obsolete(run, "softirq") == {False}
            assert run.ctl("start", "fd").returncode == 0
            wait_for("its charts", lambda: not any(run.charts()[chart].obsolete for chart in FD_CHARTS))
            run.wait_frames(2)
            assert run.value(*FD_OPEN) == before
            assert grown(run, FD_OPEN, lambda: work.do("open", 503), 503) == 503
            before = run.value(*FD_OPEN)
        for chart in FD_CHARTS:
            for dimension, values in run.charts()[chart].values.items():
                assert values == sorted(values), f"{chart} {dimension} fell"


# ---- charts of the plugin itself


@pytest.fixture(scope="module")
def watched() -> Iterator[Run]:
    """One that has run for so long that charts of itself came twice."""
    with supervisor("--only", "fd,softirq,process") as run:
        wait_for("all programs RUNNING", lambda: set(listed(run).values()) == {"RUNNING"})
        wait_for("its own charts, again", lambda: own(run) and own(run)["ebpf_cpu"].collections >= 3, TWICE_S)
        yield run


def own(run: Run) -> dict[str, Any]:
    """The charts about the plugin, by id."""
    return {
        name.partition(".")[2]: chart
        for name, chart in run.charts().items()
        if name.startswith("netdata.ebpf_")
    }


def test_charts_about_the_plugin_are_all_there_every_ten_seconds(watched: Run) -> None:
    charts = own(watched)
    assert set(charts) == {chart.id for chart in INTERNAL_CHARTS}
    assert {chart.words[8] for chart in charts.values()} == {"10"}
    (collections,) = {chart.collections for chart in charts.values()}
    assert 10 * (collections - 1) <= watched.frames() + 10


def test_they_say_which_programs_run_and_how_they_are_loaded(watched: Run) -> None:
    charts = own(watched)
    running = {name: charts["ebpf_threads"].last(name) for name in PROGRAMS}
    assert running == {name: int(name in listed(watched)) for name in PROGRAMS}
    plans = [{hook["plan"] for hook in p["hooks"] if hook["attached"]} for p in watched.status()["programs"]]
    trampolines = sum(bool(plan & {"fentry", "fexit"}) for plan in plans)
    methods = {name: charts["ebpf_load_methods"].last(name) for name in ("legacy", "co-re")}
    assert methods == {"legacy": len(plans) - trampolines, "co-re": trampolines}
    assert set(charts["ebpf_life_time"].dimensions) == set(PROGRAMS)


def test_they_say_how_much_kernel_memory_is_held(watched: Run) -> None:
    told = own(watched)["ebpf_kernel_memory"].last("memory_locked")
    assert told == watched.status()["kernel_bytes"] > 0


def test_their_cpu_time_grows_and_is_that_of_all_processes(watched: Run) -> None:
    values = own(watched)["ebpf_cpu"].values["cpu"]
    assert values == sorted(values)
    assert values[-1] > values[0] > 0
    status = watched.status()
    now_s = sum(one["cpu_s"] for one in (status["supervisor"], status["aggregator"], *status["programs"]))
    # Loaders, which have ended, are in it too; what was used since its last value is not.
    assert values[-1] / 1000 > 0.3 * now_s


def test_they_say_how_full_the_table_of_processes_is(watched: Run) -> None:
    table = own(watched)["ebpf_process_table"]
    assert table.last("used") > 10
    assert table.last("used") + table.last("free") == 32768


def test_stopped_program_is_not_told_to_run(watched: Run) -> None:
    assert watched.ctl("stop", "softirq").returncode == 0
    wait_for("its 0", lambda: own(watched)["ebpf_threads"].last("softirq") == 0, TWICE_S)
    assert watched.ctl("start", "softirq").returncode == 0
    wait_for("its 1", lambda: own(watched)["ebpf_threads"].last("softirq") == 1, TWICE_S)


@pytest.mark.parametrize("word", ["NO", "no", "0", "false"])
def test_no_chart_about_the_plugin_where_netdata_wants_none(word: str) -> None:
    with supervisor("--only", "softirq", env={"NETDATA_INTERNALS_MONITORING": word}) as run:
        run.wait_frames(3)
        assert own(run) == {}


# ---- which charts


def test_global_charts_alone_are_those_of_the_host() -> None:
    with supervisor("--only", "fd", "--global", groups=GROUPS) as run, Workload(OWN) as work:
        before = run.value("filesystem.file_descriptor", "do_sys_open")
        work.do("open", 1009)
        run.wait_value("filesystem.file_descriptor", "do_sys_open", before + 1009)
        charts = [name for name in run.charts() if not name.startswith("netdata.")]
        assert charts == ["filesystem.file_descriptor"]
