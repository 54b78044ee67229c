"""Looking after the runtime directory: what somebody has removed of it is made anew, and whoever needs it is
shown the new one."""

import logging
import os
from typing import Protocol

from supervisor import stream_socket
from supervisor.config.model import Config
from supervisor.control import Server
from supervisor.errors import AlreadyRunning
from supervisor.loop import Loop
from supervisor.restart import restart
from supervisor.runtime_dir import CONTROL, SAMPLES, SAMPLES_SOCKET, STREAM, RuntimeDir
from supervisor.spawn import Account
from supervisor.states import State
from supervisor.units.aggregator import AggregatorUnit
from supervisor.units.program import ProgramUnit
from supervisor.units.template import TemplateUnit

log = logging.getLogger("ebpf-supervisor")


class Arbiter(Protocol):
    """Whose units need the directory."""

    config: Config
    units: list[ProgramUnit]
    template: TemplateUnit
    aggregator: AggregatorUnit
    loop: Loop
    ending: bool

    def end(self, why: str, exit_status: int = 0) -> None: ...


class Caretaker:
    """listening_fd: the socket that readers of the stream connect to, None = it is not served."""

    def __init__(
        self,
        arbiter: Arbiter,
        runtime_dir: RuntimeDir,
        server: Server,
        account: Account,
        listening_fd: int | None,
    ) -> None:
        self._arbiter = arbiter
        self._runtime_dir = runtime_dir
        self._server = server
        self._account = account
        self._listening_fd = listening_fd

    def look(self) -> None:
        """Called once a second."""
        gone = self._gone()
        if not gone:
            return
        log.warning("removed from %s: %s; made anew", self._runtime_dir.path, ", ".join(sorted(gone)))
        try:
            self._make_anew(gone)
        except AlreadyRunning as error:
            why = f"its runtime directory was removed, and taken by another one: {error}"
            self._arbiter.end(why, exit_status=1)
        except OSError as error:
            log.error("%s: cannot be made anew: %s", self._runtime_dir.path, error.strerror)
        else:
            self._show(gone)

    def _gone(self) -> frozenset[str]:
        gone = self._runtime_dir.missing()
        if self._arbiter.aggregator.state is not State.RUNNING:
            gone -= {SAMPLES_SOCKET}  # it may be about to make it
        if self._listening_fd is not None and not os.path.lexists(self._runtime_dir.stream):
            gone |= {STREAM}
        return gone

    def _make_anew(self, gone: frozenset[str]) -> None:
        self._runtime_dir.restore(gone, self._account)
        if CONTROL in gone:
            self._server.bind_again()
        if STREAM in gone and self._listening_fd is not None:
            self._serve_again(self._listening_fd)

    def _serve_again(self, listening_fd: int) -> None:
        """Another listening socket under the number that the aggregator is going to inherit."""
        with stream_socket.listen(self._runtime_dir.stream, self._arbiter.config.stream_group) as listener:
            os.dup2(listener.fileno(), listening_fd, inheritable=False)

    def _show(self, gone: frozenset[str]) -> None:
        arbiter = self._arbiter
        if SAMPLES in gone:
            # Their working directory is the folder that is gone: none of them finds the new socket.
            restart(arbiter, [arbiter.template, arbiter.aggregator], self._renew_workers)
        elif not gone.isdisjoint({SAMPLES_SOCKET, STREAM}):
            restart(arbiter, [arbiter.aggregator], lambda: None)

    def _renew_workers(self) -> None:
        for unit in self._arbiter.units:
            unit.renew_worker()
