"""What the tests of faults have in common: how much of them is run, and faults that need a hand.

`make test` runs their short form, `make test-faults` all of it (EBPF_TEST_FAULTS=all).
"""

import contextlib
import ctypes
import errno
import itertools
import os
import platform
import resource
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

ALL: Final = os.environ.get("EBPF_TEST_FAULTS") == "all"


def of(short: int, long: int) -> int:
    """How many, in the short form and in all of it."""
    return long if ALL else short


# ---- errors of bpf(2) and perf_event_open(2), by a filter of system calls (seccomp(2))

# Commands of bpf(2) by enum bpf_cmd.
BPF: Final = {
    "MAP_CREATE": 0,
    "MAP_UPDATE_ELEM": 2,
    "PROG_LOAD": 5,
    "OBJ_PIN": 6,
    "OBJ_GET_INFO_BY_FD": 15,
    "RAW_TRACEPOINT_OPEN": 17,
    "LINK_CREATE": 28,
}
_NUMBERS: Final = {"x86_64": (321, 298), "aarch64": (280, 241)}
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
# Classic BPF: load a word of struct seccomp_data, jump if it equals, return.
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_NUMBER_AT, _FIRST_ARGUMENT_AT = 0, 16


def can_refuse() -> bool:
    return platform.machine() in _NUMBERS


def _filter(command: str, number: int) -> bytes:
    """Refuses one command of bpf(), or perf_event_open() as a whole, with this errno."""
    bpf, perf = _NUMBERS[platform.machine()]
    steps: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _NUMBER_AT)]
    if command == "perf_event_open":
        steps += [(_JUMP_EQUAL, 0, 1, perf)]
    else:
        steps += [
            (_JUMP_EQUAL, 0, 3, bpf),
            (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
            (_JUMP_EQUAL, 0, 1, BPF[command]),
        ]
    steps += [(_RETURN, 0, 0, _ERRNO | number), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def refuse(command: str, number: int) -> None:
    """From here on this process and all its children are refused it."""
    code = _filter(command, number)
    held = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(held))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _MODE_FILTER, program) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def refused(command: str, error: str) -> Sequence[str]:
    """A command line that runs the supervisor under that refusal; its words follow."""
    code = (
        f"from tests.faults import refuse; refuse({command!r}, {getattr(errno, error)}); "
        "from supervisor import cli; cli.main()"
    )
    return [sys.executable, "-c", code, "run"]


# ---- descriptors


@contextlib.contextmanager
def descriptors_left(pid: int, spare: int) -> Iterator[None]:
    """Within it a process may open so many more. The limit is on their numbers, and the lowest are given."""
    there = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    for _ in range(5):  # that of a client who has just got an answer, say, is about to go
        time.sleep(0.05)
        there &= {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (number for number in itertools.count() if number not in there)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, spare, None)), hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
