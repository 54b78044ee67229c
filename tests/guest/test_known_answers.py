"""The known answers again, in guests whose kernels have kprobes and trampolines: every plan, both modes.

EBPF_TEST_KERNELS names the guests (default 6.1); EBPF_TEST_COVERAGE a folder for what they have shown.
"""

import os
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.guest import machine
from tests.harness import ROOT

KERNELS: Final = os.environ.get("EBPF_TEST_KERNELS", "6.1").split(",")
# The host shows what tracepoints count; where all kernels are looked at, guests show it too.
PLANS: Final = os.environ.get("EBPF_TEST_GUEST_PLANS", "fentry,kprobe")
COVERAGE: Final = os.environ.get("EBPF_TEST_COVERAGE", "")
# Under emulation BCC takes seconds where the host takes tenths.
SLOW: Final = "6"
TIMEOUT_S: Final = 3000.0
# What each kernel shows: the numbers of every program.
NUMBERS: Final = (
    "test_known_answers.py",
    "test_time_and_latency.py",
    "test_hardirq.py",
    "test_vfs.py",
    "test_caches.py",
    "test_socket.py",
    "test_filesystem.py",
    "test_mdflush.py",
)
# What one kernel shows for all: maps that are read by look-ups where they could not be mapped, probes that
# are silent or miss hits, and who is counted.
MECHANISMS: Final[Mapping[str, tuple[str, ...]]] = {
    "5.10": ("test_map_reading.py",),
    "6.1": ("test_system_calls.py", "test_cgroup_of_process.py", "test_collect_pid.py"),
    "6.12": ("test_probes.py",),
}
# Two guests at a time: each has two virtual processors, of which one is mostly idle.
AT_ONCE: Final = max(1, (os.cpu_count() or 2))
# What these guests cannot have, and the host or another guest can.
NOT_THERE: Final = re.compile(
    r"clone3 puts processes into cgroups of version 2 only|processes are in .* goes before"
    r"|needs root and a cgroup file system|this kernel cannot|no cgroup file system"
)


@dataclass(frozen=True)
class Outcome:
    """How the tests in one guest ended. unavailable: why there is no guest."""

    exit_code: int | None = None
    told: str = ""
    report: Path | None = None
    unavailable: str = ""


def answer(kernel: str, folder: Path) -> Outcome:
    """Boots a guest and runs the known answers in it."""
    reason = machine.available(kernel)
    if reason:
        return Outcome(unavailable=reason)
    report = folder / "report.xml"
    tests = [ROOT / "tests/kernel" / name for name in (*NUMBERS, *MECHANISMS.get(kernel, ()))]
    words = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    result = machine.run(
        kernel,
        [sys.executable, "-m", "pytest", *map(str, tests), *words],
        shared=folder,
        timeout_s=TIMEOUT_S,
        env={
            "EBPF_TEST_ATTACH": PLANS,
            "EBPF_TEST_SLOW": SLOW,
            **({"EBPF_TEST_COVERAGE": str(folder)} if COVERAGE else {}),
        },
    )
    if COVERAGE:
        for notes in folder.glob("*.jsonl"):
            shutil.copy(notes, COVERAGE)
    told = result.stdout.read_text(errors="replace")[-20000:] if result.stdout.exists() else result.console
    return Outcome(result.exit_code, told, report)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Outcome]]]:
    """All guests at work, as many at once as the machine has processors."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            kernel: pool.submit(answer, kernel, tmp_path_factory.mktemp(f"guest{kernel}"))
            for kernel in KERNELS
        }


@pytest.mark.guest
@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_plan_of_a_kernel_counts_exactly(
    outcomes: Mapping[str, "Future[Outcome]"], kernel: str
) -> None:
    outcome = outcomes[kernel].result()
    if outcome.unavailable:
        pytest.skip(outcome.unavailable)
    print(outcome.told)
    assert outcome.exit_code == 0, outcome.told
    assert outcome.report
    suite = ElementTree.parse(outcome.report).getroot().find("testsuite")
    assert suite is not None
    reasons = [skipped.get("message", "") for skipped in suite.iter("skipped")]
    assert not [reason for reason in reasons if not NOT_THERE.search(reason)], outcome.told
    assert int(suite.get("tests", "0")) >= 60
