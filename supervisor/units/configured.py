"""What the configuration makes of a program: its hooks, their plans, the rows of its counters."""

import dataclasses
from collections.abc import Mapping

from supervisor.config.model import ProgramConfig
from supervisor.kernel import cpus
from supervisor.kernel.plans import FAMILIES, Family, HookReport, Preference
from workers.declaration import Program

# `ebpf co-re tracing` in our words.
_TRACING: Mapping[str, Family] = {
    "trampoline": "fentry",
    "probe": "kprobe",
    "tracepoint": "tracepoint",
}


def shards(config: ProgramConfig) -> int:
    """Over how many rows `maps per core` spreads a process's counters: a power of two, one for each CPU."""
    return 1 << (cpus.possible() - 1).bit_length() if config.maps_per_core else 1


def preference(attach: str, config: ProgramConfig) -> Preference:
    """Which plans to use. The command line's word is the only family; of the configuration, `legacy` leaves
    trampolines out, and a tracing other than the default one is tried first."""
    only = [family for family in FAMILIES if family == attach]
    if only:
        return Preference(tuple(only))
    if config.type_format == "legacy":
        return Preference(("kprobe", "tracepoint"))
    return Preference(first=None if config.co_re_tracing == "trampoline" else _TRACING[config.co_re_tracing])


def switched_on(program: Program, without: frozenset[str]) -> Program:
    """The program with those hooks and parts only that its configuration file does not switch off."""
    there = program.parts
    return dataclasses.replace(
        program,
        hooks=tuple(hook for hook in program.hooks if without.isdisjoint((hook.name, hook.part))),
        parts=(lambda: there() - without) if there else None,
    )


def switched_off(program: Program, without: frozenset[str]) -> list[HookReport]:
    """What is said of the hooks that the configuration file switches off."""
    why = "the configuration switches it off"
    return [HookReport(hook.name, "", "", False, why) for hook in program.hooks if hook.name in without]
