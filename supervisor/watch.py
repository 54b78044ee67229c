"""The watch, once a second: who is hung, how many events come, what the board and systemd are told."""

import collections
import logging
import os
import time
from collections.abc import Sequence
from typing import Final, Protocol

from supervisor import status
from supervisor.aggregator import board as boards
from supervisor.aggregator.board import Board
from supervisor.config.model import Config
from supervisor.loop import Loop
from supervisor.notify import Notifier
from supervisor.pipeline import table
from supervisor.states import State
from supervisor.units.aggregator import AggregatorUnit
from supervisor.units.core import CoreUnit
from supervisor.units.program import ProgramUnit
from supervisor.units.template import TemplateUnit

# How often systemd is told how it goes, while nothing else is to be told.
_SUMMARY_S: Final = 10.0
# How often the arbiter looks after what tells it nothing by itself.
_ROUND_S: Final = 1.0

log = logging.getLogger("ebpf-supervisor")


class Arbiter(Protocol):
    """Whom it watches for."""

    config: Config
    units: list[ProgramUnit]
    core: CoreUnit
    template: TemplateUnit
    aggregator: AggregatorUnit
    loop: Loop
    ending: bool

    @property
    def every_s(self) -> int: ...

    def reader_gone(self) -> bool: ...

    def look_around(self) -> None: ...

    def end(self, why: str, exit_status: int = 0) -> None: ...


class Watch:
    """rates: events per second of each program."""

    def __init__(self, arbiter: Arbiter, board: Board, notifier: Notifier) -> None:
        self._arbiter = arbiter
        self._board = board
        self._notifier = notifier
        self._facts_due_s = 0.0
        self._summary_due_s = 0.0
        self._previous_round_s = time.monotonic()
        programs = len(board.events)
        self._events: list[tuple[float, int]] = [(self._previous_round_s, 0)] * programs
        self.rates = [0.0] * programs

    def begin(self) -> None:
        self._arbiter.loop.after(_ROUND_S, self._round)

    def _round(self) -> None:
        """Once a second. What cannot be looked at for want of descriptors or memory can be later."""
        self._arbiter.loop.after(_ROUND_S, self._round)
        try:
            self._look()
        except OSError as error:
            log.warning("cannot look after everything now: %s", error.strerror or error)

    def _look(self) -> None:
        """The reader, the hung, the rates."""
        arbiter, now_s = self._arbiter, time.monotonic()
        late = now_s - self._previous_round_s > 2 * _ROUND_S
        self._previous_round_s = now_s
        if arbiter.reader_gone():
            arbiter.end("nobody reads the stream any more")
        if not arbiter.ending:
            arbiter.look_around()
            self._notify(now_s)
        if arbiter.config.internal_charts and now_s >= self._facts_due_s:
            self._facts_due_s = now_s + boards.FACTS_EVERY_S / 2
            self._post_facts()
        # After a pause of our own (a stop, a suspended machine) everybody looks hung.
        if not late and not arbiter.ending:
            self._kill_hung(now_s)
        self._take_rates(now_s)

    def _take_rates(self, now_s: float) -> None:
        for number, counted in enumerate(self._board.events.tolist()):
            at_s, before = self._events[number]
            if counted != before or now_s - at_s > self._arbiter.config.update_every_s + _ROUND_S:
                self.rates[number] = max(0, counted - before) / (now_s - at_s)
                self._events[number] = (now_s, counted)

    def _notify(self, now_s: float) -> None:
        """Tells systemd how it goes: ready once there is a frame, or nothing is left to wait for."""
        enabled = [unit for unit in self._arbiter.units if unit.config.enabled]
        under_way = (State.STARTING, State.BACKOFF, State.STOPPED, State.RUNNING)
        frames = int(self._board.progress[boards.FRAMES])
        if frames or not any(unit.state in under_way for unit in enabled):
            self._notifier.ready(self._summary(enabled))
        if now_s >= self._summary_due_s:
            self._summary_due_s = now_s + _SUMMARY_S
            self._notifier.status(self._summary(enabled))
        self._notifier.feed(int(self._board.progress[boards.CYCLE_NS]), now_s)

    def _summary(self, enabled: Sequence[ProgramUnit]) -> str:
        states = collections.Counter(unit.state for unit in enabled)
        counted = ", ".join(
            f"{number} {state.value}"
            for state, number in sorted(states.items(), key=lambda item: item[0] is not State.RUNNING)
        )
        return f"{len(enabled)} programs: {counted}; {sum(self.rates):.0f} events/s"

    def _post_facts(self) -> None:
        """What the charts about ourselves show, and the aggregator cannot know."""
        board, core = self._board, self._arbiter.core
        for unit in self._arbiter.units:
            loaded = list(unit.loaded.maps.values()) if unit.loaded else []
            board.running[unit.number] = unit.state is State.RUNNING
            board.left_s[unit.number] = round(unit.left_s)
            board.method[unit.number] = unit.method
            board.kernel_bytes[unit.number] = unit.kernel_bytes
            board.maps[unit.number] = len(loaded)
            board.entries[unit.number] = sum(held.info.rows for held in loaded)
            board.per_core[unit.number] = unit.config.maps_per_core
        board.kernel_bytes[-1] = core.kernel_bytes
        board.maps[-1] = len(core.loaded.maps) if core.loaded else 0
        cpu_ms = round(1000 * self._cpu_s())
        board.progress[boards.CPU_MS] = max(int(board.progress[boards.CPU_MS]), cpu_ms)

    def _cpu_s(self) -> float:
        """Of all our processes, those that have ended too."""
        arbiter = self._arbiter
        units = (*arbiter.units, arbiter.template, arbiter.aggregator, arbiter.core)
        ended = os.times()
        cpu_s = ended.user + ended.system + ended.children_user + ended.children_system
        return cpu_s + sum(status.usage(unit.child.pid).cpu_s for unit in units if unit.child)

    def _kill_hung(self, now_s: float) -> None:
        ticks = self._arbiter.config.supervision.hung_after_ticks
        for unit in self._arbiter.units:
            if unit.state is State.RUNNING:
                last_s = table.heartbeat(unit.storage.table_fd).published_ns / 1e9
                limit_s = ticks * unit.config.update_every_s
                if now_s - last_s > limit_s and unit.running_s > limit_s:
                    unit.kill(f"hung: no sample for {now_s - last_s:.1f} s")
        aggregator = self._arbiter.aggregator
        limit_s = ticks * self._arbiter.every_s
        last_s = int(self._board.progress[boards.CYCLE_NS]) / 1e9
        running = aggregator.state is State.RUNNING and aggregator.running_s > limit_s
        if running and now_s - last_s > limit_s:
            aggregator.kill(f"hung: no cycle for {now_s - last_s:.1f} s")
