"""What a program is, as data. A program's module says just this; base.py does the rest.

    hooks ──▶ columns of a row ──▶ totals by process, device or host ──▶ dimensions of charts

Rows hold the kernel's running values. `slot` rows belong to processes (kernel_progs/include/slots.h) and
are summed over the host and over app groups; `host` is a single row; `device` rows are named by the worker.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from supervisor.kernel.maps import Maps, U64Array
from supervisor.kernel.plans import Hook

RowKind = Literal["slot", "host", "device"]
Scope = Literal["system", "apps", "device"]


@dataclass(frozen=True)
class Column:
    """One running counter of a row. It exists only where its hook is attached and in its mode."""

    name: str
    hook: str
    return_mode_only: bool = False


@dataclass(frozen=True)
class Dimension:
    """One line of a chart: the sum of `sources`, which are columns, or one gauge; sent is sum // unit."""

    id: str
    name: str
    sources: tuple[str, ...]
    gauge: str = ""
    algorithm: Literal["incremental", "absolute"] = "incremental"
    unit: int = 1


@dataclass(frozen=True)
class Chart:
    """One chart, under Netdata's own ids, titles and units.

    In scope `system` the dimensions are these; in `apps` there is one source and a dimension for each
    group; in `device` there is a chart for each device, whose id and family are the device's name.
    """

    scope: Scope
    type: str
    id: str
    title: str
    units: str
    family: str
    kind: Literal["line", "stacked", "area"]
    priority: int
    module: str
    dimensions: tuple[Dimension, ...]
    context: str = ""


@dataclass(frozen=True)
class Program:
    """A kernel program with its worker.

    rows: how many rows a table of kind `host` or `device` has; `slot` tables have one for each slot.
    read: the current running values, u64 [rows, columns]; the default reads the map `rows`.
    names: names of device rows, by row. gauges: momentary values of the host, by name.
    maps: the maps that the worker reads, its own and the core program's.
    losses: events that were seen and could not be counted, running.
    """

    name: str
    source: str
    hooks: tuple[Hook, ...]
    columns: tuple[Column, ...]
    charts: tuple[Chart, ...]
    kind: RowKind = "slot"
    rows: int = 0
    maps: tuple[str, ...] = ("rows",)
    read: Callable[[Maps], U64Array] | None = None
    names: Callable[[Maps], Mapping[int, str]] | None = None
    gauges: Callable[[Maps], Mapping[str, int]] | None = None
    losses: Callable[[Maps], int] | None = None
    prepare: Mapping[str, range] = field(default_factory=dict)  # queue map -> what it holds at the start


def counted(identity: str, name: str, *sources: str) -> Dimension:
    """A dimension of running totals."""
    return Dimension(identity, name, sources)


def momentary(gauge: str) -> Dimension:
    """A dimension of what is now."""
    return Dimension(gauge, "", (), gauge, "absolute")


def slot_charts(
    charts: Mapping[tuple[str, ...], tuple[str, str, int]], *, family: str, module: str
) -> tuple[Chart, ...]:
    """The apps charts of a program: columns that are added up -> (chart id, title, priority)."""
    return tuple(
        Chart(
            "apps",
            "apps",
            identity,
            title,
            "calls/s",
            family,
            "stacked",
            priority,
            module,
            (counted("", "", *columns),),
        )
        for columns, (identity, title, priority) in charts.items()
    )
