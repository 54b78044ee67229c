"""A server with many services, and clients with many connections to them, of which each byte is known.

    plan()                     who talks how much to whom; nothing else decides
    server.do("serve")         listens for all of it, answers what comes
    client.do("open", n, 97)   the connections of the nth of 97 clients
    client.do("talk")

Every second UDP client is not connected: it says at each datagram where that goes.
"""

import functools
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Run as a program it has the interpreter's own folders only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.network import Peer, _isolate, _join
from tests.workload import main

SERVICES: Final = 197
CONNECTIONS: Final = 3001
CLIENTS: Final = 97
FIRST_PORT: Final = 15200
_UNIT: Final = 125  # bytes of a kilobit: whole numbers of it are exact in charts of kilobits
_SO_RCVBUFFORCE: Final = 33  # include/uapi/asm-generic/socket.h


class Member(Peer):
    """The test's side of one such process."""

    SCRIPT = Path(__file__)


@dataclass(frozen=True)
class Service:
    """What a server listens on, and answers: to a TCP connection so often, to each UDP datagram once."""

    number: int

    @property
    def tcp(self) -> bool:
        return self.number % 2 == 0

    @property
    def version(self) -> int:
        return 4 if self.number % 4 < 2 else 6

    @property
    def port(self) -> int:
        return FIRST_PORT + self.number

    @property
    def address(self) -> str:
        return f"127.0.1.{self.number + 1}" if self.version == 4 else "::1"

    @property
    def name(self) -> str:
        """What its line is called."""
        host = self.address if self.version == 4 else f"[{self.address}]"
        return f"{self.port}:{'TCP' if self.tcp else 'UDP'}:{host}"

    @property
    def size(self) -> int:
        return _UNIT * (1 + self.number % 3)

    @property
    def answers(self) -> int:
        return 1 + self.number % 3

    @property
    def answer_size(self) -> int:
        return _UNIT * (1 + self.number % 2)

    def socket(self) -> socket.socket:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        return socket.socket(family, socket.SOCK_STREAM if self.tcp else socket.SOCK_DGRAM)


@dataclass(frozen=True)
class Talk:
    """One connection: so many calls are sent by it."""

    number: int

    @property
    def client(self) -> int:
        return self.number % CLIENTS

    @property
    def service(self) -> Service:
        return Service(self.number % SERVICES)

    @property
    def calls(self) -> int:
        return 1 + self.number % 5

    @property
    def answers(self) -> int:
        return self.service.answers if self.service.tcp else self.calls

    @property
    def connected(self) -> bool:
        return self.service.tcp or self.number % 3 > 0


def plan() -> Iterator[Talk]:
    return map(Talk, range(CONNECTIONS))


def _exactly(connection: socket.socket, size: int) -> bool:
    """Receives one message; False at the end of the connection."""
    data = connection.recv(size, socket.MSG_WAITALL)
    assert len(data) in (0, size)
    return bool(data)


def _serve() -> None:
    threading.stack_size(1 << 18)
    for service in map(Service, range(SERVICES)):
        listener = service.socket()
        listener.bind((service.address, service.port))
        if service.tcp:
            listener.listen(4096)
        else:
            listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
        _start(_accept if service.tcp else _answer_datagrams, listener, service)


def _start(what: Callable[[socket.socket, Service], None], of: socket.socket, service: Service) -> None:
    threading.Thread(target=what, args=(of, service), daemon=True).start()


def _accept(listener: socket.socket, service: Service) -> None:
    while True:
        _start(_answer, listener.accept()[0], service)


def _answer(connection: socket.socket, service: Service) -> None:
    with connection:
        while _exactly(connection, service.size):
            continue
        for _ in range(service.answers):
            connection.sendall(bytes(service.answer_size))


def _answer_datagrams(bound: socket.socket, service: Service) -> None:
    while True:
        _, client = bound.recvfrom(service.size)
        bound.sendto(bytes(service.answer_size), client)


_open_talks: list[tuple[Talk, socket.socket]] = []


def _open(client: int) -> None:
    for talk in plan():
        if talk.client == client:
            opened = talk.service.socket()
            if talk.connected:
                opened.connect((talk.service.address, talk.service.port))
            _open_talks.append((talk, opened))


def _talk() -> None:
    for talk, connection in _open_talks:
        service = talk.service
        send: Callable[[bytes], int] = connection.send
        if not talk.connected:
            send = functools.partial(_send_to, connection, (service.address, service.port))
        for _ in range(talk.calls):
            assert send(bytes(service.size)) == service.size
        if service.tcp:
            connection.shutdown(socket.SHUT_WR)
        for _ in range(talk.answers):
            assert _exactly(connection, service.answer_size)
    for _, connection in _open_talks:
        connection.close()


def _send_to(sender: socket.socket, where: tuple[str, int], data: bytes) -> int:
    return sender.sendto(data, where)


_ORDERS: Final[dict[str, Callable[..., int | None]]] = {
    "isolate": _isolate,
    "join": _join,
    "serve": _serve,
    "open": _open,
    "talk": _talk,
}


if __name__ == "__main__":
    main(_ORDERS)
