"""Connections: which line of the charts each row of the connections' table is counted in.

    row ──▶ who it is ──▶ ports, ips, hostnames: shown at all? ──▶ its name ──▶ a line, or `other`

As many lines as `maximum dimensions` says are given to whom comes first; the rest is counted in the line of
all others, so that the sums are the same. When all lines are taken, those whose connections have been idle
for long are given to others. What has been counted stays where it was.

The lines' names live in memory that the supervisor owns: the next aggregator counts on in the same lines.
"""

import ipaddress
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from supervisor.aggregator import storage
from supervisor.aggregator.account import Account, IndexArray
from supervisor.aggregator.charts import Group, Groups
from supervisor.aggregator.resolver import Names
from supervisor.aggregator.simple_patterns import SimplePattern
from supervisor.aggregator.storage import LINE_BYTES, OTHERS, ConnectionMemory, Storage
from supervisor.config.model import Connections as Settings
from supervisor.config.networks import Address
from supervisor.kernel import arrays
from supervisor.kernel.arrays import U32Array, U64Array
from workers.connections import (
    COUNTERS,
    FIRST_ROW,
    IDLE_AFTER_S,
    INBOUND,
    OTHER_INBOUND,
    OTHER_OUTBOUND,
    VERSION_6,
)
from workers.declaration import Program, Scope

_PROTOCOLS: Final = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP"}
_OTHER: Final = "other:ALL:other"
_LOOK_EVERY_S: Final = 10.0

# Instead of an entity.
NOT_SHOWN: Final = -1
WAITING: Final = -2  # for its name: its counts stay in the kernel
UNKNOWN: Final = -3

LIVE_SHIFT: Final = np.uint64(48)
_IDLE_SHIFT: Final = np.uint64(56)
_BYTE: Final = np.uint64(0xFF)
_NOT_IDLE: Final = np.uint64((1 << 56) - 1)


class Service(NamedTuple):
    """Who a row is. port: the remote one of an outbound service, the own one of an inbound. address: of the
    other end, None where that is not told apart."""

    inbound: bool
    protocol: str
    port: int
    address: Address | None


def service_of(words: Sequence[int]) -> Service:
    """From the last three words of a row."""
    port, protocol, kind = words[2] & 0xFFFF, words[2] >> 16 & 0xFF, words[2] >> 24 & 0xFF
    packed = words[0].to_bytes(8, "little") + words[1].to_bytes(8, "little")
    version_6 = bool(kind & VERSION_6)
    address = ipaddress.IPv6Address(packed) if version_6 else ipaddress.IPv4Address(packed[:4])
    known = version_6 or any(packed)
    name = _PROTOCOLS.get(protocol, str(protocol))
    return Service(bool(kind & INBOUND), name, port, address if known else None)


class Naming:
    """What a service is called, and whether it is shown. names: None where hosts are not resolved."""

    def __init__(self, settings: Settings, names: Names | None) -> None:
        self._settings = settings
        self._names = names
        words = settings.hostnames.split()
        self._refused = [SimplePattern(w[1:], case_sensitive=False) for w in words if w.startswith("!")]
        self._wanted = [SimplePattern(w, case_sensitive=False) for w in words if not w.startswith("!")]

    def name(self, service: Service) -> str | int:
        """The name of its line, or NOT_SHOWN, or WAITING."""
        if not self._settings.ports.has(service.port):
            return NOT_SHOWN
        if service.address and not self._settings.addresses.has_address(service.address):
            return NOT_SHOWN
        host = self._host(service.address)
        if host is None:
            return WAITING
        if self._names and service.address and not self._wants_host(host):
            return NOT_SHOWN
        first = f"{self._service(service)}:{service.protocol}"
        if service.inbound:
            return _cut(first)
        return _cut(f"{first}:{f'[{host}]' if ':' in host else host}")

    def _host(self, address: Address | None) -> str | None:
        """Its name, else its address in text; None while the name may still come."""
        if address is None:
            return "0.0.0.0"
        if self._names is None:
            return str(address)
        name = self._names.of(str(address))
        return name if name is None or name else str(address)

    def _wants_host(self, host: str) -> bool:
        if any(pattern.matches(host) for pattern in self._refused):
            return False
        return not self._wanted or any(pattern.matches(host) for pattern in self._wanted)

    def _service(self, service: Service) -> str:
        name = self._settings.names.get(service.port)
        if name is None and self._settings.resolve_services:
            try:
                name = socket.getservbyport(service.port, service.protocol.lower())
            except OSError:
                name = None
        return _clean(name) if name else str(service.port)


