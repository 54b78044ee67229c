"""Turns a program's declared charts and its account into what a frame says.

Two things make the agent's sums exact. A chart is defined with the dimensions it has, and again when a
group appears. And the first value of a dimension that appears later is 0, because the agent takes the first
value of an incremental dimension as its base: what was counted until then comes with the next frame.
"""

import numpy as np
import numpy.typing as npt

from supervisor.aggregator.account import HOST, Account
from supervisor.aggregator.stream import ChartLine, DimensionLine, Frame, clean_id
from workers.declaration import Chart, Dimension


class ChartWriter:
    """Writes one program's part of frames.

    group_names: dimension ids of the app groups, by group. `defined`: charts that this process has sent.
    """

    def __init__(self, account: Account, group_names: list[str], update_every_s: int, apps: bool) -> None:
        self._account = account
        self._groups = group_names
        self._update_every_s = update_every_s
        self._apps = apps
        self._defined: dict[str, ChartLine] = {}
        self._names: dict[int, str] = {}
        self._column = {column.name: index for index, column in enumerate(account.program.columns)}

    def write(self, frame: Frame, exposed: npt.NDArray[np.bool_]) -> None:
        """Adds the program's charts to the frame."""
        for chart in self._account.program.charts:
            if chart.scope == "system":
                self._write_system(frame, chart)
            elif chart.scope == "apps" and self._apps:
                self._write_apps(frame, chart, exposed)
            elif chart.scope == "device":
                self._write_devices(frame, chart)

    def sent(self, frame: Frame, exposed: npt.NDArray[np.bool_]) -> None:
        """The frame has been written: what stood in it is known to the agent now."""
        self._defined.update(frame.defines)
        announced = self._account.ledger.announced
        if self._account.program.kind == "slot":
            announced[1:][exposed] = 1
        for row in self._names:
            announced[row] = 1
        announced[HOST] = 1

    def _write_system(self, frame: Frame, chart: Chart) -> None:
        dimensions = [d for d in chart.dimensions if self._has(d)]
        if not dimensions:
            return
        line = self._line(chart, chart.id, chart.family, [(d.id, d.name) for d in dimensions], dimensions[0])
        self._define(frame, line)
        frame.set(line, {d.id: self._value(d, HOST) for d in dimensions})

    def _write_apps(self, frame: Frame, chart: Chart, exposed: npt.NDArray[np.bool_]) -> None:
        dimension = chart.dimensions[0]
        if not self._has(dimension):
            return
        groups = np.flatnonzero(exposed).tolist()
        line = self._line(chart, chart.id, chart.family, [(self._groups[g], "") for g in groups], dimension)
        self._define(frame, line)
        frame.set(line, {self._groups[g]: self._first_or_value(dimension, g + 1) for g in groups})

    def _write_devices(self, frame: Frame, chart: Chart) -> None:
        latest = self._account.latest
        names = latest.names if latest else {}
        totals = self._account.ledger.totals
        for row, name in sorted(names.items()):
            if row not in self._names and 0 <= row < len(totals) and totals[row].any():
                clean = clean_id(name)
                self._names[row] = f"{clean}_{row}" if clean in self._names.values() else clean
        dimensions = [(d.id, d.name) for d in chart.dimensions]
        for row, identity in self._names.items():
            line = self._line(chart, identity, names.get(row, identity), dimensions, chart.dimensions[0])
            self._define(frame, line)
            frame.set(line, {d.id: self._first_or_value(d, row) for d in chart.dimensions})

    def _line(
        self, chart: Chart, identity: str, family: str, dimensions: list[tuple[str, str]], like: Dimension
    ) -> ChartLine:
        return ChartLine(
            chart.type,
            identity,
            chart.title,
            chart.units,
            family,
            chart.context or f"{chart.type}.{chart.id}",
            chart.kind,
            chart.priority,
            self._update_every_s,
            chart.module,
            tuple(DimensionLine(ident, name, like.algorithm) for ident, name in dimensions),
        )

    def _define(self, frame: Frame, line: ChartLine) -> None:
        if self._defined.get(line.full_id) != line:
            frame.define(line)

    def _first_or_value(self, dimension: Dimension, entity: int) -> int:
        """0 for a group that has not stood in a frame while others have, and for a device that has not: it
        had counted nothing before. See the head of the module."""
        announced = self._account.ledger.announced
        began_later = self._account.program.kind == "device" or announced[HOST]
        if not announced[entity] and began_later:
            return 0
        return self._value(dimension, entity)

    def _value(self, dimension: Dimension, entity: int) -> int:
        latest = self._account.latest
        if dimension.gauge:
            return (latest.gauges if latest else {})[dimension.gauge]
        row = self._account.ledger.totals[entity]
        return sum(int(row[self._column[source]]) for source in dimension.sources) // dimension.unit

    def _has(self, dimension: Dimension) -> bool:
        """Whether this kernel, in this mode, gives what the dimension shows."""
        latest = self._account.latest
        if latest is None:
            return False
        if dimension.gauge:
            return dimension.gauge in latest.gauges
        return all(latest.host[self._column[source]] is not None for source in dimension.sources)
