"""Writes the made parts of docs/programs/<program>.md from the declarations, so that they cannot drift.

    python -m tests.program_pages          writes them

A page is prose with made parts between markers; what stands outside of them is left as it is.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from supervisor.config.options import MODULES, module_options
from supervisor.kernel.plans import Hook, Mode, Plan, Target
from tests.benchmarks import events, memory, report
from tests.harness import ROOT
from workers.declaration import Chart, Program
from workers.registry import all_programs

PAGES: Final = ROOT / "docs" / "programs"
_PART: Final = re.compile(r"<!-- made: (\w+) -->\n.*?<!-- end -->\n", re.DOTALL)
# What, in which section of docs/benchmarks.md, in the table whose first column has this head.
_MEASURED: Final = (
    ("one run of its kernel half", events.TITLE, "program"),
    ("memory of its maps in the kernel", memory.TITLE, "maps of"),
)
_SCOPES: Final = {
    "system": "host",
    "apps": "each app group",
    "cgroup": "each container",
    "services": "each systemd service",
    "device": "each device",
    "outbound": "each remote service",
    "inbound": "each port that is listened on",
}


def charts(program: Program) -> Iterator[str]:
    yield "| chart | of | shows | unit | load mode |"
    yield "| --- | --- | --- | --- | --- |"
    companion = program.companion.charts if program.companion else ()
    for chart in (*program.charts, *companion):
        scope = f"`{chart.device}`" if chart.device else _SCOPES[chart.scope]
        naming = {"both": "", "classic": " (up to v1.43)", "modern": " (v1.44 on)"}
        when = naming.get(chart.naming, f" ({chart.naming})")
        mode = "return" if _return_only(program, chart) else "both"
        yield f"| `{chart.id}`{when} | {scope} | {_dimensions(chart)} | {chart.units} | {mode} |"


def _dimensions(chart: Chart) -> str:
    names = [dimension.name or dimension.id for dimension in chart.dimensions]
    return chart.title if len(names) > 12 else f"{chart.title}: {', '.join(names)}"


def _return_only(program: Program, chart: Chart) -> bool:
    only = {column.name for column in program.columns if column.return_mode_only}
    return all(set(dimension.sources) & only for dimension in chart.dimensions)


def hooks(program: Program) -> Iterator[str]:
    """By hook and mode the plans in the order in which they are tried."""
    yield "| hook | load mode | plan | where |"
    yield "| --- | --- | --- | --- |"
    for hook in program.hooks:
        for mode in _modes(hook):
            for plan in hook.plans("return" if mode == "return" else "entry"):
                yield f"| {hook.name} | {mode} | {plan.mechanism} | {_where(plan)} |"
        if not hook.entry and not hook.returning:
            yield f"| {hook.name} | – | none | {getattr(hook, 'impossible', '') or 'no kernel offers it'} |"


def _modes(hook: Hook) -> tuple[Mode | str, ...]:
    return ("both",) if hook.entry == hook.returning else ("entry", "return")


def _where(plan: Plan) -> str:
    return ", ".join(f"`{_place(target)}`" for target in plan.targets)


def _place(target: Target) -> str:
    return f"{target.symbol} (where there is one)" if target.optional else target.symbol


def settings(program: Program) -> Iterator[str]:
    """The options that have an effect on the program."""
    module = MODULES[program.name]
    yield f"In `ebpf.d/{module.files[0]}`, over `ebpf.d.conf`:"
    yield ""
    for option in module_options(module).options:
        if option.used:
            yield f"- `[{option.section}] {option.key}`: {option.meaning}"


def overhead(program: Program) -> Iterator[str]:
    """What `make bench` has measured of it."""
    yield "| measured | |"
    yield "| --- | --- |"
    for what, heading, table in _MEASURED:
        for where, figure in _figures(heading, table, program.name):
            yield f"| {what}, {where} | {figure} |"
    yield ""
    yield "How, and on what: [benchmarks](../benchmarks.md)."


def _figures(heading: str, table: str, row: str) -> Iterator[tuple[str, str]]:
    """A row of a table of docs/benchmarks.md, each cell with its column's head. table: the first column's."""
    section = report.PATH.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    head: list[str] = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == table:
            head = cells
        elif head and cells[0] == row:
            yield from zip(head[1:], cells[1:], strict=True)
        elif not line:
            head = []


PARTS: Final[Mapping[str, Callable[[Program], Iterator[str]]]] = {
    "charts": charts,
    "hooks": hooks,
    "settings": settings,
    "overhead": overhead,
}


def page(program: Program, text: str) -> str:
    """The text with its made parts made anew."""

    def made(found: re.Match[str]) -> str:
        lines = "\n".join(PARTS[found[1]](program))
        return f"<!-- made: {found[1]} -->\n{lines}\n<!-- end -->\n"

    return _PART.sub(made, text)


def path_of(program: Program) -> Path:
    return PAGES / f"{program.name}.md"


def main() -> int:
    for program in all_programs().values():
        path = path_of(program)
        path.write_text(page(program, path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
