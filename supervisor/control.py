"""The control socket: newline-ended JSON, one request a connection, one answer.

    {"command": "status", "names": ["fd"]}            -> {"ok": true, …}
    {"command": "top"}                                -> {"ok": true, …} with descriptors (top/offer.py)
    {"command": "tail", "names": ["fd"], "follow": true} -> {"ok": true, "line": "…"} again and again
    anything else                                     -> {"ok": false, "error": "…"}

Whoever connects is known by the kernel's word (SO_PEERCRED): root may do everything, the group may ask.
"""

import grp
import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from supervisor.loop import Loop

GROUP: Final = "ebpf-supervisor"
_REQUEST_BYTES: Final = 4096
_ANSWER_BYTES: Final = 1 << 20
_CLIENTS: Final = 32
# How long a client has that does not follow a log, and how often is looked.
_CLIENT_S: Final = 120.0
_LOOK_S: Final = 10.0
_PAUSE_S: Final = 0.1
_OPEN_TO_GROUP: Final = frozenset({"status"})
_CREDENTIALS: Final = struct.Struct("3i")

log = logging.getLogger("control")

Answer = dict[str, Any]


class Client:
    """One connection. It is answered once, or line by line while it follows a log."""

    def __init__(self, connection: socket.socket, loop: Loop, closed: Callable[["Client"], None]) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._loop = loop
        self._closed = closed
        self._out = b""
        self._last = False
        self._descriptors: list[int] = []
        self.received = b""
        self.on_close: list[Callable[[], None]] = []
        self.open = True
        self.asked = False
        self.since_s = time.monotonic()

    @property
    def fd(self) -> int:
        return self._connection.fileno()

    def peer_uid(self) -> int:
        data = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(data)[1])

    def receive(self) -> bytes:
        """What has come; b"" at the end or on any error."""
        try:
            return self._connection.recv(_REQUEST_BYTES)
        except OSError:
            return b""

    def answer(self, answer: Answer, *, last: bool = True, descriptors: Sequence[int] = ()) -> None:
        """Sends without waiting; a client that does not read and lets a megabyte pile up is dropped.

        descriptors: copies of them come with the answer's first byte; they themselves are closed.
        """
        self._descriptors += descriptors
        if not self.open:
            self._close_descriptors()
            return
        self._out += json.dumps(answer).encode() + b"\n"
        self._last = last
        if len(self._out) > _ANSWER_BYTES:
            self.close()
            return
        self._loop.watch_writable(self.fd, self._flush)
        self._flush()

    def fail(self, error: str) -> None:
        self.answer({"ok": False, "error": error})

    def _flush(self) -> None:
        try:
            sent = socket.send_fds(self._connection, [self._out], self._descriptors) if self._out else 0
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._close_descriptors()
        self._out = self._out[sent:]
        if not self._out and self._last:
            self.close()
        elif not self._out:
            self.ignore_input()

    def ignore_input(self) -> None:
        """A connection is for one request; from here on only its end is of interest."""
        self.asked = True
        self._loop.unwatch(self.fd)
        self._loop.watch(self.fd, self._on_further_input)

    def _on_further_input(self) -> None:
        if not self.receive():
            self.close()

    def _close_descriptors(self) -> None:
        for fd in self._descriptors:
            os.close(fd)
        self._descriptors.clear()

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        self._close_descriptors()
        self._loop.unwatch(self.fd)
        self._connection.close()
        for call in self.on_close:
            call()
        self._closed(self)


Handler = Callable[[Client, tuple[str, ...], Mapping[str, Any]], None]


class Server:
    """Listens, checks who it is and what is asked, and calls the command's handler."""

    def __init__(self, path: Path, loop: Loop, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._loop = loop
        self._handlers = handlers
        self._clients: dict[Client, None] = {}
        self._looking = False
        self._bind()

    def _bind(self) -> None:
        path = self._path
        self._pausing = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        # Nobody may connect between bind and chown.
        mask = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(mask)
        group_id = _group_id()
        if group_id is not None:
            os.chown(path, 0, group_id)
            path.chmod(0o660)
        self._socket.listen(_CLIENTS)
        self._listen()

    def _listen(self) -> None:
        self._loop.watch(self._socket.fileno(), self._accept)

    def _go_on_listening(self) -> None:
        if self._pausing:
            self._pausing = False
            self._listen()

    def bind_again(self) -> None:
        """Somebody has removed the socket. Who is connected stays so. Raises OSError."""
        self._stop_listening()
        self._bind()

    def _stop_listening(self) -> None:
        if not self._pausing:
            self._loop.unwatch(self._socket.fileno())
        self._pausing = False
        self._socket.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            # Without a descriptor for it the client stays in the queue, and the socket readable: asking again
            # at once would take all of a processor.
            self._pausing = True
            self._loop.unwatch(self._socket.fileno())
            self._loop.after(_PAUSE_S, self._go_on_listening)
            return
        client = Client(connection, self._loop, lambda gone: self._clients.pop(gone, None))
        self._clients[client] = None
        self._loop.watch(client.fd, lambda: self._read(client))
        if not self._looking:
            self._look_again()
        idle = next((other for other in self._clients if not other.asked), client)
        if len(self._clients) > _CLIENTS and idle is not client:
            idle.close()
        elif len(self._clients) > _CLIENTS:
            client.fail("too many connections; try again")

    def _look_again(self) -> None:
        # One timer for all: one each would be kept for two minutes, whoever comes and goes in thousands.
        self._looking = bool(self._clients)
        if self._looking:
            self._loop.after(_LOOK_S, self._let_go_of_the_late)

    def _let_go_of_the_late(self) -> None:
        for client in list(self._clients):
            if not client.on_close and time.monotonic() - client.since_s > _CLIENT_S:
                client.close()
        self._look_again()

    def _read(self, client: Client) -> None:
        data = client.receive()
        client.received += data
        if not data:
            client.close()
        elif b"\n" in client.received:
            self._handle(client, client.received.partition(b"\n")[0])
        elif len(client.received) > _REQUEST_BYTES:
            client.fail("the request is too long")

    def _handle(self, client: Client, line: bytes) -> None:
        try:
            request = json.loads(line)
            command, names = request["command"], request.get("names", [])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            client.fail("not a request")
            return
        handler = self._handlers.get(command) if isinstance(command, str) else None
        if handler is None:
            client.fail("unknown command")
        elif client.peer_uid() != 0 and command not in _OPEN_TO_GROUP:
            log.warning("uid %d asked for %s and may not", client.peer_uid(), command)
            client.answer({"ok": False, "denied": True, "error": f"{command}: only root may do this"})
        else:
            client.ignore_input()
            handler(client, tuple(names), request)

    def close(self) -> None:
        for client in list(self._clients):
            client.close()
        self._stop_listening()


def _group_id() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
