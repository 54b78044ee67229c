"""What guests answer: the known answers again, on kernels that have kprobes and trampolines, in both modes.

EBPF_TEST_KERNELS names the guests (default 6.1); EBPF_TEST_COVERAGE a folder for what they have shown.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.guest import machine
from tests.harness import ROOT

KERNELS: Final = os.environ.get("EBPF_TEST_KERNELS", "6.1").split(",")
# The host shows what tracepoints count; where all kernels are looked at, guests show it too, and kprobes.
PLANS: Final = os.environ.get("EBPF_TEST_GUEST_PLANS", "fentry")
COVERAGE: Final = os.environ.get("EBPF_TEST_COVERAGE", "")
# Under emulation BCC takes seconds where the host takes tenths.
SLOW: Final = "12"
# By all plans, and beside another guest, one takes more than an hour.
TIMEOUT_S: Final = 7200.0 if COVERAGE else 3000.0
# No test takes so long, even beside another guest: the kernel stands still.
SILENT_S: Final = 1200.0
CHURN_S: Final = "60"
# 97 clients with 3,001 connections, and three supervisors.
MEMORY_MB: Final = 3072
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
# are silent or miss hits, and who is counted. Looked at with all kernels (`make test-kernels`).
MECHANISMS: Final[Mapping[str, tuple[str, ...]]] = {
    "5.10": ("test_map_reading.py", "test_missed_ends.py", "test_churn.py"),
    "6.1": (
        "test_system_calls.py",
        "test_cgroup_of_process.py",
        "test_collect_pid.py",
        "test_kprobe_lines.py",
    ),
    "6.12": ("test_probes.py",),
    "7.2": (
        "test_missed_ends.py",
        "test_connections.py",
        "test_connection_rows.py",
        "test_short_cgroups.py",
        "test_churn.py",
    ),
}
# Debian's 7.x preempts what runs in the kernel, programs of trampolines too: another task's event on that CPU
# is missed then. One of some thousand in a guest, where a program takes so much longer.
RERUNS: Final[Mapping[str, int]] = {"7.2": 2}
# Two guests at a time: each has two virtual processors, of which one is mostly idle.
AT_ONCE: Final = max(1, (os.cpu_count() or 2))


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
    further = MECHANISMS.get(kernel, ()) if COVERAGE else ()
    tests = [ROOT / "tests/kernel" / name for name in (*NUMBERS, *further)]
    words = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--reruns={RERUNS.get(kernel, 0)}"]
    result = machine.run(
        kernel,
        [sys.executable, "-m", "pytest", *map(str, tests), *words],
        shared=folder,
        timeout_s=TIMEOUT_S,
        silent_s=SILENT_S,
        memory_mb=MEMORY_MB,
        env={
            "EBPF_TEST_ATTACH": PLANS,
            "EBPF_TEST_SLOW": SLOW,
            "EBPF_TEST_CHURN_S": CHURN_S,
            **({"EBPF_TEST_COVERAGE": str(folder)} if COVERAGE else {}),
        },
    )
    if COVERAGE:
        for notes in folder.glob("*.jsonl"):
            shutil.copy(notes, COVERAGE)
    told = result.stdout.read_text(errors="replace")[-20000:] if result.stdout.exists() else ""
    if result.exit_code is None:
        told += f"\n--- the guest did not finish; its console:\n{result.console[-10000:]}"
    return Outcome(result.exit_code, told, report)
