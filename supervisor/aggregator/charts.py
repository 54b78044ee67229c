"""Turns a program's declared charts and its account into what a frame says.

Three things make what the agent shows right. A chart is defined with the dimensions it has, and again when
they change. The first value of a dimension that appears later is 0, because the agent takes the first
value of an incremental dimension as its base: what was counted until then comes with the next frame. And what
has gone is told to be obsolete, and comes back under the same name.
"""

import operator
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.account import Account
from supervisor.aggregator.storage import HOST
from supervisor.aggregator.stream import (
    ChartLine,
    DimensionLine,
    Frame,
    clean_id,
    clean_names,
    collection,
    different,
    skeleton,
)
from supervisor.kernel.arrays import U64Array
from supervisor.pipeline.sample import Sample
from workers.declaration import GROUP, Chart, Dimension, Naming, Ratio, Scope

IndexArray = npt.NDArray[np.int_]

# The label that a chart of one group carries.
_LABEL: Final[Mapping[Scope, str]] = {
    "apps": "app_group",
    "cgroup": "cgroup_name",
    "services": "service_name",
}


@dataclass(frozen=True)
class Group:
    """One of those that a scope has. chart_id: its part of a chart's id. dimension_id: what it is called in a
    chart of many groups."""

    entity: int
    name: str
    chart_id: str
    dimension_id: str


Groups = tuple[Group, ...]
THE_HOST: Final[Groups] = (Group(HOST, "", "", ""),)


def devices(names: Mapping[int, str], rows: int) -> Groups:
    """The device rows of a program under ids that are all different."""
    known = {row: name for row, name in sorted(names.items()) if 0 <= row < rows}
    chart_ids = different(map(clean_id, known.values()))
    dimension_ids = clean_names(known.values())
    return tuple(map(Group, known, known.values(), chart_ids, dimension_ids))


def shown(naming: Naming, modern: bool, agent: tuple[int, int]) -> bool:
    """Whether a chart of this naming is sent. agent: the agent's version, (1, 43)."""
    if naming == "before 1.42":
        return agent < (1, 42)
    if naming == "from 1.42":
        return agent >= (1, 42)
    return naming == "both" or naming == ("modern" if modern else "classic")


@dataclass(frozen=True)
class _Sums:
    """How values are had from totals, in the order in which they are sent.

    entity: of each value. index: of each summand, in the totals laid out flat. starts: where each value's
    summands begin. times, over: of each value. momentary: what is no total, which values of it, by name.
    """

    entity: IndexArray
    index: IndexArray
    starts: IndexArray
    times: U64Array
    over: U64Array
    momentary: tuple[tuple[str, IndexArray], ...] = ()


_NEVER: Final = -1  # a version that no ledger has
_NO_INDEX: Final[IndexArray] = np.zeros(0, np.int_)
_NO_NUMBER: Final[U64Array] = np.zeros(0, np.uint64)
_NO_SUMS: Final = _Sums(_NO_INDEX, _NO_INDEX, _NO_INDEX, _NO_NUMBER, _NO_NUMBER)


def _joined(parts: Sequence[_Sums]) -> _Sums:
    """All of them, one after the other."""
    values = np.cumsum([0, *(len(part.entity) for part in parts)])
    summands = np.cumsum([0, *(len(part.index) for part in parts)])
    return _Sums(
        np.concatenate([_NO_INDEX, *(part.entity for part in parts)]),
        np.concatenate([_NO_INDEX, *(part.index for part in parts)]),
        np.concatenate([_NO_INDEX, *(p.starts + at for p, at in zip(parts, summands[:-1], strict=True))]),
        np.concatenate([_NO_NUMBER, *(part.times for part in parts)]),
        np.concatenate([_NO_NUMBER, *(part.over for part in parts)]),
        tuple(
            (name, which + at)
            for part, at in zip(parts, values[:-1], strict=True)
            for name, which in part.momentary
        ),
    )


