"""All programs that exist, by the configuration's table of names: workers/<name>.py declares PROGRAM."""

import importlib

from supervisor.config.options import PROGRAMS
from workers.declaration import Program


def find(name: str) -> Program:
    """The declaration of one program."""
    program = importlib.import_module(f"workers.{name}").PROGRAM
    assert isinstance(program, Program)
    return program


def all_programs() -> dict[str, Program]:
    return {name: find(name) for name in PROGRAMS}
