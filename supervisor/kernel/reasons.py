"""Why a hook is not attached: the reasons, and which of them is told where there is room for one."""

import errno
import os
from collections.abc import Sequence
from typing import Final

from supervisor.kernel.plans import HookReport

# Reasons that a plan for other kernels has on this one: no such function, no such event.
NOT_THERE: Final = "this kernel does not have it"
NOT_OFFERED: Final = "not offered"
# Said of plans for other kernels, and by hooks that no kernel has: of all reasons the least telling.
_EXPECTED: Final = (NOT_THERE, NOT_OFFERED)


class Refused(Exception):
    """This target cannot be attached here; the text is the reason."""


def of_error(number: int) -> str:
    """Of a call that the kernel has refused with this number."""
    if number == errno.EPERM:
        return "not permitted (EPERM)"
    if number in (errno.ENOENT, errno.ESRCH):
        return f"{NOT_OFFERED} ({errno.errorcode[number]})"
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})" if number else "refused by libbpf"


def lacking(hooks: Sequence[HookReport]) -> str:
    """Why hooks could not be attached, in a few words: the most telling reason, and how many more there are.
    Each plan's own stands in the table of hooks and, at debug, in the log."""
    attached = {hook.hook for hook in hooks if hook.attached}
    reasons = dict.fromkeys(
        f"{h.target}: {h.reason}" if h.reason == NOT_THERE else h.reason
        for h in hooks
        if not h.attached and h.hook not in attached
    )
    if not reasons:
        return "it has no hook in this mode"
    first = min(reasons, key=lambda reason: any(text in reason for text in _EXPECTED))
    more = len(reasons) - 1
    return first if not more else f"{first}, and {more} more reason{'s' if more > 1 else ''}"
