"""`ebpf-supervisor check`: can this kernel do it. Every program is really loaded, by its own loader, and
let go of again."""

import json
import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supervisor import kprobe_events, logs, spawn, status_table
from supervisor.errors import SupervisorError
from supervisor.kernel import btf, cgroup_hierarchy, handover, identities, loader, reading
from supervisor.kernel.handover import Loaded
from supervisor.kernel.plans import HookReport, Preference
from supervisor.units import lacking, run_loader
from workers.declaration import Program
from workers.registry import all_programs

_SLOTS = 1024
_LOADER_S = 60.0


@dataclass(frozen=True)
class Feature:
    """One thing that the kernel has or lacks. fix: what to do about it, or what its lack costs."""

    name: str
    present: bool
    found: str
    fix: str = ""


def check(*, as_json: bool) -> int:
    """Prints the answer; 0 when every program has a plan for all its hooks, else 1.

    Types of file systems that are not mounted, md arrays that are not there, and events that no Linux has are
    no fault.
    """
    logs.for_supervisor("error")
    features = list(_features())
    programs = _programs()
    answer = {
        "kernel": platform.release(),
        "features": [asdict(feature) for feature in features],
        "programs": programs,
    }
    print(json.dumps(answer, indent=1) if as_json else _text(answer), flush=True)
    return 0 if all(program["available"] for program in programs) else 1


def _features() -> Iterator[Feature]:
    types = btf.FOLDER / "vmlinux"
    found = f"{types} (a configuration's `btf path` is not looked at)" if types.exists() else f"no {types}"
    yield Feature("BTF", types.exists(), found, "" if types.exists() else "no fentry plans")
    pmu = kprobe_events.PMU.exists()
    yield Feature("kprobes", pmu, "kprobe PMU" if pmu else "absent", "" if pmu else "no kprobe plans")
    bpf = Path("/proc/sys/kernel/unprivileged_bpf_disabled").exists()
    yield Feature(
        "bpf()", bpf, "present" if bpf else "absent", "" if bpf else "a kernel with CONFIG_BPF_SYSCALL"
    )
    try:
        import bcc

        yield Feature("BCC", True, str(getattr(bcc, "__version__", "present")))
    except ImportError:
        yield Feature("BCC", False, "absent", "apt-get install python3-bpfcc")


def _programs() -> list[dict[str, Any]]:
    found, _ = reading.find("auto", spawn.find_account(None))
    made = identities.defines(_SLOTS, str(loader.PINS), loader.possible_cpus(), found.map_flags)
    defines = {**made, "SHARDS": 1}
    mark = kprobe_events.tag(Path("/check"))
    core = _load("task", identities.request(_SLOTS, cgroup_hierarchy.find(), defines, Preference(), mark))
    try:
        return [_program(program, core, defines, mark) for program in all_programs().values()]
    finally:
        core.close()


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
    request = loader.Request(
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


def _load(name: str, request: loader.Request) -> Loaded:
    ours, theirs = spawn.socket_pair(socket.SOCK_SEQPACKET)
    keep = {theirs.fileno(), *(held.fd for held in request.shared.values())}
    child = spawn.spawn(f"loader {name}", lambda: run_loader(theirs, request), keep, None, "error")
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


def _text(answer: dict[str, Any]) -> str:
    lines = [f"kernel {answer['kernel']}", ""]
    for feature in answer["features"]:
        mark = _mark(feature["present"])
        lines.append(
            f"  {mark}  {feature['name']:<10} {feature['found']}"
            + (f"; {feature['fix']}" if feature["fix"] else "")
        )
    lines.append("")
    for program in answer["programs"]:
        some = any(hook["attached"] for hook in program["hooks"])
        mark = "part" if some and not program["available"] else _mark(program["available"])
        lines.append(f"  {mark}  {program['name']:<10} {program['reason']}".rstrip())
    return "\n".join(lines) + "\n" + status_table.hooks_table(answer["programs"])


def _mark(yes: bool) -> str:
    return "yes " if yes else "no  "
