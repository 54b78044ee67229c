"""The arbiter: it owns what must outlive a crash, watches over every unit, and ends everything in order."""

import collections
import contextlib
import dataclasses
import gc
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import supervisor
from supervisor import control, kprobe_events, linux, reload, status, stream_socket, template
from supervisor.aggregator import apps_groups, storage
from supervisor.aggregator import board as boards
from supervisor.aggregator import main as aggregator
from supervisor.aggregator.output import reader_gone, widen
from supervisor.aggregator.stream import DISABLE
from supervisor.commands import Commands
from supervisor.config import difference
from supervisor.config.difference import Effect
from supervisor.config.model import Config, ProgramConfig
from supervisor.errors import AlreadyRunning
from supervisor.kernel import cgroup_hierarchy, cpus, identities, loader, reading
from supervisor.kernel.maps import KernelMap, MapInfo
from supervisor.kernel.plans import Preference
from supervisor.kernel.request import Request
from supervisor.loop import Loop
from supervisor.namer import Namer
from supervisor.notify import Notifier
from supervisor.pipeline import table
from supervisor.reload import SPARE_GROUPS, Plan, Reread
from supervisor.runtime_dir import CONTROL, SAMPLES, SAMPLES_SOCKET, STREAM, RuntimeDir
from supervisor.spawn import Account
from supervisor.states import HAS_PROCESS, State
from supervisor.top.offer import Offer, Offered
from supervisor.unit import Unit
from supervisor.units import loaders
from supervisor.units.aggregator import AggregatorUnit
from supervisor.units.configured import shards
from supervisor.units.core import CoreUnit
from supervisor.units.house import House
from supervisor.units.loaders import Loaders
from supervisor.units.program import Companion, ProgramUnit
from supervisor.units.resolver import ResolverUnit
from supervisor.units.template import TemplateUnit
from workers import base
from workers.connections import IDLE, fitted
from workers.declaration import Program

# How often systemd is told how it goes, while nothing else is to be told.
_SUMMARY_S: Final = 10.0
# How often the arbiter looks after what tells it nothing by itself.
_ROUND_S: Final = 1.0
# How often is looked whether what was told to stop has stopped.
_POLL_S: Final = 0.02

