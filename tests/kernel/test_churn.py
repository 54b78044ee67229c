"""Churn: whatever processes do to be overlooked, no event is lost, none is anybody else's, and nothing grows.

All programs run, by the plans that they take of themselves. EBPF_TEST_CHURN_S says for how long it goes on
(`make churn`: a minute).
"""

import contextlib
import os
import time
from typing import Final

import pytest

from tests.churners import OPENING, ORDERS, Churner
from tests.harness import Run, supervisor
from tests.kernel.conftest import in_interrupts
from tests.kernel.counting import Growth, missed
from tests.process.test_faults import resident_bytes

SECONDS: Final = float(os.environ.get("EBPF_TEST_CHURN_S", "6"))
TIMES, OPENS = 53, 3
MOST_GROWTH_BYTES: Final = 1 << 20
# The 15 bytes of a name have to be enough for a digit at its end.
NAME: Final = f"chu{os.getpid()}"
GROUPS: Final = f"churn: {NAME}*\n"
OPENED: Final = ("apps.file_open", "churn")
STARTED: Final = ("apps.process_create", "churn")

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(10 * SECONDS + 600)]


def one_round(churners: dict[str, Churner]) -> tuple[int, int]:
    """All of them at once. How many processes were made, and files opened."""
    for order, churner in churners.items():
        churner.order(order, TIMES, OPENS)
    made = sum(churner.done() for churner in churners.values())
    return made, sum(OPENING[order] * TIMES * OPENS for order in churners)


def resident(run: Run) -> dict[int, int]:
    return resident_bytes([run.process.pid, *run.children()])


def settle(run: Run, growth: Growth, made: int, opened: int) -> None:
    """Exactly so many, or as many less as the kernel says; a birth that was missed costs all of its
    process."""
    if not missed(run):
        assert growth.settle({OPENED: opened, STARTED: made}, 30) == {OPENED: opened, STARTED: made}
        return
    run.wait_frames(5)
    assert 0 <= made - growth.by(*STARTED) <= missed(run)
    assert 0 <= opened - growth.by(*OPENED) <= OPENS * missed(run)


@in_interrupts  # a release that is not seen costs a slot, and that memory
def test_churn_costs_no_event_and_nothing_grows() -> None:
    with (
        supervisor("--attach", "auto", groups=GROUPS) as run,
        contextlib.ExitStack() as stack,
    ):
        churners = {order: stack.enter_context(Churner(NAME)) for order in ORDERS}
        one_round(churners)
        before: dict[int, int] = {}
        with Growth(run, OPENED, STARTED) as growth:
            began_s, made, opened = time.monotonic(), 0, 0
            while time.monotonic() < began_s + SECONDS:
                more = one_round(churners)
                made, opened = made + more[0], opened + more[1]
                if not before and time.monotonic() > began_s + SECONDS / 3:
                    before = resident(run)
            settle(run, growth, made, opened)
        after = resident(run)
        grown = {pid: after[pid] - size for pid, size in before.items() if pid in after}
        assert max(grown.values()) < MOST_GROWTH_BYTES, grown
        assert set(before) <= set(after), "somebody has ended"
        assert "do not add up" not in run.stderr()
        assert "Traceback" not in run.stderr()
