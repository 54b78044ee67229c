"""sync: calls that ask for data to be written to disk, by the whole host."""

import ctypes
import mmap
import os
from collections.abc import Callable

from supervisor.kernel.plans import Hook, Plan, entering, function_plan, syscall_plan, wrapper_plans
from workers.declaration import Column, Program

_LIBC = ctypes.CDLL(None)


def _on_a_file(call: Callable[[int], object]) -> Callable[[], None]:
    """The call on a file that is memory only, so that nothing is written."""

    def exercise() -> None:
        fd = os.memfd_create("sync")
        call(fd)
        os.close(fd)

    return exercise


def _msync() -> None:
    """Of no pages, with flags that do not exist."""
    _LIBC.msync(ctypes.c_void_p(mmap.PAGESIZE), ctypes.c_size_t(0), -1)


# sync(2) can take minutes: it is not made just to try its hook.
_EXERCISES: dict[str, Callable[[], None]] = {
    "syncfs": _on_a_file(_LIBC.syncfs),
    "msync": _msync,
    "fsync": _on_a_file(os.fsync),
    "fdatasync": _on_a_file(os.fdatasync),
    "sync_file_range": _on_a_file(
        lambda fd: _LIBC.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 0)
    ),
}


def _functions(call: str) -> tuple[Plan, ...]:
    handler = ("on_call", call.upper())
    if call == "sync":
        # A call without arguments is one function with the 32-bit call, and not every kernel offers it under
        # this name; what it calls is ksys_sync, since 4.17.
        return (
            function_plan("fentry", "ksys_sync", *handler),
            function_plan("kprobe", "ksys_sync", *handler),
            function_plan("kprobe", "sys_sync", *handler),
        )
    return (*wrapper_plans("fentry", {call: handler}), *wrapper_plans("kprobe", {call: handler}))


def _hook(column: int, call: str) -> Hook:
    plans = (*_functions(call), syscall_plan(entering(call, "on_call", call.upper())))
    return Hook(call, plans, plans, exercise=_EXERCISES.get(call), column=column)


_CALLS = ("sync", "syncfs", "msync", "fsync", "fdatasync", "sync_file_range")

PROGRAM = Program(
    name="sync",
    source="sync.bpf.c",
    hooks=tuple(_hook(column, call) for column, call in enumerate(_CALLS)),
    columns=tuple(Column(call, call) for call in _CALLS),
    kind="host",
    rows=1,
    row_words=8,
)
