"""Application groups: reads apps_groups.conf and says to which group a process belongs by its name.

A line names a group and then the words that pull processes into it:

    group: word word "word with spaces"      # the rest is a comment

    name      the process name equals the word
    name*     the process name begins with it
    *name     the process name ends with it
    *name*    the word occurs anywhere in the command line

The first word of the whole file that matches decides. What a process inherits from its parent and children
is not decided here but in `process_tree`.

Text is UTF-8 with `surrogateescape`, so any bytes survive; process names given to `AppsGroups.match` must
have been decoded the same way.
"""

import enum
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILE: Final = "apps_groups.conf"
OTHER: Final = "other"
MAX_TEXT_LENGTH: Final = 100  # of group names and words, in characters; Netdata cuts there too
MAX_COMM_BYTES: Final = 15  # TASK_COMM_LEN without its NUL
MAX_PROBLEMS: Final = 20  # told of one file; the rest is counted, so a binary file does not flood the log
MAX_SHOWN: Final = 40  # characters of a word shown in a problem

# Every control character separates, as for Netdata, so a stray one cannot get into a chart's name.
_TOKEN: Final = re.compile(
    r"""(?P<quote>["'])(?P<quoted>.*?)(?P<end>(?P=quote)|\Z)|(?P<bare>[^\x00-\x20\x7f:]+)""", re.DOTALL
)
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_STRAY_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BYTE_ORDER_MARK: Final = "\ufeff"

# Lines with these names steer newer Netdata versions; here they would gather every shell and interpreter.
_NEWER_SETTINGS: Final = frozenset({"managers", "interpreters"})


class Form(enum.Enum):
    """How a word is compared."""

    EXACT = "name"
    START = "name*"
    END = "*name"
    WITHIN = "*name*"


@dataclass(frozen=True)
class Word:
    """One word of the file, its flags taken off, and the name of the group it leads to."""

    form: Form
    text: str
    group: str

    @property
    def can_match(self) -> bool:
        """False for a word that is compared with process names and is longer than they can be."""
        return self.form is Form.WITHIN or len(self.text.encode("utf-8", "replace")) <= MAX_COMM_BYTES


class AppsGroups:
    """The groups in file order, and the look-up from a process name to a group.

    `names` always holds `other`: the file's own group of that name, else one more at the end. Groups that
    there were before (`names_before`) keep their places, those too that the file has no more: what was
    counted for them stays theirs. `current` are the others.
    `needs_cmdline` says whether `match` can ever ask for a command line.
    """

    def __init__(self, words: Iterable[Word] = (), names_before: Iterable[str] = ()) -> None:
        ordered = tuple(words)
        self.words: Final = ordered
        in_file = dict.fromkeys([*(word.group for word in ordered), OTHER])
        self.names: Final = tuple(dict.fromkeys([*names_before, *in_file]))
        self.current: Final = frozenset(number for number, name in enumerate(self.names) if name in in_file)
        self.other_index: Final = self.names.index(OTHER)
        self.needs_cmdline: Final = any(word.form is Form.WITHIN for word in ordered)

        index_of = {name: index for index, name in enumerate(self.names)}
        self._group_of_word: Final = tuple(index_of[word.group] for word in ordered)
        self._no_word: Final = len(ordered)
        self._exact: Final = _rank_by_text(ordered, Form.EXACT)
        self._starts: Final = _rank_by_text(ordered, Form.START)
        self._ends: Final = _rank_by_text(ordered, Form.END)
        self._within: Final = tuple(_rank_by_text(ordered, Form.WITHIN).items())
        self._start_lengths: Final = tuple({len(text) for text in self._starts})
        self._end_lengths: Final = tuple({len(text) for text in self._ends})

    def match(self, comm: str, cmdline: Callable[[], str]) -> int | None:
        """Give the index of the group of the first word that matches, or None.

        `cmdline` is called at most once, and only when a `*word*` stands before every word that matches
        `comm`. What it raises passes through. An empty command line, as kernel threads have, matches nothing.
        """
        no_word = self._no_word
        first = self._exact.get(comm, no_word)
        # One look-up per length that occurs costs the same whatever the number of words.
        for length in self._start_lengths:
            first = min(first, self._starts.get(comm[:length], no_word))
        for length in self._end_lengths:
            first = min(first, self._ends.get(comm[-length:], no_word))
        if self._within and self._within[0][1] < first:
            first = self._first_within(cmdline(), first)
        return None if first == no_word else self._group_of_word[first]

    def _first_within(self, cmdline: str, before: int) -> int:
        """Give the rank of the first `*word*` found in `cmdline`, if lower than `before`, else `before`."""
        for text, rank in self._within:
            if rank > before:
                break
            if text in cmdline:
                return rank
        return before


def parse(text: str) -> AppsGroups:
    """Read groups from the text of a file; what cannot be understood is skipped."""
    return _Parser(text).groups()


