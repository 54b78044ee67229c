"""What a program is, as data. A program's module says just this; base.py does the rest.

    hooks ──▶ columns of a row ──▶ totals of processes, groups, devices or the host ──▶ dimensions of charts

Rows hold the kernel's running values. `slot` rows belong to processes (kernel_progs/include/slots.h) and
are summed over the host, app groups and cgroups; `host` is a single row; `device` rows are named by the
worker. The charts stand in workers/charts/<program>.csv.
"""

import csv
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, cast

from supervisor.kernel.maps import Maps
from supervisor.kernel.plans import Hook, Mechanism

if TYPE_CHECKING:
    from supervisor.kernel.arrays import U64Array  # workers have no numpy

RowKind = Literal["slot", "host", "device"]
Scope = Literal["system", "apps", "cgroup", "services", "device", "outbound", "inbound"]
Naming = Literal["classic", "modern", "both", "before 1.42", "from 1.42"]

CHARTS: Final = Path(__file__).parent / "charts"
GROUP: Final = "{group}"

# Netdata's labels of bins that double from 1 us on; what took n us is in the bin whose label contains n.
LABELS: Final = (
    *(f"{low}us->{high}us" for low, high in ((0, 1), *((1 << n, 2 << n) for n in range(9)))),
    "512us->1ms",
    *(f"{(1 << n) // 1000}ms->{(2 << n) // 1000}ms" for n in range(10, 19)),
    "524ms->1s",
    "1s->2s",
    "2s->4s",
    "4s->+Inf",
)

_SUM: Final = re.compile(r"(?P<minus>-?)(?P<sources>.+?)(\*(?P<times>\d+))?(/(?P<over>\d+))?")


@dataclass(frozen=True)
class Column:
    """One running counter of a row. It exists only where its hook is attached, by one of `plans` where some
    are named, and in its mode."""

    name: str
    hook: str
    return_mode_only: bool = False
    plans: tuple[Mechanism, ...] = ()


@dataclass(frozen=True)
class Dimension:
    """One line of a chart: the sum of `sources`, times `times` // `over`. A single source that is no column
    is a gauge or a ratio of the program."""

    id: str
    name: str
    sources: tuple[str, ...]
    multiplier: int = 1
    times: int = 1
    over: int = 1


@dataclass(frozen=True)
class Chart:
    """One line of a program's table of charts (workers/charts/__init__.py).

    device: the name of the only device row that has it. step: its priority grows with each chart.
    """

    scope: Scope
    device: str
    naming: Naming
    id: str
    title: str
    units: str
    family: str
    context: str
    kind: str
    priority: int
    step: bool
    module: str
    dimensions: tuple[Dimension, ...]

    @property
    def by_group(self) -> bool:
        """Whether there is a chart for each group, not a dimension."""
        return GROUP in self.id


@dataclass(frozen=True)
class Ratio:
    """How many percent of the sum of `whole` the sum of `part` is, of what an interval brought.
    less: what is taken off `part`. empty: the answer for an interval without any."""

    part: tuple[str, ...]
    whole: tuple[str, ...]
    empty: int
    less: tuple[str, ...] = ()


@dataclass(frozen=True)
class Derived:
    """Running totals that are worked out from what each sample adds to the columns.

    names: and the columns that each cannot do without.
    work_out: u64 [entities, columns] of additions -> u64 [entities, len(names)] of additions.
    """

    names: Mapping[str, tuple[str, ...]]
    work_out: "Callable[[U64Array], U64Array]"


class Tender(Protocol):
    """What a worker does besides, for as long as it lives."""

    def after_sample(self) -> None:
        """A sample has been sent."""


