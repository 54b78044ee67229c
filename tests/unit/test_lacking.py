"""In what few words a program says why it is not available."""

import pytest

from supervisor.kernel.plans import HookReport
from supervisor.kernel.reasons import NOT_OFFERED, NOT_THERE, lacking
from supervisor.units.program import without_part
from workers.registry import find

REFUSED = "cannot load: not permitted (EPERM)"
UNSEEN = "it is attached but does not see the event that the start made"


def no(reason: str, target: str = "f", hook: str = "read") -> HookReport:
    return HookReport(hook, "fentry", target, False, reason)


YES = HookReport("read", "tracepoint", "t", True)


@pytest.mark.parametrize(
    ("reports", "text"),
    [
        ([no(REFUSED)], REFUSED),
        ([no(REFUSED), no(REFUSED, "g")], REFUSED),
        ([no(NOT_THERE, "swap_readpage")], f"swap_readpage: {NOT_THERE}"),
        ([no(NOT_THERE), no(REFUSED)], f"{REFUSED}, and 1 more reason"),
        (
            [no(NOT_THERE), no(f"cannot attach: {NOT_OFFERED} (ENOENT)"), no(UNSEEN)],
            f"{UNSEEN}, and 2 more reasons",
        ),
        ([YES, no(REFUSED), no(UNSEEN, hook="write")], UNSEEN),
        ([], "it has no hook in this mode"),
    ],
)
def test_the_most_telling_reason_comes_first_and_the_others_are_a_number(
    reports: list[HookReport], text: str
) -> None:
    """A plan for other kernels is refused everywhere; why the one for this kernel is, is news. What another
    plan has attached is no reason."""
    assert lacking(reports) == text


def test_a_part_that_cannot_be_loaded_costs_its_own_hooks_and_says_why() -> None:
    filesystem = find("filesystem")
    stands = without_part(filesystem, "xfs", "does not compile here")
    assert not stands.maps
    assert not stands.error
    assert [report.hook for report in stands.hooks] == ["xfs read", "xfs write", "xfs open", "xfs sync"]
    assert {report.reason for report in stands.hooks} == {"does not compile here"}
    assert not any(report.attached for report in stands.hooks)
