"""What every worker does: each tick it reads its program's maps, puts the blocks of rows that changed into
the shared table, and announces them with one message. Where nothing is new, the table tells that.

It has no privilege, no kernel object of its own, and no state that its successor would miss.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgpack

from supervisor import linux
from supervisor.kernel.maps import (
    ROWS_PER_PAGE,
    USED_PAGES,
    WORD_BYTES,
    Content,
    KernelMap,
    MapInfo,
    used_pages,
)
from supervisor.pipeline import ledger, memory, sample, table
from supervisor.pipeline.channel import Sender
from workers.declaration import Column, Program

_NS: Final = 1_000_000_000


class Assignment(NamedTuple):
    """What a worker is given.

    columns: those that there are. hooks: names of the attached ones. ready_fd: of a socket that is written to
    once the first sample is out.
    """

    program: Program
    generation: int
    columns: frozenset[int]
    hooks: frozenset[str]
    maps: Mapping[str, KernelMap]
    table_fd: int
    table_layout: table.Layout
    ledger_fd: int
    ledger_layout: ledger.Layout
    samples_path: str
    update_every_s: int
    ready_fd: int

    def descriptors(self) -> list[int]:
        """In the order in which `from_message` expects them."""
        return [self.table_fd, self.ledger_fd, self.ready_fd, *(held.fd for held in self.maps.values())]

    def to_message(self) -> bytes:
        """All of it but the descriptors."""
        (
            program,
            generation,
            columns,
            hooks,
            maps,
            _,
            table_layout,
            _,
            ledger_layout,
            path,
            every_s,
            _,
        ) = self
        infos = [(name, *held.info) for name, held in maps.items()]
        packed: bytes = msgpack.packb(
            [
                *(program.name, generation, list(columns), list(hooks), infos),
                *(table_layout, ledger_layout, path, every_s),
            ]
        )
        return packed


def to_message(assignments: Sequence[Assignment]) -> tuple[bytes, list[int]]:
    """What a worker with several tables is given: a message, and descriptors."""
    packed: bytes = msgpack.packb([(a.to_message(), len(a.descriptors())) for a in assignments])
    return packed, [fd for assignment in assignments for fd in assignment.descriptors()]


def from_message(
    message: bytes, descriptors: Sequence[int], programs: Mapping[str, Program]
) -> list[Assignment]:
    """The same as the worker has it, with descriptors of its own. programs: by name, companions too."""
    found, left = [], list(descriptors)
    for part, count in msgpack.unpackb(message):
        found.append(_from_message(part, left[:count], programs))
        del left[:count]
    return found


def _from_message(message: bytes, descriptors: Sequence[int], programs: Mapping[str, Program]) -> Assignment:
    name, generation, columns, hooks, infos, table_layout, ledger_layout, path, every_s = msgpack.unpackb(
        message
    )
    table_fd, ledger_fd, ready_fd, *map_fds = descriptors
    return Assignment(
        programs[name],
        generation,
        frozenset(columns),
        frozenset(hooks),
        {info[0]: KernelMap(MapInfo(*info[1:]), fd) for info, fd in zip(infos, map_fds, strict=True)},
        table_fd,
        table.Layout(*table_layout),
        ledger_fd,
        ledger.Layout(*ledger_layout),
        path,
        every_s,
        ready_fd,
    )


def run(assignments: Sequence[Assignment]) -> int:
    """The worker's main function; returns its exit status. SIGTERM must be blocked: it is waited for."""
    supervisor = os.getppid()
    assignment = assignments[0]
    sender = Sender(assignment.samples_path)
    workers = [_Worker(each, sender.send) for each in assignments]

    def sample() -> None:
        for worker in workers:
            worker.sample()

    sample()
    os.write(assignment.ready_fd, b"READY")
    every_ns = assignment.update_every_s * _NS
    while not _told_to_stop((time.monotonic_ns() // every_ns + 1) * every_ns):
        # Its end kills us (PR_SET_PDEATHSIG); this is for the case that it should not.
        if os.getppid() != supervisor:
            return 0
        sample()
    sample()
    sender.close()
    return 0


def _told_to_stop(due_ns: int) -> bool:
    """Waits until the moment has come, or less long if SIGTERM does; whether it was that."""
    left_ns = due_ns - time.monotonic_ns()
    return signal.sigtimedwait(_STOP, max(0, left_ns) / _NS) is not None


_STOP: Final = (signal.SIGTERM,)


def warm_up() -> None:
    """Does what a worker does each second, with memory that stands for a kernel's and for nobody to listen:
    what Python makes at first use is there when copies are made, and need not be made in each."""
    columns = 4
    program = Program("warm-up", "", (), tuple(Column(str(n), "") for n in range(columns)), row_words=columns)
    info = MapInfo("rows", 1, ROWS_PER_PAGE * columns * WORD_BYTES, linux.BPF_F_MMAPABLE)
    table_shape = table.shape_for(ROWS_PER_PAGE, columns)
    ledger_shape = ledger.Shape(ROWS_PER_PAGE, columns, entities=1, totals=columns)
    table_fd, ledger_fd = table.create(program.name, table_shape), ledger.create(program.name, ledger_shape)
    rows_fd = memory.create("rows", info.stride_bytes)
    used_info = MapInfo(USED_PAGES, 1, 8, linux.BPF_F_MMAPABLE)
    used_fd = memory.create(USED_PAGES, used_info.stride_bytes)
    given = Assignment(
        program=program,
        generation=0,
        columns=frozenset(range(columns)),
        hooks=frozenset(),
        maps={"rows": KernelMap(info, rows_fd), USED_PAGES: KernelMap(used_info, used_fd)},
        table_fd=table_fd,
        table_layout=table_shape.layout(),
        ledger_fd=ledger_fd,
        ledger_layout=ledger_shape.layout(table_shape.block_bytes),
        samples_path="",
        update_every_s=1,
        ready_fd=-1,
    )
    [given] = from_message(*to_message([given]), {program.name: program})
    worker = _Worker(given, lambda message: True)
    for _ in range(_SPECIALISED):
        worker.sample()
        _told_to_stop(0)
    for fd in (table_fd, ledger_fd, rows_fd, used_fd):
        os.close(fd)


# So often a function is run before CPython 3.11 has rewritten its code for good.
_SPECIALISED: Final = 64


class _Worker:
    """send: takes a message, or drops it; never waits."""

    def __init__(self, assignment: Assignment, send: Callable[[bytes], bool]) -> None:
        self._given = assignment
        self._program = assignment.program
        self._table = table.Writer(assignment.table_fd, assignment.table_layout)
        self._baseline = ledger.Baseline(assignment.ledger_fd, assignment.ledger_layout)
        self._rows_bytes = assignment.ledger_layout.rows_bytes
        self._columns = tuple(sorted(assignment.columns))
        self._tender = self._program.tender(assignment.maps) if self._program.tender else None
        self._send = send
        self._announced = -1  # the last sample that was, and what stood in its message
        self._said: tuple[object, ...] = ()

    def sample(self) -> None:
        """Reads, writes, announces; never waits. A message that nobody takes is not made up for: the
        next one says the same."""
        program, given = self._program, self._given
        sampled_ns = time.monotonic_ns()
        tick = sampled_ns // (given.update_every_s * _NS)
        sequence = self._table.sequence + 1
        said = (
            dict(program.gauges(given.maps)) if program.gauges else {},
            dict(program.names(given.maps, given.hooks)) if program.names else {},
            program.losses(given.maps) if program.losses else 0,
        )
        with self._open() as live:
            size = min(live.size_bytes, self._rows_bytes)
            numbers = self._baseline.changed(given.generation, live.address, size)
            news = bool(numbers) or said != self._said or self._baseline.heard != self._announced
            if news:
                self._table.write(sequence, numbers, live.bytes[:size])
        if news:
            head = (program.name, given.generation, sequence, tick, sampled_ns, len(numbers), self._columns)
            self._send(sample.pack(sample.Sample(*head, *said)))
            self._announced, self._said = sequence, said
        else:
            self._table.repeat(tick, sampled_ns)
        if self._tender:
            self._tender.after_sample()

    def _open(self) -> Content:
        """The rows; of slots those that were ever given."""
        maps, rows = self._given.maps, self._given.maps[self._program.table]
        if self._program.kind != "slot":
            return rows.open()
        shards = rows.info.entries * WORD_BYTES // maps[USED_PAGES].info.stride_bytes
        return rows.open(used_pages(maps) * shards)
