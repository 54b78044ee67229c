"""What the facts of a machine mean: one small function for each thing, and a table of them.

Each says what was found, what its lack costs, and the command that mends it. None looks at the machine.
"""

import errno
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from supervisor.facts import Facts

Mark = Literal["yes", "part", "no"]


@dataclass(frozen=True)
class Finding:
    """One thing that the machine has (yes), has with a limit (part), or lacks (no)."""

    name: str
    mark: Mark
    found: str
    costs: str = ""
    fix: str = ""

    @property
    def present(self) -> bool:
        return self.mark != "no"


@dataclass(frozen=True)
class Option:
    """An option of the kernel. name: without CONFIG_. costs: what there is not without it."""

    name: str
    costs: str


OPTIONS: Final = (
    Option("BPF", "everything: there is no eBPF"),
    Option("BPF_SYSCALL", "everything: programs cannot be loaded"),
    Option("BPF_JIT", "speed, and all fentry plans"),
    Option("BPF_EVENTS", "everything: programs cannot be attached to events"),
    Option("PERF_EVENTS", "tracepoint and kprobe plans"),
    Option("FTRACE_SYSCALLS", "tracepoint plans for system calls"),
    Option("HAVE_KPROBES", "kprobe plans: this processor has none"),
    Option("KPROBES", "kprobe plans"),
    Option("KPROBE_EVENTS", "kprobe plans"),
    Option("KPROBES_ON_FTRACE", "cheap kprobes at the beginning of functions"),
    Option("FUNCTION_TRACER", "fentry plans"),
    Option("DYNAMIC_FTRACE_WITH_DIRECT_CALLS", "fentry plans"),
    Option("DEBUG_INFO_BTF", "fentry plans"),
    Option("CGROUPS", "charts of containers and services"),
)
_OLD: Final = {"BPF_EVENTS", "DYNAMIC_FTRACE_WITH_DIRECT_CALLS", "DEBUG_INFO_BTF", "KPROBES_ON_FTRACE"}

# What each mode of lockdown forbids, of all that eBPF and tracing need (include/linux/security.h: integrity
# ends at LOCKDOWN_INTEGRITY_MAX, confidentiality adds what stands behind it), and what that means here.
LOCKDOWN: Final[Mapping[str, tuple[str, str]]] = {
    "none": ("nothing", "all plans"),
    "integrity": ("bpf_probe_write_user, writing to debugfs", "all plans: nothing of it is used"),
    "confidentiality": (
        "kprobes, tracefs, perf, reading kernel memory",
        "fentry and raw tracepoints at most; no kprobe, no tracepoint of tracefs",
    ),
}

# Number (linux/capability.h) and use of each capability that the supervisor needs.
CAPABILITIES: Final = (
    (0, "CAP_CHOWN", "handing its folder to the workers' account"),
    (5, "CAP_KILL", "ending workers, which are another user's"),
    (6, "CAP_SETGID", "giving workers their group"),
    (7, "CAP_SETUID", "giving workers their account"),
    (8, "CAP_SETPCAP", "emptying the bounding set"),
    (21, "CAP_SYS_ADMIN", "mounting tracefs for a loader, and loading programs before 5.8"),
    (24, "CAP_SYS_RESOURCE", "raising the limit of locked memory before 5.11"),
    (38, "CAP_PERFMON", "attaching programs (5.8 and later)"),
    (39, "CAP_BPF", "loading programs (5.8 and later)"),
)
_SPLIT: Final = (5, 8)  # since when CAP_PERFMON and CAP_BPF stand apart from CAP_SYS_ADMIN
_NOT_NEEDED: Final = {"CAP_SYS_RESOURCE": (5, 11)}  # since when the kernel does without

_LOCK_FREE: Final = (5, 11)  # since when maps are the memory controller's matter
_MAPPED: Final = (5, 5)  # since when arrays can be mapped
_LEAST_LOCKED: Final = 256 << 20


def kernel(facts: Facts) -> Finding:
    if facts.version < _MAPPED:
        costs = "reading without privilege: workers keep a capability and read by system calls"
        return Finding("kernel", "part", facts.release, costs, "a kernel of 5.5 or later")
    return Finding("kernel", "yes", facts.release)


