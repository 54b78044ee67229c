"""The kernel's functions, by the names that /proc/kallsyms has for them."""

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from supervisor.kernel import namespace
from supervisor.kernel.plans import Plan, Target

# What the compiler adds to the name of a static function that it gives another interface. `.cold` and `.part`
# are pieces of a function, not all of it.
_VERSION: Final = re.compile(r"(\.(isra|constprop)\.\d+)+$")
# A line such as `ffffffff816b4af0 t do_sys_openat2\t[module]`.
_TEXT_SYMBOL: Final = re.compile(r" [TtWw] (\S+)(?:\t\[(\w+)\])?$", re.MULTILINE)


@functools.cache
def kernel_functions() -> Mapping[str, str]:
    """The kernel's functions (text symbols of /proc/kallsyms), and the module that each is in, "" = none; as
    they were at the first call: a loader loads once."""
    return dict(_TEXT_SYMBOL.findall(namespace.KALLSYMS.read_text()))


def shorten_kallsyms() -> None:
    """libbcc reads all of /proc/kallsyms several times for each program that it compiles, only to look for
    helpers such as bpf_probe_read_kernel: three quarters of the time that a program takes."""
    helpers = sorted(symbol for symbol in kernel_functions() if symbol.startswith("bpf_probe_read"))
    # Where this may not be done, it takes longer, and nothing else.
    with contextlib.suppress(OSError):
        namespace.cover(namespace.KALLSYMS, "".join(f"0000000000000000 T {symbol}\n" for symbol in helpers))


def with_versions(plan: Plan, symbols: Iterable[str]) -> Plan:
    """The plan with symbols such as `name.*` replaced by the version that the compiler has made here of the
    static function, `name.isra.0` say, and left as they are where there is none."""

    def version(target: Target) -> Target:
        if not target.symbol.endswith(".*"):
            return target
        name = target.symbol[:-2]
        made = sorted(s for s in symbols if s.startswith(f"{name}.") and _VERSION.sub("", s) == name)
        return replace(target, symbol=made[0]) if made else target

    return Plan(plan.mechanism, tuple(map(version, plan.targets)))
