"""The known answers again, in guests whose kernels have kprobes and trampolines."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Final

import pytest

from tests.guest.outcomes import KERNELS, TIMEOUT_S, Outcome

# What these guests cannot have, and the host or another guest can.
NOT_THERE: Final = re.compile(
    r"clone3 puts processes into cgroups of version 2 only|processes are in .* goes before"
    r"|needs root and a cgroup file system|this kernel cannot|no cgroup file system"
)


@pytest.mark.guest
@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_plan_of_a_kernel_counts_exactly(guests: Mapping[str, "Future[Outcome]"], kernel: str) -> None:
    outcome = guests[kernel].result()
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
