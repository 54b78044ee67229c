"""A program as a unit: the loaders of its parts, and its worker."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Mapping

from supervisor import runtime_dir, spawn
from supervisor.aggregator.storage import ConnectionMemory, Storage
from supervisor.config.model import ProgramConfig
from supervisor.kernel import identities, maps
from supervisor.kernel.handover import Loaded
from supervisor.kernel.maps import KernelMap
from supervisor.kernel.plans import HookReport
from supervisor.kernel.reasons import lacking
from supervisor.kernel.request import Request, Tables
from supervisor.loop import Timer
from supervisor.states import HAS_PROCESS, State
from supervisor.units.configured import preference, shards, switched_off, switched_on
from supervisor.units.core import CoreUnit
from supervisor.units.house import House
from supervisor.units.loading import LoadingUnit
from workers import base
from workers.declaration import Program


@dataclasses.dataclass(frozen=True)
class Companion:
    """The memory of a program's companion. memory_maps: what its worker reads besides the kernel's maps."""

    storage: Storage
    memory: ConnectionMemory
    memory_maps: Mapping[str, KernelMap]


class ProgramUnit(LoadingUnit):
    """A program. Its kernel objects stay while workers come and go.

    A program with parts (types of file systems, say) has those attached that are wanted now. Each is loaded
    by itself, onto the maps that the first one made: what is attached already goes on counting.
    """

    _end: Timer | None = None

    def __init__(
        self,
        number: int,
        program: Program,
        config: ProgramConfig,
        storage: Storage,
        house: House,
        core: CoreUnit,
        defines: Mapping[str, str | int],
        attached: Callable[[int, int], None],
        companion: Companion | None = None,
    ) -> None:
        super().__init__(program.name, house)
        self.number = number
        self.companion = companion
        self._declared = program
        self.configure(config)
        self.storage = storage
        self.generation = 0
        self._parts: dict[str, Loaded] = {}
        self._wanted: frozenset[str] = frozenset()
        self._keeping = False
        self._ends_s = 0.0
        self._core = core
        self._defines = defines
        self._attached = attached

    def configure(self, config: ProgramConfig) -> None:
        """Takes another configuration, which holds for whatever is started from now on."""
        self.program = switched_on(self._declared, config.without)
        self._switched_off = switched_off(self._declared, config.without)
        self.config = config
        if config.enabled:
            self._forget_end()

    def launch(self) -> None:
        """Loads what is not loaded, then the worker; a program of processes waits for the identities."""
        self._wanted = self.wanted()
        if not self.program.hooks:
            self.unavailable("its configuration file switches all of its hooks off")
        elif self._missing():
            self._load_part()
        elif not self._wanted:
            self.unavailable("there is nothing for it to watch now; it starts when there is")
        elif not any(hook.attached for hook in self.hooks):
            self.unavailable(f"no hook: {lacking(self.hooks)}")
        else:
            self._start_worker()

    def wanted(self) -> frozenset[str]:
        """The parts to be attached; a program without parts is one."""
        return self.program.parts() if self.program.parts else frozenset({""})

    @property
    def waits(self) -> bool:
        """Whether it is unavailable only until there is something for it to watch."""
        return self.state is State.UNAVAILABLE and not self._wanted

    def _tag(self, part: str) -> str:
        """What the part's lines of kprobe_events begin with."""
        return "_".join(filter(None, (self.house.tag, self.name, part)))

    def _missing(self) -> list[str]:
        return sorted(self._wanted - self._parts.keys())

    def _load_part(self) -> None:
        if self.program.kind == "slot" and self._core.loaded is None:
            if self._core.state is State.UNAVAILABLE:
                self.unavailable(self._core.description)
            elif self._core.state is State.FATAL:
                self.enter(State.FATAL, f"no identities of processes: {self._core.description}")
            else:
                self.description = "waiting for the identities of processes"
                if self._core.state is State.STOPPED:
                    self._core.start()
        else:
            self.load()

    @property
    def listed(self) -> bool:
        """Whether `status` and `all` mean it: the configuration does, or somebody has started it."""
        return self.config.enabled or self.state is not State.STOPPED

    @property
    def left_s(self) -> float:
        """For how long it will run yet; 0 for a program that the configuration runs."""
        return max(0.0, self._ends_s - time.monotonic()) if self._end else 0.0

    @property
    def method(self) -> int:
        """How it is loaded, as board.METHODS numbers it; 0 = it is not."""
        plans = {hook.plan for hook in self.hooks if hook.attached} if self.loaded else set()
        return 0 if not plans else 2 if plans & {"fentry", "fexit"} else 1

    def start(self) -> None:
        """A program that the configuration does not run is stopped again a lifetime after its first start."""
        if self.state in HAS_PROCESS:
            return
        if self.program.kind == "slot" and self._core.state is State.FATAL:
            self._core.start()
        if not self.config.enabled and self.config.lifetime_s and self._end is None:
            self._ends_s = time.monotonic() + self.config.lifetime_s
            self._end = self.house.loop.after(self.config.lifetime_s, self.stop)
        super().start()

    def stop(self, first: signal.Signals = signal.SIGTERM) -> None:
        self._keeping = False
        self._forget_end()
        super().stop(first)

    def _forget_end(self) -> None:
        if self._end:
            self._end.cancel()
            self._end = None

    def renew_worker(self) -> None:
        """Another worker on the same kernel objects; one that is still to come is left to come."""
        if self.child and self._channel is None and self.state in (State.STARTING, State.RUNNING):
            super().stop()
            self._keeping = True

    def core_is_ready(self) -> None:
        """Goes on with a start that waited, and takes up one that was given up for want of identities."""
        if self.state is State.FATAL and self.program.kind == "slot" and self._core.loaded:
            self._launch()
        elif self.state is State.STARTING and self.child is None:
            try:
                self.launch()
            except OSError as error:
                self.failed(f"cannot be started: {error.strerror}")

    def request(self) -> Request:
        shared: dict[str, KernelMap] = dict(self.loaded.maps) if self.loaded else {}
        if self.program.kind == "slot" and self._core.loaded:
            shared |= {name: self._core.loaded.maps[name] for name in ("slot_of_pid", "task")}
        part = self._missing()[0]
        queues, fill = self.program.prepare, self.program.fill

        def prepare(tables: Tables) -> None:
            for queue, values in queues.items():
                tables.push(queue, values)
            for name, elements in fill.items():
                for index, value in elements().items():
                    tables.put(name, index, value)

        return Request(
            self.program.source,
            tuple(hook for hook in self.program.hooks if hook.part == part),
            self.config.load_mode,
            preference(self.house.attach, self.config),
            {
                **self._defines,
                **self.program.defines,
                "SHARDS": shards(self.config),
                "COLLECT": identities.COLLECT[self.config.collect_pid],
            },
            shared,
            self._tag(part),
            prepare,
            numbers=self.program.numbers,
        )

    def take(self, loaded: Loaded) -> None:
        """Notes a part, and goes on with the next one or with the worker. A part that cannot be had costs
        nothing but itself."""
        part = self._missing()[0]
        if loaded.error:
            self.let_go(loaded)
            if not part:
                self.unavailable(loaded.error)
                return
            loaded = without_part(self.program, part, loaded.error)
        self._parts[part] = loaded
        if self.loaded is None and loaded.maps:
            self.loaded = loaded
            self.generation += 1
            self._attached(self.number, self.generation)
            self.kernel_bytes = sum(maps.kernel_bytes(held.fd) for held in loaded.maps.values())
        self._note_hooks()
        try:
            self.launch()
        except OSError as error:
            self.failed(f"the worker cannot be started: {error.strerror}")

    def _note_hooks(self) -> None:
        self.hooks = [hook for part in self._parts.values() for hook in part.hooks] + self._switched_off

    def look_at_parts(self) -> None:
        """Called once a second: takes in what has come, lets go of what has gone."""
        if self.program.parts is None or self.state not in (State.RUNNING, State.UNAVAILABLE):
            return
        wanted = self.program.parts()
        if wanted == self._wanted:
            return
        for part in sorted(self._parts.keys() - wanted):
            gone = self._parts.pop(part)
            for link in gone.links:
                os.close(link)
            gone.links.clear()
            if gone.lines:
                self.house.sweeper.sweep(gone.lines)
        self._note_hooks()
        if self.state is State.UNAVAILABLE:
            self.start()
        else:
            super().stop()
            self._keeping = bool(wanted)

    def unavailable(self, why: str) -> None:
        self.unload()
        super().unavailable(why)

    def columns(self, program: Program | None = None) -> frozenset[int]:
        """Those that this kernel gives in this mode, of the program or its companion."""
        event_of = {hook.name: hook.event for hook in self.program.hooks}
        plans = {event_of[hook.hook]: hook.plan for hook in self.hooks if hook.attached}
        returning = self.config.load_mode == "return"
        return frozenset(
            index
            for index, column in enumerate((program or self.program).columns)
            if column.hook in plans
            and (returning or not column.return_mode_only)
            and (not column.plans or plans[column.hook] in column.plans)
        )

    def _start_worker(self) -> None:
        ours, theirs = spawn.socket_pair()
        assignment = base.Assignment(
            program=self.program,
            generation=self.generation,
            columns=self.columns(),
            hooks=frozenset(hook.hook for hook in self.hooks if hook.attached),
            maps=self._worker_maps(),
            table_fd=self.storage.table_fd,
            table_layout=self.storage.table_shape.layout(),
            ledger_fd=self.storage.ledger_fd,
            ledger_layout=self.storage.ledger_shape.layout(self.storage.table_shape.block_bytes),
            samples_path=runtime_dir.SAMPLES_SOCKET,
            update_every_s=self.config.update_every_s,
            ready_fd=theirs.fileno(),
        )
        assignments = [assignment, *self._companion_of(assignment)]
        try:
            child = self.house.template.copy(f"worker {self.name}", *base.to_message(assignments))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.adopt_worker(child, ours)

    def _companion_of(self, assignment: base.Assignment) -> list[base.Assignment]:
        """What the same worker does for the program's companion, where that is there."""
        program, given = self.program.companion, self.companion
        if not program or not given or program.name not in assignment.hooks:
            return []
        own = self.loaded.maps if self.loaded else {}
        storage = given.storage
        return [
            assignment._replace(
                program=program,
                columns=self.columns(program),
                maps={**{name: own[name] for name in program.maps}, **given.memory_maps},
                table_fd=storage.table_fd,
                table_layout=storage.table_shape.layout(),
                ledger_fd=storage.ledger_fd,
                ledger_layout=storage.ledger_shape.layout(storage.table_shape.block_bytes),
            )
        ]

    def _worker_maps(self) -> dict[str, KernelMap]:
        own = self.loaded.maps if self.loaded else {}
        core = self._core.loaded.maps if self._core.loaded else {}
        names = self.program.maps + ((maps.USED_PAGES,) if self.program.kind == "slot" else ())
        return {name: own.get(name) or core[name] for name in names}

    def running_description(self) -> str:
        plans = dict.fromkeys(hook.plan for hook in self.hooks if hook.attached)
        attached = sum(hook.attached for hook in self.hooks)
        text = f"{attached} hook{'s' if attached != 1 else ''} ({', '.join(plans)})"
        missing = (
            dict.fromkeys(h.hook for h in self.hooks if not h.attached)
            - dict.fromkeys(h.hook for h in self.hooks if h.attached).keys()
        )
        return f"{text}; without {', '.join(sorted(missing))}" if missing else text

    def stopped(self) -> None:
        if self._keeping:
            # What the program watches has changed: its worker is made anew, its kernel objects stay.
            self._keeping = False
            self.house.loop.after(0, self.start)
        else:
            self.unload()

    def unload(self) -> None:
        for part in self._parts.values():
            if part is not self.loaded:
                self.let_go(part)
        self._parts.clear()
        super().unload()
        self._attached(self.number, 0)


def without_part(program: Program, part: str, why: str) -> Loaded:
    """What stands for a part that cannot be loaded: none of its hooks is attached."""
    return Loaded(hooks=[HookReport(h.name, "", "", False, why) for h in program.hooks if h.part == part])
