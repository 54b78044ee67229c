"""Plans that are attached and never fire, and hits that are missed, on a kernel with kprobes and trampolines
whose close(2) has left close_fd, and which tells of missed hits."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.guest import machine

KERNEL = "6.12"
SLOW = "6"
TIMEOUT_S = 600.0


@pytest.mark.guest
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_silent_plans_are_found_out_and_missed_hits_are_told(tmp_path: Path) -> None:
    reason = machine.available(KERNEL)
    if reason:
        pytest.skip(reason)
    report = tmp_path / "report.xml"
    words = ["-m", "pytest", "tests/kernel/test_probes.py", "-q", "-p", "no:cacheprovider"]
    result = machine.run(
        KERNEL,
        [sys.executable, *words, f"--junitxml={report}"],
        shared=tmp_path,
        timeout_s=TIMEOUT_S,
        env={"EBPF_TEST_SLOW": SLOW},
    )
    told = result.stdout.read_text(errors="replace")[-20000:]
    print(told)
    assert result.exit_code == 0, told
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    assert int(suite.get("skipped", "0")) == 0, told
