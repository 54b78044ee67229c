"""The format of apps_groups.conf, word by word, and the choice of the group."""

import random
from pathlib import Path

import pytest

from supervisor.aggregator.apps_groups import MAX_PROBLEMS, AppsGroups, parse, read

CONF = Path(__file__).parents[2] / "conf" / "apps_groups.conf"
LONG = "n" * 300


def group_name(groups: AppsGroups, comm: str, cmdline: str = "") -> str | None:
    index = groups.match(comm, lambda: cmdline)
    return None if index is None else groups.names[index]


MATCHES = [
    # text of the file, process name, group expected
    ("web: nginx", "nginx", "web"),
    ("web: nginx", "nginx2", None),
    ("web: nginx", "ngin", None),
    ("web: nginx", "Nginx", None),
    ("web: nginx", "", None),
    ("web: nginx*", "nginx", "web"),
    ("web: nginx*", "nginx-worker", "web"),
    ("web: nginx*", "xnginx", None),
    ("web: nginx*", "ngin", None),
    ("web: *nginx", "nginx", "web"),
    ("web: *nginx", "my-nginx", "web"),
    ("web: *nginx", "nginx-x", None),
    ("web: *nginx", "inx", None),
    # the colon is a separator like any other
    ("web nginx", "nginx", "web"),
    ("web:nginx", "nginx", "web"),
    ("web : nginx", "nginx", "web"),
    (":web: nginx", "nginx", "web"),
    ("web: a:b", "a", "web"),
    ("web: a:b", "b", "web"),
    ("web: a:b", "a:b", None),
    ("\tweb:\tnginx\t", "nginx", "web"),
    # quotes
    ('term: "tmux: server"', "tmux: server", "term"),
    ("term: 'tmux: server'", "tmux: server", "term"),
    ("""q: "it's" x""", "it's", "q"),
    ("""q: 'say "a"' x""", 'say "a"', "q"),
    ('q: a"b c', 'a"b', "q"),
    ('q: a"b c', "c", "q"),
    ('q: "a b"c', "a b", "q"),
    ('q: "a b"c', "c", "q"),
    ('q: "tmux: *"', "tmux: server", "q"),
    ('q: *"a b"', 'x"a', "q"),
    ('q: "" x', "x", "q"),
    ('q: "" x', "", None),
    ('q: "a b', "a b", "q"),
    ('q: "a b\nr: c', "c", "r"),
    ('"my group": x', "x", "my group"),
    # comments
    ("# web: nginx", "nginx", None),
    ("web: # nginx", "nginx", None),
    ("web: a #nginx", "nginx", None),
    ("web: a#b", "a#b", "web"),
    ("web: a# b", "b", "web"),
    ('web: "#a" b', "b", None),
    ("web: a # don't \"\nmail: exim", "exim", "mail"),
    ("  #x\nweb: nginx", "nginx", "web"),
    # flags
    ("web: -nginx", "nginx", "web"),
    ("web: +nginx", "nginx", "web"),
    ("web: -+-nginx", "nginx", "web"),
    ("web: -*nginx", "my-nginx", "web"),
    ("web: *-nginx", "mynginx", "web"),
    ("-web: nginx", "nginx", "web"),
    ("--web: nginx", "nginx", "web"),
    ("+web: nginx", "nginx", "+web"),
    ("web: n-g+inx", "n-g+inx", "web"),
    # stars
    ("web: a*b", "a*b", "web"),
    ("web: a*b", "axb", None),
    ("web: ab**", "ab*cd", "web"),
    ("web: ab**", "abcd", None),
    ("web: **ab", "xab", "web"),
    ("web: *", "anything", None),
    ("web: **", "anything", None),
    ("web: * nginx", "nginx", "web"),
    # order
    ("a: x\nb: x", "x", "a"),
    ("a: ab*\nb: abc", "abc", "a"),
    ("b: abc\na: ab*", "abc", "b"),
    ("a: *bc\nb: ab*", "abc", "a"),
    ("a: ab*\nb: abc*", "abcd", "a"),
    ("b: abc*\na: ab*", "abcd", "b"),
    ("b: abc*\na: ab*", "abd", "a"),
    ("a: x\nb: y\na: z", "z", "a"),
    ("a: one\nb: o*\na: on*", "only", "b"),
    # lengths
    ("a: 123456789012345", "123456789012345", "a"),
    ("a: 1234567890123456", "123456789012345", None),
    ("a: 1234567890123456", "1234567890123456", None),
    ("a: 1234567890123456*", "123456789012345", None),
    ("a: *1234567890123456", "123456789012345", None),
    ("a: ééééééé", "ééééééé", "a"),
    ("a: éééééééé", "éééééééé", None),
    # lines and bytes
    ("a: x\r\nb: y\r\n", "x", "a"),
    ("a: x\r\nb: y\r\n", "y", "b"),
    ("a: x\rb: y", "y", "b"),
    ("a: x\x01y", "y", "a"),
    ("a: x\x00y", "x", "a"),
    ("a: x\u2028y", "x\u2028y", "a"),
    ("\ufeffa: x", "x", "a"),
    ("a: \udcff", "\udcff", "a"),
    ("a: \ud800", "\ud800", "a"),
    ("", "x", None),
    ("\n\n:::\n", "x", None),
    ("other: x", "x", "other"),
]


