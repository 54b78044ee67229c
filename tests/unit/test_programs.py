"""Every program is whole: its C source, its declaration and its configuration file say the same."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from supervisor.aggregator.charts import shown
from supervisor.config.options import MODULES, PROGRAMS
from supervisor.kernel import identities
from supervisor.kernel.arrays import TASK
from supervisor.kernel.plans import FAMILY, Hook, Mode, Plan, Target, function_name, glue
from supervisor.kernel.source import expand
from tests.harness import ROOT
from workers import registry
from workers.declaration import GROUP, Program

CORE_MAPS = {"slot_of_pid", "task", "words"}
MODES: tuple[Mode, ...] = get_args(Mode)
PROGRAMS_THERE = [registry.find(name) for name in PROGRAMS]
programs = pytest.mark.parametrize("program", PROGRAMS_THERE, ids=lambda program: program.name)
slot_programs = pytest.mark.parametrize(
    "program", [p for p in PROGRAMS_THERE if p.kind == "slot"], ids=lambda program: program.name
)


def source_of(program: Program) -> str:
    """The C text that is compiled: the program's, with its headers."""
    return expand(ROOT / "kernel_progs" / program.source)


def hooks_targets(hooks: tuple[Hook, ...], mode: Mode) -> Iterator[tuple[Hook, Plan, Target]]:
    for hook in hooks:
        for plan in hook.plans(mode):
            for target in plan.targets:
                yield hook, plan, target


def all_targets(program: Program) -> list[tuple[Hook, Plan, Target]]:
    return [found for mode in MODES for found in hooks_targets(program.hooks, mode)]


def test_the_programs_are_different() -> None:
    assert len(set(PROGRAMS)) == len(PROGRAMS)
    assert list(registry.all_programs()) == list(PROGRAMS)


@programs
def test_a_program_has_its_files_under_its_own_name(program: Program) -> None:
    assert registry.find(program.name) is program
    assert program.source == f"{program.name}.bpf.c"
    for path in (
        f"kernel_progs/{program.name}.bpf.c",
        f"conf/ebpf.d/{MODULES[program.name].files[0]}",
        f"workers/{program.name}.py",
    ):
        assert (ROOT / path).is_file(), path


def test_no_file_is_without_its_program() -> None:
    modules = {path.stem for path in (ROOT / "workers").glob("*.py")}
    declared = {name for name in modules if hasattr(importlib.import_module(f"workers.{name}"), "PROGRAM")}
    sources = {path.name for path in (ROOT / "kernel_progs").glob("*.bpf.c")}
    conf = {path.stem for path in (ROOT / "conf" / "ebpf.d").glob("*.conf")}
    assert declared == set(PROGRAMS)
    assert sources == {identities.SOURCE, *(f"{name}.bpf.c" for name in PROGRAMS)}
    assert conf == {Path(MODULES[name].files[0]).stem for name in PROGRAMS}


@programs
def test_every_column_belongs_to_a_hook_that_exists(program: Program) -> None:
    assert {column.hook for column in program.columns} <= {hook.event for hook in program.hooks}
    names = [column.name for column in program.columns]
    assert len(set(names)) == len(names) > 0


@programs
def test_hooks_have_names_and_plans_of_their_own(program: Program) -> None:
    names = [hook.name for hook in program.hooks]
    assert len(set(names)) == len(names) > 0
    for hook in program.hooks:
        assert hook.returning or hook.impossible, f"{hook.name}: return mode has all hooks"
        for plan in (*hook.entry, *hook.returning):
            assert plan.mechanism in FAMILY
            assert plan.targets, hook.name
            assert not all(target.optional for target in plan.targets), f"{hook.name}: a plan of nothing"


@programs
def test_a_column_of_entry_mode_has_a_hook_in_entry_mode(program: Program) -> None:
    in_entry_mode = {hook.event for hook in program.hooks if hook.entry or hook.impossible}
    for column in program.columns:
        assert column.return_mode_only or column.hook in in_entry_mode, column.name


