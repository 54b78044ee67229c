"""System calls by the two raw tracepoints that all of them pass, sys_enter and sys_exit: the C text that
tells which hooks an event is for.

A program has one function for each side, so two links at most, however many calls its hooks name. It looks
at the call's number first; at the mask of the plans in use, one bit each, only when the number is one of
those named.

    sys_enter(registers, number)   the number is in the tracepoint's arguments
    sys_exit(registers, result)    the number is in the registers
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from supervisor.kernel.plans import SIDES, Plan, Side, Target, call_of, side_of

HEADER: Final = "system_call.h"
MASK: Final = "system_calls_taken"  # an array of one u64, defined there
_BITS: Final = 64

_NUMBER: Final[Mapping[Side, str]] = {"enter": "args[1]", "exit": "number_of(call)"}
_RESULT: Final[Mapping[Side, str]] = {"enter": "", "exit": "    long ret = args[1];\n"}


class Tap(NamedTuple):
    """What is called at one end of one system call, where the plan with this bit is in use."""

    bit: int
    target: Target


Bits = Mapping[tuple[str, Plan], int]  # by the hook's name


def calls_of(plan: Plan) -> tuple[Target, ...]:
    """Those of the plan's targets that are system calls."""
    return tuple(target for target in plan.targets if plan.mechanism_of(target) == "system call")


def number_plans(candidates: Mapping[str, Sequence[Plan]]) -> dict[tuple[str, Plan], int]:
    """The bit of each plan that has system calls among its targets, by hook and plan.
    Raises ValueError where they are more than the mask holds."""
    plans = [(name, plan) for name, found in candidates.items() for plan in found if calls_of(plan)]
    if len(plans) > _BITS:
        raise ValueError(
            f"{len(plans)} plans of system calls in one program; at most {_BITS} can be told apart"
        )
    return {key: bit for bit, key in enumerate(plans)}


def function_name(side: Side) -> str:
    return f"system_calls__{side}"


def c_text(bits: Bits) -> str:
    """The functions of both sides, as far as there are calls for them."""
    taps = [Tap(bit, target) for (_, plan), bit in bits.items() for target in calls_of(plan)]
    return "".join(_function(side, taps) for side in SIDES if _calls(side, taps))


def _calls(side: Side, taps: Sequence[Tap]) -> dict[str, list[Tap]]:
    found: dict[str, list[Tap]] = {}
    for tap in taps:
        if side_of(tap.target) == side:
            found.setdefault(call_of(tap.target), []).append(tap)
    return found


def _function(side: Side, taps: Sequence[Tap]) -> str:
    return (
        f"int {function_name(side)}(u64 *args)\n{{\n    u64 call = args[0], taken;\n{_RESULT[side]}"
        f"    switch ({_NUMBER[side]}) {{\n{''.join(_cases(side, taps))}    }}\n    return 0;\n}}\n"
    )


def _cases(side: Side, taps: Sequence[Tap]) -> Iterator[str]:
    """One case for all calls that mean the same to the same hooks."""
    names_of: dict[str, list[str]] = {}
    for name, found in _calls(side, taps).items():
        names_of.setdefault("".join(map(_call_handler, found)), []).append(name)
    for body, names in names_of.items():
        # A processor that lacks a call has no number for it.
        labels = "".join(f"#ifdef __NR_{name}\n    case __NR_{name}:\n#endif\n" for name in names)
        yield f"{labels}        taken = taken_of(call);\n{body}        break;\n"


def _call_handler(tap: Tap) -> str:
    handler = f"{tap.target.handler}({tap.target.arguments})"
    return f"        if (taken & (1ULL << {tap.bit}))\n            {handler};\n"
