"""The loader: compiles one program with BCC, attaches it by the best plan that really works, hands all
descriptors over, and ends, so that LLVM's memory goes with it. The only module that imports bcc.

It runs as root in a process and a mount namespace of its own: the tracefs and bpffs that BCC needs are
mounted there, out of everybody's sight, and are gone with the process however it ends.
"""

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from supervisor import kprobe_events, linux
from supervisor.errors import Unavailable
from supervisor.kernel import attach, btf, namespace, system_calls
from supervisor.kernel.handover import Loaded
from supervisor.kernel.maps import WORD_BYTES, KernelMap, MapInfo
from supervisor.kernel.plans import (
    FAMILY,
    Hook,
    HookReport,
    Mechanism,
    Mode,
    Plan,
    Preference,
    Side,
    Target,
    call_of,
    choose,
    function_name,
    function_of,
    glue,
    report,
    side_of,
)

SOURCES: Final = Path(__file__).resolve().parents[2] / "kernel_progs"
PINS: Final = namespace.BPFFS

# Reasons that a plan for other kernels has on this one: no such function, no such event.
NOT_THERE: Final = "this kernel does not have it"
NOT_OFFERED: Final = "not offered"

# Values of the kernel's enum bpf_prog_type.
_PROGRAM_TYPE: Final[dict[Mechanism, int]] = {
    "kprobe": 2,
    "kretprobe": 2,
    "tracepoint": 5,
    "raw tracepoint": 17,
    "system call": 17,
    "fentry": 26,
    "fexit": 26,
}
# A line such as `field:char newcomm[16];\toffset:28;` of a tracepoint's format, and a field that C uses.
_FORMAT_FIELD: Final = re.compile(r"field:([^;]*?)\s*\*?\b(\w+)(?:\[[^]]*\])?;")
_USED_FIELD: Final = re.compile(r"args->(\w+)")
_CALL_NUMBER: Final = re.compile(r"^#define __NR_(\w+)", re.MULTILINE)
# Before the name of a system call's function, by processor; none before 4.17 (include/linux/syscalls.h).
_CALL_PREFIXES: Final = ("__x64_", "__arm64_", "__se_", "")
# Where is said whether the call under way is a 32-bit one; without it the registers have to tell.
_CALL_STATUS: Final = "thread_info.status"
# What the compiler adds to the name of a static function that it gives another interface. `.cold` and `.part`
# are pieces of a function, not all of it.
_VERSION: Final = re.compile(r"(\.(isra|constprop)\.\d+)+$")
# A line such as `ffffffff816b4af0 t do_sys_openat2\t[module]`.
_TEXT_SYMBOL: Final = re.compile(r" [TtWw] (\S+)(?:\t\[(\w+)\])?$", re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """What to load.

    defines: constants for the C source. shared: maps of the core program that this one uses, by name.
    numbers: see Program. btf_folder: where the kernel's types are.
    prepare: runs between loading and attaching, with the maps (fills a queue, for example).
    finish: runs after attaching.
    tag: stands in the name of every line of kprobe_events that is written. kprobe_lines: write them where the
    kernel could do without, too.
    """

    source: str
    hooks: tuple[Hook, ...]
    mode: Mode
    preference: Preference
    defines: Mapping[str, str | int]
    shared: Mapping[str, KernelMap]
    tag: str
    prepare: Callable[["Tables"], None] | None = None
    finish: Callable[["Tables"], None] | None = None
    numbers: tuple[str, ...] = ()
    btf_folder: Path = btf.FOLDER
    kprobe_lines: bool = False


@dataclass(frozen=True)
class Tables:
    """The maps of a program while its loader runs."""

    maps: Mapping[str, KernelMap]

    def push(self, name: str, values: Iterable[int]) -> None:
        """Puts u32s into a queue or stack map, one after the other."""
        element = ctypes.c_uint32()
        for element.value in values:
            self._update(name, None, element)

    def set(self, name: str, index: int, value: int) -> None:
        """Sets a u64 of an array map."""
        self._update(name, ctypes.byref(ctypes.c_uint32(index)), ctypes.c_uint64(value))

    def put(self, name: str, index: int, value: bytes) -> None:
        """Sets an element of an array map."""
        element = ctypes.create_string_buffer(value, len(value))
        self._update(name, ctypes.byref(ctypes.c_uint32(index)), element)

    def _update(self, name: str, key: Any, value: Any) -> None:
        if _bcc().libbcc.lib.bpf_update_elem(self.maps[name].fd, key, ctypes.byref(value), 0) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"map {name}: {os.strerror(number)}")


