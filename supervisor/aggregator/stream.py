"""Netdata's plugin protocol: the only module that writes its keywords.

Rules (netdata src/plugins.d/README.md and pluginsd_parser): one command a line; words are separated by
white space and `=`; a quoted word ends at the same quote and cannot hold it; an unknown keyword makes the
agent hang up, an unknown chart or dimension makes it disable the plugin.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

# Shorter than the shortest limit of any agent: 200 bytes for type.id up to v1.37, 1,024 for a line.
_ID_BYTES: Final = 120
_TEXT_BYTES: Final = 200
_NUMBER_BYTES: Final = 8  # what tells names apart that are cut to the same
_PLUGIN: Final = "ebpf.plugin"  # charts keep the model's plugin name, so that dashboards find them
_INT64_MASK: Final = (1 << 63) - 1

DISABLE: Final = b"DISABLE\n"


@dataclass(frozen=True, slots=True)
class DimensionLine:
    id: str
    name: str
    algorithm: str
    multiplier: int = 1


@dataclass(frozen=True, slots=True)
class ChartLine:
    """One chart as the agent is told of it; its id is `type.id`."""

    type: str
    id: str
    title: str
    units: str
    family: str
    context: str
    kind: str
    priority: int
    update_every_s: int
    module: str
    dimensions: tuple[DimensionLine, ...]
    label: tuple[str, str] | None = None  # name and value

    @property
    def full_id(self) -> str:
        return f"{self.type}.{self.id}"


def definition(chart: ChartLine, gone: Iterable[DimensionLine] = ()) -> bytes:
    """CHART, DIMENSION and CLABEL lines; sending them again is harmless. gone: dimensions that it had."""
    lines = [_chart(chart, "")]
    lines += [_dimension(dimension, "") for dimension in chart.dimensions]
    lines += [_dimension(dimension, " obsolete") for dimension in gone]
    if chart.label:
        # 1 = a label that was found, not configured.
        lines.append(f"CLABEL {_quoted(chart.label[0])} {_quoted(chart.label[1])} 1\nCLABEL_COMMIT\n")
    return "".join(lines).encode()


def withdrawal(chart: ChartLine) -> bytes:
    """The agent hides the chart; a definition brings it back."""
    return _chart(chart, "obsolete").encode()


def _chart(chart: ChartLine, option: str) -> str:
    return (
        f"CHART {chart.full_id} '' {_quoted(chart.title)} {_quoted(chart.units)} {_quoted(chart.family)} "
        f"{_quoted(chart.context)} {chart.kind} {chart.priority} {chart.update_every_s} '{option}' "
        f"{_quoted(_PLUGIN)} {_quoted(chart.module)}\n"
    )


def _dimension(dimension: DimensionLine, option: str) -> str:
    return (
        f"DIMENSION {_word(dimension.id)} {_word(dimension.name)} {dimension.algorithm} "
        f"{dimension.multiplier} 1{option}\n"
    )


def skeleton(charts: Iterable[ChartLine]) -> bytes:
    """The text of one collection of these charts with %d where each value belongs, in the order of charts and
    dimensions. (Bytes are filled in three times as fast as str is, and need not be encoded.)"""
    lines = []
    for chart in charts:
        lines.append(f"BEGIN {chart.full_id}\n".replace("%", "%%"))
        lines += ["SET {} = %d\n".format(_word(d.id).replace("%", "%%")) for d in chart.dimensions]
        lines.append("END\n")
    return "".join(lines).encode()


def collection(skeleton: bytes, values: Sequence[int]) -> bytes:
    """`skeleton` filled in. The agent reads int64: larger values are cut."""
    if max(values, default=0) > _INT64_MASK:
        values = [value & _INT64_MASK for value in values]
    return skeleton % tuple(values)


def clean_id(text: str) -> str:
    """An id that is safe as part of `type.id`: letters, digits, `_` and `-` stay, others become `_`."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in text)[:_ID_BYTES] or "_"


def clean_names(texts: Iterable[str]) -> list[str]:
    """Dimension ids that are safe in quotes, not empty and all different, in the order given."""
    taken: set[str] = set()
    names = []
    for text in texts:
        base = _cut(_safe(text), _TEXT_BYTES) or "_"
        name, number = base, 2
        while name in taken:
            name, number = f"{_cut(base, _TEXT_BYTES - _NUMBER_BYTES)}_{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def different(texts: Iterable[str]) -> list[str]:
    """The same, with a number behind those that another one before has."""
    taken: set[str] = set()
    names = []
    for text in texts:
        name, number = text, 2
        while name in taken:
            name, number = f"{text}_{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def _word(text: str) -> str:
    """The text as one word, in quotes where it needs them."""
    return text if text and not any(c.isspace() or c in "'\"\\=" for c in text) else _quoted(text)


def _quoted(text: str) -> str:
    return f"'{_cut(_safe(text), _TEXT_BYTES)}'"


def _safe(text: str) -> str:
    """Nothing that could end a quoted word or a line, or that is not text."""
    return "".join(c if c.isprintable() and c not in "'\"\\=" else "_" for c in text.strip())


def _cut(text: str, size: int) -> str:
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


class Frame:
    """The lines of one cycle, in blocks that each make sense alone: none is empty, and each begins a chart.

    changes: the charts that it defines (True) and withdraws (False), in order.
    """

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.changes: list[tuple[ChartLine, bool]] = []

    def define(self, chart: ChartLine, gone: Iterable[DimensionLine] = ()) -> None:
        self.blocks.append(definition(chart, gone))
        self.changes.append((chart, True))

    def withdraw(self, chart: ChartLine) -> None:
        self.blocks.append(withdrawal(chart))
        self.changes.append((chart, False))

    def add(self, collection: bytes) -> None:
        self.blocks.append(collection)

    def set(self, skeleton: bytes, values: Sequence[int]) -> None:
        if values:
            self.blocks.append(collection(skeleton, values))
