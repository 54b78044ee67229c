"""From a hook and a plan to the C text that is compiled."""

from types import SimpleNamespace

import pytest

from supervisor.kernel.plans import (
    FAMILIES,
    FAMILY,
    Family,
    Hook,
    Mechanism,
    Plan,
    Preference,
    Target,
    call_of,
    choose,
    context_type,
    entering,
    function_name,
    function_of,
    function_plan,
    glue,
    leaving,
    raw_tracepoint_plan,
    report,
    side_of,
    syscall_plan,
    tracepoint_plan,
    wrapper_plans,
)
from supervisor.kernel.symbols import with_versions

FENTRY = function_plan("fentry", "do_sys_openat2", "on_open", "0")
FEXIT = function_plan("fexit", "do_sys_openat2", "on_open", "(long)args[3]")
KPROBE = function_plan("kprobe", "do_sys_open", "on_open", "0")
KRETPROBE = function_plan("kretprobe", "do_sys_open", "on_open", "PT_REGS_RC(args)")
TRACEPOINT = tracepoint_plan("on_open", "args->ret", "syscalls:sys_exit_openat")
BARE = tracepoint_plan("on_exit", "", "sched:sched_process_exit")
RAW = raw_tracepoint_plan("on_entry", "args[0]", "irq:softirq_entry")
CALLS = syscall_plan(entering("openat", "on_open", "0"), entering("open", "on_open", "0", optional=True))
HOOK = Hook("open", (FENTRY, KPROBE, TRACEPOINT), (FEXIT, KRETPROBE, TRACEPOINT))


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (FENTRY, "int kfunc__do_sys_openat2(u64 *args) { return on_open(0); }\n"),
        (FEXIT, "int kretfunc__do_sys_openat2(u64 *args) { return on_open((long)args[3]); }\n"),
        (KPROBE, "int open__kprobe__do_sys_open(struct pt_regs *args) { return on_open(0); }\n"),
        (
            KRETPROBE,
            "int open__kretprobe__do_sys_open(struct pt_regs *args) { return on_open(PT_REGS_RC(args)); }\n",
        ),
        (
            TRACEPOINT,
            "int open__tracepoint__syscalls__sys_exit_openat("
            "struct tracepoint__syscalls__sys_exit_openat *args) { return on_open(args->ret); }\n",
        ),
        (
            RAW,
            "int open__raw_tracepoint__irq__softirq_entry(u64 *args) { return on_entry(args[0]); }\n",
        ),
        (BARE, "int open__tracepoint__sched__sched_process_exit(void *args) { return on_exit(); }\n"),
    ],
    ids=lambda value: value.mechanism if isinstance(value, Plan) else "",
)
def test_glue_calls_the_handler_and_does_nothing_else(plan: Plan, text: str) -> None:
    assert glue(HOOK, plan, plan.targets[0]) == text


@pytest.mark.parametrize("plan", [FENTRY, FEXIT, KPROBE, KRETPROBE, TRACEPOINT, BARE])
def test_a_hooks_name_of_several_words_still_makes_a_c_function(plan: Plan) -> None:
    assert function_name(Hook("fork failure", (), ()), plan, plan.targets[0]).isidentifier()


def test_a_tracepoints_structure_is_asked_for_only_where_a_field_is_used() -> None:
    assert context_type(TRACEPOINT, TRACEPOINT.targets[0]) == "struct tracepoint__syscalls__sys_exit_openat"
    assert context_type(BARE, BARE.targets[0]) == "void"


def test_each_load_mode_has_its_own_plans() -> None:
    assert HOOK.plans("entry") == (FENTRY, KPROBE, TRACEPOINT)
    assert HOOK.plans("return") == (FEXIT, KRETPROBE, TRACEPOINT)


@pytest.mark.parametrize(
    ("preference", "chosen"),
    [
        (Preference(), [FENTRY, KPROBE, TRACEPOINT]),
        (Preference(("tracepoint", "kprobe", "fentry")), [FENTRY, KPROBE, TRACEPOINT]),
        (Preference(first="kprobe"), [KPROBE, FENTRY, TRACEPOINT]),
        (Preference(first="tracepoint"), [TRACEPOINT, FENTRY, KPROBE]),
        (Preference(("kprobe", "tracepoint")), [KPROBE, TRACEPOINT]),
        (Preference(("kprobe", "tracepoint"), first="fentry"), [KPROBE, TRACEPOINT]),
        (Preference(("kprobe",)), [KPROBE]),
        (Preference(()), []),
    ],
    ids=repr,
)
def test_plans_are_those_of_the_families_the_preferred_one_first(
    preference: Preference, chosen: list[Plan]
) -> None:
    assert choose(HOOK.entry, preference) == chosen


