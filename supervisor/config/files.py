"""Opening a file of the configuration, whatever stands in its place."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

# Netdata's own files have some 5 kB; whatever is this large is something else.
MAX_FILE_BYTES: Final = 1 << 20


class UnusableFileError(Exception):
    """There is something at the path, but it cannot be read as a file; the text says why."""


def content(path: Path) -> bytes | None:
    """What the file holds, at most `MAX_FILE_BYTES`; None when there is none. Raises UnusableFileError."""
    try:
        held = _read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnusableFileError(f"cannot be read: {error.strerror}") from error
    if held is None:
        raise UnusableFileError("expected a regular file")
    if len(held) > MAX_FILE_BYTES:
        raise UnusableFileError(f"larger than {MAX_FILE_BYTES} bytes, so not a configuration file")
    return held


def _read_regular(path: Path) -> bytes | None:
    """At most one byte more than is allowed; None for what is not a regular file. Raises OSError."""
    # O_NONBLOCK: a FIFO in the place of the file must not hold up the start until somebody writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
