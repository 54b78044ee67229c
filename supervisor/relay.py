"""Hands a served stream on to the agent that has started us: no privilege, little memory, and no import that
is not the standard library's, so that it is there at once.

    stream.sock ──▶ whole collections, checked ──▶ stdout, in pieces that a pipe takes without a wait
       ▲                                             │
       └── again and again, when the unit restarts   └── gone, or stdin at its end, or a signal: the end

An agent takes a plugin that says nothing for as long as it likes, up to v1.41; later ones end it after two
minutes (netdata src/plugins.d). So an empty line, which every agent ignores, goes out in a long silence.
What an agent does not forgive is a wrong word, so what comes is looked at before it is handed on.
"""

import contextlib
import os
import pwd
import re
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from types import FrameType
from typing import Final

_ACCOUNT: Final = "ebpf-supervisor"
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred (unix(7)): pid, uid, gid
_RECEIVE_BYTES: Final = 1 << 16
# The end of a collection, where the stream may be cut.
_END: Final = b"\nEND\n"
# More than the definitions of ten thousand charts: what has no collection in it is no stream.
_MOST_BYTES: Final = 16 << 20
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_SILENCE_S: Final = 60.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 1.0

_NAME: Final = rb"(?:'[^'\n]*'|[^\s'=]+)"
# The lines that aggregator/stream.py writes. Possessive: one pass, whatever it is given.
_SOUND: Final = re.compile(
    rb"(?:CHART \S+ '[^\n]+\n|DIMENSION [^\n]+\n|CLABEL [^\n]+\n|CLABEL_COMMIT\n"
    rb"|BEGIN \S+\n|SET " + _NAME + rb" = -?[0-9]+\n|END\n)*+"
)
_CHART: Final = re.compile(rb"(CHART \S+ (?:'[^'\n]*' ){5}\S+ [0-9]+ )([0-9]+)( [^\n]*\n)")
_UNIT: Final = re.compile(
    rb"CHART (?P<chart>\S+) [^\n]*\n|BEGIN (?P<of>\S+)\n(?:SET [^\n]*\n)*+END\n|[^\n]*\n"
)


class NotOffered(Exception):
    """No stream is to be had; says why."""


class Over(Exception):
    """The agent has gone, or wants us to end."""


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr is where this would be told
        os.write(2, f"ebpf-supervisor.plugin: {text}\n".encode("utf-8", "backslashreplace"))


def occupy_standard_descriptors() -> None:
    """Whoever starts us may have closed some: nothing of ours may get their numbers."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)


def connect(path: str) -> socket.socket:
    """A connection to the supervisor that serves there. Raises NotOffered."""
    connection = socket.socket(socket.AF_UNIX)
    # Nobody may be there to accept: with many who wait, connect(2) would wait too.
    connection.setblocking(False)
    try:
        connection.connect(path)
        _check_peer(connection, path)
    except NotOffered:
        connection.close()
        raise
    except PermissionError as error:
        connection.close()
        raise NotOffered(
            f"{path}: uid {os.geteuid()} may not read it; `stream group` in ebpf.d.conf says who may"
        ) from error
    except OSError as error:
        connection.close()
        raise NotOffered(f"{path}: {error.strerror or error}") from error
    return connection


def _check_peer(connection: socket.socket, path: str) -> None:
    """Who listens there must be root, or the service's account."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(data)[1]
    if uid != 0 and uid != _account_uid():
        raise NotOffered(f"{path}: uid {uid} offers it, not root; it is not read")


def _account_uid() -> int | None:
    try:
        return pwd.getpwnam(_ACCOUNT).pw_uid
    except KeyError:
        return None


