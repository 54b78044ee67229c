"""Writes docs/benchmarks.md. A section that was not measured this time stays as it was."""

import datetime
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.figures import Goal, Section, Table
from tests.harness import ROOT

PATH: Final = ROOT / "docs" / "benchmarks.md"

_LINE: Final = 110

_HEAD: Final = """\
# Benchmarks

Written by `make bench`; what one of its parts measures replaces that part's section. The figures are of the
kernel and the day that each section names. Speeds are compared within one run only.
"""


def write(sections: Iterable[Section], titles: Sequence[str], command: str, path: Path = PATH) -> None:
    """Puts the sections into the document, in the order of `titles`."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    texts = _read(path)
    texts.update({section.title: _render(section, command, today) for section in sections})
    path.write_text("\n".join([_HEAD, *(texts[title] for title in titles if title in texts)]))


def _read(path: Path) -> dict[str, str]:
    """The sections that are there, by title."""
    if not path.exists():
        return {}
    parts = re.split(r"^(?=## )", path.read_text(), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.rstrip("\n") + "\n" for part in parts}


def _render(section: Section, command: str, today: str) -> str:
    lines = [f"## {section.title}", "", f"`{command}` · {' · '.join(section.kernels)} · {today}", ""]
    lines += [*textwrap.wrap(section.meaning, _LINE, break_on_hyphens=False), ""]
    if section.goals:
        lines += [*_table(_goals(section.goals)), ""]
    for table in section.tables:
        lines += [*_table(table), ""]
    lines += [f"Left out: {reason}\n" for reason in section.left_out]
    return "\n".join(lines)


def _goals(goals: Sequence[Goal]) -> Table:
    rows = [(goal.what, goal.goal, goal.measured, "met" if goal.met else "**not met**") for goal in goals]
    return Table(("figure", "goal", "measured", ""), rows)


def _table(table: Table) -> Iterator[str]:
    yield _row(table.columns)
    yield _row(["---"] * len(table.columns))
    for row in table.rows:
        yield _row(row)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