@dataclass
class _Shown:
    """What one declared chart comes to now: its lines and where their values are had.

    known: the agent has been told of the lines. gone: those that it had. values, text: of the last frame,
    which is the text of the next one as long as nothing changes.
    """

    groups: Groups
    given: frozenset[str]
    lines: tuple[ChartLine, ...] = ()
    sums: _Sums = _NO_SUMS
    skeleton: bytes = b""
    known: bool = False
    gone: tuple[ChartLine, ...] = ()
    values: Sequence[int] = ()
    text: bytes = b""

    def write(self, frame: Frame, values: Sequence[int]) -> None:
        if values != self.values:
            self.values, self.text = values, collection(self.skeleton, values)
        if values:
            frame.add(self.text)


class ChartWriter:
    """Writes one program's part of frames."""

    def __init__(
        self, account: Account, charts: Sequence[Chart], update_every_s: int, modern: bool = False
    ) -> None:
        self._account = account
        self._program = account.program
        self._update_every_s = update_every_s
        self._modern = modern
        self._charts = charts
        # An agent has one chart of an id: the first declaration that has anything to show is it.
        self._rivals = [[c for c in charts[:n] if c.id == chart.id] for n, chart in enumerate(charts)]
        self._shown: list[_Shown] = [_Shown((), frozenset()) for _ in charts]
        self._sums = _NO_SUMS  # of all charts, so that one pass over the totals serves them
        self._entities = _NO_INDEX  # that have a part in any chart
        # What the charts were last prepared for: names of what is given, devices, groups of each scope.
        self._scopes: list[Scope] = sorted({chart.scope for chart in charts} - {"system", "device"})
        self._sources: tuple[object, ...] = ()
        self._sent: tuple[IndexArray, int] = (_NO_INDEX, _NEVER)
        self._device_names: Mapping[int, str] = {}
        self._devices: Groups = ()
        self._steps: dict[str, int] = {}
        self._given_by: tuple[tuple[int, ...], tuple[str, ...]] = ((), ())
        self._given_names: frozenset[str] = frozenset()
        self._version, self._settled = _NEVER, False
        self._texts: list[bytes] = []
        # What ratios are of: the totals of the last frame.
        self._before: U64Array = account.ledger.totals[: None if self._program.ratios else 0].copy()

    def write(self, frame: Frame, groups: Mapping[Scope, Groups]) -> None:
        """Adds the program's charts to the frame. groups: those of each scope; a scope left out has none."""
        latest = self._account.latest
        if latest is None:
            return
        if latest.names != self._device_names:
            self._device_names = latest.names
            self._devices = devices(latest.names, len(self._account.ledger.totals))
        given = self._given(latest)
        sources = (given, self._devices, *(groups.get(scope, ()) for scope in self._scopes))
        if len(sources) != len(self._sources) or not all(map(operator.is_, sources, self._sources)):
            self._sources = sources
            self._renew([self._groups_of(chart, groups) for chart in self._charts], given)
        self._write(frame)

    def withdraw(self, frame: Frame) -> None:
        """Tells that all of it is gone: the program has been stopped."""
        self._sources = ()
        self._renew([()] * len(self._charts), frozenset())
        self._write(frame)

    def withdraw_some(self, frame: Frame, scopes: Container[Scope]) -> None:
        """Tells that the charts of these scopes are gone, and nothing else. For the last frame of all."""
        for chart, shown in zip(self._charts, self._shown, strict=True):
            if chart.scope in scopes:
                for line in shown.lines if shown.known else shown.gone:
                    frame.withdraw(line)

    @property
    def visible(self) -> bool:
        """Whether the agent shows any chart of the program."""
        return any(shown.lines or shown.gone for shown in self._shown)

    def sent(self) -> None:
        """The frame has been written: what stood in it is known to the agent now."""
        version = self._account.ledger.version
        if self._sent[0] is self._entities and self._sent[1] == version:
            return  # it knew all of it
        self._sent = self._entities, version
        announced = self._account.ledger.announced
        for shown in self._shown:
            shown.known, shown.gone = True, ()
        announced[self._entities] = 1
        if self._program.kind != "device":
            announced[HOST] = 1
        if self._program.ratios:
            self._before[:] = self._account.ledger.totals

    def clear(self, entity: int) -> None:
        """What the entity stood for has gone, and another one will have its place."""
        self._account.ledger.clear(entity)
        if self._program.ratios:
            self._before[entity] = 0

    def _groups_of(self, chart: Chart, groups: Mapping[Scope, Groups]) -> Groups:
        if chart.scope == "system":
            return THE_HOST
        if chart.scope != "device":
            return groups.get(chart.scope, ())
        if chart.device:
            return tuple(group for group in self._devices if group.name == chart.device)
        return self._devices

    def _write(self, frame: Frame) -> None:
        version = self._account.ledger.version
        if version == self._version and not self._sums.momentary:
            for text in self._texts:
                frame.add(text)
            return
        values = self._values()
        begin = 0
        for shown in self._shown:
            if not shown.known:
                _tell_change(frame, shown)
            end = begin + len(shown.sums.entity)
            shown.write(frame, values[begin:end])
            begin = end
        # Once all of it has stood in a frame, the same totals make the same text.
        told = all(shown.known for shown in self._shown)
        self._version = version if self._settled and told else _NEVER
        self._texts = [shown.text for shown in self._shown if shown.values]

    def _renew(self, groups: Sequence[Groups], given: frozenset[str]) -> None:
        """Prepares those charts anew whose groups or dimensions are others now."""
        changed = False
        for number, (shown, now) in enumerate(zip(self._shown, groups, strict=True)):
            if shown.given is not given or (shown.groups is not now and shown.groups != now):
                self._shown[number] = self._prepare(number, now, given, shown)
                changed = True
        if changed:
            self._version = _NEVER
            self._sums = _joined([shown.sums for shown in self._shown])
            entities = {group.entity for shown in self._shown for group in shown.groups}
            self._entities = np.array(sorted(entities), np.int_)

    def _prepare(self, number: int, groups: Groups, given: frozenset[str], before: _Shown) -> _Shown:
        chart = self._charts[number]
        dimensions = _dimensions_of(chart, given)
        if any(_dimensions_of(rival, given) for rival in self._rivals[number]):
            dimensions = []
        had = before.lines if before.known else before.gone
        made = _Shown(groups, given, gone=had)
        if not groups or not dimensions:
            return made
        if chart.by_group:
            made.lines = tuple(self._line(chart, group, [(group, d) for d in dimensions]) for group in groups)
        else:
            made.lines = (self._line(chart, None, [(group, d) for group in groups for d in dimensions]),)
        made.sums = self._sums_of(groups, dimensions)
        made.skeleton = skeleton(made.lines)
        return made

    def _sums_of(self, groups: Groups, dimensions: Sequence[Dimension]) -> _Sums:
        """Group by group, of each its dimensions."""
        program, columns = self._program, self._account.ledger.totals.shape[1]
        entities = np.array([group.entity for group in groups], np.int_)
        # What is no total takes a summand's place, and is put in afterwards.
        places = [[program.totals.get(source, 0) for source in d.sources] for d in dimensions]
        flat = np.array([place for of_one in places for place in of_one], np.int_)
        begin = np.cumsum([0, *map(len, places)])[:-1]
        groups_at = np.arange(len(groups))[:, np.newaxis]
        return _Sums(
            np.repeat(entities, len(dimensions)),
            (entities[:, np.newaxis] * columns + flat).reshape(-1),
            (groups_at * len(flat) + begin).reshape(-1),
            np.tile(np.array([d.times for d in dimensions], np.uint64), len(groups)),
            np.tile(np.array([d.over for d in dimensions], np.uint64), len(groups)),
            tuple(
                (d.sources[0], groups_at.reshape(-1) * len(dimensions) + number)
                for number, d in enumerate(dimensions)
                if not program.running(d)
            ),
        )

    def _line(
        self, chart: Chart, group: Group | None, dimensions: Sequence[tuple[Group, Dimension]]
    ) -> ChartLine:
        def named(text: str, name: str) -> str:
            return text.replace(GROUP, name)

        kind, _, identity = named(chart.id, group.chart_id if group else "").partition(".")
        label = _LABEL.get(chart.scope) if group else None
        return ChartLine(
            kind,
            identity,
            chart.title,
            chart.units,
            named(chart.family, group.name if group else ""),
            chart.context,
            chart.kind,
            chart.priority + (self._step(identity) if chart.step else 0),
            self._update_every_s,
            chart.module,
            tuple(
                DimensionLine(
                    named(d.id, of.dimension_id),
                    d.name,
                    "incremental" if self._program.running(d) else "absolute",
                    d.multiplier,
                )
                for of, d in dimensions
            ),
            (label, group.name) if label and group and self._modern else None,
        )

    def _step(self, identity: str) -> int:
        return self._steps.setdefault(identity, len(self._steps))

    def _values(self) -> list[int]:
        """Of all charts, in the order in which they are sent."""
        sums = self._sums
        self._settled = True
        if not len(sums.entity):
            return []
        summands = self._account.ledger.totals.reshape(-1)[sums.index]
        values: U64Array = np.add.reduceat(summands, sums.starts) * sums.times // sums.over
        appear = self._appear(sums.entity)
        values[appear] = 0
        self._settled = not appear.any()
        for name, which in sums.momentary:
            values[which] = self._momentary(sums.entity[which], name)
        numbers: list[int] = values.tolist()
        return numbers

    def _appear(self, entities: IndexArray) -> npt.NDArray[np.bool_]:
        """Which of them have not stood in a frame while others have, or are devices that have not: they had
        counted nothing before. See the head of the module."""
        announced = self._account.ledger.announced
        appear: npt.NDArray[np.bool_] = announced[entities] == 0
        if self._program.kind != "device" and not announced[HOST]:
            appear[:] = False
        return appear

    def _momentary(self, entities: IndexArray, source: str) -> U64Array:
        ratio = self._program.ratios.get(source)
        if ratio is None:
            latest = self._account.latest
            return np.array([(latest.gauges if latest else {})[source]] * len(entities), np.uint64)
        now = self._account.ledger.totals[entities] - self._before[entities]

        def of(names: Sequence[str]) -> U64Array:
            places = [self._program.totals[name] for name in names]
            total: U64Array = now[:, places].sum(axis=1, dtype=np.uint64)
            return total

        return percent(of(ratio.part), of(ratio.less), of(ratio.whole), ratio)

    def _given(self, latest: Sample) -> frozenset[str]:
        """Names of all that this kernel gives in this mode; the same object as long as nothing changes."""
        by = (latest.columns, tuple(latest.gauges))
        if by != self._given_by:
            self._given_by, self._given_names = by, self._names_given(*by)
        return self._given_names

    def _names_given(self, numbers: Sequence[int], gauges: Sequence[str]) -> frozenset[str]:
        columns = {self._program.columns[number].name for number in numbers}
        work = self._program.derived.names if self._program.derived else {}
        derived = {name for name, needed in work.items() if columns.issuperset(needed)}
        there = {*columns, *derived, *gauges}
        ratios = {
            name
            for name, ratio in self._program.ratios.items()
            if there.issuperset((*ratio.part, *ratio.less, *ratio.whole))
        }
        return frozenset(there | ratios)


