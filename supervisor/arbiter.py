"""The arbiter: it owns what must outlive a crash, watches over every unit, and ends everything in order."""

import dataclasses
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

import supervisor
from supervisor import control, kprobe_events, linux, status, template
from supervisor.aggregator import account, apps_groups, cgroups, connections, internal
from supervisor.aggregator import board as boards
from supervisor.aggregator import identities as slot_groups
from supervisor.aggregator import main as aggregator
from supervisor.aggregator.output import reader_gone, widen
from supervisor.aggregator.stream import DISABLE
from supervisor.commands import Commands
from supervisor.config.model import Config, ProgramConfig
from supervisor.kernel import cgroup_hierarchy, identities, loader, reading
from supervisor.kernel.maps import USED_PAGES
from supervisor.kernel.plans import Preference
from supervisor.loop import Loop
from supervisor.pipeline import ledger, table
from supervisor.runtime_dir import SAMPLES_SOCKET, RuntimeDir
from supervisor.spawn import Account
from supervisor.states import HAS_PROCESS, State
from supervisor.unit import Unit
from supervisor.units import (
    AggregatorUnit,
    CoreUnit,
    House,
    Loaders,
    ProgramUnit,
    ResolverUnit,
    TemplateUnit,
    close_storage,
    places_for_loaders,
)
from workers import base
from workers.connections import fitted
from workers.declaration import Program

# How often the arbiter looks after what tells it nothing by itself.
_ROUND_S: Final = 1.0

