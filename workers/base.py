"""What every worker does: each tick it reads its program's maps, puts the rows that changed into the shared
table, and announces them with one message.

It has no privilege, no kernel object of its own, and no state that its successor would miss.
"""

import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from supervisor.kernel.maps import KernelMap, Maps, U64Array, used_pages
from supervisor.pipeline import ledger, sample, table
from supervisor.pipeline.channel import Sender
from supervisor.stop import StopFlag
from workers.declaration import Program


@dataclass(frozen=True)
class Assignment:
    """What a worker is given.

    columns: those that there are. hooks: names of the attached ones. shards: rows of one slot. ready: written
    to once the first sample is out. lifeline: becomes readable when the supervisor has gone.
    """

    program: Program
    generation: int
    columns: frozenset[int]
    hooks: frozenset[str]
    maps: Mapping[str, KernelMap]
    shards: int
    table_fd: int
    table_shape: table.Shape
    ledger_fd: int
    ledger_shape: ledger.Shape
    samples_path: Path
    update_every_s: int
    ready: socket.socket
    lifeline: socket.socket

    def descriptors(self) -> set[int]:
        held = {held.fd for held in self.maps.values()}
        return held | {self.table_fd, self.ledger_fd, self.ready.fileno(), self.lifeline.fileno()}


def run(assignment: Assignment) -> int:
    """The worker's main function; returns its exit status."""
    stop = StopFlag()
    worker = _Worker(assignment)
    worker.sample()
    assignment.ready.send(b"READY")
    every_ns = assignment.update_every_s * 1_000_000_000
    poller = select.poll()
    poller.register(assignment.lifeline.fileno(), select.POLLIN)
    poller.register(stop.wakeup.fileno(), select.POLLIN)
    while not stop:
        due_ns = (time.monotonic_ns() // every_ns + 1) * every_ns
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            for fd, _ in poller.poll(left_ns // 1_000_000 + 1):
                if fd == assignment.lifeline.fileno():
                    return 0
            if stop:
                break
        worker.sample()
    worker.close()
    return 0


class _Worker:
    def __init__(self, assignment: Assignment) -> None:
        self._given = assignment
        self._program = assignment.program
        self._table = table.Writer(assignment.table_fd, assignment.table_shape)
        self._baseline = ledger.Baseline(assignment.ledger_fd, assignment.ledger_shape)
        self._columns = tuple(sorted(assignment.columns))
        self._sender = Sender(assignment.samples_path)

    def sample(self) -> None:
        """Reads, writes, announces; never waits. A message that nobody takes is not made up for: the
        next one says the same."""
        program, given = self._program, self._given
        sampled_ns = time.monotonic_ns()
        live = self._read()
        numbers = self._baseline.changed(given.generation, live)
        sequence = self._table.sequence + 1
        self._table.write(sequence, numbers, live[numbers])
        announced = sample.Sample(
            program=program.name,
            generation=given.generation,
            sequence=sequence,
            tick=sampled_ns // (given.update_every_s * 1_000_000_000),
            sampled_ns=sampled_ns,
            rows=len(numbers),
            columns=self._columns,
            gauges=program.gauges(given.maps) if program.gauges else {},
            names=program.names(given.maps, given.hooks) if program.names else {},
            losses=program.losses(given.maps) if program.losses else 0,
        )
        self._sender.send(sample.pack(announced))

    def _read(self) -> U64Array:
        read = self._program.read or self._read_rows
        return read(self._given.maps)

    def _read_rows(self, maps: Maps) -> U64Array:
        """The first columns of the map `rows`, a slot's shards added up; slots never given are left out."""
        shards = self._given.shards
        pages = used_pages(maps) * shards if self._program.kind == "slot" else 0
        words = maps["rows"].words(pages)[:, : len(self._program.columns)]
        if shards > 1:
            words = words.reshape(-1, shards, words.shape[1]).sum(axis=1, dtype=np.uint64)
        return words[: self._given.table_shape.rows]

    def close(self) -> None:
        self._sender.close()
