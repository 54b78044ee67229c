"""The aggregator: takes every program's samples, joins them with identities, and writes the stream.

A cycle: wait for the tick's samples up to a deadline · identities · commit each program · tell the kernel
how far all is settled · one frame. A program that is late is simply not in that frame.
"""

import logging
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from supervisor import linux
from supervisor.aggregator import board as boards
from supervisor.aggregator.account import Account, IndexArray
from supervisor.aggregator.apps_groups import AppsGroups
from supervisor.aggregator.cgroup_births import PATHS, TALLIES, CgroupBirths
from supervisor.aggregator.cgroups import Cgroups
from supervisor.aggregator.charts import ChartWriter, Groups, shown
from supervisor.aggregator.connections import ConnectionAccount
from supervisor.aggregator.conservation import Conservation
from supervisor.aggregator.groups import AppCharts, CgroupCharts
from supervisor.aggregator.identities import Identities
from supervisor.aggregator.internal import ConnectionFacts, Facts, InternalCharts
from supervisor.aggregator.output import Output, ReaderGone
from supervisor.aggregator.readers import Readers
from supervisor.aggregator.resolver import Names
from supervisor.aggregator.storage import FIRST_GROUP, NOBODY, ConnectionMemory, Storage
from supervisor.aggregator.stream import Frame
from supervisor.config import model
from supervisor.kernel.identities import SETTLED_NS
from supervisor.kernel.maps import USED_PAGES, KernelMap, Words
from supervisor.pipeline.channel import Receiver
from supervisor.pipeline.sample import BadSample, unpack
from supervisor.stop import StopFlag, hung_up
from workers.declaration import Program, Scope

# Exit statuses that the supervisor understands.
DONE: Final = 0  # the stream has no reader, or all frames asked for are written: stop everything
STOPPED: Final = 3  # told to stop

# Maps of the core program that are read here; those of cgroups are there when cgroups are told apart.
MAPS: Final = ("task", "words", USED_PAGES, PATHS, TALLIES)

_NS: Final = 1_000_000_000
# How much of an interval a frame waits for late samples and for room in the pipe, and the most it ever does.
_LATE_SHARE: Final = 0.4
_LATE_MOST_S: Final = 0.5
# Samples come in the first moments of a tick, one after the other: they are taken in together, not each by a
# waking of its own.
_TOGETHER_S: Final = 0.04
_REPEAT_S: Final = 60.0
# More than a tick of a crowded machine takes for the moment.
_KEPT_BYTES: Final = 2 << 20

log = logging.getLogger("aggregator")


@dataclass(frozen=True)
class Duty:
    """One program, or a program's companion, as the aggregator is given it.

    place: the program's on the board.
    """

    program: Program
    storage: Storage
    update_every_s: int
    apps: bool
    cgroups: bool
    place: int
    connections: "ConnectionDuty | None" = None


@dataclass(frozen=True)
class ConnectionDuty:
    """What it takes besides to tell connections apart. names: the channel to the resolver, or None."""

    settings: model.Connections
    memory: ConnectionMemory
    names: socket.socket | None

    def descriptors(self) -> set[int]:
        names = {self.names.fileno()} if self.names else set()
        return {self.memory.lines_fd, self.memory.idle_fd, *names}


@dataclass(frozen=True)
class Assignment:
    """What the aggregator is given.

    group_places: how many groups there can ever be. identity_maps: those of the core program that are read
    here, empty when nothing is counted by process. cgroups_folder: where cgroups are mounted; cgroups_root:
    the cgroup that is seen there. serves: stream_fd is a socket that readers connect to. modern: the naming
    of charts. agent: the agent's version. internal_charts: whether charts of the plugin itself are wanted.
    last_frame: number of the frame to stop after, 0 = go on.
    """

    duties: tuple[Duty, ...]
    groups: AppsGroups
    group_places: int
    identity_maps: Mapping[str, KernelMap]
    board_fd: int
    identities_fd: int
    cgroups_fd: int
    cgroups_folder: Path | None
    cgroups_root: str
    stream_fd: int
    serves: bool
    samples_path: Path
    update_every_s: int
    modern: bool
    agent: tuple[int, int]
    internal_charts: bool
    last_frame: int
    ready: socket.socket
    lifeline: socket.socket

    def descriptors(self) -> set[int]:
        storages = [duty.storage for duty in self.duties]
        connections = [duty.connections for duty in self.duties if duty.connections]
        return {
            *(fd for each in connections for fd in each.descriptors()),
            *(storage.table_fd for storage in storages),
            *(storage.ledger_fd for storage in storages),
            *(held.fd for held in self.identity_maps.values()),
            self.board_fd,
            self.identities_fd,
            self.cgroups_fd,
            self.stream_fd,
            self.ready.fileno(),
            self.lifeline.fileno(),
        }


