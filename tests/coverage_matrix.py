"""Makes docs/coverage.md of what the tests have noted: every column of every program, on every kernel, by
every kind of plan, in both modes: counted right, or unavailable with the reason. Fails for a cell that says
nothing.

    python -m tests.coverage_matrix FOLDER      the folder that EBPF_TEST_COVERAGE named
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.harness import ROOT
from workers.declaration import Column, Program
from workers.registry import all_programs

TARGET: Final = ROOT / "docs" / "coverage.md"
PLANS: Final = ("fentry", "kprobe", "tracepoint")
MODES: Final = ("entry", "return")

HEAD: Final = """\
# What is counted right, where

Made by the tests themselves (`make test-kernels`): each cell is a program run on that kernel, with that kind
of plan alone (`--attach`), in that load mode.

- **✓** a prime number of real events was made, and exactly that number was seen at the process or device that
  made them.
- **≈** exactness is impossible in principle; the note names the second source that was the judge, and its
  tolerance.
- **–** not to be had there; the note says why. The dimension is absent then, never 0.
- **?** not looked at, or not right when it was: nothing is claimed, and `make test-kernels` fails.

"""


@dataclass
class Cell:
    """What is known of one program on one kernel, by one kind of plan, in one mode."""

    counted: dict[str, str] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    unavailable: str = ""


Key = tuple[str, str, str, str]  # program, kernel, plan, mode


def read(folder: Path) -> dict[Key, Cell]:
    cells: dict[Key, Cell] = {}
    programs = all_programs()
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            note = json.loads(line)
            plan, mode = option(note["options"], "--attach"), option(note["options"], "--load-mode")
            both = same_in_both_modes(programs[note["program"]])
            for each in MODES if both else (mode or "entry",):
                take(cells.setdefault((note["program"], note["kernel"], plan, each), Cell()), note)
    return cells


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""


def take(cell: Cell, note: Mapping[str, Any]) -> None:
    for column in note.get("columns", ()):
        cell.counted[column] = note["how"]
    if "attached" in note:
        cell.attached, cell.reasons = note["attached"], note["reasons"]
        cell.unavailable = note["unavailable"]


class Notes:
    """Footnotes, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def shown(program: Program, cell: Cell | None, name: str, mode: str, notes: Notes) -> str:
    """Text of one cell, "" when nothing is known."""
    if cell is None:
        return ""
    if name in cell.counted:
        how = cell.counted[name]
        return "✓" if how == "exact" else f"≈ [{notes.number(how)}]"
    reason = lack(program, cell, name, mode)
    return f"– [{notes.number(reason)}]" if reason else ""


def lack(program: Program, cell: Cell, name: str, mode: str) -> str:
    """Why the column is not there, "" when it should be."""
    column = next((column for column in program.columns if column.name == name), None)
    if column is not None and column.return_mode_only and mode == "entry":
        return "counted in return mode only"
    if cell.unavailable and not cell.attached:
        return cell.unavailable
    if column is None:
        lacks = (lack(program, cell, source, mode) for source in sources(program, name))
        return next(filter(None, lacks), "")
    if column.hook in cell.reasons:
        return "; ".join(cell.reasons[column.hook])
    plan = cell.attached.get(column.hook, "")
    if column.plans and plan and plan not in column.plans:
        return f"by {', '.join(column.plans)} only; the plan here is {plan}"
    return ""


def sources(program: Program, name: str) -> tuple[str, ...]:
    """What something is worked out from."""
    if name in program.ratios:
        return (*program.ratios[name].part, *program.ratios[name].whole)
    return tuple(program.derived.names.get(name, ())) if program.derived else ()


def rows_of(program: Program) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The lines of a program's table: what they are called, and the columns that stand for them. A histogram
    is one line: its bins are all counted by one hook."""
    seen: set[str] = set()
    for column in program.columns:
        family = histogram_of(column)
        if family not in seen:
            seen.add(family)
            yield family, tuple(c.name for c in program.columns if histogram_of(c) == family)
    for name in (*program.derived_names, *program.ratios, *gauges_of(program)):
        yield name, (name,)


def gauges_of(program: Program) -> list[str]:
    """What charts show that is neither running nor a ratio."""
    momentary = (d.sources[0] for chart in program.charts for d in chart.dimensions if not program.running(d))
    return list(dict.fromkeys(name for name in momentary if name not in program.ratios))


def same_in_both_modes(program: Program) -> bool:
    """Whether the load mode changes nothing of the program: one run stands for both."""
    return all(hook.entry == hook.returning for hook in program.hooks)


def histogram_of(column: Column) -> str:
    name, _, label = column.name.rpartition(" ")
    return name if "->" in label else column.name


def table(program: Program, kernels: list[str], cells: Mapping[Key, Cell], empty: list[str]) -> Iterator[str]:
    notes = Notes()
    yield f"## {program.name}\n"
    heads = [f"{plan} {mode}" for plan in PLANS for mode in MODES]
    for kernel in kernels:
        yield f"| {kernel} | {' | '.join(heads)} |"
        yield f"| --- |{' --- |' * len(heads)}"
        for name, columns in rows_of(program):
            texts = []
            for plan in PLANS:
                for mode in MODES:
                    cell = cells.get((program.name, kernel, plan, mode))
                    found = [shown(program, cell, column, mode, notes) for column in columns]
                    text = best(found) or without_plan(program, columns[0], plan, mode, notes)
                    if not text:
                        empty.append(f"{program.name} {name}: {kernel}, {plan}, {mode}")
                    texts.append(text or "**?**")
            yield f"| {name} | {' | '.join(texts)} |"
        yield ""
    for number, text in enumerate(notes.texts, 1):
        yield f"{number}. {text}"
    yield ""


def without_plan(program: Program, name: str, family: str, mode: str, notes: Notes) -> str:
    """What the declaration alone says: that no plan of the family exists for it, on any kernel."""
    column = next((column for column in program.columns if column.name == name), None)
    if column is None:
        return ""
    hook = next(hook for hook in program.hooks if column.hook in (hook.name, hook.event))
    plans = hook.returning if mode == "return" else hook.entry
    if any(plan.family == family for plan in plans):
        return ""
    return f"– [{notes.number(hook.impossible or f'there is no {family} plan for it in {mode} mode')}]"


def best(found: Iterable[str]) -> str:
    """Of a histogram's bins one says what all are."""
    texts = list(found)
    return next((text for mark in "✓≈–" for text in texts if text.startswith(mark)), "")


def main() -> int:
    folder = Path(sys.argv[1])
    cells = read(folder)
    kernels = sorted({key[1] for key in cells}, key=version)
    empty: list[str] = []
    lines = [line for program in all_programs().values() for line in table(program, kernels, cells, empty)]
    TARGET.write_text(HEAD + "\n".join(lines).rstrip() + "\n", encoding="utf-8")
    for cell in empty:
        print(f"nothing is known of {cell}", file=sys.stderr)
    print(f"{TARGET}: {len(kernels)} kernels, {len(empty)} cells empty")
    return 1 if empty else 0


def version(release: str) -> list[int]:
    numbers = release.replace("-", ".").split(".")
    return [int(number) for number in numbers if number.isdigit()]


if __name__ == "__main__":
    sys.exit(main())
