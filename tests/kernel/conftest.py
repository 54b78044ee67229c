"""The plans to test: what this machine offers, or what EBPF_TEST_ATTACH names (a guest says it so)."""

import os
from collections.abc import Iterator
from typing import Final

import pytest

from supervisor.kernel import btf
from tests.harness import Run, supervisor

# Names of this run alone: another run's processes of the same name would be counted with ours.
KAT = f"kat{os.getpid()}"
CHURN = f"churn{os.getpid()}"
GROUPS = f"kat: {KAT}\nchurn: {CHURN}*\n"
PLANS = os.environ.get("EBPF_TEST_ATTACH", "auto").split(",")

# For tests of events that come in interrupts. Kernels of some sandboxes (they have bpf_prog_aux.init_owned)
# keep what process 1 does from programs: at a tracepoint in an interrupt that finds one of its threads, none
# runs and none counts as missed, while ftrace sees the event. Such a test loses some now and then. So it may
# on 7.x, as every test (tests/guest/outcomes.py, RERUNS), which a mark of its own must not hide.
_HIDES_PROCESS_1: Final = btf.number_of("bpf_prog_aux", "init_owned") is not None
_PREEMPTS_PROGRAMS: Final = int(os.uname().release.partition(".")[0]) >= 7
in_interrupts: Final = pytest.mark.flaky(reruns=3, condition=_HIDES_PROCESS_1 or _PREEMPTS_PROGRAMS)


@pytest.fixture(scope="module", params=PLANS)
def counting(request: pytest.FixtureRequest) -> Iterator[Run]:
    """process and fd in entry mode, by each kind of plan."""
    with supervisor("--only", "process,fd", "--attach", request.param, groups=GROUPS) as run:
        yield run


@pytest.fixture(scope="module", params=PLANS)
def returning(request: pytest.FixtureRequest) -> Iterator[Run]:
    """The same in return mode."""
    options = ("--only", "process,fd", "--attach", request.param, "--load-mode", "return")
    with supervisor(*options, groups=GROUPS) as run:
        yield run