def bpf_call(facts: Facts) -> Finding:
    if not facts.bpf_error:
        return Finding("bpf()", "yes", "a map can be made")
    why = os.strerror(facts.bpf_error)
    fix = "a kernel built with CONFIG_BPF_SYSCALL=y"
    if facts.bpf_error == errno.EPERM:
        fix = "run it as root of the host, outside of any container: sudo ebpf-supervisor check"
    return Finding("bpf()", "no", f"a map cannot be made: {why}", "everything", fix)


def types(facts: Facts) -> Finding:
    if facts.btf:
        return Finding(
            "BTF", "yes", "/sys/kernel/btf/vmlinux (a configuration's `btf path` is not looked at)"
        )
    fix = "a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    return Finding("BTF", "no", "no /sys/kernel/btf/vmlinux", "fentry plans", fix)


def trampolines(facts: Facts) -> Finding | None:
    if "fentry" not in facts.refused:
        return None
    why = facts.refused["fentry"]
    if not why:
        return Finding("fentry", "yes", "programs run at functions' trampolines")
    wanted = ("DYNAMIC_FTRACE_WITH_DIRECT_CALLS", "DEBUG_INFO_BTF")
    if facts.sysctls.get("kernel/ftrace_enabled") == 0:
        fix = "sysctl -w kernel.ftrace_enabled=1"
    elif facts.config and all(facts.config.get(option) == "y" for option in wanted):
        fix = "another kernel: this one is built for them, and refuses them all the same"
    else:
        fix = f"a kernel built with {' and '.join(f'CONFIG_{option}=y' for option in wanted)}"
    return Finding("fentry", "no", why, "the cheapest plans; others are taken where there are some", fix)


def kprobes(facts: Facts) -> Finding:
    if facts.kprobe_pmu:
        return Finding("kprobes", "yes", "kprobe PMU")
    if facts.version < (4, 17) and (facts.config or {}).get("KPROBES") == "y":
        return Finding("kprobes", "yes", "no kprobe PMU (4.17 and later); lines of kprobe_events are used")
    fix = "a kernel built with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y (distributions' own are)"
    return Finding("kprobes", "no", "this kernel has none", "kprobe plans", fix)


def kprobes_on(facts: Facts) -> Finding | None:
    if facts.kprobes_on is None:
        return None
    if facts.kprobes_on:
        return Finding("kprobes on", "yes", "debugfs says that they fire")
    fix = "echo 1 > /sys/kernel/debug/kprobes/enabled"
    return Finding("kprobes on", "no", "they are switched off in debugfs", "kprobe plans never fire", fix)


def ftrace(facts: Facts) -> Finding | None:
    switch = facts.sysctls.get("kernel/ftrace_enabled")
    if switch is None:
        return None
    if switch:
        return Finding("ftrace on", "yes", "kernel.ftrace_enabled = 1")
    fix = "sysctl -w kernel.ftrace_enabled=1"
    costs = "fentry plans and kprobes at the beginning of functions never fire"
    return Finding("ftrace on", "no", "kernel.ftrace_enabled = 0", costs, fix)


def jit(facts: Facts) -> Finding | None:
    if facts.sysctls.get("net/core/bpf_jit_enable", 1):
        return None
    fix = "sysctl -w net.core.bpf_jit_enable=1"
    return Finding("JIT on", "part", "net.core.bpf_jit_enable = 0", "speed, and all fentry plans", fix)


def lockdown(facts: Facts) -> Finding:
    if not facts.lockdown:
        return Finding("lockdown", "yes", "this kernel has none, or does not tell")
    forbids, means = LOCKDOWN.get(facts.lockdown, ("unknown", "unknown"))
    if facts.lockdown != "confidentiality":
        return Finding("lockdown", "yes", f"{facts.lockdown}: forbids {forbids}; {means}")
    fix = "add lockdown=integrity to the kernel's command line and boot: it cannot be lowered while it runs"
    return Finding("lockdown", "no", f"{facts.lockdown}: forbids {forbids}", f"all but {means}", fix)


