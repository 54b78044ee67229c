"""What systemd is told (sd_notify(3)): a datagram of VARIABLE=value lines to $NOTIFY_SOCKET.

Our own, because it is one sendto(2): the libraries on PyPI wrap just that, and python3-systemd would be a
compiled dependency for it. Whoever else starts us has set no such variable, and nothing is sent.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

# Of systemd's limit, the part in which something must have been said.
_SHARE: Final = 1 / 3


class Notifier:
    """Tells that we are ready, how it goes, and that there is progress.

    The supervisor's being alive is no progress: the watchdog is fed only when `progress`, a number that each
    cycle of the aggregator changes, is another one.
    """

    def __init__(self, environ: Mapping[str, str], cycle_s: float) -> None:
        """cycle_s: between two cycles. A watchdog that would bite in between is given a longer leash."""
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environ)
        if self._watchdog_s and cycle_s > self._watchdog_s * _SHARE:
            self._watchdog_s = cycle_s / _SHARE
            self._tell(WATCHDOG_USEC=round(self._watchdog_s * 1e6))
        self._status = ""
        self._ready = False
        self._progress: int | None = None
        self._fed_s = 0.0

    def ready(self, status: str) -> None:
        """The first frame is there."""
        if not self._ready:
            self._ready, self._status = True, status
            self._tell(READY=1, STATUS=status)

    def status(self, status: str) -> None:
        if status != self._status:
            self._status = status
            self._tell(STATUS=status)

    def feed(self, progress: int, now_s: float) -> None:
        """Called often; says something when it is time to and there has been progress."""
        due = now_s - self._fed_s >= self._watchdog_s * _SHARE / 2
        # A first word before READY would start the watchdog.
        if self._watchdog_s and self._ready and due and progress != self._progress:
            self._progress, self._fed_s = progress, now_s
            self._tell(WATCHDOG=1)

    def stopping(self) -> None:
        self._tell(STOPPING=1, STATUS="stopping")

    def _tell(self, **variables: object) -> None:
        if not self._address:
            return
        text = "".join(f"{name}={value}\n" for name, value in variables.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            try:
                client.sendto(text.encode(), self._address)
            except OSError:  # systemd does not listen just now; the next word is as good
                return


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Its limit, 0 when there is none or it is another process's."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    limit = environ.get("WATCHDOG_USEC", "")
    return int(limit) / 1e6 if limit.isascii() and limit.isdigit() else 0.0
