"""The ZeroMQ channel from workers to the aggregator. The only module that imports zmq.

A context is made after the fork, in the child that uses it: its threads do not survive one.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import zmq
import zmq.backend

# Samples repeat what the last one said, so a short queue loses nothing.
_HIGH_WATER_SAMPLES: Final = 8
_STOP_LINGER_MS: Final = 200


class Sender:
    """A worker's end. It never blocks.

    It uses the layer below pyzmq's own classes, which touch half a megabyte of Python's memory for the sake
    of conveniences: every worker would have that for itself.
    """

    def __init__(self, path: str) -> None:
        self._context = zmq.backend.Context(1)
        self._socket = zmq.backend.Socket(self._context, zmq.PUSH)
        self._socket.set(zmq.SNDHWM, _HIGH_WATER_SAMPLES)
        self._socket.connect(f"ipc://{path}")

    def send(self, message: bytes) -> bool:
        """False when the message was dropped because nobody takes them."""
        try:
            self._socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """Gives the last sample a moment to get out."""
        self._socket.close(_STOP_LINGER_MS)
        self._context.term()


class Receiver:
    """The aggregator's end, a context manager."""

    def __init__(self, path: Path) -> None:
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.PULL)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, 1 << 20)
        path.unlink(missing_ok=True)
        self._socket.bind(f"ipc://{path}")
        path.chmod(0o600)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._context.term()

    def watch(self, fd: int) -> None:
        """`wait` returns early when `fd` becomes readable or its other end goes."""
        self._poller.register(fd, zmq.POLLIN)

    def wait(self, timeout_s: float, writing: Sequence[int] = ()) -> bool:
        """Waits for a message; False when it was the time that ended it, a watched descriptor, or one of
        `writing` that takes something."""
        for fd in writing:
            self._poller.register(fd, zmq.POLLOUT)
        ready = dict(self._poller.poll(max(0, round(timeout_s * 1000))))
        for fd in writing:
            self._poller.unregister(fd)
        return self._socket in ready

    def receive(self) -> bytes | None:
        """The next message, None when there is none."""
        try:
            message: bytes = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return message
