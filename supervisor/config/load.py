"""Where the files are, who overrides whom, and what comes of it.

    command line  >  ebpf.d/<program>.conf  >  ebpf.d.conf  >  default

The folders are searched in order; of the main file and of each module file only the first one found is read.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar, cast

from supervisor.config import ini, networks
from supervisor.config.files import UnusableFileError, content
from supervisor.config.kinds import TRUE_WORDS, written
from supervisor.config.model import (
    CollectPid,
    Config,
    Connections,
    KprobeAttach,
    LoadMode,
    LogLevel,
    MapReading,
    ProgramConfig,
    Supervision,
    Tracing,
    TypeFormat,
)
from supervisor.config.options import (
    CONNECTIONS,
    GLOBAL,
    LOAD_MODE,
    MAIN,
    MODULES,
    OLD_CONNECTIONS,
    PROGRAMS,
    SERVICE_NAMES,
    SUPERVISION,
    SWITCHES,
    FileOptions,
    Module,
    module_options,
)
from supervisor.config.problems import Problem, escaped, suggestion, told
from supervisor.config.settings import Settings, defaults, evaluate, inherited
from supervisor.errors import ConfigurationError

PACKAGED: Final = Path(__file__).resolve().parents[2] / "conf"
MAIN_FILES: Final = ("ebpf.d.conf", "ebpf.conf")
MODULE_FOLDER: Final = "ebpf.d"
APPS_GROUPS: Final = "apps_groups.conf"
FOLDER_VARIABLES: Final = ("NETDATA_USER_CONFIG_DIR", "NETDATA_STOCK_CONFIG_DIR")
INTERNALS_VARIABLE: Final = "NETDATA_INTERNALS_MONITORING"
VERSION_VARIABLE: Final = "NETDATA_VERSION"
# What counts as the agent's version where it does not tell: the last one with the classic names.
CLASSIC_AGENT: Final = (1, 43)
PORT_VARIABLE: Final = "NETDATA_LISTEN_PORT"
NETDATA_PORT: Final = 19999
_NETDATA: Final = "Netdata"
# The program that tells connections apart, and its hook for it.
_SOCKET: Final = "socket"
_CONNECTIONS_HOOK: Final = "connections"


_Type = TypeVar("_Type", bool, int, str)


@dataclass(frozen=True)
class _File:
    """What one file of the configuration comes to; `path` is None when there is none."""

    path: Path | None
    settings: Settings
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class _Demands:
    """What the command line asks for, over the files; None and the empty set ask for nothing."""

    update_every_s: int | None
    only: frozenset[str]
    load_mode: str | None
    groups: bool | None = None
    type_format: TypeFormat | None = None
    netdata_port: int = NETDATA_PORT


def search_path(config_dir: Path | None, environ: Mapping[str, str]) -> list[Path]:
    """The folders to search, the most telling one first.

    A folder that the user named is the only one, and must be there: raises ConfigurationError. Those that
    Netdata names in its environment may be missing; the packaged folder stands behind them.
    """
    if config_dir is not None:
        _require_folder(config_dir)
        return [config_dir]
    named = (environ.get(variable, "") for variable in FOLDER_VARIABLES)
    return [*(Path(folder) for folder in named if folder), PACKAGED]


def wants_internal_charts(environ: Mapping[str, str]) -> bool:
    """Whether Netdata wants charts about the plugin itself; it does unless its environment says otherwise."""
    return environ.get(INTERNALS_VARIABLE, "on").strip().lower() in TRUE_WORDS


def agent_version(environ: Mapping[str, str]) -> tuple[int, int]:
    """Major and minor number of the agent that started us, (1, 43) where there is none."""
    found = re.match(r"v?(\d{1,6})\.(\d{1,6})", environ.get(VERSION_VARIABLE, ""))
    return (int(found[1]), int(found[2])) if found else CLASSIC_AGENT


def listen_port(environ: Mapping[str, str]) -> int:
    """The port that the agent listens on, 19999 where it does not tell."""
    found = re.fullmatch(r"[0-9]{1,5}", environ.get(PORT_VARIABLE, "").strip())
    return int(found[0]) if found and 0 < int(found[0]) <= networks.MOST_PORT else NETDATA_PORT


def load(
    search: Sequence[Path],
    *,
    update_every_s: int | None = None,
    only: frozenset[str] = frozenset(),
    load_mode: str | None = None,
    groups: bool | None = None,
    type_format: TypeFormat | None = None,
    internal_charts: bool = True,
    agent: tuple[int, int] = CLASSIC_AGENT,
    netdata_port: int = NETDATA_PORT,
) -> tuple[Config, list[Problem]]:
    """The configuration found along `search`, and every problem of every file that it needs.

    `update_every_s` is a least value: a file may ask for more seconds, not for fewer. `only`, when not empty,
    enables just these programs. `groups` switches the charts of apps and cgroups on or off. `netdata_port` is
    what the agent listens on. Raises ValueError
    for a name in `only` that is not in `PROGRAMS` and for an unknown `load_mode`, which are the caller's to
    check; nothing that a file can hold raises.
    """
    demands = _checked(_Demands(update_every_s, only, load_mode, groups, type_format, netdata_port))
    main = _main_file(search)
    modules = {name: _module_file(search, MODULES[name], main.settings) for name in PROGRAMS}
    apps_groups, apps_groups_problems = _apps_groups(search)
    files = (main, *modules.values())
    config = Config(
        update_every_s=_update_every_s(main.settings, demands),
        apps=main.settings.get(GLOBAL, "apps", bool),
        cgroups=main.settings.get(GLOBAL, "cgroups", bool),
        pid_table_size=main.settings.get(GLOBAL, "pid table size", int),
        btf_path=main.settings.get(GLOBAL, "btf path", str),
        programs={
            name: _program(name, main.settings, module.settings, demands) for name, module in modules.items()
        },
        supervision=_supervision(main.settings),
        map_reading=cast(MapReading, main.settings.get(SUPERVISION, "map reading", str)),
        kprobe_attach=cast(KprobeAttach, main.settings.get(SUPERVISION, "kprobe attach", str)),
        stream_group=main.settings.get(SUPERVISION, "stream group", str),
        apps_groups_path=apps_groups,
        modern_charts=_modern(main.settings, agent),
        agent_version=agent,
        internal_charts=internal_charts,
        files=tuple(file.path for file in files if file.path is not None),
    )
    return config, [*(problem for file in files for problem in file.problems), *apps_groups_problems]


def check(search: Sequence[Path]) -> list[Problem]:
    """Every problem of every file along `search`, also those of programs that do not exist.

    A `*.conf` in `ebpf.d/` that is no module's is a problem too. A file that another one hides is not read.
    """
    main = _main_file(search)
    modules = [_module_file(search, module, main.settings) for module in MODULES.values()]
    return [
        *main.problems,
        *(problem for module in modules for problem in module.problems),
        *_apps_groups(search)[1],
        *(problem for folder in search for problem in _strays(folder / MODULE_FOLDER)),
    ]


def _require_folder(folder: Path) -> None:
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise ConfigurationError(
            f"{_named(folder)}: {error.strerror}; name the folder of ebpf.d.conf"
        ) from error
    if not stat.S_ISDIR(mode):
        raise ConfigurationError(f"{_named(folder)}: not a folder; name the folder of ebpf.d.conf")


def _named(folder: Path) -> str:
    return f"--config-dir {escaped(str(folder))}"


def _checked(demands: _Demands) -> _Demands:
    """The demands with the load mode's proper word. Raises ValueError."""
    for name in sorted(demands.only.difference(PROGRAMS)):
        raise ValueError(f"no program is called {name!r}{suggestion(name, PROGRAMS)}")
    if demands.load_mode is None:
        return demands
    parsed = LOAD_MODE.parse(demands.load_mode)
    if parsed is None:
        raise ValueError(f"load mode: expected {LOAD_MODE.expected}; found {demands.load_mode!r}")
    return replace(demands, load_mode=str(parsed.value))


