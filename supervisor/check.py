"""`ebpf-supervisor check`: can this machine do it, and what mends what it cannot. Every program is really
loaded, by its own loader, and let go of again."""

import json
import os
import socket
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from supervisor import colours, doctor, facts, kprobe_events, logs, spawn, status_table
from supervisor.doctor import Finding
from supervisor.errors import SupervisorError
from supervisor.kernel import cgroup_hierarchy, cpus, handover, identities, loader, reading
from supervisor.kernel.handover import Loaded
from supervisor.kernel.plans import FAMILY, Hook, HookReport, Preference
from supervisor.kernel.reasons import NOT_THERE, lacking
from supervisor.kernel.request import Request
from supervisor.status_table import SCREEN
from workers.declaration import Program
from workers.registry import all_programs

_SLOTS = 1024
_LOADER_S = 60.0
_NOTHING_HELPS: Final = "nothing: no function and no tracepoint of this kernel offers it"


def check(*, as_json: bool) -> int:
    """Prints the answer; 0 when every program has a plan for all its hooks, else 1.

    Types of file systems that are not mounted, md arrays that are not there, and events that no Linux has are
    no fault.
    """
    logs.for_supervisor("error")
    machine = facts.gather()
    programs = _programs()
    found = doctor.findings(replace(machine, refused=_refused(programs)))
    for program in programs:
        program |= _remedy(all_programs()[program["name"]], program, found)
    answer = {
        "kernel": machine.release,
        "features": [{**asdict(finding), "present": finding.present} for finding in found],
        "lockdown": {
            mode: {"forbids": forbids, "means": means, "now": mode == machine.lockdown}
            for mode, (forbids, means) in doctor.LOCKDOWN.items()
        },
        "programs": programs,
    }
    if as_json:
        print(json.dumps(answer, indent=1), flush=True)
    else:
        text = _text(answer, found)
        print(colours.painted(text) if colours.wanted(sys.stdout) else text, flush=True)
    return 0 if all(program["available"] for program in programs) else 1