log = logging.getLogger("ebpf-supervisor")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run.

    reread: gives the configuration as the files say it now. attach: a family of plans, or auto. stream_fd:
    where frames go; when it serves, the socket that readers connect to. last_frame: stop after so many, 0 =
    go on.
    """

    config: Config
    reread: Reread
    account: Account
    attach: str
    stream_fd: int
    last_frame: int
    serves: bool = False


Done = Callable[[Plan, Sequence[Unit]], None]


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
        self._summary_due_s = 0.0
        self._previous_round_s = time.monotonic()
        self._commands = Commands(self)
        self._lifeline, theirs = socket.socketpair()
        self._groups, problems = apps_groups.read(self._config.apps_groups_path)
        self._group_places = len(self._groups.names) + SPARE_GROUPS
        for problem in problems:
            log.warning("%s", problem)

        configured = list(self._config.programs.values())
        self._made = difference.shared(self._config)
        self._board_fd = boards.create(len(configured))
        self._board = boards.Board(self._board_fd, len(configured))
        self._events: list[tuple[float, int]] = [(time.monotonic(), 0)] * len(configured)
        self._rates = [0.0] * len(configured)
        self._slots = identities.whole_pages(self._made.slots)
        self._notifier = Notifier(os.environ, self._every_s)
        found, complaint = reading.find(self._config.map_reading, options.account)
        if complaint:
            log.warning("[supervisor] %s", complaint)
        self.hierarchy = cgroup_hierarchy.find() if self._made.cgroups else None
        self._identities_fd = storage.create_slots(self._slots)
        self._cgroups_fd = storage.create_cgroups()
        self._namer = Namer(
            self.loop,
            options.account,
            self._cgroups_fd,
            self._config.supervision.loglevel,
            Path(os.environ.get("NETDATA_HOST_PREFIX") or "/"),
        )
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
        self._sweeper = kprobe_events.Sweeper(self.loop)
        house = House(
            self.loop,
            self._config.supervision,
            account_of_readers,
            runtime_dir.samples.parent,
            theirs,
            options.attach,
            kprobe_events.tag(runtime_dir.path),
            Path(self._config.btf_path),
            self._config.kprobe_attach == "kprobe_events",
            self._sweeper,
            Loaders(loaders.places()),
            self._on_change,
            self.template,
        )
        self._defines = identities.defines(
            self._slots,
            str(loader.PINS),
            cpus.possible(),
            found.map_flags,
            thread_slots=self._made.threads,
        )
        self.core = CoreUnit(house, self._core_request, self._on_core, found.description)
        fitting = [fitted(programs[config.name], config.connections) for config in configured]
        self.units = [
            ProgramUnit(
                number,
                program,
                config,
                self._storage(program, config),
                house,
                self.core,
                self._defines,
                self._set_attached,
                self._companion(program, config),
            )
            for number, (program, config) in enumerate(zip(fitting, configured, strict=True))
        ]
        resolves = any(c.connections and c.connections.resolve_hosts for c in configured)
        self.resolver = ResolverUnit(house) if resolves else None
        self.aggregator = AggregatorUnit(house, self._assign, self._on_aggregator_done)

    # ---- the run

    def run(self) -> int:
        """Runs until it is told to stop, its reader goes, or nothing can be collected; the exit status."""
        if not self._options.serves:
            widen(self._options.stream_fd)
            self._watch_stdin()
        self._server = control.Server(self._runtime_dir.control, self.loop, self._commands.handlers())
        self._watch_signals()
        try:
            self._start_all()
            self.loop.after(_ROUND_S, self._round)
            self.loop.run()
        finally:
            self._release()
            self._server.close()  # who asked for the end hears of it by this
            self.loop.close()
        return self._exit_status

    def _start_all(self) -> None:
        enabled = [unit for unit in self.units if unit.config.enabled]
        names = ", ".join(unit.name for unit in enabled) or "none"
        log.info("version %s, kernel %s, programs: %s", supervisor.__version__, os.uname().release, names)
        # What workers are copies of: made before anything has grown.
        gc.collect()
        gc.freeze()
        linux.close_gaps()
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
        self._notifier.stopping()
        self.ending, self._exit_status = True, exit_status
        self._sweeper.rest()  # the end clears all away together
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
            storage.close(program.storage)
            if program.companion:
                storage.close(program.companion.storage)
        self._namer.close()
        self._sweeper.finish()
        try:
            for removed in kprobe_events.clean(kprobe_events.tag(self._runtime_dir.path)):
                log.info("removed %s", removed)
        except OSError as error:
            told = "lines of kprobe_events may be left: %s; `ebpf-supervisor cleanup` removes them"
            log.warning(told, error.strerror)

    # ---- what units need

    def _core_request(self) -> Request:
        return identities.request(
            self._slots,
            self.hierarchy,
            self._defines,
            Preference(("tracepoint",)),
            kprobe_events.tag(self._runtime_dir.path),
        )

    def _storage(self, program: Program, config: ProgramConfig) -> storage.Storage:
        return storage.create(program, self._slots, self._group_places, shards(config), cpus.possible())

    def _companion(self, program: Program, config: ProgramConfig) -> Companion | None:
        """Memory for the connections of a program that tells them apart."""
        if not program.companion or not config.connections:
            return None
        own = storage.create_connections(config.connections)
        rows = program.companion.rows
        idle = KernelMap(MapInfo(IDLE, 1, rows, linux.BPF_F_MMAPABLE), own.idle_fd)
        made = storage.create(program.companion, 0, 0, 1, 0, config.connections)
        return Companion(made, own, {IDLE: idle})

    @property
    def _every_s(self) -> int:
        """Seconds between two frames."""
        enabled = [config for config in self._config.programs.values() if config.enabled]
        return min((config.update_every_s for config in enabled), default=self._config.update_every_s)

    def _assign(self, ready: socket.socket) -> aggregator.Assignment:
        for number in range(len(self._board.leaving)):
            self._board.leaving[number] = 0
        core = self.core.loaded.maps if self.core.loaded else {}
        self._follows_core = bool(core)
        return aggregator.Assignment(
            (*map(self._duty, self.units), *(d for u in self.units for d in self._companion_duty(u))),
            self._groups,
            self._group_places,
            {name: core[name] for name in aggregator.MAPS if name in core},
            self._board_fd,
            self._identities_fd,
            self._cgroups_fd,
            self.hierarchy.mount_point if self.hierarchy else None,
            self.hierarchy.root if self.hierarchy else "/",
            self._options.stream_fd,
            self._options.serves,
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
            given = aggregator.ConnectionDuty(unit.config.connections, unit.companion.memory, names)
            yield dataclasses.replace(
                self._duty(unit),
                program=unit.program.companion,
                storage=unit.companion.storage,
                connections=given,
            )

    def _set_attached(self, number: int, generation: int) -> None:
        self._board.attached[number] = generation

    # ---- another configuration

    def reload(self, done: Done = lambda plan, units: None) -> None:
        """Reads the configuration again and applies what is different. Raises Refused: nothing has changed.

        done: is called once all units concerned have been told to stop and start.
        """
        try:
            plan = reload.plan(
                self._options.reread, self._config, self._groups, self._group_places, self._made
            )
        except reload.Refused as error:
            for problem in error.problems:
                log.error("reload: %s", problem)
            log.error("reload: %s", error)
            raise
        for problem in plan.warnings:
            log.warning("reload: %s", problem)
        for change in plan.told(len(self.units)):
            log.info("reload: %s", reload.line(change))
        if not plan.changes:
            log.info("reload: nothing has changed")
        self._apply(plan, done)

    def _apply(self, plan: Plan, done: Done) -> None:
        """Programs first: the aggregator takes the last counts of those that stop before it is made anew."""
        relaunch: list[Unit] = []
        if plan.config.supervision.loglevel != self._config.supervision.loglevel:
            logging.getLogger().setLevel(plan.config.supervision.loglevel.upper())
            relaunch.append(self.template)  # workers log at the level that it was made with
        self._config, self._groups = plan.config, plan.groups
        for unit in (*self.units, self.core, self.template, self.aggregator):
            unit.settings = plan.config.supervision
        stopped: list[Unit] = [u for u in self.units if self._change_program(u, plan.effects(u.name))]
        if plan.concerns_aggregator:
            relaunch.append(self.aggregator)
            for unit in self.units:
                self._board.leaving[unit.number] = plan.leaving(unit.name)
        self._when_stopped(stopped, lambda: self._relaunch(plan, stopped, relaunch, done))

    def _change_program(self, unit: ProgramUnit, effects: frozenset[Effect]) -> bool:
        """Gives it its new configuration; whether it has been told to stop."""
        unit.configure(self._config.programs[unit.name])
        if Effect.STOPS in effects or (Effect.LOADED in effects and unit.state is not State.STOPPED):
            unit.stop()
            return True
        if Effect.STARTS in effects:
            unit.start()
        elif Effect.SAMPLED in effects:
            unit.renew_worker()
            return True
        return False

    def _relaunch(self, plan: Plan, stopped: Sequence[Unit], others: Sequence[Unit], done: Done) -> None:
        """Starts what has stopped to be loaded anew; stops and starts the others."""
        if self.ending:
            return
        for unit in stopped:
            if Effect.STOPS not in plan.effects(unit.name):
                unit.start()
        concerned = [*(unit for unit in self.units if plan.effects(unit.name)), *others]
        self._restart(others, lambda: done(plan, concerned))

    def _when_stopped(self, units: Sequence[Unit], call: Callable[[], None]) -> None:
        if any(unit.state is State.STOPPING for unit in units):
            self.loop.after(_POLL_S, lambda: self._when_stopped(units, call))
        else:
            call()

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
            if not self._options.serves and not self._reader_gone():
                os.write(self._options.stream_fd, DISABLE)
            self.end("nothing can be collected", exit_status=1)

    def _reader_gone(self) -> bool:
        return not self._options.serves and reader_gone(self._options.stream_fd)

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
            if number == signal.SIGHUP:
                self._on_hangup()
            elif number != signal.SIGCHLD:
                self.end(signal.Signals(number).name)

    def _on_hangup(self) -> None:
        """As other daemons do. A terminal that hangs up takes the reader along: that ends us anyway."""
        if not self.ending:
            with contextlib.suppress(reload.Refused):  # the log has it
                self.reload()

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
        """Once a second. What cannot be looked at for want of descriptors or memory can be later."""
        self.loop.after(_ROUND_S, self._round)
        try:
            self._look_around()
        except OSError as error:
            log.warning("cannot look after everything now: %s", error.strerror or error)

    def _look_around(self) -> None:
        """The reader, the hung, the rates."""
        now_s = time.monotonic()
        late = now_s - self._previous_round_s > 2 * _ROUND_S
        self._previous_round_s = now_s
        if self._reader_gone():
            self.end("nobody reads the stream any more")
        if not self.ending:
            for unit in self.units:
                unit.look_at_parts()
            self._namer.look()
            self._look_at_runtime_dir()
            self._notify(now_s)
        if self._config.internal_charts and now_s >= self._facts_due_s:
            self._facts_due_s = now_s + boards.FACTS_EVERY_S / 2
            self._post_facts()
        # After a pause of our own (a stop, a suspended machine) everybody looks hung.
        if not late and not self.ending:
            self._kill_hung(now_s)
        for number, counted in enumerate(self._board.events.tolist()):
            at_s, before = self._events[number]
            if counted != before or now_s - at_s > self._config.update_every_s + _ROUND_S:
                self._rates[number] = max(0, counted - before) / (now_s - at_s)
                self._events[number] = (now_s, counted)

    def _look_at_runtime_dir(self) -> None:
        """What somebody has removed of it is made anew, and whoever needs it is shown the new one."""
        gone = self._runtime_dir.missing()
        if self.aggregator.state is not State.RUNNING:
            gone -= {SAMPLES_SOCKET}  # it may be about to make it
        if self._options.serves and not os.path.lexists(self._runtime_dir.stream):
            gone |= {STREAM}
        if not gone:
            return
        log.warning("removed from %s: %s; made anew", self._runtime_dir.path, ", ".join(sorted(gone)))
        try:
            self._runtime_dir.restore(gone, self._options.account)
            if CONTROL in gone:
                self._server.bind_again()
            if STREAM in gone:
                self._serve_again()
        except AlreadyRunning as error:
            self.end(f"its runtime directory was removed, and taken by another one: {error}", exit_status=1)
            return
        except OSError as error:
            log.error("%s: cannot be made anew: %s", self._runtime_dir.path, error.strerror)
            return
        if SAMPLES in gone:
            # Their working directory is the folder that is gone: none of them finds the new socket.
            self._restart([self.template, self.aggregator], self._renew_workers)
        elif not gone.isdisjoint({SAMPLES_SOCKET, STREAM}):
            self._restart([self.aggregator], lambda: None)

    def _serve_again(self) -> None:
        """Another listening socket under the number that the aggregator is going to inherit."""
        with stream_socket.listen(self._runtime_dir.stream, self._config.stream_group) as listener:
            os.dup2(listener.fileno(), self._options.stream_fd, inheritable=False)

    def _restart(self, units: Sequence[Unit], then: Callable[[], None]) -> None:
        """Stops those that run, starts them again, and goes on."""
        again = [unit for unit in units if unit.state is not State.STOPPED]
        for unit in again:
            # The template holds nothing, and waits for SIGTERM no more than its copies before they begin.
            unit.stop(signal.SIGKILL if unit is self.template else signal.SIGTERM)

        def start() -> None:
            if not self.ending:
                for unit in again:
                    unit.start()
                then()

        self._when_stopped(again, start)

    def _renew_workers(self) -> None:
        for unit in self.units:
            unit.renew_worker()

    def _notify(self, now_s: float) -> None:
        """Tells systemd how it goes: ready once there is a frame, or nothing is left to wait for."""
        enabled = [unit for unit in self.units if unit.config.enabled]
        under_way = (State.STARTING, State.BACKOFF, State.STOPPED, State.RUNNING)
        if self.frames() or not any(unit.state in under_way for unit in enabled):
            self._notifier.ready(self._summary(enabled))
        if now_s >= self._summary_due_s:
            self._summary_due_s = now_s + _SUMMARY_S
            self._notifier.status(self._summary(enabled))
        self._notifier.feed(int(self._board.progress[boards.CYCLE_NS]), now_s)

    def _summary(self, enabled: list[ProgramUnit]) -> str:
        states = collections.Counter(unit.state for unit in enabled)
        counted = ", ".join(
            f"{number} {state.value}"
            for state, number in sorted(states.items(), key=lambda item: item[0] is not State.RUNNING)
        )
        return f"{len(enabled)} programs: {counted}; {sum(self._rates):.0f} events/s"

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

    def offer(self) -> Offer:
        """What `ebpfctl top` reads."""
        companions = (unit.companion for unit in self.units if unit.state is State.RUNNING)
        return Offer(
            [Offered(unit.name, unit.state is State.RUNNING, unit.storage) for unit in self.units],
            self._groups.names,
            self._group_places,
            self._slots,
            self._identities_fd,
            self._cgroups_fd,
            next((companion.storage for companion in companions if companion), None),
            self.core.loaded.maps if self.core.loaded else {},
            self._every_s,
        )

    def frames(self) -> int:
        return int(self._board.progress[boards.FRAMES])


def _noted(number: int, frame: FrameType | None) -> None:
    """The number arrives through the wake-up descriptor."""
