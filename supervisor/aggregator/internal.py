"""The plugin's charts about itself, under Netdata's own ids where it has them; every ten seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from supervisor.aggregator.board import CPU_MS, FACTS_EVERY_S, METHODS, Board
from supervisor.aggregator.stream import ChartLine, DimensionLine, Frame, skeleton

# The identity program's name among the others.
CORE: Final = "task"


@dataclass(frozen=True)
class Facts:
    """What the aggregator itself knows.

    slots, used_slots: of the identity table. births, ends: processes taken in and forgotten, running.
    events, unattributed: events of processes, and those of them in slot 0, running.
    """

    slots: int = 0
    used_slots: int = 0
    births: int = 0
    ends: int = 0
    events: int = 0
    unattributed: int = 0
    connections: "ConnectionFacts | None" = None


@dataclass(frozen=True)
class ConnectionFacts:
    """rows, used: of the kernel's table of connections. folded: calls that had no row in it, running."""

    rows: int
    used: int
    folded: int


Values = Callable[[Board, Facts], dict[str, int]]


@dataclass(frozen=True)
class _Chart:
    """source: values by dimension, or which words of the board: one for each program, and for the identities
    where it has them."""

    id: str
    title: str
    units: str
    priority: int
    module: str
    source: Values | str
    algorithm: Literal["absolute", "incremental"] = "absolute"
    kind: Literal["line", "stacked"] = "line"


def _methods(board: Board, facts: Facts) -> dict[str, int]:
    return {name: list(board.method).count(number) for number, name in METHODS.items()}


def _per_core(board: Board, facts: Facts) -> dict[str, int]:
    loaded = [
        bool(per_core)
        for generation, per_core in zip(board.attached, board.per_core, strict=True)
        if generation
    ]
    return {"per_core": loaded.count(True), "unique": loaded.count(False)}


def _unattributed(board: Board, facts: Facts) -> dict[str, int]:
    """In thousandths of a percent: a share that matters is a small one."""
    return {"unattributed": 100_000 * facts.unattributed // max(1, facts.events)}


def _connection_rows(board: Board, facts: Facts) -> dict[str, int]:
    of = facts.connections
    return {"used": of.used, "free": of.rows - of.used} if of else {}


def _connections_folded(board: Board, facts: Facts) -> dict[str, int]:
    return {"folded": facts.connections.folded} if facts.connections else {}


CHARTS: Final = (
    _Chart("ebpf_threads", "Threads running.", "boolean", 140000, "main", "running"),
    _Chart("ebpf_life_time", "Time remaining for thread.", "seconds", 140001, "main", "left_s"),
    _Chart("ebpf_load_methods", "Load info.", "methods", 140002, "process", _methods),
    _Chart(
        "ebpf_kernel_memory",
        "Memory allocated for hash tables.",
        "bytes",
        140003,
        "process",
        lambda board, facts: {"memory_locked": sum(board.kernel_bytes)},
    ),
    _Chart(
        "ebpf_hash_tables_count",
        "Number of hash tables loaded.",
        "hash tables",
        140004,
        "process",
        lambda board, facts: {"hash_table": sum(board.maps)},
    ),
    _Chart(
        "ebpf_hash_tables_per_core",
        "How threads are loading hash/array tables.",
        "threads",
        140005,
        "process",
        _per_core,
    ),
    _Chart(
        "ebpf_hash_tables_global_elements",
        "Controllers inside global table",
        "rows",
        140006,
        "process",
        "entries",
    ),
    _Chart(
        "ebpf_hash_tables_insert_pid_elements",
        "Processes that were given a row",
        "rows",
        140007,
        "process",
        lambda board, facts: {"task": facts.births},
        "incremental",
    ),
    _Chart(
        "ebpf_hash_tables_remove_pid_elements",
        "Processes whose row was taken back",
        "rows",
        140008,
        "process",
        lambda board, facts: {"task": facts.ends},
        "incremental",
    ),
    _Chart(
        "ebpf_process_table",
        "Rows for processes",
        "rows",
        140020,
        "main",
        lambda board, facts: {"used": facts.used_slots, "free": facts.slots - facts.used_slots},
        kind="stacked",
    ),
    _Chart(
        "ebpf_unattributed",
        "Events of no known process, in thousandths of a percent of all",
        "m%",
        140021,
        "main",
        _unattributed,
    ),
    _Chart(
        "ebpf_conservation",
        "Counters whose groups do not add up to the host's total",
        "counters",
        140024,
        "main",
        "apart",
    ),
    _Chart(
        "ebpf_connection_table",
        "Rows for connections",
        "rows",
        140034,
        "main",
        _connection_rows,
        kind="stacked",
    ),
    _Chart(
        "ebpf_connections_folded",
        "Calls on connections that have no row of their own",
        "calls/s",
        140035,
        "main",
        _connections_folded,
        "incremental",
    ),
    _Chart(
        "ebpf_missed_hits",
        "Hits of hooks that the kernel kept from their programs",
        "hits/s",
        140025,
        "main",
        "missed",
        "incremental",
    ),
    _Chart("ebpf_samples_dropped", "Samples dropped", "samples/s", 140022, "main", "lost", "incremental"),
    _Chart(
        "ebpf_cpu",
        "CPU time of all processes of the plugin",
        "milliseconds/s",
        140023,
        "main",
        lambda board, facts: {"cpu": int(board.progress[CPU_MS])},
        "incremental",
    ),
)


class InternalCharts:
    """programs: names, as the board has them."""

    def __init__(self, programs: Sequence[str], board: Board) -> None:
        self._programs = programs
        self._board = board
        self._lines: tuple[ChartLine, ...] = ()
        self._skeleton = b""
        self._known = False

    def write(self, frame: Frame, facts: Facts) -> None:
        charts = [chart for chart in CHARTS if self._values(chart, facts)]
        sets = [self._values(chart, facts) for chart in charts]
        if not self._known:
            self._lines = tuple(self._line(c, tuple(s)) for c, s in zip(charts, sets, strict=True))
            self._skeleton = skeleton(self._lines)
            for line in self._lines:
                frame.define(line)
        frame.set(self._skeleton, [value for values in sets for value in values.values()])

    def sent(self) -> None:
        self._known = True

    def _values(self, chart: _Chart, facts: Facts) -> dict[str, int]:
        if callable(chart.source):
            return chart.source(self._board, facts)
        words: list[int] = getattr(self._board, chart.source).tolist()
        return dict(zip((*self._programs, CORE)[: len(words)], words, strict=True))

    def _line(self, chart: _Chart, dimensions: tuple[str, ...]) -> ChartLine:
        return ChartLine(
            "netdata",
            chart.id,
            chart.title,
            chart.units,
            "ebpf",
            f"netdata.{chart.id}",
            chart.kind,
            chart.priority,
            FACTS_EVERY_S,
            chart.module,
            tuple(DimensionLine(name, "", chart.algorithm) for name in dimensions),
        )