def selinux(facts: Facts) -> Finding:
    if facts.selinux != "enforcing":
        return Finding("SELinux", "yes", facts.selinux or "absent or disabled")
    if "unconfined" in facts.selinux_context:
        return Finding("SELinux", "yes", f"enforcing; {facts.selinux_context} is not confined")
    return Finding(
        "SELinux",
        "part",
        f"enforcing, in {facts.selinux_context or 'an unknown context'}",
        "what the policy does not allow: bpf, perf_event, mounting tracefs",
        "ausearch -m avc -c ebpf-supervisor --raw | audit2allow -M ebpf_supervisor_local && "
        "semodule -i ebpf_supervisor_local.pp",
    )


def apparmor(facts: Facts) -> Finding:
    if not facts.apparmor:
        return Finding("AppArmor", "yes", "absent or disabled")
    profile, _, mode = facts.apparmor.partition(" ")
    if profile == "unconfined" or mode != "(enforce)":
        return Finding("AppArmor", "yes", facts.apparmor)
    return Finding(
        "AppArmor", "part", facts.apparmor, "what the profile does not allow", f"aa-complain {profile}"
    )


def tracefs(facts: Facts) -> Finding:
    if place := facts.mounted.get("tracefs"):
        return Finding("tracefs", "yes", f"at {place}")
    if "tracefs" in facts.offered:
        return Finding("tracefs", "yes", "not mounted; each loader mounts one for itself")
    fix = "a kernel built with CONFIG_FTRACE=y"
    return Finding("tracefs", "no", "this kernel has none", "tracepoint plans, kprobe_events", fix)


def debugfs(facts: Facts) -> Finding:
    found = f"at {facts.mounted['debugfs']}" if "debugfs" in facts.mounted else "not mounted"
    return Finding("debugfs", "yes", f"{found}; nothing but this check looks into it")


def memory_lock(facts: Facts) -> Finding:
    able = bool(facts.capabilities & 1 << 24)
    limit = facts.memlock_bytes
    if facts.version >= _LOCK_FREE:
        return Finding("memory lock", "yes", "no limit on maps since 5.11")
    if able or limit is None or limit >= _LEAST_LOCKED:
        return Finding("memory lock", "yes", "unlimited" if limit is None or able else f"{limit >> 20} MB")
    fix = "ulimit -Hl unlimited, or LimitMEMLOCK=infinity in the unit"
    return Finding("memory lock", "no", f"{limit >> 20} MB of locked memory at most", "large maps", fix)


def capabilities(facts: Facts) -> Finding:
    lacking = [
        (name, use)
        for number, name, use in CAPABILITIES
        if not facts.capabilities & 1 << number
        and not (number >= 38 and facts.version < _SPLIT)
        and facts.version < _NOT_NEEDED.get(name, (99, 0))
    ]
    if not lacking:
        return Finding("capabilities", "yes", "all that are needed")
    names = ", ".join(name for name, _ in lacking)
    fix = f"run it as root of the host; in a unit: CapabilityBoundingSet={names.replace(', ', ' ')}"
    return Finding("capabilities", "no", f"without {names}", "; ".join(use for _, use in lacking), fix)


def seccomp(facts: Facts) -> Finding | None:
    if not facts.seccomp:
        return None
    return Finding(
        "seccomp",
        "part",
        "a filter of system calls is on",
        "whatever it forbids of bpf, perf_event_open, mount, unshare",
        "for a container: --security-opt seccomp=unconfined; for a unit: "
        "SystemCallFilter=bpf perf_event_open @mount unshare",
    )


def user_namespace(facts: Facts) -> Finding | None:
    if not facts.own_user_namespace:
        return None
    fix = "run it on the host, or in a container of the host's user namespace (--userns=host --privileged)"
    return Finding("user namespace", "no", "not the host's", "everything: its root is no root there", fix)


def kernel_pointers(facts: Facts) -> Finding | None:
    value = facts.sysctls.get("kernel/kptr_restrict")
    if value is None:
        return None
    return Finding("kptr_restrict", "yes", f"{value}; names are all that is read of kallsyms")


def perf_paranoid(facts: Facts) -> Finding | None:
    value = facts.sysctls.get("kernel/perf_event_paranoid")
    if value is None:
        return None
    return Finding("perf_event_paranoid", "yes", f"{value}; it does not concern who has CAP_PERFMON")


