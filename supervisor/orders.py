"""Orders from outside besides those of ebpfctl: signals, and what the agent does with our stdin."""

import contextlib
import os
import signal
import socket
import stat
from types import FrameType
from typing import Protocol

from supervisor.loop import Loop
from supervisor.reload import Refused


class Arbiter(Protocol):
    """What is ordered of it."""

    loop: Loop
    ending: bool

    def end(self, why: str, exit_status: int = 0) -> None: ...

    def reload(self) -> None: ...


class Orders:
    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter

    def watch_signals(self) -> None:
        self._wakeup, sender = socket.socketpair()
        self._wakeup_sender = sender
        self._wakeup.setblocking(False)
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, _noted)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._arbiter.loop.watch(self._wakeup.fileno(), self._on_signal)

    def _on_signal(self) -> None:
        for number in self._wakeup.recv(64):
            if number == signal.SIGHUP:
                self._on_hangup()
            elif number != signal.SIGCHLD:
                self._arbiter.end(signal.Signals(number).name)

    def _on_hangup(self) -> None:
        """As other daemons do. A terminal that hangs up takes the reader along: that ends us anyway."""
        if not self._arbiter.ending:
            with contextlib.suppress(Refused):  # the log has it
                self._arbiter.reload()

    def watch_stdin(self) -> None:
        """Netdata gives a pipe and closes it when it ends. A terminal or /dev/null says nothing."""
        try:
            mode = os.fstat(0).st_mode
        except OSError:
            return
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self._arbiter.loop.watch(0, self._on_stdin)

    def _on_stdin(self) -> None:
        """Nothing that an agent asks for here is offered; newer ones say QUIT before they end."""
        data = os.read(0, 65536)
        if not data or b"QUIT" in data.split():
            self._arbiter.loop.unwatch(0)
            self._arbiter.end("the agent has closed our stdin" if not data else "the agent said QUIT")


def _noted(number: int, frame: FrameType | None) -> None:
    """The number arrives through the wake-up descriptor."""
