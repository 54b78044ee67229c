"""Netdata's plugin protocol: the only module that writes its keywords.

Rules (netdata src/plugins.d/README.md and pluginsd_parser): one command a line; words are separated by
white space and `=`; a quoted word ends at the same quote and cannot hold it; an unknown keyword makes the
agent hang up, an unknown chart or dimension makes it disable the plugin.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

# Shorter than the shortest limit of any agent: 200 bytes for type.id up to v1.37, 1,024 for a line.
_ID_BYTES: Final = 120
_TEXT_BYTES: Final = 200
_NUMBER_BYTES: Final = 8  # what tells names apart that are cut to the same
_PLUGIN: Final = "ebpf.plugin"  # charts keep the model's plugin name, so that dashboards find them
_INT64_MASK: Final = (1 << 63) - 1

DISABLE: Final = b"DISABLE\n"


@dataclass(frozen=True)
class DimensionLine:
    id: str
    name: str
    algorithm: str


@dataclass(frozen=True)
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

    @property
    def full_id(self) -> str:
        return f"{self.type}.{self.id}"


def definition(chart: ChartLine) -> bytes:
    """CHART and DIMENSION lines; sending them again is harmless."""
    head = (
        f"CHART {chart.full_id} '' {_quoted(chart.title)} {_quoted(chart.units)} {_quoted(chart.family)} "
        f"{_quoted(chart.context)} {chart.kind} {chart.priority} {chart.update_every_s} '' "
        f"{_quoted(_PLUGIN)} {_quoted(chart.module)}\n"
    )
    lines = (
        f"DIMENSION {_word(dimension.id)} {_word(dimension.name)} {dimension.algorithm} 1 1\n"
        for dimension in chart.dimensions
    )
    return (head + "".join(lines)).encode()


def update(full_id: str, values: Iterable[tuple[str, int]]) -> bytes:
    """One collection of a chart: BEGIN, SET, END. Values are cut to what the agent reads, int64."""
    sets = "".join(f"SET {_word(identity)} = {value & _INT64_MASK}\n" for identity, value in values)
    return f"BEGIN {full_id}\n{sets}END\n".encode()


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
    """The lines of one cycle, in blocks that each make sense alone."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = []
        self.defines: dict[str, ChartLine] = {}

    def define(self, chart: ChartLine) -> None:
        self.blocks.append(definition(chart))
        self.defines[chart.full_id] = chart

    def set(self, chart: ChartLine, values: Mapping[str, int]) -> None:
        self.blocks.append(update(chart.full_id, values.items()))
