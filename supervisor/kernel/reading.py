"""How user space reads the kernel's arrays here: by mapping them, or by look-ups; found out by doing it."""

import ctypes
import os
import signal
from dataclasses import dataclass, replace
from typing import Final

from supervisor import linux, spawn
from supervisor.config.model import MapReading
from supervisor.kernel.maps import KernelMap, MapInfo

_CANDIDATES: Final[tuple[int | None, ...]] = (None, linux.CAP_BPF, linux.CAP_SYS_ADMIN)
_NAMES: Final = {linux.CAP_BPF: "CAP_BPF", linux.CAP_SYS_ADMIN: "CAP_SYS_ADMIN"}


@dataclass(frozen=True)
class Reading:
    """mapped: arrays are mapped. capability: what a process must keep to read them, None = nothing."""

    mapped: bool
    capability: int | None = None

    @property
    def map_flags(self) -> str:
        """For the C sources: flags of every array that user space reads."""
        return "BPF_F_MMAPABLE" if self.mapped else "0"

    @property
    def description(self) -> str:
        """One part of a line for the administrator, "" where all is as usual."""
        if self.mapped:
            return ""
        kept = f" with {_NAMES[self.capability]}" if self.capability is not None else ""
        return f"maps are read by look-ups{kept}"


def find(wanted: MapReading, account: spawn.Account) -> tuple[Reading, str]:
    """What this kernel can do, and a complaint where that is not what is wanted, else "".

    Needs the privilege to make a map; without it the answer is that nothing need be kept.
    """
    can = _can_map()
    if can and wanted != "lookup":
        return Reading(True), ""
    complaint = ""
    if wanted == "mmap":
        complaint = (
            "map reading = mmap: this kernel does not let arrays be mapped (5.5 and later do); using look-ups"
        )
    return Reading(False, _capability_for_look_ups(account)), complaint


def _can_map() -> bool:
    """Whether an array can be made with BPF_F_MMAPABLE, and mapped."""
    try:
        fd = linux.bpf_create_array(1, 8, linux.BPF_F_MMAPABLE)
    except OSError:
        return False
    try:
        KernelMap(MapInfo("", 1, 8, linux.BPF_F_MMAPABLE), fd).words()
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _capability_for_look_ups(account: spawn.Account) -> int | None:
    """The least of the candidates with which a process of the account can look up and update. 5.10 refuses
    it to a process without any where unprivileged_bpf_disabled is set, 6.1 does not; before 5.8 there is no
    CAP_BPF."""
    try:
        fd = linux.bpf_create_array(1, 8, 0)
    except OSError:
        return None
    try:
        able = (c for c in _CANDIDATES if _can_look_up(replace(account, capability=c), fd))
        return next(able, linux.CAP_SYS_ADMIN)
    finally:
        os.close(fd)


def _can_look_up(account: spawn.Account, fd: int) -> bool:
    """Tries it in a child."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            spawn.give_up_privileges(account)
            value = ctypes.c_uint64()
            linux.bpf_update_array(fd, 0, ctypes.addressof(value))
            linux.bpf_read_array(fd, 1, 8, ctypes.addressof(value))
            status = 0
        finally:
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
