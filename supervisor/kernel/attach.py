"""Attaching kprobes by perf_event_open(2), and asking the kernel how many hits of a hook it missed.

probe ──▶ event of the kprobe PMU, since 4.17      ──▶ program
     └──▶ event of a line in kprobe_events ────────────┘
          the link holds the event, so the link's descriptor is all that is kept; since 5.15
          before, the event's own descriptor is
"""

import ctypes
import errno
import fcntl
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from supervisor import linux

PMU: Final = Path("/sys/bus/event_source/devices/kprobe")

_PERF_EVENT: Final = 41  # BPF_PERF_EVENT of enum bpf_attach_type
_TRACEPOINT: Final = 2  # PERF_TYPE_TRACEPOINT of enum perf_type_id
_IOC_SET_BPF: Final = 0x40042408  # PERF_EVENT_IOC_SET_BPF
# enum bpf_link_type and enum bpf_perf_event_type
_LINK_OF_PERF_EVENT: Final = 7
_PERF_KPROBES: Final = (3, 4)


class _PerfEventAttribute(ctypes.Structure):
    """struct perf_event_attr as far as a kprobe needs it (PERF_ATTR_SIZE_VER1)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample", ctypes.c_uint64 * 3),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("kprobe_func", ctypes.c_uint64),
        ("probe_offset", ctypes.c_uint64),
    )


class _LinkCreate(ctypes.Structure):
    """The members of union bpf_attr that BPF_LINK_CREATE reads."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("bpf_cookie", ctypes.c_uint64),
    )


class _LinkInfo(ctypes.Structure):
    """struct bpf_link_info with its part on kprobes."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("perf_type", ctypes.c_uint64),
        ("func_name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("address", ctypes.c_uint64),
        ("missed", ctypes.c_uint64),
    )


class _ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info up to what is asked of it."""

    _fields_ = (
        ("before", ctypes.c_uint8 * 192),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Use:
    """What the kernel tells of the program that a link holds; each is None where it does not.

    program_id: the one that bpftool(8) shows; several hooks can share a program. missed: see `use_of`.
    runs, run_ns: of the program, running, while kernel.bpf_stats_enabled is 1 (since 5.1).
    """

    program_id: int | None = None
    missed: int | None = None
    runs: int | None = None
    run_ns: int | None = None


def kprobe(program: int, symbol: str, *, at_return: bool) -> int:
    """Attaches a program to a function's entry or return, and gives the descriptor that holds it.

    Raises OSError where the kernel refuses: ENOENT or EINVAL for a function that cannot be probed.
    """
    return _attach(program, _open_probe(symbol, at_return))


def line(program: int, number: int) -> int:
    """The same for the event that a line of kprobe_events has made. number: the kernel's for that event."""
    attribute = _PerfEventAttribute(
        type=_TRACEPOINT, size=ctypes.sizeof(_PerfEventAttribute), config=number, sample=(1, 0, 0)
    )
    return _attach(program, linux.perf_event_open(attribute, pid=-1, cpu=0))


def _attach(program: int, event: int) -> int:
    try:
        held = _hold(program, event)
    except OSError:
        os.close(event)
        raise
    if held != event:
        os.close(event)
    return held


def _hold(program: int, event: int) -> int:
    """Runs the program at each event; gives the descriptor that holds both."""
    try:
        return linux.bpf_link_create(_LinkCreate(program, event, _PERF_EVENT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    fcntl.ioctl(event, _IOC_SET_BPF, program)  # before 5.15
    return event


def _open_probe(symbol: str, at_return: bool) -> int:
    name = ctypes.create_string_buffer(symbol.encode())
    attribute = _PerfEventAttribute(
        type=_pmu_type(),
        size=ctypes.sizeof(_PerfEventAttribute),
        config=1 << _return_bit() if at_return else 0,
        kprobe_func=ctypes.addressof(name),
    )
    # A program on a probe runs for every task on every CPU, whatever CPU the event is opened for.
    return linux.perf_event_open(attribute, pid=-1, cpu=0)


@functools.cache
def _pmu_type() -> int:
    return int((PMU / "type").read_text())


@functools.cache
def _return_bit() -> int:
    """From a text such as `config:0`."""
    return int((PMU / "format" / "retprobe").read_text().partition(":")[2])


def use_of(link: int | None) -> Use:
    """Of what this link holds; nothing where the kernel does not tell, as of what are no links.

    Missed are hits that did not reach the program. Of kprobes and kretprobes the kernel tells since 6.7
    (kernel commits 3acf8ace6823, dd8657894c11): those that found another probe under way, and returns for
    which no instance was free. Of fentry, fexit and raw tracepoints it counts since 5.12 those that came
    while the program itself was running; of tracepoints, since 6.7, those that found a probe or another
    tracepoint's program under way, and what an older kernel says, 0, says nothing.
    """
    if link is None:
        return Use()
    info = _LinkInfo()
    try:
        told_bytes = linux.bpf_info(link, info)
        program, knows_misses = _program_info(info.prog_id)
    except OSError:
        return Use()
    told = Use(info.prog_id, None, program.run_cnt, program.run_time_ns)
    if not knows_misses:
        return told
    if info.type != _LINK_OF_PERF_EVENT:
        return replace(told, missed=program.recursion_misses)
    if told_bytes < ctypes.sizeof(info) or info.perf_type not in _PERF_KPROBES:
        return replace(told, missed=program.recursion_misses or None)
    return replace(told, missed=info.missed + program.recursion_misses)


def missed_by(links: Iterable[int | None]) -> int:
    """How many of these hooks' hits did not reach their programs, as far as the kernel tells (see `use_of`);
    of tracepoints it counts them since 6.7. Several links can hold the same program."""
    of_probes, of_programs = 0, {}
    for link in links:
        info = _LinkInfo()
        try:
            told_bytes = linux.bpf_info(link, info) if link is not None else 0
            if told_bytes:
                of_programs[info.prog_id] = recursion_misses(info.prog_id)
        except OSError:
            continue  # what is no link, before 5.15
        if told_bytes >= ctypes.sizeof(info) and info.perf_type in _PERF_KPROBES:
            of_probes += info.missed
    return of_probes + sum(of_programs.values())


def recursion_misses(program_id: int) -> int:
    """Events at which a program was not run, because it was running on that CPU already (since 5.12; before,
    0). Raises OSError for one that is not there."""
    program, knows_misses = _program_info(program_id)
    return int(program.recursion_misses) if knows_misses else 0


def _program_info(program_id: int) -> tuple[_ProgramInfo, bool]:
    """And whether the kernel knows of misses."""
    program = linux.bpf_program_by_id(program_id)
    info = _ProgramInfo()
    try:
        told_bytes = linux.bpf_info(program, info)
    finally:
        os.close(program)
    return info, told_bytes >= ctypes.sizeof(info)
