"""The kernel's table of connections by itself: rows are given, kept, and given to others when idle."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pytest

from supervisor import linux, spawn
from supervisor.aggregator.storage import idle_fields
from supervisor.config import networks
from supervisor.config.model import Connections
from supervisor.kernel import arrays, cpus, identities, loader, reading
from supervisor.kernel.arrays import U64Array, words
from supervisor.kernel.handover import Loaded
from supervisor.kernel.maps import KernelMap, MapInfo
from supervisor.kernel.plans import Family, Preference
from supervisor.kernel.request import Request, Tables
from supervisor.pipeline import memory
from tests.kernel.conftest import PLANS
from tests.kernel.test_latency_of_calls import load
from workers.connections import CONNECTIONS, FIRST_ROW, IDLE, Idling, fitted
from workers.socket import PROGRAM

pytestmark = pytest.mark.kernel

ROWS: Final = 256
ADDRESS: Final = "127.9.8.7"  # nobody else's, and nobody listens
SENT, SENT_BYTES, TENURE_SHIFT = 0, 1, 32
SETTINGS: Final = Connections(ROWS, 500, False, False, networks.Selection(), networks.Selection(), "*", {})


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    """The program's kernel objects, without any process of a supervisor."""
    found, _ = reading.find("auto", spawn.find_account(None))
    if not found.mapped:
        pytest.skip("rows are given again only where maps are mapped")
    program = fitted(PROGRAM, SETTINGS)
    hooks = tuple(hook for hook in program.hooks if hook.name in ("udp sent", "connections"))
    defines = identities.defines(256, str(loader.PINS), cpus.possible(), found.map_flags)

    def prepare(tables: Tables) -> None:
        for name, values in program.prepare.items():
            tables.push(name, values)

    plans = Preference() if PLANS[0] == "auto" else Preference((cast(Family, PLANS[0]),))
    request = Request(
        program.source,
        hooks,
        "entry",
        plans,
        {**defines, **program.defines, "SHARDS": 1, "COLLECT": 0},
        {},
        "rows",
        prepare,
        numbers=program.numbers,
    )
    made = load(request)
    try:
        if not {hook.name for hook in hooks} <= {report.hook for report in made.hooks if report.attached}:
            pytest.skip(f"connections cannot be told apart here: {made.error or made.hooks}")
        yield made
    finally:
        made.close()


def send(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(bytes(100), (ADDRESS, port))


def mark(loaded: Loaded, rows: npt.NDArray[np.bool_]) -> None:
    """As the worker does it where the aggregator says so."""
    fd = memory.create(IDLE, ROWS)
    try:
        arrays.views(fd, idle_fields(ROWS), writable=True)["idle"][:] = rows
        idle = KernelMap(MapInfo(IDLE, 1, ROWS, linux.BPF_F_MMAPABLE), fd)
        Idling({**loaded.maps, IDLE: idle}).mark()
    finally:
        os.close(fd)


def row_of(rows: U64Array, port: int) -> int | None:
    """Where a service of ours is."""
    address = int.from_bytes(socket.inet_aton(ADDRESS), "little")
    found = [
        row
        for row in range(FIRST_ROW, len(rows))
        if int(rows[row, 5]) == address and int(rows[row, 7]) & 0xFFFF == port and int(rows[row, 7]) >> 48 & 1
    ]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_row_that_is_idle_is_given_to_the_next_service_and_no_other_is(loaded: Loaded) -> None:
    rows = words(loaded.maps["connections"])
    for port in range(20000, 20000 + ROWS):
        send(port)
    assert int((rows[FIRST_ROW:, 7] >> 48 & 1).sum()) == ROWS - FIRST_ROW
    send(30000)
    assert row_of(rows, 30000) is None
    assert int(rows[0, SENT]) >= 3

    idle = row_of(rows, 20000)
    assert idle is not None
    before = rows[:, SENT_BYTES].copy()
    quiet = rows[:, 0] < 0
    quiet[idle] = True
    mark(loaded, quiet)
    for port in range(30001, 30001 + ROWS // 4):
        send(port)  # each looks at a few rows in turn, until one of them comes by the idle one
    taken = [port for port in range(30001, 30001 + ROWS // 4) if row_of(rows, port) is not None]
    assert [row_of(rows, port) for port in taken] == [idle]
    assert row_of(rows, 20000) is None
    assert int(rows[idle, 7]) >> TENURE_SHIFT & 0xFFFF == 2
    assert int(rows[idle, SENT_BYTES] - before[idle]) == 100


def test_use_takes_the_mark_from_an_idle_row(loaded: Loaded) -> None:
    rows = words(loaded.maps["connections"])
    send(20000)
    row = row_of(rows, 20000)
    assert row is not None
    mark(loaded, rows[:, SENT] > 0)
    assert int(rows[row, 7]) >> 56 == 1
    send(20000)
    assert int(rows[row, 7]) >> 56 == 0
    assert int(rows[row, SENT]) == 2


def test_the_table_takes_no_more_memory_than_its_share(loaded: Loaded) -> None:
    """64 bytes and about 100 of the hash for each row, by the kernel's own account."""
    own = ("connections", "services", "turns")
    told = {name: Path(f"/proc/self/fdinfo/{loaded.maps[name].fd}").read_text() for name in own}
    used = sum(int(text.partition("memlock:")[2].split()[0]) for text in told.values())
    assert used <= ROWS * 200 + 3 * 8192
    assert CONNECTIONS.rows * 200 < 2 << 20


def test_what_is_told_apart_follows_the_size_of_the_table() -> None:
    program = fitted(PROGRAM, replace(SETTINGS, table_size=1000))
    assert program.defines["CONNECTIONS"] == 768
    assert program.companion
    assert program.companion.rows == 768
    assert fitted(PROGRAM, None).defines["CONNECTIONS"] == 0