def load(request: Request) -> Loaded:
    """Compiles, loads and attaches. Raises Unavailable with the reason when the kernel or the
    compiler refuses all of it; a hook that cannot be had is a report in the result."""
    _enter_namespace()
    _shorten_kallsyms()
    _pin(request.shared)
    os.environ["BCC_KERNEL_SOURCE"] = str(SOURCES)
    candidates, missing = _candidates(request)
    bits = system_calls.number_plans(candidates)
    module = _compile(request, candidates, bits)
    maps = _maps(module, request.shared)
    tables = Tables({**request.shared, **maps})
    if request.prepare:
        request.prepare(tables)
    attacher = _Attacher(module, request, tables, bits)
    reports = missing + attacher.attach_hooks(candidates)
    order = [hook.name for hook in request.hooks]
    reports.sort(key=lambda report: order.index(report.hook))
    if request.finish:
        request.finish(tables)
    # The mask is this loader's alone: another part of the program has its own.
    kept = {name: held for name, held in maps.items() if name != system_calls.MASK}
    return Loaded(kept, attacher.links, reports, lines=attacher.mark_of_lines)


def possible_cpus() -> int:
    """One more than the highest number that a CPU can have here, online or not; text like `0-3,8-11`."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1


def _bcc() -> Any:
    import bcc

    return bcc


def _enter_namespace() -> None:
    """A mount namespace of our own, with tracefs and an empty bpffs."""
    try:
        namespace.enter()
    except OSError as error:
        raise Unavailable(f"no private mount namespace with tracefs and bpffs: {error}") from error


def _shorten_kallsyms() -> None:
    """libbcc reads all of /proc/kallsyms several times for each program that it compiles, only to look for
    helpers such as bpf_probe_read_kernel: three quarters of the time that a program takes."""
    helpers = sorted(symbol for symbol in _kernel_functions() if symbol.startswith("bpf_probe_read"))
    # Where this may not be done, it takes longer, and nothing else.
    with contextlib.suppress(OSError):
        namespace.cover(namespace.KALLSYMS, "".join(f"0000000000000000 T {symbol}\n" for symbol in helpers))


def _pin(shared: Mapping[str, KernelMap]) -> None:
    """BCC takes over maps of another process by a pinned path only."""
    try:
        for name, held in shared.items():
            linux.bpf_pin(held.fd, str(PINS / name))
    except OSError as error:
        raise Unavailable(f"cannot share the identity maps: {error.strerror}") from error


def _candidates(request: Request) -> tuple[dict[str, list[Plan]], list[HookReport]]:
    """For each hook the plans worth compiling, with those targets that exist; and why others are not."""
    symbols = _kernel_functions()
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


@functools.cache
def _kernel_functions() -> Mapping[str, str]:
    """The kernel's functions (text symbols of /proc/kallsyms), and the module that each is in, "" = none; as
    they were at the first call: a loader loads once."""
    return dict(_TEXT_SYMBOL.findall(namespace.KALLSYMS.read_text()))


def _lack(plan: Plan, target: Target, symbols: Mapping[str, str], btf_folder: Path) -> str:
    """Why the target is not worth compiling here, "" where it is."""
    for fact in target.needed():
        if not fact.endswith("?") and all(_fact(each, btf_folder) is None for each in fact.split("|")):
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
        for folder in _include_folders():
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


@functools.cache
def _fact(fact: str, btf_folder: Path) -> int | None:
    """What Target.needed names."""
    name = fact.rstrip("?")
    name = f"{name[:-2]}.arguments" if name.endswith("()") else name
    structure, _, member = name.partition(".")
    return btf.number_of(structure, member, btf_folder)


def _constant(fact: str) -> str:
    """Its name in C."""
    return fact.rstrip("?").replace("()", "_args").replace(".", "_").replace(":", "_").upper()


def _compile(request: Request, candidates: Mapping[str, list[Plan]], bits: system_calls.Bits) -> Any:
    bcc = _bcc()

    class Module(bcc.BPF):  # type: ignore[misc, name-defined]
        """A module that attaches nothing by itself on account of a function's name."""

        def _trace_autoload(self) -> None:
            return

    by_name = {hook.name: hook for hook in request.hooks}
    # Plans of one hook may have a target in common.
    functions = "".join(
        dict.fromkeys(
            glue(by_name[name], plan, target)
            for name, plans in candidates.items()
            for plan in plans
            for target in plan.targets
            if plan.mechanism_of(target) != "system call"
        )
    )
    facts = {f for plans in candidates.values() for plan in plans for t in plan.targets for f in t.needed()}
    facts = {each for fact in facts for each in fact.split("|")}
    facts |= {f"{number}?" for number in request.numbers}
    seen: set[Path] = set()
    text = f"#include <linux/ptrace.h>\n{expand(SOURCES / request.source, seen)}\n"
    if bits:
        text += expand(SOURCES / "include" / system_calls.HEADER, seen)
        functions += system_calls.c_text(bits)
        facts.add(f"{_CALL_STATUS}?")
    text += functions
    flags = [f"-D{name}={value}" for name, value in request.defines.items()]
    known = {fact: _fact(fact, request.btf_folder) for fact in facts}
    flags += [f"-D{_constant(fact)}={value}" for fact, value in known.items() if value is not None]
    flags += [f"-DARCH_{os.uname().machine.upper()}", f"-I{SOURCES / 'include'}"]
    flags += [word for folder in _include_folders() for word in ("-isystem", str(folder))]
    try:
        return Module(text=text.encode(), cflags=flags)
    except Exception as error:  # BCC raises nothing more precise
        raise Unavailable(f"{request.source} does not compile here: {error}") from error


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