@programs
def test_what_the_start_makes_to_try_a_hook_shows_in_a_column_of_that_hook(program: Program) -> None:
    for hook in program.hooks:
        if hook.exercise:
            assert hook.map in program.maps
            columns = program.columns[hook.column : hook.column + hook.width]
            assert {column.hook for column in columns} == {hook.event}


@programs
def test_tracepoints_are_named_with_their_category_and_functions_without(program: Program) -> None:
    for _, plan, target in all_targets(program):
        parts = target.symbol.split(":")
        tracepoint = FAMILY[plan.mechanism_of(target)] == "tracepoint"
        assert len(parts) == (2 if tracepoint else 1), target.symbol
        assert all(re.fullmatch(r"\w+(\.\*)?", part) for part in parts), target.symbol


@programs
def test_every_handler_exists_in_the_source(program: Program) -> None:
    source = source_of(program)
    for _, _, target in all_targets(program):
        assert re.search(rf"\b{target.handler}\(", source), target.handler


@programs
def test_no_handler_of_the_source_is_left_unused(program: Program) -> None:
    text = (ROOT / "kernel_progs" / program.source).read_text()
    defined = set(re.findall(r"^static __always_inline int (on_\w+)\(", text, re.MULTILINE))
    glued = {target.handler for _, _, target in all_targets(program)}
    called = {name for name in defined if len(re.findall(rf"\b{name}\(", text)) > 1}
    assert defined == (glued | called) & defined


@programs
def test_the_handler_is_called_with_as_many_arguments_as_it_takes(program: Program) -> None:
    source = source_of(program)
    for _, _, target in all_targets(program):
        found = re.search(rf"\bint {target.handler}\(([^)]*)\)", source)
        assert found, target.handler
        taken = 0 if found[1] == "void" else len(found[1].split(","))
        assert len(outer_arguments(target.arguments)) == taken, f"{target.handler} at {target.symbol}"


def outer_arguments(text: str) -> list[str]:
    """The arguments of a call: commas within parentheses separate those of another one."""
    depth, arguments = 0, [""]
    for char in text:
        depth += (char in "([") - (char in ")]")
        if char == "," and not depth:
            arguments.append("")
        else:
            arguments[-1] += char
    return [argument for argument in arguments if argument.strip()]


@programs
@pytest.mark.parametrize("mode", MODES)
def test_generated_functions_are_c_and_have_a_name_each(program: Program, mode: Mode) -> None:
    for part in {hook.part for hook in program.hooks}:  # each is compiled by itself
        hooks = tuple(hook for hook in program.hooks if hook.part == part)
        # Plans of a hook that have a target in common have its function in common.
        names = {glue(*target): function_name(*target) for target in hooks_targets(hooks, mode)}
        assert all(name.isidentifier() and name.isascii() for name in names.values())
        assert len(set(names.values())) == len(names)
        for text in names:
            assert text.count("(") == text.count(")")


@slot_programs
def test_the_columns_stand_in_the_order_of_the_source(program: Program) -> None:
    found = re.search(r"enum column \{([^}]*)\}", source_of(program))
    assert found, "enum column"
    in_source = [name.strip().lower() for name in found[1].split(",") if name.strip()]
    assert in_source == [column.name for column in program.columns]


@slot_programs
def test_a_slot_programs_row_has_room_for_its_columns_and_lies_well_in_cache_lines(program: Program) -> None:
    found = re.search(r"#define ROW_COLUMNS (\d+)", source_of(program))
    assert found
    assert int(found[1]) >= len(program.columns)
    # 18 of socket lie across one line more than they must, for a megabyte and a half less.
    assert int(found[1]) in (1, 2, 4, 8, 16, 18)


