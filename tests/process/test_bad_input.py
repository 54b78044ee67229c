"""Broken files, hostile names, children that say anything: one line each, and a stream that stays sound."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT, SLOW, SUPERVISOR, Run, supervisor, wait_for
from tests.workload import Workload

LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO |WARN |ERROR) [\w-]+: .+")
STATEMENT = re.compile(r"ebpf-supervisor: \S.*")


def messages(text: str) -> list[str]:
    """Lines of stderr: each is a message and printable, and none is part of a traceback."""
    lines = text.splitlines()
    for line in lines:
        assert LOGGED.fullmatch(line) or STATEMENT.fullmatch(line), text
        assert line.isprintable(), line
    return lines


def check_config(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(SUPERVISOR), "check-config", "--config-dir", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOW, check=False)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of the packaged configuration, to be broken."""
    folder = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", folder)
    return folder


# ---- configuration

BROKEN = {
    "ebpf.d.conf": (
        "[global]\n"
        "    update evry = 5\n"
        "    update every = often\n"
        "    pid table size = 12\n"
        "[ebpf programs]\n"
        "    fd = maybe\n"
        "    teleport = yes\n"
        "[supervisor]\n"
        "    startretries = -1\n"
        "    startsecs = 1e400\n"
        "[superviser]\n"
        "    startsecs = 1\n"
    ),
    "ebpf.d/fd.conf": "[global]\n    ebpf load mode = both\n    \x1b[31mkey\x07\u2028 = \x1b\n",
    "ebpf.d/disk.conf": "[global]\n    update every = \udcff\n",
    "ebpf.d/process.conf": "[global]\n    update every = \x00\n",
    "ebpf.d/softirq.conf": "[global\nno equals sign\n= no key\n",
    "ebpf.d/typo.conf": "[global]\n",
}
TOLD = {
    "ebpf.d.conf:2": "update every",
    "ebpf.d.conf:3": "often",
    "ebpf.d.conf:4": "64 to 4194304",
    "ebpf.d.conf:6": "maybe",
    "ebpf.d.conf:7": "teleport",
    "ebpf.d.conf:9": "startretries",
    "ebpf.d.conf:10": "startsecs",
    "ebpf.d.conf:11": "supervisor",
    "ebpf.d/fd.conf:2": "entry",
    "ebpf.d/fd.conf:3": "unknown key",
    "ebpf.d/disk.conf:2": "UTF-8",
    "ebpf.d/process.conf:2": "NUL",
    "ebpf.d/softirq.conf:1": "",
    "ebpf.d/typo.conf": "no program",
}


def break_it(folder: Path) -> None:
    for name, text in BROKEN.items():
        (folder / name).write_text(text, errors="surrogateescape")


def test_the_packaged_configuration_is_sound(conf: Path) -> None:
    answer = check_config(conf)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_check_config_lists_every_mistake_of_every_file_and_exits_78(conf: Path) -> None:
    break_it(conf)
    answer = check_config(conf)
    assert answer.returncode == 78
    assert len(messages(answer.stderr)) == 1
    lines = answer.stdout.splitlines()
    assert all(line.isprintable() and str(conf) in line for line in lines)
    for place, hint in TOLD.items():
        assert any(f"{place}:" in line and hint in line for line in lines), f"{place} {hint}\n{answer.stdout}"


@pytest.mark.parametrize("what", ["directory", "fifo", "binary", "huge", "empty", "dangling link", "device"])
@pytest.mark.parametrize("name", ["ebpf.d.conf", "ebpf.d/fd.conf", "apps_groups.conf"])
def test_whatever_stands_in_the_place_of_a_file_check_config_ends_and_says_so(
    conf: Path, name: str, what: str
) -> None:
    replace(conf / name, what)
    answer = check_config(conf)
    assert answer.returncode in (0, 78)
    assert "Traceback" not in answer.stderr
    messages(answer.stderr)
    assert all(line.isprintable() for line in answer.stdout.splitlines())


def replace(path: Path, what: str) -> None:
    path.unlink()
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "binary":
        path.write_bytes(bytes(range(256)) * 300)
    elif what == "huge":
        path.write_bytes(b"x" * 3_000_000)
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to("/none")


@pytest.mark.parametrize("folder", ["/none", "/dev/null", "/none\n/two", "", "\udcff", "x" * 5000])
@pytest.mark.parametrize("words", [["check-config"], ["run", "--ticks", "1"]], ids=lambda words: words[0])
def test_a_configuration_folder_that_is_not_there_is_78(
    tmp_path: Path, words: list[str], folder: str
) -> None:
    command = [str(SUPERVISOR), *words, "--config-dir", folder or str(tmp_path / "none")]
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=60 * SLOW, check=False, errors="surrogateescape"
    )
    assert answer.returncode in (77, 78)
    assert answer.stdout == ""
    assert len(messages(answer.stderr)) == 1


