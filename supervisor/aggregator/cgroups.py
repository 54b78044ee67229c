"""Which cgroups there are, and the entity that each is counted under.

An entity is a number below MAX_CGROUPS, under which ledgers keep totals. It belongs to the path of a service
or container, not to a folder: a service that is restarted gets a new folder and goes on with its entity, so
its counters never fall.

    free ──► live ──► gone ──► free          live: a process is in it, or its folder exists
              ▲         │                    gone: neither, for REMEMBERED_S; waits for `release`
              └─────────┘ a process is in it again

The kernel tells of each cgroup that is made (cgroup_births.py): one that lived shorter than a tick has no
folder any more, and is counted and named all the same. Any other id without a folder has an entity of its
own, without path and charts, as long as a process has it.

The table of entities is memory that the supervisor owns, beside the ledgers, so another aggregator goes on
with it. Each change of a row ends with the one write that makes it valid.
"""

import collections
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.cgroup_names import Counted, Kind, chart_type, counted_in, digest, name_of
from supervisor.aggregator.cgroup_tree import VANISHED, walk
from supervisor.aggregator.storage import MAX_CGROUPS, NAMED, PATH_BYTES, cgroup_fields, mark_of
from supervisor.container_names import may_have_one
from supervisor.kernel import arrays

NO_ENTITY: Final = -1

# Longer than a restart of a service or container leaves it without folder.
REMEMBERED_S: Final = 5.0
# How often a folder is looked for again whose id was not found while something could not be read.
_RETRY_S: Final = 10.0
# A walk is followed by this many times its duration without one, so walks never take more than 5 % of a CPU.
# Of 500 cgroups one takes 7 ms: a new id is looked for in the tick that it turns up.
_REST: Final = 20
# How many paths that the kernel told are kept. What lives longer is found by its folder.
_MADE_KEPT: Final = 4096

# Flags of an entity; 0 is a free one.
_USED: Final = 1
_SERVICE: Final = 2
_CONTAINER: Final = 4
_GONE: Final = 8
_DISTINCT: Final = 16  # its chart type would be another's without the digits
_FLAG_OF_KIND: Final = {Kind.SERVICE: _SERVICE, Kind.CONTAINER: _CONTAINER}

log = logging.getLogger("aggregator")


@dataclass(frozen=True)
class Cgroup:
    """A service or container with its entity; `path`, `name` and `chart_type` as in cgroup_names."""

    entity: int
    path: str
    kind: Kind
    name: str
    chart_type: str


