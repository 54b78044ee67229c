"""What the doctor says of machines: this one's facts are not asked for, they are given."""

import dataclasses
import errno
from typing import Any

import pytest

from supervisor.doctor import CAPABILITIES, CHECKS, LOCKDOWN, OPTIONS, Finding, findings, mending
from supervisor.facts import Facts, options

ALL_SET = {option.name: "y" for option in OPTIONS}
# A plain Debian 12 of today.
DEBIAN = Facts(
    release="6.1.0-56-amd64",
    config=ALL_SET,
    config_from="/boot/config-6.1.0-56-amd64",
    kprobes_on=True,
    mounted={"tracefs": "/sys/kernel/tracing", "debugfs": "/sys/kernel/debug"},
    sysctls={
        "kernel/kptr_restrict": 0,
        "kernel/perf_event_paranoid": 3,
        "kernel/unprivileged_bpf_disabled": 2,
        "kernel/ftrace_enabled": 1,
        "net/core/bpf_jit_enable": 1,
    },
    lockdown="none",
    apparmor="unconfined",
    bcc="0.26.0",
    refused={"fentry": "", "kprobe": "", "tracepoint": ""},
)


def machine(**changes: Any) -> Facts:
    return dataclasses.replace(DEBIAN, **changes)


def finding(name: str, facts: Facts) -> Finding:
    return next(found for found in findings(facts) if found.name == name)


def test_a_machine_that_has_everything_is_told_so_line_by_line() -> None:
    assert {found.mark for found in findings(DEBIAN)} == {"yes"}
    assert len(findings(DEBIAN)) >= 20


SYSCTLS = DEBIAN.sysctls
BROKEN: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "an old kernel": ("kernel", "part", {"release": "4.19.0"}, "a kernel of 5.5 or later"),
    "no bpf()": ("bpf()", "no", {"bpf_error": errno.ENOSYS}, "CONFIG_BPF_SYSCALL=y"),
    "a container": ("bpf()", "no", {"bpf_error": errno.EPERM}, "sudo ebpf-supervisor check"),
    "no BCC": ("BCC", "no", {"bcc": ""}, "apt-get install python3-bpfcc"),
    "no headers": ("headers", "no", {"headers": False}, "apt-get install linux-libc-dev"),
    "no BTF": ("BTF", "no", {"btf": False}, "CONFIG_DEBUG_INFO_BTF=y"),
    "no kprobes": ("kprobes", "no", {"kprobe_pmu": False}, "CONFIG_KPROBES=y"),
    "kprobes off": ("kprobes on", "no", {"kprobes_on": False}, "echo 1 > /sys/kernel/debug/kprobes/enabled"),
    "ftrace off": (
        "ftrace on",
        "no",
        {"sysctls": {**SYSCTLS, "kernel/ftrace_enabled": 0}},
        "sysctl -w kernel.ftrace_enabled=1",
    ),
    "no JIT": (
        "JIT on",
        "part",
        {"sysctls": {**SYSCTLS, "net/core/bpf_jit_enable": 0}},
        "sysctl -w net.core.bpf_jit_enable=1",
    ),
    "bpf for all": (
        "unprivileged_bpf",
        "part",
        {"sysctls": {**SYSCTLS, "kernel/unprivileged_bpf_disabled": 0}},
        "sysctl -w kernel.unprivileged_bpf_disabled=2",
    ),
    "look-ups": ("unprivileged_bpf", "part", {"release": "5.4.0"}, "a kernel of 5.5 or later"),
    "no tracefs": ("tracefs", "no", {"mounted": {}, "offered": frozenset()}, "CONFIG_FTRACE=y"),
    "locked down": ("lockdown", "no", {"lockdown": "confidentiality"}, "lockdown=integrity"),
    "SELinux": (
        "SELinux",
        "part",
        {"selinux": "enforcing", "selinux_context": "system_u:system_r:netdata_t:s0"},
        "semodule -i",
    ),
    "AppArmor": ("AppArmor", "part", {"apparmor": "netdata (enforce)"}, "aa-complain netdata"),
    "seccomp": ("seccomp", "part", {"seccomp": True}, "seccomp=unconfined"),
    "user namespace": ("user namespace", "no", {"own_user_namespace": True}, "--userns=host"),
    "few locked pages": (
        "memory lock",
        "no",
        {"release": "5.10.0", "memlock_bytes": 65536, "capabilities": (1 << 41) - 1 & ~(1 << 24)},
        "LimitMEMLOCK=infinity",
    ),
    "no cgroups": ("cgroups", "no", {"cgroups": 0}, "mount -t cgroup2 none /sys/fs/cgroup"),
    "no configuration": ("options", "part", {"config": None}, "modprobe configs"),
}