@programs
def test_the_maps_that_the_worker_reads_exist_and_are_made_to_be_read(program: Program) -> None:
    tables = re.findall(r"^BPF_(?:F_TABLE|TABLE_PINNED)\((.*)\);", source_of(program), re.MULTILINE)
    words = [[word.strip() for word in table.split(",")] for table in tables]
    own = {name for _, _, _, name, *_, flags in words if "MAP_FLAGS" in flags}
    assert set(program.maps) <= own | CORE_MAPS


@programs
def test_the_queues_that_are_filled_at_the_start_exist(program: Program) -> None:
    for queue in program.prepare:
        assert re.search(rf"BPF_QUEUE\({queue},", source_of(program)), queue


@programs
def test_a_program_of_devices_names_its_rows(program: Program) -> None:
    assert (program.kind == "device") == (program.names is not None)
    assert (program.kind == "slot") == (program.rows == 0)
    assert program.table in program.maps


@programs
def test_rows_are_read_as_the_source_lays_them_out(program: Program) -> None:
    """A row that is wider than its columns is so in the source too."""
    found = re.search(r"#define ROW_COLUMNS (\d+)", source_of(program))
    assert program.first_column + len(program.columns) <= program.words
    if program.table == "rows":
        assert found
        assert program.words == int(found[1])


@programs
def test_every_dimension_shows_totals_that_exist_or_one_gauge_or_ratio(program: Program) -> None:
    for chart in program.charts:
        assert chart.dimensions, chart.id
        for dimension in chart.dimensions:
            if not program.running(dimension):
                (source,) = dimension.sources
                assert source in program.ratios or (program.gauges and chart.scope == "system"), chart.id


@programs
def test_every_column_is_shown_somewhere(program: Program) -> None:
    shown = {
        source for chart in program.charts for dimension in chart.dimensions for source in dimension.sources
    }
    # What is worked out is shown in place of what it is worked out of.
    columns = {column.name for column in program.columns}
    assert columns <= shown or program.derived
    assert set(program.derived_names) <= shown


@programs
def test_charts_fit_the_kind_of_their_program(program: Program) -> None:
    scopes = {
        "slot": {"system", "apps", "cgroup", "services"},
        "host": {"system"},
        "device": {"device"},
    }
    for chart in program.charts:
        assert chart.scope in scopes[program.kind], chart.id
        ids = [dimension.id for dimension in chart.dimensions]
        assert len(set(ids)) == len(ids)
        assert all(ids)
        assert chart.by_group or chart.scope == "system" or GROUP in "".join(ids) or chart.device, chart.id


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("agent", [(1, 41), (1, 43), (2, 10)])
def test_no_two_charts_have_one_id(modern: bool, agent: tuple[int, int]) -> None:
    """But for those of which only one can be there: its columns exclude the other's."""
    ids = [
        (chart.id, frozenset(source for d in chart.dimensions for source in d.sources))
        for program in registry.all_programs().values()
        for chart in program.charts
        if shown(chart.naming, modern, agent) and "asked for" not in chart.title
    ]
    assert sorted(id for id, _ in ids) == sorted({id for id, _ in ids})


def test_the_core_programs_handlers_exist_too() -> None:
    source = expand(ROOT / "kernel_progs" / identities.SOURCE)
    for _, _, target in hooks_targets(identities.HOOKS, "entry"):
        assert re.search(rf"\bint {target.handler}\(", source), target.handler


def test_identities_are_read_as_the_source_lays_them_out() -> None:
    source = expand(ROOT / "kernel_progs" / identities.SOURCE)
    found = re.search(r"struct task \{(.*?)\};", source, re.DOTALL)
    assert found
    fields = re.findall(r"^\s*(?:u16|u32|u64|char) (\w+)", found[1], re.MULTILINE)
    assert list(TASK.names or ()) == fields
    sizes = re.findall(r"^\s*(u16|u32|u64|char)", found[1], re.MULTILINE)
    assert [TASK[name].itemsize for name in fields] == [
        {"u16": 2, "u32": 4, "u64": 8, "char": 16}[size] for size in sizes
    ]
