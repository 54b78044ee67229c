"""System calls by their number: a number means another call to a 32-bit task."""

import errno
import platform
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import Run
from tests.kernel.conftest import KAT
from tests.kernel.counting import grows
from tests.workload import OTHER_CALLS_IN_32_BITS, Workload

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86 calls"),
]

OPENS = ("apps.file_open", "kat")
CLOSES = ("apps.file_closed", "kat")
OPENS_AND_CLOSES = {OPENS: 211, CLOSES: 211}

_ADDRESS = 0x08048000
_HEADERS_BYTES = 52 + 32


def program_of_32_bits(count: int) -> bytes:
    """An i386 executable: for each byte of its stdin it makes `count` times the calls that mean another thing
    to a 64-bit process, and answers with the byte. The layout is elf(5)'s."""
    buffer = struct.pack("<I", _ADDRESS + 0x1000)
    read = b"\xb8\x03\0\0\0\x31\xdb\xb9" + buffer + b"\xba\x01\0\0\0\xcd\x80"  # read(0, buffer, 1)
    write = b"\xb8\x04\0\0\0\xbb\x01\0\0\0\xb9" + buffer + b"\xba\x01\0\0\0\xcd\x80"  # write(1, …)
    calls = b"".join(  # mov eax, number; mov ebx, -1; int 0x80
        b"\xb8" + struct.pack("<I", number) + b"\xbb\xff\xff\xff\xff\xcd\x80"
        for number in OTHER_CALLS_IN_32_BITS
    )
    loop = b"\xbe" + struct.pack("<I", count) + calls + b"\x4e"  # mov esi, count; …; dec esi
    loop += b"\x75" + struct.pack("<b", -(len(calls) + 3))  # jnz to the first call
    code = read + loop + write
    code += b"\xe9" + struct.pack("<i", -(len(code) + 5))  # jmp to the beginning
    size = _HEADERS_BYTES + len(code)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH",
        *(b"\x7fELF\x01\x01\x01", 2, 3, 1, _ADDRESS + _HEADERS_BYTES, 52, 0, 0, 52, 32, 1, 0, 0, 0),
    )
    segment = struct.pack("<8I", 1, 0, _ADDRESS, _ADDRESS, size, 0x2000, 7, 0x1000)
    return header + segment + code


@contextmanager
def process_of_32_bits(folder: Path, count: int) -> Iterator["subprocess.Popen[bytes]"]:
    path = folder / KAT
    path.write_bytes(program_of_32_bits(count))
    path.chmod(0o755)
    try:
        process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        pytest.skip("this kernel runs no 32-bit programs")
    with process:
        yield process
        process.kill()


def ask(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"x")
    assert process.stdout.read(1) == b"x"


def check_a_32_bit_process(run: Run, folder: Path) -> None:
    with process_of_32_bits(folder, 1009) as other, Workload(KAT) as work:
        ask(other)  # its start is over, and what was closed in it
        with grows(run, OPENS_AND_CLOSES) as growth:
            ask(other)
            work.do("open", 211)
            assert growth.settle(OPENS_AND_CLOSES) == OPENS_AND_CLOSES


def check_32_bit_calls(run: Run) -> None:
    with Workload(KAT) as work, grows(run, OPENS_AND_CLOSES) as growth:
        work.do("calls_32", 1009)
        work.do("open", 211)
        assert growth.settle(OPENS_AND_CLOSES) == OPENS_AND_CLOSES


def test_calls_of_a_32_bit_process_are_not_taken_for_others(counting: Run, tmp_path: Path) -> None:
    check_a_32_bit_process(counting, tmp_path)


def test_results_of_a_32_bit_process_are_not_taken_for_others(returning: Run, tmp_path: Path) -> None:
    check_a_32_bit_process(returning, tmp_path)


def test_32_bit_calls_of_a_64_bit_process_are_not_taken_for_others(counting: Run) -> None:
    check_32_bit_calls(counting)


def test_results_of_32_bit_calls_of_a_64_bit_process_are_not_taken_for_others(returning: Run) -> None:
    check_32_bit_calls(returning)