def _main_file(search: Sequence[Path]) -> _File:
    """The main file: the newer name before the older one in each folder, a folder before those behind it."""
    paths = [folder / name for folder in search for name in MAIN_FILES]
    file = _first_file(paths, MAIN, defaults(MAIN))
    return _with_ordered_backoff(_with_apps_decided(file))


def _module_file(search: Sequence[Path], module: Module, main: Settings) -> _File:
    options = module_options(module)
    paths = [folder / MODULE_FOLDER / name for folder in search for name in module.files]
    return _first_file(paths, options, inherited(options, main))


def _first_file(paths: Sequence[Path], options: FileOptions, base: Settings) -> _File:
    for path in paths:
        document = ini.read(path)
        if document is not None:
            settings, problems = evaluate(document, options, base)
            return _File(path, settings, tuple(problems))
    return _File(None, base)


def _with_apps_decided(main: _File) -> _File:
    """The file with `apps` off when its old opposite says so, so that modules inherit the one answer."""
    apps = main.settings.get(GLOBAL, "apps", bool) and not main.settings.get(GLOBAL, "disable apps", bool)
    return _File(main.path, main.settings.with_value(GLOBAL, "apps", apps), main.problems)


def _with_ordered_backoff(main: _File) -> _File:
    """The file with the longest pause at least as long as the first one."""
    initial = main.settings.get(SUPERVISION, "backoff_initial_secs", float)
    longest = main.settings.get(SUPERVISION, "backoff_max_secs", float)
    if main.path is None or initial <= longest:
        return main
    key = "backoff_max_secs"
    message = f"{written(longest)} is less than backoff_initial_secs; using {written(initial)} as well"
    problem = Problem(main.path, None, SUPERVISION, key, message, "error")
    return _File(main.path, main.settings.with_value(SUPERVISION, key, initial), (*main.problems, problem))