def unprivileged_bpf(facts: Facts) -> Finding | None:
    value = facts.sysctls.get("kernel/unprivileged_bpf_disabled")
    if value is None:
        return None
    name = "unprivileged_bpf"
    if not value:
        costs = "the host's safety: any user may load programs. Nothing here needs that"
        return Finding(name, "part", "allowed", costs, "sysctl -w kernel.unprivileged_bpf_disabled=2")
    if facts.version < _MAPPED:
        costs = "workers without any capability: they keep one to read maps"
        return Finding(name, "part", f"disabled ({value})", costs, "a kernel of 5.5 or later")
    return Finding(name, "yes", f"disabled ({value}); workers read by mmap, which is no bpf()")


def compiler(facts: Facts) -> Finding:
    if facts.bcc:
        return Finding("BCC", "yes", facts.bcc)
    return Finding("BCC", "no", "absent", "everything", "apt-get install python3-bpfcc")


def headers(facts: Facts) -> Finding:
    if facts.headers:
        return Finding("headers", "yes", "those of linux-libc-dev; a kernel's own are not needed")
    return Finding("headers", "no", "no asm/unistd.h", "everything", "apt-get install linux-libc-dev")


def cgroups(facts: Facts) -> Finding:
    if facts.cgroups:
        return Finding("cgroups", "yes", f"version {facts.cgroups}")
    fix = "mount -t cgroup2 none /sys/fs/cgroup"
    return Finding("cgroups", "no", "none are mounted", "charts of containers and services", fix)


def kernel_options(facts: Facts) -> Iterator[Finding]:
    """What is not set of what is of use; one line when all is."""
    if facts.config is None:
        costs = "nothing: what programs need is tried"
        found = f"no /proc/config.gz and no /boot/config-{facts.release}"
        yield Finding("options", "part", found, costs, "modprobe configs")
        return
    config = facts.config
    lacking = [
        option
        for option in OPTIONS
        if config.get(option.name, "n") == "n" and not (option.name in _OLD and option.name not in config)
    ]
    if not lacking:
        yield Finding("options", "yes", f"{facts.config_from}: all {len(OPTIONS)} that are of use are set")
    for option in lacking:
        fix = f"a kernel built with CONFIG_{option.name}=y"
        yield Finding(option.name, "no", f"not set in {facts.config_from}", option.costs, fix)


Check = Callable[[Facts], Finding | None]

CHECKS: Final[Sequence[Check]] = (
    kernel,
    bpf_call,
    compiler,
    headers,
    types,
    trampolines,
    kprobes,
    kprobes_on,
    ftrace,
    jit,
    tracefs,
    debugfs,
    lockdown,
    selinux,
    apparmor,
    seccomp,
    user_namespace,
    capabilities,
    memory_lock,
    kernel_pointers,
    perf_paranoid,
    unprivileged_bpf,
    cgroups,
)


def findings(facts: Facts) -> list[Finding]:
    """All that there is to say of these facts."""
    found = [finding for check in CHECKS if (finding := check(facts)) is not None]
    return [*found, *kernel_options(facts)]


# Which findings a family of plans depends on, in the order in which one asks for them.
_SERVES: Final[Mapping[str, Sequence[str]]] = {
    "tracepoint": ("tracefs", "lockdown", "FTRACE_SYSCALLS"),
    "kprobe": ("kprobes on", "ftrace on", "lockdown", "kprobes"),
    "fentry": ("BTF", "JIT on", "fentry"),
}
_FIRST: Final = ("user namespace", "bpf()", "BCC", "headers", "capabilities")
_LAST: Final = ("SELinux", "AppArmor", "seccomp")


def mending(families: Container[str], found: Sequence[Finding]) -> str:
    """How hooks that have plans of these families can be had on this machine, "" = nothing is known."""
    by_name = {finding.name: finding for finding in found if finding.mark != "yes"}
    serving = [name for family, names in _SERVES.items() if family in families for name in names]
    for name in (*_FIRST, *serving, *_LAST):
        if name in by_name:
            return by_name[name].fix
    return ""
