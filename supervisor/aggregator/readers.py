"""The readers of a served stream: any number, each as fast as it likes, none in the way of another.

A reader that connects is given the definition of every chart with its first frame. What the kernel could not
take of a frame is sent on as soon as there is room, and nothing else before. Frames that a reader is not
ready for are merged: values are running totals, so that the next frame says it all. Only a frame that defines
or withdraws something is kept for it, whole and in order: the agent takes the first value of a new dimension
as its base. A reader that lets too much of that pile up is let go of; it may connect again.

    frame ──▶ nothing owed: as much as the kernel takes now, the rest when there is room
          └─▶ something owed ──▶ with a change of definitions: kept behind it
                             └─▶ without: left out
"""

import logging
import select
import socket
import time
from collections.abc import Iterable
from typing import Final

from supervisor.aggregator.stream import ChartLine, Frame, definition
from supervisor.aggregator.unsent import Unsent

MOST_READERS: Final = 32
# What may be owed to one reader: the definitions of some ten thousand charts.
MOST_OWED_BYTES: Final = 8 << 20

log = logging.getLogger("aggregator")


class ReaderLost(Exception):
    """A reader has gone, or is let go of."""


class Reader:
    """One connection. owed: what it is still to be sent, the rest of a frame first."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        # Nobody tells us anything: who writes to us gets EPIPE.
        connection.shutdown(socket.SHUT_RD)
        self._connection = connection
        self.owed = Unsent()
        self.new = True

    @property
    def fd(self) -> int:
        return self._connection.fileno()

    def give(self, blocks: Iterable[bytes]) -> None:
        """Sends them behind what is owed. Raises ReaderLost."""
        self.owed.add(blocks)
        self.go_on()
        if self.owed.size_bytes > MOST_OWED_BYTES:
            raise ReaderLost("it does not read, and too much has piled up")

    def go_on(self) -> None:
        """Sends what the kernel takes now. Raises ReaderLost."""
        while self.owed:
            try:
                self.owed.sent(self._connection.sendmsg(self.owed.parts(self.owed.size_bytes)))
            except BlockingIOError:
                return
            except OSError as error:
                raise ReaderLost("") from error

    def close(self) -> None:
        self._connection.close()


class Readers:
    """Takes frames as Output does. Each counts as written at once: who does not read keeps nobody waiting."""

    under_way = False

    def __init__(self, listener_fd: int) -> None:
        self._listener = socket.socket(fileno=listener_fd)
        self._readers: list[Reader] = []
        self._charts: dict[str, ChartLine] = {}  # all that a reader who comes now has to be told

    def send(self, frame: Frame, patience_s: float = 0.0) -> bool:
        """Gives the frame to all readers, those first taken in that have come. Never waits."""
        self._accept()
        for reader in list(self._readers):
            if reader.new:
                self._serve(reader, [*self._definitions(), *frame.blocks])
            elif frame.changes or not reader.owed:
                self._serve(reader, frame.blocks)
        self._note(frame)
        return True

    def go_on(self, patience_s: float = 0.0) -> bool:
        """Sends what finds room in time; True when nothing is owed to anybody."""
        deadline_s = time.monotonic() + patience_s
        while blocked := self.blocked():
            poller = select.poll()
            for fd in blocked:
                poller.register(fd, select.POLLOUT)
            ready = {fd for fd, _ in poller.poll(max(0.0, deadline_s - time.monotonic()) * 1000)}
            for reader in [reader for reader in self._readers if reader.fd in ready]:
                self._serve(reader)
            if not ready:
                return False
        return True

    def blocked(self) -> list[int]:
        """Descriptors of those to whom something is owed: writable when there is room for it."""
        return [reader.fd for reader in self._readers if reader.owed]

    def _note(self, frame: Frame) -> None:
        """What the frame has said is told to the next ones who come, too."""
        for chart, there in frame.changes:
            if there:
                self._charts[chart.full_id] = chart
            else:
                self._charts.pop(chart.full_id, None)

    def _serve(self, reader: Reader, blocks: Iterable[bytes] = ()) -> None:
        try:
            reader.give(blocks)
            reader.new = False
        except ReaderLost as why:
            self._readers.remove(reader)
            reader.close()
            if str(why):
                log.warning("a reader of the stream is let go of: %s", why)

    def _definitions(self) -> list[bytes]:
        return [definition(chart) for chart in self._charts.values()]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody there, or gone again; with no descriptor left it waits
                return
            if len(self._readers) < MOST_READERS:
                self._readers.append(Reader(connection))
            else:
                connection.close()
