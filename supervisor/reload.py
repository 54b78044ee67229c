"""Reading the configuration again: what is different, or why nothing of it can be taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.aggregator import apps_groups
from supervisor.aggregator.apps_groups import AppsGroups
from supervisor.aggregator.board import LEAVING
from supervisor.config.difference import Change, Effect, Shared, applied, differences, summed_up
from supervisor.config.model import Config
from supervisor.config.problems import Problem
from supervisor.errors import ConfigurationError

Reread = Callable[[], tuple[Config, list[Problem]]]

# Groups that apps_groups.conf may come to have while the supervisor runs, besides those of its start.
SPARE_GROUPS: Final = 256


@dataclass(frozen=True)
class Plan:
    """What is to hold from now on, and how it differs from what has held. warnings: what is no obstacle."""

    config: Config
    groups: AppsGroups
    changes: Sequence[Change]
    warnings: Sequence[str] = field(default_factory=tuple)

    def effects(self, program: str) -> frozenset[Effect]:
        """What is to be done about one program; "" asks for what concerns all."""
        return frozenset(change.effect for change in self.changes if change.program == program)

    @property
    def concerns_aggregator(self) -> bool:
        return any(change.effect in (Effect.SHOWN, Effect.SAMPLED) for change in self.changes)

    def leaving(self, program: str) -> int:
        """Which of the program's charts are to go, or to come under other names: bits of board.LEAVING."""
        bits = 0
        for change in self.changes:
            if change.effect is Effect.SHOWN and change.program in ("", program):
                bits |= _withdrawn(change)
        return bits

    def told(self, programs: int) -> list[dict[str, str]]:
        """The changes as plain values, each once."""
        return [
            {
                "programs": whom,
                "key": change.key,
                "from": change.before,
                "to": change.after,
                "effect": change.effect.value,
            }
            for whom, change in summed_up(self.changes, programs)
        ]


def _withdrawn(change: Change) -> int:
    if change.field == "modern_charts":
        return LEAVING["system"] | LEAVING["apps"] | LEAVING["cgroup"]
    if change.field == "groups":
        return LEAVING["apps"]
    if change.after == "no":
        return LEAVING["apps"] if change.field == "apps" else LEAVING["cgroup"]
    return 0


class Refused(ConfigurationError):
    """The configuration has errors; nothing of it is taken. problems: one line each, the warnings too."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("the configuration has errors; nothing has changed")
        self.problems = list(problems)


def plan(reread: Reread, config: Config, groups: AppsGroups, places: int, made: Shared) -> Plan:
    """Reads the files and compares. places: how many groups there can be. made: what the programs have in
    common. Raises Refused."""
    try:
        read, problems = reread()
    except ConfigurationError as error:
        raise Refused([f"error: {error}"]) from error
    told = [f"{problem.severity}: {problem}" for problem in problems]
    try:
        read_groups, of_groups = apps_groups.read(read.apps_groups_path)
    except OSError as error:
        raise Refused([*told, f"error: {read.apps_groups_path}: {error.strerror}"]) from error
    told += [f"warning: {problem}" for problem in of_groups]
    if any(problem.severity == "error" for problem in problems):
        raise Refused(told)
    changes = differences(config, read, made)
    held, new_groups = applied(config, read, changes), groups
    if read_groups.words != groups.words:
        continued = AppsGroups(read_groups.words, groups.names)
        fits = len(continued.names) <= places
        changes.append(_of_groups(groups, continued, Effect.SHOWN if fits else Effect.RESTART))
        new_groups = continued if fits else groups
    return Plan(held, new_groups, changes, told)


def _of_groups(before: AppsGroups, after: AppsGroups, effect: Effect) -> Change:
    return Change("", apps_groups.FILE, _size(before), _size(after), effect, "groups")


def _size(groups: AppsGroups) -> str:
    return f"{len(groups.words)} words, {len(groups.current)} groups"


def line(change: dict[str, Any]) -> str:
    """One change as the log tells it."""
    return f"{change['programs']}: {change['key']}: {change['from']} -> {change['to']}: {change['effect']}"
