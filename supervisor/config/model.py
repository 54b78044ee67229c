"""The configuration as the rest of the project sees it: all values checked, and decided for each program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from supervisor.config.networks import Selection

LoadMode = Literal["entry", "return"]
TypeFormat = Literal["auto", "legacy", "co-re"]
Tracing = Literal["trampoline", "tracepoint", "probe"]
CollectPid = Literal["real parent", "parent", "all"]
MapReading = Literal["auto", "mmap", "lookup"]
KprobeAttach = Literal["auto", "kprobe_events"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class Connections:
    """How connections are told apart. names: what ports are called. table_size: kernel rows."""

    table_size: int
    maximum_dimensions: int
    resolve_hosts: bool
    resolve_services: bool
    ports: Selection
    addresses: Selection
    hostnames: str  # simple patterns, "*" = all
    names: Mapping[int, str]

    @property
    def by_address(self) -> bool:
        """Whether inbound connections have to be told apart by who makes them."""
        return not self.addresses.all or (self.resolve_hosts and self.hostnames.split() != ["*"])


@dataclass(frozen=True)
class ProgramConfig:
    """What holds for one program."""

    name: str
    enabled: bool
    load_mode: LoadMode
    update_every_s: int
    apps: bool
    cgroups: bool
    pid_table_size: int  # processes
    maps_per_core: bool
    type_format: TypeFormat
    co_re_tracing: Tracing
    collect_pid: CollectPid
    lifetime_s: int
    without: frozenset[str] = frozenset()  # names of hooks or parts that its file switches off
    connections: Connections | None = None  # of the program that tells them apart, None = it does not


@dataclass(frozen=True)
class Supervision:
    """The section `[supervisor]`, under Supervisor's names."""

    startsecs: float
    startretries: int
    stopwaitsecs: float
    backoff_initial_secs: float
    backoff_max_secs: float  # never below backoff_initial_secs
    fatal_retry_secs: float
    loader_timeout_secs: float
    hung_after_ticks: int
    loglevel: LogLevel


@dataclass(frozen=True)
class Config:
    """Everything the files, the command line and the environment say together.

    `programs` has all programs that exist, in their order, the disabled ones too. The fields above it
    hold for a program whose module file says nothing. `files` are those that were read, and not compared.
    """

    update_every_s: int
    apps: bool
    cgroups: bool
    pid_table_size: int  # processes
    btf_path: str
    programs: Mapping[str, ProgramConfig]
    supervision: Supervision
    map_reading: MapReading
    kprobe_attach: KprobeAttach
    stream_group: str  # who may read a served stream, besides root
    apps_groups_path: Path
    modern_charts: bool  # names of charts as in Netdata v1.44 and later
    agent_version: tuple[int, int]
    internal_charts: bool
    files: tuple[Path, ...] = field(compare=False)
