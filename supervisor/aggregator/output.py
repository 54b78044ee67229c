"""Writes frames to the stream so that each is there whole or not at all, and never waits for a reader.

O_NONBLOCK is no way: it belongs to the open file, so everybody who shares stdout would have it. Instead a
pipe is asked how much it holds, and is written to only when the whole piece fits. A write that fits does
not sleep, so not even SIGKILL cuts it.
"""

import array
import errno
import fcntl
import logging
import os
import select
import stat
import termios
from typing import Final

# What a plugin's pipe is widened to; an unprivileged process may ask for 1 MiB (pipe(7)).
PIPE_BYTES: Final = 1 << 20

log = logging.getLogger("aggregator")


class ReaderGone(Exception):
    """Nobody will read the stream any more."""


class Output:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._told = 0
        self._is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)

    def write(self, blocks: list[bytes]) -> bool:
        """Writes all blocks, or as many pieces of them as find room; False when some found none.
        Raises ReaderGone."""
        for piece in self._pieces(blocks):
            if self._is_pipe and self._room() < len(piece):
                return False
            try:
                self._put(piece)
            except OSError as error:
                self._tell(error)
                return False
        self._told = 0
        return True

    def _tell(self, error: OSError) -> None:
        """Once for each kind of trouble: a full disk under a file, say."""
        if error.errno != self._told:
            log.error("the stream cannot be written: %s; frames are left out until it can", error.strerror)
        self._told = error.errno or 0

    def _pieces(self, blocks: list[bytes]) -> list[bytes]:
        """One piece where it can fit into an empty pipe, else each block for itself."""
        whole = b"".join(blocks)
        if not self._is_pipe or len(whole) <= self._capacity():
            return [whole] if whole else []
        return blocks

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
                raise
            view = view[written:]


def widen(fd: int) -> None:
    """Gives a pipe room for any frame. A kernel that refuses (the user's pipe limit) leaves it as it is,
    and frames go out in pieces."""
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
