"""The two kinds of units: programs, each with a loader and a worker, and the aggregator."""

import collections
import dataclasses
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from supervisor import kprobe_events, runtime_dir, spawn, template
from supervisor.aggregator import main as aggregator
from supervisor.aggregator import resolver
from supervisor.aggregator.storage import ConnectionMemory, Storage
from supervisor.config.model import ProgramConfig, Supervision
from supervisor.errors import SupervisorError
from supervisor.kernel import cpus, handover, identities, loader, maps
from supervisor.kernel.handover import Loaded
from supervisor.kernel.maps import KernelMap
from supervisor.kernel.plans import FAMILIES, Family, HookReport, Preference
from supervisor.kernel.reasons import lacking
from supervisor.kernel.request import Request, Tables
from supervisor.loop import Loop, Timer
from supervisor.spawn import Account, Child
from supervisor.states import HAS_PROCESS, State
from supervisor.unit import Unit
from workers import base
from workers.declaration import Program

log = logging.getLogger("ebpf-supervisor")


class TemplateUnit(Unit):
    """The process that workers are copies of. A program that needs it while it is not there starts it."""

    def __init__(
        self,
        loop: Loop,
        settings: Supervision,
        account: Account,
        folder: Path,
        work: template.Work,
        changed: Callable[[Unit], None],
    ) -> None:
        super().__init__("template", loop, settings, changed)
        self._account = account
        self._folder = folder
        self._work = work
        self._channel: socket.socket | None = None

    def launch(self) -> None:
        self._hang_up()
        ours, theirs = template.channel()
        ready, tell_ready = spawn.socket_pair()
        with theirs, tell_ready:
            child = spawn.spawn(
                self.name,
                lambda: template.run(theirs, tell_ready, self._work),
                {theirs.fileno(), tell_ready.fileno()},
                self._account,
                self.settings.loglevel,
                self._folder,
            )
        self._channel = ours
        self.adopt_worker(child, ready)

    def running_description(self) -> str:
        return "workers can be made"

    def copy(self, title: str, message: bytes, descriptors: Sequence[int]) -> Child:
        """A child of ours that does `work`. Raises OSError when there is none to be had.

        Without a template it is a fork of ours: it has more memory of its own, and does the same.
        """
        if self.state is not State.STOPPING:
            self.start()
        if self._channel:
            try:
                return template.request(self._channel, title, message, descriptors)
            except BlockingIOError:
                raise
            except OSError as error:
                self._hang_up()
                self.kill(f"a worker was asked for and did not come: {error}")
        return self._fork(title, message, descriptors)

    def _fork(self, title: str, message: bytes, descriptors: Sequence[int]) -> Child:
        def main() -> int:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
            return self._work.main(message, descriptors)

        level = self.settings.loglevel
        return spawn.spawn(title, main, set(descriptors), self._account, level, self._folder)

    def stopped(self) -> None:
        self._hang_up()

    def ended(self, how: str) -> None:
        self._hang_up()
        super().ended(how)

    def _hang_up(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None


class Loaders:
    """Lets a few loaders run at a time: each takes a processor and 100 MB. Units get their turn in
    the order in which they asked."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: collections.deque[LoadingUnit] = collections.deque()

    def admit(self, unit: "LoadingUnit") -> None:
        """Has it fork its loader, now or when a place is free. Raises OSError when that is now and fails."""
        if unit in self._waiting:
            return
        if not self._free:
            self._waiting.append(unit)
            unit.description = "waiting for its turn to load"
            return
        unit.fork_loader()
        self._free -= 1

    def forget(self, unit: "LoadingUnit") -> None:
        """It does not want to load any more."""
        if unit in self._waiting:
            self._waiting.remove(unit)

    def left(self) -> None:
        """A loader has ended."""
        self._free += 1
        while self._free and self._waiting:
            unit = self._waiting.popleft()
            try:
                self.admit(unit)
            except OSError as error:
                unit.failed(f"cannot be started: {error.strerror}")


# More at a time would be hardly faster, and each takes memory.
_MOST_LOADERS: Final = 4


def places_for_loaders() -> int:
    """How many loaders may run at a time here."""
    return min(_MOST_LOADERS, len(os.sched_getaffinity(0)))


@dataclasses.dataclass(frozen=True)
class House:
    """What all units share."""

    loop: Loop
    settings: Supervision
    account: Account
    samples_dir: Path  # the children's working directory
    lifeline: socket.socket  # the children's end; ours is held open by the arbiter
    attach: str  # the command line's choice of plans, auto = the configuration's
    tag: str
    btf_folder: Path
    kprobe_lines: bool  # write lines of kprobe_events where the kernel could do without, too
    sweeper: kprobe_events.Sweeper
    loaders: Loaders
    changed: Callable[[Unit], None]
    template: TemplateUnit


class LoadingUnit(Unit):
    """A unit whose kernel objects come from a loader and are owned by the supervisor."""

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house.loop, house.settings, house.changed)
        self.house = house
        self.loaded: Loaded | None = None
        self.hooks: list[HookReport] = []
        self.kernel_bytes = 0
        self._channel: socket.socket | None = None
        self._mark = ""  # of the lines of kprobe_events that the last loader may have written

    def request(self) -> Request:
        raise NotImplementedError

    def accepted(self) -> None:
        """The kernel objects are there."""
        raise NotImplementedError

    def load(self) -> None:
        """Forks the loader as soon as it is its turn."""
        self.house.loaders.admit(self)

    def stop(self, first: signal.Signals = signal.SIGTERM) -> None:
        self.house.loaders.forget(self)
        super().stop(first)

    def _release(self, child: spawn.Child) -> None:
        super()._release(child)
        if self._channel:
            self.house.loop.after(0, self.house.loaders.left)

    def fork_loader(self) -> None:
        """Raises OSError when the system has no process to give."""
        house = self.house
        request = dataclasses.replace(
            self.request(), btf_folder=house.btf_folder, kprobe_lines=house.kprobe_lines
        )
        ours, theirs = spawn.socket_pair(socket.SOCK_SEQPACKET)
        keep = {theirs.fileno(), *(held.fd for held in request.shared.values())}
        child = spawn.spawn(
            f"loader {self.name}",
            lambda: loader.run(theirs, request),
            keep,
            None,
            self.settings.loglevel,
        )
        theirs.close()
        self._channel = ours
        self._mark = kprobe_events.mark(request.tag, child.pid)
        timeout_s = self.settings.loader_timeout_secs
        self.adopt(child, None, timeout_s, f"the loader did not finish within {timeout_s:g} s")

    def ended(self, how: str) -> None:
        if self._channel is None:
            super().ended(how)
            return
        channel, self._channel = self._channel, None
        try:
            loaded = handover.receive(channel)
        except (SupervisorError, OSError) as error:
            self.house.sweeper.sweep(self._mark)
            self.failed(str(error))
            return
        finally:
            channel.close()
        if loaded is None:
            self.house.sweeper.sweep(self._mark)
            self.failed(f"the loader ended with {how}" if how else "the loader ended without a word")
        else:
            try:
                self._take(loaded)
            except OSError as error:  # no descriptor to look at them with
                self.unload()
                self.failed(f"its kernel objects cannot be taken over: {error.strerror}")

    def _take(self, loaded: Loaded) -> None:
        for hook in loaded.hooks:
            if not hook.attached:
                log.debug("%s: hook %s: %s %s: %s", self.name, hook.hook, hook.plan, hook.target, hook.reason)
        self.take(loaded)

    def take(self, loaded: Loaded) -> None:
        """What the loader has made is ours now."""
        self.hooks = loaded.hooks
        if loaded.error or not any(hook.attached for hook in loaded.hooks):
            self.let_go(loaded)
            self.unavailable(loaded.error or f"no hook: {lacking(loaded.hooks)}")
            return
        self.loaded = loaded
        self.kernel_bytes = sum(maps.kernel_bytes(held.fd) for held in loaded.maps.values())
        self.accepted()

    def let_go(self, loaded: Loaded) -> None:
        """Closes it, and has the lines removed that it needed."""
        loaded.close()
        if loaded.lines:
            self.house.sweeper.sweep(loaded.lines)

    def unload(self) -> None:
        """Detaches and frees everything in the kernel."""
        if self._channel:
            self._channel.close()
            self._channel = None
            self.house.sweeper.sweep(self._mark)
        if self.loaded:
            self.let_go(self.loaded)
            self.loaded, self.kernel_bytes = None, 0
            self.hooks = [dataclasses.replace(hook, link=None) for hook in self.hooks]


def shards(config: ProgramConfig) -> int:
    """Over how many rows `maps per core` spreads a process's counters: a power of two, one for each CPU."""
    return 1 << (cpus.possible() - 1).bit_length() if config.maps_per_core else 1


# `ebpf co-re tracing` in our words.
_TRACING: Mapping[str, Family] = {"trampoline": "fentry", "probe": "kprobe", "tracepoint": "tracepoint"}


def preference(attach: str, config: ProgramConfig) -> Preference:
    """Which plans to use. The command line's word is the only family; of the configuration, `legacy` leaves
    trampolines out, and a tracing other than the default one is tried first."""
    only = [family for family in FAMILIES if family == attach]
    if only:
        return Preference(tuple(only))
    if config.type_format == "legacy":
        return Preference(("kprobe", "tracepoint"))
    return Preference(first=None if config.co_re_tracing == "trampoline" else _TRACING[config.co_re_tracing])


def switched_on(program: Program, without: frozenset[str]) -> Program:
    """The program with those hooks and parts only that its configuration file does not switch off."""
    there = program.parts
    return dataclasses.replace(
        program,
        hooks=tuple(hook for hook in program.hooks if without.isdisjoint((hook.name, hook.part))),
        parts=(lambda: there() - without) if there else None,
    )


def switched_off(program: Program, without: frozenset[str]) -> list[HookReport]:
    """What is said of the hooks that the configuration file switches off."""
    why = "the configuration switches it off"
    return [HookReport(hook.name, "", "", False, why) for hook in program.hooks if hook.name in without]


def without_part(program: Program, part: str, why: str) -> Loaded:
    """What stands for a part that cannot be loaded: none of its hooks is attached."""
    return Loaded(hooks=[HookReport(h.name, "", "", False, why) for h in program.hooks if h.part == part])


class CoreUnit(LoadingUnit):
    """The identity program: it has kernel objects and no worker. RUNNING means that they are there."""

    def __init__(
        self,
        house: House,
        make_request: Callable[[], Request],
        ready: Callable[[], None],
        reading: str,
    ) -> None:
        super().__init__("task", house)
        self._make_request = make_request
        self._ready_call = ready
        self._reading = reading

    def request(self) -> Request:
        return self._make_request()

    def launch(self) -> None:
        self.load()

    def accepted(self) -> None:
        attached = {hook.hook for hook in self.hooks if hook.attached}
        if not attached.issuperset(hook.name for hook in identities.HOOKS):
            self.unload()
            self.unavailable(f"processes cannot be followed: {lacking(self.hooks)}")
        else:
            without = "" if self.follows_cgroups else "without cgroups"
            self.enter(
                State.RUNNING, "; ".join(filter(None, ("identities are kept", without, self._reading)))
            )
        self._ready_call()

    @property
    def follows_cgroups(self) -> bool:
        """Whether the identities say which cgroup a process is in."""
        return any(hook.hook == identities.CGROUP.name and hook.attached for hook in self.hooks)

    def unavailable(self, why: str) -> None:
        super().unavailable(why)
        self._ready_call()


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
            else:
                self.description = "waiting for the identities of processes"
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
        """Goes on with a start that waited."""
        if self.state is State.STARTING and self.child is None:
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


class ResolverUnit(Unit):
    """The process that asks for names of hosts. Nobody waits for it, so that nothing depends on its state."""

    def __init__(self, house: House) -> None:
        super().__init__("resolver", house.loop, house.settings, house.changed)
        self._house = house
        self.aggregators_end, self._end = resolver.channel()

    def launch(self) -> None:
        ours, theirs = spawn.socket_pair()
        with theirs:
            child = spawn.spawn(
                self.name,
                lambda: resolver.run(self._end, theirs),
                {self._end.fileno(), theirs.fileno()},
                dataclasses.replace(self._house.account, capability=None),
                self.settings.loglevel,
                self._house.samples_dir,
            )
        self.adopt_worker(child, ours)

    def running_description(self) -> str:
        return "names of hosts can be asked for"


class AggregatorUnit(Unit):
    """The aggregator. `done` is called when it says that all is over: no reader, or the last frame sent."""

    def __init__(
        self,
        house: House,
        assign: Callable[[socket.socket], aggregator.Assignment],
        done: Callable[[], None],
    ) -> None:
        super().__init__("aggregator", house.loop, house.settings, house.changed)
        self.house = house
        self._assign = assign
        self._done = done

    def launch(self) -> None:
        ours, theirs = spawn.socket_pair()
        assignment = self._assign(theirs)
        child = spawn.spawn(
            "aggregator",
            lambda: aggregator.run(assignment),
            assignment.descriptors(),
            self.house.account,
            self.settings.loglevel,
            self.house.samples_dir,
        )
        theirs.close()
        self.adopt_worker(child, ours)

    def ended(self, how: str) -> None:
        if how:
            super().ended(how)
            return
        self.enter(State.STOPPING, "its work is done")
        self.enter(State.STOPPED, "stopped")
        self._done()


def close_storage(storage: Storage) -> None:
    os.close(storage.table_fd)
    os.close(storage.ledger_fd)