def run(assignment: Assignment) -> int:
    """The aggregator's main function; returns its exit status."""
    linux.keep_freed_memory(_KEPT_BYTES)
    stop = StopFlag()
    with Receiver(assignment.samples_path) as receiver:
        receiver.watch(assignment.lifeline.fileno())
        receiver.watch(stop.wakeup.fileno())
        aggregator = _Aggregator(assignment, receiver)
        assignment.ready.send(b"READY")
        try:
            while not stop:
                if hung_up(assignment.lifeline):
                    return STOPPED
                if aggregator.cycle(stop):
                    aggregator.finish()
                    return DONE
        except ReaderGone:
            return DONE
        aggregator.commit()
        aggregator.take_leave()
    return STOPPED


@dataclass(frozen=True)
class _Said:
    """What stands in a frame. gone: entities that it withdraws. about_us: it has charts of the plugin."""

    fresh: tuple[tuple[Account, ChartWriter], ...]
    gone: tuple[int, ...]
    about_us: bool


class _Aggregator:
    def __init__(self, given: Assignment, receiver: Receiver) -> None:
        self._given = given
        self._receiver = receiver
        programs = [duty for duty in given.duties if not duty.connections]
        self._board = boards.Board(given.board_fd, len(programs))
        self._output = Readers(given.stream_fd) if given.serves else Output(given.stream_fd)
        self._accounts = [self._account(duty) for duty in given.duties]
        self._by_name = {account.program.name: account for account in self._accounts}
        self._writers = [self._writer(*pair) for pair in zip(self._accounts, given.duties, strict=True)]
        self._apps = AppCharts(given.groups.names, FIRST_GROUP)
        self._conservation = Conservation(self._accounts[: len(programs)], given.group_places)
        self._internal = InternalCharts([duty.program.name for duty in programs], self._board)
        self._facts_due_s = 0.0
        self._before = (
            self._board.progress[boards.BIRTHS],
            self._board.progress[boards.ENDS],
        )  # a former aggregator's
        self._identities: Identities | None = None
        self._cgroups: CgroupCharts | None = None
        self._words: Words | None = None
        self._settled_ns = 0
        if given.identity_maps:
            self._identities = Identities(given.identity_maps, given.groups, given.identities_fd)
            if given.cgroups_folder and any(duty.cgroups for duty in given.duties):
                births = CgroupBirths(given.identity_maps, given.cgroups_root)
                self._cgroups = CgroupCharts(
                    Cgroups(given.cgroups_folder, given.cgroups_fd, births=births.news),
                    FIRST_GROUP + given.group_places,
                    self._identities.slots,
                )
            self._words = Words(given.identity_maps["words"])
        self._under_way: _Said | None = None
        self._first = True
        self._dropped = 0
        self._dropped_told_s = -_REPEAT_S

    def _account(self, duty: Duty) -> Account:
        if duty.connections:
            given = duty.connections
            names = Names(given.names) if given.names else None
            return ConnectionAccount(duty.program, duty.storage, given.settings, given.memory, names)
        taken, lost = int(self._board.taken[duty.place]), int(self._board.lost[duty.place])
        return Account(duty.program, duty.storage, taken, lost)

    def _attached(self, number: int) -> bool:
        """Whether an account's program has its kernel objects."""
        return bool(self._board.attached[self._given.duties[number].place])

    def _writer(self, account: Account, duty: Duty) -> ChartWriter:
        left_out = {scope for scope, wanted in (("apps", duty.apps), ("cgroup", duty.cgroups)) if not wanted}
        if not duty.cgroups:
            left_out.add("services")
        given = self._given
        charts = [
            chart
            for chart in account.program.charts
            if chart.scope not in left_out and shown(chart.naming, given.modern, given.agent)
        ]
        return ChartWriter(account, charts, duty.update_every_s, given.modern)

    def cycle(self, stop: StopFlag) -> bool:
        """One tick; True when the last frame asked for has been written."""
        tick = time.monotonic_ns() // (self._given.update_every_s * _NS) + 1
        self._wait_until(tick * self._given.update_every_s * _NS, stop)
        self._gather(tick, stop)
        if stop:
            return False
        self.commit()
        return self._write_frame()

    def finish(self) -> None:
        """The last frame has been made: readers get a moment to take it."""
        self._output.go_on(_LATE_MOST_S)

    def commit(self) -> None:
        """Takes what has come in, and tells the kernel up to when everything is taken."""
        self._drain()
        self._take_pending()
        self._settle()
        self._board.progress[boards.CYCLE_NS] = time.monotonic_ns()

    def take_leave(self) -> None:
        """Withdraws the charts that the next aggregator will not show. A reader that sleeps is not waited
        for: it keeps them until the agent forgets them."""
        frame = Frame()
        leaving_of = self._board.leaving.tolist()
        for duty, writer in zip(self._given.duties, self._writers, strict=True):
            leaving = leaving_of[duty.place]
            writer.withdraw_some(frame, [scope for scope, bit in boards.LEAVING.items() if leaving & bit])
        patience_s = self._patience_s()
        if frame.blocks and (not self._under_way or self._output.go_on(patience_s)):
            self._output.send(frame, patience_s)

    def _take_pending(self) -> None:
        groupings: list[IndexArray] = []
        if self._identities:
            self._identities.refresh(self._settled_ns)
            groupings = [self._identities.group_of_slot + np.int32(FIRST_GROUP)]
            self._apps.update(self._identities.processes)
            if self._cgroups:
                self._cgroups.update(self._identities.cgroup_of_slot, self._identities.owned)
                groupings.append(self._cgroups.entity_of_slot)
            self._board.progress[boards.BIRTHS] = self._before[0] + self._identities.births
            self._board.progress[boards.ENDS] = self._before[1] + self._identities.ends
        for number, account in enumerate(self._accounts):
            account.take(groupings)
            duty = self._given.duties[number]
            if not duty.connections:
                self._board.taken[duty.place] = account.taken
                self._board.lost[duty.place] = account.lost
                self._board.events[duty.place] = account.events

    def _wait_until(self, due_ns: int, stop: StopFlag) -> None:
        """Until the tick begins; samples that come early are taken in."""
        while not stop and (left_ns := due_ns - time.monotonic_ns()) > 0:
            if not self._wait(left_ns / _NS):
                return

    def _gather(self, tick: int, stop: StopFlag) -> None:
        """Until every program that is due has announced its sample, or it is too late for the frame."""
        every_s = self._given.update_every_s
        deadline_ns = time.monotonic_ns() + int(self._patience_s() * _NS)
        now_s = tick * every_s
        if not stop and self._missing(now_s):
            time.sleep(_TOGETHER_S)
            self._drain()
        while not stop and (left_ns := deadline_ns - time.monotonic_ns()) > 0 and self._missing(now_s):
            # A sample that repeats the last one comes without a message.
            if not self._wait(min(left_ns / _NS, _TOGETHER_S)):
                return

    def _wait(self, timeout_s: float) -> bool:
        """For samples, which are taken in, and for room at readers; False when the supervisor is gone."""
        blocked = self._output.blocked()
        if self._receiver.wait(timeout_s, blocked):
            self._drain()
        elif hung_up(self._given.lifeline):
            return False
        if blocked:
            self._output.go_on()
        return True

    def _patience_s(self) -> float:
        return min(_LATE_MOST_S, _LATE_SHARE * self._given.update_every_s)

    def _missing(self, now_s: int) -> bool:
        """Whether a sample is still to come. A program counts that has its kernel objects and has
        announced something before: a first sample is not waited for."""
        for number, (account, duty) in enumerate(zip(self._accounts, self._given.duties, strict=True)):
            due = now_s % duty.update_every_s == 0
            if due and self._attached(number) and 0 <= account.seen_tick < now_s // duty.update_every_s:
                return True
        return False

    def _drain(self) -> None:
        while (message := self._receiver.receive()) is not None:
            try:
                sample = unpack(message)
                account = self._by_name.get(sample.program)
                if account is None or max(sample.columns, default=0) >= len(account.program.columns):
                    raise BadSample(f"a sample of no program that runs here: {sample.program[:40]!r}")
            except BadSample as error:
                self._tell_dropped(error)
            else:
                if account.must_take_before(sample):
                    self._take_pending()
                account.announce(sample)

    def _tell_dropped(self, error: BadSample) -> None:
        """Once, and then at most once a minute with the number."""
        self._dropped += 1
        if time.monotonic() - self._dropped_told_s > _REPEAT_S:
            log.warning("%d messages on the samples' socket dropped; the last: %s", self._dropped, error)
            self._dropped, self._dropped_told_s = 0, time.monotonic()

    def _settle(self) -> None:
        """The kernel may give a slot again once every program's rows were taken after its owner went."""
        taken = [
            account.ledger.sampled_ns
            for number, account in enumerate(self._accounts)
            if account.program.kind == "slot" and self._attached(number)
        ]
        if self._words and taken:
            self._settled_ns = min(taken)
            self._words.set(SETTLED_NS, self._settled_ns)

    def _write_frame(self) -> bool:
        """Writes a frame, or more of one that is larger than the pipe; True when it was the last one asked
        for."""
        patience_s = self._patience_s()
        if self._under_way:
            written, said = self._output.go_on(patience_s), self._under_way
        else:
            frame, said = self._make_frame()
            if not frame.blocks:
                return False
            written = self._output.send(frame, patience_s)
            self._under_way = said if self._output.under_way else None
            if written or self._under_way:
                for account, _ in said.fresh:
                    account.fresh = False
        if not written:
            return False
        self._under_way = None
        self._sent(said)
        frames = int(self._board.progress[boards.FRAMES])
        return bool(self._given.last_frame) and frames >= self._given.last_frame

    def _make_frame(self) -> tuple[Frame, _Said]:
        frame = Frame()
        groups: dict[Scope, Groups] = {"apps": self._apps.groups}
        gone: tuple[int, ...] = ()
        if self._cgroups:
            groups |= {"services": self._cgroups.services, "cgroup": self._cgroups.containers}
            gone = tuple(self._cgroups.gone())
        fresh = []
        for number, (account, writer) in enumerate(zip(self._accounts, self._writers, strict=True)):
            if not self._attached(number) and writer.visible:
                writer.withdraw(frame)
                fresh.append((account, writer))
            elif account.fresh:
                writer.write(frame, account.groups if isinstance(account, ConnectionAccount) else groups)
                fresh.append((account, writer))
        for number, counters in enumerate(self._conservation.look()):
            self._board.apart[number] = counters
        # Not before the supervisor has posted its own part: what then came would show as a jump.
        due = time.monotonic() >= self._facts_due_s and self._board.progress[boards.CPU_MS] > 0
        about_us = self._given.internal_charts and bool(fresh) and due
        if about_us:
            self._internal.write(frame, self._facts())
        return frame, _Said(tuple(fresh), gone, about_us)

    def _sent(self, said: _Said) -> None:
        """The agent has all of a frame now."""
        if said.about_us:
            self._internal.sent()
            self._facts_due_s = time.monotonic() + boards.FACTS_EVERY_S - _LATE_MOST_S
        for _, writer in said.fresh:
            writer.sent()
        for entity in said.gone:
            self._let_go(entity)
        self._board.progress[boards.FRAMES] += 1
        if self._first:
            self._first = False
            # Of what was needed to begin.
            linux.let_go_of_files()
            linux.let_go_of_freed_memory()

    def _let_go(self, entity: int) -> None:
        """The charts of a cgroup have been withdrawn: its place is another one's, unless it has come back."""
        if self._cgroups is None or entity not in self._cgroups.gone():
            return
        for account, writer in zip(self._accounts, self._writers, strict=True):
            if account.program.kind == "slot":
                writer.clear(entity)
        self._cgroups.release(entity)

    def _connection_facts(self) -> ConnectionFacts | None:
        found = (account for account in self._accounts if isinstance(account, ConnectionAccount))
        account = next(found, None)
        return ConnectionFacts(account.rows, account.used_rows, account.folded) if account else None

    def _facts(self) -> Facts:
        if self._identities is None:
            return Facts(connections=self._connection_facts())
        by_slot = [account for account in self._accounts if account.program.kind == "slot"]
        return Facts(
            slots=self._identities.slots,
            used_slots=int(self._identities.processes.sum()),
            births=int(self._board.progress[boards.BIRTHS]),
            ends=int(self._board.progress[boards.ENDS]),
            events=sum(account.events for account in by_slot),
            unattributed=sum(account.events_of(NOBODY) for account in by_slot),
            connections=self._connection_facts(),
        )
