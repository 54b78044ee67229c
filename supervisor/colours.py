"""Colours for people who look at a terminal, and for nobody else."""

import os
import re
from collections.abc import Mapping
from typing import Final, TextIO

_GREEN: Final = "\x1b[32m"
_YELLOW: Final = "\x1b[33m"
_RED: Final = "\x1b[31m"
_PLAIN: Final = "\x1b[0m"

_OF: Final[Mapping[str, str]] = {
    "RUNNING": _GREEN,
    "STARTING": _YELLOW,
    "STOPPING": _YELLOW,
    "UNAVAILABLE": _YELLOW,
    "BACKOFF": _RED,
    "EXITED": _RED,
    "FATAL": _RED,
    "yes": _GREEN,
    "part": _YELLOW,
    "no": _RED,
}
# A state is the second word of a line, what `check` says of a thing is the first one.
_WORD: Final = re.compile(
    r"^(\S+ +)(RUNNING|STARTING|STOPPING|UNAVAILABLE|BACKOFF|EXITED|FATAL)\b|^(  )(yes|part|no)(?=  )",
    re.MULTILINE,
)


def wanted(output: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """On a terminal that can, unless NO_COLOR is set to anything (no-color.org)."""
    return output.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def painted(text: str) -> str:
    """The text with its states in colour; what it looks like is the same without."""
    return _WORD.sub(_paint, text)


def _paint(found: re.Match[str]) -> str:
    before, word = (found[1], found[2]) if found[2] else (found[3], found[4])
    return f"{before}{_OF[word]}{word}{_PLAIN}"
