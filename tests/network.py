"""Processes that talk to each other over loopback, in a network namespace of their own, and count on it that
each order makes exactly so many calls.

    with Peer("server") as server, Peer("client") as client:
        server.do("isolate")
        client.do("join", server.pid)
        server.do("listen", 4, 5000)
        client.do("connect", 4, 5000, 101)

A version is 4, 6, or 46: an IPv6 socket with an IPv4 address. Where one connection is meant it is the last.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

# Run as a program it has the interpreter's own folders only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.workload import Workload, main

_CLONE_NEWNET: Final = 0x40000000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_SO_ATTACH_FILTER: Final = 26  # this and the next two: include/uapi/asm-generic/socket.h
_SO_DETACH_FILTER: Final = 27
_SO_RCVBUFFORCE: Final = 33
_ADDRESSES: Final = {
    4: (socket.AF_INET, "127.0.0.1"),
    6: (socket.AF_INET6, "::1"),
    46: (socket.AF_INET6, "::ffff:127.0.0.1"),
}
_BEYOND_ANY_BUFFER: Final = 32 << 20


class Peer(Workload):
    """The test's side of one such process."""

    SCRIPT = Path(__file__)

    def counter(self, protocol: str, name: str) -> int:
        """Of the process's network namespace, by /proc/net/snmp (proc_pid_net(5))."""
        lines = [line.split() for line in Path(f"/proc/{self.pid}/net/snmp").read_text().splitlines()]
        names, values = (line for line in lines if line[0] == f"{protocol}:")
        return int(values[names.index(name)])

    def counter_ext(self, name: str) -> int:
        """Of the process's network namespace, by /proc/net/netstat, which has names like TCPLossProbes."""
        lines = [line.split() for line in Path(f"/proc/{self.pid}/net/netstat").read_text().splitlines()]
        names, values = (line for line in lines if line[0] == "TcpExt:")
        return int(values[names.index(name)])

    def retransmits(self, *, loss_probes: bool) -> int:
        """Segments that the process's network namespace has sent again. RetransSegs has those too that could
        not be sent; loss probes do not pass the functions that send again."""
        probes = 0 if loss_probes else self.counter_ext("TCPLossProbes")
        return self.counter("Tcp", "RetransSegs") - self.counter_ext("TCPRetransFail") - probes

    def counter_v6(self, name: str) -> int:
        """The same by /proc/net/snmp6, which has names like Udp6InDatagrams."""
        lines = Path(f"/proc/{self.pid}/net/snmp6").read_text().splitlines()
        return int(dict(line.split() for line in lines)[name])


_listeners: dict[int, socket.socket] = {}
_connections: list[socket.socket] = []
_bound: list[socket.socket] = []


def _isolate() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def _join(pid: int) -> None:
    with open(f"/proc/{pid}/ns/net") as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


# ---- TCP


def _listen(version: int, port: int) -> None:
    family, address = _ADDRESSES[version]
    _listeners[port] = socket.create_server((address, port), family=family, backlog=4096)


def _connect(version: int, port: int, count: int) -> None:
    family, address = _ADDRESSES[version]
    for _ in range(count):
        client = socket.socket(family, socket.SOCK_STREAM)
        client.connect((address, port))
        _connections.append(client)


def _accept(port: int, count: int) -> None:
    for _ in range(count):
        accepted, _peer = _listeners[port].accept()
        _connections.append(accepted)


def _send(count: int, size: int) -> None:
    for _ in range(count):
        assert _connections[-1].send(bytes(size)) == size


def _receive(count: int, size: int) -> None:
    for _ in range(count):
        assert len(_connections[-1].recv(size, socket.MSG_WAITALL)) == size


def _peek(count: int, size: int) -> None:
    for _ in range(count):
        assert len(_connections[-1].recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)) == size


def _send_short() -> int:
    """One send that takes part of what it is given; how much."""
    taken = _connections[-1].send(bytes(_BEYOND_ANY_BUFFER), socket.MSG_DONTWAIT)
    assert 0 < taken < _BEYOND_ANY_BUFFER
    return taken


def _send_file(count: int, size: int) -> None:
    file = os.memfd_create("sent")
    os.write(file, bytes(size))
    for _ in range(count):
        assert os.sendfile(_connections[-1].fileno(), file, 0, size) == size
    os.close(file)


def _splice(count: int, size: int) -> None:
    end, pipe = os.pipe()
    for _ in range(count):
        assert os.splice(_connections[-1].fileno(), pipe, size) == size
        os.read(end, size)
    os.close(end)
    os.close(pipe)


