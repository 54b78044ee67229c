"""Runs a benchmark's own module in a guest that counts instructions, and takes its answer: a line of JSON."""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests import storage
from tests.benchmarks.figures import MeasurementFailed
from tests.guest import kernels, machine

KERNEL: Final = "6.1"

# How the mode is described in the document; 2 ns are what machine.ICOUNT says.
MODE: Final = "one guest instruction is 2 ns of guest time"


def ask(
    module: str,
    *words: str,
    timeout_s: float,
    memory_mb: int = 2048,
    icount: bool = True,
    possible_cpus: int = 0,
) -> Any:
    """What `python -m MODULE WORDS` prints in the guest, decoded."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = machine.run(
            KERNEL,
            [sys.executable, "-m", module, *words],
            shared=Path(folder),
            timeout_s=timeout_s,
            memory_mb=memory_mb,
            icount=icount,
            possible_cpus=possible_cpus,
            env={"EBPF_TEST_SLOW": "20"},
        )
        if result.exit_code != 0:
            errors = result.stderr.read_text() if result.stderr.exists() else ""
            raise MeasurementFailed(
                f"guest: exit code {result.exit_code}: {errors[-2000:]}{result.console[-1000:]}"
            )
        return json.loads(result.stdout.read_text())


def answer(value: Any) -> None:
    """The guest's side of `ask`."""
    print(json.dumps(value))


@contextlib.contextmanager
def everything_to_watch() -> Iterator[None]:
    """An ext4 file system and an md array, for the programs that run when there is one."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        here = Path(folder)
        disk, *members = (
            stack.enter_context(storage.loop_device(here / f"image{n}", storage.SIZES_MB["ext4"]))
            for n in range(3)
        )
        storage.make_file_system("ext4", disk)
        stack.enter_context(storage.mounted("ext4", disk, here / "mounted"))
        stack.enter_context(storage.mirror(7, *members))
        yield


def label() -> str:
    return f"guest {kernels.ensure(KERNEL).version}"


def words() -> Sequence[str]:
    return sys.argv[1:]
