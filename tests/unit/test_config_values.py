"""The kinds of values, the table of options, and the wording of problems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.config.ini import parse
from supervisor.config.kinds import (
    AbsolutePath,
    Choice,
    Flag,
    Kind,
    Parsed,
    Seconds,
    Text,
    Value,
    Whole,
    written,
)
from supervisor.config.options import MAIN, MODULES, PROGRAMS, FileOptions, Option, module_options
from supervisor.config.problems import SHOWN_CHARS, Problem, shown
from supervisor.config.settings import Settings, defaults, evaluate

PATH = Path("ebpf.d.conf")
ALL_PROGRAMS = (
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


def told(text: str, options: FileOptions = MAIN) -> list[str]:
    return [str(problem) for problem in evaluate(parse(PATH, text.encode()), options, defaults(options))[1]]


def settings(text: str) -> Settings:
    return evaluate(parse(PATH, text.encode()), MAIN, defaults(MAIN))[0]


def all_options() -> Iterator[Option]:
    yield from MAIN.options
    for module in MODULES.values():
        yield from module_options(module).options


@pytest.mark.parametrize("text", ["yes", "true", "on", "auto", "on demand", "YES", "On Demand"])
def test_netdatas_words_for_yes_are_read(text: str) -> None:
    assert Flag().parse(text) == Parsed(True)


@pytest.mark.parametrize("text", ["no", "false", "off", "0", "disabled", "No"])
def test_known_words_for_no_are_silent(text: str) -> None:
    assert Flag().parse(text) == Parsed(False)


@pytest.mark.parametrize("text", ["", "1", "maybe", "nope", "yes # please", "yes#", "y", "# no"])
def test_any_other_text_is_no_flag(text: str) -> None:
    assert Flag().parse(text) is None


def test_a_no_with_a_comment_behind_it_counts_as_no_with_a_warning() -> None:
    line = "[ebpf programs]\nsocket = no # Disabled while we are fixing race condition\n"
    assert told(line) == [
        "ebpf.d.conf:2: [ebpf programs] socket: a comment has to stand on a line of its own; "
        'found "no # Disabled while we are fixing race condition"; using no'
    ]
    assert settings(line).get("ebpf programs", "socket", bool) is False


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Whole(1, 10), "1", 1),
        (Whole(1, 10), "10", 10),
        (Whole(-5, 10), "-5", -5),
        (Whole(1, 10), "+7", 7),
        (Whole(1, 10), "007", 7),
        (Seconds(0, 10), "0.25", 0.25),
        (Seconds(0, 10), "10", 10.0),
        (Choice(("auto", "co-re")), "CO-RE", "co-re"),
        (Choice(("entry",), (("dev", "return"),)), "DEV", "return"),
        (Text(), "", ""),
        (AbsolutePath(), "/sys/kernel/btf/", "/sys/kernel/btf"),
    ],
)
def test_a_right_text_becomes_its_value(kind: Kind, text: str, value: Value) -> None:
    assert kind.parse(text) == Parsed(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(1, 10), "0"),
        (Whole(1, 10), "11"),
        (Whole(1, 10), "1.5"),
        (Whole(1, 10), "many"),
        (Whole(1, 10), ""),
        (Whole(1, 10), "1_0"),
        (Whole(1, 10), "٣"),
        (Whole(1, 10), "9" * 5000),
        (Seconds(0, 10), "10.1"),
        (Seconds(0, 10), "-1"),
        (Seconds(0, 10), "nan"),
        (Seconds(0, 10), "inf"),
        (Seconds(0, 10), "1e1"),
        (Seconds(0, 10), "1" * 400),
        (Choice(("auto", "co-re")), "core"),
        (Choice(("auto", "co-re")), ""),
        (AbsolutePath(), "sys/kernel/btf"),
        (AbsolutePath(), ""),
    ],
)
def test_a_wrong_text_is_refused(kind: Kind, text: str) -> None:
    assert kind.parse(text) is None


def test_a_number_with_a_comment_behind_it_is_taken_with_a_warning() -> None:
    assert told("[global]\nupdate every = 5 # seconds\n") == [
        "ebpf.d.conf:2: [global] update every: a comment has to stand on a line of its own; "
        'found "5 # seconds"; using 5'
    ]


def test_a_bad_value_names_what_was_expected_what_was_found_and_what_is_used() -> None:
    assert told("\n[global]\n  pid table size = many\n") == [
        "ebpf.d.conf:3: [global] pid table size: "
        'expected a whole number from 64 to 4194304; found "many"; using 32768'
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[global]\napps = perhaps", 'expected yes or no; found "perhaps"; using yes'),
        ("[global]\nebpf load mode = both", 'expected entry or return; found "both"; using entry'),
        ("[global]\nebpf type format = c", 'expected auto, legacy or co-re; found "c"; using auto'),
        (
            "[global]\nbtf path = sys",
            'expected a path that begins with /; found "sys"; using /sys/kernel/btf',
        ),
        ("[supervisor]\nstartsecs = -1", 'expected a number of seconds from 0 to 3600; found "-1"; using 1'),
        (
            "[global]\nebpf load mode = entry # fast",
            "expected entry or return; "
            'found "entry # fast" (a comment has to stand on a line of its own); using entry',
        ),
    ],
)
def test_each_kind_says_what_it_expects(line: str, expected: str) -> None:
    assert [message.partition(": ")[2].partition(": ")[2] for message in told(line)] == [expected]


def test_a_bad_value_is_an_error_and_an_unknown_name_a_warning() -> None:
    text = "[global]\napps = perhaps\ncolour = red\n[colours]\nred = yes\n"
    _, problems = evaluate(parse(PATH, text.encode()), MAIN, defaults(MAIN))
    assert [(problem.line, problem.severity) for problem in problems] == [
        (2, "error"),
        (3, "warning"),
        (4, "warning"),
    ]


def test_an_unknown_key_gets_a_suggestion() -> None:
    assert told("[global]\nupdte every = 5\n") == [
        'ebpf.d.conf:2: [global] updte every: unknown key; did you mean "update every"?'
    ]


def test_a_key_in_other_case_is_unknown_as_it_is_to_netdata() -> None:
    assert told("[global]\nApps = no\n") == [
        'ebpf.d.conf:2: [global] Apps: unknown key; did you mean "apps"?'
    ]


def test_an_unknown_key_that_resembles_nothing_gets_no_suggestion() -> None:
    assert told("[global]\nxyzzy = 5\n") == ["ebpf.d.conf:2: [global] xyzzy: unknown key"]


def test_a_key_in_the_wrong_section_is_sent_to_its_own() -> None:
    assert told("[global]\nstartsecs = 5\n") == [
        "ebpf.d.conf:2: [global] startsecs: unknown key here; it belongs in [supervisor]"
    ]


def test_an_unknown_section_is_told_once_with_a_suggestion() -> None:
    assert told("[globl]\napps = no\ncgroups = no\n") == [
        "ebpf.d.conf:1: [globl]: unknown section; what it holds is ignored; did you mean [global]?"
    ]


def test_all_problems_of_a_file_are_told_together_in_the_order_of_its_lines() -> None:
    text = "apps\n[global]\napps = perhaps\nappps = no\nnonsense\ncgroups = 7\n"
    assert [message.split(":")[1] for message in told(text)] == ["1", "3", "4", "5", "6"]


def test_many_unknown_keys_are_told_and_then_counted() -> None:
    messages = told("[global]\n" + "".join(f"key{number} = 1\n" for number in range(50000)))
    assert len(messages) == 21
    assert messages[-1].endswith(": and 49980 more like this one")


def test_the_later_of_two_equal_keys_counts() -> None:
    assert settings("[global]\nupdate every = 5\nupdate every = 7\n").get("global", "update every", int) == 7
    assert settings("[global]\nupdate every = 5\nupdate every = x\n").get("global", "update every", int) == 1


@pytest.mark.parametrize(
    "order", ["load = return\nebpf load mode = entry", "ebpf load mode = entry\nload = return"]
)
def test_an_old_name_goes_before_the_new_one(order: str) -> None:
    assert settings(f"[global]\n{order}\n").get("global", "ebpf load mode", str) == "return"


def test_values_in_messages_are_escaped_and_shortened() -> None:
    message = told("[global]\napps = \x1b[31mred\x07" + "x" * 500 + "\n")[0]
    assert message.isprintable()
    assert '"\\x1b[31mred\\x07xxx' in message
    found = message.partition('found "')[2].partition('"')[0]
    assert len(found) == SHOWN_CHARS
    assert found.endswith("...")


def test_keys_sections_and_paths_in_messages_are_escaped() -> None:
    problem = Problem(Path("a\nb\udcff.conf"), 1, "c\rd", "e\x00f", "unknown key", "warning")
    assert str(problem) == "a\\nb\\udcff.conf:1: [c\\rd] e\\x00f: unknown key"


def test_a_text_of_just_the_allowed_length_is_not_shortened() -> None:
    assert shown("x" * SHOWN_CHARS) == "x" * SHOWN_CHARS


def test_each_default_is_a_value_that_its_own_kind_reads_back() -> None:
    for option in all_options():
        assert option.kind.parse(written(option.default)) == Parsed(option.default), option.key


def test_the_options_of_a_file_have_distinct_names() -> None:
    for options in (MAIN, *(module_options(module) for module in MODULES.values())):
        names = [
            (option.section, name) for option in options.options for name in (option.key, *option.aliases)
        ]
        assert len(names) == len(set(names))


def test_each_program_that_exists_is_in_the_table_of_modules() -> None:
    assert set(PROGRAMS) <= set(MODULES)
    assert set(ALL_PROGRAMS) <= set(MODULES)


def test_only_programs_that_exist_use_keys() -> None:
    for name, module in MODULES.items():
        used = [option.key for option in module_options(module).options if option.used]
        assert bool(used) == (name in PROGRAMS)
    switches = {option.key for option in MAIN.options if option.section == "ebpf programs" and option.used}
    assert switches == {*PROGRAMS, "network connections"}


def test_a_setting_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="update every"):
        defaults(MAIN).get("global", "update every", str)


MAIN_FILES_OF_NETDATA = {
    "v1.29": """
        [global]
            ebpf load mode = entry
            disable apps = no
        [ebpf programs]
            process = yes
            network viewer = yes
            network connection monitoring = no
        [network viewer]
            maximum dimensions = 500
            resolve hostname ips = no
            ports = 1-1024 !145 !domain
            hostnames = !example.com
            ips = !127.0.0.1/8 10.0.0.0/8 fc00::/7
        [service name]
            19999 = Netdata
    """,
    "v1.47": """
        [global]
            ebpf load mode = entry
            load = entry
            apps = no
            cgroups = no
            update every = 5
            pid table size = 32768
            btf path = /sys/kernel/btf/
            ebpf type format = CO-RE
            maps per core = yes
            lifetime = 300
            ebpf object flavor = buffer ring
        [ebpf programs]
            network connections = no
            dns = no
        [network connections]
            enabled = yes
            resolve service names = yes
        [ipc]
            integration = disabled
            bind to = unix:/tmp/netdata_ebpf_sock
            backlog = 20
    """
    + "\n".join(["[ebpf programs]", *(f"{name} = no" for name in ALL_PROGRAMS)]),
}


@pytest.mark.parametrize("version", MAIN_FILES_OF_NETDATA)
def test_a_main_file_of_netdata_raises_no_problem(version: str) -> None:
    assert told(MAIN_FILES_OF_NETDATA[version]) == []


COMMON_KEYS_OF_NETDATA = """
    [global]
        ebpf load mode = dev
        apps = yes
        cgroups = no
        update every = 10
        pid table size = 32768
        ebpf type format = auto
        ebpf co-re tracing = probe
        ebpf object flavor = tracing
        maps per core = no
        collect pid = real parent
        lifetime = 300
