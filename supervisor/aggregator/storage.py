"""The shared memory of the aggregator: what the supervisor makes and keeps for it. Without numpy, which the
supervisor does not have."""

import os
from dataclasses import dataclass
from typing import Final

from supervisor.config.model import Connections
from supervisor.pipeline import ledger, memory, table
from workers.declaration import Program

# How many cgroups a program's totals are kept for at a time; Netdata's cgroups.plugin follows as many.
MAX_CGROUPS: Final = 1000

PATH_BYTES: Final = 512
NAME_BYTES: Final = 200

# A container has its files a moment after its cgroup, at the latest.
MOST_TRIES: Final = 9
NAMED: Final = 254
NAMELESS: Final = 255

# Entities of a program that counts by slot: all of its rows together, those of no known process (slot 0), the
# app groups, and behind these the cgroups.
HOST: Final = 0
NOBODY: Final = 1
FIRST_GROUP: Final = 2


@dataclass(frozen=True)
class Storage:
    """The shared memory of one program, as descriptors and shapes. shards: rows of one slot."""

    table_fd: int
    table_shape: table.Shape
    ledger_fd: int
    ledger_shape: ledger.Shape
    shards: int = 1


# Entities of connections: first those of all others, as their rows; then lines, outbound and inbound.
OTHERS: Final = 2
LINE_BYTES: Final = 160


@dataclass(frozen=True)
class ConnectionMemory:
    """What connections need besides, as descriptors. lines: their names. idle: a byte for each row, set by
    the aggregator where a worker is to mark it idle."""

    lines_fd: int
    idle_fd: int


def lines(wanted: Connections) -> int:
    """How many lines with a name each direction has: a connection has a sent and a received side."""
    return min(max(1, wanted.maximum_dimensions // 2), wanted.table_size)


def line_fields(wanted: Connections) -> dict[str, memory.Field]:
    return {"name": ("B", (OTHERS + 2 * lines(wanted), LINE_BYTES))}


def idle_fields(rows: int) -> dict[str, memory.Field]:
    return {"idle": ("B", (rows,))}


def create_connections(wanted: Connections) -> ConnectionMemory:
    return ConnectionMemory(
        memory.create("connections", memory.size_of(line_fields(wanted))),
        memory.create("idle", memory.size_of(idle_fields(wanted.table_size))),
    )


def create(
    program: Program, slots: int, groups: int, shards: int, cpus: int, wanted: Connections | None = None
) -> Storage:
    """groups: how many app groups there are. cpus: how many rows a program has that keeps one for each.
    wanted: of the table of connections, how they are told apart."""
    rows = slots * shards if program.kind == "slot" else cpus if program.by_cpu else program.rows
    table_shape = table.shape_for(rows, program.words)
    ledger_shape = ledger.Shape(
        table_shape.blocks * table_shape.words // program.words,
        program.words,
        OTHERS + 2 * lines(wanted) if wanted else entities(program, groups),
        len(program.totals),
    )
    return Storage(
        table.create(program.name, table_shape),
        table_shape,
        ledger.create(program.name, ledger_shape),
        ledger_shape,
        shards,
    )


def close(made: Storage) -> None:
    os.close(made.table_fd)
    os.close(made.ledger_fd)


def entities(program: Program, groups: int, cgroups: int = MAX_CGROUPS) -> int:
    """How many rows of totals the program has: one for the host, nobody, each app group and each cgroup, or
    one for each device."""
    return FIRST_GROUP + groups + cgroups if program.kind == "slot" else program.rows


def cgroup_fields() -> dict[str, memory.Field]:
    """Of each entity of a cgroup. id: of one without path, else 0. asked: whether its name is (supervisor/
    namer.py): 0 = no, up to MOST_TRIES the number of the next try, NAMED, or NAMELESS. name_of: whose the
    name is, by `mark_of` its path: the place may have gone to another one meanwhile."""
    return {
        "flags": ("B", (MAX_CGROUPS,)),
        "id": ("Q", (MAX_CGROUPS,)),
        "path_bytes": ("H", (MAX_CGROUPS,)),
        "path": ("B", (MAX_CGROUPS, PATH_BYTES)),
        "asked": ("B", (MAX_CGROUPS,)),
        "name_of": ("Q", (MAX_CGROUPS,)),
        "name_bytes": ("B", (MAX_CGROUPS,)),
        "name": ("B", (MAX_CGROUPS, NAME_BYTES)),
    }


def mark_of(path: bytes) -> int:
    """64 bits that tell paths apart, in all processes alike."""
    import hashlib  # half a megabyte, for machines with containers only

    return int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "little")


def slot_fields(slots: int) -> dict[str, memory.Field]:
    """What a restarted aggregator goes on from: the group each slot's owner had, which owner, and whether the
    group was that of its own name."""
    return {"group": ("i", (slots,)), "start_ns": ("Q", (slots,)), "own": ("B", (slots,))}


def create_cgroups() -> int:
    """For the table of cgroups."""
    return memory.create("cgroups", memory.size_of(cgroup_fields()))


def create_slots(slots: int) -> int:
    """For the groups of slots."""
    return memory.create("identities", memory.size_of(slot_fields(slots)))
