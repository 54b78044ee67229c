"""Hooks and the plans by which they can be attached, as data.

A *hook* is one logical event ("open"). A *plan* is one way to see all of it: a function's entry or exit
by trampoline (fentry, fexit) or by breakpoint (kprobe, kretprobe), or a set of tracepoints. The handler's
body is written once in C; a *target* says how its arguments are had at that place, as C expressions over

    fentry, fexit     args, a `u64 *`: the function's arguments, then, for fexit, its result
    kprobe, kretprobe args, a `struct pt_regs *`
    raw tracepoint    args, a `u64 *`: those of TP_PROTO in the kernel's declaration (include/trace/events)
    tracepoint        args, the event's own structure; the field x of its format is `args->x`
    system call       argument(call, n), of what the caller gave; and `ret` (long) where it returns
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Mechanism = Literal["fentry", "fexit", "kprobe", "kretprobe", "tracepoint", "raw tracepoint", "system call"]
Family = Literal["fentry", "kprobe", "tracepoint"]
Mode = Literal["entry", "return"]
Side = Literal["enter", "exit"]

FAMILY: Final[Mapping[Mechanism, Family]] = {
    "fentry": "fentry",
    "fexit": "fentry",
    "kprobe": "kprobe",
    "kretprobe": "kprobe",
    "tracepoint": "tracepoint",
    "raw tracepoint": "tracepoint",
    "system call": "tracepoint",
}
FAMILIES: Final[tuple[Family, ...]] = ("fentry", "kprobe", "tracepoint")
SIDES: Final[tuple[Side, ...]] = ("enter", "exit")


@dataclass(frozen=True)
class Target:
    """One place in the kernel. symbol: a function, or `category:event` of a tracepoint of any kind.

    A kprobe's symbol `name.*` stands for what the compiler has made of the static function, `name.isra.0`
    say; a trampoline cannot have it, since the kernel's types (BTF) do not describe such versions.

    at_once: how many calls a kretprobe follows at a time, 4,096 at most; it does not see the ends of others.
    0 is the kernel's default, which is as low as the number of CPUs: too few where calls wait for something.
    """

    symbol: str
    handler: str
    arguments: str = ""
    optional: bool = False  # may be missing: an older kernel, another processor
    mechanism: Mechanism | None = None  # where it is not the plan's: a kretprobe needs its kprobe
    field: str = ""  # what the arguments need to know of the kernel's types: see `needed`
    at_once: int = 0

    def needed(self) -> tuple[str, ...]:
        """`structure.field`, whose offset C knows as STRUCTURE_FIELD; `function()`, whose number of
        parameters it knows as FUNCTION_ARGS, or a raw tracepoint's. Without one that ends in `?`, which is
        then not defined in C, the target can do; `a.b|c.d` means either."""
        return tuple(self.field.split())


@dataclass(frozen=True)
class Plan:
    """All targets together see the hook's events, each once."""

    mechanism: Mechanism
    targets: tuple[Target, ...]

    @property
    def family(self) -> Family:
        return FAMILY[self.mechanism]

    def mechanism_of(self, target: Target) -> Mechanism:
        return target.mechanism or self.mechanism


@dataclass(frozen=True)
class Hook:
    """One logical event.

    entry, returning: the plans of each load mode, best first; an empty `entry` means that the hook
    is used in return mode only.
    exercise: makes harmless events of it in the calling process, None where that cannot be done.
    map, column, width, events: where the exercise must show, in how many columns of the rows of this map from
    which on, and how often at least: once for each of the targets, where a plan needs several.
    part: what must be there for it: a type of file system, say (Program.parts); "" = it is always wanted.
    impossible: why no Linux has such an event; it has no plans then.
    """

    name: str
    entry: tuple[Plan, ...]
    returning: tuple[Plan, ...]
    exercise: Callable[[], None] | None = None
    column: int = 0
    part: str = ""
    events: int = 1
    map: str = "rows"
    width: int = 1
    impossible: str = ""

    @property
    def event(self) -> str:
        """What columns call it: its name without that of its part, as other parts have it too."""
        return self.name.removeprefix(f"{self.part} ")

    def plans(self, mode: Mode) -> tuple[Plan, ...]:
        return self.entry if mode == "entry" else self.returning


