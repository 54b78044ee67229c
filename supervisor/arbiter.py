"""The arbiter: it owns what must outlive a crash, watches over every unit, and ends everything in order."""

import dataclasses
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import supervisor
from supervisor import control, kprobe_events, linux, status, template
from supervisor.aggregator import apps_groups, storage
from supervisor.aggregator import board as boards
from supervisor.aggregator import main as aggregator
from supervisor.aggregator.apps_groups import AppsGroups
from supervisor.aggregator.output import reader_gone, widen
from supervisor.aggregator.stream import DISABLE
from supervisor.caretaker import Caretaker
from supervisor.commands import Commands
from supervisor.config import difference
from supervisor.config.model import Config, ProgramConfig
from supervisor.kernel import cgroup_hierarchy, cpus, identities, loader, reading
from supervisor.kernel.plans import Preference
from supervisor.kernel.request import Request
from supervisor.loop import Loop
from supervisor.missed_ends import MissedEnds
from supervisor.misses import Misses
from supervisor.namer import Namer
from supervisor.notify import Notifier
from supervisor.orders import Orders
from supervisor.reload import SPARE_GROUPS, Reread
from supervisor.reloader import Done, Reloader
from supervisor.runtime_dir import SAMPLES_SOCKET, RuntimeDir
from supervisor.shared_memory import SharedMemory
from supervisor.spawn import Account
from supervisor.states import HAS_PROCESS, State
from supervisor.top.offer import Offer, Offered
from supervisor.unit import Unit
from supervisor.units import loaders
from supervisor.units.aggregator import AggregatorUnit
from supervisor.units.core import CoreUnit
from supervisor.units.house import House
from supervisor.units.loaders import Loaders
from supervisor.units.program import ProgramUnit
from supervisor.units.resolver import ResolverUnit
from supervisor.units.template import TemplateUnit
from supervisor.watch import Watch
from workers import base
from workers.connections import fitted
from workers.declaration import Program

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