log = logging.getLogger("ebpf-supervisor")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run.

    attach: a family of plans, or auto. stream_fd: where frames go. last_frame: stop after so many, 0 = go on.
    """

    config: Config
    account: Account
    attach: str
    stream_fd: int
    last_frame: int


class Arbiter:
    """One run, from `run` to its exit status."""

    def __init__(self, options: Options, programs: Mapping[str, Program], runtime_dir: RuntimeDir) -> None:
        self._options = options
        self._config = options.config
        self._runtime_dir = runtime_dir
        self.loop = Loop()
        self.started_s = time.monotonic()
        self.ending = False
        self._exit_status = 0
        self._follows_core = False
        self._facts_due_s = 0.0
        self._previous_round_s = time.monotonic()
        self._commands = Commands(self)
        self._lifeline, theirs = socket.socketpair()
        self._groups, problems = apps_groups.read(self._config.apps_groups_path)
        for problem in problems:
            log.warning("%s", problem)

        configured = list(self._config.programs.values())
        enabled = [c for c in configured if c.enabled]
        self._board_fd = boards.create(len(configured))
        self._board = boards.Board(self._board_fd, len(configured))
        self._events: list[tuple[float, int]] = [(time.monotonic(), 0)] * len(configured)
        self._rates = [0.0] * len(configured)
        self._every_s = min((c.update_every_s for c in enabled), default=self._config.update_every_s)
        self._slots = identities.whole_pages(
            max((c.pid_table_size for c in enabled), default=self._config.pid_table_size)
        )
        found, complaint = reading.find(self._config.map_reading, options.account)
        if complaint:
            log.warning("[supervisor] %s", complaint)
        by_cgroup = any(c.cgroups for c in enabled)
        self.hierarchy = cgroup_hierarchy.find() if by_cgroup else None
        self._identities_fd = slot_groups.create(self._slots)
        self._cgroups_fd = cgroups.create()
        companions = {p.companion.name: p.companion for p in programs.values() if p.companion}
        known = {**programs, **companions}
        account_of_readers = dataclasses.replace(options.account, capability=found.capability)
        self.template = TemplateUnit(
            self.loop,
            self._config.supervision,
            account_of_readers,
            runtime_dir.samples.parent,
            template.Work(
                lambda message, descriptors: base.run(base.from_message(message, descriptors, known)),
                base.warm_up,
            ),
            self._on_change,
        )
        house = House(
            self.loop,
            self._config.supervision,
            account_of_readers,
            runtime_dir.samples.parent,
            theirs,
            options.attach,
            kprobe_events.tag(runtime_dir.path),
            Path(self._config.btf_path),
            Loaders(places_for_loaders()),
            self._on_change,
            self.template,
        )
        self._defines = identities.defines(
            self._slots,
            str(loader.PINS),
            loader.possible_cpus(),
            found.map_flags,
            thread_slots=any(c.collect_pid == "all" for c in enabled),
        )
        self.core = CoreUnit(house, self._core_request, self._on_core, found.description)
        fitting = [fitted(programs[config.name], config.connections) for config in configured]
        self.units = [
            ProgramUnit(
                number,
                program,
                config,
                self._storage(program),
                house,
                self.core,
                self._defines,
                self._set_attached,
                self._storage(program.companion, config) if program.companion else None,
            )
            for number, (program, config) in enumerate(zip(fitting, configured, strict=True))
        ]
        wanted = next((c.connections for c in configured if c.connections), None)
        self._lines_fd = connections.create(wanted) if wanted else -1
        self.resolver = ResolverUnit(house) if wanted and wanted.resolve_hosts else None
        self.aggregator = AggregatorUnit(house, self._assign, self._on_aggregator_done)

    # ---- the run

    def run(self) -> int:
        """Runs until it is told to stop, its reader goes, or nothing can be collected; the exit status."""
        widen(self._options.stream_fd)
        server = control.Server(self._runtime_dir.control, self.loop, self._commands.handlers())
        self._watch_signals()
        self._watch_stdin()
        try:
            self._start_all()
            self.loop.after(_ROUND_S, self._round)
            self.loop.run()
        finally:
            self._release()
            server.close()  # who asked for the end hears of it by this
            self.loop.close()
        return self._exit_status

    def _start_all(self) -> None:
        enabled = [unit for unit in self.units if unit.config.enabled]
        names = ", ".join(unit.name for unit in enabled) or "none"
        log.info("version %s, kernel %s, programs: %s", supervisor.__version__, os.uname().release, names)
        # What workers are copies of: made before anything has grown.
        linux.let_go_of_files()
        self.template.start()
        # The core first: the hooks of a fork must be there before anything is counted by process.
        if self._by_process():
            self.core.start()
        else:
            self.aggregator.start()
        for unit in enabled:
            unit.start()
        if self.resolver:
            self.resolver.start()
        self._check_hopeless()

    def _by_process(self) -> bool:
        return any(unit.program.kind == "slot" for unit in self.units if unit.config.enabled)

    def _on_core(self) -> None:
        """The identities are there, or never will be."""
        if self.aggregator.state is State.STOPPED and not self.ending:
            self.aggregator.start()
        elif self.core.loaded and not self._follows_core:
            # Started for a program that is not counted by process: it is made anew, and then knows processes.
            self.aggregator.signal(signal.SIGTERM)
        for unit in self.units:
            unit.core_is_ready()

    def end(self, why: str, exit_status: int = 0) -> None:
        """Begins the orderly end: workers, then the aggregator, then the kernel objects."""
        if self.ending:
            return
        log.info("stopping: %s", why)
        self.ending, self._exit_status = True, exit_status
        # A last sample is worth a worker's while only if somebody is there to take it.
        heard = self.aggregator.state is State.RUNNING
        for unit in self.units:
            unit.stop(signal.SIGTERM if heard else signal.SIGKILL)
        for helper in self._helpers():
            helper.stop(signal.SIGKILL)
        self._end_further()

    def _helpers(self) -> list[Unit]:
        return [self.template, *([self.resolver] if self.resolver else [])]

    def _end_further(self) -> None:
        """Called at each change of state while ending."""
        if any(unit.state in HAS_PROCESS for unit in [*self.units, *self._helpers()]):
            return
        if self.aggregator.state is not State.STOPPED:
            self.aggregator.stop()
        elif self.core.child:
            self.core.stop()
        else:
            self.loop.stop()

    def _release(self) -> None:
        for unit in [*self.units, self.core]:
            unit.unload()
        for program in self.units:
            close_storage(program.storage)
            if program.companion:
                close_storage(program.companion)
        kprobe_events.clean(kprobe_events.tag(self._runtime_dir.path))

    # ---- what units need

    def _core_request(self) -> loader.Request:
        return identities.request(
            self._slots,
            self.hierarchy,
            self._defines,
            Preference(("tracepoint",)),
            kprobe_events.tag(self._runtime_dir.path),
        )

    def _storage(self, program: Program, config: ProgramConfig | None = None) -> account.Storage:
        """config: whose companion the program is."""
        rows = self._slots if program.kind == "slot" else program.rows
        columns = len(program.columns)
        table_shape = table.Shape(rows, columns)
        entities = account.entities(program, len(self._groups.names), account.MAX_CGROUPS)
        if config and config.connections:
            entities = connections.entities(config.connections)
        ledger_shape = ledger.Shape(rows, columns, entities, len(program.derived_names))
        return account.Storage(
            table.create(program.name, table_shape),
            table_shape,
            ledger.create(program.name, ledger_shape),
            ledger_shape,
        )

    def _assign(self, ready: socket.socket) -> aggregator.Assignment:
        core = self.core.loaded.maps if self.core.loaded else {}
        self._follows_core = bool(core)
        return aggregator.Assignment(
            (*map(self._duty, self.units), *(d for u in self.units for d in self._companion_duty(u))),
            self._groups,
            {name: core[name] for name in ("task", "words", USED_PAGES)} if core else {},
            self._board_fd,
            self._identities_fd,
            self._cgroups_fd,
            self.hierarchy.mount_point if self.hierarchy else None,
            self._options.stream_fd,
            Path(SAMPLES_SOCKET),
            self._every_s,
            self._config.modern_charts,
            self._config.agent_version,
            self._config.internal_charts,
            self._options.last_frame,
            ready,
            self.core.house.lifeline,
        )

    @staticmethod
    def _duty(unit: ProgramUnit) -> aggregator.Duty:
        config = unit.config
        return aggregator.Duty(
            unit.program, unit.storage, config.update_every_s, config.apps, config.cgroups, unit.number
        )

    def _companion_duty(self, unit: ProgramUnit) -> Iterator[aggregator.Duty]:
        if unit.program.companion and unit.companion and unit.config.connections:
            names = self.resolver.aggregators_end if self.resolver else None
            given = aggregator.ConnectionDuty(unit.config.connections, self._lines_fd, names)
            duty = self._duty(unit)
            yield dataclasses.replace(
                duty, program=unit.program.companion, storage=unit.companion, connections=given
            )

    def _set_attached(self, number: int, generation: int) -> None:
        self._board.attached[number] = generation

    # ---- events

    def _on_change(self, unit: Unit) -> None:
        """A unit has changed its state."""
        self._commands.state_changed()
        if self.ending:
            self.loop.after(0, self._end_further)
        elif unit.state in (State.UNAVAILABLE, State.FATAL):
            self.loop.after(0, self._check_hopeless)

    def _check_hopeless(self) -> None:
        """Nothing can be collected and nothing ever was: the agent should not try again."""
        enabled = [unit for unit in self.units if unit.config.enabled]
        lost = all(unit.state in (State.UNAVAILABLE, State.FATAL) and not unit.waits for unit in enabled)
        if lost and not self.frames() and not self.ending:
            log.error("nothing can be collected on this kernel; `ebpf-supervisor check` says why")
            if not reader_gone(self._options.stream_fd):
                os.write(self._options.stream_fd, DISABLE)
            self.end("nothing can be collected", exit_status=1)

    def _on_aggregator_done(self) -> None:
        self.end("the stream is at its end")

    def _watch_signals(self) -> None:
        self._wakeup, sender = socket.socketpair()
        self._wakeup_sender = sender
        self._wakeup.setblocking(False)
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, _noted)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.loop.watch(self._wakeup.fileno(), self._on_signal)

    def _on_signal(self) -> None:
        for number in self._wakeup.recv(64):
            if number != signal.SIGCHLD:
                self.end(signal.Signals(number).name)

    def _watch_stdin(self) -> None:
        """Netdata gives a pipe and closes it when it ends. A terminal or /dev/null says nothing."""
        try:
            mode = os.fstat(0).st_mode
        except OSError:
            return
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self.loop.watch(0, self._on_stdin)

    def _on_stdin(self) -> None:
        """Nothing that an agent asks for here is offered; newer ones say QUIT before they end."""
        data = os.read(0, 65536)
        if not data or b"QUIT" in data.split():
            self.loop.unwatch(0)
            self.end("the agent has closed our stdin" if not data else "the agent said QUIT")

    def _round(self) -> None:
        """Once a second: the reader, the hung, the rates."""
        self.loop.after(_ROUND_S, self._round)
        now_s = time.monotonic()
        late = now_s - self._previous_round_s > 2 * _ROUND_S
        self._previous_round_s = now_s
        if reader_gone(self._options.stream_fd):
            self.end("nobody reads the stream any more")
        if not self.ending:
            for unit in self.units:
                unit.look_at_parts()
        if self._config.internal_charts and now_s >= self._facts_due_s:
            self._facts_due_s = now_s + internal.EVERY_S / 2
            self._post_facts()
        # After a pause of our own (a stop, a suspended machine) everybody looks hung.
        if not late and not self.ending:
            self._kill_hung(now_s)
        for number, counted in enumerate(self._board.events.tolist()):
            at_s, before = self._events[number]
            if counted != before or now_s - at_s > self._config.update_every_s + _ROUND_S:
                self._rates[number] = max(0, counted - before) / (now_s - at_s)
                self._events[number] = (now_s, counted)

    def _post_facts(self) -> None:
        """What the charts about ourselves show, and the aggregator cannot know."""
        board = self._board
        for unit in self.units:
            loaded = list(unit.loaded.maps.values()) if unit.loaded else []
            board.running[unit.number] = unit.state is State.RUNNING
            board.left_s[unit.number] = round(unit.left_s)
            board.method[unit.number] = unit.method
            board.kernel_bytes[unit.number] = unit.kernel_bytes
            board.maps[unit.number] = len(loaded)
            board.entries[unit.number] = sum(held.info.rows for held in loaded)
            board.per_core[unit.number] = unit.config.maps_per_core
        board.kernel_bytes[-1] = self.core.kernel_bytes
        board.maps[-1] = len(self.core.loaded.maps) if self.core.loaded else 0
        children = [
            unit.child for unit in (*self.units, self.template, self.aggregator, self.core) if unit.child
        ]
        ended = os.times()
        cpu_s = ended.user + ended.system + ended.children_user + ended.children_system
        cpu_s += sum(status.usage(child.pid).cpu_s for child in children)
        board.progress[boards.CPU_MS] = max(int(board.progress[boards.CPU_MS]), round(1000 * cpu_s))

    def _kill_hung(self, now_s: float) -> None:
        ticks = self._config.supervision.hung_after_ticks
        for unit in self.units:
            if unit.state is State.RUNNING:
                last_s = table.heartbeat(unit.storage.table_fd).published_ns / 1e9
                limit_s = ticks * unit.config.update_every_s
                if now_s - last_s > limit_s and unit.running_s > limit_s:
                    unit.kill(f"hung: no sample for {now_s - last_s:.1f} s")
        limit_s = ticks * self._every_s
        last_s = int(self._board.progress[boards.CYCLE_NS]) / 1e9
        running = self.aggregator.state is State.RUNNING and self.aggregator.running_s > limit_s
        if running and now_s - last_s > limit_s:
            self.aggregator.kill(f"hung: no cycle for {now_s - last_s:.1f} s")

    # ---- what commands see

    def counts(self, unit: ProgramUnit) -> status.Counts:
        number = unit.number
        return status.Counts(
            int(self._board.taken[number]), int(self._board.lost[number]), self._rates[number]
        )

    def frames(self) -> int:
        return int(self._board.progress[boards.FRAMES])


def _noted(number: int, frame: FrameType | None) -> None:
    """The number arrives through the wake-up descriptor."""