def _send_each(size: int) -> None:
    """One send on each connection."""
    for connection in _connections:
        assert connection.send(bytes(size)) == size


def _receive_each(size: int) -> None:
    for connection in _connections:
        assert len(connection.recv(size, socket.MSG_WAITALL)) == size


def _acknowledged() -> None:
    """Waits until the other side has acknowledged all that was sent (tcp(7), SIOCOUTQ)."""
    for connection in _connections:
        while any(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))):
            time.sleep(0.01)


def _deaf() -> None:
    """From here on the kernel drops what comes for the connections: a socket filter that takes nothing."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K
    for connection in _connections:
        program = struct.pack("HL", 1, ctypes.addressof(nothing))
        connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _hear() -> None:
    for connection in _connections:
        connection.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _hang_up() -> None:
    for connection in _connections:
        connection.close()
    _connections.clear()


def _shut() -> None:
    """Says on each connection that nothing more will be sent."""
    for connection in _connections:
        connection.shutdown(socket.SHUT_WR)


def _reset() -> None:
    """Closes so that the other side is told of a reset."""
    for connection in _connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _hang_up()


def _fails(error: int, call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except OSError as raised:
        if raised.errno == error:
            return
        raise
    raise AssertionError(f"{call} has not failed")


def _see_reset() -> None:
    """On each connection: a receipt that fails with ECONNRESET, and a send that fails with EPIPE."""
    for connection in _connections:
        _fails(errno.ECONNRESET, connection.recv, 1)
        _fails(errno.EPIPE, connection.send, b"x")


def _unconnected(sends: int, receipts: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as lonely:
        for _ in range(sends):
            _fails(errno.EPIPE, lonely.send, b"x")
        for _ in range(receipts):
            _fails(errno.ENOTCONN, lonely.recv, 1)


def _close_unused(count: int) -> None:
    for _ in range(count):
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()


# ---- UDP


def _bind(version: int, port: int) -> None:
    family, address = _ADDRESSES[version]
    server = socket.socket(family, socket.SOCK_DGRAM)
    # Room for all that a test sends before anybody takes it.
    server.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    server.bind((address, port))
    _bound.append(server)


def _datagrams(version: int, port: int, count: int, size: int) -> None:
    family, address = _ADDRESSES[version]
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        for _ in range(count):
            assert client.sendto(bytes(size), (address, port)) == size


def _take(count: int, size: int) -> None:
    for _ in range(count):
        assert len(_bound[-1].recv(size)) == size


def _peek_datagrams(count: int, size: int) -> None:
    for _ in range(count):
        assert len(_bound[-1].recv(size, socket.MSG_PEEK)) == size


def _too_long(version: int, port: int, count: int) -> None:
    family, address = _ADDRESSES[version]
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        for _ in range(count):
            _fails(errno.EMSGSIZE, client.sendto, bytes(70000), (address, port))


def _refused(version: int, port: int, count: int, size: int) -> None:
    """Datagrams to a port that nobody has: each is sent, and a receipt then tells that it was refused."""
    family, address = _ADDRESSES[version]
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        for _ in range(count):
            assert client.send(bytes(size)) == size
            _fails(errno.ECONNREFUSED, client.recv, 1)


# ---- neither


def _unix(count: int, size: int) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        for _ in range(count):
            one.send(bytes(size))
            other.recv(size)
        one.close()
        other.close()


_ORDERS: Final[dict[str, Callable[..., int | None]]] = {
    "isolate": _isolate,
    "join": _join,
    "listen": _listen,
    "connect": _connect,
    "accept": _accept,
    "send": _send,
    "receive": _receive,
    "peek": _peek,
    "send_short": _send_short,
    "send_file": _send_file,
    "splice": _splice,
    "send_each": _send_each,
    "receive_each": _receive_each,
    "acknowledged": _acknowledged,
    "deaf": _deaf,
    "hear": _hear,
    "hang_up": _hang_up,
    "shut": _shut,
    "reset": _reset,
    "see_reset": _see_reset,
    "unconnected": _unconnected,
    "close_unused": _close_unused,
    "bind": _bind,
    "datagrams": _datagrams,
    "take": _take,
    "peek_datagrams": _peek_datagrams,
    "too_long": _too_long,
    "refused": _refused,
    "unix": _unix,
}


if __name__ == "__main__":
    main(_ORDERS)
