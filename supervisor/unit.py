"""One supervised thing: a program with its loader and worker, or the aggregator.

STOPPED ─▶ STARTING ─▶ RUNNING ─▶ STOPPING ─▶ STOPPED
              │  ▲         │
              ▼  │         ▼
UNAVAILABLE  BACKOFF ◀── EXITED        BACKOFF ─▶ … ─▶ FATAL (tried again, rarely)
"""

import collections
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

from supervisor import logs, policy
from supervisor.config.model import Supervision
from supervisor.loop import Loop, Timer
from supervisor.spawn import Child
from supervisor.states import ALLOWED, HAS_PROCESS, State

RING_LINES: Final = 200
_LINE_BYTES: Final = 4096
# A worker takes its first sample at once; on an emulated machine that can take seconds.
_READY_S: Final = 30.0

Lines = collections.deque[str]


class LineReader:
    """A child's stderr, line by line, with each line's level."""

    def __init__(self, loop: Loop, fd: int, tell: Callable[[int, str], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._told = tell
        self._rest = b""
        loop.watch(fd, self.read)

    def read(self) -> None:
        """Takes what is there; at the end of the file the last line too, and the watch ends."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            if line:
                self._tell(line[:_LINE_BYTES].decode("utf-8", "backslashreplace"))
        if not data:
            self.close()

    def _tell(self, line: str) -> None:
        self._told(*logs.parse_child_line(line))

    def finish(self) -> None:
        """Reads what a process that has ended left in its pipe."""
        if self._fd >= 0:
            self.read()
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            self._fd = -1


class Unit:
    """State, restarts and log of one supervised thing. What it runs is its subclass's matter."""

    def __init__(
        self, name: str, loop: Loop, settings: Supervision, changed: Callable[["Unit"], None]
    ) -> None:
        self.name = name
        self.state = State.STOPPED
        self.description = "not started"
        self.restarts = 0
        self.child: Child | None = None
        self.ring: Lines = collections.deque(maxlen=RING_LINES)
        self.followers: list[Callable[[str], None]] = []
        self._loop = loop
        self.settings = settings
        self._changed = changed
        self._log = logging.getLogger(name)
        self._failures = 0
        self._started_s = 0.0
        self._running_since_s: float | None = None
        self._timer: Timer | None = None
        self._reader: LineReader | None = None
        self._ready: socket.socket | None = None

    # ---- what others ask

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started_s if self.state in HAS_PROCESS else 0.0

    @property
    def running_s(self) -> float:
        return time.monotonic() - self._running_since_s if self._running_since_s else 0.0

    # ---- commands

    def start(self) -> None:
        """From any state in which nothing of it runs; FATAL and BACKOFF are started at once."""
        if self.state in HAS_PROCESS:
            return
        self._failures = 0
        self._launch()

    def stop(self, first: signal.Signals = signal.SIGTERM) -> None:
        """Two phases: SIGTERM, and SIGKILL after stopwaitsecs."""
        if self.state in HAS_PROCESS and self.child:
            if self.state is not State.STOPPING:
                self.enter(State.STOPPING, "asked to stop")
                self.signal(first)
                self._arm(self.settings.stopwaitsecs, self._stop_is_late)
        elif self.state is State.STOPPED:
            return
        else:
            self._disarm()
            self.stopped()
            self.enter(State.STOPPED, "stopped")

    def kill(self, why: str) -> None:
        """SIGKILL; what follows is the policy's matter."""
        self._tell(logging.WARNING, f"{why}; killing pid {self.child.pid if self.child else 0}")
        self.description = why
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        if self.child:
            self.child.signal(number)

    # ---- for the subclass

    def launch(self) -> None:
        """Starts the process; raises OSError when the system has none to give."""
        raise NotImplementedError

    def stopped(self) -> None:
        """Called when it has no process any more, before it is told that it is STOPPED."""

    def ended(self, how: str) -> None:
        """Called when its process has ended; `how` is "" for exit status 0."""
        self.failed(f"ended with {how}" if how else "ended")

    def adopt(self, child: Child, ready: socket.socket | None, timeout_s: float, late: str) -> None:
        """Watches over a new process; it has `timeout_s` to get on."""
        self.child = child
        self._started_s = time.monotonic()
        self._reader = LineReader(self._loop, child.stderr_fd, self._tell)
        self._loop.watch(child.pidfd, self._on_end)
        self._arm(timeout_s, lambda: self.kill(late))
        if ready:
            self._ready = ready
            self._loop.watch(ready.fileno(), self._on_ready)

    def adopt_worker(self, child: Child, ready: socket.socket) -> None:
        self.adopt(child, ready, _READY_S, f"not ready after {_READY_S:.0f} s")

    def failed(self, why: str) -> None:
        """Its process has ended unasked: what now."""
        step = policy.after_exit(self.running_s or None, self._failures, self.settings, _chance())
        self._failures = step.failures
        self._running_since_s = None
        if step.state is State.EXITED:
            self.enter(State.EXITED, f"{why}; starting again")
        elif step.state is State.BACKOFF:
            tries = f"retry {step.failures} of {self.settings.startretries}"
            self.enter(State.BACKOFF, f"{why}; {tries} in {step.delay_s:.1f} s")
        else:
            self.enter(
                State.FATAL, f"{why}, {step.failures} times in a row; next try in {step.delay_s:.0f} s"
            )
        self._arm(step.delay_s, self._start_again)

    def unavailable(self, why: str) -> None:
        self._disarm()
        self.enter(State.UNAVAILABLE, why)

    def enter(self, state: State, description: str) -> None:
        """Changes the state, tells it, and refuses what the table of states does not allow."""
        if state not in ALLOWED[self.state]:
            raise AssertionError(f"{self.name}: {self.state.value} -> {state.value} is no transition")
        worry = state in (State.BACKOFF, State.FATAL, State.EXITED, State.UNAVAILABLE)
        self._tell(logging.WARNING if worry else logging.INFO, f"{state.value}: {description}")
        self.state, self.description = state, description
        self._changed(self)

    # ---- events

    def _launch(self) -> None:
        self._disarm()
        self._running_since_s = None
        self.enter(State.STARTING, "starting")
        try:
            self.launch()
        except OSError as error:
            self.failed(f"cannot be started: {error.strerror}")

    def _start_again(self) -> None:
        self.restarts += 1
        self._launch()

    def _on_ready(self) -> None:
        """READY, or the end of a worker that never was."""
        if self._ready is None:
            return
        ready, self._ready = self._ready, None
        self._loop.unwatch(ready.fileno())
        told = ready.recv(16)
        ready.close()
        if told and self.state is State.STARTING:
            self._disarm()
            self._running_since_s = time.monotonic()
            self.enter(State.RUNNING, self.running_description())

    def running_description(self) -> str:
        return "its first cycle is under way"

    def _on_end(self) -> None:
        child = self.child
        how = child.reap() if child else None
        if child is None or how is None:
            return
        self._release(child)
        if self.state is State.STOPPING:
            self._disarm()
            self.stopped()
            self.enter(State.STOPPED, "stopped")
        else:
            self._disarm()
            self.ended(how)

    def _release(self, child: Child) -> None:
        """Takes the last lines and closes what belonged to the process."""
        self.child = None
        self._loop.unwatch(child.pidfd)
        if self._reader:
            self._reader.finish()
        if self._ready:
            self._loop.unwatch(self._ready.fileno())
            self._ready.close()
            self._ready = None
        child.close()

    def _stop_is_late(self) -> None:
        self.kill(f"did not stop within {self.settings.stopwaitsecs:g} s")

    def _arm(self, delay_s: float, call: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.after(delay_s, call)

    def _disarm(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _tell(self, level: int, text: str) -> None:
        """Logs it under the unit's name, and keeps it in the ring for `tail`."""
        self._log.log(level, "%s", text)
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {logs.escaped(text)}"
        self.ring.append(line)
        for follower in list(self.followers):
            follower(line)


def _chance() -> float:
    """Anything from 0 to 1."""
    return os.urandom(1)[0] / 256
