"""disk: devices that go and come, under the same number or another one."""

import contextlib
import fcntl
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.storage import command, load_modules, loop_device, read_directly

pytestmark = pytest.mark.kernel

CONTROL: Final = Path("/dev/loop-control")
# loop(4)
LOOP_CTL_ADD: Final = 0x4C80
LOOP_CTL_REMOVE: Final = 0x4C81
# Of disk.bpf.c, but for the first, which is for devices without a row.
ROWS: Final = 255


@pytest.fixture
def run() -> Iterator[Run]:
    with supervisor("--only", "disk", "--attach", "tracepoint") as running:
        yield running


def chart_of(device: Path) -> str:
    return f"disk_latency_io.{device.name}"


def there(run: Run, device: Path) -> bool:
    chart = run.charts().get(chart_of(device))
    return chart is not None and not chart.obsolete


def requests(run: Run, device: Path) -> int:
    chart = run.charts().get(chart_of(device))
    return sum(values[-1] for values in chart.values.values()) if chart else 0


def test_chart_of_a_disk_that_goes_is_obsolete_and_comes_back_with_the_disk(run: Run, tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", 16) as device:
        read_directly(device, 101, 4096)
        wait_for("its chart", lambda: there(run, device))
        wait_for("its requests", lambda: requests(run, device) >= 101)
    wait_for("no chart", lambda: run.charts()[chart_of(device)].obsolete)
    before = requests(run, device)
    (tmp_path / "image").touch()
    with (tmp_path / "image").open("r+b") as file:
        file.truncate(16 << 20)
    command("losetup", device, tmp_path / "image")
    try:
        read_directly(device, 503, 4096)
        wait_for("its chart again", lambda: there(run, device))
        wait_for("its requests", lambda: requests(run, device) >= before + 503)
    finally:
        command("losetup", "--detach", device)
    run.wait_frames(2)
    assert not there(run, device)


@contextlib.contextmanager
def numbered_loop_device(number: int, image: Path) -> Iterator[Path]:
    """A loop device of a number of its own, which ends with the block."""
    with CONTROL.open("rb") as control:
        fcntl.ioctl(control, LOOP_CTL_ADD, number)
        try:
            device = Path(f"/dev/loop{number}")
            if not device.exists():
                os.mknod(device, 0o60600, os.makedev(7, number))
            command("losetup", device, image)
            try:
                yield device
            finally:
                command("losetup", "--detach", device)
        finally:
            wait_for("the device to be let go of", lambda: removed(control.fileno(), number))


def removed(control: int, number: int) -> bool:
    try:
        fcntl.ioctl(control, LOOP_CTL_REMOVE, number)
    except OSError:
        return False
    return True


@pytest.mark.timeout(600)
def test_disk_that_comes_when_all_rows_are_taken_has_the_row_of_one_that_has_gone(
    run: Run, tmp_path: Path
) -> None:
    """More devices than there are rows, one after the other; the last ones are counted exactly too."""
    load_modules("loop")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    first = 1000 + os.getpid() % 1000 * 1000  # numbers that nobody else uses
    for number in range(first, first + ROWS):
        with numbered_loop_device(number, image) as device:
            read_directly(device, 1, 1)
    run.wait_frames(3)
    for number in range(first + ROWS, first + ROWS + 3):
        with numbered_loop_device(number, image) as device:
            begins_at_0_and_counts_exactly(run, device)
        wait_for("no chart", functools.partial(lacks, run, device))


def lacks(run: Run, device: Path) -> bool:
    return not there(run, device)


def begins_at_0_and_counts_exactly(run: Run, device: Path) -> None:
    read_directly(device, 1, 1)
    wait_for("its chart", lambda: there(run, device))
    run.wait_frames(2)
    chart = run.charts()[chart_of(device)]
    assert {values[0] for values in chart.values.values()} == {0}
    before = requests(run, device)
    assert before < 101, "what another device had counted"
    read_directly(device, 1009, 256)
    wait_for("its requests", lambda: requests(run, device) >= before + 1009)
    run.wait_frames(2)
    assert requests(run, device) == before + 1009