@pytest.mark.parametrize(
    ("mechanism", "family"),
    [
        ("fentry", "fentry"),
        ("fexit", "fentry"),
        ("kprobe", "kprobe"),
        ("kretprobe", "kprobe"),
        ("tracepoint", "tracepoint"),
        ("raw tracepoint", "tracepoint"),
        ("system call", "tracepoint"),
    ],
)
def test_entry_and_return_are_one_family(mechanism: Mechanism, family: Family) -> None:
    assert FAMILY[mechanism] == family
    assert Plan(mechanism, ()).family == family


def test_every_family_has_a_mechanism() -> None:
    assert set(FAMILY.values()) == set(FAMILIES)


def test_optional_tracepoints_are_marked_so_and_come_last() -> None:
    plan = tracepoint_plan("h", "0", "a:b", optional=("a:c", "a:d"))
    assert plan.targets == (
        Target("a:b", "h", "0"),
        Target("a:c", "h", "0", optional=True),
        Target("a:d", "h", "0", optional=True),
    )


@pytest.mark.parametrize(
    ("plan", "shown", "symbol"),
    [
        (FEXIT, "fexit", "do_sys_openat2"),
        (KPROBE, "kprobe", "do_sys_open"),
        (TRACEPOINT, "tracepoint", "syscalls:sys_exit_openat"),
        (RAW, "tracepoint", "irq:softirq_entry"),
        (CALLS, "tracepoint", "syscalls:sys_enter_openat"),
    ],
    ids=lambda value: value.mechanism if isinstance(value, Plan) else "",
)
def test_reports_name_the_plan_and_the_target_as_users_know_them(plan: Plan, shown: str, symbol: str) -> None:
    told = report(HOOK, plan, plan.targets[0])
    assert (told.hook, told.plan, told.target, told.attached) == ("open", shown, symbol, True)
    assert report(HOOK, plan, plan.targets[0], "it has gone").attached is False


def test_a_system_call_is_known_by_its_number_and_shown_by_its_tracepoint() -> None:
    target = leaving("umount2", "on_umount")
    assert target.symbol == "syscalls:sys_exit_umount"
    assert (side_of(target), call_of(target), function_of(target)) == ("exit", "umount2", "umount")
    target = entering("sync_file_range", "on_sync")
    assert (side_of(target), call_of(target)) == ("enter", "sync_file_range")


def test_a_static_functions_version_is_found_whatever_the_compiler_has_called_it() -> None:
    plan = function_plan("kprobe", "lookup_fast.*", "on_reference")
    symbols = frozenset({"lookup_fast.isra.0.cold", "lookup_fast.constprop.0.isra.0", "lookup_faster.isra.0"})
    assert with_versions(plan, symbols).targets[0].symbol == "lookup_fast.constprop.0.isra.0"


def test_without_a_version_of_it_the_symbol_stays_and_is_told_as_missing() -> None:
    plan = function_plan("kprobe", "lookup_fast.*", "on_reference")
    assert with_versions(plan, frozenset({"lookup_fast", "lookup_fast.cold"})) == plan


def test_a_versions_dots_do_not_get_into_c() -> None:
    plan = function_plan("kprobe", "lookup_fast.isra.0", "on_reference")
    hook = Hook("reference", (plan,), (plan,))
    assert function_name(hook, plan, plan.targets[0]) == "reference__kprobe__lookup_fast_isra_0"


def symbols(plans: tuple[Plan, ...]) -> list[list[str]]:
    return [[target.symbol for target in plan.targets] for plan in plans]


@pytest.mark.parametrize(
    ("machine", "prefix"),
    [("x86_64", "__x64_sys_"), ("aarch64", "__arm64_sys_"), ("riscv64", "__riscv_sys_")],
)
def test_functions_of_system_calls_bear_the_prefix_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, machine: str, prefix: str
) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine=machine))
    calls = {"fsync": ("on_fsync", "0"), "fdatasync": ("on_fsync", "0")}
    assert symbols(wrapper_plans("fentry", calls)) == [[f"{prefix}fsync", f"{prefix}fdatasync"]]


def test_kprobes_find_the_functions_of_older_kernels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="x86_64"))
    plans = wrapper_plans("kretprobe", {"mount": ("on_mount", "PT_REGS_RC(args)")}, at_once=7)
    assert symbols(plans) == [["__x64_sys_mount"], ["sys_mount"]]
    assert {target.at_once for plan in plans for target in plan.targets} == {7}
