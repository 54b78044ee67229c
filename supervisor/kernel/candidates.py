"""Which plans of a hook are worth compiling on this kernel, and why others are not."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.errors import Unavailable
from supervisor.kernel import btf, namespace
from supervisor.kernel.plans import (
    FAMILY,
    HookReport,
    Plan,
    Target,
    call_of,
    choose,
    function_of,
    report,
)
from supervisor.kernel.reasons import NOT_THERE
from supervisor.kernel.request import Request
from supervisor.kernel.source import include_folders, value_of
from supervisor.kernel.symbols import kernel_functions, with_versions

# A line such as `field:char newcomm[16];\toffset:28;` of a tracepoint's format, and a field that C uses.
_FORMAT_FIELD: Final = re.compile(r"field:([^;]*?)\s*\*?\b(\w+)(?:\[[^]]*\])?;")
_USED_FIELD: Final = re.compile(r"args->(\w+)")
_CALL_NUMBER: Final = re.compile(r"^#define __NR_(\w+)", re.MULTILINE)
# Before the name of a system call's function, by processor; none before 4.17 (include/linux/syscalls.h).
_CALL_PREFIXES: Final = ("__x64_", "__arm64_", "__se_", "")


def candidates(request: Request) -> tuple[dict[str, list[Plan]], list[HookReport]]:
    """For each hook the plans worth compiling, with those targets that exist; and why others are not."""
    symbols = kernel_functions()
    plans: dict[str, list[Plan]] = {}
    reports: list[HookReport] = []
    for hook in request.hooks:
        plans[hook.name] = []
        declared = hook.plans(request.mode)
        allowed = choose(declared, request.preference)
        if hook.impossible:
            reports.append(HookReport(hook.name, "", "", False, hook.impossible))
        if declared and not allowed:
            wanted = " or ".join(request.preference.families)
            reports.append(HookReport(hook.name, wanted, "", False, f"this hook has no {wanted} plan"))
        for plan in (with_versions(plan, symbols) for plan in allowed):
            lacking = {t: why for t in plan.targets if (why := _lack(plan, t, symbols, request.btf_folder))}
            required = [t for t in lacking if not t.optional]
            reports += [report(hook, plan, t, lacking[t]) for t in required]
            if not required:
                present = tuple(t for t in plan.targets if t not in lacking)
                plans[hook.name].append(Plan(plan.mechanism, present))
    return plans, reports


def _lack(plan: Plan, target: Target, symbols: Mapping[str, str], btf_folder: Path) -> str:
    """Why the target is not worth compiling here, "" where it is."""
    for fact in target.needed():
        if not fact.endswith("?") and all(value_of(each, btf_folder) is None for each in fact.split("|")):
            return f"the kernel's types ({btf_folder / 'vmlinux'}) do not tell of {fact.replace('|', ' or ')}"
    mechanism = plan.mechanism_of(target)
    if mechanism == "raw tracepoint":
        return ""  # there is no list of them; attaching tells
    if mechanism == "tracepoint":
        fields = _fields_of(target.symbol)
        there = fields is not None and fields.issuperset(_USED_FIELD.findall(target.arguments))
    elif mechanism == "system call":
        there = call_of(target) in _numbered_calls() and any(
            f"{prefix}sys_{function_of(target)}" in symbols for prefix in _CALL_PREFIXES
        )
    else:
        there = target.symbol in symbols
        module = symbols.get(target.symbol, "")
        if module and FAMILY[mechanism] == "fentry" and not btf.module_function(module, target.symbol):
            return f"the types (BTF) of the module {module} do not tell of it"
    return "" if there else NOT_THERE


@functools.cache
def _numbered_calls() -> frozenset[str]:
    """Names of the system calls that the processor has, by the header that programs are compiled with."""
    for name in ("asm/unistd_64.h", "asm-generic/unistd.h"):
        for folder in include_folders():
            if (folder / name).is_file():
                return frozenset(_CALL_NUMBER.findall((folder / name).read_text()))
    raise Unavailable("no numbers of system calls: asm/unistd.h is missing; apt-get install linux-libc-dev")


@functools.cache
def _fields_of(event: str) -> frozenset[str] | None:
    """Names of a tracepoint's fields as BCC gives them to C, None when the kernel does not have it. A string
    of variable length, as more of them are since 6.16, is `data_loc_NAME`: its place and size."""
    try:
        text = (namespace.TRACEFS / "events" / event.replace(":", "/") / "format").read_text()
    except FileNotFoundError:
        return None
    fields = _FORMAT_FIELD.findall(text)
    return frozenset(f"data_loc_{name}" if kind.startswith("__data_loc") else name for kind, name in fields)