def read(path: str | os.PathLike[str]) -> tuple[AppsGroups, list[str]]:
    """Read groups from a file, with its problems as `path:line: what; what to do`.

    No content is refused: a line with a problem still gives what can be had of it. OSError when the file
    cannot be read.
    """
    parser = _Parser(Path(path).read_bytes().decode("utf-8", "surrogateescape"))
    groups = parser.groups()
    return groups, [f"{os.fspath(path)}:{line}: {what}" for line, what in _summed_up(parser.problems)]


@dataclass(frozen=True)
class _Token:
    """A word as the line gives it; `closed` is False when its quote was never ended."""

    text: str
    closed: bool = True


class _Parser:
    """Turns the text of one file into words, and notes what is wrong with it."""

    def __init__(self, text: str) -> None:
        self._lines = _LINE_END.split(text.removeprefix(_BYTE_ORDER_MARK))
        self._words: dict[tuple[Form, str], Word] = {}
        self._line = 0
        self.problems: list[tuple[int, str]] = []

    def groups(self) -> AppsGroups:
        for line in self._lines:
            self._line += 1
            self._take_line(line)
        return AppsGroups(self._words.values())

    def _take_line(self, line: str) -> None:
        tokens = list(_tokens(line))
        if not tokens:
            return
        self._check_line(line, tokens)
        group = self._cut(tokens[0].text.lstrip("-"))
        if not group:
            self._note("the line has no group name; begin it with one")
            return
        if len(tokens) == 1:
            self._note(f"group {_shown(group)} has no words; add process names or remove the line")
        if group in _NEWER_SETTINGS:
            self._note(f"{_shown(group)} is a setting of newer Netdata, here a group; remove the line")
        for token in tokens[1:]:
            self._take_word(token.text, group)

    def _check_line(self, line: str, tokens: list[_Token]) -> None:
        if _STRAY_CONTROL.search(line.partition("#")[0]):
            self._note("a control character separates words when it is not between quotes; remove it")
        if not tokens[-1].closed:
            self._note(f"the quote before {_shown(tokens[-1].text)} runs to the end of the line; close it")

    def _take_word(self, raw: str, group: str) -> None:
        word = self._word(raw, group)
        if word is None:
            return
        first = self._words.setdefault((word.form, word.text), word)
        if first is not word:
            self._note(f"{_shown(raw)} stays in group {_shown(first.group)}, given earlier; remove it here")
        elif not word.can_match:
            self._note(
                f"{_shown(raw)} never matches, process names have at most {MAX_COMM_BYTES} bytes; "
                "shorten it, or write *word* to search the command line"
            )
        elif "*" in word.text:
            self._note(f"the inner star of {_shown(raw)} is no wildcard; use stars at the ends of a word")

    def _word(self, raw: str, group: str) -> Word | None:
        """Take the flags off a word; None when nothing is left of it."""
        bare = raw.lstrip("-+*")
        open_start = "*" in raw[: len(raw) - len(bare)]
        text = self._cut(bare)
        open_end = text.endswith("*")
        text = text.removesuffix("*")
        if text:
            return Word(_form(open_start, open_end), text, group)
        if raw:
            self._note(f"{_shown(raw)} has no text and is skipped; write a process name")
        return None

    def _cut(self, text: str) -> str:
        if len(text) > MAX_TEXT_LENGTH:
            self._note(f"{_shown(text)} is cut to {MAX_TEXT_LENGTH} characters; shorten it")
        return text[:MAX_TEXT_LENGTH]

    def _note(self, what: str) -> None:
        self.problems.append((self._line, what))


def _tokens(line: str) -> Iterator[_Token]:
    """Split a line at spaces and colons, up to the word that begins a comment."""
    for found in _TOKEN.finditer(line):
        token = _Token(found["bare"]) if found["bare"] else _Token(found["quoted"], closed=bool(found["end"]))
        if token.text.startswith("#"):
            return
        yield token


def _form(open_start: bool, open_end: bool) -> Form:
    if open_start:
        return Form.WITHIN if open_end else Form.END
    return Form.START if open_end else Form.EXACT


def _rank_by_text(words: tuple[Word, ...], form: Form) -> dict[str, int]:
    """Map the texts of one form to their place in the file, the first place of each, in rising order."""
    ranks: dict[str, int] = {}
    for rank, word in enumerate(words):
        if word.form is form and word.can_match:
            ranks.setdefault(word.text, rank)
    return ranks


def _summed_up(problems: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield from problems[:MAX_PROBLEMS]
    more = problems[MAX_PROBLEMS:]
    if more:
        yield more[0][0], f"{len(more)} more problems from here on; mend the ones above first"


def _shown(text: str) -> str:
    """Show a word in a message: short, and in one printable line whatever its bytes."""
    return repr(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…")
