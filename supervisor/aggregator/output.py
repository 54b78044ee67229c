"""Writes frames to the stream, and never sleeps in a write.

O_NONBLOCK is no way: it belongs to the open file, so everybody who shares stdout would have it. Instead a
pipe is asked for room before each write. A write that fits does not sleep, so not even SIGKILL cuts it.

    frame ──▶ fits an empty pipe ──▶ one write when there is room now, else none of it is written
          └─▶ is larger ──▶ pieces of PIPE_BUF bytes at most, cut where a chart ends, each as soon as the pipe
                            has a free page; what finds none in time goes out in the next cycle
"""

import array
import errno
import fcntl
import logging
import os
import re
import select
import stat
import termios
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from supervisor.aggregator.stream import Frame

# What a plugin's pipe is widened to; an unprivileged process may ask for 1 MiB (pipe(7)).
PIPE_BYTES: Final = 1 << 20
# Up to the line END, or all where there is none.
_COLLECTION: Final = re.compile(rb".+?(?:^END\n|\Z)", re.DOTALL | re.MULTILINE)
# A line, or as much of it as a piece holds: no line of ours is that long.
_LINE: Final = re.compile(rb"[^\n]{0,%d}\n?" % (select.PIPE_BUF - 1))

log = logging.getLogger("aggregator")


class ReaderGone(Exception):
    """Nobody will read the stream any more."""


class Output:
    """under_way: the pieces of a frame that are still to be written, by `go_on`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._told = 0
        mode = os.fstat(fd).st_mode
        self._is_pipe, self._is_file = stat.S_ISFIFO(mode), stat.S_ISREG(mode)
        self.under_way: deque[bytes] = deque()

    def send(self, frame: Frame, patience_s: float = 0.0) -> bool:
        """Writes a frame, as `write` does."""
        return self.write(frame.blocks, patience_s)

    def blocked(self) -> list[int]:
        """None: `go_on` waits by itself."""
        return []

    def write(self, blocks: list[bytes], patience_s: float = 0.0) -> bool:
        """Writes a frame; True when all of it is there. Else either nothing is, or the rest is under way.

        patience_s: how long to wait, in all, for a reader to make room. Raises ReaderGone; ValueError while
        another frame is under way.
        """
        if self.under_way:
            raise ValueError("a frame is still under way")
        whole = b"".join(blocks)
        if self._is_pipe and len(whole) > self._capacity():
            self.under_way.extend(pieces(blocks))
            return self.go_on(patience_s)
        if not whole:
            return True
        return (not self._is_pipe or self._room() >= len(whole)) and self._write(whole)

    def go_on(self, patience_s: float = 0.0) -> bool:
        """Writes more of the frame that is under way; True when that was the end of it. Raises ReaderGone."""
        deadline_s = time.monotonic() + patience_s
        while self.under_way:
            if not self._has_free_page(deadline_s - time.monotonic()) or not self._write(self.under_way[0]):
                return False
            self.under_way.popleft()
        return True

    def _has_free_page(self, timeout_s: float) -> bool:
        """Whether a write of PIPE_BUF bytes would not sleep: what poll(2) says of a pipe. True also when the
        reader has gone, as the write then says."""
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(max(0.0, timeout_s) * 1000))

    def _write(self, piece: bytes) -> bool:
        try:
            self._put(piece)
        except OSError as error:
            self._tell(error)
            return False
        self._told = 0
        return True

    def _take_back(self, written: int) -> None:
        """Of a file whose disk has become full: what there is of the frame that does not fit."""
        if self._is_file and written:
            end = os.lseek(self._fd, -written, os.SEEK_CUR)
            os.ftruncate(self._fd, end)

    def _tell(self, error: OSError) -> None:
        """Once for each kind of trouble: a full disk under a file, say."""
        if error.errno != self._told:
            log.error("the stream cannot be written: %s; frames are left out until it can", error.strerror)
        self._told = error.errno or 0

    def _capacity(self) -> int:
        return fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)

    def _room(self) -> int:
        """Bytes that surely fit. A pipe holds pages, and a write may leave the last one half empty."""
        held = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, held)
        capacity = self._capacity()
        return capacity if held[0] == 0 else capacity // 2 - held[0]

    def _put(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError as error:
                if error.errno == errno.EAGAIN:  # somebody else made it non-blocking
                    select.select([], [self._fd], [])
                    continue
                if error.errno in (errno.EPIPE, errno.ECONNRESET):
                    raise ReaderGone from error
                self._take_back(len(piece) - len(view))
                raise
            view = view[written:]


def pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of PIPE_BUF at most. Each ends where a chart's lines do; only a chart that is
    larger than a piece is cut, at the end of a line."""
    piece = b""
    for unit in _units(blocks):
        if len(piece) + len(unit) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += unit
    if piece:
        yield piece


def _units(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """What is not to be cut: the definition of a chart, one collection of it, a line of what is too large."""
    for block in blocks:
        for chart in _COLLECTION.findall(block):
            yield from [chart] if len(chart) <= select.PIPE_BUF else _LINE.findall(chart)


def widen(fd: int) -> None:
    """Gives a pipe room for all but the largest frames. A kernel that refuses (the user's pipe limit) leaves
    it as it is, and frames go out in pieces."""
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        try:
            if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except PermissionError:
            return


def reader_gone(fd: int) -> bool:
    """Whether the reading end of a pipe or socket has been closed (poll(2))."""
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0))