@pytest.mark.kernel
def test_a_run_tells_each_mistake_and_goes_on_with_the_defaults() -> None:
    with supervisor("--only", "fd,softirq", files=BROKEN) as run:
        wait_for("both RUNNING", lambda: {p["state"] for p in run.status()["programs"]} == {"RUNNING"})
        lines = messages(run.stderr())
        for place, hint in TOLD.items():
            if "typo" not in place:
                assert any(f"{place}:" in line and hint in line for line in lines), f"{place} {hint}"
        run.wait_frames(2)


# ---- app groups and processes with hostile names

LONG = "long" * 75
GROUPS = "\n".join(
    [
        "'qu\"ote': qkat",
        '"it\'s two words": wkat',
        '"a = b": eqkat',
        "ctrl\x01\x1bname: ckat",
        f"{LONG}: longkat",
        f"{LONG}er: longerkat",
        "café漢字: utfkat",
        "bad\udcff\udcfe: badkat",
        "bad\udcfd: bad2kat",
        "back\\slash: bskat",
        "nul\0byte: nulkat",
        "BEGIN: begin",
        "-dash: dashkat",
        "\u2028sep: sepkat",
        '"unclosed: unkat',
        '"two ' + "漢 " * 60 + '1": dup1',
        '"two ' + "漢 " * 60 + '2": dup2',
        ": nogroup",
        "empty:",
    ]
)
# The group's dimension, by the name of the process that is counted there.
EXPECTED = {
    "qkat": "qu_ote",
    "wkat": "it_s two words",
    "eqkat": "a _ b",
    "longkat": LONG[:100],
    "utfkat": "café漢字",
    "badkat": "bad__",
    "bskat": "back_slash",
    "begin": "BEGIN",
    "dashkat": "dash",
}
HOSTILE_NAMES = [
    "BEGIN",
    "END",
    "DISABLE",
    "a\x01b",
    "'",
    '"',
    "x'y\"z",
    "\\",
    "\x01SET x = 1",
    " ",
    ") S 1",
]


@pytest.fixture(scope="module")
def hostile() -> Iterator[Run]:
    with supervisor("--only", "process,fd", groups=GROUPS) as run:
        yield run


@pytest.mark.kernel
def test_groups_of_any_name_are_counted_under_a_harmless_one(hostile: Run) -> None:
    with contextlib.ExitStack() as stack:
        works = {name: stack.enter_context(Workload(name)) for name in EXPECTED}
        hostile.wait_frames(2)
        before = {name: hostile.value("apps.file_open", dimension) for name, dimension in EXPECTED.items()}
        for work in works.values():
            work.do("open", 211)
        last = list(EXPECTED.values())[-1]
        hostile.wait_value("apps.file_open", last, before[list(EXPECTED)[-1]] + 211)
        counted = {name: hostile.value("apps.file_open", EXPECTED[name]) - before[name] for name in EXPECTED}
        assert counted == dict.fromkeys(EXPECTED, 211)


@pytest.mark.kernel
def test_every_line_of_a_hostile_configuration_is_told_in_one_line(hostile: Run) -> None:
    lines = [line for line in messages(hostile.stderr()) if "apps_groups.conf:" in line]
    assert len(lines) >= 3


@pytest.mark.kernel
def test_a_process_may_call_itself_anything(hostile: Run) -> None:
    before = hostile.value("apps.file_open", "other")
    with Workload("\udcff\udcfe\udcfd") as work:
        work.do("churn", 3, 101)
        for name in HOSTILE_NAMES:
            work.rename(name)
            work.do("churn", 3, 101)
        hostile.wait_value("apps.file_open", "other", before + 303 * len(HOSTILE_NAMES))
    hostile.charts()


@pytest.mark.kernel
def test_after_all_that_the_stream_is_lines_of_harmless_text(hostile: Run) -> None:
    hostile.wait_frames(1)
    text = bytes(hostile.raw).rpartition(b"\n")[0].decode()
    assert all(line.isprintable() for line in text.split("\n"))
    assert {line.split(" ")[0] for line in text.split("\n")} <= {
        "CHART",
        "DIMENSION",
        "BEGIN",
        "SET",
        "END",
        "",
    }
    messages(hostile.stderr())
    ids = list(hostile.charts()["apps.file_open"].dimensions)
    assert len(ids) == len(set(ids))


# ---- children that say anything


TEXTS = [
    b"\xff\xfe\x00\x01\x1b[31m\r",
    b"<6>\n<6>\n\n\n",
    b"%s %d %(name)s {0}",
    b"no end of line" * 5000,
    b"<3>" * 40000,
    b"\n" * 50000,
    "<²>a digit, says Unicode".encode(),
]


@pytest.mark.kernel
def test_whatever_a_child_writes_to_its_stderr_is_its_own_affair() -> None:
    with supervisor("--only", "softirq") as run:
        pid = run.pid_of("softirq")
        for number, text in enumerate(TEXTS):
            with Path(f"/proc/{pid}/fd/2").open("wb", buffering=0) as stderr:
                stderr.write(text)
                stderr.write(f"\n<6>after {number}\n".encode())
            mark = f"softirq: after {number}"
            wait_for(mark, lambda mark=mark: mark in run.stderr() or run.process.poll() is not None)  # type: ignore[misc]
            messages(run.stderr())
        assert run.pid_of("softirq") == pid
        run.wait_frames(1)