class Arbiter:
    """One run, from `run` to its exit status."""

    def __init__(self, options: Options, programs: Mapping[str, Program], runtime_dir: RuntimeDir) -> None:
        self._options = options
        self._runtime_dir = runtime_dir
        self.config = options.config
        self.groups = self._read_groups()
        self.loop = Loop()
        self.started_s = time.monotonic()
        self.ending = False
        self._exit_status = 0
        self._follows_core = False
        self._lifeline, theirs = socket.socketpair()

        made = difference.shared(self.config)
        configured = list(self.config.programs.values())
        self._memory = SharedMemory(len(configured), len(self.groups.names) + SPARE_GROUPS, made)
        self._notifier = Notifier(os.environ, self.every_s)
        self._watch = Watch(self, self._memory.board, self._notifier)
        self._commands = Commands(self)
        self._orders = Orders(self)
        self._reloader = Reloader(self, options.reread, self._memory, made)
        self._sweeper = kprobe_events.Sweeper(self.loop)
        self._namer = Namer(
            self.loop,
            options.account,
            self._memory.cgroups_fd,
            self.config.supervision.loglevel,
            Path(os.environ.get("NETDATA_HOST_PREFIX") or "/"),
        )

        found, complaint = reading.find(self.config.map_reading, options.account)
        if complaint:
            log.warning("[supervisor] %s", complaint)
        self._hierarchy = cgroup_hierarchy.find() if made.cgroups else None
        self._defines = identities.defines(
            self._memory.slots,
            str(loader.PINS),
            cpus.possible(),
            found.map_flags,
            thread_slots=made.threads,
        )
        account_of_readers = dataclasses.replace(options.account, capability=found.capability)
        self.template = self._make_template(account_of_readers, programs)
        house = self._make_house(account_of_readers, theirs)
        self.core = CoreUnit(house, self._core_request, self._on_core, found.description)
        self.units = [
            self._make_unit(number, fitted(programs[config.name], config.connections), config, house)
            for number, config in enumerate(configured)
        ]
        resolves = any(c.connections and c.connections.resolve_hosts for c in configured)
        self.resolver = ResolverUnit(house) if resolves else None
        self.aggregator = AggregatorUnit(house, self._assign, self._on_aggregator_done)

    def _read_groups(self) -> AppsGroups:
        groups, problems = apps_groups.read(self.config.apps_groups_path)
        for problem in problems:
            log.warning("%s", problem)
        return groups

    def _make_template(self, account: Account, programs: Mapping[str, Program]) -> TemplateUnit:
        companions = {p.companion.name: p.companion for p in programs.values() if p.companion}
        known = {**programs, **companions}
        return TemplateUnit(
            self.loop,
            self.config.supervision,
            account,
            self._runtime_dir.samples.parent,
            template.Work(
                lambda message, descriptors: base.run(base.from_message(message, descriptors, known)),
                base.warm_up,
            ),
            self._on_change,
        )

    def _make_house(self, account: Account, lifeline: socket.socket) -> House:
        return House(
            self.loop,
            self.config.supervision,
            account,
            self._runtime_dir.samples.parent,
            lifeline,
            self._options.attach,
            kprobe_events.tag(self._runtime_dir.path),
            Path(self.config.btf_path),
            self.config.kprobe_attach == "kprobe_events",
            self._sweeper,
            Loaders(loaders.places()),
            self._on_change,
            self.template,
        )

    def _make_unit(self, number: int, program: Program, config: ProgramConfig, house: House) -> ProgramUnit:
        return ProgramUnit(
            number,
            program,
            config,
            self._memory.of_program(program, config),
            house,
            self.core,
            self._defines,
            self._set_attached,
            self._memory.of_companion(program, config),
        )

    # ---- the run

    def run(self) -> int:
        """Runs until it is told to stop, its reader goes, or nothing can be collected; the exit status."""
        if not self._options.serves:
            widen(self._options.stream_fd)
            self._orders.watch_stdin()
        self._server = control.Server(self._runtime_dir.control, self.loop, self._commands.handlers())
        self._missed_ends = MissedEnds(self.core)
        self._misses = Misses(self._memory.board, [*self.units, self.core])
        self._caretaker = Caretaker(
            self,
            self._runtime_dir,
            self._server,
            self._options.account,
            self._options.stream_fd if self._options.serves else None,
        )
        self._orders.watch_signals()
        try:
            self._start_all()
            self._watch.begin()
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
            self._memory.slots,
            self._hierarchy,
            self._defines,
            Preference(("tracepoint",)),
            kprobe_events.tag(self._runtime_dir.path),
        )

    @property
    def every_s(self) -> int:
        """Seconds between two frames."""
        enabled = [config for config in self.config.programs.values() if config.enabled]
        return min((config.update_every_s for config in enabled), default=self.config.update_every_s)

    def _assign(self, ready: socket.socket) -> aggregator.Assignment:
        for number in range(len(self._memory.board.leaving)):
            self._memory.board.leaving[number] = 0
        core = self.core.loaded.maps if self.core.loaded else {}
        self._follows_core = bool(core)
        return aggregator.Assignment(
            (*map(self._duty, self.units), *(d for u in self.units for d in self._companion_duty(u))),
            self.groups,
            self._memory.group_places,
            {name: core[name] for name in aggregator.MAPS if name in core},
            self._memory.board_fd,
            self._memory.identities_fd,
            self._memory.cgroups_fd,
            self._hierarchy.mount_point if self._hierarchy else None,
            self._hierarchy.root if self._hierarchy else "/",
            self._options.stream_fd,
            self._options.serves,
            Path(SAMPLES_SOCKET),
            self.every_s,
            self.config.modern_charts,
            self.config.agent_version,
            self.config.internal_charts,
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
        self._memory.board.attached[number] = generation

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
            if not self._options.serves and not self.reader_gone():
                os.write(self._options.stream_fd, DISABLE)
            self.end("nothing can be collected", exit_status=1)

    def reader_gone(self) -> bool:
        return not self._options.serves and reader_gone(self._options.stream_fd)

    def _on_aggregator_done(self) -> None:
        self.end("the stream is at its end")

    def look_around(self) -> None:
        """Called once a second: what has come or gone, and who asks for a name."""
        for unit in self.units:
            unit.look_at_parts()
        self._namer.look()
        self._caretaker.look()
        self._missed_ends.look()
        self._misses.look()

    # ---- what commands and orders ask for

    def reload(self, done: Done = lambda plan, units: None) -> None:
        self._reloader.reload(done)

    def counts(self, unit: ProgramUnit) -> status.Counts:
        number, board = unit.number, self._memory.board
        return status.Counts(int(board.taken[number]), int(board.lost[number]), self._watch.rates[number])

    def offer(self) -> Offer:
        """What `ebpfctl top` reads."""
        companions = (unit.companion for unit in self.units if unit.state is State.RUNNING)
        return Offer(
            [Offered(unit.name, unit.state is State.RUNNING, unit.storage) for unit in self.units],
            self.groups.names,
            self._memory.group_places,
            self._memory.slots,
            self._memory.identities_fd,
            self._memory.cgroups_fd,
            next((companion.storage for companion in companions if companion), None),
            self.core.loaded.maps if self.core.loaded else {},
            self.every_s,
        )

    def frames(self) -> int:
        return int(self._memory.board.progress[boards.FRAMES])