@pytest.mark.parametrize(("text", "comm", "expected"), MATCHES)
def test_process_name_finds_its_group(text: str, comm: str, expected: str | None) -> None:
    assert group_name(parse(text), comm) == expected


@pytest.mark.parametrize(
    ("text", "comm", "cmdline", "expected"),
    [
        ("k: *kafka.Kafka*", "java", "/usr/bin/java -cp x kafka.Kafka server.properties", "k"),
        ("k: *kafka.Kafka*", "kafka.Kafka", "java", None),
        ("k: *kafka.Kafka*", "java", "java KAFKA.KAFKA", None),
        ("k: *jav*", "kthreadd", "", None),
        ("k: *kthreadd*", "kthreadd", "", None),
        ("k: java\nl: *kafka*", "java", "java kafka", "k"),
        ("l: *kafka*\nk: java", "java", "java kafka", "l"),
        ("l: *kafka*\nk: java", "java", "java other", "k"),
        ("l: *kafka*\nk: *java*", "java", "java kafka", "l"),
        ("k: jav*\nl: *kafka*\nm: *java", "java", "kafka", "k"),
        ("a: *one*\nb: java\nc: *two*", "java", "two", "b"),
        ('a: "*two words*"', "x", "run two words", "a"),
        ("a: -*word*", "x", "a word", "a"),
        ("a: **word**", "x", "a word", None),
        ("a: **word**", "x", "a word* b", "a"),
        ("a: *" + "w" * 60 + "*", "x", "w" * 70, "a"),
    ],
)
def test_word_between_stars_is_sought_in_the_command_line(
    text: str, comm: str, cmdline: str, expected: str | None
) -> None:
    assert group_name(parse(text), comm, cmdline) == expected


@pytest.mark.parametrize(
    ("comm", "calls"), [("first", 0), ("fir", 1), ("last", 1), ("none", 1), ("pre-x", 0), ("x-suf", 0)]
)
def test_command_line_is_asked_for_once_and_only_when_reached(comm: str, calls: int) -> None:
    groups = parse("a: first pre-* *-suf\nb: *one* *two*\nc: last *three*")
    asked: list[str] = []

    def cmdline() -> str:
        asked.append(comm)
        return "nothing"

    groups.match(comm, cmdline)
    assert len(asked) == calls


def test_error_of_the_command_line_passes_through() -> None:
    def cmdline() -> str:
        raise ProcessLookupError

    with pytest.raises(ProcessLookupError):
        parse("a: *x*").match("y", cmdline)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: x", False), ("a: x* *y", False), ("a: *", False), ("a: **", False), ("a: *x*", True)],
)
def test_command_line_is_needed_only_with_a_word_between_stars(text: str, expected: bool) -> None:
    assert parse(text).needs_cmdline is expected


@pytest.mark.parametrize(
    ("text", "names", "other"),
    [
        ("", ("other",), 0),
        ("b: x\na: y", ("b", "a", "other"), 2),
        ("a: x\nother: y\nb: z", ("a", "other", "b"), 1),
        ("a: x\nb: y\na: z", ("a", "b", "other"), 2),
        ("a:\nb: y", ("b", "other"), 1),
        ("a: *\nb: y", ("b", "other"), 1),
        ("a: x\nb: x", ("a", "other"), 1),
        ("-a: x", ("a", "other"), 1),
        ("-: x", ("other",), 0),
        ('"": x', ("other",), 0),
        ("a.b/c é: x", ("a.b/c", "other"), 1),
    ],
)
def test_groups_stand_in_file_order_with_other(text: str, names: tuple[str, ...], other: int) -> None:
    groups = parse(text)
    assert groups.names == names
    assert groups.other_index == other


def test_names_and_words_are_cut_at_100_characters() -> None:
    groups = parse(f"{LONG}: *{LONG}*\n{LONG}2: b\n{'n' * 100}: c")
    assert groups.names == ("n" * 100, "other")
    # The star at the end was cut off, so this is a suffix longer than any process name.
    assert not groups.needs_cmdline
    assert group_name(groups, "b") == group_name(groups, "c") == "n" * 100
    assert group_name(parse(f"a: *{'w' * 99}*"), "x", "w" * 99) == "a"


