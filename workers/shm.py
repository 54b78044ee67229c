"""shm: calls about System V shared memory, by process."""

import ctypes
from collections.abc import Callable

from supervisor.kernel.plans import Hook, entering, syscall_plan, wrapper_plans
from workers.declaration import Column, Program

_LIBC = ctypes.CDLL(None)
_NONE = ctypes.c_void_p(None)
_IPC_PRIVATE = 0
_IPC_STAT = 2

# Calls that are refused: an empty segment, segments that are not there, an address that is none.
_REFUSED: dict[str, Callable[[], object]] = {
    "shmget": lambda: _LIBC.shmget(_IPC_PRIVATE, ctypes.c_size_t(0), 0),
    "shmat": lambda: _LIBC.shmat(-1, _NONE, 0),
    "shmdt": lambda: _LIBC.shmdt(ctypes.c_void_p(1)),
    "shmctl": lambda: _LIBC.shmctl(-1, _IPC_STAT, _NONE),
}


def _hook(column: int, call: str) -> Hook:
    handler = ("on_call", _column(call).upper())
    plans = (
        *wrapper_plans("fentry", {call: handler}),
        *wrapper_plans("kprobe", {call: handler}),
        syscall_plan(entering(call, *handler)),
    )

    def exercise() -> None:
        _REFUSED[call]()

    return Hook(call, plans, plans, exercise, column)


def _column(call: str) -> str:
    return call.removeprefix("shm")


PROGRAM = Program(
    name="shm",
    source="shm.bpf.c",
    hooks=tuple(_hook(column, call) for column, call in enumerate(_REFUSED)),
    columns=tuple(Column(_column(call), call) for call in _REFUSED),
    row_words=4,
)
