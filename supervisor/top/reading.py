"""Reads, at one moment, what every program has counted so far, from the supervisor's own memory.

A place is whom events are counted for: an app group, a cgroup, or a slot. Counts are running totals; a place
whose owner changes begins at 0, or goes on from where the last owner left it.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator import cgroups
from supervisor.aggregator.cgroup_names import Kind
from supervisor.aggregator.connections import LIVE_SHIFT, Service, service_of
from supervisor.aggregator.ledger import settled
from supervisor.aggregator.storage import FIRST_GROUP, HOST, MAX_CGROUPS, NOBODY, cgroup_fields, slot_fields
from supervisor.kernel import arrays
from supervisor.kernel.arrays import TASK, U64Array
from supervisor.kernel.maps import ROWS_PER_PAGE, TASK_LIVE, KernelMap, MapInfo, used_pages
from supervisor.pipeline.ledger import SAMPLED_NS, Shape
from supervisor.top import CONNECTION_FIELDS, By
from workers import registry
from workers.connections import COUNTERS, OTHER_INBOUND, OTHER_OUTBOUND
from workers.declaration import Program

NO_PROCESS: Final = "(no process)"
# A commit takes far less time than this many readings.
_TRIES: Final = 5
_DIRECTION: Final = {False: "out", True: "in"}


class NoConnections(Exception):
    """The network viewer is off, or the program that counts for it does not run."""


@dataclass(frozen=True)
class Label:
    """Who a place belongs to. facts: more about it, as columns."""

    name: str
    facts: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """programs: their declarations. running: which of them take samples. sampled_ns: when each was read from
    the kernel last, 0 = never. host: u64 [programs], of the whole host. counted: what of each place.
    labels: by place; others are nobody's."""

    programs: Sequence[Program]
    running: Sequence[bool]
    sampled_ns: Sequence[int]
    host: U64Array
    counted: Sequence["Counted"]
    labels: Mapping[int, Label]


@dataclass(frozen=True)
class Counted:
    """A column: the events of one program, or something of a connection. counts: u64 [places]. whole: of the
    host, to tell which columns have most to tell. adds_up: its rate is part of a row's total."""

    name: str
    sampled_ns: int
    counts: U64Array
    whole: int
    adds_up: bool = True


