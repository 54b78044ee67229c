"""softirq and disk: time by vector, and a histogram of requests for each disk."""

import mmap
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Run, supervisor
from tests.kernel.conftest import in_interrupts
from tests.kernel.counting import Growth
from tests.kernel.coverage import covered
from workers.declaration import LABELS

pytestmark = pytest.mark.kernel

BLOCK = 4096


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with supervisor("--only", "softirq,disk", "--attach", "tracepoint") as running:
        yield running


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A loop device of 16 MiB of its own: nobody else reads it."""
    image = tmp_path_factory.mktemp("disk") / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["modprobe", "--quiet", "loop"], check=False)  # built in where there is no such module
    made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    # udev looks what is on a new device, where there is one.
    subprocess.run(["udevadm", "settle", "--timeout=30"], capture_output=True, check=False)
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def read_directly(device: Path, count: int, blocks: int) -> None:
    """So many reads of 4 KiB past the page cache, each a request of its own."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, BLOCK)
    for number in range(count):
        os.preadv(fd, [buffer], number % blocks * BLOCK)
    os.close(fd)


def requests(run: Run, device: Path) -> int:
    chart = run.charts().get(f"disk_latency_io.{device.name}")
    return sum(values[-1] for values in chart.values.values()) if chart else 0


def test_first_value_of_a_new_disk_is_0_so_that_the_agent_loses_nothing(run: Run, disk: Path) -> None:
    """An agent takes a dimension's first value as its base."""
    run.wait_frames(2)
    read_directly(disk, 101, 4096)
    run.wait_frames(3)
    chart = run.charts()[f"disk_latency_io.{disk.name}"]
    assert {values[0] for values in chart.values.values()} == {0}
    assert len(chart.dimensions) == 24
    assert requests(run, disk) >= 101


@in_interrupts
def test_every_request_of_a_disk_is_in_its_histogram_once(run: Run, disk: Path) -> None:
    read_directly(disk, 101, 4096)  # the disk's chart begins
    run.wait_frames(3)
    before = requests(run, disk)
    read_directly(disk, 4001, 4096)
    run.wait_frames(3)
    assert requests(run, disk) - before == 4001
    covered(run, "disk", *(f"latency {label}" for label in LABELS))


@in_interrupts
def test_equal_requests_under_way_at_once_are_all_counted(run: Run, disk: Path) -> None:
    """Two readers of the same sector have requests that no tracepoint tells apart."""
    read_directly(disk, 11, 1)
    run.wait_frames(3)
    before = requests(run, disk)
    readers = [threading.Thread(target=read_directly, args=(disk, 1009, 1)) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    run.wait_frames(3)
    assert requests(run, disk) - before == 2018


CHART = "system.softirq_latency"
JUDGE = (
    "/proc/softirqs is the judge: no time where it counts no interrupt, some for the 1,000 and more packets "
    "that the test receives, and all together no more than the processors' time"
)
VECTORS = ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"]


def test_softirq_time_grows_where_the_load_is_and_never_beyond_what_processors_had(run: Run) -> None:
    assert list(run.charts()["system.softirq_latency"].dimensions) == VECTORS
    pairs = [("system.softirq_latency", vector) for vector in VECTORS]
    began_s = time.monotonic()
    with Growth(run, *pairs) as growth:
        interrupts = interrupts_by_vector()
        send_to_myself(50_000)
        run.wait_frames(2)
        # Packets over loopback are received in a softirq each, of a microsecond and more.
        made = {name: count - interrupts[name] for name, count in interrupts_by_vector().items()}
        assert made["NET_RX"] > 1000
        assert growth.by("system.softirq_latency", "NET_RX") >= 1
        processors_ms = (time.monotonic() - began_s) * 1000 * (os.cpu_count() or 1)
        assert sum(growth.by(*pair) for pair in pairs) <= processors_ms
        # What was counted first is the older: a vector without an interrupt has no time either.
        assert not [name for name, count in made.items() if not count and growth.by(CHART, name)]
    covered(run, "softirq", *VECTORS, how=JUDGE)


def send_to_myself(count: int) -> None:
    """Datagrams over loopback that nobody reads."""
    with socket.socket(type=socket.SOCK_DGRAM) as receiver, socket.socket(type=socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        for _ in range(count):
            sender.send(b"x")


def interrupts_by_vector() -> dict[str, int]:
    """Softirqs of all processors (proc_softirqs(5))."""
    lines = Path("/proc/softirqs").read_text().splitlines()[1:]
    counts = (line.split(":") for line in lines)
    return {name.strip(): sum(map(int, numbers.split())) for name, numbers in counts}
