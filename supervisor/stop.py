"""How a child learns that it should end: by SIGTERM, or by the end of the supervisor."""

import signal
import socket
from types import FrameType


class StopFlag:
    """Set by SIGTERM, which also makes `wakeup` readable, so that any wait ends."""

    def __init__(self) -> None:
        self._set = False
        self.wakeup, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.set_wakeup_fd(self._sender.fileno())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._set = True

    def __bool__(self) -> bool:
        return self._set


def hung_up(lifeline: socket.socket) -> bool:
    """Nothing is ever sent on the lifeline: that it can be read means that its other end has gone."""
    try:
        return lifeline.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