def _include_folders() -> list[Path]:
    """Debian's linux-libc-dev keeps asm/ in the folder of the architecture."""
    folders = [Path("/usr/include"), Path(f"/usr/include/{os.uname().machine}-linux-gnu")]
    return [folder for folder in folders if folder.is_dir()]


def _maps(module: Any, shared: Mapping[str, KernelMap]) -> dict[str, KernelMap]:
    """Every map that the module made, by name, with a descriptor each."""
    lib = _bcc().libbcc.lib
    # BCC's own module does not declare these two; undeclared, ctypes cuts pointers to 32 bits.
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_leaf_size_id.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_table_leaf_size_id.restype = ctypes.c_size_t
    lib.bpf_table_fd_id.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    found: dict[str, KernelMap] = {}
    for number in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, number).decode()
        if name in shared:
            continue
        handle = lib.bpf_table_id(module.module, name.encode())
        info = MapInfo(
            name,
            lib.bpf_table_max_entries_id(module.module, handle),
            lib.bpf_table_leaf_size_id(module.module, handle),
            lib.bpf_table_flags_id(module.module, handle),
        )
        found[name] = KernelMap(info, lib.bpf_table_fd_id(module.module, handle))
    return found


class _Refused(Exception):
    """This target cannot be attached here; the text is the reason."""


class _Attacher:
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
                    raise _Refused("it is attached but does not see the event that the start made")
            except _Refused as refusal:
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
            self._sides[side] = self._attach_raw_tracepoint(program, f"sys_{side}")
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
        module = _kernel_functions().get(target.symbol, "") if FAMILY[mechanism] == "fentry" else ""
        program = self._load(mechanism, function_name(hook, plan, target), module)
        if mechanism == "raw tracepoint":
            return self._attach_raw_tracepoint(program, target.symbol.partition(":")[2])
        if FAMILY[mechanism] == "kprobe":
            return self._attach_kprobe(program, mechanism, target)
        lib = _bcc().libbcc.lib
        ctypes.set_errno(0)
        with _silenced():
            if FAMILY[mechanism] == "fentry":
                link = lib.bpf_attach_kfunc(program)
            else:
                category, event = target.symbol.split(":")
                link = lib.bpf_attach_tracepoint(program, category.encode(), event.encode())
        return _attached(link)

    def _attach_kprobe(self, program: int, mechanism: Mechanism, target: Target) -> int:
        at_return = mechanism == "kretprobe"
        at_once = target.at_once if at_return else 0
        try:
            if attach.PMU.exists() and not at_once and not self._request.kprobe_lines:
                return attach.kprobe(program, target.symbol, at_return=at_return)
            return self._attach_line(program, target.symbol, at_return, at_once)
        except OSError as error:
            raise _Refused(f"cannot attach: {_reason(error.errno or 0)}") from error

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

    def _attach_raw_tracepoint(self, program: int, name: str) -> int:
        ctypes.set_errno(0)
        with _silenced():
            link = _bcc().libbcc.lib.bpf_attach_raw_tracepoint(program, name.encode())
        return _attached(link)

    def _load(self, mechanism: Mechanism, name: str, of_module: str = "") -> int:
        """The descriptor of a program; of_module: where the function is that it is a trampoline of."""
        if name in self._loaded:
            return self._loaded[name]
        lib, module, encoded = _bcc().libbcc.lib, self._module.module, name.encode()
        code = lib.bpf_function_start(module, encoded)
        code_bytes = lib.bpf_function_size(module, encoded)
        ctypes.set_errno(0)
        with _silenced():
            if of_module:
                fd = self._load_for_module(mechanism, name, of_module, code, code_bytes)
            else:
                fd = lib.bcc_func_load(
                    module,
                    _PROGRAM_TYPE[mechanism],
                    encoded,
                    code,
                    code_bytes,
                    lib.bpf_module_license(module),
                    lib.bpf_module_kern_version(module),
                    0,
                    None,
                    0,
                    None,
                    -1,
                )
        if fd < 0:
            raise _Refused(f"cannot load: {_reason(ctypes.get_errno())}")
        self._loaded[name] = fd
        return int(fd)

    def _load_for_module(self, mechanism: Mechanism, name: str, of_module: str, code: int, size: int) -> int:
        """BCC looks for the functions of trampolines in the kernel itself only."""
        function = btf.module_function(of_module, name.partition("__")[2])
        assert function  # it is a candidate because it was found
        licence = _bcc().libbcc.lib.bpf_module_license(self._module.module)
        return btf.load_trampoline(function, mechanism == "fexit", licence, code, size)


def _attached(link: int) -> int:
    if link < 0:
        raise _Refused(f"cannot attach: {_reason(ctypes.get_errno())}")
    return link


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


def _reason(number: int) -> str:
    if number == errno.EPERM:
        return "not permitted (EPERM)"
    if number in (errno.ENOENT, errno.ESRCH):
        return f"{NOT_OFFERED} ({errno.errorcode[number]})"
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})" if number else "refused by libbpf"


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """libbpf and libbcc write their view of a refusal to descriptor 2; the report has it already."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(null)
        os.close(kept)
