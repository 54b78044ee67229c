"""The command `ebpf-supervisor`: what it refuses, how it says so, and where it is started from."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import supervisor as package
from supervisor.config.options import PROGRAMS
from tests.harness import SLOW, SUPERVISOR, Stream
from workers import registry

QUICK = ["run", "--only", "softirq", "--ticks", "1"]
LOGGED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO |WARN |ERROR) [\w-]+: .+")
STATEMENT = re.compile(r"ebpf-supervisor: \S.*")

Done = subprocess.CompletedProcess[str]


def command(*words: str, **how: Any) -> Done:
    """Runs it to its end."""
    how = {
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "text": True,
        "timeout": 60 * SLOW,
        "errors": "surrogateescape",
        **how,
    }
    return subprocess.run([str(SUPERVISOR), *words], check=False, **how)


def through_shell(redirection: str, *words: str) -> Done:
    """With a redirection that only a shell can make."""
    text = f"{shlex.quote(str(SUPERVISOR))} {shlex.join(words)} {redirection}"
    return subprocess.run(
        ["sh", "-c", text],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60 * SLOW,
        check=False,
    )


def told(answer: Done) -> list[str]:
    """The lines on stderr; each is a message, and none is part of a traceback."""
    lines = answer.stderr.splitlines()
    for line in lines:
        assert LOGGED.fullmatch(line) or STATEMENT.fullmatch(line), answer.stderr
    return lines


def refusal(answer: Done, status: int) -> str:
    """The one line of a command that was refused."""
    assert answer.returncode == status, answer.stderr
    (line,) = told(answer)
    return line


def frames(text: str) -> int:
    """How many collections an agent has read, which takes every line."""
    stream = Stream()
    for line in text.splitlines():
        stream.feed(line)
    return max((chart.collections for chart in stream.charts.values()), default=0)


# ---- usage


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["run", "--only", "vfs2"], "vfs2"),
        (["run", "--only", ""], "--only"),
        (["run", "--only", ","], "--only"),
        (["run", "--only", "FD"], "FD"),
        (["run", "--only", "fd\nx"], "--only"),
        (["run", "--only", "\udcff"], "--only"),
        (["run", "0"], "1 to 86400"),
        (["run", "-1"], ""),
        (["run", "86401"], "1 to 86400"),
        (["run", "1.5"], "1.5"),
        (["run", "five"], "five"),
        (["run", "٣"], ""),
        (["run", "9" * 5000], ""),
        (["run", "1", "2"], "2"),
        (["run", "--ticks", "x"], "x"),
        (["run", "--ticks"], "--ticks"),
        (["run", "--load-mode", "both"], "both"),
        (["run", "--attach", "magic"], "magic"),
        (["run", "--nonsense"], "--nonsense"),
        (["run", "--non\nsense"], "see"),
        (["check", "fd"], "fd"),
    ],
)
def test_wrong_usage_is_2_and_one_line_with_the_way_out(words: list[str], hint: str) -> None:
    answer = command(*words)
    line = refusal(answer, 2)
    assert hint in line
    assert "--help" in line
    assert answer.stdout == ""


def test_an_unknown_program_is_answered_with_those_there_are() -> None:
    line = refusal(command("run", "--only", "fd,vsf"), 2)
    assert "vsf" in line
    assert all(name in line for name in PROGRAMS)


def test_help_names_every_command_and_option() -> None:
    text = command("--help").stdout
    assert all(name in text for name in ("run", "check", "check-config", "cleanup"))
    text = command("run", "--help").stdout
    options = "--config-dir --only --load-mode --attach --ticks --runtime-dir --user UPDATE_EVERY"
    assert all(option in text for option in options.split())


def test_version_is_the_packages() -> None:
    assert command("--version").stdout == f"ebpf-supervisor {package.__version__}\n"


def test_whoever_is_not_root_is_refused_with_77(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    how = {"user": "nobody", "group": "nogroup", "extra_groups": [], "cwd": "/"}
    for words in (["run"], ["check"], ["cleanup"], ["run", "--runtime-dir", str(tmp_path)]):
        line = refusal(command(*words, **how), 77)
        assert "root" in line


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--user", "nobody-at-all"], "nobody-at-all"),
        (["--user", "root"], "root"),
        (["--user", "a\nb"], "no such user"),
        (["--user", "\udcff"], "no such user"),
        (["--runtime-dir", "/dev/null"], "/dev/null"),
        (["--runtime-dir", "/dev/null/x"], "/dev/null/x"),
        (["--runtime-dir", "/proc/x"], "/proc/x"),
        (["--runtime-dir", "/dev/null/a\nb"], "runtime"),
        (["--runtime-dir", "/tmp/" + "x" * 120], "shorter"),
    ],
)
def test_what_cannot_be_used_is_1_and_one_line(words: list[str], hint: str) -> None:
    answer = command(*QUICK, *words)
    assert hint in refusal(answer, 1)
    assert answer.stdout == ""


@pytest.mark.kernel
@pytest.mark.parametrize("folder", ["/proc", "/proc/self", "/sys", "/dev/null", "/none"])
def test_cleanup_of_a_folder_that_cannot_be_one_of_ours_is_no_traceback(folder: str) -> None:
    told(command("cleanup", "--runtime-dir", folder))
    assert Path(folder).exists() == (folder != "/none")


@pytest.mark.kernel
def test_an_empty_folder_of_the_users_is_still_there_after_a_run_and_a_cleanup(tmp_path: Path) -> None:
    assert command(*QUICK, "--runtime-dir", str(tmp_path)).returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert command("cleanup", "--runtime-dir", str(tmp_path)).returncode == 0
    assert tmp_path.is_dir()


# ---- where it is started from


@pytest.mark.kernel
def test_ticks_is_as_many_frames_and_exit_0(tmp_path: Path) -> None:
    answer = command(*QUICK[:-1], "3", "--runtime-dir", str(tmp_path / "run"))
    assert answer.returncode == 0
    assert frames(answer.stdout) == 3
    assert told(answer)
    assert not (tmp_path / "run").exists()


@pytest.mark.kernel
@pytest.mark.parametrize("redirection", ["<&-", "</dev/null", "2>&-", "2>/dev/full", "<&- 2>&-"])
def test_the_stream_is_the_same_whatever_stdin_and_stderr_are(tmp_path: Path, redirection: str) -> None:
    answer = through_shell(redirection, *QUICK, "--runtime-dir", str(tmp_path / "run"))
    assert answer.returncode == 0
    assert frames(answer.stdout) == 1
    told(answer)


@pytest.mark.kernel
def test_without_a_stdout_it_is_refused_in_one_line(tmp_path: Path) -> None:
    answer = through_shell(">&-", *QUICK, "--runtime-dir", str(tmp_path / "run"))
    assert answer.returncode != 0
    assert "stdout" in told(answer)[-1]


@pytest.mark.kernel
def test_a_stderr_whose_reader_has_gone_costs_no_frame(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answer = command(
        *QUICK,
        "--runtime-dir",
        str(tmp_path / "run"),
        capture_output=False,
        stdout=subprocess.PIPE,
        stderr=writing,
    )
    os.close(writing)
    assert answer.returncode == 0
    assert frames(answer.stdout) == 1


@pytest.mark.kernel
def test_a_stdout_whose_reader_has_gone_is_an_orderly_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = ["run", "--only", "softirq", "--runtime-dir", str(tmp_path / "run")]
    answer = command(*words, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert answer.returncode == 0
    assert "nobody reads the stream" in answer.stderr or "the stream is at its end" in answer.stderr
    told(answer)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["check-config"], ["--version"], ["--help"]])
def test_a_full_disk_and_a_closed_pipe_are_no_traceback(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        told(command(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE))
    reading, writing = os.pipe()
    os.close(reading)
    answer = command(*words, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert answer.stderr == ""


# ---- check


@pytest.fixture(scope="module")
def checked() -> Done:
    return command("check", "--json")


@pytest.mark.kernel
def test_check_says_of_every_hook_how_it_is_had_or_why_not(checked: Done) -> None:
    told(checked)
    found = json.loads(checked.stdout)
    assert found["kernel"] == os.uname().release
    for feature in found["features"]:
        assert feature["name"]
        assert (feature["mark"] == "yes") == (feature["costs"] == ""), feature
        assert (feature["mark"] == "yes") == (feature["fix"] == ""), feature
    assert list(found["lockdown"]) == ["none", "integrity", "confidentiality"]
    assert [program["name"] for program in found["programs"]] == list(PROGRAMS)
    assert checked.returncode == (0 if all(program["available"] for program in found["programs"]) else 1)
    for program in found["programs"]:
        hooks = {hook.name: hook for hook in registry.find(program["name"]).hooks}
        for told_of in program["hooks"]:
            assert told_of["attached"] == (told_of["reason"] == ""), told_of
            assert told_of["plan"] or hooks[told_of["hook"]].impossible, told_of
        attached = {hook["hook"] for hook in program["hooks"] if hook["attached"]}
        wanted = {hook["hook"] for hook in program["hooks"]} - {n for n in hooks if hooks[n].impossible}
        assert (attached == wanted) == program["available"]
        assert program["available"] or (program["reason"] and program["fix"])
        assert len(program["reason"]) < 200


@pytest.mark.kernel
def test_check_takes_what_is_not_there_to_be_watched_for_no_fault(checked: Done) -> None:
    """Types of file systems that are not mounted, md arrays that there are not."""
    programs = {program["name"]: program for program in json.loads(checked.stdout)["programs"]}
    for name, program in registry.all_programs().items():
        wanted = program.parts() if program.parts else {""}
        declared = {hook.name for hook in program.hooks if hook.part in wanted}
        assert {hook["hook"] for hook in programs[name]["hooks"]} == declared, name
        if not declared:
            assert programs[name]["available"], name
            assert "nothing for it to watch" in programs[name]["reason"], name


@pytest.mark.kernel
def test_a_program_all_of_whose_hooks_have_tracepoint_plans_is_available(checked: Done) -> None:
    """Every kernel that these tests meet has tracepoints, whatever else it lacks. Interrupt vectors are the
    exception: a kernel has those that it is built with."""
    programs = {program["name"]: program for program in json.loads(checked.stdout)["programs"]}
    for name, program in registry.all_programs().items():
        hooks = [hook for hook in program.hooks if not hook.impossible]
        by_tracepoint = all(any(plan.family == "tracepoint" for plan in hook.returning) for hook in hooks)
        if by_tracepoint and name != "hardirq":
            assert programs[name]["available"], programs[name]["reason"]


@pytest.mark.kernel
def test_check_for_people_says_the_same_in_100_columns() -> None:
    answer = command("check")
    assert answer.stdout.startswith(f"kernel {os.uname().release}\n")
    for name in PROGRAMS:
        assert re.search(rf"^  (yes |part|no  )  {name}\b", answer.stdout, re.MULTILINE)
    assert re.search(r"^  open +\w+ +\S+ +yes$", answer.stdout, re.MULTILINE)
    assert re.search("^  HOOK .* REMARK$", answer.stdout, re.MULTILINE)
    assert max(map(len, answer.stdout.splitlines())) <= 100
