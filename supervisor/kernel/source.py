"""The C text of a program with the functions that its hooks need, and the words for its compiler."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.kernel import btf, system_calls
from supervisor.kernel.plans import Plan, glue
from supervisor.kernel.request import Request

SOURCES: Final = Path(__file__).resolve().parents[2] / "kernel_progs"

# Where is said whether the call under way is a 32-bit one; without it the registers have to tell.
_CALL_STATUS: Final = "thread_info.status"


def text(request: Request, candidates: Mapping[str, list[Plan]], bits: system_calls.Bits) -> str:
    """The program itself, and behind it a function for each target of a plan."""
    seen: set[Path] = set()
    parts = [f"#include <linux/ptrace.h>\n{expand(SOURCES / request.source, seen)}\n"]
    if bits:
        parts.append(expand(SOURCES / "include" / system_calls.HEADER, seen))
    parts.append(_functions(request, candidates))
    if bits:
        parts.append(system_calls.c_text(bits))
    return "".join(parts)


def _functions(request: Request, candidates: Mapping[str, list[Plan]]) -> str:
    by_name = {hook.name: hook for hook in request.hooks}
    # Plans of one hook may have a target in common.
    return "".join(
        dict.fromkeys(
            glue(by_name[name], plan, target)
            for name, plans in candidates.items()
            for plan in plans
            for target in plan.targets
            if plan.mechanism_of(target) != "system call"
        )
    )


def flags(request: Request, candidates: Mapping[str, list[Plan]], bits: system_calls.Bits) -> list[str]:
    """Constants, and where headers are."""
    facts = {f for plans in candidates.values() for plan in plans for t in plan.targets for f in t.needed()}
    facts = {each for fact in facts for each in fact.split("|")}
    facts |= {f"{number}?" for number in request.numbers}
    if bits:
        facts.add(f"{_CALL_STATUS}?")
    known = {fact: value_of(fact, request.btf_folder) for fact in facts}
    return [
        *(f"-D{name}={value}" for name, value in request.defines.items()),
        *(f"-D{_constant(fact)}={value}" for fact, value in known.items() if value is not None),
        f"-DARCH_{os.uname().machine.upper()}",
        f"-I{SOURCES / 'include'}",
        *(word for folder in include_folders() for word in ("-isystem", str(folder))),
    ]


def expand(source: Path, seen: set[Path] | None = None) -> str:
    """The text of a C source with its own headers put in place, each once: BCC rewrites map accesses
    in the main file only, and leaves those of included files as calls that no kernel takes."""
    seen = set() if seen is None else seen
    lines = []
    for line in source.read_text().splitlines(keepends=True):
        if not line.startswith('#include "'):
            lines.append(line if line != "#pragma once\n" else "")
            continue
        header = SOURCES / "include" / line.split('"')[1]
        if header not in seen:
            seen.add(header)
            lines.append(expand(header, seen))
    return "".join(lines)


def include_folders() -> list[Path]:
    """Debian's linux-libc-dev keeps asm/ in the folder of the architecture."""
    folders = [Path("/usr/include"), Path(f"/usr/include/{os.uname().machine}-linux-gnu")]
    return [folder for folder in folders if folder.is_dir()]


@functools.cache
def value_of(fact: str, btf_folder: Path) -> int | None:
    """What Target.needed names."""
    name = fact.rstrip("?")
    name = f"{name[:-2]}.arguments" if name.endswith("()") else name
    structure, _, member = name.partition(".")
    return btf.number_of(structure, member, btf_folder)


def _constant(fact: str) -> str:
    """Its name in C."""
    return fact.rstrip("?").replace("()", "_args").replace(".", "_").replace(":", "_").upper()
