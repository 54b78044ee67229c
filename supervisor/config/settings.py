"""From the entries of a file and the table of options to values, with a problem for all that does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from supervisor.config.ini import Document, Entry, Section
from supervisor.config.kinds import OWN_LINE, Value, written
from supervisor.config.options import FileOptions, Option
from supervisor.config.problems import Problem, shown, suggestion, told

_Type = TypeVar("_Type", bool, int, float, str)


@dataclass(frozen=True)
class Settings:
    """A value for each (section, key) of a file's options: what the file says, else what holds without it."""

    values: Mapping[tuple[str, str], Value]
    free: Mapping[tuple[str, str], str] = field(default_factory=dict)  # what open sections hold

    def get(self, section: str, key: str, kind: type[_Type]) -> _Type:
        """The value of a key. Raises KeyError or TypeError when the table has no such key of that type."""
        value = self.values[section, key]
        if not isinstance(value, kind):
            raise TypeError(f"[{section}] {key} is {value!r}, not of type {kind.__name__}")
        return value

    def with_value(self, section: str, key: str, value: Value) -> Settings:
        return Settings({**self.values, (section, key): value}, self.free)


def defaults(options: FileOptions) -> Settings:
    """What holds when there is no file."""
    return Settings({(option.section, option.key): option.default for option in options.options})


def inherited(options: FileOptions, main: Settings) -> Settings:
    """What holds for a module without a file: the main file's values, else the defaults."""
    own = defaults(options).values
    return Settings({name: main.values.get(name, default) for name, default in own.items()}, main.free)


def evaluate(document: Document, options: FileOptions, base: Settings) -> tuple[Settings, list[Problem]]:
    """The values of a file over those of `base`, and the problems in the order of their lines."""
    values = dict(base.values)
    problems = list(document.problems)
    for option, entry in _chosen(document, options):
        name = (option.section, option.key)
        parsed = option.kind.parse(entry.value)
        if parsed is None:
            problems.append(_bad_value(document.path, entry, option, values[name]))
            continue
        values[name] = parsed.value
        if parsed.remark:
            problems.append(_remark(document.path, entry, parsed.value, parsed.remark))
    problems.extend(_unknown_names(document, options))
    free = {(e.section, e.key): e.value for e in document.entries if e.section in options.open_sections}
    return Settings(values, {**base.free, **free}), sorted(problems, key=_last_without_line)


def _chosen(document: Document, options: FileOptions) -> Iterator[tuple[Option, Entry]]:
    """Each option that the file has, with the entry that counts: its last, an alias before the key."""
    last = {(entry.section, entry.key): entry for entry in document.entries}
    for option in options.options:
        for name in (*option.aliases, option.key):
            entry = last.get((option.section, name))
            if entry is not None:
                yield option, entry
                break


def _unknown_names(document: Document, options: FileOptions) -> list[Problem]:
    known = {section: options.of_section(section) for section in options.sections}
    sections = [section for section in document.sections if section.name not in known]
    keys = [
        entry
        for entry in document.entries
        if entry.section in known
        and entry.section not in options.open_sections
        and entry.key not in known[entry.section]
    ]
    return [
        *told(sections, lambda section: _unknown_section(document.path, section, known)),
        *told(keys, lambda entry: _unknown_key(document.path, entry, known)),
    ]


def _bad_value(path: Path, entry: Entry, option: Option, fallback: Value) -> Problem:
    hint = f" ({OWN_LINE})" if "#" in entry.value else ""
    message = (
        f'expected {option.kind.expected}; found "{shown(entry.value)}"{hint}; using {written(fallback)}'
    )
    return Problem(path, entry.line, entry.section, entry.key, message, "error")


def _remark(path: Path, entry: Entry, value: Value, remark: str) -> Problem:
    message = f'{remark}; found "{shown(entry.value)}"; using {written(value)}'
    return Problem(path, entry.line, entry.section, entry.key, message, "warning")


def _unknown_section(path: Path, section: Section, known: Mapping[str, Mapping[str, Option]]) -> Problem:
    message = "unknown section; what it holds is ignored" + suggestion(section.name, known, form="[{}]")
    return Problem(path, section.line, section.name, None, message, "warning")


def _unknown_key(path: Path, entry: Entry, known: Mapping[str, Mapping[str, Option]]) -> Problem:
    message = "unknown key" + (_other_place(entry.key, known) or suggestion(entry.key, known[entry.section]))
    return Problem(path, entry.line, entry.section, entry.key, message, "warning")


def _other_place(key: str, known: Mapping[str, Mapping[str, Option]]) -> str:
    """The section that has this key, for a key that stands in the wrong one."""
    return next((f" here; it belongs in [{section}]" for section, names in known.items() if key in names), "")


def _last_without_line(problem: Problem) -> float:
    return float("inf") if problem.line is None else problem.line
