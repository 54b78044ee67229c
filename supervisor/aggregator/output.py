"""Writes frames to the stream, and never sleeps in a write.

O_NONBLOCK is no way: it belongs to the open file, so everybody who shares stdout would have it. Instead a
pipe is asked for room before each write. A write that fits does not sleep, so not even SIGKILL cuts it.

    frame ──▶ fits an empty pipe ──▶ one write when there is room now, else none of it is written
          └─▶ is larger ──▶ pieces that end where a chart does: as much as there is room for, PIPE_BUF bytes
                            at least when a page is free; what finds none in time goes out in the next cycle
"""

import array
import errno
import fcntl
import logging
import os
import select
import stat
import termios
import time
from typing import Final

from supervisor.aggregator.stream import Frame
from supervisor.aggregator.unsent import Unsent

# What a plugin's pipe is widened to; an unprivileged process may ask for 1 MiB (pipe(7)).
PIPE_BYTES: Final = 1 << 20
# While there is time a quarter of the pipe is waited for, so that few writes do: a reader empties it at once.
_PAUSE_S: Final = 0.001

log = logging.getLogger("aggregator")


class ReaderGone(Exception):
    """Nobody will read the stream any more."""


class Output:
    """Of a frame that is larger than the pipe some may still have to be written, by `go_on`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._told = 0
        mode = os.fstat(fd).st_mode
        self._is_pipe, self._is_file = stat.S_ISFIFO(mode), stat.S_ISREG(mode)
        self._left = Unsent()  # of a frame that is under way

    @property
    def under_way(self) -> bool:
        return bool(self._left)

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
        whole = Unsent(blocks)
        if self._is_pipe and whole.size_bytes > self._capacity():
            self._left = whole
            return self.go_on(patience_s)
        if not whole:
            return True
        return (not self._is_pipe or self._room() >= whole.size_bytes) and self._write(
            whole, whole.size_bytes
        )

    def go_on(self, patience_s: float = 0.0) -> bool:
        """Writes more of the frame that is under way; True when that was the end of it. Raises ReaderGone."""
        deadline_s = time.monotonic() + patience_s
        while self.under_way:
            left_s = deadline_s - time.monotonic()
            events = self._wait_for_a_page(left_s)
            if not events:
                return False
            room = self._room()
            if events == select.POLLOUT and left_s > _PAUSE_S and room < self._capacity() // 4:
                time.sleep(_PAUSE_S)
                continue
            if not self._write(self._left, self._left.fitting(max(room, select.PIPE_BUF))):
                return False
        return True

    def _wait_for_a_page(self, timeout_s: float) -> int:
        """What poll(2) says of the pipe: POLLOUT when a write of PIPE_BUF bytes would not sleep, more when
        the reader has gone, as the write then says; 0 when neither is so in time."""
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return sum(events for _, events in poller.poll(max(0.0, timeout_s) * 1000))

    def _write(self, left: Unsent, size: int) -> bool:
        try:
            self._put(left, size)
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

    def _put(self, left: Unsent, size: int) -> None:
        written = 0
        while written < size:
            try:
                done = os.writev(self._fd, left.parts(size - written))
            except OSError as error:
                if error.errno == errno.EAGAIN:  # somebody else made it non-blocking
                    select.select([], [self._fd], [])
                    continue
                if error.errno in (errno.EPIPE, errno.ECONNRESET):
                    raise ReaderGone from error
                self._take_back(written)
                raise
            left.sent(done)
            written += done


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
