"""What a configuration that is read again changes, key by key."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from supervisor.aggregator.apps_groups import AppsGroups, parse
from supervisor.aggregator.board import LEAVING
from supervisor.config.difference import Change, Effect, applied, differences, shared, summed_up
from supervisor.config.load import load
from supervisor.config.model import Config, ProgramConfig, Supervision
from supervisor.config.options import PROGRAMS
from supervisor.config.problems import Problem
from supervisor.reload import Plan, Refused, plan

# Attributes that no file decides alone, or that show at the programs.
NOT_COMPARED = {
    "programs",
    "supervision",
    "apps_groups_path",
    "agent_version",
    "internal_charts",
    "files",
}
DEFAULTS = {"update_every_s", "apps", "cgroups", "pid_table_size"}


def config(folder: Path, main: str = "", **modules: str) -> Config:
    (folder / "ebpf.d").mkdir(exist_ok=True)
    (folder / "ebpf.d.conf").write_text(main)
    for name, text in modules.items():
        (folder / "ebpf.d" / f"{name}.conf").write_text(text)
    found, problems = load([folder])
    assert problems == []
    return found


def compared(before: Config, after: Config) -> list[Change]:
    return differences(before, after, shared(before))


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, frozenset):
        return frozenset({"msync"})
    return value + 1 if isinstance(value, (int, float)) else f"not {value}"


def test_the_same_configuration_has_no_difference(tmp_path: Path) -> None:
    assert compared(config(tmp_path), config(tmp_path)) == []


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ProgramConfig) if f.name != "name"])
def test_no_setting_of_a_program_changes_unseen(tmp_path: Path, field: str) -> None:
    before = config(tmp_path)
    program = before.programs["sync"]
    changed = dataclasses.replace(program, **{field: other(getattr(program, field))})
    after = dataclasses.replace(before, programs={**before.programs, "sync": changed})
    found = compared(before, after)
    assert [change.field for change in found] == [field]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Config)])
def test_no_setting_of_all_changes_unseen(tmp_path: Path, field: str) -> None:
    before = config(tmp_path)
    if field not in NOT_COMPARED | DEFAULTS:
        after = dataclasses.replace(before, **{field: other(getattr(before, field))})
        assert [change.field for change in compared(before, after)] == [field]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Supervision)])
def test_no_setting_of_the_supervision_changes_unseen(tmp_path: Path, field: str) -> None:
    before = config(tmp_path)
    changed = dataclasses.replace(before.supervision, **{field: other(getattr(before.supervision, field))})
    found = compared(before, dataclasses.replace(before, supervision=changed))
    assert [change.key for change in found] == [f"[supervisor] {field}"]


@pytest.mark.parametrize(
    ("before", "after", "effect"),
    [
        ("", "[ebpf programs]\nfd = no\n", Effect.STOPS),
        ("[ebpf programs]\nfd = no\n", "", Effect.STARTS),
        ("", "[supervisor]\nmap reading = lookup\n", Effect.RESTART),
        ("", "[supervisor]\nchart naming = modern\n", Effect.SHOWN),
        ("", "[global]\npid table size = 65536\n", Effect.RESTART),
        ("[global]\ncgroups = no\n", "[global]\ncgroups = yes\n", Effect.RESTART),
        ("[global]\ncgroups = yes\n", "[global]\ncgroups = no\n", Effect.SHOWN),
    ],
)
def test_each_change_says_what_it_asks_for(tmp_path: Path, before: str, after: str, effect: Effect) -> None:
    found = compared(config(tmp_path, before), config(tmp_path, after))
    assert {change.effect for change in found} == {effect}


def test_a_smaller_table_of_one_program_has_no_effect_and_says_so(tmp_path: Path) -> None:
    before = config(tmp_path)
    after = config(tmp_path, fd="[global]\npid table size = 1024\n")
    [change] = compared(before, after)
    assert (change.program, change.effect) == ("fd", Effect.NOTHING)


def test_a_program_that_is_switched_on_may_want_a_larger_table_than_there_is(tmp_path: Path) -> None:
    wide = {"fd": "[global]\npid table size = 65536\n"}
    before = config(tmp_path, "[ebpf programs]\nfd = no\n", **wide)
    found = compared(before, config(tmp_path, "", **wide))
    assert [(change.key, change.effect) for change in found] == [
        ("[ebpf programs] fd", Effect.STARTS),
        ("pid table size", Effect.RESTART),
    ]


def test_what_cannot_be_applied_is_a_difference_the_next_time_too(tmp_path: Path) -> None:
    before = config(tmp_path)
    after = config(tmp_path, "[global]\nbtf path = /btf\npid table size = 65536\nupdate every = 2\n")
    made, changes = shared(before), compared(before, after)
    held = applied(before, after, changes)
    assert held.btf_path == before.btf_path
    assert held.programs["fd"].update_every_s == 2
    again = differences(held, after, made)
    assert again == [change for change in changes if change.effect is Effect.RESTART]


def test_the_same_change_of_all_programs_is_told_once(tmp_path: Path) -> None:
    found = compared(config(tmp_path), config(tmp_path, "[global]\nupdate every = 2\n"))
    assert len(found) == len(PROGRAMS)
    assert [(whom, change.key) for whom, change in summed_up(found, len(PROGRAMS))] == [
        ("all", "update every")
    ]
    assert [whom for whom, _ in summed_up(found[:2], len(PROGRAMS))] == ["process, socket"]


# ---- groups


def test_groups_keep_their_places_and_what_the_file_has_no_more_is_not_current() -> None:
    before = parse("a: x\nb: y\n")
    after = AppsGroups(parse("c: y\nb: z\n").words, before.names)
    assert after.names == ("a", "b", "other", "c")
    assert after.current == {1, 2, 3}
    assert after.match("y", str) == 3
    assert after.match("x", str) is None


def read_again(before: Config, after: Config, groups: AppsGroups, places: int) -> Plan:
    return plan(lambda: (after, []), before, groups, places, shared(before))


def test_more_groups_than_there_are_places_for_need_a_restart(tmp_path: Path) -> None:
    (tmp_path / "apps_groups.conf").write_text("a: x\nb: y\n")
    before, groups = config(tmp_path), parse("a: x\n")
    few = read_again(before, before, groups, 2)
    assert [change.effect for change in few.changes] == [Effect.RESTART]
    assert few.groups is groups
    enough = read_again(before, before, groups, 3)
    assert [change.effect for change in enough.changes] == [Effect.SHOWN]
    assert enough.groups.names == ("a", "other", "b")
    assert enough.leaving("fd") == LEAVING["apps"]


def test_one_error_refuses_all_and_warnings_do_not(tmp_path: Path) -> None:
    held, groups = config(tmp_path), parse("")
    path = tmp_path / "ebpf.d.conf"
    warning = Problem(path, 1, "global", "x", "unknown key", "warning")
    error = Problem(path, 2, "global", "apps", "expected yes or no", "error")
    (tmp_path / "apps_groups.conf").write_text("")
    assert len(plan(lambda: (held, [warning]), held, groups, 9, shared(held)).warnings) == 1
    with pytest.raises(Refused) as refused:
        plan(lambda: (held, [warning, error]), held, groups, 9, shared(held))
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["warning", "error"]


def test_connections_are_told_apart_as_before_until_the_supervisor_is_restarted(tmp_path: Path) -> None:
    """Their table and the lines of their charts are made at the start."""
    before = config(tmp_path)
    after = config(tmp_path, network="[network connections]\nports = 80\n")
    changes = compared(before, after)
    assert [(c.program, c.key, c.effect) for c in changes] == [
        ("socket", "[network connections]", Effect.RESTART)
    ]
    held = applied(before, after, changes)
    assert held.programs["socket"].connections == before.programs["socket"].connections
    off = compared(before, config(tmp_path, network="[network connections]\nenabled = no\n"))
    assert [(c.before, c.after) for c in off] == [("yes", "no")]
