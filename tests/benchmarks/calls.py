"""System calls in a loop without anything between them: 14 bytes of machine code, since Python takes longer
for a call than the kernel does, and no compiler need be there. x86-64 only.
"""

import ctypes
import mmap
import platform
import statistics
import time
from collections.abc import Callable
from typing import Final

# getppid(2) `rdi` times. The kernel keeps every register but rax, rcx and r11 (syscall(2)).
_GETPPID: Final = bytes.fromhex(
    "b8 6e000000"  # again: mov eax, 110
    "0f05"  #         syscall
    "48 ffcf"  #      dec rdi
    "75 f4"  #        jnz again
    "c3"  #           ret
)
# read(`esi`, a byte of the stack, 1) `rdi` times.
_READ: Final = bytes.fromhex(
    "53"  #           push rbx
    "4154"  #         push r12
    "4889fb"  #       mov rbx, rdi
    "4189f4"  #       mov r12d, esi
    "50"  #           push rax
    "31c0"  #         again: xor eax, eax
    "4489e7"  #       mov edi, r12d
    "4889e6"  #       mov rsi, rsp
    "ba 01000000"  #  mov edx, 1
    "0f05"  #         syscall
    "48 ffcb"  #      dec rbx
    "75 ec"  #        jnz again
    "58"  #           pop rax
    "415c"  #         pop r12
    "5b"  #           pop rbx
    "c3"  #           ret
)
# openat(AT_FDCWD, `rsi`, O_RDONLY) and close(2) of it, `rdi` times.
_OPEN_CLOSE: Final = bytes.fromhex(
    "53"  #           push rbx
    "4889fb"  #       mov rbx, rdi
    "4989f0"  #       mov r8, rsi
    "b8 01010000"  #  again: mov eax, 257
    "bf 9cffffff"  #  mov edi, -100
    "4c89c6"  #       mov rsi, r8
    "31d2"  #         xor edx, edx
    "0f05"  #         syscall
    "89c7"  #         mov edi, eax
    "b8 03000000"  #  mov eax, 3
    "0f05"  #         syscall
    "48 ffcb"  #      dec rbx
    "75 df"  #        jnz again
    "5b"  #           pop rbx
    "c3"  #           ret
)

Call = Callable[[int], None]


def unavailable() -> str:
    """Why there are no loops here, "" where there are."""
    return "" if platform.machine() == "x86_64" else f"{platform.machine()}: the loops are x86-64 code"


class Loop:
    """Makes a call many times and says how long one takes."""

    def __init__(self, code: bytes, *arguments: object) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._memory.write(code)
        self._arguments = arguments
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        kinds = [ctypes.c_char_p if isinstance(a, bytes) else ctypes.c_long for a in arguments]
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_long, *kinds)(address)

    def ns_per_call(self, calls: int, slices: int) -> float:
        """Median of `slices` measurements of `calls` each: one that was interrupted does not show."""
        self._call(calls, *self._arguments)
        times = []
        for _ in range(slices):
            began_ns = time.perf_counter_ns()
            self._call(calls, *self._arguments)
            times.append(time.perf_counter_ns() - began_ns)
        return statistics.median(times) / calls


def getppid() -> Loop:
    return Loop(_GETPPID)


def read(fd: int) -> Loop:
    """Of one byte."""
    return Loop(_READ, fd)


def open_close(path: str) -> Loop:
    """Of a file that can be read."""
    with open(path, "rb"):
        return Loop(_OPEN_CLOSE, path.encode())
