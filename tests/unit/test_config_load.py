"""Where files are searched, who overrides whom, and that no file brings the start down."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from supervisor.config.load import (
    PACKAGED,
    check,
    listen_port,
    load,
    search_path,
    wants_internal_charts,
)
from supervisor.config.model import Config, Connections, ProgramConfig, Supervision
from supervisor.config.networks import Selection
from supervisor.config.options import PROGRAMS
from supervisor.errors import ConfigurationError

CONNECTIONS = Connections(
    table_size=4096,
    maximum_dimensions=500,
    resolve_hosts=False,
    resolve_services=False,
    ports=Selection(),
    addresses=Selection(),
    hostnames="*",
    names={19999: "Netdata"},
)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def told(folder: Path) -> list[str]:
    """The problems of loading from one folder, without the folder's own name."""
    return [str(problem).removeprefix(f"{folder}/") for problem in load([folder])[1]]


def config_of(*search: Path) -> Config:
    config, problems = load(search)
    assert problems == []
    return config


def test_without_files_the_packaged_defaults_hold(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert config == Config(
        update_every_s=1,
        apps=True,
        cgroups=True,
        pid_table_size=32768,
        btf_path="/sys/kernel/btf",
        programs={
            name: ProgramConfig(
                name=name,
                enabled=True,
                load_mode="entry",
                update_every_s=1,
                apps=True,
                cgroups=True,
                pid_table_size=32768,
                maps_per_core=False,
                type_format="auto",
                co_re_tracing="trampoline",
                collect_pid="real parent",
                lifetime_s=300,
                connections=CONNECTIONS if name == "socket" else None,
            )
            for name in PROGRAMS
        },
        supervision=Supervision(
            startsecs=1.0,
            startretries=3,
            stopwaitsecs=5.0,
            backoff_initial_secs=0.5,
            backoff_max_secs=60.0,
            fatal_retry_secs=300.0,
            loader_timeout_secs=60.0,
            hung_after_ticks=4,
            loglevel="info",
        ),
        map_reading="auto",
        kprobe_attach="auto",
        stream_group="netdata",
        apps_groups_path=PACKAGED / "apps_groups.conf",
        modern_charts=False,
        agent_version=(1, 43),
        internal_charts=True,
        files=(),
    )
    assert config.files == ()
    assert list(config.programs) == list(PROGRAMS)


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.apps = False  # type: ignore[misc]


def test_the_named_folder_is_the_only_one_searched(tmp_path: Path) -> None:
    environ = {"NETDATA_USER_CONFIG_DIR": "/user"}
    assert search_path(tmp_path, environ) == [tmp_path]


def test_netdatas_user_folder_goes_before_its_stock_folder_and_both_before_the_packaged_one() -> None:
    environ = {"NETDATA_STOCK_CONFIG_DIR": "/stock", "NETDATA_USER_CONFIG_DIR": "/user"}
    assert search_path(None, environ) == [Path("/user"), Path("/stock"), PACKAGED]


def test_a_variable_that_is_empty_or_missing_names_no_folder() -> None:
    assert search_path(None, {"NETDATA_USER_CONFIG_DIR": ""}) == [PACKAGED]


def test_a_named_folder_that_does_not_exist_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no: No such file or directory; name the folder") as caught:
        search_path(tmp_path / "no", {})
    assert caught.value.exit_status == 78


def test_a_named_folder_that_is_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a folder"):
        search_path(write(tmp_path, "ebpf.d.conf", ""), {})


def test_a_folder_that_netdata_names_may_be_missing(tmp_path: Path) -> None:
    assert config_of(tmp_path / "no", tmp_path).files == ()


def test_of_the_main_file_only_the_first_one_found_is_read(tmp_path: Path) -> None:
    user, stock = tmp_path / "user", tmp_path / "stock"
    first = write(user, "ebpf.d.conf", "[global]\napps = no\n")
    write(stock, "ebpf.d.conf", "[global]\ncgroups = no\n")
    config = config_of(user, stock)
    assert (config.apps, config.cgroups) == (False, True)
    assert config.files == (first,)


def test_the_older_name_of_the_main_file_is_read_where_the_newer_is_missing(tmp_path: Path) -> None:
    user, stock = tmp_path / "user", tmp_path / "stock"
    write(user, "ebpf.conf", "[global]\nupdate every = 7\n")
    write(stock, "ebpf.d.conf", "[global]\nupdate every = 9\n")
    assert config_of(user, stock).update_every_s == 7
    write(user, "ebpf.d.conf", "[global]\nupdate every = 8\n")
    assert config_of(user, stock).update_every_s == 8


def test_each_module_file_is_searched_on_its_own(tmp_path: Path) -> None:
    user, stock = tmp_path / "user", tmp_path / "stock"
    write(user, "ebpf.d/fd.conf", "[global]\nupdate every = 2\n")
    write(stock, "ebpf.d/fd.conf", "[global]\nupdate every = 3\napps = no\n")
    write(stock, "ebpf.d/disk.conf", "[global]\nupdate every = 4\n")
    programs = config_of(user, stock).programs
    assert programs["fd"].update_every_s == 2
    assert programs["fd"].apps is True
    assert programs["disk"].update_every_s == 4


def test_a_module_file_goes_before_the_main_file_for_its_program_alone(tmp_path: Path) -> None:
    write(
        tmp_path,
        "ebpf.d.conf",
        "[global]\nebpf load mode = return\napps = no\ncgroups = no\nupdate every = 5\n"
        "pid table size = 1000\nebpf type format = CO-RE\nmaps per core = yes\nlifetime = 10\n",
    )
    write(
        tmp_path,
        "ebpf.d/fd.conf",
        "[global]\nebpf load mode = entry\napps = yes\ncgroups = yes\nupdate every = 2\n"
        "pid table size = 2000\nebpf type format = legacy\nmaps per core = no\nlifetime = 20\n"
        "ebpf co-re tracing = probe\ncollect pid = all\n",
    )
    programs = config_of(tmp_path).programs
    assert programs["fd"] == ProgramConfig(
        "fd", True, "entry", 2, True, True, 2000, False, "legacy", "probe", "all", 20
    )
    assert programs["process"] == ProgramConfig(
        "process", True, "return", 5, False, False, 1000, True, "co-re", "trampoline", "real parent", 10
    )


def test_the_command_line_goes_before_every_file(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d.conf", "[global]\nebpf load mode = entry\n[ebpf programs]\nfd = no\n")
    write(tmp_path, "ebpf.d/fd.conf", "[global]\nebpf load mode = entry\n")
    config, problems = load([tmp_path], only=frozenset({"fd"}), load_mode="return")
    assert problems == []
    assert {name: program.enabled for name, program in config.programs.items()} == {
        name: name == "fd" for name in PROGRAMS
    }
    assert {program.load_mode for program in config.programs.values()} == {"return"}


@pytest.mark.parametrize(
    ("asked", "main", "module", "everywhere", "of_fd"),
    [(None, 5, 3, 5, 3), (10, 5, 3, 10, 10), (4, 5, 3, 5, 4), (2, 5, 3, 5, 3), (2, 5, 9, 5, 9)],
)
def test_the_larger_of_the_asked_and_the_written_interval_counts(
    tmp_path: Path, asked: int | None, main: int, module: int, everywhere: int, of_fd: int
) -> None:
    write(tmp_path, "ebpf.d.conf", f"[global]\nupdate every = {main}\n")
    write(tmp_path, "ebpf.d/fd.conf", f"[global]\nupdate every = {module}\n")
    config, _ = load([tmp_path], update_every_s=asked)
    assert config.update_every_s == everywhere
    assert config.programs["process"].update_every_s == everywhere
    assert config.programs["fd"].update_every_s == of_fd


def test_dev_mode_is_return_mode(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d/fd.conf", "[global]\nebpf load mode = dev\n")
    assert config_of(tmp_path).programs["fd"].load_mode == "return"


@pytest.mark.parametrize(
    ("text", "apps"),
    [
        ("disable apps = yes", False),
        ("disable apps = yes\napps = yes", False),
        ("disable apps = no", True),
        ("disable apps = no\napps = no", False),
    ],
)
def test_the_old_opposite_of_apps_is_heeded_by_every_program(tmp_path: Path, text: str, apps: bool) -> None:
    write(tmp_path, "ebpf.conf", f"[global]\n{text}\n")
    config = config_of(tmp_path)
    assert config.apps is apps
    assert config.programs["fd"].apps is apps


def test_a_program_switched_off_in_the_main_file_is_disabled(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d.conf", "[ebpf programs]\nfd = no\n")
    programs = config_of(tmp_path).programs
    assert programs["fd"].enabled is False
    assert programs["disk"].enabled is True


def test_the_section_of_supervision_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        "ebpf.d.conf",
        "[supervisor]\nstartsecs = 2.5\nstartretries = 0\nstopwaitsecs = 1\nbackoff_initial_secs = 0.1\n"
        "backoff_max_secs = 9\nfatal_retry_secs = 10\nloader_timeout_secs = 11\nhung_after_ticks = 12\n"
        "loglevel = WARN\n",
    )
    assert config_of(tmp_path).supervision == Supervision(2.5, 0, 1.0, 0.1, 9.0, 10.0, 11.0, 12, "warning")


def test_a_longest_pause_below_the_first_one_is_raised_to_it(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d.conf", "[supervisor]\nbackoff_initial_secs = 90\n")
    assert load([tmp_path])[0].supervision.backoff_max_secs == 90
    assert told(tmp_path) == [
        "ebpf.d.conf: [supervisor] backoff_max_secs: 60 is less than backoff_initial_secs; using 90 as well"
    ]


def test_a_bad_value_of_a_module_file_falls_back_to_the_main_file(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d.conf", "[global]\npid table size = 1000\n")
    write(tmp_path, "ebpf.d/fd.conf", "[global]\nupdate every = 2\npid table size = many\n")
    fd = load([tmp_path])[0].programs["fd"]
    assert (fd.pid_table_size, fd.update_every_s) == (1000, 2)
    assert told(tmp_path) == [
        "ebpf.d/fd.conf:3: [global] pid table size: "
        'expected a whole number from 64 to 4194304; found "many"; using 1000'
    ]


def test_an_unknown_key_of_a_module_file_warns_and_the_rest_holds(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d/fd.conf", "[global]\nupdte every = 9\napps = no\n")
    assert load([tmp_path])[0].programs["fd"].apps is False
    assert told(tmp_path) == [
        'ebpf.d/fd.conf:2: [global] updte every: unknown key; did you mean "update every"?'
    ]


def test_the_problems_of_all_files_are_told_together(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d.conf", "[global]\napps = perhaps\n")
    write(tmp_path, "ebpf.d/process.conf", "nonsense\n")
    write(tmp_path, "ebpf.d/disk.conf", "[globl]\n")
    (tmp_path / "apps_groups.conf").mkdir()
    assert [message.split(":")[0] for message in told(tmp_path)] == [
        "ebpf.d.conf",
        "ebpf.d/process.conf",
        "ebpf.d/disk.conf",
        "apps_groups.conf",
    ]


def test_a_main_file_that_cannot_be_used_leaves_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "ebpf.d.conf").mkdir()
    config, problems = load([tmp_path])
    assert config == load([tmp_path / "no"])[0]
    assert [(problem.severity, problem.message) for problem in problems] == [
        ("error", "expected a regular file; ignored")
    ]


def test_the_first_apps_groups_that_can_be_read_is_taken(tmp_path: Path) -> None:
    user, stock = tmp_path / "user", tmp_path / "stock"
    expected = write(stock, "apps_groups.conf", "netdata: netdata\n")
    assert config_of(user, stock).apps_groups_path == expected
    assert config_of(user).apps_groups_path == PACKAGED / "apps_groups.conf"
    (user / "apps_groups.conf").mkdir(parents=True)
    config, problems = load([user, stock])
    assert config.apps_groups_path == expected
    assert [problem.message for problem in problems] == ["expected a regular file; using the next one"]


def test_only_with_a_name_that_is_no_program_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no program is called 'softirg'; did you mean \"softirq\""):
        load([tmp_path], only=frozenset({"softirg"}))


def test_an_unknown_load_mode_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected entry or return; found 'both'"):
        load([tmp_path], load_mode="both")


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, True),
        ({"NETDATA_INTERNALS_MONITORING": "YES"}, True),
        ({"NETDATA_INTERNALS_MONITORING": "no"}, False),
    ],
)
def test_netdatas_environment_decides_about_charts_of_the_plugin_itself(
    tmp_path: Path, environ: dict[str, str], wanted: bool
) -> None:
    assert wants_internal_charts(environ) is wanted
    assert load([tmp_path], internal_charts=wanted)[0].internal_charts is wanted


def test_check_reads_the_files_of_programs_that_do_not_exist(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d.conf", "[global]\napps = perhaps\n")
    write(tmp_path, "ebpf.d/network.conf", "[network connections]\nmaximum dimensions = lots\n")
    write(tmp_path, "ebpf.d/fd.conf", "[global]\nfoo = 1\n")
    assert sorted(
        str(problem).removeprefix(f"{tmp_path}/").split(":")[0] for problem in check([tmp_path])
    ) == [
        "ebpf.d.conf",
        "ebpf.d/fd.conf",
        "ebpf.d/network.conf",
    ]


def test_check_warns_of_a_module_file_with_an_unknown_name(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d/softirqs.conf", "[global]\n")
    write(tmp_path, "ebpf.d/README", "no configuration\n")
    problems = check([tmp_path])
    assert [problem.severity for problem in problems] == ["warning"]
    assert str(problems[0]) == (
        f"{tmp_path}/ebpf.d/softirqs.conf: no program has a file of this name; ignored; "
        'did you mean "softirq.conf"?'
    )


def test_check_does_not_read_a_file_that_another_one_hides(tmp_path: Path) -> None:
    user, stock = tmp_path / "user", tmp_path / "stock"
    write(user, "ebpf.d/fd.conf", "[global]\n")
    write(stock, "ebpf.d/fd.conf", "nonsense\n")
    assert check([user, stock]) == []


def test_check_tells_of_a_module_folder_that_is_a_file(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d", "")
    assert [str(problem) for problem in check([tmp_path])] == [
        f"{tmp_path}/ebpf.d: cannot be listed: Not a directory"
    ]


def test_names_in_the_module_folder_cannot_break_a_line(tmp_path: Path) -> None:
    (tmp_path / "ebpf.d").mkdir()
    os.close(os.open(os.fsencode(tmp_path / "ebpf.d") + b"/a\nb\xff.conf", os.O_CREAT | os.O_WRONLY))
    assert [str(problem).isprintable() for problem in check([tmp_path])] == [True]


def connections_of(folder: Path, **more: int) -> Connections:
    config, problems = load([folder], **more)  # type: ignore[arg-type]
    assert problems == []
    found = config.programs["socket"].connections
    assert found
    return found


def test_connections_are_told_apart_as_their_file_says(tmp_path: Path) -> None:
    text = """
        [global]
            socket monitoring table size = 1024
        [network connections]
            maximum dimensions = 20
            resolve hostname ips = yes
            resolve service names = yes
            ports = 1-1024 !145
            ips = !127.0.0.1/8
            hostnames = !example.com
        [service name]
            8125 = statsd
            100000 = nothing
            word = nothing
    """
    write(tmp_path, "ebpf.d/network.conf", text)
    found = connections_of(tmp_path)
    assert (found.table_size, found.maximum_dimensions, found.hostnames) == (1024, 20, "!example.com")
    assert found.resolve_hosts
    assert found.resolve_services
    assert found.ports.has(1024)
    assert not found.ports.has(145)
    assert not found.addresses.all
    assert found.names == {19999: "Netdata", 8125: "statsd"}


def test_the_main_file_holds_for_connections_and_their_own_file_goes_before_it(tmp_path: Path) -> None:
    main = "[network viewer]\nmaximum dimensions = 30\nports = 80\n[service name]\n80 = web\n443 = tls\n"
    write(tmp_path, "ebpf.d.conf", main)
    assert connections_of(tmp_path).maximum_dimensions == 30
    write(tmp_path, "ebpf.d/network.conf", "[network connections]\nports = 81\n[service name]\n80 = shop\n")
    found = connections_of(tmp_path)
    assert (found.maximum_dimensions, found.ports.has(81), found.ports.has(80)) == (30, True, False)
    assert found.names == {19999: "Netdata", 80: "shop", 443: "tls"}


def test_the_agents_port_is_called_netdata_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert connections_of(tmp_path, netdata_port=20000).names == {20000: "Netdata"}
    write(tmp_path, "ebpf.d/network.conf", "[service name]\n20000 = agent\n")
    assert connections_of(tmp_path, netdata_port=20000).names == {20000: "agent"}


@pytest.mark.parametrize(
    ("value", "port"),
    [("20001", 20001), (" 20001 ", 20001), ("", 19999), ("0", 19999), ("65536", 19999), ("x", 19999)],
)
def test_the_agent_tells_its_port_by_its_environment(value: str, port: int) -> None:
    assert listen_port({"NETDATA_LISTEN_PORT": value}) == port
    assert listen_port({}) == 19999


SWITCHES = [
    ("", True, True),
    ("network connections = no", True, False),
    ("socket = no", False, True),
    ("socket = no\nnetwork connections = yes", True, True),
    ("socket = no\nnetwork connection monitoring = yes", True, True),
    ("network connections = Off", True, False),
]


@pytest.mark.parametrize(("text", "socket", "connections"), SWITCHES)
def test_whoever_asks_for_connections_asks_for_socket(
    tmp_path: Path, text: str, socket: bool, connections: bool
) -> None:
    write(tmp_path, "ebpf.d.conf", f"[ebpf programs]\n{text}\n")
    program = config_of(tmp_path).programs["socket"]
    assert program.enabled == socket
    assert (program.connections is not None) == connections
    assert ("connections" in program.without) != connections


def test_connections_can_be_switched_off_in_their_file(tmp_path: Path) -> None:
    write(tmp_path, "ebpf.d/network.conf", "[network connections]\nenabled = no\n")
    assert config_of(tmp_path).programs["socket"].connections is None