def _refused(programs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By family of hooks: "" when one of it could be attached, else what it was refused with."""
    told: dict[str, str] = {}
    for program in programs:
        for hook in program["hooks"]:
            family = FAMILY.get(hook["plan"])
            if family is None or (hook["reason"] in (NOT_THERE, "") and not hook["attached"]):
                continue
            if hook["attached"] or family not in told:
                told[family] = hook["reason"]
    return told


def _remedy(program: Program, answer: Mapping[str, Any], found: Sequence[Finding]) -> dict[str, str]:
    """What the lack of hooks costs, and what mends it."""
    if answer["available"]:
        return {"costs": "", "fix": ""}
    attached = {hook["hook"] for hook in answer["hooks"] if hook["attached"]}
    parts = program.parts() if program.parts else {""}
    missing = [h for h in program.hooks if h.part in parts and not h.impossible and h.name not in attached]
    families = {plan.family for hook in missing for plan in hook.returning}
    fix = doctor.mending(families, found) or _NOTHING_HELPS
    return {"costs": ", ".join(dict.fromkeys(lost_charts(program, missing))), "fix": fix}


def lost_charts(program: Program, missing: Sequence[Hook]) -> Iterator[str]:
    """Ids of the charts of host and devices that there are not without these hooks; of a chart that lacks
    some of its dimensions, these behind a colon."""
    for chart in program.charts:
        events = {hook.event for hook in missing if not chart.device or hook.part in ("", chart.device)}
        given = _given(program, events)
        known = {*program.totals, *program.ratios}
        lost = [d.name for d in chart.dimensions if not given.issuperset(known.intersection(d.sources))]
        if lost and chart.scope in ("system", "device"):
            yield chart.id if len(lost) == len(chart.dimensions) else f"{chart.id}: {' '.join(lost)}"


def _given(program: Program, missing: set[str]) -> set[str]:
    """What there is without these events: columns, and what is worked out of them."""
    given = {column.name for column in program.columns if column.hook not in missing}
    derived = program.derived.names if program.derived else {}
    given |= {name for name, needed in derived.items() if given.issuperset(needed)}
    return given | {
        name
        for name, ratio in program.ratios.items()
        if given.issuperset((*ratio.part, *ratio.less, *ratio.whole))
    }


def _programs() -> list[dict[str, Any]]:
    found, _ = reading.find("auto", spawn.find_account(None))
    made = identities.defines(_SLOTS, str(loader.PINS), cpus.possible(), found.map_flags)
    defines = {**made, "SHARDS": 1}
    mark = kprobe_events.tag(Path("/check"))
    core = _load("task", identities.request(_SLOTS, cgroup_hierarchy.find(), defines, Preference(), mark))
    try:
        return [_program(program, core, defines, mark) for program in all_programs().values()]
    finally:
        core.close()
        kprobe_events.clean(mark)


def _program(program: Program, core: Loaded, defines: dict[str, str | int], mark: str) -> dict[str, Any]:
    """Both modes together, since return mode has all hooks; of a program with parts, those wanted now."""
    parts = program.parts() if program.parts else {""}
    hooks = tuple(hook for hook in program.hooks if hook.part in parts)
    if not hooks:
        nothing = "there is nothing for it to watch now"
        return {"name": program.name, "available": True, "reason": nothing, "hooks": []}
    shared = {}
    if program.kind == "slot":
        if "slot_of_pid" not in core.maps:
            reason = core.error or lacking(core.hooks)
            return {"name": program.name, "available": False, "reason": reason, "hooks": []}
        shared = {name: core.maps[name] for name in ("slot_of_pid", "task")}
    constants = {**defines, **program.defines}
    request = Request(
        program.source, hooks, "return", Preference(), constants, shared, mark, numbers=program.numbers
    )
    loaded = _load(program.name, request)
    possible = [hook.name for hook in hooks if not hook.impossible]
    hooks_told = [hook.told() for hook in loaded.hooks]
    reason = loaded.error or _missing(possible, loaded.hooks)
    loaded.close()
    return {"name": program.name, "available": not reason, "reason": reason, "hooks": hooks_told}


def _missing(wanted: list[str], hooks: list[HookReport]) -> str:
    """What a program is to do without, and why; "" where it has all it wants."""
    attached = {hook.hook for hook in hooks if hook.attached}
    missing = [name for name in wanted if name not in attached]
    if not missing:
        return ""
    why = lacking([hook for hook in hooks if hook.hook in missing])
    return f"without {', '.join(missing)}: {why}" if attached else f"no hook: {why}"


def _load(name: str, request: Request) -> Loaded:
    ours, theirs = spawn.socket_pair(socket.SOCK_SEQPACKET)
    keep = {theirs.fileno(), *(held.fd for held in request.shared.values())}
    child = spawn.spawn(f"loader {name}", lambda: loader.run(theirs, request), keep, None, "error")
    theirs.close()
    ours.settimeout(_LOADER_S)
    try:
        loaded = handover.receive(ours)
    except (SupervisorError, OSError) as error:
        loaded = Loaded(error=f"the loader did not answer: {error}")
    finally:
        ours.close()
        os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
        child.reap()
        child.close()
    return loaded or Loaded(error="the loader ended without a word")


def _text(answer: Mapping[str, Any], found: Sequence[Finding]) -> str:
    width = max(len(finding.name) for finding in found)
    lines = [f"kernel {answer['kernel']}", ""]
    for finding in found:
        lines += _told(finding.mark, finding.name, width, finding.found, finding.costs, finding.fix)
    lines += ["", "lockdown (the mode of this kernel has a star):"]
    for mode, said in answer["lockdown"].items():
        text = f"forbids {said['forbids']}; {said['means']}"
        lines += _wrapped(f"  {'*' if said['now'] else ' '} {mode:<15}  ", text)
    lines.append("")
    for program in answer["programs"]:
        some = any(hook["attached"] for hook in program["hooks"])
        mark = "yes" if program["available"] else "part" if some else "no"
        lines += _told(mark, program["name"], width, program["reason"], program["costs"], program["fix"])
    return "\n".join(lines) + "\n" + status_table.hooks_table(answer["programs"])


def _told(mark: str, name: str, width: int, found: str, costs: str, fix: str) -> Iterator[str]:
    """A line for a thing, and below it what its lack costs and what mends it."""
    yield from _wrapped(f"  {mark:<4}  {name:<{width}}  ", found)
    indent = " " * (width + 10)
    if costs:
        yield from _wrapped(f"{indent}costs: ", costs)
    if fix:
        yield from _wrapped(f"{indent}mend:  ", fix)


def _wrapped(head: str, text: str) -> list[str]:
    """The text behind the head, its further lines below its first one."""
    lines = textwrap.wrap(text, SCREEN - len(head), break_on_hyphens=False, break_long_words=False)
    first, *further = lines or [""]
    return [f"{head}{first}".rstrip(), *(" " * len(head) + line for line in further)]