"""
OWN_KEYS_OF_NETDATA = {
    "filesystem": """
        [filesystem]
        btrfsdist = yes
        ext4dist = yes
        nfsdist = yes
        xfsdist = yes
        zfsdist = yes
    """,
    "sync": """
        [syscalls]
        sync = yes
        msync = yes
        fsync = no
        fdatasync = yes
        syncfs = no
        sync_file_range = yes
    """,
    "shm": "[syscalls]\nshmget = yes\nshmat = yes\nshmdt = yes\nshmctl = yes\n",
    "dns": "per query tracking = yes\nflow ttl = 20\n",
    "socket": """
        bandwidth table size = 16384
        ipv4 connection table size = 16384
        ipv6 connection table size = 16384
        socket monitoring table size = 16384
        udp connection table size = 4096
        [network connections]
        enabled = yes
        maximum dimensions = 50
        resolve hostnames = no
        resolve service names = no
        ports = *
        ips = !127.0.0.1/8 10.0.0.0/8
        hostnames = *
        [service name]
        8125 = statsd
    """,
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_file_of_netdata_raises_no_problem(name: str) -> None:
    text = COMMON_KEYS_OF_NETDATA + OWN_KEYS_OF_NETDATA.get(name, "")
    assert told(text, module_options(MODULES[name])) == []
