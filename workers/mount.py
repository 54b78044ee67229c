"""mount: file systems mounted and unmounted, and the calls that failed, by the whole host."""

import contextlib
import ctypes
from collections.abc import Callable

from supervisor import linux
from supervisor.kernel.plans import WRAPPER_RESULT, Hook, entering, leaving, syscall_plan, wrapper_plans
from workers.declaration import Column, Program


def _mount() -> None:
    with contextlib.suppress(OSError):
        linux.mount("", "", "", 0)


def _umount() -> None:
    ctypes.CDLL(None).umount2(b"", 0)


def _hook(function: str, call: str, column: int, exercise: Callable[[], None]) -> Hook:
    """The function is named after the older of two calls, umount, of which umount2 is the newer."""
    handler = f"on_{function}"
    return Hook(
        function,
        entry=(
            *wrapper_plans("fentry", {function: (handler, "0")}),
            *wrapper_plans("kprobe", {function: (handler, "0")}),
            syscall_plan(entering(call, handler, "0")),
        ),
        returning=(
            *wrapper_plans("fexit", {function: (handler, WRAPPER_RESULT)}),
            *wrapper_plans("kretprobe", {function: (handler, "PT_REGS_RC(args)")}),
            syscall_plan(leaving(call, handler)),
        ),
        exercise=exercise,
        column=column,
    )


PROGRAM = Program(
    name="mount",
    source="mount.bpf.c",
    hooks=(_hook("mount", "mount", 0, _mount), _hook("umount", "umount2", 1, _umount)),
    columns=(
        Column("mount", "mount"),
        Column("umount", "umount"),
        Column("mount_error", "mount", return_mode_only=True),
        Column("umount_error", "umount", return_mode_only=True),
    ),
    kind="host",
    rows=1,
    row_words=4,
)
