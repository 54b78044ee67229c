"""Single calls and types of file systems switched off by a program's configuration file."""

from pathlib import Path

import pytest

from supervisor.config.load import load
from supervisor.config.options import MODULES
from supervisor.kernel.plans import Hook, HookReport, function_plan
from supervisor.units.configured import switched_off, switched_on
from workers.declaration import Column, Program
from workers.registry import find

PLANS = (function_plan("kprobe", "f", "on_f"),)
PROGRAM = Program(
    name="p",
    source="p.bpf.c",
    hooks=(Hook("a", PLANS, PLANS), Hook("read", PLANS, PLANS, part="ext4")),
    columns=(Column("a", "a"),),
    parts=lambda: frozenset({"ext4", "xfs"}),
)


def without(tmp_path: Path, program: str, text: str) -> frozenset[str]:
    (tmp_path / "ebpf.d").mkdir()
    (tmp_path / "ebpf.d" / f"{program}.conf").write_text(text)
    config, problems = load([tmp_path])
    assert not problems
    return config.programs[program].without


def test_a_call_that_the_file_says_no_to_is_left_out(tmp_path: Path) -> None:
    assert without(tmp_path, "sync", "[syscalls]\nmsync = no\nsync = no\nfsync = yes\n") == {"msync", "sync"}


def test_without_a_word_about_it_nothing_is_left_out(tmp_path: Path) -> None:
    assert without(tmp_path, "shm", "[global]\nupdate every = 2\n") == frozenset()


@pytest.mark.parametrize("name", ["sync", "shm"])
def test_every_switch_of_a_call_is_for_a_hook_and_every_hook_has_one(name: str) -> None:
    assert set(MODULES[name].members.values()) == {hook.name for hook in find(name).hooks}


def test_switches_of_file_systems_are_for_their_parts() -> None:
    members = MODULES["filesystem"].members
    assert members["filesystem", "ext4dist"] == "ext4"
    parts = {part for names in members.values() for part in names.split()}
    assert parts == {hook.part for hook in find("filesystem").hooks}


def test_nfs_is_switched_off_whatever_its_version(tmp_path: Path) -> None:
    assert without(tmp_path, "filesystem", "[filesystem]\nnfsdist = no\n") == {"nfs", "nfs4"}


def test_a_hook_is_switched_off_by_its_name_or_with_its_part() -> None:
    assert switched_on(PROGRAM, frozenset()).hooks == PROGRAM.hooks
    assert [hook.name for hook in switched_on(PROGRAM, frozenset({"a"})).hooks] == ["read"]
    assert [hook.name for hook in switched_on(PROGRAM, frozenset({"ext4"})).hooks] == ["a"]


def test_a_part_that_is_switched_off_is_never_wanted() -> None:
    parts = switched_on(PROGRAM, frozenset({"ext4"})).parts
    assert parts
    assert parts() == {"xfs"}


def test_what_is_switched_off_is_told_with_the_reason() -> None:
    why = "the configuration switches it off"
    assert switched_off(PROGRAM, frozenset({"a"})) == [HookReport("a", "", "", False, why)]
