"""What a benchmark gives: goals with what was measured for them, and a table, as plain values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class MeasurementFailed(Exception):
    """A part gives no figures; the text says why."""


@dataclass(frozen=True)
class Goal:
    """A figure that was aimed at. goal and measured: in words, with their units."""

    what: str
    goal: str
    measured: str
    met: bool


@dataclass(frozen=True)
class Table:
    """Figures in rows; each has a cell for each of `columns`."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Section:
    """What one benchmark has to say. meaning: what the figures are and how they were come by.

    kernels: where it ran. left_out: what did not run and why.
    """

    title: str
    meaning: str
    kernels: tuple[str, ...]
    goals: Sequence[Goal]
    tables: Sequence[Table]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """One part of `make bench`. run: is told whether a guest may be booted."""

    name: str
    about: str
    run: Callable[[bool], Section]


def at_most(what: str, value: float, limit: float, form: str) -> Goal:
    """A goal that is met by a small figure; `form` is a format of one number, with its unit."""
    return Goal(what, f"at most {form.format(limit)}", form.format(value), value <= limit)


def at_least(what: str, value: float, limit: float, form: str) -> Goal:
    return Goal(what, f"at least {form.format(limit)}", form.format(value), value >= limit)
