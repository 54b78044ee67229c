"""Netdata's simple patterns: a list of words with `!` and `*`, of which the first that matches decides.

    !*/init.scope *.scope /machine.slice/*.service

White space separates words. A word after `!` says no. `*` stands for any text, `/` and nothing included, and
there can be any number of them; a word without one must be equal. A backslash takes the meaning from a space,
from `!` at the beginning and from a backslash, but not from `*`, as in Netdata's own reading (compared with
`netdata -W simple-pattern` of 1.37). Differs from it where it loses its way: stars side by side are one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_WORD: Final = re.compile(r"(?:\\.?|[^ \t\r\n\f\v\\])+", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.?)", re.DOTALL)
_STARS: Final = re.compile(r"\*+")


class SimplePattern:
    def __init__(self, text: str, *, case_sensitive: bool = True) -> None:
        self._case_sensitive = case_sensitive
        self._words = tuple(_words(text if case_sensitive else text.lower()))

    def matches(self, text: str) -> bool | None:
        """What the first word that matches says: True, or False when it has `!`. None when no word matches;
        to the empty text none does."""
        if not text:
            return None
        compared = text if self._case_sensitive else text.lower()
        for word in self._words:
            if word.matches(compared):
                return not word.negative
        return None


@dataclass(frozen=True, slots=True)
class _Word:
    """parts: the text between the stars, so one part when there is none."""

    negative: bool
    parts: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """The first place where a part fits is as good as any later one, so nothing is tried twice."""
        first, *middle = self.parts
        if not middle:
            return text == first
        last = middle.pop()
        if not text.startswith(first):
            return False
        end = len(first)
        for part in middle:
            start = text.find(part, end)
            if start < 0:
                return False
            end = start + len(part)
        return len(text) - end >= len(last) and text.endswith(last)


def _words(text: str) -> Iterator[_Word]:
    for raw in _WORD.findall(text):
        word = _ESCAPE.sub(r"\1", raw.removeprefix("!"))
        if word:
            yield _Word(raw.startswith("!"), tuple(_STARS.split(word)))