def _dimensions_of(chart: Chart, given: frozenset[str]) -> list[Dimension]:
    return [d for d in chart.dimensions if given.issuperset(d.sources)]


def _tell_change(frame: Frame, shown: _Shown) -> None:
    """Withdraws what has gone, and defines what is new or has other lines."""
    before = {line.full_id: line for line in shown.gone}
    here = {line.full_id for line in shown.lines}
    for line in shown.gone:
        if line.full_id not in here:
            frame.withdraw(line)
    for line in shown.lines:
        former = before.get(line.full_id)
        if line != former:
            frame.define(line, _gone(former, line) if former else ())


def percent(part: U64Array, less: U64Array, whole: U64Array, ratio: Ratio) -> U64Array:
    """Whole percent, 0 to 100."""
    kept = np.where(part > less, part - less, np.uint64(0))
    share = kept * np.uint64(100) // np.maximum(whole, np.uint64(1))
    return np.where(whole == 0, np.uint64(ratio.empty), np.minimum(share, np.uint64(100))).astype(np.uint64)


def _gone(former: ChartLine, now: ChartLine) -> tuple[DimensionLine, ...]:
    """The dimensions that the chart had and has no more."""
    kept = {dimension.id for dimension in now.dimensions}
    return tuple(replace(d) for d in former.dimensions if d.id not in kept)
