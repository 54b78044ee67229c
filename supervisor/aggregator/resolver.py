"""Names of remote hosts, asked of the system's resolver by a process of its own.

    aggregator ── address ──▶ resolver ── getnameinfo(3) ──▶ DNS, /etc/hosts
               ◀── address, name ──┘

A name server that does not answer holds up the resolver's threads and nobody else: the aggregator never
waits, and shows an address whose name has not come in time. Who owns an address writes its name as he likes:
only what can be a host's name is taken.
"""

import contextlib
import ipaddress
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

THREADS: Final = 4
# What has not come by then is not waited for.
PATIENCE_S: Final = 5.0
# How long an answer counts; and none at all.
KEPT_S: Final = 3600.0
MOST_NAMES: Final = 4096
_MOST_BYTES: Final = 512
_QUEUED: Final = 1024
# RFC 1123, with the underscore that names of services have.
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?")


def channel() -> tuple[socket.socket, socket.socket]:
    """The aggregator's end, which never waits, and the resolver's: a message is whole or absent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


# ---- the resolver's side


def run(channel: socket.socket, ready: socket.socket, look_up: Callable[[str], str] | None = None) -> int:
    """The resolver's main function: answers until it is ended. look_up: address -> name, "" = it has none."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    asked: queue.Queue[str] = queue.Queue(_QUEUED)
    for _ in range(THREADS):
        threading.Thread(target=_answer, args=(channel, asked, look_up or name_of), daemon=True).start()
    ready.send(b"READY")
    while message := channel.recv(_MOST_BYTES):
        with contextlib.suppress(queue.Full, UnicodeDecodeError):  # whoever asked gives up in time
            asked.put_nowait(message.decode())
    return 0


def _answer(channel: socket.socket, asked: "queue.Queue[str]", look_up: Callable[[str], str]) -> None:
    while True:
        address = asked.get()
        channel.send(f"{address} {look_up(address)}".encode()[:_MOST_BYTES])


def name_of(address: str) -> str:
    """By getnameinfo(3); "" where there is none."""
    try:
        return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
    except (OSError, UnicodeError):
        return ""


# ---- the aggregator's side


def clean(name: str) -> str:
    """The name in small letters, "" where it cannot be a host's."""
    small = name.lower().rstrip(".")
    return small if _NAME.fullmatch(small) else ""


class Names:
    """What is known of addresses. None while the answer may still come, "" for an address without a name."""

    def __init__(self, channel: socket.socket, now: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel
        self._now = now
        self._known: dict[str, tuple[str, float]] = {}  # in the order in which they came
        self._asked: dict[str, float] = {}

    def of(self, address: str) -> str | None:
        now = self._now()
        name, came = self._known.get(address, ("", -KEPT_S))
        if now - came < KEPT_S:
            return name
        if address not in self._asked:
            self._asked[address] = now
            try:
                self._channel.send(address.encode())
            except OSError:
                self._note(address, "")
                return ""
        if now - self._asked[address] < PATIENCE_S:
            return None
        self._note(address, "")
        return ""

    def take_answers(self) -> None:
        """Those that have come; never waits. An answer that comes late counts for later."""
        with contextlib.suppress(OSError):
            while message := self._channel.recv(_MOST_BYTES):
                address, _, name = message.decode("utf-8", "replace").partition(" ")
                with contextlib.suppress(ValueError):
                    self._note(str(ipaddress.ip_address(address)), clean(name))

    def _note(self, address: str, name: str) -> None:
        self._asked.pop(address, None)
        self._known.pop(address, None)
        self._known[address] = (name, self._now())
        if len(self._known) > MOST_NAMES:
            del self._known[next(iter(self._known))]