class Cgroups:
    """Follows the cgroups of one hierarchy.

    entity_of: by each id that `refresh` was given the entity under which its processes are counted, NO_ENTITY
    where they have no charts or found no place.
    """

    def __init__(
        self,
        mount_point: Path,
        memory_fd: int,
        clock: Callable[[], float] = time.monotonic,
        births: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        """births: paths of the cgroups made since the last call, by id."""
        self._mount_point = os.fspath(mount_point)
        self._clock = clock
        self._table = _Table(memory_fd)
        self.entity_of: dict[int, int] = {}
        self._births = births
        self._made: dict[int, str] = {}
        # What the last walk saw, then what the kernel told.
        self._path_of_id = collections.ChainMap({}, self._made)
        self._next_walk_s = self._walked_s = -_RETRY_S
        self._idle_since_s: dict[int, float] = {}
        self._left_out: set[int] = set()
        self._told_full = False
        self._told_errno = 0

    def refresh(self, ids: Iterable[int]) -> None:
        """Takes in the ids of the cgroups that processes are in now; 0 is none. Never raises OSError."""
        present = set(ids) - {0}
        for old in self.entity_of.keys() - present:
            del self.entity_of[old]
        self._left_out &= present
        new = present - self.entity_of.keys()
        unnamed = self._table.entity_of_id.keys() & present
        self._hear_of_births()
        if self._should_walk(new - self._path_of_id.keys(), unnamed):
            self._walk()
        for identity in sorted(new | (unnamed & self._path_of_id.keys())):
            self.entity_of[identity] = self._entity(identity)
        self._find_gone()
        self._table.take_names()

    def _hear_of_births(self) -> None:
        """The oldest are let go of: whoever is in them is known by now."""
        self._made.update(self._births())
        while len(self._made) > _MADE_KEPT:
            del self._made[next(iter(self._made))]

    def live(self) -> list[Cgroup]:
        """Those that have charts; the same list as long as nothing changes."""
        return self._table.live()

    def gone(self) -> dict[int, Cgroup | None]:
        """By entity those that have gone, in every tick until they are released or come back. The charts of
        each are obsolete; None has had none."""
        return {entity: self._table.shown.get(entity) for entity in self._table.all_gone()}

    def release(self, entity: int) -> None:
        """Frees an entity that is in `gone()`; ValueError for any other.

        First its charts are made obsolete and its totals cleared: the successor of an aggregator that is
        killed meanwhile finds it gone still, and does both again.
        """
        self._table.release(entity)
        self._idle_since_s.pop(entity, None)
        for identity in self._left_out:
            del self.entity_of[identity]  # there is a place now
        self._left_out.clear()

    @property
    def left_out(self) -> int:
        """How many ids found no place."""
        return len(self._left_out)

    def _should_walk(self, not_found: set[int], unnamed: set[int]) -> bool:
        now_s = self._clock()
        if now_s < self._next_walk_s:
            return False
        never_looked_for = not_found - unnamed
        return bool(never_looked_for) or (bool(unnamed) and now_s - self._walked_s >= _RETRY_S)

    def _walk(self) -> None:
        began_s = self._clock()
        found = walk(self._mount_point)
        self._path_of_id.maps[0] = found.path_of_id
        self._walked_s = self._clock()
        self._next_walk_s = self._walked_s + _REST * (self._walked_s - began_s)
        self._tell(found.error)

    def _entity(self, identity: int) -> int:
        path = self._path_of_id.get(identity)
        if path is None:
            return self._without_path(identity)
        counted = counted_in(path)
        if counted is None:
            self._table.forget_id(identity)
            return NO_ENTITY
        stored = Counted(_fitting(counted.path), counted.kind)
        entity = self._table.entity_of_path.get(stored.path)
        if entity is None:
            entity = self._without_path(identity)
            if entity != NO_ENTITY:
                self._table.name(entity, stored)
        else:
            self._table.revive(entity)
            self._table.forget_id(identity)
        return entity

    def _without_path(self, identity: int) -> int:
        known = self._table.entity_of_id.get(identity)
        if known is not None:
            self._table.revive(known)
            return known
        entity = self._table.take(identity)
        if entity is None:
            self._left_out.add(identity)
            self._tell_full()
            return NO_ENTITY
        return entity

    def _find_gone(self) -> None:
        """Looks at entities that no process is in: few, since systemd and container engines remove a cgroup
        when the last process has left it."""
        now_s = self._clock()
        idle = self._table.in_use() - set(self.entity_of.values())
        self._idle_since_s = {
            entity: self._idle_since_s.get(entity, now_s) for entity in idle if not self._there(entity)
        }
        for entity, since_s in self._idle_since_s.items():
            if entity not in self._table.shown or now_s - since_s >= REMEMBERED_S:
                self._table.mark_gone(entity)

    def _there(self, entity: int) -> bool:
        """Whether its folder exists; one that must not be looked at may. A path that had to be cut is not
        found, so such a cgroup has gone when its processes have."""
        found = self._table.shown.get(entity)
        if found is None:
            return False
        try:
            os.stat(self._mount_point + found.path)
        except OSError as error:
            return error.errno not in VANISHED
        return True

    def _tell(self, error: OSError | None) -> None:
        """Once for each kind of trouble, until there is none."""
        number = (error.errno or 0) if error else 0
        if error and number != self._told_errno:
            log.warning(
                "cgroups: %s cannot be read: %s; what is not seen there has no charts of its own; "
                "tried again every %d s while a process is in it",
                error.filename,
                error.strerror,
                _RETRY_S,
            )
        self._told_errno = number

    def _tell_full(self) -> None:
        if not self._told_full:
            log.warning(
                "cgroups: there are more than %d services and containers; the rest counts for the host only",
                MAX_CGROUPS,
            )
        self._told_full = True


class _Table:
    """The entities in use, in shared memory, and what is made from it.

    shown: services and containers by entity. entity_of_id: of those without path.
    """

    def __init__(self, memory_fd: int) -> None:
        at = arrays.views(memory_fd, cgroup_fields(), writable=True)
        self._at = at
        self._flags, self._id = at["flags"], at["id"]
        self._path, self._path_bytes = at["path"], at["path_bytes"]
        self.shown: dict[int, Cgroup] = {}
        self.entity_of_path: dict[str, int] = {}
        self.entity_of_id: dict[int, int] = {}
        self._chart_types: set[str] = set()
        self._named: set[int] = set()
        self._free: list[int] = []
        self._live: list[Cgroup] | None = None  # None: something has changed
        for entity in reversed(range(MAX_CGROUPS)):
            self._restore(entity)

    def take_names(self) -> None:
        """Those that have been found since the last call."""
        for entity in np.flatnonzero(self._at["asked"] == NAMED).tolist():
            if entity in self.shown and entity not in self._named:
                self._named.add(entity)
                self._live = None
                self.shown[entity] = _restored(self._at, entity)

    def live(self) -> list[Cgroup]:
        if self._live is None:
            self._live = [found for entity, found in self.shown.items() if not self.is_gone(entity)]
        return self._live

    def in_use(self) -> set[int]:
        return {*self.shown, *self.entity_of_id.values()}

    def all_gone(self) -> list[int]:
        gone: list[int] = np.flatnonzero(self._flags & _GONE).tolist()
        return gone

    def is_gone(self, entity: int) -> bool:
        return bool(self._flags[entity] & _GONE)

    def mark_gone(self, entity: int) -> None:
        self._flags[entity] |= _GONE
        self._live = None

    def revive(self, entity: int) -> None:
        self._flags[entity] &= ~_GONE & 0xFF
        self._live = None

    def take(self, identity: int) -> int | None:
        """A free entity for an id without path, None when there is none."""
        if not self._free:
            return None
        entity = self._free.pop()
        self._id[entity] = identity
        self._flags[entity] = _USED
        self.entity_of_id[identity] = entity
        return entity

    def name(self, entity: int, counted: Counted) -> None:
        """Gives an entity without path its path."""
        encoded = os.fsencode(counted.path)
        self._path[entity, : len(encoded)] = list(encoded)
        self._path_bytes[entity] = len(encoded)
        self._at["asked"][entity] = counted.kind is Kind.CONTAINER and may_have_one(counted.path)
        distinct = chart_type(counted.path, counted.kind, distinct=False) in self._chart_types
        self._flags[entity] = _USED | _FLAG_OF_KIND[counted.kind] | (_DISTINCT if distinct else 0)
        del self.entity_of_id[int(self._id[entity])]
        self._show(entity)

    def forget_id(self, identity: int) -> None:
        """For an id without path whose processes are counted elsewhere from here on, or nowhere: what its own
        entity counted while the folder could not be read is not shown any more."""
        entity = self.entity_of_id.get(identity)
        if entity is not None:
            self.mark_gone(entity)

    def release(self, entity: int) -> None:
        if not self.is_gone(entity):
            raise ValueError(f"cgroup entity {entity} is not gone: it came back, or was released before")
        found = self.shown.pop(entity, None)
        self._live = None
        if found:
            del self.entity_of_path[found.path]
            self._chart_types.discard(found.chart_type)
        else:
            del self.entity_of_id[int(self._id[entity])]
        self._flags[entity] = 0
        self._at["asked"][entity] = 0
        self._named.discard(entity)
        self._free.append(entity)

    def _restore(self, entity: int) -> None:
        flags = int(self._flags[entity])
        if flags & (_SERVICE | _CONTAINER):
            self._show(entity)
        elif flags & _USED:
            self.entity_of_id[int(self._id[entity])] = entity
        else:
            self._free.append(entity)

    def _show(self, entity: int) -> None:
        found = _restored(self._at, entity)
        self.shown[entity] = found
        self._live = None
        self.entity_of_path[found.path] = entity
        self._chart_types.add(found.chart_type)


def listed(at: Mapping[str, npt.NDArray[Any]]) -> list[Cgroup]:
    """The services and containers of a table that another process writes to; `at` are its fields."""
    shown = (at["flags"] & (_SERVICE | _CONTAINER) != 0) & (at["flags"] & _GONE == 0)
    return [_restored(at, entity) for entity in np.flatnonzero(shown).tolist()]


def _restored(at: Mapping[str, npt.NDArray[Any]], entity: int) -> Cgroup:
    flags = int(at["flags"][entity])
    kind = Kind.SERVICE if flags & _SERVICE else Kind.CONTAINER
    path = os.fsdecode(bytes(at["path"][entity, : at["path_bytes"][entity]]))
    distinct = bool(flags & _DISTINCT)
    name = _given_name(at, entity, path) or name_of(path, kind)
    return Cgroup(entity, path, kind, name, chart_type(path, kind, distinct=distinct))


def _given_name(at: Mapping[str, npt.NDArray[Any]], entity: int, path: str) -> str:
    """That which was found on disk (supervisor/namer.py), "" without one."""
    if at["asked"][entity] != NAMED or int(at["name_of"][entity]) != mark_of(os.fsencode(path)):
        return ""
    return os.fsdecode(bytes(at["name"][entity, : at["name_bytes"][entity]]))


def _fitting(path: str) -> str:
    """The path, or one of PATH_BYTES that stands for it alone."""
    encoded = os.fsencode(path)
    if len(encoded) <= PATH_BYTES:
        return path
    mark = f"~{digest(path)}"
    return os.fsdecode(encoded[: PATH_BYTES - len(mark)]) + mark
