"""dcstat: names looked up in the directory cache, by process."""

import contextlib
import os

from supervisor.kernel.plans import Hook, function_plan
from workers.declaration import Column, Program, Ratio


def _look_up() -> None:
    os.stat("/proc")


def _look_up_slowly() -> None:
    """To make what there is fails, after its name was looked up."""
    with contextlib.suppress(FileExistsError):
        os.mkdir("/proc")


# Each name of a path. It is static: the compiler may have made a version of it.
_REFERENCE = (
    function_plan("fentry", "lookup_fast", "on_reference"),
    function_plan("kprobe", "lookup_fast", "on_reference"),
    function_plan("kprobe", "lookup_fast.*", "on_reference"),
)
# Names that are to be made, removed or renamed. What it returns tells whether the cache has the name, so it
# is the same in both modes.
_SLOW = (
    function_plan("fexit", "d_lookup", "on_slow", "args[2]"),
    function_plan("kretprobe", "d_lookup", "on_slow", "PT_REGS_RC(args)"),
)

PROGRAM = Program(
    name="dcstat",
    source="dcstat.bpf.c",
    hooks=(
        Hook("reference", _REFERENCE, _REFERENCE, exercise=_look_up, column=0),
        Hook("slow", _SLOW, _SLOW, exercise=_look_up_slowly, column=1),
    ),
    columns=(Column("reference", "reference"), Column("slow", "slow"), Column("miss", "slow")),
    ratios={"ratio": Ratio(part=("reference",), less=("miss",), whole=("reference",), empty=0)},
    row_words=4,
)
