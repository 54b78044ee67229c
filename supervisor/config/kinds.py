"""What the text of a value may be: a kind says what it expects, and turns text into a value or refuses it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Protocol

Value = bool | int | float | str

# Netdata's words, compared without case; for Netdata every other text is false, its own "1" too.
TRUE_WORDS: Final = frozenset({"yes", "true", "on", "auto", "on demand"})
FALSE_WORDS: Final = frozenset({"no", "false", "off", "0", "disabled"})

OWN_LINE: Final = "a comment has to stand on a line of its own"

# Bounded, since int() refuses thousands of digits with an exception of its own.
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class Parsed:
    """A value that can be used, with a remark when the text was not quite what it should be."""

    value: Value
    remark: str = ""


class Kind(Protocol):
    """One kind of value."""

    @property
    def expected(self) -> str:
        """What a right value is, to be put after the word "expected"."""

    def parse(self, text: str) -> Parsed | None:
        """The value of this text; None when it is not of this kind."""


@dataclass(frozen=True)
class Flag:
    """Yes or no."""

    @property
    def expected(self) -> str:
        return "yes or no"

    def parse(self, text: str) -> Parsed | None:
        word, comment = _without_comment(text.lower())
        if word in FALSE_WORDS:
            return Parsed(False, OWN_LINE if comment else "")
        # "yes" with a comment behind it is false to Netdata, and not to whoever wrote it: so it is refused.
        return Parsed(True) if word in TRUE_WORDS and not comment else None


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, both included; a comment behind it is skipped, as by Netdata."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, text: str) -> Parsed | None:
        digits, comment = _without_comment(text)
        if not _WHOLE.fullmatch(digits) or not self.low <= int(digits) <= self.high:
            return None
        return Parsed(int(digits), OWN_LINE if comment else "")


@dataclass(frozen=True)
class Seconds:
    """A span of time in seconds from `low` to `high`, both included; decimals are allowed."""

    low: float
    high: float

    @property
    def expected(self) -> str:
        return f"a number of seconds from {self.low:g} to {self.high:g}"

    def parse(self, text: str) -> Parsed | None:
        if not _DECIMAL.fullmatch(text) or not self.low <= float(text) <= self.high:
            return None
        return Parsed(float(text))


@dataclass(frozen=True)
class Choice:
    """One of `words`, compared without case; `synonyms` are (other word, word) pairs, read but not told."""

    words: tuple[str, ...]
    synonyms: tuple[tuple[str, str], ...] = ()

    @property
    def expected(self) -> str:
        *others, last = self.words
        return f"{', '.join(others)} or {last}"

    def parse(self, text: str) -> Parsed | None:
        values = {word.lower(): word for word in self.words} | dict(self.synonyms)
        value = values.get(text.lower())
        return None if value is None else Parsed(value)


@dataclass(frozen=True)
class Text:
    """Any text; whoever uses it checks more."""

    @property
    def expected(self) -> str:
        return "text"

    def parse(self, text: str) -> Parsed | None:
        return Parsed(text)


@dataclass(frozen=True)
class AbsolutePath:
    """A path from the root; it need not exist. The value has no slash at its end."""

    @property
    def expected(self) -> str:
        return "a path that begins with /"

    def parse(self, text: str) -> Parsed | None:
        return Parsed(str(PurePosixPath(text))) if text.startswith("/") else None


def written(value: Value) -> str:
    """The value as a file would hold it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _without_comment(text: str) -> tuple[str, str]:
    """The text before a '#', and what follows it."""
    before, mark, after = text.partition("#")
    return before.strip(), mark + after