@pytest.mark.parametrize(("name", "mark", "changes", "fix"), BROKEN.values(), ids=BROKEN.keys())
def test_each_lack_is_found_with_its_price_and_the_command(
    name: str, mark: str, changes: dict[str, Any], fix: str
) -> None:
    found = finding(name, machine(**changes))
    assert found.mark == mark
    assert found.costs
    assert fix in found.fix


def test_every_check_has_a_machine_that_fails_it() -> None:
    """But for those that only tell: nothing depends on what they say."""
    telling = {"debugfs", "kptr_restrict", "perf_event_paranoid"}
    names = {found.name for changes in BROKEN.values() for found in findings(machine(**changes[2]))}
    failed = {name for name, _, changes, _ in BROKEN.values()}
    refused = {"fentry", "capabilities"}
    assert names - failed - refused - {option.name for option in OPTIONS} == telling
    assert len(CHECKS) == len(failed | refused | telling) - 1  # the options are no check of their own


@pytest.mark.parametrize("option", [option.name for option in OPTIONS])
def test_an_option_that_is_not_set_is_named_with_its_price(option: str) -> None:
    found = finding(option, machine(config={**ALL_SET, option: "n"}))
    assert found.mark == "no"
    assert found.costs
    assert found.fix == f"a kernel built with CONFIG_{option}=y"


def test_an_option_that_an_older_kernel_does_not_know_is_no_lack() -> None:
    older = {name: value for name, value in ALL_SET.items() if name != "DYNAMIC_FTRACE_WITH_DIRECT_CALLS"}
    assert finding("options", machine(config=older)).mark == "yes"


def test_options_are_read_as_the_kernel_writes_them() -> None:
    text = (
        '# Automatically generated\nCONFIG_BPF=y\n# CONFIG_KPROBES is not set\nCONFIG_LSM="a,b"\nCONFIG_X=m\n'
    )
    assert options(text) == {"BPF": "y", "KPROBES": "n", "LSM": '"a,b"', "X": "m"}


@pytest.mark.parametrize(("number", "name", "use"), CAPABILITIES)
def test_a_capability_that_is_missing_is_named_with_its_use(number: int, name: str, use: str) -> None:
    old = machine(release="5.10.0", capabilities=(1 << 41) - 1 & ~(1 << number))
    found = finding("capabilities", old)
    assert (found.mark, found.found, found.costs) == ("no", f"without {name}", use)


def test_capabilities_that_a_kernel_does_not_need_are_not_missed() -> None:
    without = (1 << 41) - 1 & ~(1 << 24)
    assert finding("capabilities", machine(capabilities=without)).mark == "yes"
    old = (1 << 38) - 1
    assert finding("capabilities", machine(release="5.4.0", capabilities=old)).mark == "yes"


@pytest.mark.parametrize("mode", ["", *LOCKDOWN])
def test_lockdown_forbids_something_of_ours_in_confidentiality_alone(mode: str) -> None:
    assert finding("lockdown", machine(lockdown=mode)).present == (mode != "confidentiality")


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({}, "another kernel"),
        ({"config": None}, "a kernel built with CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y"),
        ({"sysctls": {"kernel/ftrace_enabled": 0}}, "sysctl -w kernel.ftrace_enabled=1"),
    ],
)
def test_trampolines_that_are_refused_have_different_reasons(changes: dict[str, Any], fix: str) -> None:
    found = finding("fentry", machine(refused={"fentry": "not permitted (EPERM)"}, **changes))
    assert (found.mark, found.found) == ("no", "not permitted (EPERM)")
    assert found.fix.startswith(fix)


@pytest.mark.parametrize(
    ("families", "changes", "fix"),
    [
        ({"kprobe", "fentry"}, {"kprobe_pmu": False, "refused": {"fentry": "EPERM"}}, "CONFIG_KPROBES=y"),
        ({"fentry"}, {"kprobe_pmu": False, "refused": {"fentry": "EPERM"}}, "another kernel"),
        ({"kprobe"}, {"kprobes_on": False}, "echo 1 >"),
        ({"tracepoint"}, {"lockdown": "confidentiality"}, "lockdown=integrity"),
        ({"tracepoint"}, {"seccomp": True}, "seccomp=unconfined"),
        ({"tracepoint"}, {"own_user_namespace": True, "bpf_error": errno.EPERM}, "--userns=host"),
        ({"tracepoint"}, {"kprobe_pmu": False}, ""),
        ({"kprobe", "fentry", "tracepoint"}, {}, ""),
    ],
)
def test_what_mends_a_hook_is_what_its_plans_depend_on(
    families: set[str], changes: dict[str, Any], fix: str
) -> None:
    assert fix in mending(families, findings(machine(**changes)))
    assert bool(fix) == bool(mending(families, findings(machine(**changes))))
