"""The reader of Netdata's ini dialect: what it takes, and what it says of bytes that are no configuration."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from supervisor.config.files import MAX_FILE_BYTES
from supervisor.config.ini import MAX_LINE_BYTES, Document, Entry, Section, parse, read

PATH = Path("ebpf.d.conf")


def entries(text: str) -> list[tuple[str, str, str]]:
    return [(entry.section, entry.key, entry.value) for entry in parse(PATH, text.encode()).entries]


def messages(document: Document | None) -> list[str]:
    assert document is not None
    return [str(problem) for problem in document.problems]


def open_descriptors() -> list[str]:
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def test_an_entry_has_its_section_key_value_and_line() -> None:
    document = parse(PATH, b"# head\n[global]\n\n  update every = 5\n")
    assert document.sections == (Section("global", 2),)
    assert document.entries == (Entry("global", "update every", "5", 4),)
    assert document.problems == ()


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("apps=no", "apps", "no"),
        ("\t apps\t=\t no \t", "apps", "no"),
        ("19999 = Netdata = yes", "19999", "Netdata = yes"),
        ("socket = no # disabled", "socket", "no # disabled"),
        ("bind to =", "bind to", ""),
        ("apps = no\r", "apps", "no"),
        ("a#b = c", "a#b", "c"),
        ("name = Zoë", "name", "Zoë"),
    ],
)
def test_a_line_is_cut_at_its_first_equals_sign_and_trimmed(line: str, key: str, value: str) -> None:
    assert entries(f"[global]\n{line}\n") == [("global", key, value)]


@pytest.mark.parametrize("line", ["", "   ", "# apps = no", "\t#apps = no", "#"])
def test_blank_lines_and_comments_say_nothing(line: str) -> None:
    document = parse(PATH, f"[global]\n{line}\n".encode())
    assert document.entries == ()
    assert document.problems == ()


def test_a_section_that_is_opened_again_goes_on() -> None:
    text = "[global]\na = 1\n[other]\nb = 2\n[global]\na = 3\n"
    assert entries(text) == [("global", "a", "1"), ("other", "b", "2"), ("global", "a", "3")]


def test_the_last_line_needs_no_line_feed() -> None:
    assert entries("[global]\napps = no") == [("global", "apps", "no")]


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse(PATH, b"\xef\xbb\xbf[global]\napps = no\n").problems == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[global]\nupdate every\n",
            "ebpf.d.conf:2: [global]: "
            'expected [section], key = value or a # comment; found "update every"; ignored',
        ),
        (
            "[global] # main\n",
            'ebpf.d.conf:1: expected [section], key = value or a # comment; found "[global] # main"; ignored',
        ),
        ("[global]\n = 5\n", "ebpf.d.conf:2: [global]: no key before the '='; ignored"),
        ("apps = no\n[global]\n", "ebpf.d.conf:1: stands before the first [section]; ignored"),
    ],
)
def test_a_line_of_no_form_is_ignored_and_told(text: str, message: str) -> None:
    document = parse(PATH, text.encode())
    assert document.entries == ()
    assert messages(document) == [message]


def test_bytes_that_are_not_utf8_are_told_once_and_the_other_lines_are_read() -> None:
    document = parse(PATH, b"[global]\nname = \xff\xfe\napps = no\nname = \xc3\n")
    assert [entry.key for entry in document.entries] == ["apps"]
    assert messages(document) == ["ebpf.d.conf:2: not UTF-8 text; ignored, and 1 more such lines"]


def test_a_comment_may_be_in_any_encoding() -> None:
    assert parse(PATH, b"# ma\xeetre\n[global]\napps = no\n").problems == ()


def test_a_nul_byte_makes_the_whole_file_one_problem() -> None:
    document = parse(PATH, b"[global]\napps = no\nx\0y\nnonsense\n\0")
    assert document.entries == ()
    assert messages(document) == ["ebpf.d.conf:3: holds a NUL byte, so it is not a text file; ignored"]


def test_a_line_that_is_too_long_is_ignored_and_told() -> None:
    document = parse(PATH, b"[global]\nips = " + b"1" * MAX_LINE_BYTES + b"\napps = no\n")
    assert [entry.key for entry in document.entries] == ["apps"]
    assert messages(document) == [
        "ebpf.d.conf:2: [global]: a line of 16390 bytes; the longest allowed has 16384; ignored"
    ]


def test_a_line_of_ten_megabytes_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "ebpf.d.conf"
    path.write_bytes(b"[global]\nips = " + b"1" * 10_000_000)
    assert messages(read(path)) == [
        f"{path}: larger than {MAX_FILE_BYTES} bytes, so not a configuration file; ignored"
    ]


def test_many_faults_of_one_kind_are_told_and_then_counted() -> None:
    told = messages(parse(PATH, b"[global]\n" + b"nonsense\n" * 5000))
    assert len(told) == 21
    assert told[-1] == "ebpf.d.conf:21: and 4980 more like this one"


def test_no_file_is_not_a_problem(tmp_path: Path) -> None:
    assert read(tmp_path / "ebpf.d.conf") is None
    (tmp_path / "file").touch()
    assert read(tmp_path / "file" / "ebpf.d.conf") is None


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    path = tmp_path / "ebpf.d.conf"
    path.touch()
    assert read(path) == Document(path)


def test_a_directory_in_the_place_of_the_file_is_one_problem(tmp_path: Path) -> None:
    assert messages(read(tmp_path)) == [f"{tmp_path}: expected a regular file; ignored"]


def test_reading_leaves_no_descriptor_open(tmp_path: Path) -> None:
    path = tmp_path / "ebpf.d.conf"
    path.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    before = open_descriptors()
    for place in (path, tmp_path, tmp_path / "none", Path("/dev/null")):
        read(place)
    assert open_descriptors() == before


def test_a_fifo_in_the_place_of_the_file_holds_nothing_up(tmp_path: Path) -> None:
    path = tmp_path / "ebpf.d.conf"
    os.mkfifo(path)
    assert messages(read(path)) == [f"{path}: expected a regular file; ignored"]


def test_a_link_to_itself_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "ebpf.d.conf"
    path.symlink_to(path)
    assert messages(read(path)) == [f"{path}: cannot be read: Too many levels of symbolic links; ignored"]


def test_a_file_without_permission_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ebpf.d.conf"
    path.touch()

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root, who runs these tests too, may read any file
    assert messages(read(path)) == [f"{path}: cannot be read: Permission denied; ignored"]


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_raise(seed: int) -> None:
    held = bytes(random.Random(seed).choices(b"[]=# \n\r\t\0\xff\xc3ab", k=3000))
    for content in (held, held.replace(b"\0", b"")):
        for problem in parse(PATH, content).problems:
            assert str(problem).isprintable()