def _apps_groups(search: Sequence[Path]) -> tuple[Path, list[Problem]]:
    """The first `apps_groups.conf` that can be read, else the packaged one, and the problems on the way."""
    problems: list[Problem] = []
    for path in (folder / APPS_GROUPS for folder in search):
        try:
            if content(path) is not None:
                return path, problems
        except UnusableFileError as error:
            problems.append(Problem(path, None, None, None, f"{error}; using the next one", "error"))
    return PACKAGED / APPS_GROUPS, problems


def _strays(folder: Path) -> list[Problem]:
    """A problem for each `*.conf` in a module folder that is no module's."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Problem(folder, None, None, None, f"cannot be listed: {error.strerror}", "error")]
    known = [file for module in MODULES.values() for file in module.files]
    strays = [name for name in names if name.endswith(".conf") and name not in known]
    return told(strays, lambda name: _stray(folder / name, known))


def _stray(path: Path, known: Sequence[str]) -> Problem:
    message = "no program has a file of this name; ignored" + suggestion(path.name, known)
    return Problem(path, None, None, None, message, "warning")


def _modern(settings: Settings, agent: tuple[int, int]) -> bool:
    naming = settings.get(SUPERVISION, "chart naming", str)
    return naming == "modern" or (naming == "auto" and agent > CLASSIC_AGENT)


def _update_every_s(settings: Settings, demands: _Demands) -> int:
    return max(settings.get(GLOBAL, "update every", int), demands.update_every_s or 0)


def _program(name: str, main: Settings, module: Settings, demands: _Demands) -> ProgramConfig:
    connections = _connections(main, module, demands) if name == _SOCKET else None
    without = {
        member
        for (section, key), members in MODULES[name].members.items()
        if not module.get(section, key, bool)
        for member in members.split()
    }
    if name == _SOCKET and connections is None:
        without.add(_CONNECTIONS_HOOK)
    # The casts: the option's kind lets no other words pass.
    return ProgramConfig(
        name=name,
        enabled=name in demands.only if demands.only else _switched_on(name, main),
        load_mode=cast(LoadMode, demands.load_mode or module.get(GLOBAL, "ebpf load mode", str)),
        update_every_s=_update_every_s(module, demands),
        apps=module.get(GLOBAL, "apps", bool) if demands.groups is None else demands.groups,
        cgroups=module.get(GLOBAL, "cgroups", bool) if demands.groups is None else demands.groups,
        pid_table_size=module.get(GLOBAL, "pid table size", int),
        maps_per_core=module.get(GLOBAL, "maps per core", bool),
        type_format=demands.type_format or cast(TypeFormat, module.get(GLOBAL, "ebpf type format", str)),
        co_re_tracing=cast(Tracing, module.get(GLOBAL, "ebpf co-re tracing", str)),
        collect_pid=cast(CollectPid, module.get(GLOBAL, "collect pid", str)),
        lifetime_s=module.get(GLOBAL, "lifetime", int),
        without=frozenset(without),
        connections=connections,
    )


def _switched_on(name: str, main: Settings) -> bool:
    """Whoever asks for connections asks for the program that tells them apart."""
    asked = name == _SOCKET and main.get(SWITCHES, CONNECTIONS, str) == "yes"
    return asked or main.get(SWITCHES, name, bool)


def _connections(main: Settings, module: Settings, demands: _Demands) -> Connections | None:
    def value(key: str, kind: type[_Type]) -> _Type:
        """Of the section, else of the one of its old name, where that says anything."""
        found = module.get(CONNECTIONS, key, kind)
        return module.get(OLD_CONNECTIONS, key, kind) if found == _default(key) else found

    if main.get(SWITCHES, CONNECTIONS, str) == "no" or not value("enabled", bool):
        return None
    return Connections(
        table_size=module.get(GLOBAL, "socket monitoring table size", int),
        maximum_dimensions=value("maximum dimensions", int),
        resolve_hosts=value("resolve hostnames", bool),
        resolve_services=value("resolve service names", bool),
        ports=networks.ports(value("ports", str))[0],
        addresses=networks.addresses(value("ips", str))[0],
        hostnames=value("hostnames", str),
        names={demands.netdata_port: _NETDATA, **_service_names(module)},
    )


def _default(key: str) -> object:
    options = module_options(MODULES[_SOCKET]).of_section(CONNECTIONS)
    return options[key].default


def _service_names(module: Settings) -> dict[int, str]:
    """Of [service name]: those whose key is a port."""
    found = {key: text for (section, key), text in module.free.items() if section == SERVICE_NAMES and text}
    ports = {key: int(key) for key in found if re.fullmatch(r"[0-9]{1,5}", key)}
    return {port: found[key] for key, port in ports.items() if 0 < port <= networks.MOST_PORT}


def _supervision(main: Settings) -> Supervision:
    return Supervision(
        startsecs=main.get(SUPERVISION, "startsecs", float),
        startretries=main.get(SUPERVISION, "startretries", int),
        stopwaitsecs=main.get(SUPERVISION, "stopwaitsecs", float),
        backoff_initial_secs=main.get(SUPERVISION, "backoff_initial_secs", float),
        backoff_max_secs=main.get(SUPERVISION, "backoff_max_secs", float),
        fatal_retry_secs=main.get(SUPERVISION, "fatal_retry_secs", float),
        loader_timeout_secs=main.get(SUPERVISION, "loader_timeout_secs", float),
        hung_after_ticks=main.get(SUPERVISION, "hung_after_ticks", int),
        loglevel=cast(LogLevel, main.get(SUPERVISION, "loglevel", str)),
    )
