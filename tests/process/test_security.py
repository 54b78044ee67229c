"""What docs/security.md claims of strangers: users of this machine that are neither root nor of the workers'
account."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import zmq

from supervisor.pipeline.sample import Sample, pack
from tests.harness import Run, supervisor, wait_for
from tests.process.test_faults import Counted
from tests.workload import Workload

pytestmark = pytest.mark.kernel

GROUP: Final = f"kat{os.getpid()}"
GROUPS: Final = f"{GROUP}: {GROUP}\n"
# Of no user that there is: what may be done by everybody, it may do.
STRANGER: Final = 54321


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with supervisor("--only", "fd,process,softirq", groups=GROUPS) as run:
        # Everybody may go as far as the runtime directory, as in /run.
        run.directory.parent.chmod(0o755)
        for name in ("fd", "process", "softirq", "aggregator"):
            run.pid_of(name)
        yield run


def as_stranger(act: Callable[[], object]) -> str:
    """What `act` is refused with, "" when it is not, told by a process of a stranger's."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            try:
                act()
            except OSError as error:
                os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with open(reading, "rb") as told:
        return told.read().decode()


def connect_to(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_stranger_cannot_feed_the_aggregator(run: Run) -> None:
    samples = run.directory / "samples"
    assert as_stranger(lambda: connect_to(samples / "samples.sock")) == "PermissionError"
    assert as_stranger(lambda: (samples / "other").touch()) == "PermissionError"
    assert as_stranger(lambda: (samples / "samples.sock").unlink()) == "PermissionError"
    assert as_stranger(lambda: (run.directory / "control.sock").unlink()) == "PermissionError"
    assert as_stranger(lambda: samples.rename(run.directory / "away")) == "PermissionError"


@pytest.mark.parametrize("role", ["supervisor", "fd", "aggregator"])
def test_a_stranger_cannot_read_what_is_not_his(run: Run, role: str) -> None:
    pid = run.process.pid if role == "supervisor" else run.pid_of(role)
    for name in ("fd", "mem", "maps", "environ", "stack", "syscall"):
        path = Path(f"/proc/{pid}") / name
        refused = as_stranger(lambda path=path: list_or_read(path))  # type: ignore[misc]
        assert refused == "PermissionError", name
    assert as_stranger(lambda: os.listdir(run.directory / "samples")) == "PermissionError"
    assert as_stranger(lambda: connect_to(run.directory / "control.sock")) == "PermissionError"


def list_or_read(path: Path) -> None:
    if path.is_dir():
        os.listdir(path)
    else:
        path.read_bytes()


def forged(sequence: int) -> Sample:
    """An announcement of rows that nobody has written."""
    return Sample("fd", 1, sequence, 1 << 40, 1, 1 << 20, (0, 1), {}, {}, 0)


def test_a_forged_sample_changes_no_count(run: Run) -> None:
    """As root, who may connect; so may who has the workers' account. Each costs a sample at most, and the
    next sound one has all that it had."""
    with Workload(GROUP) as work:
        run.wait_frames(3)
        before, dropped = Counted(run), run.program("fd")["dropped"]
        context = zmq.Context()
        with context.socket(zmq.PUSH) as sender:
            sender.set(zmq.LINGER, 1000)
            sender.connect(f"ipc://{run.directory}/samples/samples.sock")
            for number in range(5):
                sender.send(pack(forged((1 << 62) + number)))
                work.do("open", 1009)
                run.wait_frames(1)
        context.term()
        wait_for("the losses to show", lambda: run.program("fd")["dropped"] > dropped)
        before.exactly(5 * 1009)
    assert "Traceback" not in run.stderr()
