"""One counter, all scopes: host, app group, container and service, under both namings; what goes is obsolete,
and what comes back goes on."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.aggregator.cgroup_names import Kind, chart_type
from supervisor.kernel import cgroup_hierarchy
from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import GROUPS, KAT
from tests.kernel.counting import Growth
from tests.kernel.test_cgroup_of_process import enter, mounted, remove
from tests.workload import Workload

pytestmark = pytest.mark.kernel

CONTAINER = "/docker/" + f"{os.getpid():064x}"
SERVICE = f"/system.slice/kat{os.getpid()}.service"
# Longer than a cgroup that has gone is remembered, and a frame.
GONE_S = 15.0


@dataclass(frozen=True)
class Places:
    """Where cgroups are mounted, and what charts of the two are called."""

    root: Path
    container: str = chart_type(CONTAINER, Kind.CONTAINER, distinct=False)
    service: str = chart_type(SERVICE, Kind.SERVICE, distinct=False)

    @contextlib.contextmanager
    def made(self, path: str) -> Iterator[Path]:
        """The cgroup, with the folder above it if that is not there."""
        folder = self.root / path.lstrip("/")
        fresh = [one for one in (folder.parent, folder) if not one.exists()]
        for one in fresh:
            one.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (self.root / "cgroup.clone_children").exists() and (one / name).exists():
                    (one / name).write_text((self.root / name).read_text())
        try:
            yield folder
        finally:
            for one in reversed(fresh):
                remove(one)


in_both_versions = pytest.mark.parametrize("places", [2, 1], indirect=True, scope="module")
in_version_2 = pytest.mark.parametrize("places", [2], indirect=True, scope="module")


@pytest.fixture(scope="module")
def places(request: pytest.FixtureRequest) -> Iterator[Places]:
    # Not below pytest's own folder, which is root's alone: the aggregator would not see what has gone.
    scratch = Path(tempfile.mkdtemp(prefix="cgroup-"))
    try:
        point = mounted(request.param, scratch)
        found = Places(point)
        with found.made(SERVICE) as service, Workload(f"{KAT}p") as present:
            enter(service, present.pid)  # a hierarchy in which nobody is, is not followed
            followed = cgroup_hierarchy.find()
            if followed is None or followed.mount_point != point:
                pytest.skip(f"processes are in {followed}, which goes before {point}")
            yield found
    finally:
        if scratch.is_mount():
            subprocess.run(["umount", str(scratch)], check=True)
        scratch.rmdir()


@pytest.fixture(scope="module")
def classic(places: Places) -> Iterator[Run]:
    with supervisor("--only", "fd", groups=GROUPS) as run:
        yield run


@pytest.fixture(scope="module")
def modern(places: Places) -> Iterator[Run]:
    with supervisor("--only", "fd", groups=GROUPS, env={"NETDATA_VERSION": "v2.10.4"}) as run:
        yield run


@contextlib.contextmanager
def at_work(places: Places) -> Iterator[tuple[Workload, Workload]]:
    """A process in the container, of the group kat, and one in the service, of no group."""
    with (
        places.made(CONTAINER) as container,
        places.made(SERVICE) as service,
        Workload(KAT) as work,
        Workload(f"{KAT}s") as other,
    ):
        enter(container, work.pid)
        enter(service, other.pid)
        yield work, other


@in_both_versions
def test_one_process_is_counted_at_its_app_group_container_and_service(places: Places, classic: Run) -> None:
    at_container = (f"{places.container}.file_open", "do_sys_open")
    at_service = ("services.file_open", places.service)
    expected = {at_container: 1009, at_service: 503, ("apps.file_open", "kat"): 1009}
    with at_work(places) as (work, other):
        wait_for("the container's chart", lambda: at_container[0] in classic.charts())
        with Growth(classic, *expected) as growth:
            work.do("open", 1009)
            other.do("open", 503)
            assert growth.settle(expected) == expected


@in_version_2
def test_modern_charts_are_one_for_each_group_with_its_name_as_label(places: Places, modern: Run) -> None:
    group, container = "app.kat_ebpf_file_open", f"{places.container}.file_open"
    service = f"{places.service}.file_open"
    expected = {(group, "calls"): 211, (container, "do_sys_open"): 211, (service, "calls"): 103}
    with at_work(places) as (work, other):
        wait_for("the charts", lambda: {group, container, service} <= modern.charts().keys())
        with Growth(modern, *expected) as growth:
            work.do("open", 211)
            other.do("open", 103)
            assert growth.settle(expected) == expected
    charts = modern.charts()
    assert charts[group].labels == {"app_group": "kat"}
    assert charts[service].labels == {"service_name": SERVICE.split("/")[-1].removesuffix(".service")}
    assert "cgroup_name" in charts[container].labels
    assert "apps.file_open" not in charts
    assert charts[group].words[5] == "app.ebpf_file_open"


@in_version_2
def test_container_that_goes_is_obsolete_and_one_that_comes_back_is_shown_again(
    places: Places, classic: Run
) -> None:
    name = f"{places.container}.file_closed"

    def live_once(opens: int) -> None:
        with places.made(CONTAINER) as folder, Workload(KAT) as work:
            enter(folder, work.pid)
            wait_for("its chart", lambda: name in classic.charts() and not classic.charts()[name].obsolete)
            with Growth(classic, (name, "__close_fd")) as growth:
                work.do("open", opens)
                assert growth.settle({(name, "__close_fd"): opens}) == {(name, "__close_fd"): opens}

    live_once(101)
    wait_for("its chart to be obsolete", lambda: classic.charts()[name].obsolete, GONE_S)
    live_once(53)
    wait_for("its chart to be obsolete again", lambda: classic.charts()[name].obsolete, GONE_S)


@in_version_2
def test_service_that_is_restarted_goes_on_where_it_was(places: Places, classic: Run) -> None:
    """systemd makes a new folder for it, with another id."""
    path = f"/system.slice/again{os.getpid()}.service"
    name = ("services.file_open", chart_type(path, Kind.SERVICE, distinct=False))
    for opens in (101, 103, 107):
        before = classic.value(*name)
        with places.made(path) as folder, Workload(KAT) as work:
            enter(folder, work.pid)
            wait_for("its line", lambda: name[1] in classic.charts()[name[0]].values)
            with Growth(classic, name) as growth:
                work.do("open", opens)
                growth.settle({name: opens})
                assert growth.by(*name) == opens
            assert classic.value(*name) >= before + opens
    values = classic.charts()[name[0]].values[name[1]]
    assert values == sorted(values)


@in_version_2
def test_app_group_without_processes_is_obsolete_and_comes_back(places: Places, modern: Run) -> None:
    name = "app.churn_ebpf_file_open"
    for opens in (31, 37):
        with Workload(f"churn{os.getpid()}x") as work:
            wait_for("its chart", lambda: name in modern.charts() and not modern.charts()[name].obsolete)
            with Growth(modern, (name, "calls")) as growth:
                work.do("open", opens)
                assert growth.settle({(name, "calls"): opens}) == {(name, "calls"): opens}
        wait_for("its chart to be obsolete", lambda: modern.charts()[name].obsolete, 2 * GONE_S)
