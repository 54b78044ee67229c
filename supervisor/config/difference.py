"""What a configuration that has been read again changes, and what has to be done about each change."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

from supervisor.config.kinds import Value, written
from supervisor.config.model import Config, ProgramConfig, Supervision
from supervisor.config.options import CONNECTIONS, MODULES, SUPERVISION, SWITCHES
from supervisor.config.problems import shown


class Effect(enum.Enum):
    """What a change asks for, in the words of the answer."""

    STARTS = "started"
    STOPS = "stopped"
    LOADED = "loaded anew"  # it is another kernel program
    SAMPLED = "sampled by a new worker"  # the kernel objects and their counts stay
    SHOWN = "shown from the next frame on"  # the aggregator's matter alone
    NOTED = "from now on"  # whoever needs it looks it up
    NOTHING = "no effect: the programs share a larger table"
    RESTART = "not applied: restart the supervisor"


@dataclass(frozen=True)
class Change:
    """One key that has another value now. program: whose, "" = of all. field: the attribute that holds it."""

    program: str
    key: str
    before: str
    after: str
    effect: Effect
    field: str = ""


@dataclass(frozen=True)
class Shared:
    """What is made once, for all programs together, when the supervisor starts.

    slots: processes that can be counted apart. threads: they have slots of their own. cgroups: it is known
    which one a process is in.
    """

    slots: int
    threads: bool
    cgroups: bool


def shared(config: Config) -> Shared:
    """What the programs of this configuration need in common."""
    enabled = [program for program in config.programs.values() if program.enabled]
    return Shared(
        max((program.pid_table_size for program in enabled), default=config.pid_table_size),
        any(program.collect_pid == "all" for program in enabled),
        any(program.cgroups for program in enabled),
    )


# Attribute of ProgramConfig, the key that it comes from, and what a change of it asks for.
_OF_PROGRAM: Final = (
    ("load_mode", "ebpf load mode", Effect.LOADED),
    ("type_format", "ebpf type format", Effect.LOADED),
    ("co_re_tracing", "ebpf co-re tracing", Effect.LOADED),
    ("maps_per_core", "maps per core", Effect.RESTART),  # tables are made at the start, as large as it says
    ("collect_pid", "collect pid", Effect.LOADED),
    ("update_every_s", "update every", Effect.SAMPLED),
    ("apps", "apps", Effect.SHOWN),
    ("cgroups", "cgroups", Effect.SHOWN),
    ("lifetime_s", "lifetime", Effect.NOTED),
)
# The same of Config. What holds for all programs by default shows at the programs.
_OF_ALL: Final = (
    ("btf_path", "btf path", Effect.RESTART),
    ("map_reading", "map reading", Effect.RESTART),
    ("kprobe_attach", "kprobe attach", Effect.RESTART),
    ("stream_group", "stream group", Effect.RESTART),
    ("modern_charts", "chart naming", Effect.SHOWN),
)
_SEPARATE_NAMES: Final = {True: "modern", False: "classic"}


def differences(before: Config, after: Config, made: Shared) -> list[Change]:
    """Everything that is different. made: what the running programs have in common."""
    need = shared(after)
    found = [
        change
        for name, config in after.programs.items()
        for change in _of_program(before.programs[name], config, made, need)
    ]
    if need.slots > made.slots and not any(change.field == "pid_table_size" for change in found):
        found.append(Change("", "pid table size", str(made.slots), str(need.slots), Effect.RESTART))
    for field, key, effect in _OF_ALL:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            found.append(Change("", key, _named(field, old), _named(field, new), effect, field))
    return [*found, *_of_supervision(before.supervision, after.supervision)]


def _of_program(before: ProgramConfig, after: ProgramConfig, made: Shared, need: Shared) -> Iterator[Change]:
    name = after.name
    if before.enabled != after.enabled:
        effect = Effect.STARTS if after.enabled else Effect.STOPS
        yield Change(
            name, f"[{SWITCHES}] {name}", written(before.enabled), written(after.enabled), effect, "enabled"
        )
    if before.pid_table_size != after.pid_table_size:
        effect = Effect.RESTART if need.slots != made.slots else Effect.NOTHING
        sizes = str(before.pid_table_size), str(after.pid_table_size)
        yield Change(name, "pid table size", *sizes, effect, "pid_table_size")
    for field, key, effect in _OF_PROGRAM:
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            cannot = (field == "cgroups" and new and not made.cgroups) or (
                field == "collect_pid" and new == "all" and not made.threads
            )
            yield Change(name, key, written(old), written(new), Effect.RESTART if cannot else effect, field)
    if before.connections != after.connections:
        told = "other settings" if before.connections and after.connections else ""
        words = [told or written(bool(config.connections)) for config in (before, after)]
        yield Change(name, f"[{CONNECTIONS}]", words[0], words[1], Effect.RESTART, "connections")
    yield from _of_hooks(before, after)


def _of_hooks(before: ProgramConfig, after: ProgramConfig) -> Iterator[Change]:
    """Of the switches of a program's own parts, such as `[syscalls] msync`."""
    for (section, key), members in MODULES[after.name].members.items():
        on = [not config.without.issuperset(members.split()) for config in (before, after)]
        if on[0] != on[1]:
            words = written(on[0]), written(on[1])
            yield Change(after.name, f"[{section}] {key}", *words, Effect.LOADED, "without")


def _of_supervision(before: Supervision, after: Supervision) -> Iterator[Change]:
    for field in fields(Supervision):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new:
            yield Change("", f"[{SUPERVISION}] {field.name}", written(old), written(new), Effect.NOTED)


def _named(field: str, value: Value) -> str:
    return _SEPARATE_NAMES[bool(value)] if field == "modern_charts" else shown(written(value))


def applied(before: Config, after: Config, changes: Iterable[Change]) -> Config:
    """The configuration that holds from now on: the new one, but for what a running supervisor cannot do."""
    programs: dict[str, ProgramConfig] = dict(after.programs)
    of_all: dict[str, Value] = {}
    for change in changes:
        if change.effect is not Effect.RESTART or not change.field:
            continue
        if change.program:
            kept = {change.field: getattr(before.programs[change.program], change.field)}
            programs[change.program] = replace(programs[change.program], **kept)
        else:
            of_all[change.field] = getattr(before, change.field)
    merged: Mapping[str, object] = {**of_all, "programs": programs}
    return replace(after, **merged)  # type: ignore[arg-type]


def summed_up(changes: Sequence[Change], programs: int) -> list[tuple[str, Change]]:
    """Each change once, with whom it concerns: names, or "all" where it is the same for that many."""
    concerned: dict[tuple[str, str, str, Effect], list[Change]] = {}
    for change in changes:
        same = (change.key, change.before, change.after, change.effect)
        concerned.setdefault(same, []).append(change)
    return [(_whom(alike, programs), alike[0]) for alike in concerned.values()]


def _whom(alike: Sequence[Change], programs: int) -> str:
    names = [change.program for change in alike if change.program]
    return ", ".join(names) if names and len(names) < programs else "all"
