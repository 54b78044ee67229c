"""Has names of containers looked up by a short-lived process: a disk that does not answer stalls nobody else.

    aggregator ── asks in the table of cgroups ──▶ supervisor ── forks, when somebody asks ──▶ names
        ▲                                                                                         │
        └──────────────────────── the name, and whose, in the same table ─────────────────────────┘

It is nobody with one capability, to read any file (CAP_DAC_READ_SEARCH): engines keep theirs from others.
"""

import dataclasses
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from supervisor import container_names, spawn
from supervisor.aggregator.storage import (
    MOST_TRIES,
    NAME_BYTES,
    NAMED,
    NAMELESS,
    PATH_BYTES,
    cgroup_fields,
    mark_of,
)
from supervisor.loop import Loop
from supervisor.pipeline import memory
from supervisor.spawn import Account, Child
from supervisor.unit import LineReader

_CAP_DAC_READ_SEARCH: Final = 2
_PATIENCE_S: Final = 10.0
# After a process that could not be made or ended badly.
_PAUSE_S: Final = 60.0

# All that an entity's byte can say besides the number of a try.
_NOT_ASKED: Final = bytes(state for state in range(256) if not 0 < state <= MOST_TRIES)

log = logging.getLogger("names")


class Namer:
    """The supervisor's side. root: where the host's files are."""

    def __init__(self, loop: Loop, account: Account, cgroups_fd: int, level: str, root: Path) -> None:
        self._loop = loop
        self._account = dataclasses.replace(account, capability=_CAP_DAC_READ_SEARCH)
        self._cgroups_fd = cgroups_fd
        self._mapped = memory.Mapped(cgroups_fd, cgroup_fields(), writable=False)
        self._level = level
        self._root = root
        self._child: Child | None = None
        self._reader: LineReader | None = None
        self._paused_until_s = 0.0

    def look(self) -> None:
        """Starts a process when a name is asked for and none is under way."""
        asked = bytes(self._mapped.at["asked"]).translate(None, _NOT_ASKED)
        if self._child or not asked or time.monotonic() < self._paused_until_s:
            return
        try:
            child = spawn.spawn(
                "names",
                lambda: find_names(self._cgroups_fd, self._root),
                {self._cgroups_fd},
                self._account,
                self._level,
            )
        except OSError as error:
            self._pause(f"cannot be started: {error.strerror}")
            return
        self._child = child
        self._reader = LineReader(self._loop, child.stderr_fd, lambda level, line: log.log(level, "%s", line))
        self._loop.watch(child.pidfd, self._on_end)
        self._loop.after(_PATIENCE_S, lambda: self._late(child))

    def close(self) -> None:
        if self._child:
            self._child.signal(signal.SIGKILL)
            os.waitid(os.P_PIDFD, self._child.pidfd, os.WEXITED)
            self._forget(self._child)

    def _on_end(self) -> None:
        how = self._child.reap() if self._child else None
        if self._child is None or how is None:
            return
        self._forget(self._child)
        if how:
            self._pause(f"ended with {how}")

    def _pause(self, why: str) -> None:
        log.warning("%s; new containers keep their ids for names, tried again in %.0f s", why, _PAUSE_S)
        self._paused_until_s = time.monotonic() + _PAUSE_S

    def _forget(self, child: Child) -> None:
        self._child = None
        self._loop.unwatch(child.pidfd)
        if self._reader:
            self._reader.finish()
        child.close()

    def _late(self, child: Child) -> None:
        if self._child is child:
            log.warning("a disk does not answer within %.0f s", _PATIENCE_S)
            child.signal(signal.SIGKILL)


def find_names(cgroups_fd: int, root: Path) -> int:
    """Main function of the process: each name that is asked for, once."""
    mapped = memory.Mapped(cgroups_fd, cgroup_fields(), writable=True)
    table = mapped.at
    for entity in list(_asked(table)):
        begin = entity * PATH_BYTES
        path = bytes(table["path"][begin : begin + table["path_bytes"][entity]])
        tries = table["asked"][entity]
        name = container_names.find(os.fsdecode(path), root)
        if name:
            _write(table, entity, path, name)
        else:
            table["asked"][entity] = tries + 1 if tries < MOST_TRIES else NAMELESS
    return 0


def _write(table: dict[str, memoryview], entity: int, path: bytes, name: str) -> None:
    encoded = os.fsencode(name)[:NAME_BYTES]
    begin = entity * NAME_BYTES
    table["name"][begin : begin + len(encoded)] = encoded
    table["name_bytes"][entity] = len(encoded)
    table["name_of"][entity] = mark_of(path)
    table["asked"][entity] = NAMED


def _asked(table: dict[str, memoryview]) -> Iterator[int]:
    """Entities whose name is asked for."""
    return (entity for entity, state in enumerate(bytes(table["asked"])) if 0 < state <= MOST_TRIES)
