"""Connections: the second table of the program socket, a row for each remote service and for each port that
is listened on (kernel_progs/include/connections.h).

    word 0 to 4   counters
    word 5, 6     the remote address, in network order; of IPv4 its first four bytes
    word 7        port (16 bits) · protocol (8) · kind (8) · tenure (16) · live (8) · idle (8)

The words of who it is travel with the row, so that a row never comes without its name. A row that has not
changed for long is marked idle: the kernel may give it to another service then.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.kernel.maps import ROWS_PER_PAGE, Maps
from workers.declaration import Column, Program

if TYPE_CHECKING:
    from supervisor.config.model import Connections

ROWS: Final = "connections"
IDLE: Final = "idle"  # memory of the aggregator's, not the kernel's: a byte for each row
HOOK: Final = "connections"

# Rows of all others: services that had no row, and datagrams whose other end is not known.
OTHER_OUTBOUND: Final = 0
OTHER_INBOUND: Final = 1
FIRST_ROW: Final = 2
COUNTERS: Final = 5

# Of the kind.
INBOUND: Final = 1
VERSION_6: Final = 2

IDLE_AFTER_S: Final = 300
_LOOK_EVERY_S: Final = 10
_STRIDE_BYTES: Final = 64
_IDLE_BYTE: Final = 63
_LIVE_BYTE: Final = 62

_PORTS_PER_PAGE: Final = 1024
_TCP_FILES: Final = ("net/tcp", "net/tcp6")
_LISTEN: Final = "0A"  # TCP_LISTEN as /proc/net/tcp writes it


class Idling:
    """Marks those rows idle that the aggregator has found to be: it knows since when all of a row is taken.
    Where maps are read by look-ups, none."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._look_s = time.monotonic() + _LOOK_EVERY_S

    def after_sample(self) -> None:
        if time.monotonic() >= self._look_s and self._maps[ROWS].mapped:
            self._look_s = time.monotonic() + _LOOK_EVERY_S
            self.mark()

    def mark(self) -> None:
        """A row that is used meanwhile loses the mark by that."""
        with self._maps[IDLE].open() as content:
            idle = bytes(content.bytes)
        if 1 not in idle:
            return
        live = self._maps[ROWS].writable()
        rows = live.bytes()
        for row in (row for row, is_idle in enumerate(idle) if is_idle):
            if rows[row * _STRIDE_BYTES + _LIVE_BYTE]:
                rows[row * _STRIDE_BYTES + _IDLE_BYTE] = 1
        del rows
        live.close()


def listening_pages() -> Mapping[int, bytes]:
    """Pages of the map `listening`: those with a port that a TCP server has now, in any network namespace."""
    pages: dict[int, bytearray] = {}
    for port in _listening_ports():
        page = pages.setdefault(port // _PORTS_PER_PAGE, bytearray(_PORTS_PER_PAGE))
        page[port % _PORTS_PER_PAGE] = 1
    return {number: bytes(page) for number, page in pages.items()}


def _listening_ports() -> Iterator[int]:
    for process in _a_process_of_each_namespace():
        for name in _TCP_FILES:
            with contextlib.suppress(OSError):  # it has ended meanwhile, or there is no IPv6
                for line in (process / name).read_text().splitlines()[1:]:
                    _, local, _, state, *_ = line.split()
                    if state == _LISTEN:
                        yield int(local.rpartition(":")[2], 16)


def _a_process_of_each_namespace() -> list[Path]:
    found: dict[str, Path] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                found.setdefault((process / "ns" / "net").readlink().name, process)
    return list(found.values())


def fitted(program: Program, wanted: "Connections | None") -> Program:
    """A program with connections as the configuration wants them: a table of its size, or none."""
    if program.companion is None:
        return program
    if wanted is None:
        none = dict.fromkeys(program.defines, 0)
        return replace(program, companion=None, defines=none, prepare={}, fill={})
    rows = wanted.table_size // ROWS_PER_PAGE * ROWS_PER_PAGE
    return replace(
        program,
        companion=replace(program.companion, rows=rows),
        defines=defines(rows, wanted.by_address),
        prepare=prepared(rows),
    )


def defines(rows: int, by_address: bool = False) -> Mapping[str, int]:
    return {"CONNECTIONS": rows, "CONNECTIONS_BY_ADDRESS": int(by_address)}


def prepared(rows: int) -> Mapping[str, range]:
    """The rows that services can have wait for their turn."""
    return {"turns": range(FIRST_ROW, rows)}


CONNECTIONS: Final = Program(
    name="connections",
    source="socket.bpf.c",
    hooks=(),
    columns=(
        Column("sent", "tcp sent"),
        Column("sent_bytes", "tcp sent"),
        Column("received", "tcp received"),
        Column("received_bytes", "tcp received"),
        Column("retransmitted", "tcp retransmit"),
    ),
    kind="device",
    rows=32 * ROWS_PER_PAGE,
    row_words=8,
    table=ROWS,
    maps=(ROWS,),
    tender=Idling,
)