@dataclass(frozen=True)
class HookReport:
    """What became of one target of one plan; shown by `status -v` and `check`.

    plan: fentry, fexit, kprobe, kretprobe or tracepoint, of whatever kind the tracepoint's link is.
    """

    hook: str
    plan: str
    target: str
    attached: bool
    reason: str = ""
    link: int | None = None  # the descriptor that holds it, in the process that has it now

    def told(self) -> dict[str, Any]:
        """What users are told of it."""
        return {
            "hook": self.hook,
            "plan": self.plan,
            "target": self.target,
            "attached": self.attached,
            "reason": self.reason,
        }


def report(
    hook: Hook, plan: Plan, target: Target, reason: str = "", *, link: int | None = None
) -> HookReport:
    """Of a target that is attached, or with a reason that is not."""
    mechanism = plan.mechanism_of(target)
    shown = "tracepoint" if FAMILY[mechanism] == "tracepoint" else mechanism
    return HookReport(hook.name, shown, target.symbol, not reason, reason, link)


def choose(plans: Iterable[Plan], preference: "Preference") -> list[Plan]:
    """The plans that may be used, the preferred family's first, else in the order of the declaration."""
    allowed = [plan for plan in plans if plan.family in preference.families]
    return sorted(allowed, key=lambda plan: plan.family != preference.first)


@dataclass(frozen=True)
class Preference:
    """Which families of plans may be used, and which of them is tried first (None: as declared)."""

    families: tuple[Family, ...] = FAMILIES
    first: Family | None = None


def function_name(hook: Hook, plan: Plan, target: Target) -> str:
    """Name of the generated C function. libbcc reads the attach type and target of trampolines from it."""
    mechanism = plan.mechanism_of(target)
    if mechanism == "fentry":
        return f"kfunc__{target.symbol}"
    if mechanism == "fexit":
        return f"kretfunc__{target.symbol}"
    return re.sub(r"[ .*]", "_", f"{hook.name}__{mechanism}__{target.symbol}".replace(":", "__"))


def context_type(plan: Plan, target: Target) -> str:
    """C type of `args`. A tracepoint's structure is asked for only where a field is used."""
    mechanism = plan.mechanism_of(target)
    if mechanism in ("fentry", "fexit", "raw tracepoint"):
        return "u64"
    if mechanism in ("kprobe", "kretprobe"):
        return "struct pt_regs"
    if "args" in target.arguments:
        return f"struct tracepoint__{target.symbol.replace(':', '__')}"
    return "void"


def glue(hook: Hook, plan: Plan, target: Target) -> str:
    """C text of the function that is attached: it calls the handler, and nothing else. System calls have one
    function for all hooks (system_calls.py)."""
    name, context = function_name(hook, plan, target), context_type(plan, target)
    return f"int {name}({context} *args) {{ return {target.handler}({target.arguments}); }}\n"


def function_plan(
    mechanism: Mechanism, symbol: str, handler: str, arguments: str = "", *, field: str = ""
) -> Plan:
    """A plan with one function as its only target."""
    return Plan(mechanism, (Target(symbol, handler, arguments, field=field),))


def call_plans(
    functions: Iterable[str], entered: str, returned: str, arguments: str, at_once: int
) -> tuple[Plan, ...]:
    """Plans that see both the beginning and the end of each call of these functions. at_once: see Target."""
    sides: tuple[tuple[Mechanism, Mechanism], ...] = (("fentry", "fexit"), ("kprobe", "kretprobe"))
    return tuple(
        Plan(
            begin,
            tuple(
                target
                for function in functions
                for target in (
                    Target(function, entered, arguments),
                    Target(function, returned, arguments, mechanism=end, at_once=at_once),
                )
            ),
        )
        for begin, end in sides
    )


def tracepoint_plan(handler: str, arguments: str, *events: str, optional: tuple[str, ...] = ()) -> Plan:
    """A plan of tracepoints that all call one handler; `optional` ones need not exist."""
    return Plan(
        "tracepoint",
        tuple(Target(event, handler, arguments) for event in events)
        + tuple(Target(event, handler, arguments, optional=True) for event in optional),
    )


def raw_tracepoint_plan(handler: str, arguments: str, event: str, *, field: str = "") -> Plan:
    """A plan of one raw tracepoint (kernel 4.17 on). It costs less than a plain one at each event, and is let
    go of at once, where a plain one takes the kernel 30 to 40 ms."""
    return Plan("raw tracepoint", (Target(event, handler, arguments, field=field),))


