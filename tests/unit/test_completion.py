"""Completion offers every command, option and program that the parsers know: shells are really asked."""

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli import ATTACH
from supervisor.config.options import PROGRAMS
from tests.harness import ROOT, wait_for
from tests.parsers import PARSERS, commands, options

FILES = ROOT / "docs" / "completion"

# Prints what bash would offer for the words in $2...: the last of them is the one that is completed.
ASK_BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
compopt() { :; }
$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def bash(*words: str) -> set[str]:
    """What is offered in the place of the last word."""
    done = subprocess.run(
        ["bash", "-c", ASK_BASH, "bash", str(FILES / "bash" / words[0]), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


ALL_COMMANDS = [(name, command) for name in PARSERS for command in commands(name)]


@pytest.mark.parametrize("name", PARSERS)
def test_bash_offers_every_command(name: str) -> None:
    assert bash(name, "") >= set(commands(name))
    assert bash(name, "-") >= set(options(PARSERS[name]))


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS)
def test_bash_offers_every_option_of_a_command(name: str, command: str) -> None:
    assert bash(name, command, "--") >= set(options(commands(name)[command]))


@pytest.mark.parametrize("command", ["status", "start", "stop", "restart", "tail"])
def test_bash_offers_every_program(command: str) -> None:
    assert bash("ebpfctl", command, "") >= set(PROGRAMS)
    assert bash("ebpfctl", "--json", "--runtime-dir", "/run/x", command, "fd", "sock") == {"socket"}


def test_bash_offers_what_options_take() -> None:
    assert bash("ebpf-supervisor", "run", "--attach", "") == set(ATTACH)
    assert bash("ebpf-supervisor", "run", "--load-mode", "") == {"entry", "return"}
    assert bash("ebpf-supervisor", "run", "--only", "") == set(PROGRAMS)
    assert bash("ebpf-supervisor", "run", "--only", "fd,so") == {"fd,socket", "fd,softirq"}
    assert bash("ebpf-supervisor", "check-config", "--config-dir", f"{ROOT}/con") == {f"{ROOT}/conf"}


def test_bash_completes_the_beginning_of_a_word() -> None:
    assert bash("ebpfctl", "re") == {"restart", "reload"}
    assert bash("ebpf-supervisor", "che") == {"check", "check-config"}


# ---- zsh: what it knows shows in a list below the line, so it is asked on a terminal

needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")


_TRIES = 4


class Zsh:
    """An interactive zsh that has our completion and nobody's settings."""

    def __init__(self, folder: Path) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="dumb", COLUMNS="200", HOME=str(folder), ZDOTDIR=str(folder), PS1="> ")
            os.execvp("zsh", ["zsh", "-f", "-i"])
        self._seen = ""
        self._do(f"fpath=({FILES / 'zsh'} $fpath); LISTMAX=1000")
        self._do(f"autoload -Uz compinit; compinit -u -d {folder}/dump")
        self._do("zstyle ':completion:*' list-prompt ''; setopt NO_BEEP; echo rea''dy")
        self._until("ready")

    def _do(self, line: str) -> None:
        os.write(self._fd, line.encode() + b"\n")

    def _until(self, text: str, timeout_s: float = 15.0) -> str:
        def there() -> bool:
            if select.select([self._fd], [], [], 0.1)[0]:
                self._seen += os.read(self._fd, 65536).decode(errors="replace")
            return text in self._seen

        wait_for(text, there, timeout_s)
        seen, self._seen = self._seen, ""
        return seen

    def offers(self, line: str, wanted: set[str]) -> bool:
        """Whether all of it is listed when the line is completed. What is typed while zsh is at it can cost
        the list: then it is asked again."""
        return any(words(self._listed(line)) >= wanted for _ in range(_TRIES))

    def _listed(self, line: str) -> str:
        os.write(self._fd, b"\x15" + line.encode() + b"\x04")  # erase the line, type, list the choices
        while select.select([self._fd], [], [], 0.2)[0]:
            self._seen += os.read(self._fd, 65536).decode(errors="replace")
        os.write(self._fd, b"\x15echo d''one\n")
        with contextlib.suppress(AssertionError):
            return self._until("done\r\n", 3)
        return self._seen

    def end(self) -> None:
        os.close(self._fd)
        os.waitpid(self._pid, 0)


@pytest.fixture(scope="module")
def zsh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zsh]:
    shell = Zsh(tmp_path_factory.mktemp("zsh"))
    yield shell
    shell.end()


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w-]+", text))


@needs_zsh
@pytest.mark.parametrize("name", PARSERS)
def test_zsh_offers_every_command(zsh: Zsh, name: str) -> None:
    assert zsh.offers(f"{name} ", set(commands(name)))


@needs_zsh
@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS)
def test_zsh_offers_every_option_of_a_command(zsh: Zsh, name: str, command: str) -> None:
    assert zsh.offers(f"{name} {command} --", set(options(commands(name)[command])))


@needs_zsh
@pytest.mark.parametrize("command", ["status", "start", "stop", "restart", "tail"])
def test_zsh_offers_every_program(zsh: Zsh, command: str) -> None:
    assert zsh.offers(f"ebpfctl {command} ", set(PROGRAMS))
