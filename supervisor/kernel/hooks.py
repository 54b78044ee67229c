"""Attaches hooks, each by the first of its plans that really works."""

import itertools
import os
from collections.abc import Mapping
from typing import Any

from supervisor import kprobe_events
from supervisor.kernel import attach, libbcc, system_calls
from supervisor.kernel.maps import WORD_BYTES
from supervisor.kernel.plans import (
    FAMILY,
    Hook,
    HookReport,
    Mechanism,
    Plan,
    Side,
    Target,
    function_name,
    report,
    side_of,
)
from supervisor.kernel.reasons import Refused, of_error
from supervisor.kernel.request import Request, Tables
from supervisor.kernel.symbols import kernel_functions


class Attacher:
    """Attaches hooks and keeps the descriptors that hold them."""

    def __init__(self, module: Any, request: Request, tables: Tables, bits: system_calls.Bits) -> None:
        self._module = module
        self._request = request
        self._tables = tables
        self._bits = bits
        self._taken = 0  # mask of the system call plans in use
        self._loaded: dict[str, int] = {}
        self._sides: dict[Side, int] = {}
        self._lines: dict[int, str] = {}
        self._mark = kprobe_events.mark(request.tag, os.getpid())
        self._numbers = itertools.count()
        self.links: list[int] = []

    @property
    def mark_of_lines(self) -> str:
        """What the names of those that hooks need begin with, "" = there are none."""
        return self._mark if self._lines else ""

    def attach_hooks(self, candidates: Mapping[str, list[Plan]]) -> list[HookReport]:
        reports: list[HookReport] = []
        for hook in self._request.hooks:
            reports += self._attach_hook(hook, candidates[hook.name])
        self._let_go_of_idle_sides()
        return reports

    def _attach_hook(self, hook: Hook, plans: list[Plan]) -> list[HookReport]:
        """Tries the plans in their order until one works."""
        reports: list[HookReport] = []
        for plan in plans:
            links: list[int] = []
            held: dict[Target, int] = {}
            target = plan.targets[0]
            try:
                for target in plan.targets:
                    if plan.mechanism_of(target) == "system call":
                        held[target] = self._attach_side(side_of(target))
                    else:
                        held[target] = self._attach(hook, plan, target)
                        links.append(held[target])
                self._take(hook, plan)
                if not fires(hook, self._tables):
                    raise Refused("it is attached but does not see the event that the start made")
            except Refused as refusal:
                reports.append(report(hook, plan, target, str(refusal)))
                self._take(hook, plan, False)
                for link in links:
                    self._detach(link)
                continue
            self.links += links
            reports += [report(hook, plan, target, link=link) for target, link in held.items()]
            break
        return reports

    def _take(self, hook: Hook, plan: Plan, taken: bool = True) -> None:
        """Lets the system calls of a plan count, or no longer."""
        if (hook.name, plan) not in self._bits:
            return
        bit = 1 << self._bits[(hook.name, plan)]
        self._taken = self._taken | bit if taken else self._taken & ~bit
        self._tables.set(system_calls.MASK, 0, self._taken)

    def _attach_side(self, side: Side) -> int:
        """One link for all hooks; what it sees counts for those whose plan is taken."""
        if side not in self._sides:
            program = self._load("system call", system_calls.function_name(side))
            self._sides[side] = libbcc.attach_raw_tracepoint(program, f"sys_{side}")
        return self._sides[side]

    def _let_go_of_idle_sides(self) -> None:
        """A side whose plans were all refused would cost every system call for nothing."""
        used = {
            side_of(target)
            for (_, plan), bit in self._bits.items()
            if self._taken & 1 << bit
            for target in system_calls.calls_of(plan)
        }
        for side, link in self._sides.items():
            if side in used:
                self.links.append(link)
            else:
                os.close(link)

    def _attach(self, hook: Hook, plan: Plan, target: Target) -> int:
        mechanism = plan.mechanism_of(target)
        of_module = kernel_functions().get(target.symbol, "") if FAMILY[mechanism] == "fentry" else ""
        program = self._load(mechanism, function_name(hook, plan, target), of_module)
        if mechanism == "raw tracepoint":
            return libbcc.attach_raw_tracepoint(program, target.symbol.partition(":")[2])
        if FAMILY[mechanism] == "kprobe":
            return self._attach_kprobe(program, mechanism, target)
        if FAMILY[mechanism] == "fentry":
            return libbcc.attach_trampoline(program)
        return libbcc.attach_tracepoint(program, target.symbol)

    def _attach_kprobe(self, program: int, mechanism: Mechanism, target: Target) -> int:
        at_return = mechanism == "kretprobe"
        at_once = target.at_once if at_return else 0
        try:
            if attach.PMU.exists() and not at_once and not self._request.kprobe_lines:
                return attach.kprobe(program, target.symbol, at_return=at_return)
            return self._attach_line(program, target.symbol, at_return, at_once)
        except OSError as error:
            raise Refused(f"cannot attach: {of_error(error.errno or 0)}") from error

    def _attach_line(self, program: int, symbol: str, at_return: bool, at_once: int) -> int:
        event = f"{self._mark}_{'r' if at_return else 'p'}{next(self._numbers)}"
        number = kprobe_events.add(event, symbol, at_return=at_return, at_once=at_once)
        try:
            link = attach.line(program, number)
        except OSError:
            kprobe_events.drop(event)
            raise
        self._lines[link] = event
        return link

    def _detach(self, link: int) -> None:
        os.close(link)
        if link in self._lines:
            kprobe_events.drop(self._lines.pop(link))

    def _load(self, mechanism: Mechanism, name: str, of_module: str = "") -> int:
        """Each program is loaded once, however many targets it is for."""
        if name not in self._loaded:
            self._loaded[name] = libbcc.load(self._module, mechanism, name, of_module)
        return self._loaded[name]


def fires(hook: Hook, tables: Tables) -> bool:
    """Makes events of the hook and looks for them among the counters. A plan that loads may never
    fire: the kernel no longer calls the symbol, ftrace is switched off, kprobes are disabled."""
    if hook.exercise is None:
        return True
    before = _seen(hook, tables)
    try:
        hook.exercise()
    except OSError:
        return True  # no such event can be made here (without IPv6, say): nothing speaks against the plan
    return _seen(hook, tables) >= before + hook.events


def _seen(hook: Hook, tables: Tables) -> int:
    held = tables.maps[hook.map]
    row_words = held.info.entries * held.info.stride_bytes // WORD_BYTES // held.info.rows
    with held.open() as content:
        words = content.words
        return sum(sum(words[column::row_words]) for column in range(hook.column, hook.column + hook.width))
