"""The supervisor's answer to `top`: descriptors, and what is needed to read what they lead to.

    {"command": "top"} -> {"ok": true, "version": "…", "every_s": 1, "groups": ["web", …],
        "group_places": 300, "slots": 32768, "maps": [["task", entries, value_bytes, flags], …],
        "programs": [{"name": "fd", "running": true, "ledger": [rows, words, entities, totals],
                      "shards": 1}, …], "connections": [rows, words, entities, totals]}
    with the descriptors of each program's ledger, of the slots' groups, of the cgroups, of the connections'
    ledger where there is one (null else), and of the maps

It is as large as the configuration is, whatever the number of processes. Without numpy, as all of the
supervisor.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import supervisor
from supervisor.aggregator.storage import Storage
from supervisor.kernel.maps import USED_PAGES, KernelMap

_MAPS: Final = ("task", USED_PAGES)


@dataclass(frozen=True)
class Offered:
    """One program. running: it has a worker that takes samples."""

    name: str
    running: bool
    storage: Storage


@dataclass(frozen=True)
class Offer:
    """What the supervisor owns. connections: the memory of the network viewer, None without it. maps: those
    of the core program, none without it."""

    programs: Sequence[Offered]
    groups: Sequence[str]
    group_places: int
    slots: int
    slots_fd: int
    cgroups_fd: int
    connections: Storage | None
    maps: Mapping[str, KernelMap]
    every_s: int

    def told(self) -> dict[str, Any]:
        return {
            "version": supervisor.__version__,
            "every_s": self.every_s,
            "groups": list(self.groups),
            "group_places": self.group_places,
            "slots": self.slots,
            "programs": [
                {
                    "name": program.name,
                    "running": program.running,
                    "ledger": list(program.storage.ledger_shape),
                    "shards": program.storage.shards,
                }
                for program in self.programs
            ],
            "connections": list(self.connections.ledger_shape) if self.connections else None,
            "maps": [list(self.maps[name].info) for name in _MAPS if name in self.maps],
        }

    def descriptors(self) -> list[int]:
        """New ones, which are the caller's to close: memory for reading only, maps as they are.
        Raises OSError when the system has none to give."""
        memory = [program.storage.ledger_fd for program in self.programs]
        memory += [self.slots_fd, self.cgroups_fd]
        memory += [self.connections.ledger_fd] if self.connections else []
        found: list[int] = []
        try:
            for fd in memory:
                found.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
            found += [os.dup(self.maps[name].fd) for name in _MAPS if name in self.maps]
        except OSError:
            for fd in found:
                os.close(fd)
            raise
        return found
