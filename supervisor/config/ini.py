"""Netdata's ini dialect: `[section]` lines, `key = value` lines, and comments that have a line of their own.

    # comment                a '#' counts only as the first character that is not blank
    [section]                nothing may follow; a section may be opened again and goes on
        key = value # x      cut at the first '='; the value is all the rest: "value # x"

The reader judges form, not meaning. Whatever bytes a file holds, the answer is a `Document`: what cannot be
read is a problem in it, what can be read is an entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor.config.files import UnusableFileError, content
from supervisor.config.problems import Problem, shown, told

# The longest line of Netdata's own files has some 120 bytes; a list of addresses may be longer.
MAX_LINE_BYTES: Final = 16 << 10
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Section:
    """A `[name]` line; the name is what stands between the brackets, untouched."""

    name: str
    line: int


@dataclass(frozen=True)
class Entry:
    """A `key = value` line in its section; no blanks around either side, the value possibly empty."""

    section: str
    key: str
    value: str
    line: int


@dataclass(frozen=True)
class Document:
    """One file: sections and entries in the order of their lines, numbered from 1, and its faults of form."""

    path: Path
    sections: tuple[Section, ...] = ()
    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Fault:
    line: int
    section: str | None
    message: str


def read(path: Path) -> Document | None:
    """The file at `path`; None when there is none. An unusable one is an empty document with a problem."""
    try:
        held = content(path)
    except UnusableFileError as error:
        return _unusable(path, f"{error}; ignored")
    return None if held is None else parse(path, held)


def parse(path: Path, held: bytes) -> Document:
    """The document in these bytes; `path` is only for the problems."""
    if b"\0" in held:
        line = held[: held.index(b"\0")].count(b"\n") + 1
        return _unusable(path, "holds a NUL byte, so it is not a text file; ignored", line)
    return _Parser(path).document(held.removeprefix(_BOM))


def _unusable(path: Path, message: str, line: int | None = None) -> Document:
    return Document(path, problems=(Problem(path, line, None, None, message, "error"),))


class _Parser:
    """Goes through the lines once, collecting."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._section: str | None = None
        self._sections: list[Section] = []
        self._entries: list[Entry] = []
        self._faults: list[_Fault] = []
        self._undecodable: list[int] = []

    def document(self, held: bytes) -> Document:
        for line, raw in enumerate(held.split(b"\n"), start=1):
            stripped = raw.strip()
            if stripped and not stripped.startswith(b"#"):
                self._take(line, stripped)
        problems = (*told(self._faults, self._problem), *self._encoding_problem())
        return Document(self._path, tuple(self._sections), tuple(self._entries), problems)

    def _take(self, line: int, raw: bytes) -> None:
        if len(raw) > MAX_LINE_BYTES:
            self._fault(
                line, f"a line of {len(raw)} bytes; the longest allowed has {MAX_LINE_BYTES}; ignored"
            )
            return
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._undecodable.append(line)
            return
        self._take_text(line, text)

    def _take_text(self, line: int, text: str) -> None:
        if text.startswith("[") and text.endswith("]"):
            self._section = text[1:-1]
            self._sections.append(Section(self._section, line))
            return
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            self._fault(
                line, f'expected [section], key = value or a # comment; found "{shown(text)}"; ignored'
            )
        elif not key:
            self._fault(line, "no key before the '='; ignored")
        elif self._section is None:
            self._fault(line, "stands before the first [section]; ignored")
        else:
            self._entries.append(Entry(self._section, key, value, line))

    def _fault(self, line: int, message: str) -> None:
        self._faults.append(_Fault(line, self._section, message))

    def _problem(self, fault: _Fault) -> Problem:
        return Problem(self._path, fault.line, fault.section, None, fault.message, "error")

    def _encoding_problem(self) -> tuple[Problem, ...]:
        if not self._undecodable:
            return ()
        others = len(self._undecodable) - 1
        message = "not UTF-8 text; ignored" + (f", and {others} more such lines" if others else "")
        return (Problem(self._path, self._undecodable[0], None, None, message, "error"),)
