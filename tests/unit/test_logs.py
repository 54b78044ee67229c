"""Messages are one printable line each, whatever is in them and whoever wrote them."""

import logging
import os
import re
import select
import subprocess
import sys

import pytest

from supervisor import logs
from tests.harness import SLOW

# A process of its own: logging is set up for the whole process, and writes to descriptor 2.
PROGRAM = """
import logging, os, sys
from supervisor import logs
logs.{setup}("{level}")
log = logging.getLogger("fd")
{body}
"""
HOSTILE = [
    "a\nb",
    "\r\x1b[31mred\x1b[0m",
    "nul\0",
    "\u2028\x85\xa0\u202e",
    "\udcff\ud800",
    "100%d %s {}",
    "é漢😀",
]


def lines_on_stderr(
    setup: str, body: str, level: str = "info", env: dict[str, str] | None = None
) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup, level=level, body=body)],
        stderr=subprocess.PIPE,
        env={**os.environ, "JOURNAL_STREAM": "", **(env or {})},
        timeout=60,
        check=True,
    )
    assert done.stderr.endswith(b"\n") or not done.stderr
    return done.stderr.decode().splitlines()


def test_a_line_says_when_how_bad_who_and_what() -> None:
    (line,) = lines_on_stderr("for_supervisor", "log.warning('exited with %d', 1)")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARN  fd: exited with 1", line)


def test_under_systemd_the_journal_has_the_time_and_is_given_the_priority() -> None:
    body = "log.error('e'); log.warning('w'); log.info('i'); log.debug('d')"
    lines = lines_on_stderr("for_supervisor", body, "debug", env={"JOURNAL_STREAM": "8:1"})
    assert lines == ["<3>fd: e", "<4>fd: w", "<6>fd: i", "<7>fd: d"]


def test_a_child_says_the_priority_and_its_message() -> None:
    assert lines_on_stderr("for_child", "log.warning('w')") == ["<4>w"]


def test_what_is_below_the_level_is_not_told() -> None:
    body = "log.debug('d'); log.info('i'); log.warning('w'); log.error('e')"
    assert lines_on_stderr("for_child", body, "warning") == ["<4>w", "<3>e"]


@pytest.mark.parametrize("setup", ["for_supervisor", "for_child"])
def test_every_message_is_one_printable_line(setup: str) -> None:
    body = "\n".join(f"log.info('%s', {text!a})" for text in HOSTILE)
    lines = lines_on_stderr(setup, body)
    assert len(lines) == len(HOSTILE)
    assert all(line.isprintable() for line in lines)
    assert r"a\nb" in lines[0]
    assert r"\x1b[31mred" in lines[1]
    assert "100%d %s {}" in lines[5]
    assert lines[6].endswith("é漢😀")


def test_a_caught_exception_makes_no_traceback() -> None:
    body = (
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    log.exception('%s', logs.describe(error))"
    )
    (line,) = lines_on_stderr("for_child", body)
    assert re.fullmatch(r"<3>ZeroDivisionError: division by zero \(<string>:\d+\)", line)


@pytest.mark.parametrize("size", [200, 5000, 6000, 7000, 9000, 16000])
def test_a_reader_that_sleeps_costs_lines_and_no_wait(size: int) -> None:
    """A pipe with one free page counts as writable; what is longer than a page may still have to wait."""
    body = f"for number in range(500):\n    log.info('%s', 'x' * {size})\nprint('through', flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(setup="for_supervisor", level="info", body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    try:
        assert select.select([process.stdout], [], [], 5 * SLOW)[0], "it waits for its reader"
        told, lines = process.communicate(timeout=5 * SLOW)
        assert told == b"through\n"
        assert len({line.partition(b"fd: ")[2] for line in lines.splitlines()}) == 1, (
            "no line is cut by another"
        )
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_has_gone_does_not_end_whoever_logs() -> None:
    ignoring = "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_IGN)"
    body = f"{ignoring}\ninput()\nlog.info('lost')\nprint('through')"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(setup="for_supervisor", level="info", body=body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr
    process.stderr.close()
    out, _ = process.communicate(b"\n", timeout=60)
    assert out == b"through\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        ("<3>cannot", logging.ERROR, "cannot"),
        ("<4>odd", logging.WARNING, "odd"),
        ("<6>told", logging.INFO, "told"),
        ("<7>inner", logging.DEBUG, "inner"),
        ("<6><3>two", logging.INFO, "<3>two"),
        ("libfoo: no", logging.WARNING, "libfoo: no"),
        ("<", logging.WARNING, "<"),
        ("<6>", logging.WARNING, "<6>"),
        ("<x>y", logging.WARNING, "<x>y"),
        ("<66>y", logging.WARNING, "<66>y"),
        ("", logging.WARNING, ""),
    ],
)
def test_a_childs_line_is_level_and_text(line: str, level: int, text: str) -> None:
    assert logs.parse_child_line(line) == (level, text)


@pytest.mark.parametrize("digit", ["²", "٣", "①", "৪"])
def test_a_childs_line_with_what_unicode_calls_a_digit_ends_nobody(digit: str) -> None:
    level, text = logs.parse_child_line(f"<{digit}>x")
    assert level == logging.WARNING
    assert text == f"<{digit}>x"


@pytest.mark.parametrize("digit", range(10))
def test_every_priority_has_a_level(digit: int) -> None:
    level, text = logs.parse_child_line(f"<{digit}>x")
    assert text in ("x", f"<{digit}>x")
    assert logging.DEBUG <= level <= logging.CRITICAL


def test_an_unexpected_error_is_described_by_what_and_where() -> None:
    def innermost() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError) as caught:
        innermost()
    assert re.fullmatch(
        r"KeyError: 'missing' \(test_logs\.py:\d+ < test_logs\.py:\d+\)", logs.describe(caught.value)
    )


def test_an_error_without_a_trace_is_described_too() -> None:
    assert logs.describe(OSError(28, "No space left")) == "OSError: [Errno 28] No space left ()"


def test_a_command_that_ends_says_why_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.fatal("account a\nb: no such user")
    _, told = capfd.readouterr()
    assert len(told.splitlines()) == 1
    assert told.startswith("ebpf-supervisor: account a")
