"""The known answers again, in a guest whose kernel has kprobes and trampolines: every plan, both modes."""

import os
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.guest import machine

KERNEL = os.environ.get("EBPF_TEST_KERNEL", "6.1")
# Under emulation BCC takes seconds where the host takes tenths.
SLOW = "6"
TIMEOUT_S = 900.0
# What depends on plans and on the kernel; slots are the same whatever the plan, and the host shows them.
TESTS = (
    "tests/kernel/test_known_answers.py",
    "tests/kernel/test_time_and_latency.py",
    "tests/kernel/test_caches.py",
)


@pytest.mark.guest
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_every_plan_of_a_kernel_with_kprobes_and_trampolines_counts_exactly(tmp_path: Path) -> None:
    reason = machine.available(KERNEL)
    if reason:
        pytest.skip(reason)
    report = tmp_path / "report.xml"
    result = machine.run(
        KERNEL,
        [
            sys.executable,
            "-m",
            "pytest",
            *TESTS,
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ],
        shared=tmp_path,
        timeout_s=TIMEOUT_S,
        env={"EBPF_TEST_ATTACH": "fentry,kprobe,tracepoint", "EBPF_TEST_SLOW": SLOW},
    )
    told = result.stdout.read_text(errors="replace")[-20000:]
    print(told)
    assert result.exit_code == 0, told
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    assert int(suite.get("skipped", "0")) == 0, told
    assert int(suite.get("tests", "0")) >= 30
