"""The table of options: every key that a file of the configuration may hold, what it takes, and who uses it.

To add a program, add its name to `PROGRAMS`: its keys are here already, since all of Netdata's are. Which of
them it heeds stands in its row of `MODULES`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from supervisor.config.kinds import (
    FALSE_WORDS,
    TRUE_WORDS,
    AbsolutePath,
    Choice,
    Flag,
    Kind,
    Seconds,
    Text,
    Value,
    Whole,
)
from supervisor.config.networks import ADDRESSES, PORTS

PROGRAMS: Final = (
    "process",
    "socket",
    "cachestat",
    "dcstat",
    "disk",
    "fd",
    "filesystem",
    "hardirq",
    "softirq",
    "mdflush",
    "mount",
    "oomkill",
    "shm",
    "swap",
    "sync",
    "vfs",
)
"""The programs that exist, in the order in which they are started and shown."""

GLOBAL: Final = "global"
SWITCHES: Final = "ebpf programs"
SUPERVISION: Final = "supervisor"


@dataclass(frozen=True)
class Option:
    """One key of one section.

    `aliases` are other names of the key, which go before it as in Netdata. `used` says that something here
    heeds the key: the others are recognised and checked, so that a site's file raises no warning. `current`
    is False for a key that is read only for the sake of old files, and not shown in the manual. `member` is
    the hook or the part of the program (workers/declaration.py) that the key switches on and off, or several.
    """

    section: str
    key: str
    kind: Kind
    default: Value
    meaning: str
    aliases: tuple[str, ...] = ()
    used: bool = True
    current: bool = True
    member: str = ""

    @property
    def in_manual(self) -> bool:
        """Whether the shipped file shows this key."""
        return self.used and self.current


@dataclass(frozen=True)
class FileOptions:
    """What one file may hold. Any key with any text is right in an open section."""

    options: tuple[Option, ...]
    open_sections: frozenset[str] = frozenset()

    @property
    def sections(self) -> list[str]:
        return [*dict.fromkeys(option.section for option in self.options), *sorted(self.open_sections)]

    def of_section(self, section: str) -> dict[str, Option]:
        """Every name, alias or not, by which a key of the section may be called."""
        options = [option for option in self.options if option.section == section]
        return {name: option for option in options for name in (option.key, *option.aliases)}


@dataclass(frozen=True)
class Module:
    """A file in `ebpf.d/` and, but for `functions.conf`, the program it is for.

    `files` are its names, the first one found counts. `switches` are the keys of `[ebpf programs]` that mean
    it, the proper one first. `heeds` are the common keys that have an effect on it, `extra` are its own keys.
    """

    name: str
    files: tuple[str, ...]
    switches: tuple[str, ...]
    heeds: frozenset[str] = frozenset()
    extra: tuple[Option, ...] = ()
    open_sections: frozenset[str] = frozenset()
    without_effect: tuple[Option, ...] = ()

    @property
    def exists(self) -> bool:
        return self.name in PROGRAMS

    @property
    def members(self) -> dict[tuple[str, str], str]:
        """What each switch of a part of the program is for, by section and key: names of hooks or parts."""
        return {(o.section, o.key): o.member for o in self.extra if o.member}


# 2^22 is the largest pid_max of a 64-bit kernel; below 64 not even an idle machine's own tasks have a row.
PID_TABLE_SIZE: Final = Whole(64, 4194304)
TABLE_SIZE: Final = Whole(1, 4194304)
UPDATE_EVERY: Final = Whole(1, 86400)
LIFETIME: Final = Whole(0, 2147483647)
# Netdata's developer mode attaches what return mode attaches.
LOAD_MODE: Final = Choice(("entry", "return"), synonyms=(("dev", "return"),))
TYPE_FORMAT: Final = Choice(("auto", "legacy", "co-re"))
TRACING: Final = Choice(("trampoline", "tracepoint", "probe"))
COLLECT_PID: Final = Choice(("real parent", "parent", "all"))
OBJECT_FLAVOR: Final = Choice(
    ("arena", "buffer", "legacy"),
    synonyms=(("buffer ring", "buffer"), ("ring buffer", "buffer"), ("tracing", "legacy")),
)
CHART_NAMING: Final = Choice(("auto", "classic", "modern"))
KPROBE_ATTACH: Final = Choice(("auto", "kprobe_events"))
MAP_READING: Final = Choice(("auto", "mmap", "lookup"))
LOG_LEVEL: Final = Choice(("debug", "info", "warning", "error"), synonyms=(("warn", "warning"),))


def _unused(section: str, key: str, kind: Kind, default: Value, meaning: str, *aliases: str) -> Option:
    return Option(section, key, kind, default, meaning, aliases, used=False)


_LOAD_MODE = Option(
    GLOBAL, "ebpf load mode", LOAD_MODE, "entry", "count calls, or look at what they return too"
)
_UPDATE_EVERY = Option(GLOBAL, "update every", UPDATE_EVERY, 1, "seconds between two samples")
_APPS = Option(GLOBAL, "apps", Flag(), True, "charts for each application group")
_CGROUPS = Option(GLOBAL, "cgroups", Flag(), True, "charts for each cgroup and systemd service")
_PID_TABLE_SIZE = Option(GLOBAL, "pid table size", PID_TABLE_SIZE, 32768, "processes counted apart at a time")
_TYPE_FORMAT = Option(GLOBAL, "ebpf type format", TYPE_FORMAT, "auto", "the family of hooks to choose from")
_TRACING = Option(GLOBAL, "ebpf co-re tracing", TRACING, "trampoline", "the kind of hook that is tried first")
_MAPS_PER_CORE = Option(GLOBAL, "maps per core", Flag(), False, "spread counters over the CPUs")
_COLLECT_PID = Option(
    GLOBAL, "collect pid", COLLECT_PID, "real parent", "the process that events are noted for"
)
_LIFETIME = Option(
    GLOBAL, "lifetime", LIFETIME, 300, "seconds that a program runs which only `ebpfctl start` has started"
)
_OBJECT_FLAVOR = _unused(GLOBAL, "ebpf object flavor", OBJECT_FLAVOR, "buffer", "the object files to load")

_COMMON: Final = (
    _LOAD_MODE,
    _UPDATE_EVERY,
    _APPS,
    _CGROUPS,
    _PID_TABLE_SIZE,
    _TYPE_FORMAT,
    _TRACING,
    _MAPS_PER_CORE,
    _COLLECT_PID,
    _LIFETIME,
    _OBJECT_FLAVOR,
)
"""The keys that every module file may hold."""

_HOST_WIDE: Final = frozenset({_UPDATE_EVERY.key})
_HOOKED: Final = _HOST_WIDE | {_LOAD_MODE.key, _TYPE_FORMAT.key, _TRACING.key}
_PER_PROCESS: Final = _HOOKED | {
    option.key for option in (_APPS, _CGROUPS, _PID_TABLE_SIZE, _MAPS_PER_CORE, _COLLECT_PID)
}


def _members(section: str, meaning: str, suffix: str, *members: str) -> tuple[Option, ...]:
    return tuple(
        Option(section, f"{name}{suffix}", Flag(), True, f"{meaning} {name}", used=False, member=member)
        for member in members
        for name in member.split()[:1]
    )


def _connections(section: str, current: bool = True) -> tuple[Option, ...]:
    options = (
        Option(section, "enabled", Flag(), True, "tell connections apart"),
        Option(
            section,
            "maximum dimensions",
            Whole(0, 1000000),
            500,
            "lines of a chart; two are a connection, and the other connections are one together",
        ),
        Option(
            section,
            "resolve hostnames",
            Flag(),
            False,
            "names of hosts instead of addresses",
            ("resolve hostname ips",),
        ),
        Option(section, "resolve service names", Flag(), False, "names of services instead of ports"),
        Option(section, "ports", PORTS, "*", "ports of services that are shown"),
        Option(section, "ips", ADDRESSES, "*", "remote addresses that are shown"),
        Option(
            section, "hostnames", Text(), "*", "names of remote hosts that are shown, where they are resolved"
        ),
    )
    return tuple(replace(option, current=current) for option in options)


CONNECTIONS: Final = "network connections"
# What the section was called when there was one file only.
OLD_CONNECTIONS: Final = "network viewer"
SERVICE_NAMES: Final = "service name"
_CONNECTIONS: Final = (*_connections(CONNECTIONS), *_connections(OLD_CONNECTIONS, current=False))
# The switch of connections: with the program socket, with it and that one too, or without.
CONNECTIONS_SWITCH: Final = Choice(
    ("auto", "yes", "no"),
    synonyms=tuple((word, "yes") for word in sorted(TRUE_WORDS - {"yes", "auto"}))
    + tuple((word, "no") for word in sorted(FALSE_WORDS - {"no"})),
)
_SERVICE_NAMES: Final = frozenset({SERVICE_NAMES})
# Rows of 16 KB pages of 256, of which two are for all others.
CONNECTION_TABLE_SIZE: Final = Whole(256, 1048576)

_SOCKET_TABLES: Final = (
    _unused(GLOBAL, "bandwidth table size", TABLE_SIZE, 16384, "processes with a bandwidth"),
    _unused(GLOBAL, "ipv4 connection table size", TABLE_SIZE, 16384, "IPv4 connections"),
    _unused(GLOBAL, "ipv6 connection table size", TABLE_SIZE, 16384, "IPv6 connections"),
    _unused(GLOBAL, "udp connection table size", TABLE_SIZE, 4096, "UDP requests under way"),
)
_DNS: Final = (
    _unused(GLOBAL, "per query tracking", Flag(), True, "whether single queries are followed"),
    _unused(GLOBAL, "flow ttl", Whole(0, 86400), 20, "seconds that a flow is remembered"),
)
_FILESYSTEMS: Final = ("btrfs", "ext4", "nfs nfs4", "xfs", "zfs")
_SYNC_CALLS: Final = ("sync", "msync", "fsync", "fdatasync", "syncfs", "sync_file_range")
_SHM_CALLS: Final = ("shmget", "shmat", "shmdt", "shmctl")


def _module(name: str, heeds: frozenset[str], *extra: Option) -> Module:
    return Module(name, (f"{name}.conf",), (name,), heeds, extra)


MODULES: Final = {
    module.name: module
    for module in (
        _module("process", _PER_PROCESS),
        Module(
            "socket",
            ("network.conf", "socket.conf"),
            ("socket", "network viewer"),
            _PER_PROCESS,
            (
                Option(
                    GLOBAL,
                    "socket monitoring table size",
                    CONNECTION_TABLE_SIZE,
                    4096,
                    "remote services and own ports told apart at a time",
                ),
                *_CONNECTIONS,
            ),
            open_sections=_SERVICE_NAMES,
            without_effect=_SOCKET_TABLES,
        ),
        _module("cachestat", _PER_PROCESS),
        _module("dcstat", _PER_PROCESS),
        _module("disk", _HOST_WIDE),
        _module("fd", _PER_PROCESS),
        _module("filesystem", _HOOKED, *_members("filesystem", "latency of", "dist", *_FILESYSTEMS)),
        _module("hardirq", _HOST_WIDE),
        _module("softirq", _HOST_WIDE),
        _module("mdflush", _HOOKED),
        _module("mount", _HOOKED),
        _module("oomkill", _PER_PROCESS),
        _module("shm", _PER_PROCESS, *_members("syscalls", "calls of", "", *_SHM_CALLS)),
        _module("swap", _PER_PROCESS),
        _module("sync", _HOOKED, *_members("syscalls", "calls of", "", *_SYNC_CALLS)),
        _module("vfs", _PER_PROCESS),
        _module("dns", frozenset(), *_DNS),
        Module("functions", ("functions.conf",), ()),
    )
}
"""Every module file, by the name of its program."""


def _switch(module: Module) -> Option:
    name, *aliases = module.switches
    return Option(SWITCHES, name, Flag(), True, f"run the program {name}", tuple(aliases), used=module.exists)


def _seconds(key: str, low: float, high: float, default: float, meaning: str) -> Option:
    return Option(SUPERVISION, key, Seconds(low, high), default, meaning)


MAIN: Final = FileOptions(
    (
        replace(_LOAD_MODE, aliases=("load",)),
        _APPS,
        Option(GLOBAL, "disable apps", Flag(), False, "the old opposite of apps; yes wins", current=False),
        _CGROUPS,
        _UPDATE_EVERY,
        _PID_TABLE_SIZE,
        Option(GLOBAL, "btf path", AbsolutePath(), "/sys/kernel/btf", "folder of the kernel's types"),
        _TYPE_FORMAT,
        _MAPS_PER_CORE,
        _LIFETIME,
        _OBJECT_FLAVOR,
        *(_switch(module) for module in MODULES.values() if module.switches),
        Option(
            SWITCHES,
            CONNECTIONS,
            CONNECTIONS_SWITCH,
            "auto",
            "tell connections apart",
            ("network connection monitoring",),
        ),
        *(replace(option, current=False) for option in _CONNECTIONS),
        _unused(
            "ipc", "integration", Choice(("shm", "socket", "disabled")), "disabled", "how plugins share data"
        ),
        _unused("ipc", "bind to", Text(), "", "where plugins are asked for data"),
        _unused("ipc", "backlog", Whole(0, 65535), 20, "requests that may wait"),
        _seconds("startsecs", 0, 3600, 1.0, "a worker that lived this long counts as started"),
        Option(SUPERVISION, "startretries", Whole(0, 1000), 3, "tries in a row before a program is FATAL"),
        _seconds("stopwaitsecs", 0.1, 600, 5.0, "time to stop before a worker is killed"),
        _seconds(
            "backoff_initial_secs",
            0.01,
            3600,
            0.5,
            "pause before the first retry; each further one is doubled",
        ),
        _seconds("backoff_max_secs", 0.01, 86400, 60.0, "longest pause between retries"),
        _seconds("fatal_retry_secs", 1, 86400, 300.0, "pause before a FATAL program is tried again"),
        _seconds(
            "loader_timeout_secs", 1, 3600, 60.0, "time that compiling and attaching a program may take"
        ),
        Option(
            SUPERVISION, "hung_after_ticks", Whole(2, 3600), 4, "samples missed before a worker is killed"
        ),
        Option(
            SUPERVISION,
            "chart naming",
            CHART_NAMING,
            "auto",
            "ids of charts as up to Netdata v1.43, or later",
        ),
        Option(SUPERVISION, "map reading", MAP_READING, "auto", "how counters are read from the kernel"),
        Option(SUPERVISION, "kprobe attach", KPROBE_ATTACH, "auto", "how kprobes are attached"),
        Option(SUPERVISION, "stream group", Text(), "netdata", "group that may read a served stream"),
        Option(SUPERVISION, "loglevel", LOG_LEVEL, "info", "least level that is logged"),
    ),
    _SERVICE_NAMES,
)
"""What `ebpf.d.conf` may hold."""


def module_options(module: Module) -> FileOptions:
    """What the module's file may hold. The main file's values stand over the defaults of common keys."""
    common = tuple(
        replace(option, used=option.used and module.exists and option.key in module.heeds)
        for option in _COMMON
    )
    extra = tuple(replace(option, used=module.exists) for option in module.extra)
    return FileOptions((*common, *extra, *module.without_effect), module.open_sections)