class Memory:
    """What the supervisor has offered (offer.py): its answer, and the descriptors, which it closes."""

    def __init__(self, answer: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        self._descriptors = descriptors
        self._answer = answer
        self._groups: list[str] = answer["groups"]
        self._first_cgroup = FIRST_GROUP + answer["group_places"]
        self._programs = [registry.find(program["name"]) for program in answer["programs"]]
        count = len(self._programs)
        self._ledgers = [
            arrays.views(fd, Shape(*program["ledger"]).fields(), writable=False)
            for fd, program in zip(descriptors[:count], answer["programs"], strict=True)
        ]
        slots_fd, cgroups_fd, *more_fds = descriptors[count:]
        shape: Sequence[int] | None = answer["connections"]
        map_fds = more_fds[1:] if shape else more_fds
        self._connections = (
            arrays.views(more_fds[0], Shape(*shape).fields(), writable=False) if shape else None
        )
        self._slots = arrays.views(slots_fd, slot_fields(answer["slots"]), writable=False)
        self._cgroups = arrays.views(cgroups_fd, cgroup_fields(), writable=False)
        self._maps = {
            info[0]: KernelMap(MapInfo(*info), fd) for info, fd in zip(answer["maps"], map_fds, strict=True)
        }

    def close(self) -> None:
        for fd in self._descriptors:
            os.close(fd)

    def read(self, by: By) -> Reading:
        """Raises NoConnections."""
        running = [program["running"] for program in self._answer["programs"]]
        counts_of, labels = self._ways().get(by, (_nothing, dict))
        read = [
            settled(ledger, functools.partial(self._counts, n, counts_of), _TRIES)
            for n, ledger in enumerate(self._ledgers)
        ]
        named = labels()
        if by == "connections":
            counted, named = self._read_connections()
        else:
            counted = [
                Counted(program.name, sampled_ns, counts, host)
                for program, runs, (sampled_ns, host, counts) in zip(
                    self._programs, running, read, strict=True
                )
                if runs and program.kind == "slot"
            ]
        return Reading(
            self._programs,
            running,
            [sampled_ns for sampled_ns, _, _ in read],
            np.array([host for _, host, _ in read], np.uint64),
            counted,
            named,
        )

    def _read_connections(self) -> tuple[list[Counted], Mapping[int, Label]]:
        """Each service that has a row, and the rows of all others."""
        if self._connections is None:
            raise NoConnections
        sampled_ns, rows = settled(self._connections, _rows_of_services, _TRIES)
        counted = [
            Counted(
                name,
                sampled_ns,
                rows[:, column],
                int(rows[:, column].sum(dtype=np.uint64)),
                adds_up=not name.endswith("_bytes"),
            )
            for column, name in enumerate(CONNECTION_FIELDS)
        ]
        identity = rows[:, COUNTERS:]
        live = np.flatnonzero(identity[:, 2] >> LIVE_SHIFT & np.uint64(0xFF)).tolist()
        labels = {
            row: Label("(others)", {"direction": _DIRECTION[inbound], "protocol": ""})
            for row, inbound in ((OTHER_OUTBOUND, False), (OTHER_INBOUND, True))
        }
        return counted, labels | {row: _label(service_of(identity[row].tolist())) for row in live}

    def _ways(self) -> Mapping[By, tuple["_CountsOf", Callable[[], Mapping[int, Label]]]]:
        first, groups = self._first_cgroup, slice(NOBODY, FIRST_GROUP + len(self._groups))
        in_cgroups = slice(first, first + MAX_CGROUPS)
        return {
            "apps": (lambda n, at: self._totals(n, at, groups), self._app_labels),
            "cgroups": (lambda n, at: self._totals(n, at, in_cgroups), lambda: self._listed(Kind.CONTAINER)),
            "services": (lambda n, at: self._totals(n, at, in_cgroups), lambda: self._listed(Kind.SERVICE)),
            "pids": (self._rows, self._process_labels),
        }

    def _counts(self, number: int, counts_of: "_CountsOf", at: "_Ledger") -> tuple[int, int, U64Array]:
        """When, how many of the host, how many of each place."""
        totals = self._totals(number, at, slice(HOST, HOST + 1 if self._by_slot(number) else None))
        return int(at["head"][SAMPLED_NS]), int(totals.sum(dtype=np.uint64)), counts_of(number, at)

    def _by_slot(self, number: int) -> bool:
        return self._programs[number].kind == "slot"

    def _totals(self, number: int, at: "_Ledger", entities: slice) -> U64Array:
        program = self._programs[number]
        if program.kind != "slot" and entities.start != HOST:
            return np.zeros(entities.stop - entities.start, np.uint64)
        counted: U64Array = at["totals"][entities][:, program.of_events].sum(axis=1, dtype=np.uint64)
        return counted

    def _rows(self, number: int, at: "_Ledger") -> U64Array:
        """Of each slot that was ever given."""
        program, used = self._programs[number], self._used_slots()
        if program.kind != "slot":
            return np.zeros(used, np.uint64)
        shards = self._answer["programs"][number]["shards"]
        columns = [program.first_column + column for column in program.of_events]
        rows = at["baseline"][: used * shards][:, columns]
        counted: U64Array = rows.reshape(used, -1).sum(axis=1, dtype=np.uint64)
        return counted

    def _used_slots(self) -> int:
        return used_pages(self._maps) * ROWS_PER_PAGE if self._maps else 0

    def _tasks(self) -> npt.NDArray[Any]:
        return arrays.records(self._maps["task"], TASK, used_pages(self._maps))

    def _app_labels(self) -> dict[int, Label]:
        processes = np.zeros(len(self._groups), np.int_)
        if self._maps:
            tasks = self._tasks()
            live = np.flatnonzero(tasks["state"] & TASK_LIVE)
            groups = self._slots["group"][live]
            processes = np.bincount(groups[groups >= 0], minlength=len(self._groups))
        named = enumerate(zip(self._groups, processes.tolist(), strict=False), FIRST_GROUP - NOBODY)
        return {0: Label(NO_PROCESS, {"processes": 0})} | {
            place: Label(name, {"processes": count}) for place, (name, count) in named
        }

    def _listed(self, kind: Kind) -> dict[int, Label]:
        return {
            found.entity: Label(found.name) for found in cgroups.listed(self._cgroups) if found.kind is kind
        }

    def _process_labels(self) -> dict[int, Label]:
        if not self._maps:
            return {}
        tasks = self._tasks()
        return {
            slot: Label(
                arrays.comm(tasks[slot]),
                {
                    "pid": int(tasks["tgid"][slot]),
                    "ppid": int(tasks["ppid"][slot]),
                    "app": self._group_of(slot),
                },
            )
            for slot in np.flatnonzero(tasks["state"] & TASK_LIVE).tolist()
        }

    def _group_of(self, slot: int) -> str:
        group = int(self._slots["group"][slot])
        return self._groups[group] if 0 <= group < len(self._groups) else ""


def _nothing(number: int, at: "_Ledger") -> U64Array:
    return np.zeros(0, np.uint64)


def _rows_of_services(at: "_Ledger") -> tuple[int, U64Array]:
    """When, and u64 [rows, words] as workers/connections.py has them."""
    return int(at["head"][SAMPLED_NS]), at["baseline"].copy()


def _label(service: Service) -> Label:
    """Named as it is written with numbers: 192.0.2.1:443, [2001:db8::1]:443, of a server :443 alone."""
    host = "" if service.address is None else str(service.address)
    facts = {"direction": _DIRECTION[service.inbound], "protocol": service.protocol}
    return Label(f"{f'[{host}]' if ':' in host else host}:{service.port}", facts)


_Ledger = Mapping[str, npt.NDArray[Any]]
_CountsOf = Callable[[int, _Ledger], U64Array]
