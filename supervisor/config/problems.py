"""What is wrong in a file of the configuration, told in one line that a person can act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeVar

Severity = Literal["error", "warning"]

SHOWN_CHARS: Final = 60
# A file that is no configuration at all must not fill the log, nor cost a suggestion for each of its lines.
TOLD_PER_FILE: Final = 20

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Problem:
    """One fault of one file. `line` is None for the whole file, `section` and `key` when none is meant."""

    path: Path
    line: int | None
    section: str | None
    key: str | None
    message: str
    severity: Severity

    def __str__(self) -> str:
        """`path:line: [section] key: message`, without the parts that are None; one printable line."""
        place = escaped(str(self.path)) + (f":{self.line}" if self.line is not None else "")
        section = f"[{shown(self.section)}]" if self.section is not None else ""
        key = shown(self.key) if self.key is not None else ""
        subject = " ".join(part for part in (section, key) if part)
        return ": ".join(part for part in (place, subject, self.message) if part)


def escaped(text: str) -> str:
    """The text with everything that a terminal would not print as itself written as an escape."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def shown(text: str) -> str:
    """The text as a message shows it: escaped, and at most `SHOWN_CHARS` characters."""
    visible = escaped(text[: SHOWN_CHARS + 1])
    return visible if len(visible) <= SHOWN_CHARS else visible[: SHOWN_CHARS - 3] + "..."


def suggestion(name: str, known: Iterable[str], form: str = '"{}"') -> str:
    """`; did you mean "…"?` with the known name that resembles this one, or nothing."""
    import difflib  # for whoever makes a mistake only

    close = difflib.get_close_matches(name[:SHOWN_CHARS].lower(), list(known), n=1, cutoff=0.7)
    return f"; did you mean {form.format(close[0])}?" if close else ""


def told(found: Sequence[_Found], describe: Callable[[_Found], Problem]) -> list[Problem]:
    """The problems of what was found; beyond `TOLD_PER_FILE` the last one gives the number of the others."""
    problems = [describe(item) for item in found[:TOLD_PER_FILE]]
    untold = len(found) - len(problems)
    if untold:
        problems.append(
            replace(problems[-1], section=None, key=None, message=f"and {untold} more like this one")
        )
    return problems


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
