"""Turns a program's declared charts and its account into what a frame says.

Three things make what the agent shows right. A chart is defined with the dimensions it has, and again when
they change. The first value of a dimension that appears later is 0, because the agent takes the first
value of an incremental dimension as its base: what was counted until then comes with the next frame. And what
has gone is told to be obsolete, and comes back under the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.account import HOST, Account
from supervisor.aggregator.stream import (
    ChartLine,
    DimensionLine,
    Frame,
    clean_id,
    clean_names,
    different,
    skeleton,
)
from supervisor.kernel.maps import U64Array
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


@dataclass
class _Shown:
    """What one declared chart comes to now: its lines and where their values are had.

    entities: one for each value. known: the agent has been told of the lines. gone: those that it had.
    """

    groups: Groups
    given: frozenset[str]
    lines: tuple[ChartLine, ...] = ()
    entities: tuple[int, ...] = ()
    dimensions: tuple[Dimension, ...] = ()
    pieces: list[str] = field(default_factory=list)
    known: bool = False
    gone: tuple[ChartLine, ...] = ()


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
        self._shown: list[_Shown] = [_Shown((), frozenset()) for _ in charts]
        self._device_names: Mapping[int, str] = {}
        self._devices: Groups = ()
        self._steps: dict[str, int] = {}
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
        given = self._given()
        for number, chart in enumerate(self._charts):
            self._write(frame, number, self._groups_of(chart, groups), given)

    def withdraw(self, frame: Frame) -> None:
        """Tells that all of it is gone: the program has been stopped."""
        for number in range(len(self._charts)):
            self._write(frame, number, (), frozenset())

    @property
    def visible(self) -> bool:
        """Whether the agent shows any chart of the program."""
        return any(shown.lines or shown.gone for shown in self._shown)

    def sent(self) -> None:
        """The frame has been written: what stood in it is known to the agent now."""
        announced = self._account.ledger.announced
        for shown in self._shown:
            shown.known, shown.gone = True, ()
            announced[[group.entity for group in shown.groups]] = 1
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

    def _write(self, frame: Frame, number: int, groups: Groups, given: frozenset[str]) -> None:
        shown = self._shown[number]
        if shown.given != given or shown.groups != groups:
            shown = self._shown[number] = self._prepare(self._charts[number], groups, given, shown)
        if not shown.known:
            before = {line.full_id: line for line in shown.gone}
            here = {line.full_id for line in shown.lines}
            for line in shown.gone:
                if line.full_id not in here:
                    frame.withdraw(line)
            for line in shown.lines:
                former = before.get(line.full_id)
                if line != former:
                    frame.define(line, _gone(former, line) if former else ())
        frame.set(shown.pieces, self._values(shown))

    def _prepare(self, chart: Chart, groups: Groups, given: frozenset[str], before: _Shown) -> _Shown:
        dimensions = [d for d in chart.dimensions if given.issuperset(d.sources)]
        had = before.lines if before.known else before.gone
        made = _Shown(groups, given, gone=had)
        if not groups or not dimensions:
            return made
        if chart.by_group:
            made.lines = tuple(self._line(chart, group, [(group, d) for d in dimensions]) for group in groups)
        else:
            made.lines = (self._line(chart, None, [(group, d) for group in groups for d in dimensions]),)
        made.entities = tuple(group.entity for group in groups for _ in dimensions)
        made.dimensions = tuple(dimensions) * len(groups)
        made.pieces = skeleton(made.lines)
        return made

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

    def _values(self, shown: _Shown) -> list[int]:
        if not shown.dimensions:
            return []
        width = len(shown.dimensions) // len(shown.groups)
        entities = np.array([group.entity for group in shown.groups])
        columns = [self._column(entities, dimension) for dimension in shown.dimensions[:width]]
        values: list[int] = np.stack(columns, axis=1).reshape(-1).tolist()
        return values

    def _column(self, entities: IndexArray, dimension: Dimension) -> U64Array:
        """One dimension's value of each entity: u64 [len(entities)]."""
        if not self._program.running(dimension):
            return self._momentary(entities, dimension.sources[0])
        places = [self._program.totals[source] for source in dimension.sources]
        totals = self._account.ledger.totals[entities][:, places].sum(axis=1, dtype=np.uint64)
        values: U64Array = totals * np.uint64(dimension.times) // np.uint64(dimension.over)
        values[self._appear(entities)] = 0
        return values

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

    def _given(self) -> frozenset[str]:
        """Names of all that this kernel, in this mode, gives."""
        latest = self._account.latest
        if latest is None:
            return frozenset()
        columns = {
            column.name
            for column, total in zip(self._program.columns, latest.host, strict=True)
            if total is not None
        }
        work = self._program.derived.names if self._program.derived else {}
        derived = {name for name, needed in work.items() if columns.issuperset(needed)}
        there = columns | derived | set(latest.gauges)
        ratios = {
            name
            for name, ratio in self._program.ratios.items()
            if there.issuperset((*ratio.part, *ratio.less, *ratio.whole))
        }
        return frozenset(there | ratios)


def percent(part: U64Array, less: U64Array, whole: U64Array, ratio: Ratio) -> U64Array:
    """Whole percent, 0 to 100."""
    kept = np.where(part > less, part - less, np.uint64(0))
    share = kept * np.uint64(100) // np.maximum(whole, np.uint64(1))
    return np.where(whole == 0, np.uint64(ratio.empty), np.minimum(share, np.uint64(100))).astype(np.uint64)


def _gone(former: ChartLine, now: ChartLine) -> tuple[DimensionLine, ...]:
    """The dimensions that the chart had and has no more."""
    kept = {dimension.id for dimension in now.dimensions}
    return tuple(replace(d) for d in former.dimensions if d.id not in kept)