def _clean(name: str) -> str:
    """A name from a file: nothing in it that has a meaning in the stream or in our own names."""
    return "".join(c if c.isprintable() and c not in "'\"\\=: " else "_" for c in name)[:64]


def _cut(name: str) -> str:
    return name.encode()[:LINE_BYTES].decode("utf-8", "ignore")


class Lines:
    """Which entity has which name; entities are given to names and taken back."""

    def __init__(self, fd: int, settings: Settings) -> None:
        at = arrays.views(fd, storage.line_fields(settings), writable=True)
        self._names: npt.NDArray[Any] = at["name"].view(f"S{LINE_BYTES}").reshape(-1)
        each = storage.lines(settings)
        self._of: Mapping[bool, range] = {
            False: range(OTHERS, OTHERS + each),
            True: range(OTHERS + each, OTHERS + 2 * each),
        }
        self._entity = {
            (inbound, self._names[entity].decode()): entity
            for inbound, numbers in self._of.items()
            for entity in numbers
            if self._names[entity]
        }
        self._free = {
            inbound: [entity for entity in reversed(numbers) if not self._names[entity]]
            for inbound, numbers in self._of.items()
        }
        self.changed = True

    def find(self, inbound: bool, name: str) -> int | None:
        return self._entity.get((inbound, name))

    def has_free(self, inbound: bool) -> bool:
        return bool(self._free[inbound])

    def give(self, inbound: bool, name: str) -> int:
        """A free line, which there must be."""
        entity = self._free[inbound].pop()
        self._names[entity] = name.encode()
        self._entity[inbound, name] = entity
        self.changed = True
        return entity

    def take_back(self, entities: Iterable[int]) -> None:
        for entity in entities:
            inbound = entity in self._of[True]
            del self._entity[inbound, self._names[entity].decode()]
            self._names[entity] = b""
            self._free[inbound].append(entity)
            self.changed = True

    def given(self, inbound: bool) -> list[int]:
        return [entity for (of, _), entity in self._entity.items() if of == inbound]

    def groups(self, inbound: bool) -> Groups:
        names = {entity: name for (of, name), entity in self._entity.items() if of == inbound}
        other = OTHER_INBOUND if inbound else OTHER_OUTBOUND
        named = tuple(Group(entity, names[entity], "", names[entity]) for entity in sorted(names))
        return (*named, Group(other, _OTHER, "", _OTHER))


