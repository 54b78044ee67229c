"""mdflush: flushes of real arrays, each counted once, at the array that was asked for it."""

import contextlib
import itertools
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import PLANS
from tests.kernel.counting import Growth
from tests.kernel.coverage import covered, wait_unavailable
from tests.storage import load_modules, loop_device, mirror, start_mirror, stop_array

# Setting up takes minutes in an emulated guest.
pytestmark = [pytest.mark.kernel, pytest.mark.timeout(900)]

CHART = "mdstat.mdstat_flush"
MEMBER_MB = 8
VERSION = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
# Debian has md as a module, whose types are described since 5.11.
SEEING = [plan for plan in PLANS if plan != "fentry" or VERSION >= (5, 11)]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    if not load_modules("md_mod", "raid1"):
        pytest.skip("this kernel has no md")
    folder = tmp_path_factory.mktemp("members")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(loop_device(folder / str(n), MEMBER_MB)) for n in range(4)]


@pytest.fixture(scope="module")
def array(members: list[Path]) -> Iterator[Path]:
    with mirror(7, *members[:2]) as device:
        yield device


@pytest.fixture(scope="module", params=SEEING)
def run(request: pytest.FixtureRequest, array: Path) -> Iterator[Run]:
    with supervisor("--only", "mdflush", "--attach", request.param) as running:
        yield running


def dimensions(run: Run) -> dict[str, list[str]]:
    chart = run.charts().get(CHART)
    return chart.dimensions if chart else {}


def flush(device: Path, count: int) -> None:
    fd = os.open(device, os.O_RDWR)
    for _ in range(count):
        os.fsync(fd)
    os.close(fd)


def test_every_flush_of_an_array_is_counted_once(run: Run, array: Path) -> None:
    with Growth(run, (CHART, "md7")) as growth:
        flush(array, 1009)
        assert growth.settle({(CHART, "md7"): 1009}) == {(CHART, "md7"): 1009}
    covered(run, "mdflush", "flushes")


def test_writes_and_reads_without_a_flush_are_not_counted(run: Run, array: Path) -> None:
    with Growth(run, (CHART, "md7")) as growth:
        fd = os.open(array, os.O_RDWR)
        for number in range(101):
            os.pwrite(fd, bytes(4096), number * 4096)
        os.fsync(fd)
        os.close(fd)
        assert growth.settle({(CHART, "md7"): 1}) == {(CHART, "md7"): 1}


def test_an_array_comes_goes_and_comes_back_while_another_goes_on(
    run: Run, array: Path, members: list[Path]
) -> None:
    def shown() -> bool:
        return "obsolete" not in dimensions(run).get("md8", ["obsolete"])

    def hidden() -> bool:
        return "obsolete" in dimensions(run)["md8"]

    for _ in range(2):
        with mirror(8, *members[2:]) as second:
            wait_for("md8", shown, 30)
            with Growth(run, (CHART, "md7"), (CHART, "md8")) as growth:
                flush(second, 53)
                flush(array, 101)
                counted = {(CHART, "md7"): 101, (CHART, "md8"): 53}
                assert growth.settle(counted) == counted
        wait_for("no md8", hidden, 30)


def test_the_program_waits_for_mds_driver_and_starts_with_it(members: list[Path]) -> None:
    """Where md is a module nothing is attached before it is there."""
    with supervisor("--only", "mdflush", wait=False) as run:
        start_mirror(9, *members[2:])
        try:
            wait_for("md9", lambda: "md9" in dimensions(run), 60)
        finally:
            stop_array(Path("/dev/md9"))


def test_where_mds_function_cannot_be_seen_the_program_says_so(array: Path) -> None:
    for plan, mode in itertools.product(set(PLANS).difference(SEEING), ("entry", "return")):
        with supervisor("--only", "mdflush", "--attach", plan, "--load-mode", mode, wait=False) as run:
            wait_unavailable(run, "mdflush")