PROBLEMS = [
    ("web:", "1: group 'web' has no words"),
    ("\n\nweb: *", "3: '*' has no text"),
    ("-: x", "1: the line has no group name"),
    ('web: "a b', "1: the quote before 'a b'"),
    ("web: a\x07b", "1: a control character"),
    ("web: unattended-upgrade", "1: 'unattended-upgrade' never matches"),
    ("web: a*b", "1: the inner star of 'a*b'"),
    ("web: a\r\nmail: a", "2: 'a' stays in group 'web'"),
    (f"web: *{LONG}", "1: 'nnnn"),
    (f"{LONG} a", "1: 'nnnn"),
    ("managers: clear", "1: 'managers' is a setting of newer Netdata"),
]


@pytest.mark.parametrize(("text", "expected"), PROBLEMS)
def test_problem_names_line_fault_and_remedy(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "apps_groups.conf"
    path.write_bytes(text.encode())
    _, problems = read(path)
    assert problems[0].startswith(f"{path}:{expected}")
    assert "; " in problems[0]


@pytest.mark.parametrize(
    "text", ["", "web: nginx", "-web: -nginx +apache", "# \x01", "a: x\na: y", "web: '' x", "a: *x x x*"]
)
def test_sound_file_has_no_problems(tmp_path: Path, text: str) -> None:
    path = tmp_path / "apps_groups.conf"
    path.write_text(text)
    assert read(path)[1] == []


def test_any_bytes_can_be_read_and_their_problems_are_short_printable_lines(tmp_path: Path) -> None:
    path = tmp_path / "apps_groups.conf"
    chance = random.Random(23)
    for _ in range(200):
        alphabet = chance.choice([bytes(range(256)), b"ab*-+#:'\" \n\r\t", b"\"'\xff\xc3\x00*\n x"])
        path.write_bytes(bytes(chance.choices(alphabet, k=chance.randrange(2000))))
        groups, problems = read(path)
        assert "other" in groups.names
        assert len(problems) <= MAX_PROBLEMS + 1
        assert all(line.isprintable() and len(line) < 400 for line in problems)
        groups.match("ab", lambda: "x*a")


def test_more_problems_than_worth_telling_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "apps_groups.conf"
    path.write_text("web:\n" * (MAX_PROBLEMS + 5))
    problems = read(str(path))[1]
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1].startswith(f"{path}:{MAX_PROBLEMS + 1}: 5 more problems")


def test_missing_file_is_the_callers_to_handle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.conf")


def match_word_by_word(text: str, comm: str, cmdline: str) -> str | None:
    """The rule at its plainest, for files of single-space lines without quotes and comments."""
    for line in text.splitlines():
        group, *words = line.replace(":", "").split()
        for word in words:
            bare = word.lstrip("*").removesuffix("*")
            found = {
                (False, False): comm == bare,
                (False, True): comm.startswith(bare),
                (True, False): comm.endswith(bare),
                (True, True): bare in cmdline,
            }[word.startswith("*"), word.endswith("*")]
            if found:
                return group
    return None


def test_indexed_look_up_agrees_with_trying_word_by_word() -> None:
    chance = random.Random(23)

    def letters(most: int) -> str:
        return "".join(chance.choices("ab", k=chance.randint(1, most)))

    for _ in range(500):
        lines = [
            f"g{number}: "
            + " ".join(chance.choice(["", "*"]) + letters(4) + chance.choice(["", "*"]) for _ in range(4))
            for number in range(chance.randint(1, 6))
        ]
        text = "\n".join(lines)
        groups = parse(text)
        for _ in range(20):
            comm, cmdline = letters(6), letters(8)
            assert group_name(groups, comm, cmdline) == match_word_by_word(text, comm, cmdline), text


def test_packaged_file_has_no_problems_and_reads_no_command_lines() -> None:
    groups, problems = read(CONF)
    assert problems == []
    assert not groups.needs_cmdline
    assert 40 <= len(groups.names) <= 60


@pytest.mark.parametrize(
    ("comm", "group"),
    [
        ("ebpf-supervisor", "ebpf-supervisor"),
        ("apps.plugin", "netdata"),
        ("nginx", "web"),
        ("systemd-resolve", "dns"),
        ("systemd-timesyn", "time"),
        ("systemd-journal", "logging"),
        ("systemd-logind", "system"),
        ("containerd-shim", "containers"),
        ("unattended-upgr", "packages"),
        ("php-fpm8.2", "php"),
        ("sshd-session", "ssh"),
        ("kthreadd", "kernel"),
        ("(udev-worker)", "devices"),
        ("systemd", None),
        ("bash", None),
        ("sudo", None),
    ],
)
def test_packaged_file_sorts_common_software(comm: str, group: str | None) -> None:
    assert group_name(read(CONF)[0], comm) == group
