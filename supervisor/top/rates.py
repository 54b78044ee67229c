"""Events a second, from two readings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor.kernel.arrays import U64Array
from supervisor.top.reading import Counted, Label, Reading

_NS: Final = 1e9

Rates = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One of those that events are counted for. rates: by column, a program's name mostly."""

    label: Label
    total: float
    rates: Mapping[str, float]

    def told(self) -> dict[str, Any]:
        rates = {name: round(rate, 1) for name, rate in self.rates.items()}
        return {"name": self.label.name, **self.label.facts, "rate": round(self.total, 1), "rates": rates}


@dataclass(frozen=True)
class Picture:
    """host: by program, of those that run. of_time: those that add up time; their rate is percent of one CPU.
    columns: what rows have rates of. busiest: the same, most since the start first. seconds: what rates are
    of."""

    host: Mapping[str, float] = field(default_factory=dict)
    of_time: Sequence[str] = ()
    columns: Sequence[str] = ()
    busiest: Sequence[str] = ()
    rows: Sequence[Row] = ()
    seconds: float = 0.0


class Pace:
    """Takes readings of one kind, one after the other."""

    def __init__(self) -> None:
        self._before: Reading | None = None
        self._host: Rates = np.zeros(0)
        self._places: dict[str, Rates] = {}
        self._seconds = 0.0

    def take(self, now: Reading) -> Picture:
        """What was not sampled since the last reading keeps its rates."""
        before = self._before
        if before is None or [p.name for p in before.programs] != [p.name for p in now.programs]:
            self._host = np.zeros(len(now.programs))
            self._places = {}
            before = None
        former = {column.name: column for column in before.counted} if before else {}
        if before:
            self._renew_host(before, now)
        self._places = {column.name: self._rates(former.get(column.name), column) for column in now.counted}
        self._before = now
        return self._picture(now)

    def _renew_host(self, before: Reading, now: Reading) -> None:
        counted = _difference(before.host, now.host)
        for number, moments_ns in enumerate(zip(before.sampled_ns, now.sampled_ns, strict=True)):
            if seconds := _seconds(*moments_ns):
                self._host[number] = counted[number] / seconds
                self._seconds = seconds

    def _rates(self, before: Counted | None, now: Counted) -> Rates:
        places = len(now.counts)
        seconds = _seconds(before.sampled_ns, now.sampled_ns) if before else 0.0
        if before is None or not seconds:
            return _fitting(self._places.get(now.name, np.zeros(0)), places)
        return _difference(_fitting(before.counts, places), now.counts) / seconds

    def _picture(self, now: Reading) -> Picture:
        columns = [column.name for column in now.counted]
        added = [self._places[column.name] for column in now.counted if column.adds_up]
        totals = np.sum(added, axis=0) if added else np.zeros(0)
        return Picture(
            {p.name: self._of_host(n, now) for n, p in enumerate(now.programs) if now.running[n]},
            [p.name for n, p in enumerate(now.programs) if now.running[n] and p.of_time],
            columns,
            [column.name for column in sorted(now.counted, key=lambda column: -column.whole)],
            [
                Row(label, float(totals[place]), {n: float(self._places[n][place]) for n in columns})
                for place, label in now.labels.items()
            ]
            if added
            else [],
            self._seconds,
        )

    def _of_host(self, number: int, now: Reading) -> float:
        rate = float(self._host[number])
        return rate * 100 / _NS if now.programs[number].of_time else rate


def _seconds(before_ns: int, now_ns: int) -> float:
    """Between two samples, 0 when there are not two."""
    return (now_ns - before_ns) / _NS if before_ns and now_ns > before_ns else 0.0


def _difference(before: U64Array, now: U64Array) -> Rates:
    """A total that is lower than it was belongs to another owner, or the kernel counts anew."""
    return np.where(now >= before, now - before, now).astype(np.float64)


def _fitting(array: npt.NDArray[Any], places: int) -> npt.NDArray[Any]:
    """With so many places; new ones have counted nothing before."""
    return np.pad(array, (0, max(0, places - len(array))))[:places]