def task_plans(handler: str, event: str) -> tuple[Plan, ...]:
    """Plans for a tracepoint that is about a task and fires in interrupts.

    The kernel leaves out a tracepoint's programs while another such program runs on the same CPU
    (bpf_prog_active in kernel/trace/bpf_trace.c), which an interrupt can find there; those of a raw
    tracepoint are left out only while they themselves run.
    """
    return (
        raw_tracepoint_plan(handler, "pid_of_task(args[0])", event, field="task_struct.pid"),
        tracepoint_plan(handler, "args->pid", event),
    )


def in_task_plans(raw: Plan, *plain: Plan) -> tuple[Plan, ...]:
    """Plans for a tracepoint that fires in a task, not in interrupts; first what loses least.

    Since 7.0 a tracepoint's functions can be preempted (tracepoint_srcu in include/linux/tracepoint.h): then
    the program of a raw one is left out for the next tasks on that CPU until it goes on. perf, which runs the
    programs of plain ones, still disables preemption (include/trace/perf.h). Before, see `task_plans`.
    """
    return (*plain, raw) if _RELEASE >= (7, 0) else (raw, *plain)


_RELEASE: Final = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])

# Before the name of a system call's function since 4.17 (arch/*/include/asm/syscall_wrapper.h). Its argument
# is the caller's registers; 32-bit calls have functions of their own, which are left out.
_WRAPPER: Final[Mapping[str, str]] = {
    "x86_64": "__x64_sys_",
    "aarch64": "__arm64_sys_",
    "s390x": "__s390x_sys_",
    "riscv64": "__riscv_sys_",
}
WRAPPER_RESULT: Final = "(long)args[1]"
"""The result, where fexit is on such a function."""


def wrapper_plans(
    mechanism: Mechanism, calls: Mapping[str, tuple[str, str]], *, at_once: int = 0
) -> tuple[Plan, ...]:
    """Plans on the functions of system calls: name of each (`umount` for umount2) -> handler, arguments."""
    # Older kernels have sys_X, with the call's own arguments; newer ones too on a processor without wrappers.
    machine = os.uname().machine
    prefixes = [_WRAPPER[machine]] if machine in _WRAPPER else []
    if FAMILY[mechanism] == "kprobe" or not prefixes:
        prefixes.append("sys_")
    return tuple(
        Plan(
            mechanism,
            tuple(Target(prefix + call, *handler, at_once=at_once) for call, handler in calls.items()),
        )
        for prefix in prefixes
    )


# Tracepoints are named after the function (SYSCALL_DEFINEn), numbers after the call.
_FUNCTION_OF_CALL: Final[Mapping[str, str]] = {"umount2": "umount"}
_CALL_OF_FUNCTION: Final = {function: call for call, function in _FUNCTION_OF_CALL.items()}


def entering(call: str, handler: str, arguments: str = "", *, optional: bool = False) -> Target:
    """The beginning of a system call, by its name in syscalls(2)."""
    return _system_call("enter", call, handler, arguments, optional)


def leaving(call: str, handler: str, arguments: str = "ret", *, optional: bool = False) -> Target:
    """The end of a system call; `ret` is its result, negative for an error number."""
    return _system_call("exit", call, handler, arguments, optional)


def _system_call(side: Side, call: str, handler: str, arguments: str, optional: bool) -> Target:
    symbol = f"syscalls:sys_{side}_{_FUNCTION_OF_CALL.get(call, call)}"
    return Target(symbol, handler, arguments, optional, "system call")


def syscall_plan(*targets: Target) -> Plan:
    """A plan of system calls: targets made by `entering` and `leaving`."""
    return Plan("system call", targets)


def side_of(target: Target) -> Side:
    """Which end of a system call it is."""
    return "enter" if target.symbol.startswith("syscalls:sys_enter_") else "exit"


def function_of(target: Target) -> str:
    """The name that the kernel's function of a system call has, without the prefix of the processor."""
    return target.symbol.split("_", 2)[2]


def call_of(target: Target) -> str:
    """Name of a system call as its number has it: __NR_name."""
    return _CALL_OF_FUNCTION.get(function_of(target), function_of(target))