class ConnectionAccount(Account):
    """The account of connections: its entities are lines of charts."""

    def __init__(
        self,
        program: Program,
        held: Storage,
        settings: Settings,
        memory: ConnectionMemory,
        names: Names | None,
    ) -> None:
        super().__init__(program, held)
        self._names = names
        self._naming = Naming(settings, names)
        self._lines = Lines(memory.lines_fd, settings)
        rows = held.ledger_shape.rows
        self._to_mark = arrays.views(memory.idle_fd, storage.idle_fields(settings.table_size), writable=True)
        self._used_s = np.full(rows, time.monotonic())
        self._identity = np.zeros((rows, 3), np.uint64)
        self._entity_of_row = np.full(rows, UNKNOWN, np.int32)
        self._entity_of_row[:FIRST_ROW] = (OTHER_OUTBOUND, OTHER_INBOUND)
        self._idle = np.zeros(rows, np.bool_)
        # What a former aggregator gave lines to may be in use, and is not known before it changes.
        self._look_s = dict.fromkeys((False, True), time.monotonic() + IDLE_AFTER_S)
        self._look_for_idle_s = 0.0
        self._groups: dict[Scope, Groups] = {}

    @property
    def groups(self) -> Mapping[Scope, Groups]:
        if self._lines.changed:
            self._groups = {"outbound": self._lines.groups(False), "inbound": self._lines.groups(True)}
            self._lines.changed = False
        return self._groups

    @property
    def rows(self) -> int:
        """How many services can have a row."""
        return len(self.ledger.baselines) - FIRST_ROW

    @property
    def used_rows(self) -> int:
        live = self.ledger.baselines[:, COUNTERS + 2] >> LIVE_SHIFT & _BYTE
        return int(np.count_nonzero(live))

    @property
    def folded(self) -> int:
        """Calls that were counted at no service, since the kernel objects were made."""
        return int(self.ledger.baselines[:FIRST_ROW, [0, 2, 4]].sum(dtype=np.uint64))

    def ready(self, numbers: U32Array, values: U64Array) -> tuple[U32Array, U64Array]:
        """Rows that wait for a name are left for a later sample, which has them again."""
        if self._names:
            self._names.take_answers()
        self._look_for_idle(numbers)
        self._meet(numbers, values[:, COUNTERS:])
        known = self._entity_of_row[numbers] != WAITING
        return numbers[known], values[known]

    def added(
        self, numbers: U32Array, deltas: U64Array, groupings: Sequence[IndexArray]
    ) -> tuple[U32Array, U64Array]:
        entity = self._entity_of_row[numbers]
        shown = entity >= 0
        changed, places = np.unique(entity[shown], return_inverse=True)
        sums = np.zeros((len(changed), deltas.shape[1]), np.uint64)
        np.add.at(sums, places, deltas[shown])
        return changed.astype(np.uint32), sums

    def _look_for_idle(self, changed: U32Array) -> None:
        """changed: rows that have something which was not taken. The worker marks those that have not had any
        for long."""
        now_s = time.monotonic()
        self._used_s[changed] = now_s
        if now_s < self._look_for_idle_s:
            return
        self._look_for_idle_s = now_s + _LOOK_EVERY_S
        quiet = (now_s - self._used_s >= IDLE_AFTER_S) & ~self._idle
        quiet[:FIRST_ROW] = False
        self._to_mark["idle"][:] = quiet[: len(self._to_mark["idle"])]

    def _meet(self, numbers: U32Array, identity: U64Array) -> None:
        """Finds out who those rows are that are new, or another's now, or not yet known."""
        self._idle[numbers] = (identity[:, 2] >> _IDLE_SHIFT & _BYTE) != 0
        identity = identity.copy()
        identity[:, 2] &= _NOT_IDLE
        entity = self._entity_of_row[numbers]
        other = (self._identity[numbers] != identity).any(axis=1) | (entity <= WAITING)
        for inbound, together in ((False, OTHER_OUTBOUND), (True, OTHER_INBOUND)):
            among = (entity == together) & (numbers >= FIRST_ROW)
            if among.any() and self._has_line(inbound):
                other |= among
        other &= numbers >= FIRST_ROW
        for number, words in zip(numbers[other].tolist(), identity[other].tolist(), strict=True):
            self._identity[number] = words
            self._entity_of_row[number] = self._entity(service_of(words))

    def _entity(self, service: Service) -> int:
        name = self._naming.name(service)
        if isinstance(name, int):
            return name
        found = self._lines.find(service.inbound, name)
        if found is None and self._has_line(service.inbound):
            found = self._lines.give(service.inbound, name)
        if found is None:
            return OTHER_INBOUND if service.inbound else OTHER_OUTBOUND
        return found

    def _has_line(self, inbound: bool) -> bool:
        """Whether there is a free line, or one could be taken back."""
        return self._lines.has_free(inbound) or self._take_back_idle(inbound)

    def _take_back_idle(self, inbound: bool) -> bool:
        """Takes lines back whose rows are all idle; looked for now and then. Whether there was any."""
        now_s = time.monotonic()
        if now_s < self._look_s[inbound]:
            return False
        self._look_s[inbound] = now_s + _LOOK_EVERY_S
        busy = set(np.unique(self._entity_of_row[~self._idle]).tolist())
        idle = [entity for entity in self._lines.given(inbound) if entity not in busy]
        self._entity_of_row[np.isin(self._entity_of_row, idle)] = UNKNOWN
        self._lines.take_back(idle)
        for entity in idle:
            self.ledger.clear(entity)
        return bool(idle)
