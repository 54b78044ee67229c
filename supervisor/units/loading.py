"""A unit whose kernel objects are made by a loader and stay with the supervisor."""

import dataclasses
import logging
import signal
import socket

from supervisor import kprobe_events, spawn
from supervisor.errors import SupervisorError
from supervisor.kernel import handover, loader, maps
from supervisor.kernel.handover import Loaded
from supervisor.kernel.plans import HookReport
from supervisor.kernel.reasons import lacking
from supervisor.kernel.request import Request
from supervisor.unit import Unit
from supervisor.units.house import House

log = logging.getLogger("ebpf-supervisor")


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
