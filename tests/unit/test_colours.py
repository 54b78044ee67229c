"""Colours: on terminals only, and only what is painted changes."""

import io
import re
from collections.abc import Mapping

import pytest

from supervisor.colours import painted, wanted
from supervisor.states import State


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "colours"),
    [
        ({"TERM": "xterm"}, True),
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "0"}, False),
        ({"NO_COLOR": ""}, True),
    ],
)
def test_terminal_has_colours_unless_the_user_says_no(environ: Mapping[str, str], colours: bool) -> None:
    assert wanted(Terminal(), environ) is colours
    assert wanted(io.StringIO(), environ) is False


@pytest.mark.parametrize("state", [state.value for state in State if state is not State.STOPPED])
def test_every_state_but_stopped_has_a_colour(state: str) -> None:
    line = f"fd          {state}  4711"
    assert painted(line) != line
    assert re.sub("\x1b.*?m", "", painted(line)) == line


@pytest.mark.parametrize("line", ["fd: the program is RUNNING", "NAME  STATE", "  no such thing", "yes  "])
def test_words_elsewhere_stay_as_they_are(line: str) -> None:
    assert painted(line) == line
