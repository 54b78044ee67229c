"""Messages: one line each on stderr, never a traceback, and never a wait for whoever reads them.

A child writes `<priority>text` (sd-daemon(3)) into its pipe; the supervisor takes the line, keeps it in the
program's ring, and passes it on under the program's name.
"""

import logging
import os
import select
import sys
import traceback
from typing import Final

# syslog priorities of logging's levels (sd-daemon(3)).
_PRIORITY: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
_PAGE_BYTES: Final = 4096
_LEVEL: Final = {priority: level for level, priority in _PRIORITY.items()}


def escaped(text: str) -> str:
    """One line that no terminal takes for more than text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _OneLine(logging.Formatter):
    """Exceptions too become part of the one line; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))

    def formatException(self, ei: object) -> str:
        return ""


class _Stderr(logging.Handler):
    """Writes to descriptor 2 when it takes something; a reader that sleeps costs lines, not the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._poller = select.poll()
        self._poller.register(2, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        # A pipe that takes anything takes a page; a longer write might wait for the rest.
        line = self.format(record).encode("utf-8", "backslashreplace")[: _PAGE_BYTES - 1] + b"\n"
        try:
            if any(events & select.POLLOUT for _, events in self._poller.poll(0)):
                os.write(2, line)
        except OSError:  # nobody reads it, or the disk is full: where would that be told?
            return

    def handleError(self, record: logging.LogRecord) -> None:
        """stderr is where this would be told."""


def _install(formatter: logging.Formatter, level: str) -> None:
    handler = _Stderr()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def for_supervisor(level: str) -> None:
    """Time, level, who, what; under systemd the priority only, since the journal has the rest."""
    logging.addLevelName(logging.WARNING, "WARN")
    if os.environ.get("JOURNAL_STREAM"):
        _install(_Prioritised("%(name)s: %(message)s"), level)
    else:
        _install(_OneLine("%(asctime)s %(levelname)-5s %(name)s: %(message)s"), level)


class _Prioritised(_OneLine):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 6)}>{super().format(record)}"


def for_child(level: str) -> None:
    """What the supervisor's end of the pipe understands."""
    _install(_Prioritised("%(message)s"), level)


def parse_child_line(line: str) -> tuple[int, str]:
    """Level and text of a child's line; what is not ours (a library's own words) is a warning."""
    if len(line) > 3 and line[0] == "<" and line[2] == ">" and line[1] in "01234567":
        return _LEVEL.get(int(line[1]), logging.INFO), line[3:]
    return logging.WARNING, line


def describe(error: BaseException) -> str:
    """An unexpected error in one line: what and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno}" for f in reversed(frames[-4:]))
    return f"{type(error).__name__}: {error} ({where})"


def fatal(message: str) -> None:
    """One line for a command that ends now."""
    print(f"ebpf-supervisor: {escaped(message)}", file=sys.stderr)