@dataclass(frozen=True)
class Program:
    """A kernel program with its worker.

    rows: how many rows a table of kind `host` or `device` has; `slot` tables have one for each slot, those
    `by_cpu` one for each CPU, which belong together.
    table: the map that has the rows. row_words: u64 of one, 0 = the columns. first_column: those before them.
    names: names of the device rows to be shown now, by row, from the maps and the attached hooks' names.
    gauges: momentary values of the host, by name. ratios: of any entity, by name.
    maps: the maps that the worker reads, its own and the core program's.
    losses: events that were seen and could not be counted, running.
    of_time: whether its columns are time that has passed, and no number of events.
    numbers: of the running kernel, which the C text uses where they are known: the offset of
    `structure.field`, the value of `enumeration.MEMBER`. Each is a macro, STRUCTURE_FIELD, else not defined.
    parts: of a program whose hooks belong to parts that come and go (Hook.part), those wanted now.
    defines: constants of its C source that are its own. fill: map -> what its elements are at the start, by
    number; called when hooks are about to be attached. tender: made by each worker from its maps.
    companion: a second table of the same kernel objects, which the same worker reads. It is there where the
    hook of the companion's name is.
    """

    name: str
    source: str
    hooks: tuple[Hook, ...]
    columns: tuple[Column, ...]
    kind: RowKind = "slot"
    rows: int = 0
    by_cpu: bool = False
    row_words: int = 0
    first_column: int = 0
    table: str = "rows"
    maps: tuple[str, ...] = ("rows",)
    names: Callable[[Maps, frozenset[str]], Mapping[int, str]] | None = None
    gauges: Callable[[Maps], Mapping[str, int]] | None = None
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    derived: Derived | None = None
    losses: Callable[[Maps], int] | None = None
    prepare: Mapping[str, range] = field(default_factory=dict)  # queue map -> what it holds at the start
    parts: Callable[[], frozenset[str]] | None = None
    numbers: tuple[str, ...] = ()
    of_time: bool = False
    defines: Mapping[str, int] = field(default_factory=dict)
    fill: Mapping[str, Callable[[], Mapping[int, bytes]]] = field(default_factory=dict)
    tender: Callable[[Maps], Tender] | None = None
    companion: "Program | None" = None

    @property
    def charts(self) -> tuple[Chart, ...]:
        return read_charts(CHARTS / f"{self.name}.csv")

    @property
    def derived_names(self) -> tuple[str, ...]:
        return tuple(self.derived.names) if self.derived else ()

    @property
    def words(self) -> int:
        """u64 of one row in the kernel."""
        return self.row_words or len(self.columns)

    @functools.cached_property
    def totals(self) -> Mapping[str, int]:
        """Place of each running total of an entity, by name: the columns, then what is derived."""
        names = [*(column.name for column in self.columns), *self.derived_names]
        return {name: place for place, name in enumerate(names)}

    @functools.cached_property
    def of_events(self) -> list[int]:
        """Places of the columns that count events, and not how large they were."""
        sizes = ("_bytes", "_asked")
        return [n for n, column in enumerate(self.columns) if not column.name.endswith(sizes)]

    def running(self, dimension: Dimension) -> bool:
        """Whether it shows running totals, and not what is now."""
        return all(source in self.totals for source in dimension.sources)


@functools.cache
def read_charts(path: Path) -> tuple[Chart, ...]:
    """The table of one program. Raises ValueError for a line that is none."""
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(_chart(line) for line in csv.DictReader(file))


def _chart(line: Mapping[str, str]) -> Chart:
    scope, _, device = line["scope"].partition(" ")
    return Chart(
        scope=cast(Scope, scope),
        device=device,
        naming=cast(Naming, line["naming"]),
        id=line["id"],
        title=line["title"],
        units=line["units"],
        family=line["family"],
        context=line["context"],
        kind=line["kind"],
        priority=int(line["priority"].rstrip("+")),
        step=line["priority"].endswith("+"),
        module=line["module"],
        dimensions=tuple(d for text in line["dimensions"].split("; ") for d in _dimensions(text)),
    )


def _dimensions(text: str) -> list[Dimension]:
    if text.endswith(" *"):
        return [Dimension(label, label, (f"{text[:-2]} {label}",)) for label in LABELS]
    head, _, total = text.partition(" = ")
    identity, _, name = head.partition("/")
    found = _SUM.fullmatch(total)
    if not found:
        raise ValueError(f"no dimension: {text!r}")
    return [
        Dimension(
            identity,
            name,
            tuple(found["sources"].split("+")),
            -1 if found["minus"] else 1,
            int(found["times"] or 1),
            int(found["over"] or 1),
        )
    ]


def histogram(name: str, hook: str) -> tuple[Column, ...]:
    """The 24 columns of a histogram of latencies, in the order of LABELS."""
    return tuple(Column(f"{name} {label}", hook) for label in LABELS)
