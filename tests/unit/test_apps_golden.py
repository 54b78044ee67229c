"""The golden cases of apps_groups.conf: tests/data/apps_groups.golden, which says how to read it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from supervisor.aggregator.apps_groups import AppsGroups, parse
from supervisor.aggregator.process_tree import ProcessTree

GOLDEN = Path(__file__).parents[1] / "data" / "apps_groups.golden"
ENOUGH = 300
LONE_PID = 1000

_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|[tr\\])")
_PLAIN = {b"t": b"\t", b"r": b"\r", b"\\": b"\\"}
_STEP = re.compile(
    r"(?:(?P<verb>end|rename) (?=\d))?(?:(?P<pid>\d+)(?: < (?P<ppid>\d+))?(?: |$))?"
    r"(?P<name>.*?)(?: :: (?P<cmdline>.*?))?(?:(?: |(?<= ))=> (?P<group>.*))?"
)


@dataclass
class World:
    """One file and the steps of what happens under it, each with its line number."""

    title: str
    file: list[str] = field(default_factory=list)
    steps: list[tuple[int, str]] = field(default_factory=list)


def unescaped(line: bytes) -> str:
    def byte(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code[1:], 16)]) if code.startswith(b"x") else _PLAIN[code]

    return _ESCAPE.sub(byte, line).decode("utf-8", "surrogateescape")


def worlds() -> list[World]:
    found: list[World] = []
    for number, raw in enumerate(GOLDEN.read_bytes().split(b"\n"), 1):
        line = unescaped(raw)
        if line.startswith("== "):
            found.append(World(line[3:]))
        elif found and line.startswith("|"):
            found[-1].file.append(line[2:])
        elif found and line:
            found[-1].steps.append((number, line))
    return found


WORLDS = worlds()


class Host:
    """The processes of one world. A process of its own pid is a family's; others come and go."""

    def __init__(self, groups: AppsGroups) -> None:
        self.groups = groups
        self.cmdline: dict[int, str] = {}
        self.tree = ProcessTree(groups, lambda pid: self.cmdline[pid])

    def take(self, step: "re.Match[str]") -> str | None:
        """Does what the step says; the group that its process has then, None for one that has ended."""
        pid = int(step["pid"] or LONE_PID)
        if step["verb"] == "end":
            self.tree.ended(pid)
            return None
        if step["name"]:
            self.cmdline[pid] = step["cmdline"] or ""
        if step["verb"] == "rename":
            self.tree.renamed(pid, step["name"])
        elif step["name"]:
            self.tree.born(pid, pid, int(step["ppid"] or 1), step["name"])
        return self.groups.names[self.tree.group_of(pid)]


def played(world: World) -> Iterator[tuple[str, str, str]]:
    """Where, what was expected and what came, of each step that expects something."""
    host = Host(parse("\n".join(world.file)))
    for number, line in world.steps:
        step = _STEP.fullmatch(line)
        assert step, f"{GOLDEN.name}:{number}: {line!r} is no step"
        group = host.take(step)
        if step["group"]:
            yield f"{GOLDEN.name}:{number}: {line}", step["group"], str(group)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.title)
def test_every_process_lands_in_the_group_that_the_documentation_says(world: World) -> None:
    wrong = [f"{where}, not {group}" for where, expected, group in played(world) if group != expected]
    assert not wrong, "\n".join(wrong)


def test_there_are_as_many_cases_as_were_asked_for() -> None:
    assert sum(len(list(played(world))) for world in WORLDS) >= ENOUGH
