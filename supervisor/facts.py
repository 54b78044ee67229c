"""What there is to know of this machine before anything is loaded, read once and by nobody else.

The judgement is in doctor.py: it takes these facts, this machine's or any other's.
"""

import errno
import gzip
import json
import os
import platform
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from supervisor import kprobe_events, linux
from supervisor.kernel import btf, cgroup_hierarchy, namespace

_CONFIG_LINE: Final = re.compile(r"^(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)$", re.MULTILINE)
_PRESENT: Final = re.compile(r"\[(\w+)\]")
_SYSCTLS: Final = (
    "kernel/kptr_restrict",
    "kernel/perf_event_paranoid",
    "kernel/unprivileged_bpf_disabled",
    "kernel/ftrace_enabled",
    "net/core/bpf_jit_enable",
)
_HEADERS: Final = ("asm/unistd_64.h", "asm-generic/unistd.h")


@dataclass(frozen=True)
class Facts:
    """One machine.

    config: options of the kernel ("y", "m", "n" …), None where they cannot be read; config_from: the file.
    mounted: where each kind of file system is mounted. offered: kinds that the kernel has. sysctls: by name,
    those that there are. lockdown, selinux: the mode, "" = the kernel does not have it. apparmor: the profile
    of this process, "" = none. kprobes_on: what debugfs says, None = nothing. memlock_bytes: the hard limit,
    None = unlimited. capabilities: mask of the effective ones. bpf_error: of trying to make a map, 0 = it
    works. refused: by family of hooks what its plans were refused with, "" = some work; a family that was not
    tried is not in it.
    """

    release: str
    config: Mapping[str, str] | None = None
    config_from: str = ""
    btf: bool = True
    kprobe_pmu: bool = True
    kprobes_on: bool | None = None
    mounted: Mapping[str, str] = field(default_factory=dict)
    offered: frozenset[str] = frozenset({"tracefs", "debugfs"})
    sysctls: Mapping[str, int] = field(default_factory=dict)
    lockdown: str = ""
    selinux: str = ""
    selinux_context: str = ""
    apparmor: str = ""
    memlock_bytes: int | None = None
    capabilities: int = (1 << 41) - 1
    seccomp: bool = False
    own_user_namespace: bool = False
    bpf_error: int = 0
    bcc: str = ""
    headers: bool = True
    cgroups: int = 2  # version, 0 = none is mounted
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> tuple[int, int]:
        found = re.match(r"(\d+)\.(\d+)", self.release)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def gather() -> Facts:
    """Those of this machine. Needs root to see all of them."""
    release = platform.release()
    config, config_from = _config(release)
    status = _status()
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    hierarchy = cgroup_hierarchy.find()
    return Facts(
        release=release,
        config=config,
        config_from=config_from,
        btf=(btf.FOLDER / "vmlinux").exists(),
        kprobe_pmu=kprobe_events.PMU.exists(),
        mounted=_mounted(),
        offered=_offered(),
        sysctls={
            name: value for name in _SYSCTLS if (value := _number(Path("/proc/sys") / name)) is not None
        },
        memlock_bytes=None if limit == resource.RLIM_INFINITY else limit,
        capabilities=int(status.get("CapEff", "0"), 16),
        seccomp=status.get("Seccomp", "0") == "2",
        own_user_namespace=_read(Path("/proc/self/uid_map")).split() not in ([], ["0", "0", "4294967295"]),
        bpf_error=_bpf_error(),
        bcc=_bcc(),
        headers=any(
            (folder / name).is_file()
            for name in _HEADERS
            for folder in (Path("/usr/include"), Path(f"/usr/include/{platform.machine()}-linux-gnu"))
        ),
        cgroups=hierarchy.version if hierarchy else 0,
        **_security(),
    )


def options(text: str) -> dict[str, str]:
    """Those of a kernel's configuration file, without CONFIG_; "n" for what is not set."""
    return {
        (set_ or unset).removeprefix("CONFIG_"): value or "n"
        for set_, value, unset in _CONFIG_LINE.findall(text)
    }


def _config(release: str) -> tuple[dict[str, str] | None, str]:
    packed = Path("/proc/config.gz")
    if packed.exists():
        return options(gzip.decompress(packed.read_bytes()).decode(errors="replace")), str(packed)
    for path in (Path(f"/boot/config-{release}"), Path(f"/lib/modules/{release}/config")):
        if text := _read(path):
            return options(text), str(path)
    return None, ""


def _read(path: Path) -> str:
    """The text of a file, "" when it is not there or may not be read."""
    try:
        return path.read_text(errors="replace").strip().rstrip("\0")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _status() -> dict[str, str]:
    lines = (line.partition(":") for line in _read(Path("/proc/self/status")).splitlines())
    return {name: value.strip() for name, _, value in lines}


def _mounted() -> dict[str, str]:
    lines = [line.split() for line in _read(Path("/proc/mounts")).splitlines()]
    return {line[2]: line[1] for line in reversed(lines) if len(line) > 2}


def _offered() -> frozenset[str]:
    return frozenset(line.split()[-1] for line in _read(Path("/proc/filesystems")).splitlines() if line)


def _bpf_error() -> int:
    try:
        os.close(linux.bpf_create_array(1, 8, 0))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _bcc() -> str:
    try:
        import bcc
    except ImportError:
        return ""
    return str(getattr(bcc, "__version__", "present"))


def _security() -> dict[str, Any]:
    """What security modules and debugfs say, read in a child that mounts what is not mounted for itself."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(_seen_with_mounts()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    seen: dict[str, Any] = json.loads(told) if told else {}
    return seen


def _seen_with_mounts() -> dict[str, Any]:
    mounted = _mounted()
    security, debug = Path("/sys/kernel/security"), Path("/sys/kernel/debug")
    try:
        namespace.enter()
        for kind, place in (("securityfs", security), ("debugfs", debug)):
            if kind not in mounted:
                linux.mount(kind, str(place), kind, linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    except OSError:
        pass  # what cannot be mounted cannot be read: that is the answer then
    mode = _PRESENT.search(_read(security / "lockdown"))
    enforce = _read(Path("/sys/fs/selinux/enforce"))
    context = _read(Path("/proc/self/attr/current"))
    apparmor = _read(Path("/sys/module/apparmor/parameters/enabled")) == "Y"
    switch = _read(debug / "kprobes" / "enabled")
    return {
        "lockdown": mode[1] if mode else "",
        "selinux": {"1": "enforcing", "0": "permissive"}.get(enforce, ""),
        "selinux_context": context if enforce else "",
        "apparmor": (_read(Path("/proc/self/attr/apparmor/current")) or context) if apparmor else "",
        "kprobes_on": switch != "0" if switch else None,
    }
