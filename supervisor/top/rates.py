"""Events a second, from two readings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor.kernel.arrays import U64Array
from supervisor.top.reading import Label, Reading

_NS: Final = 1e9

Rates = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One of those that events are counted for. rates: by program, of those that count by process."""

    label: Label
    total: float
    rates: Mapping[str, float]

    def told(self) -> dict[str, Any]:
        rates = {name: round(rate, 1) for name, rate in self.rates.items()}
        return {"name": self.label.name, **self.label.facts, "rate": round(self.total, 1), "rates": rates}


@dataclass(frozen=True)
class Picture:
    """host: by program, of those that run. of_time: those that add up time; their rate is percent of one CPU.
    busiest: those that count by process, most events since the start first. seconds: what rates are of."""

    host: Mapping[str, float] = field(default_factory=dict)
    of_time: Sequence[str] = ()
    busiest: Sequence[str] = ()
    rows: Sequence[Row] = ()
    seconds: float = 0.0


class Pace:
    """Takes readings of one kind, one after the other."""

    def __init__(self) -> None:
        self._before: Reading | None = None
        self._host: Rates = np.zeros(0)
        self._places: Rates = np.zeros((0, 0))
        self._seconds = 0.0

    def take(self, now: Reading) -> Picture:
        """A program that was not sampled since the last reading keeps its rates."""
        before = self._before
        if before is None or [p.name for p in before.programs] != [p.name for p in now.programs]:
            self._host = np.zeros(len(now.programs))
            self._places = np.zeros(now.counts.shape)
        else:
            self._places = _fitting(self._places, now.counts.shape[1])
            for number in range(len(now.programs)):
                self._renew(number, before, now)
        self._before = now
        return self._picture(now)

    def _renew(self, number: int, before: Reading, now: Reading) -> None:
        seconds = (now.sampled_ns[number] - before.sampled_ns[number]) / _NS
        if before.sampled_ns[number] and seconds > 0:
            counts, one = _fitting(before.counts, now.counts.shape[1]), slice(number, number + 1)
            self._host[one] = _difference(before.host[one], now.host[one]) / seconds
            self._places[number] = _difference(counts[number], now.counts[number]) / seconds
            self._seconds = seconds

    def _picture(self, now: Reading) -> Picture:
        numbers = [n for n, program in enumerate(now.programs) if now.running[n]]
        by_place = [n for n in numbers if now.programs[n].kind == "slot"]
        names = [now.programs[n].name for n in by_place]
        totals = self._places[by_place].sum(axis=0)
        order = sorted(by_place, key=lambda n: -int(now.host[n]))
        return Picture(
            {now.programs[n].name: self._of_host(n, now) for n in numbers},
            [now.programs[n].name for n in numbers if now.programs[n].of_time],
            [now.programs[n].name for n in order],
            [
                Row(label, float(totals[place]), dict(zip(names, rates, strict=True)))
                for place, label in now.labels.items()
                for rates in [self._places[by_place, place].tolist()]
            ],
            self._seconds,
        )

    def _of_host(self, number: int, now: Reading) -> float:
        rate = float(self._host[number])
        return rate * 100 / _NS if now.programs[number].of_time else rate


def _difference(before: U64Array, now: U64Array) -> Rates:
    """A total that is lower than it was belongs to another owner, or the kernel counts anew."""
    return np.where(now >= before, now - before, now).astype(np.float64)


def _fitting(array: npt.NDArray[Any], places: int) -> npt.NDArray[Any]:
    """With so many places; new ones have counted nothing before."""
    more = max(0, places - array.shape[1])
    return np.pad(array, ((0, 0), (0, more)))[:, :places]