class Agent:
    """The agent at the other ends of stdin and stdout. Every wait here ends with it: raises Over."""

    def __init__(self) -> None:
        self._wakeup, self._sender = socket.socketpair()
        self._wakeup.setblocking(False)
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _noted) for number in _ENDING}
        self._spoke_s = time.monotonic()

    def wait(self, fd: int, events: int, timeout_s: float | None = None) -> bool:
        """Whether the descriptor is ready in time (-1: none); None waits for ever."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            now_s = time.monotonic()
            speak_s = max(0.0, self._spoke_s + _SILENCE_S - now_s)
            left_s = speak_s if deadline_s is None else min(speak_s, max(0.0, deadline_s - now_s))
            if self._poll(fd, events, left_s):
                return True
            if time.monotonic() >= self._spoke_s + _SILENCE_S:
                self._break_silence()
            if deadline_s is not None and time.monotonic() >= deadline_s:
                return False

    def leave(self) -> None:
        """Gives signals back to whoever goes on here, unless one has come."""
        self.wait(-1, 0, 0)
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._wakeup.close()
        self._sender.close()

    def write(self, data: bytes) -> None:
        """All of it, in pieces that end with a line and that the pipe has room for."""
        view, begin = memoryview(data), 0
        while begin < len(data):
            end = begin + select.PIPE_BUF
            if end < len(data):
                end = data.rfind(b"\n", begin, end) + 1 or end
            self.wait(1, select.POLLOUT)
            begin += self._put(view[begin:end])

    def _put(self, piece: memoryview | bytes) -> int:
        try:
            written = os.write(1, piece)
        except BlockingIOError:  # somebody has made it non-blocking
            return 0
        except OSError as error:
            raise Over from error
        self._spoke_s = time.monotonic()
        return written

    def _break_silence(self) -> None:
        if not self._poll(1, select.POLLOUT, 0) or not self._put(b"\n"):
            self._spoke_s = time.monotonic()

    def _poll(self, fd: int, events: int, timeout_s: float) -> bool:
        poller = select.poll()
        poller.register(self._wakeup, select.POLLIN)
        poller.register(1, 0)
        if _is_channel(0):
            poller.register(0, select.POLLIN)
        if fd >= 0:
            poller.register(fd, events)
        ready = dict(poller.poll(timeout_s * 1000))
        self._check(ready)
        return bool(ready.get(fd, 0))

    def _check(self, ready: dict[int, int]) -> None:
        if self._wakeup.fileno() in ready:
            raise Over
        if ready.get(1, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise Over
        if ready.get(0):
            # Nothing that an agent asks for here is offered; newer ones say QUIT before they end.
            data = os.read(0, _RECEIVE_BYTES)
            if not data or b"QUIT" in data.split():
                raise Over


def _noted(number: int, frame: FrameType | None) -> None:
    """The number arrives through the wake-up descriptor."""


def _is_channel(fd: int) -> bool:
    """A pipe or socket, which an agent gives: a terminal or /dev/null says nothing."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def wait_for_stream(path: str, agent: Agent, patience_s: float | None, told: str = "") -> socket.socket:
    """Connects, trying again with longer and longer pauses; None is patience without end. Raises NotOffered
    with the last reason. told: what to say, once, when it has to wait; the reason is added."""
    deadline_s = None if patience_s is None else time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return connect(path)
        except NotOffered as why:
            if deadline_s is not None and time.monotonic() + pause_s > deadline_s:
                raise
            if told:
                say(f"{told} ({why})")
                told = ""
        agent.wait(-1, 0, pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class Thinner:
    """Makes a stream of one a second, say, one of every so many seconds: of each chart the last values count.

    Definitions go through at once, with the longer interval, and so do the values that follow one: the agent
    takes the first value of a new dimension as its base.
    """

    def __init__(self, every_s: int) -> None:
        self._every_s = every_s
        self._due_s = 0.0
        self._latest: dict[bytes, bytes] = {}
        self._new: set[bytes] = set()

    def thin(self, data: bytes, now_s: float) -> bytes:
        """What is to be written now of whole units that have come."""
        out = []
        for unit in _UNIT.finditer(data):
            if chart := unit["chart"]:
                self._new.add(chart)
            if unit["of"] and unit["of"] not in self._new:
                self._latest[unit["of"]] = unit[0]
            else:
                self._new.discard(unit["of"] or b"")
                out.append(_CHART.sub(self._slower, unit[0]))
        if now_s >= self._due_s:
            self._due_s = (now_s // self._every_s + 1) * self._every_s
            out += self._latest.values()
            self._latest.clear()
        return b"".join(out)

    def _slower(self, line: "re.Match[bytes]") -> bytes:
        return line[1] + b"%d" % max(int(line[2]), self._every_s) + line[3]


def collections(connection: socket.socket, agent: Agent) -> Iterator[bytes]:
    """What comes, cut where a collection ends, until there is no more. Raises NotOffered: why not."""
    rest = bytearray()
    while True:
        agent.wait(connection.fileno(), select.POLLIN)
        try:
            data = connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            continue
        except OSError as error:
            raise NotOffered(error.strerror or str(error)) from error
        if not data:
            raise NotOffered("the supervisor has ended the stream")
        searched = max(0, len(rest) - len(_END))
        rest += data
        end = rest.rfind(_END, searched)
        cut = end + len(_END) if end >= 0 else 0
        whole = bytes(rest[:cut])
        del rest[:cut]
        if len(rest) > _MOST_BYTES or not _SOUND.fullmatch(whole):
            raise NotOffered("what came is no stream of ours, and was not handed on")
        if whole:
            yield whole


def relay(connection: socket.socket, path: str, agent: Agent, every_s: int) -> None:
    """Until the agent ends it: raises Over."""
    thinner = Thinner(every_s) if every_s > 1 else None
    pause_s, away = _FIRST_PAUSE_S, False
    while True:
        try:
            for whole in collections(connection, agent):
                if away:
                    say(f"{path}: the stream is there again")
                pause_s, away = _FIRST_PAUSE_S, False
                agent.write(thinner.thin(whole, time.monotonic()) if thinner else whole)
        except NotOffered as why:
            if not away:
                say(f"{path}: {why}; waiting for it to come back")
            away = True
        finally:
            connection.close()
        # A supervisor that is just ending lets us in and has nothing more to say.
        agent.wait(-1, 0, pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        connection = wait_for_stream(path, agent, None)
