"""The manual pages: they name all that the parsers know, and their source is sound."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from supervisor.states import State
from tests.harness import ROOT
from tests.parsers import PARSERS, commands, options

PAGES = sorted((ROOT / "docs" / "man").glob("*.8"))


def text(name: str) -> str:
    return (ROOT / "docs" / "man" / f"{name}.8").read_text()


@pytest.mark.parametrize(("name", "command"), [(name, c) for name in PARSERS for c in commands(name)])
def test_every_command_and_option_is_in_the_manual(name: str, command: str) -> None:
    page = text(name)
    assert re.search(rf"^\.It Cm {re.escape(command)}\b", page, re.MULTILINE)
    for option in {*options(PARSERS[name]), *options(commands(name)[command])}:
        # The source has one dash less: mdoc's Fl puts it there.
        assert re.search(rf"(?<![\w-]){re.escape(option[1:])}(?![\w-])", page), option


def test_every_state_is_in_the_manual() -> None:
    page = text("ebpfctl")
    for state in State:
        assert f".It {state.value}\n" in page


def test_there_is_a_page_for_each_command_that_is_installed() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    scripts = project[project.index("[project.scripts]") :].partition("\n\n")[0]
    names = re.findall(r'^"?([\w.-]+)"? = ', scripts, re.MULTILINE)
    assert [page.stem for page in PAGES] == sorted(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize(
    "command", [["mandoc", "-Tlint", "-Wwarning"], ["man", "--warnings", "-l"]], ids=["mandoc", "man"]
)
def test_no_formatter_has_anything_to_say(command: list[str], page: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([*command, str(page)], capture_output=True, text=True, check=False, timeout=30)
    said = done.stdout if command[0] == "mandoc" else done.stderr
    assert (done.returncode, said) == (0, "")
